//! The connection to one process of a worker: what was asked and is not answered, which handles are no longer used, and when its patience
//! ends. Knows no class and no value.

use std::net::Shutdown;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use comfyd_node::{CancellationToken, Raised};
use indexmap::{IndexMap, IndexSet};
use parking_lot::{Condvar, Mutex, MutexGuard};
use serde_json::Value as Json;

use crate::frame::{Frame, Message};
use crate::process::{Process, Stream};
use crate::settings::Patience;

/// How often a wait looks whether its prompt was interrupted.
const GLANCE: Duration = Duration::from_millis(20);
/// How often is looked whether the process has ended: one that it began may hold the connection.
const LOOK: Duration = Duration::from_millis(500);
/// So many handles may wait for a message that takes them along.
const MANY_HANDLES: usize = 256;

/// Why a question has no answer.
#[derive(Debug, Clone)]
pub(crate) enum Failure {
    /// An exception.
    Raised(Box<Raised>),
    /// A value that cannot leave the worker: which.
    CannotCross(String),
    /// The prompt was interrupted.
    Interrupted,
    /// The process ended, or does not answer: a sentence.
    Failed(String),
}

impl From<Failure> for comfyd_node::Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Raised(raised) => Self::Raised(raised),
            Failure::CannotCross(why) => Self::CannotCross(why),
            Failure::Interrupted => Self::Interrupted,
            Failure::Failed(why) => Self::Failed(why),
        }
    }
}

/// What a question is about.
#[derive(Clone)]
pub(crate) enum About {
    /// Nothing that runs: it is answered soon.
    Worker,
    /// Work in the prompt's thread, which may be interrupted; its answer may bring objects.
    Prompt(String),
}

type Answered = Box<dyn FnOnce(Result<Frame, Failure>) + Send>;

struct Waiting {
    about: About,
    answered: Answered,
}

impl Waiting {
    /// Hands the answer on. A panic there is not one of the thread that reads, on which all others depend.
    fn answer(self, answer: Result<Frame, Failure>, worker: &str) {
        let answered = self.answered;
        if catch_unwind(AssertUnwindSafe(|| answered(answer))).is_err() {
            tracing::error!("what was to be done with an answer of the Python worker '{worker}' panicked");
        }
    }
}

/// How far an interruption has come.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Stage {
    Asked,
    Sent,
    Raised,
}

#[derive(Default)]
struct State {
    next: u64,
    waiting: IndexMap<u64, Waiting>,
    /// Questions about the prompt among these.
    running: usize,
    release: IndexSet<u64>,
    interrupted: Option<(Instant, Stage)>,
    ready: bool,
    ended: Option<String>,
    heard: Option<Instant>,
    pinged: Option<Instant>,
}

/// A connection.
pub(crate) struct Link {
    writer: Mutex<Stream>,
    state: Mutex<State>,
    alarm: Condvar,
    alive: AtomicBool,
    process: Process,
    patience: Patience,
    /// What the worker is called.
    pub name: String,
}

impl Link {
    /// A connection to a process that was just started.
    pub fn new(name: String, process: Process, stream: Stream, patience: Patience) -> Arc<Self> {
        // A process that takes nothing for so long is stuck; half a message is the end of the connection.
        let _ = stream.set_write_timeout(Some(patience.kill.max(Duration::from_secs(1))));
        let state = State { heard: Some(Instant::now()), ..State::default() };
        let alive = AtomicBool::new(true);
        Arc::new(Self { writer: Mutex::new(stream), state: Mutex::new(state), alarm: Condvar::new(), alive, process, patience, name })
    }

    /// The process's number.
    pub fn pid(&self) -> u32 {
        self.process.pid
    }

    /// Keeps these out of what is told of the process's output.
    pub fn hide<'a>(&self, secrets: impl Iterator<Item = &'a str>) {
        self.process.hide(secrets);
    }

    /// Whether it has not ended.
    pub fn alive(&self) -> bool {
        self.alive.load(Ordering::Acquire)
    }

    /// From now on the start is over.
    pub fn set_ready(&self) {
        self.state.lock().ready = true;
    }

    /// Sends a message that is not answered.
    pub fn tell(&self, message: Message) {
        let mut writer = self.writer.lock();
        self.write(&mut writer, message, None);
    }

    /// A prompt begins: an interruption of the one before is over.
    pub fn begin(&self, message: Message, cancel: &CancellationToken) -> Result<Frame, Failure> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let answered = move |answer| drop(sender.send(answer));
        self.send(message, About::Prompt("the beginning of the prompt".into()), Box::new(answered), true);
        self.receive(&receiver, cancel)
    }

    /// Sends a question. The answer goes to `answered`, on the thread that reads, or at once where there will be none.
    pub fn ask(&self, message: Message, about: About, answered: impl FnOnce(Result<Frame, Failure>) + Send + 'static) -> u64 {
        self.send(message, about, Box::new(answered), false)
    }

    fn send(&self, message: Message, about: About, answered: Answered, begins: bool) -> u64 {
        if let Err(why) = message.check() {
            answered(Err(Failure::Failed(why)));
            return 0;
        }
        // Messages go out in the order in which they are noted: a handle must not be released by a message behind one that may bring it back.
        let mut writer = self.writer.lock();
        let (id, release) = {
            let mut state = self.state.lock();
            if let Some(why) = state.ended.clone() {
                drop(state);
                drop(writer);
                answered(Err(Failure::Failed(why)));
                return 0;
            }
            if begins {
                state.interrupted = None;
            }
            let release = state.take_release();
            state.running += usize::from(matches!(about, About::Prompt(_)));
            state.next += 1;
            let id = state.next;
            state.waiting.insert(id, Waiting { about, answered });
            (id, release)
        };
        self.flush(&mut writer, message, Some(id), &release);
        id
    }

    fn write(&self, writer: &mut MutexGuard<'_, Stream>, message: Message, id: Option<u64>) {
        let release = self.state.lock().take_release();
        self.flush(writer, message, id, &release);
    }

    fn flush(&self, writer: &mut MutexGuard<'_, Stream>, message: Message, id: Option<u64>, release: &[u64]) {
        if let Err(error) = message.send(&mut **writer, id, release)
            && self.alive()
        {
            // The reading thread sees the end of the connection, and tells everybody who waits.
            tracing::debug!("the connection to the Python worker '{}' broke: {error}", self.name);
            if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) {
                self.process.kill("it took no more messages");
            }
            let _ = writer.shutdown(Shutdown::Both);
        }
    }

    /// Asks and waits for the answer, at most so long.
    pub fn wait(&self, message: Message, patience: Duration) -> Result<Frame, Failure> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let id = self.ask(message, About::Worker, move |answer| drop(sender.send(answer)));
        match receiver.recv_timeout(patience) {
            Ok(answer) => answer,
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(Failure::Failed(self.gone())),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                self.state.lock().waiting.swap_remove(&id);
                Err(Failure::Failed(format!("the Python worker '{}' has not answered for {} s", self.name, seconds(patience))))
            }
        }
    }

    /// Asks about the prompt and waits for the answer. A prompt that is interrupted meanwhile interrupts the worker, and is waited for.
    pub fn wait_in_prompt(&self, message: Message, about: String, cancel: &CancellationToken) -> Result<Frame, Failure> {
        let (sender, receiver) = mpsc::sync_channel(1);
        self.ask(message, About::Prompt(about), move |answer| drop(sender.send(answer)));
        self.receive(&receiver, cancel)
    }

    /// Waits for what a callback sends; interrupts the worker once the prompt is.
    fn receive(&self, receiver: &mpsc::Receiver<Result<Frame, Failure>>, cancel: &CancellationToken) -> Result<Frame, Failure> {
        loop {
            match receiver.recv_timeout(GLANCE) {
                Ok(answer) => return answer,
                Err(mpsc::RecvTimeoutError::Disconnected) => return Err(Failure::Failed(self.gone())),
                Err(mpsc::RecvTimeoutError::Timeout) if cancel.is_cancelled() => self.interrupt(),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// That it has ended, and why.
    pub fn gone(&self) -> String {
        self.state.lock().ended.clone().unwrap_or_else(|| format!("the Python worker '{}' has ended", self.name))
    }

    /// An answer came.
    pub fn answer(&self, id: u64, mut frame: Frame) {
        let Some(waiting) = self.state.lock().waiting.swap_remove(&id) else { return };
        let answer = match failure(&mut frame.json) {
            Some(failure) => Err(failure),
            None => Ok(frame),
        };
        let in_prompt = matches!(waiting.about, About::Prompt(_));
        waiting.answer(answer, &self.name);
        // Only now may handles be released again: those that the answer brought are known.
        if in_prompt {
            self.state.lock().running -= 1;
        }
    }

    /// A sign of life.
    pub fn hear(&self) {
        let mut state = self.state.lock();
        state.heard = Some(Instant::now());
        state.pinged = None;
    }

    /// How much runs in the prompt's thread.
    pub fn running(&self) -> usize {
        self.state.lock().running
    }

    /// A handle is no longer used here.
    pub fn release(&self, handle: u64) {
        let mut state = self.state.lock();
        if state.ended.is_none() {
            state.release.insert(handle);
            if state.release.len() == MANY_HANDLES {
                self.alarm.notify_all();
            }
        }
    }

    /// A handle is used again before its release was sent.
    pub fn keep(&self, handle: u64) {
        self.state.lock().release.swap_remove(&handle);
    }

    /// What runs is to stop.
    pub fn interrupt(&self) {
        let mut state = self.state.lock();
        if state.interrupted.is_none() {
            state.interrupted = Some((Instant::now(), Stage::Asked));
            self.alarm.notify_all();
        }
    }

    /// Kills the process.
    pub fn kill(&self, reason: &str) {
        self.process.kill(reason);
        // A process that it began may hold the other end.
        self.cut();
    }

    fn cut(&self) {
        if let Some(writer) = self.writer.try_lock_for(GLANCE) {
            let _ = writer.shutdown(Shutdown::Both);
        }
    }

    /// Asks the process to end, and kills it after that time. One that boots hears nothing yet and is killed. Blocks.
    pub fn quit(&self, patience: Duration) {
        if !self.state.lock().ready {
            return self.kill("it was stopped");
        }
        if let Some(mut writer) = self.writer.try_lock_for(GLANCE) {
            self.write(&mut writer, Message::new("quit"), None);
        }
        self.process.finish(patience, "it did not end");
        self.kill("it was stopped");
    }

    /// The connection is over: says why, to everybody who waits. Returns how it ended.
    pub fn end(&self, reason: &str) -> String {
        self.alive.store(false, Ordering::Release);
        let how = self.process.finish(Duration::from_secs(1), reason);
        let (waiting, interrupted, why) = {
            let mut state = self.state.lock();
            let running: Vec<&str> = state.waiting.values().filter_map(|waiting| waiting.about.text()).collect();
            let during = if running.is_empty() { String::new() } else { format!(" while it was at {}", running.join(", ")) };
            let why = format!("the Python worker '{}' ended{during}: {how}", self.name);
            state.ended = Some(why.clone());
            state.running = 0;
            state.release.clear();
            (std::mem::take(&mut state.waiting), state.interrupted.is_some(), why)
        };
        self.alarm.notify_all();
        for (_, waiting) in waiting {
            let interrupted = interrupted && matches!(waiting.about, About::Prompt(_));
            let failure = if interrupted { Failure::Interrupted } else { Failure::Failed(why.clone()) };
            waiting.answer(Err(failure), &self.name);
        }
        how
    }

    /// Looks after the process until it has ended: does what is due, and sleeps until something else is.
    pub fn watch(&self, started: Instant) {
        loop {
            let next = {
                let mut state = self.state.lock();
                if state.ended.is_some() {
                    return;
                }
                let next = self.due(&state, started);
                let now = Instant::now();
                if next.0 > now {
                    self.alarm.wait_until(&mut state, next.0.min(now + LOOK));
                    if state.ended.is_some() {
                        return;
                    }
                    self.due(&state, started)
                } else {
                    next
                }
            };
            if self.process.ended() {
                // What it sent is read to its end, and then the connection has ended.
                self.cut();
                std::thread::sleep(GLANCE);
            }
            if next.0 <= Instant::now() {
                self.perform(next.1);
            }
        }
    }

    /// What is to be done next, and when.
    fn due(&self, state: &State, started: Instant) -> (Instant, Deed) {
        let mut all = Vec::with_capacity(4);
        if !state.ready {
            all.push((started + self.patience.start, Deed::Kill("it was not ready", self.patience.start)));
        }
        match state.interrupted {
            Some((since, Stage::Asked)) => all.push((since, Deed::Interrupt)),
            Some((since, Stage::Sent)) if state.running > 0 => all.push((since + self.patience.raise, Deed::Raise)),
            Some((since, Stage::Raised)) if state.running > 0 => {
                all.push((since + self.patience.kill, Deed::Kill("it did not stop", self.patience.kill)));
            }
            Some(_) | None => {}
        }
        let heard = state.heard.unwrap_or(started);
        if state.ready && state.running == 0 {
            let silent =
                state.pinged.map(|pinged| (pinged + self.patience.idle, Deed::Kill("it gave no sign of life", self.patience.idle)));
            all.push(silent.unwrap_or((heard + self.patience.idle / 3, Deed::Ping)));
        }
        if state.running == 0 && !state.release.is_empty() && state.ready {
            let wait = if state.release.len() >= MANY_HANDLES { Duration::ZERO } else { LOOK };
            all.push((heard + wait, Deed::Release));
        }
        all.into_iter().min_by_key(|(when, _)| *when).unwrap_or_else(|| (Instant::now() + LOOK, Deed::Nothing))
    }

    fn perform(&self, deed: Deed) {
        let message = match deed {
            Deed::Nothing => return,
            Deed::Kill(why, after) => {
                self.kill(&format!("{why} in {} s, so it was killed", seconds(after)));
                return std::thread::sleep(GLANCE);
            }
            Deed::Interrupt => Message::new("interrupt"),
            Deed::Raise => Message::new("raise"),
            Deed::Ping => {
                // Its answer is a sign of life like any other.
                self.state.lock().pinged = Some(Instant::now());
                self.ask(Message::new("ping"), About::Worker, drop);
                return;
            }
            Deed::Release => {
                self.ask(Message::new("ping"), About::Worker, drop);
                return;
            }
        };
        // Who writes something large has the connection; what is due stays due.
        let Some(mut writer) = self.writer.try_lock_for(GLANCE) else { return };
        {
            let mut state = self.state.lock();
            let stage = match (deed, &mut state.interrupted) {
                // The prompt that was to be interrupted is over, and another may run.
                (Deed::Interrupt | Deed::Raise, None) => return,
                (Deed::Interrupt, Some((_, stage))) => Some((stage, Stage::Sent)),
                (Deed::Raise, Some((_, stage))) => Some((stage, Stage::Raised)),
                _ => None,
            };
            if let Some((stage, reached)) = stage {
                *stage = reached;
            }
        }
        self.write(&mut writer, message, None);
    }
}

/// What a watcher does.
#[derive(Clone, Copy)]
enum Deed {
    Nothing,
    Interrupt,
    Raise,
    Kill(&'static str, Duration),
    Ping,
    Release,
}

impl State {
    /// The handles that a message takes along: none while an answer that may bring one of them back is on its way.
    fn take_release(&mut self) -> Vec<u64> {
        if self.running > 0 { Vec::new() } else { std::mem::take(&mut self.release).into_iter().collect() }
    }
}

impl About {
    fn text(&self) -> Option<&str> {
        match self {
            Self::Worker => None,
            Self::Prompt(what) => Some(what),
        }
    }
}

fn seconds(duration: Duration) -> String {
    let text = format!("{:.1}", duration.as_secs_f64());
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// The failure that an answer tells of.
pub(crate) fn failure(json: &mut Json) -> Option<Failure> {
    if json.get("interrupted").and_then(Json::as_bool) == Some(true) {
        return Some(Failure::Interrupted);
    }
    let error = json.get_mut("error").map(Json::take)?;
    let text = |name: &str| error.get(name).and_then(Json::as_str).unwrap_or_default().to_owned();
    let flag = |name: &str| error.get(name).and_then(Json::as_bool).unwrap_or(false);
    if flag("cannot_cross") {
        return Some(Failure::CannotCross(text("message")));
    }
    let lines = error.get("traceback").and_then(Json::as_array);
    let traceback = lines.into_iter().flatten().filter_map(|line| line.as_str().map(str::to_owned)).collect();
    let inputs = error.get("inputs").filter(|inputs| !inputs.is_null()).cloned();
    let message = match text("tips") {
        tips if tips.is_empty() => text("message"),
        tips => format!("{}\n{tips}", text("message")),
    };
    Some(Failure::Raised(Box::new(Raised { kind: text("type"), message, traceback, inputs, out_of_memory: flag("oom") })))
}

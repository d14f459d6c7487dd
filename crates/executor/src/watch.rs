//! What a device thread is at, as seen from outside: nodes that run for too long are interrupted, and a prompt that goes on though it was
//! interrupted is given up, with the thread that runs it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use comfyd_jobs::{Event, EventSink};
use comfyd_node::CancellationToken;
use parking_lot::{Condvar, Mutex};

/// Told of a call of a node when it is over: of its class, and of how long it took.
pub type OnNode = dyn Fn(&str, Duration) + Send + Sync;

/// One device thread.
#[derive(Default)]
pub(crate) struct Watch {
    /// How long a node may run.
    timeout: Option<Duration>,
    on_node: Option<Arc<OnNode>>,
    state: Mutex<State>,
    bell: Condvar,
    left: AtomicBool,
}

#[derive(Default)]
struct State {
    prompt: Option<Prompt>,
    tickets: u64,
    closed: bool,
}

struct Prompt {
    cancel: CancellationToken,
    cancelled_at: Option<Instant>,
    nodes: Vec<Running>,
    timed_out: bool,
}

struct Running {
    ticket: u64,
    since: Instant,
    node: Arc<str>,
    class: Arc<str>,
}

/// What a thread was at that was given up.
pub(crate) struct Left {
    /// The node's id and class, if one ran.
    pub node: Option<(Arc<str>, Arc<str>)>,
    /// Why it was interrupted, unless somebody wanted it.
    pub timed_out: Option<String>,
}

impl Watch {
    pub fn new(timeout: Option<Duration>, on_node: Option<Arc<OnNode>>) -> Arc<Self> {
        Arc::new(Self { timeout, on_node, ..Self::default() })
    }

    /// A prompt begins that is interrupted by `cancel`.
    pub fn begin(&self, cancel: &CancellationToken) {
        let prompt = Prompt { cancel: cancel.clone(), cancelled_at: None, nodes: Vec::new(), timed_out: false };
        self.state.lock().prompt = Some(prompt);
        if cancel.is_cancelled() {
            self.ring();
        }
    }

    /// It is over. Whether it is still this thread's to say so.
    pub fn end(&self) -> bool {
        self.state.lock().prompt.take();
        !self.is_left()
    }

    /// A node begins, which ends with what is returned.
    pub fn node(&self, node: &Arc<str>, class: &Arc<str>) -> Timer<'_> {
        let mut state = self.state.lock();
        state.tickets += 1;
        let ticket = state.tickets;
        if let Some(prompt) = &mut state.prompt {
            prompt.nodes.push(Running { ticket, since: Instant::now(), node: node.clone(), class: class.clone() });
        }
        drop(state);
        if self.timeout.is_some() {
            self.bell.notify_all();
        }
        Timer { watch: self, ticket }
    }

    /// Why the prompt was interrupted, if a node ran for too long.
    pub fn timed_out(&self) -> Option<String> {
        let timed_out = self.state.lock().prompt.as_ref().is_some_and(|prompt| prompt.timed_out);
        self.told(timed_out)
    }

    fn told(&self, timed_out: bool) -> Option<String> {
        let seconds = self.timeout.filter(|_| timed_out)?.as_secs_f64();
        Some(format!("the node ran for longer than {seconds} s: make its work smaller, or raise the limit with --node-timeout"))
    }

    /// The thread was given up: nothing that it does concerns anybody any more.
    pub fn is_left(&self) -> bool {
        self.left.load(Ordering::Acquire)
    }

    /// Something was interrupted.
    pub fn ring(&self) {
        // Whoever watches looks and falls asleep under this lock: it is not between the two now.
        drop(self.state.lock());
        self.bell.notify_all();
    }

    /// Nobody need watch any more.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.bell.notify_all();
    }

    /// Watches until a prompt has gone on for so long after its interruption, if the thread may be given up then, or until it is closed.
    pub fn watch(&self, patience: Duration, may_leave: impl Fn() -> bool) -> Option<Left> {
        let mut state = self.state.lock();
        while !state.closed {
            let Some(prompt) = &mut state.prompt else {
                self.bell.wait(&mut state);
                continue;
            };
            let now = Instant::now();
            let overdue = self.timeout.and_then(|timeout| prompt.nodes.iter().map(|node| node.since + timeout).min());
            if overdue.is_some_and(|at| at <= now) && !prompt.cancel.is_cancelled() {
                prompt.timed_out = true;
                prompt.cancel.cancel();
            }
            let until = match prompt.cancel.is_cancelled() {
                false => overdue,
                true => {
                    let at = *prompt.cancelled_at.get_or_insert(now) + patience;
                    if at <= now && may_leave() {
                        let node = prompt.nodes.first().map(|node| (node.node.clone(), node.class.clone()));
                        let timed_out = self.told(prompt.timed_out);
                        self.left.store(true, Ordering::Release);
                        return Some(Left { node, timed_out });
                    }
                    // One that may not be given up now may be later.
                    Some(at.max(now + patience / 2))
                }
            };
            match until {
                Some(until) => drop(self.bell.wait_until(&mut state, until)),
                None => self.bell.wait(&mut state),
            }
        }
        None
    }
}

/// A node that runs.
pub(crate) struct Timer<'a> {
    watch: &'a Watch,
    ticket: u64,
}

impl Drop for Timer<'_> {
    fn drop(&mut self) {
        let mut state = self.watch.state.lock();
        let nodes = state.prompt.as_mut().map(|prompt| &mut prompt.nodes);
        let node = nodes.and_then(|nodes| Some(nodes.remove(nodes.iter().position(|node| node.ticket == self.ticket)?)));
        drop(state);
        if let (Some(node), Some(on_node)) = (node, &self.watch.on_node) {
            on_node(&node.class, node.since.elapsed());
        }
    }
}

/// Tells a sink what a thread has to say, until it is given up.
pub(crate) struct Voice {
    pub sink: Arc<dyn EventSink>,
    pub watch: Arc<Watch>,
}

impl EventSink for Voice {
    fn emit(&self, event: Event) {
        if !self.watch.is_left() {
            self.sink.emit(event);
        }
    }
}

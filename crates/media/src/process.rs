//! A run of one of FFmpeg's programs: its pipes, what it said last, and that it ends when it is to. Knows no option of theirs but those that
//! keep it to itself.

use std::ffi::OsString;
use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use comfyd_node::CancellationToken;
use parking_lot::Mutex;

use crate::{Error, Media, NOT_STARTED, Result};

/// How long an interruption may go unnoticed.
const POLL: Duration = Duration::from_millis(20);
/// How long a program may neither take nor give a byte.
const STALL: Duration = Duration::from_secs(300);
/// So much of what a program says is kept, of its end.
const KEPT: usize = 4 << 10;
/// What is read of it at once.
const SAID: usize = 1 << 10;

/// Which of the programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    Ffmpeg,
    Ffprobe,
}

impl Program {
    fn name(self) -> &'static str {
        match self {
            Self::Ffmpeg => "ffmpeg",
            Self::Ffprobe => "ffprobe",
        }
    }
}

/// Arguments of a program.
#[derive(Debug, Clone, Default)]
pub(crate) struct Args(pub Vec<OsString>);

impl Args {
    /// Adds texts.
    pub fn add<S: AsRef<str>>(&mut self, texts: impl IntoIterator<Item = S>) -> &mut Self {
        self.0.extend(texts.into_iter().map(|text| OsString::from(text.as_ref())));
        self
    }

    /// Adds a file under a name that nothing but a local file can have, whatever the file is called.
    pub fn file(&mut self, path: &Path) -> &mut Self {
        let mut name = OsString::from("file:");
        name.push(path);
        self.0.push(name);
        self
    }
}

/// Why a process was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Interrupted,
    Stalled,
}

/// What the thread that watches a process shares with the one that works with it.
struct Watched {
    child: Mutex<Child>,
    over: AtomicBool,
    /// Bytes that went through the pipes.
    moved: AtomicU64,
    ended: Mutex<Option<Ended>>,
}

/// A program that runs. It is killed when this is dropped.
pub(crate) struct Process {
    program: Program,
    watched: Arc<Watched>,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    said: Option<JoinHandle<String>>,
    /// The program's path, if another one starts it.
    launched: String,
}

impl Process {
    /// Starts it. What it is given and gives goes through pipes.
    pub fn start(media: &Media, program: Program, args: &Args, cancel: &CancellationToken) -> Result<Self> {
        if cancel.is_cancelled() {
            return Err(Error::Interrupted);
        }
        let path = match program {
            Program::Ffmpeg => &media.options.ffmpeg,
            Program::Ffprobe => &media.options.ffprobe,
        };
        let mut words = media.options.launcher.iter().map(OsString::as_os_str).chain([path.as_os_str()]);
        let mut command = Command::new(words.next().unwrap_or(path.as_os_str()));
        command.args(words).args(&args.0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        #[cfg(unix)]
        // A group of its own: what a terminal sends on Ctrl-C is for comfyd.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let missing = |source| Error::Missing { program: path.display().to_string(), source };
        let mut child = command.spawn().map_err(missing)?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let watched =
            Arc::new(Watched { child: Mutex::new(child), over: AtomicBool::new(false), moved: AtomicU64::new(0), ended: Mutex::new(None) });
        let launched = if media.options.launcher.is_empty() { String::new() } else { path.display().to_string() };
        let mut process = Self { program, watched, stdin, stdout, said: None, launched };
        process.said =
            stderr.map(|stderr| std::thread::Builder::new().name("ffmpeg says".into()).spawn(move || last_said(stderr))).transpose()?;
        let (watched, cancel) = (Arc::clone(&process.watched), cancel.clone());
        std::thread::Builder::new().name("ffmpeg watch".into()).spawn(move || watch(&watched, &cancel))?;
        Ok(process)
    }

    /// Gives it bytes. It may end before it took them all: then its end tells why.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let Some(stdin) = &mut self.stdin else { return Ok(()) };
            match stdin.write(bytes) {
                Ok(0) => return self.broken(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.moved(written);
                    bytes = &bytes[written..];
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return self.broken(error),
            }
        }
        Ok(())
    }

    fn broken(&mut self, error: std::io::Error) -> Result<()> {
        self.stdin = None;
        self.wait()?;
        Err(error.into())
    }

    /// Tells it that there is no more.
    pub fn close(&mut self) {
        self.stdin = None;
    }

    /// Fills `buffer` with what it gives; how much of it, less than all only at the end.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            let Some(stdout) = &mut self.stdout else { break };
            match stdout.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(read) => {
                    self.moved(read);
                    filled += read;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(filled)
    }

    /// All that it gives, if it is no more than `most`.
    pub fn read_all(&mut self, most: usize) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        let mut chunk = vec![0; 64 << 10];
        loop {
            let read = self.read(&mut chunk)?;
            if read == 0 {
                return Ok(all);
            }
            if all.len() + read > most {
                return Err(Error::Failed { program: self.program.name(), told: format!("it gives more than {most} bytes") });
            }
            all.extend_from_slice(&chunk[..read]);
        }
    }

    /// Waits for its end, which must be a good one.
    pub fn wait(&mut self) -> Result<()> {
        let status = self.status()?;
        match *self.watched.ended.lock() {
            Some(Ended::Interrupted) => return Err(Error::Interrupted),
            Some(Ended::Stalled) => return Err(Error::Stalled { program: self.program.name(), seconds: STALL.as_secs() }),
            None => {}
        }
        let said = self.said.take().and_then(|said| said.join().ok()).unwrap_or_default();
        if status.success() {
            return Ok(());
        }
        if !self.launched.is_empty() && status.code() == Some(NOT_STARTED.into()) {
            let source = std::io::Error::other(said.trim().to_owned());
            return Err(Error::Missing { program: self.launched.clone(), source });
        }
        // What an encoder tells of itself.
        let said: Vec<&str> = said.lines().filter(|line| !line.starts_with("Svt[info]")).collect();
        let said = said.join("\n");
        let told = if said.trim().is_empty() { format!("it ended with {status}") } else { said.trim().to_owned() };
        Err(Error::Failed { program: self.program.name(), told })
    }

    fn status(&self) -> Result<ExitStatus> {
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(status) = self.watched.child.lock().try_wait()? {
                self.watched.over.store(true, Ordering::Release);
                return Ok(status);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(POLL);
        }
    }

    fn moved(&self, bytes: usize) {
        self.watched.moved.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.watched.over.store(true, Ordering::Release);
        let mut child = self.watched.child.lock();
        if !matches!(child.try_wait(), Ok(Some(_))) {
            // They fail where it has ended; waited for is what was killed, which takes no time.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Ends a process when its prompt is interrupted, or when nothing goes through its pipes for long.
fn watch(watched: &Watched, cancel: &CancellationToken) {
    let (mut moved, mut since) = (0, Instant::now());
    while !watched.over.load(Ordering::Acquire) {
        let now = watched.moved.load(Ordering::Relaxed);
        if now != moved {
            (moved, since) = (now, Instant::now());
        }
        let why = match cancel.is_cancelled() {
            true => Some(Ended::Interrupted),
            false => (since.elapsed() > STALL).then_some(Ended::Stalled),
        };
        if why.is_some() {
            *watched.ended.lock() = why;
            let _ = watched.child.lock().kill();
            return;
        }
        std::thread::sleep(POLL);
    }
}

/// The end of what a program said.
fn last_said(mut stderr: impl Read) -> String {
    let mut said = Vec::new();
    let mut chunk = [0; SAID];
    loop {
        match stderr.read(&mut chunk) {
            Ok(0) | Err(_) => break,
            Ok(read) => {
                said.extend_from_slice(&chunk[..read]);
                said.drain(..said.len().saturating_sub(KEPT));
            }
        }
    }
    String::from_utf8_lossy(&said).into_owned()
}

//! A worker's process: how it is started, what it writes, how it ended. Knows no message.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anstream::adapter::strip_str;
use comfyd_jobs::secrets::hide;
use parking_lot::{Condvar, Mutex};

use crate::error::Error;
use crate::files;
use crate::settings::{Network, Settings};

/// The connection to a worker.
#[cfg(unix)]
pub(crate) type Stream = std::os::unix::net::UnixStream;
/// The connection to a worker.
#[cfg(not(unix))]
pub(crate) type Stream = std::net::TcpStream;

/// The longest name of a Unix socket that all systems take, in bytes.
const MAX_SOCKET: usize = 100;
/// So many of the last lines are kept, and so many are told.
const KEPT_LINES: usize = 200;
const TOLD_LINES: usize = 10;
/// The longest line, in bytes; a longer one is cut into several.
const MAX_LINE: u64 = 4_096;
/// So many secrets of prompts are kept out of the log: what prints one may do so long after its prompt.
const MAX_SECRETS: usize = 256;
/// How long the last lines are waited for after a process ended: another process that it began may hold its output.
const LAST_LINES: Duration = Duration::from_millis(300);

/// What a process wrote.
#[derive(Default)]
struct Output {
    state: Mutex<(VecDeque<String>, bool)>,
    ended: Condvar,
    /// Values of which it was told and which nobody is to read.
    secrets: Mutex<VecDeque<String>>,
}

/// A process, running or ended.
pub(crate) struct Process {
    child: Mutex<Child>,
    /// Its number.
    pub pid: u32,
    output: Arc<Output>,
    verdict: Mutex<Option<String>>,
}

/// What the names of workers' folders begin with.
const PREFIX: &str = "comfyd-python-";
/// The file in such a folder that is locked for as long as its owner lives.
const OWNER: &str = "owner";

/// The private folder of a worker's files.
pub(crate) struct Folder {
    folder: tempfile::TempDir,
    /// Held: tells others that the folder has an owner.
    _owner: File,
}

impl Folder {
    /// A folder that only this user can look into, with the worker's files.
    pub fn new() -> io::Result<Self> {
        let temp = std::env::temp_dir();
        match Self::new_in(&temp)? {
            folder if folder.http().as_os_str().len() <= MAX_SOCKET => Ok(folder),
            _ => Self::new_in(Path::new("/tmp")),
        }
    }

    fn new_in(parent: &Path) -> io::Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(PREFIX);
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
        let folder = builder.tempdir_in(parent)?;
        // Where others see it, it is locked. What cannot be locked they do not see, and the folder stays.
        let unseen = folder.path().join("new");
        let owner = File::create(&unseen)?;
        if owner.try_lock().is_ok() {
            std::fs::rename(unseen, folder.path().join(OWNER))?;
        }
        files::write(folder.path())?;
        sweep(parent, folder.path());
        Ok(Self { folder, _owner: owner })
    }

    /// Removes it: the process is over, though classes in catalogs may still hold what belongs to it.
    pub fn remove(&self) {
        if let Err(error) = std::fs::remove_dir_all(self.path()) {
            tracing::debug!("{} is not removed: {error}", self.path().display());
        }
    }

    /// The socket of its HTTP routes.
    pub fn http(&self) -> PathBuf {
        self.path().join("http")
    }

    /// Where Manager, told that a command line tool watches over ComfyUI, leaves its wish to be started anew.
    fn session(&self) -> PathBuf {
        self.path().join("session")
    }

    /// Whether Manager left that wish; forgets it.
    pub fn take_reboot(&self) -> bool {
        std::fs::remove_file(self.session().with_extension("reboot")).is_ok()
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Removes the folders beside `own` whose owners were killed: of this user only, and none whose lock is held or that has none.
fn sweep(parent: &Path, own: &Path) {
    let user = |path: &Path| {
        let metadata = path.symlink_metadata().ok().filter(std::fs::Metadata::is_dir)?;
        #[cfg(unix)]
        return Some(std::os::unix::fs::MetadataExt::uid(&metadata));
        #[cfg(not(unix))]
        return Some(metadata.is_dir());
    };
    let ours = user(own);
    for entry in parent.read_dir().into_iter().flatten().flatten() {
        let path = entry.path();
        if path == own || !entry.file_name().to_string_lossy().starts_with(PREFIX) || ours.is_none() || user(&path) != ours {
            continue;
        }
        let owner = OpenOptions::new().read(true).open(path.join(OWNER));
        if let Ok(owner) = owner
            && owner.try_lock().is_ok()
            && let Err(error) = std::fs::remove_dir_all(&path)
        {
            tracing::debug!("{} of a process that has ended is not removed: {error}", path.display());
        }
    }
}

impl Process {
    /// Starts one and gives the connection to it. It dies with the thread that called this, which must live as long as it is needed.
    #[cfg(unix)]
    pub fn start(settings: &Settings, python: &Path, folder: &Folder) -> Result<(Self, Stream), Error> {
        use std::os::fd::OwnedFd;
        use std::os::unix::process::CommandExt;

        let Some((main, _)) = files::FILES.first() else { return Err(Error::Unusable("this program has no worker files".into())) };
        let failed = |error: io::Error| Error::NotStarted(format!("{} cannot be started: {error}", python.display()));
        let (ours, theirs) = Stream::pair().map_err(failed)?;
        let (reader, writer) = io::pipe().map_err(failed)?;
        // The socket of the process before.
        let _ = std::fs::remove_file(folder.http());
        folder.take_reboot();
        let mut command = Command::new(python);
        command.arg(folder.path().join(main)).arg(&settings.comfyui).args(&settings.args).current_dir(&settings.comfyui);
        command.env("COMFYD_HTTP", folder.http()).env("COMFYD_ADDRESS", &settings.address);
        command.env("PYTHONUNBUFFERED", "1").env("__COMFY_CLI_SESSION__", folder.session());
        match settings.network {
            Network::Allow => command.env_remove("COMFYD_NETWORK"),
            Network::Deny => command.env("COMFYD_NETWORK", "deny"),
        };
        command.envs(settings.variables.iter().map(|(name, value)| (name, value)));
        // A group of its own: what a terminal sends on Ctrl-C is for comfyd, which ends the worker in its turn.
        command.process_group(0);
        command.stdin(OwnedFd::from(theirs)).stdout(writer.try_clone().map_err(failed)?).stderr(writer);
        let child = command.spawn().map_err(failed)?;
        // It holds the other ends of the socket and the pipe, which thus end with the process.
        drop(command);
        let output = Arc::new(Output::default());
        listen(OwnedFd::from(reader).into(), settings.name.clone(), output.clone()).map_err(failed)?;
        Ok((Self { pid: child.id(), child: Mutex::new(child), output, verdict: Mutex::new(None) }, ours))
    }

    /// Says that there are no workers here.
    #[cfg(not(unix))]
    pub fn start(_: &Settings, _: &Path, _: &Folder) -> Result<(Self, Stream), Error> {
        Err(Error::Unusable("Python workers need Unix sockets: run comfyd on Linux, on macOS or in WSL".into()))
    }

    /// Kills it. The first reason is the one that is told.
    pub fn kill(&self, reason: &str) {
        self.verdict.lock().get_or_insert_with(|| reason.to_owned());
        // It fails where the process has ended.
        let _ = self.child.lock().kill();
    }

    /// Keeps these out of what is told of its output.
    pub fn hide<'a>(&self, secrets: impl Iterator<Item = &'a str>) {
        let mut hidden = self.output.secrets.lock();
        for secret in secrets {
            if !hidden.iter().any(|known| known == secret) {
                hidden.push_back(secret.to_owned());
            }
        }
        let surplus = hidden.len().saturating_sub(MAX_SECRETS);
        hidden.drain(..surplus);
    }

    /// Whether it has ended.
    pub fn ended(&self) -> bool {
        self.status().is_some()
    }

    fn status(&self) -> Option<ExitStatus> {
        self.child.lock().try_wait().ok().flatten()
    }

    /// Waits for its end, at most so long, then kills it; says how it ended, with its last lines.
    pub fn finish(&self, patience: Duration, reason: &str) -> String {
        let end = Instant::now() + patience;
        let mut status = self.status();
        while status.is_none() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
            status = self.status();
        }
        if status.is_none() {
            self.kill(reason);
            status = self.child.lock().wait().ok();
        }
        let how = self.verdict.lock().clone().or_else(|| status.map(ended_how)).unwrap_or_else(|| reason.to_owned());
        match self.last_lines() {
            lines if lines.is_empty() => how,
            lines => format!("{how}; its last lines:\n{lines}"),
        }
    }

    fn last_lines(&self) -> String {
        let mut state = self.output.state.lock();
        let end = Instant::now() + LAST_LINES;
        while !state.1 && !self.output.ended.wait_until(&mut state, end).timed_out() {}
        let skipped = state.0.len().saturating_sub(TOLD_LINES);
        state.0.iter().skip(skipped).map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let mut child = self.child.lock();
        if matches!(child.try_wait(), Ok(None)) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Hands what it writes on to the log, line by line.
#[cfg_attr(not(unix), allow(dead_code))]
fn listen(pipe: File, name: String, output: Arc<Output>) -> io::Result<()> {
    let mut pipe = BufReader::new(pipe);
    let read = move || {
        let mut line = Vec::new();
        while let Ok(1..) = pipe.by_ref().take(MAX_LINE).read_until(b'\n', &mut line) {
            // Bars of progress write over themselves: what is seen at last counts. Colours would be told as signs.
            let shown = String::from_utf8_lossy(&line);
            let mut text = strip_str(shown.trim_end().rsplit('\r').next().unwrap_or_default()).to_string();
            output.secrets.lock().iter().for_each(|secret| hide(&mut text, secret));
            if !text.is_empty() {
                tracing::info!(target: "python", worker = %name, "{text}");
                let mut state = output.state.lock();
                if state.0.len() == KEPT_LINES {
                    state.0.pop_front();
                }
                state.0.push_back(text);
            }
            line.clear();
        }
        output.state.lock().1 = true;
        output.ended.notify_all();
    };
    std::thread::Builder::new().name("python output".into()).spawn(read).map(drop)
}

/// How a process ended, in words.
fn ended_how(status: ExitStatus) -> String {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        return match signal {
            4 => "it was ended by signal 4 (illegal instruction)".into(),
            6 => "it was ended by signal 6 (abort)".into(),
            7 => "it was ended by signal 7 (bus error)".into(),
            8 => "it was ended by signal 8 (arithmetic error)".into(),
            9 => "it was ended by signal 9 (kill), which the system sends where memory runs out".into(),
            11 => "it was ended by signal 11 (segmentation fault)".into(),
            15 => "it was ended by signal 15 (terminate)".into(),
            other => format!("it was ended by signal {other}"),
        };
    }
    match status.code() {
        Some(code) => format!("it exited with status {code}"),
        None => "it ended".into(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn folders_of_those_that_were_killed_are_removed_and_no_others() {
        let parent = tempfile::tempdir().unwrap();
        let made = |name: &str, owner: bool| {
            let folder = parent.path().join(name);
            std::fs::create_dir_all(folder.join("comfyd_worker")).unwrap();
            if owner {
                std::fs::write(folder.join(OWNER), "").unwrap();
            }
            folder
        };
        let lives = Folder::new_in(parent.path()).unwrap();
        let (dead, unknown, other) = (made("comfyd-python-dead", true), made("comfyd-python-old", false), made("another-program", true));
        #[cfg(unix)]
        std::os::unix::fs::symlink(&other, parent.path().join("comfyd-python-link")).unwrap();
        let own = Folder::new_in(parent.path()).unwrap();
        assert!(!dead.exists());
        assert!(lives.path().exists() && own.path().exists() && unknown.exists() && other.exists());
        let (gone, next) = (own.path().to_owned(), Folder::new_in(parent.path()).unwrap());
        assert!(gone.exists());
        drop(own);
        assert!(!gone.exists() && next.path().exists());
    }
}

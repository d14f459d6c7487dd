//! Servers to ask: one that is started here and stopped at the end, or one that runs already. Knows nothing of what is asked of them.

use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::http::Connection;

/// A server that has not answered by then never will.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// After this time without requests a server counts as idle.
const IDLE_AFTER: Duration = Duration::from_secs(2);

/// A server to ask.
pub(crate) struct Server {
    pub(crate) name: &'static str,
    /// `host:port`.
    pub(crate) host: String,
    /// From the start of its process to its first answer; `None` if it ran already.
    pub(crate) first_answer: Option<Duration>,
    process: Option<(Child, PathBuf)>,
}

impl Server {
    /// One that runs already.
    pub(crate) fn running(name: &'static str, url: &str) -> Self {
        let host = url.trim_start_matches("http://").trim_end_matches('/').to_owned();
        Self { name, host, first_answer: None, process: None }
    }

    /// Starts `command` with the shell; `{port}` and `{base}` in it become a free port and a new, empty folder.
    pub(crate) async fn start(name: &'static str, command: &str) -> io::Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let base = std::env::temp_dir().join(format!("comfyd-xtask-{}-{port}", std::process::id()));
        // ComfyUI does not start without this folder.
        std::fs::create_dir_all(base.join("custom_nodes"))?;
        let command = command.replace("{port}", &port.to_string()).replace("{base}", &base.display().to_string());
        let log = std::fs::File::create(base.join("log"))?;
        let began = Instant::now();
        let child = Command::new("sh")
            .args(["-c", &format!("exec {command}")])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut server = Self { name, host: format!("127.0.0.1:{port}"), first_answer: None, process: Some((child, base.clone())) };
        while began.elapsed() < START_TIMEOUT {
            if let Ok(mut connection) = Connection::open(&server.host).await
                && connection.get("/prompt").await.is_ok()
            {
                server.first_answer = Some(began.elapsed());
                return Ok(server);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let log = std::fs::read_to_string(base.join("log")).unwrap_or_default();
        Err(io::Error::other(format!("{name} did not answer: {log}")))
    }

    /// Resident memory in bytes once the server is idle; only of a server that was started here, and only on Linux.
    pub(crate) async fn idle_memory(&self) -> Option<u64> {
        tokio::time::sleep(IDLE_AFTER).await;
        self.memory()
    }

    /// Resident memory in bytes now.
    pub(crate) fn memory(&self) -> Option<u64> {
        self.status_bytes("VmRSS:")
    }

    /// The most resident memory in bytes that there ever was.
    pub(crate) fn peak_memory(&self) -> Option<u64> {
        self.status_bytes("VmHWM:")
    }

    fn status_bytes(&self, name: &str) -> Option<u64> {
        let (child, _) = self.process.as_ref()?;
        memory_of(child.id(), name)
    }
}

/// A figure of a process's memory in bytes, by its name in `/proc`; only on Linux.
pub(crate) fn memory_of(process: u32, name: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some((child, base)) = &mut self.process else { return };
        // It may have ended by itself; what it left goes anyway.
        drop(child.kill());
        drop(child.wait());
        drop(std::fs::remove_dir_all(base));
    }
}

/// The command that starts the server's release build, brought up to date, on the port `{port}` and in the folder `{base}`.
pub(crate) fn release_command(root: &Path) -> io::Result<String> {
    cargo(root, &["build", "--release", "-p", "comfyd"], &[])?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let binary = target.join("release/comfyd").canonicalize()?;
    Ok(format!("{} serve --listen 127.0.0.1 --port {{port}} --base-directory {{base}} --front-end none", binary.display()))
}

/// The names and commands of the servers that a benchmark compares: `own`, or else the release build, and the reference if there is one.
pub(crate) fn measured_commands(root: &Path, own: Option<&String>, reference: Option<&String>) -> io::Result<Vec<(&'static str, String)>> {
    let own = own.cloned().map_or_else(|| release_command(root), Ok)?;
    let reference = reference.map(|command| ("reference", command.clone()));
    Ok([("comfyd", own)].into_iter().chain(reference).collect())
}

/// Runs cargo with arguments and paths.
pub(crate) fn cargo(root: &Path, arguments: &[&str], paths: &[&PathBuf]) -> io::Result<()> {
    let status = Command::new("cargo").current_dir(root).args(arguments).args(paths).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("cargo {} failed", arguments.join(" ")))) }
}

//! What every long-running command does with its process: its limits, its log, and the signals that end it.

use comfyd_server::{Log, in_background};

use crate::assemble::{self, Failure};
use crate::config::Verbosity;

/// How many files must be free to open: what the server itself needs, and some clients.
#[cfg(unix)]
const LEAST_FILES: usize = 64;

/// How many threads the server needs beside those that answer requests and those that compute, of which there are as many as processors.
const LEAST_THREADS: usize = 16;

/// Libraries panic, or wait for ever, where the system refuses them a file or a thread: it is said before it comes to that.
pub(crate) fn check_limits() -> Result<(), Failure> {
    #[cfg(unix)]
    {
        use std::os::fd::AsFd as _;
        let stdin = std::io::stdin();
        let opened: std::io::Result<Vec<_>> = (0..LEAST_FILES).map(|_| stdin.as_fd().try_clone_to_owned()).collect();
        opened
            .map_err(|error| format!("too few files may be open at once ({error}): raise the limit, for example with `ulimit -n 1024`"))?;
    }
    let threads = LEAST_THREADS + 2 * std::thread::available_parallelism().map_or(1, usize::from);
    // Closed until all are there.
    let gate = parking_lot::Mutex::new(());
    std::thread::scope(|scope| {
        let _closed = gate.lock();
        for started in 0..threads {
            std::thread::Builder::new().spawn_scoped(scope, || drop(gate.lock())).map_err(|error| {
                format!("only {started} of {threads} threads can be started ({error}): raise the limit on processes (`ulimit -u`)")
            })?;
        }
        Ok(())
    })
}

/// Does `work`, whose threads and processes let those that answer requests go first, as do the threads that computations are shared among.
pub(crate) fn in_background<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    in_background::started(|| {
        // Fails only if they are there already.
        drop(rayon::ThreadPoolBuilder::new().thread_name(|number| format!("compute-{number}")).build_global());
        work()
    })
}

/// Waits until the process is asked to stop; from when this returns, asking does not end the process by itself.
pub(crate) fn shutdown_signal() -> std::io::Result<impl Future<Output = ()>> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        assemble::survive_file_limit()?;
        Ok(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        })
    }
    #[cfg(not(unix))]
    {
        let mut interrupt = tokio::signal::windows::ctrl_c()?;
        Ok(async move { drop(interrupt.recv().await) })
    }
}

/// Begins the log.
pub(crate) fn init_log(verbosity: Verbosity, log: Log) {
    let level = match verbosity {
        Verbosity::Debug | Verbosity::Detail => "debug",
        Verbosity::Info => "info",
        Verbosity::Warning => "warn",
        Verbosity::Error | Verbosity::Critical => "error",
    };
    // The connection to NATS says in our words what it does.
    let filter = if level == "info" { "info,async_nats=warn" } else { level };
    // Fails only if a logger is there already.
    drop(tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(move || Tee(log.clone())).try_init());
}

/// Log lines go to the terminal and to `/internal/logs`.
struct Tee(Log);

impl std::io::Write for Tee {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        // A line begins with its time; the front end's terminal expects the line break.
        let text = String::from_utf8_lossy(line);
        let (time, message) = text.split_once(' ').unwrap_or(("", &text));
        self.0.keep(time, &format!("{}\n", message.trim()));
        // Whoever read the lines may be gone. An error here would be reported on the same way, which panics.
        let _ = std::io::stderr().write_all(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let _ = std::io::stderr().flush();
        Ok(())
    }
}

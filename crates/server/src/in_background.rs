//! Threads that compute let those go first that answer requests: a server whose processors all compute answers as soon as an idle one.

/// How much later than others such threads get a processor (`nice`). They have all of it that nobody else wants.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 5;

/// Lowers the priority of this thread, and of the threads and processes that it starts from now on. Where the system does not know of
/// threads' priorities, or refuses, all stay equal.
pub fn lower_priority() {
    #[cfg(target_os = "linux")]
    let _ = rustix::process::setpriority_process(None, NICENESS);
}

/// Does `work` on a thread of such a priority, which what it starts has too.
pub fn started<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let working = scope.spawn(|| {
            lower_priority();
            work()
        });
        working.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

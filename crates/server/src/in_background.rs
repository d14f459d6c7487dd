//! Threads that compute let those go first that answer requests: a server whose processors all compute answers as soon as an idle one.

/// How much later than others threads get a processor that run prompts (`nice`). They have all of it that nobody else wants.
const RUNNING: i32 = 5;
/// The same for those that do what one request wants: there may be many of them, which together must not hold up the others.
pub(crate) const LABOURING: i32 = 10;

/// Lowers the priority of this thread, and of the threads and processes that it starts from now on, by so many steps. Where the system does
/// not know of threads' priorities, or refuses, all stay equal.
pub(crate) fn lower_priority(steps: i32) {
    #[cfg(target_os = "linux")]
    let _ = rustix::process::nice(steps);
    #[cfg(not(target_os = "linux"))]
    let _ = steps;
}

/// Does `work`, which runs prompts, on a thread of a lower priority, which what it starts has too.
pub fn started<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let working = scope.spawn(|| {
            lower_priority(RUNNING);
            work()
        });
        working.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

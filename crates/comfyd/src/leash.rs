//! FFmpeg's programs on a leash: this program starts itself anew, bounds itself, asks to die with the process that wanted it, and becomes
//! them. Between a process and the program that it becomes there is no place for safe code of one's own, before it there is.

use std::ffi::OsString;

#[cfg(target_os = "linux")]
pub(crate) use self::linux::{hold, words};

/// The first word of the arguments of a process on a leash.
#[cfg(target_os = "linux")]
const WORD: &str = "__leash";

#[cfg(target_os = "linux")]
mod linux {
    use std::os::unix::process::CommandExt as _;
    use std::process::{Command, ExitCode};

    use rustix::process::{Resource, Rlimit, Signal, getppid, set_parent_process_death_signal, setrlimit};

    use super::{OsString, WORD};

    /// The least memory of a process, in bytes, whatever the machine has.
    const LEAST: u64 = 2 << 30;

    /// What stands before the program's name: half of the machine's memory is the most that it may take.
    pub(crate) fn words() -> Vec<OsString> {
        let most = (comfyd_memory::machine::total() / 2).max(LEAST);
        // What this process is, even if its file was replaced since.
        ["/proc/self/exe".into(), WORD.into(), std::process::id().to_string().into(), most.to_string().into()].into()
    }

    /// Becomes the program, if this process was started for that. It returns where it was not, or where it cannot.
    pub(crate) fn hold() -> Option<ExitCode> {
        let mut words = std::env::args_os().skip(1);
        if words.next()? != WORD {
            return None;
        }
        let mut number = || words.next()?.to_str()?.parse::<u64>().ok();
        let (parent, most) = (number()?, number()?);
        // They fail where a limit is lower already.
        let _ = setrlimit(Resource::Data, Rlimit { current: Some(most), maximum: Some(most) });
        let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
        let _ = set_parent_process_death_signal(Some(Signal::KILL));
        // It may have ended before.
        if getppid().is_none_or(|pid| pid.as_raw_nonzero().get() as u64 != parent) {
            return Some(ExitCode::FAILURE);
        }
        let program = words.next()?;
        // It returns only if it failed.
        let error = Command::new(program).args(words).exec();
        crate::assemble::print_notice(error);
        Some(ExitCode::from(comfyd_media::NOT_STARTED))
    }
}

/// Elsewhere they end with the pipes that lead to them.
#[cfg(not(target_os = "linux"))]
pub(crate) fn words() -> Vec<OsString> {
    Vec::new()
}

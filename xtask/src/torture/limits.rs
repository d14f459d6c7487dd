//! Bounds on the memory of a server that is started: its address space, or a control group of its own. Linux only; the latter needs root.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where control groups are.
const GROUPS: &str = "/sys/fs/cgroup";

/// What a server may have.
#[derive(Default)]
pub(super) struct Limits {
    /// Bytes of address space.
    pub(super) address_space: Option<u64>,
    group: Option<Group>,
}

/// A control group. Of the first version of control groups or of the second, whose files have other names.
struct Group {
    folder: PathBuf,
    bytes: u64,
    first: bool,
}

impl Limits {
    /// Has servers run in a control group that gives them so many bytes.
    pub(super) fn group(&mut self, bytes: u64) -> io::Result<()> {
        let group = Group::new(bytes).map_err(|error| {
            io::Error::other(format!("no control group with a bound on memory can be made ({error}): that needs root, or --address-space"))
        })?;
        self.group = Some(group);
        Ok(())
    }

    /// Whether there is any.
    pub(super) fn any(&self) -> bool {
        self.address_space.is_some() || self.group.is_some()
    }

    /// What starts a program with these bounds.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut script = String::new();
        if let Some(group) = &self.group {
            script += &format!("echo $$ > '{}' && ", group.folder.join("cgroup.procs").display());
        }
        if let Some(bytes) = self.address_space {
            script += &format!("ulimit -v {} && ", bytes >> 10);
        }
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{script}exec \"$@\""), "sh"]).arg(program);
        command
    }

    /// The bounds in words.
    pub(super) fn words(&self) -> String {
        let space = self.address_space.map(|bytes| format!("{} MB of address space", bytes >> 20));
        let group = self.group.as_ref().map(|group| format!("{} MB in a control group", group.bytes >> 20));
        space.into_iter().chain(group).collect::<Vec<_>>().join(", ")
    }

    /// How often the system ended a process of the group since it had no memory.
    pub(super) fn killed(&self) -> u64 {
        self.group.as_ref().map_or(0, Group::killed)
    }
}

impl Group {
    fn new(bytes: u64) -> io::Result<Self> {
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let path =
            |controller: &str| own.lines().find_map(|line| line.split_once(controller).map(|(_, path)| path.trim_start_matches('/')));
        let (above, first) = match path(":memory:") {
            Some(path) => (Path::new(GROUPS).join("memory").join(path), true),
            None => (Path::new(GROUPS).join(path("0::").unwrap_or_default()), false),
        };
        let group = Self { folder: above.join(format!("comfyd-torture-{}", std::process::id())), bytes, first };
        fs::create_dir(&group.folder)?;
        fs::write(group.folder.join(if first { "memory.limit_in_bytes" } else { "memory.max" }), bytes.to_string())?;
        Ok(group)
    }

    fn killed(&self) -> u64 {
        let file = if self.first { "memory.oom_control" } else { "memory.events" };
        let text = fs::read_to_string(self.folder.join(file)).unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok()).unwrap_or(0)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Its processes have ended by then.
        drop(fs::remove_dir(&self.folder));
    }
}

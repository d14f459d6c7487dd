//! The memory that this process may use: what the machine, its control groups and the limits of the process leave it.

use std::fs::read_to_string;
use std::path::{Path, PathBuf};

use sysinfo::{MemoryRefreshKind, System};

/// Where control groups are.
const GROUPS: &str = "/sys/fs/cgroup";

/// All memory that the machine and its control groups give, in bytes.
pub fn total() -> u64 {
    let machine = system().total_memory();
    Group::all().into_iter().filter_map(|group| group.limit()).fold(machine, u64::min)
}

/// What is free of it. The address space is not looked at: only the allocator knows what still has a place there.
pub fn free() -> u64 {
    let machine = available().unwrap_or_else(|| system().available_memory());
    let groups = Group::all().into_iter().filter_map(|group| group.free()).min();
    machine.min(groups.unwrap_or(u64::MAX))
}

/// What the limit on this process's address space (`ulimit -v`) leaves it, if there is one.
pub fn address_space() -> Option<u64> {
    let limits = read_to_string("/proc/self/limits").ok()?;
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?.split_whitespace().next()?;
    let taken = kilobytes("/proc/self/status", &["VmSize:"]).unwrap_or(0);
    Some(limit.parse::<u64>().ok()?.saturating_sub(taken))
}

/// What a process holds of memory that cannot be taken from it, in bytes; `None` where that is not known.
pub fn held_by(pid: u32) -> Option<u64> {
    kilobytes(&format!("/proc/{pid}/status"), &["RssAnon:", "RssShmem:"])
}

fn system() -> System {
    let mut system = System::new();
    system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
    system
}

/// What the kernel says can be had without swapping.
fn available() -> Option<u64> {
    kilobytes("/proc/meminfo", &["MemAvailable:"])
}

/// The sum of these lines of a file that gives kilobytes, in bytes; `None` if it has none of them.
fn kilobytes(file: &str, names: &[&str]) -> Option<u64> {
    let text = read_to_string(file).ok()?;
    let figures = text.lines().filter_map(|line| {
        let figure = names.iter().find_map(|name| line.strip_prefix(name))?;
        figure.split_whitespace().next()?.parse::<u64>().ok()
    });
    figures.map(|kilobytes| kilobytes << 10).reduce(|a, b| a + b)
}

/// A control group that this process is in.
struct Group {
    folder: PathBuf,
    /// The names of its limit and of what it uses, and what names in `memory.stat` begin with.
    names: [&'static str; 3],
}

const FIRST: [&str; 3] = ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_"];
const SECOND: [&str; 3] = ["memory.max", "memory.current", ""];

impl Group {
    /// The groups of this process, the outer ones too: each has its limit.
    fn all() -> Vec<Self> {
        let groups = read_to_string("/proc/self/cgroup").unwrap_or_default();
        groups.lines().flat_map(|line| Self::of_line(line, Path::new(GROUPS))).collect()
    }

    /// Those of a line of `/proc/self/cgroup`: `4:memory:/a/b` of the first version, `0::/a/b` of the second.
    fn of_line(line: &str, groups: &Path) -> Vec<Self> {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { return Vec::new() };
        let (root, names) = match controllers {
            "" => (groups.to_owned(), SECOND),
            controllers if controllers.split(',').any(|name| name == "memory") => (groups.join("memory"), FIRST),
            _ => return Vec::new(),
        };
        // In a container the path may be the one outside of it; then its own group is the root.
        let relative = Path::new(path.trim_start_matches('/'));
        relative
            .ancestors()
            .map(|part| root.join(part))
            .filter(|folder| folder.join(names[0]).exists())
            .map(|folder| Self { folder, names })
            .collect()
    }

    fn number(&self, name: &str) -> Option<u64> {
        read_to_string(self.folder.join(name)).ok()?.trim().parse().ok()
    }

    /// Its limit, in bytes; none is written as `max`, or as the largest number of pages.
    fn limit(&self) -> Option<u64> {
        self.number(self.names[0]).filter(|limit| *limit < 1 << 60)
    }

    /// What is free of its limit. Files that were read are let go when memory is needed.
    fn free(&self) -> Option<u64> {
        let limit = self.limit()?;
        let used = self.number(self.names[1])?;
        let stat = read_to_string(self.folder.join("memory.stat")).unwrap_or_default();
        let files = stat.lines().filter_map(|line| {
            let (name, figure) = line.strip_prefix(self.names[2])?.split_once(' ')?;
            matches!(name, "active_file" | "inactive_file").then(|| figure.parse::<u64>().ok())?
        });
        Some(limit.saturating_sub(used.saturating_sub(files.sum())))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_both_versions_are_read_with_their_outer_ones() {
        let folder = std::env::temp_dir().join(format!("comfyd-groups-{}", std::process::id()));
        let write = |path: &str, text: &str| {
            let path = folder.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        for (path, limit) in [("", "max"), ("a/", "1000"), ("a/b/", "5000")] {
            write(&format!("{path}memory.max"), limit);
            write(&format!("{path}memory.current"), "900\n");
            write(&format!("{path}memory.stat"), "anon 1\nactive_file 100\ninactive_file 200\n");
        }
        let groups = Group::of_line("0::/a/b", &folder);
        assert_eq!(groups.iter().map(Group::limit).collect::<Vec<_>>(), [Some(5000), Some(1000), None]);
        assert_eq!(groups.iter().map(Group::free).collect::<Vec<_>>(), [Some(4400), Some(400), None]);
        write("memory/memory.limit_in_bytes", "2000");
        write("memory/memory.usage_in_bytes", "1500");
        write("memory/memory.stat", "active_file 7\ntotal_active_file 500\n");
        let groups = Group::of_line("4:cpu,memory:/outside/of/it", &folder);
        assert_eq!(groups.iter().map(Group::free).collect::<Vec<_>>(), [Some(1000)]);
        assert!(Group::of_line("3:cpuset:/", &folder).is_empty());
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn the_machine_has_memory() {
        assert!(total() > 0 && free() > 0);
        if cfg!(target_os = "linux") {
            assert!(held_by(std::process::id()).unwrap() > 0);
        }
    }
}

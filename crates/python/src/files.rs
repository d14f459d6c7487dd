//! The worker's own Python files, which travel in the program.

use std::io;
use std::path::Path;

/// Names and texts; the first one is run.
pub(crate) const FILES: &[(&str, &str)] = &[
    ("worker.py", include_str!("../worker/worker.py")),
    ("comfyd_worker/__init__.py", include_str!("../worker/comfyd_worker/__init__.py")),
    ("comfyd_worker/boot.py", include_str!("../worker/comfyd_worker/boot.py")),
    ("comfyd_worker/executor.py", include_str!("../worker/comfyd_worker/executor.py")),
    ("comfyd_worker/facade.py", include_str!("../worker/comfyd_worker/facade.py")),
    ("comfyd_worker/guard.py", include_str!("../worker/comfyd_worker/guard.py")),
    ("comfyd_worker/frames.py", include_str!("../worker/comfyd_worker/frames.py")),
    ("comfyd_worker/manifest.py", include_str!("../worker/comfyd_worker/manifest.py")),
    ("comfyd_worker/modules.py", include_str!("../worker/comfyd_worker/modules.py")),
    ("comfyd_worker/process.py", include_str!("../worker/comfyd_worker/process.py")),
    ("comfyd_worker/prompt.py", include_str!("../worker/comfyd_worker/prompt.py")),
    ("comfyd_worker/reports.py", include_str!("../worker/comfyd_worker/reports.py")),
    ("comfyd_worker/seams.py", include_str!("../worker/comfyd_worker/seams.py")),
    ("comfyd_worker/service.py", include_str!("../worker/comfyd_worker/service.py")),
    ("comfyd_worker/users.py", include_str!("../worker/comfyd_worker/users.py")),
    ("comfyd_worker/values.py", include_str!("../worker/comfyd_worker/values.py")),
];

/// Writes them to a folder.
pub(crate) fn write(folder: &Path) -> io::Result<()> {
    for (name, text) in FILES {
        let path = folder.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(path, text)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn all_files_of_the_worker_travel() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("worker");
        let python = |folder: &str| {
            let entries = std::fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
            entries.filter(|name| name.ends_with(".py")).map(|name| format!("{folder}{name}")).collect::<Vec<_>>()
        };
        let mut there = [python(""), python("comfyd_worker/")].concat();
        there.sort();
        let mut known: Vec<_> = FILES.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(known[0], "worker.py");
        known.sort();
        assert_eq!(known, there);
        let folder = tempfile::tempdir().unwrap();
        write(folder.path()).unwrap();
        assert!(folder.path().join("comfyd_worker/boot.py").is_file());
    }
}

//! The files that are checked, and what a finding is. Knows no single rule.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;
use std::process::Command;

/// One broken rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The file, relative to the repository's root, with `/` between folders.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.message)
    }
}

/// The repository's text files by their path relative to the root, with `/` between folders.
#[derive(Debug, Default)]
pub struct Tree {
    /// Path to content. Files that are not UTF-8 are absent.
    pub files: BTreeMap<String, String>,
}

impl Tree {
    /// Reads what git tracks or would track under `root`; without git, everything but build outputs.
    pub fn read(root: &Path) -> io::Result<Self> {
        let paths = match git_files(root) {
            Some(paths) => paths,
            None => {
                let mut paths = Vec::new();
                walk(root, "", &mut paths)?;
                paths
            }
        };
        let mut files = BTreeMap::new();
        for path in paths {
            match std::fs::read(root.join(&path)) {
                Ok(bytes) => {
                    if let Ok(content) = String::from_utf8(bytes) {
                        files.insert(path, content);
                    }
                }
                // A file that was deleted but is still in git's index, or a link to a folder.
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::IsADirectory) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self { files })
    }

    /// The files whose name ends in `ending`.
    pub fn ending(&self, ending: &str) -> impl Iterator<Item = (&str, &str)> {
        self.files.iter().filter(move |(path, _)| path.ends_with(ending)).map(|(path, content)| (path.as_str(), content.as_str()))
    }
}

/// What git tracks, and what it would track once added. `None` where git or its data is missing.
fn git_files(root: &Path) -> Option<Vec<String>> {
    let output =
        Command::new("git").arg("-C").arg(root).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).output().ok()?;
    if !output.status.success() {
        return None;
    }
    let listing = String::from_utf8(output.stdout).ok()?;
    Some(listing.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect())
}

fn walk(root: &Path, folder: &str, paths: &mut Vec<String>) -> io::Result<()> {
    for entry in std::fs::read_dir(root.join(folder))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
        let kind = entry.file_type()?;
        if kind.is_file() {
            paths.push(path);
        } else if kind.is_dir() && ![".git", ".venv", "target"].contains(&name.as_str()) {
            walk(root, &path, paths)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn reading_this_repository_finds_this_file_and_no_build_output() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let tree = Tree::read(&root).unwrap();
        assert!(tree.files["xtask/src/tree.rs"].starts_with("//! The files that are checked"));
        assert!(!tree.files.keys().any(|path| path.starts_with("target/") || path.starts_with(".git/")));
        let mut paths = Vec::new();
        walk(&root, "xtask", &mut paths).unwrap();
        assert!(paths.iter().any(|path| path == "xtask/src/tree.rs"), "{paths:?}");
    }
}

//! How clients and messages name files, and what such a name means inside a folder. Knows no disk.

use std::path::{Component, Path, PathBuf};

use crate::{Error, Result, whole};

/// The three folders that clients may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Uploads and other inputs.
    Input,
    /// Results to keep.
    Output,
    /// Results that may go when the server stops.
    Temp,
}

impl Kind {
    /// The name on the wire: `input`, `output`, `temp`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Output => "output",
            Self::Temp => "temp",
        }
    }

    /// The kind of that name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Input, Self::Output, Self::Temp].into_iter().find(|kind| kind.as_str() == name)
    }
}

/// Splits `name [output]` into the name and the folder; `None` where no folder is named.
pub fn split_annotation(name: &str) -> (&str, Option<Kind>) {
    for kind in [Kind::Output, Kind::Input, Kind::Temp] {
        if let Some(rest) = name.strip_suffix(']').and_then(|n| n.strip_suffix(kind.as_str())).and_then(|n| n.strip_suffix('[')) {
            return (rest.strip_suffix(' ').unwrap_or(rest), Some(kind));
        }
    }
    (name, None)
}

/// Replaces a folder's path where it stands as a whole: not as a part of other names.
pub(crate) fn replace_root(text: &str, root: &str, name: &str) -> String {
    let is_name = |c: char| c.is_alphanumeric() || "_-".contains(c);
    let goes_on = |after: &str| after.strip_prefix('.').unwrap_or(after).starts_with(is_name);
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(root) {
        let (before, after) = (&rest[..at], &rest[at + root.len()..]);
        let whole = !before.ends_with(|c| is_name(c) || c == '.' || c == std::path::MAIN_SEPARATOR) && !goes_on(after);
        out.push_str(before);
        match after.strip_prefix(std::path::MAIN_SEPARATOR) {
            // A name of its own, without the dot of the folder that it is in.
            Some(_) if whole && name == "." => rest = &after[1..],
            _ => {
                out.push_str(if whole { name } else { root });
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

/// Joins by name and fails if the result is not inside `root`, or is a file that is not whole yet. Links on the disk are the owner's
/// choice and are followed.
pub fn join_inside(root: &Path, relative: &Path) -> Result<PathBuf> {
    let outside = || Error::Outside { path: relative.to_owned() };
    if relative.as_os_str().as_encoded_bytes().contains(&0) {
        return Err(outside());
    }
    let mut path = root.to_owned();
    let mut depth = 0usize;
    for component in relative.components() {
        match component {
            Component::Normal(name) => {
                path.push(name);
                depth += 1;
            }
            Component::CurDir => {}
            Component::ParentDir => {
                depth = depth.checked_sub(1).ok_or_else(outside)?;
                path.pop();
            }
            Component::RootDir | Component::Prefix(_) => return Err(outside()),
        }
    }
    if depth > 0 && is_unfinished(&path) {
        return Err(Error::Unfinished { path: relative.to_owned() });
    }
    Ok(path)
}

fn is_unfinished(path: &Path) -> bool {
    path.file_name().is_some_and(|name| whole::is_unfinished(&name.to_string_lossy()))
}

/// A model file's name with `..` resolved inside its folder, as the reference does: what would leave the folder stays at its top.
pub(crate) fn clean_relative(name: &str) -> Option<PathBuf> {
    let mut path = PathBuf::new();
    for component in Path::new(name).components() {
        match component {
            Component::Normal(part) => path.push(part),
            Component::ParentDir => {
                path.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    (!path.as_os_str().is_empty() && !is_unfinished(&path)).then_some(path)
}

/// The ending with its dot, in lower case; empty if there is none.
pub fn extension(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    match name.rfind('.') {
        Some(at) if at > 0 => name[at..].to_lowercase(),
        _ => String::new(),
    }
}

//! What fuzzing calls: any text as a file of search paths, and any text as a name of a file.
#![allow(clippy::expect_used)]

use std::path::Path;

use crate::extra;
use crate::names::{clean_relative, extension, join_inside, split_annotation};

#[cfg(test)]
#[path = "../../../fuzz/kept.rs"]
mod kept;

/// A file of search paths.
pub fn yaml(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let env = |name: &str| (name != "UNKNOWN").then(|| "value".to_owned());
    if let Ok(paths) = extra::paths(text, Path::new("/base/extra.yaml"), &env) {
        assert!(paths.iter().all(|path| path.path.is_absolute()), "a path does not hang on the current folder");
    }
}

/// A name of a file: it leads nowhere outside of its folder.
pub fn names(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (name, _) = split_annotation(&text);
    extension(name);
    let root = Path::new("/a/root");
    if let Ok(path) = join_inside(root, Path::new(name)) {
        let rest = path.strip_prefix(root).expect("the path is inside");
        assert!(rest.components().all(|part| matches!(part, std::path::Component::Normal(_))), "and by name");
    }
    if let Some(path) = clean_relative(name) {
        assert!(path.components().all(|part| matches!(part, std::path::Component::Normal(_))), "nothing leads up");
    }
}

#[cfg(test)]
#[test]
fn what_fuzzing_found_is_answered() {
    kept::replay("yaml", yaml);
    kept::replay("names", names);
}

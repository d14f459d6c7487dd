//! Runs a target of fuzzing on its kept corpus: part of the tests of each crate that has targets. Knows no target.

use std::path::Path;

pub(crate) fn replay(target: &str, run: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    for file in files {
        // Seen where the test fails.
        println!("{}", file.display());
        run(&std::fs::read(&file).unwrap());
    }
}

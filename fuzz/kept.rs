//! Runs a target of fuzzing on its kept corpus, and on what a few changes make of it: part of the tests of each crate that has targets. The
//! changes are the same each time; FUZZ_ROUNDS says how many of each file (8). Knows no target.
#![allow(clippy::unwrap_used)]

use std::path::Path;

/// Longest input that is made.
const MAX_BYTES: usize = 8192;

pub(crate) fn replay(target: &str, run: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    let inputs: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
    let rounds: usize = std::env::var("FUZZ_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(8);
    let mut chance = Chance(0x9E37_79B9_7F4A_7C15);
    for (file, input) in files.iter().zip(&inputs) {
        // Seen where the test fails.
        println!("{}", file.display());
        run(input);
        for round in 0..rounds {
            let changed = chance.change(input, &inputs);
            println!("change {round}: {}", changed.escape_ascii());
            run(&changed);
        }
    }
}

struct Chance(u64);

impl Chance {
    /// A number below `end`.
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 11) % end.max(1) as u64) as usize
    }

    /// Flips, cuts, repeats, and takes in what other inputs have.
    fn change(&mut self, input: &[u8], others: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = input.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len() + 1);
            let end = (at + 1 + self.below(16)).min(bytes.len()).max(at);
            match self.below(6) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                1 if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff, b'9'][self.below(6)],
                2 => drop(bytes.drain(at..end)),
                3 => {
                    let again = bytes[at..end].repeat(1 + self.below(8));
                    bytes.splice(at..at, again);
                }
                4 => bytes.truncate(at),
                _ => {
                    let other = &others[self.below(others.len())];
                    let from = self.below(other.len() + 1);
                    let to = (from + self.below(64)).min(other.len());
                    bytes.splice(at..end, other[from..to].iter().copied());
                }
            }
            bytes.truncate(MAX_BYTES);
        }
        bytes
    }
}

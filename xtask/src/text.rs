//! The rules of all text files: no left-over notes, no tabs or spaces at the end of a line, no paths of one machine, and no page in
//! docs/ that nothing links. Knows nothing of Rust.

use crate::tree::{Finding, Tree};

/// Files that come from elsewhere and stay as they came, or that a tool writes.
const AS_THEY_CAME: [&str; 5] = ["Cargo.lock", "LICENSE", "conformance/", "docs/prompt-server-api.ja.md", "fuzz/corpus/"];

/// Words that mark unfinished work. Each is split so that this file does not hold it.
const NOTES: [&str; 4] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X"), concat!("dbg", "!")];

/// Paths that exist on one machine only.
const MACHINE_PATHS: [&str; 2] = [concat!("/wo", "rk/"), concat!("/ro", "ot/")];

/// Pages from which every page in docs/ must be reachable.
const INDEX: [&str; 2] = ["README.md", "ARCHITECTURE.md"];

/// Checks every text file.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, content) in &tree.files {
        let as_it_came = AS_THEY_CAME.iter().any(|path| file == path || (path.ends_with('/') && file.starts_with(path)));
        for (index, line) in content.split('\n').enumerate() {
            let mut found = |message: String| findings.push(Finding { file: file.clone(), line: index + 1, message });
            for path in MACHINE_PATHS {
                if holds_path(line, path) {
                    found(format!("`{path}` is a path of one machine; use a relative path"));
                }
            }
            if !as_it_came {
                check_line(line, &mut found);
            }
        }
    }
    check_links(tree, &mut findings);
    findings
}

fn check_line(line: &str, found: &mut impl FnMut(String)) {
    for note in NOTES {
        if holds_word(line, note) {
            found(format!("`{note}` marks unfinished work; finish it or open an issue"));
        }
    }
    if line.contains('\t') {
        found("a tab; indent with spaces".into());
    }
    if line.ends_with([' ', '\r']) {
        found("a space at the end of the line; remove it".into());
    }
}

/// Whether `word` stands in `line` with no letter, digit or underscore beside it.
fn holds_word(line: &str, word: &str) -> bool {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(start, _)| {
        let before = line[..start].chars().next_back();
        let after = line[start + word.len()..].chars().next();
        let joined_after = word.ends_with(part_of_word) && after.is_some_and(part_of_word);
        !(before.is_some_and(part_of_word) || joined_after)
    })
}

/// Whether `path` stands in `line` as the beginning of an absolute path.
fn holds_path(line: &str, path: &str) -> bool {
    let part_of_path = |c: char| c.is_alphanumeric() || "_-.~})$>".contains(c);
    line.match_indices(path).any(|(start, _)| !line[..start].chars().next_back().is_some_and(part_of_path))
}

fn check_links(tree: &Tree, findings: &mut Vec<Finding>) {
    let linked = |file: &str| {
        INDEX.iter().filter_map(|page| tree.files.get(*page)).any(|content| {
            content.match_indices(&format!("]({file}")).any(|(start, hit)| content[start + hit.len()..].starts_with([')', '#', ' ']))
        })
    };
    for file in tree.files.keys().filter(|file| file.starts_with("docs/")) {
        if !linked(file) {
            let message = format!("nothing leads here; link it from {}", INDEX.join(" or "));
            findings.push(Finding { file: file.clone(), line: 1, message });
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn findings(files: &[(&str, &str)]) -> Vec<(String, usize)> {
        let files = files.iter().map(|(path, content)| ((*path).to_owned(), (*content).to_owned())).collect();
        check(&Tree { files }).into_iter().map(|f| (f.file, f.line)).collect()
    }

    #[test]
    fn notes_are_found_as_whole_words() {
        for note in NOTES {
            assert_eq!(findings(&[("a.toml", &format!("x\n# {note}: later\n"))]), [("a.toml".into(), 2)], "{note}");
        }
        assert_eq!(findings(&[("a.sh", concat!("mktemp -d name.XX", "XXXX\nMETHO", "DOLOGY\n"))]), []);
    }

    #[test]
    fn white_space_is_found_but_not_in_files_that_came_so() {
        assert_eq!(findings(&[("a.md", "a\tb\nc \nd\r\ne\n")]), [1, 2, 3].map(|line| ("a.md".into(), line)));
        assert_eq!(findings(&[("LICENSE", "a\tb \n"), ("conformance/x.json", "a \n")]), []);
    }

    #[test]
    fn machine_paths_are_found_everywhere() {
        for path in MACHINE_PATHS {
            assert_eq!(findings(&[("conformance/x.json", &format!("{{\n\"{path}x\"\n}}"))]), [("conformance/x.json".into(), 2)]);
        }
        assert_eq!(findings(&[("a.md", concat!("frame/works/, a/ro", "ot/b, $HOME/wo", "rk/x\n"))]), []);
    }

    #[test]
    fn pages_must_be_linked() {
        let page = ("docs/a.md", "text\n");
        assert_eq!(findings(&[page]), [("docs/a.md".into(), 1)]);
        assert_eq!(findings(&[page, ("README.md", "see docs/a.md and [b](docs/a.md.old)\n")]), [("docs/a.md".into(), 1)]);
        assert_eq!(findings(&[page, ("README.md", "see [a](docs/a.md#top)\n")]), []);
        assert_eq!(findings(&[page, ("ARCHITECTURE.md", "see [a](docs/a.md)\n")]), []);
    }
}

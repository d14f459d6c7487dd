//! The rules of Rust files: each says at its top what it holds, only the binary reads its surroundings, and unsafe code stays where it
//! must be. Works on words, not on syntax: comments and texts are blanked first.

use crate::tree::{Finding, Tree};

/// Functions that read what surrounds the process.
const SURROUNDINGS: [&str; 6] = ["env::var", "env::vars", "env::var_os", "env::args", "env::args_os", "env::current_dir"];

/// Where the surroundings may be read.
const MAY_READ_SURROUNDINGS: [&str; 3] = ["crates/comfyd/", "fuzz/", "xtask/"];

/// Where unsafe code may stand besides files that map files into memory: the kernels, where those for cards are launched, and where CUDA's
/// libraries are looked for.
const MAY_BE_UNSAFE: [&str; 3] = ["crates/kernels/", "crates/models/src/ops/cuda.rs", "crates/engine/src/device.rs"];

/// Words that show that a file maps files.
const MAPS_FILES: [&str; 2] = ["mmap", "Mmap"];

/// Checks every Rust file.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, content) in tree.ending(".rs") {
        let mut found = |line: usize, message: &str| findings.push(Finding { file: file.into(), line, message: message.into() });
        if !content.starts_with("//!") {
            found(1, "begin with `//!` and say what the file holds and what it does not know");
        }
        let code = code_only(content);
        let tests_from = first_test_line(&code);
        let maps_files = MAPS_FILES.iter().any(|word| code.contains(word));
        for (index, line) in code.lines().enumerate() {
            let in_tests = is_test_file(file) || index >= tests_from;
            if !in_tests && !under(file, &MAY_READ_SURROUNDINGS) && words(line).any(|word| SURROUNDINGS.iter().any(|s| calls(word, s))) {
                found(index + 1, "only crates/comfyd reads the environment, the arguments and the current folder; pass the value in");
            }
            if !under(file, &MAY_BE_UNSAFE) && !maps_files && words(line).any(|word| word == "unsafe") {
                found(
                    index + 1,
                    "unsafe code belongs into crates/kernels, a file that launches kernels or looks for CUDA, or one that maps files",
                );
            }
        }
    }
    findings
}

fn under(file: &str, folders: &[&str]) -> bool {
    folders.iter().any(|folder| file.starts_with(folder))
}

/// Tests, benches and examples are programs of their own: they may read their surroundings.
pub(crate) fn is_test_file(file: &str) -> bool {
    file.ends_with("/tests.rs") || ["/tests/", "/benches/", "/examples/"].iter().any(|folder| file.contains(folder))
}

/// The line, from 0, of the first `#[cfg(test)]` that opens a module; the module is the file's last item by convention.
pub(crate) fn first_test_line(code: &str) -> usize {
    let lines: Vec<&str> = code.lines().collect();
    let opens =
        |index: usize| lines[index + 1..].iter().find(|line| !line.trim().starts_with("#[")).is_some_and(|line| line.contains("mod "));
    (0..lines.len()).find(|index| lines[*index].trim() == "#[cfg(test)]" && opens(*index)).unwrap_or(usize::MAX)
}

/// Names with their paths: `std::env::var`, `unsafe`.
pub(crate) fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).filter(|word| !word.is_empty())
}

/// Whether the path `word` ends in the path `name`.
fn calls(word: &str, name: &str) -> bool {
    word.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with("::"))
}

/// The source with the insides of comments, texts and characters replaced by spaces; lines stay where they are.
pub(crate) fn code_only(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let after_word = code.chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_');
        let hidden = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if first == '"' {
            quoted(rest, '"')
        } else if first == '\'' {
            character(rest)
        } else if after_word {
            0
        } else {
            raw_text(rest)
        };
        if hidden == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            code.extend(rest[..hidden].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = &rest[hidden..];
        }
    }
    code
}

/// The length of the block comment, which may hold others, at the start of `rest`.
fn block_comment(rest: &str) -> usize {
    let mut depth = 0usize;
    let mut at = 0;
    while at < rest.len() {
        let tail = &rest[at..];
        if tail.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if tail.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += tail.chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// The length of the quoted text at the start of `rest`, with its escapes.
fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (index, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return index + 1,
            _ => {}
        }
    }
    rest.len()
}

/// The length of the character at the start of `rest`; 0 if it is a lifetime.
fn character(rest: &str) -> usize {
    let mut chars = rest.chars().skip(1);
    match (chars.next(), chars.next()) {
        (Some('\\'), _) | (Some(_), Some('\'')) => quoted(rest, '\''),
        _ => 0,
    }
}

/// The length of the raw text (`r"…"`, `br#"…"#`) at the start of `rest`; 0 if there is none.
fn raw_text(rest: &str) -> usize {
    let Some(prefix) = ["br", "cr", "r"].into_iter().find(|prefix| rest.starts_with(prefix)) else { return 0 };
    let hashes = rest[prefix.len()..].chars().take_while(|c| *c == '#').count();
    let body = prefix.len() + hashes + 1;
    if !rest[prefix.len() + hashes..].starts_with('"') {
        return 0;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    rest[body..].find(&end).map_or(rest.len(), |length| body + length + end.len())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn lines(file: &str, content: &str) -> Vec<usize> {
        let mut tree = Tree::default();
        tree.files.insert(file.into(), content.into());
        check(&tree).into_iter().map(|f| f.line).collect()
    }

    #[test]
    fn a_header_is_required() {
        assert_eq!(lines("crates/a/src/lib.rs", "use x;\n"), [1]);
        assert_eq!(lines("crates/a/src/lib.rs", "//! Holds x.\nuse x;\n"), [0_usize; 0]);
    }

    #[test]
    fn only_the_binary_and_tests_read_their_surroundings() {
        for call in ["std::env::var(\"A\")", "env::args()", "std::env::current_dir()", "std::env::var_os(\"A\")"] {
            let source = format!("//! x\nfn f() {{ {call}; }}\n");
            assert_eq!(lines("crates/a/src/lib.rs", &source), [2], "{call}");
            assert_eq!(lines("crates/comfyd/src/main.rs", &source), [0_usize; 0]);
            assert_eq!(lines("crates/a/tests/all.rs", &source), [0_usize; 0]);
            let in_tests = format!("//! x\n#[cfg(test)]\nmod tests {{\n {call};\n}}\n");
            assert_eq!(lines("crates/a/src/lib.rs", &in_tests), [0_usize; 0]);
            let after_a_test_import = format!("//! x\n#[cfg(test)]\nuse a;\nfn f() {{ {call}; }}\n");
            assert_eq!(lines("crates/a/src/lib.rs", &after_a_test_import), [4]);
        }
        assert_eq!(lines("crates/a/src/lib.rs", "//! x\nconst V: &str = env!(\"CARGO\");\nmy_env::variable();\n"), [0_usize; 0]);
    }

    #[test]
    fn unsafe_code_stays_in_kernels_and_file_maps() {
        let source = "//! x\nfn f() { unsafe { g() } }\n";
        assert_eq!(lines("crates/a/src/lib.rs", source), [2]);
        assert_eq!(lines("crates/kernels/src/lib.rs", source), [0_usize; 0]);
        assert_eq!(lines("crates/engine/src/device.rs", source), [0_usize; 0]);
        assert_eq!(lines("crates/engine/src/engine.rs", source), [2]);
        assert_eq!(lines("crates/a/src/map.rs", &format!("{source}use libc::mmap;\n")), [0_usize; 0]);
        assert_eq!(lines("crates/a/src/lib.rs", &format!("{source}// mmap\n")), [2]);
    }

    #[test]
    fn comments_and_texts_are_not_code() {
        let source = "//! unsafe\n/* unsafe /* unsafe */\nunsafe */ let a = \"unsafe \\\" unsafe\";\nlet b = r#\"unsafe \" unsafe\"#;\n\
                      let c = '\"'; // unsafe\nlet d: &'a str = x;\nlet e = 'é';\nunsafe {}\n";
        assert_eq!(lines("crates/a/src/lib.rs", source), [8]);
        assert_eq!(code_only(source).lines().count(), source.lines().count());
    }
}

//! The list of checks. Knows no single rule.

use crate::tree::{Finding, Tree};
use crate::{imports, manifests, rust, text};

/// Runs every check; the findings come sorted by file and line.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = manifests::check(tree);
    findings.extend(rust::check(tree));
    findings.extend(imports::check(tree));
    findings.extend(text::check(tree));
    findings.sort();
    findings.dedup();
    findings
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn findings_are_sorted_and_name_file_and_line() {
        let mut tree = Tree::default();
        tree.files.insert("b.md".into(), "fine\nbad \n".into());
        tree.files.insert("a.rs".into(), "fn main() {}\n".into());
        let shown: Vec<String> = check(&tree).iter().map(ToString::to_string).collect();
        assert_eq!(shown.len(), 2);
        assert!(shown[0].starts_with("a.rs:1: "), "{shown:?}");
        assert!(shown[1].starts_with("b.md:2: "), "{shown:?}");
    }
}

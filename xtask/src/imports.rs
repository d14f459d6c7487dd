//! The rule that the files of a crate import each other in one direction only. Reads `use` trees and paths, not syntax: macros and traits
//! that are found without a path are not seen. Tests may import what they like.

use std::collections::{BTreeMap, BTreeSet};

use crate::rust::{code_only, first_test_line, is_test_file, words};
use crate::tree::{Finding, Tree};

/// In the file of a folder's module: the folder's parts may import each other in a circle, for the reason that follows.
const ALLOWED: &str = "// circle allowed: ";

/// A path such as `["crate", "hub", "Hub"]`.
type Path = Vec<String>;

/// One file of a crate.
struct Module<'a> {
    file: &'a str,
    /// What it hands on: the name under which it does (`*` for all), and from where.
    exports: Vec<(String, Path)>,
    imports: Vec<Path>,
    allows: bool,
}

/// Modules by their path in the crate; the root's is empty.
type Crate<'a> = BTreeMap<Path, Module<'a>>;

/// Checks the sources of every crate.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut crates: BTreeMap<&str, Crate<'_>> = BTreeMap::new();
    for (file, content) in tree.ending(".rs").filter(|(file, _)| !is_test_file(file)) {
        let Some((name, inside)) = file.rsplit_once("/src/") else { continue };
        crates.entry(name).or_default().insert(module_path(inside), read(file, content));
    }
    crates.values().flat_map(circles).collect()
}

/// The module's path, from the file's below `src`.
fn module_path(inside: &str) -> Path {
    let path = inside.trim_end_matches(".rs");
    let path = path.strip_suffix("/mod").unwrap_or(path);
    if ["lib", "main"].contains(&path) { Vec::new() } else { path.split('/').map(str::to_owned).collect() }
}

fn read<'a>(file: &'a str, content: &'a str) -> Module<'a> {
    let code = code_only(content);
    let code = code.lines().take(first_test_line(&code)).collect::<Vec<_>>().join("\n");
    let mut module = Module { file, exports: Vec::new(), imports: Vec::new(), allows: content.lines().any(|l| l.starts_with(ALLOWED)) };
    let mut rest = code.as_str();
    while let Some(at) = next_use(rest) {
        let end = rest[at..].find(';').map_or(rest.len(), |length| at + length);
        module.add_paths(&rest[..at]);
        let is_export = rest[..at].trim_end().rsplit(['\n', ';', '}']).next().is_some_and(|before| before.trim().starts_with("pub"));
        let mut paths = Vec::new();
        expand(rest[at + "use ".len()..end].trim(), &Vec::new(), &mut paths);
        for (name, path) in paths {
            if is_export { module.exports.push((name, path)) } else { module.imports.push(path) }
        }
        rest = &rest[end..];
    }
    module.add_paths(rest);
    module
}

impl Module<'_> {
    /// Paths in code.
    fn add_paths(&mut self, code: &str) {
        let paths = code.lines().flat_map(words).filter(|word| word.contains("::"));
        self.imports.extend(paths.map(|word| word.split("::").map(str::to_owned).collect()));
    }
}

/// Where the next `use` item begins.
fn next_use(code: &str) -> Option<usize> {
    let is_item = |at: &usize| code[..*at].trim_end_matches([' ', ')']).ends_with(['\n', ';', '}', '{']) || code[..*at].ends_with("pub ");
    code.match_indices("use ").map(|(at, _)| at).find(|at| {
        let before = code[..*at].rsplit('\n').next().unwrap_or_default().trim();
        (before.is_empty() || before.starts_with("pub")) && (*at == 0 || before.starts_with("pub(") || is_item(at))
    })
}

/// The paths of a tree such as `a::{b, c::{self, d as e}}`, each with the name that it brings.
fn expand(tree: &str, before: &Path, paths: &mut Vec<(String, Path)>) {
    let tree = tree.trim();
    let (path, group) = match tree.split_once('{') {
        Some((path, group)) => (path.trim_end_matches("::"), Some(group.strip_suffix('}').unwrap_or(group))),
        None => (tree, None),
    };
    let (path, alias) = path.split_once(" as ").map_or((path, None), |(path, alias)| (path, Some(alias.trim().to_owned())));
    let mut full = before.clone();
    full.extend(
        path.split("::").map(str::trim).filter(|part| !part.is_empty() && (*part != "self" || before.is_empty())).map(str::to_owned),
    );
    let Some(group) = group else {
        let name = alias.or_else(|| full.last().cloned()).unwrap_or_default();
        return paths.push((name, full));
    };
    let (mut depth, mut from) = (0, 0);
    for (at, c) in group.char_indices().chain([(group.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                if !group[from..at].trim().is_empty() {
                    expand(&group[from..at], &full, paths);
                }
                from = at + 1;
            }
            _ => {}
        }
    }
}

/// The module that holds what `path` names, seen from the module `from`; `None` where it is of another crate.
fn owner(modules: &Crate<'_>, from: &Path, path: &Path, depth: usize) -> Option<Path> {
    let mut at = from.clone();
    for (index, part) in path.iter().enumerate() {
        let mut child = at.clone();
        child.push(part.clone());
        match part.as_str() {
            "crate" => at.clear(),
            "self" => {}
            "super" => {
                at.pop();
            }
            _ if modules.contains_key(&child) => at = child,
            _ if index == 0 => return None,
            name => {
                let module = modules.get(&at)?;
                let handed_on = module.exports.iter().filter(|(export, _)| export == name || export == "*").filter(|_| depth < 8);
                let further = handed_on.map(|(_, source)| {
                    let all = source.last().is_some_and(|last| last == "*");
                    let mut source: Path = source[..source.len() - usize::from(all)].to_vec();
                    source.extend(path[index + usize::from(!all)..].iter().cloned());
                    // What a file hands on from another crate belongs to nobody here.
                    owner(modules, &at, &source, depth + 1)
                });
                return further.reduce(|found, other| found.or(other)).unwrap_or(Some(at));
            }
        }
    }
    Some(at)
}

/// One finding for each set of files that lead to each other.
fn circles(modules: &Crate<'_>) -> Vec<Finding> {
    let edges: BTreeMap<&Path, BTreeSet<Path>> = modules
        .iter()
        .map(|(path, module)| {
            let to = module.imports.iter().filter_map(|import| owner(modules, path, import, 0));
            (path, to.filter(|to| to != path && modules.contains_key(to)).collect())
        })
        .collect();
    let reached: BTreeMap<&Path, BTreeSet<&Path>> = edges.keys().map(|from| (*from, reach(&edges, from))).collect();
    let mut seen: BTreeSet<&Path> = BTreeSet::new();
    let mut findings = Vec::new();
    for (from, to) in &reached {
        let circle: Vec<&Path> = to.iter().copied().filter(|other| reached[*other].contains(*from)).collect();
        if circle.is_empty() || !seen.insert(from) {
            continue;
        }
        seen.extend(circle.iter().copied());
        let common = circle.iter().fold((*from).clone(), |common, path| {
            common.iter().zip(path.iter()).take_while(|(a, b)| a == b).map(|(a, _)| a.clone()).collect()
        });
        if modules.get(&common).is_some_and(|module| module.allows) {
            continue;
        }
        let names: Vec<&str> = circle.iter().map(|path| modules[*path].file).collect();
        let message =
            format!("these files import each other in a circle: {}; move what they share into a file of its own", names.join(", "));
        findings.push(Finding { file: modules[*from].file.into(), line: 1, message });
    }
    findings
}

/// The modules that `from` leads to, itself among them only where it leads back.
fn reach<'a>(edges: &'a BTreeMap<&'a Path, BTreeSet<Path>>, from: &Path) -> BTreeSet<&'a Path> {
    let mut reached = BTreeSet::new();
    let mut waiting: Vec<&Path> = edges[from].iter().collect();
    while let Some(next) = waiting.pop() {
        if reached.insert(next) {
            waiting.extend(&edges[next]);
        }
    }
    reached
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn findings(files: &[(&str, &str)]) -> Vec<String> {
        let files = files.iter().map(|(file, code)| (format!("crates/a/src/{file}"), (*code).to_owned())).collect();
        check(&Tree { files }).into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn circles_are_found_through_trees_paths_and_exports() {
        let lib = ("lib.rs", "mod b;\nmod c;\npub use crate::{b::B, c::{self, C as D}};\n");
        assert_eq!(findings(&[lib, ("b.rs", "use crate::c::C;\n"), ("c.rs", "use std::fmt;\n")]), [""; 0]);
        for back in
            ["use crate::B;\n", "use super::b;\n", "use crate::{\n    x::Y,\n    b::{B},\n};\n", "fn f() {\n    crate::b::f();\n}\n"]
        {
            let found = findings(&[lib, ("b.rs", "use crate::D;\n"), ("c.rs", back)]);
            assert_eq!(found.len(), 1, "{back}");
            assert!(found[0].contains("crates/a/src/b.rs, crates/a/src/c.rs;"), "{found:?}");
        }
    }

    #[test]
    fn parents_that_only_hand_on_are_in_no_circle() {
        let files = [("lib.rs", "mod b;\n"), ("b.rs", "mod x;\nmod y;\npub use self::x::X;\npub use y::*;\n"), ("b/y.rs", "struct Y;\n")];
        assert_eq!(findings(&[&files[..], &[("b/x.rs", "use super::Y;\n")]].concat()), [""; 0]);
        let own = [("lib.rs", "mod b;\n"), ("b.rs", "mod x;\nuse self::x::X;\nstruct Y;\n"), ("b/x.rs", "use super::Y;\n")];
        assert_eq!(findings(&own).len(), 1);
        let allowed = [own[0], ("b.rs", "// circle allowed: parsers call each other\nmod x;\nuse self::x::X;\nstruct Y;\n"), own[2]];
        assert_eq!(findings(&allowed), [""; 0]);
    }

    #[test]
    fn tests_are_left_out() {
        let code = "fn f() {}\n#[cfg(test)]\nmod tests {\n    use crate::b::B;\n}\n";
        assert_eq!(findings(&[("lib.rs", ""), ("b.rs", "use crate::c::f;\n"), ("c.rs", code), ("tests.rs", "use crate::b;\n")]), [""; 0]);
    }
}

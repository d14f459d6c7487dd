//! The rules of the crates' manifests: every crate declares its floor, depends only on lower floors, is called as its folder, and names every
//! library that it takes.

use std::collections::BTreeMap;

use toml::{Table, Value};

use crate::rust::{code_only, words};
use crate::tree::{Finding, Tree};

const PREFIX: &str = "comfyd-";

/// The binary is called as the project; every other crate carries the prefix.
const BINARY: &str = "comfyd";

struct Manifest<'a> {
    file: &'a str,
    content: &'a str,
    table: Table,
    name: String,
    floor: Option<i64>,
}

/// Checks every `crates/*/Cargo.toml`.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut manifests = Vec::new();
    for (file, content) in tree.ending("/Cargo.toml") {
        let Some(folder) = file.strip_prefix("crates/").and_then(|rest| rest.strip_suffix("/Cargo.toml")) else { continue };
        match content.parse::<Table>() {
            Ok(table) => manifests.push(read(file, folder, content, table, &mut findings)),
            Err(error) => findings.push(at(file, 1, format!("not a TOML file: {}", error.message()))),
        }
    }
    let floors: BTreeMap<&str, i64> = manifests.iter().filter_map(|m| Some((m.name.as_str(), m.floor?))).collect();
    for manifest in &manifests {
        check_dependencies(manifest, &floors, &mut findings);
        check_use(tree, manifest, &mut findings);
    }
    check_workspace(tree, &manifests, &mut findings);
    findings
}

fn read<'a>(file: &'a str, folder: &str, content: &'a str, table: Table, findings: &mut Vec<Finding>) -> Manifest<'a> {
    let package = table.get("package").and_then(Value::as_table);
    let name = package.and_then(|p| p.get("name")).and_then(Value::as_str).unwrap_or_default().to_owned();
    let expected = if folder == BINARY { BINARY.to_owned() } else { format!("{PREFIX}{folder}") };
    if name != expected {
        let message = format!("the package is called `{name}`; in this folder it must be called `{expected}`");
        findings.push(at(file, line_of(content, "name"), message));
    }
    let metadata = package.and_then(|p| p.get("metadata")).and_then(|m| m.get("comfyd"));
    let floor = metadata.and_then(|m| m.get("floor")).and_then(Value::as_integer).filter(|floor| *floor >= 0);
    if floor.is_none() {
        findings.push(at(file, 1, "declare the floor: `[package.metadata.comfyd]` with `floor = N`, N from 0".into()));
    }
    Manifest { file, content, table, name, floor }
}

fn check_dependencies(manifest: &Manifest<'_>, floors: &BTreeMap<&str, i64>, findings: &mut Vec<Finding>) {
    let Some(floor) = manifest.floor else { return };
    for (key, value) in dependencies(&manifest.table) {
        let package = value.get("package").and_then(Value::as_str).unwrap_or(key);
        if package != BINARY && !package.starts_with(PREFIX) {
            continue;
        }
        let line = line_of(manifest.content, key);
        match floors.get(package) {
            None => findings.push(at(manifest.file, line, format!("depends on `{package}`, which no folder in crates/ holds"))),
            Some(other) if *other >= floor => {
                let message = format!("a crate on floor {floor} depends on `{package}` on floor {other}; only lower floors are allowed");
                findings.push(at(manifest.file, line, message));
            }
            Some(_) => {}
        }
    }
}

/// Every dependency is named in the crate's code, unless it is there for a feature of another: those are in the metadata's `unnamed`.
fn check_use(tree: &Tree, manifest: &Manifest<'_>, findings: &mut Vec<Finding>) {
    let folder = manifest.file.trim_end_matches("Cargo.toml");
    let sources = tree.ending(".rs").filter(|(file, _)| file.starts_with(folder));
    let code: Vec<String> = sources.map(|(_, content)| code_only(content)).collect();
    let package = manifest.table.get("package");
    let unnamed = package.and_then(|p| p.get("metadata")?.get("comfyd")?.get("unnamed")?.as_array()).map_or(&[][..], Vec::as_slice);
    for (key, _) in dependencies(&manifest.table) {
        let name = key.replace('-', "_");
        let named = |code: &String| words(code).any(|word| word.split("::").any(|part| part == name));
        if !unnamed.iter().any(|other| other.as_str() == Some(key)) && !code.iter().any(named) {
            let message = format!("`{key}` is not used; remove it, or list it in the metadata's `unnamed` if a feature of it is wanted");
            findings.push(at(manifest.file, line_of(manifest.content, key), message));
        }
    }
}

/// Every dependency of the workspace is taken by a member.
fn check_workspace(tree: &Tree, manifests: &[Manifest<'_>], findings: &mut Vec<Finding>) {
    let Some((file, content)) = tree.files.get_key_value("Cargo.toml") else { return };
    let Ok(table) = content.parse::<Table>() else { return };
    let others =
        tree.ending("/Cargo.toml").filter(|(file, _)| !file.starts_with("crates/")).filter_map(|(_, content)| content.parse().ok());
    let members: Vec<Table> = manifests.iter().map(|manifest| manifest.table.clone()).chain(others).collect();
    let shared = table.get("workspace").and_then(|workspace| workspace.get("dependencies")?.as_table());
    for key in shared.into_iter().flat_map(Table::keys) {
        if !members.iter().any(|member| dependencies(member).any(|(name, _)| name == key)) {
            findings.push(at(file, line_of(content, key), format!("no crate takes `{key}`; remove it")));
        }
    }
}

/// Normal, build and development dependencies, those for one target included.
fn dependencies(table: &Table) -> impl Iterator<Item = (&str, &Value)> {
    let targets = table.get("target").and_then(Value::as_table).into_iter().flat_map(Table::values).filter_map(Value::as_table);
    std::iter::once(table)
        .chain(targets)
        .flat_map(|table| ["dependencies", "dev-dependencies", "build-dependencies"].into_iter().filter_map(|kind| table.get(kind)))
        .filter_map(Value::as_table)
        .flat_map(|table| table.iter().map(|(key, value)| (key.as_str(), value)))
}

/// The first line that sets `key` or opens a table of that name; 1 if none does.
fn line_of(content: &str, key: &str) -> usize {
    let sets = |line: &str| {
        let rest = line.trim_start().strip_prefix(key);
        rest.is_some_and(|rest| rest.starts_with(['.', ' ', '='])) || line.trim_end().ends_with(&format!(".{key}]"))
    };
    content.lines().position(sets).map_or(1, |index| index + 1)
}

fn at(file: &str, line: usize, message: String) -> Finding {
    Finding { file: file.into(), line, message }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn findings(manifests: &[(&str, &str)]) -> Vec<String> {
        let files = manifests.iter().map(|(folder, content)| (format!("crates/{folder}/Cargo.toml"), (*content).to_owned())).collect();
        let found = check(&Tree { files });
        found.iter().map(ToString::to_string).filter(|finding| !finding.contains("is not used")).collect()
    }

    fn manifest(name: &str, floor: i64, rest: &str) -> String {
        format!("[package]\nname = \"{name}\"\n[package.metadata.comfyd]\nfloor = {floor}\n{rest}")
    }

    #[test]
    fn lower_floors_are_fine_and_siblings_are_not() {
        let low = manifest("comfyd-low", 1, "");
        let good = manifest("comfyd", 2, "[dependencies]\ncomfyd-low.workspace = true\nserde = \"1\"\n");
        assert_eq!(findings(&[("low", &low), ("comfyd", &good)]), [""; 0]);
        let sibling = manifest("comfyd-side", 1, "[dev-dependencies]\ncomfyd-low = { path = \"../low\" }\n");
        let found = findings(&[("low", &low), ("side", &sibling)]);
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("crates/side/Cargo.toml:6: a crate on floor 1 depends on `comfyd-low` on floor 1"), "{found:?}");
    }

    #[test]
    fn what_is_not_used_is_found() {
        let taken = manifest("comfyd-a", 1, "unnamed = [\"gemm\"]\n[dependencies]\nfutures-util = \"1\"\ngemm = \"1\"\nserde = \"1\"\n");
        let shared = "[workspace.dependencies]\nserde = \"1\"\ntoml = \"1\"\n";
        let files = [("Cargo.toml", shared), ("crates/a/Cargo.toml", &taken), ("crates/a/src/lib.rs", "// serde\nuse futures_util::f;\n")];
        let files = files.map(|(file, content)| (file.to_owned(), content.to_owned())).into();
        let found: Vec<String> = check(&Tree { files }).iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("crates/a/Cargo.toml:9: `serde` is not used"), "{found:?}");
        assert!(found[1].starts_with("Cargo.toml:3: no crate takes `toml`"), "{found:?}");
    }

    #[test]
    fn target_tables_renames_and_table_syntax_are_seen() {
        let low = manifest("comfyd-low", 0, "[target.'cfg(unix)'.dependencies.upper]\npackage = \"comfyd-high\"\npath = \"../high\"\n");
        let high = manifest("comfyd-high", 3, "");
        let found = findings(&[("low", &low), ("high", &high)]);
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("crates/low/Cargo.toml:5: ") && found[0].contains("`comfyd-high` on floor 3"), "{found:?}");
    }

    #[test]
    fn names_and_floors_are_required() {
        let found = findings(&[("low", "[package]\nname = \"comfyd-lower\"\n")]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found.iter().any(|f| f.contains(":2: ") && f.contains("must be called `comfyd-low`")), "{found:?}");
        assert!(found.iter().any(|f| f.contains("declare the floor")), "{found:?}");
    }

    #[test]
    fn unknown_crates_and_broken_files_are_findings() {
        let found = findings(&[("a", &manifest("comfyd-a", 1, "[dependencies]\ncomfyd-gone.workspace = true\n")), ("b", "= 3")]);
        assert!(found.iter().any(|f| f.contains("a/Cargo.toml:6") && f.contains("no folder in crates/ holds")), "{found:?}");
        assert!(found.iter().any(|f| f.contains("b/Cargo.toml:1") && f.contains("not a TOML file")), "{found:?}");
    }
}

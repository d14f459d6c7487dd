//! What is in the program: a list of its libraries in CycloneDX's JSON, made of what cargo resolves and locks. The same for the same sources:
//! no time and no random number is in it. Knows no licence's terms (deny.toml) and no advisory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use toml::Table;

const USAGE: &str = "usage: cargo xtask sbom [--target TRIPLE] [--features LIST] [FILE]

  Lists the libraries that go into comfyd as a CycloneDX document, on the standard output or in FILE: those for this computer, unless
  another target is named.";

const ROOT: &str = "comfyd";

/// Runs the command.
pub fn run(root: &Path, arguments: &[String]) -> Result<(), String> {
    let (mut target, mut features, mut file) = (None, String::new(), None);
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().cloned().ok_or_else(|| format!("{argument} wants a value\n{USAGE}"));
        match argument.as_str() {
            "--target" => target = Some(value()?),
            "--features" => features = value()?,
            option if option.starts_with('-') => return Err(USAGE.into()),
            _ if file.is_none() => file = Some(argument),
            _ => return Err(USAGE.into()),
        }
    }
    let target = target.map_or_else(host, Ok)?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root).args(["metadata", "--locked", "--format-version", "1", "--filter-platform", &target]);
    if !features.is_empty() {
        cargo.args(["--manifest-path", "crates/comfyd/Cargo.toml", "--features", &features]);
    }
    let metadata: Value =
        serde_json::from_slice(&said(&mut cargo)?).map_err(|e| format!("what cargo says of the packages is no JSON: {e}"))?;
    let lock = std::fs::read_to_string(root.join("Cargo.lock")).map_err(|e| format!("Cargo.lock cannot be read: {e}"))?;
    let lock = lock.parse::<Table>().map_err(|e| format!("Cargo.lock is no TOML: {e}"))?;
    let document = document(&metadata, &lock, &target, &features)?;
    let text = serde_json::to_string_pretty(&document).map_err(|e| e.to_string())? + "\n";
    match file {
        Some(file) => std::fs::write(file, text).map_err(|e| format!("{file} cannot be written: {e}")),
        None => {
            print!("{text}");
            Ok(())
        }
    }
}

fn host() -> Result<String, String> {
    let said = String::from_utf8_lossy(&said(Command::new("rustc").arg("-vV"))?).into_owned();
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).ok_or_else(|| "rustc does not say what computer this is; name it with --target".into())
}

fn said(command: &mut Command) -> Result<Vec<u8>, String> {
    let output = command.output().map_err(|e| format!("{command:?} cannot be started: {e}"))?;
    match output.status.success() {
        true => Ok(output.stdout),
        false => Err(format!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// The document for what the program takes, directly or not: neither what only builds or tests it, nor what other targets take.
fn document(metadata: &Value, lock: &Table, target: &str, features: &str) -> Result<Value, String> {
    let unknown = || "cargo's metadata have another form than they had".to_owned();
    let list = |value: &'_ Value, key: &str| value.get(key).and_then(Value::as_array).cloned().ok_or_else(unknown);
    let text = |value: &'_ Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned).ok_or_else(unknown);
    let mut packages = BTreeMap::new();
    for package in list(metadata, "packages")? {
        packages.insert(text(&package, "id")?, package);
    }
    let mut taken: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for node in list(metadata.get("resolve").ok_or_else(unknown)?, "nodes")? {
        let mut libraries = BTreeSet::new();
        for library in list(&node, "deps")? {
            let runs = list(&library, "dep_kinds")?.iter().any(|kind| kind.get("kind").is_some_and(Value::is_null));
            if runs && !is_macro(packages.get(&text(&library, "pkg")?).ok_or_else(unknown)?) {
                libraries.insert(text(&library, "pkg")?);
            }
        }
        taken.insert(text(&node, "id")?, libraries);
    }
    let is_root = |package: &&Value| package["name"] == ROOT && package["source"].is_null();
    let root = text(packages.values().find(is_root).ok_or_else(unknown)?, "id")?;
    let (mut reached, mut left) = (BTreeSet::new(), vec![root.clone()]);
    while let Some(id) = left.pop() {
        if reached.insert(id.clone()) {
            left.extend(taken.get(&id).into_iter().flatten().cloned());
        }
    }
    let checksums = checksums(lock);
    let mut components: Vec<Value> = Vec::new();
    let mut dependencies: Vec<Value> = Vec::new();
    let mut program = Value::Null;
    for id in &reached {
        let package = packages.get(id).ok_or_else(unknown)?;
        let mut component = component(package, &checksums);
        let mut on: Vec<String> = taken.get(id).into_iter().flatten().filter_map(|id| packages.get(id)).map(reference).collect();
        on.sort();
        dependencies.push(json!({"ref": reference(package), "dependsOn": on}));
        if *id == root {
            component["type"] = "application".into();
            program = component;
        } else {
            components.push(component);
        }
    }
    let order = |key: &'static str| move |value: &Value| value[key].as_str().unwrap_or_default().to_owned();
    components.sort_by_key(order("bom-ref"));
    dependencies.sort_by_key(order("ref"));
    let mut properties = vec![json!({"name": "cargo:target", "value": target})];
    if !features.is_empty() {
        properties.push(json!({"name": "cargo:features", "value": features}));
    }
    Ok(json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"lifecycles": [{"phase": "build"}], "component": program, "properties": properties},
        "components": components,
        "dependencies": dependencies,
    }))
}

/// A macro runs in the compiler; what it takes does not get into the program either.
fn is_macro(package: &Value) -> bool {
    let kinds = package["targets"].as_array().into_iter().flatten().filter_map(|target| target["kind"].as_array());
    kinds.flatten().any(|kind| kind == "proc-macro")
}

/// Name and version of what comes from a registry, to its checksum.
fn checksums(lock: &Table) -> BTreeMap<(String, String), String> {
    let packages = lock.get("package").and_then(toml::Value::as_array).into_iter().flatten();
    let entry = |package: &toml::Value| {
        let text = |key: &str| package.get(key).and_then(toml::Value::as_str).map(str::to_owned);
        Some(((text("name")?, text("version")?), text("checksum")?))
    };
    packages.filter_map(entry).collect()
}

/// What stands for a package in the document. Those of the project itself are on no registry.
fn reference(package: &Value) -> String {
    let (name, version) = (package["name"].as_str().unwrap_or_default(), package["version"].as_str().unwrap_or_default());
    // A plus would be read as a space.
    let purl = format!("pkg:cargo/{name}@{}", version.replace('+', "%2B"));
    if package["source"].is_null() { format!("{name}@{version}") } else { purl }
}

fn component(package: &Value, checksums: &BTreeMap<(String, String), String>) -> Value {
    let text = |key: &str| package[key].as_str().unwrap_or_default();
    let mut component = json!({"type": "library", "bom-ref": reference(package), "name": text("name"), "version": text("version")});
    if !package["source"].is_null() {
        component["purl"] = reference(package).into();
    }
    if let Some(checksum) = checksums.get(&(text("name").to_owned(), text("version").to_owned())) {
        component["hashes"] = json!([{"alg": "SHA-256", "content": checksum}]);
    }
    if !text("license").is_empty() {
        // Older manifests have a slash between those that one may choose from.
        component["licenses"] = json!([{"expression": text("license").replace(" / ", " OR ").replace('/', " OR ")}]);
    }
    if text("repository").starts_with("https://") {
        component["externalReferences"] = json!([{"type": "vcs", "url": text("repository")}]);
    }
    component
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn package(name: &str, source: Option<&str>, kind: &str) -> Value {
        json!({"id": name, "name": name, "version": "1.0.0+x", "source": source, "license": "MIT/Apache-2.0",
            "repository": "https://example.org", "targets": [{"kind": [kind]}]})
    }

    fn takes(id: &str, others: &[(&str, Option<&str>)]) -> Value {
        let deps: Vec<Value> = others.iter().map(|(id, kind)| json!({"pkg": id, "dep_kinds": [{"kind": kind}]})).collect();
        json!({"id": id, "deps": deps})
    }

    #[test]
    fn what_runs_in_the_program_is_listed_and_nothing_else() {
        let registry = Some("registry+x");
        let packages = [
            package("comfyd", None, "bin"),
            package("own", None, "lib"),
            package("far", registry, "lib"),
            package("builds", registry, "lib"),
            package("tests", registry, "lib"),
            package("macro", registry, "proc-macro"),
            package("of_macro", registry, "lib"),
            package("nobodys", registry, "lib"),
        ];
        let nodes = [
            takes("comfyd", &[("own", None), ("tests", Some("dev")), ("macro", None)]),
            takes("own", &[("far", None), ("builds", Some("build"))]),
            takes("macro", &[("of_macro", None)]),
            takes("nobodys", &[("far", None)]),
        ];
        let metadata = json!({"packages": packages, "resolve": {"nodes": nodes}});
        let lock = "[[package]]\nname = \"far\"\nversion = \"1.0.0+x\"\nchecksum = \"abc\"\n".parse().unwrap();
        let made = document(&metadata, &lock, "some-target", "").unwrap();
        let refs =
            |list: &Value, key: &str| list.as_array().unwrap().iter().map(|c| c[key].as_str().unwrap().to_owned()).collect::<Vec<_>>();
        assert_eq!(refs(&made["components"], "bom-ref"), ["own@1.0.0+x", "pkg:cargo/far@1.0.0%2Bx"]);
        assert_eq!(made["metadata"]["component"]["bom-ref"], "comfyd@1.0.0+x");
        assert_eq!(made["components"][1]["hashes"][0]["content"], "abc");
        assert_eq!(made["components"][1]["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert_eq!(made["components"][0].get("purl"), None, "what is on no registry has no address there");
        assert_eq!(refs(&made["dependencies"], "ref"), ["comfyd@1.0.0+x", "own@1.0.0+x", "pkg:cargo/far@1.0.0%2Bx"]);
        assert_eq!(made["dependencies"][1]["dependsOn"], json!(["pkg:cargo/far@1.0.0%2Bx"]));
        assert_eq!(made, document(&metadata, &lock, "some-target", "").unwrap());
    }
}

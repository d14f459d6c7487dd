//! The recorded cases: pictures in, a workflow, what the reference saved. Compared by the rules of `conformance/check_cases.py`.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::HashSet;

use common::{Bench, compare, conformance};
use serde_json::{Map, Value as Json};

#[test]
fn all_cases_agree_with_the_reference() {
    let bench = Bench::new();
    let folder = conformance().join("nodes");
    let cases: Map<String, Json> = serde_json::from_slice(&std::fs::read(folder.join("cases.json")).unwrap()).unwrap();
    let expected: HashSet<&str> = cases.values().flat_map(|c| c["expect"].as_array().unwrap()).map(|f| f.as_str().unwrap()).collect();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if (name.ends_with(".png") || name.ends_with(".latent")) && !expected.contains(name.as_str()) {
            std::fs::copy(folder.join(&name), bench.folders.roots().input.join(&name)).unwrap();
        }
    }
    assert_eq!(cases.len(), 151);
    let failed: Vec<String> =
        cases.iter().filter_map(|(name, case)| compare::check(&bench, &folder, case).err().map(|e| format!("{name}: {e}"))).collect();
    assert!(failed.is_empty(), "{} of {} failed:\n{}", failed.len(), cases.len(), failed.join("\n"));
}

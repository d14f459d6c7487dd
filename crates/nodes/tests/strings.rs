//! Texts and regular expressions against real Python.
//!
//! `strings.json` holds `[class, inputs, result]`, recorded with Python 3.11 as
//! `comfy_extras.nodes_string.<class>.execute(**inputs).args[0]`; where that raised, the result is `{"error": "<exception>"}`.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use comfyd_nodes::Limits;
use common::Bench;
use serde_json::{Value as Json, json};

#[test]
fn texts_as_python() {
    let bench = Bench::new();
    let cases: Vec<(String, Json, Json)> = serde_json::from_str(include_str!("strings.json")).unwrap();
    assert!(cases.len() > 200);
    let mut failed = Vec::new();
    for (class, inputs, want) in cases {
        let got = bench.first(&class, &inputs);
        let agrees = match &got {
            Ok(got) => got.to_json() == want,
            Err(_) => want.get("error").is_some(),
        };
        if !agrees {
            failed.push(format!("{class} {inputs}\n    {got:?}, python {want}"));
        }
    }
    assert!(failed.is_empty(), "{} differ:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn a_pattern_that_takes_too_long_fails_the_node() {
    let bench = Bench::new();
    let inputs = json!({"string": "a".repeat(64) + "!", "regex_pattern": r"((a|aa)+)+\1$", "case_insensitive": false, "multiline": false,
        "dotall": false});
    let error = bench.first("RegexMatch", &inputs).unwrap_err().to_string();
    assert!(error.contains("make it simpler"), "{error}");
}

#[test]
fn texts_have_a_bound() {
    let bench = Bench::with(false, Limits { max_text_bytes: 100, ..Limits::default() });
    let long = "x".repeat(60);
    for (class, inputs) in [
        ("StringConcatenate", json!({"string_a": long, "string_b": long, "delimiter": ""})),
        ("StringReplace", json!({"string": "aaa", "find": "a", "replace": long})),
        ("StringReplace", json!({"string": "aaa", "find": "", "replace": long})),
        ("RegexReplace", json!({"string": "aaa", "regex_pattern": "a", "replace": long})),
    ] {
        let error = bench.first(class, &inputs).unwrap_err().to_string();
        assert!(error.contains("limit of 100"), "{class}: {error}");
    }
}

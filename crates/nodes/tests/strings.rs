//! Texts and regular expressions against real Python.
//!
//! `strings.json` holds `[class, inputs, result]`, recorded with Python 3.11 as
//! `comfy_extras.nodes_string.<class>.execute(**inputs).args[0]`; where that raised, the result is `{"error": "<exception>"}`.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use comfyd_node::Error;
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

fn regex(text: &str, pattern: &str) -> Json {
    json!({"string": text, "regex_pattern": pattern, "case_insensitive": false, "multiline": false, "dotall": false,
        "mode": "All Matches", "group_index": 1, "replace": "x"})
}

#[test]
fn patterns_that_try_a_place_once_take_time_in_proportion_to_the_text() {
    let bench = Bench::new();
    let groups = "(a)?".repeat(500) + &"a".repeat(500);
    for (text, pattern, found) in [
        ("a".repeat(200_000), r"a*?b|(?=x)y", false),
        ("a".repeat(200_000), r"(a+)+b", false),
        ("a".repeat(200_000), r".*foo|a{3,}c", false),
        ("a".repeat(700), &groups, true),
        ("b".repeat(100_000), &groups, false),
    ] {
        assert_eq!(bench.first("RegexMatch", &regex(&text, pattern)).unwrap().to_json(), json!(found), "{pattern:.40}");
    }
}

#[test]
fn what_needs_too_much_time_or_memory_fails_the_node() {
    let bench = Bench::new();
    for (text, pattern) in [("ab".repeat(5 << 20), "(?:ab)*"), ("a".into(), "(?:){1000000000}")] {
        let error = bench.first("RegexReplace", &regex(&text, pattern)).unwrap_err().to_string();
        assert!(error.contains("too much memory") && error.contains("make it simpler"), "{error}");
    }
    let patterns = [r"[\w]".repeat(20_000), "a".repeat((1 << 20) + 1), "(".repeat(200) + &")".repeat(200), "(a|b)".repeat(200_000)];
    for pattern in patterns {
        let error = bench.first("RegexReplace", &regex("a", &pattern)).unwrap_err().to_string();
        assert!(error.starts_with("the pattern is not valid"), "{error}");
        assert_eq!(bench.first("RegexMatch", &regex("a", &pattern)).unwrap().to_json(), json!(false));
    }
}

#[test]
fn regular_expressions_can_be_interrupted() {
    for class in ["RegexMatch", "RegexExtract", "RegexReplace"] {
        // Each would take minutes at least.
        for pattern in [r"(?:a+a+)+b", r"(?=.*b)a", r"(?:a|aa)(?:a{1,1000}){2,}b\b|(a)\1c"] {
            let bench = Bench::new();
            let cancel = bench.cancel.clone();
            let stop = std::thread::spawn(move || {
                std::thread::sleep(std::time::Duration::from_millis(50));
                cancel.cancel();
            });
            let stopped = bench.first(class, &regex(&"a".repeat(1 << 20), pattern));
            stop.join().unwrap();
            assert!(matches!(stopped, Err(Error::Interrupted)), "{class} {pattern}: {stopped:?}");
        }
    }
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
        // A megabyte a hundred thousand times.
        ("RegexReplace", json!({"string": "a".repeat(1 << 20), "regex_pattern": "(a+)", "replace": r"\1".repeat(100_000)})),
        ("CaseConverter", json!({"string": "\u{390}".repeat(40), "mode": "UPPERCASE"})),
    ] {
        let error = bench.first(class, &inputs).unwrap_err().to_string();
        assert!(error.contains("limit of 100"), "{class}: {error}");
    }
}

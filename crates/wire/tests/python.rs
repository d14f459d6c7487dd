//! JSON and numbers against what Python was recorded to make of them (conformance/python.json), and against serde_json.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::hint::black_box;

use comfyd_wire::json::{self, MAX_DEPTH};
use comfyd_wire::python;
use proptest::prelude::*;
use serde_json::{Map, Value};

fn recorded(name: &str) -> Vec<Vec<Option<String>>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../conformance/python.json");
    let mut all: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    serde_json::from_value(all[name].take()).unwrap()
}

#[test]
fn json_is_read_as_python_reads_it() {
    let rows = recorded("json");
    assert!(rows.len() > 100);
    for row in rows {
        let text = row[0].as_ref().unwrap();
        let wanted = row[1].as_ref().map(|held| serde_json::from_str::<Value>(held).unwrap());
        assert_eq!(json::read(text.as_bytes()).ok(), wanted, "{text:?}");
    }
}

#[test]
fn numbers_are_read_and_written_as_python_does() {
    let rows = recorded("numbers");
    assert!(rows.len() > 100);
    for row in rows {
        let text = row[0].as_ref().unwrap();
        assert_eq!(python::int_text(text).as_ref(), row[1].as_ref(), "{text:?}");
        assert_eq!(python::int(text).is_some(), row[1].is_some(), "{text:?}");
        assert_eq!(python::float(text).map(python::repr_float).as_ref(), row[2].as_ref(), "{text:?}");
    }
    assert_eq!(python::int("-9_223_372_036_854_775_809"), Some(-9_223_372_036_854_775_809));
    assert_eq!((python::int(&"9".repeat(50)), python::int(&format!("-{}", "9".repeat(50)))), (Some(i128::MAX), Some(i128::MIN)));
}

#[test]
fn errors_tell_what_and_where() {
    let error = |text: &[u8]| json::read(text).unwrap_err().to_string();
    assert_eq!(error(b""), "expected a value at line 1 column 1");
    assert_eq!(error("{\"é\": 1,\n  'b'}".as_bytes()), "expected a name in double quotes at line 2 column 3");
    assert_eq!(error(b"[1 2]"), "expected ',' or ']' at line 1 column 4");
    assert_eq!(error(b"[\"\xff\"]"), "a byte that is not UTF-8 at line 1 column 3");
    assert_eq!(error(b"[\"\xed\xa0\x80\"]"), "a byte that is not UTF-8 at line 1 column 3");
    assert_eq!(error(b"\"a\nb\""), r"a control character in a text (write it as \n, \t or \u0000) at line 1 column 3");
}

fn nested(depth: usize, open: &str, close: &str) -> String {
    format!("{}0{}", open.repeat(depth), close.repeat(depth))
}

/// Everything that is done with values, on a thread with the stack that the server's threads have.
#[test]
fn the_deepest_values_fit_a_small_stack() {
    let work = || {
        for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("[{\"a\":[0,", "]}]")] {
            let levels = open.matches(['[', '{']).count();
            let text = nested(MAX_DEPTH / levels, open, close);
            let value = json::read(text.as_bytes()).unwrap();
            let copy = value.clone();
            assert!(copy == value);
            assert_eq!(value.to_string(), text);
            black_box(serde_json::to_vec_pretty(&value).unwrap());
            black_box(serde_json::value::to_raw_value(&value).unwrap());
            black_box(serde_json::to_value(&value).unwrap());
            let refused = json::read(nested(MAX_DEPTH + 1, "[", "]").as_bytes()).unwrap_err().to_string();
            assert!(refused.contains("flatten"), "{refused}");
        }
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(work).unwrap().join().unwrap();
}

#[test]
fn depth_beyond_the_bound_is_refused_whatever_the_length() {
    for text in [nested(1_000_000, "[", "]"), "[".repeat(1_000_000), "{\"a\":".repeat(1_000_000)] {
        assert!(json::read(text.as_bytes()).is_err());
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 8, |inner| {
        let map = prop::collection::vec((any::<String>(), inner.clone()), 0..8);
        prop_oneof![
            prop::collection::vec(inner, 0..8).prop_map(Value::from),
            map.prop_map(|members| Value::Object(members.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn valid_json_is_read_as_it_was_written(value in any_json()) {
        prop_assert_eq!(json::read(value.to_string().as_bytes()).unwrap(), value.clone());
        prop_assert_eq!(json::read(&serde_json::to_vec_pretty(&value).unwrap()).unwrap(), value);
    }

    /// Texts near JSON: what serde_json takes is read alike, and nothing panics.
    #[test]
    fn any_text_is_read_or_refused(text in "(\\[|\\]|\\{|\\}|\"|,|:|a|0|1|-|\\.|e|\\+| |\n|\\\\|u|d83d|de00|NaN|Infinity|null|é|inputs){0,30}") {
        let read = json::read(text.as_bytes());
        if let Ok(value) = serde_json::from_str::<Value>(&text) {
            // serde_json makes a float of -0, Python a whole number.
            prop_assert!(text.contains("-0") || read == Ok(value));
        } else if let Ok(read) = read {
            // What is held can be written, and read by anyone.
            prop_assert_eq!(serde_json::from_str::<Value>(&read.to_string()).unwrap(), read);
        }
    }

    /// A member's text is told only where others read the same from it, and always where it was written from a value.
    #[test]
    fn texts_say_what_was_read(
        member in "( |\n|\\[|\\]|\\{|\\}|\"a\":|\"\\\\u00e9\"|\"\\\\ud83d\"|,|0|-0|1|9{20}|1\\.5|1e999|NaN|-Infinity|null|inputs){0,12}",
        value in any_json(),
    ) {
        let text = format!("{{\"a\": {member}, \"b\" : {value:#} , \"a\": {member}}}");
        if let Ok((read, texts)) = json::read_with_texts(text.as_bytes()) {
            let told = |key: &str| texts.get(key).map(|place| text[place].to_owned());
            prop_assert_eq!(told("b"), Some(format!("{value:#}")));
            if let Some(text) = told("a") {
                prop_assert_eq!(&serde_json::from_str::<Value>(&text).unwrap(), &read["a"]);
            }
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = json::read(&bytes);
    }
}

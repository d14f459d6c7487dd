//! Values as Python writes them: `json.dumps` and `str`.

use comfyd_node::Value;
use comfyd_wire::python::repr_float;
use serde_json::{Number, Value as Json};

/// `json.dumps(value)`: `", "` and `": "` between items, everything beyond ASCII escaped.
pub(crate) fn dumps(json: &Json) -> String {
    Style { indent: None, ascii: true, most: usize::MAX }.text(json)
}

/// `json.dumps(value, indent=…)`.
pub(crate) fn dumps_indented(json: &Json, indent: usize) -> String {
    Style { indent: Some(indent), ascii: true, most: usize::MAX }.text(json)
}

/// `json.dumps(value, ensure_ascii=False, indent=…)`; on one line with an indent of 0. It ends a little behind so many bytes: what lies deep is
/// indented far.
pub(crate) fn dumps_readable(json: &Json, indent: usize, most: usize) -> String {
    Style { indent: (indent > 0).then_some(indent), ascii: false, most }.text(json)
}

/// A value as PreviewAny shows it: texts as they are, numbers by `str`, the rest by `json.dumps` with an indent, and what JSON cannot hold by
/// its description.
pub(crate) fn shown(value: &Value) -> String {
    match value {
        Value::Null => "None".into(),
        Value::Bool(value) => if *value { "True" } else { "False" }.into(),
        Value::Int(value) => value.to_string(),
        Value::Float(value) => repr_float(*value),
        Value::Text(text) => text.to_string(),
        Value::Json(json) => Style::SHOWN.text(json),
        Value::Object(object) => object.describe(),
        Value::List(values) if values.iter().all(is_plain) => {
            let mut out = String::new();
            Style::SHOWN.list(&mut out, values, 0);
            out
        }
        Value::List(values) => list(values),
        Value::Blocker(_) => "<blocked>".into(),
    }
}

/// Whether JSON can hold it.
fn is_plain(value: &Value) -> bool {
    match value {
        Value::Object(_) | Value::Blocker(_) => false,
        Value::List(values) => values.iter().all(is_plain),
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) | Value::Json(_) => true,
    }
}

/// A list that holds objects: descriptions of its members.
fn list(values: &[Value]) -> String {
    let items = values.iter().map(|value| match value {
        Value::List(values) => list(values),
        Value::Text(text) => dumps(&Json::from(&**text)),
        other => shown(other),
    });
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

fn json_float(value: f64) -> String {
    match (value.is_nan(), value.is_infinite()) {
        (true, _) => "NaN".into(),
        (_, true) => if value > 0.0 { "Infinity" } else { "-Infinity" }.into(),
        (false, false) => repr_float(value),
    }
}

/// How JSON is written.
#[derive(Clone, Copy)]
struct Style {
    /// Spaces per level, each member on its own line.
    indent: Option<usize>,
    /// Everything beyond ASCII is escaped.
    ascii: bool,
    /// Nothing more is written behind so many bytes.
    most: usize,
}

impl Style {
    /// For people.
    const SHOWN: Self = Self { indent: Some(4), ascii: false, most: 256 << 20 };

    fn text(self, json: &Json) -> String {
        let mut out = String::new();
        self.json(&mut out, json, 0);
        out
    }

    fn json(self, out: &mut String, json: &Json, depth: usize) {
        match json {
            Json::Null => out.push_str("null"),
            Json::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Json::Number(number) => out.push_str(&write_number(number)),
            Json::String(text) => self.string(out, text),
            Json::Array(items) => {
                let items = items.iter().map(|item| (None, item));
                self.items(out, ['[', ']'], items, depth, Self::json);
            }
            Json::Object(members) => {
                let items = members.iter().map(|(key, value)| (Some(key), value));
                self.items(out, ['{', '}'], items, depth, Self::json);
            }
        }
    }

    /// A list of what JSON can hold, and of numbers that are none.
    fn list(self, out: &mut String, values: &[Value], depth: usize) {
        let member = |style: Self, out: &mut String, value: &Value, depth: usize| match value {
            Value::List(values) => style.list(out, values, depth),
            Value::Float(value) => out.push_str(&json_float(*value)),
            Value::Int(value) => out.push_str(&value.to_string()),
            other => style.json(out, &other.to_json(), depth),
        };
        self.items(out, ['[', ']'], values.iter().map(|value| (None, value)), depth, member);
    }

    fn items<'a, T: 'a>(
        self,
        out: &mut String,
        brackets: [char; 2],
        items: impl Iterator<Item = (Option<&'a String>, &'a T)>,
        depth: usize,
        write: impl Fn(Self, &mut String, &T, usize),
    ) {
        let new_line = |out: &mut String, depth: usize| {
            if let Some(indent) = self.indent {
                out.push('\n');
                out.extend(std::iter::repeat_n(' ', indent * depth));
            }
        };
        out.push(brackets[0]);
        let mut any = false;
        for (key, value) in items {
            if out.len() > self.most {
                return;
            }
            if any {
                // With an indent, the line break takes the place of the space.
                out.push_str(if self.indent.is_some() { "," } else { ", " });
            }
            any = true;
            new_line(out, depth + 1);
            if let Some(key) = key {
                self.string(out, key);
                out.push_str(": ");
            }
            write(self, out, value, depth + 1);
        }
        if any {
            new_line(out, depth);
        }
        out.push(brackets[1]);
    }

    fn string(self, out: &mut String, text: &str) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                ' '..='~' => out.push(c),
                c if !self.ascii && c >= ' ' => out.push(c),
                c => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
            }
        }
        out.push('"');
    }
}

fn write_number(number: &Number) -> String {
    match (number.is_f64(), number.as_f64()) {
        (true, Some(value)) => json_float(value),
        _ => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    #[test]
    fn dumps_as_python() {
        // python: json.dumps(json.loads(text)) and json.dumps(json.loads(text), indent=2)
        let text = r#"{"a": [1, 2.50, "é😀\n\u007f\u0001/\"", null, true, []], "b": {}, "c": 18446744073709551615, "d": 1e-7}"#;
        let json: Json = serde_json::from_str(text).unwrap();
        let want =
            r#"{"a": [1, 2.5, "\u00e9\ud83d\ude00\n\u007f\u0001/\"", null, true, []], "b": {}, "c": 18446744073709551615, "d": 1e-07}"#;
        assert_eq!(dumps(&json), want);
        let json: Json = serde_json::from_str(r#"{"a": [1, {"b": []}], "c": {}}"#).unwrap();
        assert_eq!(dumps_indented(&json, 2), "{\n  \"a\": [\n    1,\n    {\n      \"b\": []\n    }\n  ],\n  \"c\": {}\n}");
    }

    /// What a picture's metadata may hold is written on an executor's thread.
    #[test]
    fn the_deepest_values_are_dumped_on_a_threads_stack() {
        let work = || {
            let depth = comfyd_wire::json::MAX_DEPTH;
            for (open, close) in [("[", "]"), ("{\"a\": ", "}")] {
                let text = format!("{}0{}", open.repeat(depth), close.repeat(depth));
                let json = comfyd_wire::json::read(text.as_bytes()).unwrap();
                assert_eq!(dumps(&json), text);
                assert!(dumps_indented(&json, 2).len() > depth * depth);
            }
        };
        std::thread::Builder::new().stack_size(2 << 20).spawn(work).unwrap().join().unwrap();
    }

    #[test]
    fn values_are_shown_as_the_reference_shows_them() {
        // python: what PreviewAny.main gives for "x\n", 3, 1.0, True, None, [1, "é"], {"a": 1.5}, [1.0, None, float("inf")]
        assert_eq!(shown(&Value::from("x\n")), "x\n");
        assert_eq!(shown(&Value::from(3i64)), "3");
        assert_eq!(shown(&Value::from(1.0)), "1.0");
        assert_eq!(shown(&Value::from(true)), "True");
        assert_eq!(shown(&Value::Null), "None");
        assert_eq!(shown(&Value::from(&serde_json::json!([1, "é"]))), "[\n    1,\n    \"é\"\n]");
        assert_eq!(shown(&Value::from(&serde_json::json!({"a": 1.5}))), "{\n    \"a\": 1.5\n}");
        let list = Value::list(vec![Value::from(1.0), Value::Null, Value::from(f64::INFINITY)]);
        assert_eq!(shown(&list), "[\n    1.0,\n    null,\n    Infinity\n]");
    }
}

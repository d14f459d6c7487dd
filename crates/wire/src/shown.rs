//! JSON values as Python prints them (`str`, `repr`). Numbers that JSON has no way to write are held as the text that Python prints.

use serde_json::Value as Json;

use crate::python::repr_float;

/// `str(value)`.
pub fn str(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::Array(_) | Json::Object(_) => repr(value),
    }
}

/// `repr(value)`.
pub fn repr(value: &Json) -> String {
    match value {
        Json::Null => "None".into(),
        Json::Bool(true) => "True".into(),
        Json::Bool(false) => "False".into(),
        Json::Number(n) if n.is_f64() => repr_float(n.as_f64().unwrap_or(f64::NAN)),
        Json::Number(n) => n.to_string(),
        Json::String(text) => repr_text(text),
        Json::Array(items) => repr_list(items),
        Json::Object(map) => {
            let pairs: Vec<String> = map.iter().map(|(k, v)| format!("{}: {}", repr_text(k), repr(v))).collect();
            format!("{{{}}}", pairs.join(", "))
        }
    }
}

/// `repr(list)`.
pub fn repr_list(items: &[Json]) -> String {
    let items: Vec<String> = items.iter().map(repr).collect();
    format!("[{}]", items.join(", "))
}

/// `repr(str)`: single quotes unless only single quotes are inside.
pub fn repr_text(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() && u32::from(c) < 0x100 => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

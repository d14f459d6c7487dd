//! How Python prints and converts values: messages of the reference hold values as Python formats them, and widget values are
//! converted by Python's rules before they are checked.

use serde_json::{Number, Value as Json};

/// `str(value)`.
pub(crate) fn str(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::Array(_) | Json::Object(_) => repr(value),
    }
}

/// `repr(value)`.
pub(crate) fn repr(value: &Json) -> String {
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
pub(crate) fn repr_list(items: &[Json]) -> String {
    let items: Vec<String> = items.iter().map(repr).collect();
    format!("[{}]", items.join(", "))
}

/// `repr(float)`: the shortest digits that give the same number, with an exponent below 1e-4 and from 1e16.
pub(crate) fn repr_float(value: f64) -> String {
    if value.is_nan() {
        return "nan".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf".into() } else { "-inf".into() };
    }
    let magnitude = value.abs();
    if magnitude != 0.0 && !(1e-4..1e16).contains(&magnitude) {
        let text = format!("{value:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let exponent: i32 = exponent.parse().unwrap_or(0);
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let text = value.to_string();
    if text.contains('.') { text } else { format!("{text}.0") }
}

/// `repr(str)`: single quotes unless only single quotes are inside.
pub(crate) fn repr_text(text: &str) -> String {
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

/// The name of the value's Python type.
pub(crate) fn type_name(value: &Json) -> &'static str {
    match value {
        Json::Null => "NoneType",
        Json::Bool(_) => "bool",
        Json::Number(n) if n.is_f64() => "float",
        Json::Number(_) => "int",
        Json::String(_) => "str",
        Json::Array(_) => "list",
        Json::Object(_) => "dict",
    }
}

/// `int(value)`; the error is Python's sentence.
pub(crate) fn to_int(value: &Json) -> Result<Json, String> {
    match value {
        Json::Number(n) if n.is_f64() => Ok(int_from_float(n.as_f64().unwrap_or(0.0))),
        Json::Number(_) => Ok(value.clone()),
        Json::Bool(b) => Ok(Json::from(u8::from(*b))),
        Json::String(text) => {
            let digits = plain_digits(text.trim());
            let int = digits.and_then(|d| d.parse::<i128>().ok()).and_then(int_json);
            int.ok_or_else(|| format!("invalid literal for int() with base 10: {}", repr_text(text)))
        }
        Json::Null | Json::Array(_) | Json::Object(_) => {
            Err(format!("int() argument must be a string, a bytes-like object or a real number, not '{}'", type_name(value)))
        }
    }
}

/// `float(value)`; the error is Python's sentence. JSON has no infinite numbers: texts that mean one are refused.
pub(crate) fn to_float(value: &Json) -> Result<Json, String> {
    let float = match value {
        Json::Number(n) => n.as_f64(),
        Json::Bool(b) => Some(f64::from(u8::from(*b))),
        Json::String(text) => plain_digits(text.trim()).and_then(|d| d.parse::<f64>().ok()),
        Json::Null | Json::Array(_) | Json::Object(_) => {
            return Err(format!("float() argument must be a string or a real number, not '{}'", type_name(value)));
        }
    };
    match float.and_then(Number::from_f64) {
        Some(number) => Ok(Json::Number(number)),
        None => Err(format!("could not convert string to float: {}", repr(value))),
    }
}

/// `bool(value)`.
pub(crate) fn truth(value: &Json) -> bool {
    match value {
        Json::Null => false,
        Json::Bool(b) => *b,
        Json::Number(n) => n.as_f64() != Some(0.0),
        Json::String(text) => !text.is_empty(),
        Json::Array(items) => !items.is_empty(),
        Json::Object(map) => !map.is_empty(),
    }
}

/// `a == b`: numbers and booleans compare by value.
pub(crate) fn equal(a: &Json, b: &Json) -> bool {
    match (number(a), number(b)) {
        (Some(a), Some(b)) => a.compare(&b) == Some(std::cmp::Ordering::Equal),
        (None, None) => a == b,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

/// How two numbers compare; `None` when one is no number.
pub(crate) fn compare(a: &Json, b: &Json) -> Option<std::cmp::Ordering> {
    number(a)?.compare(&number(b)?)
}

enum Numeric {
    Int(i128),
    Float(f64),
}

impl Numeric {
    fn compare(&self, other: &Self) -> Option<std::cmp::Ordering> {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(b)),
            (Self::Int(a), Self::Float(b)) => (*a as f64).partial_cmp(b),
            (Self::Float(a), Self::Int(b)) => a.partial_cmp(&(*b as f64)),
            (Self::Float(a), Self::Float(b)) => a.partial_cmp(b),
        }
    }
}

fn number(value: &Json) -> Option<Numeric> {
    match value {
        Json::Bool(b) => Some(Numeric::Int(i128::from(*b))),
        Json::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(i), _) => Some(Numeric::Int(i.into())),
            (None, Some(u)) => Some(Numeric::Int(u.into())),
            (None, None) => n.as_f64().map(Numeric::Float),
        },
        Json::Null | Json::String(_) | Json::Array(_) | Json::Object(_) => None,
    }
}

fn int_from_float(value: f64) -> Json {
    let whole = value.trunc();
    // Beyond 64 bits JSON keeps it as a float: range checks still see how large it is.
    if whole.abs() < 1.8e19 { int_json(whole as i128).unwrap_or(Json::from(whole)) } else { Json::from(whole) }
}

fn int_json(value: i128) -> Option<Json> {
    if let Ok(i) = i64::try_from(value) {
        return Some(Json::from(i));
    }
    u64::try_from(value).ok().map(Json::from)
}

/// The text without Python's digit separators; `None` if they are misplaced.
fn plain_digits(text: &str) -> Option<String> {
    if text.starts_with('_') || text.ends_with('_') || text.contains("__") {
        return None;
    }
    let letters = text.trim_start_matches(['+', '-']).starts_with(|c: char| c.is_alphabetic());
    (!letters).then(|| text.replace('_', ""))
}

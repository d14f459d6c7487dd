//! How Python prints and converts values: messages of the reference hold values as Python formats them, and widget values are
//! converted by Python's rules before they are checked. Numbers that JSON has no way to write are held as the text that Python prints.

use std::cmp::Ordering;

use comfyd_node::{InputKind, Value};
use comfyd_wire::python as numbers;
pub(crate) use comfyd_wire::shown::{repr, repr_list, repr_text, str};
use serde_json::{Number, Value as Json};

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
        Json::Number(n) if n.is_f64() => Ok(int_json(format!("{:.0}", n.as_f64().unwrap_or(0.0).trunc()))),
        Json::Number(_) => Ok(value.clone()),
        Json::Bool(b) => Ok(Json::from(u8::from(*b))),
        Json::String(text) => match (numbers::int_text(text), text.as_str()) {
            (Some(digits), _) => Ok(int_json(digits)),
            // So the reader of JSON gives these numbers; Python has them as floats here.
            (None, "nan") => Err("cannot convert float NaN to integer".into()),
            (None, "inf" | "-inf") => Err("cannot convert float infinity to integer".into()),
            (None, _) => Err(format!("invalid literal for int() with base 10: {}", repr_text(text))),
        },
        Json::Null | Json::Array(_) | Json::Object(_) => {
            Err(format!("int() argument must be a string, a bytes-like object or a real number, not '{}'", type_name(value)))
        }
    }
}

/// `float(value)`; the error is Python's sentence.
pub(crate) fn to_float(value: &Json) -> Result<Json, String> {
    if let Json::Null | Json::Array(_) | Json::Object(_) = value {
        return Err(format!("float() argument must be a string or a real number, not '{}'", type_name(value)));
    }
    let float = numbers::float_of(value).ok_or_else(|| format!("could not convert string to float: {}", repr(value)))?;
    Ok(Number::from_f64(float).map_or_else(|| Json::String(numbers::repr_float(float)), Json::Number))
}

/// A converted number as JSON has it: one that is held as text becomes a float if it is finite.
pub(crate) fn nearest(number: &Json) -> Json {
    let float = number.as_str().and_then(numbers::float).and_then(Number::from_f64);
    float.map_or_else(|| number.clone(), Json::Number)
}

/// The value that a node gets for a converted constant: numbers that are held as texts are numbers again.
pub(crate) fn value(kind: Option<&InputKind>, json: &Json) -> Value {
    let number = match (kind, json) {
        (Some(InputKind::Int), Json::String(text)) => numbers::int(text).map(Value::Int),
        (Some(InputKind::Float), Json::String(text)) => numbers::float(text).map(Value::Float),
        (_, _) => None,
    };
    number.unwrap_or_else(|| Value::from(json))
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
        (Some(a), Some(b)) => a.compare(&b) == Some(Ordering::Equal),
        (None, None) => a == b,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

/// How two numbers compare, those that are held as texts among them; `None` when one is no number or NaN.
pub(crate) fn compare(a: &Json, b: &Json) -> Option<Ordering> {
    held_number(a)?.compare(&held_number(b)?)
}

enum Numeric {
    Int(i128),
    Float(f64),
}

impl Numeric {
    fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(b)),
            (Self::Int(a), Self::Float(b)) => int_to_float(*a, *b),
            (Self::Float(a), Self::Int(b)) => int_to_float(*b, *a).map(Ordering::reverse),
            (Self::Float(a), Self::Float(b)) => a.partial_cmp(b),
        }
    }
}

/// How they compare exactly: as a float the integer could be rounded to the other number.
fn int_to_float(int: i128, float: f64) -> Option<Ordering> {
    let rounded = (int as f64).partial_cmp(&float)?;
    // An integer that is not a float rounds to a whole number, with which it can be compared.
    Some(if rounded == Ordering::Equal { int.cmp(&(float as i128)) } else { rounded })
}

fn held_number(value: &Json) -> Option<Numeric> {
    match value {
        Json::String(text) => numbers::int(text).map(Numeric::Int).or_else(|| numbers::float(text).map(Numeric::Float)),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::Array(_) | Json::Object(_) => number(value),
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

/// A whole number; as text if it has more than 64 bits.
fn int_json(digits: String) -> Json {
    match (digits.parse::<i64>(), digits.parse::<u64>()) {
        (Ok(int), _) => int.into(),
        (Err(_), Ok(int)) => int.into(),
        (Err(_), Err(_)) => digits.into(),
    }
}

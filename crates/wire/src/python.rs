//! Numbers as Python reads them from texts (`int`, `float`) and writes them (`repr`). Knows nothing of JSON.

use serde_json::Value;

/// The zeros of the scripts other than ASCII whose ten digits are decimal digits, in order (Unicode 14, as CPython 3.11 has it).
const ZEROS: [u32; 65] = [
    0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xde6, 0xe50, 0xed0, 0xf20, 0x1040, 0x1090, 0x17e0,
    0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90, 0x1b50, 0x1bb0, 0x1c40, 0x1c50, 0xa620, 0xa8d0, 0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10,
    0x104a0, 0x10d30, 0x11066, 0x110f0, 0x11136, 0x111d0, 0x112f0, 0x11450, 0x114d0, 0x11650, 0x116c0, 0x11730, 0x118e0, 0x11950, 0x11c50,
    0x11d50, 0x11da0, 0x16a60, 0x16ac0, 0x16b50, 0x1d7ce, 0x1d7d8, 0x1d7e2, 0x1d7ec, 0x1d7f6, 0x1e140, 0x1e2f0, 0x1e950, 0x1fbf0,
];

/// `int(text)`; `None` where Python raises an error. Numbers beyond 128 bits become the outermost one of that sign.
pub fn int(text: &str) -> Option<i128> {
    let digits = int_text(text)?;
    let outermost = if digits.starts_with('-') { i128::MIN } else { i128::MAX };
    Some(digits.parse().unwrap_or(outermost))
}

/// `str(int(text))`: any number of digits without leading zeros; `None` where Python raises an error.
pub fn int_text(text: &str) -> Option<String> {
    let text = plain(text)?;
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(&text)),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits = digits.trim_start_matches('0');
    Some(if digits.is_empty() { "0".into() } else { format!("{sign}{digits}") })
}

/// `float(value)` of a JSON value: a number, a text of one, or a truth value; `None` where Python raises an error.
pub fn float_of(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => float(text),
        Value::Bool(value) => Some(f64::from(u8::from(*value))),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// `float(text)`, which may be infinite or NaN; `None` where Python raises an error.
pub fn float(text: &str) -> Option<f64> {
    plain(text)?.parse().ok()
}

/// `repr(value)`: the shortest digits that give the same number, with an exponent below 1e-4 and from 1e16 on.
pub fn repr_float(value: f64) -> String {
    if value.is_nan() {
        return "nan".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.into();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = value.to_string();
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// A number's text in ASCII, without the blanks around it and without the underscores between its digits; `None` if there are others.
fn plain(text: &str) -> Option<String> {
    let ascii: String = text.chars().map(ascii).collect();
    let ascii = ascii.trim_matches([' ', '\t', '\n', '\u{b}', '\u{c}', '\r']);
    let bytes = ascii.as_bytes();
    let is_digit = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_digit);
    let underscores_fit = (0..bytes.len()).all(|at| bytes[at] != b'_' || is_digit(at.checked_sub(1)) && is_digit(Some(at + 1)));
    underscores_fit.then(|| ascii.replace('_', ""))
}

/// Digits of all scripts become ASCII digits, and blanks spaces. Everything else beyond ASCII belongs to no number.
fn ascii(c: char) -> char {
    if c.is_ascii() {
        return c;
    }
    if c.is_whitespace() {
        return ' ';
    }
    let code = u32::from(c);
    let zero = ZEROS[..ZEROS.partition_point(|zero| *zero <= code)].last();
    zero.and_then(|zero| char::from_digit(code - zero, 10)).unwrap_or('?')
}

//! The grammar of attention weights: `(a)` weighs 1.1, `(a:1.3)` weighs 1.3, brackets nest, `\(` and `\)` are plain. Malformed brackets
//! are never an error.

use comfyd_wire::python;

use crate::{Check, Error, Result};

/// A stretch of a prompt with one weight.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    /// The text, without the brackets that gave the weight.
    pub text: String,
    /// The weight.
    pub weight: f64,
}

/// How deep brackets may nest.
const MAX_DEPTH: usize = 500;

// Stand for escaped brackets while brackets are searched.
const CLOSE: &str = "\0\u{1}";
const OPEN: &str = "\0\u{2}";

/// Splits a prompt into stretches of one weight each. Long ones take a while: `check` is asked whether to go on.
pub fn parse_weights(text: &str, check: Check<'_>) -> Result<Vec<Segment>> {
    let escaped = text.replace("\\)", CLOSE).replace("\\(", OPEN);
    let mut segments = Vec::new();
    collect(&escaped, 1.0, 0, &mut segments, check)?;
    for segment in &mut segments {
        segment.text = segment.text.replace(CLOSE, ")").replace(OPEN, "(");
    }
    Ok(segments)
}

fn collect(text: &str, weight: f64, depth: usize, segments: &mut Vec<Segment>, check: Check<'_>) -> Result<()> {
    check()?;
    if depth > MAX_DEPTH {
        return Err(Error::msg(format!("the prompt's brackets are nested more than {MAX_DEPTH} times; escape plain ones as \\( and \\)")));
    }
    for part in split(text) {
        let inner = if part.len() >= 2 { part.strip_prefix('(').and_then(|inner| inner.strip_suffix(')')) } else { None };
        let Some(inner) = inner else {
            segments.push(Segment { text: part.to_owned(), weight });
            continue;
        };
        let explicit = inner.rfind(':').filter(|colon| *colon > 0).and_then(|colon| Some((colon, python::float(&inner[colon + 1..])?)));
        match explicit {
            Some((colon, value)) => collect(&inner[..colon], value, depth + 1, segments, check)?,
            None => collect(inner, weight * 1.1, depth + 1, segments, check)?,
        }
    }
    Ok(())
}

/// Outermost brackets and what stands between them. A bracket that is never closed takes the rest; after one that was never opened, the
/// counting goes below zero, as in the reference.
fn split(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut begin, mut depth) = (0, 0i64);
    for (at, character) in text.bytes().enumerate() {
        match character {
            b'(' => {
                if depth == 0 && begin < at {
                    parts.push(&text[begin..at]);
                    begin = at;
                }
                depth += 1;
            }
            b')' => {
                depth -= 1;
                if depth == 0 {
                    parts.push(&text[begin..=at]);
                    begin = at + 1;
                }
            }
            _ => {}
        }
    }
    if begin < text.len() {
        parts.push(&text[begin..]);
    }
    parts
}

//! The grammar of attention weights: `(a)` weighs 1.1, `(a:1.3)` weighs 1.3, brackets nest, `\(` and `\)` are plain. Malformed brackets
//! are never an error.

use comfyd_wire::python;

use crate::{Error, Result};

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

/// Splits a prompt into stretches of one weight each.
pub fn parse_weights(text: &str) -> Result<Vec<Segment>> {
    let escaped = text.replace("\\)", CLOSE).replace("\\(", OPEN);
    let mut segments = Vec::new();
    collect(&escaped, 1.0, 0, &mut segments)?;
    for segment in &mut segments {
        segment.text = segment.text.replace(CLOSE, ")").replace(OPEN, "(");
    }
    Ok(segments)
}

fn collect(text: &str, weight: f64, depth: usize, segments: &mut Vec<Segment>) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(Error::msg(format!("the prompt's brackets are nested more than {MAX_DEPTH} times; escape plain ones as \\( and \\)")));
    }
    for part in split(text) {
        let inner = if part.len() >= 2 { part.strip_prefix('(').and_then(|inner| inner.strip_suffix(')')) } else { None };
        let Some(inner) = inner else {
            segments.push(Segment { text: part, weight });
            continue;
        };
        let explicit = inner.rfind(':').filter(|colon| *colon > 0).and_then(|colon| Some((colon, python::float(&inner[colon + 1..])?)));
        match explicit {
            Some((colon, value)) => collect(&inner[..colon], value, depth + 1, segments)?,
            None => collect(inner, weight * 1.1, depth + 1, segments)?,
        }
    }
    Ok(())
}

/// Outermost brackets and what stands between them. A bracket that is never closed takes the rest; after one that was never opened, the
/// counting goes below zero, as in the reference.
fn split(text: &str) -> Vec<String> {
    let mut parts = Vec::new();
    let mut current = String::new();
    let mut depth = 0i64;
    for character in text.chars() {
        match character {
            '(' => {
                if depth == 0 && !current.is_empty() {
                    parts.push(std::mem::take(&mut current));
                }
                current.push('(');
                depth += 1;
            }
            ')' => {
                depth -= 1;
                current.push(')');
                if depth == 0 {
                    parts.push(std::mem::take(&mut current));
                }
            }
            _ => current.push(character),
        }
    }
    if !current.is_empty() {
        parts.push(current);
    }
    parts
}

//! JSON as ComfyUI's Python reads it (`json.loads`), which is more than the standard allows: `NaN` and the infinities, numbers of any size,
//! halves of surrogate pairs. Knows one thing about what it reads: where a graph has its nodes' inputs.
//!
//! What JSON cannot hold does not leave the reader, since browsers get it back. A number that does not fit becomes null, as
//! `JSON.stringify` has it (a whole one loses digits, as in JavaScript); below a node's `inputs`, where classes convert what they get,
//! it becomes the text that Python would print, which `int`, `float` and `str` turn into what they make of the number. A lone surrogate
//! becomes U+FFFD.

use std::ops::Range;

use serde_json::{Map, Number, Value};

use crate::python;

/// Arrays and objects in each other. The reader needs no stack for them, but to copy, to write and to drop a value does: so many fit a
/// thread of 2 MiB in a debug build.
pub const MAX_DEPTH: usize = 1_024;

/// Why a text is not read, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} at line {line} column {column}")]
pub struct Error {
    /// It is JSON, but over a bound.
    too_deep: bool,
    what: String,
    line: usize,
    column: usize,
}

impl Error {
    /// Whether the text may well be JSON, but nests too deep.
    pub fn is_too_deep(&self) -> bool {
        self.too_deep
    }
}

/// Reads a JSON text in UTF-8.
pub fn read(bytes: &[u8]) -> Result<Value, Error> {
    reader(bytes)?.document().map(|(value, _)| value)
}

/// How much memory [`read`] takes at most for a text: its texts, and its values, for which lists have twice the place that they need
/// while they grow, and four places when they begin.
pub fn bytes_when_read(text: &[u8]) -> usize {
    const VALUE: usize = size_of::<Value>();
    const MEMBER: usize = size_of::<(String, Value)>() + 2 * size_of::<usize>();
    let (mut bytes, mut quoted, mut escaped) = (2 * text.len(), false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b',' => bytes += 2 * VALUE,
            b':' => bytes += 2 * (MEMBER - VALUE),
            b'[' => bytes += 4 * VALUE,
            b'{' => bytes += 4 * MEMBER,
            _ => {}
        }
    }
    bytes
}

/// Where the members of an object that was read stand, in their order; not where those do whose text says something else to other readers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Texts(Vec<(String, Option<Range<usize>>)>);

impl Texts {
    /// The bytes that stand for exactly what was read of a member.
    pub fn get(&self, key: &str) -> Option<Range<usize>> {
        self.0.iter().rfind(|(known, _)| known == key)?.1.clone()
    }
}

/// Reads a JSON text in UTF-8 and tells, where it is an object, where its members stand: what nobody changes need not be written again.
pub fn read_with_texts(bytes: &[u8]) -> Result<(Value, Texts), Error> {
    let mut reader = reader(bytes)?;
    reader.texts = Some(Texts::default());
    reader.document()
}

fn reader(bytes: &[u8]) -> Result<Reader<'_>, Error> {
    std::str::from_utf8(bytes).map(|text| Reader::new(text, 0)).map_err(|error| {
        let valid = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
        Reader::new(&valid, valid.len()).error("a byte that is not UTF-8")
    })
}

/// An array or object whose end was not read yet.
enum Open {
    Array(Vec<Value>),
    /// Its members so far, and the key of the one that is being read.
    Object(Map<String, Value>, String),
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
    open: Vec<Open>,
    /// The texts of the outermost object's members, if they are wanted.
    texts: Option<Texts>,
    /// Where the value of the outermost object's current member begins.
    member: usize,
    /// Whether what was read of that value is what its text says to any reader.
    exact: bool,
}

impl<'t> Reader<'t> {
    fn new(text: &'t str, at: usize) -> Self {
        Self { text, at, open: Vec::new(), texts: None, member: 0, exact: true }
    }

    fn document(mut self) -> Result<(Value, Texts), Error> {
        loop {
            if let Some(value) = self.value()?
                && let Some(document) = self.put(value)?
            {
                return Ok((document, self.texts.unwrap_or_default()));
            }
        }
    }

    /// Reads a value; `None` if it is an array or object with something in it, which then is open.
    fn value(&mut self) -> Result<Option<Value>, Error> {
        let value = match self.peek_solid() {
            Some(b'{') => {
                self.at += 1;
                if self.peek_solid() != Some(b'}') {
                    let key = self.key()?;
                    return self.enter(Open::Object(Map::new(), key));
                }
                self.at += 1;
                Value::Object(Map::new())
            }
            Some(b'[') => {
                self.at += 1;
                if self.peek_solid() != Some(b']') {
                    return self.enter(Open::Array(Vec::new()));
                }
                self.at += 1;
                Value::Array(Vec::new())
            }
            Some(b'"') => Value::String(self.string()?),
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(_) | None => self.word()?,
        };
        Ok(Some(value))
    }

    fn enter(&mut self, open: Open) -> Result<Option<Value>, Error> {
        if self.open.len() == MAX_DEPTH {
            let error = self.error(&format!("more than {MAX_DEPTH} arrays and objects in each other (flatten them)"));
            return Err(Error { too_deep: true, ..error });
        }
        if self.open.is_empty() {
            (self.member, self.exact) = (self.at, true);
        }
        self.open.push(open);
        Ok(None)
    }

    /// Puts a value where it belongs and closes what ends behind it; the document if that was the last.
    fn put(&mut self, mut value: Value) -> Result<Option<Value>, Error> {
        loop {
            let behind = self.at;
            let next = self.peek_solid();
            let outermost = self.open.len() == 1;
            let end = match self.open.last_mut() {
                None if next.is_none() => return Ok(Some(value)),
                None => return Err(self.error("expected the end")),
                Some(Open::Array(items)) => {
                    items.push(value);
                    b']'
                }
                Some(Open::Object(members, key)) => {
                    let key = std::mem::take(key);
                    if let Some(texts) = self.texts.as_mut().filter(|_| outermost) {
                        let length = self.text[self.member..behind].trim_ascii_start().len();
                        texts.0.push((key.clone(), self.exact.then_some(behind - length..behind)));
                    }
                    self.exact &= members.insert(key, value).is_none();
                    b'}'
                }
            };
            if next == Some(b',') {
                self.at += 1;
                if end == b'}' {
                    let next_key = self.key()?;
                    if outermost {
                        (self.member, self.exact) = (self.at, true);
                    }
                    if let Some(Open::Object(_, key)) = self.open.last_mut() {
                        *key = next_key;
                    }
                }
                return Ok(None);
            }
            if next != Some(end) {
                return Err(self.error(if end == b']' { "expected ',' or ']'" } else { "expected ',' or '}'" }));
            }
            self.at += 1;
            value = match self.open.pop() {
                Some(Open::Array(items)) => Value::Array(items),
                Some(Open::Object(members, _)) => Value::Object(members),
                None => Value::Null,
            };
        }
    }

    /// A member's name and the colon.
    fn key(&mut self) -> Result<String, Error> {
        if self.peek_solid() != Some(b'"') {
            return Err(self.error("expected a name in double quotes"));
        }
        let key = self.string()?;
        if self.peek_solid() != Some(b':') {
            return Err(self.error("expected ':'"));
        }
        self.at += 1;
        Ok(key)
    }

    fn word(&mut self) -> Result<Value, Error> {
        let words = [("null", Value::Null), ("true", Value::Bool(true)), ("false", Value::Bool(false))];
        for (word, value) in words {
            if self.take(word) {
                return Ok(value);
            }
        }
        if self.take("NaN") {
            return Ok(self.not_finite(f64::NAN));
        }
        if self.take("Infinity") {
            return Ok(self.not_finite(f64::INFINITY));
        }
        Err(self.error("expected a value"))
    }

    fn number(&mut self) -> Result<Value, Error> {
        let start = self.at;
        if self.take("-") && self.take("Infinity") {
            return Ok(self.not_finite(f64::NEG_INFINITY));
        }
        if !self.take("0") {
            self.digits()?;
        }
        let mut whole = true;
        if self.take(".") {
            whole = false;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            whole = false;
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        let text = &self.text[start..self.at];
        if whole && let Ok(int) = text.parse::<i64>() {
            // Others read a float of it.
            self.exact &= text != "-0";
            return Ok(int.into());
        }
        if whole && let Ok(int) = text.parse::<u64>() {
            return Ok(int.into());
        }
        self.exact &= !whole;
        if whole && self.in_inputs() {
            return Ok(text.into());
        }
        // The text is a number's: never NaN in place of an error.
        let float = text.parse().unwrap_or(f64::NAN);
        Ok(Number::from_f64(float).map_or_else(|| self.not_finite(float), Value::Number))
    }

    fn digits(&mut self) -> Result<(), Error> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at == start { Err(self.error("expected a digit")) } else { Ok(()) }
    }

    fn not_finite(&mut self, number: f64) -> Value {
        self.exact = false;
        if self.in_inputs() { python::repr_float(number).into() } else { Value::Null }
    }

    /// Whether the value being read lies below the inputs of a graph's node: in `{id: {"inputs"`, or in `{"prompt": {id: {"inputs"`.
    fn in_inputs(&self) -> bool {
        let key = |depth: usize| match self.open.get(depth) {
            Some(Open::Object(_, key)) => key.as_str(),
            Some(Open::Array(_)) | None => "",
        };
        key(1) == "inputs" || key(0) == "prompt" && key(2) == "inputs"
    }

    /// A text; at its opening quote.
    fn string(&mut self) -> Result<String, Error> {
        self.at += 1;
        let mut out = String::new();
        loop {
            let start = self.at;
            let rest = &self.text.as_bytes()[start..];
            let stop = rest.iter().position(|b| matches!(b, b'"' | b'\\' | ..b' ')).unwrap_or(rest.len());
            self.at += stop;
            let part = &self.text[start..self.at];
            match rest.get(stop) {
                Some(b'"') => {
                    self.at += 1;
                    // The common case takes exactly the memory that it needs.
                    return Ok(if out.is_empty() { part.to_owned() } else { out + part });
                }
                Some(b'\\') => {
                    out.push_str(part);
                    out.push(self.escape()?);
                }
                Some(_) => return Err(self.error("a control character in a text (write it as \\n, \\t or \\u0000)")),
                None => return Err(self.error("expected a quotation mark at the end of a text")),
            }
        }
    }

    /// What a backslash and the characters behind it stand for.
    fn escape(&mut self) -> Result<char, Error> {
        self.at += 1;
        let c = match self.peek() {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                let unit = self.unit()?;
                return self.character(unit);
            }
            Some(_) | None => return Err(self.error("expected one of \"\\/bfnrtu behind the backslash")),
        };
        self.at += 1;
        Ok(c)
    }

    /// The character of a UTF-16 unit and, if they belong together, of the one that follows.
    fn character(&mut self, unit: u32) -> Result<char, Error> {
        let behind = self.at;
        if (0xd800..0xdc00).contains(&unit) && self.take("\\u") {
            let low = self.unit()?;
            if (0xdc00..0xe000).contains(&low) {
                let code = 0x1_0000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
                return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            self.at = behind;
        }
        let character = char::from_u32(unit);
        self.exact &= character.is_some();
        Ok(character.unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    /// Four hexadecimal digits.
    fn unit(&mut self) -> Result<u32, Error> {
        let mut unit = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|b| char::from(b).to_digit(16));
            unit = unit << 4 | digit.ok_or_else(|| self.error("expected four hexadecimal digits behind \\u"))?;
            self.at += 1;
        }
        Ok(unit)
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// The next byte that is no blank.
    fn peek_solid(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
        self.peek()
    }

    fn take(&mut self, word: &str) -> bool {
        let there = self.text.as_bytes()[self.at..].starts_with(word.as_bytes());
        if there {
            self.at += word.len();
        }
        there
    }

    fn error(&self, what: &str) -> Error {
        let before = self.text.get(..self.at).unwrap_or(self.text);
        let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or(before).chars().count() + 1;
        Error { too_deep: false, what: what.into(), line, column }
    }
}

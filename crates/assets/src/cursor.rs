//! Where a page of a list ends, as a text that clients hand back. Only this server reads it.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::order::{Key, Order, Sort};

/// Longest text.
const MAX_BYTES: usize = 8192;
/// Longest value and longest id in it, in characters.
const MAX_VALUE: usize = 512;
const MAX_ID: usize = 128;
/// Latest time, in microseconds: the end of the year 9999.
const MAX_TIME: i64 = 253_402_300_799_999_999;
/// Earliest time: the begin of the year 1.
const MIN_TIME: i64 = -62_135_596_800_000_000;

/// The last asset of a page: by what it was sorted, and its id.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Cursor {
    pub key: Key,
    pub id: String,
}

/// The text of a cursor. It holds for the same order only.
pub(crate) fn write(cursor: &Cursor, sort: Sort, order: Order) -> String {
    let value = match &cursor.key {
        Key::Text(text) => text.clone(),
        Key::Number(number) => number.to_string(),
    };
    URL_SAFE_NO_PAD.encode(json!({"s": sort.name(), "v": value, "id": cursor.id, "o": order.name()}).to_string())
}

/// Reads a cursor that was made for this order.
pub(crate) fn read(text: &str, sort: Sort, order: Order) -> Result<Cursor> {
    let wrong = |why: &str| Error::Cursor(format!("the cursor cannot be used: {why}"));
    if !sort.has_cursor() {
        return Err(wrong("this order is read by 'offset' only"));
    }
    if text.len() > MAX_BYTES {
        return Err(wrong("it is too long"));
    }
    let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|_| wrong("it is not one of this server's"))?;
    let read = comfyd_wire::json::read(&bytes).map_err(|_| wrong("it is not one of this server's"))?;
    let field = |name: &str| read.get(name).and_then(Value::as_str).ok_or_else(|| wrong("it is not one of this server's"));
    let (sorted, value, id, ordered) = (field("s")?, field("v")?, field("id")?, field("o")?);
    if id.is_empty() || id.chars().count() > MAX_ID || value.chars().count() > MAX_VALUE {
        return Err(wrong("its value or id is of no possible length"));
    }
    if (sorted, ordered) != (sort.name(), order.name()) {
        return Err(wrong("it was made for another order"));
    }
    let key = match sort {
        Sort::Name => Key::Text(value.to_owned()),
        Sort::Created | Sort::Updated | Sort::Size | Sort::Accessed => {
            let number: i64 = value.parse().map_err(|_| wrong("its value is no number"))?;
            if sort != Sort::Size && !(MIN_TIME..=MAX_TIME).contains(&number) {
                return Err(wrong("its time is out of range"));
            }
            Key::Number(number)
        }
    };
    Ok(Cursor { key, id: id.to_owned() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn made(value: Value) -> String {
        URL_SAFE_NO_PAD.encode(value.to_string())
    }

    #[test]
    fn what_was_written_is_read_and_holds_for_its_order_only() {
        for (sort, key) in [
            (Sort::Created, Key::Number(1_716_209_600_123_456)),
            (Sort::Size, Key::Number(0)),
            (Sort::Name, Key::Text("\u{1}ä𝄞\"".repeat(128))),
        ] {
            let cursor = Cursor { key, id: "x".repeat(128) };
            let text = write(&cursor, sort, Order::Descending);
            assert!(text.len() <= MAX_BYTES && !text.contains('='));
            assert_eq!(read(&text, sort, Order::Descending).unwrap(), cursor);
            assert!(read(&text, sort, Order::Ascending).is_err());
            assert!(read(&text, Sort::Updated, Order::Descending).is_err());
        }
    }

    #[test]
    fn what_nobody_wrote_is_refused() {
        let field = |name: &str, value: Value| {
            let mut whole = json!({"s": "created_at", "v": "5", "id": "a", "o": "asc"});
            whole[name] = value;
            made(whole)
        };
        let mut texts = vec!["not-a-real-cursor".to_owned(), "*".to_owned(), made(json!([])), "A".repeat(MAX_BYTES + 1)];
        for (name, value) in [
            ("s", json!("owner")),
            ("s", json!("name")),
            ("v", json!(5)),
            ("v", json!("five")),
            ("v", json!("999999999999999999999")),
            ("v", json!((MAX_TIME + 1).to_string())),
            ("v", json!("1".repeat(MAX_VALUE + 1))),
            ("id", json!("")),
            ("id", json!("x".repeat(MAX_ID + 1))),
            ("o", json!("sideways")),
            ("o", Value::Null),
        ] {
            texts.push(field(name, value));
        }
        for text in texts {
            assert!(matches!(read(&text, Sort::Created, Order::Ascending), Err(Error::Cursor(_))), "{text}");
        }
        assert!(read(&field("v", json!("5")), Sort::Created, Order::Ascending).is_ok());
        assert!(
            read(
                &write(&Cursor { key: Key::Number(1), id: "a".into() }, Sort::Accessed, Order::Ascending),
                Sort::Accessed,
                Order::Ascending
            )
            .is_err()
        );
    }
}

//! What the metadata of an asset says, value by value, as filters find it.

use rusqlite::types::Value as Sql;
use rusqlite::{Connection, params};
use serde_json::{Map, Value};

use crate::asset::canonical;

/// What is found of a text, in characters.
pub(crate) const MAX_TEXT: usize = 2048;
/// Most values of one asset that are found.
const MAX_ROWS: usize = 2000;

/// Writes anew what filters find of an asset. What users say goes before what the file says.
pub(crate) fn index(
    connection: &Connection,
    seq: i64,
    system: Option<&Map<String, Value>>,
    user: &Map<String, Value>,
) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM meta WHERE asset = ?")?.execute([seq])?;
    let mut insert = connection.prepare_cached("INSERT INTO meta (asset, key, ordinal, kind, value) VALUES (?, ?, ?, ?, ?)")?;
    let hidden = system.into_iter().flatten().filter(|(key, _)| !user.contains_key(*key));
    let mut left = MAX_ROWS;
    for (key, value) in hidden.chain(user) {
        let each = match value {
            Value::Array(each) => &each[..],
            one => std::slice::from_ref(one),
        };
        let plain = each.iter().all(|value| !value.is_array() && !value.is_object());
        for (ordinal, value) in each.iter().enumerate() {
            let Some((kind, value)) = row(value, plain) else { continue };
            let Some(fewer) = left.checked_sub(1) else { return Ok(()) };
            left = fewer;
            insert.execute(params![seq, key, ordinal as i64, kind, value])?;
        }
    }
    Ok(())
}

/// The kind of a value, and itself. In a list that holds more than plain values, all are JSON.
fn row(value: &Value, plain: bool) -> Option<(&'static str, Sql)> {
    match value {
        Value::Null => None,
        value if !plain => Some(("json", Sql::Text(canonical(value)))),
        Value::Bool(flag) => Some(("flag", Sql::Integer((*flag).into()))),
        Value::Number(number) => Some(("number", Sql::Real(number.as_f64()?))),
        Value::String(text) => Some(("text", Sql::Text(text.chars().take(MAX_TEXT).collect()))),
        Value::Array(_) | Value::Object(_) => Some(("json", Sql::Text(canonical(value)))),
    }
}

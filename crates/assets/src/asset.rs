//! An asset as it is read from the database, who may see one, and what may be said of one.

use std::path::PathBuf;
use std::sync::Arc;

use rusqlite::types::ToSql;
use rusqlite::{Connection, Row, params_from_iter};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Most tags that one asset may have.
pub const MAX_TAGS: usize = 256;
/// Longest tag, in bytes.
pub const MAX_TAG_BYTES: usize = 512;
/// Longest name, in characters.
pub const MAX_NAME: usize = 512;
/// Longest metadata, as JSON in bytes.
pub const MAX_METADATA_BYTES: usize = 64 << 10;
/// Longest media type, in bytes.
const MAX_MIME_BYTES: usize = 255;

/// An asset: a file, or a name for content that is in another one.
#[derive(Debug, Clone, PartialEq)]
pub struct Asset {
    /// Its id, a UUID.
    pub id: String,
    /// What it is called.
    pub name: String,
    /// Its own file.
    pub path: Option<PathBuf>,
    /// What loaders call it.
    pub loader_path: Option<String>,
    /// `blake3:` and 64 digits, once its bytes were read.
    pub hash: Option<String>,
    /// Bytes.
    pub size: u64,
    /// Media type.
    pub mime: Option<String>,
    /// In order.
    pub tags: Vec<String>,
    /// The asset that shows what it is.
    pub preview_id: Option<String>,
    /// That one's file, unless it was deleted.
    pub preview_path: Option<PathBuf>,
    /// What users say of it.
    pub user_metadata: Map<String, Value>,
    /// What its file says.
    pub system_metadata: Option<Map<String, Value>>,
    /// The prompt that made it.
    pub job: Option<String>,
    /// Microseconds since 1970.
    pub created: i64,
    /// When something that was said of it changed.
    pub updated: i64,
    /// When its content was fetched last.
    pub accessed: i64,
}

/// The assets that a statement finds.
pub(crate) fn select(connection: &Connection, sql: &str, values: &[Box<dyn ToSql>]) -> Result<Vec<Asset>> {
    let mut select = connection.prepare_cached(sql)?;
    let found = select.query_map(params_from_iter(values), |row| Asset::read(connection, row))?.collect::<rusqlite::Result<_>>()?;
    Ok(found)
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Viewer {
    /// Whose what it makes is; empty: nobody's.
    pub owner: Arc<str>,
    /// What it gets to see besides its own.
    pub sees: Sees,
}

/// What somebody gets to see besides his own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sees {
    /// Everything.
    All,
    /// What is nobody's.
    Unowned,
    /// Of what is nobody's the inputs and models, without changing them.
    Shared,
}

impl Viewer {
    /// Nobody in particular, who sees everything.
    pub fn all() -> Self {
        Self { owner: Arc::default(), sees: Sees::All }
    }

    /// A condition on the table `a`, and its values.
    pub(crate) fn condition(&self, values: &mut Vec<Box<dyn ToSql>>) -> &'static str {
        if self.sees != Sees::All {
            values.push(Box::new(self.owner.to_string()));
        }
        match self.sees {
            Sees::All => "1",
            Sees::Unowned => "a.owner IN ('', ?)",
            Sees::Shared => "(a.owner = ? OR (a.owner = '' AND a.root IN ('input', 'models')))",
        }
    }

    pub(crate) fn may_see(&self, owner: &str, root: &str) -> bool {
        match self.sees {
            Sees::All => true,
            Sees::Unowned => owner.is_empty() || *owner == *self.owner,
            Sees::Shared => *owner == *self.owner || (owner.is_empty() && matches!(root, "input" | "models")),
        }
    }

    pub(crate) fn may_change(&self, owner: &str) -> bool {
        self.sees != Sees::Shared || *owner == *self.owner
    }
}

/// What is read of an asset, from `a`, its content `c` and its preview `p`.
pub(crate) const COLUMNS: &str = "a.seq, a.id, a.name, a.path, a.loader_path, c.hash, c.size, c.mime, a.preview, p.path, a.user_metadata, \
    a.system_metadata, a.job, a.created, a.updated, a.accessed";
/// Where it is read.
pub(crate) const TABLES: &str = "assets a JOIN contents c ON c.id = a.content LEFT JOIN assets p ON p.id = a.preview AND p.deleted IS NULL";

impl Asset {
    /// Reads a row of [`COLUMNS`], and its tags.
    pub(crate) fn read(connection: &Connection, row: &Row<'_>) -> rusqlite::Result<Self> {
        let object = |text: Option<String>| match comfyd_wire::json::read(text?.as_bytes()) {
            Ok(Value::Object(object)) => Some(object),
            Ok(_) | Err(_) => None,
        };
        Ok(Self {
            id: row.get(1)?,
            name: row.get(2)?,
            path: row.get::<_, Option<String>>(3)?.map(PathBuf::from),
            loader_path: row.get(4)?,
            hash: row.get(5)?,
            size: row.get::<_, i64>(6)?.unsigned_abs(),
            mime: row.get(7)?,
            tags: tags_of(connection, row.get(0)?)?,
            preview_id: row.get(8)?,
            preview_path: row.get::<_, Option<String>>(9)?.map(PathBuf::from),
            user_metadata: object(row.get(10)?).unwrap_or_default(),
            system_metadata: object(row.get(11)?),
            job: row.get(12)?,
            created: row.get(13)?,
            updated: row.get(14)?,
            accessed: row.get(15)?,
        })
    }
}

/// An asset's tags, in order.
pub(crate) fn tags_of(connection: &Connection, seq: i64) -> rusqlite::Result<Vec<String>> {
    connection.prepare_cached("SELECT tag FROM tags WHERE asset = ? ORDER BY tag")?.query_map([seq], |row| row.get(0))?.collect()
}

/// Tags without white space around them, each once, in their order.
pub fn tidy_tags<T: AsRef<str>>(tags: impl IntoIterator<Item = T>) -> Vec<String> {
    let mut tidy: Vec<String> = Vec::new();
    for tag in tags {
        let tag = tag.as_ref().trim();
        if !tag.is_empty() && !tidy.iter().any(|known| known == tag) {
            tidy.push(tag.to_owned());
        }
    }
    tidy
}

/// Fails if there are too many tags, or one is too long.
pub(crate) fn check_tags(tags: &[String]) -> Result<()> {
    if tags.len() > MAX_TAGS {
        return Err(Error::Invalid(format!("{} tags are too many: an asset may have {MAX_TAGS}", tags.len())));
    }
    match tags.iter().find(|tag| tag.len() > MAX_TAG_BYTES || tag.contains('\0')) {
        Some(_) => Err(Error::Invalid(format!("a tag cannot be used: it may have {MAX_TAG_BYTES} bytes and no zeros"))),
        None => Ok(()),
    }
}

/// Fails if a name cannot be one.
pub(crate) fn check_name(name: &str) -> Result<()> {
    if name.is_empty() || name.chars().count() > MAX_NAME || name.contains('\0') {
        return Err(Error::Invalid(format!("the name cannot be used: it may have 1 to {MAX_NAME} characters and no zeros")));
    }
    Ok(())
}

/// Fails if a media type cannot be one.
pub(crate) fn check_mime(mime: &str) -> Result<()> {
    if mime.len() > MAX_MIME_BYTES || !mime.contains('/') || !mime.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
        return Err(Error::Invalid(format!(
            "the media type cannot be used: write one such as image/png, in at most {MAX_MIME_BYTES} bytes"
        )));
    }
    Ok(())
}

/// Metadata as text. Fails if it is too long.
pub(crate) fn metadata_text(metadata: &Map<String, Value>) -> Result<String> {
    let text = serde_json::to_string(metadata).map_err(|error| Error::Invalid(format!("the metadata cannot be kept: {error}")))?;
    if text.len() > MAX_METADATA_BYTES {
        return Err(Error::Invalid(format!("the metadata takes {} bytes of the {MAX_METADATA_BYTES} that it may: say less", text.len())));
    }
    Ok(text)
}

/// The hash that a client writes, as it is kept.
pub fn canonical_hash(text: &str) -> Option<String> {
    let text = text.trim().to_lowercase();
    let digits = text.strip_prefix("blake3:")?;
    (digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(text)
}

/// A JSON value with its keys in order, so that equal ones are equal texts.
pub(crate) fn canonical(value: &Value) -> String {
    let mut value = value.clone();
    value.sort_all_objects();
    value.to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn tags_are_trimmed_and_kept_once_in_their_case() {
        assert_eq!(tidy_tags([" a ", "B", "a", "", "  ", "b"]), ["a", "B", "b"]);
        assert!(check_tags(&["x".repeat(MAX_TAG_BYTES)]).is_ok());
        assert!(check_tags(&["x".repeat(MAX_TAG_BYTES + 1)]).is_err());
        assert!(check_tags(&vec!["x".to_owned(); MAX_TAGS + 1]).is_err());
    }

    #[test]
    fn hashes_have_one_form() {
        let digits = "0aF".repeat(21) + "0";
        assert_eq!(canonical_hash(&format!(" BLAKE3:{digits} ")).unwrap(), format!("blake3:{}", digits.to_lowercase()));
        for wrong in ["", "blake3:", "blake3:00", &format!("sha256:{digits}"), &format!("blake3:{}g", &digits[1..])] {
            assert_eq!(canonical_hash(wrong), None, "{wrong}");
        }
    }
}

//! The database of assets as its users have it: what is known of one asset, and what changes it. Whose files may be written is decided
//! before.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use comfyd_folders::Folders;
use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::asset::{Asset, COLUMNS, TABLES, Viewer, check_mime, check_name, check_tags, metadata_text, select, tags_of, tidy_tags};
use crate::error::{Error, Result};
use crate::facts::{self, Stamp};
use crate::place::Place;
use crate::time::now_us;
use crate::{database, meta};

/// Most assets that are kept.
const MAX_ASSETS: i64 = 2_000_000;
/// From so many names of tags on those that nothing uses are forgotten.
const MAX_TAG_NAMES: i64 = 20_000;
/// The level of an asset of which only the file's size and time are known.
pub(crate) const LEVEL_STUB: i64 = 0;
/// Of one whose file was looked into.
pub(crate) const LEVEL_FACTS: i64 = 1;
/// Of one whose bytes were read.
pub(crate) const LEVEL_HASHED: i64 = 2;

/// The tag of content of which no file is left.
pub(crate) const MISSING: &str = "missing";

/// The database.
pub struct Store {
    write: Mutex<Connection>,
    read: Mutex<Connection>,
    pub(crate) folders: Arc<Folders>,
    /// How many assets there are, those that were deleted included.
    count: AtomicI64,
}

/// What is said of a new asset.
#[derive(Debug, Clone, Default)]
pub struct New {
    /// What it is called.
    pub name: String,
    /// Labels.
    pub tags: Vec<String>,
    /// What a user says of it.
    pub metadata: Map<String, Value>,
    /// Media type; `None`: what its name stands for.
    pub mime: Option<String>,
    /// The asset that shows what it is.
    pub preview: Option<String>,
    /// The prompt that made it.
    pub job: Option<String>,
}

/// What is to be changed of an asset.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// What it is called.
    pub name: Option<String>,
    /// What users say of it, in place of what they said.
    pub metadata: Option<Map<String, Value>>,
    /// The asset that shows what it is.
    pub preview: Option<String>,
}

/// What became of tags that were to be added or removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retagged {
    /// Those that were added, or removed.
    pub done: Vec<String>,
    /// Those that were there already, or were not there.
    pub idle: Vec<String>,
    /// All that there are now.
    pub total: Vec<String>,
}

/// A file that can be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where it is.
    pub path: PathBuf,
    /// What it is called.
    pub name: String,
    /// Media type.
    pub mime: Option<String>,
}

/// A file whose bytes were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hashed {
    /// `blake3:` and 64 digits.
    pub hash: String,
    /// Bytes.
    pub size: u64,
}

impl Store {
    /// Opens a database, or makes it. Blocks.
    ///
    /// # Errors
    /// [`Error::Unavailable`], with what is to be done.
    pub fn open(path: &Path, folders: Arc<Folders>) -> Result<Self> {
        let (write, read) = database::open(path)?;
        let count = read.query_row("SELECT count(*) FROM assets", [], |row| row.get(0))?;
        Ok(Self { write: Mutex::new(write), read: Mutex::new(read), folders, count: AtomicI64::new(count) })
    }

    pub(crate) fn read<T>(&self, read: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        // In one transaction, so that all that is read is of one moment.
        let mut connection = self.read.lock();
        let transaction = connection.transaction()?;
        read(&transaction)
    }

    /// Changes something, whole or not at all.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&Transaction<'_>) -> Result<T>) -> Result<T> {
        let mut connection = self.write.lock();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let done = change(&transaction)?;
        transaction.commit()?;
        Ok(done)
    }

    /// An asset that somebody sees.
    pub fn get(&self, viewer: &Viewer, id: &str) -> Result<Asset> {
        self.read(|connection| get(connection, viewer, id))
    }

    /// Whether somebody may know that there is content of a hash.
    pub fn knows(&self, viewer: &Viewer, hash: &str) -> Result<bool> {
        self.read(|connection| Ok(known(connection, viewer, hash)?.is_some()))
    }

    /// The file of an asset that somebody sees, or another one with its content; notes that it was fetched.
    pub fn content(&self, viewer: &Viewer, id: &str) -> Result<Found> {
        let (asset, content) = self.read(|connection| {
            let asset = get(connection, viewer, id)?;
            let content: i64 = connection.query_row("SELECT content FROM assets WHERE id = ?", [id], |row| row.get(0))?;
            Ok((asset, content))
        })?;
        let path = match asset.path.as_ref().filter(|path| path.is_file()) {
            Some(path) => path.clone(),
            None => self.read(|connection| live(connection, viewer, content))?.ok_or(Error::NoFile)?.path,
        };
        self.change(|change| {
            change.prepare_cached("UPDATE assets SET accessed = ?1 WHERE id = ?2 AND accessed < ?1")?.execute(params![now_us(), id])?;
            Ok(())
        })?;
        Ok(Found { path, name: asset.name, mime: asset.mime })
    }

    /// A file with the content of a hash that somebody sees.
    pub fn by_hash(&self, viewer: &Viewer, hash: &str) -> Result<Option<Found>> {
        self.read(|connection| match known(connection, viewer, hash)? {
            Some((content, _)) => live(connection, viewer, content),
            None => Ok(None),
        })
    }

    /// Gives content that is known another name.
    pub fn from_hash(&self, viewer: &Viewer, hash: &str, new: &New) -> Result<Asset> {
        let mime = checked(new)?;
        self.change(|change| {
            let (content, _) = known(change, viewer, hash)?.ok_or_else(|| Error::UnknownHash(hash.to_owned()))?;
            self.name_content(change, viewer, content, new, mime.as_deref())
        })
    }

    /// Takes an upload: content of which somebody sees a file gets another name, and what is new is put in its place by `put`, which tells
    /// where. Whether the content is new.
    pub fn upload(&self, viewer: &Viewer, file: &Hashed, new: &New, put: impl FnOnce() -> Result<PathBuf>) -> Result<(Asset, bool)> {
        let mime = checked(new)?;
        self.change(|change| {
            let known = known(change, viewer, &file.hash)?;
            if let Some((content, _)) = known
                && live(change, viewer, content)?.is_some()
            {
                return Ok((self.name_content(change, viewer, content, new, mime.as_deref())?, false));
            }
            let path = put()?;
            let stamp = Stamp::of(&path)?;
            let new = New { tags: [&new.tags[..], &["uploaded".to_owned()]].concat(), mime, ..new.clone() };
            let id = self.file(change, viewer, &path, &file.hash, stamp, &new, "manual")?;
            Ok((get(change, &Viewer::all(), &id)?, known.is_none()))
        })
    }

    /// Takes a file that is in its place, whoever put it there: reads its bytes. `None` if they changed meanwhile.
    pub fn register(&self, viewer: &Viewer, path: &Path, new: &New) -> Result<Option<Asset>> {
        let mime = checked(new)?;
        let Some((hash, stamp)) = facts::hash(path, || true)? else { return Ok(None) };
        self.change(|change| {
            let new = New { mime, ..new.clone() };
            let id = self.file(change, viewer, path, &hash, stamp, &new, "upload")?;
            Ok(Some(get(change, &Viewer::all(), &id)?))
        })
    }

    /// Changes what is said of an asset.
    pub fn update(&self, viewer: &Viewer, id: &str, wanted: &Change) -> Result<Asset> {
        wanted.name.as_deref().map_or(Ok(()), check_name)?;
        self.change(|change| {
            let seq = changeable(change, viewer, id)?;
            if let Some(name) = &wanted.name {
                change.execute("UPDATE assets SET name = ? WHERE seq = ?", params![name, seq])?;
            }
            if let Some(metadata) = &wanted.metadata {
                say(change, seq, metadata.clone())?;
            }
            if let Some(preview) = &wanted.preview {
                get(change, viewer, preview)?;
                change.execute("UPDATE assets SET preview = ? WHERE seq = ?", params![preview, seq])?;
            }
            change.execute("UPDATE assets SET updated = ? WHERE seq = ?", params![now_us(), seq])?;
            get(change, viewer, id)
        })
    }

    /// Hides an asset. Its file stays, and its content is known further on.
    pub fn delete(&self, viewer: &Viewer, id: &str) -> Result<()> {
        let gone = self.change(|change| {
            let seq = changeable(change, viewer, id)?;
            // A name alone says nothing once it is gone; a file would be found again.
            let gone = change.execute("DELETE FROM assets WHERE seq = ? AND path IS NULL", [seq])?;
            change.execute("UPDATE assets SET deleted = ? WHERE seq = ?", params![now_us(), seq])?;
            Ok(gone)
        })?;
        self.count.fetch_sub(gone as i64, Ordering::AcqRel);
        Ok(())
    }

    /// Adds tags to an asset.
    pub fn add_tags(&self, viewer: &Viewer, id: &str, tags: &[String]) -> Result<Retagged> {
        let tags = tidy_tags(tags);
        self.change(|change| {
            let seq = changeable(change, viewer, id)?;
            let before = tags_of(change, seq)?;
            let (idle, mut done): (Vec<String>, Vec<String>) = sorted(tags).into_iter().partition(|tag| before.contains(tag));
            tag(change, seq, &done, "manual")?;
            done.sort_unstable();
            Ok(Retagged { done, idle, total: tags_of(change, seq)? })
        })
    }

    /// Removes tags from an asset.
    pub fn remove_tags(&self, viewer: &Viewer, id: &str, tags: &[String]) -> Result<Retagged> {
        let tags = tidy_tags(tags);
        self.change(|change| {
            let seq = changeable(change, viewer, id)?;
            let before = tags_of(change, seq)?;
            let (done, idle): (Vec<String>, Vec<String>) = sorted(tags).into_iter().partition(|tag| before.contains(tag));
            let mut delete = change.prepare_cached("DELETE FROM tags WHERE asset = ? AND tag = ?")?;
            for tag in &done {
                delete.execute(params![seq, tag])?;
            }
            Ok(Retagged { done, idle, total: tags_of(change, seq)? })
        })
    }

    /// Adds an asset that is no file.
    fn name_content(&self, change: &Transaction<'_>, viewer: &Viewer, content: i64, new: &New, mime: Option<&str>) -> Result<Asset> {
        if let Some(mime) = mime.filter(|_| new.mime.is_some()) {
            change.execute("UPDATE contents SET mime = ? WHERE id = ? AND mime IS NULL", params![mime, content])?;
        }
        let preview = preview(change, viewer, new.preview.as_deref())?;
        let id = self.insert(change, content, &viewer.owner, "", &new.name)?;
        let seq = change.last_insert_rowid();
        // The size of a picture is known from any file of it.
        let picture: Option<String> = change
            .prepare_cached(
                "SELECT json_object('kind', 'image', 'width', system_metadata -> 'width', 'height', system_metadata -> 'height') FROM assets \
                 WHERE content = ? AND system_metadata ->> 'kind' = 'image' LIMIT 1",
            )?
            .query_row([content], |row| row.get(0))
            .optional()?;
        change.execute("UPDATE assets SET preview = ?, system_metadata = ? WHERE seq = ?", params![preview, picture, seq])?;
        say(change, seq, new.metadata.clone())?;
        tag(change, seq, &new.tags, "manual")?;
        get(change, &Viewer::all(), &id)
    }

    /// Adds a file, or what is new of one that is known; tells its id.
    #[expect(clippy::too_many_arguments, reason = "all is said of one file")]
    fn file(
        &self,
        change: &Transaction<'_>,
        viewer: &Viewer,
        path: &Path,
        hash: &str,
        stamp: Stamp,
        new: &New,
        origin: &str,
    ) -> Result<String> {
        let text = path.to_str().ok_or_else(|| Error::Invalid("the file's path is no text: rename it".to_owned()))?;
        let place =
            Place::of(&self.folders, path).ok_or_else(|| Error::Invalid("the file is in none of the folders for files".to_owned()))?;
        let content = content(change, hash, stamp.size, new.mime.as_deref())?;
        let known: Option<(i64, String, i64)> = change
            .prepare_cached("SELECT seq, id, content FROM assets WHERE path = ?")?
            .query_row([text], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()?;
        let owner = if place.owner.is_empty() && viewer.sees == crate::Sees::Unowned { &*viewer.owner } else { &place.owner };
        let (seq, id) = match known {
            Some((seq, id, before)) => {
                change.execute("UPDATE assets SET content = ?, missing = 0, deleted = NULL WHERE seq = ?", params![content, seq])?;
                forget_unused(change, before)?;
                (seq, id)
            }
            None => {
                let id = self.insert(change, content, owner, place.root, &new.name)?;
                (change.last_insert_rowid(), id)
            }
        };
        let preview = preview(change, viewer, new.preview.as_deref())?;
        let system = facts::system_metadata(path, place.loader_path.as_deref(), stamp.size);
        change.execute(
            "UPDATE assets SET path = ?, loader_path = ?, mtime_ns = ?, level = ?, preview = coalesce(?, preview), job = coalesce(?, job), \
             system_metadata = ?, updated = ? WHERE seq = ?",
            params![
                text,
                place.loader_path,
                stamp.mtime_ns,
                LEVEL_HASHED,
                preview,
                new.job,
                Value::Object(system).to_string(),
                now_us(),
                seq
            ],
        )?;
        let said: Option<String> = change.query_row("SELECT user_metadata FROM assets WHERE seq = ?", [seq], |row| row.get(0))?;
        let mut said = object(said).unwrap_or_default();
        said.extend(new.metadata.clone());
        say(change, seq, said)?;
        tag(change, seq, &place.tags, "automatic")?;
        tag(change, seq, &new.tags, origin)?;
        change
            .execute("DELETE FROM tags WHERE tag = ? AND asset IN (SELECT seq FROM assets WHERE content = ?)", params![MISSING, content])?;
        Ok(id)
    }

    /// Adds an asset; tells its id.
    pub(crate) fn insert(&self, change: &Transaction<'_>, content: i64, owner: &str, root: &str, name: &str) -> Result<String> {
        let full = || Error::Full(format!("{MAX_ASSETS} assets are known, and no more can be: delete some of their files"));
        // One that is not made after all counts until the next start: that is no harm.
        self.count
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| (count < MAX_ASSETS).then_some(count + 1))
            .map_err(|_| full())?;
        let (id, now) = (Uuid::new_v4().to_string(), now_us());
        change
            .prepare_cached(
                "INSERT INTO assets (id, content, owner, root, name, created, updated, accessed) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6, ?6)",
            )?
            .execute(params![id, content, owner, root, name, now])?;
        Ok(id)
    }
}

/// An asset that somebody sees.
pub(crate) fn get(connection: &Connection, viewer: &Viewer, id: &str) -> Result<Asset> {
    let mut values: Vec<Box<dyn rusqlite::types::ToSql>> = vec![Box::new(id.to_owned())];
    let sees = viewer.condition(&mut values);
    let sql = format!("SELECT {COLUMNS} FROM {TABLES} WHERE a.id = ? AND a.deleted IS NULL AND {sees}");
    select(connection, &sql, &values)?.pop().ok_or_else(|| Error::NotFound(id.to_owned()))
}

/// The row of an asset that somebody may change.
fn changeable(connection: &Connection, viewer: &Viewer, id: &str) -> Result<i64> {
    let found: Option<(i64, String, String)> = connection
        .prepare_cached("SELECT seq, owner, root FROM assets WHERE id = ? AND deleted IS NULL")?
        .query_row([id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    match found.filter(|(_, owner, root)| viewer.may_see(owner, root)) {
        None => Err(Error::NotFound(id.to_owned())),
        Some((_, owner, _)) if !viewer.may_change(&owner) => Err(Error::NotOwner(id.to_owned())),
        Some((seq, ..)) => Ok(seq),
    }
}

/// The row of content and its size, if somebody may know of it: by an asset, also one that he deleted.
fn known(connection: &Connection, viewer: &Viewer, hash: &str) -> Result<Option<(i64, i64)>> {
    let mut values: Vec<Box<dyn rusqlite::types::ToSql>> = vec![Box::new(hash.to_owned())];
    let sees = match viewer.sees {
        crate::Sees::Shared => format!("EXISTS (SELECT 1 FROM assets a WHERE a.content = c.id AND {})", viewer.condition(&mut values)),
        crate::Sees::All | crate::Sees::Unowned => "1".to_owned(),
    };
    let sql = format!("SELECT c.id, c.size FROM contents c WHERE c.hash = ? AND {sees}");
    let found = connection.prepare_cached(&sql)?.query_row(rusqlite::params_from_iter(&values), |row| Ok((row.get(0)?, row.get(1)?)));
    Ok(found.optional()?)
}

/// A file with this content that somebody sees and that is there.
fn live(connection: &Connection, viewer: &Viewer, content: i64) -> Result<Option<Found>> {
    let mut values: Vec<Box<dyn rusqlite::types::ToSql>> = vec![Box::new(content)];
    let sees = viewer.condition(&mut values);
    let sql = format!(
        "SELECT a.path, a.name, c.mime FROM assets a JOIN contents c ON c.id = a.content \
         WHERE a.content = ? AND a.path IS NOT NULL AND {sees} ORDER BY a.deleted IS NOT NULL, a.missing, a.id"
    );
    let mut select = connection.prepare_cached(&sql)?;
    let found = select.query_map(rusqlite::params_from_iter(&values), |row| {
        Ok(Found { path: PathBuf::from(row.get::<_, String>(0)?), name: row.get(1)?, mime: row.get(2)? })
    })?;
    for file in found {
        let file = file?;
        if file.path.is_file() {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

/// The row of content of this hash.
pub(crate) fn content(change: &Transaction<'_>, hash: &str, size: u64, mime: Option<&str>) -> Result<i64> {
    let size = i64::try_from(size).unwrap_or(i64::MAX);
    let sql = "INSERT INTO contents (hash, size, mime) VALUES (?, ?, ?) \
               ON CONFLICT (hash) DO UPDATE SET size = excluded.size, mime = coalesce(mime, excluded.mime) RETURNING id";
    Ok(change.prepare_cached(sql)?.query_row(params![hash, size, mime], |row| row.get(0))?)
}

/// Forgets content that nothing is of any more.
pub(crate) fn forget_unused(change: &Transaction<'_>, content: i64) -> Result<()> {
    let sql = "DELETE FROM contents WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM assets WHERE content = ?1)";
    change.prepare_cached(sql)?.execute([content])?;
    Ok(())
}

/// Adds tags that an asset does not have yet.
pub(crate) fn tag(change: &Transaction<'_>, seq: i64, tags: &[String], origin: &str) -> Result<()> {
    let tags = tidy_tags(tags);
    let mut all = tags_of(change, seq)?;
    all.extend(tags.iter().filter(|tag| !all.contains(tag)).cloned().collect::<Vec<_>>());
    check_tags(&all)?;
    for tag in tags {
        change.prepare_cached("INSERT OR IGNORE INTO tag_names (name) VALUES (?)")?.execute([&tag])?;
        change.prepare_cached("INSERT OR IGNORE INTO tags (asset, tag, origin) VALUES (?, ?, ?)")?.execute(params![seq, tag, origin])?;
    }
    Ok(())
}

/// Forgets names of tags that nothing has, where there are many.
pub(crate) fn forget_tag_names(change: &Transaction<'_>) -> Result<()> {
    let count: i64 = change.query_row("SELECT count(*) FROM tag_names", [], |row| row.get(0))?;
    if count > MAX_TAG_NAMES {
        change.execute("DELETE FROM tag_names WHERE NOT EXISTS (SELECT 1 FROM tags WHERE tag = name)", [])?;
    }
    Ok(())
}

/// Sets what users say of an asset; a file's name is always among it.
fn say(change: &Transaction<'_>, seq: i64, mut said: Map<String, Value>) -> Result<()> {
    let (loader_path, system): (Option<String>, Option<String>) =
        change.query_row("SELECT loader_path, system_metadata FROM assets WHERE seq = ?", [seq], |row| Ok((row.get(0)?, row.get(1)?)))?;
    said.extend(loader_path.map(|path| ("filename".to_owned(), path.into())));
    change.execute("UPDATE assets SET user_metadata = ? WHERE seq = ?", params![metadata_text(&said)?, seq])?;
    Ok(meta::index(change, seq, object(system).as_ref(), &said)?)
}

/// Sets what a file says of itself.
pub(crate) fn observe(change: &Transaction<'_>, seq: i64, system: &Map<String, Value>) -> Result<()> {
    let said: Option<String> = change.query_row("SELECT user_metadata FROM assets WHERE seq = ?", [seq], |row| row.get(0))?;
    change.execute("UPDATE assets SET system_metadata = ? WHERE seq = ?", params![Value::Object(system.clone()).to_string(), seq])?;
    Ok(meta::index(change, seq, Some(system), &object(said).unwrap_or_default())?)
}

fn object(text: Option<String>) -> Option<Map<String, Value>> {
    match comfyd_wire::json::read(text?.as_bytes()) {
        Ok(Value::Object(object)) => Some(object),
        Ok(_) | Err(_) => None,
    }
}

/// The preview that is asked for, if it can be seen.
fn preview(connection: &Connection, viewer: &Viewer, id: Option<&str>) -> Result<Option<String>> {
    match id.map(|id| get(connection, viewer, id)) {
        Some(Ok(asset)) => Ok(Some(asset.id)),
        Some(Err(Error::NotFound(_))) | None => Ok(None),
        Some(Err(error)) => Err(error),
    }
}

/// Checks what is said of a new asset; gives its media type.
fn checked(new: &New) -> Result<Option<String>> {
    check_name(&new.name)?;
    check_tags(&tidy_tags(&new.tags))?;
    metadata_text(&new.metadata)?;
    new.mime.as_deref().map_or(Ok(()), check_mime)?;
    Ok(new.mime.clone().or_else(|| facts::mime_of(&new.name).map(str::to_owned)).or_else(|| Some("application/octet-stream".to_owned())))
}

fn sorted(mut tags: Vec<String>) -> Vec<String> {
    tags.sort_unstable();
    tags
}

//! What the folders hold, compared with what the database says: files that came, went or changed, and what they say of themselves. Done in
//! steps, between which others get to the database and the scan may be given up.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use comfyd_folders::{Folders, Kind};
use rusqlite::{OptionalExtension as _, Transaction, params};

use crate::error::Result;
use crate::facts::{self, Stamp};
use crate::place::{self, Place};
use crate::store::{LEVEL_FACTS, LEVEL_HASHED, LEVEL_STUB, MISSING, Store, content, forget_tag_names, forget_unused, observe, tag};
use crate::time::now_us;

/// Files that are looked at in one scan.
const MAX_FILES: usize = 1_000_000;
/// How deep folders are searched.
const MAX_DEPTH: usize = 64;
/// How many assets one change concerns.
pub(crate) const BATCH: usize = 500;

/// What is scanned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Root {
    /// The model folders.
    Models,
    /// The input folder.
    Input,
    /// The output folder.
    Output,
}

impl Root {
    /// All, in the order in which they are scanned.
    pub const ALL: [Self; 3] = [Self::Models, Self::Input, Self::Output];

    /// As clients write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Models => "models",
            Self::Input => "input",
            Self::Output => "output",
        }
    }

    /// The one of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|root| root.name() == name)
    }

    /// Where its files are.
    fn folders(self, folders: &Folders) -> Vec<PathBuf> {
        match self {
            Self::Models => place::model_folders(folders).iter().filter_map(|folder| folders.model_paths(folder)).flatten().collect(),
            Self::Input => vec![folders.directory(Kind::Input).to_owned()],
            Self::Output => vec![folders.directory(Kind::Output).to_owned()],
        }
    }

    /// Its files.
    fn files(self, folders: &Folders, go_on: &mut dyn FnMut() -> bool) -> Vec<PathBuf> {
        match self {
            Self::Models => {
                let names = |folder: &String| {
                    folders.model_files(folder).into_iter().flatten().map(|name| (folder.clone(), name)).collect::<Vec<_>>()
                };
                let listed = place::model_folders(folders).iter().flat_map(names).collect::<Vec<_>>().into_iter();
                let seen = listed.filter(|(_, name)| !name.split('/').any(|part| part.starts_with('.')));
                seen.filter_map(|(folder, name)| folders.model_path(&folder, &name)).take(MAX_FILES).collect()
            }
            Self::Input | Self::Output => self.folders(folders).iter().flat_map(|root| files_below(root, go_on)).collect(),
        }
    }
}

/// What the database says of a file.
#[derive(Debug, Clone)]
struct Row {
    seq: i64,
    content: i64,
    path: PathBuf,
    mtime_ns: Option<i64>,
    missing: bool,
    hashed: bool,
    size: i64,
}

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Same,
    Changed(Stamp),
    Gone,
    /// It cannot be told now, or its whole folder is away, as one on another disk may be.
    Unknown,
}

/// A file of which the database says too little.
#[derive(Debug, Clone)]
pub(crate) struct Unread {
    pub seq: i64,
    path: PathBuf,
    mtime_ns: i64,
}

/// What is found of a file that is new.
pub(crate) struct Stub {
    path: PathBuf,
    stamp: Stamp,
    place: Place,
}

impl Store {
    /// Compares what is known of the files in these folders with the disk. Gives those that are known and there.
    pub(crate) fn compare(&self, roots: &[Root], go_on: &mut dyn FnMut() -> bool) -> Result<HashSet<PathBuf>> {
        let folders: Vec<PathBuf> = roots.iter().flat_map(|root| root.folders(&self.folders)).collect();
        self.compare_folders(&folders, go_on)
    }

    /// The same for the temp folder, which is never searched.
    pub(crate) fn compare_temp(&self, go_on: &mut dyn FnMut() -> bool) -> Result<()> {
        self.compare_folders(&[self.folders.directory(Kind::Temp).to_owned()], go_on).map(drop)
    }

    fn compare_folders(&self, folders: &[PathBuf], go_on: &mut dyn FnMut() -> bool) -> Result<HashSet<PathBuf>> {
        let mut rows: HashMap<i64, Vec<(Row, Fate)>> = HashMap::new();
        let mut seen = HashSet::new();
        for folder in folders {
            let there = folder.is_dir();
            for row in self.rows_below(folder)? {
                if !go_on() {
                    return Ok(HashSet::new());
                }
                if seen.insert(row.seq) {
                    let fate = if there { fate(&row) } else { Fate::Unknown };
                    rows.entry(row.content).or_default().push((row, fate));
                }
            }
        }
        let mut known = HashSet::new();
        let contents: Vec<_> = rows.into_iter().collect();
        for batch in contents.chunks(BATCH) {
            if !go_on() {
                return Ok(HashSet::new());
            }
            self.change(|change| batch.iter().try_for_each(|(content, rows)| settle(change, *content, rows)))?;
            let there = batch.iter().flat_map(|(_, rows)| rows).filter(|(_, fate)| *fate != Fate::Gone);
            known.extend(there.map(|(row, _)| row.path.clone()));
        }
        Ok(known)
    }

    fn rows_below(&self, folder: &Path) -> Result<Vec<Row>> {
        self.read(|connection| {
            let sql = "SELECT a.seq, a.content, a.path, a.mtime_ns, a.missing, c.hash IS NOT NULL, c.size FROM assets a \
                       JOIN contents c ON c.id = a.content WHERE a.path > ? AND a.path < ? AND a.deleted IS NULL";
            let rows = connection
                .prepare_cached(sql)?
                .query_map(below(folder), |row| {
                    Ok(Row {
                        seq: row.get(0)?,
                        content: row.get(1)?,
                        path: PathBuf::from(row.get::<_, String>(2)?),
                        mtime_ns: row.get(3)?,
                        missing: row.get(4)?,
                        hashed: row.get(5)?,
                        size: row.get(6)?,
                    })
                })?
                .collect::<rusqlite::Result<_>>()?;
            Ok(rows)
        })
    }

    /// The files of these roots that are not among those that are known, and how many there are in all.
    pub(crate) fn new_files(&self, roots: &[Root], known: &HashSet<PathBuf>, go_on: &mut dyn FnMut() -> bool) -> (Vec<Stub>, usize, usize) {
        let (mut stubs, mut total, mut skipped, mut seen) = (Vec::new(), 0, 0, HashSet::new());
        let files: Vec<PathBuf> = roots.iter().flat_map(|root| root.files(&self.folders, go_on)).take(MAX_FILES).collect();
        for path in files {
            if !go_on() {
                break;
            }
            total += 1;
            if known.contains(&path) {
                skipped += 1;
                continue;
            }
            // An empty file is one that somebody is about to write.
            let Some(stamp) = Stamp::of(&path).ok().filter(|stamp| stamp.size > 0) else { continue };
            let Some(place) = Place::of(&self.folders, &path) else { continue };
            if seen.insert(path.clone()) {
                stubs.push(Stub { path, stamp, place });
            }
        }
        (stubs, total, skipped)
    }

    /// Adds files of which only size and time are known. How many were added.
    pub(crate) fn add(&self, stubs: &[Stub]) -> Result<usize> {
        self.change(|change| {
            let mut added = 0;
            for Stub { path, stamp, place } in stubs {
                let (Some(text), Some(name)) = (path.to_str(), path.file_name().and_then(|name| name.to_str())) else { continue };
                if change.prepare_cached("SELECT 1 FROM assets WHERE path = ?")?.exists([text])? {
                    continue;
                }
                let content = unread_content(change, *stamp, facts::mime_of(name))?;
                self.insert(change, content, &place.owner, place.root, name)?;
                let seq = change.last_insert_rowid();
                let said = place.loader_path.as_ref().map(|path| serde_json::json!({"filename": path}).to_string());
                change
                    .prepare_cached("UPDATE assets SET path = ?, loader_path = ?, mtime_ns = ?, user_metadata = ? WHERE seq = ?")?
                    .execute(params![text, place.loader_path, stamp.mtime_ns, said, seq])?;
                tag(change, seq, &place.tags, "automatic")?;
                added += 1;
            }
            Ok(added)
        })
    }

    /// Files in these roots, behind this one, of which less is known than can be; a few at a time.
    pub(crate) fn unread(&self, roots: &[Root], behind: i64, hashes: bool) -> Result<Vec<Unread>> {
        let most = if hashes { LEVEL_FACTS } else { LEVEL_STUB };
        let folders: Vec<PathBuf> = roots.iter().flat_map(|root| root.folders(&self.folders)).collect();
        self.read(|connection| {
            let sql = "SELECT seq, path, mtime_ns FROM assets WHERE seq > ? AND level <= ? AND path IS NOT NULL AND missing = 0 \
                       AND deleted IS NULL AND mtime_ns IS NOT NULL ORDER BY seq LIMIT 1000";
            let rows = connection
                .prepare_cached(sql)?
                .query_map(params![behind, most], |row| {
                    Ok(Unread { seq: row.get(0)?, path: PathBuf::from(row.get::<_, String>(1)?), mtime_ns: row.get(2)? })
                })?
                .collect::<rusqlite::Result<Vec<_>>>()?;
            // Those of other roots are left out by who asks, not here: the last one tells where to go on.
            Ok(rows
                .into_iter()
                .map(
                    |row| {
                        if folders.iter().any(|folder| row.path.starts_with(folder)) { row } else { Unread { path: PathBuf::new(), ..row } }
                    },
                )
                .collect())
        })
    }

    /// Looks into a file, and reads all of it for its hash where that is wanted. Whether more is known of it now.
    pub(crate) fn look_into(&self, file: &Unread, hashes: bool, go_on: &mut dyn FnMut() -> bool) -> Result<bool> {
        let Some(stamp) = Stamp::of(&file.path).ok().filter(|stamp| stamp.mtime_ns == file.mtime_ns) else { return Ok(false) };
        let Some(place) = Place::of(&self.folders, &file.path) else { return Ok(false) };
        let system = facts::system_metadata(&file.path, place.loader_path.as_deref(), stamp.size);
        let hash = match hashes {
            true => match facts::hash(&file.path, go_on)? {
                Some((hash, _)) => Some(hash),
                None => return Ok(false),
            },
            false => None,
        };
        self.change(|change| {
            let sql = "SELECT content FROM assets WHERE seq = ? AND mtime_ns = ? AND deleted IS NULL";
            let before: Option<i64> =
                change.prepare_cached(sql)?.query_row(params![file.seq, file.mtime_ns], |row| row.get(0)).optional()?;
            // Somebody else knows more of it by now.
            let Some(before) = before else { return Ok(false) };
            observe(change, file.seq, &system)?;
            let mime = system.get("content_type").and_then(serde_json::Value::as_str);
            if let Some(hash) = &hash {
                let content = content(change, hash, stamp.size, mime)?;
                change.execute("UPDATE assets SET content = ? WHERE seq = ?", params![content, file.seq])?;
                forget_unused(change, before)?;
                found_again(change, content)?;
            }
            let level = if hash.is_some() { LEVEL_HASHED } else { LEVEL_FACTS };
            change.execute("UPDATE assets SET level = max(level, ?) WHERE seq = ?", params![level, file.seq])?;
            Ok(true)
        })
    }

    /// Marks the files outside of all folders for files as missing. How many there were.
    pub(crate) fn mark_outside(&self) -> Result<usize> {
        let temp = self.folders.directory(Kind::Temp).to_owned();
        let folders: Vec<PathBuf> = Root::ALL.into_iter().flat_map(|root| root.folders(&self.folders)).chain([temp]).collect();
        self.change(|change| {
            forget_tag_names(change)?;
            let mut select = change.prepare("SELECT seq, path FROM assets WHERE path IS NOT NULL AND deleted IS NULL AND missing = 0")?;
            let rows: Vec<(i64, String)> = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<rusqlite::Result<_>>()?;
            let outside: Vec<i64> = rows
                .iter()
                .filter(|(_, path)| !folders.iter().any(|folder| Path::new(path).starts_with(folder)))
                .map(|(seq, _)| *seq)
                .collect();
            for seq in &outside {
                change.prepare_cached("UPDATE assets SET missing = 1 WHERE seq = ?")?.execute([seq])?;
            }
            Ok(outside.len())
        })
    }
}

/// What became of a file.
fn fate(row: &Row) -> Fate {
    match Stamp::of(&row.path) {
        Ok(stamp) if Some(stamp.mtime_ns) == row.mtime_ns && i64::try_from(stamp.size) == Ok(row.size) => Fate::Same,
        Ok(stamp) => Fate::Changed(stamp),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Fate::Unknown,
        Err(_) => Fate::Gone,
    }
}

/// Writes down what became of the files with one content.
fn settle(change: &Transaction<'_>, content: i64, rows: &[(Row, Fate)]) -> Result<()> {
    let same = rows.iter().any(|(_, fate)| *fate == Fate::Same);
    let hashed = rows.iter().any(|(row, _)| row.hashed);
    for (row, fate) in rows {
        match fate {
            Fate::Same | Fate::Unknown => {}
            Fate::Changed(stamp) => changed(change, row, *stamp)?,
            // What is not known by its bytes is gone with its file; one of several files with the same bytes is not missed.
            Fate::Gone if same || !hashed => {
                let sql = "DELETE FROM assets WHERE seq = ? AND mtime_ns IS ?";
                change.prepare_cached(sql)?.execute(params![row.seq, row.mtime_ns])?;
            }
            Fate::Gone => {
                let sql = "UPDATE assets SET missing = 1 WHERE seq = ? AND mtime_ns IS ?";
                change.prepare_cached(sql)?.execute(params![row.seq, row.mtime_ns])?;
            }
        }
    }
    if same && rows.iter().any(|(row, _)| row.missing) {
        for (row, _) in rows.iter().filter(|(_, fate)| *fate == Fate::Same) {
            change.prepare_cached("UPDATE assets SET missing = 0 WHERE seq = ?")?.execute([row.seq])?;
        }
        found_again(change, content)?;
    }
    if rows.iter().any(|(_, fate)| *fate == Fate::Gone) {
        forget_unused(change, content)?;
        missed(change, content)?;
    }
    Ok(())
}

/// A file has other bytes now: of them nothing is known yet, and all who have the old ones by another name keep them.
fn changed(change: &Transaction<'_>, row: &Row, stamp: Stamp) -> Result<()> {
    let mime: Option<String> =
        change.query_row("SELECT mime FROM contents WHERE id = ?", [row.content], |found| found.get(0)).optional()?.flatten();
    let content = unread_content(change, stamp, mime.as_deref())?;
    let sql = "UPDATE assets SET content = ?, mtime_ns = ?, level = ?, missing = 0, updated = ? WHERE seq = ? AND mtime_ns IS ?";
    change.prepare_cached(sql)?.execute(params![content, stamp.mtime_ns, LEVEL_STUB, now_us(), row.seq, row.mtime_ns])?;
    change.prepare_cached("DELETE FROM tags WHERE asset = ? AND tag = ?")?.execute(params![row.seq, MISSING])?;
    forget_unused(change, row.content)?;
    forget_unused(change, content)?;
    missed(change, row.content)
}

/// Content whose bytes were not read.
fn unread_content(change: &Transaction<'_>, stamp: Stamp, mime: Option<&str>) -> Result<i64> {
    let size = i64::try_from(stamp.size).unwrap_or(i64::MAX);
    change.prepare_cached("INSERT INTO contents (size, mime) VALUES (?, ?)")?.execute(params![size, mime])?;
    Ok(change.last_insert_rowid())
}

/// Content of which no file is left is told by a tag, at all that have it.
fn missed(change: &Transaction<'_>, content: i64) -> Result<()> {
    let sql = "SELECT 1 FROM assets WHERE content = ? AND path IS NOT NULL AND missing = 0";
    if change.prepare_cached(sql)?.exists([content])? {
        return Ok(());
    }
    let seqs: Vec<i64> = change
        .prepare_cached("SELECT seq FROM assets WHERE content = ?")?
        .query_map([content], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for seq in seqs {
        // It says so even where there are as many tags as there may be.
        change.prepare_cached("INSERT OR IGNORE INTO tag_names (name) VALUES (?)")?.execute([MISSING])?;
        change
            .prepare_cached("INSERT OR IGNORE INTO tags (asset, tag, origin) VALUES (?, ?, 'automatic')")?
            .execute(params![seq, MISSING])?;
    }
    Ok(())
}

/// Content of which there is a file again.
fn found_again(change: &Transaction<'_>, content: i64) -> Result<()> {
    let sql = "DELETE FROM tags WHERE tag = ? AND asset IN (SELECT seq FROM assets WHERE content = ?)";
    change.prepare_cached(sql)?.execute(params![MISSING, content])?;
    Ok(())
}

/// The texts between which all paths below a folder are.
fn below(folder: &Path) -> [String; 2] {
    let folder = folder.to_string_lossy();
    let folder = folder.trim_end_matches(std::path::MAIN_SEPARATOR);
    let next = char::from(std::path::MAIN_SEPARATOR as u8 + 1);
    [format!("{folder}{}", std::path::MAIN_SEPARATOR), format!("{folder}{next}")]
}

/// The files below a folder, but for hidden ones. Links are followed, each folder once.
fn files_below(root: &Path, go_on: &mut dyn FnMut() -> bool) -> Vec<PathBuf> {
    let (mut files, mut seen, mut folders) = (Vec::new(), HashSet::new(), vec![(root.to_owned(), 0)]);
    while let Some((folder, depth)) = folders.pop() {
        if !go_on() {
            return Vec::new();
        }
        if depth > MAX_DEPTH || !fs::canonicalize(&folder).is_ok_and(|real| seen.insert(real)) {
            continue;
        }
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if files.len() >= MAX_FILES {
                return files;
            }
            let path = entry.path();
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            match fs::metadata(&path) {
                Ok(found) if found.is_dir() => folders.push((path, depth + 1)),
                Ok(found) if found.is_file() => files.push(path),
                Ok(_) | Err(_) => {}
            }
        }
    }
    files
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn folders_are_searched_once_and_hidden_files_left_out() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["a.txt", "deep/b.txt", ".hidden", ".git/config", "deep/.c.part"] {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        #[cfg(unix)]
        std::os::unix::fs::symlink(dir.path(), dir.path().join("deep/round")).unwrap();
        let mut files: Vec<PathBuf> =
            files_below(dir.path(), &mut || true).iter().map(|path| path.strip_prefix(dir.path()).unwrap().to_owned()).collect();
        files.sort_unstable();
        assert_eq!(files, [PathBuf::from("a.txt"), PathBuf::from("deep/b.txt")]);
        assert!(files_below(&dir.path().join("nowhere"), &mut || true).is_empty());
    }

    #[test]
    fn what_lies_below_a_folder_is_told_from_what_only_begins_so() {
        let [from, to] = below(Path::new("/x/input"));
        let inside = |path: &str| path > from.as_str() && path < to.as_str();
        assert!(
            inside("/x/input/a")
                && inside("/x/input/\u{10ffff}")
                && !inside("/x/input2/a")
                && !inside("/x/input")
                && !inside("/x/input%/a")
        );
    }
}

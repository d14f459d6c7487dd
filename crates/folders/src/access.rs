//! Reading and writing in the folders that clients name, and in users' own: on the disk alone, or shared with other servers. What is shared may
//! wait for the network.

use std::fs;
use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::shared::{Copies, Listed, Moment, SharedFile, When};
use crate::whole::{self, Replace};
use crate::{Folders, Kind, join_inside, split_annotation};

/// What a text is at most that may name a file.
const MAX_NAME_BYTES: usize = 1024;

impl Folders {
    /// From now on the files of the input, output and temp folder, and those of users, are shared, and what lies in the folders are copies.
    pub fn share(&self, copies: Copies) {
        // The first one counts.
        drop(self.shared.set(copies.into()));
    }

    /// Whether files are shared.
    pub fn is_shared(&self) -> bool {
        self.shared.get().is_some()
    }

    /// Sees to it that a file is here as it was written last, by whichever server. Whether there is one.
    pub fn here(&self, path: &Path) -> Result<bool> {
        self.shared.get().map_or_else(|| Ok(path.is_file()), |copies| copies.fetch(path))
    }

    /// Whether there is something of that name.
    pub fn exists(&self, path: &Path) -> bool {
        match self.shared.get() {
            None => path.exists(),
            // Whoever reads it is told what is wrong.
            Some(copies) => copies.has(path).unwrap_or(false),
        }
    }

    /// Writes a file that appears whole or not at all, making its folders. Whether it was put there: `false` only where there is one already
    /// that is not to be replaced.
    pub fn write(&self, path: &Path, bytes: &[u8], replace: Replace) -> Result<bool> {
        let Some(copies) = self.shared.get() else { return whole::write(path, bytes, replace) };
        copies.write(path, bytes, if replace == Replace::No { &When::New } else { &When::Always })
    }

    /// Removes a file. An error if there is none.
    pub fn remove(&self, path: &Path) -> Result<()> {
        match self.shared.get() {
            None => fs::remove_file(path),
            Some(copies) => copies.remove(path)?.then_some(()).ok_or_else(|| ErrorKind::NotFound.into()),
        }
    }

    /// Gives a file another name, making its folders. Whether it has it: `false` only where there is a file of that name that is not to be
    /// replaced.
    pub fn rename(&self, from: &Path, to: &Path, replace: Replace) -> Result<bool> {
        if let Some(copies) = self.shared.get() {
            return copies.rename(from, to, replace);
        }
        fs::create_dir_all(to.parent().ok_or(ErrorKind::InvalidFilename)?)?;
        match replace {
            Replace::Yes => fs::rename(from, to).map(|()| true),
            Replace::No => whole::rename_new(from, to),
        }
    }

    /// Changes a file that other servers may change too: `change` is told whether it is here, and gives what is to be there. It is asked
    /// again where another one changed the file meanwhile.
    pub fn change<E: From<Error>>(
        &self,
        path: &Path,
        mut change: impl FnMut(bool) -> std::result::Result<Vec<u8>, E>,
    ) -> std::result::Result<(), E> {
        match self.shared.get() {
            None => whole::write(path, &change(path.exists())?, Replace::Yes).map(drop).map_err(E::from),
            Some(copies) => copies.change(path, change),
        }
    }

    /// What is shared of a folder: its files and those in its folders, by their names in it, sorted; `None` where nothing is shared, and the
    /// disk tells.
    pub fn listed_shared(&self, folder: &Path) -> Result<Option<Vec<(String, SharedFile)>>> {
        let Some(copies) = self.shared.get() else { return Ok(None) };
        Ok(Some(self.shared_list(copies, folder, Moment::Now)?.to_vec()))
    }

    pub(crate) fn shared_list(&self, copies: &Copies, folder: &Path, moment: Moment) -> Result<Listed> {
        let (listed, differs) = copies.list(folder, moment)?;
        if differs {
            self.generation.fetch_add(1, std::sync::atomic::Ordering::AcqRel);
        }
        Ok(listed)
    }

    /// Has all files of a folder here.
    pub fn all_here(&self, folder: &Path) -> Result<()> {
        for (name, _) in self.listed_shared(folder)?.into_iter().flatten() {
            self.here(&join_inside(folder, Path::new(&name)).map_err(Error::other)?)?;
        }
        Ok(())
    }

    /// Has the files here that a prompt's inputs name, for programs that read the folders themselves.
    pub fn inputs_here(&self, prompt: &Value) -> Result<()> {
        if !self.is_shared() {
            return Ok(());
        }
        let nodes = prompt.as_object().into_iter().flatten().filter_map(|(_, node)| node.get("inputs")?.as_object());
        let texts = nodes.flatten().filter_map(|(_, value)| value.as_str()).filter(|text| text.len() <= MAX_NAME_BYTES);
        for text in texts {
            let (name, kind) = split_annotation(text);
            // What has no ending is a choice, a number or a sentence, as a rule; one that is there after all costs a question.
            if name.is_empty() || kind.is_none() && !name.contains('.') || name.contains('\n') {
                continue;
            }
            if let Ok(path) = self.found(kind.unwrap_or(Kind::Input), Path::new(name)) {
                self.here(&path)?;
            }
        }
        Ok(())
    }

    /// Sees to it that the files which a node shows are shared before anybody is told of them, and are shown by the names that they have
    /// there: a program that knows nothing of other servers may have given one that another's file has.
    pub fn announce(&self, shown: &mut Map<String, Value>) -> Result<()> {
        let Some(copies) = self.shared.get() else { return Ok(()) };
        for item in shown.values_mut().filter_map(Value::as_array_mut).flatten().filter_map(Value::as_object_mut) {
            let text = |key: &str| item.get(key).and_then(Value::as_str);
            let (Some(file), Some(kind)) = (text("filename"), text("type").and_then(Kind::parse)) else { continue };
            // Results tell the real folder.
            let below: PathBuf = [text("subfolder").unwrap_or_default(), file].iter().collect();
            let Ok(path) = join_inside(self.directory(kind), &below) else { continue };
            if !path.is_file() {
                continue;
            }
            if let Some(name) = copies.announce(&path)?.as_deref().and_then(Path::file_name) {
                item.insert("filename".into(), name.to_string_lossy().into());
            }
        }
        Ok(())
    }

    /// Removes the short-lived files that this server shared.
    pub fn end(&self) {
        if let Some(copies) = self.shared.get() {
            copies.end();
        }
    }
}

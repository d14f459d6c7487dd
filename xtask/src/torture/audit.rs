//! Compares what clients were answered with what the server has, and looks at the files.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::load::{Ledger, lock, status};
use crate::http::Connection;

/// What was found so far.
#[derive(Default)]
pub(super) struct Findings {
    /// Prompts whose end was found, and whether they were not run again after two crashes.
    ended: HashMap<String, bool>,
    /// Accepted prompts whose end was found.
    pub(super) found: u64,
    /// Of these, those that were not run again after two crashes.
    pub(super) given_up: u64,
    /// Accepted assets that were found whole.
    pub(super) assets: u64,
    pub(super) lost: Vec<String>,
    pub(super) doubled: Vec<String>,
    pub(super) half_written: Vec<String>,
}

impl Findings {
    /// Looks for every accepted prompt, and takes those that ended out of the history, with their files.
    pub(super) async fn audit(&mut self, host: &str, base: &Path, ledger: &Ledger) -> io::Result<()> {
        let accepted = lock(&ledger.open).clone();
        let mut connection = Connection::open(host).await?;
        // In this order: what ended before is not in the queue, and what is not in the queue has ended by then.
        let before = object(&mut connection, "/history").await?;
        let queue = object(&mut connection, "/queue").await?;
        let after = object(&mut connection, "/history").await?;
        let mut queued = HashSet::new();
        for entry in ["queue_running", "queue_pending"].iter().flat_map(|list| queue[*list].as_array()).flatten() {
            let id = entry[1].as_str().unwrap_or_default().to_owned();
            if before.get(&id).is_some() || self.ended.contains_key(&id) || !queued.insert(id.clone()) {
                self.doubled.push(id);
            }
        }
        self.lost.extend(
            accepted.iter().filter(|id| !queued.contains(*id) && after.get(id).is_none() && !self.ended.contains_key(*id)).cloned(),
        );
        let mut done = Vec::new();
        for (id, entry) in after.as_object().into_iter().flatten() {
            self.ended.insert(id.clone(), entry["status"]["messages"].to_string().contains("ServerCrashed"));
            self.look_at_files(base, entry);
            done.push(id);
        }
        if !done.is_empty() {
            connection.post("/history", &json!({"delete": done}).to_string()).await?;
        }
        // A client may note only now that one was accepted.
        lock(&ledger.open).retain(|id| {
            let ended = self.ended.get(id);
            self.found += u64::from(ended.is_some());
            self.given_up += u64::from(ended == Some(&true));
            ended.is_none() && !self.lost.contains(id)
        });
        Ok(())
    }

    /// The files that an entry of the history shows are whole; they are removed, since there would be many.
    fn look_at_files(&mut self, base: &Path, entry: &Value) {
        for image in entry["outputs"]["3"]["images"].as_array().into_iter().flatten() {
            let path = base.join("output").join(image["filename"].as_str().unwrap_or_default());
            if self.is_whole(&path) {
                // If it is there still, the last look finds it.
                let _ = fs::remove_file(&path);
            }
        }
    }

    fn is_whole(&mut self, path: &Path) -> bool {
        const END: &[u8] = b"IEND\xaeB`\x82";
        let whole = fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"\x89PNG") && bytes.ends_with(END));
        // A prompt whose history entry could not be deleted in time is looked at twice.
        if !whole && path.exists() {
            self.half_written.push(path.display().to_string());
        }
        whole
    }

    /// Looks for every accepted asset: it is there, and what it holds is what was sent.
    pub(super) async fn look_at_assets(&mut self, host: &str, ledger: &Ledger) -> io::Result<()> {
        let mut connection = Connection::open(host).await?;
        let accepted = std::mem::take(&mut *lock(&ledger.assets));
        for (id, content) in accepted {
            match connection.get(&format!("/api/assets/{id}/content")).await {
                Ok(found) if found == content.as_bytes() => self.assets += 1,
                Ok(_) => self.half_written.push(format!("asset {id}")),
                Err(error) if status(&error) == Some(404) => self.lost.push(format!("asset {id}")),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// What is left in the folders when the server has ended: whole files under their names, and nothing else.
    pub(super) fn look_at_rest(&mut self, base: &Path) -> io::Result<()> {
        for folder in ["output", "input", "temp"] {
            for entry in fs::read_dir(base.join(folder))? {
                let path = entry?.path();
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                match name.ends_with(".png") && !name.starts_with('.') {
                    true => drop(self.is_whole(&path)),
                    false if name.ends_with(".part") => self.half_written.push(path.display().to_string()),
                    false => {}
                }
            }
        }
        Ok(())
    }

    /// Whether all accepted prompts were found.
    pub(super) fn complete(ledger: &Ledger) -> bool {
        lock(&ledger.open).is_empty()
    }

    /// What must not be, as sentences.
    pub(super) fn faults(&self, ledger: &Ledger) -> Vec<String> {
        let mut faults = Vec::new();
        let named = [("lost", &self.lost), ("doubled", &self.doubled), ("half-written", &self.half_written)];
        for (what, names) in named.into_iter().filter(|(_, names)| !names.is_empty()) {
            faults.push(format!("{what}: {}", names.iter().take(10).cloned().collect::<Vec<_>>().join(", ")));
        }
        let accepted = ledger.accepted.load(Ordering::Relaxed);
        if self.found != accepted {
            faults.push(format!("of {accepted} accepted prompts {} were found", self.found));
        }
        faults
    }
}

async fn object(connection: &mut Connection, path: &str) -> io::Result<Value> {
    serde_json::from_slice(&connection.get(path).await?).map_err(io::Error::other)
}

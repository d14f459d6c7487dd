//! What each user may have: prompts a minute, disk space, pixels. Whoever is not told from others has no such bounds. Does not know what
//! prompts do; how many wait and run is the store's to bound.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use comfyd_folders::Folders;
use comfyd_graph::Prompt;
use parking_lot::Mutex;
use serde_json::Value;

use crate::error::ApiError;
use crate::options::Quotas;

const MINUTE: Duration = Duration::from_secs(60);
/// How long it holds how much space a user's files take.
const MEASURED_FOR: Duration = Duration::from_secs(5);
/// Users of whom something is kept; past that all is forgotten.
const MAX_USERS: usize = 10_000;
/// Files that are looked at to measure a user's space.
const MAX_FILES: usize = 1_000_000;

/// What users have used.
pub(crate) struct Usage {
    quotas: Quotas,
    /// How many prompts each may still send, and as of when.
    prompts: Mutex<HashMap<Arc<str>, (f64, Instant)>>,
    /// How many bytes each one's files have, and as of when.
    disk: Mutex<HashMap<Arc<str>, (u64, Instant)>>,
}

impl Usage {
    pub(crate) fn new(quotas: Quotas) -> Self {
        Self { quotas, prompts: Mutex::default(), disk: Mutex::default() }
    }

    /// Counts a prompt; fails if the user has sent too many in the last minute.
    pub(crate) fn prompt(&self, owner: &Arc<str>) -> Result<(), ApiError> {
        let Some(most) = self.quotas.prompts_per_minute.filter(|_| !owner.is_empty()) else { return Ok(()) };
        let (now, full) = (Instant::now(), f64::from(most));
        let mut prompts = self.prompts.lock();
        if prompts.len() >= MAX_USERS {
            prompts.clear();
        }
        let (left, since) = prompts.entry(Arc::clone(owner)).or_insert((full, now));
        *left = (*left + full * (now - *since).as_secs_f64() / MINUTE.as_secs_f64()).min(full);
        *since = now;
        if *left < 1.0 {
            let message = format!("you have sent more than {most} prompts in a minute, which is all that a user may: wait a little");
            return Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, "too_many_prompts", message));
        }
        *left -= 1.0;
        Ok(())
    }

    /// Whether disk space is bounded for this owner: to measure it takes a thread that may wait.
    pub(crate) fn bounds_disk(&self, owner: &str) -> bool {
        self.quotas.disk_bytes.is_some() && !owner.is_empty()
    }

    /// Fails if the files in these folders, which are the user's, leave no room for so many bytes.
    pub(crate) fn room(&self, owner: &Arc<str>, files: &Folders, folders: &[PathBuf], more: u64) -> Result<(), ApiError> {
        let Some(most) = self.quotas.disk_bytes.filter(|_| !owner.is_empty()) else { return Ok(()) };
        let now = Instant::now();
        let known = self.disk.lock().get(owner).copied().filter(|(_, since)| now - *since < MEASURED_FOR);
        let below = |folder: &PathBuf| {
            let shared = files.listed_shared(folder)?;
            Ok::<_, ApiError>(shared.map_or_else(|| bytes_below(folder), |shared| shared.iter().map(|(_, file)| file.bytes).sum()))
        };
        let used = match known {
            Some((used, _)) => used,
            None => folders.iter().map(below).sum::<Result<u64, ApiError>>()?,
        };
        let since = known.map_or(now, |(_, since)| since);
        let mut disk = self.disk.lock();
        if disk.len() >= MAX_USERS {
            disk.clear();
        }
        let fits = used < most && used.saturating_add(more) <= most;
        disk.insert(Arc::clone(owner), (if fits { used + more } else { used }, since));
        if fits {
            return Ok(());
        }
        let message = format!("your files take {used} of the {most} bytes that a user may have: delete some");
        Err(ApiError::new(StatusCode::INSUFFICIENT_STORAGE, "disk_quota", message))
    }
}

fn bytes_below(folder: &Path) -> u64 {
    let (mut bytes, mut seen, mut folders) = (0, 0, vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            seen += 1;
            match entry.metadata() {
                Ok(found) if found.is_dir() => folders.push(entry.path()),
                Ok(found) if found.is_file() => bytes += found.len(),
                Ok(_) | Err(_) => {}
            }
            if seen >= MAX_FILES {
                return bytes;
            }
        }
    }
    bytes
}

/// Fails if a user's graph asks for more pixels than a prompt may: those of all nodes that make pictures or latents of a size from nothing,
/// where the size stands there in plain numbers. What stood there as texts was made numbers before.
pub(crate) fn pixels(prompt: &Prompt, quotas: &Quotas, owner: &str) -> Result<(), ApiError> {
    let Some(most) = quotas.prompt_pixels.filter(|_| !owner.is_empty()) else { return Ok(()) };
    let wanted = prompt.nodes().keys().filter_map(|id| {
        let inputs = prompt.inputs(id)?;
        let number = |name: &str| match inputs.get(name)? {
            Value::Bool(value) => Some(f64::from(u8::from(*value))),
            other => other.as_f64(),
        };
        let number = |name: &str| number(name).filter(|number| *number > 0.0);
        Some(number("width")? * number("height")? * number("batch_size")? * number("length").unwrap_or(1.0))
    });
    let wanted: f64 = wanted.sum();
    if wanted <= most as f64 {
        return Ok(());
    }
    let message = format!("the prompt asks for {wanted} pixels of the {most} that a user's may: make pictures smaller, or fewer at once");
    Err(ApiError::new(StatusCode::FORBIDDEN, "pixel_quota", message))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use comfyd_graph::Limits;
    use serde_json::json;

    use super::*;

    #[test]
    fn prompts_are_counted_for_each_user() {
        let usage = Usage::new(Quotas { prompts_per_minute: Some(2), ..Quotas::default() });
        let sent = |owner: &str| usage.prompt(&owner.into()).is_ok();
        assert_eq!([sent("a"), sent("a"), sent("a"), sent("b"), sent("")], [true, true, false, true, true]);
        usage.prompts.lock().get_mut("a").unwrap().1 -= MINUTE / 2;
        assert!(sent("a") && !sent("a"));
    }

    #[test]
    fn space_is_measured_and_what_comes_is_added() {
        let dir = tempfile::tempdir().unwrap();
        let usage = Usage::new(Quotas { disk_bytes: Some(10), ..Quotas::default() });
        std::fs::create_dir(dir.path().join("deep")).unwrap();
        std::fs::write(dir.path().join("deep/a"), "12345").unwrap();
        let base = tempfile::tempdir().unwrap();
        let folders = Folders::new(comfyd_folders::Roots::under(base.path())).unwrap();
        let fits = |more| usage.room(&"a".into(), &folders, &[dir.path().to_owned()], more).is_ok();
        assert_eq!([fits(0), fits(6), fits(4), fits(2), fits(1)], [true, false, true, false, true]);
        assert!(usage.room(&"".into(), &folders, &[dir.path().to_owned()], 100).is_ok());
    }

    #[test]
    fn pixels_are_those_of_plain_numbers() {
        let node = |batch: Value| {
            let graph = json!({
                "1": {"class_type": "A", "inputs": {"width": 8, "height": 4, "batch_size": batch}},
                "2": {"class_type": "A", "inputs": {"width": 1e9}},
            });
            Prompt::parse(graph, &Limits::default()).unwrap()
        };
        let quotas = Quotas { prompt_pixels: Some(64), ..Quotas::default() };
        assert!(pixels(&node(json!(2)), &quotas, "a").is_ok() && pixels(&node(json!(3)), &quotas, "a").is_err());
        assert!(pixels(&node(json!(["3", 0])), &quotas, "a").is_ok() && pixels(&node(json!(3)), &quotas, "").is_ok());
    }
}

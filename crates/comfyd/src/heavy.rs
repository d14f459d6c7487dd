//! Models that have no room on some device of this process, as their files tell, so that prompts with them go where there is room. What else
//! a prompt holds makes way for a model, so that each is looked at by itself. Does not know who runs what.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use comfyd_folders::Folders;
use comfyd_weights::StateDict;
use parking_lot::Mutex;

/// Folders whose models are on the device as a whole while they run.
const WHOLE: [&str; 5] = ["checkpoints", "diffusion_models", "text_encoders", "controlnet", "clip_vision"];
/// The folder whose files have several models in them, of which the denoiser is the largest, and what its tensors' names begin with.
const SEVERAL: &str = "checkpoints";
const DENOISER: &str = "model.diffusion_model.";
/// How long what was found is good while the lists of files stay the same.
const FRESH: Duration = Duration::from_secs(60);

/// Model files by the names of their folders.
type Models = BTreeMap<Arc<str>, BTreeSet<Arc<str>>>;

/// What models need that are too large for some device.
#[derive(Debug, Default, Clone)]
pub(crate) struct Heavy {
    bytes: BTreeMap<Arc<str>, BTreeMap<Arc<str>, u64>>,
    /// What was looked at, and when.
    of: Option<(Models, u64, Instant)>,
    /// What files need, by their paths; good for a length and a time.
    known: HashMap<std::path::PathBuf, (u64, Option<SystemTime>, u64)>,
}

impl Heavy {
    /// What a model needs at least; nothing if it has room everywhere here.
    pub(crate) fn bytes(&self, folder: &str, file: &str) -> u64 {
        self.bytes.get(folder).and_then(|files| files.get(file)).copied().unwrap_or(0)
    }

    /// Those that need more than this.
    pub(crate) fn over(&self, room: u64) -> BTreeMap<Arc<str>, BTreeMap<Arc<str>, u64>> {
        let over = self.bytes.iter().map(|(folder, files)| {
            (folder.clone(), files.iter().filter(|(_, bytes)| **bytes > room).map(|(file, bytes)| (file.clone(), *bytes)).collect())
        });
        over.filter(|(_, files): &(Arc<str>, BTreeMap<Arc<str>, u64>)| !files.is_empty()).collect()
    }
}

/// Looks which of these need more than `room`. Files that are larger are opened, for what they say of their tensors.
pub(crate) fn look(folders: &Folders, models: &Models, room: u64, heavy: &Mutex<Heavy>) -> Heavy {
    let before = heavy.lock().clone();
    let fresh = |(of, over, at): &(Models, u64, Instant)| of == models && *over == room && at.elapsed() < FRESH;
    if before.of.as_ref().is_some_and(fresh) {
        return before;
    }
    let mut now = Heavy { of: Some((models.clone(), room, Instant::now())), ..Heavy::default() };
    for (folder, files) in models.iter().filter(|(folder, _)| WHOLE.contains(&&***folder)) {
        for file in files {
            let Some(path) = folders.model_path(folder, file) else { continue };
            let Ok(metadata) = path.metadata() else { continue };
            if metadata.len() <= room {
                continue;
            }
            let (len, changed) = (metadata.len(), metadata.modified().ok());
            let known = before.known.get(&path).filter(|known| (known.0, known.1) == (len, changed));
            let bytes = known.map_or_else(|| needs(folder, &path), |known| known.2);
            now.known.insert(path, (len, changed, bytes));
            if bytes > room {
                now.bytes.entry(folder.clone()).or_default().insert(file.clone(), bytes);
            }
        }
    }
    *heavy.lock() = now.clone();
    now
}

/// What the largest model in a file takes, as far as its file tells; nothing where it cannot be read.
fn needs(folder: &str, path: &Path) -> u64 {
    let Ok(dict) = StateDict::open(path).inspect_err(|error| tracing::debug!(%error, "it is not known what a model needs")) else {
        return 0;
    };
    let sum = |start: &str| -> u64 { dict.iter().filter(|(name, _)| name.starts_with(start)).map(|(_, tensor)| tensor.size_bytes()).sum() };
    let denoiser = if folder == SEVERAL { sum(DENOISER) } else { 0 };
    if denoiser > 0 { denoiser } else { sum("") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use comfyd_folders::Roots;

    use super::*;

    /// A safetensors file of bytes, of which there are so many under each name. They take no room on the disk.
    fn file(path: &Path, tensors: &[(&str, u64)]) {
        let mut at = 0;
        let mut described = serde_json::Map::new();
        for (name, bytes) in tensors {
            described.insert((*name).to_owned(), serde_json::json!({"dtype": "U8", "shape": [bytes], "data_offsets": [at, at + bytes]}));
            at += bytes;
        }
        let head = serde_json::to_vec(&described).unwrap();
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, [&(head.len() as u64).to_le_bytes()[..], &head].concat()).unwrap();
        std::fs::File::options().write(true).open(path).unwrap().set_len(8 + head.len() as u64 + at).unwrap();
    }

    #[test]
    fn what_has_no_room_is_found_by_what_files_say() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join("models").join(name);
        file(&at("checkpoints/all.safetensors"), &[("model.diffusion_model.a", 3 << 20), ("first_stage_model.b", 2 << 20)]);
        file(&at("diffusion_models/one.safetensors"), &[("a", 3 << 20), ("b", 2 << 20)]);
        file(&at("diffusion_models/small.safetensors"), &[("a", 10)]);
        file(&at("loras/large.safetensors"), &[("a", 9 << 20)]);
        std::fs::write(at("checkpoints/no model.safetensors"), vec![0; 9 << 20]).unwrap();
        let folders = Folders::new(Roots::under(dir.path())).unwrap();
        let files = |folder: &str| (Arc::from(folder), folders.own_model_files(folder).unwrap().into_iter().map(Arc::from).collect());
        let models: Models = ["checkpoints", "diffusion_models", "loras"].map(files).into();
        let seen = Mutex::default();
        let found = look(&folders, &models, 4 << 20, &seen);
        assert_eq!(found.bytes("diffusion_models", "one.safetensors"), 5 << 20);
        assert_eq!(found.bytes("checkpoints", "all.safetensors"), 0, "its denoiser has room, and its autoencoder by itself");
        assert_eq!([found.bytes("loras", "large.safetensors"), found.bytes("checkpoints", "no model.safetensors")], [0, 0]);
        let tight = look(&folders, &models, 2 << 20, &seen);
        assert_eq!(tight.bytes("checkpoints", "all.safetensors"), 3 << 20);
        let over: Vec<(Arc<str>, Vec<u64>)> =
            tight.over(4 << 20).into_iter().map(|(folder, files)| (folder, files.into_values().collect())).collect();
        assert_eq!(over, [("diffusion_models".into(), vec![5 << 20])], "a larger device has room for the other");
        assert_eq!(seen.lock().bytes("checkpoints", "all.safetensors"), 3 << 20);
    }
}

//! What a file's path says of it: in which root it is and whose, the names under which people and loaders know it, and the tags that follow.
//! Knows no database.

use std::path::{Component, Path, PathBuf};

use comfyd_folders::{Folders, Kind};

use crate::error::{Error, Result};

/// Model folders that hold no models.
const NO_MODELS: [&str; 2] = ["configs", "custom_nodes"];
/// Folders among the inputs that the front end makes: files right in one get its name as a tag.
const KNOWN_SUBFOLDERS: [&str; 5] = ["3d", "pasted", "painter", "threed", "webcam"];
/// What each user's folder is in.
const USERS: &str = "users";

/// The root that holds models.
pub const MODELS: &str = "models";

/// What a path says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// `input`, `output`, `temp` or `models`.
    pub root: &'static str,
    /// Whose folder it is in; empty: nobody's.
    pub owner: String,
    /// What a loader calls it; `None` where none lists it.
    pub loader_path: Option<String>,
    /// The tags that follow from it.
    pub tags: Vec<String>,
}

impl Place {
    /// What the path of a file says; `None` for one that is in none of the folders.
    pub fn of(folders: &Folders, path: &Path) -> Option<Self> {
        let homes: Vec<_> = folders.model_homes(path).into_iter().filter(|home| !NO_MODELS.contains(&&*home.folder)).collect();
        let kind = [Kind::Input, Kind::Output, Kind::Temp].into_iter().find(|kind| path.starts_with(folders.directory(*kind)));
        let mut tags: Vec<String> = kind.iter().map(|kind| kind.as_str().to_owned()).collect();
        if !homes.is_empty() {
            tags.push(MODELS.to_owned());
        }
        let listing = || homes.iter().filter(|home| home.lists);
        tags.extend(listing().map(|home| format!("model_type:{}", home.folder)));
        let relative = kind.and_then(|kind| slashed(path.strip_prefix(folders.directory(kind)).ok()?));
        let (owner, below) = relative.as_deref().map_or(("", ""), of_user);
        if kind == Some(Kind::Input)
            && let Some((folder, name)) = below.split_once('/')
            && KNOWN_SUBFOLDERS.contains(&folder)
            && !name.contains('/')
        {
            tags.push(folder.to_owned());
        }
        // Models that were saved among the outputs are everybody's, as those in the model folders are.
        let root = match kind {
            Some(Kind::Output | Kind::Temp) if owner.is_empty() && listing().next().is_some() => MODELS,
            Some(kind) => kind.as_str(),
            None if homes.is_empty() => return None,
            None => MODELS,
        };
        let deepest =
            || listing().max_by_key(|home| home.base.as_os_str().len()).and_then(|home| slashed(path.strip_prefix(&home.base).ok()?));
        let owner = owner.to_owned();
        let loader_path = relative.or_else(deepest);
        Some(Self { root, owner, loader_path, tags })
    }
}

/// The tag of a folder among the inputs that the front end makes.
pub fn subfolder_tag(subfolder: &str) -> Option<&str> {
    KNOWN_SUBFOLDERS.contains(&subfolder).then_some(subfolder)
}

/// The folder in which clients find a file (`input`, `output`, `temp`, `models`), and its path below, with slashes.
pub fn shown(folders: &Folders, path: &Path) -> Option<(&'static str, String)> {
    let kinds = [Kind::Input, Kind::Output, Kind::Temp].map(|kind| (kind.as_str(), folders.directory(kind).to_owned()));
    let roots = [(MODELS, folders.roots().base.join(MODELS))].into_iter().chain(kinds.into_iter().rev());
    let (name, root) = roots.filter(|(_, root)| path.starts_with(root)).max_by_key(|(_, root)| root.as_os_str().len())?;
    Some((name, slashed(path.strip_prefix(root).ok()?)?))
}

/// The folder that an upload goes into: that of the one role among its tags. What this thread may write as is the thread's.
pub fn destination(folders: &Folders, tags: &[String]) -> Result<(PathBuf, &'static str)> {
    let roles: Vec<&str> = tags.iter().map(String::as_str).filter(|tag| matches!(*tag, "input" | "output" | MODELS)).collect();
    let [role] = roles[..] else {
        return Err(Error::Invalid("an upload needs exactly one of the tags input, output and models: it says where the file goes".into()));
    };
    match Kind::parse(role) {
        Some(kind) => Ok((folders.own(kind), kind.as_str())),
        None => {
            let mut kinds = tags.iter().filter_map(|tag| tag.strip_prefix("model_type:"));
            let (Some(folder), None) = (kinds.next().filter(|kind| !kind.is_empty()), kinds.next()) else {
                return Err(Error::Invalid("an upload of a model needs exactly one tag model_type:FOLDER".into()));
            };
            let known = folders.model_folders().iter().any(|known| known == folder) && !NO_MODELS.contains(&folder);
            let first = folders.model_paths(folder).filter(|_| known).and_then(|paths| paths.into_iter().next());
            let first = first.ok_or_else(|| Error::Invalid(format!("there is no model folder '{folder}': name one of /models")))?;
            Ok((first, MODELS))
        }
    }
}

/// The folders of models that may be looked through.
pub(crate) fn model_folders(folders: &Folders) -> Vec<String> {
    folders.model_folders().into_iter().filter(|folder| !NO_MODELS.contains(&folder.as_str())).collect()
}

/// Of a path in a root: whose folder it is in, and the rest.
fn of_user(relative: &str) -> (&str, &str) {
    match relative.split_once('/').filter(|(first, _)| first.eq_ignore_ascii_case(USERS)).and_then(|(_, rest)| rest.split_once('/')) {
        Some((owner, rest)) => (owner, rest),
        None => ("", relative),
    }
}

/// A relative path with slashes; `None` where it is empty or no text.
fn slashed(path: &Path) -> Option<String> {
    let parts: Option<Vec<&str>> = path
        .components()
        .map(|part| match part {
            Component::Normal(name) => name.to_str(),
            _ => None,
        })
        .collect();
    parts.filter(|parts| !parts.is_empty()).map(|parts| parts.join("/"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use comfyd_folders::{AddedFolder, Roots};

    use super::*;

    fn folders(dir: &Path) -> Folders {
        let mut folders = Folders::new(Roots::under(dir)).unwrap();
        folders.add_saved_models();
        folders.add_model_path("loras", dir.join("shared"), false);
        folders.set_added(&[
            AddedFolder { name: "LLM".into(), paths: vec![dir.join("shared")], extensions: vec![".gguf".into()] },
            AddedFolder { name: "anything".into(), paths: vec![dir.join("any")], extensions: vec![] },
        ]);
        folders
    }

    #[test]
    fn tags_and_loader_paths_follow_from_the_path() {
        let dir = tempfile::tempdir().unwrap();
        let folders = folders(dir.path());
        for (path, root, owner, loader, tags) in [
            ("input/some/folder/a.png", "input", "", Some("some/folder/a.png"), "input"),
            ("input/pasted/a.png", "input", "", Some("pasted/a.png"), "input pasted"),
            ("input/pasted/deep/a.png", "input", "", Some("pasted/deep/a.png"), "input"),
            ("output/pasted/a.png", "output", "", Some("pasted/a.png"), "output"),
            ("input/users/ann/webcam/a.png", "input", "ann", Some("users/ann/webcam/a.png"), "input webcam"),
            ("output/users/ann/a.png", "output", "ann", Some("users/ann/a.png"), "output"),
            ("temp/x/p.png", "temp", "", Some("x/p.png"), "temp"),
            ("models/checkpoints/loras/m.safetensors", "models", "", Some("loras/m.safetensors"), "models model_type:checkpoints"),
            ("models/checkpoints/notes.txt", "models", "", None, "models"),
            ("models/unet/w.gguf", "models", "", Some("w.gguf"), "models model_type:diffusion_models"),
            ("output/loras/x/l.safetensors", "models", "", Some("loras/x/l.safetensors"), "output models model_type:loras"),
            ("shared/l.safetensors", "models", "", Some("l.safetensors"), "models model_type:loras"),
            ("shared/l.gguf", "models", "", Some("l.gguf"), "models model_type:LLM"),
            ("any/a.b.txt", "models", "", Some("a.b.txt"), "models model_type:anything"),
        ] {
            let place = Place::of(&folders, &dir.path().join(path)).unwrap();
            let found = (place.root, place.owner.as_str(), place.loader_path.as_deref(), place.tags.join(" "));
            assert_eq!(found, (root, owner, loader, tags.to_owned()), "{path}");
        }
        for nowhere in ["else/a.png", "models/no_such/orphan.bin", "custom_nodes/x/y.py", "models/configs/c.yaml"] {
            assert_eq!(Place::of(&folders, &dir.path().join(nowhere)), None, "{nowhere}");
        }
    }

    #[test]
    fn clients_find_a_file_below_its_longest_root() {
        let dir = tempfile::tempdir().unwrap();
        let mut roots = Roots::under(dir.path());
        roots.output = dir.path().join("input/results");
        let folders = Folders::new(roots).unwrap();
        for (path, found) in [
            ("input/a/b.png", Some(("input", "a/b.png"))),
            ("input/results/b.png", Some(("output", "b.png"))),
            ("models/no_such/orphan.bin", Some(("models", "no_such/orphan.bin"))),
            ("input", None),
            ("elsewhere/x", None),
        ] {
            let shown = shown(&folders, &dir.path().join(path));
            assert_eq!(shown.as_ref().map(|(root, below)| (*root, below.as_str())), found, "{path}");
        }
    }

    #[test]
    fn one_role_says_where_an_upload_goes() {
        let dir = tempfile::tempdir().unwrap();
        let folders = folders(dir.path());
        for (tags, place) in [
            ("input ..", Some("input")),
            ("label output", Some("output")),
            ("models model_type:vae", Some("models/vae")),
            ("input output", None),
            ("label", None),
            ("models", None),
            ("models model_type:", None),
            ("models model_type:vae model_type:loras", None),
            ("models model_type:no_such", None),
            ("models model_type:configs", None),
            ("models model_type:custom_nodes", None),
        ] {
            let tags: Vec<String> = tags.split(' ').map(str::to_owned).collect();
            let found = destination(&folders, &tags).ok().map(|(folder, _)| folder);
            assert_eq!(found, place.map(|place| dir.path().join(place)), "{tags:?}");
        }
    }
}

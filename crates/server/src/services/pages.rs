//! The files of the front end: its folder, and the packages that are installed beside it. Does not know how they are sent.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::options::{FrontEnd, Options};
use crate::services::paths::inside;

/// Python packages that are installed next to the front end's, by the URL under which their files are served:
/// (first part of the path, package, folder in it).
const PACKAGES: [(&str, &str, &str); 2] =
    [("templates", "comfyui_workflow_templates", "templates"), ("docs", "comfyui_embedded_docs", "docs")];
/// Scripts of extensions that are listed.
const MAX_SCRIPTS: usize = 10_000;
/// Folders of extensions deeper than this are not entered.
const MAX_DEPTH: usize = 16;

/// Where a static file may be: in the front end's folder, or in a package beside it.
pub(crate) fn candidates(root: &Path, path: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = inside(root, path).into_iter().collect();
    // site-packages/comfyui_frontend_package/static → site-packages
    let packages = root.parent().and_then(Path::parent);
    if let (Some((first, rest)), Some(packages)) = (path.split_once('/'), packages)
        && let Some((_, package, folder)) = PACKAGES.iter().find(|(name, ..)| *name == first)
    {
        files.extend(inside(&packages.join(package).join(folder), rest));
    }
    files
}

/// The static file of a path. Waits for the disk.
pub(crate) fn find(root: &Path, path: &str) -> Option<PathBuf> {
    candidates(root, path).into_iter().find(|file| file.is_file())
}

/// The version of the workflow templates that are served, if there are some and it is known.
pub(crate) fn templates_version(options: &Options) -> Option<String> {
    let FrontEnd::Folder(root) = &options.front_end else { return None };
    if root.join("templates/index.json").is_file() {
        // Beside the front end's own pages are those that go with it.
        return Some(options.required_versions.1.clone());
    }
    let packages = root.parent().and_then(Path::parent)?;
    let mut names = std::fs::read_dir(packages).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.find_map(|name| Some(name.strip_prefix("comfyui_workflow_templates-")?.strip_suffix(".dist-info")?.to_owned()))
}

/// The settings of a user who has none yet. At the first start the front end opens a gallery of templates; where none are installed it is
/// to begin with its default workflow. It then notes no version for a new user by itself, on which its defaults depend.
pub(crate) fn initial_settings(front_end: &FrontEnd) -> Map<String, Value> {
    let mut settings = Map::new();
    if let FrontEnd::Folder(root) = front_end
        && find(root, "templates/index.json").is_none()
    {
        settings.insert("Comfy.TutorialCompleted".into(), Value::Bool(true));
        let folder = root.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if folder.starts_with(|c: char| c.is_ascii_digit()) {
            settings.insert("Comfy.InstalledVersion".into(), folder.into());
        }
    }
    settings
}

/// The scripts of the front end's extensions, from its root.
pub(crate) fn scripts(front_end: &FrontEnd) -> Vec<String> {
    match front_end {
        FrontEnd::Folder(root) => scripts_below(&root.join("extensions"), "/extensions"),
        FrontEnd::Builtin | FrontEnd::None => Vec::new(),
    }
}

/// The scripts in a folder that is served below an address.
pub(crate) fn scripts_below(folder: &Path, address: &str) -> Vec<String> {
    let mut scripts = Vec::new();
    find_scripts(folder, address, folder, MAX_DEPTH, &mut scripts);
    scripts.sort_unstable();
    scripts
}

fn find_scripts(root: &Path, address: &str, folder: &Path, depth: usize, scripts: &mut Vec<String>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") || scripts.len() >= MAX_SCRIPTS {
            continue;
        }
        if path.is_dir() {
            if depth > 0 {
                find_scripts(root, address, &path, depth - 1, scripts);
            }
        } else if path.extension().is_some_and(|e| e == "js")
            && let Some(relative) = path.strip_prefix(root).ok().and_then(Path::to_str)
        {
            scripts.push(format!("{address}/{}", relative.replace('\\', "/")));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn files_are_looked_for_inside_only() {
        let root = Path::new("/site/comfyui_frontend_package/static");
        assert_eq!(candidates(root, "assets/a.js"), [root.join("assets/a.js")]);
        assert!(candidates(root, "../a.js").is_empty());
        let found = candidates(root, "templates/index.json");
        assert_eq!(found, [root.join("templates/index.json"), "/site/comfyui_workflow_templates/templates/index.json".into()]);
        assert!(candidates(root, "templates/../../x").is_empty());
    }

    #[test]
    fn scripts_are_named_from_the_root() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("extensions/core")).unwrap();
        std::fs::write(dir.path().join("extensions/core/a.js"), "").unwrap();
        std::fs::write(dir.path().join("extensions/core/a.css"), "").unwrap();
        assert_eq!(scripts(&FrontEnd::Folder(dir.path().into())), ["/extensions/core/a.js"]);
    }
}

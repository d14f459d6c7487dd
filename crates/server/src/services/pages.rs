//! The files of the front end: its folder, and the packages that are installed beside it. Does not know how they are sent.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::options::FrontEnd;
use crate::services::paths::inside;

/// What is beside the front end's pages: the first part of its address, the Python packages that are installed next to the front end's and
/// whose names begin so, and the folder in them. Templates are in several packages, and their pictures in several folders.
const PACKAGES: [(&str, &str, &str); 2] =
    [("templates", "comfyui_workflow_templates", "templates"), ("docs", "comfyui_embedded_docs", "docs")];
/// The package of blueprints, and the folder in it; below the front end's pages it is called as the folder.
const BLUEPRINTS: (&str, &str) = ("comfyui_subgraph_blueprints", "blueprints");
/// Scripts of extensions that are listed.
const MAX_SCRIPTS: usize = 10_000;
/// Blueprints that are listed.
const MAX_BLUEPRINTS: usize = 10_000;
/// Where the version of a package stands that was unpacked below the front end's pages.
const VERSION_FILE: &str = ".version";
/// Folders of extensions deeper than this are not entered.
const MAX_DEPTH: usize = 16;

/// site-packages/comfyui_frontend_package/static → site-packages
fn packages(root: &Path) -> Option<&Path> {
    root.parent().and_then(Path::parent)
}

/// The folders in a folder whose names begin so, in order.
fn folders_of(folder: &Path, start: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let named = entries.filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(start)));
    let mut folders: Vec<PathBuf> = named.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    folders.sort_unstable();
    folders
}

/// Where a static file may be: in the front end's folder, in one beside its own there, or in a package beside it. Waits for the disk.
fn candidates(root: &Path, path: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = inside(root, path).into_iter().collect();
    if let Some((first, rest)) = path.split_once('/')
        && let Some((_, package, folder)) = PACKAGES.iter().find(|(name, ..)| *name == first)
    {
        let beside = folders_of(root, &format!("{folder}-"));
        let packaged = packages(root).map(|packages| folders_of(packages, package)).unwrap_or_default();
        let folders = beside.into_iter().chain(packaged.into_iter().map(|package| package.join(folder)));
        files.extend(folders.filter_map(|folder| inside(&folder, rest).ok()));
    }
    files
}

/// The static file of a path. Waits for the disk.
pub(crate) fn find(root: &Path, path: &str) -> Option<PathBuf> {
    let own = inside(root, path).ok().filter(|file| file.is_file());
    own.or_else(|| candidates(root, path).into_iter().find(|file| file.is_file()))
}

/// The versions of the packages of pages that are there, as far as they can be told.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Installed {
    pub front_end: Option<String>,
    pub templates: Option<String>,
    pub docs: Option<String>,
}

/// What is installed. Waits for the disk.
pub(crate) fn installed(front_end: &FrontEnd) -> Installed {
    let FrontEnd::Folder(root) = front_end else { return Installed::default() };
    let packages = packages(root).and_then(|packages| std::fs::read_dir(packages).ok()).into_iter().flatten().flatten();
    let names: Vec<String> = packages.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    let beside = |package: &str| {
        let version = |name: &String| Some(name.strip_prefix(package)?.strip_prefix('-')?.strip_suffix(".dist-info")?.to_owned());
        names.iter().find_map(version)
    };
    // Its own say so where they were unpacked.
    let own = |folder: &str| std::fs::read_to_string(root.join(folder).join(VERSION_FILE)).ok().map(|version| version.trim().to_owned());
    let folder = root.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let named = folder.starts_with(|c: char| c.is_ascii_digit()).then(|| folder.to_owned());
    Installed {
        front_end: named.or_else(|| beside("comfyui_frontend_package")),
        templates: own("templates").or_else(|| beside("comfyui_workflow_templates")),
        docs: own("docs").or_else(|| beside("comfyui_embedded_docs")),
    }
}

/// The blueprints that are installed: id, name and file. Waits for the disk.
pub(crate) fn blueprints(front_end: &FrontEnd) -> Vec<Blueprint> {
    let FrontEnd::Folder(root) = front_end else { return Vec::new() };
    let (package, folder) = BLUEPRINTS;
    let places = [Some(root.join(folder)), packages(root).map(|packages| packages.join(package).join(folder))];
    let entries = places.into_iter().flatten().find_map(|place| std::fs::read_dir(place).ok()).into_iter().flatten().flatten();
    let mut found: Vec<Blueprint> = entries.take(MAX_BLUEPRINTS).filter_map(|entry| Blueprint::of(entry.path())).collect();
    found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    found
}

/// A workflow that is offered as one node.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Blueprint {
    pub id: String,
    pub name: String,
    pub file: PathBuf,
}

impl Blueprint {
    /// Its id is as good as its name and the same wherever it is installed.
    fn of(file: PathBuf) -> Option<Self> {
        let name = file.file_name()?.to_str()?.strip_suffix(".json").filter(|name| !name.starts_with('.'))?.to_owned();
        let id = Sha256::digest(format!("templates/{name}")).iter().map(|byte| format!("{byte:02x}")).collect();
        Some(Self { id, name, file })
    }
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

    fn put(path: &Path, text: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn files_are_looked_for_inside_only() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("comfyui_frontend_package/static");
        put(&root.join("assets/a.js"), "");
        put(&root.join("templates-media-image/a.webp"), "");
        put(&dir.path().join("comfyui_workflow_templates_json/templates/index.json"), "");
        put(&dir.path().join("comfyui_workflow_templates_media_video/templates/b.webp"), "");
        put(&dir.path().join("secret"), "");
        let found = |path: &str| find(&root, path).map(|file| file.strip_prefix(dir.path()).unwrap().to_str().unwrap().to_owned());
        assert_eq!(found("assets/a.js").unwrap(), "comfyui_frontend_package/static/assets/a.js");
        assert_eq!(found("templates/a.webp").unwrap(), "comfyui_frontend_package/static/templates-media-image/a.webp");
        assert_eq!(found("templates/index.json").unwrap(), "comfyui_workflow_templates_json/templates/index.json");
        assert_eq!(found("templates/b.webp").unwrap(), "comfyui_workflow_templates_media_video/templates/b.webp");
        for path in ["../secret", "../../secret", "templates/../../secret", "templates/../../../secret", "docs/index.json", "templates/c"] {
            assert_eq!(found(path), None, "{path}");
        }
    }

    #[test]
    fn packages_are_known_by_their_folders() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("comfyui_frontend_package/static");
        for package in ["comfyui_frontend_package-1.49.6", "comfyui_workflow_templates-0.11.44", "comfyui_workflow_templates_json-0.1.50"] {
            std::fs::create_dir_all(dir.path().join(format!("{package}.dist-info"))).unwrap();
        }
        put(&dir.path().join("comfyui_subgraph_blueprints/blueprints/sharpen.json"), "{}");
        put(&dir.path().join("comfyui_subgraph_blueprints/blueprints/notes.txt"), "");
        let known = |version: &str| Some(version.to_owned());
        let front_end = FrontEnd::Folder(root);
        assert_eq!(installed(&front_end), Installed { front_end: known("1.49.6"), templates: known("0.11.44"), docs: None });
        assert_eq!(blueprints(&front_end).iter().map(|found| found.name.as_str()).collect::<Vec<_>>(), ["sharpen"]);

        let own = dir.path().join("base/web/1.58.1");
        put(&own.join("docs/.version"), "0.5.15\n");
        put(&own.join("blueprints/blur.json"), "{}");
        let (front_end, packaged) = (FrontEnd::Folder(own), blueprints(&front_end));
        assert_eq!(installed(&front_end), Installed { front_end: known("1.58.1"), templates: None, docs: known("0.5.15") });
        assert_eq!(blueprints(&front_end)[0].name, "blur");
        assert_ne!(blueprints(&front_end)[0].id, packaged[0].id);
        assert_eq!((installed(&FrontEnd::None), blueprints(&FrontEnd::Builtin)), (Installed::default(), Vec::new()));
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

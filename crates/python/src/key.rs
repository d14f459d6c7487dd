//! What decides which classes an installation has, hashed: a manifest that is kept is good as long as this stays.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use crate::files;
use crate::interpreter::packages;
use crate::settings::{Network, Settings};

/// Raised when a manifest is made or kept in another way.
const FORMAT: u32 = 2;
/// Where it listens has no part in which classes there are.
const ADDRESS: [&str; 2] = ["--listen", "--port"];
/// So many packs and, in each, so many files are looked at.
const MAX_PACKS: usize = 4_096;
const MAX_FILES: usize = 512;
/// Folders of packs that are large and hold no code of theirs.
const NOT_PYTHON: [&str; 3] = [".git", "__pycache__", "node_modules"];
/// How deep packs are looked into.
const MAX_DEPTH: usize = 3;

/// The key of an installation as it is now.
pub(crate) fn key(settings: &Settings, python: &Path) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut add = |name: &str, value: &str| {
        for part in [name, value] {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
        }
    };
    add("format", &FORMAT.to_string());
    for (name, text) in files::FILES {
        add(name, text);
    }
    add("comfyui", &settings.comfyui.to_string_lossy());
    add("version", &std::fs::read_to_string(settings.comfyui.join("comfyui_version.py")).unwrap_or_default());
    add("commit", &commit(&settings.comfyui).unwrap_or_else(|| newest(&settings.comfyui)));
    add("python", &python.to_string_lossy());
    for folder in packages(python) {
        add("packages", &format!("{} {}", folder.display(), modified(&folder)));
    }
    for (name, value) in options(&settings.args) {
        if !ADDRESS.contains(&name) {
            add(name, value.unwrap_or_default());
        }
    }
    for (name, value) in &settings.variables {
        add("variable", &format!("{name}={value}"));
    }
    add("network", if settings.network == Network::Deny { "deny" } else { "allow" });
    let (base, files) = named_paths(settings);
    for file in files {
        add("paths", &format!("{} {}", file.display(), modified(&file)));
    }
    for (name, state) in packs(&settings.comfyui, base.as_deref()) {
        add(&name, &state);
    }
    hasher.finalize().to_hex()[..32].to_owned()
}

/// ComfyUI's options with their values, those that have several once for each.
fn options(args: &[String]) -> Vec<(&str, Option<&str>)> {
    let mut options = Vec::with_capacity(args.len());
    let mut last = "";
    for arg in args {
        match arg.split_once('=') {
            Some((name, value)) if name.starts_with("--") => options.push((name, Some(value))),
            _ if arg.starts_with("--") => {
                last = arg;
                options.push((last, None));
            }
            _ => options.push((last, Some(arg))),
        }
    }
    options
}

/// The base folder and the path files that ComfyUI's options name, and the checkout's own path file.
fn named_paths(settings: &Settings) -> (Option<PathBuf>, Vec<PathBuf>) {
    let place = |text: &str| settings.comfyui.join(text);
    let (mut base, mut files) = (None, vec![place("extra_model_paths.yaml")]);
    for (name, value) in options(&settings.args) {
        match (name, value) {
            ("--base-directory", Some(value)) => base = Some(place(value)),
            ("--extra-model-paths-config", Some(value)) => files.push(place(value)),
            _ => {}
        }
    }
    (base, files)
}

/// The packs of the folders `custom_nodes`, each with what tells that it changed.
fn packs(comfyui: &Path, base: Option<&Path>) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for root in std::iter::once(comfyui).chain(base) {
        let Ok(entries) = std::fs::read_dir(root.join("custom_nodes")) else { continue };
        for entry in entries.flatten().take(MAX_PACKS) {
            let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
            if name == "__pycache__" {
                continue;
            }
            // Changes are not always committed, and a commit may bring older files.
            let state = if path.is_dir() { format!("{} {}", commit(&path).unwrap_or_default(), newest(&path)) } else { modified(&path) };
            found.push((format!("{}/{name}", root.display()), state));
        }
    }
    found.sort();
    found
}

/// The commit that is checked out in a folder.
fn commit(folder: &Path) -> Option<String> {
    let mut git = folder.join(".git");
    if git.is_file() {
        // A worktree or a submodule: a file says where the rest is.
        let text = std::fs::read_to_string(&git).ok()?;
        git = folder.join(text.strip_prefix("gitdir:")?.trim());
    }
    let head = std::fs::read_to_string(git.join("HEAD")).ok()?;
    let Some(name) = head.trim().strip_prefix("ref:") else { return Some(head.trim().to_owned()) };
    let common = match std::fs::read_to_string(git.join("commondir")) {
        Ok(common) => git.join(common.trim()),
        Err(_) => git.clone(),
    };
    let name = name.trim();
    for place in [&git, &common] {
        if let Ok(commit) = std::fs::read_to_string(place.join(name)) {
            return Some(commit.trim().to_owned());
        }
    }
    let packed = std::fs::read_to_string(common.join("packed-refs")).ok()?;
    packed.lines().find_map(|line| line.strip_suffix(name)?.strip_suffix(' ').map(str::to_owned))
}

/// How many Python files and folders there are, some folders deep, and the newest time of one.
fn newest(folder: &Path) -> String {
    let mut left = MAX_FILES;
    let mut newest = 0;
    visit(folder, MAX_DEPTH, &mut left, &mut newest);
    format!("{} {newest}", MAX_FILES - left)
}

fn visit(folder: &Path, depth: usize, left: &mut usize, newest: &mut u128) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let mut entries: Vec<_> = entries.flatten().take(MAX_FILES).map(|entry| entry.path()).collect();
    entries.sort();
    for path in entries {
        let Some(rest) = left.checked_sub(1) else { return };
        if path.extension().is_some_and(|ending| ending == "py") {
            *left = rest;
            *newest = (*newest).max(time(&path));
        } else if depth > 1 && !NOT_PYTHON.iter().any(|name| path.ends_with(name)) && path.is_dir() {
            *left = rest;
            visit(&path, depth - 1, left, newest);
        }
    }
}

/// When a file or folder changed, as a text; empty if there is none.
pub(crate) fn modified(path: &Path) -> String {
    match time(path) {
        0 => String::new(),
        time => time.to_string(),
    }
}

fn time(path: &Path) -> u128 {
    let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified());
    modified.ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map_or(0, |since| since.as_nanos())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn write(path: &Path, text: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn every_change_of_an_installation_gives_another_key() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        let mut settings = Settings { comfyui: at("ComfyUI"), ..Settings::default() };
        let python = at("venv/bin/python");
        write(&at("ComfyUI/main.py"), "");
        let mut seen = vec![key(&settings, &python)];
        assert_eq!(seen[0], key(&settings, &python));
        let mut check = |what: &str, settings: &Settings| {
            let key = key(settings, &python);
            assert!(!seen.contains(&key), "{what}");
            seen.push(key);
        };
        write(&at("ComfyUI/.git/HEAD"), "ref: refs/heads/master\n");
        write(&at("ComfyUI/.git/packed-refs"), "# pack-refs\n1111 refs/heads/master\n");
        check("a commit among the packed", &settings);
        write(&at("ComfyUI/.git/refs/heads/master"), "2222\n");
        check("a commit", &settings);
        write(&at("ComfyUI/custom_nodes/pack/__init__.py"), "");
        check("a pack", &settings);
        write(&at("elsewhere/HEAD"), "3333\n");
        write(&at("ComfyUI/custom_nodes/pack/.git"), "gitdir: ../../../elsewhere\n");
        check("a pack's commit", &settings);
        write(&at("ComfyUI/custom_nodes/pack/a/b/deep.py"), "");
        check("a change that is not committed", &settings);
        write(&at("base/custom_nodes/single.py"), "");
        settings.args = vec!["--base-directory".into(), at("base").display().to_string()];
        check("another base folder", &settings);
        write(&at("paths.yaml"), "");
        settings.args.push(format!("--extra-model-paths-config={}", at("paths.yaml").display()));
        check("a path file", &settings);
        write(&at("venv/lib/python3.12/site-packages/torch.py"), "");
        check("packages", &settings);
        settings.variables.push(("CUDA_VISIBLE_DEVICES".into(), "1".into()));
        check("a variable", &settings);
        settings.network = Network::Deny;
        check("the network", &settings);
        let before = key(&settings, &python);
        settings.args.extend(["--port".into(), "8189".into(), "--listen=0.0.0.0".into()]);
        assert_eq!(key(&settings, &python), before, "an address");
    }
}

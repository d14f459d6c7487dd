//! Which Python runs a checkout.

use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::settings::Settings;

/// Where an environment's interpreter is in its folder.
const PLACES: [&str; 4] = ["bin/python", "bin/python3", "Scripts/python.exe", "python.exe"];
/// Environments that people make in or beside a checkout.
const FOLDERS: [&str; 3] = ["venv", ".venv", "python_embeded"];
const NAMES: [&str; 3] = ["python3", "python", "python.exe"];

/// Says why a folder is no ComfyUI that can be run.
pub(crate) fn check(comfyui: &Path) -> Result<(), Error> {
    if comfyui.join("main.py").is_file() {
        return Ok(());
    }
    let why = if comfyui.is_dir() { "it has no main.py" } else { "there is no such folder" };
    Err(Error::Unusable(format!("{} is not a ComfyUI: {why}; name the folder of a checkout with --comfyui", comfyui.display())))
}

/// The interpreter for these settings.
pub(crate) fn find(settings: &Settings) -> Result<PathBuf, Error> {
    if let Some(python) = &settings.python {
        return named(python, &settings.path);
    }
    let beside = [Some(settings.comfyui.as_path()), settings.comfyui.parent()];
    let made = beside.into_iter().flatten().flat_map(|root| FOLDERS.map(|folder| root.join(folder)));
    for environment in made.chain(settings.active.clone()) {
        if let Some(python) = PLACES.map(|place| environment.join(place)).into_iter().find(|python| python.is_file()) {
            return Ok(python);
        }
    }
    if settings.path.is_empty() {
        return Ok(NAMES[0].into());
    }
    let on_path = settings.path.iter().flat_map(|folder| NAMES.map(|name| folder.join(name))).find(|python| python.is_file());
    on_path.ok_or_else(|| {
        let place = settings.comfyui.display();
        Error::Unusable(format!("no Python was found for {place}: make an environment in its folder 'venv' or name one with --python"))
    })
}

fn named(python: &Path, path: &[PathBuf]) -> Result<PathBuf, Error> {
    let bare = python.components().count() == 1;
    if python.is_file() || (bare && path.is_empty()) {
        return Ok(python.to_owned());
    }
    let found = path.iter().map(|folder| folder.join(python)).find(|python| bare && python.is_file());
    found.ok_or_else(|| Error::Unusable(format!("there is no interpreter {}: name one with --python", python.display())))
}

/// The folders of its packages, as far as they are found without asking it.
pub(crate) fn packages(python: &Path) -> Vec<PathBuf> {
    let Some(root) = python.parent().and_then(Path::parent) else { return Vec::new() };
    let mut found = vec![root.join("pyvenv.cfg"), root.join("Lib/site-packages")];
    for lib in ["lib", "lib64"].map(|lib| root.join(lib)) {
        let Ok(entries) = std::fs::read_dir(lib) else { continue };
        let versions = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("python3"));
        found.extend(versions.flat_map(|entry| ["site-packages", "dist-packages"].map(|name| entry.path().join(name))));
    }
    found.retain(|path| path.exists());
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn touch(path: &Path) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "").unwrap();
    }

    #[test]
    fn the_nearest_environment_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        touch(&at("ComfyUI/main.py"));
        touch(&at("active/bin/python"));
        touch(&at("usr/python3"));
        let mut settings = Settings { comfyui: at("ComfyUI"), path: vec![at("nowhere"), at("usr")], ..Settings::default() };
        assert!(check(&settings.comfyui).is_ok());
        assert_eq!(find(&settings).unwrap(), at("usr/python3"));
        settings.active = Some(at("active"));
        assert_eq!(find(&settings).unwrap(), at("active/bin/python"));
        touch(&at("python_embeded/python.exe"));
        assert_eq!(find(&settings).unwrap(), at("python_embeded/python.exe"), "beside the checkout");
        touch(&at("ComfyUI/.venv/bin/python"));
        assert_eq!(find(&settings).unwrap(), at("ComfyUI/.venv/bin/python"), "in the checkout");
        settings.python = Some("python3".into());
        assert_eq!(find(&settings).unwrap(), at("usr/python3"), "a bare name is looked for");
        settings.python = Some(at("none/python"));
        assert!(find(&settings).unwrap_err().to_string().contains("name one with --python"));
        assert!(check(&at("none")).unwrap_err().to_string().contains("no such folder"));
        assert!(check(folder.path()).unwrap_err().to_string().contains("no main.py"));
    }
}

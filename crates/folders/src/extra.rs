//! Reads ComfyUI's `extra_model_paths.yaml`: groups with an optional `base_path` and `is_default`, then folder names with one path a line.

use std::path::{Path, PathBuf};

use serde_yaml_ng::Value as Yaml;

use crate::{Error, Result};

/// Looks up an environment variable. Only the binary reads the environment itself.
pub(crate) type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A search path to add.
pub(crate) struct ExtraPath {
    pub folder: String,
    pub path: PathBuf,
    pub first: bool,
}

pub(crate) fn read(file: &Path, env: Env<'_>) -> Result<Vec<ExtraPath>> {
    let fail = |reason: String| Error::ExtraPaths { path: file.to_owned(), reason };
    let text = std::fs::read_to_string(file).map_err(|e| fail(e.to_string()))?;
    let yaml: Yaml = serde_yaml_ng::from_str(&text).map_err(|e| fail(format!("it is not valid YAML: {e}")))?;
    let groups = match &yaml {
        Yaml::Null => return Ok(Vec::new()),
        Yaml::Mapping(groups) => groups,
        _ => return Err(fail("its top level must be a mapping of groups, as in ComfyUI's extra_model_paths.yaml.example".into())),
    };
    let file_dir = std::path::absolute(file).ok().and_then(|p| p.parent().map(Path::to_owned)).unwrap_or_default();
    let mut paths = Vec::new();
    for (group, content) in groups {
        let Yaml::Mapping(content) = content else {
            if content.is_null() {
                continue;
            }
            return Err(fail(format!("the group {group:?} must be a mapping of folder names to paths")));
        };
        let first = content.get("is_default").and_then(Yaml::as_bool).unwrap_or(false);
        let base = match content.get("base_path").and_then(Yaml::as_str) {
            Some(base) => file_dir.join(expand(base, env)),
            None => file_dir.clone(),
        };
        for (folder, lines) in content {
            let (Some(folder), Some(lines)) = (folder.as_str(), lines.as_str()) else { continue };
            if folder == "base_path" {
                continue;
            }
            for line in lines.lines().map(str::trim).filter(|l| !l.is_empty()) {
                paths.push(ExtraPath { folder: folder.into(), path: normalize(&base.join(expand(line, env))), first });
            }
        }
    }
    Ok(paths)
}

/// Replaces a leading `~` and `$NAME` / `${NAME}` by the environment's values; an unknown name stays as it is.
fn expand(text: &str, env: Env<'_>) -> PathBuf {
    let mut text = text.to_owned();
    if let (Some(rest), Some(home)) = (text.strip_prefix('~'), env("HOME"))
        && (rest.is_empty() || rest.starts_with('/'))
    {
        text = format!("{home}{rest}");
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let (name, used) = match after.strip_prefix('{').and_then(|a| a.split_once('}')) {
            Some((name, _)) => (name, name.len() + 2),
            None => {
                let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
                (&after[..end], end)
            }
        };
        match env(name) {
            Some(value) if !name.is_empty() => out.push_str(&value),
            _ => out.push_str(&rest[at..=at + used]),
        }
        rest = &after[used..];
    }
    out.push_str(rest);
    PathBuf::from(out)
}

fn normalize(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            std::path::Component::CurDir => {}
            std::path::Component::ParentDir => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}

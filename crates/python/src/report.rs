//! What is known of an installation, for people.

use serde_json::Value as Json;

use crate::manifest::Manifest;

/// A pack, or a part of ComfyUI that holds classes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pack {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub path: String,
    /// How long its import took.
    pub seconds: f64,
    /// Its classes.
    pub classes: Vec<String>,
    /// Why it could not be imported.
    pub error: Option<String>,
}

/// What is known of an installation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// What has which version: ComfyUI, Python, PyTorch.
    pub versions: Vec<(String, String)>,
    /// All classes.
    pub classes: Vec<String>,
    /// Packs, those that take longest first.
    pub packs: Vec<Pack>,
}

impl Report {
    pub(crate) fn new(manifest: &Manifest) -> Self {
        let members = |name: &str| manifest.rest.get(name).and_then(Json::as_object).into_iter().flatten();
        let shown = |json: &Json| json.as_str().map_or_else(|| json.to_string(), str::to_owned);
        let modules = manifest.rest.get("modules").and_then(Json::as_array);
        let mut packs: Vec<Pack> = modules.into_iter().flatten().map(pack).collect();
        packs.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        Self {
            versions: members("versions").map(|(name, version)| (name.clone(), shown(version))).collect(),
            classes: manifest.classes.keys().cloned().collect(),
            packs,
        }
    }

    /// The packs that could not be imported.
    pub fn failed(&self) -> impl Iterator<Item = &Pack> {
        self.packs.iter().filter(|pack| pack.error.is_some())
    }
}

fn pack(json: &Json) -> Pack {
    let text = |name: &str| json.get(name).and_then(Json::as_str);
    let classes = json.get("classes").and_then(Json::as_array);
    Pack {
        name: text("name").unwrap_or_default().to_owned(),
        path: text("path").unwrap_or_default().to_owned(),
        seconds: json.get("seconds").and_then(Json::as_f64).unwrap_or_default(),
        classes: classes.into_iter().flatten().filter_map(|name| name.as_str().map(str::to_owned)).collect(),
        error: text("error").map(str::to_owned),
    }
}

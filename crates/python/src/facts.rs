//! What a worker tells of a class beyond its `object_info`.

use std::path::PathBuf;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

/// What a worker tells of a class beyond its `object_info`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Facts {
    /// Other nodes may run while it does.
    #[serde(rename = "async")]
    pub is_async: bool,
    /// It takes all values of each input at once.
    pub list: bool,
    /// It says which lazy inputs it needs.
    pub lazy: bool,
    /// It says whether its result depends on more than its inputs.
    pub changed: bool,
    /// Whether it checks inputs, and which.
    pub validate: Validate,
    /// The inputs that it checks, if not all.
    pub validates: Vec<String>,
    /// Its check gets the types of links.
    pub types: bool,
    /// Its result is for one node only.
    pub once: bool,
    /// It reads the graph around it.
    pub introspects: bool,
    /// It takes inputs that it does not declare.
    pub open: bool,
    /// It is declared the newer way.
    pub v3: bool,
    /// Input → types that it takes beyond its own.
    pub accepts: IndexMap<String, Vec<String>>,
    /// Combo → its parts, where some are the files of a folder.
    pub lists: IndexMap<String, Vec<Part>>,
    /// Its part of `object_info` was made by the worker: ComfyUI itself fails at it, though it runs the class.
    pub unlisted: bool,
    /// A value at one of its links could not leave its process before. The worker does not know of it.
    pub stays: bool,
    /// The folders that were read while it declared itself.
    pub dirs: Vec<PathBuf>,
}

/// Which inputs a class checks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Json", into = "Json")]
pub(crate) enum Validate {
    #[default]
    None,
    Names,
    All,
}

impl From<Json> for Validate {
    fn from(json: Json) -> Self {
        match json.as_str() {
            Some("all") => Self::All,
            Some(_) => Self::Names,
            None if json == Json::Bool(true) => Self::Names,
            None => Self::None,
        }
    }
}

impl From<Validate> for Json {
    fn from(validate: Validate) -> Self {
        match validate {
            Validate::None => Self::Bool(false),
            Validate::Names => "names".into(),
            Validate::All => "all".into(),
        }
    }
}

/// A part of a combo's choices.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Part {
    /// The files of a folder.
    Folder {
        /// Its name.
        folder: String,
    },
    /// A choice.
    Value {
        /// It.
        v: Json,
    },
}

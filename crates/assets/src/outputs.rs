//! What nodes show, as assets: the files of a prompt are known, with their hashes, when its clients are told of them.

use std::path::Path;

use comfyd_folders::{Kind, join_inside};
use serde_json::{Map, Value};

use crate::asset::Viewer;
use crate::error::Result;
use crate::store::{New, Store};

/// Most files of one node that are taken.
const MAX_FILES: usize = 10_000;

impl Store {
    /// Takes the files that a node shows, which the prompt made, and gives each entry its asset's id. What cannot be taken is left as it is.
    pub fn take_shown(&self, prompt: &str, shown: &mut Map<String, Value>) {
        let lists = shown.values_mut().filter_map(Value::as_array_mut);
        for entry in lists.flatten().filter_map(Value::as_object_mut).take(MAX_FILES) {
            match self.take(prompt, entry) {
                Ok(Some(id)) => drop(entry.insert("id".to_owned(), id.into())),
                Ok(None) => {}
                Err(error) => tracing::warn!(prompt_id = prompt, %error, "a result is not among the assets"),
            }
        }
    }

    fn take(&self, prompt: &str, entry: &Map<String, Value>) -> Result<Option<String>> {
        let text = |name: &str| entry.get(name).and_then(Value::as_str);
        let (Some(name), Some(kind)) = (text("filename"), text("type").and_then(Kind::parse)) else { return Ok(None) };
        let below = Path::new(text("subfolder").unwrap_or_default()).join(name);
        let path = match join_inside(self.folders.directory(kind), &below) {
            Ok(path) if path.is_file() => path,
            Ok(_) | Err(_) => return Ok(None),
        };
        let new = New {
            name: name.to_owned(),
            tags: vec![kind.as_str().to_owned(), "uploaded".to_owned()],
            job: Some(prompt.to_owned()),
            ..New::default()
        };
        Ok(self.register(&Viewer::all(), &path, &new)?.map(|asset| asset.id))
    }
}

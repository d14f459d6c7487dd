//! What the tests share: a server's folders in a temporary place, and a runner for small graphs.

#![allow(dead_code)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

pub mod compare;
pub mod models;

use comfyd_engine::{DeviceChoice, Engine, EngineOptions};
use comfyd_folders::{Folders, Kind, Roots};
use comfyd_node::{CancelToken, Catalog, Context, Hidden, Inputs, NodeOutput, PreviewImage, Reporter, Result, Source, Value};
use comfyd_nodes::{Builtin, FileOptions, Limits, Services};
use serde_json::{Map, Value as Json};

/// The repository's copy of the reference's recorded behaviour.
pub fn conformance() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../conformance")
}

/// Everything that nodes reported.
#[derive(Default)]
pub struct Reports {
    pub progress: Mutex<Vec<(f64, f64)>>,
    pub images: Mutex<Vec<PreviewImage>>,
    pub texts: Mutex<Vec<String>>,
}

impl Reporter for Reports {
    fn progress(&self, _node: &str, value: f64, max: f64) {
        self.progress.lock().unwrap().push((value, max));
    }

    fn image(&self, _node: &str, image: PreviewImage) {
        self.images.lock().unwrap().push(image);
    }

    fn text(&self, _node: &str, text: &str) {
        self.texts.lock().unwrap().push(text.to_owned());
    }
}

/// The built-in nodes with folders of their own.
pub struct Bench {
    pub dir: tempfile::TempDir,
    pub folders: Arc<Folders>,
    pub catalog: Catalog,
    pub engine: Engine,
    pub cancel: CancelToken,
    pub hidden: Hidden,
    pub reports: Reports,
}

impl Bench {
    pub fn new() -> Self {
        Self::with(false, Limits::default())
    }

    pub fn with(disable_metadata: bool, limits: Limits) -> Self {
        Self::build(None, disable_metadata, limits, EngineOptions::default())
    }

    /// With the model files of the folder `models` in `base`, and an engine with these options, on the CPU unless they name a device.
    pub fn with_models(base: &Path, options: EngineOptions) -> Self {
        Self::with_models_and_limits(base, options, Limits::default())
    }

    pub fn with_models_and_limits(base: &Path, options: EngineOptions, limits: Limits) -> Self {
        Self::build(Some(base), true, limits, options)
    }

    fn build(base: Option<&Path>, disable_metadata: bool, limits: Limits, options: EngineOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut roots = Roots::under(dir.path());
        if let Some(base) = base {
            roots.base = base.to_owned();
        }
        let mut folders = Folders::new(roots).unwrap();
        if base.is_some() {
            // Room for models of a test's own beside the shared ones.
            for folder in folders.model_folders().map(str::to_owned).collect::<Vec<_>>() {
                folders.add_model_path(&folder, dir.path().join("models").join(&folder), false);
            }
        }
        folders.add_saved_models();
        let folders = Arc::new(folders);
        let (for_embeddings, for_decoders) = (Arc::clone(&folders), Arc::clone(&folders));
        let device = if options.device == DeviceChoice::Auto { DeviceChoice::Cpu } else { options.device };
        let engine = Engine::new(EngineOptions {
            device,
            embeddings: Arc::new(move |name| for_embeddings.embedding(name)),
            approximate_vae: Arc::new(move |start| for_decoders.approximate_vae(start)),
            ..options
        })
        .unwrap();
        let mut catalog = Catalog::new();
        let replaced =
            catalog.add(&Builtin::new(Services { folders: Arc::clone(&folders), disable_metadata, limits, engine: engine.clone() }));
        assert!(replaced.is_empty(), "declared twice: {replaced:?}");
        Self { dir, folders, catalog, engine, cancel: CancelToken::default(), hidden: Hidden::default(), reports: Reports::default() }
    }

    pub fn options(&self) -> FileOptions {
        FileOptions(Arc::clone(&self.folders))
    }

    /// Runs one node.
    pub fn run(&self, class: &str, inputs: Inputs) -> Result<NodeOutput> {
        let entry = self.catalog.get(class).unwrap_or_else(|| panic!("no class {class}"));
        entry.node.run(&mut Context::new("7", &self.hidden, &self.cancel, &self.reports, 0), inputs)
    }

    /// Runs one node with widget values, and gives its first output.
    pub fn first(&self, class: &str, widgets: &Json) -> Result<Value> {
        let output = self.run(class, inputs(widgets))?;
        Ok(values(&output).remove(0))
    }

    /// Runs a graph's output nodes, and gives what each showed.
    pub fn graph(&self, graph: &Map<String, Json>) -> Result<Vec<Map<String, Json>>> {
        let mut done = HashMap::new();
        let mut shown = Vec::new();
        for (id, node) in graph {
            let class = node["class_type"].as_str().unwrap();
            if self.catalog.get(class).unwrap_or_else(|| panic!("no class {class}")).schema.output_node {
                self.evaluate(graph, id, &mut done, &mut shown)?;
            }
        }
        Ok(shown)
    }

    fn evaluate(
        &self,
        graph: &Map<String, Json>,
        id: &str,
        done: &mut HashMap<String, Vec<Value>>,
        shown: &mut Vec<Map<String, Json>>,
    ) -> Result<Vec<Value>> {
        if let Some(values) = done.get(id) {
            return Ok(values.clone());
        }
        let node = &graph[id];
        let class = node["class_type"].as_str().unwrap();
        let mut inputs = Inputs::default();
        for (name, value) in node["inputs"].as_object().unwrap() {
            let value = match value.as_array().map(Vec::as_slice) {
                Some([Json::String(from), slot]) => {
                    let values = self.evaluate(graph, from, done, shown)?;
                    values[slot.as_u64().unwrap() as usize].clone()
                }
                _ => Value::from(value),
            };
            inputs.insert(name, value);
        }
        let entry = self.catalog.get(class).unwrap();
        entry.node.validate(&inputs).unwrap_or_else(|e| panic!("{class}: {e}"));
        let output = self.run(class, inputs)?;
        let values = values(&output);
        shown.extend(output.ui);
        done.insert(id.to_owned(), values.clone());
        Ok(values)
    }

    /// The bytes of a file that a node says it saved.
    pub fn saved(&self, file: &Json) -> Vec<u8> {
        let kind = Kind::parse(file["type"].as_str().unwrap()).unwrap();
        let path = self.folders.directory(kind).join(file["subfolder"].as_str().unwrap()).join(file["filename"].as_str().unwrap());
        std::fs::read(path).unwrap()
    }
}

/// Widget values as inputs.
pub fn inputs(widgets: &Json) -> Inputs {
    widgets.as_object().unwrap().iter().map(|(name, value)| (name.clone(), Value::from(value))).collect()
}

/// The values of a node's outputs.
pub fn values(output: &NodeOutput) -> Vec<Value> {
    let value = |source: &Source| match source {
        Source::Value(value) => value.clone(),
        Source::Link { .. } => panic!("a link without an expansion"),
    };
    output.values.iter().map(value).collect()
}

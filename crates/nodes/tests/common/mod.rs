//! What the tests share: a server's folders in a temporary place, and a runner for small graphs.

#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

pub mod compare;
pub mod models;
pub mod told;

use comfyd_engine::{DeviceChoice, Engine, EngineOptions};
use comfyd_executor::{CachePolicy, Executor, ExecutorOptions};
use comfyd_folders::{Folders, Kind, Roots};
use comfyd_graph::{Limits as PromptLimits, Placing, Prompt, validate};
use comfyd_jobs::event::NullSink;
use comfyd_jobs::{EventSink, Job, Message, Outcome, Status};
use comfyd_media::{Media, Options as MediaOptions};
use comfyd_node::{CancellationToken, Catalog, Context, Hidden, Inputs, NodeOutput, PreviewImage, Reporter, Result, Source, Value};
use comfyd_nodes::{Builtin, Limits, Services};
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
    pub cancel: CancellationToken,
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

    /// On a machine without FFmpeg.
    pub fn without_ffmpeg() -> Self {
        let nowhere = |options: &mut MediaOptions| (options.ffmpeg, options.ffprobe) = ("/no/ffmpeg".into(), "/no/ffprobe".into());
        Self::build_with(None, false, Limits::default(), EngineOptions::default(), nowhere)
    }

    fn build(base: Option<&Path>, disable_metadata: bool, limits: Limits, options: EngineOptions) -> Self {
        Self::build_with(base, disable_metadata, limits, options, |_| {})
    }

    fn build_with(
        base: Option<&Path>,
        disable_metadata: bool,
        limits: Limits,
        options: EngineOptions,
        change: impl FnOnce(&mut MediaOptions),
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut roots = Roots::under(dir.path());
        if let Some(base) = base {
            roots.models = base.join("models");
            roots.base = base.to_owned();
        }
        let mut folders = Folders::new(roots).unwrap();
        if base.is_some() {
            // Room for models of a test's own beside the shared ones.
            for folder in folders.model_folders() {
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
        let mut media = MediaOptions::new(&folders.roots().temp);
        change(&mut media);
        let media = Media::new(media);
        let mut catalog = Catalog::new();
        let replaced =
            catalog.add(&Builtin::new(Services { folders: Arc::clone(&folders), disable_metadata, limits, engine: engine.clone(), media }));
        assert!(replaced.is_empty(), "declared twice: {replaced:?}");
        Self { dir, folders, catalog, engine, cancel: CancellationToken::default(), hidden: Hidden::default(), reports: Reports::default() }
    }

    /// Runs one node.
    pub fn run(&self, class: &str, inputs: Inputs) -> Result<NodeOutput> {
        let entry = self.catalog.get(class).unwrap_or_else(|| panic!("no class {class}"));
        entry.native().unwrap().run(&mut Context::new("7", &self.hidden, &self.cancel, &self.reports, 0), inputs)
    }

    /// Runs one node with widget values, and gives its first output.
    pub fn first(&self, class: &str, widgets: &Json) -> Result<Value> {
        let output = self.run(class, inputs(widgets))?;
        Ok(values(&output).remove(0))
    }

    /// An executor of the classes that the catalog holds now.
    pub fn executor(&self, cache: CachePolicy) -> Executor {
        Executor::new(Arc::new(self.catalog.clone()), ExecutorOptions { cache, ..ExecutorOptions::default() })
    }

    /// Validates a prompt and runs it as a server does. The error tells why it was refused, or which node failed.
    pub fn execute(
        &self,
        executor: &mut Executor,
        prompt: Json,
        cancel: &CancellationToken,
        sink: Arc<dyn EventSink>,
    ) -> Result<Outcome, String> {
        let prompt = Prompt::parse(prompt, &PromptLimits::default()).map_err(|e| format!("it is refused: {e:?}"))?;
        let valid = validate(&self.catalog, &*self.folders, prompt, None, &Placing::default())
            .map_err(|e| format!("it is refused: {}", e.to_json()))?;
        if !valid.node_errors.is_empty() {
            return Err(format!("it is refused: {}", valid.node_errors.to_json()));
        }
        let raw = |json: &Json| serde_json::value::to_raw_value(json).unwrap().into();
        let job = Job {
            id: "id".into(),
            number: 0.0,
            owner: Arc::default(),
            client_id: None,
            workflow_id: None,
            prompt: raw(&valid.prompt.into_json()),
            extra_data: raw(&Json::Object(Map::new())),
            outputs: valid.outputs,
            created_ms: 0,
            secrets: Default::default(),
        };
        let outcome = executor.run(&job, cancel, sink);
        match (outcome.status, outcome.messages.last()) {
            (Status::Success, _) => Ok(outcome),
            (Status::Error, Some(Message::Failed(end))) => Err(format!("{:?} fails: {}", end.node_type, end.exception_message.trim())),
            (status, end) => Err(format!("it ended as {status:?}: {end:?}")),
        }
    }

    /// Runs a prompt, and gives what each of its nodes showed, in their order.
    pub fn graph(&self, graph: &Map<String, Json>) -> Result<Vec<Map<String, Json>>, String> {
        let mut executor = self.executor(CachePolicy::None);
        let outcome = self.execute(&mut executor, Json::Object(graph.clone()), &CancellationToken::default(), Arc::new(NullSink))?;
        Ok(graph.keys().filter_map(|id| outcome.outputs.get(id)?.as_object().cloned()).collect())
    }

    /// Where a file lies that a node says it saved.
    pub fn path(&self, file: &Json) -> PathBuf {
        let kind = Kind::parse(file["type"].as_str().unwrap()).unwrap();
        self.folders.directory(kind).join(file["subfolder"].as_str().unwrap()).join(file["filename"].as_str().unwrap())
    }

    /// The bytes of a file that a node says it saved.
    pub fn saved(&self, file: &Json) -> Vec<u8> {
        std::fs::read(self.path(file)).unwrap()
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

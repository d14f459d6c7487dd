//! A worker on the stub installation, and a prompt in it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use comfyd_node::{
    Argument, Arguments, CancellationToken, Code, Entry, Hidden, HostedCall, HostedNode, HostedOutput, HostedPrompt, PreviewImage,
    Reporter, Result, Returned, Value,
};
use comfyd_python::{HistoryWanted, Outlet, Settings, State, Tell, Worker};
use parking_lot::Mutex;
use serde_json::{Value as Json, json};

/// The stub installation.
pub fn stub() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/comfyui")
}

/// Whether there is a Python; says so where there is none.
pub fn python() -> bool {
    let found = Command::new("python3").arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("skipped: there is no python3");
    }
    found
}

/// A binary message: type, bytes, client.
type Binary = (u32, Vec<u8>, Option<String>);

/// What came from a worker.
#[derive(Default)]
pub struct Heard {
    pub events: Mutex<Vec<(String, Json, Option<String>)>>,
    pub binary: Mutex<Vec<Binary>>,
    pub enqueued: Mutex<Vec<Json>>,
    pub removed: Mutex<Vec<Option<Vec<String>>>>,
    pub wanted: Mutex<Vec<HistoryWanted>>,
    pub forgotten: Mutex<Vec<Option<Vec<String>>>>,
    pub changes: Mutex<usize>,
    pub progress: Mutex<Vec<(String, f64, f64)>>,
    pub images: Mutex<Vec<(String, PreviewImage)>>,
    pub texts: Mutex<Vec<(String, String)>>,
}

impl Outlet for Heard {
    fn event(&self, name: &str, data: Json, client: Option<&str>) {
        self.events.lock().push((name.into(), data, client.map(str::to_owned)));
    }
    fn binary(&self, kind: u32, bytes: Vec<u8>, client: Option<&str>) {
        self.binary.lock().push((kind, bytes, client.map(str::to_owned)));
    }
    fn enqueue(&self, item: Json) {
        self.enqueued.lock().push(item);
    }
    fn remove(&self, ids: Option<Vec<String>>) {
        self.removed.lock().push(ids);
    }
    fn history(&self, wanted: HistoryWanted, tell: Tell) {
        self.wanted.lock().push(wanted);
        let entry = json!({"p0": {"prompt": [1, "p0", {}, {}, []], "outputs": {"9": {"text": ["ä"]}}}});
        std::thread::spawn(move || tell(serde_json::value::to_raw_value(&entry).map_err(|error| error.to_string())));
    }
    fn forget(&self, ids: Option<Vec<String>>, _: String) {
        self.forgotten.lock().push(ids);
    }
    fn changed(&self) {
        *self.changes.lock() += 1;
    }
}

impl Reporter for Heard {
    fn progress(&self, node: &str, value: f64, max: f64) {
        self.progress.lock().push((node.into(), value, max));
    }
    fn image(&self, node: &str, image: PreviewImage) {
        self.images.lock().push((node.into(), image));
    }
    fn text(&self, node: &str, text: &str) {
        self.texts.lock().push((node.into(), text.into()));
    }
}

/// A worker.
pub struct Rig {
    pub worker: Worker,
    pub heard: Arc<Heard>,
    pub entries: HashMap<String, Entry>,
    pub cancel: CancellationToken,
    _data: Arc<tempfile::TempDir>,
}

/// Settings for the stub; the folder is that of its manifest.
pub fn settings(data: &tempfile::TempDir) -> Settings {
    Settings {
        comfyui: stub(),
        python: Some("python3".into()),
        variables: vec![("PYTHONDONTWRITEBYTECODE".into(), "1".into())],
        data: data.path().into(),
        address: "127.0.0.1:18188".into(),
        ..Settings::default()
    }
}

/// A worker that was not started.
pub fn cold(change: impl FnOnce(&mut Settings)) -> Rig {
    let data = Arc::new(tempfile::tempdir().unwrap());
    cold_in(data, change)
}

/// The same, with a manifest's folder that may have one.
pub fn cold_in(data: Arc<tempfile::TempDir>, change: impl FnOnce(&mut Settings)) -> Rig {
    let mut settings = settings(&data);
    change(&mut settings);
    let heard = Arc::new(Heard::default());
    let worker = Worker::new(settings, heard.clone()).unwrap();
    let mut rig = Rig { worker, heard, entries: HashMap::new(), cancel: CancellationToken::new(), _data: data };
    rig.learn();
    rig
}

/// A worker that is ready.
pub fn rig() -> Rig {
    ready(|_| {})
}

/// The same, with other settings.
pub fn ready(change: impl FnOnce(&mut Settings)) -> Rig {
    let mut rig = cold(change);
    rig.worker.ready().unwrap();
    rig.learn();
    rig
}

impl Rig {
    /// Takes the classes that are known.
    pub fn learn(&mut self) {
        self.entries = self.worker.entries().into_iter().map(|entry| (entry.schema.class.clone(), entry)).collect();
    }

    pub fn class(&self, name: &str) -> Arc<dyn HostedNode> {
        match &self.entries.get(name).unwrap_or_else(|| panic!("there is no class {name}")).code {
            Code::Hosted(node) => node.clone(),
            Code::Native(_) => panic!("a native class"),
        }
    }

    /// Begins a prompt.
    pub fn begin(&self) -> Result<()> {
        self.begin_with(json!({"1": {"class_type": "StubText", "inputs": {"text": "x"}}}))
    }

    pub fn begin_with(&self, prompt: Json) -> Result<()> {
        let secrets = json!({"auth_token_comfy_org": "secret-token"});
        let hidden = Hidden {
            prompt_id: "p1".into(),
            prompt: Arc::new(prompt),
            extra_data: Arc::new(json!({"extra_pnginfo": {"workflow": {"x": 1}}})),
            secrets: Arc::new(secrets.as_object().unwrap().clone()),
        };
        let outputs = ["1".to_owned()];
        let prompt = HostedPrompt { hidden: &hidden, number: 3.0, client_id: Some("me"), outputs: &outputs };
        self.worker.host().begin(&prompt, self.heard.clone(), &self.cancel)
    }

    /// Begins a call.
    pub fn start(&self, class: &str, node: &str, inputs: &[(&str, Argument)]) -> mpsc::Receiver<Result<HostedOutput>> {
        let (sender, receiver) = mpsc::channel();
        self.class(class).run(call(node, inputs), Box::new(move |result| drop(sender.send(result))));
        receiver
    }

    /// Makes a call.
    pub fn run(&self, class: &str, inputs: &[(&str, Argument)]) -> Result<HostedOutput> {
        self.start(class, "1", inputs).recv_timeout(Duration::from_secs(30)).expect("no answer")
    }

    /// The first value of the first output.
    pub fn value(&self, class: &str, inputs: &[(&str, Argument)]) -> Result<Value> {
        self.run(class, inputs).map(|output| values(&output)[0][0].clone())
    }

    pub fn pid(&self) -> u32 {
        match self.worker.state() {
            State::Ready { pid } => pid,
            other => panic!("it is {other:?}"),
        }
    }

    /// The objects that the worker holds.
    pub fn objects(&self) -> u64 {
        std::thread::sleep(Duration::from_millis(1_050));
        self.worker.stats().unwrap()["objects"].as_u64().unwrap()
    }
}

pub fn call(node: &str, inputs: &[(&str, Argument)]) -> HostedCall {
    HostedCall { node: node.into(), display: node.into(), arguments: arguments(inputs) }
}

pub fn arguments(inputs: &[(&str, Argument)]) -> Arguments {
    inputs.iter().map(|(name, argument)| (Arc::from(*name), argument.clone())).collect()
}

/// A constant.
pub fn is(value: impl Into<Value>) -> Argument {
    Argument::Constant(value.into())
}

/// A link with what came along it.
pub fn link(values: impl IntoIterator<Item = Value>) -> Argument {
    Argument::Link { node: "9".into(), slot: 0, values: Some(Arc::new(values.into_iter().collect())) }
}

/// A link that was not evaluated.
pub fn unknown() -> Argument {
    Argument::Link { node: "9".into(), slot: 0, values: None }
}

/// The values of all outputs.
pub fn values(output: &HostedOutput) -> Vec<Vec<Value>> {
    match &output.returned {
        Returned::Values(values) => values.iter().map(|values| values.to_vec()).collect(),
        Returned::Calls(_) => panic!("an expansion"),
    }
}

/// Waits until something is so.
pub fn until(what: &str, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !so() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

//! Measures what it costs to have nodes in another process: `cargo run --release -p comfyd-python --example calls -- COMFYUI [PYTHON [OPTIONS…]]`,
//! with a real ComfyUI. Prints the start, a small call, a picture of 1024 x 1024 pixels each way, and how long a kept manifest takes to read.

use std::error::Error;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use comfyd_node::{
    Argument, CancellationToken, Code, Hidden, HostedCall, HostedNode, HostedOutput, HostedPrompt, Returned, SilentReporter, Value,
};
use comfyd_python::{HistoryWanted, Outlet, Settings, Tell, Worker};
use comfyd_values::Image;
use serde_json::{Value as Json, json};

/// Hears nothing.
struct Deaf;

impl Outlet for Deaf {
    fn event(&self, _: &str, _: Json, _: Option<&str>) {}
    fn binary(&self, _: u32, _: Vec<u8>, _: Option<&str>) {}
    fn enqueue(&self, _: Json) {}
    fn remove(&self, _: Option<Vec<String>>) {}
    fn history(&self, _: HistoryWanted, tell: Tell) {
        tell(Err("there is no history".into()));
    }
    fn forget(&self, _: Option<Vec<String>>, _: String) {}
    fn changed(&self) {}
}

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let comfyui = arguments.next().ok_or("name the folder of a ComfyUI")?.into();
    let python = arguments.next().map(Into::into);
    let data = tempfile::tempdir()?;
    let base = data.path().display().to_string();
    std::fs::create_dir(data.path().join("custom_nodes"))?;
    let args = ["--cpu".into(), "--base-directory".into(), base].into_iter().chain(arguments).collect();
    let settings = Settings { comfyui, python, args, data: data.path().into(), ..Settings::default() };

    let began = Instant::now();
    let worker = Worker::new(settings.clone(), Arc::new(Deaf))?;
    worker.ready()?;
    println!("start                          {:8.2} s, {} classes", began.elapsed().as_secs_f64(), worker.entries().len());

    let hidden = Hidden { prompt_id: "p".into(), prompt: Arc::new(json!({})), ..Hidden::default() };
    let prompt = HostedPrompt { hidden: &hidden, number: 0.0, client_id: None, outputs: &[] };
    let host = worker.host();
    host.begin(&prompt, Arc::new(SilentReporter), &CancellationToken::new())?;
    let small = class(&worker, "PrimitiveInt")?;
    report("a small call", 2_000, || run(&*small, &[("value", Argument::Constant(7.into()))]).map(drop))?;

    let empty = class(&worker, "EmptyImage")?;
    let side = || Argument::Constant(1024.into());
    let one = || Argument::Constant(1.into());
    let size = [("width", side()), ("height", side()), ("batch_size", one()), ("color", one())];
    report("a picture made and let go", 20, || run(&*empty, &size).map(drop))?;
    let pictures = (0..20).map(|_| Ok(first(run(&*empty, &size)?))).collect::<Result<Vec<_>>>()?;
    let mut pictures = pictures.iter();
    report("  brought here, 12.6 MB", 20, || match pictures.next() {
        Some(Value::Object(object)) => object.localize().map(drop).map_err(Into::into),
        other => Err(format!("no picture came, but {other:?}").into()),
    })?;

    let batch = class(&worker, "RepeatImageBatch")?;
    let picture = || Value::object(Image::solid(1, 1024, 1024, 0x00ff_8000));
    let given = |value: &Value| {
        let values = Some(Arc::new(vec![value.clone()]));
        [("image", Argument::Link { node: "1".into(), slot: 0, values }), ("amount", one())]
    };
    let there = first(run(&*batch, &given(&picture()))?);
    let handed = report("a call with a picture there", 20, || run(&*batch, &given(&there)).map(drop))?;
    // The worker keeps what it gets again until the prompt ends: each call gets another picture, first in one prompt, for which it needs new
    // memory, then each in a prompt of its own, for which what an earlier one had is used again.
    let mut pictures = (0..40).map(|_| picture()).collect::<Vec<_>>().into_iter();
    let mut send = || {
        let picture = pictures.next().ok_or("there is no other picture")?;
        run(&*batch, &given(&picture)).map(drop)
    };
    let told = |what: &str, took: Duration| println!("  {what:28} {:8.3} ms", millis(took.saturating_sub(handed)));
    told("sent there into new memory", report("the same with one from here", 20, &mut send)?);
    let mut took = Vec::new();
    for _ in 0..20 {
        host.end();
        host.begin(&prompt, Arc::new(SilentReporter), &CancellationToken::new())?;
        let began = Instant::now();
        send()?;
        took.push(began.elapsed());
    }
    took.sort();
    told("sent there, 12.6 MB", took[took.len() / 2]);
    host.end();
    worker.shutdown();

    report("a kept manifest read", 5, || {
        Worker::new(settings.clone(), Arc::new(Deaf))?.manifest().map(drop).ok_or_else(|| "no manifest was kept".into())
    })?;
    Ok(())
}

fn class(worker: &Worker, name: &str) -> Result<Arc<dyn HostedNode>> {
    let entry = worker.entries().into_iter().find(|entry| entry.schema.class == name);
    match entry.map(|entry| entry.code) {
        Some(Code::Hosted(node)) => Ok(node),
        Some(Code::Native(_)) | None => Err(format!("this ComfyUI has no class {name}").into()),
    }
}

fn run(node: &dyn HostedNode, inputs: &[(&str, Argument)]) -> Result<HostedOutput> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let arguments = inputs.iter().map(|(name, argument)| (Arc::from(*name), argument.clone())).collect();
    let call = HostedCall { node: "1".into(), display: "1".into(), arguments };
    node.run(call, Box::new(move |result| drop(sender.send(result))));
    Ok(receiver.recv()??)
}

fn first(output: HostedOutput) -> Value {
    match output.returned {
        Returned::Values(values) => values.first().and_then(|values| values.first()).cloned().unwrap_or_default(),
        Returned::Calls(_) => Value::Null,
    }
}

/// Does something so often and prints the median.
fn report(what: &str, times: usize, mut turn: impl FnMut() -> Result<()>) -> Result<Duration> {
    let mut took = Vec::with_capacity(times);
    for _ in 0..times {
        let began = Instant::now();
        turn()?;
        took.push(began.elapsed());
    }
    took.sort();
    let median = took[times / 2];
    println!("{what:30} {:8.3} ms, at best {:.3}", millis(median), millis(took[0]));
    Ok(median)
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

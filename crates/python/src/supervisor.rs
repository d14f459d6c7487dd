//! The thread of a worker: starts its process when that is wanted, reads what it says until it ends, and starts it anew.

use std::io::BufReader;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use comfyd_node::PreviewImage;
use serde_json::Value as Json;
use serde_json::value::RawValue;

use crate::error::Error;
use crate::frame::{self, Blob, Frame, Message};
use crate::host::{Core, Shared, State, answer};
use crate::key::key;
use crate::link::{About, Link};
use crate::manifest::Manifest;
use crate::process::{Process, Stream};
use crate::remote::Objects;
use crate::settings::{HistoryWanted, Tell};

/// The longest pause between two starts.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// A worker that lived so long did not fail to start.
const LONG: Duration = Duration::from_secs(60);
/// How long a worker that is started anew has to end by itself.
const FAREWELL: Duration = Duration::from_secs(2);

/// How a process ended.
struct End {
    why: String,
    /// It was ready and of use.
    useful: bool,
    /// It is to be started anew at once.
    again: bool,
}

/// Looks after a worker until it is closed. The process dies with the thread that runs this.
pub(crate) fn supervise(shared: &Arc<Shared>) {
    let mut failures = 0;
    while wait_until_wanted(shared) {
        tell(shared);
        let end = one_process(shared);
        shared.change(|core| {
            core.objects = None;
            if core.closing {
                core.state = State::Cold;
            } else if end.again {
                failures = 0;
                (core.state, core.wanted, core.retry_at) = (State::Starting, true, None);
            } else {
                failures = if end.useful { 0 } else { failures + 1 };
                fail(core, end.why.clone(), failures);
            }
        });
        if !shared.core().closing && !end.again {
            tracing::warn!("the Python worker '{}' ended: {}", shared.settings.name, end.why);
        }
        tell(shared);
    }
    shared.change(|core| core.state = State::Cold);
}

/// Waits until a process is to be started, and says so; false if none ever is again.
fn wait_until_wanted(shared: &Shared) -> bool {
    let mut core = shared.core();
    loop {
        if core.closing {
            return false;
        }
        let pause = core.retry_at.filter(|at| *at > Instant::now());
        if core.wanted && pause.is_none() {
            break;
        }
        let until = pause.filter(|_| core.wanted);
        shared.wait_for_change(&mut core, until);
    }
    (core.state, core.wanted, core.useful, core.restarting) = (State::Starting, false, false, false);
    drop(core);
    shared.change(|_| ());
    true
}

/// The next start waits: not at all after a process that was of use, and then longer and longer.
fn fail(core: &mut Core, why: String, failures: u32) {
    let pause = match failures {
        0 => Duration::ZERO,
        _ => Duration::from_secs(1 << (failures - 1).min(6)).min(MAX_PAUSE),
    };
    core.attempts += 1;
    core.retry_at = Some(Instant::now() + pause);
    core.state = State::Failed(why);
    core.wanted = core.eager;
}

fn one_process(shared: &Arc<Shared>) -> End {
    let started = Instant::now();
    let key = key(&shared.settings, &shared.python);
    shared.change(|core| core.key = key);
    let (process, stream) = match Process::start(&shared.settings, &shared.python, &shared.folder) {
        Ok(started) => started,
        Err(error) => return End { why: error.to_string(), useful: false, again: false },
    };
    tracing::info!("the Python worker '{}' starts as process {}", shared.settings.name, process.pid);
    let reader = match stream.try_clone() {
        Ok(reader) => reader,
        Err(error) => return End { why: format!("its connection cannot be used: {error}"), useful: false, again: false },
    };
    let link = Link::new(shared.settings.name.clone(), process, stream, shared.settings.patience.clone());
    let objects = Objects::new(link.clone());
    let closing = shared.change(|core| {
        core.objects = Some(objects.clone());
        core.closing
    });
    if closing {
        link.kill("it was stopped");
    }
    let watched = link.clone();
    let watcher = std::thread::Builder::new().name("python watch".into()).spawn(move || watched.watch(started));
    if let Err(error) = &watcher {
        link.kill(&format!("no thread can look after it: {error}"));
    }
    let reason = read(shared, &objects, reader);
    let how = link.end(&reason);
    if let Ok(watcher) = watcher {
        // It ends as soon as the connection has.
        let _ = watcher.join();
    }
    let reboot = shared.folder.take_reboot();
    let core = shared.core();
    let useful = core.useful || (matches!(core.state, State::Ready { .. }) && started.elapsed() > LONG);
    End { why: how, useful, again: reboot || core.restarting }
}

/// Reads and does what the process says; returns why that ended.
fn read(shared: &Arc<Shared>, objects: &Arc<Objects>, stream: Stream) -> String {
    // Large values go past the buffer, into the memory in which they stay.
    let mut stream = BufReader::with_capacity(16 << 10, stream);
    loop {
        match frame::read(&mut stream, shared.settings.max_blob, &shared.settings.account) {
            Ok(frame) => {
                objects.link.hear();
                if catch_unwind(AssertUnwindSafe(|| take(shared, objects, frame))).is_err() {
                    tracing::error!(
                        "a report of the Python worker '{}' was not handed on: who was to hear it panicked",
                        shared.settings.name
                    );
                }
            }
            Err(frame::Error::End) => return "it closed its connection".into(),
            Err(error) => {
                let reason = error.to_string();
                objects.link.kill(&reason);
                return reason;
            }
        }
    }
}

fn take(shared: &Arc<Shared>, objects: &Arc<Objects>, frame: Frame) {
    if let Some(id) = frame.json.get("re").and_then(Json::as_u64) {
        return objects.link.answer(id, frame);
    }
    let json = &frame.json;
    let text = |name: &str| json.get(name).and_then(Json::as_str).unwrap_or_default();
    let number = |name: &str| json.get(name).and_then(Json::as_f64).unwrap_or_default();
    let client = json.get("sid").and_then(Json::as_str);
    let outlet = &shared.outlet;
    match text("ev") {
        "ready" => ready(shared, objects),
        "progress" => {
            if let Some(reporter) = shared.reporter() {
                reporter.progress(text("node"), number("value"), number("max"));
            }
        }
        "preview" => preview(shared, frame),
        "text" => {
            if let Some(reporter) = shared.reporter() {
                reporter.text(text("node"), text("text"));
            }
        }
        "event" => outlet.event(text("name"), json.get("data").cloned().unwrap_or_default(), client),
        "binary" => {
            if let (Blob::Bytes(bytes), Some(kind)) = (frame.blob, json.get("type").and_then(Json::as_u64)) {
                outlet.binary(u32::try_from(kind).unwrap_or(u32::MAX), bytes, client);
            }
        }
        "history" => outlet.history(
            HistoryWanted {
                prompt_id: json.get("prompt_id").and_then(Json::as_str).map(str::to_owned),
                max_items: count(json, "max_items"),
                offset: count(json, "offset"),
                owner: text("owner").to_owned(),
            },
            answer_to(objects, json.get("ask").cloned().unwrap_or_default()),
        ),
        "forget" => outlet.forget(ids(json), text("owner").to_owned()),
        "enqueue" => outlet.enqueue(json.get("item").cloned().unwrap_or_default()),
        "remove" => outlet.remove(Some(ids(json).unwrap_or_default())),
        "wipe" => outlet.remove(None),
        "restart" => restart(shared, objects),
        other => tracing::debug!("the Python worker '{}' says '{other}', which is not understood", shared.settings.name),
    }
}

/// The ids of prompts that a message names, if it names any.
fn ids(json: &Json) -> Option<Vec<String>> {
    let ids = json.get("ids").and_then(Json::as_array)?;
    Some(ids.iter().filter_map(|id| id.as_str().map(str::to_owned)).collect())
}

/// A number of things; one below zero is none.
fn count(json: &Json, name: &str) -> Option<usize> {
    json.get(name).and_then(Json::as_u64).and_then(|count| usize::try_from(count).ok())
}

/// Tells the process what it asked for.
fn answer_to(objects: &Arc<Objects>, number: Json) -> Tell {
    let objects = objects.clone();
    Box::new(move |answer| {
        let told = |name: &str, value: &RawValue| Message::new("told").field("ask", &number).field(name, value);
        let refused = |why: &str| Message::new("told").field("ask", &number).field("error", why);
        let message = match &answer {
            Ok(json) => told("json", json),
            Err(why) => refused(why),
        };
        let message =
            message.check().err().map_or(message, |_| refused("this is too much of the history for one answer: ask for less of it"));
        objects.link.tell(message);
    })
}

fn preview(shared: &Shared, frame: Frame) {
    let json = &frame.json;
    let number = |name: &str| json.get(name).and_then(Json::as_u64).and_then(|number| u32::try_from(number).ok());
    let (Some(width), Some(height), Some(channels)) = (number("width"), number("height"), number("channels")) else { return };
    let (Some(reporter), Blob::Bytes(pixels)) = (shared.reporter(), frame.blob) else { return };
    let Ok(channels @ 3..=4) = u8::try_from(channels) else { return };
    if pixels.len() as u64 != u64::from(width) * u64::from(height) * u64::from(channels) {
        return tracing::debug!("a preview of {width} x {height} pixels came with {} bytes", pixels.len());
    }
    let lossless = json.get("lossless").and_then(Json::as_bool).unwrap_or(false);
    let image = PreviewImage { width, height, channels, pixels: Arc::new(pixels), lossless, max_size: number("max") };
    reporter.image(json.get("node").and_then(Json::as_str).unwrap_or_default(), image);
}

/// Starts it anew, because Manager or a pack wants that.
fn restart(shared: &Arc<Shared>, objects: &Arc<Objects>) {
    tracing::info!("the Python worker '{}' is started anew, as one of its packs wants", shared.settings.name);
    shared.change(|core| core.restarting = true);
    let link = objects.link.clone();
    let quit = std::thread::Builder::new().name("python restart".into()).spawn(move || link.quit(FAREWELL));
    if quit.is_err() {
        objects.link.kill("it was to be started anew");
    }
}

/// It has booted: its classes are asked for, and then it is ready.
fn ready(shared: &Arc<Shared>, objects: &Arc<Objects>) {
    let (shared, objects) = (shared.clone(), objects.clone());
    let link = objects.link.clone();
    link.ask(Message::new("describe").field("classes", &Json::Null), About::Worker, move |answer| match answer {
        Ok(frame) => {
            adopt(&shared, Manifest::new(frame.json));
            objects.link.set_ready();
            shared.core().state = State::Ready { pid: objects.link.pid() };
            publish(&shared);
        }
        Err(failure) => objects.link.kill(&format!("it cannot tell its classes: {}", comfyd_node::Error::from(failure))),
    });
}

/// Keeps in mind that a class could not let go of a value, also for the next start.
pub(crate) fn remember(shared: &Shared, name: &str) {
    let known = shared.core().manifest.clone();
    let Some((known, class)) = known.as_ref().and_then(|known| Some((known, known.classes.get(name)?))) else { return };
    if class.facts.stays {
        return;
    }
    tracing::info!("the class '{name}' of the Python worker '{}' runs from now on where what is linked to it does", shared.settings.name);
    let mut manifest = Manifest::clone(known);
    manifest.classes.insert(name.to_owned(), class.staying());
    adopt(shared, manifest);
    publish(shared);
}

/// Takes what was told, and keeps it for the next start.
pub(crate) fn adopt(shared: &Shared, manifest: Manifest) {
    let known = shared.core().manifest.clone();
    let manifest = Arc::new(match &known {
        Some(known) => manifest.learnt(known),
        None => manifest,
    });
    let (key, same) = shared.change(|core| {
        let same = core.manifest.as_ref().is_some_and(|known| known.same(&manifest));
        core.manifest = Some(manifest.clone());
        core.published = same && core.published;
        (core.key.clone(), same)
    });
    let path = shared.settings.file();
    if same && Manifest::fits(&path, &key) {
        return;
    }
    if let Err(error) = manifest.write(&path, &key) {
        tracing::warn!("what the Python worker '{}' told cannot be kept in {}: {error}", shared.settings.name, path.display());
    }
}

fn tell(shared: &Shared) {
    if catch_unwind(AssertUnwindSafe(|| shared.outlet.changed())).is_err() {
        tracing::error!("who was to hear that the Python worker '{}' has changed panicked", shared.settings.name);
    }
}

/// Says that something has changed, and then that whoever waited may go on: he finds that the outlet knows.
fn publish(shared: &Shared) {
    tell(shared);
    shared.change(|core| core.published = true);
}

/// Asks anew about classes whose folders have changed. Blocks.
pub(crate) fn refresh(shared: &Shared) -> Result<(), Error> {
    let (objects, manifest) = {
        let core = shared.core();
        match (&core.state, &core.objects, &core.manifest) {
            (State::Ready { .. }, Some(objects), Some(manifest)) => (objects.clone(), manifest.clone()),
            _ => return Ok(()),
        }
    };
    let outdated = manifest.outdated();
    if outdated.is_empty() {
        return Ok(());
    }
    let read = manifest.folders();
    let message = Message::new("describe").field("classes", &outdated);
    let json = answer(&objects, message, LONG)?;
    adopt(shared, manifest.with(Manifest::new(json), read));
    publish(shared);
    Ok(())
}

//! `comfyd run workflow.json`: runs a workflow in API format without a server, with a progress bar.

use std::io::{IsTerminal, stderr};
use std::path::Path;
use std::sync::Arc;

use comfyd_graph::{Limits, Prompt};
use comfyd_jobs::{Event, EventKind, EventSink, Job, Message, Outcome, Secrets, Status, now_ms};
use comfyd_node::CancellationToken;
use comfyd_python::Outlet;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value as Json;
use serde_json::value::to_raw_value;

use crate::assemble::{self, Failure};
use crate::beside::Around;
use crate::config::{Config, SetInput};
use crate::devices::Device;
use crate::python::Deaf;

pub(crate) fn run(config: &Config, workflow: &Path, changes: &[SetInput]) -> Result<(), Failure> {
    let folders = assemble::folders(config)?;
    let account = assemble::account(config);
    let (address, apart) = (format!("127.0.0.1:{}", config.port), Arc::default());
    let around = Around { folders: &folders, account: &account, address: &address, apart: &apart };
    let outlet: Arc<dyn Outlet> = Arc::new(Deaf);
    let Device { engine, beside, .. } = Device::first(config, &around, &outlet)?;
    for worker in beside.workers() {
        worker.known()?;
    }
    beside.rebuild();
    let catalog = beside.catalog().clone();
    let name = workflow.display();
    let text = std::fs::read(workflow).map_err(|e| format!("cannot read {name}: {e}"))?;
    let mut graph = comfyd_wire::json::read(&text).map_err(|e| format!("{name} is not valid JSON: {e}"))?;
    if graph.get("nodes").is_some_and(Json::is_array) {
        return Err(format!("{name} is a workflow of the front end: export it with 'Export (API)' and run that file").into());
    }
    // Files saved from `/prompt` requests hold the graph under this key.
    if let Some(inner) = graph.get_mut("prompt").filter(|p| p.is_object()) {
        graph = inner.take();
    }
    for change in changes {
        set(&mut graph, change)?;
    }
    let (mut graph, mut extra_data) = beside.handled(graph)?;
    let secrets = Secrets::take(&mut extra_data, &secret_names(config)).unwrap_or_default();
    comfyd_graph::replace(&mut graph, &catalog.current(), &beside.replacements());
    let prompt = Prompt::parse(graph, &Limits::default()).map_err(|problem| problem.to_string())?;
    let validated = comfyd_graph::validate(&catalog.current(), &*folders, prompt, None, &assemble::placing(config))
        .map_err(|rejected| format!("{:#}", rejected.to_json()))?;
    if !validated.node_errors.is_empty() {
        assemble::print_notice(format_args!("some outputs are left out: {:#}", validated.node_errors.to_json()));
    }
    let job = Job {
        id: uuid::Uuid::new_v4().to_string(),
        number: 0.0,
        owner: Arc::default(),
        client_id: None,
        workflow_id: None,
        prompt: Arc::from(to_raw_value(&validated.prompt.into_json())?),
        extra_data: Arc::from(to_raw_value(&extra_data)?),
        secrets,
        outputs: validated.outputs,
        created_ms: now_ms(),
    };
    let cancel = CancellationToken::default();
    let stop = cancel.clone();
    // A second Ctrl-C ends the process in the system's way.
    std::thread::Builder::new()
        .name("ctrl-c".to_owned())
        .spawn(move || serve_ctrl_c(&stop))
        .map_err(|error| format!("no thread can be started: {error}: raise the limit on processes (`ulimit -u`)"))?;
    let bar = Arc::new(Bar::new());
    let outcome = assemble::executors(config, 1, &beside, &engine, &folders, None)().run(&job, &cancel, bar.clone());
    bar.0.finish_and_clear();
    beside.shutdown();
    report(&folders, &outcome)
}

/// What handlers of packs may put into a request and nothing may keep.
fn secret_names(config: &Config) -> Vec<String> {
    comfyd_jobs::secrets::NAMES.iter().map(|name| (*name).to_owned()).chain(config.secret_names.iter().cloned()).collect()
}

fn serve_ctrl_c(cancel: &CancellationToken) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_io().build() else { return };
    let asked = runtime.block_on(async {
        #[cfg(unix)]
        assemble::survive_file_limit()?;
        tokio::signal::ctrl_c().await
    });
    if asked.is_ok() {
        cancel.cancel();
    }
}

/// Replaces one input of a node.
fn set(graph: &mut Json, change: &SetInput) -> Result<(), Failure> {
    let SetInput { node, input, value } = change;
    let inputs = graph.get_mut(node).and_then(|n| n.get_mut("inputs")).and_then(Json::as_object_mut);
    let inputs = inputs.ok_or_else(|| format!("--set {node}.{input}: the workflow has no node '{node}'"))?;
    if !inputs.contains_key(input) {
        let known: Vec<&str> = inputs.keys().map(String::as_str).collect();
        return Err(format!("--set {node}.{input}: the node has no such input, it has: {}", known.join(", ")).into());
    }
    inputs.insert(input.clone(), value.clone());
    Ok(())
}

/// Prints the files that were saved; fails if the prompt did.
fn report(folders: &comfyd_folders::Folders, outcome: &Outcome) -> Result<(), Failure> {
    for (node, shown) in outcome.outputs.as_object().into_iter().flatten() {
        for (kind, items) in shown.as_object().into_iter().flatten() {
            for item in items.as_array().into_iter().flatten() {
                let part = |key: &str| item.get(key).and_then(Json::as_str);
                match (part("filename"), part("type").and_then(comfyd_folders::Kind::parse)) {
                    (Some(file), Some(folder)) => {
                        let path = folders.directory(folder).join(part("subfolder").unwrap_or_default()).join(file);
                        assemble::print_line(path.display())?;
                    }
                    (Some(_) | None, _) => {
                        let text = item.as_str().map_or_else(|| item.to_string(), str::to_owned);
                        assemble::print_line(format_args!("{node} {kind}: {text}"))?;
                    }
                }
            }
        }
    }
    match outcome.status {
        Status::Success => Ok(()),
        Status::Interrupted => Err("interrupted".into()),
        Status::Error => {
            let Some(Message::Failed(failure)) = outcome.messages.last() else { return Err("the prompt failed".into()) };
            let message = failure.exception_message.trim();
            Err(format!("node {} ({}) failed: {message}", failure.node_id, failure.node_type).into())
        }
    }
}

struct Bar(ProgressBar);

impl Bar {
    fn new() -> Self {
        let target = if stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(1), target);
        if let Ok(style) = ProgressStyle::with_template("{msg:30} {wide_bar} {pos}/{len} {elapsed}") {
            bar.set_style(style);
        }
        Self(bar)
    }
}

impl EventSink for Bar {
    fn emit(&self, event: Event) {
        match &event.kind {
            EventKind::Executing(node) => {
                // In this order, since each draws the bar: the position must not be that of the last node.
                self.0.set_position(0);
                self.0.set_length(1);
                self.0.set_message(node.title.as_ref().unwrap_or(&node.class_type).to_string());
            }
            EventKind::Progress { value, max, .. } => {
                self.0.set_length(*max as u64);
                self.0.set_position(*value as u64);
            }
            EventKind::Message(_)
            | EventKind::Idle
            | EventKind::ProgressState(_)
            | EventKind::Executed { .. }
            | EventKind::Image { .. }
            | EventKind::Queue { .. }
            | EventKind::Text { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use async_trait::async_trait;
    use comfyd_jobs::NodeRef;
    use comfyd_jobs::contract::sink::{self, Harness};

    use super::*;

    /// The bar shows one prompt to one person: nobody can be asked what they were told.
    struct Shown;

    #[async_trait]
    impl Harness for Shown {
        async fn fresh(&self, _clients: &[&str]) -> Arc<dyn EventSink> {
            Arc::new(Bar::new())
        }

        async fn told(&self, _client: &str) -> Vec<String> {
            Vec::new()
        }

        fn observable(&self) -> bool {
            false
        }
    }

    #[tokio::test]
    async fn contract() {
        sink::run(&Shown).await;
    }

    #[test]
    fn the_bar_shows_the_node_and_its_steps() {
        let node = NodeRef {
            id: "3".into(),
            display_id: "3".into(),
            real_id: "3".into(),
            parent_id: None,
            class_type: "KSampler".into(),
            title: None,
        };
        let bar = Bar::new();
        let emit = |kind| bar.emit(Event { prompt_id: "p".into(), owner: "".into(), client_id: None, kind });
        emit(EventKind::Executing(node.clone()));
        assert_eq!(bar.0.message(), "KSampler");
        emit(EventKind::Progress { node: node.clone(), value: 3.0, max: 20.0 });
        assert_eq!((bar.0.position(), bar.0.length()), (3, Some(20)));
        emit(EventKind::Executing(NodeRef { title: Some("Refine".into()), ..node }));
        assert_eq!((bar.0.message(), bar.0.position(), bar.0.length()), ("Refine".into(), 0, Some(1)));
    }
}

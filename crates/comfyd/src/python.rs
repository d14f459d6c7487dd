//! `comfyd python check`: starts ComfyUI's process and tells what it loads.

use std::sync::Arc;

use comfyd_memory::Account;
use comfyd_node::Catalog;
use comfyd_python::{HistoryWanted, Outlet, Report, Tell, Worker};
use serde_json::{Value as Json, json};

use crate::assemble::{self, Failure};
use crate::beside::Around;
use crate::config::Config;
use crate::devices::Device;

/// Who hears nothing: no server is there.
pub(crate) struct Deaf;

impl Outlet for Deaf {
    fn event(&self, _: &str, _: Json, _: Option<&str>) {}
    fn binary(&self, _: u32, _: Vec<u8>, _: Option<&str>) {}
    fn enqueue(&self, _: Json) {
        tracing::warn!("a custom node puts a prompt into the queue, but no server runs that has one");
    }
    fn remove(&self, _: Option<Vec<String>>) {}
    fn history(&self, _: HistoryWanted, tell: Tell) {
        tell(serde_json::value::to_raw_value(&json!({})).map_err(|error| error.to_string()));
    }
    fn forget(&self, _: Option<Vec<String>>, _: String) {}
    fn changed(&self) {}
}

pub(crate) fn check(config: &Config, as_json: bool) -> Result<(), Failure> {
    if config.python.is_none() {
        return Err("name the folder of a ComfyUI with --comfyui".into());
    }
    let folders = assemble::folders(config)?;
    let (account, address, apart) = (Account::unbounded(), format!("127.0.0.1:{}", config.port), Arc::default());
    let around = Around { folders: &folders, account: &account, address: &address, apart: &apart };
    let outlet: Arc<dyn Outlet> = Arc::new(Deaf);
    let beside = Device::first(config, &around, &outlet)?.beside;
    let mut told = Vec::new();
    let mut failed = Vec::new();
    for worker in beside.workers() {
        // What is kept of its last start may be old.
        let ready = worker.ready();
        let report = worker.report().filter(|_| ready.is_ok()).unwrap_or_default();
        failed.extend(ready.as_ref().err().map(|error| format!("{}: {error}", worker.name())));
        told.push(if as_json {
            as_object(worker, &report, beside.native(), ready.err().map(|error| error.to_string())).to_string()
        } else {
            as_text(worker, &report, beside.native())
        });
    }
    beside.shutdown();
    let text = if as_json { format!("[{}]", told.join(",")) } else { told.join("\n\n") };
    assemble::print_line(text)?;
    if failed.is_empty() { Ok(()) } else { Err(failed.join("\n").into()) }
}

fn natively<'a>(report: &'a Report, native: &'a Catalog) -> impl Iterator<Item = &'a String> {
    report.classes.iter().filter(|class| native.get(class).is_some())
}

fn as_object(worker: &Worker, report: &Report, native: &Catalog, error: Option<String>) -> Json {
    let versions: serde_json::Map<String, Json> = report.versions.iter().map(|(name, version)| (name.clone(), json!(version))).collect();
    let packs = report
        .packs
        .iter()
        .map(|pack| json!({"name": pack.name, "path": pack.path, "seconds": pack.seconds, "classes": pack.classes, "error": pack.error}));
    json!({
        "environment": worker.name(),
        "python": worker.python(),
        "error": error,
        "versions": versions,
        "classes": report.classes,
        "native": natively(report, native).collect::<Vec<_>>(),
        "packs": packs.collect::<Vec<_>>(),
    })
}

fn as_text(worker: &Worker, report: &Report, native: &Catalog) -> String {
    let mut lines = vec![format!("environment {}: {}", worker.name(), worker.python().display())];
    for (name, version) in &report.versions {
        lines.push(format!("  {name:<10} {}", version.lines().next().unwrap_or_default()));
    }
    let count = natively(report, native).count();
    lines.push(format!("  {:<10} {} ({count} run natively too)", "classes", report.classes.len()));
    for pack in report.packs.iter().filter(|pack| pack.error.is_none()) {
        let seconds = format!("{:.2} s", pack.seconds);
        lines.push(format!("  {seconds:>9}  {:<40} {} classes", pack.name, pack.classes.len()));
    }
    for pack in report.failed() {
        lines.push(format!("\n  failed     {}", pack.name));
        let why = pack.error.as_deref().unwrap_or_default().trim();
        lines.extend(why.lines().map(|line| format!("      {line}")));
    }
    lines.join("\n")
}

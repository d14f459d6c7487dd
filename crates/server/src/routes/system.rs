//! `/system_stats`, `/features` and the OpenAPI document.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::answer::types::Object;
use crate::answer::{blocking, json_text};
use crate::app::App;
use crate::devices::DeviceState;
use crate::error::ApiError;
use crate::installations::Stage;
use crate::json::Plain;
use crate::openapi::{Doc, Table};
use crate::options::{Features, RequiredVersions};
use crate::permission::Permission::Read;
use crate::principal::Principal;
use crate::services::machine::{Figures, Machine};
use crate::services::manifest::Manifest;
use crate::services::pages;

/// The versions of a Python that is not there.
const NO_PYTHON: &str = "none (comfyd)";

pub(super) fn routes() -> Table {
    Table::default()
        .get("/system_stats", Read, stats, Doc::new("system", "Figures of the machine.").json::<SystemStats>())
        .get("/features", Read, features, Doc::new("system", "What the server can do.").json::<Features>())
        .get("/openapi.json", Read, document, Doc::new("system", "This document.").json::<Object>())
}

async fn features(State(app): State<App>) -> Json<Features> {
    Json(app.options.features())
}

async fn document(State(app): State<App>) -> Response {
    json_text(app.document.get().cloned().unwrap_or_default())
}

/// Figures of the machine.
#[derive(Debug, Serialize, ToSchema)]
struct SystemStats {
    #[schema(inline)]
    system: SystemInfo,
    #[schema(inline)]
    devices: Vec<DeviceStats>,
}

/// The machine and what serves on it.
#[derive(Debug, Serialize, ToSchema)]
struct SystemInfo {
    os: &'static str,
    ram_total: u64,
    ram_free: u64,
    cpu_count: usize,
    /// Percent.
    cpu_utilization: f32,
    /// The version of the API that is spoken.
    comfyui_version: String,
    required_frontend_version: String,
    #[schema(required)]
    installed_templates_version: Option<String>,
    required_templates_version: String,
    /// The packages of pages that go with the server.
    #[schema(inline)]
    comfy_package_versions: Vec<PackageVersion>,
    python_version: String,
    pytorch_version: String,
    embedded_python: bool,
    /// How the server came to be here.
    deploy_environment: String,
    comfyd_version: &'static str,
    argv: Vec<String>,
}

/// A package of pages.
#[derive(Debug, Serialize, ToSchema)]
struct PackageVersion {
    name: &'static str,
    #[schema(required)]
    installed: Option<String>,
    required: String,
}

/// A device.
#[derive(Debug, Serialize, ToSchema)]
struct DeviceStats {
    name: String,
    #[serde(rename = "type")]
    #[schema(inline, value_type = DeviceKind)]
    kind: Kind,
    #[schema(required)]
    index: Option<u32>,
    /// Bytes.
    vram_total: u64,
    vram_free: u64,
    torch_vram_total: u64,
    torch_vram_free: u64,
    /// Percent.
    #[schema(required, value_type = Option<f32>)]
    utilization: Option<Plain>,
    /// Bytes of loaded models.
    models_bytes: u64,
    /// Threads that were left behind with a node that does not end.
    stuck_threads: usize,
}

#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum DeviceKind {
    Cpu,
    Cuda,
}

/// A device's kind: PyTorch knows more of them.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
enum Kind {
    Own(DeviceKind),
    Other(String),
}

async fn stats(State(app): State<App>, principal: Principal) -> Result<Json<SystemStats>, ApiError> {
    let python = python_stats(&app).await;
    blocking(move || {
        let machine = app.machine.figures();
        let own = app.devices.states().map(|device| DeviceStats::of(device, &app.machine, &machine)).collect();
        let devices = python.get("devices").map(DeviceStats::told).unwrap_or_default();
        let mut system = SystemInfo::of(&app, &machine, &python);
        if principal.only().is_some() {
            // Where on this machine what lies is for administrators.
            system.argv = vec!["comfyd".into()];
        }
        Ok(Json(SystemStats { system, devices: joined(devices, own) }))
    })
    .await
}

/// What the default ComfyUI's process tells of itself: while none answers, what is known from its last start.
async fn python_stats(app: &App) -> Value {
    let Some(site) = app.installations.sites().first() else { return Value::Null };
    if site.installation.stage() == Stage::Ready {
        let installation = Arc::clone(&site.installation);
        if let Ok(Some(told)) = app.installations.wait(move || Ok(installation.stats())).await {
            return told;
        }
    }
    let manifest = site.manifest();
    let version = |of: fn(&Manifest) -> &Option<String>| manifest.as_ref().and_then(|manifest| of(manifest).clone());
    json!({
        "comfyui_version": version(|m| &m.comfyui),
        "python_version": version(|m| &m.python),
        "pytorch_version": version(|m| &m.pytorch),
    })
}

/// The devices of PyTorch, with what is known of the same ones here, and behind them those that only the engine has. One of PyTorch's is one
/// here: the processor may stand there several times.
fn joined(mut devices: Vec<DeviceStats>, own: Vec<DeviceStats>) -> Vec<DeviceStats> {
    let (told, mut met) = (devices.len(), Vec::new());
    for device in own {
        let mut others = devices.iter_mut().take(told).enumerate();
        let same = others.find(|(at, other)| other.kind == device.kind && other.index == device.index && !met.contains(at));
        match same.map(|(at, other)| {
            met.push(at);
            other
        }) {
            Some(other) => {
                (other.utilization, other.models_bytes) = (device.utilization, device.models_bytes);
                other.stuck_threads = device.stuck_threads;
            }
            None => devices.push(device),
        }
    }
    devices
}

impl SystemInfo {
    fn of(app: &App, machine: &Figures, python: &Value) -> Self {
        // What ComfyUI tells of itself, and what is told of it where it tells nothing.
        let found = |name: &str| python.get("system").and_then(|system| system.get(name)).or_else(|| python.get(name));
        let told = |name: &str| found(name).and_then(Value::as_str).map(str::to_owned);
        let argv = found("argv").and_then(Value::as_array).map(|words| words.iter().filter_map(Value::as_str).map(str::to_owned));
        let RequiredVersions { front_end, templates, docs } = &app.options.required_versions;
        let installed = pages::installed(&app.options.front_end);
        let package = |name: &'static str, installed: &Option<String>, required: &String| PackageVersion {
            name,
            installed: installed.clone(),
            required: required.clone(),
        };
        Self {
            // Python's names.
            os: match std::env::consts::OS {
                "windows" => "win32",
                "macos" => "darwin",
                other => other,
            },
            ram_total: machine.memory,
            ram_free: machine.free,
            cpu_count: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            cpu_utilization: machine.cpu_percent,
            comfyui_version: told("comfyui_version").unwrap_or_else(|| app.options.api_version.clone()),
            required_frontend_version: told("required_frontend_version").unwrap_or_else(|| front_end.clone()),
            comfy_package_versions: vec![
                package("comfyui-frontend-package", &installed.front_end, front_end),
                package("comfyui-workflow-templates", &installed.templates, templates),
                package("comfyui-embedded-docs", &installed.docs, docs),
            ],
            installed_templates_version: installed.templates,
            required_templates_version: told("required_templates_version").unwrap_or_else(|| templates.clone()),
            python_version: told("python_version").unwrap_or_else(|| NO_PYTHON.into()),
            pytorch_version: told("pytorch_version").unwrap_or_else(|| NO_PYTHON.into()),
            embedded_python: found("embedded_python").and_then(Value::as_bool).unwrap_or(false),
            deploy_environment: told("deploy_environment").unwrap_or_else(|| "comfyd".into()),
            comfyd_version: env!("CARGO_PKG_VERSION"),
            argv: argv.map_or_else(|| app.options.argv.clone(), Iterator::collect),
        }
    }
}

impl DeviceStats {
    /// Devices as ComfyUI tells them.
    fn told(devices: &Value) -> Vec<Self> {
        let of = |device: &Value| {
            let bytes = |name: &str| device.get(name).and_then(Value::as_u64).unwrap_or(0);
            Some(Self {
                name: device.get("name")?.as_str()?.to_owned(),
                kind: match device.get("type")?.as_str()? {
                    "cpu" => Kind::Own(DeviceKind::Cpu),
                    "cuda" => Kind::Own(DeviceKind::Cuda),
                    other => Kind::Other(other.to_owned()),
                },
                index: device.get("index").and_then(Value::as_u64).and_then(|index| index.try_into().ok()),
                vram_total: bytes("vram_total"),
                vram_free: bytes("vram_free"),
                torch_vram_total: bytes("torch_vram_total"),
                torch_vram_free: bytes("torch_vram_free"),
                utilization: None,
                models_bytes: 0,
                stuck_threads: 0,
            })
        };
        devices.as_array().into_iter().flatten().filter_map(of).collect()
    }

    fn of(device: DeviceState, machine: &Machine, figures: &Figures) -> Self {
        let DeviceState { name, memory, free, models, stuck_threads } = device;
        let index = name.strip_prefix("cuda:").and_then(|number| number.parse().ok());
        let card = index.and_then(|index| machine.card(index));
        let on_card = index.is_some();
        let percent = if on_card { card.as_ref().and_then(|card| card.percent).map(f64::from) } else { Some(figures.cpu_percent.into()) };
        Self {
            utilization: percent.map(Plain),
            name: card.map_or_else(|| name.clone(), |card| format!("{name} {}", card.name)),
            kind: Kind::Own(if on_card { DeviceKind::Cuda } else { DeviceKind::Cpu }),
            index,
            vram_total: memory,
            vram_free: free,
            torch_vram_total: if on_card { 0 } else { memory },
            torch_vram_free: if on_card { 0 } else { free },
            models_bytes: models,
            stuck_threads,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_device_is_listed_once_however_many_are_alike() {
        let device = |name: &str, kind, index, models_bytes| DeviceStats {
            name: name.to_owned(),
            kind: Kind::Own(kind),
            index,
            vram_total: 0,
            vram_free: 0,
            torch_vram_total: 0,
            torch_vram_free: 0,
            utilization: None,
            models_bytes,
            stuck_threads: 0,
        };
        let own = || {
            vec![
                device("cpu", DeviceKind::Cpu, None, 1),
                device("cpu", DeviceKind::Cpu, None, 2),
                device("cuda:1", DeviceKind::Cuda, Some(1), 3),
            ]
        };
        let of = |told| joined(told, own()).into_iter().map(|device| (device.name, device.models_bytes)).collect::<Vec<_>>();
        let named = |names: [&str; 3]| names.map(str::to_owned).into_iter().zip(1..).collect::<Vec<_>>();
        assert_eq!(of(Vec::new()), named(["cpu", "cpu", "cuda:1"]));
        assert_eq!(of(vec![device("torch", DeviceKind::Cpu, None, 0)]), named(["torch", "cpu", "cuda:1"]));
    }
}

//! `/system_stats`, `/features` and the OpenAPI document.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use serde::Serialize;

use crate::answer::{blocking, json_text};
use crate::app::App;
use crate::error::ApiError;
use crate::openapi::{Doc, Table};
use crate::options::Features;
use crate::services::machine::{Card, Figures};
use crate::services::pages::templates_version;

pub(super) fn routes() -> Table {
    Table::default()
        .get("/system_stats", stats, Doc::new("system", "Figures of the machine.").json("SystemStats"))
        .get("/features", features, Doc::new("system", "What the server can do.").json("Features"))
        .get("/openapi.json", document, Doc::new("system", "This document.").json("Object"))
}

async fn features(State(app): State<App>) -> Json<Features> {
    Json(app.options.features())
}

async fn document(State(app): State<App>) -> Response {
    json_text(app.document.get().cloned().unwrap_or_default())
}

/// Figures of the machine.
#[derive(Debug, Serialize)]
struct SystemStats {
    system: SystemInfo,
    devices: Vec<DeviceStats>,
}

/// The machine and what serves on it.
#[derive(Debug, Serialize)]
struct SystemInfo {
    os: &'static str,
    ram_total: u64,
    ram_free: u64,
    cpu_count: usize,
    cpu_utilization: f32,
    comfyui_version: String,
    required_frontend_version: String,
    installed_templates_version: Option<String>,
    required_templates_version: String,
    python_version: &'static str,
    pytorch_version: &'static str,
    embedded_python: bool,
    comfyd_version: &'static str,
    argv: Vec<String>,
}

/// A device.
#[derive(Debug, Serialize)]
struct DeviceStats {
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    index: Option<u32>,
    vram_total: u64,
    vram_free: u64,
    torch_vram_total: u64,
    torch_vram_free: u64,
    utilization: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    models_bytes: Option<u64>,
}

async fn stats(State(app): State<App>) -> Result<Json<SystemStats>, ApiError> {
    blocking(move || {
        let machine = app.machine.figures();
        let mut devices: Vec<DeviceStats> = app.machine.cards().into_iter().map(DeviceStats::of_card).collect();
        if devices.is_empty() {
            devices.push(DeviceStats::of_processor(&machine));
        }
        devices[0].models_bytes = Some(app.control.models_bytes());
        Ok(Json(SystemStats { system: SystemInfo::of(&app, &machine), devices }))
    })
    .await
}

impl SystemInfo {
    fn of(app: &App, machine: &Figures) -> Self {
        let (front_end, templates) = &app.options.required_versions;
        Self {
            // Python's names.
            os: if cfg!(windows) { "nt" } else { "posix" },
            ram_total: machine.memory,
            ram_free: machine.free,
            cpu_count: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            cpu_utilization: machine.cpu_percent,
            comfyui_version: app.options.api_version.clone(),
            required_frontend_version: front_end.clone(),
            installed_templates_version: templates_version(&app.options),
            required_templates_version: templates.clone(),
            python_version: "none (comfyd)",
            pytorch_version: "none (comfyd)",
            embedded_python: false,
            comfyd_version: env!("CARGO_PKG_VERSION"),
            argv: app.options.argv.clone(),
        }
    }
}

impl DeviceStats {
    fn of_processor(machine: &Figures) -> Self {
        let (total, free) = (machine.memory, machine.free);
        Self {
            name: "cpu".into(),
            kind: "cpu",
            index: None,
            vram_total: total,
            vram_free: free,
            torch_vram_total: total,
            torch_vram_free: free,
            utilization: Some(machine.cpu_percent),
            models_bytes: None,
        }
    }

    fn of_card(card: Card) -> Self {
        Self {
            name: format!("cuda:{} {}", card.index, card.name),
            kind: "cuda",
            index: Some(card.index),
            vram_total: card.memory,
            vram_free: card.free,
            torch_vram_total: 0,
            torch_vram_free: 0,
            utilization: card.percent.map(|percent| percent as f32),
            models_bytes: None,
        }
    }
}

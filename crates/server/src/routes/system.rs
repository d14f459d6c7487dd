//! `/system_stats`, `/features` and the OpenAPI document.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use crate::answer::types::Object;
use crate::answer::{blocking, json_text};
use crate::app::App;
use crate::devices::DeviceState;
use crate::error::ApiError;
use crate::json::Plain;
use crate::openapi::{Doc, Table};
use crate::options::Features;
use crate::permission::Permission::Read;
use crate::services::machine::{Figures, Machine};
use crate::services::pages::templates_version;

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
    python_version: &'static str,
    pytorch_version: &'static str,
    embedded_python: bool,
    comfyd_version: &'static str,
    argv: Vec<String>,
}

/// A device.
#[derive(Debug, Serialize, ToSchema)]
struct DeviceStats {
    name: String,
    #[serde(rename = "type")]
    #[schema(inline)]
    kind: DeviceKind,
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
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum DeviceKind {
    Cpu,
    Cuda,
}

async fn stats(State(app): State<App>) -> Result<Json<SystemStats>, ApiError> {
    blocking(move || {
        let machine = app.machine.figures();
        let devices = app.devices.states().map(|device| DeviceStats::of(device, &app.machine, &machine)).collect();
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
    fn of(device: DeviceState, machine: &Machine, figures: &Figures) -> Self {
        let DeviceState { name, memory, free, models } = device;
        let index = name.strip_prefix("cuda:").and_then(|number| number.parse().ok());
        let card = index.and_then(|index| machine.card(index));
        let on_card = index.is_some();
        let percent = if on_card { card.as_ref().and_then(|card| card.percent).map(f64::from) } else { Some(figures.cpu_percent.into()) };
        Self {
            utilization: percent.map(Plain),
            name: card.map_or_else(|| name.clone(), |card| format!("{name} {}", card.name)),
            kind: if on_card { DeviceKind::Cuda } else { DeviceKind::Cpu },
            index,
            vram_total: memory,
            vram_free: free,
            torch_vram_total: if on_card { 0 } else { memory },
            torch_vram_free: if on_card { 0 } else { free },
            models_bytes: models,
        }
    }
}

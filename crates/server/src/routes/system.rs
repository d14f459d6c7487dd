//! `/system_stats` and `/features`.

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

use crate::App;

pub(super) fn routes() -> Router<App> {
    Router::new().route("/system_stats", get(stats)).route("/features", get(|State(app): State<App>| async move { Json(features(&app)) }))
}

/// What the server can do, for `/features` and the websocket's handshake.
pub(crate) fn features(app: &App) -> Value {
    json!({"supports_preview_metadata": true, "supports_raw_previews": true, "max_upload_size": app.options.max_upload_bytes})
}

async fn stats(State(app): State<App>) -> Json<Value> {
    let system = System::new_with_specifics(RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram()));
    let (total, free) = (system.total_memory(), system.available_memory());
    let mut devices = gpus();
    if devices.is_empty() {
        devices.push(json!({
            "name": "cpu", "type": "cpu", "index": null,
            "vram_total": total, "vram_free": free, "torch_vram_total": total, "torch_vram_free": free,
        }));
    }
    if let Some(device) = devices.first_mut() {
        device["models_bytes"] = json!(app.control.models_bytes());
    }
    Json(json!({
        "system": {
            "os": std::env::consts::OS,
            "ram_total": total,
            "ram_free": free,
            "comfyui_version": app.options.api_version,
            "required_frontend_version": null,
            "installed_templates_version": null,
            "required_templates_version": null,
            "python_version": "none (comfyd)",
            "pytorch_version": "none (comfyd)",
            "embedded_python": false,
            "comfyd_version": env!("CARGO_PKG_VERSION"),
            "argv": app.options.argv,
        },
        "devices": devices,
    }))
}

/// Graphics cards with their memory in bytes, where NVIDIA's management library is there.
fn gpus() -> Vec<Value> {
    use std::sync::OnceLock;
    static NVML: OnceLock<Option<nvml_wrapper::Nvml>> = OnceLock::new();
    let Some(nvml) = NVML.get_or_init(|| nvml_wrapper::Nvml::init().ok()) else { return Vec::new() };
    let count = nvml.device_count().unwrap_or(0);
    let cards = (0..count).filter_map(|index| {
        let device = nvml.device_by_index(index).ok()?;
        let (name, memory) = (device.name().ok()?, device.memory_info().ok()?);
        Some(json!({
            "name": format!("cuda:{index} {name}"), "type": "cuda", "index": index,
            "vram_total": memory.total, "vram_free": memory.free, "torch_vram_total": 0, "torch_vram_free": 0,
        }))
    });
    cards.collect()
}

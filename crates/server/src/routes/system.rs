//! `/system_stats` and `/features`.

use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use parking_lot::Mutex;
use serde_json::{Value, json};
use sysinfo::{MemoryRefreshKind, System};

use crate::App;
use crate::openapi::{Doc, Table};
use crate::routes::frontend;

pub(super) fn routes() -> Table {
    Table::default().get("/system_stats", stats, Doc::new("system", "Figures of the machine.").json("SystemStats")).get(
        "/features",
        |State(app): State<App>| async move { Json(features(&app)) },
        Doc::new("system", "What the server can do.").json("Features"),
    )
}

/// What the server can do, for `/features` and the websocket's handshake.
pub(crate) fn features(app: &App) -> Value {
    json!({"supports_preview_metadata": true, "supports_raw_previews": true, "max_upload_size": app.options.max_upload_bytes})
}

/// How busy the processors are is measured between two readings, this far apart at least.
const CPU_INTERVAL: Duration = Duration::from_millis(250);

/// The machine's figures, read anew for a request; those of the processors at most every [`CPU_INTERVAL`].
struct Machine {
    system: System,
    read: Instant,
}

impl Machine {
    /// Total and available memory in bytes, and how busy the processors are in percent of all of them.
    fn figures() -> (u64, u64, f32) {
        static MACHINE: Mutex<Option<Machine>> = Mutex::new(None);
        let mut machine = MACHINE.lock();
        let machine = machine.get_or_insert_with(|| {
            let mut system = System::new();
            // The first reading is the time since the machine's start; the next one is compared with it.
            system.refresh_cpu_usage();
            Machine { system, read: Instant::now() }
        });
        machine.system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
        if machine.read.elapsed() >= CPU_INTERVAL {
            machine.system.refresh_cpu_usage();
            machine.read = Instant::now();
        }
        (machine.system.total_memory(), machine.system.available_memory(), machine.system.global_cpu_usage())
    }
}

async fn stats(State(app): State<App>) -> Json<Value> {
    let (total, free, cpu_percent) = Machine::figures();
    let mut devices = gpus();
    if devices.is_empty() {
        devices.push(json!({
            "name": "cpu", "type": "cpu", "index": null,
            "vram_total": total, "vram_free": free, "torch_vram_total": total, "torch_vram_free": free, "utilization": cpu_percent,
        }));
    }
    if let Some(device) = devices.first_mut() {
        device["models_bytes"] = json!(app.control.models_bytes());
    }
    let (front_end, templates) = &app.options.required_versions;
    Json(json!({
        "system": {
            // Python's names.
            "os": if cfg!(windows) { "nt" } else { "posix" },
            "ram_total": total,
            "ram_free": free,
            "cpu_count": std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            "cpu_utilization": cpu_percent,
            "comfyui_version": app.options.api_version,
            "required_frontend_version": front_end,
            "installed_templates_version": frontend::templates_version(&app),
            "required_templates_version": templates,
            "python_version": "none (comfyd)",
            "pytorch_version": "none (comfyd)",
            "embedded_python": false,
            "comfyd_version": env!("CARGO_PKG_VERSION"),
            "argv": app.options.argv,
        },
        "devices": devices,
    }))
}

/// Graphics cards with their memory in bytes and how busy they are in percent, where NVIDIA's management library is there.
fn gpus() -> Vec<Value> {
    use std::sync::OnceLock;
    static NVML: OnceLock<Option<nvml_wrapper::Nvml>> = OnceLock::new();
    let Some(nvml) = NVML.get_or_init(|| nvml_wrapper::Nvml::init().ok()) else { return Vec::new() };
    let count = nvml.device_count().unwrap_or(0);
    let cards = (0..count).filter_map(|index| {
        let device = nvml.device_by_index(index).ok()?;
        let (name, memory) = (device.name().ok()?, device.memory_info().ok()?);
        let busy = device.utilization_rates().ok().map(|rates| rates.gpu);
        Some(json!({
            "name": format!("cuda:{index} {name}"), "type": "cuda", "index": index,
            "vram_total": memory.total, "vram_free": memory.free, "torch_vram_total": 0, "torch_vram_free": 0,
            "utilization": busy,
        }))
    });
    cards.collect()
}

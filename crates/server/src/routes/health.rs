//! What watches a server asks: whether it lives, whether it can take prompts, and its figures for Prometheus.

use std::fmt;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, StatusCode};
use comfyd_jobs::Counts;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use serde::Serialize;
use utoipa::ToSchema;

use crate::answer::blocking;
use crate::app::App;
use crate::error::ApiError;
use crate::metrics::PREFIX;
use crate::openapi::{Doc, Table};
use crate::permission::Permission::{Admin, Anybody};

/// How long the store may take to tell that it is there.
const STORE_PATIENCE: Duration = Duration::from_secs(2);

/// The format of the figures.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) fn routes() -> Table {
    let health = Doc::new("operation", "Whether the process answers.")
        .describe("For whoever starts it anew where it does not. It asks for nothing else and needs no key.")
        .json::<Health>();
    let ready = Doc::new("operation", "Whether prompts can be taken.")
        .describe("For whoever sends it requests: the store of prompts is asked. 503 where it does not answer. It needs no key.")
        .json::<Health>();
    let metrics = Doc::new("operation", "Figures for Prometheus.")
        .describe("In the OpenMetrics text format: the queue, times of prompts and of classes of nodes, memory, devices, sockets.")
        .bytes(OPEN_METRICS);
    Table::default()
        .get("/health", Anybody, health_of, health)
        .get("/ready", Anybody, readiness, ready)
        .get("/metrics", Admin, figures, metrics)
}

/// That it is well.
#[derive(Debug, Serialize, ToSchema)]
struct Health {
    status: &'static str,
}

async fn health_of() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// What the store says, if it does in time.
async fn asked<T>(answer: impl Future<Output = comfyd_jobs::Result<T>>) -> Result<T, ApiError> {
    let late = |_| ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", "the store of prompts does not answer: try again later");
    Ok(tokio::time::timeout(STORE_PATIENCE, answer).await.map_err(late)??)
}

async fn readiness(State(app): State<App>) -> Result<Json<Health>, ApiError> {
    asked(app.store.answers()).await?;
    Ok(Json(Health { status: "ready" }))
}

async fn figures(State(app): State<App>) -> Result<([(HeaderName, &'static str); 1], String), ApiError> {
    let counts = asked(app.store.counts()).await?;
    // The state of a card is its driver's to tell.
    let text = blocking(move || {
        let mut text = String::new();
        let written = encode_registry(&mut text, &read(&app, &counts)).and_then(|()| app.metrics.write(&mut text));
        written.and_then(|()| encode_eof(&mut text)).map_err(|fmt::Error| ApiError::internal("the figures cannot be written"))?;
        Ok(text)
    });
    Ok(([(CONTENT_TYPE, OPEN_METRICS)], text.await?))
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueueLabels {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DeviceLabels {
    /// Its place among all: several may be called the same.
    device: usize,
    name: String,
}

/// The figures that are there to be read.
fn read(app: &App, counts: &Counts) -> Registry {
    let mut registry = Registry::with_prefix(PREFIX);
    let whole = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let gauge = |value| ConstGauge::new(whole(value));
    let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned()), ("api", app.options.api_version.clone())];
    registry.register("build", "The program", Info::new(version));

    let prompts = Family::<QueueLabels, Gauge>::default();
    for (state, count) in [("running", counts.running), ("pending", counts.pending)] {
        prompts.get_or_create(&QueueLabels { state }).set(whole(count as u64));
    }
    registry.register("queue_prompts", "Prompts that run, and that wait", prompts);
    registry.register("sockets", "Websocket clients", gauge(app.hub.len() as u64));
    registry.register_with_unit("memory_budget", "What may be held of the machine's memory", Unit::Bytes, gauge(app.memory.budget()));
    registry.register_with_unit("memory_held", "What is held of it", Unit::Bytes, gauge(app.memory.held()));

    let [total, free, models, stuck] = [(); 4].map(|()| Family::<DeviceLabels, Gauge>::default());
    for (number, device) in app.devices.states().enumerate() {
        let labels = DeviceLabels { device: number, name: device.name };
        let figures = [(&total, device.memory), (&free, device.free), (&models, device.models), (&stuck, device.stuck_threads as u64)];
        for (family, value) in figures {
            family.get_or_create(&labels).set(whole(value));
        }
    }
    registry.register_with_unit("device_memory", "A device's memory", Unit::Bytes, total);
    registry.register_with_unit("device_memory_free", "What is free of it", Unit::Bytes, free);
    registry.register_with_unit("device_models", "What loaded models take of it", Unit::Bytes, models);
    registry.register("device_stuck_threads", "Threads left behind with a node that does not end", stuck);
    registry
}

//! Figures for Prometheus: what is counted while prompts run. What is only read when somebody asks is the route's (`routes/health.rs`).

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use comfyd_jobs::{Event, EventKind, EventSink, Message};
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode_registry;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Upper bounds of the buckets of times: the first in seconds, by how much each is longer, how many.
const BUCKETS: (f64, f64, u16) = (0.001, 4.0, 11);

/// With what all names begin.
pub(crate) const PREFIX: &str = "comfyd";

/// What is counted. Clones count together.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    nodes: Family<NodeLabels, Histogram, fn() -> Histogram>,
    prompts: Family<PromptLabels, Histogram, fn() -> Histogram>,
    cached: Counter,
    /// The devices of other processes whose nodes are counted, with the classes that ran there.
    elsewhere: Mutex<HashMap<String, HashSet<String>>>,
    /// When each prompt began that runs, in milliseconds since 1970.
    began: Mutex<HashMap<Arc<str>, i64>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NodeLabels {
    class: String,
    device: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PromptLabels {
    status: &'static str,
}

fn times() -> Histogram {
    let (first, factor, count) = BUCKETS;
    Histogram::new(exponential_buckets(first, factor, count))
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        let nodes = Family::new_with_constructor(times as fn() -> Histogram);
        let prompts = Family::new_with_constructor(times as fn() -> Histogram);
        let cached = Counter::default();
        registry.register("node_seconds", "How long calls of a class of nodes took", nodes.clone());
        registry.register("prompt_seconds", "How long prompts took from their start to their end", prompts.clone());
        registry.register("cached_nodes", "Nodes whose result was there when their prompt began", cached.clone());
        Self(Arc::new(Inner { registry, nodes, prompts, cached, elsewhere: Mutex::default(), began: Mutex::default() }))
    }
}

impl Metrics {
    /// Counts a run of a node of this class on the device of this place among all.
    pub fn node(&self, class: &str, device: &str, took: Duration) {
        let labels = NodeLabels { class: class.into(), device: device.into() };
        self.0.nodes.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// The same for a device of another process.
    pub fn node_elsewhere(&self, class: &str, device: &str, took: Duration) {
        self.0.elsewhere.lock().entry(device.to_owned()).or_default().insert(class.to_owned());
        self.node(class, device, took);
    }

    /// Forgets what devices of other processes ran that are not there any more: processes come and go.
    pub fn keep_elsewhere(&self, there: impl Fn(&str) -> bool) {
        self.0.elsewhere.lock().retain(|device, classes| {
            let kept = there(device);
            for class in classes.iter().filter(|_| !kept) {
                self.0.nodes.remove(&NodeLabels { class: class.clone(), device: device.clone() });
            }
            kept
        });
    }

    /// Writes all in the OpenMetrics format, without its end.
    pub(crate) fn write(&self, text: &mut String) -> fmt::Result {
        encode_registry(text, &self.0.registry)
    }

    fn count(&self, message: &Message) {
        let (status, prompt_id, ended_ms) = match message {
            Message::Start { prompt_id, timestamp_ms } => {
                self.0.began.lock().insert(prompt_id.clone(), *timestamp_ms);
                return;
            }
            Message::Cached { nodes, .. } => {
                self.0.cached.inc_by(nodes.len() as u64);
                return;
            }
            Message::Success { prompt_id, timestamp_ms } => ("success", prompt_id, *timestamp_ms),
            Message::Interrupted(end) => ("interrupted", &end.prompt_id, end.timestamp_ms),
            Message::Failed(end) => match end.timestamp_ms {
                Some(timestamp_ms) => ("error", &end.prompt_id, timestamp_ms),
                // A node that was not called; its prompt goes on.
                None => return,
            },
        };
        if let Some(began_ms) = self.0.began.lock().remove(prompt_id) {
            let took = ended_ms.saturating_sub(began_ms).max(0) as f64 / 1000.0;
            self.0.prompts.get_or_create(&PromptLabels { status }).observe(took);
        }
    }
}

/// Counts what a sink is told.
pub struct Metered {
    /// What counts.
    pub metrics: Metrics,
    /// The sink.
    pub sink: Arc<dyn EventSink>,
}

impl EventSink for Metered {
    fn emit(&self, event: Event) {
        if let EventKind::Message(message) = &event.kind {
            self.metrics.count(message);
        }
        self.sink.emit(event);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use comfyd_jobs::Failure;
    use comfyd_jobs::event::NullSink;
    use serde_json::json;

    use super::*;

    fn failed(timestamp_ms: Option<i64>) -> Message {
        Message::Failed(Box::new(Failure {
            prompt_id: "b".into(),
            node_id: "1".into(),
            node_type: "Show".into(),
            executed: Vec::new(),
            exception_message: String::new(),
            exception_type: "".into(),
            traceback: Vec::new(),
            current_inputs: json!({}),
            current_outputs: Vec::new(),
            timestamp_ms,
        }))
    }

    #[test]
    fn each_prompt_and_node_is_counted_once() {
        let metrics = Metrics::default();
        let sink = Metered { metrics: metrics.clone(), sink: Arc::new(NullSink) };
        let start = |id: &str| Message::Start { prompt_id: id.into(), timestamp_ms: 1_000 };
        let cached = Message::Cached { nodes: vec!["1".into(), "2".into()], prompt_id: "a".into(), timestamp_ms: 1_000 };
        let success = || Message::Success { prompt_id: "a".into(), timestamp_ms: 3_500 };
        // The node that was blocked ends no prompt, and a prompt ends once.
        for message in [start("a"), start("b"), cached, failed(None), success(), success(), failed(Some(1_010))] {
            sink.emit(Event { prompt_id: "a".into(), owner: "".into(), client_id: None, kind: EventKind::Message(message) });
        }
        metrics.node("KSampler", "0", Duration::from_millis(500));
        for device in ["there/cpu", "gone/cpu"] {
            metrics.node_elsewhere("KSampler", device, Duration::from_millis(250));
        }
        metrics.keep_elsewhere(|device| device == "there/cpu");
        let mut text = String::new();
        metrics.write(&mut text).unwrap();
        for line in [
            "comfyd_prompt_seconds_sum{status=\"success\"} 2.5",
            "comfyd_prompt_seconds_count{status=\"success\"} 1",
            "comfyd_prompt_seconds_count{status=\"error\"} 1",
            "comfyd_node_seconds_sum{class=\"KSampler\",device=\"0\"} 0.5",
            "comfyd_node_seconds_sum{class=\"KSampler\",device=\"there/cpu\"} 0.25",
            "comfyd_cached_nodes_total 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("gone/cpu"), "{text}");
    }
}

//! Memory that runs out is said in words, and ends no process: what does not fit fails its node, and the server goes on.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![cfg(target_os = "linux")]

mod support;

use serde_json::{Map, Value, json};
use support::Server;

/// The address space that the server has, in kilobytes: as `ulimit -v` takes it.
const ADDRESS_SPACE: &str = "ulimit -v 6291456; exec \"$@\"";

fn node(class: &str, inputs: &Value) -> Value {
    json!({"class_type": class, "inputs": inputs})
}

/// Runs a prompt, and gives how it ended: its status, and the error's kind and words.
async fn run(server: &Server, graph: &Value) -> (String, String, String) {
    let (status, answer) = server.post("/prompt", &json!({"prompt": graph})).await;
    assert_eq!(status, 200, "{answer}");
    let entry = server.finished(answer["prompt_id"].as_str().unwrap()).await;
    let end = entry["status"]["messages"].as_array().unwrap().last().unwrap()[1].clone();
    let text = |key: &str| end[key].as_str().unwrap_or_default().to_owned();
    (entry["status"]["status_str"].as_str().unwrap().to_owned(), text("exception_type"), text("exception_message"))
}

/// Twelve latents of 400 MB to 1.2 GB, each seen by a node of its own; or joined one after the other.
fn latents(joined: bool) -> Value {
    let mut graph = Map::new();
    for n in 0..12 {
        let shape = json!({"width": 16384, "height": 16384, "batch_size": 6 + n});
        graph.insert(format!("made {n}"), node("EmptyLatentImage", &shape));
        let source = match (joined, n) {
            (true, 1) => json!(["made 0", 0]),
            (true, 2..) => json!([format!("joined {}", n - 1), 0]),
            (true, _) | (false, _) => json!([format!("made {n}"), 0]),
        };
        if joined && n > 0 {
            let parts = json!({"samples1": source, "samples2": [format!("made {n}"), 0]});
            graph.insert(format!("joined {n}"), node("LatentBatch", &parts));
        } else {
            graph.insert(format!("shown {n}"), node("PreviewAny", &json!({"source": source})));
        }
    }
    if joined {
        graph.insert("shown".into(), node("PreviewAny", &json!({"source": ["joined 11", 0]})));
    }
    Value::Object(graph)
}

#[tokio::test]
async fn what_does_not_fit_fails_its_node_and_the_server_goes_on() {
    let server = Server::start_with(&["bash", "-c", ADDRESS_SPACE, "bash"], &[]).await;
    let picture = json!({"width": 16384, "height": 10900, "batch_size": 4, "color": 5});
    let latent = |batch: u32| json!({"width": 16384, "height": 16384, "batch_size": batch});
    let replaced = json!({"string": "a".repeat(1 << 20), "regex_pattern": "(a+)", "replace": "\\1".repeat(100_000)});
    let show = |class: &str, inputs: &Value| json!({"1": node(class, inputs), "2": node("PreviewAny", &json!({"source": ["1", 0]}))});
    let mut repeated = show("EmptyLatentImage", &latent(12));
    repeated["3"] = node("RepeatLatentBatch", &json!({"samples": ["1", 0], "amount": 8}));
    repeated["2"]["inputs"]["source"] = json!(["3", 0]);
    let too_much =
        [show("EmptyImage", &picture), show("EmptyLatentImage", &latent(90)), repeated, show("RegexReplace", &replaced), latents(true)];
    for graph in too_much {
        let (status, kind, message) = run(&server, &graph).await;
        assert_eq!((&*status, &*kind), ("error", "torch.OutOfMemoryError"), "{message}");
    }
    let (status, _, message) = run(&server, &latents(false)).await;
    assert_eq!(status, "success", "results that are not needed any more give way: {message}");
    let small = json!({"width": 64, "height": 64, "batch_size": 1, "color": 5});
    assert_eq!(run(&server, &show("EmptyImage", &small)).await.0, "success");
    let (ended, _) = server.stop("TERM");
    assert!(ended.success());
}

#[tokio::test]
async fn the_budget_bounds_results() {
    let server = Server::start(&["--memory-budget", "300M", "--cache-lru", "1000"]).await;
    for color in 0..20 {
        let shape = json!({"width": 2048, "height": 2048, "batch_size": 1, "color": color});
        let graph = json!({"1": node("EmptyImage", &shape), "2": node("PreviewAny", &json!({"source": ["1", 0]}))});
        assert_eq!(run(&server, &graph).await.0, "success");
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak_kilobytes: u64 = peak.split_whitespace().next().unwrap().parse().unwrap();
    assert!(peak_kilobytes < 600 << 10, "a gigabyte of results took {peak_kilobytes} kB");
}

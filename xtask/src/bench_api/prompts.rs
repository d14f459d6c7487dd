//! The prompts that are sent.

use serde_json::json;

/// `EmptyImage` → `ImageInvert` → `SaveImage`, 64x64; the colour makes it another prompt.
pub(super) fn small_prompt(colour: u32, client: &str) -> String {
    prompt(colour, 64, "bench_small", client)
}

pub(super) fn prompt(colour: u32, side: u32, prefix: &str, client: &str) -> String {
    let graph = json!({
        "1": {"class_type": "EmptyImage", "inputs": {"width": side, "height": side, "batch_size": 1, "color": colour % 0xff_ffff}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": prefix}},
    });
    json!({"prompt": graph, "client_id": client}).to_string()
}

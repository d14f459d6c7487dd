//! Clients that want more memory than the server has: prompts, bodies, pictures. Each must be refused or fail, and nobody else notice.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::load::{Client, Ledger, id, lock, status};

/// A file of few bytes and many pixels.
const PICTURE: &str = "large.png";
const SIDE: u32 = 8192;
/// How many bytes a body of ones has, and how many bodies and pictures are wanted at once.
const BODY_BYTES: usize = 64 << 20;
const AT_ONCE: usize = 6;
const PACE: Duration = Duration::from_millis(200);

/// Puts the picture where clients can ask for it.
pub(super) fn prepare(base: &Path) -> io::Result<()> {
    std::fs::create_dir_all(base.join("input"))?;
    let mut encoder = png::Encoder::new(io::BufWriter::new(std::fs::File::create(base.join("input").join(PICTURE))?), SIDE, SIDE);
    encoder.set_color(png::ColorType::Grayscale);
    let mut writer = encoder.write_header()?;
    let mut writer = writer.stream_writer()?;
    for _ in 0..SIDE {
        io::Write::write_all(&mut writer, &[7; SIDE as usize])?;
    }
    Ok(writer.finish()?)
}

/// Sends prompts, then bodies, then asks for pictures, until it is told to stop.
pub(super) async fn want_memory(host: String, ledger: Arc<Ledger>) {
    let body: Arc<str> = format!("{{\"prompt\": [0{}]}}", ",0".repeat(BODY_BYTES / 2)).into();
    let picture = format!("/view?filename={PICTURE}&type=input&channel=a");
    for n in 0_usize.. {
        if ledger.stop.load(Ordering::Relaxed) {
            return;
        }
        match n % 4 {
            0 | 2 => submit(&host, n, &ledger).await,
            1 => at_once(&host, "/prompt", Some(&body), &ledger).await,
            _ => at_once(&host, &picture, None, &ledger).await,
        }
        tokio::time::sleep(PACE).await;
    }
}

async fn submit(host: &str, n: usize, ledger: &Ledger) {
    let id = id("hunger", n as u64);
    let body = json!({"prompt": graph(n / 2), "prompt_id": id}).to_string();
    match Client::new(host.to_owned()).ask("/prompt", Some(&body)).await {
        Ok(_answer) => {
            ledger.accepted.fetch_add(1, Ordering::Relaxed);
            lock(&ledger.open).insert(id);
        }
        Err(error) => match status(&error) {
            Some(503 | 507) | None => {}
            Some(_) => ledger.fault(error.to_string()),
        },
    }
}

/// Asks the same several times at once. Whoever finds no memory is refused.
async fn at_once(host: &str, path: &str, body: Option<&Arc<str>>, ledger: &Ledger) {
    let mut asked = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (mut client, path, body) = (Client::new(host.to_owned()), path.to_owned(), body.cloned());
        asked.spawn(async move { client.ask(&path, body.as_deref()).await });
    }
    while let Some(Ok(answer)) = asked.join_next().await {
        match answer.as_ref().map_err(status) {
            Ok(_) if body.is_some() => ledger.fault(format!("POST {path} took a list of numbers for a graph")),
            Ok(_) | Err(None) => {}
            Err(Some(400..500 | 503 | 507)) => drop(ledger.bad.fetch_add(1, Ordering::Relaxed)),
            Err(Some(other)) => ledger.fault(format!("{path}: {other}")),
        }
    }
}

/// What needs many times the memory of a small server: at once, in results that are kept, in texts, in latents.
fn graph(n: usize) -> Value {
    let image = |width: u32, height: u32, batch: u32| json!({"class_type": "EmptyImage", "inputs": {"width": width, "height": height, "batch_size": batch, "color": n}});
    let mut graph = json!({"3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "hunger"}}});
    match n % 4 {
        0 => {
            graph["1"] = image(16384, 10900, 4);
            graph["2"] = json!({"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}});
        }
        1 => {
            // Each has 800 MB and is kept; what is saved of them is small.
            graph["2"] = json!({"class_type": "ImageBatch", "inputs": {"image1": ["cut-0", 0], "image2": ["cut-1", 0]}});
            for k in 0..12_u32 {
                graph[format!("all-{k}")] = image(8192, 8192 - k, 1);
                let inputs = json!({"image": [format!("all-{k}"), 0], "width": 16, "height": 16, "x": 0, "y": 0});
                graph[format!("cut-{k}")] = json!({"class_type": "ImageCrop", "inputs": inputs});
                let inputs = json!({"images": [format!("cut-{k}"), 0], "filename_prefix": "hunger"});
                graph[format!("show-{k}")] = json!({"class_type": "PreviewImage", "inputs": inputs});
            }
        }
        2 => {
            let inputs = json!({"string": "a".repeat(1 << 20), "regex_pattern": "(a+)", "replace": "\\1".repeat(100_000)});
            graph["1"] = json!({"class_type": "RegexReplace", "inputs": inputs});
            graph["2"] = json!({"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}});
            graph["3"] = json!({"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}});
        }
        _ => {
            graph["1"] = json!({"class_type": "EmptyLatentImage", "inputs": {"width": 16384, "height": 16384, "batch_size": 256}});
            graph["2"] = json!({"class_type": "LatentFlip", "inputs": {"samples": ["1", 0], "flip_method": "x-axis: vertically"}});
            graph["3"] = json!({"class_type": "SaveLatent", "inputs": {"samples": ["2", 0], "filename_prefix": "hunger"}});
        }
    }
    graph
}

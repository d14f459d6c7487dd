//! Runs the recorded node cases on the real binary and compares what it saves with what the reference saved. The rules are those of
//! conformance/check_cases.py.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt;
use serde_json::{Value, json};
use support::{Part, Server, conformance, multipart, read_json};

const PIXEL_TOLERANCE: i64 = 1;
const MEAN_TOLERANCE: f64 = 0.05;
const LATENT_TOLERANCE: f64 = 1e-3;

async fn upload(server: &Server, name: &str, bytes: &[u8]) {
    let (body, content_type) = multipart(&[
        Part { name: "overwrite", filename: None, content_type: "", bytes: b"true" },
        Part { name: "image", filename: Some(name), content_type: "application/octet-stream", bytes },
    ]);
    let request = reqwest::Client::new().post(format!("{}/upload/image", server.url)).header("Content-Type", content_type).body(body);
    assert_eq!(request.send().await.unwrap().status(), 200, "{name}");
}

/// Compares two pictures of 8 bits a channel; an explanation if they differ too much.
fn compare_pictures(got: &[u8], wanted: &[u8], tolerance: i64, mean_tolerance: f64) -> Result<(), String> {
    let (got, wanted) = (image::load_from_memory(got).unwrap(), image::load_from_memory(wanted).unwrap());
    if (got.width(), got.height(), got.color()) != (wanted.width(), wanted.height(), wanted.color()) {
        return Err(format!(
            "{}x{} {:?}, the reference {}x{} {:?}",
            got.width(),
            got.height(),
            got.color(),
            wanted.width(),
            wanted.height(),
            wanted.color()
        ));
    }
    let errors: Vec<i64> = got.as_bytes().iter().zip(wanted.as_bytes()).map(|(a, b)| (i64::from(*a) - i64::from(*b)).abs()).collect();
    let (max, mean) = (*errors.iter().max().unwrap(), errors.iter().sum::<i64>() as f64 / errors.len() as f64);
    if max <= tolerance || mean <= mean_tolerance { Ok(()) } else { Err(format!("max {max} mean {mean:.4}")) }
}

/// The shape and values of `latent_tensor` (float32) in a safetensors file.
fn latent(bytes: &[u8]) -> (Value, Vec<f64>) {
    let header_len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + header_len]).unwrap();
    let tensor = &header["latent_tensor"];
    assert_eq!(tensor["dtype"], "F32");
    let offset = |i: usize| 8 + header_len + tensor["data_offsets"][i].as_u64().unwrap() as usize;
    let values = bytes[offset(0)..offset(1)].chunks_exact(4).map(|c| f64::from(f32::from_le_bytes(c.try_into().unwrap())));
    (tensor["shape"].clone(), values.collect())
}

fn compare_latents(got: &[u8], wanted: &[u8], tolerance: f64) -> Result<(), String> {
    let ((got_shape, got), (shape, wanted)) = (latent(got), latent(wanted));
    if got_shape != shape {
        return Err(format!("shape {got_shape}, the reference {shape}"));
    }
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let error = norm(&mut got.iter().zip(&wanted).map(|(a, b)| a - b)) / (norm(&mut wanted.iter().copied()) + 1e-12);
    if error <= tolerance { Ok(()) } else { Err(format!("relative error {error:.2e}")) }
}

async fn run_case(server: &Server, folder: &str, case: &Value) -> Result<(), String> {
    let (status, answer) = server.post("/prompt", &json!({"prompt": case["workflow"]})).await;
    if status != 200 {
        return Err(format!("{status} {answer}"));
    }
    let entry = server.finished(answer["prompt_id"].as_str().unwrap()).await;
    if entry["status"]["status_str"] != "success" {
        return Err(entry["status"]["messages"].as_array().unwrap().last().unwrap().to_string());
    }
    let (mut pictures, mut latents) = (Vec::new(), Vec::new());
    for shown in entry["outputs"].as_object().unwrap().values() {
        let files = |key: &str| key.ends_with("images") || key == "latents";
        for file in shown.as_object().unwrap().iter().filter(|(key, _)| files(key)).flat_map(|(_, files)| files.as_array().unwrap()) {
            let field = |key: &str| file[key].as_str().unwrap().to_owned();
            let query = [("filename", field("filename")), ("subfolder", field("subfolder")), ("type", field("type"))];
            let response = reqwest::Client::new().get(format!("{}/view", server.url)).query(&query).send().await.unwrap();
            assert_eq!(response.status(), 200);
            let list = if field("filename").ends_with(".latent") { &mut latents } else { &mut pictures };
            list.push(response.bytes().await.unwrap());
        }
    }
    for (got, ending) in [(pictures, ".png"), (latents, ".latent")] {
        let expected = case["expect"].as_array().unwrap().iter().map(|f| f.as_str().unwrap());
        let wanted: Vec<&str> = expected.filter(|f| f.ends_with(ending)).collect();
        if got.len() != wanted.len() {
            return Err(format!("{} {ending} files, the reference {}", got.len(), wanted.len()));
        }
        for (got, file) in got.iter().zip(wanted) {
            let wanted = std::fs::read(conformance(folder).join(file)).unwrap();
            let compared = if ending == ".png" {
                let mean = case["mean_tol"].as_f64().unwrap_or(MEAN_TOLERANCE);
                compare_pictures(got, &wanted, case["pixel_tol"].as_i64().unwrap_or(PIXEL_TOLERANCE), mean)
            } else {
                compare_latents(got, &wanted, case["latent_tol"].as_f64().unwrap_or(LATENT_TOLERANCE))
            };
            compared.map_err(|e| format!("{file}: {e}"))?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn every_recorded_node_case_is_reproduced() {
    let server = Server::start(&[]).await;
    let cases = read_json(&conformance("nodes/cases.json"));
    let cases = cases.as_object().unwrap();
    assert!(cases.len() >= 71);
    let expected: HashSet<&str> = cases.values().flat_map(|c| c["expect"].as_array().unwrap()).map(|f| f.as_str().unwrap()).collect();
    for entry in std::fs::read_dir(conformance("nodes")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if (name.ends_with(".png") || name.ends_with(".latent")) && !expected.contains(name) {
            upload(&server, name, &std::fs::read(&path).unwrap()).await;
        }
    }
    let mut failures = Vec::new();
    for (name, case) in cases {
        if let Err(why) = run_case(&server, "nodes", case).await {
            failures.push(format!("{name}: {why}"));
        }
    }
    assert!(failures.is_empty(), "{} of {} cases differ:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

/// An extra_model_paths.yaml with the reduced models, which are made if they are not there.
fn reduced_models(base: &Path) -> PathBuf {
    let description = std::fs::read_to_string(conformance("diffusion/reduced/models.json")).unwrap();
    let mut hasher = DefaultHasher::new();
    description.hash(&mut hasher);
    let models = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("reduced-models-{:016x}", hasher.finish())).join("models");
    comfyd_weights::synthetic::write_models(&description, &models).unwrap();
    let folders = std::fs::read_dir(&models).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let lines: String = folders.map(|folder| format!("  {folder}: {folder}\n")).collect();
    let config = base.join("models.yaml");
    std::fs::write(&config, format!("reduced:\n  base_path: {}\n{lines}", models.display())).unwrap();
    config
}

/// A selection; crates/nodes runs all of them without a server.
#[tokio::test]
async fn reduced_models_sample_as_in_the_reference() {
    let base = tempfile::tempdir().unwrap();
    let config = reduced_models(base.path());
    let server = Server::start_in(base, &["--extra-model-paths-config", config.to_str().unwrap(), "--preview-method", "latent2rgb"]).await;
    let cases = read_json(&conformance("diffusion/reduced/cases.json"));
    for name in ["txt2img/plain", "txt2img/two_stages", "adapter/lora", "adapter/controlnet", "hooks/keyframes", "sdxl/sizes"] {
        run_case(&server, "diffusion/reduced", &cases[name]).await.unwrap_or_else(|why| panic!("{name}: {why}"));
    }
    // The prompt's client sees each step, in numbers and as a picture.
    let mut workflow = cases["txt2img/plain"]["workflow"].clone();
    workflow["3"]["inputs"]["seed"] = json!(8);
    let address = format!("{}/ws?clientId=painter", server.url.replace("http://", "ws://"));
    let (mut socket, _) = tokio_tungstenite::connect_async(address).await.unwrap();
    server.post("/prompt", &json!({"prompt": workflow, "client_id": "painter"})).await;
    let (mut steps, mut previews) = (Vec::new(), 0);
    loop {
        let message = tokio::time::timeout(Duration::from_secs(60), socket.next()).await.unwrap().unwrap().unwrap();
        if message.is_binary() {
            previews += 1;
            continue;
        }
        let event: Value = serde_json::from_str(message.to_text().unwrap()).unwrap_or(Value::Null);
        match event["type"].as_str() {
            Some("progress") if event["data"]["node"] == "3" => steps.push(event["data"]["value"].as_u64().unwrap()),
            Some("execution_error") => panic!("{event}"),
            Some("executing") if event["data"]["node"].is_null() => break,
            _ => {}
        }
    }
    // Bursts may leave numbers out, never the last.
    assert!(steps.is_sorted() && steps.last() == Some(&4), "{steps:?}");
    assert!(previews > 0);
}

/// What the nodes that save models write into the output folder is in the lists of those that load, and loads.
#[tokio::test]
async fn saved_models_can_be_loaded() {
    let base = tempfile::tempdir().unwrap();
    let config = reduced_models(base.path());
    let output = base.path().join("results");
    let options = ["--extra-model-paths-config", config.to_str().unwrap(), "--output-directory", output.to_str().unwrap()];
    let server = Server::start_in(base, &options).await;
    let run = async |prompt: Value| {
        let (status, answer) = server.post("/prompt", &json!({"prompt": prompt})).await;
        assert_eq!(status, 200, "{answer}");
        let entry = server.finished(answer["prompt_id"].as_str().unwrap()).await;
        assert_eq!(entry["status"]["status_str"], "success", "{}", entry["status"]);
    };
    let node = |class: &str, inputs: Value| json!({"class_type": class, "inputs": inputs});
    run(json!({
        "1": node("CheckpointLoaderSimple", json!({"ckpt_name": "sd15.safetensors"})),
        "2": node("CheckpointSave", json!({"model": ["1", 0], "clip": ["1", 1], "vae": ["1", 2], "filename_prefix": "checkpoints/sub/merged"})),
        "3": node("VAESave", json!({"vae": ["1", 2], "filename_prefix": "vae/mine"})),
        "4": node("CLIPSave", json!({"clip": ["1", 1], "filename_prefix": "clip/mine"})),
        "5": node("ModelSave", json!({"model": ["1", 0], "filename_prefix": "diffusion_models/mine"})),
        "6": node("LoraSave", json!({
            "filename_prefix": "loras/mine", "rank": 1, "lora_type": "full_diff", "bias_diff": true, "model_diff": ["1", 0],
        })),
    }))
    .await;
    let saved = [
        ("checkpoints", "sub/merged_00001_.safetensors"),
        ("vae", "mine_00001_.safetensors"),
        ("text_encoders", "mine_clip_l_00001_.safetensors"),
        ("diffusion_models", "mine_00001_.safetensors"),
        ("loras", "mine_00001_.safetensors"),
    ];
    for (folder, file) in saved {
        let listed = server.get(&format!("/models/{folder}")).await;
        assert!(listed.as_array().unwrap().iter().any(|name| name == file), "{folder}: {listed}");
        let detailed = server.get(&format!("/experiment/models/{folder}")).await;
        assert!(detailed.as_array().unwrap().iter().any(|entry| entry["name"] == file), "{folder}: {detailed}");
        let paths = server.get("/internal/folder_paths").await[folder].take();
        let last = if folder == "text_encoders" { "clip" } else { folder };
        assert_eq!(*paths.as_array().unwrap().last().unwrap(), output.join(last).to_str().unwrap());
    }
    let metadata = server.get("/view_metadata/checkpoints?filename=sub/merged_00001_.safetensors").await;
    assert!(metadata["prompt"].is_string(), "{metadata}");
    run(json!({
        "1": node("CheckpointLoaderSimple", json!({"ckpt_name": saved[0].1})),
        "2": node("VAELoader", json!({"vae_name": saved[1].1})),
        "3": node("CLIPLoader", json!({"clip_name": saved[2].1, "type": "stable_diffusion"})),
        "4": node("UNETLoader", json!({"unet_name": saved[3].1, "weight_dtype": "default"})),
        "5": node("LoraLoader", json!({
            "model": ["4", 0], "clip": ["3", 0], "lora_name": saved[4].1, "strength_model": 0.5, "strength_clip": 1.0,
        })),
        "6": node("CLIPTextEncode", json!({"clip": ["5", 1], "text": "a cat"})),
        "7": node("CLIPTextEncode", json!({"clip": ["1", 1], "text": ""})),
        "8": node("EmptyLatentImage", json!({"width": 64, "height": 64, "batch_size": 1})),
        "9": node("KSampler", json!({
            "model": ["5", 0], "seed": 0, "steps": 1, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal", "positive": ["6", 0],
            "negative": ["7", 0], "latent_image": ["8", 0], "denoise": 1.0,
        })),
        "10": node("VAEDecode", json!({"samples": ["9", 0], "vae": ["2", 0]})),
        "11": node("PreviewImage", json!({"images": ["10", 0]})),
    }))
    .await;
}

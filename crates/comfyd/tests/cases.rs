//! Runs the recorded node cases on the real binary and compares what it saves with what the reference saved. The rules are those of
//! conformance/check_cases.py.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::HashSet;

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
fn compare_pictures(got: &[u8], wanted: &[u8], tolerance: i64) -> Result<(), String> {
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
    if max <= tolerance || mean <= MEAN_TOLERANCE { Ok(()) } else { Err(format!("max {max} mean {mean:.4}")) }
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

async fn run_case(server: &Server, case: &Value) -> Result<(), String> {
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
        for file in ["images", "latents"].iter().filter_map(|k| shown.get(*k)).flat_map(|f| f.as_array().unwrap()) {
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
            let wanted = std::fs::read(conformance("nodes").join(file)).unwrap();
            let compared = if ending == ".png" {
                compare_pictures(got, &wanted, case["pixel_tol"].as_i64().unwrap_or(PIXEL_TOLERANCE))
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
    assert!(cases.len() >= 68);
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
        if let Err(why) = run_case(&server, case).await {
            failures.push(format!("{name}: {why}"));
        }
    }
    assert!(failures.is_empty(), "{} of {} cases differ:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

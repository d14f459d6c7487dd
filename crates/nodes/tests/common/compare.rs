//! What a recorded case saved against what the reference saved, by the rules of `conformance/check_cases.py`.

use std::path::Path;

use comfyd_imaging::decode;
use comfyd_weights::safetensors;
use serde_json::Value as Json;

use super::Bench;

const PIXEL_TOLERANCE: u8 = 1;
const MEAN_TOLERANCE: f64 = 0.05;
const LATENT_TOLERANCE: f64 = 1e-3;

/// What differs between two pictures.
pub fn pictures(got: &[u8], want: &[u8], pixel_tolerance: u8, mean_tolerance: f64) -> Result<(), String> {
    let raster = |bytes: &[u8]| decode::raster(bytes, &decode::Limits::default()).map_err(|e| e.to_string());
    let (got, want) = (raster(got)?, raster(want)?);
    let shape = |raster: &comfyd_imaging::Raster| (raster.width(), raster.height(), raster.channels());
    if shape(&got) != shape(&want) {
        return Err(format!("{:?}, reference {:?}", shape(&got), shape(&want)));
    }
    let off: Vec<u8> = got.data().iter().zip(want.data()).map(|(a, b)| a.abs_diff(*b)).collect();
    let max = off.iter().max().copied().unwrap();
    let mean = off.iter().map(|v| f64::from(*v)).sum::<f64>() / off.len() as f64;
    if max <= pixel_tolerance || mean <= mean_tolerance { Ok(()) } else { Err(format!("max {max} mean {mean:.4}")) }
}

fn read_latent(bytes: &[u8]) -> (Vec<usize>, Vec<f32>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.latent");
    std::fs::write(&path, bytes).unwrap();
    let file = safetensors::File::open(&path).unwrap();
    assert!(file.tensors().contains_key("latent_format_version_0"));
    file.read_f32("latent_tensor", 1 << 30).unwrap()
}

fn compare_latents(got: &[u8], want: &[u8], tolerance: f64) -> Result<f64, String> {
    let ((got_shape, got), (want_shape, want)) = (read_latent(got), read_latent(want));
    if got_shape != want_shape {
        return Err(format!("shape {got_shape:?}, reference {want_shape:?}"));
    }
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let error = norm(&mut got.iter().zip(&want).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    let error = error / (norm(&mut want.iter().map(|v| f64::from(*v))) + 1e-12);
    if error <= tolerance { Ok(error) } else { Err(format!("relative error {error:.2e}")) }
}

/// Whether two texts have the same words, numbers with a point nearly so.
fn nearly(got: &str, want: &str) -> bool {
    let words = |text: &str| -> Vec<String> { text.split([' ', ',', '[', ']', '{', '}']).map(str::to_owned).collect() };
    let (got, want) = (words(got), words(want));
    let same = |got: &String, want: &String| match (got.parse::<f64>(), want.parse::<f64>()) {
        (Ok(got), Ok(want)) => (got - want).abs() <= 0.004 * want.abs(),
        _ => got == want,
    };
    got.len() == want.len() && got.iter().zip(&want).all(|(got, want)| same(got, want))
}

/// What differs in one case, whose files lie in `folder`; else the largest relative error of its latents.
pub fn check(bench: &Bench, folder: &Path, case: &Json) -> Result<f64, String> {
    let shown = bench.graph(case["workflow"].as_object().unwrap())?;
    let listed = |keys: &'static [&str]| shown.iter().flat_map(|ui| keys.iter().filter_map(|key| ui.get(*key)?.as_array())).flatten();
    if let Some(want) = case["texts"].as_array() {
        let got: Vec<&Json> = listed(&["text"]).collect();
        let is_measured = case["workflow"].as_object().unwrap().values().any(|node| node["class_type"] == "ShowConditioning");
        let equal = |got: &Json, want: &Json| got == want || is_measured && nearly(got.as_str().unwrap(), want.as_str().unwrap());
        let wrong: Vec<String> =
            got.iter().zip(want).filter(|(got, want)| !equal(got, want)).map(|(got, want)| format!("{got}, reference {want}")).collect();
        if got.len() != want.len() || !wrong.is_empty() {
            return Err(format!("{} texts, reference {}: {}", got.len(), want.len(), wrong.join("; ")));
        }
    }
    let items = listed(&["images", "a_images", "b_images", "latents"]);
    let files: Vec<(bool, Vec<u8>)> = items.map(|file| (file["filename"].as_str().unwrap().ends_with(".png"), bench.saved(file))).collect();
    let want: Vec<&str> = case["expect"].as_array().unwrap().iter().map(|f| f.as_str().unwrap()).collect();
    let mut largest = 0f64;
    for picture in [true, false] {
        let got: Vec<&Vec<u8>> = files.iter().filter(|(png, _)| *png == picture).map(|(_, bytes)| bytes).collect();
        let want: Vec<&&str> = want.iter().filter(|name| name.ends_with(".png") == picture).collect();
        if got.len() != want.len() {
            return Err(format!("{} files, reference {}", got.len(), want.len()));
        }
        for (got, name) in got.into_iter().zip(want) {
            let bytes = std::fs::read(folder.join(name)).unwrap();
            if picture {
                let pixel_tolerance = case["pixel_tol"].as_u64().map_or(PIXEL_TOLERANCE, |v| v as u8);
                pictures(got, &bytes, pixel_tolerance, case["mean_tol"].as_f64().unwrap_or(MEAN_TOLERANCE))
                    .map_err(|error| format!("{name}: {error}"))?;
            } else {
                let error = compare_latents(got, &bytes, case["latent_tol"].as_f64().unwrap_or(LATENT_TOLERANCE))?;
                largest = largest.max(error);
            }
        }
    }
    Ok(largest)
}

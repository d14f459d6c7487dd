//! Compares against the reference's recorded pictures in `conformance/nodes`: each case names the node and the inputs that made it.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use comfyd_imaging::decode::{self, Limits};
use comfyd_imaging::resize::{self, Crop, Method};
use comfyd_imaging::{Image, Mask, Raster};
use ndarray::{ArcArray, IxDyn};

fn file(name: &str) -> Vec<u8> {
    let path = format!("{}/../../conformance/nodes/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn picture(name: &str) -> Image {
    decode::load_image(&file(&format!("{name}.png")), &Limits::default()).unwrap().image
}

/// Compares picture `index` of a batch, saved as SaveImage saves it, with an expected file: no byte may differ by more than one.
#[track_caller]
fn check_index(image: &Image, index: usize, case: &str) {
    let expected = decode::raster(&file(&format!("{case}.{index}.png")), &Limits::default()).unwrap();
    let actual = Raster::from_image(image, index).unwrap();
    assert_eq!((actual.width(), actual.height(), actual.channels()), (expected.width(), expected.height(), expected.channels()), "{case}");
    let differences = actual.data().iter().zip(expected.data()).map(|(a, b)| a.abs_diff(*b));
    assert_eq!(differences.clone().filter(|&difference| difference > 1).count(), 0, "{case}: bytes that differ by more than one");
    let inexact = differences.filter(|&difference| difference == 1).count();
    assert!(inexact * 25 <= expected.data().len(), "{case}: {inexact} of {} bytes differ by one", expected.data().len());
}

#[track_caller]
fn check(image: &Image, case: &str) {
    check_index(image, 0, case);
}

#[track_caller]
fn check_mask(mask: &Mask, case: &str) {
    let (batch, height, width) = mask.0.dim();
    let picture = mask.0.view().insert_axis(ndarray::Axis(3)).broadcast((batch, height, width, 3)).unwrap().to_owned();
    check(&Image::new(picture), case);
}

/// The only tensor of a `.latent` file (safetensors).
fn latent(name: &str) -> ArcArray<f32, IxDyn> {
    let bytes = file(&format!("{name}.latent"));
    let header_len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header_len]).unwrap();
    let tensor = &header["latent_tensor"];
    let numbers = |key: &str| -> Vec<usize> { tensor[key].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect() };
    let offsets = numbers("data_offsets");
    let data = &bytes[8 + header_len..][offsets[0]..offsets[1]];
    let values = data.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
    ArcArray::from_shape_vec(IxDyn(&numbers("shape")), values).unwrap()
}

#[track_caller]
fn check_latent(actual: &ArcArray<f32, IxDyn>, case: &str) {
    let expected = latent(&format!("{case}.0"));
    assert_eq!(actual.shape(), expected.shape(), "{case}");
    for (a, b) in actual.iter().zip(&expected) {
        assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{case}: {a} against {b}");
    }
}

#[test]
fn scaling() {
    let source = picture("pic0");
    let by = |length: usize| (length as f64 * 1.75).round_ties_even() as usize;
    for name in ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"] {
        let method: Method = name.parse().unwrap();
        check(&resize::image(&source, 40, 31, method, Crop::Disabled).unwrap(), &format!("scale_{name}_down"));
        let up = resize::image(&source, by(source.width()), by(source.height()), method, Crop::Disabled).unwrap();
        check(&up, &format!("scale_{name}_up"));
    }
}

#[test]
fn scaling_to_a_cropped_size() {
    let (first, second) = (picture("pic0"), picture("pic2"));
    let fitted = resize::image(&second, first.width(), first.height(), Method::Bilinear, Crop::Center).unwrap();
    let both = ndarray::concatenate![ndarray::Axis(0), first.0, fitted.0];
    check_index(&Image::new(both.clone()), 0, "batch_mixed_sizes");
    check_index(&Image::new(both), 1, "batch_mixed_sizes");
}

#[test]
fn scaling_latents() {
    let source = latent("lat0");
    let by = |axis: usize| (source.shape()[axis] as f64 * 1.5).round_ties_even() as usize;
    for name in ["nearest-exact", "bilinear", "area", "bicubic", "bislerp"] {
        let scaled = resize::latent(&source, by(3), by(2), name.parse().unwrap(), Crop::Disabled).unwrap();
        check_latent(&scaled, &format!("latent_upscale_{name}"));
    }
    check_latent(&resize::latent(&source, 16, 8, Method::Bilinear, Crop::Center).unwrap(), "latent_upscale_crop");
}

#[test]
fn masks_of_files() {
    check_mask(&decode::load_image(&file("pic0.png"), &Limits::default()).unwrap().mask, "load_alpha_mask");
    check_mask(&decode::load_mask(&file("pic0.png"), decode::Channel::Alpha, &Limits::default()).unwrap(), "load_image_mask");
}

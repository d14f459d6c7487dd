//! Compares against the reference's recorded pictures in `conformance/nodes`: each case names the node and the inputs that made it.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use comfyd_imaging::blend::{self, Paste};
use comfyd_imaging::decode::{self, Limits};
use comfyd_imaging::quantize::{self, Dither};
use comfyd_imaging::resize::{self, Crop, Method};
use comfyd_imaging::transform::{self, Sides, Stitch};
use comfyd_imaging::{Raster, canny, color, filter, mask, morphology};
use comfyd_values::{Image, Mask};
use ndarray::{ArcArray, Axis, IxDyn};

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
    check_share(image, index, case, 0.04);
}

/// Like [`check_index`], with the share of bytes that may differ by one. On flat areas an exact result lies on the edge between two
/// bytes, and the order of torch's convolution decides.
#[track_caller]
fn check_share(image: &Image, index: usize, case: &str, share: f64) {
    let expected = decode::raster(&file(&format!("{case}.{index}.png")), &Limits::default()).unwrap();
    let actual = Raster::from_image(image, index).unwrap();
    assert_eq!((actual.width(), actual.height(), actual.channels()), (expected.width(), expected.height(), expected.channels()), "{case}");
    let differences = actual.data().iter().zip(expected.data()).map(|(a, b)| a.abs_diff(*b));
    assert_eq!(differences.clone().filter(|&difference| difference > 1).count(), 0, "{case}: bytes that differ by more than one");
    let inexact = differences.filter(|&difference| difference == 1).count();
    let found = inexact as f64 / expected.data().len() as f64;
    assert!(found <= share, "{case}: {inexact} of {} bytes differ by one", expected.data().len());
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

#[test]
fn quantizing() {
    let source = picture("pic0");
    check(&quantize::quantize(&source, 12, Dither::None).unwrap(), "quantize_none");
    check(&quantize::quantize(&source, 16, Dither::Bayer(4)).unwrap(), "quantize_bayer");
}

#[test]
fn filters() {
    let source = picture("pic0");
    check_share(&filter::blur(&source, 3, 1.4).unwrap(), 0, "blur", 0.15);
    check_share(&filter::sharpen(&source, 1, 1.0, 1.0).unwrap(), 0, "sharpen", 0.25);
    check(&canny::canny(&source, 0.4, 0.8).unwrap(), "canny");
    check(&morphology::apply(&source, morphology::Operation::Dilate, 3).unwrap(), "morphology");
    check(&color::rgb_to_yuv(&source).unwrap()[0], "yuv_roundtrip");
    check(&transform::add_noise(&source, 42, 0.2), "add_noise");
}

#[test]
fn transforms() {
    let (source, other) = (picture("pic0"), picture("pic2"));
    let (rows, columns) = (Axis(1), Axis(2));
    check(&transform::crop(&source, 7, 9, 30, 20).unwrap(), "crop");
    check(&Image(transform::rotate(&source.0, 1, rows, columns)), "rotate_90");
    check(&Image(transform::rotate(&source.0, 2, rows, columns)), "rotate_180");
    check(&Image(transform::flip(&source.0, rows)), "flip");
    check_latent(&transform::rotate(&latent("lat0"), 1, Axis(2), Axis(3)), "latent_rotate");
    check_latent(&transform::repeat(&latent("lat0"), 3).unwrap(), "latent_repeat");

    let sides = Sides { left: 16, top: 8, right: 0, bottom: 24 };
    let (padded, mask) = transform::pad_for_outpaint(&source, sides, 10).unwrap();
    check(&padded, "pad_outpaint");
    check_mask(&mask, "pad_outpaint_mask");
    check(&transform::resize_and_pad(&source, 64, 80, 1.0, Method::Area).unwrap(), "resize_and_pad");
    let options = Stitch { direction: transform::Direction::Right, match_size: true, spacing: 4, color: [1.0, 0.0, 0.0] };
    check(&transform::stitch(&source, &other, &options).unwrap(), "stitch");
    let some = transform::from_batch(&Image(transform::repeat(&source.0, 4).unwrap()), 1, 2).unwrap();
    check_index(&some, 0, "from_batch");
    check_index(&some, 1, "from_batch");

    let (width, height) = transform::total_pixels_size(source.width(), source.height(), 0.02, 1);
    check(&resize::image(&source, width, height, Method::Lanczos, Crop::Disabled).unwrap(), "total_pixels");
    let (width, height) = transform::max_dimension_size(source.width(), source.height(), 48);
    check(&resize::image(&source, width, height, Method::Area, Crop::Disabled).unwrap(), "max_dimension");
}

#[test]
fn masks() {
    let source = picture("pic0");
    let (red, blue) = (mask::from_channel(&source, 0).unwrap(), mask::from_channel(&source, 2).unwrap());
    check_mask(&red, "image_to_mask_red");
    check_mask(&mask::from_color(&source, 65793).unwrap(), "color_to_mask");
    check_mask(&mask::invert(&red), "mask_invert");
    check_mask(&mask::crop(&red, 5, 6, 30, 22).unwrap(), "mask_crop");
    for name in ["multiply", "add", "xor"] {
        check_mask(&mask::combine(&red, &blue, 4, 7, name.parse().unwrap()).unwrap(), &format!("mask_{name}"));
    }
    check_mask(&mask::feather(&red, 5, 9, 12, 7), "mask_feather");
    check_mask(&mask::grow(&blue, 4, true, &|| false).unwrap(), "mask_grow");
    check_mask(&mask::threshold(&blue, 0.5), "mask_threshold");
    check_mask(&Mask::solid(1, 12, 20, 0.3), "mask_solid");
}

#[test]
fn compositing() {
    let (source, other) = (picture("pic0"), picture("pic2"));
    for name in ["normal", "multiply", "screen"] {
        check(&blend::blend(&source, &other, 0.6, name.parse().unwrap()).unwrap(), &format!("blend_{name}"));
    }
    let red = mask::from_channel(&source, 0).unwrap();
    let paste = Paste { x: 8, y: 4, mask: Some(&mask::invert(&red)), resize_source: false };
    check(&blend::paste(&source, &other, &paste).unwrap(), "composite_masked");
    let scaled = resize::image(&source, 60, 50, Method::Bilinear, Crop::Disabled).unwrap();
    let blue = mask::from_channel(&scaled, 2).unwrap();
    for name in ["SRC_OVER", "XOR", "MULTIPLY"] {
        let (composited, _) = blend::porter_duff(&source, &red, &scaled, &blue, name.parse().unwrap()).unwrap();
        check(&composited, &format!("porter_duff_{name}"));
    }
    check(&blend::join_alpha(&source, &mask::from_channel(&source, 1).unwrap()).unwrap(), "join_alpha");
    let lower = latent("lat0");
    let flipped = transform::flip(&lower, Axis(2));
    let paste = Paste { x: 8, y: 16, mask: None, resize_source: false };
    check_latent(&blend::paste_latent(&lower, &flipped, &paste).unwrap(), "latent_composite");
}

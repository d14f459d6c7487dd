//! Nodes on small arrays against the reference.
//!
//! `arrays.json` holds `[class, inputs, outputs]`, recorded by calling the reference's node functions with PyTorch on CPU. An input array
//! of a shape and a seed is `(torch.arange(n) * (37 + seed) % 101 / 100).reshape(shape)`; samples of latents are twice that less one.
//! Values are rounded to six places.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use comfyd_node::{Inputs, Opaque, Value};
use comfyd_values::{Image, Latent, Mask};
use common::{Bench, values};
use ndarray::{ArcArray, IxDyn};
use serde_json::{Value as Json, json};

const TOLERANCE: f64 = 2e-5;

type Array = ArcArray<f32, IxDyn>;

fn array(of: &Json) -> Array {
    let shape: Vec<usize> = serde_json::from_value(of["shape"].clone()).unwrap();
    let step = 37 + of["seed"].as_u64().unwrap() as usize;
    let values = (0..shape.iter().product()).map(|i: usize| (i * step % 101) as f32 / 100.0).collect();
    ArcArray::from_shape_vec(shape, values).unwrap()
}

fn value(json: &Json) -> Value {
    if let Some(of) = json.get("latent") {
        let mut latent = Latent::new(array(of).mapv(|v| v * 2.0 - 1.0).into_shared());
        latent.noise_mask = of.get("noise_mask").map(array);
        latent.batch_index = of.get("batch_index").map(|index| serde_json::from_value(index.clone()).unwrap());
        return latent.into();
    }
    if let Some(of) = json.get("array") {
        let array = array(of);
        return match of["kind"].as_str().unwrap() {
            "image" => Value::object(Image(array.into_dimensionality().unwrap())),
            _ => Value::object(Mask(array.into_dimensionality().unwrap())),
        };
    }
    match json {
        Json::Array(items) => Value::list(items.iter().map(value).collect()),
        json => Value::from(json),
    }
}

/// What the reference recorded of an array.
fn compare_array(name: &str, got: &Array, want: &Json, out: &mut Vec<String>) {
    let shape = json!(got.shape());
    if shape != want["shape"] {
        out.push(format!("{name} has shape {shape}, the reference {}", want["shape"]));
        return;
    }
    for (i, (got, want)) in got.iter().zip(want["values"].as_array().unwrap()).enumerate() {
        let want = want.as_f64().unwrap();
        if (f64::from(*got) - want).abs() > TOLERANCE {
            out.push(format!("{name} value {i} is {got}, the reference has {want}"));
            return;
        }
    }
}

fn compare(got: &Value, want: &Json, out: &mut Vec<String>) {
    if let (Value::List(got), Json::Array(want)) = (got, want) {
        if got.len() != want.len() {
            out.push(format!("a list of {}, the reference has {}", got.len(), want.len()));
        }
        got.iter().zip(want).for_each(|(got, want)| compare(got, want, out));
    } else if let Some(latent) = got.downcast::<Latent>() {
        compare_array("samples", &latent.samples, want, out);
        match (&latent.noise_mask, want.get("noise_mask")) {
            (Some(got), Some(want)) => compare_array("noise_mask", got, want, out),
            (None, None) => {}
            (got, want) => out.push(format!("noise_mask {got:?}, the reference has {want:?}")),
        }
        let index = latent.batch_index.as_ref().map(|index| json!(index));
        if index.as_ref() != want.get("batch_index") {
            out.push(format!("batch_index {index:?}, the reference has {:?}", want.get("batch_index")));
        }
    } else if let Some(image) = got.downcast::<Image>() {
        compare_array("image", &image.0.clone().into_dyn(), want, out);
    } else if let Some(mask) = got.downcast::<Mask>() {
        compare_array("mask", &mask.0.clone().into_dyn(), want, out);
    } else {
        out.push(format!("{got:?}"));
    }
}

#[test]
fn small_arrays_as_the_reference() {
    let bench = Bench::new();
    let cases: Vec<(String, Json, Vec<Json>)> = serde_json::from_str(include_str!("arrays.json")).unwrap();
    assert!(cases.len() > 70);
    let mut failed = Vec::new();
    for (class, given, want) in cases {
        let inputs: Inputs = given.as_object().unwrap().iter().map(|(name, json)| (name.clone(), value(json))).collect();
        let mut out = Vec::new();
        match bench.run(&class, inputs) {
            Ok(output) => {
                let got = values(&output);
                assert_eq!(got.len(), want.len(), "{class}");
                got.iter().zip(&want).for_each(|(got, want)| compare(got, want, &mut out));
            }
            Err(e) => out.push(e.to_string()),
        }
        failed.extend(out.into_iter().map(|e| format!("{class} {given}\n    {e}")));
    }
    assert!(failed.is_empty(), "{} differ:\n{}", failed.len(), failed.join("\n"));
}

fn image(shape: [usize; 4]) -> Value {
    value(&json!({"array": {"shape": shape, "seed": 0, "kind": "image"}}))
}

#[test]
fn too_large_results_are_refused_before_they_are_made() {
    let bench = Bench::with(false, comfyd_nodes::Limits { max_tensor_bytes: 1 << 20, ..Default::default() });
    let latent = value(&json!({"latent": {"shape": [1, 4, 16, 16], "seed": 0}}));
    let large = 1i64 << 40;
    let cases: Vec<(&str, Vec<(&str, Value)>)> = vec![
        ("EmptyImage", vec![("width", large.into()), ("height", large.into()), ("batch_size", large.into()), ("color", 0i64.into())]),
        ("EmptyLatentImage", vec![("width", large.into()), ("height", large.into()), ("batch_size", 1i64.into())]),
        ("SolidMask", vec![("width", large.into()), ("height", large.into()), ("value", 1.0.into())]),
        ("RepeatImageBatch", vec![("image", image([1, 64, 64, 3])), ("amount", 4096i64.into())]),
        ("RepeatLatentBatch", vec![("samples", latent.clone()), ("amount", large.into())]),
        ("LatentUpscaleBy", vec![("samples", latent), ("upscale_method", "bilinear".into()), ("scale_by", 1e9.into())]),
        (
            "ImageScale",
            vec![
                ("image", image([1, 8, 8, 3])),
                ("upscale_method", "lanczos".into()),
                ("width", 16384i64.into()),
                ("height", 16384i64.into()),
                ("crop", "disabled".into()),
            ],
        ),
        (
            "ImagePadForOutpaint",
            vec![
                ("image", image([1, 8, 8, 3])),
                ("left", large.into()),
                ("top", large.into()),
                ("right", large.into()),
                ("bottom", large.into()),
                ("feathering", 0i64.into()),
            ],
        ),
        (
            "ImageStitch",
            vec![
                ("image1", image([1, 64, 1, 3])),
                ("image2", image([1, 1, 512, 3])),
                ("direction", "right".into()),
                ("match_image_size", true.into()),
                ("spacing_width", 0i64.into()),
                ("spacing_color", "white".into()),
            ],
        ),
    ];
    for (class, inputs) in cases {
        let inputs = inputs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let error = bench.run(class, inputs).unwrap_err().to_string();
        assert!(error.contains("make it smaller"), "{class}: {error}");
    }
}

#[test]
fn wrong_inputs_are_told() {
    let bench = Bench::new();
    let one = |name: &str, value: Value| [(name.to_owned(), value)].into_iter().collect::<Inputs>();
    let error = |class: &str, inputs| bench.run(class, inputs).unwrap_err().to_string();
    assert_eq!(error("ImageInvert", Inputs::default()), "input 'image' is missing: connect it or give it a value");
    assert_eq!(error("ImageInvert", one("image", "text".into())), "input 'image' holds STRING, the node takes Image");
    assert!(error("ImageInvert", one("image", image([0, 2, 2, 3]))).contains("has no values"));
    let turn = [("image".to_owned(), image([1, 2, 2, 3])), ("rotation".to_owned(), "45 degrees".into())];
    assert!(error("ImageRotate", turn.into_iter().collect()).contains("'45 degrees'"));
}

#[test]
fn values_describe_themselves() {
    assert_eq!(image([2, 4, 6, 3]).to_json(), "2 images of 6 x 4 pixels, 3 channels");
    let latent = value(&json!({"latent": {"shape": [1, 4, 2, 2], "seed": 0, "noise_mask": {"shape": [1, 1, 2, 2], "seed": 1}}}));
    assert_eq!(latent.to_json(), "a latent of shape 1 x 4 x 2 x 2, with a noise mask");
    assert_eq!(latent.size_bytes(), 80);
    assert_eq!(Image::solid(1, 1, 1, 0).type_name(), "IMAGE");
}

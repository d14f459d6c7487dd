//! Classes whose results the recorded cases do not show: what lies in folders, sets of texts, latents of other families.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::path::Path;

use comfyd_imaging::png;
use comfyd_node::{Inputs, Value};
use comfyd_values::{Image, Latent};
use common::{Bench, inputs, values};
use ndarray::{Array5, IxDyn};
use serde_json::{Value as Json, json};

fn with(widgets: &Json, given: impl IntoIterator<Item = (&'static str, Value)>) -> Inputs {
    added(inputs(widgets), given)
}

fn added(mut inputs: Inputs, given: impl IntoIterator<Item = (&'static str, Value)>) -> Inputs {
    for (name, value) in given {
        inputs.insert(name, value);
    }
    inputs
}

/// Each widget's value in a list, as a class gets it that takes lists.
fn lists(widgets: &Json) -> Inputs {
    widgets.as_object().unwrap().iter().map(|(name, value)| (name.clone(), Value::list(vec![Value::from(value)]))).collect()
}

fn list(output: &Value) -> Vec<Value> {
    let Value::List(list) = output else { panic!("{} is no list", output.type_name()) };
    list.to_vec()
}

fn sides(pictures: &Value) -> Vec<(usize, usize)> {
    list(pictures).iter().map(|picture| picture.downcast::<Image>().unwrap()).map(|image| (image.width(), image.height())).collect()
}

fn picture(path: &Path, width: usize, height: usize) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let raster = comfyd_imaging::Raster::from_image(&Image::solid(1, height, width, 0x336699), 0).unwrap();
    std::fs::write(path, png::encode(&raster, &png::Options { compression: 1, text: Vec::new() }).unwrap()).unwrap();
}

#[test]
fn folders_are_read_in_the_order_of_their_names() {
    let bench = Bench::new();
    let folder = bench.folders.roots().input.join("cats");
    picture(&folder.join("b.png"), 3, 4);
    picture(&folder.join("a.png"), 5, 6);
    std::fs::write(folder.join("a.txt"), " a cat\n").unwrap();
    std::fs::write(folder.join("notes.md"), "no picture").unwrap();
    picture(&folder.join("2_dogs").join("c.png"), 7, 8);
    let plain = values(&bench.run("LoadImageDataSetFromFolder", inputs(&json!({"folder": "cats"}))).unwrap());
    assert_eq!(sides(&plain[0]), [(5, 6), (3, 4)]);
    let all = values(&bench.run("LoadImageTextDataSetFromFolder", inputs(&json!({"folder": "cats"}))).unwrap());
    assert_eq!(sides(&all[0]), [(7, 8), (7, 8), (5, 6), (3, 4)]);
    assert_eq!(all[1].to_json(), json!(["", "", "a cat", ""]));

    std::fs::create_dir(bench.folders.roots().input.join("none")).unwrap();
    let error = bench.run("LoadImageDataSetFromFolder", inputs(&json!({"folder": "none"}))).unwrap_err().to_string();
    assert!(error.contains("no pictures in the folder 'none'"), "{error}");
    assert!(bench.run("LoadImageDataSetFromFolder", inputs(&json!({"folder": "../input/cats"}))).is_err());
}

#[test]
fn pictures_are_saved_with_their_texts() {
    let bench = Bench::new();
    let pictures = Value::list(vec![Value::object(Image::solid(1, 4, 3, 0)), Value::object(Image::solid(1, 6, 5, 0xffffff))]);
    let texts = Value::list(vec!["one".into(), "two".into()]);
    let save = |folder: &str, mode: &str| {
        let widgets = lists(&json!({"folder_name": folder, "filename_prefix": "x", "mode": mode}));
        let inputs = added(widgets, [("images", pictures.clone()), ("texts", texts.clone())]);
        bench.run("SaveImageTextDataSetToFolder", inputs)
    };
    let names = || {
        let entries = std::fs::read_dir(bench.folders.roots().output.join("set")).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        names
    };
    save("set", "overwrite").unwrap();
    save("set", "overwrite").unwrap();
    assert_eq!(names(), ["x_00000.png", "x_00000.txt", "x_00001.png", "x_00001.txt"]);
    assert_eq!(std::fs::read_to_string(bench.folders.roots().output.join("set/x_00001.txt")).unwrap(), "two");
    save("set", "increment").unwrap();
    assert_eq!(names().len(), 8, "{:?}", names());
    assert!(save("../away", "overwrite").is_err());
}

#[test]
fn pictures_and_their_texts_are_shuffled_together() {
    let bench = Bench::new();
    let pictures: Vec<Value> = (1..=6).map(|side| Value::object(Image::solid(1, side, side, 0))).collect();
    let texts: Vec<Value> = (1..=6).map(|side| side.to_string().into()).collect();
    let given = [("images", Value::list(pictures.clone())), ("texts", Value::list(texts.clone()))];
    let shuffled = values(&bench.run("ShuffleImageTextDataset", added(lists(&json!({"seed": 5})), given)).unwrap());
    // python: numpy.random.seed(5); numpy.random.permutation(6) + 1
    let order = [6, 3, 5, 2, 1, 4];
    assert_eq!(list(&shuffled[1]).iter().map(|text| text.to_json().as_str().unwrap().parse::<usize>().unwrap()).collect::<Vec<_>>(), order);
    assert_eq!(sides(&shuffled[0]), order.map(|side| (side, side)));
}

#[test]
fn texts_of_a_set_are_changed() {
    let bench = Bench::new();
    for (class, widgets, expected) in [
        ("TextToLowercase", json!({"texts": "ÄB c"}), "äb c"),
        ("TextToUppercase", json!({"texts": "straße"}), "STRASSE"),
        ("TruncateText", json!({"texts": "äöü", "max_length": 2}), "äö"),
        ("AddTextPrefix", json!({"texts": "a", "prefix": "p "}), "p a"),
        ("AddTextSuffix", json!({"texts": "a", "suffix": " s"}), "a s"),
        ("ReplaceText", json!({"texts": "aba", "find": "a", "replace": "cc"}), "ccbcc"),
        ("StripWhitespace", json!({"texts": "\t a b\u{3000}\n"}), "a b"),
    ] {
        assert_eq!(bench.first(class, &widgets).unwrap().to_json(), json!(expected), "{class}");
    }
}

#[test]
fn texts_are_saved() {
    let bench = Bench::new();
    for (format, text, expected) in [
        ("txt", "a\nb", "a\nb"),
        ("md", "# é", "# é"),
        // python: json.dumps(json.loads(text), indent=2, ensure_ascii=False)
        ("json", r#"{"a":[1,"é"]}"#, "{\n  \"a\": [\n    1,\n    \"é\"\n  ]\n}"),
        ("json", "{no", "{no"),
    ] {
        let output = bench.run("SaveText", inputs(&json!({"text": text, "filename_prefix": "texts/t", "format": format}))).unwrap();
        let shown = Json::Object(output.ui.clone().unwrap());
        assert_eq!(shown["text"], json!([text]));
        let file = shown["files"][0]["filename"].as_str().unwrap();
        assert!(file.starts_with("t_0000") && file.ends_with(&format!("_.{format}")), "{file}");
        assert_eq!(String::from_utf8(bench.saved(&shown["files"][0])).unwrap(), expected);
        assert_eq!(values(&output)[0].to_json(), json!(text));
    }
}

#[test]
fn the_first_frames_take_the_look_of_those_after_them() {
    let bench = Bench::new();
    let samples = Array5::from_shape_fn((1, 2, 6, 2, 2), |(_, channel, frame, row, column)| {
        let place = (((channel * 6 + frame) * 2 + row) * 2 + column) as f32;
        (place * place * 0.37) % 7.0
    });
    let latent = Value::object(Latent::new(samples.into_dyn().into_shared()));
    let output = bench
        .run("NormalizeVideoLatentStart", with(&json!({"start_frame_count": 2, "reference_frame_count": 3}), [("latent", latent)]))
        .unwrap();
    let result = values(&output)[0].downcast::<Latent>().unwrap().samples.clone();
    let close = |place: &[usize], expected: f32| {
        let value = result[IxDyn(place)];
        assert!((value - expected).abs() < 2e-6, "{place:?}: {value} and {expected}");
    };
    // ComfyUI 0.33.0's numbers of the first channel, and of the second one's first frame.
    let first =
        [0.513_683_56, 0.855_838_54, 1.882_303_5, 3.593_078_6, 5.926_349, 1.560_184_7, 6.402_225, 3.796_804_2, 2.68, 1.97, 2.0, 2.77];
    for (index, expected) in first.into_iter().enumerate() {
        close(&[0, 0, index / 4, index / 2 % 2, index % 2], expected);
    }
    for (index, expected) in [3.398_877_9, 0.744_869_23, 5.248_379, 3.962_986].into_iter().enumerate() {
        close(&[0, 1, 0, index / 2, index % 2], expected);
    }
}

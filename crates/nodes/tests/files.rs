//! Files that nodes read and write, and what they tell clients.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::path::Path;
use std::sync::Arc;

use comfyd_folders::Kind;
use comfyd_imaging::{apng, decode, png, webp};
use comfyd_node::{Choices, Fingerprint, Hidden, InputKind, Inputs, NodeOutput, OptionSource, PreviewFormat, Value};
use comfyd_nodes::{FileOptions, Image, Latent, Limits, Mask, Svg};
use comfyd_weights::safetensors;
use common::{Bench, inputs, values};
use serde_json::{Value as Json, json};

/// A bench inside a prompt with metadata of every kind.
fn bench() -> Bench {
    let mut bench = Bench::new();
    bench.hidden = Hidden {
        prompt_id: "id".into(),
        prompt: Arc::new(json!({"1": {"class_type": "EmptyImage", "inputs": {"width": 8, "é": [1.0, 1e-7, null, true]}}})),
        extra_data: Arc::new(json!({"extra_pnginfo": {"workflow": {"nodes": [], "name": "😀"}, "note": "a\"b"}})),
    };
    bench
}

/// python: `json.dumps` of that prompt and of each entry of `extra_pnginfo`.
const METADATA: [(&str, &str); 3] = [
    ("prompt", r#"{"1": {"class_type": "EmptyImage", "inputs": {"width": 8, "\u00e9": [1.0, 1e-07, null, true]}}}"#),
    ("workflow", r#"{"nodes": [], "name": "\ud83d\ude00"}"#),
    ("note", r#""a\"b""#),
];

fn metadata() -> Vec<(String, String)> {
    METADATA.map(|(key, text)| (key.to_owned(), text.to_owned())).to_vec()
}

fn pictures(batch: usize) -> Value {
    Arc::new(Image(comfyd_imaging::Image::solid(batch, 6, 8, 0x336699))).into()
}

fn with(widgets: Json, name: &str, value: Value) -> Inputs {
    let mut inputs = inputs(&widgets);
    inputs.insert(name, value);
    inputs
}

fn ui(output: &NodeOutput) -> Json {
    Json::Object(output.ui.clone().unwrap_or_default())
}

#[test]
fn a_saved_picture_holds_the_workflow() {
    let bench = bench();
    let output = bench.run("SaveImage", with(json!({"filename_prefix": "sub/x%width%-%batch_num%"}), "images", pictures(2))).unwrap();
    let got = ui(&output);
    let want = json!({"images": [
        {"filename": "x8-0_00001_.png", "subfolder": "sub", "type": "output"},
        {"filename": "x8-1_00002_.png", "subfolder": "sub", "type": "output"},
    ]});
    assert_eq!(got, want);
    for file in got["images"].as_array().unwrap() {
        let bytes = bench.saved(file);
        assert_eq!(png::read_text(&bytes).unwrap(), metadata());
        let raster = decode::raster(&bytes, &decode::Limits::default()).unwrap();
        assert_eq!((raster.width(), raster.height(), &raster.data()[..3]), (8, 6, &[0x33, 0x66, 0x99][..]));
    }
}

#[test]
fn without_metadata_nothing_is_told() {
    let mut bench = Bench::with(true, Limits::default());
    bench.hidden = self::bench().hidden;
    let output = bench.run("SaveImage", with(json!({"filename_prefix": "x"}), "images", pictures(1))).unwrap();
    assert_eq!(png::read_text(&bench.saved(&ui(&output)["images"][0])).unwrap(), []);
}

#[test]
fn previews_go_to_the_temp_folder() {
    let bench = bench();
    let mask: Value = Arc::new(Mask(comfyd_imaging::Mask::solid(1, 4, 4, 0.5))).into();
    for (class, inputs) in [("PreviewImage", with(json!({}), "images", pictures(1))), ("MaskPreview", with(json!({}), "mask", mask))] {
        let shown = ui(&bench.run(class, inputs).unwrap());
        let file = &shown["images"][0];
        assert_eq!((&file["type"], &file["subfolder"]), (&json!("temp"), &json!("")));
        let name = file["filename"].as_str().unwrap();
        let letters = name.strip_prefix("ComfyUI_temp_").and_then(|n| n.get(..5)).unwrap();
        assert!(letters.bytes().all(|b| b.is_ascii_lowercase()), "{name}");
        assert_eq!(png::read_text(&bench.saved(file)).unwrap(), metadata());
    }
}

#[test]
fn animations_hold_the_workflow() {
    let bench = bench();
    let widgets = json!({"filename_prefix": "a", "fps": 6.0, "compress_level": 4});
    let shown = ui(&bench.run("SaveAnimatedPNG", with(widgets, "images", pictures(3))).unwrap());
    assert_eq!(shown, json!({"images": [{"filename": "a_00001_.png", "subfolder": "", "type": "output"}], "animated": [true]}));
    let bytes = bench.saved(&shown["images"][0]);
    assert_eq!(apng::read_metadata(&bytes).unwrap(), metadata());

    let widgets = |frames| {
        with(json!({"filename_prefix": "w", "fps": 6.0, "lossless": true, "quality": 80, "method": "fastest"}), "images", pictures(frames))
    };
    let shown = ui(&bench.run("SaveAnimatedWEBP", widgets(3)).unwrap());
    assert_eq!(shown, json!({"images": [{"filename": "w_00001_.webp", "subfolder": "", "type": "output"}], "animated": [true]}));
    let bytes = bench.saved(&shown["images"][0]);
    let mut exif = webp::read_exif(&bytes).unwrap();
    exif.sort_by_key(|(tag, _)| std::cmp::Reverse(*tag));
    let want: Vec<(u16, String)> =
        [0x0110, 0x010f, 0x010e].into_iter().zip(METADATA).map(|(tag, (key, text))| (tag, format!("{key}:{text}"))).collect();
    assert_eq!(exif, want);
    let shown = ui(&bench.run("SaveAnimatedWEBP", widgets(1)).unwrap());
    assert_eq!(shown["animated"], json!([false]));
}

#[test]
fn an_animation_is_read_as_a_batch() {
    let bench = bench();
    let widgets = json!({"filename_prefix": "w", "fps": 6.0, "lossless": true, "quality": 0, "method": "fastest"});
    // Frames that are equal may be stored as one.
    let mut frames = comfyd_imaging::Image::solid(3, 6, 8, 0x336699).0.to_owned();
    frames.indexed_iter_mut().for_each(|((frame, ..), value)| *value = frame as f32 / 2.0);
    let frames: Value = Arc::new(Image(comfyd_imaging::Image::new(frames))).into();
    let shown = ui(&bench.run("SaveAnimatedWEBP", with(widgets, "images", frames)).unwrap());
    let name = format!("{} [output]", shown["images"][0]["filename"].as_str().unwrap());
    let loaded = bench.first("LoadImageOutput", &json!({"image": name})).unwrap().downcast::<Image>().unwrap();
    assert_eq!(loaded.0.0.shape(), [3, 6, 8, 3]);
}

#[test]
fn vector_pictures_hold_the_workflow() {
    let bench = bench();
    let svg: Value = Arc::new(Svg(vec!["<svg width=\"1\"></svg>".into()])).into();
    let shown = ui(&bench.run("SaveSVGNode", with(json!({"filename_prefix": "svg/x"}), "svg", svg)).unwrap());
    assert_eq!(shown, json!({"images": [{"filename": "x_00001_.svg", "subfolder": "svg", "type": "output"}]}));
    let text = String::from_utf8(bench.saved(&shown["images"][0])).unwrap();
    let json = text.split("<![CDATA[").nth(1).unwrap().split("]]>").next().unwrap();
    let metadata: Json = serde_json::from_str(json).unwrap();
    assert_eq!(metadata["workflow"]["name"], "😀");
    assert_eq!(&metadata["prompt"], bench.hidden.prompt.as_ref());
    assert!(text.starts_with("<svg width=\"1\">\n  <metadata>") && text.ends_with("</svg>"), "{text}");
}

#[test]
fn latents_are_saved_and_read() {
    let bench = bench();
    let samples = ndarray::ArcArray::from_shape_fn(vec![1, 2, 3, 4], |i| (i[1] * 12 + i[2] * 4 + i[3]) as f32 / 7.0);
    let latent: Value = Arc::new(Latent(comfyd_imaging::Latent::new(samples.clone()))).into();
    let shown = ui(&bench.run("SaveLatent", with(json!({"filename_prefix": "latents/l"}), "samples", latent)).unwrap());
    assert_eq!(shown, json!({"latents": [{"filename": "l_00001_.latent", "subfolder": "latents", "type": "output"}]}));
    let path = bench.folders.directory(Kind::Output).join("latents/l_00001_.latent");
    let told: Vec<(String, String)> =
        safetensors::read_metadata(&path).unwrap().into_iter().map(|(key, text)| (key, text.as_str().unwrap().to_owned())).collect();
    assert_eq!(told, metadata());
    let loaded = bench.first("LoadLatent", &json!({"latent": "latents/l_00001_.latent [output]"})).unwrap();
    assert_eq!(loaded.downcast::<Latent>().unwrap().0.samples, samples);

    // An older file has no version and holds values scaled for SD1.
    let old =
        safetensors::to_bytes(&[safetensors::TensorF32 { name: "latent_tensor", shape: &[1, 1, 1, 1], values: &[0.5] }], None).unwrap();
    std::fs::write(bench.folders.roots().input.join("old.latent"), old).unwrap();
    let loaded = bench.first("LoadLatent", &json!({"latent": "old.latent"})).unwrap().downcast::<Latent>().unwrap();
    assert!((loaded.0.samples[[0, 0, 0, 0].as_slice()] - 0.5 / 0.18215).abs() < 1e-6);
}

#[test]
fn an_input_picture_must_be_there() {
    let bench = Bench::new();
    for class in ["LoadImage", "LoadImageMask", "LoadImageOutput", "WebcamCapture", "LoadLatent"] {
        let entry = bench.catalog.get(class).unwrap();
        let input = if class == "LoadLatent" { "latent" } else { "image" };
        assert_eq!(entry.schema.validates, [input], "{class}");
        let what = input;
        for name in ["gone.png", "../../etc/passwd", "gone.png [temp]"] {
            let error = entry.node.validate(&inputs(&json!({input: name, "channel": "red"}))).unwrap_err();
            assert_eq!(error, format!("Invalid {what} file: {name}"));
            assert!(bench.run(class, inputs(&json!({input: name, "channel": "red"}))).is_err());
        }
        // A linked name is checked when the node runs.
        assert!(entry.node.validate(&Inputs::default()).is_ok());
        assert_eq!(entry.node.fingerprint(&Inputs::default()).unwrap(), Fingerprint::Always);
    }
}

#[test]
fn a_picture_is_known_by_its_content() {
    let bench = Bench::new();
    let path = bench.folders.roots().input.join("a.png");
    let node = &bench.catalog.get("LoadImage").unwrap().node;
    let given = inputs(&json!({"image": "a.png"}));
    std::fs::write(&path, b"one").unwrap();
    // python: hashlib.sha256(b"one").hexdigest()
    let one = Fingerprint::Text("7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed".into());
    assert_eq!(node.fingerprint(&given).unwrap(), one);
    assert_eq!(node.fingerprint(&given).unwrap(), one);
    std::fs::write(&path, b"other").unwrap();
    assert_ne!(node.fingerprint(&given).unwrap(), one);
    let error = bench.run("LoadImage", given).unwrap_err().to_string();
    assert!(error.contains("cannot read the picture"), "{error}");
}

#[test]
fn every_picture_that_a_list_offers_is_read() {
    let bench = Bench::new();
    let input = &bench.folders.roots().input;
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("../imaging/tests/files");
    for entry in std::fs::read_dir(&files).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), input.join(entry.file_name())).unwrap();
    }
    // An ending is read in any case, and the content says what a file is.
    std::fs::copy(files.join("444.jpg"), input.join("LOUD.JPG")).unwrap();
    std::fs::copy(files.join("420.jpg"), input.join("misnamed.png")).unwrap();
    let others = ["a.svg", "a.heic", "a.ief", "a.txt", "a.mp4", "a.latent", "none"];
    others.iter().for_each(|name| std::fs::write(input.join(name), "x").unwrap());
    for class in ["LoadImage", "LoadImageMask"] {
        let schema = &bench.catalog.get(class).unwrap().schema;
        let Some(InputKind::Combo(Choices::Files { source, .. })) = schema.inputs.first().map(|input| &input.kind) else {
            panic!("{class} offers no files");
        };
        let offered = FileOptions(Arc::clone(&bench.folders)).files(source);
        for name in ["LOUD.JPG", "misnamed.png", "RGB_420.avif", "float.tif", "RGB.ico", "colors.ppm", "P.pcx", "L.tga", "RGB.jp2"] {
            assert!(offered.iter().any(|file| file == name), "{class} does not offer {name}");
        }
        assert!(others.iter().all(|name| !offered.iter().any(|file| file == name)), "{class}: {offered:?}");
        for name in &offered {
            let run = bench.run(class, inputs(&json!({"image": name, "channel": "red"})));
            assert!(run.is_ok(), "{class} cannot read {name}: {:?}", run.err());
        }
    }
    for name in ["420.jpg", "misnamed.png"] {
        let loaded = bench.first("LoadImage", &json!({"image": name})).unwrap();
        let saved = ui(&bench.run("SaveImage", with(json!({"filename_prefix": "x"}), "images", loaded)).unwrap());
        let raster = |bytes: &[u8]| decode::raster(bytes, &decode::Limits::default()).unwrap().to_rgb();
        assert_eq!(raster(&bench.saved(&saved["images"][0])), raster(&std::fs::read(files.join("420.jpg.png")).unwrap()), "{name}");
    }
}

#[test]
fn a_file_that_is_too_large_is_refused() {
    let bench = Bench::with(false, Limits { max_file_bytes: 10, ..Limits::default() });
    std::fs::write(bench.folders.roots().input.join("a.png"), [0; 11]).unwrap();
    let error = bench.run("LoadImage", inputs(&json!({"image": "a.png"}))).unwrap_err().to_string();
    assert!(error.contains("'a.png' is larger"), "{error}");
}

#[test]
fn pictures_are_sent_over_the_websocket() {
    let bench = Bench::new();
    let output = bench.run("SaveImageWebsocket", with(json!({}), "images", pictures(2))).unwrap();
    assert!(output.ui.is_none() && output.values.is_empty());
    assert_eq!(*bench.reports.progress.lock().unwrap(), [(0.0, 2.0), (1.0, 2.0)]);
    let images = bench.reports.images.lock().unwrap();
    assert_eq!(images.len(), 2);
    let image = &images[0];
    assert_eq!((image.width, image.height, image.channels, image.format, image.max_size), (8, 6, 3, PreviewFormat::Png, None));
    assert_eq!(image.pixels.len(), 8 * 6 * 3);
    let node = &bench.catalog.get("SaveImageWebsocket").unwrap().node;
    assert_eq!(node.fingerprint(&Inputs::default()).unwrap(), Fingerprint::Always);
}

#[test]
fn the_size_is_shown_under_the_node() {
    let bench = Bench::new();
    let output = bench.run("GetImageSize", with(json!({}), "image", pictures(2))).unwrap();
    assert_eq!(values(&output).iter().map(Value::to_json).collect::<Vec<_>>(), [8, 6, 2]);
    assert_eq!(*bench.reports.texts.lock().unwrap(), ["width: 8, height: 6\n batch size: 2"]);
}

#[test]
fn any_value_is_shown_as_text() {
    let bench = Bench::new();
    let shown = |value: Value| ui(&bench.run("PreviewAny", with(json!({}), "source", value)).unwrap());
    assert_eq!(shown(1.0.into()), json!({"text": ["1.0"]}));
    assert_eq!(shown(Value::Null), json!({"text": ["None"]}));
    assert_eq!(shown(pictures(1)), json!({"text": ["1 image of 8 x 6 pixels, 3 channels"]}));
}

#[test]
fn plain_values_pass() {
    let bench = Bench::new();
    for (class, value) in [
        ("PrimitiveInt", json!(-9_223_372_036_854_775_807_i64)),
        ("PrimitiveFloat", json!(0.1)),
        ("PrimitiveBoolean", json!(true)),
        ("PrimitiveString", json!("é")),
        ("PrimitiveStringMultiline", json!("a\nb")),
    ] {
        assert_eq!(bench.first(class, &json!({"value": value})).unwrap().to_json(), value);
    }
}

#[test]
fn empty_latents_have_the_shapes_of_their_models() {
    let bench = Bench::new();
    let given = json!({"width": 64, "height": 128, "batch_size": 2, "length": 25, "resolution": 10, "seconds": 2.0, "compression": 32});
    // Shapes as the reference's classes give them for these inputs.
    let cases: [(&str, &[usize]); 11] = [
        ("EmptyLatentImage", &[2, 4, 16, 8]),
        ("EmptySD3LatentImage", &[2, 16, 16, 8]),
        ("EmptyHunyuanLatentVideo", &[2, 16, 7, 16, 8]),
        ("EmptyHunyuanImageLatent", &[2, 64, 4, 2]),
        ("EmptyMochiLatentVideo", &[2, 12, 5, 16, 8]),
        ("EmptyLTXVLatentVideo", &[2, 128, 4, 4, 2]),
        ("EmptyCosmosLatentVideo", &[2, 16, 4, 16, 8]),
        ("EmptyChromaRadianceLatentImage", &[2, 3, 128, 64]),
        ("EmptyLatentHunyuan3Dv2", &[2, 64, 10]),
        ("EmptyAceStepLatentAudio", &[2, 8, 16, 21]),
        ("StableCascade_EmptyLatentImage", &[2, 16, 4, 2]),
    ];
    for (class, shape) in cases {
        let latent = bench.first(class, &given).unwrap().downcast::<Latent>().unwrap();
        assert_eq!(latent.0.samples.shape(), shape, "{class}");
        assert!(latent.0.samples.iter().all(|v| *v == 0.0));
    }
}

#[test]
fn a_folder_of_pictures_is_one_batch() {
    let bench = Bench::new();
    let folder = bench.folders.roots().input.join("set");
    std::fs::create_dir(&folder).unwrap();
    let load = |method: &str| bench.first("LoadImageSetFromFolderNode", &json!({"folder": "set", "resize_method": method}));
    assert!(load("None").unwrap_err().to_string().contains("no pictures in the folder 'set'"));
    for (name, side, level) in [("b.png", 2, 51), ("a.PNG", 4, 255), ("note.txt", 1, 0)] {
        let raster = comfyd_imaging::Raster::new(side, side, 3, vec![level; side * side * 3]).unwrap();
        std::fs::write(folder.join(name), png::encode(&raster, &png::Options::default()).unwrap()).unwrap();
    }
    assert!(load("None").unwrap_err().to_string().contains("b.png has 2 x 2 pixels, the first picture 4 x 4"));
    let corners = |method: &str| {
        let image = load(method).unwrap().downcast::<Image>().unwrap();
        assert_eq!(image.0.0.shape(), [2, 4, 4, 3]);
        [image.0.0[[0, 3, 3, 0]], image.0.0[[1, 0, 0, 0]], image.0.0[[1, 3, 3, 2]]]
    };
    assert_eq!(corners("Stretch"), [1.0, 0.2, 0.2]);
    assert_eq!(corners("Pad"), [1.0, 0.2, 0.2]);
    assert_eq!(corners("Crop"), [1.0, 0.2, 0.0]);
    assert!(bench.first("LoadImageSetFromFolderNode", &json!({"folder": "../output"})).is_err());
}

#[test]
fn a_model_is_shown_with_its_camera() {
    let bench = Bench::new();
    let shown = ui(&bench.run("Preview3D", inputs(&json!({"model_file": "a.glb", "camera_info": {"zoom": 1}}))).unwrap());
    assert_eq!(shown, json!({"result": ["a.glb", {"zoom": 1}]}));
    let shown = ui(&bench.run("Preview3DAnimation", inputs(&json!({"model_file": "a.glb"}))).unwrap());
    assert_eq!(shown, json!({"result": ["a.glb", null]}));
}

//! Files that nodes read and write, and what they tell clients.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::HashSet;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use comfyd_engine::EngineOptions;
use comfyd_executor::CachePolicy;
use comfyd_folders::Kind;
use comfyd_imaging::{apng, decode, png, webp};
use comfyd_jobs::event::NullSink;
use comfyd_node::{CancellationToken, Choices, FileSource, Fingerprint, Hidden, Input, InputKind, Inputs, NodeOutput, OptionSource, Value};
use comfyd_nodes::Limits;
use comfyd_values::{Image, Latent, Mask, Svg};
use comfyd_weights::safetensors;
use common::{Bench, inputs, models, values};
use serde_json::{Value as Json, json};

/// A bench inside a prompt with metadata of every kind.
fn bench() -> Bench {
    let mut bench = Bench::new();
    bench.hidden = Hidden {
        prompt_id: "id".into(),
        prompt: Arc::new(json!({"1": {"class_type": "EmptyImage", "inputs": {"width": 8, "é": [1.0, 1e-7, null, true]}}})),
        extra_data: Arc::new(json!({"extra_pnginfo": {"workflow": {"nodes": [], "name": "😀"}, "note": "a\"b"}})),
        ..Hidden::default()
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
    Value::object(Image::solid(batch, 6, 8, 0x336699))
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
    let mask: Value = Value::object(Mask::solid(1, 4, 4, 0.5));
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
    let mut frames = Image::solid(3, 6, 8, 0x336699).0.to_owned();
    frames.indexed_iter_mut().for_each(|((frame, ..), value)| *value = frame as f32 / 2.0);
    let frames: Value = Value::object(Image::new(frames));
    let shown = ui(&bench.run("SaveAnimatedWEBP", with(widgets, "images", frames)).unwrap());
    let name = format!("{} [output]", shown["images"][0]["filename"].as_str().unwrap());
    let loaded = bench.first("LoadImageOutput", &json!({"image": name})).unwrap().downcast::<Image>().unwrap();
    assert_eq!(loaded.0.shape(), [3, 6, 8, 3]);
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
    let latent: Value = Value::object(Latent::new(samples.clone()));
    let shown = ui(&bench.run("SaveLatent", with(json!({"filename_prefix": "latents/l"}), "samples", latent)).unwrap());
    assert_eq!(shown, json!({"latents": [{"filename": "l_00001_.latent", "subfolder": "latents", "type": "output"}]}));
    let path = bench.folders.directory(Kind::Output).join("latents/l_00001_.latent");
    let told: Vec<(String, String)> =
        safetensors::read_metadata(&path).unwrap().into_iter().map(|(key, text)| (key, text.as_str().unwrap().to_owned())).collect();
    assert_eq!(told, metadata());
    let loaded = bench.first("LoadLatent", &json!({"latent": "latents/l_00001_.latent [output]"})).unwrap();
    assert_eq!(loaded.downcast::<Latent>().unwrap().samples, samples);

    // An older file has no version and holds values scaled for SD1.
    let old =
        safetensors::to_bytes(&[safetensors::TensorF32 { name: "latent_tensor", shape: &[1, 1, 1, 1], values: &[0.5] }], None).unwrap();
    std::fs::write(bench.folders.roots().input.join("old.latent"), old).unwrap();
    let loaded = bench.first("LoadLatent", &json!({"latent": "old.latent"})).unwrap().downcast::<Latent>().unwrap();
    assert!((loaded.samples[[0, 0, 0, 0].as_slice()] - 0.5 / 0.18215).abs() < 1e-6);
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
            let error = entry.native().unwrap().validate(&inputs(&json!({input: name, "channel": "red"}))).unwrap_err();
            assert_eq!(error, format!("Invalid {what} file: {name}"));
            assert!(bench.run(class, inputs(&json!({input: name, "channel": "red"}))).is_err());
        }
        // A linked name is checked when the node runs.
        assert!(entry.native().unwrap().validate(&Inputs::default()).is_ok());
        assert_eq!(entry.native().unwrap().fingerprint(&Inputs::default(), &CancellationToken::default()).unwrap(), Fingerprint::Always);
    }
}

/// The files that the choice of an input stands for, and the choice's name.
fn files_of(bench: &Bench, source: &FileSource) -> (Vec<PathBuf>, &'static str) {
    let roots = bench.folders.roots();
    let models = |folder: &str| bench.folders.model_paths(folder).unwrap()[0].clone();
    let several = |folder: PathBuf, files: &[&str]| files.iter().map(|file| folder.join(file)).collect();
    match source {
        FileSource::Models(folder) => (vec![models(folder).join("a.safetensors")], "a.safetensors"),
        FileSource::Autoencoders => (vec![models("vae").join("a.safetensors")], "a.safetensors"),
        FileSource::InputFiles(_) => (vec![roots.input.join("a.png")], "a.png"),
        FileSource::InputFolders => (several(roots.input.join("set"), &["1.png", "2.jpg"]), "set"),
        FileSource::DiffusersFolders => {
            let parts = ["unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.bin", "text_encoder/model.safetensors"];
            let folder = models("diffusers").join("d");
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("model_index.json"), "{}").unwrap();
            (several(folder, &parts), "d")
        }
    }
}

/// Puts four bytes of content into a file that is there or not, and sets its time.
fn put(path: &Path, content: u8, time: SystemTime) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let file = File::options().create(true).truncate(false).write(true).open(path).unwrap();
    (&file).write_all(&[content; 4]).unwrap();
    file.set_modified(time).unwrap();
}

/// A file is what its content is, for every class that lists files: another size, name or time says nothing.
#[test]
fn files_are_known_by_their_content() {
    let bench = Bench::new();
    let mut cases: Vec<(String, Json, Vec<PathBuf>)> = Vec::new();
    for (class, annotated) in [("LoadImageOutput", "b.png [output]"), ("WebcamCapture", "b.png [temp]")] {
        let kind = if annotated.contains("output") { Kind::Output } else { Kind::Temp };
        cases.push((class.into(), json!({"image": annotated}), vec![bench.folders.directory(kind).join("b.png")]));
    }
    for half in ["taesd_encoder.safetensors", "taesd_decoder.safetensors"] {
        let file = bench.folders.model_paths("vae_approx").unwrap()[0].join(half);
        cases.push(("VAELoader".into(), json!({"vae_name": "taesd"}), vec![file]));
    }
    for entry in bench.catalog.iter() {
        let lists = |input: &Input| match &input.kind {
            InputKind::Combo(Choices::Files { source, .. }) => Some(files_of(&bench, source)),
            _ => None,
        };
        let listed: Vec<_> = entry.schema.inputs.iter().filter_map(|input| Some((input.name.clone(), lists(input)?))).collect();
        let widgets: Json =
            listed.iter().map(|(name, (_, choice))| (name.clone(), json!(choice))).collect::<serde_json::Map<_, _>>().into();
        for (name, (files, _)) in listed {
            // The configuration only chooses by its name; films are large, and known by their time, as in the reference.
            if name != "config_name" && !entry.schema.class.starts_with("LoadVideo") {
                cases.extend(files.into_iter().map(|file| (entry.schema.class.clone(), widgets.clone(), vec![file])));
            }
        }
    }
    assert!(cases.len() > 20, "{} classes list files", cases.len());
    let (early, late) = (SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000));
    let all: HashSet<PathBuf> = cases.iter().flat_map(|(_, _, files)| files).cloned().collect();
    let put_all = |content, time| {
        all.iter().for_each(|file| put(file, content, time));
        // Until a further change must show in the time of the change.
        std::thread::sleep(Duration::from_millis(100));
    };
    let fingerprints = || -> Vec<String> {
        let of = |(class, widgets, _): &(String, Json, Vec<PathBuf>)| {
            let node = &bench.catalog.get(class).unwrap().native().unwrap();
            match node.fingerprint(&inputs(widgets), &CancellationToken::default()).unwrap() {
                Fingerprint::Text(text) => text,
                other => panic!("{class}: {other:?}"),
            }
        };
        cases.iter().map(of).collect()
    };
    put_all(1, early);
    let first = fingerprints();
    put_all(1, late);
    assert_eq!(fingerprints(), first, "they were only touched");
    put_all(2, late);
    for ((class, widgets, _), (before, after)) in cases.iter().zip(first.iter().zip(fingerprints())) {
        assert_ne!(*before, after, "{class} {widgets} has another file");
    }
    // One file after the other: each counts.
    let mut last = fingerprints();
    for (index, (class, widgets, files)) in cases.iter().enumerate() {
        put(&files[0], 3 + index as u8, late);
        let now = fingerprints();
        assert_ne!(last[index], now[index], "{class} {widgets} does not look at {}", files[0].display());
        last = now;
    }
}

#[test]
fn embeddings_that_a_prompt_names_are_known_by_their_content() {
    let bench = Bench::new();
    let folder = bench.folders.model_paths("embeddings").unwrap()[0].clone();
    let of = |class: &str, input: &str, text: &str| {
        let node = &bench.catalog.get(class).unwrap().native().unwrap();
        node.fingerprint(&inputs(&json!({input: text})), &CancellationToken::default()).unwrap()
    };
    let classes = ["CLIPTextEncode", "CLIPTextEncodeSDXLRefiner", "CLIPTextEncodeControlnet", "CLIPTextEncodeSDXL", "CLIPTextEncodeSDXL"];
    for (index, class) in classes.into_iter().enumerate() {
        let input = ["text", "text", "text", "text_g", "text_l"][index];
        let text = format!("a cat in the style (embedding:sub/ink{index}:1.2), ink9");
        assert_eq!(of(class, input, &text), Fingerprint::Inputs);
        let file = folder.join(format!("sub/ink{index}.safetensors"));
        put(&file, 1, SystemTime::UNIX_EPOCH);
        let first = of(class, input, &text);
        assert_ne!(first, Fingerprint::Inputs, "it is there now");
        put(&folder.join("other.pt"), 1, SystemTime::UNIX_EPOCH);
        assert_eq!(of(class, input, &text), first);
        put(&file, 2, SystemTime::UNIX_EPOCH);
        assert_ne!(of(class, input, &text), first);
        assert_eq!(of(class, input, "a cat, ink"), Fingerprint::Inputs);
    }
}

/// Replaces a file's content from this place on in place, keeping its size and its time.
fn overwrite(path: &Path, from: u64, content: u8) {
    let mut file = File::options().write(true).open(path).unwrap();
    let before = file.metadata().unwrap();
    file.seek(SeekFrom::Start(from)).unwrap();
    file.write_all(&vec![content; (before.len() - from) as usize]).unwrap();
    file.set_modified(before.modified().unwrap()).unwrap();
}

/// A picture and a model that another one of the same size and time replaces: what was made of the old one is not used again.
#[test]
fn a_file_that_was_replaced_is_read_again() {
    let bench = Bench::with_models(models::folder(), EngineOptions::default());
    let picture = bench.folders.roots().input.join("a.bmp");
    // A bitmap of 16 x 16 pixels of 24 bits.
    let mut header = vec![0; 54];
    header[..2].copy_from_slice(b"BM");
    for (at, value) in [(2, 54 + 768), (10, 54), (14, 40), (18, 16), (22, 16), (26, 0x18_0001), (34, 768)] {
        header[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
    }
    std::fs::write(&picture, [header, vec![10; 768]].concat()).unwrap();
    let model = bench.folders.roots().output.join("vae/mine.safetensors");
    std::fs::create_dir_all(model.parent().unwrap()).unwrap();
    std::fs::copy(models::folder().join("models/vae/vae.safetensors"), &model).unwrap();
    let prompt = json!({
        "1": {"class_type": "LoadImage", "inputs": {"image": "a.bmp"}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
        "3": {"class_type": "VAELoader", "inputs": {"vae_name": "mine.safetensors"}},
        "4": {"class_type": "VAEEncode", "inputs": {"pixels": ["1", 0], "vae": ["3", 0]}},
        "5": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0], "vae": ["3", 0]}},
        "6": {"class_type": "PreviewImage", "inputs": {"images": ["5", 0]}},
    });
    let mut executor = bench.executor(CachePolicy::Classic);
    let mut run = || {
        std::thread::sleep(Duration::from_millis(100));
        let outcome = bench.execute(&mut executor, prompt.clone(), &CancellationToken::default(), Arc::new(NullSink)).unwrap();
        let cached = outcome.messages.iter().find(|message| message.name() == "execution_cached").unwrap();
        let cached = serde_json::to_value(cached).unwrap()["nodes"].take();
        let pixel = |node: &str| {
            let bytes = bench.saved(&outcome.outputs[node]["images"][0]);
            decode::raster(&bytes, &decode::Limits::default()).unwrap().data()[0]
        };
        (pixel("2"), pixel("6"), cached)
    };
    let (read, decoded, cached) = run();
    assert_eq!((read, cached), (10, json!([])));
    overwrite(&picture, 54, 200);
    let (read, other, cached) = run();
    assert_eq!((read, cached), (200, json!(["3"])));
    assert_ne!(other, decoded);
    for path in [&picture, &model] {
        File::options().write(true).open(path).unwrap().set_modified(SystemTime::now()).unwrap();
    }
    assert_eq!(run(), (200, other, json!(["1", "2", "3", "4", "5", "6"])), "they were only touched");
    let names = u64::from_le_bytes(std::fs::read(&model).unwrap()[..8].try_into().unwrap());
    overwrite(&model, 8 + names, 0);
    let (read, emptied, cached) = run();
    assert_eq!((read, cached), (200, json!(["1", "2"])));
    assert_ne!(emptied, other);
}

#[test]
fn the_hash_of_a_large_file_can_be_interrupted() {
    let bench = Bench::new();
    let file = File::create(bench.folders.roots().input.join("a.png")).unwrap();
    file.set_len(200 << 20).unwrap();
    let node = &bench.catalog.get("LoadImage").unwrap().native().unwrap();
    let cancel = CancellationToken::default();
    cancel.cancel();
    let result = node.fingerprint(&inputs(&json!({"image": "a.png"})), &cancel);
    assert!(matches!(result, Err(comfyd_node::Error::Interrupted)), "{result:?}");
}

#[test]
fn a_picture_that_cannot_be_read_says_so() {
    let bench = Bench::new();
    std::fs::write(bench.folders.roots().input.join("a.png"), b"one").unwrap();
    let error = bench.run("LoadImage", inputs(&json!({"image": "a.png"}))).unwrap_err().to_string();
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
        let offered = bench.folders.files(source);
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
    assert_eq!((image.width, image.height, image.channels, image.lossless, image.max_size), (8, 6, 3, true, None));
    assert_eq!(image.pixels.len(), 8 * 6 * 3);
    let node = &bench.catalog.get("SaveImageWebsocket").unwrap().native().unwrap();
    assert_eq!(node.fingerprint(&Inputs::default(), &CancellationToken::default()).unwrap(), Fingerprint::Always);
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
        assert_eq!(latent.samples.shape(), shape, "{class}");
        assert!(latent.samples.iter().all(|v| *v == 0.0));
    }
}

/// Pictures that no compression gets small.
fn noise(batch: usize, side: usize) -> Value {
    let mut state = 1u32;
    let values = ndarray::Array4::from_shape_simple_fn((batch, side, side, 3), || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32
    });
    Value::object(Image::new(values))
}

/// Interrupts a bench's prompt while `run` works, which must then end with that error.
fn interrupted(bench: &Bench, run: impl FnOnce() -> comfyd_node::Result<NodeOutput>) {
    let cancel = bench.cancel.clone();
    let stop = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(50));
        cancel.cancel();
    });
    let stopped = run();
    stop.join().unwrap();
    assert!(matches!(stopped, Err(comfyd_node::Error::Interrupted)), "{stopped:?}");
}

#[test]
fn what_is_interrupted_while_it_is_saved_leaves_no_file() {
    let (large, many) = (noise(1, 3000), noise(40, 500));
    for (class, widgets, pictures) in [
        ("SaveImage", json!({"filename_prefix": "x"}), &large),
        ("SaveAnimatedPNG", json!({"filename_prefix": "x", "fps": 6.0, "compress_level": 9}), &many),
        ("SaveAnimatedWEBP", json!({"filename_prefix": "x", "fps": 6.0, "lossless": true, "quality": 100, "method": "slowest"}), &large),
        ("SaveAnimatedWEBP", json!({"filename_prefix": "x", "fps": 6.0, "lossless": false, "quality": 80, "method": "slowest"}), &many),
    ] {
        let bench = Bench::new();
        interrupted(&bench, || bench.run(class, with(widgets, "images", pictures.clone())));
        assert_eq!(std::fs::read_dir(bench.folders.directory(Kind::Output)).unwrap().count(), 0, "{class}");
    }
}

#[test]
fn effects_can_be_interrupted() {
    let large = noise(2, 3000);
    for (class, widgets) in [
        ("ImageBlur", json!({"blur_radius": 31, "sigma": 10.0})),
        ("ImageSharpen", json!({"sharpen_radius": 31, "sigma": 10.0, "alpha": 1.0})),
        ("Morphology", json!({"operation": "top_hat", "kernel_size": 99})),
        ("ImageQuantize", json!({"colors": 256, "dither": "floyd-steinberg"})),
        ("Canny", json!({"low_threshold": 0.1, "high_threshold": 0.2})),
        ("ImageAddNoise", json!({"seed": 1, "strength": 1.0})),
        ("ImageScale", json!({"upscale_method": "lanczos", "width": 12_000, "height": 12_000, "crop": "disabled"})),
    ] {
        let bench = Bench::new();
        interrupted(&bench, || bench.run(class, with(widgets, "image", large.clone())));
    }
    let mut dot = ndarray::Array3::zeros((1, 3000, 3000));
    dot[[0, 0, 0]] = 1.0;
    let mask: Value = Value::object(Mask::new(dot));
    let bench = Bench::new();
    interrupted(&bench, || bench.run("GrowMask", with(json!({"expand": 16_384, "tapered_corners": true}), "mask", mask)));
}

#[test]
fn errors_name_files_as_clients_know_them() {
    let bench = Bench::new();
    let base = bench.dir.path();
    let told = |class: &str, widgets: Json, file: &str| {
        let error = bench.first(class, &widgets).unwrap_err();
        let mut texts = vec![error.to_string()];
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            texts.push(error.to_string());
            cause = error.source();
        }
        assert!(texts[0].contains(file), "{class}: {texts:?}");
        assert!(texts.iter().all(|text| !text.contains(base.to_str().unwrap())), "{class}: {texts:?}");
    };
    for (folder, name) in
        [("models/checkpoints", "a.safetensors"), ("models/vae", "b.pt"), ("models/unet", "c.gguf"), ("input", "d.latent")]
    {
        std::fs::create_dir_all(base.join(folder)).unwrap();
        std::fs::write(base.join(folder).join(name), b"no model").unwrap();
    }
    told("CheckpointLoaderSimple", json!({"ckpt_name": "a.safetensors"}), "models/checkpoints/a.safetensors");
    told("VAELoader", json!({"vae_name": "b.pt"}), "models/vae/b.pt");
    told("UNETLoader", json!({"unet_name": "c.gguf", "weight_dtype": "default"}), "models/diffusion_models/c.gguf");
    told("LoadLatent", json!({"latent": "d.latent"}), "input/d.latent");
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
        assert_eq!(image.0.shape(), [2, 4, 4, 3]);
        [image.0[[0, 3, 3, 0]], image.0[[1, 0, 0, 0]], image.0[[1, 3, 3, 2]]]
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
    assert_eq!(shown, json!({"result": ["a.glb", {"zoom": 1}, null]}));
    let shown = ui(&bench.run("Preview3DAnimation", inputs(&json!({"model_file": "a.glb"}))).unwrap());
    assert_eq!(shown, json!({"result": ["a.glb", null, null]}));
}

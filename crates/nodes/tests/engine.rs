//! The nodes on reduced models without the reference: files that are saved and loaded again, progress and previews, interruption, memory.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use comfyd_engine::{EngineOptions, PreviewMethod};
use comfyd_node::{CancellationToken, Context, Error, Inputs, PreviewImage, Reporter, Value};
use comfyd_values::Latent;
use common::{Bench, inputs, models, values};
use serde_json::{Value as Json, json};

fn bench() -> Bench {
    Bench::with_models(models::folder(), EngineOptions::default())
}

/// A bench whose model folders hold those files and the ones that `files` saved: path in the output folder, path in the folder `models`.
fn bench_with(saved: &Bench, files: &[(&str, &str)]) -> (tempfile::TempDir, Bench) {
    let base = tempfile::tempdir().unwrap();
    for (from, to) in files {
        let to = base.path().join("models").join(to);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(saved.folders.roots().output.join(from), to).unwrap();
    }
    let bench = Bench::with_models(base.path(), EngineOptions::default());
    (base, bench)
}

fn node(bench: &Bench, class: &str, widgets: &Json, links: &[(&str, &Value)]) -> Vec<Value> {
    values(&bench.run(class, linked(widgets, links)).unwrap())
}

fn linked(widgets: &Json, links: &[(&str, &Value)]) -> Inputs {
    let mut all = inputs(widgets);
    for (name, value) in links {
        all.insert(*name, (*value).clone());
    }
    all
}

/// Model, text encoder, autoencoder.
fn checkpoint(bench: &Bench, file: &str) -> [Value; 3] {
    node(bench, "CheckpointLoaderSimple", &json!({"ckpt_name": file}), &[]).try_into().unwrap()
}

struct Prompt {
    positive: Value,
    negative: Value,
    latent: Value,
}

fn prompt(bench: &Bench, clip: &Value) -> Prompt {
    let encode = |text: &str| node(bench, "CLIPTextEncode", &json!({"text": text}), &[("clip", clip)]).remove(0);
    let latent = node(bench, "EmptyLatentImage", &json!({"width": 64, "height": 64, "batch_size": 1}), &[]).remove(0);
    Prompt { positive: encode("a lighthouse"), negative: encode("blurry"), latent }
}

fn sampling(model: &Value, prompt: &Prompt, steps: usize) -> Inputs {
    let widgets = json!({"seed": 5, "steps": steps, "cfg": 6.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0});
    let links = [("model", model), ("positive", &prompt.positive), ("negative", &prompt.negative), ("latent_image", &prompt.latent)];
    linked(&widgets, &links)
}

fn latent(value: &Value) -> Vec<f32> {
    value.downcast::<Latent>().unwrap().samples.iter().copied().collect()
}

fn sample(bench: &Bench, model: &Value, clip: &Value) -> Vec<f32> {
    let prompt = prompt(bench, clip);
    latent(&values(&bench.run("KSampler", sampling(model, &prompt, 2)).unwrap())[0])
}

/// How far `got` is from `wanted`, relative to its length.
fn distance(got: &[f32], wanted: &[f32]) -> f64 {
    assert_eq!(got.len(), wanted.len());
    let square = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v * v)).sum::<f64>();
    (square(&mut got.iter().zip(wanted).map(|(a, b)| a - b)) / square(&mut wanted.iter().copied())).sqrt()
}

#[test]
fn the_saving_of_a_model_can_be_interrupted() {
    let bench = bench();
    let [model, clip, vae] = checkpoint(&bench, "sd15.safetensors");
    bench.cancel.cancel();
    let inputs = linked(&json!({"filename_prefix": "a/whole"}), &[("model", &model), ("clip", &clip), ("vae", &vae)]);
    let mut out = Vec::new();
    let output = comfyd_engine::Output { out: &mut out, cancel: &bench.cancel };
    let stopped = model.downcast::<comfyd_engine::Model>().unwrap().save(output, None, None, "", &[]);
    assert!(matches!(stopped, Err(comfyd_engine::Error::Interrupted)));
    assert!(matches!(bench.run("CheckpointSave", inputs), Err(comfyd_node::Error::Interrupted)));
    assert_eq!(std::fs::read_dir(bench.folders.directory(comfyd_folders::Kind::Output)).unwrap().count(), 0);
}

#[test]
fn a_saved_checkpoint_samples_as_the_one_it_was() {
    let bench = bench();
    let [model, clip, vae] = checkpoint(&bench, "sd15.safetensors");
    let wanted = sample(&bench, &model, &clip);
    node(&bench, "CheckpointSave", &json!({"filename_prefix": "a/whole"}), &[("model", &model), ("clip", &clip), ("vae", &vae)]);
    node(&bench, "ModelSave", &json!({"filename_prefix": "unet"}), &[("model", &model)]);
    node(&bench, "CLIPSave", &json!({"filename_prefix": "text"}), &[("clip", &clip)]);
    node(&bench, "VAESave", &json!({"filename_prefix": "vae"}), &[("vae", &vae)]);
    let files = [
        ("a/whole_00001_.safetensors", "checkpoints/whole.safetensors"),
        ("unet_00001_.safetensors", "diffusion_models/unet.safetensors"),
        ("text_clip_l_00001_.safetensors", "text_encoders/text.safetensors"),
        ("vae_00001_.safetensors", "vae/vae.safetensors"),
    ];
    let (_base, again) = bench_with(&bench, &files);
    let [model, clip, vae] = checkpoint(&again, "whole.safetensors");
    assert_eq!(sample(&again, &model, &clip), wanted);
    let model = node(&again, "UNETLoader", &json!({"unet_name": "unet.safetensors", "weight_dtype": "default"}), &[]).remove(0);
    let text = node(&again, "CLIPLoader", &json!({"clip_name": "text.safetensors", "type": "stable_diffusion"}), &[]).remove(0);
    assert_eq!(sample(&again, &model, &text), wanted);
    let alone = node(&again, "VAELoader", &json!({"vae_name": "vae.safetensors"}), &[]).remove(0);
    let latent = prompt(&again, &clip).latent;
    let decoded = |vae: &Value| {
        let image = node(&again, "VAEDecode", &json!({}), &[("samples", &latent), ("vae", vae)]).remove(0);
        image.downcast::<comfyd_values::Image>().unwrap().0.iter().copied().collect::<Vec<f32>>()
    };
    assert_eq!(decoded(&alone), decoded(&vae));
}

/// The reduced denoiser, its matrices in eight bits, against the same values in a file of whole numbers.
#[test]
fn a_denoiser_in_few_bits_samples_as_its_values_do() {
    use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
    let base = tempfile::tempdir().unwrap();
    let folder = base.path().join("models/diffusion_models");
    std::fs::create_dir_all(&folder).unwrap();
    let whole = comfyd_weights::StateDict::open(&models::folder().join("models/diffusion_models/unet.safetensors")).unwrap();
    let mut quantised = Vec::new();
    let mut values = comfyd_weights::StateDict::default();
    for (name, tensor) in whole.iter() {
        let tensor = tensor.read().unwrap().to_dtype(candle_core::DType::F32).unwrap();
        let in_eight_bits = tensor.rank() == 2 && tensor.dims()[1] % 32 == 0;
        let few = QTensor::quantize(&tensor, if in_eight_bits { GgmlDType::Q8_0 } else { GgmlDType::F32 }).unwrap();
        values.insert(name, few.dequantize(tensor.device()).unwrap());
        quantised.push((name.to_owned(), few));
    }
    let tensors: Vec<(&str, &QTensor)> = quantised.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let mut file = std::fs::File::create(folder.join("few.gguf")).unwrap();
    gguf_file::write(&mut file, &[("general.architecture", &gguf_file::Value::String("sd1".into()))], &tensors).unwrap();
    comfyd_weights::write::write(&folder.join("values.safetensors"), &values, &comfyd_weights::write::Options::default()).unwrap();

    let [original, clip, _] = checkpoint(&bench(), "sd15.safetensors");
    let bench = Bench::with_models(base.path(), EngineOptions::default());
    let load = |file: &str| node(&bench, "UNETLoader", &json!({"unet_name": file, "weight_dtype": "default"}), &[]).remove(0);
    let got = sample(&bench, &load("few.gguf"), &clip);
    // Quantised values are rounded to binary16 when they are read.
    let rounding = distance(&got, &sample(&bench, &load("values.safetensors"), &clip));
    assert!(rounding < 1e-3, "{rounding}");
    let loss = distance(&got, &sample(&bench, &original, &clip));
    assert!(loss > 3.0 * rounding && loss < 0.1, "{loss}, of which {rounding} by rounding");
}

/// A file whose matrices are eight-bit floats with scales, against the plain file that is saved of it.
#[test]
fn scaled_weights_count_wherever_they_are_read() {
    let bench = bench();
    for file in ["scaled.safetensors", "scaled_later.safetensors"] {
        let [model, clip, vae] = checkpoint(&bench, file);
        let wanted = sample(&bench, &model, &clip);
        let prefix = format!("a/{file}");
        node(&bench, "CheckpointSave", &json!({"filename_prefix": prefix}), &[("model", &model), ("clip", &clip), ("vae", &vae)]);
        let saved = format!("{prefix}_00001_.safetensors");
        std::fs::copy(models::folder().join("models/checkpoints").join(file), bench.folders.roots().output.join("a/unet.safetensors"))
            .unwrap();
        let files = [(saved.as_str(), "checkpoints/plain.safetensors"), ("a/unet.safetensors", "diffusion_models/unet.safetensors")];
        let (_base, again) = bench_with(&bench, &files);
        let [plain, plain_clip, _] = checkpoint(&again, "plain.safetensors");
        assert_eq!(sample(&again, &plain, &plain_clip), wanted, "{file}");

        // Patches change what the weights mean, not the eight bits.
        let with_lora = |model: &Value| {
            let widgets = json!({"lora_name": "lora.safetensors", "strength_model": 0.7});
            node(&bench, "LoraLoaderModelOnly", &widgets, &[("model", model)]).remove(0)
        };
        let [other, ..] = checkpoint(&bench, "other.safetensors");
        let merged =
            |model: &Value| node(&bench, "ModelMergeSimple", &json!({"ratio": 0.5}), &[("model1", model), ("model2", &other)]).remove(0);
        let (patched, blend) = (sample(&bench, &with_lora(&model), &clip), sample(&bench, &merged(&model), &clip));
        assert!(distance(&patched, &wanted) > 0.05 && distance(&blend, &wanted) > 0.05, "{file}");
        assert_eq!(sample(&bench, &with_lora(&plain), &clip), patched, "{file}");
        assert_eq!(sample(&bench, &merged(&plain), &clip), blend, "{file}");

        // What has a scale is in eight bits already; only the rest is rounded.
        let load =
            |dtype: &str| node(&again, "UNETLoader", &json!({"unet_name": "unet.safetensors", "weight_dtype": dtype}), &[]).remove(0);
        assert_eq!(sample(&bench, &load("default"), &clip), wanted, "{file}");
        let loss = distance(&sample(&bench, &load("fp8_e4m3fn"), &clip), &wanted);
        assert!(loss > 0.0 && loss < 0.2, "{file}: {loss}");
    }
}

#[test]
fn a_merge_survives_its_file() {
    let bench = bench();
    let [first, clip, _] = checkpoint(&bench, "sd15.safetensors");
    let [second, ..] = checkpoint(&bench, "other.safetensors");
    let merged = node(&bench, "ModelMergeSimple", &json!({"ratio": 0.5}), &[("model1", &first), ("model2", &second)]).remove(0);
    let wanted = sample(&bench, &merged, &clip);
    assert!(distance(&wanted, &sample(&bench, &first, &clip)) > 0.1);
    node(&bench, "ModelSave", &json!({"filename_prefix": "merged"}), &[("model", &merged)]);
    let (_base, again) = bench_with(&bench, &[("merged_00001_.safetensors", "diffusion_models/merged.safetensors")]);
    let model = node(&again, "UNETLoader", &json!({"unet_name": "merged.safetensors", "weight_dtype": "default"}), &[]).remove(0);
    // The text of the other bench's encoder; the file holds halves.
    let prompt = prompt(&bench, &clip);
    let got = latent(&values(&again.run("KSampler", sampling(&model, &prompt, 2)).unwrap())[0]);
    let error = distance(&got, &wanted);
    assert!(error > 0.0 && error < 2e-3, "{error}");
}

#[test]
fn a_saved_model_is_marked_with_the_levels_that_are_set() {
    let bench = bench();
    let [model, ..] = checkpoint(&bench, "sd15.safetensors");
    let widgets = json!({"sampling": "v_prediction", "sigma_max": 80.0, "sigma_min": 0.5});
    let continuous = node(&bench, "ModelSamplingContinuousEDM", &widgets, &[("model", &model)]).remove(0);
    node(&bench, "ModelSave", &json!({"filename_prefix": "edm"}), &[("model", &continuous)]);
    let file = comfyd_weights::StateDict::open(&bench.folders.roots().output.join("edm_00001_.safetensors")).unwrap();
    let value = |name: &str| file.get(name).unwrap().read().unwrap().to_dtype(candle_core::DType::F32).unwrap().to_scalar::<f32>().unwrap();
    assert!((value("edm_vpred.sigma_max") - 80.0).abs() < 1e-3 && (value("edm_vpred.sigma_min") - 0.5).abs() < 1e-5);
    // What the file said of its prediction stays.
    assert!(!file.contains("v_pred"));
    assert!(file.contains("model.diffusion_model.out.2.weight"));
}

#[test]
fn a_lora_can_be_taken_off_and_extracted() {
    let bench = bench();
    let [model, clip, _] = checkpoint(&bench, "sd15.safetensors");
    let wanted = sample(&bench, &model, &clip);
    let widgets = json!({"lora_name": "lora.safetensors", "strength_model": 1.0, "strength_clip": 1.0});
    let changed = node(&bench, "LoraLoader", &widgets, &[("model", &model), ("clip", &clip)]);
    let with_lora = sample(&bench, &changed[0], &changed[1]);
    assert!(distance(&with_lora, &wanted) > 0.05);
    assert_eq!(sample(&bench, &model, &clip), wanted);

    let widgets = json!({"multiplier": 1.0});
    let model_diff = node(&bench, "ModelMergeSubtract", &widgets, &[("model1", &changed[0]), ("model2", &model)]).remove(0);
    let clip_diff = node(&bench, "CLIPMergeSubtract", &widgets, &[("clip1", &changed[1]), ("clip2", &clip)]).remove(0);
    let widgets = json!({"filename_prefix": "loras/again", "rank": 4, "lora_type": "standard", "bias_diff": false});
    node(&bench, "LoraSave", &widgets, &[("model_diff", &model_diff), ("text_encoder_diff", &clip_diff)]);
    let (_base, again) = bench_with(&bench, &[("loras/again_00001_.safetensors", "loras/again.safetensors")]);
    let widgets = json!({"lora_name": "again.safetensors", "strength_model": 1.0, "strength_clip": 1.0});
    let extracted = node(&again, "LoraLoader", &widgets, &[("model", &model), ("clip", &clip)]);
    let error = distance(&sample(&bench, &extracted[0], &extracted[1]), &with_lora);
    // The cut at the outermost hundredth of the values is the extraction's own loss.
    assert!(error < 0.3 * distance(&with_lora, &wanted), "{error}");
}

#[test]
fn each_step_is_reported_and_shown() {
    let options = EngineOptions { preview: PreviewMethod::Latent2Rgb, ..EngineOptions::default() };
    let bench = Bench::with_models(models::folder(), options);
    let [model, clip, _] = checkpoint(&bench, "sd15.safetensors");
    let prompt = prompt(&bench, &clip);
    bench.run("KSampler", sampling(&model, &prompt, 3)).unwrap();
    assert_eq!(*bench.reports.progress.lock().unwrap(), [(1.0, 3.0), (2.0, 3.0), (3.0, 3.0)]);
    let images = bench.reports.images.lock().unwrap();
    assert_eq!(images.iter().map(|image| (image.width, image.height, image.pixels.len())).collect::<Vec<_>>(), [(8, 8, 192); 3]);
}

#[test]
fn a_prompt_chooses_its_previews() {
    let shown = |preview, asked: Json| {
        let mut bench = Bench::with_models(models::folder(), EngineOptions { preview, ..EngineOptions::default() });
        bench.hidden.extra_data = Arc::new(json!({"preview_method": asked}));
        let [model, clip, _] = checkpoint(&bench, "sd15.safetensors");
        let prompt = prompt(&bench, &clip);
        bench.run("KSampler", sampling(&model, &prompt, 1)).unwrap();
        bench.reports.images.lock().unwrap().iter().map(|image| image.width).collect::<Vec<_>>()
    };
    for (asked, widths) in
        [("latent2rgb", vec![8]), ("auto", vec![8]), ("taesd", vec![64]), ("none", vec![]), ("default", vec![]), ("other", vec![])]
    {
        assert_eq!(shown(PreviewMethod::None, json!(asked)), widths, "{asked}");
    }
    for (asked, widths) in
        [(json!("none"), vec![]), (json!("default"), vec![8]), (json!(""), vec![8]), (json!(5), vec![8]), (Json::Null, vec![8])]
    {
        assert_eq!(shown(PreviewMethod::Latent2Rgb, asked.clone()), widths, "{asked}");
    }
}

#[test]
fn the_tiny_autoencoder_shows_whole_pictures() {
    let options = EngineOptions { preview: PreviewMethod::Taesd, ..EngineOptions::default() };
    let bench = Bench::with_models(models::folder(), options);
    let [model, clip, _] = checkpoint(&bench, "sd15.safetensors");
    let prompt = prompt(&bench, &clip);
    bench.run("KSampler", sampling(&model, &prompt, 3)).unwrap();
    let images = bench.reports.images.lock().unwrap();
    assert!(!images.is_empty() && images.iter().all(|image| (image.width, image.height) == (64, 64)));
}

/// Cancels after so many reports of progress.
struct Canceller<'a> {
    cancel: &'a CancellationToken,
    left: AtomicUsize,
}

impl Reporter for Canceller<'_> {
    fn progress(&self, _node: &str, _value: f64, _max: f64) {
        if self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.cancel.cancel();
        }
    }

    fn image(&self, _node: &str, _image: PreviewImage) {}

    fn text(&self, _node: &str, _text: &str) {}
}

#[test]
fn sampling_ends_when_it_is_interrupted() {
    let bench = bench();
    let [model, clip, _] = checkpoint(&bench, "sd15.safetensors");
    let prompt = prompt(&bench, &clip);
    let run = |cancel: &CancellationToken, reporter: &dyn Reporter| {
        let entry = bench.catalog.get("KSampler").unwrap();
        entry.native().unwrap().run(&mut Context::new("7", &bench.hidden, cancel, reporter, 0), sampling(&model, &prompt, 5000)).map(|_| ())
    };
    let cancel = CancellationToken::default();
    let reporter = Canceller { cancel: &cancel, left: AtomicUsize::new(2) };
    assert!(matches!(run(&cancel, &reporter), Err(Error::Interrupted)));

    // In the middle of a pass, at no step's end: by another thread.
    let cancel = CancellationToken::default();
    let reporter = Canceller { cancel: &CancellationToken::default(), left: AtomicUsize::new(usize::MAX) };
    let begin = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(150));
            cancel.cancel();
        });
        assert!(matches!(run(&cancel, &reporter), Err(Error::Interrupted)));
    });
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}

#[test]
fn models_are_unloaded_when_memory_is_short() {
    let sizes = |file: &str| Path::new(models::folder()).join("models/checkpoints").join(file).metadata().unwrap().len();
    let one = sizes("sd15.safetensors");
    // Room for one and for what is computed with it, not for two.
    let limit = one * 7 / 4;
    let account = comfyd_memory::Account::of_machine(Some(limit));
    let bench = Bench::with_models(models::folder(), EngineOptions { account, ..EngineOptions::default() });
    let first = checkpoint(&bench, "sd15.safetensors");
    let second = checkpoint(&bench, "other.safetensors");
    let wanted = sample(&bench, &first[0], &first[1]);
    let held = bench.engine.memory().held;
    assert!(held > one / 2 && held <= limit, "{held} of {limit}");
    // Another prompt with the same checkpoint loads nothing.
    let same = checkpoint(&bench, "sd15.safetensors");
    assert_eq!(sample(&bench, &same[0], &same[1]), wanted);
    assert_eq!(bench.engine.memory().held, held);
    let other = sample(&bench, &second[0], &second[1]);
    assert!(distance(&other, &wanted) > 0.1);
    assert!(bench.engine.memory().held <= limit, "{} of {limit}", bench.engine.memory().held);
    assert_eq!(sample(&bench, &first[0], &first[1]), wanted);
    bench.engine.free(true, true);
    assert_eq!(bench.engine.memory().held, 0);
    assert_eq!(sample(&bench, &first[0], &first[1]), wanted);
}

#[test]
fn unknown_files_are_refused_with_their_names() {
    let bench = bench();
    std::fs::create_dir_all(bench.folders.roots().output.join("x")).unwrap();
    std::fs::write(bench.folders.roots().output.join("x/broken"), b"nothing of use").unwrap();
    let (_base, broken) = bench_with(&bench, &[("x/broken", "checkpoints/broken.safetensors"), ("x/broken", "controlnet/broken.pth")]);
    for (class, widgets) in [
        ("CheckpointLoaderSimple", json!({"ckpt_name": "broken.safetensors"})),
        ("ControlNetLoader", json!({"control_net_name": "broken.pth"})),
    ] {
        let error = broken.run(class, inputs(&widgets)).unwrap_err().to_string();
        assert_eq!(error.matches("broken.").count(), 1, "{error}");
    }
}

#[test]
fn a_checkpoint_is_of_use_without_an_autoencoder_that_is_known() {
    let base = tempfile::tempdir().unwrap();
    let whole = comfyd_weights::StateDict::open(&models::folder().join("models/checkpoints/sd15.safetensors")).unwrap();
    let mut part = whole.with_prefix("model.", "model.");
    for (name, tensor) in whole.with_prefix("cond_stage_model.", "cond_stage_model.").iter() {
        part.insert(name, tensor.clone());
    }
    part.insert("first_stage_model.strange.weight", whole.get("model.diffusion_model.out.0.weight").unwrap().clone());
    let file = base.path().join("models/checkpoints/strange.safetensors");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    comfyd_weights::write::write(&file, &part, &comfyd_weights::write::Options::default()).unwrap();
    let [model, clip, vae] = checkpoint(&Bench::with_models(base.path(), EngineOptions::default()), "strange.safetensors");
    assert!(matches!(vae, Value::Null));
    let bench = bench();
    let [wanted, wanted_clip, _] = checkpoint(&bench, "sd15.safetensors");
    assert_eq!(sample(&bench, &model, &clip), sample(&bench, &wanted, &wanted_clip));
}

/// Why a class would rather be run by another process.
fn declines(bench: &Bench, class: &str, widgets: &Json) -> Option<String> {
    bench.catalog.get(class).unwrap().native().unwrap().declines(&inputs(widgets))
}

#[test]
fn loaders_decline_files_that_the_engine_does_not_know() {
    let base = tempfile::tempdir().unwrap();
    let whole = comfyd_weights::StateDict::open(&models::folder().join("models/checkpoints/sd15.safetensors")).unwrap();
    let weight = || whole.get("model.diffusion_model.out.0.weight").unwrap().clone();
    let mut flux = comfyd_weights::StateDict::default();
    flux.insert("double_blocks.0.img_attn.qkv.weight", weight());
    let mut without = whole.with_prefix("model.", "model.");
    without.insert("first_stage_model.strange.weight", weight());
    for (folder, name, dict) in [
        ("checkpoints", "flux", &flux),
        ("diffusion_models", "flux", &flux),
        ("text_encoders", "flux", &flux),
        ("vae", "flux", &flux),
        ("controlnet", "flux", &flux),
        ("upscale_models", "flux", &flux),
        ("loras", "flux", &flux),
        ("checkpoints", "strange", &without),
    ] {
        let file = base.path().join(format!("models/{folder}/{name}.safetensors"));
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        comfyd_weights::write::write(&file, dict, &comfyd_weights::write::Options::default()).unwrap();
    }
    std::fs::write(base.path().join("models/loras/broken.safetensors"), b"no").unwrap();
    let strange = Bench::with_models(base.path(), EngineOptions::default());
    for (class, input) in [
        ("CheckpointLoaderSimple", "ckpt_name"),
        ("UNETLoader", "unet_name"),
        ("VAELoader", "vae_name"),
        ("ControlNetLoader", "control_net_name"),
        ("UpscaleModelLoader", "model_name"),
    ] {
        let told = declines(&strange, class, &json!({input: "flux.safetensors"})).unwrap();
        assert!(told.contains("flux.safetensors") && !told.contains(base.path().to_str().unwrap()), "{class}: {told}");
        assert_eq!(declines(&strange, class, &json!({input: "none.safetensors"})), None, "{class}: a missing file is an error anywhere");
        assert!(declines(&strange, class, &json!({})).is_some(), "{class}: a linked name is known too late");
    }
    let clip = |bench: &Bench, file: &str, of: &str| declines(bench, "CLIPLoader", &json!({"clip_name": file, "type": of}));
    assert!(clip(&strange, "flux.safetensors", "stable_diffusion").is_some());
    assert!(declines(&strange, "CheckpointLoaderSimple", &json!({"ckpt_name": "strange.safetensors"})).unwrap().contains("autoencoder"));
    assert_eq!(declines(&strange, "LoraLoaderModelOnly", &json!({"lora_name": "flux.safetensors"})), None, "the model decides");
    assert!(declines(&strange, "LoraLoader", &json!({"lora_name": "broken.safetensors"})).is_some());
    assert_eq!(declines(&strange, "VAELoader", &json!({"vae_name": "pixel_space"})), None);
    assert!(declines(&strange, "GLIGENLoader", &json!({})).is_some());

    let known = bench();
    assert_eq!(declines(&known, "CheckpointLoaderSimple", &json!({"ckpt_name": "sd15.safetensors"})), None);
    assert_eq!(declines(&known, "KSampler", &json!({})), None);
}

#[test]
fn embeddings_that_cannot_be_used_are_left_out_as_missing_ones() {
    let bench = bench();
    let output = &bench.folders.roots().output;
    std::fs::create_dir_all(output.join("e")).unwrap();
    let page = b"<!DOCTYPE html><html><body>404</body></html>";
    let whole = std::fs::read(models::folder().join("models/embeddings/emb.safetensors")).unwrap();
    // os.system("true"), as a pickle.
    let code = b"cos\nsystem\n(S'true'\ntR.";
    let files: [(&str, &[u8]); 7] = [
        ("empty.safetensors", b""),
        ("page.pt", page),
        ("page.safetensors", page),
        ("cut.safetensors", &whole[..whole.len() - 8]),
        ("cut.bin", b"PK\x03\x04"),
        ("code.pt", code),
        ("nothing.safetensors", b"\x02\0\0\0\0\0\0\0{}"),
    ];
    std::fs::copy(models::folder().join("models/text_encoders/clip_l.safetensors"), output.join("e/clip")).unwrap();
    let mut copies = vec![("e/clip".to_owned(), "text_encoders/clip_l.safetensors".to_owned())];
    for (name, bytes) in files {
        std::fs::write(output.join("e").join(name), bytes).unwrap();
        copies.push((format!("e/{name}"), format!("embeddings/{name}")));
    }
    // Whole, but four wide.
    let mut narrow = comfyd_weights::StateDict::default();
    narrow.insert("emb_params", candle_core::Tensor::zeros((2, 4), candle_core::DType::F32, &candle_core::Device::Cpu).unwrap());
    comfyd_weights::write::write(&output.join("e/narrow.safetensors"), &narrow, &comfyd_weights::write::Options::default()).unwrap();
    copies.push(("e/narrow.safetensors".to_owned(), "embeddings/narrow.safetensors".to_owned()));
    let copies: Vec<(&str, &str)> = copies.iter().map(|(from, to)| (from.as_str(), to.as_str())).collect();
    let (_base, again) = bench_with(&bench, &copies);
    let clip = node(&again, "CLIPLoader", &json!({"clip_name": "clip_l.safetensors", "type": "stable_diffusion"}), &[]).remove(0);
    let encoded = |text: &str| {
        let value = node(&again, "CLIPTextEncode", &json!({"text": text}), &[("clip", &clip)]).remove(0);
        let conditioning = value.downcast::<comfyd_engine::Conditioning>().unwrap();
        conditioning.entries()[0].cross_attn.as_ref().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let wanted = encoded("a embedding:gone, sea");
    assert_ne!(wanted, encoded("a ship, sea"));
    for name in ["empty", "page.pt", "page.safetensors", "cut.safetensors", "cut.bin", "code", "nothing"] {
        assert_eq!(encoded(&format!("a embedding:{name}, sea")), wanted, "{name}");
    }
    // Its two rows are padding at the end, as in the reference; what stands before it is not touched.
    assert_eq!(encoded("a embedding:narrow")[..256], wanted[..256]);
}

#[test]
fn tiles_matter_only_where_there_is_more_than_one() {
    let bench = bench();
    let [_, _, vae] = checkpoint(&bench, "sd15.safetensors");
    let picture = |width: u32, height: u32| {
        node(&bench, "EmptyImage", &json!({"width": width, "height": height, "batch_size": 1, "color": 4000}), &[]).remove(0)
    };
    let tiles = |tile: u32, overlap: u32, pixels: &Value| {
        let widgets = json!({"tile_size": tile, "overlap": overlap, "temporal_size": 64, "temporal_overlap": 8});
        bench.run("VAEEncodeTiled", linked(&widgets, &[("pixels", pixels), ("vae", &vae)])).map(|output| latent(&values(&output)[0]))
    };
    let small = picture(64, 64);
    let wanted = latent(&node(&bench, "VAEEncode", &json!({}), &[("pixels", &small), ("vae", &vae)])[0]);
    for overlap in [512, 4096] {
        // The passes of half as high and half as wide tiles need one tile, too.
        assert!(distance(&tiles(512, overlap, &small).unwrap(), &wanted) < 1e-6);
        assert!(distance(&tiles(128, overlap, &small).unwrap(), &wanted) < 1e-6);
    }
    let error = tiles(64, 64, &picture(128, 64)).unwrap_err().to_string();
    assert!(error.contains("tiles of 64 cannot overlap by 64 along 128"), "{error}");
    let error = tiles(64, 512, &picture(64, 128)).unwrap_err().to_string();
    assert!(error.contains("choose larger tiles or a smaller overlap"), "{error}");
    // Decoding takes a quarter of the tile instead of a larger overlap.
    let latent = prompt(&bench, &checkpoint(&bench, "sd15.safetensors")[1]).latent;
    let widgets = json!({"tile_size": 64, "overlap": 4096, "temporal_size": 64, "temporal_overlap": 8});
    assert!(bench.run("VAEDecodeTiled", linked(&widgets, &[("samples", &latent), ("vae", &vae)])).is_ok());
}

#[test]
fn a_control_lora_of_another_family_is_refused() {
    let bench = bench();
    let [model, clip, _] = checkpoint(&bench, "sdxl.safetensors");
    let net = node(&bench, "ControlNetLoader", &json!({"control_net_name": "lora.safetensors"}), &[]).remove(0);
    let mut prompt = prompt(&bench, &clip);
    let hint = node(&bench, "EmptyImage", &json!({"width": 64, "height": 64, "batch_size": 1, "color": 0}), &[]).remove(0);
    let links = [("conditioning", &prompt.positive), ("control_net", &net), ("image", &hint)];
    prompt.positive = node(&bench, "ControlNetApply", &json!({"strength": 1.0}), &links).remove(0);
    let error = bench.run("KSampler", sampling(&model, &prompt, 1)).unwrap_err().to_string();
    assert!(error.contains("lora.safetensors") && error.contains("another family"), "{error}");
}

#[test]
fn a_checkpoint_without_one_tensor_is_named_when_it_is_needed() {
    let base = tempfile::tempdir().unwrap();
    let whole = comfyd_weights::StateDict::open(&models::folder().join("models/checkpoints/sd15.safetensors")).unwrap();
    let mut part = comfyd_weights::StateDict::default();
    for (name, tensor) in whole.iter().filter(|(name, _)| !name.ends_with("middle_block.0.in_layers.2.weight")) {
        part.insert(name, tensor.clone());
    }
    let file = base.path().join("models/checkpoints/part.safetensors");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    comfyd_weights::write::write(&file, &part, &comfyd_weights::write::Options::default()).unwrap();
    let bench = Bench::with_models(base.path(), EngineOptions::default());
    let [model, clip, _] = checkpoint(&bench, "part.safetensors");
    let error = bench.run("KSampler", sampling(&model, &prompt(&bench, &clip), 1)).unwrap_err().to_string();
    assert!(error.contains("part.safetensors") && error.contains("middle_block.0.in_layers.2.weight"), "{error}");
}

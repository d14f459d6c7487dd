//! Checkpoints and their parts from files: diffusion models, text encoders, autoencoders.

use std::path::{Path, PathBuf};

use comfyd_engine::{Checkpoint, SD_LATENTS, SDXL_LATENTS};
use comfyd_node::{CancellationToken, Error, FileSource, Fingerprint, Input, Inputs, NodeOutput, Result, Schema, Value};
use comfyd_weights::StateDict;

use crate::class::{Call, Class};
use crate::loaders::files::{contents, declined, files_fingerprint, model_file};
use crate::services::State;

/// The reference's old configuration files. Everything that they tell is told from the checkpoint, except the CLIP layer.
const CONFIGS: [&str; 11] = [
    "anything_v3.yaml",
    "v1-inference.yaml",
    "v1-inference_clip_skip_2.yaml",
    "v1-inference_clip_skip_2_fp16.yaml",
    "v1-inference_fp16.yaml",
    "v1-inpainting-inference.yaml",
    "v2-inference-v.yaml",
    "v2-inference-v_fp32.yaml",
    "v2-inference.yaml",
    "v2-inference_fp32.yaml",
    "v2-inpainting-inference.yaml",
];

/// Tiny autoencoders, which come in two files.
const TINY: [&str; 2] = ["taesd", "taesdxl"];

/// The files of a denoiser or an autoencoder in the layout of the diffusers library, the one to prefer first.
const DENOISER_FILES: [&str; 3] =
    ["diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"];

/// The files of a text encoder in that layout.
const ENCODER_FILES: [&str; 4] = ["model.fp16.safetensors", "model.safetensors", "pytorch_model.fp16.bin", "pytorch_model.bin"];

/// Types of models that use CLIP encoders in another way. The other types take the same encoders, or encoders that are told from the file to be
/// unknown.
const SINGLE_UNSUPPORTED: [&str; 3] = ["stable_cascade", "sd3", "hidream"];
const DUAL_UNSUPPORTED: [&str; 11] = [
    "sd3",
    "flux",
    "hunyuan_video",
    "hidream",
    "hunyuan_image",
    "hunyuan_video_15",
    "kandinsky5",
    "kandinsky5_image",
    "ltxv",
    "newbie",
    "ace",
];

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("CheckpointLoaderSimple").display("Load Checkpoint").category("model/loaders").description("Loads a checkpoint: its diffusion model, its text encoder and its autoencoder. What kind of model it holds is told from the file.").aliases(["model file", "safetensors", "sd15", "sdxl"])
.input(Input::files("ckpt_name", FileSource::Models("checkpoints".into())).tooltip("The file in the folder checkpoints.")).output("MODEL").output("CLIP").output("VAE")
        },
        checkpoint,
    ).declines(declines_checkpoint)
    .fingerprint(|state, inputs, cancel| files_fingerprint(state, inputs, cancel, &[("checkpoints", "ckpt_name")])),
    Class::new(
        || {
            Schema::new("CheckpointLoader").display("Load Checkpoint With Config (DEPRECATED)").category("model/loaders").deprecated().description("Loads a checkpoint. The configuration only decides between noise and velocity prediction and the CLIP layer; everything else is told from the file.").aliases(["yaml", "configuration"])
.input(Input::files_and("config_name", CONFIGS, FileSource::Models("configs".into())))
.input(Input::files("ckpt_name", FileSource::Models("checkpoints".into()))).output("MODEL").output("CLIP").output("VAE")
        },
        checkpoint_with_config,
    ).declines(declines_checkpoint)
    .fingerprint(|state, inputs, cancel| files_fingerprint(state, inputs, cancel, &[("checkpoints", "ckpt_name")])),
    Class::new(
        || {
            Schema::new("DiffusersLoader").display("Load Diffusers Model (DEPRECATED)").deprecated()
                .category("model/loaders")
                .description("Loads a model from a folder in the layout of the diffusers library.").aliases(["hugging face folder"])
                .input(Input::files("model_path", FileSource::DiffusersFolders))
                .output("MODEL")
                .output("CLIP")
                .output("VAE")
        },
        diffusers,
    ).declines(declines_diffusers).fingerprint(diffusers_fingerprint),
    Class::new(
        || {
            Schema::new("UNETLoader")
                .display("Load Diffusion Model")
                .category("model/loaders")
                .description("Loads a diffusion model without text encoder and autoencoder.").aliases(["diffusion model file"])
                .input(Input::files("unet_name", FileSource::Models("diffusion_models".into())))
                .input(Input::combo("weight_dtype", ["default", "fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2"]).advanced())
                .output("MODEL")
        },
        unet,
    ).declines(|state, inputs| declined(state, inputs, &[("diffusion_models", "unet_name")], |engine, paths| engine.load_unet(paths[0], "default")))
    .fingerprint(|state, inputs, cancel| files_fingerprint(state, inputs, cancel, &[("diffusion_models", "unet_name")])),
    Class::new(
        || {
            Schema::new("CLIPLoader")
                .display("Load CLIP")
                .category("model/loaders")
                .description("Loads a text encoder.").aliases(["text encoder file"])
                .input(Input::files("clip_name", FileSource::Models("text_encoders".into())))
                .input(Input::combo(
                    "type",
                    [
                        "stable_diffusion",
                        "stable_cascade",
                        "sd3",
                        "stable_audio",
                        "mochi",
                        "ltxv",
                        "pixart",
                        "cosmos",
                        "lumina2",
                        "wan",
                        "hidream",
                        "chroma",
                        "ace",
                        "omnigen2",
                        "qwen_image",
                        "hunyuan_image",
                        "flux2",
                        "ovis",
                        "longcat_image",
                        "cogvideox",
                        "lens",
                        "pixeldit",
                        "ideogram4",
                        "boogu",
                        "krea2",
                        "joyimage",
                        "mage",
                        "minimax",
                    ],
                ))
                .input(Input::combo("device", ["default", "cpu"]).option("advanced", true).tooltip("Where it runs.").optional())
                .output("CLIP")
        },
        clip,
    ).declines(|state, inputs| declines_clip(state, inputs, &[("text_encoders", "clip_name")], &SINGLE_UNSUPPORTED))
    .fingerprint(|state, inputs, cancel| files_fingerprint(state, inputs, cancel, &[("text_encoders", "clip_name")])),
    Class::new(
        || {
            Schema::new("DualCLIPLoader").display("Load CLIP (Dual)")
                .category("model/loaders")
                .description("Loads the two text encoders of a model that uses two, such as Stable Diffusion XL.")
                .input(Input::files("clip_name1", FileSource::Models("text_encoders".into())))
                .input(Input::files("clip_name2", FileSource::Models("text_encoders".into())))
                .input(Input::combo("type", ["sdxl", "sd3", "flux", "hunyuan_video", "hidream", "hunyuan_image", "hunyuan_video_15", "kandinsky5", "kandinsky5_image", "ltxv", "newbie", "ace"]))
                .input(Input::combo("device", ["default", "cpu"]).option("advanced", true).tooltip("Where it runs.").optional())
                .output("CLIP")
        },
        dual_clip,
    ).declines(|state, inputs| declines_clip(state, inputs, &[("text_encoders", "clip_name1"), ("text_encoders", "clip_name2")], &DUAL_UNSUPPORTED))
    .fingerprint(|state, inputs, cancel| files_fingerprint(state, inputs, cancel, &[("text_encoders", "clip_name1"), ("text_encoders", "clip_name2")])),
    Class::new(
        || {
            Schema::new("VAELoader")
                .display("Load VAE")
                .category("model/loaders")
                .description("Loads an autoencoder, which turns pictures into latents and back.").aliases(["autoencoder file"])
                .input(Input::files("vae_name", FileSource::Autoencoders))
                .output("VAE")
        },
        vae,
    ).declines(declines_vae).fingerprint(vae_fingerprint),
];

pub(crate) fn declines_checkpoint(state: &State, inputs: &Inputs) -> Option<Error> {
    declined(state, inputs, &[("checkpoints", "ckpt_name")], |engine, paths| {
        let loaded = engine.load_checkpoint(paths[0])?;
        // It is of use without, but another implementation may know it.
        if loaded.vae.is_none() && StateDict::open(paths[0])?.has_prefix("first_stage_model.") {
            return Err(comfyd_engine::Error::msg("its autoencoder is of no known kind"));
        }
        Ok(())
    })
}

fn declines_clip(state: &State, inputs: &Inputs, files: &[(&str, &str)], unsupported: &[&str]) -> Option<Error> {
    // A linked type is looked at when the node runs, which is too late.
    check_type(inputs, unsupported).err().or_else(|| declined(state, inputs, files, |engine, paths| engine.load_clip(paths)))
}

fn declines_vae(state: &State, inputs: &Inputs) -> Option<Error> {
    match inputs.text("vae_name") {
        Ok(name) if name == "pixel_space" || TINY.contains(&name) => None,
        Ok(_) | Err(_) => declined(state, inputs, &[("vae", "vae_name")], |engine, paths| engine.load_vae(paths[0])),
    }
}

fn declines_diffusers(state: &State, inputs: &Inputs) -> Option<Error> {
    let files = DiffusersFiles::find(state, inputs.text("model_path").ok()?).ok()?;
    let engine = &state.services.engine;
    let encoders: Vec<&Path> = files.encoders.iter().map(PathBuf::as_path).collect();
    let loaded =
        engine.load_clip(&encoders).and_then(|_| engine.load_vae(&files.vae)).and_then(|_| engine.load_unet(&files.unet, "default"));
    loaded.err().map(Error::from)
}

fn checkpoint(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let path = model_file(call.state, "checkpoints", call.text("ckpt_name")?)?;
    Ok(outputs(call.engine().load_checkpoint(&path)?))
}

fn checkpoint_with_config(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let path = model_file(call.state, "checkpoints", call.text("ckpt_name")?)?;
    let mut loaded = call.engine().load_checkpoint(&path)?;
    if call.text("config_name")?.contains("clip_skip_2") {
        loaded.clip = loaded.clip.map(|clip| clip.with_layer(-2));
    }
    Ok(outputs(loaded))
}

fn diffusers(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let files = DiffusersFiles::find(call.state, call.text("model_path")?)?;
    let engine = call.engine();
    let encoders: Vec<&Path> = files.encoders.iter().map(PathBuf::as_path).collect();
    let clip = engine.load_clip(&encoders)?;
    Ok(outputs(Checkpoint { model: engine.load_unet(&files.unet, "default")?, clip: Some(clip), vae: Some(engine.load_vae(&files.vae)?) }))
}

/// The files of a model in the layout of the diffusers library.
struct DiffusersFiles {
    unet: PathBuf,
    vae: PathBuf,
    encoders: Vec<PathBuf>,
}

impl DiffusersFiles {
    fn find(state: &State, name: &str) -> Result<Self> {
        let folder = state.services.folders.diffusers_folder(name).ok_or_else(|| {
            Error::msg(format!("there is no folder '{name}' with a model_index.json among the diffusers models; choose another one"))
        })?;
        let part = |name: &str, names: &[&str]| {
            let part = folder.join(name);
            let file = names.iter().map(|file| part.join(file)).find(|file| file.is_file());
            file.ok_or_else(|| Error::msg(format!("{} holds none of the files {}; put one there", part.display(), names.join(", "))))
        };
        let mut encoders = vec![part("text_encoder", &ENCODER_FILES)?];
        encoders.extend(part("text_encoder_2", &ENCODER_FILES));
        Ok(Self { unet: part("unet", &DENOISER_FILES)?, vae: part("vae", &DENOISER_FILES)?, encoders })
    }
}

fn unet(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let path = model_file(call.state, "diffusion_models", call.text("unet_name")?)?;
    let model = call.engine().load_unet(&path, call.text("weight_dtype")?)?;
    Ok(NodeOutput::one(Value::object(model)))
}

fn clip(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let path = model_file(call.state, "text_encoders", call.text("clip_name")?)?;
    check_type(call.inputs, &SINGLE_UNSUPPORTED)?;
    let clip = call.engine().load_clip(&[&path])?;
    Ok(NodeOutput::one(Value::object(clip)))
}

fn dual_clip(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let first = model_file(call.state, "text_encoders", call.text("clip_name1")?)?;
    let second = model_file(call.state, "text_encoders", call.text("clip_name2")?)?;
    check_type(call.inputs, &DUAL_UNSUPPORTED)?;
    let clip = call.engine().load_clip(&[&first, &second])?;
    Ok(NodeOutput::one(Value::object(clip)))
}

/// Fails if CLIP encoders are used in another way by models of the chosen type.
fn check_type(inputs: &Inputs, unsupported: &[&str]) -> Result<()> {
    let chosen = inputs.text("type")?;
    if unsupported.contains(&chosen) {
        return Err(Error::msg(format!("text encoders of the type '{chosen}' are not supported; take stable_diffusion or sdxl")));
    }
    Ok(())
}

fn vae(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let folders = &call.state.services.folders;
    let vae = match call.text("vae_name")? {
        "pixel_space" => call.engine().pixel_space_vae(),
        name if TINY.contains(&name) => {
            let half = |half: &str| {
                let start = format!("{name}_{half}.");
                let missing = || Error::msg(format!("there is no file {start}* in the folder vae_approx; put it there"));
                folders.approximate_vae(&start).ok_or_else(missing)
            };
            let latents = if name == "taesdxl" { &SDXL_LATENTS } else { &SD_LATENTS };
            call.engine().load_taesd(latents, &half("encoder")?, &half("decoder")?)?
        }
        name => call.engine().load_vae(&model_file(call.state, "vae", name)?)?,
    };
    Ok(NodeOutput::one(Value::object(vae)))
}

/// Parts that the file does not hold are null; nodes that need them say so.
fn outputs(loaded: Checkpoint) -> NodeOutput {
    let clip = loaded.clip.map_or(Value::Null, Value::object);
    let vae = loaded.vae.map_or(Value::Null, Value::object);
    NodeOutput::values([Value::object(loaded.model), clip, vae])
}

fn vae_fingerprint(state: &State, inputs: &Inputs, cancel: &CancellationToken) -> Result<Fingerprint> {
    match inputs.optional("vae_name") {
        Some(Value::Text(name)) if name.as_ref() == "pixel_space" => Ok(Fingerprint::Inputs),
        Some(Value::Text(name)) if TINY.contains(&name.as_ref()) => {
            let halves = ["encoder", "decoder"].map(|half| state.services.folders.approximate_vae(&format!("{name}_{half}.")));
            contents(state, cancel, &halves.into_iter().flatten().collect::<Vec<_>>())
        }
        Some(_) | None => files_fingerprint(state, inputs, cancel, &[("vae", "vae_name")]),
    }
}

fn diffusers_fingerprint(state: &State, inputs: &Inputs, cancel: &CancellationToken) -> Result<Fingerprint> {
    let Some(Value::Text(name)) = inputs.optional("model_path") else { return Ok(Fingerprint::Always) };
    // Missing files are the node's error, not that of the comparison.
    let Ok(files) = DiffusersFiles::find(state, name) else { return Ok(Fingerprint::Always) };
    contents(state, cancel, &[vec![files.unet, files.vae], files.encoders].concat())
}

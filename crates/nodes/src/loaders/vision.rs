//! Vision encoders, alone and in checkpoints.

use comfyd_node::{FileSource, Input, NodeOutput, Result, Schema, Value};

use crate::class::{Call, Class};
use crate::loaders::files::{declined, files_fingerprint, model_file};

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("CLIPVisionLoader")
                .display("Load CLIP Vision")
                .category("model/loaders")
                .description("Loads a vision encoder, which turns pictures into something that models understand (CLIP, SigLIP).")
                .aliases(["image encoder", "siglip"])
                .input(Input::files("clip_name", FileSource::Models("clip_vision".into())))
                .output("CLIP_VISION")
        },
        load,
    )
    .declines(|state, inputs| declined(state, inputs, &[("clip_vision", "clip_name")], |engine, paths| engine.load_clip_vision(paths[0])))
    .fingerprint(|state, inputs, cancel| files_fingerprint(state, inputs, cancel, &[("clip_vision", "clip_name")])),
    Class::new(
        || {
            Schema::new("unCLIPCheckpointLoader")
                .display("Load unCLIP Checkpoint")
                .category("model/loaders")
                .description("Loads a checkpoint with the vision encoder that belongs to it (Stable Diffusion 2.1 unCLIP).")
                .aliases(["picture prompt"])
                .input(Input::files("ckpt_name", FileSource::Models("checkpoints".into())))
                .output("MODEL")
                .output("CLIP")
                .output("VAE")
                .output("CLIP_VISION")
        },
        load_unclip,
    )
    .declines(|state, inputs| {
        declined(state, inputs, &[("checkpoints", "ckpt_name")], |engine, paths| engine.load_unclip_checkpoint(paths[0]))
    })
    .fingerprint(|state, inputs, cancel| files_fingerprint(state, inputs, cancel, &[("checkpoints", "ckpt_name")])),
    // The official front end looks this one up by name to tie model folders to nodes.
    Class::new(
        || {
            Schema::new("ImageOnlyCheckpointLoader")
                .display("Load Checkpoint Image Only (img2vid model)")
                .category("model/loaders")
                .module("comfy_extras.nodes_video_model")
                .description("Loads a checkpoint and its vision encoder, without the text encoder.")
                .input(Input::files("ckpt_name", FileSource::Models("checkpoints".into())))
                .output("MODEL")
                .output("CLIP_VISION")
                .output("VAE")
        },
        without_text,
    )
    .declines(|state, inputs| {
        declined(state, inputs, &[("checkpoints", "ckpt_name")], |engine, paths| engine.load_unclip_checkpoint(paths[0]))
    })
    .fingerprint(|state, inputs, cancel| files_fingerprint(state, inputs, cancel, &[("checkpoints", "ckpt_name")])),
];

fn load(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let path = model_file(call.state, "clip_vision", call.text("clip_name")?)?;
    Ok(NodeOutput::one(Value::object(call.engine().load_clip_vision(&path)?)))
}

fn load_unclip(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let path = model_file(call.state, "checkpoints", call.text("ckpt_name")?)?;
    let (loaded, vision) = call.engine().load_unclip_checkpoint(&path)?;
    let (clip, vae) = (loaded.clip.map_or(Value::Null, Value::object), loaded.vae.map_or(Value::Null, Value::object));
    Ok(NodeOutput::values([Value::object(loaded.model), clip, vae, vision.map_or(Value::Null, Value::object)]))
}

fn without_text(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let path = model_file(call.state, "checkpoints", call.text("ckpt_name")?)?;
    let (loaded, vision) = call.engine().load_unclip_checkpoint(&path)?;
    let (vision, vae) = (vision.map_or(Value::Null, Value::object), loaded.vae.map_or(Value::Null, Value::object));
    Ok(NodeOutput::values([Value::object(loaded.model), vision, vae]))
}

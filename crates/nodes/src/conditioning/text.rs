//! Prompts as conditioning.

use std::sync::Arc;

use comfyd_engine::{Clip, Conditioning, PictureSize};
use comfyd_folders::extension;
use comfyd_node::{CancellationToken, Error, Fingerprint, Input, Inputs, NodeOutput, Result, Schema, Value};

use crate::class::{Call, Class};
use crate::loaders::files::contents;
use crate::services::State;

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("CLIPTextEncode")
                .display("CLIP Text Encode (Prompt)")
                .category("model/conditioning")
                .description("Turns a prompt into a conditioning, which guides the diffusion model.")
                .aliases(["words", "describe", "caption", "positive", "negative"])
                .input(Input::text("text").multiline().option("dynamicPrompts", true).tooltip("The prompt."))
                .input(Input::link("clip", "CLIP").tooltip("The text encoder."))
                .output("CONDITIONING")
        },
        encode,
    )
    .fingerprint(embeddings_fingerprint),
    Class::new(
        || {
            Schema::new("CLIPSetLastLayer")
                .display("CLIP Set Last Layer")
                .category("model/conditioning")
                .description("Lets a text encoder stop at an earlier layer (clip skip).")
                .input(Input::link("clip", "CLIP"))
                .input(
                    Input::int("stop_at_clip_layer")
                        .default(-1)
                        .min(-24)
                        .max(-1)
                        .step(1)
                        .tooltip("The layer whose output is used, counted from the last.")
                        .advanced(),
                )
                .output("CLIP")
        },
        set_last_layer,
    ),
    Class::new(
        || {
            Schema::new("CLIPTextEncodeSDXL")
                .display("CLIP Text Encode (SDXL)")
                .category("model/conditioning/stable diffusion")
                .module("comfy_extras.nodes_clip_sdxl")
                .schema_generation()
                .description(
                    "Turns two prompts into a conditioning for Stable Diffusion XL, together with the sizes that the model is told.",
                )
                .input(Input::link("clip", "CLIP").tooltip("The text encoder."))
                .input(Input::int("width").default(1024).min(0).max(16384).tooltip("Width of the original that the model is told."))
                .input(Input::int("height").default(1024).min(0).max(16384).tooltip("Height of the original that the model is told."))
                .input(
                    Input::int("crop_w").default(0).min(0).max(16384).tooltip("Left edge of the crop that the model is told.").advanced(),
                )
                .input(
                    Input::int("crop_h").default(0).min(0).max(16384).tooltip("Upper edge of the crop that the model is told.").advanced(),
                )
                .input(Input::int("target_width").default(1024).min(0).max(16384).tooltip("Width that the model is told for the result."))
                .input(Input::int("target_height").default(1024).min(0).max(16384).tooltip("Height that the model is told for the result."))
                .input(Input::text("text_g").multiline().option("dynamicPrompts", true).tooltip("The prompt for the large encoder."))
                .input(Input::text("text_l").multiline().option("dynamicPrompts", true).tooltip("The prompt for the small encoder."))
                .output("CONDITIONING")
        },
        encode_sdxl,
    )
    .fingerprint(embeddings_fingerprint),
    Class::new(
        || {
            Schema::new("CLIPTextEncodeSDXLRefiner")
                .display("CLIP Text Encode (SDXL Refiner)")
                .category("model/conditioning/stable diffusion")
                .module("comfy_extras.nodes_clip_sdxl")
                .schema_generation()
                .description("Turns a prompt into a conditioning for the refiner of Stable Diffusion XL.")
                .input(
                    Input::float("ascore")
                        .default(6.0)
                        .min(0.0)
                        .max(1000.0)
                        .step(0.01)
                        .tooltip("The aesthetic score that the refiner is told."),
                )
                .input(Input::int("width").default(1024).min(0).max(16384).tooltip("Width of the original that the model is told."))
                .input(Input::int("height").default(1024).min(0).max(16384).tooltip("Height of the original that the model is told."))
                .input(Input::text("text").multiline().option("dynamicPrompts", true).tooltip("The prompt."))
                .input(Input::link("clip", "CLIP").tooltip("The text encoder."))
                .output("CONDITIONING")
        },
        encode_refiner,
    )
    .fingerprint(embeddings_fingerprint),
    Class::new(
        || {
            Schema::new("CLIPTextEncodeControlnet")
                .display("CLIP Text Encode (Controlnet)")
                .category("model/conditioning")
                .module("comfy_extras.nodes_cond")
                .schema_generation()
                .experimental()
                .description("Gives a conditioning a second prompt that only ControlNets see.")
                .input(Input::link("clip", "CLIP").tooltip("The text encoder."))
                .input(Input::link("conditioning", "CONDITIONING").tooltip("The conditioning."))
                .input(Input::text("text").multiline().option("dynamicPrompts", true).tooltip("The prompt."))
                .output("CONDITIONING")
        },
        encode_controlnet,
    )
    .fingerprint(embeddings_fingerprint),
];

fn encode(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let conditioning = clip(call)?.encode(call.cx, call.text("text")?)?;
    Ok(NodeOutput::one(Value::object(conditioning)))
}

fn set_last_layer(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let clip = clip(call)?.with_layer(call.int("stop_at_clip_layer")?);
    Ok(NodeOutput::one(Value::object(clip)))
}

fn encode_sdxl(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let size = PictureSize {
        width: Some(call.float("width")?),
        height: Some(call.float("height")?),
        crop_w: Some(call.float("crop_w")?),
        crop_h: Some(call.float("crop_h")?),
        target_width: Some(call.float("target_width")?),
        target_height: Some(call.float("target_height")?),
        aesthetic_score: None,
    };
    let conditioning = clip(call)?.encode_pair(call.cx, call.text("text_g")?, call.text("text_l")?)?;
    Ok(NodeOutput::one(Value::object(conditioning.map(|entry| entry.size = size))))
}

fn encode_refiner(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let size = PictureSize {
        width: Some(call.float("width")?),
        height: Some(call.float("height")?),
        aesthetic_score: Some(call.float("ascore")?),
        ..PictureSize::default()
    };
    let conditioning = clip(call)?.encode(call.cx, call.text("text")?)?;
    Ok(NodeOutput::one(Value::object(conditioning.map(|entry| entry.size = size))))
}

fn encode_controlnet(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let encoded = clip(call)?.encode(call.cx, call.text("text")?)?;
    let Some(encoded) = encoded.entries().first() else { return Err(Error::msg("the text encoder gave nothing")) };
    let conditioning = call.object::<Conditioning>("conditioning")?.map(|entry| {
        entry.cross_attn_controlnet = encoded.cross_attn.clone();
        entry.pooled_controlnet = encoded.pooled.clone();
    });
    Ok(NodeOutput::one(Value::object(conditioning)))
}

/// The content of the embeddings that a prompt names decides the result: of all those whose names are in it.
pub(crate) fn embeddings_fingerprint(state: &State, inputs: &Inputs, cancel: &CancellationToken) -> Result<Fingerprint> {
    let folders = &state.services.folders;
    let mut paths = Vec::new();
    for (_, value) in inputs.iter() {
        if let Value::Text(text) = value
            && text.contains("embedding:")
        {
            let files = folders.model_files("embeddings").unwrap_or_default();
            let named = files.iter().filter(|file| text.contains(&file[..file.len() - extension(file).len()]));
            paths.extend(named.filter_map(|file| folders.model_path("embeddings", file)));
        }
    }
    if paths.is_empty() { Ok(Fingerprint::Inputs) } else { contents(state, cancel, &paths) }
}

fn clip(call: &Call<'_, '_>) -> Result<Arc<Clip>> {
    call.object("clip")
}

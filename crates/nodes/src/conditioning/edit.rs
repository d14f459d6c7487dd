//! Conditionings of models that edit pictures or take a guidance of their own (Flux, Qwen Image, Kontext, Lotus): what they are told, and texts
//! beside the pictures that they are about.

use comfyd_engine::{Clip, CondEntry, Conditioning, Tensor, Told, Vae};
use comfyd_imaging::resize::{Crop, Method};
use comfyd_node::{Input, NodeOutput, Result, Schema, Value};
use comfyd_values::{Image, Latent};
use half::f16;

use super::text::embeddings_fingerprint;
use crate::class::{Call, Class, unknown_choice};
use crate::resize;
use crate::tensors;

/// What Stable Diffusion 2's text encoder makes of an empty prompt, its two tokens alone, which is all that Lotus is ever told.
const EMPTY_PROMPT: &[u8] = include_bytes!("lotus.f16");
const EMPTY_PROMPT_TOKENS: usize = 2;

/// Pixels of the pictures that are encoded, about.
pub(crate) const REFERENCE_PIXELS: f64 = 1024.0 * 1024.0;

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("FluxGuidance")
                .no_display()
                .category("model/conditioning/flux")
                .module("comfy_extras.nodes_flux")
                .schema_generation()
                .description("Sets how strictly models follow the prompt that take this as an input (Flux and its kin).")
                .aliases(["distilled cfg", "flux cfg"])
                .input(Input::link("conditioning", "CONDITIONING").tooltip("The conditioning."))
                .input(Input::float("guidance").default(3.5).min(0.0).max(100.0).step(0.1).tooltip("How strictly the prompt is followed."))
                .output("CONDITIONING")
        },
        |call| {
            let guidance = call.float("guidance")?;
            tell(call, "guidance", guidance.into())
        },
    ),
    Class::new(
        || {
            Schema::new("FluxDisableGuidance")
                .no_display()
                .category("model/conditioning/flux")
                .module("comfy_extras.nodes_flux")
                .schema_generation()
                .description("Leaves out the guidance that Flux and its kin take as an input.")
                .aliases(["no guidance"])
                .input(Input::link("conditioning", "CONDITIONING").tooltip("The conditioning."))
                .output("CONDITIONING")
        },
        |call| tell(call, "guidance", Told::Nothing),
    ),
    Class::new(
        || {
            Schema::new("FluxKontextMultiReferenceLatentMethod")
                .display("Edit Model Reference Method")
                .category("model/conditioning/flux")
                .module("comfy_extras.nodes_flux")
                .schema_generation()
                .experimental()
                .description("Chooses how models that edit tell several reference pictures apart.")
                .aliases(["several pictures", "kontext"])
                .input(Input::link("conditioning", "CONDITIONING").tooltip("The conditioning."))
                .input(
                    Input::combo("reference_latents_method", ["offset", "index", "uxo/uno", "index_timestep_zero"])
                        .advanced()
                        .tooltip("How the references are placed beside the picture."),
                )
                .output("CONDITIONING")
        },
        method,
    ),
    Class::new(
        || {
            Schema::new("ReferenceLatent")
                .display("Set Reference Latent")
                .category("model/conditioning")
                .module("comfy_extras.nodes_edit_model")
                .schema_generation()
                .description("Gives models that edit a picture to refer to. Several can be put one after another.")
                .aliases(["edit", "kontext"])
                .input(Input::link("conditioning", "CONDITIONING").tooltip("The conditioning."))
                .input(Input::link("latent", "LATENT").tooltip("The encoded picture.").optional())
                .output("CONDITIONING")
        },
        reference,
    ),
    Class::new(
        || {
            Schema::new("LotusConditioning")
                .no_display()
                .category("model/conditioning/lotus")
                .module("comfy_extras.nodes_lotus")
                .schema_generation()
                .description("The empty prompt that Lotus models are made for.")
                .aliases(["depth", "normals"])
                .output_named("CONDITIONING", "conditioning")
        },
        |_| lotus(),
    ),
    Class::new(
        || {
            Schema::new("TextEncodeQwenImageEdit")
                .no_display()
                .category("model/conditioning/qwen image")
                .module("comfy_extras.nodes_qwen")
                .schema_generation()
                .description("Turns a prompt and the picture that it is about into a conditioning for Qwen Image Edit.")
                .aliases(["edit by instruction"])
                .input(Input::link("clip", "CLIP").tooltip("The text encoder."))
                .input(Input::text("prompt").multiline().option("dynamicPrompts", true).tooltip("The prompt."))
                .input(Input::link("vae", "VAE").tooltip("The autoencoder.").optional())
                .input(Input::link("image", "IMAGE").tooltip("The picture to edit.").optional())
                .output("CONDITIONING")
        },
        encode,
    )
    .fingerprint(embeddings_fingerprint),
    Class::new(
        || {
            Schema::new("TextEncodeQwenImageEditPlus")
                .no_display()
                .category("model/conditioning/qwen image")
                .module("comfy_extras.nodes_qwen")
                .schema_generation()
                .description("Turns a prompt and up to three pictures that it is about into a conditioning for Qwen Image Edit.")
                .aliases(["edit by instruction", "several pictures"])
                .input(Input::link("clip", "CLIP").tooltip("The text encoder."))
                .input(Input::text("prompt").multiline().option("dynamicPrompts", true).tooltip("The prompt."))
                .input(Input::link("vae", "VAE").tooltip("The autoencoder.").optional())
                .input(Input::link("image1", "IMAGE").tooltip("The first picture.").optional())
                .input(Input::link("image2", "IMAGE").tooltip("The second picture.").optional())
                .input(Input::link("image3", "IMAGE").tooltip("The third picture.").optional())
                .output("CONDITIONING")
        },
        encode_several,
    )
    .fingerprint(embeddings_fingerprint),
];

/// The conditioning with a value that models read.
fn tell(call: &Call<'_, '_>, name: &'static str, value: Told) -> Result<NodeOutput> {
    let conditioning = call.object::<Conditioning>("conditioning")?;
    Ok(NodeOutput::one(Value::object(conditioning.map(|entry| entry.told.set(name, value.clone())))))
}

fn method(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let method = match call.text("reference_latents_method")? {
        "uxo/uno" => "uxo",
        method @ ("offset" | "index" | "index_timestep_zero") => method,
        other => return Err(unknown_choice("reference_latents_method", other)),
    };
    tell(call, "reference_latents_method", method.into())
}

fn reference(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let conditioning = call.object::<Conditioning>("conditioning")?;
    if call.inputs.get_optional::<Latent>("latent")?.is_none() {
        return Ok(NodeOutput::one(conditioning));
    }
    let samples = tensors::of(call, &call.latent("latent")?.samples)?;
    Ok(NodeOutput::one(Value::object(with_references(&conditioning, &[samples]))))
}

/// The conditioning with further pictures to refer to.
pub(crate) fn with_references(conditioning: &Conditioning, latents: &[Tensor]) -> Conditioning {
    if latents.is_empty() {
        return conditioning.clone();
    }
    conditioning.map(|entry| entry.told.add("reference_latents", latents.iter().cloned().map(Told::from)))
}

fn lotus() -> Result<NodeOutput> {
    let values: Vec<f32> = EMPTY_PROMPT.as_chunks::<2>().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect();
    let shape = [1, EMPTY_PROMPT_TOKENS, values.len() / EMPTY_PROMPT_TOKENS];
    let entry = CondEntry { cross_attn: Some(comfyd_engine::tensor(&shape, values)?), ..CondEntry::default() };
    Ok(NodeOutput::one(Value::object(Conditioning::new(vec![entry]))))
}

fn encode(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let mut references = Vec::new();
    if call.inputs.optional("image").is_some() {
        let image = of_pixels(call, &call.image("image")?, REFERENCE_PIXELS, 1)?;
        references.extend(encoded(call, &image)?);
    }
    let conditioning = call.object::<Clip>("clip")?.encode(call.cx, call.text("prompt")?)?;
    Ok(NodeOutput::one(Value::object(with_references(&conditioning, &references))))
}

/// The pictures are named in the text, each by its number and by the marks between which a language model that sees would find it.
fn encode_several(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (mut references, mut prompt) = (Vec::new(), String::new());
    for number in 1..=3 {
        let name = format!("image{number}");
        if call.inputs.optional(&name).is_none() {
            continue;
        }
        if call.inputs.optional("vae").is_some() {
            references.extend(encoded(call, &of_pixels(call, &call.image(&name)?, REFERENCE_PIXELS, 8)?)?);
        }
        prompt.push_str(&format!("Picture {number}: <|vision_start|><|image_pad|><|vision_end|>"));
    }
    prompt.push_str(call.text("prompt")?);
    call.reserve_text(prompt.len())?;
    let conditioning = call.object::<Clip>("clip")?.encode(call.cx, &prompt)?;
    Ok(NodeOutput::one(Value::object(with_references(&conditioning, &references))))
}

/// The pictures with about so many pixels each, the sides multiples of `step`.
pub(crate) fn of_pixels(call: &Call<'_, '_>, image: &Image, pixels: f64, step: usize) -> Result<Image> {
    let scale = (pixels / (image.width() * image.height()) as f64).sqrt();
    let side = |side: usize| (side as f64 * scale / step as f64).round_ties_even() as usize * step;
    resize::image(call, image, side(image.width()), side(image.height()), Method::Area, Crop::Disabled)
}

/// What the autoencoder makes of pictures; nothing without one.
fn encoded(call: &Call<'_, '_>, image: &Image) -> Result<Option<Tensor>> {
    if call.inputs.optional("vae").is_none() {
        return Ok(None);
    }
    Ok(Some(call.object::<Vae>("vae")?.encode(call.cx, &tensors::image(call, image)?)?))
}

//! ControlNets and pictures as conditioning.

use comfyd_engine::{Conditioning, ControlNet, ControlSettings, Tensor, Vae};
use comfyd_node::{Input, NodeOutput, Result, Schema, Value};
use comfyd_values::Latent;
use ndarray::{ArcArray, IxDyn};

use crate::class::{CELL, Call, Class};
use crate::latent::vae::{centre_cut, first_channels, masked, with_channel_axis};
use crate::tensors;

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("ControlNetApply")
                .display("Apply ControlNet (OLD)")
                .category("conditioning/controlnet")
                .deprecated()
                .description("Lets a ControlNet guide with a hint. The newer node takes both prompts.")
                .input(Input::link("conditioning", "CONDITIONING"))
                .input(Input::link("control_net", "CONTROL_NET"))
                .input(Input::link("image", "IMAGE"))
                .input(Input::float("strength").default(1.0).min(0.0).max(10.0).step(0.01).tooltip("How strong the effect is."))
                .output("CONDITIONING")
        },
        apply,
    ),
    Class::new(
        || {
            Schema::new("ControlNetApplyAdvanced")
                .display("Apply ControlNet")
                .category("conditioning/controlnet")
                .description("Lets a ControlNet guide with a hint, for both prompts and during a part of the sampling.")
                .input(Input::link("positive", "CONDITIONING"))
                .input(Input::link("negative", "CONDITIONING"))
                .input(Input::link("control_net", "CONTROL_NET"))
                .input(Input::link("image", "IMAGE"))
                .input(Input::float("strength").default(1.0).min(0.0).max(10.0).step(0.01).tooltip("How strong the effect is."))
                .input(
                    Input::float("start_percent")
                        .default(0.0)
                        .min(0.0)
                        .max(1.0)
                        .step(0.001)
                        .tooltip("The part of the sampling after which it begins."),
                )
                .input(
                    Input::float("end_percent")
                        .default(1.0)
                        .min(0.0)
                        .max(1.0)
                        .step(0.001)
                        .tooltip("The part of the sampling after which it ends."),
                )
                .input(Input::link("vae", "VAE").optional())
                .output_named("CONDITIONING", "positive")
                .output_named("CONDITIONING", "negative")
        },
        apply_advanced,
    ),
    Class::new(
        || {
            steered(
                Schema::new("ControlNetApplySD3")
                    .display("Apply Controlnet with VAE")
                    .category("conditioning/controlnet")
                    .module("comfy_extras.nodes_sd3")
                    .schema_generation()
                    .deprecated()
                    .description("Lets a ControlNet guide with a hint. Apply ControlNet takes a VAE too.")
                    .input(Input::link("positive", "CONDITIONING").tooltip("What the picture is to show."))
                    .input(Input::link("negative", "CONDITIONING").tooltip("What the picture is not to show."))
                    .input(Input::link("control_net", "CONTROL_NET").tooltip("The ControlNet."))
                    .input(Input::link("vae", "VAE").tooltip("The autoencoder."))
                    .input(Input::link("image", "IMAGE").tooltip("The hint.")),
            )
        },
        apply_advanced,
    ),
    Class::new(
        || {
            steered(
                Schema::new("ControlNetInpaintingAliMamaApply")
                    .category("conditioning/controlnet")
                    .module("comfy_extras.nodes_controlnet")
                    .description("Lets a ControlNet for inpainting guide with a picture and the mask of what to paint anew.")
                    .input(Input::link("positive", "CONDITIONING"))
                    .input(Input::link("negative", "CONDITIONING"))
                    .input(Input::link("control_net", "CONTROL_NET"))
                    .input(Input::link("vae", "VAE"))
                    .input(Input::link("image", "IMAGE"))
                    .input(Input::link("mask", "MASK")),
            )
        },
        // Only ControlNets of other families are shown the mask; to those of Stable Diffusion it means nothing.
        apply_advanced,
    ),
    Class::new(
        || {
            Schema::new("InpaintModelConditioning")
                .category("conditioning/inpaint")
                .description("Hands a picture and the mask of what to paint anew to a model made for inpainting.")
                .input(Input::link("positive", "CONDITIONING"))
                .input(Input::link("negative", "CONDITIONING"))
                .input(Input::link("vae", "VAE"))
                .input(Input::link("pixels", "IMAGE"))
                .input(Input::link("mask", "MASK"))
                .input(Input::bool("noise_mask").default(true).tooltip("Confines the sampling to the mask."))
                .output_named("CONDITIONING", "positive")
                .output_named("CONDITIONING", "negative")
                .output_named("LATENT", "latent")
        },
        inpaint,
    ),
    Class::new(
        || {
            Schema::new("InstructPixToPixConditioning")
                .no_display()
                .category("conditioning/instructpix2pix")
                .module("comfy_extras.nodes_ip2p")
                .schema_generation()
                .description("Hands a picture to a model that edits by instruction.")
                .input(Input::link("positive", "CONDITIONING").tooltip("What the picture is to show."))
                .input(Input::link("negative", "CONDITIONING").tooltip("What the picture is not to show."))
                .input(Input::link("vae", "VAE").tooltip("The autoencoder."))
                .input(Input::link("pixels", "IMAGE").tooltip("The pictures."))
                .output_named("CONDITIONING", "positive")
                .output_named("CONDITIONING", "negative")
                .output_named("LATENT", "latent")
        },
        instruct,
    ),
];

/// The widgets of classes that apply a ControlNet to both prompts, and their outputs.
fn steered(schema: Schema) -> Schema {
    let percent = |name: &str, default: f64| {
        Input::float(name).default(default).min(0.0).max(1.0).step(0.001).tooltip("A point of the sampling: 0 its begin, 1 its end.")
    };
    schema
        .input(Input::float("strength").default(1.0).min(0.0).max(10.0).step(0.01).tooltip("How strong the effect is."))
        .input(percent("start_percent", 0.0))
        .input(percent("end_percent", 1.0))
        .output_named("CONDITIONING", "positive")
        .output_named("CONDITIONING", "negative")
}

fn apply(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (conditioning, net) = (call.object::<Conditioning>("conditioning")?, call.object::<ControlNet>("control_net")?);
    let hint = hint(call)?;
    Ok(NodeOutput::one(Value::object(conditioning.apply_control(&net, &hint, call.float("strength")?)?)))
}

fn apply_advanced(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (positive, negative) = (call.object::<Conditioning>("positive")?, call.object::<Conditioning>("negative")?);
    let net = call.object::<ControlNet>("control_net")?;
    let settings = ControlSettings {
        strength: call.float("strength")?,
        start_percent: call.float("start_percent")?,
        end_percent: call.float("end_percent")?,
        ..ControlSettings::default()
    };
    let both = Conditioning::apply_control_advanced(&[&positive, &negative], &net, &hint(call)?, &settings)?;
    Ok(NodeOutput::values(both.into_iter().map(Value::object)))
}

/// The hint's red, green and blue.
fn hint(call: &Call<'_, '_>) -> Result<Tensor> {
    tensors::image(call, &first_channels(&call.image("image")?)?)
}

fn inpaint(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (positive, negative) = (call.object::<Conditioning>("positive")?, call.object::<Conditioning>("negative")?);
    let vae = call.object::<Vae>("vae")?;
    let (pixels, mask) = (call.image("pixels")?, call.mask("mask")?);
    let original = vae.encode(call.cx, &tensors::image(call, &pixels)?)?;
    let masked = masked(call, &pixels, &mask, CELL)?;
    let concat_latent = vae.encode(call.cx, &tensors::image(call, &masked.pixels)?)?;
    let concat_mask = tensors::mask(call, &masked.mask)?;
    let mut latent = Latent::new(tensors::to_array(call, &original)?);
    if call.bool("noise_mask")? {
        latent.noise_mask = Some(with_channel_axis(&masked.mask));
    }
    let shown = |conditioning: &Conditioning| {
        Value::object(conditioning.map(|entry| {
            entry.concat_latent = Some(concat_latent.clone());
            entry.concat_mask = Some(concat_mask.clone());
        }))
    };
    Ok(NodeOutput::values([shown(&positive), shown(&negative), Value::object(latent)]))
}

fn instruct(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (positive, negative) = (call.object::<Conditioning>("positive")?, call.object::<Conditioning>("negative")?);
    let pixels = centre_cut(&call.image("pixels")?.0, CELL);
    let concat_latent = call.object::<Vae>("vae")?.encode(call.cx, &tensors::of(call, &pixels)?)?;
    let latent = Latent::new(ArcArray::zeros(IxDyn(concat_latent.dims())));
    let shown = |conditioning: &Conditioning| Value::object(conditioning.map(|entry| entry.concat_latent = Some(concat_latent.clone())));
    Ok(NodeOutput::values([shown(&positive), shown(&negative), Value::object(latent)]))
}

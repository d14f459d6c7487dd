//! Conditionings of Hunyuan's models.

use comfyd_engine::{Conditioning, Tensor};
use comfyd_imaging::resize::{Crop, Method};
use comfyd_node::{Error, Input, NodeOutput, Result, Schema, Value};
use comfyd_values::Latent;
use ndarray::{ArcArray, Array, Ix5, s};

use super::common::{STRIDE, Shared as _, Size, both, encode, first_frames, known_frames, mask, of_video, seen, zeros};
use crate::class::{Call, Class, unknown_choice};
use crate::{resize, tensors};

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("HunyuanVideo15ImageToVideo")
                .no_display()
                .category("model/conditioning/hunyuan video")
                .module("comfy_extras.nodes_hunyuan")
                .schema_generation()
                .description("Prepares a video that may begin with given frames, for HunyuanVideo 1.5.")
                .aliases(["i2v", "animate"])
                .prompts()
                .input(Input::link("vae", "VAE").tooltip("The autoencoder."))
                .video(848, 480, 33, 4)
                .input(Input::link("start_image", "IMAGE").tooltip("The first frames.").optional())
                .first_frame_seen()
                .prepared()
        },
        image_to_video_15,
    ),
    Class::new(
        || {
            Schema::new("HunyuanVideo15SuperResolution")
                .display("Hunyuan Video 1.5 Super Resolution")
                .category("model/conditioning/hunyuan video")
                .module("comfy_extras.nodes_hunyuan")
                .schema_generation()
                .description("Prepares the upscaling of a video, for HunyuanVideo 1.5.")
                .aliases(["upscale"])
                .prompts()
                .input(Input::link("latent", "LATENT").tooltip("The video, scaled up."))
                .input(
                    Input::float("noise_augmentation")
                        .default(0.7)
                        .min(0.0)
                        .max(1.0)
                        .step(0.01)
                        .advanced()
                        .tooltip("How much noise the model is told to expect in it."),
                )
                .input(Input::link("vae", "VAE").tooltip("The autoencoder.").optional())
                .input(Input::link("start_image", "IMAGE").tooltip("The first frames.").optional())
                .first_frame_seen()
                .prepared()
        },
        super_resolution,
    ),
    Class::new(
        || {
            Schema::new("HunyuanImageToVideo")
                .no_display()
                .category("model/conditioning/hunyuan video")
                .module("comfy_extras.nodes_hunyuan")
                .schema_generation()
                .description("Prepares a video that may begin with a given picture, for HunyuanVideo.")
                .aliases(["i2v", "animate"])
                .input(Input::link("positive", "CONDITIONING").tooltip("What the result is to show."))
                .input(Input::link("vae", "VAE").tooltip("The autoencoder."))
                .video(848, 480, 53, 4)
                .input(
                    Input::combo("guidance_type", ["v1 (concat)", "v2 (replace)", "custom"])
                        .advanced()
                        .tooltip("How the model is shown the picture."),
                )
                .input(Input::link("start_image", "IMAGE").tooltip("The first frames.").optional())
                .output_named("CONDITIONING", "positive")
                .output_named("LATENT", "latent")
        },
        image_to_video,
    ),
    Class::new(
        || {
            Schema::new("HunyuanRefinerLatent")
                .display("Hunyuan Latent Refiner")
                .category("model/conditioning/hunyuan video")
                .module("comfy_extras.nodes_hunyuan")
                .schema_generation()
                .description("Prepares the refining of a latent, for HunyuanImage.")
                .aliases(["second stage"])
                .prompts()
                .input(Input::link("latent", "LATENT").tooltip("The latent to refine."))
                .input(
                    Input::float("noise_augmentation")
                        .default(0.1)
                        .min(0.0)
                        .max(1.0)
                        .step(0.01)
                        .advanced()
                        .tooltip("How much noise the model is told to expect in it."),
                )
                .prepared()
        },
        refiner,
    ),
];

/// Channels of the latents of HunyuanVideo 1.5 and of the refiner.
const CHANNELS_15: usize = 32;
/// Pixels of a cell of HunyuanVideo 1.5 on each side.
const CELL_15: usize = 16;

fn image_to_video_15(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let size = Size::of(call)?;
    let shape = size.latent(CHANNELS_15, STRIDE, CELL_15)?;
    let latent = zeros(call, &shape)?;
    let mut shown = None;
    if let Some(start) = first_frames(call, "start_image", size)? {
        let frames = begun(call, shape, 0, of_video(&encode(call, &start)?, CHANNELS_15)?)?;
        let mask = mask(shape[2], known_frames(start.batch()), shape[3], shape[4])?;
        shown = Some((tensors::of(call, &frames)?, mask));
    }
    let seen = seen(call)?;
    let [positive, negative] = both(call, |entry| {
        if let Some((frames, mask)) = &shown {
            (entry.concat_latent, entry.concat_mask) = (Some(frames.clone()), Some(mask.clone()));
        }
        seen(entry);
    })?;
    Ok(NodeOutput::values([positive, negative, Value::object(latent)]))
}

/// Zeros of a shape, with a latent in the channels from `channel` on, from the first frame on.
fn begun(call: &Call<'_, '_>, shape: [usize; 5], channel: usize, first: &Tensor) -> Result<ArcArray<f32, Ix5>> {
    call.reserve(&shape)?;
    let first: ArcArray<f32, Ix5> = tensors::to_array(call, first)?;
    let [_, channels, frames, height, width] = *first.shape() else { return Err(Error::msg("a latent of a video has five axes")) };
    if (height, width) != (shape[3], shape[4]) || first.shape()[0] != 1 {
        return Err(Error::msg(format!(
            "frames of the latent shape {:?} do not fit a video of {shape:?}; use the model's own VAE",
            first.shape()
        )));
    }
    let known = frames.min(shape[2]);
    let mut out = Array::zeros(shape);
    for mut one in out.outer_iter_mut() {
        one.slice_mut(s![channel..channel + channels, ..known, .., ..]).assign(&first.slice(s![0, .., ..known, .., ..]));
    }
    Ok(out.into_shared())
}

/// The axes of an input's latent, which must be a video's.
fn axes(latent: &Latent) -> Result<[usize; 5]> {
    <[usize; 5]>::try_from(latent.samples.shape()).map_err(|_| {
        Error::msg(format!(
            "input 'latent' holds a latent of the shape {:?}; connect one of a video, with five axes",
            latent.samples.shape()
        ))
    })
}

/// Beside the latent, the model is shown the first frame, the latent to upscale, and two masks that tell which of them is there.
fn super_resolution(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let latent = call.latent("latent")?;
    let [batch, channels, frames, height, width] = axes(&latent)?;
    let shape = [batch, 2 * channels + 2, frames, height, width];
    call.reserve(&shape)?;
    let mut shown = Array::zeros(shape);
    shown.slice_mut(s![.., channels + 1..2 * channels + 1, .., .., ..]).assign(&latent.samples);
    shown.slice_mut(s![.., 2 * channels + 1, .., .., ..]).fill(1.0);
    if call.inputs.optional("start_image").is_some() {
        if call.inputs.optional("vae").is_none() {
            return Err(Error::msg("input 'start_image' needs the autoencoder too; connect 'vae' or take the picture away"));
        }
        let (width, height) = (width * CELL_15, height * CELL_15);
        let start = resize::image(call, &call.image("start_image")?, width, height, Method::Bilinear, Crop::Center)?;
        let start = begun(call, shape, 0, of_video(&encode(call, &start)?, channels)?)?;
        let known = start.slice(s![.., ..channels, .., .., ..]).to_owned();
        shown.slice_mut(s![.., ..channels, .., .., ..]).assign(&known);
        shown.slice_mut(s![.., channels + 1, 0, .., ..]).fill(1.0);
    }
    let shown = tensors::of(call, &shown.into_shared())?;
    let seen = seen(call)?;
    let noise = call.float("noise_augmentation")?;
    let [positive, negative] = both(call, |entry| {
        entry.concat_latent = Some(shown.clone());
        entry.told.set("noise_augmentation", noise);
        seen(entry);
    })?;
    Ok(NodeOutput::values([positive, negative, Value::object(latent)]))
}

fn image_to_video(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let size = Size::of(call)?;
    let shape = size.latent(16, STRIDE, 8)?;
    let mut latent = zeros(call, &shape)?;
    let mut positive = call.object::<Conditioning>("positive")?.as_ref().clone();
    if let Some(start) = first_frames(call, "start_image", size)? {
        let encoded = encode(call, &start)?;
        let [.., height, width] = *encoded.dims() else { return Err(Error::msg("the autoencoder gives latents without rows and columns")) };
        let mask = mask(shape[2], known_frames(start.batch()), height, width)?;
        positive = match call.text("guidance_type")? {
            "v1 (concat)" => positive.map(|entry| (entry.concat_latent, entry.concat_mask) = (Some(encoded.clone()), Some(mask.clone()))),
            "v2 (replace)" => {
                latent.samples = begun(call, shape, 0, of_video(&encoded, shape[1])?)?.into_dyn();
                latent.noise_mask = Some(tensors::to_array(call, &mask)?);
                positive.map(|entry| entry.told.set("guiding_frame_index", 0.0))
            }
            "custom" => positive.map(|entry| entry.told.set("ref_latent", encoded.clone())),
            other => return Err(unknown_choice("guidance_type", other)),
        };
    }
    Ok(NodeOutput::values([Value::object(positive), Value::object(latent)]))
}

fn refiner(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let latent = call.latent("latent")?;
    let [.., frames, height, width] = *latent.samples.shape() else { return Err(Error::msg("latents have at least three axes")) };
    let (shown, noise) = (tensors::of(call, &latent.samples)?, call.float("noise_augmentation")?);
    let [positive, negative] = both(call, |entry| {
        entry.concat_latent = Some(shown.clone());
        entry.told.set("noise_augmentation", noise);
    })?;
    let out = zeros(call, &[latent.samples.shape()[0], CHANNELS_15, frames, height, width])?;
    Ok(NodeOutput::values([positive, negative, Value::object(out)]))
}

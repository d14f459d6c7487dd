//! Conditionings of Stable Video Diffusion, Stable Zero123 and Stable Video 3D, which a vision encoder and the autoencoder show a picture.

use comfyd_engine::{ClipVision, CondEntry, Conditioning, Tensor, Told, Vae, VisionCrop};
use comfyd_imaging::resize::{Crop, Method};
use comfyd_imaging::transform;
use comfyd_node::{Error, Input, NodeOutput, Result, Schema, Value};
use comfyd_values::{Image, Latent};
use ndarray::s;

use super::common::{Shared as _, zeros};
use crate::class::{CELL, Call, Class, MAX_RESOLUTION};
use crate::{resize, tensors};

/// Channels of the latents.
const CHANNELS: usize = 4;
/// Decides the noise on a picture, which the reference leaves to chance.
const SEED: u64 = 0;

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("SVD_img2vid_Conditioning")
                .category("model/conditioning/stable video")
                .module("comfy_extras.nodes_video_model")
                .description("Shows Stable Video Diffusion a picture that it moves.")
                .aliases(["image to video", "stable video"])
                .input(Input::link("clip_vision", "CLIP_VISION"))
                .input(Input::link("init_image", "IMAGE"))
                .input(Input::link("vae", "VAE"))
                .input(Input::int("width").default(1024).min(16).max(MAX_RESOLUTION).step(8).tooltip("Pixels wide."))
                .input(Input::int("height").default(576).min(16).max(MAX_RESOLUTION).step(8).tooltip("Pixels high."))
                .input(Input::int("video_frames").default(14).min(1).max(4096).tooltip("Frames of the video."))
                .input(Input::int("motion_bucket_id").default(127).min(1).max(1023).advanced().tooltip("How much moves."))
                .input(Input::int("fps").default(6).min(1).max(1024).tooltip("Frames in a second."))
                .input(
                    Input::float("augmentation_level")
                        .default(0.0)
                        .min(0.0)
                        .max(10.0)
                        .step(0.01)
                        .advanced()
                        .tooltip("How much noise is added to the picture."),
                )
                .prepared()
        },
        svd,
    ),
    Class::new(
        || {
            Schema::new("StableZero123_Conditioning")
                .no_display()
                .category("model/conditioning/stable zero123")
                .module("comfy_extras.nodes_stable3d")
                .schema_generation()
                .description("Shows Stable Zero123 a picture of a thing, and from where to see it.")
                .aliases(["turn around", "3d"])
                .input(Input::link("clip_vision", "CLIP_VISION").tooltip("The vision encoder."))
                .input(Input::link("init_image", "IMAGE").tooltip("The picture."))
                .input(Input::link("vae", "VAE").tooltip("The autoencoder."))
                .input(Input::int("width").default(256).min(16).max(MAX_RESOLUTION).step(8).tooltip("Pixels wide."))
                .input(Input::int("height").default(256).min(16).max(MAX_RESOLUTION).step(8).tooltip("Pixels high."))
                .input(Input::int("batch_size").default(1).min(1).max(4096).tooltip("How many at once."))
                .input(Input::float("elevation").default(0.0).min(-180.0).max(180.0).step(0.1).round(false).tooltip("Degrees up."))
                .input(Input::float("azimuth").default(0.0).min(-180.0).max(180.0).step(0.1).round(false).tooltip("Degrees around."))
                .prepared()
        },
        zero123,
    ),
    Class::new(
        || {
            Schema::new("StableZero123_Conditioning_Batched")
                .no_display()
                .category("model/conditioning/stable zero123")
                .module("comfy_extras.nodes_stable3d")
                .schema_generation()
                .description("Shows Stable Zero123 a picture of a thing, and from where to see it: each view a step further.")
                .aliases(["turn around", "3d"])
                .input(Input::link("clip_vision", "CLIP_VISION").tooltip("The vision encoder."))
                .input(Input::link("init_image", "IMAGE").tooltip("The picture."))
                .input(Input::link("vae", "VAE").tooltip("The autoencoder."))
                .input(Input::int("width").default(256).min(16).max(MAX_RESOLUTION).step(8).tooltip("Pixels wide."))
                .input(Input::int("height").default(256).min(16).max(MAX_RESOLUTION).step(8).tooltip("Pixels high."))
                .input(Input::int("batch_size").default(1).min(1).max(4096).tooltip("How many at once."))
                .input(Input::float("elevation").default(0.0).min(-180.0).max(180.0).step(0.1).round(false).tooltip("Degrees up."))
                .input(Input::float("azimuth").default(0.0).min(-180.0).max(180.0).step(0.1).round(false).tooltip("Degrees around."))
                .input(
                    Input::float("elevation_batch_increment")
                        .default(0.0)
                        .min(-180.0)
                        .max(180.0)
                        .step(0.1)
                        .round(false)
                        .advanced()
                        .tooltip("Degrees up for each view."),
                )
                .input(
                    Input::float("azimuth_batch_increment")
                        .default(0.0)
                        .min(-180.0)
                        .max(180.0)
                        .step(0.1)
                        .round(false)
                        .advanced()
                        .tooltip("Degrees around for each view."),
                )
                .prepared()
        },
        zero123_batched,
    ),
    Class::new(
        || {
            Schema::new("SV3D_Conditioning")
                .no_display()
                .category("model/conditioning/stable video 3d")
                .module("comfy_extras.nodes_stable3d")
                .schema_generation()
                .description("Shows Stable Video 3D a picture of a thing that it goes around.")
                .aliases(["turn around", "3d"])
                .input(Input::link("clip_vision", "CLIP_VISION").tooltip("The vision encoder."))
                .input(Input::link("init_image", "IMAGE").tooltip("The picture."))
                .input(Input::link("vae", "VAE").tooltip("The autoencoder."))
                .input(Input::int("width").default(576).min(16).max(MAX_RESOLUTION).step(8).tooltip("Pixels wide."))
                .input(Input::int("height").default(576).min(16).max(MAX_RESOLUTION).step(8).tooltip("Pixels high."))
                .input(Input::int("video_frames").default(21).min(1).max(4096).tooltip("Frames of the video."))
                .input(Input::float("elevation").default(0.0).min(-90.0).max(90.0).step(0.1).round(false).tooltip("Degrees up."))
                .prepared()
        },
        sv3d,
    ),
];

/// A picture as both encoders see it.
struct Shown {
    /// Embeddings (1, B, P).
    seen: Tensor,
    /// Latents (B, C, H, W).
    latent: Tensor,
}

/// What the encoders make of the input's picture, with so much noise for the autoencoder.
fn shown(call: &Call<'_, '_>, noise: f32) -> Result<Shown> {
    let image = call.image("init_image")?;
    let seen = call.object::<ClipVision>("clip_vision")?.encode(call.cx, &tensors::image(call, &image)?, VisionCrop::Center)?;
    let seen = seen.embedding()?.unsqueeze(0).map_err(Error::other)?;
    if seen.rank() != 3 {
        return Err(Error::msg("this needs a vision encoder with one embedding for a picture; load a CLIP one, not SigLIP"));
    }
    let scaled = resize::image(call, &image, call.count("width", 1)?, call.count("height", 1)?, Method::Bilinear, Crop::Center)?;
    let mut pixels = Image(scaled.0.slice_move(s![.., .., .., ..3]));
    if noise > 0.0 {
        pixels = call.apart(pixels.0.len(), move || Ok(transform::with_noise(&pixels, SEED, noise)))?;
    }
    let latent = call.object::<Vae>("vae")?.encode(call.cx, &tensors::image(call, &pixels)?)?;
    Ok(Shown { seen, latent })
}

/// A conditioning of one entry.
fn one(text: Tensor, latent: Tensor, tell: impl FnOnce(&mut CondEntry)) -> Value {
    let mut entry = CondEntry { cross_attn: Some(text), concat_latent: Some(latent), ..CondEntry::default() };
    tell(&mut entry);
    Value::object(Conditioning::new(vec![entry]))
}

fn no(tensor: &Tensor) -> Result<Tensor> {
    tensor.zeros_like().map_err(Error::other)
}

/// Both conditionings, and an empty latent of so many pictures.
fn outputs(call: &Call<'_, '_>, text: Tensor, shown: Shown, count: usize, tell: impl Fn(&mut CondEntry)) -> Result<[Value; 3]> {
    let negative = one(no(&shown.seen)?, no(&shown.latent)?, &tell);
    Ok([one(text, shown.latent, &tell), negative, Value::object(empty(call, count)?)])
}

fn empty(call: &Call<'_, '_>, count: usize) -> Result<Latent> {
    zeros(call, &[count, CHANNELS, call.count("height", 1)? / CELL, call.count("width", 1)? / CELL])
}

fn svd(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (motion, rate, noise) = (call.int::<u32>("motion_bucket_id")?, call.int::<u32>("fps")?, call.float("augmentation_level")?);
    let count = call.count("video_frames", 1)?;
    let shown = shown(call, noise as f32)?;
    let outputs = outputs(call, shown.seen.clone(), shown, count, |entry| {
        entry.told.set("motion_bucket_id", f64::from(motion));
        entry.told.set("fps", f64::from(rate));
        entry.told.set("augmentation_level", noise);
    })?;
    Ok(NodeOutput::values(outputs))
}

/// A place on a sphere around the thing, as the model is told it: how far down, around as sine and cosine, and where the picture was taken.
fn camera(elevation: f64, azimuth: f64) -> [f32; 4] {
    let (elevation, azimuth) = (elevation as f32, (azimuth as f32).to_radians());
    [((90.0 - elevation) - 90.0).to_radians(), azimuth.sin(), azimuth.cos(), 90f32.to_radians()]
}

/// The embedding of one picture beside each of the places (N, 1, P + 4).
fn from_places(seen: &Tensor, places: &[[f32; 4]]) -> Result<Tensor> {
    let (_, pictures, width) = seen.dims3().map_err(Error::other)?;
    if pictures != 1 {
        return Err(Error::msg(format!("input 'init_image' holds {pictures} pictures; give it one")));
    }
    let seen = seen.broadcast_as((places.len(), 1, width)).map_err(Error::other)?;
    let places = comfyd_engine::tensor(&[places.len(), 1, 4], places.concat())?;
    Tensor::cat(&[&seen.contiguous().map_err(Error::other)?, &places], 2).map_err(Error::other)
}

fn zero123(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let place = camera(call.float("elevation")?, call.float("azimuth")?);
    let (shown, count) = (shown(call, 0.0)?, call.count("batch_size", 1)?);
    let text = from_places(&shown.seen, &[place])?;
    Ok(NodeOutput::values(outputs(call, text, shown, count, |_| {})?))
}

fn zero123_batched(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let count = call.count("batch_size", 1)?;
    let (mut elevation, mut azimuth) = (call.float("elevation")?, call.float("azimuth")?);
    let (up, around) = (call.float("elevation_batch_increment")?, call.float("azimuth_batch_increment")?);
    let mut places = Vec::new();
    for _ in 0..count {
        places.push(camera(elevation, azimuth));
        elevation += up;
        azimuth += around;
    }
    let shown = shown(call, 0.0)?;
    call.reserve(&[count, shown.seen.elem_count() + 4])?;
    let text = from_places(&shown.seen, &places)?;
    let [positive, negative, _] = outputs(call, text, shown, 1, |_| {})?;
    let latent = Latent { batch_index: Some(vec![0; count]), ..empty(call, count)? };
    Ok(NodeOutput::values([positive, negative, Value::object(latent)]))
}

fn sv3d(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (count, elevation) = (call.count("video_frames", 1)?, call.float("elevation")?);
    let step = 360.0 / (count.max(2) - 1) as f64;
    let mut azimuth = 0.0;
    let mut azimuths = Vec::with_capacity(count);
    for _ in 0..count {
        azimuths.push(Told::Number(azimuth));
        azimuth += step;
    }
    let shown = shown(call, 0.0)?;
    let outputs = outputs(call, shown.seen.clone(), shown, count, |entry| {
        entry.told.set("elevation", Told::List(vec![Told::Number(elevation); count]));
        entry.told.set("azimuth", Told::List(azimuths.clone()));
    })?;
    Ok(NodeOutput::values(outputs))
}

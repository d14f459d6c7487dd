//! Conditionings of LTX-Video, Kandinsky, Cosmos, Stable Audio and Stable Diffusion's upscaler.

use comfyd_engine::Tensor;
use comfyd_imaging::resize::{Crop, Method};
use comfyd_node::{Error, Input, NodeOutput, Result, Schema, Value};
use comfyd_values::{Image, Latent};
use ndarray::{ArcArray, Array4, Ix4, Ix5, IxDyn, s};

use super::common::{STRIDE, Shared as _, Size, both, encode, first_frames, known_frames, mask, of_video, zeros};
use super::wan::{CHANNELS, MEANS};
use crate::class::{Call, Class, MAX_RESOLUTION};
use crate::{resize, tensors};

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("LTXVConditioning")
                .no_display()
                .category("model/conditioning/ltxv")
                .module("comfy_extras.nodes_lt")
                .schema_generation()
                .description("Tells LTX-Video how many frames there are in a second.")
                .aliases(["fps"])
                .prompts()
                .input(Input::float("frame_rate").default(25.0).min(0.0).max(1000.0).step(0.01).tooltip("Frames in a second."))
                .output_named("CONDITIONING", "positive")
                .output_named("CONDITIONING", "negative")
        },
        frame_rate,
    ),
    Class::new(
        || {
            Schema::new("ConditioningStableAudio")
                .no_display()
                .category("model/conditioning/stable audio")
                .module("comfy_extras.nodes_audio")
                .schema_generation()
                .description("Tells Stable Audio which part of how long a sound is wanted.")
                .aliases(["music", "length"])
                .input(Input::link("positive", "CONDITIONING").tooltip("What the result is to sound like."))
                .input(Input::link("negative", "CONDITIONING").tooltip("What the result is not to sound like."))
                .input(
                    Input::float("seconds_start").default(0.0).min(0.0).max(1000.0).step(0.1).tooltip("Where the part begins, in seconds."),
                )
                .input(
                    Input::float("seconds_total")
                        .default(47.0)
                        .min(0.0)
                        .max(1000.0)
                        .step(0.1)
                        .tooltip("How long the whole is, in seconds."),
                )
                .output_named("CONDITIONING", "positive")
                .output_named("CONDITIONING", "negative")
        },
        seconds,
    ),
    Class::new(
        || {
            Schema::new("Kandinsky5ImageToVideo")
                .no_display()
                .category("model/conditioning/kandinsky")
                .module("comfy_extras.nodes_kandinsky5")
                .schema_generation()
                .description("Prepares a video that may begin with given frames, for Kandinsky 5.")
                .aliases(["i2v", "animate"])
                .prompts()
                .input(Input::link("vae", "VAE").tooltip("The autoencoder."))
                .video(768, 512, 121, 4)
                .input(Input::link("start_image", "IMAGE").tooltip("The first frames.").optional())
                .prepared()
                .output_named("LATENT", "cond_latent")
        },
        kandinsky,
    ),
    Class::new(
        || {
            Schema::new("NormalizeVideoLatentStart")
                .no_display()
                .category("model/conditioning")
                .module("comfy_extras.nodes_kandinsky5")
                .schema_generation()
                .description("Brings the first frames of a video latent to the mean and spread of those that follow.")
                .aliases(["brightness jump", "flicker"])
                .input(Input::link("latent", "LATENT").tooltip("The video."))
                .input(
                    Input::int("start_frame_count")
                        .default(4)
                        .min(1)
                        .max(MAX_RESOLUTION)
                        .step(1)
                        .tooltip("Frames of the latent that are changed, from the first on."),
                )
                .input(
                    Input::int("reference_frame_count")
                        .default(5)
                        .min(1)
                        .max(MAX_RESOLUTION)
                        .step(1)
                        .tooltip("Frames of the latent behind them that are the example."),
                )
                .output_named("LATENT", "latent")
        },
        normalize,
    ),
    Class::new(
        || {
            Schema::new("CosmosImageToVideoLatent")
                .no_display()
                .category("model/conditioning/cosmos")
                .module("comfy_extras.nodes_cosmos")
                .schema_generation()
                .description("Starts a video of which the first and last frames may be given, for Cosmos.")
                .aliases(["i2v"])
                .input(Input::link("vae", "VAE").tooltip("The autoencoder."))
                .video(1280, 704, 121, 8)
                .input(Input::link("start_image", "IMAGE").tooltip("The first frames.").optional())
                .input(Input::link("end_image", "IMAGE").tooltip("The last frames.").optional())
                .output("LATENT")
        },
        |call| cosmos(call, COSMOS_STRIDE, false),
    ),
    Class::new(
        || {
            Schema::new("CosmosPredict2ImageToVideoLatent")
                .no_display()
                .category("model/conditioning/cosmos")
                .module("comfy_extras.nodes_cosmos")
                .schema_generation()
                .description("Starts a video of which the first and last frames may be given, for Cosmos Predict 2.")
                .aliases(["i2v"])
                .input(Input::link("vae", "VAE").tooltip("The autoencoder."))
                .video(848, 480, 93, 4)
                .input(Input::link("start_image", "IMAGE").tooltip("The first frames.").optional())
                .input(Input::link("end_image", "IMAGE").tooltip("The last frames.").optional())
                .output("LATENT")
        },
        |call| cosmos(call, STRIDE, true),
    ),
    Class::new(
        || {
            Schema::new("SD_4XUpscale_Conditioning")
                .no_display()
                .category("model/conditioning/stable diffusion upscaler")
                .module("comfy_extras.nodes_sdupscale")
                .schema_generation()
                .description("Prepares the upscaling of pictures, for Stable Diffusion's upscaler.")
                .aliases(["enlarge", "4x"])
                .input(Input::link("images", "IMAGE").tooltip("The pictures."))
                .prompts()
                .input(
                    Input::float("scale_ratio").default(4.0).min(0.0).max(10.0).step(0.01).tooltip("How many times larger the result is."),
                )
                .input(
                    Input::float("noise_augmentation")
                        .default(0.0)
                        .min(0.0)
                        .max(1.0)
                        .step(0.001)
                        .advanced()
                        .tooltip("How much noise the model is told to expect in the pictures."),
                )
                .prepared()
        },
        upscale,
    ),
];

fn frame_rate(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let rate = call.float("frame_rate")?;
    Ok(NodeOutput::values(both(call, |entry| entry.told.set("frame_rate", rate))?))
}

fn seconds(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (start, total) = (call.float("seconds_start")?, call.float("seconds_total")?);
    Ok(NodeOutput::values(both(call, |entry| {
        entry.told.set("seconds_start", start);
        entry.told.set("seconds_total", total);
    })?))
}

fn kandinsky(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let size = Size::of(call)?;
    let shape = size.latent(16, STRIDE, 8)?;
    // Without a picture there is nothing to begin with.
    let (mut shown, mut begin) = (None, Latent::new(ArcArray::zeros(IxDyn(&[0]))));
    if let Some(start) = first_frames(call, "start_image", size)? {
        let encoded = encode(call, &start)?;
        begin = Latent::new(tensors::to_array(call, &encoded)?);
        shown = Some((encoded, mask(shape[2], known_frames(start.batch()), shape[3], shape[4])?));
    }
    let [positive, negative] = both(call, |entry| {
        if let Some((frames, mask)) = &shown {
            entry.told.set("time_dim_replace", frames.clone());
            entry.concat_mask = Some(mask.clone());
        }
    })?;
    Ok(NodeOutput::values([positive, negative, Value::object(zeros(call, &shape)?), Value::object(begin)]))
}

/// How far the mean and the spread of a frame may be moved down and up.
const MEAN_ROOM: (f32, f32) = (0.3, 0.35);
const SPREAD_ROOM: (f32, f32) = (0.35, 0.5);

fn normalize(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let latent = call.latent("latent")?;
    let (start, reference) = (call.count("start_frame_count", 1)?, call.count("reference_frame_count", 1)?);
    let frames = latent.samples.shape()[2];
    if frames <= 1 {
        return Ok(NodeOutput::one(latent));
    }
    let wrong =
        |_| Error::msg(format!("a latent of the shape {:?} is none of a video; connect one with five axes", latent.samples.shape()));
    let samples = latent.samples.clone().into_dimensionality::<Ix5>().map_err(wrong)?;
    if start >= frames {
        return Err(Error::msg(format!(
            "there is no frame behind the first {start} of {frames} to take as an example; lower start_frame_count"
        )));
    }
    call.reserve(samples.shape())?;
    let normalized = call.aside(samples.len(), move || {
        let example = samples.slice(s![.., .., start..(start + reference.min(frames - 1)).min(frames), .., ..]);
        let (mean, spread) = statistics(example.iter().copied());
        let mut out = samples.to_owned();
        for mut one in out.outer_iter_mut() {
            for frame in 0..start {
                let mut frame = one.slice_mut(s![.., frame, .., ..]);
                let (own_mean, own_spread) = statistics(frame.iter().copied());
                let mean = mean.max(own_mean - MEAN_ROOM.0).min(own_mean + MEAN_ROOM.1);
                let spread = spread.max(own_spread - SPREAD_ROOM.0).min(own_spread + SPREAD_ROOM.1);
                frame.mapv_inplace(|value| (value - own_mean) / (own_spread + 1e-8) * spread + mean);
            }
        }
        out
    })?;
    Ok(NodeOutput::one(Latent { samples: normalized.into_shared().into_dyn(), ..latent }))
}

/// The mean and the standard deviation of a sample.
fn statistics(values: impl ExactSizeIterator<Item = f32> + Clone) -> (f32, f32) {
    let count = values.len() as f64;
    let mean = values.clone().map(f64::from).sum::<f64>() / count;
    let squares: f64 = values.map(|value| (f64::from(value) - mean).powi(2)).sum();
    (mean as f32, (squares / (count - 1.0)).sqrt() as f32)
}

/// Frames that go together in Cosmos' autoencoder.
const COSMOS_STRIDE: usize = 8;

/// `means`: where nothing is given, there are the means of the latents.
fn cosmos(call: &Call<'_, '_>, stride: usize, means: bool) -> Result<NodeOutput> {
    let size = Size::of(call)?;
    let shape = Size { batch: 1, ..size }.latent(CHANNELS, stride, 8)?;
    let first = padded(call, "start_image", size, 1)?;
    let last = padded(call, "end_image", size, 0)?;
    if first.is_none() && last.is_none() {
        return Ok(NodeOutput::one(zeros(call, &shape)?));
    }
    call.reserve(&shape)?;
    let [_, _, length, height, width] = shape;
    let mut samples = ArcArray::<f32, Ix5>::zeros(shape);
    let mut mask = ArcArray::<f32, Ix5>::ones([1, 1, length, height, width]);
    if means {
        for (mut channel, mean) in samples.axis_iter_mut(ndarray::Axis(1)).zip(MEANS) {
            channel.fill(mean);
        }
    }
    for (given, is_last) in [(first, false), (last, true)] {
        let Some(given) = given else { continue };
        let given: ArcArray<f32, Ix5> = tensors::to_array(call, of_video(&given, CHANNELS)?)?;
        let known = given.shape()[2].min(length);
        if given.shape()[3..] != shape[3..] {
            return Err(Error::msg(format!(
                "frames of the latent shape {:?} do not fit a video of {shape:?}; use the model's VAE",
                given.shape()
            )));
        }
        let place = if is_last { length - known..length } else { 0..known };
        samples.slice_mut(s![.., .., place.clone(), .., ..]).assign(&given.slice(s![..1, .., ..known, .., ..]));
        mask.slice_mut(s![.., .., place, .., ..]).fill(0.0);
    }
    let mut latent = Latent::new(repeated(call, &samples, size.batch)?);
    latent.noise_mask = Some(repeated(call, &mask, size.batch)?);
    Ok(NodeOutput::one(latent))
}

/// So many copies along the first axis.
fn repeated(call: &Call<'_, '_>, one: &ArcArray<f32, Ix5>, batch: usize) -> Result<ArcArray<f32, IxDyn>> {
    let mut shape = one.raw_dim();
    shape[0] = batch;
    call.reserve(&[shape[0], shape[1], shape[2], shape[3], shape[4]])?;
    let all = one.broadcast(shape).ok_or_else(|| Error::msg("a latent cannot be repeated"))?;
    Ok(all.to_owned().into_shared().into_dyn())
}

/// What the autoencoder makes of an optional input's frames, filled up with grey to whole groups and `more` of them.
fn padded(call: &Call<'_, '_>, name: &str, size: Size, more: usize) -> Result<Option<Tensor>> {
    let Some(frames) = first_frames(call, name, size)? else { return Ok(None) };
    let groups = (frames.batch() - 1) / COSMOS_STRIDE + 1;
    let length = ((groups + more) * COSMOS_STRIDE - (COSMOS_STRIDE - 1)).min(size.length).max(frames.batch());
    let shape = [length, size.height, size.width, 3];
    call.reserve(&shape)?;
    let mut video = Array4::from_elem(shape, 0.5);
    video.slice_mut(s![..frames.batch(), .., .., ..]).assign(&frames.0);
    let encoded = encode(call, &Image::new(video))?;
    let kept = of_video(&encoded, CHANNELS)?.dims()[2].min(groups);
    Ok(Some(encoded.narrow(2, 0, kept).map_err(comfyd_engine::Error::from)?))
}

fn upscale(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    const CELL: usize = 4;
    let images = call.image("images")?;
    let ratio = call.float("scale_ratio")?;
    let cells = |side: usize| ((side as f64 * ratio).round_ties_even().max(1.0) as usize) / CELL;
    let (width, height) = (cells(images.width()), cells(images.height()));
    if width == 0 || height == 0 {
        return Err(Error::msg(format!("the result would be smaller than {CELL} pixels; raise scale_ratio")));
    }
    let small = resize::image(call, &images, width, height, Method::Bilinear, Crop::Center)?;
    let shown: ArcArray<f32, Ix4> =
        small.0.mapv(|value| value * 2.0 - 1.0).permuted_axes([0, 3, 1, 2]).as_standard_layout().into_owned().into_shared();
    let (shown, noise) = (tensors::of(call, &shown)?, call.float("noise_augmentation")?);
    let [positive, negative] = both(call, |entry| {
        entry.told.set("concat_image", shown.clone());
        entry.told.set("noise_augmentation", noise);
    })?;
    let latent = zeros(call, &[images.batch(), CELL, height, width])?;
    Ok(NodeOutput::values([positive, negative, Value::object(latent)]))
}

//! Conditionings of Wan's models.

use std::sync::Arc;

use comfyd_engine::{Conditioning, Tensor, Told, Vae, VisionOutput};
use comfyd_imaging::resize::{Crop, Method};
use comfyd_node::{Error, Input, NodeOutput, Result, Schema, Value};
use comfyd_values::{Image, Latent};
use ndarray::{Array3, s};

use super::camera::CameraEmbedding;
use super::common::{
    STRIDE, Shared as _, Size, both, encode, first_frames, frames, known_frames, last_frames, mask, mask_by_frame, of_video, seen, zeros,
};
use crate::class::{Call, Class, MAX_RESOLUTION};
use crate::{resize, tensors};

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("WanImageToVideo")
                .no_display()
                .category("model/conditioning/wan")
                .module("comfy_extras.nodes_wan")
                .schema_generation()
                .description("Prepares a video that begins with given frames, for Wan.")
                .aliases(["i2v", "animate"])
                .prompts()
                .input(Input::link("vae", "VAE").tooltip("The autoencoder."))
                .video(832, 480, 81, 4)
                .first_frame_seen()
                .input(Input::link("start_image", "IMAGE").tooltip("The first frames.").optional())
                .prepared()
        },
        image_to_video,
    ),
    Class::new(
        || {
            Schema::new("WanFirstLastFrameToVideo")
                .no_display()
                .category("model/conditioning/wan")
                .module("comfy_extras.nodes_wan")
                .schema_generation()
                .description("Prepares a video whose first and last frames are given, for Wan.")
                .aliases(["flf2v", "interpolate"])
                .prompts()
                .input(Input::link("vae", "VAE").tooltip("The autoencoder."))
                .video(832, 480, 81, 4)
                .input(
                    Input::link("clip_vision_start_image", "CLIP_VISION_OUTPUT")
                        .tooltip("What a vision encoder made of the first frame.")
                        .optional(),
                )
                .input(
                    Input::link("clip_vision_end_image", "CLIP_VISION_OUTPUT")
                        .tooltip("What a vision encoder made of the last frame.")
                        .optional(),
                )
                .input(Input::link("start_image", "IMAGE").tooltip("The first frames.").optional())
                .input(Input::link("end_image", "IMAGE").tooltip("The last frames.").optional())
                .prepared()
        },
        |call| first_last(call, ["clip_vision_start_image", "clip_vision_end_image"]),
    ),
    Class::new(
        || {
            Schema::new("WanFunInpaintToVideo")
                .no_display()
                .category("model/conditioning/wan/fun inpaint")
                .module("comfy_extras.nodes_wan")
                .schema_generation()
                .description("Prepares a video whose first and last frames are given, for Wan Fun Inpaint.")
                .aliases(["first and last frame"])
                .prompts()
                .input(Input::link("vae", "VAE").tooltip("The autoencoder."))
                .video(832, 480, 81, 4)
                .first_frame_seen()
                .input(Input::link("start_image", "IMAGE").tooltip("The first frames.").optional())
                .input(Input::link("end_image", "IMAGE").tooltip("The last frames.").optional())
                .prepared()
        },
        |call| first_last(call, ["clip_vision_output", ""]),
    ),
    Class::new(
        || {
            Schema::new("WanFunControlToVideo")
                .no_display()
                .category("model/conditioning/wan/fun control")
                .module("comfy_extras.nodes_wan")
                .schema_generation()
                .description("Prepares a video that follows other frames, such as poses, for Wan Fun Control.")
                .aliases(["pose", "depth"])
                .prompts()
                .input(Input::link("vae", "VAE").tooltip("The autoencoder."))
                .video(832, 480, 81, 4)
                .first_frame_seen()
                .input(Input::link("start_image", "IMAGE").tooltip("The first frames.").optional())
                .input(Input::link("control_video", "IMAGE").tooltip("Frames that steer the video.").optional())
                .prepared()
        },
        fun_control,
    ),
    Class::new(
        || {
            Schema::new("Wan22FunControlToVideo")
                .no_display()
                .category("model/conditioning/wan/fun control")
                .module("comfy_extras.nodes_wan")
                .schema_generation()
                .description("Prepares a video that follows other frames, such as poses, for Wan 2.2 Fun Control.")
                .aliases(["pose", "depth"])
                .prompts()
                .input(Input::link("vae", "VAE").tooltip("The autoencoder."))
                .video(832, 480, 81, 4)
                .input(Input::link("ref_image", "IMAGE").tooltip("What is to appear in the video.").optional())
                .input(Input::link("control_video", "IMAGE").tooltip("Frames that steer the video.").optional())
                .prepared()
        },
        fun_control_22,
    ),
    Class::new(
        || {
            Schema::new("WanVaceToVideo")
                .no_display()
                .category("model/conditioning/wan/vace")
                .module("comfy_extras.nodes_wan")
                .schema_generation()
                .description("Prepares a video that follows frames, fills masks and shows a reference, for Wan VACE.")
                .aliases(["video to video", "fill in"])
                .prompts()
                .input(Input::link("vae", "VAE").tooltip("The autoencoder."))
                .video(832, 480, 81, 4)
                .input(Input::float("strength").default(1.0).min(0.0).max(1000.0).step(0.01).tooltip("How much the frames count."))
                .input(Input::link("control_video", "IMAGE").tooltip("Frames that steer the video.").optional())
                .input(
                    Input::link("control_masks", "MASK")
                        .tooltip("Where the video is made anew: 1; where it follows the frames: 0.")
                        .optional(),
                )
                .input(Input::link("reference_image", "IMAGE").tooltip("What is to appear in the video.").optional())
                .prepared()
                .output_named("INT", "trim_latent")
        },
        vace,
    ),
    Class::new(
        || {
            Schema::new("WanPhantomSubjectToVideo")
                .no_display()
                .category("model/conditioning/wan/phantom subject")
                .module("comfy_extras.nodes_wan")
                .schema_generation()
                .description("Prepares a video of the subjects in pictures, for Wan Phantom.")
                .aliases(["subject", "reference"])
                .prompts()
                .input(Input::link("vae", "VAE").tooltip("The autoencoder."))
                .video(832, 480, 81, 4)
                .input(Input::link("images", "IMAGE").tooltip("What is to appear in the video.").optional())
                .output_named("CONDITIONING", "positive")
                .output_named("CONDITIONING", "negative_text")
                .output_named("CONDITIONING", "negative_img_text")
                .output_named("LATENT", "latent")
        },
        phantom,
    ),
    Class::new(
        || {
            Schema::new("Wan22ImageToVideoLatent")
                .no_display()
                .category("model/conditioning/wan")
                .module("comfy_extras.nodes_wan")
                .schema_generation()
                .description("Starts a video that may begin with given frames, for the small Wan 2.2.")
                .aliases(["ti2v", "animate"])
                .input(Input::link("vae", "VAE").tooltip("The autoencoder."))
                .input(Input::int("width").default(1280).min(32).max(MAX_RESOLUTION).step(32).tooltip("Pixels wide."))
                .input(Input::int("height").default(704).min(32).max(MAX_RESOLUTION).step(32).tooltip("Pixels high."))
                .input(Input::int("length").default(49).min(1).max(MAX_RESOLUTION).step(4).tooltip("Frames, after decoding."))
                .input(Input::int("batch_size").default(1).min(1).max(4096).tooltip("How many at once."))
                .input(Input::link("start_image", "IMAGE").tooltip("The first frames.").optional())
                .output("LATENT")
        },
        latent_22,
    ),
    Class::new(
        || {
            Schema::new("WanCameraImageToVideo")
                .no_display()
                .category("model/conditioning/wan/camera")
                .module("comfy_extras.nodes_wan")
                .schema_generation()
                .description("Prepares a video in which the camera moves as told, for Wan Fun Camera.")
                .aliases(["camera move"])
                .prompts()
                .input(Input::link("vae", "VAE").tooltip("The autoencoder."))
                .video(832, 480, 81, 4)
                .first_frame_seen()
                .input(Input::link("start_image", "IMAGE").tooltip("The first frames.").optional())
                .input(Input::link("camera_conditions", "WAN_CAMERA_EMBEDDING").tooltip("How the camera moves.").optional())
                .prepared()
        },
        camera,
    ),
];

/// Channels of Wan's latents.
pub(super) const CHANNELS: usize = 16;

/// The means of Wan's latents: a scaled latent of zeros, as on links.
pub(crate) const MEANS: [f32; CHANNELS] = [
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508, 0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503,
    -0.2921,
];

/// Their spreads.
pub(crate) const SPREADS: [f32; CHANNELS] =
    [2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743, 3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160];

/// The means of the small Wan 2.2.
const MEANS_22: [f32; 48] = [
    -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813, 0.0891, 0.1570, -0.0098, 0.0375, -0.1825,
    -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502, -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799,
    -0.1230, -0.0313, -0.1649, 0.0117, 0.0723, -0.2839, -0.2083, -0.0520, 0.3748, 0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548,
    -0.1681, -0.0667,
];

/// A latent that holds each channel's mean.
fn empty(call: &Call<'_, '_>, shape: [usize; 5], means: &[f32]) -> Result<Tensor> {
    call.reserve(&shape)?;
    let means = comfyd_engine::tensor(&[1, means.len(), 1, 1, 1], means.to_vec())?;
    Ok(means.broadcast_as(&shape).and_then(|latent| latent.contiguous()).map_err(comfyd_engine::Error::from)?)
}

/// A latent whose first frames are those of another one, for each of the batch.
fn begun(latent: &Tensor, first: &Tensor) -> Result<Tensor> {
    let joined = || {
        let (batch, frames) = (latent.dim(0)?, latent.dim(2)?);
        let known = first.dim(2)?.min(frames);
        let first = first.narrow(0, 0, 1)?.narrow(2, 0, known)?.repeat((batch, 1, 1, 1, 1))?;
        if known == frames {
            return Ok(first);
        }
        Tensor::cat(&[&first, &latent.narrow(2, known, frames - known)?], 2)
    };
    Ok(joined().map_err(comfyd_engine::Error::from)?)
}

fn image_to_video(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let size = Size::of(call)?;
    let latent = zeros(call, &size.latent(CHANNELS, STRIDE, 8)?)?;
    let mut shown = None;
    if let Some(start) = first_frames(call, "start_image", size)? {
        let mut video = size.grey(call)?;
        video.slice_mut(s![..start.batch(), .., .., ..]).assign(&start.0);
        let encoded = encode(call, &Image::new(video))?;
        let (height, width) = cells(&encoded)?;
        let mask = mask(latent.samples.shape()[2], known_frames(start.batch()), height, width)?;
        shown = Some((encoded, mask));
    }
    told(call, shown, latent)
}

/// Rows and columns of a latent.
fn cells(latent: &Tensor) -> Result<(usize, usize)> {
    match latent.dims() {
        [.., height, width] => Ok((*height, *width)),
        shape => Err(Error::msg(format!("the autoencoder gives latents of the shape {shape:?}, which have no rows and columns"))),
    }
}

/// Both prompts with frames and their mask, and what a vision encoder saw.
fn told(call: &Call<'_, '_>, shown: Option<(Tensor, Tensor)>, latent: Latent) -> Result<NodeOutput> {
    let seen = seen(call)?;
    let [positive, negative] = both(call, |entry| {
        if let Some((frames, mask)) = &shown {
            (entry.concat_latent, entry.concat_mask) = (Some(frames.clone()), Some(mask.clone()));
        }
        seen(entry);
    })?;
    Ok(NodeOutput::values([positive, negative, Value::object(latent)]))
}

fn first_last(call: &mut Call<'_, '_>, visions: [&str; 2]) -> Result<NodeOutput> {
    let (size, vae) = (Size::of(call)?, call.object::<Vae>("vae")?);
    let latent = zeros(call, &size.latent(vae.channels(), STRIDE, vae.compression())?)?;
    let (start, end) = (first_frames(call, "start_image", size)?, last_frames(call, "end_image", size)?);
    let mut video = size.grey(call)?;
    if let Some(start) = &start {
        video.slice_mut(s![..start.batch(), .., .., ..]).assign(&start.0);
    }
    if let Some(end) = &end {
        video.slice_mut(s![size.length - end.batch().., .., .., ..]).assign(&end.0);
    }
    let encoded = encode(call, &Image::new(video))?;
    let &[_, _, frames, height, width] = latent.samples.shape() else { return Err(Error::msg("a latent of a video has five axes")) };
    let (first, last) = (start.map_or(0, |start| start.batch() + STRIDE - 1), end.map_or(0, |end| end.batch()));
    let mask = mask_by_frame(frames, height, width, |frame| frame < first || frame + last >= frames * STRIDE)?;
    let seen = |name: &str| if name.is_empty() { Ok(None) } else { call.inputs.get_optional::<VisionOutput>(name) };
    let vision = match (seen(visions[0])?, seen(visions[1])?) {
        (Some(start), Some(end)) => Some(Arc::new(start.joined(&end)?)),
        (one, other) => one.or(other),
    };
    let [positive, negative] = both(call, |entry| {
        (entry.concat_latent, entry.concat_mask) = (Some(encoded.clone()), Some(mask.clone()));
        if let Some(vision) = &vision {
            entry.told.set("clip_vision_output", Arc::clone(vision));
        }
    })?;
    Ok(NodeOutput::values([positive, negative, Value::object(latent)]))
}

fn fun_control(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let size = Size::of(call)?;
    let shape = size.latent(CHANNELS, STRIDE, 8)?;
    let latent = zeros(call, &shape)?;
    let frames = |name: &str| part(call, name, size, shape, &MEANS);
    let shown = channels(&[&frames("control_video")?, &frames("start_image")?])?;
    let seen = seen(call)?;
    let [positive, negative] = both(call, |entry| {
        entry.concat_latent = Some(shown.clone());
        seen(entry);
    })?;
    Ok(NodeOutput::values([positive, negative, Value::object(latent)]))
}

/// The means, or what an optional input's frames become in their place.
fn part(call: &Call<'_, '_>, name: &str, size: Size, shape: [usize; 5], means: &[f32]) -> Result<Tensor> {
    let empty = empty(call, shape, means)?;
    match first_frames(call, name, size)? {
        Some(frames) => begun(&empty, of_video(&encode(call, &frames)?, means.len())?),
        None => Ok(empty),
    }
}

/// Latents beside each other.
fn channels(parts: &[&Tensor]) -> Result<Tensor> {
    Ok(Tensor::cat(parts, 1).map_err(comfyd_engine::Error::from)?)
}

fn fun_control_22(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (size, vae) = (Size::of(call)?, call.object::<Vae>("vae")?);
    let means: &[f32] = match vae.channels() {
        CHANNELS => &MEANS,
        48 => &MEANS_22,
        other => {
            return Err(Error::msg(format!(
                "the autoencoder at 'vae' makes latents of {other} channels, Wan's have {CHANNELS} or 48; load the one that belongs to the model"
            )));
        }
    };
    let shape = size.latent(means.len(), STRIDE, vae.compression())?;
    let latent = zeros(call, &shape)?;
    let shown = channels(&[&part(call, "control_video", size, shape, means)?, &empty(call, shape, means)?])?;
    let mask = mask_by_frame(shape[2], shape[3], shape[4], |_| false)?;
    let reference = frames(call, "ref_image", size, |_| 0..1)?.map(|frames| encode(call, &frames)).transpose()?;
    let [positive, negative] = both(call, |entry| {
        (entry.concat_latent, entry.concat_mask) = (Some(shown.clone()), Some(mask.clone()));
        entry.told.set("concat_mask_index", means.len() as f64);
        entry.told.add("reference_latents", reference.iter().cloned().map(Told::from));
    })?;
    Ok(NodeOutput::values([positive, negative, Value::object(latent)]))
}

/// What stays of the frames and what is made anew are encoded apart, each grey where the other is; the mask gets a channel for each pixel of a
/// cell.
fn vace(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    const CELL: usize = 8;
    let size = Size::of(call)?;
    if size.width % CELL != 0 || size.height % CELL != 0 {
        return Err(Error::msg(format!(
            "{} x {} pixels cannot be divided into cells of {CELL}; take multiples of it",
            size.width, size.height
        )));
    }
    let mut video = size.grey(call)?;
    if let Some(given) = first_frames(call, "control_video", size)? {
        video.slice_mut(s![..given.batch(), .., .., ..]).assign(&given.0);
    }
    let reference = frames(call, "reference_image", size, |_| 0..1)?.map(|frames| encode(call, &frames)).transpose()?;
    let reference = reference.map(|latent| {
        let shape =
            <[usize; 5]>::try_from(of_video(&latent, CHANNELS)?.dims()).map_err(|_| Error::msg("a latent of a video has five axes"))?;
        channels(&[&latent, &empty(call, shape, &MEANS)?])
    });
    let reference = reference.transpose()?;
    let mask = masks(call, size)?;
    call.reserve(&[2, size.length, size.height, size.width, 3])?;
    let kept = |anew: bool| {
        let mut part = video.clone();
        for (mut frame, mask) in part.outer_iter_mut().zip(mask.outer_iter()) {
            call.cx.check_cancelled()?;
            for (mut pixel, share) in frame.lanes_mut(ndarray::Axis(2)).into_iter().zip(&mask) {
                let share = if anew { *share } else { 1.0 - share };
                pixel.mapv_inplace(|value| (value - 0.5) * share + 0.5);
            }
        }
        encode(call, &Image::new(part))
    };
    let mut shown = channels(&[&kept(false)?, &kept(true)?])?;
    let trim = reference.as_ref().map_or(0, |reference| reference.dims()[2]);
    if let Some(reference) = &reference {
        shown = Tensor::cat(&[reference, of_video(&shown, 2 * CHANNELS)?], 2).map_err(comfyd_engine::Error::from)?;
    }
    let [batch, channels, frames, rows, columns] = size.latent(CHANNELS, STRIDE, CELL)?;
    let shape = [1, CELL * CELL, trim + frames, rows, columns];
    call.reserve(&shape)?;
    let mut cells = Vec::with_capacity(shape.iter().product());
    for within in 0..CELL * CELL {
        call.cx.check_cancelled()?;
        cells.extend(std::iter::repeat_n(0.0, trim * rows * columns));
        for frame in 0..frames {
            // The nearest of the frames that it stands for.
            let nearest = ((frame as f32 + 0.5) * (size.length as f32 / frames as f32)) as usize;
            let at =
                |row: usize, column: usize| mask[[nearest.min(size.length - 1), row * CELL + within / CELL, column * CELL + within % CELL]];
            cells.extend((0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))).map(|(row, column)| at(row, column)));
        }
    }
    let (mask, strength) = (comfyd_engine::tensor(&shape, cells)?, call.float("strength")?);
    let [positive, negative] = both(call, |entry| {
        entry.told.add("vace_frames", [shown.clone().into()]);
        entry.told.add("vace_mask", [mask.clone().into()]);
        entry.told.add("vace_strength", [strength.into()]);
    })?;
    let latent = zeros(call, &[batch, channels, trim + frames, rows, columns])?;
    Ok(NodeOutput::values([positive, negative, Value::object(latent), Value::from(trim as i64)]))
}

/// A mask for each frame (T, H, W); everything is made anew where there is none.
fn masks(call: &Call<'_, '_>, size: Size) -> Result<Array3<f32>> {
    let shape = [size.length, size.height, size.width];
    call.reserve(&shape)?;
    let mut masks = Array3::ones(shape);
    if let Some(given) = call.mask_optional("control_masks")? {
        let count = given.batch().min(size.length);
        let given = given.0.slice_move(s![..count, .., ..]).insert_axis(ndarray::Axis(3));
        let given = resize::image(call, &Image(given), size.width, size.height, Method::Bilinear, Crop::Center)?;
        masks.slice_mut(s![..count, .., ..]).assign(&given.0.slice(s![.., .., .., 0]));
    }
    Ok(masks)
}

fn phantom(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let size = Size::of(call)?;
    let latent = zeros(call, &size.latent(CHANNELS, STRIDE, 8)?)?;
    let (positive, negative) = (call.object::<Conditioning>("positive")?, call.object::<Conditioning>("negative")?);
    let Some(pictures) = first_frames(call, "images", size)? else {
        let [positive, text] = [positive, negative].map(Value::from);
        return Ok(NodeOutput::values([positive, text.clone(), text, Value::object(latent)]));
    };
    let mut encoded = Vec::new();
    for index in 0..pictures.batch() {
        let one = Image(pictures.0.clone().slice_move(s![index..index + 1, .., .., ..]));
        encoded.push(of_video(&encode(call, &one)?, CHANNELS)?.clone());
    }
    let shown = Tensor::cat(&encoded, 2).map_err(comfyd_engine::Error::from)?;
    let shape = <[usize; 5]>::try_from(shown.dims()).map_err(|_| Error::msg("a latent of a video has five axes"))?;
    let hidden = empty(call, shape, &MEANS)?;
    let tell = |conditioning: &Conditioning, latent: &Tensor| {
        Value::object(conditioning.map(|entry| entry.told.set("time_dim_concat", latent.clone())))
    };
    let outputs = [tell(&positive, &shown), tell(&negative, &shown), tell(&negative, &hidden)];
    Ok(NodeOutput::values(outputs.into_iter().chain([Value::object(latent)])))
}

fn latent_22(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let size = Size::of(call)?;
    let shape = Size { batch: 1, ..size }.latent(MEANS_22.len(), STRIDE, 16)?;
    let Some(start) = first_frames(call, "start_image", size)? else {
        return Ok(NodeOutput::one(zeros(call, &shape)?));
    };
    let encoded = encode(call, &start)?;
    let known = of_video(&encoded, MEANS_22.len())?.dims()[2].min(shape[2]);
    let begun = begun(&empty(call, shape, &MEANS_22)?, &encoded)?;
    let mask = mask(shape[2], known, shape[3], shape[4])?;
    let repeated = |tensor: &Tensor| tensor.repeat((size.batch, 1, 1, 1, 1)).map_err(comfyd_engine::Error::from);
    let mut latent = Latent::new(tensors::to_array(call, &repeated(&begun)?)?);
    latent.noise_mask = Some(tensors::to_array(call, &repeated(&mask)?)?);
    Ok(NodeOutput::one(latent))
}

fn camera(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let size = Size::of(call)?;
    let shape = size.latent(CHANNELS, STRIDE, 8)?;
    let latent = zeros(call, &shape)?;
    let mut shown = None;
    if let Some(start) = first_frames(call, "start_image", size)? {
        let frames = begun(&empty(call, shape, &MEANS)?, of_video(&encode(call, &start)?, CHANNELS)?)?;
        let known = start.batch() + STRIDE - 1;
        shown = Some((frames, mask_by_frame(shape[2], shape[3], shape[4], |frame| frame < known)?));
    }
    let moves = call.inputs.get_optional::<CameraEmbedding>("camera_conditions")?;
    let seen = seen(call)?;
    let [positive, negative] = both(call, |entry| {
        if let Some((frames, mask)) = &shown {
            (entry.concat_latent, entry.concat_mask) = (Some(frames.clone()), Some(mask.clone()));
        }
        if let Some(moves) = &moves {
            entry.told.set("camera_conditions", moves.0.clone());
        }
        seen(entry);
    })?;
    Ok(NodeOutput::values([positive, negative, Value::object(latent)]))
}

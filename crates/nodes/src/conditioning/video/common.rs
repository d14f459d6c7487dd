//! What conditionings of videos have in common: frames of a size, latents of so many frames, masks over them, and how both prompts are told.

use std::sync::Arc;

use comfyd_engine::{CondEntry, Conditioning, Tensor, Told, Vae, VisionOutput};
use comfyd_imaging::resize::{Crop, Method};
use comfyd_node::{Error, Input, Result, Schema, Value};
use comfyd_values::{Image, Latent};
use ndarray::{ArcArray, Array4, IxDyn, s};

use crate::class::{Call, MAX_RESOLUTION};
use crate::{resize, tensors};

/// Frames after decoding that one frame of a latent stands for; the first stands for one.
pub(super) const STRIDE: usize = 4;

/// Inputs and outputs that most of these classes have.
pub(super) trait Shared {
    /// Both prompts.
    fn prompts(self) -> Self;
    /// The video's [`Size`] with the defaults of its width, its height and its length, which goes in steps of so many frames.
    fn video(self, width: i64, height: i64, length: i64, step: i64) -> Self;
    /// What a vision encoder made of the first frame, if it is connected.
    fn first_frame_seen(self) -> Self;
    /// Both prompts as the model is told them, and the latent that it begins with.
    fn prepared(self) -> Self;
}

impl Shared for Schema {
    fn prompts(self) -> Self {
        self.input(Input::link("positive", "CONDITIONING").tooltip("What the result is to show."))
            .input(Input::link("negative", "CONDITIONING").tooltip("What the result is not to show."))
    }

    fn video(self, width: i64, height: i64, length: i64, step: i64) -> Self {
        self.input(Input::int("width").default(width).min(16).max(MAX_RESOLUTION).step(16).tooltip("Pixels wide."))
            .input(Input::int("height").default(height).min(16).max(MAX_RESOLUTION).step(16).tooltip("Pixels high."))
            .input(Input::int("length").default(length).min(1).max(MAX_RESOLUTION).step(step).tooltip("Frames, after decoding."))
            .input(Input::int("batch_size").default(1).min(1).max(4096).tooltip("How many at once."))
    }

    fn first_frame_seen(self) -> Self {
        let seen = Input::link("clip_vision_output", "CLIP_VISION_OUTPUT").tooltip("What a vision encoder made of the first frame.");
        self.input(seen.optional())
    }

    fn prepared(self) -> Self {
        self.output_named("CONDITIONING", "positive").output_named("CONDITIONING", "negative").output_named("LATENT", "latent")
    }
}

/// What most of these classes are asked for.
#[derive(Clone, Copy)]
pub(super) struct Size {
    pub(super) width: usize,
    pub(super) height: usize,
    /// Frames after decoding.
    pub(super) length: usize,
    pub(super) batch: usize,
}

impl Size {
    pub(super) fn of(call: &Call<'_, '_>) -> Result<Self> {
        let length = call.count("length", 1)?;
        Ok(Self { width: call.count("width", 1)?, height: call.count("height", 1)?, length, batch: call.count("batch_size", 1)? })
    }

    /// The axes of its latent: of so many channels, a cell for `pixels` pixels on each side and a frame for `stride` frames.
    pub(super) fn latent(&self, channels: usize, stride: usize, pixels: usize) -> Result<[usize; 5]> {
        let (height, width) = (self.height / pixels, self.width / pixels);
        if height == 0 || width == 0 {
            return Err(Error::msg(format!(
                "{} x {} pixels are less than a cell of the latent, which has {pixels} on each side; make them larger",
                self.width, self.height
            )));
        }
        Ok([self.batch, channels, (self.length - 1) / stride + 1, height, width])
    }

    /// A grey picture for each frame (T, H, W, 3).
    pub(super) fn grey(&self, call: &Call<'_, '_>) -> Result<Array4<f32>> {
        let shape = [self.length, self.height, self.width, 3];
        call.reserve(&shape)?;
        Ok(Array4::from_elem(shape, 0.5))
    }
}

/// A latent of zeros.
pub(super) fn zeros(call: &Call<'_, '_>, shape: &[usize]) -> Result<Latent> {
    call.reserve(shape)?;
    Ok(Latent::new(ArcArray::zeros(IxDyn(shape))))
}

/// The first frames of an optional input, as many as the video has at most, in its size and three colours.
pub(super) fn first_frames(call: &Call<'_, '_>, name: &str, size: Size) -> Result<Option<Image>> {
    frames(call, name, size, |frames| 0..frames.min(size.length))
}

/// The last ones.
pub(super) fn last_frames(call: &Call<'_, '_>, name: &str, size: Size) -> Result<Option<Image>> {
    frames(call, name, size, |frames| frames.saturating_sub(size.length)..frames)
}

/// Some of the frames of an optional input.
pub(super) fn frames(
    call: &Call<'_, '_>,
    name: &str,
    size: Size,
    which: impl FnOnce(usize) -> std::ops::Range<usize>,
) -> Result<Option<Image>> {
    if call.inputs.optional(name).is_none() {
        return Ok(None);
    }
    let image = call.image(name)?;
    let range = which(image.batch());
    let image = Image(image.0.slice_move(s![range, .., .., ..]));
    let image = resize::image(call, &image, size.width, size.height, Method::Bilinear, Crop::Center)?;
    let channels = image.channels();
    if channels < 3 {
        return Err(Error::msg(format!("input '{name}' holds pictures of {channels} channels; give it pictures in colour")));
    }
    Ok(Some(Image(image.0.slice_move(s![.., .., .., ..3]))))
}

/// What the autoencoder of the input `vae` makes of frames.
pub(super) fn encode(call: &Call<'_, '_>, frames: &Image) -> Result<Tensor> {
    Ok(call.object::<Vae>("vae")?.encode(call.cx, &tensors::image(call, frames)?)?)
}

/// The latent of a video; autoencoders of pictures make one latent of each frame, which models of videos cannot be shown.
pub(super) fn of_video(latent: &Tensor, channels: usize) -> Result<&Tensor> {
    match latent.dims() {
        [_, own, _, _, _] if *own == channels => Ok(latent),
        shape => Err(Error::msg(format!(
            "this needs an autoencoder of videos with {channels} channels, the one at 'vae' gives latents of the shape {shape:?}; \
             load the one that belongs to the model"
        ))),
    }
}

/// A mask (1, 1, T, H, W), zero in the first `known` frames.
pub(super) fn mask(frames: usize, known: usize, height: usize, width: usize) -> Result<Tensor> {
    let values = (0..frames * height * width).map(|place| if place / (height * width) < known { 0.0 } else { 1.0 });
    Ok(comfyd_engine::tensor(&[1, 1, frames, height, width], values.collect())?)
}

/// A mask that has a channel for each of the [`STRIDE`] frames that a frame of the latent stands for: (1, 4, T, H, W), zero where `is_known` says
/// so of a frame after decoding, counted as if the first frame were there four times.
pub(super) fn mask_by_frame(frames: usize, height: usize, width: usize, is_known: impl Fn(usize) -> bool) -> Result<Tensor> {
    let plane = height * width;
    let at = |place: usize| {
        let (channel, frame) = (place / plane / frames, place / plane % frames);
        if is_known(frame * STRIDE + channel) { 0.0 } else { 1.0 }
    };
    Ok(comfyd_engine::tensor(&[1, STRIDE, frames, height, width], (0..STRIDE * frames * plane).map(at).collect())?)
}

/// The frames of a latent that so many frames become.
pub(super) fn known_frames(frames: usize) -> usize {
    (frames.max(1) - 1) / STRIDE + 1
}

/// Both prompts with what `change` tells them.
pub(super) fn both(call: &Call<'_, '_>, change: impl Fn(&mut CondEntry)) -> Result<[Value; 2]> {
    let changed = |name: &str| Ok::<_, Error>(Value::object(call.object::<Conditioning>(name)?.map(&change)));
    Ok([changed("positive")?, changed("negative")?])
}

/// What an entry is told of an optional vision encoder's output.
pub(super) fn seen(call: &Call<'_, '_>) -> Result<impl Fn(&mut CondEntry) + use<>> {
    let seen = call.inputs.get_optional::<VisionOutput>("clip_vision_output")?;
    Ok(move |entry: &mut CondEntry| {
        if let Some(seen) = &seen {
            entry.told.set("clip_vision_output", Told::Vision(Arc::clone(seen)));
        }
    })
}

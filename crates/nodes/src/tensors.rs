//! Arrays of these nodes as tensors of the engine, and back. They are copied, which takes a while where they are large: an interruption leaves
//! the copying behind.

use comfyd_engine::{LatentInput, LatentSpec, Tensor, tensor, values as tensor_values};
use comfyd_node::{Error, Result};
use comfyd_values::{Image, Latent, Mask};
use ndarray::{ArcArray, Array, Dimension, IxDyn};

use crate::class::Call;

/// What an empty latent tells samplers beside its samples: pixels per cell, on each side (spelt as on the reference's links).
pub(crate) const SPATIAL_RATIO: &str = "downscale_ratio_spacial";

/// The same of its length: samples of sound per cell.
pub(crate) const TEMPORAL_RATIO: &str = "downscale_ratio_temporal";

/// An array of any axes.
pub(crate) fn of<D: Dimension + 'static>(call: &Call<'_, '_>, array: &ArcArray<f32, D>) -> Result<Tensor> {
    let array = array.clone();
    call.aside(array.len(), move || copied(&array))?
}

/// An array of the tensor's axes.
pub(crate) fn to_array<D: Dimension + 'static>(call: &Call<'_, '_>, tensor: &Tensor) -> Result<ArcArray<f32, D>> {
    let tensor = tensor.clone();
    call.aside(tensor.elem_count(), move || array_of(&tensor))?
}

/// [`of`] where nothing is asked whether to go on.
pub(crate) fn copied<D: Dimension>(array: &ArcArray<f32, D>) -> Result<Tensor> {
    Ok(tensor(array.shape(), array.iter().copied().collect())?)
}

/// [`to_array`] where nothing is asked whether to go on.
pub(crate) fn array_of<D: Dimension>(tensor: &Tensor) -> Result<ArcArray<f32, D>> {
    let (shape, values) = tensor_values(tensor)?;
    let array = Array::from_shape_vec(IxDyn(&shape), values).map_err(Error::other)?;
    Ok(array.into_dimensionality::<D>().map_err(Error::other)?.into_shared())
}

/// (B, H, W, C).
pub(crate) fn image(call: &Call<'_, '_>, image: &Image) -> Result<Tensor> {
    of(call, &image.0)
}

/// (B, H, W).
pub(crate) fn mask(call: &Call<'_, '_>, mask: &Mask) -> Result<Tensor> {
    of(call, &mask.0)
}

/// Pictures from (B, H, W, C).
pub(crate) fn to_image(call: &Call<'_, '_>, tensor: &Tensor) -> Result<Image> {
    Ok(Image(to_array(call, tensor)?))
}

/// What the engine takes as a latent. An empty latent as it is made for another family gets the channels of the model's latents and, where it
/// tells how many pixels its cells stand for, their size.
pub(crate) fn latent(call: &Call<'_, '_>, latent: &Latent, spec: &LatentSpec) -> Result<LatentInput> {
    let mut fitting = latent.samples.shape().to_vec();
    if let [_, channels, height, width] = &mut fitting[..] {
        *channels = spec.channels;
        if let Some(pixels) = latent.extra.get(SPATIAL_RATIO).and_then(serde_json::Value::as_f64) {
            let ratio = pixels / spec.factor as f64;
            [height, width].into_iter().for_each(|side| *side = (*side as f64 * ratio).round_ties_even() as usize);
        }
    }
    let mut samples = latent.samples.clone();
    let is_foreign = samples.shape() != fitting;
    if is_foreign {
        call.reserve(&fitting)?;
    }
    let samples = call.aside(samples.len(), move || {
        if is_foreign && samples.iter().all(|value| *value == 0.0) {
            samples = ArcArray::zeros(fitting);
        }
        copied(&samples)
    })??;
    let noise_mask = latent.noise_mask.as_ref().map(|mask| of(call, mask)).transpose()?;
    Ok(LatentInput { samples, noise_mask, batch_index: latent.batch_index.clone() })
}

/// What was sampled from the latent, with what belongs to it.
pub(crate) fn sampled(call: &Call<'_, '_>, latent: &Latent, samples: &Tensor) -> Result<Latent> {
    let mut sampled = with_samples(call, latent, samples)?;
    for of_empty in [SPATIAL_RATIO, TEMPORAL_RATIO] {
        sampled.extra.shift_remove(of_empty);
    }
    Ok(sampled)
}

/// The latent with other samples.
pub(crate) fn with_samples(call: &Call<'_, '_>, latent: &Latent, samples: &Tensor) -> Result<Latent> {
    Ok(Latent { samples: to_array(call, samples)?, ..latent.clone() })
}

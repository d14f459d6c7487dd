//! Scaling with the limits of a call.

use comfyd_imaging::resize::{Crop, Method};
use comfyd_node::{Error, Result};
use comfyd_values::Image;
use ndarray::{ArcArray, IxDyn};

use crate::class::Call;

/// Resizes pictures.
pub(crate) fn image(call: &Call<'_, '_>, image: &Image, width: usize, height: usize, method: Method, crop: Crop) -> Result<Image> {
    call.reserve(&[image.batch(), height, width, image.channels()])?;
    let resize = move |one| comfyd_imaging::resize::image(&Image(one), width, height, method, crop).map(|resized| resized.0);
    call.one_by_one(&image.0, resize).map(Image)
}

/// Resizes the last two axes of latents, in latent pixels.
pub(crate) fn latent(
    call: &Call<'_, '_>,
    samples: &ArcArray<f32, IxDyn>,
    width: usize,
    height: usize,
    method: Method,
    crop: Crop,
) -> Result<ArcArray<f32, IxDyn>> {
    call.cx.check_cancelled()?;
    let mut shape = samples.shape().to_vec();
    if let [.., own_height, own_width] = shape.as_mut_slice() {
        (*own_height, *own_width) = (height, width);
    }
    call.reserve(&shape)?;
    comfyd_imaging::resize::latent(samples, width, height, method, crop).map_err(Error::other)
}

/// Crops and resizes a latent to the height and width of another one, unless they agree in all but the batch.
pub(crate) fn like(call: &Call<'_, '_>, samples: &ArcArray<f32, IxDyn>, target: &ArcArray<f32, IxDyn>) -> Result<ArcArray<f32, IxDyn>> {
    let [.., height, width] = *target.shape() else { return Ok(samples.clone()) };
    if samples.shape()[1..] == target.shape()[1..] {
        return Ok(samples.clone());
    }
    latent(call, samples, width, height, Method::Bilinear, Crop::Center)
}

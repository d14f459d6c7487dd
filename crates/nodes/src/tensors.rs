//! Arrays of these nodes as tensors of the engine, and back.

use comfyd_engine::{LatentInput, Tensor, tensor, values as tensor_values};
use comfyd_node::{Error, Result};
use comfyd_values::{Image, Latent, Mask};
use ndarray::{ArcArray, Array, Dimension, IxDyn};

/// An array of any axes.
pub(crate) fn of<D: Dimension>(array: &ArcArray<f32, D>) -> Result<Tensor> {
    Ok(tensor(array.shape(), array.iter().copied().collect())?)
}

/// An array of the tensor's axes.
pub(crate) fn to_array<D: Dimension>(tensor: &Tensor) -> Result<ArcArray<f32, D>> {
    let (shape, values) = tensor_values(tensor)?;
    let array = Array::from_shape_vec(IxDyn(&shape), values).map_err(Error::other)?;
    Ok(array.into_dimensionality::<D>().map_err(Error::other)?.into_shared())
}

/// (B, H, W, C).
pub(crate) fn image(image: &Image) -> Result<Tensor> {
    of(&image.0)
}

/// (B, H, W).
pub(crate) fn mask(mask: &Mask) -> Result<Tensor> {
    of(&mask.0)
}

/// Pictures from (B, H, W, C).
pub(crate) fn to_image(tensor: &Tensor) -> Result<Image> {
    Ok(Image(to_array(tensor)?))
}

/// What the engine takes as a latent. An empty latent with other channels than the model's (as made for another family) gets the model's.
pub(crate) fn latent(latent: &Latent, channels: usize) -> Result<LatentInput> {
    let samples = if latent.samples.ndim() == 4 && latent.samples.shape()[1] != channels && latent.samples.iter().all(|v| *v == 0.0) {
        let mut shape = latent.samples.shape().to_vec();
        shape[1] = channels;
        tensor(&shape, vec![0.0; shape.iter().product()])?
    } else {
        of(&latent.samples)?
    };
    Ok(LatentInput { samples, noise_mask: latent.noise_mask.as_ref().map(of).transpose()?, batch_index: latent.batch_index.clone() })
}

/// The latent with other samples.
pub(crate) fn with_samples(latent: &Latent, samples: &Tensor) -> Result<Latent> {
    Ok(Latent { samples: to_array(samples)?, ..latent.clone() })
}

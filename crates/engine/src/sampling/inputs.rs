//! What each kind of model is given for a condition: the text, SDXL's vector of sizes, the channels that inpainting and editing models get
//! beside the latent (the reference's `extra_conds`).

use candle_core::{Device, Tensor};
use comfyd_imaging::resize::{Crop, Method};

use super::conds::ModelInputs;
use crate::array::{resize, spread_to_batch};
use crate::families::{Concat, ModelKind, SIZE_EMBEDDING};
use crate::unclip::{self, UnclipPlace};
use crate::{CondEntry, Error, LatentSpec, Result};

/// What is known of one sampling when inputs are encoded.
pub(crate) struct InputContext<'a> {
    /// The latent's axes.
    pub(crate) shape: [usize; 4],
    pub(crate) kind: &'a dyn ModelKind,
    pub(crate) latents: &'static LatentSpec,
    /// The latent that sampling starts from, as the model has it.
    pub(crate) latent: &'a Tensor,
    /// Where to sample (B, C, H, W).
    pub(crate) denoise_mask: Option<&'a Tensor>,
    pub(crate) device: &'a Device,
    /// Of the sampling's noise.
    pub(crate) seed: u64,
}

/// The inputs for one condition.
pub(crate) fn encode(entry: &CondEntry, is_negative: bool, cx: &InputContext<'_>) -> Result<ModelInputs> {
    let here = |tensor: Option<Tensor>| -> Result<Option<Tensor>> { Ok(tensor.map(|t| t.to_device(cx.device)).transpose()?) };
    Ok(ModelInputs {
        cross_attn: here(entry.cross_attn.clone())?,
        cross_attn_controlnet: here(entry.cross_attn_controlnet.clone())?,
        y: here(vector(entry, is_negative, cx)?)?,
        concat: here(concat(entry, cx)?)?,
    })
}

fn vector(entry: &CondEntry, is_negative: bool, cx: &InputContext<'_>) -> Result<Option<Tensor>> {
    let [_, _, h, w] = cx.shape.map(|axis| (axis * cx.latents.factor) as f64);
    let picture = (entry.size.height.unwrap_or(h), entry.size.width.unwrap_or(w));
    if let Some(UnclipPlace::Vector(width)) = cx.kind.unclip() {
        return Ok(Some(unclip::vector(&entry.unclip, width, unclip::MERGED_NOISE, cx.seed)?));
    }
    let Some(numbers) = cx.kind.vector(&entry.size, picture, is_negative) else { return Ok(None) };
    let seen = match cx.kind.unclip() {
        Some(UnclipPlace::Pooled(width)) if !entry.unclip.is_empty() => {
            Some(unclip::vector(&entry.unclip, width, 0.0, cx.seed)?.narrow(1, 0, width)?)
        }
        _ => None,
    };
    let pooled = seen.as_ref().or(entry.pooled.as_ref()).ok_or_else(|| {
        Error::msg(
            "this model needs the pooled text that SDXL's text encoders give; connect a conditioning made by the checkpoint's own CLIP",
        )
    })?;
    let flat: Vec<f32> = numbers.iter().flat_map(|number| embedding(*number as f32)).collect();
    let flat = Tensor::from_vec(flat, (1, numbers.len() * SIZE_EMBEDDING), pooled.device())?;
    Ok(Some(Tensor::cat(&[pooled, &flat.repeat((pooled.dim(0)?, 1))?], 1)?))
}

/// Cosines and sines of a number at falling frequencies (the sinusoidal embedding of diffusion time steps).
fn embedding(number: f32) -> Vec<f32> {
    let half = SIZE_EMBEDDING / 2;
    let step = -(10000f32.ln()) / half as f32;
    let angles: Vec<f32> = (0..half).map(|i| number * (step * i as f32).exp()).collect();
    angles.iter().map(|a| a.cos()).chain(angles.iter().map(|a| a.sin())).collect()
}

fn concat(entry: &CondEntry, cx: &InputContext<'_>) -> Result<Option<Tensor>> {
    let [b, _, h, w] = cx.shape;
    let fitted = |latent: &Tensor| -> Result<Tensor> {
        let latent = match latent.dims()[2..] == [h, w] {
            true => latent.clone(),
            false => resize(latent, w, h, Method::Bilinear, Crop::Center)?,
        };
        spread_to_batch(&latent.to_device(&Device::Cpu)?, b)
    };
    match cx.kind.concat() {
        Concat::None => Ok(None),
        Concat::Image { scaled } => {
            let Some(image) = &entry.concat_latent else {
                return Ok(Some(Tensor::zeros((b, cx.latents.channels, h, w), candle_core::DType::F32, &Device::Cpu)?));
            };
            let image = fitted(image)?;
            Ok(Some(if scaled { cx.latents.process_in(&image)? } else { image }))
        }
        Concat::Inpaint => {
            let image = match &entry.concat_latent {
                Some(image) => fitted(&cx.latents.process_in(image)?)?,
                None => fitted(cx.latent)?,
            };
            let mask = match (&entry.concat_mask, cx.denoise_mask) {
                (Some(mask), _) => mask.clone(),
                (None, Some(mask)) => mask.narrow(1, 0, 1)?.to_device(&Device::Cpu)?,
                (None, None) => {
                    let black = cx.latents.by_channel(cx.latents.black, &Device::Cpu)?.broadcast_as((b, cx.latents.channels, h, w))?;
                    let mask = Tensor::ones((b, 1, h, w), candle_core::DType::F32, &Device::Cpu)?;
                    return Ok(Some(Tensor::cat(&[&mask, &black.contiguous()?], 1)?));
                }
            };
            let dims = mask.dims();
            if dims.len() < 2 {
                return Err(Error::msg(format!("a mask of the shape {dims:?} cannot be used for inpainting")));
            }
            let (mask_h, mask_w) = (dims[dims.len() - 2], dims[dims.len() - 1]);
            let mask = mask.reshape((mask.elem_count() / (mask_h * mask_w).max(1), 1, mask_h, mask_w))?;
            let mask = match (mask_h, mask_w) == (h, w) {
                true => mask,
                false => resize(&mask, w, h, Method::Bilinear, Crop::Center)?,
            };
            let (shape, mut data) = crate::values(&mask)?;
            data.iter_mut().for_each(|value| *value = value.round_ties_even());
            let mask = spread_to_batch(&crate::tensor(&shape, data)?, b)?;
            Ok(Some(Tensor::cat(&[&mask, &image], 1)?))
        }
    }
}

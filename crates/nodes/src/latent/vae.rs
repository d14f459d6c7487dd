//! Pictures to latents and back.

use comfyd_engine::Vae;
use comfyd_imaging::resize;
use comfyd_imaging::resize::{Crop, Method};
use comfyd_node::{Error, Input, NodeOutput, Result, Schema};
use comfyd_values::{Image, Latent, Mask};
use ndarray::{ArcArray, Axis, Dimension, IxDyn, Slice, Zip};

use crate::class::{Call, Class};
use crate::latent::arrays::expect_picture;
use crate::tensors;

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("VAEDecode")
                .display("VAE Decode")
                .category("model/latent")
                .description("Turns latents into pictures.")
                .aliases(["pixels", "to picture"])
                .input(Input::link("samples", "LATENT").tooltip("The latents."))
                .input(Input::link("vae", "VAE").tooltip("The autoencoder."))
                .output("IMAGE")
        },
        decode,
    ),
    Class::new(
        || {
            Schema::new("VAEEncode")
                .display("VAE Encode")
                .category("model/latent")
                .description("Turns pictures into latents.")
                .aliases(["to latent", "picture to latent"])
                .input(Input::link("pixels", "IMAGE"))
                .input(Input::link("vae", "VAE"))
                .output("LATENT")
        },
        encode,
    ),
    Class::new(
        || {
            tiled(
                Schema::new("VAEDecodeTiled")
                    .display("VAE Decode (Tiled)")
                    .category("model/latent")
                    .description("Turns latents into pictures tile by tile, which takes less memory.")
                    .input(Input::link("samples", "LATENT"))
                    .input(Input::link("vae", "VAE")),
                32,
            )
            .output("IMAGE")
        },
        decode_tiled,
    ),
    Class::new(
        || {
            tiled(
                Schema::new("VAEEncodeTiled")
                    .display("VAE Encode (Tiled)")
                    .category("model/latent")
                    .description("Turns pictures into latents tile by tile, which takes less memory.")
                    .input(Input::link("pixels", "IMAGE"))
                    .input(Input::link("vae", "VAE")),
                64,
            )
            .output("LATENT")
        },
        encode_tiled,
    ),
    Class::new(
        || {
            Schema::new("VAEEncodeForInpaint")
                .display("VAE Encode (for Inpainting)")
                .category("model/latent")
                .description("Turns pictures into latents with the masked part greyed out, and confines the sampling to it.")
                .aliases(["fill in", "masked"])
                .input(Input::link("pixels", "IMAGE"))
                .input(Input::link("vae", "VAE"))
                .input(Input::link("mask", "MASK"))
                .input(
                    Input::int("grow_mask_by")
                        .default(6)
                        .min(0)
                        .max(64)
                        .step(1)
                        .tooltip("Pixels by which the mask is widened before encoding."),
                )
                .output("LATENT")
        },
        encode_for_inpaint,
    ),
];

/// The widgets of classes that work in tiles, whose side goes in steps of so many pixels.
fn tiled(schema: Schema, step: i64) -> Schema {
    schema
        .input(Input::int("tile_size").default(512).min(64).max(4096).step(step).tooltip("Side of a tile in pixels.").advanced())
        .input(Input::int("overlap").default(64).min(0).max(4096).step(32).tooltip("Pixels that neighbouring tiles share.").advanced())
        .input(Input::int("temporal_size").default(64).min(8).max(4096).step(4).tooltip("Frames of a tile; for video models.").advanced())
        .input(
            Input::int("temporal_overlap")
                .default(8)
                .min(4)
                .max(4096)
                .step(4)
                .tooltip("Frames that neighbouring tiles share; for video models.")
                .advanced(),
        )
}

fn decode(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let latent = call.latent("samples")?;
    expect_picture(&latent.samples, "samples")?;
    let image = call.object::<Vae>("vae")?.decode(call.cx, &tensors::of(call, &latent.samples)?)?;
    Ok(NodeOutput::one(tensors::to_image(call, &image)?))
}

fn decode_tiled(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let latent = call.latent("samples")?;
    expect_picture(&latent.samples, "samples")?;
    let vae = call.object::<Vae>("vae")?;
    let tile = call.count("tile_size", 1)?;
    let mut overlap = call.int("overlap")?;
    if tile < overlap * 4 {
        overlap = tile / 4;
    }
    let cell = vae.compression();
    let image = vae.decode_tiled(call.cx, &tensors::of(call, &latent.samples)?, (tile / cell).max(1), overlap / cell)?;
    Ok(NodeOutput::one(tensors::to_image(call, &image)?))
}

fn encode(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let pixels = first_channels(&call.image("pixels")?)?;
    let samples = call.object::<Vae>("vae")?.encode(call.cx, &tensors::image(call, &pixels)?)?;
    Ok(NodeOutput::one(Latent::new(tensors::to_array(call, &samples)?)))
}

fn encode_tiled(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let pixels = first_channels(&call.image("pixels")?)?;
    let (tile, overlap) = (call.count("tile_size", 1)?, call.int("overlap")?);
    let samples = call.object::<Vae>("vae")?.encode_tiled(call.cx, &tensors::image(call, &pixels)?, tile, overlap)?;
    Ok(NodeOutput::one(Latent::new(tensors::to_array(call, &samples)?)))
}

fn encode_for_inpaint(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let vae = call.object::<Vae>("vae")?;
    let masked = masked(call, &call.image("pixels")?, &call.mask("mask")?, vae.compression())?;
    let samples = vae.encode(call.cx, &tensors::image(call, &masked.pixels)?)?;
    let mut latent = Latent::new(tensors::to_array(call, &samples)?);
    let (mask, by) = (masked.mask, call.int::<usize>("grow_mask_by")?);
    let grown = call.aside(mask.0.len().saturating_mul(1 + by), move || grow(&mask, by))?;
    latent.noise_mask = Some(with_channel_axis(&grown));
    Ok(NodeOutput::one(latent))
}

/// Pictures with the masked part greyed out, and the mask at their size.
pub(crate) struct Masked {
    pub(crate) pixels: Image,
    pub(crate) mask: Mask,
}

/// Greys out where the mask, brought to the pictures' size, rounds to 1; both cut to multiples of `cell` about the centre.
pub(crate) fn masked(call: &Call<'_, '_>, pixels: &Image, mask: &Mask, cell: usize) -> Result<Masked> {
    call.reserve(&[mask.batch(), pixels.height(), pixels.width()])?;
    let (mask, width, height) = (mask.clone(), pixels.width(), pixels.height());
    let mask = call.apart(mask.0.len() + width * height, move || resize::mask(&mask, width, height, Method::Bilinear, Crop::Disabled))?;
    let mut pixels = centre_cut(&pixels.0, cell);
    let mask = centre_cut(&mask.0, cell);
    let (batch, masks) = (pixels.shape()[0], mask.shape()[0]);
    if masks != 1 && masks != batch {
        return Err(Error::msg(format!("there are {masks} masks for {batch} pictures; give one mask, or one for each picture")));
    }
    let where_masked = mask.clone();
    let pixels = call.aside(pixels.len(), move || {
        for (index, mut picture) in pixels.outer_iter_mut().enumerate() {
            let mask = where_masked.index_axis(Axis(0), index % masks);
            let colours = picture.shape()[2].min(3);
            for mut channel in picture.axis_iter_mut(Axis(2)).take(colours) {
                Zip::from(&mut channel).and(&mask).for_each(|value, mask| {
                    *value = (*value - 0.5) * (1.0 - mask.round_ties_even()) + 0.5;
                });
            }
        }
        pixels
    })?;
    Ok(Masked { pixels: first_channels(&Image(pixels))?, mask: Mask(mask) })
}

/// The middle part of axes 1 and 2 whose sides are multiples of `cell`.
pub(crate) fn centre_cut<D: Dimension>(array: &ArcArray<f32, D>, cell: usize) -> ArcArray<f32, D> {
    let mut cut = array.clone();
    for axis in [1, 2] {
        let side = cut.shape()[axis];
        let (kept, start) = (side / cell * cell, side % cell / 2);
        if kept != side && kept > 0 {
            cut.slice_axis_inplace(Axis(axis), Slice::from(start..start + kept));
        }
    }
    cut
}

/// Red, green and blue of a picture.
pub(crate) fn first_channels(image: &Image) -> Result<Image> {
    match image.channels() {
        0..3 => Err(Error::msg(format!("a picture with {} channels has no red, green and blue; convert it first", image.channels()))),
        3 => Ok(image.clone()),
        4.. => {
            let mut cut = image.0.clone();
            cut.slice_axis_inplace(Axis(3), Slice::from(..3));
            Ok(Image(cut))
        }
    }
}

/// (B, H, W) as (B, 1, H, W).
pub(crate) fn with_channel_axis(mask: &Mask) -> ArcArray<f32, IxDyn> {
    mask.0.clone().insert_axis(Axis(1)).into_dyn()
}

/// 1 wherever a pixel of the rounded mask is 1 within a square of `by` pixels around; an even square grows further to the lower right.
fn grow(mask: &Mask, by: usize) -> Mask {
    if by == 0 {
        return Mask::new(mask.0.mapv(f32::round_ties_even));
    }
    // A convolution with ones pads (by - 1) / 2 pixels, rounded up, so output x covers x - before ..= x + after.
    let before = (by - 1).div_ceil(2);
    let after = by - 1 - before;
    let mut grown = mask.0.mapv(f32::round_ties_even);
    for axis in [1, 2] {
        let source = grown.clone();
        let side = source.shape()[axis];
        for (at, mut line) in grown.axis_iter_mut(Axis(axis)).enumerate() {
            for from in at.saturating_sub(before)..(at + after + 1).min(side) {
                Zip::from(&mut line).and(&source.index_axis(Axis(axis), from)).for_each(|out, value| *out = out.max(*value));
            }
        }
    }
    Mask(grown.into_shared())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use ndarray::{Array, Array3, Array4};

    use super::*;

    #[test]
    fn a_mask_grows_as_the_reference() {
        let mut mask = Array3::zeros((1, 7, 7));
        mask[[0, 3, 3]] = 0.7;
        let ones = |by: usize| {
            let grown = grow(&Mask::new(mask.clone()), by);
            grown.0.indexed_iter().filter(|(_, v)| **v == 1.0).map(|((_, y, x), _)| (y, x)).collect::<Vec<_>>()
        };
        assert_eq!(ones(0), [(3, 3)]);
        // torch.nn.functional.conv2d(mask.round(), torch.ones((1, 1, 2, 2)), padding=1)[:, :, :7, :7]
        assert_eq!(ones(2), [(3, 3), (3, 4), (4, 3), (4, 4)]);
        assert_eq!(ones(3).len(), 9);
        assert_eq!(ones(4), (2..6).flat_map(|y| (2..6).map(move |x| (y, x))).collect::<Vec<_>>());
    }

    #[test]
    fn the_middle_is_cut_out() {
        let image = Array4::from_shape_fn((1, 11, 16, 3), |(_, y, x, _)| (y * 16 + x) as f32).into_shared();
        let cut = centre_cut(&image, 8);
        assert_eq!(cut.shape(), [1, 8, 16, 3]);
        assert_eq!(cut[[0, 0, 0, 0]], 16.0);
        let small: ArcArray<f32, ndarray::Ix3> = Array::zeros((1, 5, 5)).into_shared();
        assert_eq!(centre_cut(&small, 8).shape(), [1, 5, 5]);
    }
}

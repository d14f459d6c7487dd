//! Blending and compositing of pictures: blend modes, Porter-Duff modes, pasting through a mask, joining and splitting alpha. Knows no
//! node.

use crate::resize::{self, Crop, Method};

use crate::{Error, Result, transform};
use comfyd_values::{Image, Mask};
use ndarray::{ArcArray, Array3, Array4, ArrayView4, ArrayViewMut4, Axis, Ix4, IxDyn, Zip, concatenate, s};

/// How two pictures mix in [`blend`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlendMode {
    /// The second picture.
    Normal,
    /// The product.
    Multiply,
    /// The inverse of the inverses' product.
    Screen,
    /// Multiply where the first is dark, screen where it is light.
    Overlay,
    /// Darkens or lightens the first, depending on the second (the W3C's formula).
    SoftLight,
    /// First minus second, without an absolute value.
    Difference,
}

impl std::str::FromStr for BlendMode {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Ok(match name {
            "normal" => Self::Normal,
            "multiply" => Self::Multiply,
            "screen" => Self::Screen,
            "overlay" => Self::Overlay,
            "soft_light" => Self::SoftLight,
            "difference" => Self::Difference,
            _ => {
                return Err(Error::Parameter(format!(
                    "{name:?} is no blend mode: use normal, multiply, screen, overlay, soft_light or difference"
                )));
            }
        })
    }
}

impl BlendMode {
    fn apply(self, a: f32, b: f32) -> f32 {
        match self {
            Self::Normal => b,
            Self::Multiply => a * b,
            Self::Screen => 1.0 - (1.0 - a) * (1.0 - b),
            Self::Overlay if a <= 0.5 => 2.0 * a * b,
            Self::Overlay => 1.0 - 2.0 * (1.0 - a) * (1.0 - b),
            Self::SoftLight if b <= 0.5 => a - (1.0 - 2.0 * b) * a * (1.0 - a),
            Self::SoftLight => {
                let lifted = if a <= 0.25 { ((16.0 * a - 12.0) * a + 4.0) * a } else { a.sqrt() };
                a + (2.0 * b - 1.0) * (lifted - a)
            }
            Self::Difference => a - b,
        }
    }
}

/// Mixes `second` into `first` by `factor` (0 keeps the first) and clips to 0..1 (ComfyUI's ImageBlend). The second is scaled to the
/// first's size if they differ, and one of the batches may hold one picture.
///
/// # Errors
/// If the batches do not fit.
pub fn blend(first: &Image, second: &Image, factor: f32, mode: BlendMode) -> Result<Image> {
    let (first, second) = match_channels(first, second);
    let second = if (first.height(), first.width()) == (second.height(), second.width()) {
        second
    } else {
        resize::image(&second, first.width(), first.height(), Method::Bicubic, Crop::Center)?
    };
    let batch = match (first.batch(), second.batch()) {
        (a, b) if a == b => a,
        (1, b) => b,
        (a, 1) => a,
        (a, b) => return Err(Error::Shape(format!("batches of {a} and {b} pictures cannot be blended: use equal batches"))),
    };
    let shape = (batch, first.height(), first.width(), first.channels());
    let misfit = || Error::Shape("the pictures to blend have different shapes".into());
    let a = first.0.broadcast(shape).ok_or_else(misfit)?;
    let b = second.0.broadcast(shape).ok_or_else(misfit)?;
    let mixed = Zip::from(a).and(b).map_collect(|&a, &b| (a * (1.0 - factor) + mode.apply(a, b) * factor).clamp(0.0, 1.0));
    Ok(Image::new(mixed))
}

/// Gives `source` the channels of `destination`: superfluous ones are dropped, missing ones (alpha) are 1.
pub fn match_channels(destination: &Image, source: &Image) -> (Image, Image) {
    let (wanted, present) = (destination.channels(), source.channels());
    if present >= wanted {
        return (destination.clone(), Image(source.0.clone().slice_move(s![.., .., .., ..wanted])));
    }
    let (batch, height, width, _) = source.0.dim();
    let mut extended = Array4::ones((batch, height, width, wanted));
    extended.slice_mut(s![.., .., .., ..present]).assign(&source.0);
    (destination.clone(), Image::new(extended))
}

/// Where and how to paste in [`paste`] and [`paste_latent`].
#[derive(Debug, Clone, Copy)]
pub struct Paste<'a> {
    /// Column of the source's left edge in the destination, in pixels.
    pub x: usize,
    /// Row of the source's top edge in the destination, in pixels.
    pub y: usize,
    /// How much of the source shows: 1 all, 0 nothing. Scaled to the source's size.
    pub mask: Option<&'a Mask>,
    /// Whether the source is first scaled to the destination's size.
    pub resize_source: bool,
}

/// Pastes a picture onto another (ComfyUI's ImageCompositeMasked). What lies outside the destination is cut off; a smaller batch
/// repeats.
///
/// # Errors
/// If a picture is empty.
pub fn paste(destination: &Image, source: &Image, paste: &Paste) -> Result<Image> {
    let (destination, source) = match_channels(destination, source);
    let source = match paste.resize_source {
        true => resize::image(&source, destination.width(), destination.height(), Method::Bilinear, Crop::Disabled)?,
        false => source,
    };
    let mut out = destination.0.to_owned();
    paste_planes(out.view_mut().permuted_axes([0, 3, 1, 2]), source.0.view().permuted_axes([0, 3, 1, 2]), paste, 1)?;
    Ok(Image::new(out))
}

/// Pastes latents (B, C, H, W) onto others (ComfyUI's LatentCompositeMasked). Positions are in pixels of the picture: eight to a latent.
///
/// # Errors
/// If there are not four axes, the channels differ, or a latent is empty.
pub fn paste_latent(destination: &ArcArray<f32, IxDyn>, source: &ArcArray<f32, IxDyn>, paste: &Paste) -> Result<ArcArray<f32, IxDyn>> {
    let four_axes = |samples: ArcArray<f32, IxDyn>| {
        let shape = samples.shape().to_vec();
        samples.into_dimensionality::<Ix4>().map_err(|_| Error::Shape(format!("only latents with four axes can be pasted, not {shape:?}")))
    };
    let destination = four_axes(destination.clone())?;
    let (height, width) = (destination.shape()[2], destination.shape()[3]);
    let source = match paste.resize_source {
        true => four_axes(resize::latent(source, width, height, Method::Bilinear, Crop::Disabled)?)?,
        false => four_axes(source.clone())?,
    };
    if source.shape()[1] != destination.shape()[1] {
        return Err(Error::Shape(format!(
            "latents of {} channels cannot be pasted onto latents of {}: use latents of the same model family",
            source.shape()[1],
            destination.shape()[1]
        )));
    }
    let mut out = destination.to_owned();
    paste_planes(out.view_mut(), source.view(), paste, 8)?;
    Ok(out.into_dyn().into_shared())
}

/// Pastes (B, C, H, W); `unit` is how many pixels of [`Paste`] make one position.
fn paste_planes(mut destination: ArrayViewMut4<f32>, source: ArrayView4<f32>, paste: &Paste, unit: usize) -> Result<()> {
    let (batch, _, height, width) = destination.dim();
    let (source_batch, _, source_height, source_width) = source.dim();
    let left = (paste.x / unit).min(width);
    let top = (paste.y / unit).min(height);
    let visible_width = source_width.min(width - left);
    let visible_height = source_height.min(height - top);
    let mask = match paste.mask {
        Some(mask) => Some(resize::mask(mask, source_width, source_height, Method::Bilinear, Crop::Disabled)?),
        None => None,
    };
    if source_batch == 0 || mask.as_ref().is_some_and(|mask| mask.batch() == 0) {
        return Err(Error::Shape("there is nothing to paste: the source or the mask is an empty batch".into()));
    }
    for index in 0..batch {
        let from = source.slice(s![index % source_batch, .., ..visible_height, ..visible_width]);
        let mut to = destination.slice_mut(s![index, .., top..top + visible_height, left..left + visible_width]);
        match &mask {
            None => to.assign(&from),
            Some(mask) => {
                // Repeated to the source's batch, which repeats itself.
                let mask = mask.0.slice(s![index % mask.batch(), ..visible_height, ..visible_width]);
                let mask = mask.broadcast(to.raw_dim()).ok_or_else(|| Error::Shape("the mask does not fit the source".into()))?;
                Zip::from(&mut to).and(from).and(mask).for_each(|to, &from, &mask| *to = mask * from + (1.0 - mask) * *to);
            }
        }
    }
    Ok(())
}

/// The modes of [`porter_duff`], named as ComfyUI names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the operators are defined in Porter and Duff's paper and the Android reference")]
pub enum PorterDuff {
    Add,
    Clear,
    Darken,
    Dst,
    DstAtop,
    DstIn,
    DstOut,
    DstOver,
    Lighten,
    Multiply,
    Overlay,
    Screen,
    Src,
    SrcAtop,
    SrcIn,
    SrcOut,
    SrcOver,
    Xor,
}

impl PorterDuff {
    /// All modes with their names, in the order of ComfyUI's list.
    pub const ALL: [(&'static str, Self); 18] = [
        ("ADD", Self::Add),
        ("CLEAR", Self::Clear),
        ("DARKEN", Self::Darken),
        ("DST", Self::Dst),
        ("DST_ATOP", Self::DstAtop),
        ("DST_IN", Self::DstIn),
        ("DST_OUT", Self::DstOut),
        ("DST_OVER", Self::DstOver),
        ("LIGHTEN", Self::Lighten),
        ("MULTIPLY", Self::Multiply),
        ("OVERLAY", Self::Overlay),
        ("SCREEN", Self::Screen),
        ("SRC", Self::Src),
        ("SRC_ATOP", Self::SrcAtop),
        ("SRC_IN", Self::SrcIn),
        ("SRC_OUT", Self::SrcOut),
        ("SRC_OVER", Self::SrcOver),
        ("XOR", Self::Xor),
    ];

    /// Resulting alpha, from the alphas of source and destination.
    fn alpha(self, src: f32, dst: f32) -> f32 {
        match self {
            Self::Add => (src + dst).clamp(0.0, 1.0),
            Self::Clear => 0.0,
            Self::Darken | Self::Lighten | Self::Overlay | Self::Screen => src + dst - src * dst,
            Self::Dst | Self::SrcAtop => dst,
            Self::Src | Self::DstAtop => src,
            Self::DstIn | Self::SrcIn | Self::Multiply => src * dst,
            Self::DstOut => (1.0 - src) * dst,
            Self::SrcOut => (1.0 - dst) * src,
            Self::DstOver => dst + (1.0 - dst) * src,
            Self::SrcOver => src + (1.0 - src) * dst,
            Self::Xor => (1.0 - dst) * src + (1.0 - src) * dst,
        }
    }

    /// Resulting premultiplied colour, from premultiplied colours `s`, `d` and alphas `sa`, `da`.
    fn color(self, s: f32, sa: f32, d: f32, da: f32) -> f32 {
        match self {
            Self::Add => (s + d).clamp(0.0, 1.0),
            Self::Clear => 0.0,
            Self::Darken => (1.0 - da) * s + (1.0 - sa) * d + s.min(d),
            Self::Lighten => (1.0 - da) * s + (1.0 - sa) * d + s.max(d),
            Self::Dst => d,
            Self::DstAtop => sa * d + (1.0 - da) * s,
            Self::DstIn => d * sa,
            Self::DstOut => (1.0 - sa) * d,
            Self::DstOver => d + (1.0 - da) * s,
            Self::Multiply => s * d,
            Self::Overlay if 2.0 * d < da => 2.0 * s * d,
            Self::Overlay => sa * da - 2.0 * (da - s) * (sa - d),
            Self::Screen => s + d - s * d,
            Self::Src => s,
            Self::SrcAtop => da * s + (1.0 - sa) * d,
            Self::SrcIn => s * da,
            Self::SrcOut => (1.0 - da) * s,
            Self::SrcOver => s + (1.0 - sa) * d,
            Self::Xor => (1.0 - da) * s + (1.0 - sa) * d,
        }
    }
}

impl std::str::FromStr for PorterDuff {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let known = Self::ALL.iter().find(|(known, _)| *known == name);
        known.map(|(_, mode)| *mode).ok_or_else(|| Error::Parameter(format!("{name:?} is no Porter-Duff mode: use one like SRC_OVER")))
    }
}

/// Composites pictures with their masks (1 - alpha), and gives the result's mask (ComfyUI's PorterDuffImageComposite). Everything is
/// scaled to the destination's size, and the smallest batch decides how many there are.
///
/// # Errors
/// If the pictures have different channels, or there is nothing to composite.
pub fn porter_duff(
    source: &Image,
    source_mask: &Mask,
    destination: &Image,
    destination_mask: &Mask,
    mode: PorterDuff,
) -> Result<(Image, Mask)> {
    if source.channels() != destination.channels() {
        return Err(Error::Shape(format!(
            "source and destination must have equally many channels, not {} and {}",
            source.channels(),
            destination.channels()
        )));
    }
    let batch = source.batch().min(source_mask.batch()).min(destination.batch()).min(destination_mask.batch());
    if batch == 0 {
        return Err(Error::Shape("there is nothing to composite: one of the batches is empty".into()));
    }
    let (_, height, width, channels) = destination.0.dim();
    let fit_mask = |mask: &Mask| match (mask.height(), mask.width()) == (height, width) {
        true => Ok(mask.clone()),
        false => resize::mask(mask, width, height, Method::Bicubic, Crop::Center),
    };
    let (source_mask, destination_mask) = (fit_mask(source_mask)?, fit_mask(destination_mask)?);
    let source = match (source.height(), source.width()) == (height, width) {
        true => source.clone(),
        false => resize::image(source, width, height, Method::Bicubic, Crop::Center)?,
    };

    let mut out = Array4::zeros((batch, height, width, channels));
    let mut out_mask = Array3::zeros((batch, height, width));
    for ((index, y, x), mask) in out_mask.indexed_iter_mut() {
        let source_alpha = 1.0 - source_mask.0[[index, y, x]];
        let destination_alpha = 1.0 - destination_mask.0[[index, y, x]];
        let alpha = mode.alpha(source_alpha, destination_alpha);
        for channel in 0..channels {
            let s = source.0[[index, y, x, channel]] * source_alpha;
            let d = destination.0[[index, y, x, channel]] * destination_alpha;
            let color = mode.color(s, source_alpha, d, destination_alpha);
            // Without alpha there is no colour.
            out[[index, y, x, channel]] = if alpha > 1e-5 { (color / alpha).clamp(0.0, 1.0) } else { 0.0 };
        }
        *mask = 1.0 - alpha;
    }
    Ok((Image::new(out), Mask::new(out_mask)))
}

/// Splits RGBA into RGB and a mask of 1 - alpha; the mask is 0 if there is no alpha (ComfyUI's SplitImageWithAlpha).
pub fn split_alpha(image: &Image) -> (Image, Mask) {
    let (batch, height, width, channels) = image.0.dim();
    let rgb = Image(image.0.clone().slice_move(s![.., .., .., ..channels.min(3)]));
    match channels {
        4.. => (rgb, Mask::new(image.0.slice(s![.., .., .., 3]).mapv(|alpha| 1.0 - alpha))),
        _ => (rgb, Mask::solid(batch, height, width, 0.0)),
    }
}

/// Joins RGB with a mask of 1 - alpha, scaled to the picture's size; the larger batch decides, and the smaller one repeats itself
/// (ComfyUI's JoinImageWithAlpha).
///
/// # Errors
/// If the picture or the mask is empty, or the result would be too large.
pub fn join_alpha(image: &Image, mask: &Mask) -> Result<Image> {
    let batch = image.batch().max(mask.batch());
    let mask = resize::mask(mask, image.width(), image.height(), Method::Bilinear, Crop::Disabled)?;
    let (image, mask) = (transform::repeat_to_batch(&image.0, batch)?, transform::repeat_to_batch(&mask.0, batch)?);
    let rgb = image.slice(s![.., .., .., ..image.dim().3.min(3)]);
    let alpha = mask.mapv(|value| 1.0 - value).insert_axis(Axis(3));
    Ok(Image::new(concatenate![Axis(3), rgb, alpha]))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::excessive_precision)]

    use super::*;

    fn pixel(values: [f32; 3]) -> Image {
        Image::new(Array4::from_shape_vec((1, 1, 1, 3), values.to_vec()).unwrap())
    }

    // a = torch.tensor([0.1, 0.3, 0.9]); b = torch.tensor([0.2, 0.7, 0.6]); every mode of Blend with factor 0.8
    // source b with mask 0.25, destination a with mask 0.4: every mode of PorterDuffImageComposite, and its mask
    const A: [f32; 3] = [0.1, 0.3, 0.9];
    const B: [f32; 3] = [0.2, 0.7, 0.6];
    const BLENDED: [(&str, [f32; 3]); 6] = [
        ("normal", [0.1800000, 0.6200000, 0.6600000]),
        ("multiply", [0.0360000, 0.2280000, 0.6120000]),
        ("screen", [0.2440000, 0.6920000, 0.9480000]),
        ("overlay", [0.0520000, 0.3960000, 0.9160000]),
        ("soft_light", [0.0568000, 0.3792712, 0.9077893]),
        ("difference", [0.0000000, 0.0000000, 0.4200000]),
    ];
    const COMPOSITED: [(&str, [f32; 4]); 18] = [
        ("ADD", [0.2100000, 0.7050000, 0.9900000, 0.0000000]),
        ("CLEAR", [0.0000000, 0.0000000, 0.0000000, 1.0000000]),
        ("DARKEN", [0.1500000, 0.4833333, 0.8500000, 0.1000000]),
        ("DST", [0.1000000, 0.3000000, 0.9000000, 0.4000000]),
        ("DST_ATOP", [0.1400000, 0.4599999, 0.7800000, 0.2500000]),
        ("DST_IN", [0.1000000, 0.3000000, 0.9000000, 0.5500000]),
        ("DST_OUT", [0.1000000, 0.3000000, 0.9000000, 0.8500000]),
        ("DST_OVER", [0.1333333, 0.4333333, 0.8000001, 0.1000000]),
        ("LIGHTEN", [0.2500000, 0.8666667, 0.9500000, 0.1000000]),
        ("MULTIPLY", [0.0200000, 0.2100000, 0.5400000, 0.5500000]),
        ("OVERLAY", [0.0200000, 0.2100000, 0.4300000, 0.1000000]),
        ("SCREEN", [0.2233333, 0.6783333, 0.8300000, 0.1000000]),
        ("SRC", [0.2000000, 0.7000000, 0.6000000, 0.2500000]),
        ("SRC_ATOP", [0.1750000, 0.6000000, 0.6750000, 0.4000000]),
        ("SRC_IN", [0.2000000, 0.7000000, 0.6000000, 0.5500000]),
        ("SRC_OUT", [0.2000000, 0.7000000, 0.6000000, 0.7000000]),
        ("SRC_OVER", [0.1833334, 0.6333333, 0.6500000, 0.1000000]),
        ("XOR", [0.1666667, 0.5666667, 0.7000000, 0.5500000]),
    ];

    #[test]
    fn blend_modes_equal_the_references() {
        for (name, expected) in BLENDED {
            let blended = blend(&pixel(A), &pixel(B), 0.8, name.parse().unwrap()).unwrap();
            for (a, b) in blended.0.iter().zip(expected) {
                assert!((a - b).abs() < 1e-6, "{name}: {a} against {b}");
            }
        }
    }

    #[test]
    fn porter_duff_modes_equal_the_references() {
        assert_eq!(COMPOSITED.map(|(name, _)| name), PorterDuff::ALL.map(|(name, _)| name));
        for (name, expected) in COMPOSITED {
            let masks = (Mask::solid(1, 1, 1, 0.25), Mask::solid(1, 1, 1, 0.4));
            let (image, mask) = porter_duff(&pixel(B), &masks.0, &pixel(A), &masks.1, name.parse().unwrap()).unwrap();
            for (a, b) in image.0.iter().chain(&mask.0).zip(expected) {
                assert!((a - b).abs() < 1e-6, "{name}: {a} against {b}");
            }
        }
    }

    #[test]
    fn pasting_is_cut_off_at_the_border() {
        let (black, white) = (Image::solid(2, 3, 3, 0), Image::solid(1, 2, 2, 0xffffff));
        let at = |x, y| Paste { x, y, mask: None, resize_source: false };
        let out = paste(&black, &white, &at(2, 1)).unwrap();
        assert_eq!(out.0.sum(), 2.0 * 2.0 * 3.0);
        assert_eq!(out.0[[1, 2, 2, 0]], 1.0);
        assert_eq!(paste(&black, &white, &at(9, 9)).unwrap(), black);
        let half = Mask::solid(1, 5, 5, 0.5);
        let out = paste(&black, &white, &Paste { mask: Some(&half), resize_source: true, ..at(0, 0) }).unwrap();
        assert!(out.0.iter().all(|value| *value == 0.5));
    }

    #[test]
    fn alpha_is_split_and_joined() {
        let (rgb, mask) = (Image::solid(2, 3, 4, 0x102030), Mask::solid(1, 3, 4, 0.25));
        let joined = join_alpha(&rgb, &mask).unwrap();
        assert_eq!(joined.0.dim(), (2, 3, 4, 4));
        let (back, back_mask) = split_alpha(&joined);
        assert_eq!((back.0.dim(), &back_mask), ((2, 3, 4, 3), &Mask::solid(2, 3, 4, 0.25)));
        assert_eq!(join_alpha(&rgb, &Mask::solid(5, 2, 2, 0.25)).unwrap().0.dim(), (5, 3, 4, 4));
        assert_eq!(split_alpha(&rgb).1, Mask::solid(2, 3, 4, 0.0));
        assert_eq!(match_channels(&joined, &rgb).1.0[[0, 0, 0, 3]], 1.0);
        assert_eq!(match_channels(&rgb, &joined).1.channels(), 3);
    }
}

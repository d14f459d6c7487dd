//! Colour spaces. Knows the formulas of kornia and Pillow that ComfyUI's nodes use.

use crate::{Error, Result};
use comfyd_values::Image;
use ndarray::{Array3, Array4, Axis};

/// `a * b / 255`, rounded, in Pillow's integers.
pub(crate) fn multiplied(a: u8, b: u8) -> u8 {
    let product = u32::from(a) * u32::from(b) + 128;
    (((product >> 8) + product) >> 8) as u8
}

/// RGB of CMYK, in Pillow's integers.
pub(crate) fn from_cmyk([c, m, y, k]: [u8; 4]) -> [u8; 3] {
    let light = 255 - k;
    [c, m, y].map(|ink| light.saturating_sub(multiplied(ink, light)))
}

/// RGBA of colours that are premultiplied with their alpha, in Pillow's integers.
pub(crate) fn multiplied_back([r, g, b, alpha]: [u8; 4]) -> [u8; 4] {
    let channel = |value: u8| (u32::from(value) * 255).checked_div(u32::from(alpha)).unwrap_or(0).min(255) as u8;
    [channel(r), channel(g), channel(b), alpha]
}

/// Splits RGB into Y, U (Cb) and V (Cr), each as a picture of three equal channels (ComfyUI's ImageRGBToYUV). U and V are centred at 0.5.
///
/// # Errors
/// If the picture does not have three channels.
pub fn rgb_to_yuv(image: &Image) -> Result<[Image; 3]> {
    let (batch, height, width, channels) = image.0.dim();
    if channels != 3 {
        return Err(Error::Shape(format!("only pictures with three channels have YUV, this one has {channels}: remove its alpha")));
    }
    let mut planes = [(); 3].map(|()| Array4::zeros((batch, height, width, 3)));
    for ((index, y, x), _) in image.0.index_axis(Axis(3), 0).indexed_iter() {
        let [r, g, b] = [0, 1, 2].map(|channel| image.0[[index, y, x, channel]]);
        let luma = 0.299 * r + 0.587 * g + 0.114 * b;
        let values = [luma, (b - luma) * 0.564 + 0.5, (r - luma) * 0.713 + 0.5];
        for (plane, value) in planes.iter_mut().zip(values) {
            for channel in 0..3 {
                plane[[index, y, x, channel]] = value;
            }
        }
    }
    Ok(planes.map(Image::new))
}

/// Joins Y, U and V, each the mean of its picture's channels, and clips to 0..1 (ComfyUI's ImageYUVToRGB).
///
/// # Errors
/// If the three differ in batch or size.
pub fn yuv_to_rgb(y: &Image, u: &Image, v: &Image) -> Result<Image> {
    let mean = |image: &Image| image.0.mean_axis(Axis(3)).ok_or_else(|| Error::Shape("a picture without channels has no colour".into()));
    let (luma, cb, cr): (Array3<f32>, Array3<f32>, Array3<f32>) = (mean(y)?, mean(u)?, mean(v)?);
    if luma.dim() != cb.dim() || luma.dim() != cr.dim() {
        return Err(Error::Shape(format!(
            "Y, U and V must have the same batch and size, not {:?}, {:?} and {:?}",
            luma.dim(),
            cb.dim(),
            cr.dim()
        )));
    }
    let (batch, height, width) = luma.dim();
    let rgb = Array4::from_shape_fn((batch, height, width, 3), |(index, row, column, channel)| {
        let at = [index, row, column];
        let (luma, cb, cr) = (luma[at], cb[at] - 0.5, cr[at] - 0.5);
        let value = match channel {
            0 => luma + 1.402_524_6 * cr,
            1 => luma - 0.714_403_45 * cr - 0.344_340_14 * cb,
            _ => luma + 1.773_049_6 * cb,
        };
        value.clamp(0.0, 1.0)
    });
    Ok(Image::new(rgb))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::excessive_precision)]

    use super::*;
    use ndarray::array;

    // c = kornia.color; t = c.rgb_to_ycbcr(torch.tensor([0.8, 0.3, 0.1]).reshape(1, 3, 1, 1)); t, c.ycbcr_to_rgb(t)
    #[test]
    fn values_equal_kornias() {
        let image = Image::new(array![[[[0.8_f32, 0.3, 0.1]]]]);
        let [y, u, v] = rgb_to_yuv(&image).unwrap();
        for (plane, expected) in [(&y, 0.4267000), (&u, 0.3157412), (&v, 0.7661629)] {
            assert!(plane.0.iter().all(|value| (value - expected).abs() < 1e-6), "{plane:?} against {expected}");
        }
        let back = yuv_to_rgb(&y, &u, &v).unwrap();
        for (a, b) in back.0.iter().zip([0.8000000, 0.3000001, 0.1000000]) {
            assert!((a - b).abs() < 1e-6, "{a} against {b}");
        }
        assert!(yuv_to_rgb(&y, &u, &Image::solid(1, 2, 1, 0)).is_err());
        assert!(rgb_to_yuv(&Image::new(Array4::zeros((1, 1, 1, 4)))).is_err());
    }
}

//! Eight bits per channel: the form in which pictures enter and leave files. Knows no file format.

use crate::{Error, Result};
use comfyd_values::Image;
use ndarray::{Array4, ArrayView3};

/// A picture of 8-bit channels, rows top to bottom, pixels interleaved. Channels: 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raster {
    width: usize,
    height: usize,
    channels: usize,
    data: Vec<u8>,
}

impl Raster {
    /// Takes `data` of exactly `width * height * channels` bytes.
    ///
    /// # Errors
    /// If a side is zero or over 2^24, there are not 1 to 4 channels, or the length does not fit.
    pub fn new(width: usize, height: usize, channels: usize, data: Vec<u8>) -> Result<Self> {
        const MAX_SIDE: usize = 1 << 24;
        let sides_fit = (1..=MAX_SIDE).contains(&width) && (1..=MAX_SIDE).contains(&height);
        if !sides_fit || !(1..=4).contains(&channels) || data.len() != width * height * channels {
            return Err(Error::Shape(format!(
                "{} bytes do not make a picture of {width}x{height} pixels with {channels} channels",
                data.len()
            )));
        }
        Ok(Self { width, height, channels, data })
    }

    /// Picture `index` of a batch, quantised as ComfyUI quantises when it saves: clip(255·x, 0, 255), fraction dropped.
    ///
    /// # Errors
    /// If there is no such picture, it is empty, or it has more than four channels.
    pub fn from_image(image: &Image, index: usize) -> Result<Self> {
        if index >= image.batch() {
            return Err(Error::Shape(format!("picture {index} was asked for, but the batch holds {}", image.batch())));
        }
        Self::from_view(image.0.index_axis(ndarray::Axis(0), index))
    }

    /// Like [`Raster::from_image`], for one picture (H, W, C).
    ///
    /// # Errors
    /// If it is empty or has more than four channels.
    pub fn from_view(view: ArrayView3<f32>) -> Result<Self> {
        let (height, width, channels) = view.dim();
        let data = match view.as_slice() {
            Some(values) => values.iter().map(|&value| quantize(value)).collect(),
            None => view.iter().map(|&value| quantize(value)).collect(),
        };
        Self::new(width, height, channels, data)
    }

    /// Pixels in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Bytes per pixel.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// The bytes, row by row.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// Gives the bytes away.
    pub fn into_data(self) -> Vec<u8> {
        self.data
    }

    /// Whether there is an alpha channel.
    pub fn has_alpha(&self) -> bool {
        matches!(self.channels, 2 | 4)
    }

    /// The same picture as RGB; alpha is dropped, not blended.
    pub fn to_rgb(&self) -> Self {
        self.map_pixels(3, |pixel| match *pixel {
            [grey] | [grey, _] => [grey, grey, grey, 0],
            [r, g, b] | [r, g, b, _] => [r, g, b, 0],
            _ => [0; 4],
        })
    }

    /// The same picture as RGBA; opaque where it had no alpha.
    pub fn to_rgba(&self) -> Self {
        self.map_pixels(4, |pixel| match *pixel {
            [grey] => [grey, grey, grey, 255],
            [grey, alpha] => [grey, grey, grey, alpha],
            [r, g, b] => [r, g, b, 255],
            [r, g, b, alpha] => [r, g, b, alpha],
            _ => [0; 4],
        })
    }

    /// The alpha channel as a grey picture; white where there is none.
    pub fn alpha(&self) -> Self {
        self.map_pixels(1, |pixel| match *pixel {
            [_, alpha] | [_, _, _, alpha] => [alpha, 0, 0, 0],
            _ => [255, 0, 0, 0],
        })
    }

    /// A rectangle of it.
    ///
    /// # Errors
    /// If it is empty or reaches over an edge.
    pub fn crop(&self, x: usize, y: usize, width: usize, height: usize) -> Result<Self> {
        if x + width > self.width || y + height > self.height {
            return Err(Error::Shape(format!("{width}x{height} pixels at {x}, {y} are not all in {}x{}", self.width, self.height)));
        }
        let row = |y: usize| &self.data[(y * self.width + x) * self.channels..][..width * self.channels];
        Self::new(width, height, self.channels, (y..y + height).flat_map(row).copied().collect())
    }

    /// A batch of one picture with values byte / 255.
    pub fn to_image(&self) -> Image {
        let shape = (1, self.height, self.width, self.channels);
        let data = &self.data;
        // The index runs in the order of the bytes.
        let mut bytes = data.iter();
        Image::new(Array4::from_shape_simple_fn(shape, || f32::from(bytes.next().copied().unwrap_or(0)) / 255.0))
    }

    fn map_pixels(&self, channels: usize, pixel: impl Fn(&[u8]) -> [u8; 4]) -> Self {
        if channels == self.channels {
            return self.clone();
        }
        let mut data = Vec::with_capacity(self.width * self.height * channels);
        for source in self.data.chunks_exact(self.channels) {
            data.extend_from_slice(&pixel(source)[..channels]);
        }
        Self { width: self.width, height: self.height, channels, data }
    }
}

/// clip(255·x, 0, 255) with the fraction dropped; NaN becomes 0.
pub(crate) fn quantize(value: f32) -> u8 {
    // A cast saturates and sends NaN to 0.
    (255.0 * value) as u8
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;
    use ndarray::array;

    #[test]
    fn quantising_truncates_and_clips() {
        let image = Image::new(array![[[[0.999_f32], [1.5], [-0.2], [0.5], [f32::NAN]]]]);
        assert_eq!(Raster::from_image(&image, 0).unwrap().data(), [254, 255, 0, 127, 0]);
        assert!(Raster::from_image(&image, 1).unwrap_err().to_string().contains("picture 1"));
    }

    #[test]
    fn every_byte_survives_the_way_to_floats_and_back() {
        let raster = Raster::new(256, 1, 1, (0..=255).collect()).unwrap();
        assert_eq!(Raster::from_image(&raster.to_image(), 0).unwrap(), raster);
    }

    #[test]
    fn channels_convert() {
        let raster = Raster::new(1, 1, 2, vec![7, 9]).unwrap();
        assert_eq!(raster.to_rgb().data(), [7, 7, 7]);
        assert_eq!(raster.to_rgba().data(), [7, 7, 7, 9]);
        assert_eq!(raster.alpha().data(), [9]);
        assert_eq!(raster.to_rgb().alpha().data(), [255]);
        assert!(Raster::new(2, 1, 3, vec![0; 5]).is_err());
        assert!(Raster::new(0, 1, 3, vec![]).is_err());
    }
}

//! The arrays that travel between nodes. They know their axes and their value range, not how they were made.

use comfyd_node::Opaque;
use ndarray::{ArcArray, Array3, Array4, Ix3, Ix4, IxDyn};
use serde_json::{Map, Value};

/// Pictures on a link, `IMAGE`: (batch, height, width, channels), values nominally 0..1. Channels are 3 (RGB), 4 (RGBA) or 1 (grey).
///
/// A clone shares the array.
#[derive(Debug, Clone, PartialEq)]
pub struct Image(pub ArcArray<f32, Ix4>);

impl Image {
    /// Takes an owned array (B, H, W, C).
    pub fn new(array: Array4<f32>) -> Self {
        Self(array.into_shared())
    }

    /// `batch` pictures of one colour, given as 0xRRGGBB.
    pub fn solid(batch: usize, height: usize, width: usize, color: u32) -> Self {
        let channel = |shift: u32| (f64::from((color >> shift) & 0xff) / 255.0) as f32;
        let pixel = [channel(16), channel(8), channel(0)];
        let mut pictures = Array4::zeros((batch, height, width, 3));
        pictures.as_slice_mut().unwrap_or_default().chunks_exact_mut(3).for_each(|place| place.copy_from_slice(&pixel));
        Self::new(pictures)
    }

    /// How many pictures.
    pub fn batch(&self) -> usize {
        self.0.shape()[0]
    }

    /// Rows of a picture.
    pub fn height(&self) -> usize {
        self.0.shape()[1]
    }

    /// Columns of a picture.
    pub fn width(&self) -> usize {
        self.0.shape()[2]
    }

    /// Values per pixel.
    pub fn channels(&self) -> usize {
        self.0.shape()[3]
    }
}

/// Masks on a link, `MASK`: (batch, height, width), values nominally 0..1.
///
/// A clone shares the array.
#[derive(Debug, Clone, PartialEq)]
pub struct Mask(pub ArcArray<f32, Ix3>);

impl Mask {
    /// Takes an owned array (B, H, W).
    pub fn new(array: Array3<f32>) -> Self {
        Self(array.into_shared())
    }

    /// `batch` masks of one value.
    pub fn solid(batch: usize, height: usize, width: usize, value: f32) -> Self {
        Self::new(Array3::from_elem((batch, height, width), value))
    }

    /// How many masks.
    pub fn batch(&self) -> usize {
        self.0.shape()[0]
    }

    /// Rows of a mask.
    pub fn height(&self) -> usize {
        self.0.shape()[1]
    }

    /// Columns of a mask.
    pub fn width(&self) -> usize {
        self.0.shape()[2]
    }
}

/// Latents on a link, `LATENT`: the samples and what belongs to them.
///
/// A clone shares the arrays.
#[derive(Debug, Clone, PartialEq)]
pub struct Latent {
    /// (B, C, H, W), or (B, C, T, H, W) for video.
    pub samples: ArcArray<f32, IxDyn>,
    /// Where to sample: 1 renews, 0 keeps. As the nodes give it: (B, H, W) or (B, 1, H, W), of any resolution.
    pub noise_mask: Option<ArcArray<f32, IxDyn>>,
    /// Which place in the noise sequence each sample takes.
    pub batch_index: Option<Vec<i64>>,
    /// Other keys, such as `type` or `downscale_ratio`.
    pub extra: Map<String, Value>,
}

impl Latent {
    /// Samples without mask, batch index or further keys.
    pub fn new(samples: ArcArray<f32, IxDyn>) -> Self {
        Self { samples, noise_mask: None, batch_index: None, extra: Map::new() }
    }
}

impl Opaque for Image {
    fn type_name(&self) -> &'static str {
        "IMAGE"
    }

    fn size_bytes(&self) -> usize {
        self.0.len() * size_of::<f32>()
    }

    fn describe(&self) -> String {
        format!("{} of {} x {} pixels, {} channels", counted(self.batch(), "image"), self.width(), self.height(), self.channels())
    }
}

impl Opaque for Mask {
    fn type_name(&self) -> &'static str {
        "MASK"
    }

    fn size_bytes(&self) -> usize {
        self.0.len() * size_of::<f32>()
    }

    fn describe(&self) -> String {
        format!("{} of {} x {} pixels", counted(self.batch(), "mask"), self.width(), self.height())
    }
}

impl Opaque for Latent {
    fn type_name(&self) -> &'static str {
        "LATENT"
    }

    fn size_bytes(&self) -> usize {
        (self.samples.len() + self.noise_mask.as_ref().map_or(0, |mask| mask.len())) * size_of::<f32>()
    }

    fn describe(&self) -> String {
        let axes: Vec<String> = self.samples.shape().iter().map(usize::to_string).collect();
        let mask = if self.noise_mask.is_some() { ", with a noise mask" } else { "" };
        format!("a latent of shape {}{mask}", axes.join(" x "))
    }
}

/// So many of something, for people.
pub(crate) fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

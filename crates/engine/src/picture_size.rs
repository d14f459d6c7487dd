//! What SDXL's conditions say of sizes. What a model makes of them is its family's business.

/// What SDXL is told about the picture's size, in pixels. Absent values follow the latent's size.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct PictureSize {
    /// Width of the picture before cropping.
    pub width: Option<f64>,
    /// Height of the picture before cropping.
    pub height: Option<f64>,
    /// Left edge of the crop.
    pub crop_w: Option<f64>,
    /// Top edge of the crop.
    pub crop_h: Option<f64>,
    /// Width of the picture.
    pub target_width: Option<f64>,
    /// Height of the picture.
    pub target_height: Option<f64>,
    /// The refiner's aesthetic score.
    pub aesthetic_score: Option<f64>,
}

//! Upscaling models on links.

use std::fmt;

use candle_core::Tensor;
use comfyd_node::{Context, Opaque};

use crate::{Error, Result};

/// `UPSCALE_MODEL`.
#[derive(Clone)]
pub struct UpscaleModel {}

impl UpscaleModel {
    /// How many times larger its results are.
    pub fn scale(&self) -> usize {
        1
    }

    /// `image (B, H, W, 3)` in tiles to `(B, H * scale, W * scale, 3)`, values 0..1. Reports progress per tile.
    pub fn upscale(&self, cx: &Context<'_>, image: &Tensor) -> Result<Tensor> {
        let _ = (cx, image);
        Err(Error::msg("upscaling is not built yet"))
    }
}

impl fmt::Debug for UpscaleModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe())
    }
}

impl Opaque for UpscaleModel {
    fn type_name(&self) -> &'static str {
        "UPSCALE_MODEL"
    }

    fn size_bytes(&self) -> usize {
        0
    }
}

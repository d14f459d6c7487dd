//! Vision encoders on links, and pictures as they see them.

use std::fmt;
use std::sync::Arc;

use candle_core::Tensor;
use comfyd_imaging::resize::antialiased_bicubic;
use comfyd_models::Vb;
use comfyd_models::clip_vision::{VisionConfig, VisionModel};
use comfyd_node::{Context, Opaque};
use comfyd_weights::StateDict;

use crate::engine::cancel_check;
use crate::part::{Part, Weights};
use crate::precision::Precision;
use crate::{Engine, Error, Result};

/// What becomes of a picture that is not square.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VisionCrop {
    /// Its middle is taken.
    Center,
    /// It is stretched.
    Stretch,
}

/// `CLIP_VISION`.
#[derive(Clone)]
pub struct ClipVision {
    engine: Engine,
    config: Arc<VisionConfig>,
    weights: Weights,
}

/// `CLIP_VISION_OUTPUT`: pictures as a vision encoder sees them, on the CPU.
#[derive(Debug, Clone)]
pub struct VisionOutput {
    /// The last block's output (B, T, D); `None` where outputs were joined.
    pub last: Option<Tensor>,
    /// The output of the block before it (B, T, D).
    pub penultimate: Tensor,
    /// The embedding (B, P), or (B, T, D) of encoders without one; `None` where outputs were joined.
    pub embeds: Option<Tensor>,
}

impl ClipVision {
    pub(crate) fn new(engine: &Engine, weights: StateDict) -> Result<Self> {
        let config = Arc::new(VisionConfig::detect(&weights)?);
        // As the text encoders.
        let weights = Weights::new(Part::new(weights, engine.device().clone(), Precision::Half));
        Ok(Self { engine: engine.clone(), config, weights })
    }

    /// Pictures (B, H, W, >= 3), values 0..1 (CLIPVisionEncode).
    pub fn encode(&self, cx: &Context<'_>, pictures: &Tensor, crop: VisionCrop) -> Result<VisionOutput> {
        let (batch, _, _, channels) = pictures.dims4()?;
        if channels < 3 || batch == 0 {
            return Err(Error::msg(format!("pictures of the shape {:?} cannot be encoded; they need three colours", pictures.dims())));
        }
        let check = cancel_check(cx);
        let side = self.config.picture as u64;
        let _room = self.engine.room(self.config.memory_bytes() + 3 * 4 * 4 * side * side)?;
        let _held = self.engine.account().reserve(self.output_bytes(batch))?;
        let model = self
            .engine
            .residency()
            .get(&[&self.weights], || Ok(VisionModel::new(&self.config, &Vb::new(Arc::new(self.weights.clone())))?))?;
        let mut outputs = Vec::new();
        for index in 0..batch {
            check()?;
            let pixels = self.pixels(&pictures.narrow(0, index, 1)?.narrow(3, 0, 3)?, crop)?;
            outputs.push(model.forward(&pixels.to_device(self.engine.device())?, &check)?);
        }
        let joined = |part: fn(&comfyd_models::clip_vision::VisionOutput) -> &Tensor| -> Result<Tensor> {
            let parts = outputs.iter().map(|output| part(output).to_device(&candle_core::Device::Cpu));
            Ok(Tensor::cat(&parts.collect::<candle_core::Result<Vec<_>>>()?, 0)?)
        };
        Ok(VisionOutput {
            last: Some(joined(|output| &output.last)?),
            penultimate: joined(|output| &output.penultimate)?,
            embeds: Some(joined(|output| &output.embeds)?),
        })
    }

    /// One picture (1, H, W, 3) as the encoder takes it (1, 3, P, P): its shorter side, or each, scaled to P; in steps of eight bits.
    fn pixels(&self, picture: &Tensor, crop: VisionCrop) -> Result<Tensor> {
        let side = self.config.picture;
        let (_, height, width, _) = picture.dims4()?;
        let (_, mut data) = crate::values(&picture.permute((0, 3, 1, 2))?.contiguous()?)?;
        let (mut rows, mut columns) = (height, width);
        if (height, width) != (side, side) {
            let scale = side as f64 / height.min(width) as f64;
            let scaled = |length: usize| (scale * length as f64).round_ties_even() as usize;
            (rows, columns) = match crop {
                VisionCrop::Center => (scaled(height), scaled(width)),
                VisionCrop::Stretch => (side, side),
            };
            let _scaled = self.engine.account().reserve(2 * 3 * 4 * (rows as u64).saturating_mul(columns as u64))?;
            data = antialiased_bicubic(&data, [3, height, width], columns, rows)?;
        }
        let (mean, std) = self.config.normal();
        let (top, left) = ((rows - side) / 2, (columns - side) / 2);
        let mut pixels = Vec::with_capacity(3 * side * side);
        for (plane, (mean, std)) in data.chunks_exact(rows * columns).zip(mean.into_iter().zip(std)) {
            for row in plane.chunks_exact(columns).skip(top).take(side) {
                let level = |value: &f32| ((value * 255.0).clamp(0.0, 255.0).round_ties_even() / 255.0 - mean) / std;
                pixels.extend(row[left..left + side].iter().map(level));
            }
        }
        crate::tensor(&[1, 3, side, side], pixels)
    }

    /// What the outputs for so many pictures take, single and joined.
    fn output_bytes(&self, batch: usize) -> u64 {
        let one = 4 * 3 * (self.config.positions as u64) * self.config.width as u64;
        one.saturating_mul(2 * batch as u64)
    }
}

impl VisionOutput {
    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        [&self.last, &self.embeds].into_iter().flatten().chain([&self.penultimate]).map(|tensor| tensor.elem_count() * 4).sum()
    }

    /// The tokens of both behind each other, which is all that is left (WanFirstLastFrameToVideo).
    pub fn joined(&self, other: &Self) -> Result<Self> {
        Ok(Self { last: None, penultimate: Tensor::cat(&[&self.penultimate, &other.penultimate], 1)?, embeds: None })
    }

    /// The embedding.
    pub fn embedding(&self) -> Result<&Tensor> {
        self.embeds.as_ref().ok_or_else(|| Error::msg("the encoded picture was joined of several and has no embedding; use a single one"))
    }
}

impl fmt::Debug for ClipVision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe())
    }
}

impl Opaque for ClipVision {
    fn type_name(&self) -> &'static str {
        "CLIP_VISION"
    }

    fn size_bytes(&self) -> usize {
        0
    }

    fn describe(&self) -> String {
        format!("a vision encoder of width {} for {} pixels", self.config.width, self.config.picture)
    }
}

impl Opaque for VisionOutput {
    fn type_name(&self) -> &'static str {
        "CLIP_VISION_OUTPUT"
    }

    fn size_bytes(&self) -> usize {
        self.bytes()
    }

    fn describe(&self) -> String {
        format!("pictures as a vision encoder sees them, {:?}", self.penultimate.dims())
    }
}

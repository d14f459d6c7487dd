//! Pictures as prompts for models that take a picture's embedding in their vector (unCLIP, <https://arxiv.org/abs/2204.06125>; SDXL Revision):
//! embeddings are noised, so that they are followed more or less freely, and told how much.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use comfyd_kernels::random::Generator;
use comfyd_models::timestep::timestep_embedding;

use crate::{Error, Result, VisionOutput};

/// What a condition is told of pictures (unCLIPConditioning).
#[derive(Debug, Clone)]
pub struct Unclip {
    /// The pictures.
    pub seen: Arc<VisionOutput>,
    /// How much they count.
    pub strength: f64,
    /// How much noise their embeddings get, 0..1.
    pub noise_augmentation: f64,
}

/// Where a model takes embeddings of pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UnclipPlace {
    /// Its vector is an embedding of this width, and how much noise that has.
    Vector(usize),
    /// An embedding of this width stands in for the pooled text.
    Pooled(usize),
}

/// How much noise the sum of several embeddings gets.
pub(crate) const MERGED_NOISE: f64 = 0.05;

/// Noise levels.
const LEVELS: usize = 1000;
/// What the reference's seed differs by from that of the sampling.
const SEED_BEFORE: u64 = 10;

/// The vector (1, 2 * width) for these pictures: the embedding, then how much noise it has. `merged` is how much noise the sum of several
/// gets.
pub(crate) fn vector(pictures: &[Unclip], width: usize, merged: f64, seed: u64) -> Result<Tensor> {
    let signals = signals();
    let level = |part: f64| ((LEVELS - 1) as f64 * part).round_ties_even().clamp(0.0, (LEVELS - 1) as f64) as usize;
    let noised = |embedding: &[f32], level: usize, random: &mut Generator| -> Result<Vec<f32>> {
        let (signal, noise) = signals[level];
        let mut out: Vec<f32> = embedding.iter().zip(random.randn(width)).map(|(value, random)| signal * value + noise * random).collect();
        out.extend(timestep_embedding(&[level as f32], width, &Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?);
        Ok(out)
    };
    let mut sum: Option<Vec<f32>> = None;
    let mut count = 0;
    let mut random = Generator::new(seed.wrapping_sub(SEED_BEFORE));
    for picture in pictures {
        let embeds = picture.seen.embedding()?;
        let &[_, own] = embeds.dims() else {
            return Err(Error::msg("the vision encoder gives no single embedding for a picture; take CLIP's, not SigLIP's"));
        };
        if own != width {
            return Err(Error::msg(format!(
                "the vision encoder's embeddings are {own} wide, the model takes {width}; load the one that belongs to the model"
            )));
        }
        for embedding in embeds.to_vec2::<f32>()? {
            random = Generator::new(seed.wrapping_sub(SEED_BEFORE));
            let strength = picture.strength as f32;
            let one = noised(&embedding, level(picture.noise_augmentation), &mut random)?.into_iter().map(|value| value * strength);
            sum = Some(match sum {
                Some(sum) => sum.into_iter().zip(one).map(|(sum, value)| sum + value).collect(),
                None => one.collect(),
            });
            count += 1;
        }
    }
    let mut sum = sum.unwrap_or_else(|| vec![0.0; 2 * width]);
    if count > 1 {
        // The reference goes on with the numbers of the last picture.
        sum = noised(&sum[..width], level(merged), &mut random)?;
    }
    crate::tensor(&[1, 2 * width], sum)
}

/// What is left of the signal at each noise level, and how much noise there is: the cosine schedule (<https://arxiv.org/abs/2102.09672>).
fn signals() -> Vec<(f32, f32)> {
    let bar = |t: f64| ((t + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2);
    let mut product = 1.0;
    let at = |level: usize| {
        let beta = 1.0 - bar((level + 1) as f64 / LEVELS as f64) / bar(level as f64 / LEVELS as f64);
        product *= 1.0 - beta.min(0.999);
        (product.sqrt() as f32, (1.0 - product).sqrt() as f32)
    };
    (0..LEVELS).map(at).collect()
}

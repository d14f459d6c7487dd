//! Where random numbers come from: the latent's initial noise and the noise that samplers add. Knows no sampler.

mod brownian;
mod seed_sequence;

use candle_core::{Device, Shape, Tensor};
use comfyd_kernels::random::Generator;

use crate::{Error, Result};

pub use brownian::BrownianTree;

/// The most numbers that one tensor of noise holds.
const MAX_NUMBERS: usize = 1 << 31;
/// The highest index of a picture in a batch for which noise is made.
const MAX_BATCH_INDEX: i64 = 1 << 20;

/// Noise that a sampler adds on its way from one noise level to another. Standard normal, of the latent's shape.
pub trait NoiseSource {
    /// The noise for the step from `sigma` to `sigma_next`.
    fn noise(&mut self, sigma: f32, sigma_next: f32) -> Result<Tensor>;
}

/// One stream of random numbers, whatever the noise levels (the reference's `default_noise_sampler` on the CPU).
#[derive(Debug)]
pub struct Stream {
    generator: Generator,
    shape: Shape,
    device: Device,
}

impl Stream {
    /// Noise of the shape of `x` and on its device. It is that of the seed after the latent's, which would come again otherwise.
    pub fn new(x: &Tensor, seed: u64) -> Self {
        Self::of(x, seed.wrapping_add(1))
    }

    fn of(x: &Tensor, seed: u64) -> Self {
        Self { generator: Generator::new(seed), shape: x.shape().clone(), device: x.device().clone() }
    }

    /// The process-wide stream of the reference after it has made a latent's initial noise with this seed. A few samplers draw from it.
    pub fn after_latent(x: &Tensor, seed: u64) -> Result<Self> {
        let mut stream = Self::of(x, seed);
        randn(&mut stream.generator, &stream.shape, &Device::Cpu)?;
        Ok(stream)
    }

    /// The next noise, of another shape.
    pub fn next_of_shape(&mut self, shape: &Shape) -> Result<Tensor> {
        randn(&mut self.generator, shape, &self.device)
    }
}

impl NoiseSource for Stream {
    fn noise(&mut self, _sigma: f32, _sigma_next: f32) -> Result<Tensor> {
        randn(&mut self.generator, &self.shape, &self.device)
    }
}

/// A latent's initial noise `shape` on the CPU, as the reference makes it. With a batch index, each picture gets the noise of its index: the
/// same as in a batch of single pictures made one after the other.
pub fn latent(seed: u64, shape: &[usize], batch_index: Option<&[i64]>) -> Result<Tensor> {
    let mut generator = Generator::new(seed);
    let Some(indexes) = batch_index else {
        return randn(&mut generator, &Shape::from(shape), &Device::Cpu);
    };
    if shape.first() != Some(&indexes.len()) || indexes.is_empty() {
        return Err(Error::msg(format!("a batch of shape {shape:?} needs as many indexes as pictures, not {}", indexes.len())));
    }
    let highest = indexes.iter().copied().max().unwrap_or(0);
    if indexes.iter().any(|index| *index < 0) || highest > MAX_BATCH_INDEX {
        return Err(Error::msg(format!("the indexes of a batch must lie between 0 and {MAX_BATCH_INDEX}")));
    }
    let mut one = shape.to_vec();
    one[0] = 1;
    let one = Shape::from(one);
    let mut made: std::collections::HashMap<i64, Tensor> = std::collections::HashMap::new();
    for index in 0..=highest {
        let noise = randn(&mut generator, &one, &Device::Cpu)?;
        if indexes.contains(&index) {
            made.insert(index, noise);
        }
    }
    let parts: Vec<&Tensor> = indexes.iter().filter_map(|index| made.get(index)).collect();
    Ok(Tensor::cat(&parts, 0)?)
}

/// The noise of the reference's `ddim` for masked areas: from the seed after the latent's. For [`crate::Sampler::fresh_inpaint_noise`].
pub fn inpaint(seed: u64, shape: &[usize]) -> Result<Tensor> {
    latent(seed.wrapping_add(1), shape, None)
}

/// Standard normal numbers, single precision, made on the CPU.
fn randn(generator: &mut Generator, shape: &Shape, device: &Device) -> Result<Tensor> {
    let n = shape.elem_count();
    if n > MAX_NUMBERS {
        return Err(Error::msg(format!("noise of shape {shape:?} is too large; choose a smaller picture or batch")));
    }
    Ok(Tensor::from_vec(generator.randn(n), shape.clone(), device)?)
}

//! Time steps as vectors. What a step means is the schedule's business.

use candle_core::{Device, Tensor};

use crate::Result;

/// Sinusoids of time steps as `(B, dim)`, F32: all cosines first, then all sines, with periods from 2π to 2π · 10000; a last column
/// of zeros if `dim` is odd (the latent-diffusion code's `timestep_embedding`).
pub fn timestep_embedding(steps: &[f32], dim: usize, device: &Device) -> Result<Tensor> {
    let half = dim / 2;
    let scale = -(10000f64.ln()) as f32;
    // In single precision throughout, as the reference: with steps near 1000 the rounding of a frequency shows in the sixth digit.
    let frequencies: Vec<f32> = (0..half).map(|i| f64::from(scale * i as f32 / half as f32).exp() as f32).collect();
    let mut values = Vec::with_capacity(steps.len() * dim);
    for step in steps {
        values.extend(frequencies.iter().map(|frequency| (step * frequency).cos()));
        values.extend(frequencies.iter().map(|frequency| (step * frequency).sin()));
        values.resize(values.len() + dim % 2, 0.0);
    }
    Ok(Tensor::from_vec(values, (steps.len(), dim), device)?)
}

//! Pseudo-numerical methods: linear multistep with the derivative as the model gives it.

use std::collections::VecDeque;

use candle_core::Tensor;

use super::{report, to_d};
use crate::math::sum;
use crate::{Denoiser, Error, Observer, Result, Sampler};

/// Improved pseudo-numerical steps: Zhang & Chen (2023), arXiv 2204.13902, section 3 (the reference's `sample_ipndm`). The coefficients are
/// those for noise levels at equal distances.
#[derive(Debug, Clone, Copy)]
pub struct Ipndm {
    /// How many derivatives are used, from 1 to 4.
    pub max_order: usize,
}

impl Default for Ipndm {
    fn default() -> Self {
        Self { max_order: 4 }
    }
}

impl Sampler for Ipndm {
    fn sample(&self, model: &mut dyn Denoiser, x: Tensor, sigmas: &[f32], _seed: u64, observer: &mut dyn Observer) -> Result<Tensor> {
        multistep(model, x, sigmas, observer, self.max_order, |order, _i| match order {
            1 => vec![1.0],
            2 => [3.0, -1.0].map(|c: f32| c / 2.0).to_vec(),
            3 => [23.0, -16.0, 5.0].map(|c: f32| c / 12.0).to_vec(),
            _ => [55.0, -59.0, 37.0, -9.0].map(|c: f32| c / 24.0).to_vec(),
        })
    }
}

/// [`Ipndm`] with coefficients for noise levels at any distances (the reference's `sample_ipndm_v`).
#[derive(Debug, Clone, Copy)]
pub struct IpndmV {
    /// How many derivatives are used, from 1 to 4.
    pub max_order: usize,
}

impl Default for IpndmV {
    fn default() -> Self {
        Self { max_order: 4 }
    }
}

impl Sampler for IpndmV {
    fn sample(&self, model: &mut dyn Denoiser, x: Tensor, sigmas: &[f32], _seed: u64, observer: &mut dyn Observer) -> Result<Tensor> {
        multistep(model, x, sigmas, observer, self.max_order, |order, i| variable_coefficients(order, sigmas, i))
    }
}

/// The weights of the newest and the older derivatives in step `i`. For the third and fourth order they are the reference's, which differ a
/// little from those of exact Adams-Bashforth integration.
fn variable_coefficients(order: usize, t: &[f32], i: usize) -> Vec<f32> {
    if order == 1 {
        return vec![1.0];
    }
    // The length of this step and of the last ones.
    let h = t[i + 1] - t[i];
    let h1 = t[i] - t[i - 1];
    let (first, second) = ((2.0 + h / h1) / 2.0, -(h / h1) / 2.0);
    if order == 2 {
        return vec![first, second];
    }
    let h2 = t[i - 1] - t[i - 2];
    let bend = (1.0 - h / (3.0 * (h + h1)) * (h * (h + h1)) / (h1 * (h1 + h2))) / 2.0;
    let third = bend * h1 / h2;
    if order == 3 {
        return vec![first + bend, second - (1.0 + h1 / h2) * bend, third];
    }
    let h3 = t[i - 2] - t[i - 3];
    let base = (1.0 - h / (3.0 * (h + h1))) / 2.0 + (1.0 - h / (2.0 * (h + h1))) * h / (6.0 * (h + h1 + h2));
    let twist = base * (h * (h + h1) * (h + h1 + h2)) / (h1 * (h1 + h2) * (h1 + h2 + h3));
    let ratio = h1 * (h1 + h2) / (h2 * (h2 + h3));
    vec![
        first + bend + twist,
        second - (1.0 + h1 / h2) * bend - (1.0 + h1 / h2 + ratio) * twist,
        third + (h1 / h2 + ratio * (1.0 + h2 / h3)) * twist,
        -twist * ratio * h1 / h2,
    ]
}

/// Steps along a weighted sum of the last derivatives; `weights(order, i)` has as many entries as the order, the newest first.
fn multistep(
    model: &mut dyn Denoiser,
    mut x: Tensor,
    sigmas: &[f32],
    observer: &mut dyn Observer,
    max_order: usize,
    weights: impl Fn(usize, usize) -> Vec<f32>,
) -> Result<Tensor> {
    if !(1..=4).contains(&max_order) {
        return Err(Error::msg(format!("the order of a pseudo-numerical method must lie between 1 and 4, not {max_order}")));
    }
    // The newest derivative first.
    let mut ds: VecDeque<Tensor> = VecDeque::new();
    for (i, pair) in sigmas.windows(2).enumerate() {
        let denoised = model.denoise(&x, pair[0])?;
        report(observer, i, pair[0], &x, &denoised)?;
        ds.push_front(to_d(&x, pair[0], &denoised)?);
        ds.truncate(max_order);
        if pair[1] == 0.0 {
            x = denoised;
            continue;
        }
        let h = pair[1] - pair[0];
        for (d, weight) in ds.iter().zip(weights(ds.len(), i)) {
            x = sum([(1.0, &x), (h * weight, d)])?;
        }
    }
    Ok(x)
}

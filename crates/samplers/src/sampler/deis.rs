//! Exponential integrators with coefficients integrated along the path: DEIS.

use std::collections::VecDeque;

use candle_core::Tensor;

use super::{report, to_d};
use crate::math::{exp, linspace, log, sum};
use crate::{Denoiser, Error, Observer, Result, Sampler};

/// DEIS with coefficients integrated in time (tAB): Zhang & Chen (2023), arXiv 2204.13902 (the reference's `sample_deis`, mode `tab`).
#[derive(Debug, Clone, Copy)]
pub struct Deis {
    /// How many derivatives are used, from 1 to 4.
    pub max_order: usize,
}

impl Default for Deis {
    fn default() -> Self {
        Self { max_order: 3 }
    }
}

impl Sampler for Deis {
    fn sample(&self, model: &mut dyn Denoiser, mut x: Tensor, sigmas: &[f32], _seed: u64, observer: &mut dyn Observer) -> Result<Tensor> {
        if !(1..=4).contains(&self.max_order) {
            return Err(Error::msg(format!("the order of deis must lie between 1 and 4, not {}", self.max_order)));
        }
        let time = VpTime::new();
        let times: Vec<f32> = sigmas.iter().map(|sigma| time.of(*sigma)).collect();
        // The newest derivative first.
        let mut ds: VecDeque<Tensor> = VecDeque::new();
        for (i, pair) in sigmas.windows(2).enumerate() {
            let denoised = model.denoise(&x, pair[0])?;
            report(observer, i, pair[0], &x, &denoised)?;
            ds.push_front(to_d(&x, pair[0], &denoised)?);
            ds.truncate(self.max_order);
            if ds.len() == 1 || pair[1] <= 0.0 {
                x = sum([(1.0, &x), (pair[1] - pair[0], &ds[0])])?;
                continue;
            }
            for (d, weight) in ds.iter().zip(time.coefficients(&times, i, ds.len())) {
                x = sum([(1.0, &x), (weight, d)])?;
            }
        }
        Ok(x)
    }
}

/// The time of the variance-preserving process that EDM's noise levels belong to, between 0.002 and 80 (Karras et al. 2022, table 1).
struct VpTime {
    beta_d: f32,
    beta_min: f32,
}

impl VpTime {
    fn new() -> Self {
        const EPSILON_S: f64 = 1e-3;
        let (low, high) = (log(0.002_f32 * 0.002 + 1.0), log(80.0_f32 * 80.0 + 1.0));
        let beta_d = 2.0 * (low / EPSILON_S as f32 - high) / (EPSILON_S - 1.0) as f32;
        Self { beta_d, beta_min: high - 0.5 * beta_d }
    }

    fn of(&self, sigma: f32) -> f32 {
        let root = (self.beta_min * self.beta_min + 2.0 * self.beta_d * log(sigma * sigma + 1.0)).sqrt();
        (root - self.beta_min) / self.beta_d
    }

    /// The derivative of the logarithm of alpha by time, scaled as the integral of the step needs it.
    fn integrand(&self, tau: f32) -> f32 {
        // beta_d is computed as the difference of the two ends' betas.
        let range = (self.beta_d + self.beta_min) - self.beta_min;
        let alpha = exp(-0.5 * (tau * tau) * range - tau * self.beta_min);
        let slope = -0.5 * range * (2.0 * tau) - self.beta_min;
        -0.5 * slope / (alpha * (1.0 - alpha)).sqrt()
    }

    /// The weights of the last derivatives in step `i`, the newest first: integrals of Lagrange polynomials through their times.
    fn coefficients(&self, times: &[f32], i: usize, order: usize) -> Vec<f32> {
        const POINTS: usize = 10_000;
        let (from, to) = (times[i], times[i + 1]);
        let width = (to - from) / POINTS as f32;
        let points: Vec<(f32, f32)> = linspace(from, to, POINTS).into_iter().map(|tau| (tau, self.integrand(tau))).collect();
        let at = |k: usize| times[i - k];
        let coefficient = |j: usize| {
            let polynomial = |tau: f32| (0..order).filter(|k| *k != j).map(|k| (tau - at(k)) / (at(j) - at(k))).product::<f32>();
            let total: f64 = points.iter().map(|(tau, value)| f64::from(value * polynomial(*tau))).sum();
            total as f32 * width
        };
        (0..order).map(coefficient).collect()
    }
}

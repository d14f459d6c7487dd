//! Linear multistep: Adams-Bashforth over noise levels at any distances.

use std::collections::VecDeque;

use candle_core::Tensor;

use super::{report, to_d};
use crate::math::scale;
use crate::{Denoiser, Error, Observer, Result, Sampler};

/// Linear multistep steps through the last derivatives (k-diffusion, `sample_lms`).
#[derive(Debug, Clone, Copy)]
pub struct Lms {
    /// How many derivatives are used, from 1 to 100.
    pub order: usize,
}

impl Default for Lms {
    fn default() -> Self {
        Self { order: 4 }
    }
}

impl Sampler for Lms {
    fn sample(&self, model: &mut dyn Denoiser, mut x: Tensor, sigmas: &[f32], _seed: u64, observer: &mut dyn Observer) -> Result<Tensor> {
        if !(1..=100).contains(&self.order) {
            return Err(Error::msg(format!("the order of lms must lie between 1 and 100, not {}", self.order)));
        }
        // The newest derivative first.
        let mut ds: VecDeque<Tensor> = VecDeque::new();
        for (i, pair) in sigmas.windows(2).enumerate() {
            let denoised = model.denoise(&x, pair[0])?;
            ds.push_front(to_d(&x, pair[0], &denoised)?);
            ds.truncate(self.order);
            report(observer, i, pair[0], &x, &denoised)?;
            if pair[1] == 0.0 {
                x = denoised;
                continue;
            }
            let mut change: Option<Tensor> = None;
            for (j, d) in ds.iter().enumerate() {
                let term = scale(d, coefficient(ds.len(), sigmas, i, j) as f32)?;
                change = Some(match change {
                    Some(change) => (change + term)?,
                    None => term,
                });
            }
            if let Some(change) = change {
                x = (x + change)?;
            }
        }
        Ok(x)
    }
}

/// The integral from `t[i]` to `t[i + 1]` of the Lagrange polynomial that is 1 at `t[i - j]` and 0 at the other `order - 1` last points.
fn coefficient(order: usize, t: &[f32], i: usize, j: usize) -> f64 {
    let at = |k: usize| f64::from(t[i - k]);
    let polynomial = |tau: f64| (0..order).filter(|k| *k != j).map(|k| (tau - at(k)) / (at(j) - at(k))).product::<f64>();
    let (start, end) = (f64::from(t[i]), f64::from(t[i + 1]));
    let (half, middle) = (0.5 * (end - start), 0.5 * (end + start));
    // Gauss-Legendre with n points is exact up to degree 2n - 1.
    gauss_legendre(order / 2 + 1).into_iter().map(|(node, weight)| weight * polynomial(middle + half * node)).sum::<f64>() * half
}

/// Nodes and weights of Gauss-Legendre quadrature on [-1, 1]: roots of the Legendre polynomial, by Newton's method.
fn gauss_legendre(n: usize) -> Vec<(f64, f64)> {
    let legendre = |x: f64| {
        let (mut previous, mut value) = (1.0, x);
        for k in 2..=n {
            let k = k as f64;
            (previous, value) = (value, ((2.0 * k - 1.0) * x * value - (k - 1.0) * previous) / k);
        }
        let slope = n as f64 * (x * value - previous) / (x * x - 1.0);
        (value, slope)
    };
    let root = |i: usize| {
        let mut x = (std::f64::consts::PI * (i as f64 + 0.75) / (n as f64 + 0.5)).cos();
        for _ in 0..50 {
            let (value, slope) = legendre(x);
            let step = value / slope;
            x -= step;
            if step.abs() < 1e-16 {
                break;
            }
        }
        let (_, slope) = legendre(x);
        (x, 2.0 / ((1.0 - x * x) * slope * slope))
    };
    (0..n).map(root).collect()
}

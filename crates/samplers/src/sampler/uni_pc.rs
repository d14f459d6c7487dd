//! UniPC: a unified predictor and corrector.

use candle_core::Tensor;

use super::linear::solve;
use super::report;
use crate::math::{divide, exp, expm1, log, scale, sum};
use crate::{Denoiser, Error, Observer, Result, Sampler};

/// The function B(h) of UniPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Variant {
    /// B(h) = h.
    #[default]
    Bh1,
    /// B(h) = exp(h) - 1.
    Bh2,
}

/// UniPC of up to third order in data prediction: Zhao et al. (2023), arXiv 2302.04867 (the reference's `uni_pc` and `uni_pc_bh2`). As there,
/// a single step evaluates the model but leaves the latent as it is, and two steps are taken with first order.
#[derive(Debug, Clone, Copy, Default)]
pub struct UniPc {
    /// The function B(h).
    pub variant: Variant,
}

/// The lowest noise level: 0 has no logarithm.
const LOWEST_SIGMA: f32 = 0.001;

impl Sampler for UniPc {
    fn sample(&self, model: &mut dyn Denoiser, x: Tensor, sigmas: &[f32], _seed: u64, observer: &mut dyn Observer) -> Result<Tensor> {
        if sigmas.len() < 2 {
            return Ok(x);
        }
        let mut sigmas = sigmas.to_vec();
        if let Some(last) = sigmas.last_mut()
            && *last == 0.0
        {
            *last = LOWEST_SIGMA;
        }
        let steps = sigmas.len() - 1;
        let order = 3.min(steps - 1);
        let mut x = divide(&x, (1.0 + sigmas[0] * sigmas[0]).sqrt())?;
        // The last predictions and their noise levels, the newest last.
        let mut history: Vec<(f32, Tensor)> = Vec::new();
        for i in 0..steps {
            if i == 0 {
                history.push((sigmas[0], predict(model, &x, sigmas[0])?));
            } else if i < order {
                let (next, predicted) = self.update(model, &x, &history, sigmas[i], i, true)?;
                x = next;
                history.extend(predicted.map(|predicted| (sigmas[i], predicted)));
            } else {
                // The last step goes on to the last noise level without evaluating the model there.
                let end = if i + 1 == steps { i + 1 } else { i };
                for (step, sigma) in sigmas.iter().enumerate().take(end + 1).skip(i) {
                    let step_order = order.min(steps + 1 - step);
                    if step_order == 0 {
                        break;
                    }
                    let (next, predicted) = self.update(model, &x, &history, *sigma, step_order, step < steps)?;
                    x = next;
                    if let Some(predicted) = predicted {
                        history.push((*sigma, predicted));
                        if history.len() > order {
                            history.remove(0);
                        }
                    }
                }
            }
            if let Some((_, denoised)) = history.last() {
                report(observer, i, sigmas[i], &x, denoised)?;
            }
        }
        divide(&x, alpha(sigmas[steps]))
    }
}

impl UniPc {
    /// The latent at noise level `sigma`, and the prediction there if the corrector made one. `order` is at least 1.
    fn update(
        &self,
        model: &mut dyn Denoiser,
        x: &Tensor,
        history: &[(f32, Tensor)],
        sigma: f32,
        order: usize,
        correct: bool,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let Some((newest, older)) = history.split_last() else { return Err(Error::msg("uni_pc needs a first prediction")) };
        let (sigma_0, model_0) = newest;
        let (lambda_0, alpha_t) = (lambda(*sigma_0), exp(log_alpha(sigma)));
        let h = lambda(sigma) - lambda_0;

        // The differences to older predictions, by their distance in units of the step.
        let mut distances = Vec::with_capacity(order);
        let mut differences = Vec::with_capacity(order);
        for (sigma_i, model_i) in older.iter().rev().take(order - 1) {
            let distance = (lambda(*sigma_i) - lambda_0) / h;
            differences.push(divide(&(model_i - model_0)?, distance)?);
            distances.push(distance);
        }
        distances.push(1.0);

        let growth = expm1(-h);
        let b_h = match self.variant {
            Variant::Bh1 => -h,
            Variant::Bh2 => growth,
        };
        let system = System::new(&distances, -h, b_h);
        let base = sum([(std_of(sigma) / std_of(*sigma_0), x), (-(alpha_t * growth), model_0)])?;

        let mut predicted_x = base.clone();
        if !differences.is_empty() {
            let weights = if order == 2 { vec![0.5] } else { system.weights(differences.len())? };
            predicted_x = sum([(1.0, &base), (-(alpha_t * b_h), &combined(&differences, &weights)?)])?;
        }
        if !correct {
            return Ok((predicted_x, None));
        }
        let weights = if order == 1 { vec![0.5] } else { system.weights(distances.len())? };
        let model_t = predict(model, &predicted_x, sigma)?;
        differences.push((&model_t - model_0)?);
        let corrected = sum([(1.0, &base), (-(alpha_t * b_h), &combined(&differences, &weights)?)])?;
        Ok((corrected, Some(model_t)))
    }
}

/// The equations that the weights fulfil so that the method has its order (the paper's equation 5).
struct System {
    rows: Vec<Vec<f32>>,
    right: Vec<f32>,
}

impl System {
    fn new(distances: &[f32], h: f32, b_h: f32) -> Self {
        let n = distances.len();
        let mut phi = expm1(h) / h - 1.0;
        let mut factorial = 1.0;
        let (mut rows, mut right) = (Vec::with_capacity(n), Vec::with_capacity(n));
        for i in 1..=n {
            rows.push(distances.iter().map(|distance| distance.powi(i as i32 - 1)).collect());
            right.push(phi * factorial / b_h);
            factorial *= (i + 1) as f32;
            phi = phi / h - 1.0 / factorial;
        }
        Self { rows, right }
    }

    /// The solution of the first `n` equations for the first `n` weights.
    fn weights(&self, n: usize) -> Result<Vec<f32>> {
        let rows = self.rows[..n].iter().map(|row| row[..n].to_vec()).collect();
        solve(rows, self.right[..n].to_vec()).ok_or_else(|| Error::msg("uni_pc needs noise levels that differ; check the sigmas"))
    }
}

fn combined(tensors: &[Tensor], weights: &[f32]) -> Result<Tensor> {
    let mut total: Option<Tensor> = None;
    for (tensor, weight) in tensors.iter().zip(weights) {
        let term = scale(tensor, *weight)?;
        total = Some(match total {
            Some(total) => (total + term)?,
            None => term,
        });
    }
    total.ok_or_else(|| Error::msg("uni_pc needs at least one difference"))
}

/// The model's clean latent for a variance-preserving latent. Goes through the predicted noise, whose rounding the reference has as well.
fn predict(model: &mut dyn Denoiser, x: &Tensor, sigma: f32) -> Result<Tensor> {
    let exploding = scale(x, (sigma * sigma + 1.0).sqrt())?;
    let denoised = model.denoise(&exploding, sigma)?;
    let noise = divide(&(exploding - denoised)?, sigma)?;
    divide(&sum([(1.0, x), (-std_of(sigma), &noise)])?, alpha(sigma))
}

fn log_alpha(sigma: f32) -> f32 {
    0.5 * log(1.0 / (sigma * sigma + 1.0))
}

fn alpha(sigma: f32) -> f32 {
    exp(log_alpha(sigma))
}

fn std_of(sigma: f32) -> f32 {
    (1.0 - exp(2.0 * log_alpha(sigma))).sqrt()
}

fn lambda(sigma: f32) -> f32 {
    log_alpha(sigma) - 0.5 * log(1.0 - exp(2.0 * log_alpha(sigma)))
}

//! Stochastic Adams solver: predictor and corrector with memory.

use std::collections::VecDeque;

use candle_core::Tensor;

use super::linear::solve;
use super::report;
use super::snr::LogSnr;
use crate::math::{exp, expm1, scale, sum};
use crate::noise::{NoiseSource, Stream};
use crate::{Denoiser, Error, Observer, Result, Sampler};

/// Where [`SaSolver`] adds noise.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tau {
    /// The highest noise level with noise.
    pub start_sigma: f64,
    /// The lowest noise level with noise.
    pub end_sigma: f64,
    /// How much of the noise is exchanged between them.
    pub eta: f64,
}

impl Tau {
    fn at(&self, sigma: f32) -> f64 {
        let inside = (self.end_sigma..=self.start_sigma).contains(&f64::from(sigma));
        if self.eta > 0.0 && inside { self.eta } else { 0.0 }
    }
}

/// SA-Solver: Xue et al. (2023), arXiv 2309.05019 (the reference's `sample_sa_solver` and `sample_sa_solver_pece`).
#[derive(Debug, Clone, Copy)]
pub struct SaSolver {
    /// Where noise is added; between 20 and 80 percent of the schedule if not given.
    pub tau: Option<Tau>,
    /// The standard deviation of the noise.
    pub s_noise: f64,
    /// The predictor's order, from 1 to 6.
    pub predictor_order: usize,
    /// The corrector's order, up to 6; 0 for none.
    pub corrector_order: usize,
    /// Whether the corrected latent is evaluated again (PECE).
    pub pece: bool,
    /// Whether the second order uses the paper's simple coefficients (appendix D).
    pub simple_order_2: bool,
}

impl Default for SaSolver {
    fn default() -> Self {
        Self { tau: None, s_noise: 1.0, predictor_order: 3, corrector_order: 4, pece: false, simple_order_2: false }
    }
}

impl Sampler for SaSolver {
    fn sample(&self, model: &mut dyn Denoiser, mut x: Tensor, sigmas: &[f32], seed: u64, observer: &mut dyn Observer) -> Result<Tensor> {
        if !(1..=6).contains(&self.predictor_order) || self.corrector_order > 6 {
            return Err(Error::msg("the orders of sa_solver must lie between 1 and 6; only the corrector's may be 0"));
        }
        let snr = LogSnr::of(model);
        let sigmas = snr.finite(sigmas, model.schedule());
        let lambdas: Vec<f32> = sigmas.iter().map(|sigma| snr.lambda(*sigma)).collect();
        let schedule = model.schedule();
        let (start_sigma, end_sigma) = (schedule.percent_to_sigma(0.2), schedule.percent_to_sigma(0.8));
        let tau_at = self.tau.unwrap_or(Tau { start_sigma, end_sigma, eta: 1.0 });
        let s_noise = self.s_noise as f32;
        let mut stream = Stream::new(&x, seed);
        let mut predicted = x.clone();
        let mut state = LastStep { h: 0.0, tau: 0.0, noise: None };
        // The last predictions, the newest last.
        let mut history: VecDeque<Tensor> = VecDeque::new();

        for (i, pair) in sigmas.windows(2).enumerate() {
            let (sigma, sigma_next) = (pair[0], pair[1]);
            let mut denoised = model.denoise(&predicted, sigma)?;
            report(observer, i, sigma, &predicted, &denoised)?;
            history.push_back(denoised.clone());
            if history.len() > self.predictor_order.max(self.corrector_order) {
                history.pop_front();
            }
            let Orders { predictor, corrector } = self.orders(&sigmas, i, history.len());

            if corrector == 0 {
                x = predicted.clone();
            } else {
                let interval = (lambdas[i - 1], lambdas[i]);
                let weights = self.weights(sigma, &lambdas[i + 1 - corrector..=i], interval, state.tau, true)?;
                let correction = weighted(&history, &weights)?;
                let tau = state.tau as f32;
                x = sum([(sigma / sigmas[i - 1] * exp(-(tau * tau) * state.h), &x), (1.0, &correction)])?;
                if let Some(noise) = &state.noise {
                    x = (x + noise)?;
                }
                if self.pece {
                    denoised = model.denoise(&x, sigma)?;
                    if let Some(newest) = history.back_mut() {
                        *newest = denoised.clone();
                    }
                }
            }

            if sigma_next == 0.0 {
                predicted = denoised;
                continue;
            }
            let tau = tau_at.at(sigma_next);
            let interval = (lambdas[i], lambdas[i + 1]);
            let weights = self.weights(sigma_next, &lambdas[i + 1 - predictor..=i], interval, tau, false)?;
            let prediction = weighted(&history, &weights)?;
            let h = lambdas[i + 1] - lambdas[i];
            let tau_squared = (tau * tau) as f32;
            predicted = sum([(sigma_next / sigma * exp(-tau_squared * h), &x), (1.0, &prediction)])?;
            state = LastStep { h, tau, noise: None };
            if tau > 0.0 && s_noise > 0.0 {
                let fresh = stream.noise(sigma, sigma_next)?;
                let noise = scale(&fresh, sigma_next * (-expm1(-2.0 * tau_squared * h)).sqrt() * s_noise)?;
                predicted = (predicted + &noise)?;
                state.noise = Some(noise);
            }
        }
        Ok(predicted)
    }
}

/// What the corrector needs to know of the step before.
struct LastStep {
    h: f32,
    tau: f64,
    noise: Option<Tensor>,
}

/// How many predictions a step uses.
struct Orders {
    predictor: usize,
    corrector: usize,
}

impl SaSolver {
    /// Low at the beginning, where there is no history, and towards 0, where high orders are unstable.
    fn orders(&self, sigmas: &[f32], i: usize, known: usize) -> Orders {
        let mut predictor = self.predictor_order.min(known);
        let ends = sigmas[i + 1] == 0.0 && !self.pece;
        let mut corrector = if i == 0 || ends { 0 } else { self.corrector_order.min(known) };
        if sigmas.last() == Some(&0.0) {
            predictor = predictor.min(sigmas.len() - 2 - i);
            corrector = corrector.min(sigmas.len() - 1 - i);
        }
        Orders { predictor, corrector }
    }

    /// The weights of the predictions at `lambdas` for the step over `interval`: the paper's equations 15 and 18.
    fn weights(&self, sigma_next: f32, lambdas: &[f32], interval: (f32, f32), tau: f64, corrects: bool) -> Result<Vec<f32>> {
        let (from, to) = interval;
        let alpha = sigma_next * exp(to);
        let tau_factor = 1.0 + tau * tau;
        if self.simple_order_2 && lambdas.len() == 2 {
            let h = to - from;
            let whole = alpha * -expm1(-h * tau_factor as f32);
            let half = (0.5 * tau_factor) as f32;
            return Ok(if corrects {
                let newest = alpha * (half * h);
                vec![whole - newest, newest]
            } else {
                let oldest = alpha * (half * (h * h)) / (lambdas[0] - from);
                vec![oldest, whole - oldest]
            });
        }
        let n = lambdas.len();
        let integrals = exponential_integrals(from, to, n, tau_factor);
        // Row p of the matrix holds the p-th powers of the points: Lagrange's basis in monomials.
        let mut powers = vec![vec![1.0_f32; n]; n];
        for p in 1..n {
            for (k, lambda) in lambdas.iter().enumerate() {
                powers[p][k] = powers[p - 1][k] * lambda;
            }
        }
        let solution = solve(powers, integrals).ok_or_else(|| Error::msg("sa_solver needs noise levels that differ; check the sigmas"))?;
        Ok(solution.into_iter().map(|value| alpha * value).collect())
    }
}

/// `(1 + tau²) ∫ exp((1 + tau²)(x - t)) x^p dx` from s to t for each p below `n`, by repeated integration by parts.
fn exponential_integrals(s: f32, t: f32, n: usize, tau_factor: f64) -> Vec<f32> {
    let decay = exp(-(tau_factor as f32) * (t - s));
    let term = |p: usize| t.powi(p as i32) - s.powi(p as i32) * decay;
    let log_tau = tau_factor.ln() as f32;
    let log_factorial: Vec<f32> = (0..n).map(|p| (1..=p).map(|k| (k as f64).ln()).sum::<f64>() as f32).collect();
    let integral = |p: usize| {
        (0..=p)
            .map(|q| {
                let depth = p - q;
                let size = exp(log_factorial[p] - log_factorial[q] - depth as f32 * log_tau);
                let sign = if depth.is_multiple_of(2) { 1.0 } else { -1.0 };
                size * sign * term(q)
            })
            .sum::<f32>()
    };
    (0..n).map(integral).collect()
}

/// The sum of the newest predictions, as many as there are weights.
fn weighted(history: &VecDeque<Tensor>, weights: &[f32]) -> Result<Tensor> {
    let mut total: Option<Tensor> = None;
    for (tensor, weight) in history.iter().skip(history.len() - weights.len()).zip(weights) {
        let term = scale(tensor, *weight)?;
        total = Some(match total {
            Some(total) => (total + term)?,
            None => term,
        });
    }
    total.ok_or_else(|| Error::msg("sa_solver needs at least one prediction"))
}

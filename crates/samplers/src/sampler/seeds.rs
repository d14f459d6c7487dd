//! SEEDS: exponential integrators for stochastic equations, with noise that the stages share.

use candle_core::Tensor;

use super::report;
use super::snr::LogSnr;
use crate::math::{exp, expm1, lerp, scale, sum};
use crate::noise::{NoiseSource, Stream};
use crate::{Denoiser, Observer, Result, Sampler};

/// SEEDS-2, two evaluations a step: Gonzalez et al. (2023), arXiv 2305.14267 (the reference's `sample_seeds_2`).
#[derive(Debug, Clone, Copy)]
pub struct Seeds2 {
    /// How much of the noise is exchanged.
    pub eta: f64,
    /// The standard deviation of the noise.
    pub s_noise: f64,
    /// How far on the way the second evaluation is.
    pub r: f64,
    /// Whether the second evaluation counts by the second of the exponential functions, not as a mean.
    pub phi_2: bool,
}

impl Default for Seeds2 {
    fn default() -> Self {
        Self { eta: 1.0, s_noise: 1.0, r: 0.5, phi_2: false }
    }
}

impl Seeds2 {
    /// The exponential Heun method of second order on the predicted data, with noise (the reference's `exp_heun_2_x0_sde`).
    pub fn heun_sde() -> Self {
        Self { r: 1.0, phi_2: true, ..Self::default() }
    }

    /// The same without noise (`exp_heun_2_x0`).
    pub fn heun() -> Self {
        Self { eta: 0.0, s_noise: 0.0, ..Self::heun_sde() }
    }
}

impl Sampler for Seeds2 {
    fn sample(&self, model: &mut dyn Denoiser, mut x: Tensor, sigmas: &[f32], seed: u64, observer: &mut dyn Observer) -> Result<Tensor> {
        let snr = LogSnr::of(model);
        let sigmas = snr.finite(sigmas, model.schedule());
        let mut stream = Stream::new(&x, seed);
        for (i, pair) in sigmas.windows(2).enumerate() {
            let (sigma, sigma_next) = (pair[0], pair[1]);
            let denoised = model.denoise(&x, sigma)?;
            report(observer, i, sigma, &x, &denoised)?;
            if sigma_next == 0.0 {
                x = denoised;
                continue;
            }
            let step = StepLength::new(snr, sigma, sigma_next, self.eta);
            let r = self.r as f32;
            let (sigma_1, alpha_1) = step.point(r);
            let mut noise = SharedNoise::new(&mut stream, step.h, self.eta, self.s_noise);

            noise.advance(0.0, self.r, sigma, sigma_1)?;
            let x_2 = sum([(step.kept(sigma_1, r), &x), (-(alpha_1 * expm1(-r * step.h_eta)), &denoised)])?;
            let x_2 = noise.add(x_2, sigma_1)?;
            let denoised_2 = model.denoise(&x_2, sigma_1)?;

            noise.advance(self.r, 1.0, sigma_1, sigma_next)?;
            x = if self.phi_2 {
                let b_2 = h_phi_2(-step.h_eta) / r;
                let b_1 = expm1(-step.h_eta) - b_2;
                let mean = sum([(b_1, &denoised), (b_2, &denoised_2)])?;
                sum([(step.kept(sigma_next, 1.0), &x), (-step.alpha_t, &mean)])?
            } else {
                let mean = lerp_tensors(&denoised, &denoised_2, 1.0 / (2.0 * self.r))?;
                sum([(step.kept(sigma_next, 1.0), &x), (-(step.alpha_t * expm1(-step.h_eta)), &mean)])?
            };
            x = noise.add(x, sigma_next)?;
        }
        Ok(x)
    }
}

/// SEEDS-3, three evaluations a step: Gonzalez et al. (2023), arXiv 2305.14267 (the reference's `sample_seeds_3`).
#[derive(Debug, Clone, Copy)]
pub struct Seeds3 {
    /// How much of the noise is exchanged.
    pub eta: f64,
    /// The standard deviation of the noise.
    pub s_noise: f64,
    /// How far on the way the second evaluation is.
    pub r_1: f64,
    /// How far on the way the third evaluation is.
    pub r_2: f64,
}

impl Default for Seeds3 {
    fn default() -> Self {
        Self { eta: 1.0, s_noise: 1.0, r_1: 1.0 / 3.0, r_2: 2.0 / 3.0 }
    }
}

impl Sampler for Seeds3 {
    fn sample(&self, model: &mut dyn Denoiser, mut x: Tensor, sigmas: &[f32], seed: u64, observer: &mut dyn Observer) -> Result<Tensor> {
        let snr = LogSnr::of(model);
        let sigmas = snr.finite(sigmas, model.schedule());
        let mut stream = Stream::new(&x, seed);
        for (i, pair) in sigmas.windows(2).enumerate() {
            let (sigma, sigma_next) = (pair[0], pair[1]);
            let denoised = model.denoise(&x, sigma)?;
            report(observer, i, sigma, &x, &denoised)?;
            if sigma_next == 0.0 {
                x = denoised;
                continue;
            }
            let step = StepLength::new(snr, sigma, sigma_next, self.eta);
            let (r_1, r_2) = (self.r_1 as f32, self.r_2 as f32);
            let ((sigma_1, alpha_1), (sigma_2, alpha_2)) = (step.point(r_1), step.point(r_2));
            let mut noise = SharedNoise::new(&mut stream, step.h, self.eta, self.s_noise);

            noise.advance(0.0, self.r_1, sigma, sigma_1)?;
            let x_2 = sum([(step.kept(sigma_1, r_1), &x), (-(alpha_1 * expm1(-r_1 * step.h_eta)), &denoised)])?;
            let x_2 = noise.add(x_2, sigma_1)?;
            let denoised_2 = model.denoise(&x_2, sigma_1)?;

            noise.advance(self.r_1, self.r_2, sigma_1, sigma_2)?;
            let a_2 = (self.r_2 / self.r_1) as f32 * h_phi_2(-r_2 * step.h_eta);
            let a_1 = expm1(-r_2 * step.h_eta) - a_2;
            let mean = sum([(a_1, &denoised), (a_2, &denoised_2)])?;
            let x_3 = noise.add(sum([(step.kept(sigma_2, r_2), &x), (-alpha_2, &mean)])?, sigma_2)?;
            let denoised_3 = model.denoise(&x_3, sigma_2)?;

            noise.advance(self.r_2, 1.0, sigma_2, sigma_next)?;
            let b_3 = h_phi_2(-step.h_eta) / r_2;
            let b_1 = expm1(-step.h_eta) - b_3;
            let mean = sum([(b_1, &denoised), (b_3, &denoised_3)])?;
            x = noise.add(sum([(step.kept(sigma_next, 1.0), &x), (-step.alpha_t, &mean)])?, sigma_next)?;
        }
        Ok(x)
    }
}

/// `h * phi_2(h)` of exponential integrators.
fn h_phi_2(h: f32) -> f32 {
    (expm1(h) - h) / h
}

/// Interpolates, counting from the nearer end.
fn lerp_tensors(a: &Tensor, b: &Tensor, weight: f64) -> Result<Tensor> {
    let difference = (b - a)?;
    if weight.abs() < 0.5 {
        sum([(1.0, a), (weight as f32, &difference)])
    } else {
        sum([(1.0, b), (-((1.0 - weight) as f32), &difference)])
    }
}

/// A step in half the logarithm of the signal-to-noise ratio.
#[derive(Debug, Clone, Copy)]
struct StepLength {
    snr: LogSnr,
    sigma: f32,
    lambda_s: f32,
    lambda_t: f32,
    h: f32,
    h_eta: f32,
    eta: f32,
    alpha_t: f32,
}

impl StepLength {
    fn new(snr: LogSnr, sigma: f32, sigma_next: f32, eta: f64) -> Self {
        let (lambda_s, lambda_t) = (snr.lambda(sigma), snr.lambda(sigma_next));
        let h = lambda_t - lambda_s;
        let h_eta = h * (eta + 1.0) as f32;
        Self { snr, sigma, lambda_s, lambda_t, h, h_eta, eta: eta as f32, alpha_t: sigma_next * exp(lambda_t) }
    }

    /// The noise level and the data's scale at the part `r` of the way.
    fn point(&self, r: f32) -> (f32, f32) {
        let lambda = lerp(self.lambda_s, self.lambda_t, r);
        let sigma = self.snr.sigma(lambda);
        (sigma, sigma * exp(lambda))
    }

    /// What is kept of the latent at this noise level, the part `r` of the way.
    fn kept(&self, sigma: f32, r: f32) -> f32 {
        sigma / self.sigma * exp(-r * self.h * self.eta)
    }
}

/// The noise of one step, which grows from stage to stage.
struct SharedNoise<'a> {
    stream: &'a mut Stream,
    h: f32,
    eta: f32,
    s_noise: f32,
    noise: Option<Tensor>,
}

impl<'a> SharedNoise<'a> {
    fn new(stream: &'a mut Stream, h: f32, eta: f64, s_noise: f64) -> Self {
        Self { stream, h, eta: eta as f32, s_noise: s_noise as f32, noise: None }
    }

    /// From one part of the way to another: what there is fades, and fresh noise is added.
    fn advance(&mut self, from: f64, to: f64, sigma: f32, sigma_next: f32) -> Result<()> {
        if self.eta <= 0.0 || self.s_noise <= 0.0 {
            return Ok(());
        }
        let length = (from - to) as f32 * self.h * self.eta;
        let fresh = scale(&self.stream.noise(sigma, sigma_next)?, (-expm1(length * 2.0)).sqrt())?;
        self.noise = Some(match self.noise.take() {
            Some(noise) => (scale(&noise, exp(length))? + fresh)?,
            None => fresh,
        });
        Ok(())
    }

    fn add(&self, x: Tensor, sigma: f32) -> Result<Tensor> {
        match &self.noise {
            Some(noise) => sum([(1.0, &x), (sigma * self.s_noise, noise)]),
            None => Ok(x),
        }
    }
}

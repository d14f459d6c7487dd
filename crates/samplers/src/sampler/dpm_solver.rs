//! DPM-Solver of one to three evaluations a step, with fixed and with adaptive steps: Lu et al. (2022), arXiv 2206.00927.

use candle_core::Tensor;

use super::ancestral::ancestral_step;
use super::report;
use crate::math::{divide, exp, expm1, linspace, log, sum};
use crate::noise::{NoiseSource, Stream};
use crate::{Denoiser, Error, Observer, Result, Sampler};

/// DPM-Solver-fast: as many evaluations as steps, in steps of third order as far as possible (k-diffusion, `sample_dpm_fast`). Of the noise
/// levels only the first, the last above 0, and their number matter. The observer hears of about a third as many steps.
#[derive(Debug, Clone, Copy)]
pub struct DpmFast {
    /// How much of the noise is exchanged; 0 as default.
    pub eta: f64,
    /// The standard deviation of the noise.
    pub s_noise: f64,
}

impl Default for DpmFast {
    fn default() -> Self {
        Self { eta: 0.0, s_noise: 1.0 }
    }
}

impl Sampler for DpmFast {
    fn sample(&self, model: &mut dyn Denoiser, mut x: Tensor, sigmas: &[f32], seed: u64, observer: &mut dyn Observer) -> Result<Tensor> {
        let Some((t_start, t_end)) = time_range(sigmas)? else { return Ok(x) };
        let (eta, s_noise) = (self.eta as f32, self.s_noise as f32);
        let mut noise = Stream::new(&x, seed);
        let evaluations = sigmas.len() - 1;
        let n_third = evaluations / 3;
        let mut orders = vec![3; if evaluations.is_multiple_of(3) { n_third - 1 } else { n_third }];
        match evaluations % 3 {
            0 => orders.extend([2, 1]),
            rest => orders.push(rest),
        }
        let times = linspace(t_start, t_end, n_third + 2);
        for (i, order) in orders.into_iter().enumerate() {
            let (t, t_next) = (times[i], times[i + 1]);
            let (t_down, up) = down_step(t, t_next, t_end, eta);
            let mut step = Step::new(model, &x, t)?;
            report(observer, i, sigma_of(t), &x, &step.denoised()?)?;
            x = match order {
                1 => step.first_order(t_down)?,
                2 => step.second_order(t_down, 0.5)?,
                _ => step.third_order(t_down)?,
            };
            if eta != 0.0 {
                let fresh = noise.noise(sigma_of(t), sigma_of(t_next))?;
                x = sum([(1.0, &x), (up * s_noise, &fresh)])?;
            }
        }
        Ok(x)
    }
}

/// DPM-Solver-12 and -23: steps as long as the difference between two orders allows (k-diffusion, `sample_dpm_adaptive`). Of the noise
/// levels only the first and the last above 0 matter. The observer hears of each attempt, rejected ones included, however many there are.
#[derive(Debug, Clone, Copy)]
pub struct DpmAdaptive {
    /// The order of the solver: 2 or 3.
    pub order: usize,
    /// The error allowed, relative to the latent.
    pub rtol: f64,
    /// The error allowed, absolute.
    pub atol: f64,
    /// The first step's length, in logarithms of sigma.
    pub h_init: f64,
    /// The proportional coefficient of the controller of the steps' length.
    pub pcoeff: f64,
    /// Its integral coefficient.
    pub icoeff: f64,
    /// Its derivative coefficient.
    pub dcoeff: f64,
    /// A step is rejected when the next one would have to be shorter than this factor.
    pub accept_safety: f64,
    /// How much of the noise is exchanged.
    pub eta: f64,
    /// The standard deviation of the noise.
    pub s_noise: f64,
}

impl Default for DpmAdaptive {
    fn default() -> Self {
        Self {
            order: 3,
            rtol: 0.05,
            atol: 0.0078,
            h_init: 0.05,
            pcoeff: 0.0,
            icoeff: 1.0,
            dcoeff: 0.0,
            accept_safety: 0.81,
            eta: 0.0,
            s_noise: 1.0,
        }
    }
}

impl DpmAdaptive {
    /// More attempts than this mean that the options allow no progress.
    const MAX_ATTEMPTS: usize = 100_000;

    /// How far apart two results are, in units of what is allowed.
    fn error(&self, low: &Tensor, high: &Tensor, previous: &Tensor) -> Result<f64> {
        let (rtol, atol) = (f64::from(self.rtol as f32), f64::from(self.atol as f32));
        let allowed = (low.abs()?.maximum(&previous.abs()?)? * rtol)?.maximum(atol)?;
        let squares = ((low - high)? / allowed)?.sqr()?.sum_all()?.to_scalar::<f32>()?;
        Ok(f64::from(squares.sqrt()) / (low.elem_count() as f64).sqrt())
    }
}

impl Sampler for DpmAdaptive {
    fn sample(&self, model: &mut dyn Denoiser, mut x: Tensor, sigmas: &[f32], seed: u64, observer: &mut dyn Observer) -> Result<Tensor> {
        if self.order != 2 && self.order != 3 {
            return Err(Error::msg(format!("the order of dpm_adaptive must be 2 or 3, not {}", self.order)));
        }
        let Some((t_start, t_end)) = time_range(sigmas)? else { return Ok(x) };
        let forward = t_end > t_start;
        if !forward && self.eta != 0.0 {
            return Err(Error::msg("dpm_adaptive can add noise only on the way down; set eta to 0 for rising sigmas"));
        }
        let (eta, s_noise) = (self.eta as f32, self.s_noise as f32);
        let mut noise = Stream::new(&x, seed);
        let mut control = StepControl::new(self, if forward { self.h_init.abs() } else { -self.h_init.abs() });
        let (mut s, mut previous) = (t_start, x.clone());
        for attempt in 0..Self::MAX_ATTEMPTS {
            let arrived = if forward { s >= t_end - 1e-5 } else { s <= t_end + 1e-5 };
            if arrived {
                return Ok(x);
            }
            let reach = s + control.h as f32;
            let t = if forward { t_end.min(reach) } else { t_end.max(reach) };
            let (t_down, up) = down_step(s, t, t_end, eta);
            let mut step = Step::new(model, &x, s)?;
            let (low, high) = if self.order == 2 {
                (step.first_order(t_down)?, step.second_order(t_down, 0.5)?)
            } else {
                (step.second_order(t_down, 1.0 / 3.0)?, step.third_order(t_down)?)
            };
            let denoised = step.denoised()?;
            let error = self.error(&low, &high, &previous)?;
            if !error.is_finite() {
                return Err(Error::msg("dpm_adaptive met numbers that are not finite; check the model and the sampler's tolerances"));
            }
            if control.propose(error) {
                previous = low;
                x = high;
                if eta != 0.0 {
                    let fresh = noise.noise(sigma_of(s), sigma_of(t))?;
                    x = sum([(1.0, &x), (up * s_noise, &fresh)])?;
                }
                s = t;
            }
            report(observer, attempt, sigma_of(s), &x, &denoised)?;
        }
        Err(Error::msg("dpm_adaptive makes no progress with these options; allow larger errors or longer first steps"))
    }
}

/// The controller of the steps' length: proportional, integral, derivative.
struct StepControl {
    h: f64,
    exponents: [f64; 3],
    accept_safety: f64,
    inverse_errors: Option<[f64; 3]>,
}

impl StepControl {
    fn new(options: &DpmAdaptive, h: f64) -> Self {
        let order = if options.eta != 0.0 { 1.5 } else { options.order as f64 };
        let DpmAdaptive { pcoeff, icoeff, dcoeff, accept_safety, .. } = *options;
        let exponents = [(pcoeff + icoeff + dcoeff) / order, -(pcoeff + 2.0 * dcoeff) / order, dcoeff / order];
        Self { h, exponents, accept_safety, inverse_errors: None }
    }

    /// Chooses the next step's length; whether the step just tried is good enough.
    fn propose(&mut self, error: f64) -> bool {
        let inverse = 1.0 / (error + 1e-8);
        let history = self.inverse_errors.get_or_insert([inverse; 3]);
        history[0] = inverse;
        let raw: f64 = history.iter().zip(self.exponents).map(|(inverse, exponent)| inverse.powf(exponent)).product();
        let factor = 1.0 + (raw - 1.0).atan();
        let accepted = factor >= self.accept_safety;
        if accepted {
            history[2] = history[1];
            history[1] = history[0];
        }
        self.h *= factor;
        accepted
    }
}

/// The times -log(sigma) of the first level and of the last one above 0; none if there is no step to take.
fn time_range(sigmas: &[f32]) -> Result<Option<(f32, f32)>> {
    let [first, .., before_last, last] = *sigmas else {
        return match *sigmas {
            [first, last] if first > 0.0 => Ok(Some((-log(first), -log(if last == 0.0 { first } else { last })))),
            [_, _] => Err(zero_sigma()),
            _ => Ok(None),
        };
    };
    let end = if last == 0.0 { before_last } else { last };
    if first <= 0.0 || end <= 0.0 {
        return Err(zero_sigma());
    }
    Ok(Some((-log(first), -log(end))))
}

fn zero_sigma() -> Error {
    Error::msg("dpm_fast and dpm_adaptive need noise levels above 0; only the last one may be 0")
}

fn sigma_of(t: f32) -> f32 {
    exp(-t)
}

/// Where an ancestral step goes down to, and the standard deviation of its noise.
fn down_step(t: f32, t_next: f32, t_end: f32, eta: f32) -> (f32, f32) {
    if eta == 0.0 {
        return (t_next, 0.0);
    }
    let (down, _) = ancestral_step(sigma_of(t), sigma_of(t_next), eta);
    let t_down = t_end.min(-log(down));
    let (next, reached) = (sigma_of(t_next), sigma_of(t_down));
    (t_down, (next * next - reached * reached).sqrt())
}

/// One step from a latent: the evaluations that several orders share are made once.
struct Step<'a> {
    model: &'a mut dyn Denoiser,
    x: &'a Tensor,
    t: f32,
    eps: Tensor,
    /// The noise predicted a third of the way on, once known.
    eps_third: Option<(f32, Tensor)>,
}

impl<'a> Step<'a> {
    fn new(model: &'a mut dyn Denoiser, x: &'a Tensor, t: f32) -> Result<Self> {
        let eps = predicted_noise(model, x, t)?;
        Ok(Self { model, x, t, eps, eps_third: None })
    }

    fn denoised(&self) -> Result<Tensor> {
        sum([(1.0, self.x), (-sigma_of(self.t), &self.eps)])
    }

    fn first_order(&self, t_next: f32) -> Result<Tensor> {
        sum([(1.0, self.x), (-(sigma_of(t_next) * expm1(t_next - self.t)), &self.eps)])
    }

    /// The noise predicted at the part `r1` of the way, after an Euler step there.
    fn eps_r1(&mut self, t_next: f32, r1: f64) -> Result<Tensor> {
        let h = t_next - self.t;
        let r1 = r1 as f32;
        if let Some((known, eps)) = &self.eps_third
            && *known == r1
        {
            return Ok(eps.clone());
        }
        let s1 = self.t + r1 * h;
        let u1 = sum([(1.0, self.x), (-(sigma_of(s1) * expm1(r1 * h)), &self.eps)])?;
        let eps = predicted_noise(self.model, &u1, s1)?;
        self.eps_third = Some((r1, eps.clone()));
        Ok(eps)
    }

    fn second_order(&mut self, t_next: f32, r1: f64) -> Result<Tensor> {
        let eps_r1 = self.eps_r1(t_next, r1)?;
        let growth = expm1(t_next - self.t);
        let sigma = sigma_of(t_next);
        let difference = (&eps_r1 - &self.eps)?;
        sum([(1.0, self.x), (-(sigma * growth), &self.eps), (-(sigma / (2.0 * r1) as f32 * growth), &difference)])
    }

    fn third_order(&mut self, t_next: f32) -> Result<Tensor> {
        const R1: f64 = 1.0 / 3.0;
        const R2: f64 = 2.0 / 3.0;
        let h = t_next - self.t;
        let r2 = R2 as f32;
        let eps_r1 = self.eps_r1(t_next, R1)?;
        let s2 = self.t + r2 * h;
        let difference = (&eps_r1 - &self.eps)?;
        let growth_2 = expm1(r2 * h);
        let bend = sigma_of(s2) * ((R2 / R1) as f32) * (growth_2 / (r2 * h) - 1.0);
        let u2 = sum([(1.0, self.x), (-(sigma_of(s2) * growth_2), &self.eps), (-bend, &difference)])?;
        let eps_r2 = predicted_noise(self.model, &u2, s2)?;
        let growth = expm1(h);
        let difference = (&eps_r2 - &self.eps)?;
        let sigma = sigma_of(t_next);
        sum([(1.0, self.x), (-(sigma * growth), &self.eps), (-(sigma / r2 * (growth / h - 1.0)), &difference)])
    }
}

fn predicted_noise(model: &mut dyn Denoiser, x: &Tensor, t: f32) -> Result<Tensor> {
    let sigma = sigma_of(t);
    let denoised = model.denoise(x, sigma)?;
    divide(&(x - denoised)?, sigma)
}

//! Schedulers that are formulas of the lowest and the highest noise level. Knows no schedule.

use super::check_steps;
use crate::math::{exp, linspace, log, pow};
use crate::{Error, Result};

/// Karras et al. (2022), equation 5: `sigma^(1/rho)` falls linearly.
pub fn karras(steps: usize, sigma_min: f64, sigma_max: f64, rho: f64) -> Result<Vec<f32>> {
    check_steps(steps)?;
    if !(rho > 0.0 && sigma_min >= 0.0 && sigma_max >= 0.0) {
        return Err(Error::msg("the karras scheduler needs a rho above 0 and noise levels that are not negative"));
    }
    let (min, max) = (sigma_min.powf(1.0 / rho), sigma_max.powf(1.0 / rho));
    let (first, range, rho) = (max as f32, (min - max) as f32, rho as f32);
    Ok(with_zero(linspace(0.0, 1.0, steps).into_iter().map(|ramp| pow(first + ramp * range, rho))))
}

/// The logarithm of sigma falls linearly.
pub fn exponential(steps: usize, sigma_min: f64, sigma_max: f64) -> Result<Vec<f32>> {
    check_steps(steps)?;
    check_positive("exponential", sigma_min, sigma_max)?;
    Ok(with_zero(linspace(sigma_max.ln() as f32, sigma_min.ln() as f32, steps).into_iter().map(exp)))
}

/// The logarithm of sigma falls as a power of the step.
pub fn polyexponential(steps: usize, sigma_min: f64, sigma_max: f64, rho: f64) -> Result<Vec<f32>> {
    check_steps(steps)?;
    check_positive("polyexponential", sigma_min, sigma_max)?;
    let (offset, range) = (sigma_min.ln() as f32, (sigma_max.ln() - sigma_min.ln()) as f32);
    Ok(with_zero(linspace(1.0, 0.0, steps).into_iter().map(|ramp| exp(pow(ramp, rho as f32) * range + offset))))
}

/// The continuous variance-preserving schedule (Song et al. 2021), from time 1 to `eps_s`.
pub fn vp(steps: usize, beta_d: f64, beta_min: f64, eps_s: f64) -> Result<Vec<f32>> {
    check_steps(steps)?;
    let (beta_d, beta_min) = (beta_d as f32, beta_min as f32);
    let sigma = |t: f32| crate::math::expm1(beta_d * (t * t) / 2.0 + beta_min * t).sqrt();
    Ok(with_zero(linspace(1.0, eps_s as f32, steps).into_iter().map(sigma)))
}

/// Laplace noise schedule (Hang et al. 2024): dense around the logarithm `mu`. No 0 is appended, so these are the levels of one step less.
pub fn laplace(steps: usize, sigma_min: f64, sigma_max: f64, mu: f64, beta: f64) -> Result<Vec<f32>> {
    check_steps(steps)?;
    let (min, max, mu, beta) = (sigma_min as f32, sigma_max as f32, mu as f32, beta as f32);
    let sigma = |x: f32| {
        let side = 0.5 - x;
        let sign = if side > 0.0 {
            1.0
        } else if side < 0.0 {
            -1.0
        } else {
            0.0
        };
        // The small number keeps the logarithm finite at both ends.
        let lambda = mu - beta * sign * log(1.0 - 2.0 * side.abs() + 1e-5);
        exp(lambda).max(min).min(max)
    };
    Ok(linspace(0.0, 1.0, steps).into_iter().map(sigma).collect())
}

/// The schedule that minimises the Kullback-Leibler divergence in Align Your Steps (Sabour et al. 2024): the arc tangent falls linearly. One
/// step alone starts at the highest level (the reference divides by zero).
pub fn kl_optimal(steps: usize, sigma_min: f64, sigma_max: f64) -> Result<Vec<f32>> {
    check_steps(steps)?;
    let (low, high) = (sigma_min.atan() as f32, sigma_max.atan() as f32);
    let last = (steps - 1).max(1) as f32;
    let angle = |i: usize| {
        let done = i as f32 / last;
        done * low + (1.0 - done) * high
    };
    Ok(with_zero((0..steps).map(|i| f64::from(angle(i)).tan() as f32)))
}

fn with_zero(sigmas: impl Iterator<Item = f32>) -> Vec<f32> {
    sigmas.chain(std::iter::once(0.0)).collect()
}

fn check_positive(name: &str, sigma_min: f64, sigma_max: f64) -> Result<()> {
    if sigma_min > 0.0 && sigma_max > 0.0 {
        return Ok(());
    }
    Err(Error::msg(format!("the {name} scheduler needs noise levels above 0, not {sigma_min} and {sigma_max}")))
}

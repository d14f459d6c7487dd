//! Schedulers: which noise levels the steps of a sampling visit. Knows schedules, no samplers.
//!
//! [`sigmas`] takes the names of the `scheduler` inputs of sampling nodes; the other functions are the schedulers with settings of their
//! own. All return noise levels in descending order, one more than steps, the last being 0 unless stated otherwise.

mod beta_quantile;
mod formulas;
mod tables;

use crate::math::linspace;
use crate::{Error, Result, Schedule};

pub use formulas::{exponential, karras, kl_optimal, laplace, polyexponential, vp};
pub use tables::{AYS_MODEL_TYPES, align_your_steps};

/// The schedulers' names, as node inputs list them.
pub const NAMES: [&str; 9] =
    ["simple", "sgm_uniform", "karras", "exponential", "ddim_uniform", "beta", "normal", "linear_quadratic", "kl_optimal"];

/// More steps than this are refused: a low denoise multiplies the steps that are computed.
pub const MAX_STEPS: usize = 2_000_000;

/// The noise levels for so many steps.
pub fn sigmas(name: &str, schedule: &dyn Schedule, steps: usize) -> Result<Vec<f32>> {
    let (min, max) = (f64::from(schedule.sigma_min()), f64::from(schedule.sigma_max()));
    match name {
        "simple" => simple(schedule, steps),
        "sgm_uniform" => sgm_uniform(schedule, steps),
        "karras" => karras(steps, min, max, 7.0),
        "exponential" => exponential(steps, min, max),
        "ddim_uniform" => ddim_uniform(schedule, steps),
        "beta" => beta(schedule, steps, 0.6, 0.6),
        "normal" => normal(schedule, steps),
        "linear_quadratic" => linear_quadratic(schedule, steps),
        "kl_optimal" => kl_optimal(steps, min, max),
        _ => Err(Error::msg(format!("there is no scheduler '{name}'; choose one of {}", NAMES.join(", ")))),
    }
}

/// Entries of the schedule's table at equal distances, from the highest.
pub fn simple(schedule: &dyn Schedule, steps: usize) -> Result<Vec<f32>> {
    check_steps(steps)?;
    let table = schedule.sigmas();
    let stride = table.len() as f64 / steps as f64;
    let mut sigmas: Vec<f32> = (0..steps).map(|i| table[table.len() - 1 - (i as f64 * stride) as usize]).collect();
    sigmas.push(0.0);
    Ok(sigmas)
}

/// Entries of the schedule's table at equal whole distances, from the second-lowest up, as DDIM chooses its timesteps. The number of steps
/// may differ from the one asked for.
pub fn ddim_uniform(schedule: &dyn Schedule, steps: usize) -> Result<Vec<f32>> {
    check_steps(steps)?;
    let table = schedule.sigmas();
    let lowest = table.get(1).ok_or_else(|| Error::msg("the scheduler ddim_uniform needs a schedule with at least two noise levels"))?;
    let starts_at_zero = lowest.abs() <= 0.00001;
    let (steps, mut sigmas) = if starts_at_zero { (steps + 1, vec![]) } else { (steps, vec![0.0]) };
    let stride = (table.len() / steps).max(1);
    sigmas.extend(table.iter().skip(1).step_by(stride));
    sigmas.reverse();
    Ok(sigmas)
}

/// Timesteps at equal distances, the lowest included.
pub fn normal(schedule: &dyn Schedule, steps: usize) -> Result<Vec<f32>> {
    check_steps(steps)?;
    let (start, end) = (schedule.timestep(schedule.sigma_max()), schedule.timestep(schedule.sigma_min()));
    let ends_at_zero = schedule.sigma(end).abs() <= 0.00001;
    let timesteps = linspace(start, end, if ends_at_zero { steps + 1 } else { steps });
    let mut sigmas: Vec<f32> = timesteps.into_iter().map(|t| schedule.sigma(t)).collect();
    if !ends_at_zero {
        sigmas.push(0.0);
    }
    Ok(sigmas)
}

/// Timesteps at equal distances, the lowest left out (as in Stability's generative-models).
pub fn sgm_uniform(schedule: &dyn Schedule, steps: usize) -> Result<Vec<f32>> {
    check_steps(steps)?;
    let (start, end) = (schedule.timestep(schedule.sigma_max()), schedule.timestep(schedule.sigma_min()));
    let timesteps = linspace(start, end, steps + 1);
    let mut sigmas: Vec<f32> = timesteps[..steps].iter().map(|t| schedule.sigma(*t)).collect();
    sigmas.push(0.0);
    Ok(sigmas)
}

/// Timesteps at quantiles of a beta distribution, dense at both ends (Lee et al. 2024, arXiv 2407.12173). Equal neighbours are left out, so
/// there may be fewer steps than asked for.
pub fn beta(schedule: &dyn Schedule, steps: usize, alpha: f64, beta: f64) -> Result<Vec<f32>> {
    check_steps(steps)?;
    if !(alpha > 0.0 && beta > 0.0 && alpha.is_finite() && beta.is_finite()) {
        return Err(Error::msg(format!("the beta scheduler needs alpha and beta above 0, not {alpha} and {beta}")));
    }
    let table = schedule.sigmas();
    let last = table.len() - 1;
    let mut sigmas = Vec::with_capacity(steps + 1);
    let mut previous = None;
    for i in 0..steps {
        let probability = 1.0 - i as f64 * (1.0 / steps as f64);
        let quantile = beta_quantile::beta_quantile(probability, alpha, beta);
        let index = (quantile * last as f64).round_ties_even() as usize;
        if previous != Some(index) {
            sigmas.push(table[index.min(last)]);
        }
        previous = Some(index);
    }
    sigmas.push(0.0);
    Ok(sigmas)
}

/// Half of the steps fall linearly over the first 2.5 percent, the others quadratically to 0 (Mochi's schedule).
pub fn linear_quadratic(schedule: &dyn Schedule, steps: usize) -> Result<Vec<f32>> {
    check_steps(steps)?;
    const THRESHOLD: f64 = 0.025;
    let max = schedule.sigma_max();
    if steps == 1 {
        return Ok(vec![max, 0.0]);
    }
    let linear = steps / 2;
    let (n, n_linear, n_quadratic) = (steps as f64, linear as f64, (steps - linear) as f64);
    let excess = n_linear - THRESHOLD * n;
    let quadratic_term = excess / (n_linear * (n_quadratic * n_quadratic));
    let linear_term = THRESHOLD / n_linear - 2.0 * excess / (n_quadratic * n_quadratic);
    let constant = quadratic_term * (n_linear * n_linear);
    let done = |i: usize| {
        let i_ = i as f64;
        if i < linear {
            i_ * THRESHOLD / n_linear
        } else if i < steps {
            quadratic_term * (i_ * i_) + linear_term * i_ + constant
        } else {
            1.0
        }
    };
    Ok((0..=steps).map(|i| (1.0 - done(i)) as f32 * max).collect())
}

/// The noise levels of SD Turbo (Sauer et al. 2023): every hundredth timestep, beginning later with a lower denoise (0 to 1).
pub fn sd_turbo(schedule: &dyn Schedule, steps: usize, denoise: f64) -> Result<Vec<f32>> {
    check_steps(steps)?;
    let skipped = 10 - (10.0 * denoise.clamp(0.0, 1.0)) as usize;
    let timesteps = (1..=10).rev().map(|i| (i * 100 - 1) as f32);
    let mut sigmas: Vec<f32> = timesteps.skip(skipped).take(steps).map(|t| schedule.sigma(t)).collect();
    sigmas.push(0.0);
    Ok(sigmas)
}

fn check_steps(steps: usize) -> Result<()> {
    if steps == 0 {
        return Err(Error::msg("a scheduler needs at least one step"));
    }
    if steps > MAX_STEPS {
        return Err(Error::msg(format!("{steps} steps are more than the {MAX_STEPS} that can be computed; choose fewer or more denoise")));
    }
    Ok(())
}

//! The rules of the KSampler nodes: which noise levels their settings mean. Pure; knows no model.

use crate::{Error, Result, Schedule, scheduler};

/// The samplers whose last noise level before 0 is left out: they evaluate the model between levels, and the last one is too low for that.
pub const DISCARD_PENULTIMATE_SIGMA: [&str; 4] = ["dpm_2", "dpm_2_ancestral", "uni_pc", "uni_pc_bh2"];

/// The noise levels of a KSampler with these inputs. With a denoise below 1 they are the last ones of a longer sampling, and none at 0.
pub fn sigmas(sampler: &str, scheduler: &str, schedule: &dyn Schedule, steps: usize, denoise: f64) -> Result<Vec<f32>> {
    if denoise > 0.9999 {
        return full_sigmas(sampler, scheduler, schedule, steps);
    }
    let sigmas = partial(steps, denoise, |steps| full_sigmas(sampler, scheduler, schedule, steps))?;
    Ok(sigmas)
}

/// The noise levels of a BasicScheduler with these inputs: as [`sigmas`], whatever the sampler, and with a limit of 1 for denoise.
pub fn basic_sigmas(scheduler: &str, schedule: &dyn Schedule, steps: usize, denoise: f64) -> Result<Vec<f32>> {
    if denoise >= 1.0 {
        return Ok(last(&scheduler::sigmas(scheduler, schedule, steps)?, steps + 1));
    }
    partial(steps, denoise, |steps| scheduler::sigmas(scheduler, schedule, steps))
}

/// The part of the noise levels that KSampler (Advanced) samples: from step `start` to step `end`. With `force_full_denoise`, a sampling that
/// ends early ends at 0 all the same. `None`: nothing is to be sampled, the latent stays as it is.
pub fn part(sigmas: &[f32], start: Option<usize>, end: Option<usize>, force_full_denoise: bool) -> Option<Vec<f32>> {
    let mut sigmas = sigmas.to_vec();
    if let Some(end) = end
        && end + 1 < sigmas.len()
    {
        sigmas.truncate(end + 1);
        if force_full_denoise && let Some(last) = sigmas.last_mut() {
            *last = 0.0;
        }
    }
    if let Some(start) = start {
        if start + 1 >= sigmas.len() {
            return None;
        }
        sigmas.drain(..start);
    }
    if sigmas.is_empty() { None } else { Some(sigmas) }
}

/// All noise levels of so many steps.
fn full_sigmas(sampler: &str, scheduler: &str, schedule: &dyn Schedule, steps: usize) -> Result<Vec<f32>> {
    if !DISCARD_PENULTIMATE_SIGMA.contains(&sampler) {
        return scheduler::sigmas(scheduler, schedule, steps);
    }
    let mut sigmas = scheduler::sigmas(scheduler, schedule, steps + 1)?;
    if sigmas.len() >= 2 {
        sigmas.remove(sigmas.len() - 2);
    }
    Ok(sigmas)
}

/// The last noise levels of a sampling so long that they are `denoise` of it.
fn partial(steps: usize, denoise: f64, full: impl Fn(usize) -> Result<Vec<f32>>) -> Result<Vec<f32>> {
    if denoise <= 0.0 {
        return Ok(Vec::new());
    }
    let total = steps as f64 / denoise;
    if !total.is_finite() || total > scheduler::MAX_STEPS as f64 {
        return Err(Error::msg(format!(
            "{steps} steps at a denoise of {denoise} are too many to compute; choose fewer steps or more denoise"
        )));
    }
    Ok(last(&full(total as usize)?, steps + 1))
}

fn last(sigmas: &[f32], n: usize) -> Vec<f32> {
    sigmas[sigmas.len().saturating_sub(n)..].to_vec()
}

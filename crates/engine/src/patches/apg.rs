//! Sadat et al. (2024), adaptive projected guidance: what lies along the prediction counts less, the whole has a bound and a memory.

use candle_core::Tensor;

use super::contract::{Call, ModelPatch};
use crate::Result;
use crate::array::total;

/// APG.
#[derive(Debug, Clone)]
pub struct Apg {
    /// How much of what lies along the prediction counts.
    pub eta: f64,
    /// The longest guidance; 0 bounds nothing.
    pub norm_threshold: f64,
    /// The share of the guidance of the steps before.
    pub momentum: f64,
    /// The guidance of the steps before, and their last noise level.
    average: Option<Tensor>,
    sigma: Option<f32>,
}

impl Apg {
    /// These settings, and nothing remembered.
    pub fn new(eta: f64, norm_threshold: f64, momentum: f64) -> Self {
        Self { eta, norm_threshold, momentum, average: None, sigma: None }
    }

    /// The guidance with the memory of earlier steps; a rising noise level begins anew.
    fn remembered(&mut self, guidance: Tensor, sigma: f32) -> Result<Tensor> {
        if self.sigma.is_some_and(|previous| sigma > previous) {
            self.average = None;
        }
        self.sigma = Some(sigma);
        if self.momentum == 0.0 {
            return Ok(guidance);
        }
        let average = match self.average.take() {
            None => guidance,
            Some(average) => ((average * self.momentum)? + guidance)?,
        };
        self.average = Some(average.clone());
        Ok(average)
    }
}

impl ModelPatch for Apg {
    fn before(&mut self, call: &Call<'_>, predictions: &mut [Tensor]) -> Result<()> {
        let (cond, uncond) = (predictions[0].clone(), predictions[1].clone());
        let mut guidance = self.remembered((&cond - &uncond)?, call.sigma)?;
        if self.norm_threshold > 0.0 {
            let norm = total(&guidance.sqr()?)?.sqrt()?;
            let factor = norm.ones_like()?.minimum(&(norm.recip()? * self.norm_threshold)?)?;
            guidance = guidance.broadcast_mul(&factor)?;
        }
        let length = total(&cond.sqr()?)?.sqrt()?.maximum(1e-12f64)?;
        let direction = cond.broadcast_div(&length)?;
        let parallel = direction.broadcast_mul(&total(&(&guidance * &direction)?)?)?;
        let changed = ((&guidance - &parallel)? + (parallel * self.eta)?)?;
        predictions[0] = ((&uncond + changed)? + ((cond - &uncond)? / call.scale)?)?;
        Ok(())
    }
}

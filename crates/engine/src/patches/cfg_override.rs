//! Another strength of guidance for a part of the sampling.

use super::contract::ModelPatch;

/// CFGOverride.
#[derive(Debug, Clone, Copy)]
pub struct CfgOverride {
    /// The strength.
    pub cfg: f64,
    /// The highest noise level at which it counts.
    pub highest: f64,
    /// The lowest one.
    pub lowest: f64,
}

impl ModelPatch for CfgOverride {
    fn scale(&self, sigma: f32) -> Option<f64> {
        (self.lowest..=self.highest).contains(&f64::from(sigma)).then_some(self.cfg)
    }
}

//! The samplers, one function each. They know `denoise(x, sigma)` and the model's schedule, no model.
//!
//! All noise is made on the CPU, so a sampler gives the same latent on every device. The names that end in `_gpu` make it on the GPU in the
//! reference; here they equal the ones without. Where a model is trained with flow matching, the ancestral samplers step as rectified
//! flows do.

mod ancestral;
mod churn;
mod euler;
mod snr;

use std::sync::Arc;

use candle_core::Tensor;

use crate::math::divide;
use crate::{Denoiser, Observer, Prediction, Result, Sampler, Step};

pub use churn::Churn;
pub use euler::{Euler, EulerAncestral, EulerAncestralCfgPp, EulerCfgPpAlternative};

/// The samplers' names, as node inputs list them.
pub const NAMES: [&str; 42] = [
    "euler",
    "euler_cfg_pp",
    "euler_ancestral",
    "euler_ancestral_cfg_pp",
    "heun",
    "heunpp2",
    "dpm_2",
    "dpm_2_ancestral",
    "lms",
    "dpm_fast",
    "dpm_adaptive",
    "dpmpp_2s_ancestral",
    "dpmpp_2s_ancestral_cfg_pp",
    "dpmpp_sde",
    "dpmpp_sde_gpu",
    "dpmpp_2m",
    "dpmpp_2m_cfg_pp",
    "dpmpp_2m_sde",
    "dpmpp_2m_sde_gpu",
    "dpmpp_2m_sde_heun",
    "dpmpp_2m_sde_heun_gpu",
    "dpmpp_3m_sde",
    "dpmpp_3m_sde_gpu",
    "ddpm",
    "lcm",
    "ipndm",
    "ipndm_v",
    "deis",
    "res_multistep",
    "res_multistep_cfg_pp",
    "res_multistep_ancestral",
    "res_multistep_ancestral_cfg_pp",
    "gradient_estimation",
    "gradient_estimation_cfg_pp",
    "er_sde",
    "seeds_2",
    "seeds_3",
    "sa_solver",
    "sa_solver_pece",
    "ddim",
    "uni_pc",
    "uni_pc_bh2",
];

/// The sampler of this name, with its default options.
pub fn by_name(name: &str) -> Option<Arc<dyn Sampler>> {
    Some(match name {
        "euler" => Arc::new(Euler::default()),
        "euler_cfg_pp" => Arc::new(EulerAncestralCfgPp { eta: 0.0, s_noise: 0.0 }),
        "euler_ancestral" => Arc::new(EulerAncestral::default()),
        "euler_ancestral_cfg_pp" => Arc::new(EulerAncestralCfgPp::default()),
        _ => return None,
    })
}

/// The direction in which x moves as sigma grows: Karras et al. (2022), the right side of the probability-flow equation.
fn to_d(x: &Tensor, sigma: f32, denoised: &Tensor) -> Result<Tensor> {
    divide(&(x - denoised)?, sigma)
}

/// Whether the model was trained with flow matching.
fn is_flow(model: &dyn Denoiser) -> bool {
    model.schedule().prediction() == Prediction::Flow
}

/// Tells the observer of a step.
fn report(observer: &mut dyn Observer, index: usize, sigma: f32, x: &Tensor, denoised: &Tensor) -> Result<()> {
    observer.step(&Step { index, sigma, x, denoised })
}

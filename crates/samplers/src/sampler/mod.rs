//! The samplers, one function each. They know `denoise(x, sigma)` and the model's schedule, no model.
//!
//! All noise is made on the CPU, so a sampler gives the same latent on every device. The names that end in `_gpu` make it on the GPU in the
//! reference; here they equal the ones without. Where a model is trained with flow matching, the ancestral samplers step as rectified
//! flows do.

mod ancestral;
mod churn;
mod consistency;
mod deis;
mod dpm_2;
mod dpm_solver;
mod dpmpp_2m;
mod dpmpp_2s;
mod dpmpp_m_sde;
mod dpmpp_sde;
mod er_sde;
mod euler;
mod gradient_estimation;
mod heun;
mod ipndm;
mod linear;
mod lms;
mod res_multistep;
mod sa_solver;
mod seeds;
mod snr;
mod uni_pc;

use std::sync::Arc;

use candle_core::Tensor;

use crate::math::divide;
use crate::noise::BrownianTree;
use crate::{Denoiser, Error, Observer, Prediction, Result, Sampler, Step};

pub use churn::Churn;
pub use consistency::{Ddpm, Lcm, LcmUpscale, Resize};
pub use deis::Deis;
pub use dpm_2::{Dpm2, Dpm2Ancestral};
pub use dpm_solver::{DpmAdaptive, DpmFast};
pub use dpmpp_2m::{Dpmpp2m, Dpmpp2mCfgPp};
pub use dpmpp_2s::{Dpmpp2sAncestral, Dpmpp2sAncestralCfgPp};
pub use dpmpp_m_sde::{Dpmpp2mSde, Dpmpp3mSde, SolverType};
pub use dpmpp_sde::DpmppSde;
pub use er_sde::{ErSde, NoiseScaler};
pub use euler::{Euler, EulerAncestral, EulerAncestralCfgPp, EulerCfgPpAlternative};
pub use gradient_estimation::GradientEstimation;
pub use heun::{Heun, HeunPp2};
pub use ipndm::{Ipndm, IpndmV};
pub use lms::Lms;
pub use res_multistep::ResMultistep;
pub use sa_solver::{SaSolver, Tau};
pub use seeds::{Seeds2, Seeds3};
pub use uni_pc::{UniPc, Variant};

/// The samplers' names, as node inputs list them.
pub const NAMES: [&str; 44] = [
    "euler",
    "euler_cfg_pp",
    "euler_ancestral",
    "euler_ancestral_cfg_pp",
    "heun",
    "heunpp2",
    "exp_heun_2_x0",
    "exp_heun_2_x0_sde",
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
        "heun" => Arc::new(Heun::default()),
        "heunpp2" => Arc::new(HeunPp2::default()),
        "exp_heun_2_x0" => Arc::new(Seeds2::heun()),
        "exp_heun_2_x0_sde" => Arc::new(Seeds2::heun_sde()),
        "dpm_2" => Arc::new(Dpm2::default()),
        "dpm_2_ancestral" => Arc::new(Dpm2Ancestral::default()),
        "lms" => Arc::new(Lms::default()),
        "dpm_fast" => Arc::new(DpmFast::default()),
        "dpm_adaptive" => Arc::new(DpmAdaptive::default()),
        "dpmpp_2s_ancestral" => Arc::new(Dpmpp2sAncestral::default()),
        "dpmpp_2s_ancestral_cfg_pp" => Arc::new(Dpmpp2sAncestralCfgPp::default()),
        "dpmpp_sde" | "dpmpp_sde_gpu" => Arc::new(DpmppSde::default()),
        "dpmpp_2m" => Arc::new(Dpmpp2m),
        "dpmpp_2m_cfg_pp" => Arc::new(Dpmpp2mCfgPp),
        "dpmpp_2m_sde" | "dpmpp_2m_sde_gpu" => Arc::new(Dpmpp2mSde::default()),
        "dpmpp_2m_sde_heun" | "dpmpp_2m_sde_heun_gpu" => Arc::new(Dpmpp2mSde { solver_type: SolverType::Heun, ..Dpmpp2mSde::default() }),
        "dpmpp_3m_sde" | "dpmpp_3m_sde_gpu" => Arc::new(Dpmpp3mSde::default()),
        "ddpm" => Arc::new(Ddpm),
        "lcm" => Arc::new(Lcm::default()),
        "ipndm" => Arc::new(Ipndm::default()),
        "ipndm_v" => Arc::new(IpndmV::default()),
        "deis" => Arc::new(Deis::default()),
        "res_multistep" => Arc::new(ResMultistep::default()),
        "res_multistep_cfg_pp" => Arc::new(ResMultistep { cfg_pp: true, ..ResMultistep::default() }),
        "res_multistep_ancestral" => Arc::new(ResMultistep { eta: 1.0, ..ResMultistep::default() }),
        "res_multistep_ancestral_cfg_pp" => Arc::new(ResMultistep { eta: 1.0, cfg_pp: true, ..ResMultistep::default() }),
        "gradient_estimation" => Arc::new(GradientEstimation::default()),
        "gradient_estimation_cfg_pp" => Arc::new(GradientEstimation { cfg_pp: true, ..GradientEstimation::default() }),
        "er_sde" => Arc::new(ErSde::default()),
        "seeds_2" => Arc::new(Seeds2::default()),
        "seeds_3" => Arc::new(Seeds3::default()),
        "sa_solver" => Arc::new(SaSolver::default()),
        "sa_solver_pece" => Arc::new(SaSolver { pece: true, ..SaSolver::default() }),
        "ddim" => Arc::new(Euler { fresh_inpaint_noise: true, ..Euler::default() }),
        "uni_pc" => Arc::new(UniPc::default()),
        "uni_pc_bh2" => Arc::new(UniPc { variant: Variant::Bh2 }),
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

/// Noise along a path over these noise levels; none if there is no step to take.
fn brownian(x: &Tensor, sigmas: &[f32], seed: u64) -> Result<Option<BrownianTree>> {
    if sigmas.len() < 2 {
        return Ok(None);
    }
    let max = sigmas.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let min = sigmas.iter().copied().filter(|sigma| *sigma > 0.0).fold(f32::INFINITY, f32::min);
    if !min.is_finite() {
        return Err(Error::msg("this sampler needs a noise level above 0; check the sigmas"));
    }
    BrownianTree::new(x, min, max, seed).map(Some)
}

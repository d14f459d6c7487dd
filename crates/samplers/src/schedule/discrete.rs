//! Schedules with a table of trained noise levels (DDPM: Ho et al. 2020). Knows no model.

use std::f64::consts::PI;

use super::{ABOVE_ALL, Prediction, Schedule};
use crate::math::{exp, linspace_f64, log};
use crate::{Error, Result};

/// The longest table of noise levels.
const MAX_TIMESTEPS: usize = 100_000;

/// How the variance grows over the timesteps. Named as in the configuration files of latent diffusion.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum BetaSchedule {
    /// `linear`: the square root of beta grows linearly (elsewhere called scaled linear). Stable Diffusion's.
    Linear,
    /// `cosine`: Nichol & Dhariwal (2021), with the offset s.
    Cosine {
        /// The offset; 0.008 as published.
        s: f64,
    },
    /// `squaredcos_cap_v2`: the cosine one with its published offset and betas up to 0.999.
    SquaredCosCap,
    /// `sqrt_linear`: beta grows linearly.
    SqrtLinear,
    /// `sqrt`: the square of beta grows linearly.
    Sqrt,
}

impl BetaSchedule {
    /// The schedule of this name in a model's configuration.
    pub fn by_name(name: &str) -> Option<Self> {
        Some(match name {
            "linear" => Self::Linear,
            "cosine" => Self::Cosine { s: 0.008 },
            "squaredcos_cap_v2" => Self::SquaredCosCap,
            "sqrt_linear" => Self::SqrtLinear,
            "sqrt" => Self::Sqrt,
            _ => return None,
        })
    }

    /// The variances added at each timestep, in double precision.
    fn betas(self, timesteps: usize, start: f64, end: f64) -> Vec<f64> {
        match self {
            Self::Linear => linspace_f64(start.sqrt(), end.sqrt(), timesteps).into_iter().map(|root| root * root).collect(),
            Self::SqrtLinear => linspace_f64(start, end, timesteps),
            Self::Sqrt => linspace_f64(start, end, timesteps).into_iter().map(f64::sqrt).collect(),
            Self::Cosine { s } => {
                let alpha_bar = |i: usize| {
                    let angle = (i as f64 / timesteps as f64 + s) / (1.0 + s) * PI / 2.0;
                    angle.cos() * angle.cos()
                };
                let first = alpha_bar(0);
                let ratio = |i: usize| (alpha_bar(i + 1) / first) / (alpha_bar(i) / first);
                (0..timesteps).map(|i| (1.0 - ratio(i)).clamp(0.0, 0.999)).collect()
            }
            Self::SquaredCosCap => {
                let alpha_bar = |t: f64| ((t + 0.008) / 1.008 * PI / 2.0).cos().powi(2);
                let time = |i: usize| i as f64 / timesteps as f64;
                (0..timesteps).map(|i| (1.0 - alpha_bar(time(i + 1)) / alpha_bar(time(i))).min(0.999)).collect()
            }
        }
    }
}

/// What a [`Discrete`] schedule is made of. The default is Stable Diffusion 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DiscreteSettings {
    /// What the model predicts.
    pub prediction: Prediction,
    /// How the variance grows.
    pub beta_schedule: BetaSchedule,
    /// The first variance, from which [`BetaSchedule`] starts.
    pub linear_start: f64,
    /// The last variance.
    pub linear_end: f64,
    /// How many timesteps the model was trained with.
    pub timesteps: usize,
    /// Whether the table is rescaled to end in pure noise (zero terminal SNR: Lin et al. 2023).
    pub zsnr: bool,
    /// The standard deviation of the training data.
    pub sigma_data: f32,
}

impl Default for DiscreteSettings {
    fn default() -> Self {
        Self {
            prediction: Prediction::Eps,
            beta_schedule: BetaSchedule::Linear,
            linear_start: 0.00085,
            linear_end: 0.012,
            timesteps: 1000,
            zsnr: false,
            sigma_data: 1.0,
        }
    }
}

/// How noise levels and the model's numbers belong together.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Rule {
    /// The index of the nearest table entry, in logarithms.
    Index,
    /// The same for a table with only each n-th of the trained entries.
    Distilled { skip: usize },
    /// A quarter of the logarithm (EDM).
    QuarterLog,
}

/// A table of trained noise levels (`ModelSamplingDiscrete`).
#[derive(Debug, Clone)]
pub struct Discrete {
    prediction: Prediction,
    sigma_data: f32,
    rule: Rule,
    zsnr: bool,
    sigmas: Vec<f32>,
    log_sigmas: Vec<f32>,
}

impl Discrete {
    /// The table of a training with these settings.
    pub fn new(settings: &DiscreteSettings) -> Result<Self> {
        if settings.timesteps < 2 || settings.timesteps > MAX_TIMESTEPS {
            return Err(Error::msg(format!("a noise schedule needs 2 to {MAX_TIMESTEPS} timesteps, not {}", settings.timesteps)));
        }
        let betas = settings.beta_schedule.betas(settings.timesteps, settings.linear_start, settings.linear_end);
        let mut product = 1.0;
        let mut sigmas: Vec<f64> = betas
            .iter()
            .map(|beta| {
                product *= 1.0 - beta;
                ((1.0 - product) / product).sqrt()
            })
            .collect();
        if settings.zsnr {
            rescale_zero_terminal_snr(&mut sigmas);
        }
        Ok(Self {
            prediction: settings.prediction,
            sigma_data: settings.sigma_data,
            rule: Rule::Index,
            zsnr: settings.zsnr,
            log_sigmas: sigmas.iter().map(|sigma| sigma.ln() as f32).collect(),
            sigmas: sigmas.iter().map(|sigma| *sigma as f32).collect(),
        })
    }

    /// A table whose model is told a quarter of the noise level's logarithm (`ModelSamplingDiscreteEDM`).
    pub fn edm(settings: &DiscreteSettings) -> Result<Self> {
        Ok(Self { rule: Rule::QuarterLog, ..Self::new(settings)? })
    }

    /// The 50 of the trained noise levels that a latent consistency model was distilled with (`ModelSamplingDiscreteDistilled`).
    pub fn distilled(settings: &DiscreteSettings) -> Result<Self> {
        const KEPT: usize = 50;
        let full = Self::new(settings)?;
        let n = full.sigmas.len();
        if n < KEPT {
            return Err(Error::msg(format!("a distilled schedule keeps {KEPT} noise levels; its table has only {n}")));
        }
        let skip = n / KEPT;
        let sigmas: Vec<f32> = (0..KEPT).rev().map(|i| full.sigmas[n - 1 - i * skip]).collect();
        Ok(Self { rule: Rule::Distilled { skip }, zsnr: settings.zsnr, ..Self::from_sigmas(settings.prediction, sigmas)? })
    }

    /// A table of any noise levels in ascending order.
    pub fn from_sigmas(prediction: Prediction, sigmas: Vec<f32>) -> Result<Self> {
        let ascending = sigmas.windows(2).all(|pair| pair[0] <= pair[1]);
        if sigmas.is_empty() || !ascending || sigmas.iter().any(|sigma| !sigma.is_finite() || *sigma < 0.0) {
            return Err(Error::msg("a noise schedule needs finite noise levels in ascending order"));
        }
        let log_sigmas = sigmas.iter().map(|sigma| log(*sigma)).collect();
        Ok(Self { prediction, sigma_data: 1.0, rule: Rule::Index, zsnr: false, sigmas, log_sigmas })
    }

    fn nearest_index(&self, sigma: f32) -> usize {
        let log_sigma = log(sigma);
        let mut best = (0, f32::INFINITY);
        for (i, entry) in self.log_sigmas.iter().enumerate() {
            let distance = (log_sigma - entry).abs();
            if distance < best.1 {
                best = (i, distance);
            }
        }
        best.0
    }

    /// The noise level between two entries, interpolated in logarithms.
    fn interpolated(&self, position: f32) -> f32 {
        let t = position.clamp(0.0, (self.sigmas.len() - 1) as f32);
        let (low, high) = (t.floor() as usize, t.ceil() as usize);
        let w = t.fract();
        exp((1.0 - w) * self.log_sigmas[low] + w * self.log_sigmas[high])
    }
}

impl Schedule for Discrete {
    fn prediction(&self) -> Prediction {
        self.prediction
    }

    fn sigmas(&self) -> &[f32] {
        &self.sigmas
    }

    fn sigma_data(&self) -> f32 {
        self.sigma_data
    }

    fn is_zsnr(&self) -> bool {
        self.zsnr
    }

    fn timestep(&self, sigma: f32) -> f32 {
        match self.rule {
            Rule::Index => self.nearest_index(sigma) as f32,
            Rule::Distilled { skip } => (self.nearest_index(sigma) * skip + (skip - 1)) as f32,
            Rule::QuarterLog => 0.25 * log(sigma),
        }
    }

    fn sigma(&self, timestep: f32) -> f32 {
        match self.rule {
            Rule::Index => self.interpolated(timestep),
            Rule::Distilled { skip } => self.interpolated((timestep - (skip - 1) as f32) / skip as f32),
            Rule::QuarterLog => exp(timestep / 0.25),
        }
    }

    fn percent_to_sigma(&self, percent: f64) -> f64 {
        if percent <= 0.0 {
            return ABOVE_ALL;
        }
        if percent >= 1.0 {
            return 0.0;
        }
        f64::from(self.sigma(((1.0 - percent) * 999.0) as f32))
    }
}

/// Shifts and scales the table so that it ends in (nearly) pure noise: Lin et al. (2023), algorithm 1.
fn rescale_zero_terminal_snr(sigmas: &mut [f64]) {
    // What the last entry's alpha would be is 0, whose sigma is infinite; the reference puts this number there.
    const LAST_ALPHA_BAR: f64 = 4.897_345_189_085_343_5e-8;
    let root = |sigma: f64| (1.0 / (sigma * sigma + 1.0)).sqrt();
    let (Some(first), Some(last)) = (sigmas.first().map(|s| root(*s)), sigmas.last().map(|s| root(*s))) else { return };
    let factor = first / (first - last);
    let n = sigmas.len();
    for (i, sigma) in sigmas.iter_mut().enumerate() {
        let shifted = (root(*sigma) - last) * factor;
        let alpha_bar = if i + 1 == n { LAST_ALPHA_BAR } else { shifted * shifted };
        *sigma = ((1.0 - alpha_bar) / alpha_bar).sqrt();
    }
}

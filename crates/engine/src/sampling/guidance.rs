//! From the model's predictions with and without the prompt to one: classifier-free guidance, what patches make of it, and the guiders with
//! more than two sides.

use candle_core::Tensor;
use comfyd_models::backbone::{HookList, Hooks};

use super::batch::Predictor;
use super::conds::Cond;
use crate::array::is_close;
use crate::guider::DualStyle;
use crate::patches::{Call, ModelPatch, Passes, Side, perpendicular};
use crate::{Conditioning, Error, Result};

/// How the lists of conditions are combined.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Combine {
    /// Lists: positive, negative.
    Cfg { cfg: f64 },
    /// Lists: positive, middle, negative.
    Dual { cfg_conds: f64, cfg_second_negative: f64, style: DualStyle },
    /// Lists: positive, empty, negative.
    PerpNeg { cfg: f64, neg_scale: f64 },
}

/// What a guided prediction gives.
pub(crate) struct Guided {
    /// The clean latent.
    pub(crate) denoised: Tensor,
    /// The prediction without the prompt.
    pub(crate) uncond: Tensor,
}

/// The model of one sampling with what reaches into its passes.
pub(crate) struct RunningModel<'a> {
    pub(crate) predictor: Predictor<'a>,
    pub(crate) hooks: HookList,
    /// The conditions of a conditioning that plays the negative part.
    pub(crate) resolve: &'a dyn Fn(&Conditioning) -> Result<Vec<Cond>>,
}

/// Everything that one guided prediction works with.
pub(crate) struct Guidance<'a> {
    pub(crate) model: RunningModel<'a>,
    pub(crate) lists: Vec<Vec<Cond>>,
    pub(crate) combine: Combine,
    pub(crate) patches: Vec<Box<dyn ModelPatch>>,
}

type List<'l> = Option<&'l [Cond]>;

impl Guidance<'_> {
    /// The clean latent behind `x`. With `force_uncond` the prediction without the prompt is made even where guidance does not need it.
    pub(crate) fn predict(&mut self, x: &Tensor, sigma: f32, force_uncond: bool) -> Result<Guided> {
        let Self { model, lists, combine, patches } = self;
        let may_skip = !force_uncond && !patches.iter().any(|patch| patch.needs_uncond());
        let list = |i: usize| lists.get(i).map(Vec::as_slice);
        // Of several patches the one nearest to the sampler.
        let set = patches.iter().rev().find_map(|patch| patch.scale(sigma));
        let mut step = Step { model, patches, x, sigma, may_skip };
        match *combine {
            Combine::Cfg { cfg } => step.cfg([list(0), list(1)], set.unwrap_or(cfg)),
            Combine::Dual { cfg_conds, cfg_second_negative, style: DualStyle::Nested } => {
                step.nested([list(0), list(1), list(2)], cfg_conds, cfg_second_negative)
            }
            Combine::Dual { cfg_conds, cfg_second_negative, style: DualStyle::Regular } => {
                step.dual([list(0), list(1), list(2)], cfg_conds, cfg_second_negative)
            }
            Combine::PerpNeg { cfg, neg_scale } => step.perp_neg([list(0), list(1), list(2)], set.unwrap_or(cfg), neg_scale),
        }
    }
}

/// One guided prediction.
struct Step<'s, 'a> {
    model: &'s mut RunningModel<'a>,
    patches: &'s mut [Box<dyn ModelPatch>],
    x: &'s Tensor,
    sigma: f32,
    /// Whether sides that do not count need no prediction.
    may_skip: bool,
}

/// The strength of guidance, and the conditions of both sides.
#[derive(Clone, Copy)]
struct Sides<'l> {
    scale: f64,
    cond: List<'l>,
    uncond: List<'l>,
}

impl Step<'_, '_> {
    fn cfg(&mut self, [positive, negative]: [List<'_>; 2], cfg: f64) -> Result<Guided> {
        let negative = if self.may_skip && is_close(cfg, 1.0) { None } else { negative };
        let sides = Sides { scale: cfg, cond: positive, uncond: negative };
        let mut out = self.predict([positive, negative])?;
        self.before(sides, &mut out)?;
        let [cond, uncond] = out;
        self.guide(sides, cond, uncond)
    }

    fn nested(&mut self, [positive, middle, negative]: [List<'_>; 3], cfg_conds: f64, cfg_second_negative: f64) -> Result<Guided> {
        let [out_negative, out_middle, out_positive] = self.predict([negative, middle, positive])?;
        let sides = Sides { scale: cfg_conds, cond: positive, uncond: middle };
        let text = self.guide(sides, out_positive, out_middle)?;
        let denoised = (&out_negative + ((text.denoised - &out_negative)? * cfg_second_negative)?)?;
        Ok(Guided { denoised, uncond: text.uncond })
    }

    fn dual(&mut self, [positive, middle, negative]: [List<'_>; 3], cfg_conds: f64, cfg_second_negative: f64) -> Result<Guided> {
        let skip_negative = self.may_skip && is_close(cfg_second_negative, 1.0);
        let negative = if skip_negative { None } else { negative };
        let middle = if skip_negative && is_close(cfg_conds, 1.0) { None } else { middle };
        let [out_negative, out_middle, out_positive] = self.predict([negative, middle, positive])?;
        let rest = ((out_positive - &out_middle)? * cfg_conds)?;
        let sides = Sides { scale: cfg_second_negative, cond: middle, uncond: negative };
        let guided = self.guide(sides, out_middle, out_negative)?;
        Ok(Guided { denoised: (guided.denoised + rest)?, uncond: guided.uncond })
    }

    fn perp_neg(&mut self, [positive, empty, negative]: [List<'_>; 3], cfg: f64, neg_scale: f64) -> Result<Guided> {
        let skip_negative = self.may_skip && is_close(neg_scale, 0.0);
        let negative = if skip_negative { None } else { negative };
        let empty = if skip_negative && is_close(cfg, 1.0) { None } else { empty };
        let sides = Sides { scale: cfg, cond: positive, uncond: negative };
        let mut out = self.predict([positive, negative, empty])?;
        self.before(sides, &mut out)?;
        let [cond, uncond, empty] = out;
        let denoised = perpendicular(&cond, &uncond, &empty, neg_scale, cfg)?;
        let denoised = self.after(sides, denoised, &cond, &uncond)?;
        Ok(Guided { denoised, uncond })
    }

    fn predict<const N: usize>(&mut self, lists: [List<'_>; N]) -> Result<[Tensor; N]> {
        taken(self.model.predictor.predict(&lists, self.x, self.sigma, &mut self.model.hooks)?)
    }

    /// Guidance and what comes after it.
    fn guide(&mut self, sides: Sides<'_>, cond: Tensor, uncond: Tensor) -> Result<Guided> {
        let own = self.ask(sides, |patches, call| {
            patches.iter_mut().rev().find_map(|patch| patch.guide(call, &cond, &uncond).transpose()).transpose()
        })?;
        let denoised = match own {
            Some(denoised) => denoised,
            None => (&uncond + ((&cond - &uncond)? * sides.scale)?)?,
        };
        let denoised = self.after(sides, denoised, &cond, &uncond)?;
        Ok(Guided { denoised, uncond })
    }

    fn before(&mut self, sides: Sides<'_>, out: &mut [Tensor]) -> Result<()> {
        self.ask(sides, |patches, call| patches.iter_mut().try_for_each(|patch| patch.before(call, out)))
    }

    fn after(&mut self, sides: Sides<'_>, denoised: Tensor, cond: &Tensor, uncond: &Tensor) -> Result<Tensor> {
        self.ask(sides, |patches, call| patches.iter_mut().try_fold(denoised, |denoised, patch| patch.after(call, denoised, cond, uncond)))
    }

    fn ask<T>(&mut self, sides: Sides<'_>, question: impl FnOnce(&mut [Box<dyn ModelPatch>], &mut Call<'_>) -> Result<T>) -> Result<T> {
        let (scale, has_uncond) = (sides.scale, sides.uncond.is_some());
        let passes = &mut Further { model: &mut *self.model, sides };
        question(self.patches, &mut Call { x: self.x, sigma: self.sigma, scale, has_uncond, passes })
    }
}

/// Makes further predictions for patches.
struct Further<'s, 'a, 'l> {
    model: &'s mut RunningModel<'a>,
    sides: Sides<'l>,
}

impl Passes for Further<'_, '_, '_> {
    fn predict(&mut self, side: Side<'_>, x: &Tensor, sigma: f32, hooks: Option<Box<dyn Hooks>>) -> Result<Tensor> {
        let other = match side {
            Side::Other(conditioning) => (self.model.resolve)(conditioning)?,
            Side::Cond | Side::Uncond => Vec::new(),
        };
        let list = match side {
            Side::Cond => self.sides.cond,
            Side::Uncond => self.sides.uncond,
            Side::Other(_) => Some(other.as_slice()),
        };
        let all = self.model.hooks.0.len();
        self.model.hooks.0.extend(hooks);
        let out = self.model.predictor.predict(&[list], x, sigma, &mut self.model.hooks);
        self.model.hooks.0.truncate(all);
        let [prediction] = taken(out?)?;
        Ok(prediction)
    }
}

fn taken<const N: usize>(out: Vec<Tensor>) -> Result<[Tensor; N]> {
    out.try_into().map_err(|out: Vec<Tensor>| Error::msg(format!("{} predictions where {N} were expected", out.len())))
}

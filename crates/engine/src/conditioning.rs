//! Conditioning as it travels along links, and what nodes do to it. Nothing here knows a model's latent size: areas and masks are resolved
//! when sampling begins.

use std::sync::Arc;

use candle_core::Tensor;
use comfyd_node::Opaque;

use crate::control::{AppliedControl, ControlNet, ControlSettings};
use crate::gligen::TextBoxes;
use crate::hooks::HookGroup;
use crate::picture_size::PictureSize;
use crate::told::Tells;
use crate::unclip::Unclip;
use crate::{Error, Result};

/// A part of the picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Area {
    /// In cells of the latent: an eighth of a pixel coordinate.
    Latent {
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
        /// First row.
        y: usize,
        /// First column.
        x: usize,
    },
    /// As fractions of the picture.
    Percent {
        /// Of its height.
        height: f64,
        /// Of its width.
        width: f64,
        /// Top edge.
        y: f64,
        /// Left edge.
        x: f64,
    },
}

/// One condition: what the model is told, and where and when it counts. Tensors are on the CPU.
#[derive(Debug, Clone, Default)]
pub struct CondEntry {
    /// The encoded text (1, T, D).
    pub cross_attn: Option<Tensor>,
    /// The pooled text (1, D).
    pub pooled: Option<Tensor>,
    /// The encoded text that ControlNets get instead (1, T, D).
    pub cross_attn_controlnet: Option<Tensor>,
    /// The pooled text beside it (1, D).
    pub pooled_controlnet: Option<Tensor>,
    /// How much it counts among the conditions that overlap; 1 if absent.
    pub strength: Option<f64>,
    /// Where it counts.
    pub area: Option<Area>,
    /// How much it counts at each place (B, H, W), of any resolution.
    pub mask: Option<Tensor>,
    /// What the mask is multiplied by; 1 if absent.
    pub mask_strength: Option<f64>,
    /// Computes only the rectangle around the mask.
    pub set_area_to_bounds: bool,
    /// From which part of the sampling on it counts (0..1).
    pub start_percent: Option<f64>,
    /// Up to which part of the sampling it counts (0..1).
    pub end_percent: Option<f64>,
    /// From and up to which part of the sampling the text was made for (text encoders whose hooks follow keyframes).
    pub text_range: Option<(f64, f64)>,
    /// Changes of weights that count for it alone.
    pub hooks: Option<HookGroup>,
    /// The ControlNets that steer it.
    pub control: Option<Arc<AppliedControl>>,
    /// Whether the negative prompt is steered by the same ControlNets.
    pub control_apply_to_uncond: bool,
    /// SDXL's sizes.
    pub size: PictureSize,
    /// The picture that inpainting and instruct-pix2pix models are shown (B, C, H, W), not scaled; (B, C, T, H, W) for models of videos.
    pub concat_latent: Option<Tensor>,
    /// The mask that inpainting models are shown (B, H, W) or (B, 1, H, W), of any resolution; (B, C, T, H, W) for models of videos.
    pub concat_mask: Option<Tensor>,
    /// Counts where no other condition does.
    pub is_default: bool,
    /// Whether it plays the part of the negative prompt whatever its place.
    pub is_negative: Option<bool>,
    /// Texts in boxes.
    pub boxes: Option<Arc<TextBoxes>>,
    /// Pictures as prompts, for models that take some.
    pub unclip: Vec<Unclip>,
    /// What else models are told.
    pub told: Tells,
}

/// `CONDITIONING`.
#[derive(Debug, Clone, Default)]
pub struct Conditioning(pub Arc<Vec<CondEntry>>);

impl Conditioning {
    /// These conditions.
    pub fn new(entries: Vec<CondEntry>) -> Self {
        Self(Arc::new(entries))
    }

    /// All conditions.
    pub fn entries(&self) -> &[CondEntry] {
        &self.0
    }

    /// A copy, each condition changed by `f`.
    pub fn map(&self, f: impl FnMut(&mut CondEntry)) -> Self {
        let mut entries = self.0.as_ref().clone();
        entries.iter_mut().for_each(f);
        Self::new(entries)
    }

    /// A copy, each condition changed by `f`, which may fail.
    pub fn try_map(&self, f: impl FnMut(&mut CondEntry) -> Result<()>) -> Result<Self> {
        let mut entries = self.0.as_ref().clone();
        entries.iter_mut().try_for_each(f)?;
        Ok(Self::new(entries))
    }

    /// A copy, hooks added to those that each condition has. Conditions that had the same ones have the same ones after it, also those of
    /// other conditionings of one call.
    pub fn with_hooks(conditionings: &[&Self], hooks: &HookGroup) -> Vec<Self> {
        let mut made: Vec<(HookGroup, HookGroup)> = Vec::new();
        let mut add = |entry: &mut CondEntry| {
            let Some(own) = entry.hooks.take() else {
                entry.hooks = Some(hooks.clone());
                return;
            };
            let known = made.iter().find(|(before, _)| before.is_same(&own)).map(|(_, after)| after.clone());
            let after = known.unwrap_or_else(|| {
                let after = own.combine(hooks);
                made.push((own, after.clone()));
                after
            });
            entry.hooks = Some(after);
        };
        conditionings.iter().map(|conditioning| conditioning.map(&mut add)).collect()
    }

    /// Both beside each other (ConditioningCombine).
    pub fn combine(&self, other: &Self) -> Self {
        Self::new(self.0.iter().chain(other.0.iter()).cloned().collect())
    }

    /// `self` at `strength` and the first condition of `from` at the rest (ConditioningAverage).
    pub fn average(&self, from: &Self, strength: f64) -> Result<Self> {
        let first = from.first()?;
        let text = text_of(first)?;
        self.try_map(|entry| {
            let to = text_of(entry)?;
            let mut other = text.narrow(1, 0, text.dim(1)?.min(to.dim(1)?))?;
            if other.dim(1)? < to.dim(1)? {
                other = other.pad_with_zeros(1, 0, to.dim(1)? - other.dim(1)?)?;
            }
            entry.cross_attn = Some((to.affine(strength, 0.0)?.broadcast_add(&other.affine(1.0 - strength, 0.0)?))?);
            if let Some(pooled) = &first.pooled {
                let own = entry.pooled.as_ref().unwrap_or(pooled);
                entry.pooled = Some((own.affine(strength, 0.0)? + pooled.affine(1.0 - strength, 0.0)?)?);
            }
            Ok(())
        })
    }

    /// The text of the first condition of `from` behind each text of `self` (ConditioningConcat).
    pub fn concat(&self, from: &Self) -> Result<Self> {
        let text = text_of(from.first()?)?.clone();
        self.try_map(|entry| {
            entry.cross_attn = Some(Tensor::cat(&[text_of(entry)?, &text], 1)?);
            Ok(())
        })
    }

    /// All texts zero (ConditioningZeroOut).
    pub fn zero_out(&self) -> Result<Self> {
        self.try_map(|entry| {
            for text in [&mut entry.cross_attn, &mut entry.pooled].into_iter().flatten() {
                *text = text.zeros_like()?;
            }
            Ok(())
        })
    }

    /// ControlNetApply: `hint (B, H, W, 3)` steers each condition, and the negative prompt too.
    pub fn apply_control(&self, net: &ControlNet, hint: &Tensor, strength: f64) -> Result<Self> {
        if strength == 0.0 {
            return Ok(self.clone());
        }
        let settings = ControlSettings { strength, ..ControlSettings::default() };
        self.try_map(|entry| {
            entry.control = Some(Arc::new(AppliedControl::new(net, hint, settings.clone(), entry.control.take())?));
            entry.control_apply_to_uncond = true;
            Ok(())
        })
    }

    /// ControlNetApplyAdvanced and its kin: the same control for several conditionings, behind those that they have.
    pub fn apply_control_advanced(
        conditionings: &[&Self],
        net: &ControlNet,
        hint: &Tensor,
        settings: &ControlSettings,
    ) -> Result<Vec<Self>> {
        if settings.strength == 0.0 {
            return Ok(conditionings.iter().map(|c| (*c).clone()).collect());
        }
        // Conditions with the same control before get the same one now: what is one object is computed once for a batch.
        let mut made: Vec<(Option<Arc<AppliedControl>>, Arc<AppliedControl>)> = Vec::new();
        let mut apply = |entry: &mut CondEntry| -> Result<()> {
            let same = |a: &Option<Arc<AppliedControl>>, b: &Option<Arc<AppliedControl>>| match (a, b) {
                (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            };
            let control = match made.iter().find(|(previous, _)| same(previous, &entry.control)) {
                Some((_, control)) => Arc::clone(control),
                None => {
                    let control = Arc::new(AppliedControl::new(net, hint, settings.clone(), entry.control.clone())?);
                    made.push((entry.control.clone(), Arc::clone(&control)));
                    control
                }
            };
            entry.control = Some(control);
            entry.control_apply_to_uncond = false;
            Ok(())
        };
        conditionings.iter().map(|c| c.try_map(&mut apply)).collect()
    }

    fn first(&self) -> Result<&CondEntry> {
        self.0.first().ok_or_else(|| Error::msg("the conditioning is empty; connect one that holds a text"))
    }
}

fn text_of(entry: &CondEntry) -> Result<&Tensor> {
    entry.cross_attn.as_ref().ok_or_else(|| Error::msg("the conditioning holds no text; connect one made by a text encoder"))
}

impl Opaque for Conditioning {
    fn type_name(&self) -> &'static str {
        "CONDITIONING"
    }

    fn size_bytes(&self) -> usize {
        let size = |tensor: &Option<Tensor>| tensor.as_ref().map_or(0, |t| t.elem_count() * 4);
        self.0
            .iter()
            .map(|e| {
                size(&e.cross_attn) + size(&e.pooled) + size(&e.mask) + size(&e.concat_latent) + size(&e.concat_mask) + e.told.size_bytes()
            })
            .sum()
    }

    fn describe(&self) -> String {
        format!("a conditioning of {} entries", self.0.len())
    }
}

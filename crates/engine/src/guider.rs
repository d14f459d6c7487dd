//! Guiders as they travel along links: a model, its conditions, and how their predictions are combined.

use comfyd_node::Opaque;

use crate::{Conditioning, Model};

/// How DualCFGGuider combines its two guidances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DualStyle {
    /// Beside each other.
    Regular,
    /// One inside the other.
    Nested,
}

/// `GUIDER`.
#[derive(Debug, Clone)]
pub struct Guider {
    pub(crate) model: Model,
    pub(crate) kind: GuiderKind,
}

/// How predictions are combined.
#[derive(Debug, Clone)]
pub(crate) enum GuiderKind {
    Cfg { positive: Conditioning, negative: Option<Conditioning>, cfg: f64 },
    Dual { first: Conditioning, second: Conditioning, negative: Conditioning, cfg_conds: f64, cfg_second_negative: f64, style: DualStyle },
    PerpNeg { positive: Conditioning, negative: Conditioning, empty: Conditioning, cfg: f64, neg_scale: f64 },
}

impl Guider {
    /// Without a negative prompt (BasicGuider).
    pub fn basic(model: &Model, conditioning: &Conditioning) -> Self {
        Self { model: model.clone(), kind: GuiderKind::Cfg { positive: conditioning.clone(), negative: None, cfg: 1.0 } }
    }

    /// Classifier-free guidance (CFGGuider, KSampler).
    pub fn cfg(model: &Model, positive: &Conditioning, negative: &Conditioning, cfg: f64) -> Self {
        Self { model: model.clone(), kind: GuiderKind::Cfg { positive: positive.clone(), negative: Some(negative.clone()), cfg } }
    }

    /// Two positive prompts (DualCFGGuider).
    pub fn dual_cfg(
        model: &Model,
        first: &Conditioning,
        second: &Conditioning,
        negative: &Conditioning,
        cfg_conds: f64,
        cfg_second_negative: f64,
        style: DualStyle,
    ) -> Self {
        let kind = GuiderKind::Dual {
            first: first.clone(),
            second: second.clone(),
            negative: negative.clone(),
            cfg_conds,
            cfg_second_negative,
            style,
        };
        Self { model: model.clone(), kind }
    }

    /// Only what is perpendicular in the negative prompt counts (PerpNegGuider).
    pub fn perp_neg(
        model: &Model,
        positive: &Conditioning,
        negative: &Conditioning,
        empty: &Conditioning,
        cfg: f64,
        neg_scale: f64,
    ) -> Self {
        let kind = GuiderKind::PerpNeg { positive: positive.clone(), negative: negative.clone(), empty: empty.clone(), cfg, neg_scale };
        Self { model: model.clone(), kind }
    }

    /// The model that it guides.
    pub fn model(&self) -> &Model {
        &self.model
    }
}

impl Opaque for Guider {
    fn type_name(&self) -> &'static str {
        "GUIDER"
    }

    fn size_bytes(&self) -> usize {
        0
    }
}

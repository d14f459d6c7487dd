//! The nodes that change models, merge them and save them.

mod guidance;
mod merging;
mod patches;
mod sampling;
mod saving;
mod training;

use crate::class::Class;

pub(crate) use self::guidance::neg_scale;

pub(crate) fn families() -> Vec<&'static [Class]> {
    vec![sampling::CLASSES, guidance::CLASSES, patches::CLASSES, merging::CLASSES, saving::CLASSES, training::CLASSES]
}

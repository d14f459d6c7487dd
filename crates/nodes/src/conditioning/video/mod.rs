//! Conditionings of models that make videos: pictures and frames become latents that the model is shown. What such a model does with them is
//! not known here.

mod camera;
mod common;
mod hunyuan;
mod others;
mod stable;
mod wan;

pub(crate) use self::wan::{MEANS, SPREADS};
use crate::class::Class;

pub(crate) fn families() -> Vec<&'static [Class]> {
    vec![wan::CLASSES, camera::CLASSES, hunyuan::CLASSES, others::CLASSES, stable::CLASSES]
}

//! The nodes of the menu `sampling`.

mod custom;
mod flow_schedulers;
mod gits;
mod ksampler;
mod samplers;
mod schedulers;
mod sigmas;

use crate::class::Class;

pub(crate) fn families() -> Vec<&'static [Class]> {
    vec![ksampler::CLASSES, custom::CLASSES, samplers::CLASSES, schedulers::CLASSES, flow_schedulers::CLASSES, sigmas::CLASSES]
}

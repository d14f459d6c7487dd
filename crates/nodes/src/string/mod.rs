//! The nodes of the menu `utils/string`. They count characters and treat case and white space as Python does.

pub(crate) mod case;
mod format;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod matcher;
mod pattern;
mod regex;
mod save;
mod sets;
mod template;
mod text;
mod values;

use crate::class::Class;

pub(crate) fn families() -> Vec<&'static [Class]> {
    vec![text::CLASSES, regex::CLASSES, values::CLASSES, sets::CLASSES, save::CLASSES]
}

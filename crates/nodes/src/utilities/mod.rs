//! The nodes of the menu `utilities`: logic, numbers, expressions, lists.

mod arithmetic;
mod curve;
mod expression;
mod list;
mod logic;
mod math;
mod numbers;

use crate::class::Class;

pub(crate) fn families() -> Vec<&'static [Class]> {
    vec![logic::CLASSES, math::CLASSES, numbers::CLASSES, list::CLASSES, curve::CLASSES]
}

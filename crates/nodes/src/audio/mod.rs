//! The nodes of the menu `audio`.

mod edit;
mod effects;
mod load;
mod save;

use comfyd_node::{Error, Result};
use comfyd_values::Audio;
use std::sync::Arc;

use crate::class::{Call, Class};

pub(crate) fn families() -> Vec<&'static [Class]> {
    vec![load::CLASSES, save::CLASSES, edit::CLASSES, effects::CLASSES]
}

/// The sound of an input; `None` where it is empty, as that of a film without any.
fn optional(call: &Call<'_, '_>, name: &str) -> Result<Option<Audio>> {
    let audio = call.inputs.get_optional::<Audio>(name)?;
    Ok(audio.map(Arc::unwrap_or_clone))
}

/// The sound of an input that must have some.
fn sound(call: &Call<'_, '_>, name: &str) -> Result<Audio> {
    let none = || Error::msg(format!("input '{name}' is empty: the video that it comes from has no sound; take another one"));
    optional(call, name)?.ok_or_else(none)
}

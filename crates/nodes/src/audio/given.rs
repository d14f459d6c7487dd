//! The sound that nodes are given.

use std::sync::Arc;

use comfyd_node::{Error, Result};
use comfyd_values::Audio;

use crate::class::Call;

/// The sound of an input; `None` where it is empty, as that of a film without any.
pub(super) fn optional(call: &Call<'_, '_>, name: &str) -> Result<Option<Audio>> {
    let audio = call.inputs.get_optional::<Audio>(name)?;
    Ok(audio.map(Arc::unwrap_or_clone))
}

/// The sound of an input that must have some.
pub(super) fn sound(call: &Call<'_, '_>, name: &str) -> Result<Audio> {
    let none = || Error::msg(format!("input '{name}' is empty: the video that it comes from has no sound; take another one"));
    optional(call, name)?.ok_or_else(none)
}

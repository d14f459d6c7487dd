//! Pieces, repetitions and joins of arrays along one axis.

use comfyd_imaging::transform;
use comfyd_node::{Error, Result};
use ndarray::{ArcArray, Axis, IxDyn, Slice, concatenate};

use crate::class::Call;

/// The samples of a latent: (B, C, …), the last two axes being height and width.
pub(crate) type Samples = ArcArray<f32, IxDyn>;

/// Joins arrays along an axis, if the result is not too large.
pub(crate) fn join(call: &Call<'_, '_>, parts: &[&Samples], axis: usize) -> Result<Samples> {
    let Some(first) = parts.first() else { return Err(Error::msg("there is nothing to join")) };
    let mut shape = first.shape().to_vec();
    for part in &parts[1..] {
        let same = part.ndim() == shape.len() && (0..shape.len()).all(|a| a == axis || part.shape()[a] == first.shape()[a]);
        if !same {
            let (a, b) = (shape_text(first.shape()), shape_text(part.shape()));
            return Err(Error::msg(format!("arrays of shape {a} and {b} cannot be joined; make their other axes equal")));
        }
        shape[axis] += part.shape()[axis];
    }
    call.reserve(&shape)?;
    let parts: Vec<Samples> = parts.iter().copied().cloned().collect();
    let joined = call.aside(shape.iter().product(), move || {
        let views: Vec<_> = parts.iter().map(|part| part.view()).collect();
        concatenate(Axis(axis), &views)
    })?;
    Ok(joined.map_err(Error::other)?.into_shared())
}

/// The whole array `times` times behind itself along the first axis.
pub(crate) fn repeat(call: &Call<'_, '_>, samples: &Samples, times: usize) -> Result<Samples> {
    let mut shape = samples.shape().to_vec();
    shape[0] = shape[0].saturating_mul(times);
    call.reserve(&shape)?;
    let samples = samples.clone();
    call.apart(shape.iter().product(), move || transform::repeat(&samples, times))
}

/// Cuts or repeats along the first axis until there are `batch`.
pub(crate) fn fit_batch(call: &Call<'_, '_>, samples: &Samples, batch: usize) -> Result<Samples> {
    let mut shape = samples.shape().to_vec();
    shape[0] = batch;
    call.reserve(&shape)?;
    let samples = samples.clone();
    call.apart(shape.iter().product(), move || transform::repeat_to_batch(&samples, batch))
}

/// `length` entries of an axis from `start` on; the caller knows that they are there.
pub(crate) fn narrow(call: &Call<'_, '_>, samples: &Samples, axis: usize, start: usize, length: usize) -> Result<Samples> {
    if start == 0 && length == samples.shape()[axis] {
        return Ok(samples.clone());
    }
    let samples = samples.clone();
    call.aside(samples.len(), move || samples.slice_axis(Axis(axis), Slice::from(start..start + length)).to_shared())
}

/// Fails for what is no picture latent (B, C, H, W).
pub(crate) fn expect_picture(samples: &Samples, name: &str) -> Result<()> {
    if samples.ndim() == 4 {
        return Ok(());
    }
    let shape = shape_text(samples.shape());
    Err(Error::msg(format!("input '{name}' holds a latent of shape {shape}; this node takes pictures, which have four axes")))
}

/// A shape for people.
pub(crate) fn shape_text(shape: &[usize]) -> String {
    shape.iter().map(usize::to_string).collect::<Vec<_>>().join(" x ")
}

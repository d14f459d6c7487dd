//! FreSca: guidance scaled by spatial frequency. The planes are a latent's, so a plain transform by the definition is fast enough.

use std::f64::consts::TAU;

use candle_core::Tensor;

use super::contract::{Call, ModelPatch};
use crate::Result;

/// FreSca.
#[derive(Debug, Clone, Copy)]
pub struct FreSca {
    /// The factor of low frequencies.
    pub low: f64,
    /// The factor of the others.
    pub high: f64,
    /// How many frequencies count as low.
    pub cutoff: usize,
}

impl ModelPatch for FreSca {
    fn before(&mut self, call: &Call<'_>, predictions: &mut [Tensor]) -> Result<()> {
        if call.has_uncond {
            let guidance = (&predictions[0] - &predictions[1])?;
            predictions[0] = (scale_bands(&guidance, self.low, self.high, self.cutoff)? + &predictions[1])?;
        }
        Ok(())
    }
}

/// `x (B, C, H, W)` with frequencies below the cutoff times `low`, the others times `high`. The low ones are a square
/// around the centre of the shifted spectrum, which lacks its last row and column as in the reference.
fn scale_bands(x: &Tensor, low: f64, high: f64, cutoff: usize) -> Result<Tensor> {
    let (shape, values) = crate::values(x)?;
    let (h, w) = (shape[2], shape[3]);
    // low * in-band + high * rest = high * x + (low - high) * in-band
    let (rows, columns) = (band(h, cutoff), band(w, cutoff));
    let mut out = Vec::with_capacity(values.len());
    for plane in values.chunks(h * w) {
        let kept = keep(plane, h, w, &rows, &columns);
        out.extend(plane.iter().zip(kept).map(|(value, kept)| (high * f64::from(*value) + (low - high) * kept) as f32));
    }
    Ok(crate::tensor(&shape, out)?.to_device(x.device())?)
}

/// The signed frequencies of an axis that count as low.
fn band(length: usize, cutoff: usize) -> Vec<i64> {
    let centre = (length / 2) as i64;
    let reach = (cutoff as i64).min(centre);
    (-reach..reach).collect()
}

/// The real part of the plane's components at these frequencies.
fn keep(plane: &[f32], h: usize, w: usize, rows: &[i64], columns: &[i64]) -> Vec<f64> {
    let table = |length: usize, frequencies: &[i64]| -> Vec<(f64, f64)> {
        let angle = |f: i64, i: usize| TAU * ((f * i as i64).rem_euclid(length as i64)) as f64 / length as f64;
        frequencies.iter().flat_map(|f| (0..length).map(move |i| (angle(*f, i).cos(), angle(*f, i).sin()))).collect()
    };
    let (by_row, by_column) = (table(h, rows), table(w, columns));
    // Along x: (rows of the plane) x (kept columns).
    let mut along_x = vec![(0.0, 0.0); h * columns.len()];
    for y in 0..h {
        for (c, wave) in by_column.chunks(w).enumerate() {
            let (mut re, mut im) = (0.0, 0.0);
            for (value, (cos, sin)) in plane[y * w..(y + 1) * w].iter().zip(wave) {
                re += f64::from(*value) * cos;
                im -= f64::from(*value) * sin;
            }
            along_x[y * columns.len() + c] = (re, im);
        }
    }
    // Along y and back again.
    let mut back_y = vec![(0.0, 0.0); h * columns.len()];
    for c in 0..columns.len() {
        for wave in by_row.chunks(h) {
            let (mut re, mut im) = (0.0, 0.0);
            for (y, (cos, sin)) in wave.iter().enumerate() {
                let (a, b) = along_x[y * columns.len() + c];
                re += a * cos + b * sin;
                im += b * cos - a * sin;
            }
            for (y, (cos, sin)) in wave.iter().enumerate() {
                let target = &mut back_y[y * columns.len() + c];
                target.0 += re * cos - im * sin;
                target.1 += re * sin + im * cos;
            }
        }
    }
    let mut out = vec![0.0; h * w];
    for y in 0..h {
        for (c, wave) in by_column.chunks(w).enumerate() {
            let (re, im) = back_y[y * columns.len() + c];
            for (x, (cos, sin)) in wave.iter().enumerate() {
                out[y * w + x] += re * cos - im * sin;
            }
        }
    }
    let count = (h * w) as f64;
    out.iter_mut().for_each(|value| *value /= count);
    out
}

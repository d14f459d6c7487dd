//! FreeU (Si et al. 2023, "FreeU: Free Lunch in Diffusion U-Net"): amplifies what comes from below, damps low frequencies of skips.

use candle_core::{D, Tensor};

use crate::Result;
use crate::backbone::{BlockInfo, Hooks};

/// How the features from below are amplified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// By a constant (ComfyUI's node `FreeU`).
    V1,
    /// By up to that constant, where the mean over the channels is largest (`FreeU_V2`).
    V2,
}

/// FreeU on a UNet's two deepest kinds of decoder block, told by their channels.
#[derive(Debug, Clone)]
pub struct FreeU {
    /// The kind.
    pub version: Version,
    /// Factors of features and skips where there are four times the channels of the first level.
    pub deep: (f64, f64),
    /// The same where there are twice as many.
    pub shallow: (f64, f64),
}

impl Hooks for FreeU {
    fn output_block(&mut self, h: Tensor, skip: Tensor, at: &BlockInfo<'_>) -> Result<(Tensor, Tensor)> {
        let channels = h.dim(1)?;
        let (amplify, damp) = if channels == 4 * at.model_channels {
            self.deep
        } else if channels == 2 * at.model_channels {
            self.shallow
        } else {
            return Ok((h, skip));
        };
        let half = channels / 2;
        let (first, rest) = (h.narrow(1, 0, half)?, h.narrow(1, half, channels - half)?);
        let first = match self.version {
            Version::V1 => (first * amplify)?,
            Version::V2 => first.broadcast_mul(&((relative_mean(&h)? * (amplify - 1.0))? + 1.0)?)?,
        };
        let low = low_frequencies(&skip)?;
        Ok((Tensor::cat(&[&first, &rest], 1)?, (skip + (low * (damp - 1.0))?)?))
    }
}

/// The mean over the channels `(B, 1, H, W)`, from 0 at its smallest to 1 at its largest.
fn relative_mean(h: &Tensor) -> Result<Tensor> {
    let mean = h.mean_keepdim(1)?;
    let flat = mean.flatten_from(1)?;
    let (least, most) = (flat.min_keepdim(D::Minus1)?, flat.max_keepdim(D::Minus1)?);
    let column = |t: Tensor| t.reshape((h.dims()[0], 1, 1, 1));
    Ok(mean.broadcast_sub(&column(least.clone())?)?.broadcast_div(&column((most - least)?)?)?)
}

/// The part of `x (B, C, H, W)` that the four lowest frequencies make up: those of index 0 and -1 of each axis, which is the square of
/// side 2 in the middle of a shifted Fourier transform. Four frequencies need no transform: a projection is two products per axis.
fn low_frequencies(x: &Tensor) -> Result<Tensor> {
    let (_, _, h, w) = x.dims4()?;
    let (rows_re, rows_im) = projection(h, x)?;
    let (columns_re, columns_im) = projection(w, x)?;
    Ok((separable(x, &rows_re, &columns_re)? - separable(x, &rows_im, &columns_im)?)?)
}

/// Real and imaginary part of the matrix that keeps the frequencies 0 and -1 of `n` values.
fn projection(n: usize, like: &Tensor) -> Result<(Tensor, Tensor)> {
    let angle = |r: usize, c: usize| std::f64::consts::TAU * (r as f64 - c as f64) / n as f64;
    let cells = || (0..n).flat_map(|r| (0..n).map(move |c| (r, c)));
    // With a single value, both frequencies are the same.
    let single = n == 1;
    let re: Vec<f32> = cells().map(|(r, c)| if single { 1.0 } else { ((1.0 + angle(r, c).cos()) / n as f64) as f32 }).collect();
    let im: Vec<f32> = cells().map(|(r, c)| if single { 0.0 } else { (-angle(r, c).sin() / n as f64) as f32 }).collect();
    Ok((Tensor::from_vec(re, (n, n), like.device())?, Tensor::from_vec(im, (n, n), like.device())?))
}

/// `rows · x · columns^T` for every plane of `x (B, C, H, W)`.
fn separable(x: &Tensor, rows: &Tensor, columns: &Tensor) -> Result<Tensor> {
    let (b, c, h, w) = x.dims4()?;
    let y = x.reshape((b * c * h, w))?.matmul(&columns.t()?)?.reshape((b * c, h, w))?;
    let y = y.transpose(1, 2)?.contiguous()?.reshape((b * c * w, h))?.matmul(&rows.t()?)?;
    Ok(y.reshape((b, c, w, h))?.transpose(2, 3)?.contiguous()?)
}

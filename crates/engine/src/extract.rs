//! LoRA files from differences of models (LoraSave): each weight's best approximation by two narrow matrices. Where the differences come
//! from is not known here.

use candle_core::{DType, Device, Tensor};
use comfyd_kernels::random::Generator;
use comfyd_node::Context;
use comfyd_weights::{StateDict, write};

use crate::part::Weights;
use crate::saving::write_as;
use crate::{Clip, Error, Model, Output, Result};

/// Of the values of both matrices, the part that is not cut off.
const KEPT_QUANTILE: f64 = 0.99;

/// Directions that are searched beside those wanted, so that the last of those are found as well as the first.
const SPARE_DIRECTIONS: usize = 10;

/// Rounds of the search; it ends before where a round finds no more.
const MAX_ROUNDS: usize = 40;

/// What LoraSave's widgets say.
#[derive(Debug, Clone, Copy)]
pub struct LoraExtraction {
    /// Rows of the narrow matrices.
    pub rank: usize,
    /// Keeps whole differences instead.
    pub full: bool,
    /// Keeps differences of biases and norms too.
    pub bias: bool,
}

/// Writes a LoRA file of models that are differences. Reports progress per tensor.
pub fn save_lora(cx: &Context<'_>, model: Option<&Model>, clip: Option<&Clip>, settings: LoraExtraction, output: Output<'_>) -> Result<()> {
    let mut parts: Vec<(String, Weights)> = model.iter().map(|model| ("diffusion_model.".to_owned(), model.weights.clone())).collect();
    for (kind, weights) in clip.iter().flat_map(|clip| clip.parts.iter()) {
        parts.push((format!("text_encoders.{}.transformer.", kind.name()), weights.clone()));
    }
    let all: usize = parts.iter().map(|(_, weights)| weights.part.weights.len()).sum();
    let mut out = StateDict::default();
    let mut done = 0;
    for (prefix, weights) in &parts {
        let saved = weights.for_saving();
        for (name, lazy) in saved.iter() {
            cx.progress(done as f64, all as f64)?;
            done += 1;
            let is_weight = name.ends_with(".weight");
            let Some(stem) = name.strip_suffix(".weight").or_else(|| name.strip_suffix(".bias")) else { continue };
            let stem = format!("{prefix}{stem}");
            match (is_weight, settings.full || lazy.shape().len() < 2) {
                // A whole difference is read when it is written.
                (true, true) if settings.full || settings.bias => out.insert(format!("{stem}.diff"), lazy.clone()),
                (true, false) => {
                    let Some(difference) = weights.full_precision(name)? else { continue };
                    let (up, down) = narrow(cx, &difference, settings.rank)?;
                    out.insert(format!("{stem}.lora_up.weight"), up.to_dtype(DType::F16)?);
                    out.insert(format!("{stem}.lora_down.weight"), down.to_dtype(DType::F16)?);
                }
                (false, _) if settings.bias => out.insert(format!("{stem}.diff_b"), lazy.clone()),
                (true, true) | (false, _) => {}
            }
        }
    }
    write_as(output, &out, write::Options { dtype: Some(DType::F16), ..write::Options::default() })
}

/// `up (out, rank, ..)` and `down (rank, in, ..)` whose product is nearest to the difference, outliers cut off.
fn narrow(cx: &Context<'_>, difference: &Tensor, rank: usize) -> Result<(Tensor, Tensor)> {
    let shape = difference.dims().to_vec();
    let (outputs, inputs) = (shape[0], shape[1]);
    let rank = rank.min(outputs).min(inputs);
    let (up, down) = decompose(cx, &difference.flatten_from(1)?.contiguous()?, rank)?;
    let limit = quantile(&[&up, &down], KEPT_QUANTILE)?;
    // Should the limit be negative, the upper bound counts, as in torch.
    let cut = |tensor: &Tensor| tensor.maximum(-limit)?.minimum(limit);
    let (up, down) = (cut(&up)?, cut(&down)?);
    if shape.len() < 4 {
        return Ok((up, down));
    }
    let mut down_shape = shape.clone();
    down_shape[0] = rank;
    let mut up_shape = vec![1; shape.len()];
    (up_shape[0], up_shape[1]) = (outputs, rank);
    Ok((up.reshape(up_shape)?, down.reshape(down_shape)?))
}

fn quantile(tensors: &[&Tensor], part: f64) -> Result<f64> {
    let mut values: Vec<f32> = Vec::new();
    for tensor in tensors {
        values.extend(tensor.flatten_all()?.to_vec1::<f32>()?);
    }
    values.sort_by(f32::total_cmp);
    let place = part * values.len().saturating_sub(1) as f64;
    let at = |i: usize| values.get(i).copied().map_or(0.0, f64::from);
    let low = at(place.floor() as usize);
    Ok(low + (at(place.ceil() as usize) - low) * place.fract())
}

/// The best approximation of `a (m, n)` of this rank, as `(m, rank)` (singular values included) and `(rank, n)` with orthonormal rows:
/// subspace iteration from random directions, then the singular values of the small rest.
fn decompose(cx: &Context<'_>, a: &Tensor, rank: usize) -> Result<(Tensor, Tensor)> {
    let (m, n) = a.dims2()?;
    let directions = (rank + SPARE_DIRECTIONS).min(m).min(n);
    let mut rows = Tensor::from_vec(Generator::new(0).randn(directions * m), (directions, m), &Device::Cpu)?;
    rows = rows.matmul(a)?;
    let transposed = a.t()?;
    let mut found = 0.0;
    for _ in 0..MAX_ROUNDS {
        cx.check_cancelled().map_err(Error::from)?;
        rows = orthonormal(&rows)?;
        let image = rows.matmul(&transposed)?;
        let energy = f64::from(image.sqr()?.sum_all()?.to_scalar::<f32>()?);
        let is_found = energy - found <= 1e-6 * energy;
        found = energy;
        if is_found {
            break;
        }
        rows = orthonormal(&image)?.matmul(a)?;
    }
    rows = orthonormal(&rows)?;
    let image = rows.matmul(&transposed)?;
    let values: Vec<Vec<f32>> = image.to_vec2()?;
    let gram = |i: usize, j: usize| values[i].iter().zip(&values[j]).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let vectors = eigenvectors((0..directions).map(|i| (0..directions).map(|j| gram(i, j)).collect()).collect());
    let turn: Vec<f32> = vectors.iter().take(rank).flatten().map(|value| *value as f32).collect();
    let turn = Tensor::from_vec(turn, (rank, directions), &Device::Cpu)?;
    Ok((turn.matmul(&image)?.t()?.contiguous()?, turn.matmul(&rows)?))
}

/// The rows made orthonormal one after the other (modified Gram and Schmidt, twice); rows that depend on earlier ones become zero.
fn orthonormal(rows: &Tensor) -> Result<Tensor> {
    let mut values: Vec<Vec<f32>> = rows.to_vec2()?;
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    for i in 0..values.len() {
        let (before, rest) = values.split_at_mut(i);
        let row = &mut rest[0];
        let length = dot(row, row).sqrt();
        for earlier in before.iter().chain(before.iter()) {
            let along = dot(row, earlier) as f32;
            row.iter_mut().zip(earlier).for_each(|(value, other)| *value -= along * other);
        }
        let left = dot(row, row).sqrt();
        let factor = if left > 1e-6 * length { (1.0 / left) as f32 } else { 0.0 };
        row.iter_mut().for_each(|value| *value *= factor);
    }
    let shape = rows.dims2()?;
    Ok(Tensor::from_vec(values.concat(), shape, &Device::Cpu)?)
}

/// The eigenvectors of a symmetric matrix, the one of the largest eigenvalue first (Jacobi's method).
fn eigenvectors(mut matrix: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    const MAX_SWEEPS: usize = 50;
    let n = matrix.len();
    let mut vectors: Vec<Vec<f64>> = (0..n).map(|i| (0..n).map(|j| f64::from(u8::from(i == j))).collect()).collect();
    for _ in 0..MAX_SWEEPS {
        let total: f64 = matrix.iter().flatten().map(|value| value * value).sum();
        let diagonal: f64 = (0..n).map(|i| matrix[i][i] * matrix[i][i]).sum();
        if total - diagonal <= 1e-24 * total {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                if matrix[p][q].abs() <= f64::MIN_POSITIVE {
                    continue;
                }
                let theta = (matrix[q][q] - matrix[p][p]) / (2.0 * matrix[p][q]);
                let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
                let c = 1.0 / (t * t + 1.0).sqrt();
                let s = t * c;
                for row in matrix.iter_mut() {
                    (row[p], row[q]) = (c * row[p] - s * row[q], s * row[p] + c * row[q]);
                }
                turn(&mut matrix, p, q, c, s);
                turn(&mut vectors, p, q, c, s);
            }
        }
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|a, b| matrix[*b][*b].total_cmp(&matrix[*a][*a]));
    order.into_iter().map(|i| vectors[i].clone()).collect()
}

/// Rotates two rows.
fn turn(rows: &mut [Vec<f64>], p: usize, q: usize, c: f64, s: f64) {
    let (first, second) = rows.split_at_mut(q);
    for (a, b) in first[p].iter_mut().zip(&mut second[0]) {
        (*a, *b) = (c * *a - s * *b, s * *a + c * *b);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use comfyd_node::{CancellationToken, Hidden, SilentReporter};

    use super::*;

    fn error(got: &Tensor, wanted: &Tensor) -> f64 {
        let norm = |t: &Tensor| f64::from(t.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap()).sqrt();
        norm(&(got - wanted).unwrap()) / norm(wanted)
    }

    #[test]
    fn narrow_matrices_give_what_has_their_rank() {
        let (hidden, cancel) = (Hidden::default(), CancellationToken::default());
        let cx = Context::new("1", &hidden, &cancel, &SilentReporter, 0);
        let mut generator = Generator::new(5);
        let mut random = |m: usize, n: usize| Tensor::from_vec(generator.randn(m * n), (m, n), &Device::Cpu).unwrap();
        let low = random(40, 3).matmul(&random(3, 70)).unwrap();
        let (up, down) = decompose(&cx, &low, 4).unwrap();
        assert!(error(&up.matmul(&down).unwrap(), &low) < 1e-5);
        // Of a matrix of full rank all directions give it back, and fewer leave the smallest singular values.
        let full = random(20, 12);
        let (up, down) = decompose(&cx, &full, 12).unwrap();
        assert!(error(&up.matmul(&down).unwrap(), &full) < 1e-5);
        let (up, down) = decompose(&cx, &full, 5).unwrap();
        let lengths: Vec<f32> = up.sqr().unwrap().sum(0).unwrap().to_vec1().unwrap();
        assert!(lengths.windows(2).all(|pair| pair[0] > pair[1]), "{lengths:?}");
        let left = error(&up.matmul(&down).unwrap(), &full);
        assert!((0.2..0.8).contains(&left), "{left}");
        let convolution = full.reshape((20, 3, 2, 2)).unwrap();
        let (up, down) = narrow(&cx, &convolution, 9).unwrap();
        assert_eq!((up.dims(), down.dims()), (&[20, 3, 1, 1][..], &[3, 3, 2, 2][..]));
    }

    #[test]
    fn quantiles_lie_between_neighbours() {
        let tensor = |values: &[f32]| Tensor::from_slice(values, values.len(), &Device::Cpu).unwrap();
        assert_eq!(quantile(&[&tensor(&[3.0, 1.0]), &tensor(&[2.0, 5.0])], 0.5).unwrap(), 2.5);
        assert_eq!(quantile(&[&tensor(&[])], 0.5).unwrap(), 0.0);
    }
}

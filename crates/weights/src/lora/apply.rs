//! What adapters do to a weight (the reference's `weight_adapter`), in single precision on the CPU.

use candle_core::{DType, Device, Tensor};

use super::adapter::{Adapter, Factor};
use crate::error::{Error, Result};

/// The distance from 1 to the next number of single precision.
const EPSILON: f64 = f32::EPSILON as f64;

/// Values that a changed weight may have; more is a lie in a file.
const MAX_VALUES: usize = 1 << 31;

impl Adapter {
    /// The weight with this change at this strength; `weight` is F32 on the CPU. An adapter of other shapes is an error, upon which the
    /// reference leaves the weight as it was.
    pub fn apply(&self, weight: &Tensor, strength: f64) -> Result<Tensor> {
        match self {
            Self::Lora { up, down, mid, alpha, dora_scale, reshape } => {
                let weight = match reshape {
                    Some(shape) => pad(weight, shape)?,
                    None => weight.clone(),
                };
                let down_f32 = f32(down)?;
                let scale = scale(*alpha, down.dims().first().copied());
                let down = match mid {
                    Some(mid) => with_mid(&down_f32, &f32(mid)?)?,
                    None => down_f32,
                };
                let difference = shaped(&flat(&f32(up)?)?.matmul(&flat(&down)?)?, &weight)?;
                add(&weight, &difference, scale, strength, dora_scale.as_ref())
            }
            Self::Loha { w1, w2, t, alpha, dora_scale } => {
                let scale = scale(*alpha, w1.1.dims().first().copied());
                let product = |(a, b): &(Tensor, Tensor), t: Option<&Tensor>| -> Result<Tensor> {
                    match t {
                        Some(t) => tucker(&f32(t)?, &f32(b)?, &f32(a)?),
                        None => Ok(f32(a)?.matmul(&f32(b)?)?),
                    }
                };
                let first = product(w1, t.as_ref().map(|t| &t.0))?;
                let difference = (first * product(w2, t.as_ref().map(|t| &t.1))?)?;
                add(weight, &shaped(&difference, weight)?, scale, strength, dora_scale.as_ref())
            }
            Self::Lokr { w1, w2, alpha, dora_scale } => {
                let rank = w2.rank().or(w1.rank());
                let scale = if rank.is_some() { scale(*alpha, rank) } else { 1.0 };
                let difference = shaped(&kronecker(&w1.matrix()?, &w2.matrix()?)?, weight)?;
                add(weight, &difference, scale, strength, dora_scale.as_ref())
            }
            Self::Glora { factors, alpha, dora_scale } => {
                let (difference, rank) = glora(factors, weight)?;
                add(weight, &difference, scale(*alpha, Some(rank)), strength, dora_scale.as_ref())
            }
            Self::Oft { blocks, rescale, alpha, dora_scale } => {
                let alpha = alpha.unwrap_or(0.0);
                let difference = match blocks.rank() {
                    3 => oft(&f32(blocks)?, weight, alpha, strength)?,
                    _ => boft(&f32(blocks)?, rescale.as_ref(), weight, alpha, strength)?,
                };
                match dora_scale {
                    Some(dora_scale) => decompose(weight, &(difference * alpha)?, strength, dora_scale),
                    // The strength bends the rotation towards none already; the reference scales its effect once more.
                    None => Ok((weight + (difference * strength)?)?),
                }
            }
            Self::Diff(difference) => {
                if strength == 0.0 {
                    return Ok(weight.clone());
                }
                if difference.dims() != weight.dims() {
                    return Err(misfit(difference.dims(), weight.dims()));
                }
                Ok((weight + (f32(difference)? * strength)?)?)
            }
            Self::Set(value) => Ok(f32(value)?.broadcast_as(weight.dims())?.contiguous()?),
        }
    }
}

impl Factor {
    fn matrix(&self) -> Result<Tensor> {
        match self {
            Self::Whole(whole) => f32(whole),
            Self::Product(a, b, Some(core)) => tucker(&f32(core)?, &f32(b)?, &f32(a)?),
            Self::Product(a, b, None) => Ok(f32(a)?.matmul(&f32(b)?)?),
        }
    }

    fn rank(&self) -> Option<usize> {
        match self {
            Self::Whole(_) => None,
            Self::Product(_, b, _) => b.dims().first().copied(),
        }
    }
}

fn f32(tensor: &Tensor) -> Result<Tensor> {
    Ok(tensor.to_dtype(DType::F32)?)
}

fn scale(alpha: Option<f64>, rank: Option<usize>) -> f64 {
    match (alpha, rank) {
        (Some(alpha), Some(rank)) if rank > 0 => alpha / rank as f64,
        _ => 1.0,
    }
}

fn misfit(got: &[usize], wanted: &[usize]) -> Error {
    Error::Adapter(format!("its shape is {got:?}, the weight's {wanted:?}"))
}

/// The first axis and all others as one.
fn flat(tensor: &Tensor) -> Result<Tensor> {
    Ok(tensor.flatten_from(1)?)
}

fn shaped(difference: &Tensor, weight: &Tensor) -> Result<Tensor> {
    if difference.elem_count() != weight.elem_count() {
        return Err(misfit(difference.dims(), weight.dims()));
    }
    Ok(difference.reshape(weight.dims())?)
}

/// `weight + strength * scale * difference`, decomposed if there are magnitudes.
fn add(weight: &Tensor, difference: &Tensor, scale: f64, strength: f64, dora_scale: Option<&Tensor>) -> Result<Tensor> {
    match dora_scale {
        Some(dora_scale) => decompose(weight, &(difference * scale)?, strength, dora_scale),
        None => Ok((weight + (difference * (strength * scale))?)?),
    }
}

/// DoRA: the sum's directions with the magnitudes of the file. The norms are the old weight's along outputs and the sum's along inputs, as
/// in the reference.
fn decompose(weight: &Tensor, difference: &Tensor, strength: f64, dora_scale: &Tensor) -> Result<Tensor> {
    let dora_scale = f32(dora_scale)?;
    let sum = (weight + difference)?;
    let mut shape = vec![1; weight.rank()];
    let norm = if dora_scale.dims().first() == sum.dims().first() {
        shape[0] = weight.dim(0)?;
        flat(weight)?.sqr()?.sum(1)?.sqrt()?.reshape(shape)?
    } else {
        shape[1] = sum.dim(1)?;
        flat(&sum.transpose(0, 1)?.contiguous()?)?.sqr()?.sum(1)?.sqrt()?.reshape(shape)?
    };
    let factor = dora_scale.broadcast_div(&(norm + EPSILON)?)?;
    let scaled = sum.broadcast_mul(&factor)?;
    if scaled.dims() != weight.dims() {
        return Err(misfit(dora_scale.dims(), weight.dims()));
    }
    if strength == 1.0 { Ok(scaled) } else { Ok((weight + ((scaled - weight)? * strength)?)?) }
}

/// The weight in the corner of zeros.
fn pad(weight: &Tensor, shape: &[usize]) -> Result<Tensor> {
    let count = shape.iter().try_fold(1usize, |count, axis| count.checked_mul(*axis)).filter(|count| *count <= MAX_VALUES);
    if count.is_none() || shape.len() != weight.rank() || shape.iter().zip(weight.dims()).any(|(new, old)| new < old) {
        return Err(misfit(shape, weight.dims()));
    }
    let mut padded = weight.clone();
    for (axis, &size) in shape.iter().enumerate() {
        padded = padded.pad_with_zeros(axis, 0, size - padded.dim(axis)?)?;
    }
    Ok(padded)
}

/// LoCon's lower matrix with the core behind it: `(rank, in, 1, 1)` and `(rank, rank, kh, kw)` to `(rank, in, kh, kw)`.
fn with_mid(down: &Tensor, mid: &Tensor) -> Result<Tensor> {
    let (_, _, kh, kw) = mid.dims4()?;
    let (rank, inputs) = (down.dim(0)?, down.dim(1)?);
    let product = flat(&down.transpose(0, 1)?.contiguous()?)?.matmul(&flat(&mid.transpose(0, 1)?.contiguous()?)?)?;
    Ok(product.reshape((inputs, rank, kh, kw))?.transpose(0, 1)?.contiguous()?)
}

/// `sum_ij core[i, j, k, l] b[j, r] a[i, p]` as `(p, r, k, l)`.
fn tucker(core: &Tensor, b: &Tensor, a: &Tensor) -> Result<Tensor> {
    let (i, j, kh, kw) = core.dims4()?;
    let core = core.permute((2, 3, 0, 1))?.contiguous()?.reshape((kh * kw, i, j))?;
    let product = a.t()?.broadcast_matmul(&core)?.broadcast_matmul(b)?;
    let (p, r) = (a.dim(1)?, b.dim(1)?);
    Ok(product.reshape((kh, kw, p, r))?.permute((2, 3, 0, 1))?.contiguous()?)
}

/// The Kronecker product of `(a, b)` and `(c, d, ..)`, as `(a * c, b * d * ..)`.
fn kronecker(w1: &Tensor, w2: &Tensor) -> Result<Tensor> {
    let (a, b) = w1.dims2()?;
    let (c, d) = (w2.dim(0)?, w2.dim(1)?);
    let rest: usize = w2.dims()[2..].iter().product();
    if w1.elem_count().checked_mul(w2.elem_count()).is_none_or(|count| count > MAX_VALUES) {
        return Err(Error::Adapter(format!("the product of {:?} and {:?} is too large", w1.dims(), w2.dims())));
    }
    let product = w1.reshape((a, 1, b, 1))?.broadcast_mul(&w2.reshape((1, c, 1, d * rest))?)?;
    Ok(product.reshape((a * c, b * d * rest))?)
}

/// The difference, and the rank. An older version of the format had the factors the other way round.
fn glora(factors: &[Tensor; 4], weight: &Tensor) -> Result<(Tensor, usize)> {
    let mut matrices = Vec::with_capacity(4);
    for factor in factors {
        matrices.push(flat(&f32(factor)?)?);
    }
    let [a1, a2, b1, b2] = matrices.as_slice() else { return Err(Error::Adapter("it has not four factors".into())) };
    let (rows, columns) = (|t: &Tensor| t.dims()[0], |t: &Tensor| t.dims()[1]);
    let all = |sizes: [usize; 4]| sizes.iter().all(|size| *size == sizes[0]).then_some(sizes[0]);
    let old = all([columns(b2), rows(b1), rows(a1), columns(a2)]);
    let new = all([rows(b2), columns(b1), columns(a1), rows(a2)]);
    let is_square = weight.rank() >= 2 && weight.dim(0)? == weight.dim(1)?;
    match (old, new) {
        (Some(rank), None) => old_glora(a1, a2, b1, b2, weight).map(|difference| (difference, rank)),
        (Some(_), Some(rank)) if is_square && rank == weight.dim(0)? => {
            old_glora(a1, a2, b1, b2, weight).map(|difference| (difference, rows(a1)))
        }
        (_, Some(rank)) => {
            // Inputs last, so that the factors multiply them.
            let (outputs, inputs) = (weight.dim(0)?, weight.dim(1)?);
            let last = weight.reshape((outputs, inputs, ()))?.transpose(1, 2)?.contiguous()?;
            let turned = last.broadcast_matmul(a1)?.broadcast_matmul(a2)?.transpose(1, 2)?.contiguous()?;
            Ok(((shaped(&turned, weight)? + shaped(&b1.matmul(b2)?, weight)?)?, rank))
        }
        (None, None) => Err(Error::Adapter("its factors have no common rank".into())),
    }
}

fn old_glora(a1: &Tensor, a2: &Tensor, b1: &Tensor, b2: &Tensor, weight: &Tensor) -> Result<Tensor> {
    shaped(&(b2.matmul(b1)? + flat(weight)?.matmul(a2)?.matmul(a1)?)?, weight)
}

/// The rotations that the generators stand for: `(I + Q)(I - Q)^-1` with `Q` the generator less its transpose, bounded by `alpha`.
fn rotations(blocks: &Tensor, alpha: f64) -> Result<Tensor> {
    let rank = blocks.rank();
    let q = (blocks - blocks.transpose(rank - 2, rank - 1)?)?;
    let norm = f64::from(q.sqr()?.sum_all()?.sqrt()?.to_scalar::<f32>()?) + 1e-8;
    let q = if alpha > 0.0 && norm > alpha { (q * (alpha / norm))? } else { q };
    let size = blocks.dim(rank - 1)?;
    if blocks.dim(rank - 2)? != size || size == 0 {
        return Err(Error::Adapter(format!("its rotations are not square: {:?}", blocks.dims())));
    }
    let eye = Tensor::eye(size, DType::F32, &Device::Cpu)?;
    let flat = q.reshape(((), size, size))?;
    let inverse = inverses(&eye.broadcast_sub(&flat)?)?;
    Ok(eye.broadcast_add(&flat)?.matmul(&inverse)?.reshape(blocks.dims())?)
}

/// The inverse of each matrix of `(n, size, size)`, by Gauss and Jordan with the largest pivot of the column, in double precision.
fn inverses(matrices: &Tensor) -> Result<Tensor> {
    let (count, size, _) = matrices.dims3()?;
    let values = matrices.flatten_all()?.to_vec1::<f32>()?;
    let mut out = Vec::with_capacity(values.len());
    for matrix in values.chunks_exact(size * size).take(count) {
        let mut rows: Vec<Vec<f64>> = (0..size)
            .map(|row| {
                let left = matrix[row * size..(row + 1) * size].iter().map(|value| f64::from(*value));
                left.chain((0..size).map(|column| f64::from(u8::from(column == row)))).collect()
            })
            .collect();
        for column in 0..size {
            let pivot = (column..size).max_by(|a, b| rows[*a][column].abs().total_cmp(&rows[*b][column].abs())).unwrap_or(column);
            rows.swap(column, pivot);
            let divisor = rows[column][column];
            if divisor == 0.0 || !divisor.is_finite() {
                return Err(Error::Adapter("its rotations cannot be inverted".into()));
            }
            rows[column].iter_mut().for_each(|value| *value /= divisor);
            let pivot_row = rows[column].clone();
            for (other, row) in rows.iter_mut().enumerate() {
                let factor = row[column];
                if other != column && factor != 0.0 {
                    row.iter_mut().zip(&pivot_row).for_each(|(value, pivot)| *value -= factor * pivot);
                }
            }
        }
        out.extend(rows.iter().flat_map(|row| &row[size..]).map(|value| *value as f32));
    }
    Ok(Tensor::from_vec(out, (count, size, size), &Device::Cpu)?)
}

/// The difference that rotating blocks of outputs makes, at this strength.
fn oft(blocks: &Tensor, weight: &Tensor, alpha: f64, strength: f64) -> Result<Tensor> {
    let (count, size, _) = blocks.dims3()?;
    if weight.rank() == 0 || count * size != weight.dim(0)? {
        return Err(misfit(blocks.dims(), weight.dims()));
    }
    let eye = Tensor::eye(size, DType::F32, &Device::Cpu)?;
    let turn = (rotations(blocks, alpha)? * strength)?.broadcast_sub(&(eye * strength)?)?;
    let rows = weight.reshape((count, size, ()))?;
    shaped(&turn.transpose(1, 2)?.contiguous()?.matmul(&rows)?, weight)
}

/// The difference that rounds of rotations with shuffles between make.
fn boft(blocks: &Tensor, rescale: Option<&Tensor>, weight: &Tensor, alpha: f64, strength: f64) -> Result<Tensor> {
    let (rounds, count, size, _) = blocks.dims4()?;
    if weight.rank() == 0 || count * size != weight.dim(0)? || size < 2 {
        return Err(misfit(blocks.dims(), weight.dims()));
    }
    let outputs = weight.dim(0)?;
    let turns = rotations(blocks, alpha)?;
    let eye = Tensor::eye(size, DType::F32, &Device::Cpu)?;
    let mut rows = weight.reshape((outputs, ()))?;
    let rest = rows.dim(1)?;
    for round in 0..rounds {
        let mut turn = turns.get(round)?;
        if strength != 1.0 {
            turn = (turn * strength)?.broadcast_add(&(&eye * (1.0 - strength))?)?;
        }
        let width = u32::try_from(round).ok().and_then(|round| (size / 2).checked_shl(round)).unwrap_or(0);
        if width == 0 || outputs % (2 * width) != 0 {
            return Err(misfit(blocks.dims(), weight.dims()));
        }
        let shuffled = rows.reshape(((), 2, width, rest))?.transpose(1, 2)?.contiguous()?.reshape((count, size, rest))?;
        let turned = turn.contiguous()?.matmul(&shuffled)?;
        rows = turned.reshape(((), width, 2, rest))?.transpose(1, 2)?.contiguous()?.reshape((outputs, rest))?;
    }
    let mut turned = shaped(&rows, weight)?;
    if let Some(rescale) = rescale {
        turned = turned.broadcast_mul(&f32(rescale)?)?;
    }
    if turned.dims() != weight.dims() {
        return Err(misfit(turned.dims(), weight.dims()));
    }
    Ok((turned - weight)?)
}

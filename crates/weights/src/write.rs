//! Writes safetensors files tensor by tensor. Where the file lies, and that it appears only when it is whole, is the caller's business.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use candle_core::{DType, Tensor};
use half::{bf16, f16};

use crate::dtype::Dtype;
use crate::eight_bits::SmallFloat;
use crate::error::{Error, Result};
use crate::safetensors;
use crate::state_dict::{Form, LazyTensor, StateDict};
use crate::weight::{Scaled8, Weight};

/// What to write, beside the tensors.
#[derive(Default)]
pub struct Options<'a> {
    /// Texts for the header.
    pub metadata: Vec<(String, String)>,
    /// The type that floating-point tensors are converted to; `None`: each as it is kept, or else as it is read.
    pub dtype: Option<DType>,
    /// Asked before each tensor; `true` ends the writing with [`Error::Interrupted`].
    pub interrupted: Option<&'a dyn Fn() -> bool>,
}

/// Writes a new file of these tensors.
pub fn write(path: &Path, tensors: &StateDict, options: &Options<'_>) -> Result<()> {
    let file = File::create(path).map_err(Error::Write)?;
    write_to(file, tensors, options)
}

/// Writes these tensors, in the order that the format's own library gives them (larger types first, then by name). One tensor at a time
/// is in memory.
pub fn write_to(out: impl Write, tensors: &StateDict, options: &Options<'_>) -> Result<()> {
    let mut entries = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors.iter() {
        let stored = Stored::of(tensor, options.dtype);
        entries.push(Entry { name, tensor, stored, dtype: stored.dtype()? });
    }
    entries.sort_by(|a, b| b.dtype.size().cmp(&a.dtype.size()).then_with(|| a.name.cmp(b.name)));
    let described = entries.iter().map(|entry| (entry.name, entry.dtype, entry.tensor.shape()));
    let header = safetensors::header(described, (!options.metadata.is_empty()).then_some(&options.metadata));

    let mut out = BufWriter::with_capacity(1 << 20, out);
    out.write_all(&header).map_err(Error::Write)?;
    for entry in &entries {
        if options.interrupted.is_some_and(|interrupted| interrupted()) {
            return Err(Error::Interrupted);
        }
        let weight = entry.tensor.weight()?;
        if weight.dims() != entry.tensor.shape() {
            let [values, expected] = [weight.dims(), entry.tensor.shape()].map(|axes| axes.iter().product());
            return Err(Error::Shape { name: entry.name.into(), values, expected });
        }
        match (entry.stored, weight) {
            (Stored::Small(_), Weight::Scaled8(Scaled8 { bytes, scale: None, .. })) => write_values(&mut out, &bytes)?,
            (Stored::Small(kind), weight) => write_values(&mut out, &Scaled8::round(kind, &weight.dense()?)?.bytes)?,
            (Stored::Plain(dtype), weight) => write_values(&mut out, &weight.dense()?.to_dtype(dtype)?)?,
        }
    }
    out.flush().map_err(Error::Write)
}

struct Entry<'a> {
    name: &'a str,
    tensor: &'a LazyTensor,
    stored: Stored,
    dtype: Dtype,
}

/// How values are kept in the file.
#[derive(Clone, Copy)]
enum Stored {
    Plain(DType),
    /// Kept so before, hence without loss.
    Small(SmallFloat),
}

impl Stored {
    /// Only floating-point numbers are converted.
    fn of(tensor: &LazyTensor, wanted: Option<DType>) -> Self {
        match (tensor.form(), tensor.dtype(), wanted) {
            (Form::Small(kind), _, None) => Self::Small(kind),
            (_, DType::F16 | DType::BF16 | DType::F32 | DType::F64, Some(wanted)) => Self::Plain(wanted),
            (_, dtype, _) => Self::Plain(dtype),
        }
    }

    fn dtype(self) -> Result<Dtype> {
        Ok(match self {
            Self::Small(SmallFloat::E4m3) => Dtype::F8E4M3,
            Self::Small(SmallFloat::E5m2) => Dtype::F8E5M2,
            Self::Plain(DType::U8) => Dtype::U8,
            Self::Plain(DType::U32) => Dtype::U32,
            Self::Plain(DType::I16) => Dtype::I16,
            Self::Plain(DType::I32) => Dtype::I32,
            Self::Plain(DType::I64) => Dtype::I64,
            Self::Plain(DType::BF16) => Dtype::Bf16,
            Self::Plain(DType::F16) => Dtype::F16,
            Self::Plain(DType::F32) => Dtype::F32,
            Self::Plain(DType::F64) => Dtype::F64,
            Self::Plain(other) => return Err(candle_core::Error::UnsupportedDTypeForOp(other, "write").into()),
        })
    }
}

fn write_values(out: &mut impl Write, tensor: &Tensor) -> Result<()> {
    let flat = tensor.flatten_all()?;
    match flat.dtype() {
        DType::U8 => out.write_all(&flat.to_vec1::<u8>()?).map_err(Error::Write),
        DType::U32 => write_all(out, &flat.to_vec1::<u32>()?, |v| v.to_le_bytes()).map_err(Error::Write),
        DType::I16 => write_all(out, &flat.to_vec1::<i16>()?, |v| v.to_le_bytes()).map_err(Error::Write),
        DType::I32 => write_all(out, &flat.to_vec1::<i32>()?, |v| v.to_le_bytes()).map_err(Error::Write),
        DType::I64 => write_all(out, &flat.to_vec1::<i64>()?, |v| v.to_le_bytes()).map_err(Error::Write),
        DType::BF16 => write_all(out, &flat.to_vec1::<bf16>()?, |v| v.to_le_bytes()).map_err(Error::Write),
        DType::F16 => write_all(out, &flat.to_vec1::<f16>()?, |v| v.to_le_bytes()).map_err(Error::Write),
        DType::F32 => write_all(out, &flat.to_vec1::<f32>()?, |v| v.to_le_bytes()).map_err(Error::Write),
        DType::F64 => write_all(out, &flat.to_vec1::<f64>()?, |v| v.to_le_bytes()).map_err(Error::Write),
        other => Err(candle_core::Error::UnsupportedDTypeForOp(other, "write").into()),
    }
}

fn write_all<T: Copy, const N: usize>(out: &mut impl Write, values: &[T], bytes: impl Fn(T) -> [u8; N]) -> std::io::Result<()> {
    let mut buffer = Vec::with_capacity(N << 12);
    for chunk in values.chunks(1 << 12) {
        buffer.clear();
        chunk.iter().for_each(|value| buffer.extend_from_slice(&bytes(*value)));
        out.write_all(&buffer)?;
    }
    Ok(())
}

//! Writes safetensors files tensor by tensor. Where the file lies, and that it appears only when it is whole, is the caller's business.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use candle_core::{DType, Tensor};
use half::{bf16, f16};
use serde_json::{Map, Value as Json, json};

use crate::eight_bits::SmallFloat;
use crate::error::{Error, Result};
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
    let mut entries: Vec<Entry<'_>> =
        tensors.iter().map(|(name, tensor)| Entry { name, tensor, stored: Stored::of(tensor, options.dtype) }).collect();
    entries.sort_by(|a, b| b.stored.size().cmp(&a.stored.size()).then_with(|| a.name.cmp(b.name)));
    let header = header(&entries, &options.metadata)?;

    let mut out = BufWriter::with_capacity(1 << 20, out);
    out.write_all(&(header.len() as u64).to_le_bytes()).map_err(Error::Write)?;
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
}

/// The type in the file.
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

    fn size(self) -> usize {
        match self {
            Self::Plain(dtype) => dtype.size_in_bytes(),
            Self::Small(_) => 1,
        }
    }
}

fn header(entries: &[Entry<'_>], metadata: &[(String, String)]) -> Result<Vec<u8>> {
    let mut header = Map::new();
    if !metadata.is_empty() {
        let texts: Map<String, Json> = metadata.iter().map(|(key, value)| (key.clone(), Json::from(value.as_str()))).collect();
        header.insert("__metadata__".into(), Json::Object(texts));
    }
    let mut end = 0u64;
    for entry in entries {
        let start = end;
        let shape = entry.tensor.shape();
        end += shape.iter().fold(entry.stored.size() as u64, |bytes, axis| bytes.saturating_mul(*axis as u64));
        header.insert(entry.name.into(), json!({"dtype": type_name(entry)?, "shape": shape, "data_offsets": [start, end]}));
    }
    let mut header = Json::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(header)
}

fn type_name(entry: &Entry<'_>) -> Result<&'static str> {
    Ok(match entry.stored {
        Stored::Small(SmallFloat::E4m3) => "F8_E4M3",
        Stored::Small(SmallFloat::E5m2) => "F8_E5M2",
        Stored::Plain(DType::U8) => "U8",
        Stored::Plain(DType::U32) => "U32",
        Stored::Plain(DType::I16) => "I16",
        Stored::Plain(DType::I32) => "I32",
        Stored::Plain(DType::I64) => "I64",
        Stored::Plain(DType::BF16) => "BF16",
        Stored::Plain(DType::F16) => "F16",
        Stored::Plain(DType::F32) => "F32",
        Stored::Plain(DType::F64) => "F64",
        Stored::Plain(other) => return Err(candle_core::Error::UnsupportedDTypeForOp(other, "write").into()),
    })
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

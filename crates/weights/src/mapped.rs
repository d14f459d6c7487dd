//! Memory-mapped files and the values in them, whatever the format that tells where they lie. The only unsafe code of this crate.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use memmap2::Mmap;

use crate::dtype::{Dtype, count};
use crate::eight_bits::SmallFloat;
use crate::error::{Error, Result};
use crate::state_dict::{Form, LazyTensor, Source};
use crate::weight::{Scaled8, Weight};

/// Bytes that a tensor with repeated values (stride 0) may need, as read. Others are bounded by the file's size.
const MAX_REPEATED_BYTES: u64 = 256 << 20;

/// A file that is mapped, never written.
pub(crate) struct MappedFile {
    path: PathBuf,
    format: &'static str,
    disk: File,
    map: Option<Mmap>,
}

impl MappedFile {
    /// Maps a file; `format` is its name in errors.
    pub(crate) fn open(path: &Path, format: &'static str) -> Result<Arc<Self>> {
        let disk = File::open(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        Self::from_disk(path, format, disk)
    }

    /// Maps an open file.
    pub(crate) fn from_disk(path: &Path, format: &'static str, disk: File) -> Result<Arc<Self>> {
        let fail = |source| Error::Read { path: path.to_owned(), source };
        let length = disk.metadata().map_err(fail)?.len();
        let map = if length == 0 {
            None
        } else {
            // SAFETY: the map is private and only read. A file that another process changes gives other numbers; one that it shortens is
            // noticed before each read (`bytes`), which leaves the time of the copy itself, as in every program that maps weights.
            Some(unsafe { Mmap::map(&disk) }.map_err(fail)?)
        };
        Ok(Arc::new(Self { path: path.to_owned(), format, disk, map }))
    }

    /// The whole file.
    pub(crate) fn all(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }

    /// Its size when it was opened.
    pub(crate) fn len(&self) -> u64 {
        self.all().len() as u64
    }

    /// Hands some of its bytes, if they are still there, to who copies them. The copy is what is used from then on, so that the process need
    /// not hold both.
    pub(crate) fn copy<T>(&self, start: u64, length: u64, copy: impl FnOnce(&[u8]) -> Result<T>) -> Result<T> {
        let copied = copy(self.bytes(start, length)?);
        #[cfg(unix)]
        if let Some(map) = &self.map {
            // SAFETY: nothing is ever written to the map, so that what the system forgets of it can only come back from the file as it was.
            // That it cannot forget is no harm.
            let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start as usize, length as usize) };
        }
        copied
    }

    /// Some of its bytes, if they are still there.
    fn bytes(&self, start: u64, length: u64) -> Result<&[u8]> {
        let size = self.disk.metadata().map_err(|source| Error::Read { path: self.path.clone(), source })?.len().min(self.len());
        let end = start.checked_add(length).filter(|end| *end <= size);
        let Some(end) = end else {
            return Err(self.invalid(format!("values lie at {start} and take {length} bytes, the file has {size}")));
        };
        Ok(&self.all()[start as usize..end as usize])
    }

    /// An error that says that the file is damaged.
    pub(crate) fn invalid(&self, reason: impl Into<String>) -> Error {
        Error::Invalid { path: self.path.clone(), format: self.format, reason: reason.into() }
    }
}

/// Where the values of a tensor lie in a file. Built only after `check` agreed, or after a format's own checks.
#[derive(Debug, Clone)]
pub(crate) struct Values {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// The first value's place in the file, in bytes.
    pub start: u64,
    /// Distances between neighbours along each axis, in values; `None`: the last axis runs fastest.
    pub strides: Option<Vec<usize>>,
}

impl Values {
    /// Whether all values lie inside `end` bytes of the file; else why not.
    pub(crate) fn check(&self, end: u64) -> std::result::Result<(), String> {
        let size = self.dtype.size();
        let count = count(self.shape.iter().map(|axis| *axis as u64)).ok_or("claims more values than any machine holds")?;
        let span = match (&self.strides, count) {
            (_, 0) => 0,
            (None, count) => count,
            (Some(strides), _) => strides
                .iter()
                .zip(&self.shape)
                .try_fold(1u64, |last, (stride, axis)| (*axis as u64 - 1).checked_mul(*stride as u64)?.checked_add(last))
                .ok_or("has steps beyond any file")?,
        };
        let fits = span.checked_mul(size).and_then(|bytes| bytes.checked_add(self.start)).is_some_and(|needed| needed <= end);
        if !fits {
            return Err(format!("needs {span} values from byte {} on, the file has only {end} bytes", self.start));
        }
        if count > span && count * size > MAX_REPEATED_BYTES {
            return Err(format!("repeats {span} values {count} times"));
        }
        Ok(())
    }

    /// The tensor that reads them from this file.
    pub(crate) fn lazy(self, file: &Arc<MappedFile>) -> LazyTensor {
        LazyTensor::new(self.shape.clone(), reads_as(self.dtype), Arc::new(InFile { file: Arc::clone(file), values: self }))
    }
}

struct InFile {
    file: Arc<MappedFile>,
    values: Values,
}

impl Source for InFile {
    fn read(&self) -> Result<Weight> {
        let Values { dtype, shape, start, strides } = &self.values;
        let count: usize = shape.iter().product();
        let size = dtype.size();
        let tensor = match strides {
            Some(strides) if count > 0 => {
                let last: u64 = strides.iter().zip(shape).map(|(stride, axis)| (*axis as u64 - 1) * *stride as u64).sum();
                let gathered = |bytes: &[u8]| decode(*dtype, &gather(bytes, size as usize, shape, strides), shape);
                self.file.copy(*start, (last + 1) * size, gathered)
            }
            _ => self.file.copy(*start, count as u64 * size, |bytes| decode(*dtype, bytes, shape)),
        }?;
        Ok(match self.form() {
            Form::Small(kind) => Weight::Scaled8(Scaled8 { kind, bytes: tensor, scale: None }),
            Form::Dense | Form::Scaled8 | Form::Scaled | Form::Quantised(_) | Form::Unknown => Weight::Dense(tensor),
        })
    }

    fn form(&self) -> Form {
        match self.values.dtype {
            Dtype::F8E4M3 => Form::Small(SmallFloat::E4m3),
            Dtype::F8E5M2 => Form::Small(SmallFloat::E5m2),
            _ => Form::Dense,
        }
    }

    fn rows(&self, start: usize, count: usize) -> Option<Arc<dyn Source>> {
        let mut values = self.values.clone();
        if values.strides.is_some() {
            return None;
        }
        let row = values.shape.iter().skip(1).try_fold(values.dtype.size(), |bytes, axis| bytes.checked_mul(*axis as u64))?;
        *values.shape.first_mut()? = count;
        values.start = (start as u64).checked_mul(row)?.checked_add(values.start)?;
        Some(Arc::new(Self { file: Arc::clone(&self.file), values }))
    }
}

/// A tensor whose values are of a type that is not known. A file may hold some that nothing needs; reading one is an error.
pub(crate) struct Unreadable {
    pub path: PathBuf,
    pub name: String,
    /// The type as the file calls it.
    pub dtype: String,
}

impl Unreadable {
    /// The tensor of that shape.
    pub(crate) fn lazy(self, shape: Vec<usize>) -> LazyTensor {
        LazyTensor::new(shape, DType::U8, Arc::new(self))
    }
}

impl Source for Unreadable {
    fn read(&self) -> Result<Weight> {
        Err(Error::Dtype { path: self.path.clone(), name: self.name.clone(), dtype: self.dtype.clone() })
    }

    fn form(&self) -> Form {
        Form::Unknown
    }
}

/// The values in the order in which the last axis runs fastest.
fn gather(bytes: &[u8], size: usize, shape: &[usize], strides: &[usize]) -> Vec<u8> {
    let count: usize = shape.iter().product();
    let mut out = Vec::with_capacity(count * size);
    let mut index = vec![0; shape.len()];
    for _ in 0..count {
        let at: usize = index.iter().zip(strides).map(|(i, stride)| i * stride).sum();
        out.extend_from_slice(&bytes[at * size..(at + 1) * size]);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            if index[axis] < shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    out
}

/// The type of the tensor that values of a file's type are read as.
pub(crate) fn reads_as(dtype: Dtype) -> DType {
    match dtype {
        Dtype::F32 | Dtype::F64 => DType::F32,
        Dtype::F16 | Dtype::F8E5M2 | Dtype::F8E4M3 => DType::F16,
        Dtype::Bf16 => DType::BF16,
        Dtype::Bool | Dtype::U8 => DType::U8,
        Dtype::I8 | Dtype::I16 | Dtype::U16 | Dtype::I32 | Dtype::U32 | Dtype::I64 | Dtype::U64 => DType::I64,
    }
}

/// The values as a tensor on the CPU, eight-bit floats as their bytes; `bytes` are exactly as many as the shape needs.
pub(crate) fn decode(dtype: Dtype, bytes: &[u8], shape: &[usize]) -> Result<Tensor> {
    let device = &Device::Cpu;
    Ok(match dtype {
        Dtype::F32 => Tensor::from_vec(convert(bytes, f32::from_le_bytes), shape, device),
        Dtype::F64 => Tensor::from_vec(convert(bytes, |b| f64::from_le_bytes(b) as f32), shape, device),
        Dtype::F16 => Tensor::from_vec(convert(bytes, f16::from_le_bytes), shape, device),
        Dtype::Bf16 => Tensor::from_vec(convert(bytes, bf16::from_le_bytes), shape, device),
        Dtype::Bool | Dtype::U8 | Dtype::F8E5M2 | Dtype::F8E4M3 => Tensor::from_vec(bytes.to_vec(), shape, device),
        Dtype::I8 => Tensor::from_vec(convert(bytes, |b| i64::from(i8::from_le_bytes(b))), shape, device),
        Dtype::I16 => Tensor::from_vec(convert(bytes, |b| i64::from(i16::from_le_bytes(b))), shape, device),
        Dtype::U16 => Tensor::from_vec(convert(bytes, |b| i64::from(u16::from_le_bytes(b))), shape, device),
        Dtype::I32 => Tensor::from_vec(convert(bytes, |b| i64::from(i32::from_le_bytes(b))), shape, device),
        Dtype::U32 => Tensor::from_vec(convert(bytes, |b| i64::from(u32::from_le_bytes(b))), shape, device),
        Dtype::I64 => Tensor::from_vec(convert(bytes, i64::from_le_bytes), shape, device),
        Dtype::U64 => Tensor::from_vec(convert(bytes, |b| u64::from_le_bytes(b) as i64), shape, device),
    }?)
}

fn convert<const N: usize, T>(bytes: &[u8], value: impl Fn([u8; N]) -> T) -> Vec<T> {
    let (chunks, _) = bytes.as_chunks::<N>();
    chunks.iter().map(|chunk| value(*chunk)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    #[test]
    fn strides_are_followed() {
        let bytes: Vec<u8> = (0..6).collect();
        // (2, 3) stored, read as its transpose.
        assert_eq!(gather(&bytes, 1, &[3, 2], &[1, 3]), [0, 3, 1, 4, 2, 5]);
        let values = |strides: Vec<usize>, shape: Vec<usize>| Values { dtype: Dtype::F32, shape, start: 8, strides: Some(strides) };
        assert!(values(vec![1, 3], vec![3, 2]).check(32).is_ok());
        assert!(values(vec![1, 3], vec![3, 2]).check(31).is_err());
        assert!(values(vec![usize::MAX, usize::MAX], vec![3, 2]).check(32).is_err());
        assert!(values(vec![0, 0], vec![1 << 20, 1 << 20]).check(64).is_err());
        assert!(values(vec![0, 0], vec![1 << 20, 0]).check(8).is_ok());
        assert!(values(vec![0, 0, 0], vec![0, usize::MAX, 3]).check(8).is_err(), "steps are made of the other axes");
    }
}

//! GGUF files, versions 2 and 3 (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>), as ComfyUI-GGUF writes diffusion models:
//! ldm's names, `comfy.gguf.orig_shape.NAME` where a shape had to be changed.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device};
use serde_json::Value as Json;

use crate::dtype::{self, Dtype, MAX_NAME_BYTES};
use crate::error::Result;
use crate::mapped::{MappedFile, Unreadable, Values};
use crate::state_dict::{Form, LazyTensor, Source, StateDict};
use crate::weight::{Quantized, Weight};

/// How a file begins.
pub(crate) const MAGIC: &[u8] = b"GGUF";

/// Metadata and tensors that a file may have.
const MAX_ENTRIES: u64 = 1 << 20;

const MAX_AXES: u32 = 8;

/// Lists inside one another.
const MAX_NESTING: usize = 8;

type Parsed<T> = std::result::Result<T, String>;

/// Opens a file.
pub(crate) fn open(path: &Path) -> Result<StateDict> {
    let file = MappedFile::open(path, "GGUF")?;
    read(path, &file).map_err(|e| file.invalid(e))
}

fn read(path: &Path, file: &Arc<MappedFile>) -> Parsed<StateDict> {
    let mut cursor = Cursor { bytes: file.all(), at: MAGIC.len() };
    let version = cursor.u32()?;
    if !matches!(version, 2 | 3) {
        return Err(format!("its version is {version}, only 2 and 3 are known"));
    }
    let (tensors, entries) = (cursor.u64()?, cursor.u64()?);
    if tensors > MAX_ENTRIES || entries > MAX_ENTRIES {
        return Err(format!("it claims {tensors} tensors and {entries} metadata, at most {MAX_ENTRIES} are allowed"));
    }
    let mut dict = StateDict::from_file(path);
    let mut shapes: HashMap<String, Vec<usize>> = HashMap::new();
    let mut alignment = 32;
    for _ in 0..entries {
        let key = cursor.text()?.to_owned();
        let kind = cursor.u32()?;
        if let Some(name) = key.strip_prefix("comfy.gguf.orig_shape.") {
            shapes.insert(name.to_owned(), cursor.shape(kind)?);
            continue;
        }
        let value = cursor.value(kind)?;
        if key == "general.alignment" {
            alignment = value.as_u64().filter(|a| a.is_power_of_two() && *a >= 8 && *a <= 1 << 20).ok_or("its alignment is none")?;
        }
        if !value.is_null() {
            dict.metadata.insert(key, value);
        }
    }
    let infos: Vec<Info> = (0..tensors).map(|_| cursor.info()).collect::<Parsed<_>>()?;
    let start = (cursor.at as u64).next_multiple_of(alignment);
    for info in infos {
        if dict.contains(&info.name) {
            return Err(format!("'{}' is there twice", info.name));
        }
        let original = shapes.remove(&info.name);
        let tensor = info.lazy(path, file, start, original).map_err(|e| format!("the tensor '{}' {e}", info.name))?;
        dict.insert(info.name, tensor);
    }
    Ok(dict)
}

struct Info {
    name: String,
    /// The last axis first.
    axes: Vec<u64>,
    kind: u32,
    offset: u64,
}

impl Info {
    fn lazy(&self, path: &Path, file: &Arc<MappedFile>, data: u64, original: Option<Vec<usize>>) -> Parsed<LazyTensor> {
        let count = dtype::count(self.axes.iter().copied()).ok_or("claims more values than any machine holds")?;
        let shape = match original {
            Some(shape) if dtype::count(shape.iter().map(|axis| *axis as u64)) == Some(count) => shape,
            Some(shape) => return Err(format!("was of the shape {shape:?}, which does not fit its {count} values")),
            None => self.axes.iter().rev().map(|axis| *axis as usize).collect(),
        };
        let start = data.checked_add(self.offset).ok_or("lies outside the file")?;
        if let Some(dtype) = plain(self.kind) {
            let values = Values { dtype, shape, start, strides: None };
            values.check(file.len())?;
            return Ok(values.lazy(file));
        }
        let Some(kind) = quantised(self.kind) else {
            if start > file.len() {
                return Err(format!("lies at byte {start}, the file has {}", file.len()));
            }
            let kind = Unreadable { path: path.to_owned(), name: self.name.clone(), dtype: format!("ggml's type {}", self.kind) };
            return Ok(kind.lazy(shape));
        };
        let (block, bytes) = (kind.block_size() as u64, kind.type_size() as u64);
        if count % block != 0 || start % 8 != 0 {
            return Err(format!("has {count} values from byte {start} on, which are no whole blocks"));
        }
        let length = count / block * bytes;
        if start.checked_add(length).is_none_or(|end| end > file.len()) {
            return Err(format!("needs {length} bytes from byte {start} on, the file has {}", file.len()));
        }
        let source = Blocks { file: Arc::clone(file), kind, shape: shape.clone(), start, length };
        Ok(LazyTensor::new(shape, DType::F16, Arc::new(source)))
    }
}

struct Blocks {
    file: Arc<MappedFile>,
    kind: GgmlDType,
    shape: Vec<usize>,
    start: u64,
    length: u64,
}

impl Source for Blocks {
    fn read(&self) -> Result<Weight> {
        let blocks = |bytes: &[u8]| Quantized::new(self.kind, bytes, self.shape.clone(), &Device::Cpu);
        Ok(Weight::Quantized(self.file.copy(self.start, self.length, blocks)?))
    }

    fn form(&self) -> Form {
        Form::Quantised(self.kind)
    }
}

fn plain(kind: u32) -> Option<Dtype> {
    Some(match kind {
        0 => Dtype::F32,
        1 => Dtype::F16,
        24 => Dtype::I8,
        25 => Dtype::I16,
        26 => Dtype::I32,
        27 => Dtype::I64,
        28 => Dtype::F64,
        30 => Dtype::Bf16,
        _ => return None,
    })
}

fn quantised(kind: u32) -> Option<GgmlDType> {
    Some(match kind {
        2 => GgmlDType::Q4_0,
        3 => GgmlDType::Q4_1,
        6 => GgmlDType::Q5_0,
        7 => GgmlDType::Q5_1,
        8 => GgmlDType::Q8_0,
        10 => GgmlDType::Q2K,
        11 => GgmlDType::Q3K,
        12 => GgmlDType::Q4K,
        13 => GgmlDType::Q5K,
        14 => GgmlDType::Q6K,
        15 => GgmlDType::Q8K,
        _ => return None,
    })
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, length: u64) -> Parsed<&'a [u8]> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        if length > rest.len() as u64 {
            return Err(format!("it ends early: {length} bytes wanted at byte {}", self.at));
        }
        self.at += length as usize;
        Ok(&rest[..length as usize])
    }

    fn array<const N: usize>(&mut self) -> Parsed<[u8; N]> {
        self.take(N as u64)?.try_into().map_err(|_| "it ends early".into())
    }

    fn u32(&mut self) -> Parsed<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Parsed<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn text(&mut self) -> Parsed<&'a str> {
        let length = self.u64()?;
        if length > MAX_NAME_BYTES as u64 {
            return Err(format!("it has a name of {length} bytes, at most {MAX_NAME_BYTES} are allowed"));
        }
        std::str::from_utf8(self.take(length)?).map_err(|_| "it has a name that is not UTF-8".into())
    }

    /// A value of the metadata; null for arrays, which nothing here needs.
    fn value(&mut self, kind: u32) -> Parsed<Json> {
        Ok(match kind {
            0 => self.array::<1>()?[0].into(),
            1 => i8::from_le_bytes(self.array()?).into(),
            2 => u16::from_le_bytes(self.array()?).into(),
            3 => i16::from_le_bytes(self.array()?).into(),
            4 => self.u32()?.into(),
            5 => i32::from_le_bytes(self.array()?).into(),
            6 => f32::from_le_bytes(self.array()?).into(),
            7 => (self.array::<1>()? != [0]).into(),
            // Texts that nothing here needs may be of any encoding.
            8 => String::from_utf8_lossy(self.bytes_of_text()?).into_owned().into(),
            9 => {
                let (kind, count) = (self.u32()?, self.u64()?);
                self.skip_array(kind, count, 0)?;
                Json::Null
            }
            10 => self.u64()?.into(),
            11 => i64::from_le_bytes(self.array()?).into(),
            12 => f64::from_le_bytes(self.array()?).into(),
            _ => return Err(format!("it has metadata of the unknown kind {kind}")),
        })
    }

    fn bytes_of_text(&mut self) -> Parsed<&'a [u8]> {
        let length = self.u64()?;
        self.take(length)
    }

    fn skip_array(&mut self, kind: u32, count: u64, depth: usize) -> Parsed<()> {
        let size = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            10..=12 => 8,
            8 => {
                // Each text takes eight bytes at least, so that the file's end bounds this.
                for _ in 0..count {
                    self.bytes_of_text()?;
                }
                return Ok(());
            }
            9 if depth < MAX_NESTING => {
                // Each list in it takes twelve bytes at least.
                for _ in 0..count {
                    let (kind, count) = (self.u32()?, self.u64()?);
                    self.skip_array(kind, count, depth + 1)?;
                }
                return Ok(());
            }
            _ => return Err(format!("it has a list of the unknown kind {kind}")),
        };
        self.take(count.checked_mul(size).ok_or("it has a list longer than any file")?).map(drop)
    }

    /// A list of integers that is a shape, the first axis first.
    fn shape(&mut self, kind: u32) -> Parsed<Vec<usize>> {
        let (inner, count) = (self.u32()?, self.u64()?);
        if kind != 9 || !matches!(inner, 4 | 5 | 10 | 11) || count > u64::from(MAX_AXES) {
            return Err("it has a shape that is none".into());
        }
        (0..count)
            .map(|_| {
                let axis = self.value(inner)?;
                axis.as_u64().and_then(|axis| usize::try_from(axis).ok()).ok_or_else(|| "it has a shape that is none".into())
            })
            .collect()
    }

    fn info(&mut self) -> Parsed<Info> {
        let name = self.text()?.to_owned();
        let axes = self.u32()?;
        if axes > MAX_AXES {
            return Err(format!("the tensor '{name}' has {axes} axes, at most {MAX_AXES} are allowed"));
        }
        let axes = (0..axes).map(|_| self.u64()).collect::<Parsed<_>>()?;
        Ok(Info { name, axes, kind: self.u32()?, offset: self.u64()? })
    }
}

//! PyTorch's files: zip archives as `torch.save` writes them since 1.6, and the older sequence of pickles. Nothing is executed: of the
//! calls in a pickle only those that rebuild a tensor from a storage are understood, everything else stays an inert value and is left out.

use std::collections::HashMap;
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value as Json;
use zip::{CompressionMethod, ZipArchive};

use crate::dtype::{Dtype, MAX_AXES, MAX_NAME_BYTES};
use crate::error::Result;
use crate::mapped::{MappedFile, Unreadable, Values};
use crate::pickle::{self, Parsed, Pickle, Value};
use crate::state_dict::{LazyTensor, StateDict};

const FORMAT: &str = "PyTorch";

/// The largest pickle that is read, in bytes; those of real models have a few hundred kilobytes.
const MAX_PICKLE_BYTES: u64 = 256 << 20;

/// Dictionaries and lists inside one another.
const MAX_NESTING: usize = 12;

/// Values that are looked at, however often one is shared.
const MAX_VISITS: usize = 2_000_000;

/// Bytes of the name of a storage: a number, or an address.
const MAX_KEY_BYTES: usize = 256;

/// Bytes of the names of all tensors; those of real models have a few hundred kilobytes.
const MAX_NAMES_BYTES: usize = 64 << 20;

/// How a file of the older kind begins: a pickle of protocol 2 with the magic number.
const LEGACY: [u8; 15] = [0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, b'.'];

/// Whether a file that begins so is one of PyTorch's.
pub(crate) fn is_torch(start: &[u8]) -> bool {
    start.starts_with(b"PK\x03\x04") || start.starts_with(&LEGACY)
}

/// Opens a file. Texts and numbers beside the tensors become metadata; tensors in nested dictionaries get dotted names.
pub(crate) fn open(path: &Path) -> Result<StateDict> {
    let file = MappedFile::open(path, FORMAT)?;
    let (pickle, storages) =
        if file.all().starts_with(&LEGACY) { read_legacy(&file) } else { read_zip(&file) }.map_err(|e| file.invalid(e))?;
    let mut reader = Reader { file: &file, pickle: &pickle, storages, out: StateDict::from_file(path), visits: 0, named: 0 };
    reader.top().map_err(|e| file.invalid(e))?;
    Ok(reader.out)
}

/// Where a storage's bytes begin and end.
type Storages = HashMap<String, (u64, u64)>;

/// Whether tensors lie in this file of an archive, or are described in it.
fn is_needed(name: &str) -> bool {
    matches!(name, "data.pkl" | "byteorder") || name.starts_with("data/")
}

fn read_zip(file: &MappedFile) -> Parsed<(Pickle, Storages)> {
    let mut archive = ZipArchive::new(Cursor::new(file.all())).map_err(|e| format!("its archive cannot be read: {e}"))?;
    let is_pickle = |name: &&str| *name == "data.pkl" || name.ends_with("/data.pkl");
    let name = archive.file_names().find(is_pickle).ok_or("it is an archive without data.pkl")?.to_owned();
    let root = name.strip_suffix("data.pkl").unwrap_or_default().to_owned();
    let mut places = HashMap::new();
    for i in 0..archive.len() {
        let entry = archive.by_index_raw(i).map_err(|e| format!("its archive cannot be read: {e}"))?;
        let Some(name) = entry.name().strip_prefix(&root).filter(|name| is_needed(name)) else { continue };
        if entry.compression() != CompressionMethod::Stored {
            return Err(format!("'{name}' in it is compressed; save it again with torch.save"));
        }
        let (start, length) = (entry.data_start(), entry.size());
        let end = start.checked_add(length).filter(|end| *end <= file.len());
        let end = end.ok_or_else(|| format!("'{name}' in it claims {length} bytes from byte {start} on, the file has {}", file.len()))?;
        places.insert(name.to_owned(), (start, end));
    }
    let bytes = |(start, end): (u64, u64)| &file.all()[start as usize..end as usize];
    if places.get("byteorder").is_some_and(|place| bytes(*place) != b"little") {
        return Err("it was saved on a big-endian machine; save it again on a little-endian one".into());
    }
    let place = *places.get("data.pkl").ok_or("it is an archive without data.pkl")?;
    let (pickle, _) = parse(bytes(place))?;
    let storages = places.into_iter().filter_map(|(name, place)| Some((name.strip_prefix("data/")?.to_owned(), place))).collect();
    Ok((pickle, storages))
}

/// The magic number, a version, a description of the machine, the values, the list of storages, then the storages one after the other, each
/// behind its length.
fn read_legacy(file: &MappedFile) -> Parsed<(Pickle, Storages)> {
    let all = file.all();
    let mut at = LEGACY.len();
    for _ in 0..2 {
        at += parse(&all[at..])?.1;
    }
    let (pickle, used) = parse(&all[at..])?;
    at += used;
    let (keys, used) = parse(&all[at..])?;
    at += used;
    let Value::List(keys_list) = &keys.root else { return Err("its list of storages is none".into()) };
    let mut sizes = HashMap::new();
    storage_sizes(&pickle, &mut sizes)?;
    let mut storages = HashMap::new();
    for key in keys.items(*keys_list) {
        let Value::Text(key) = key else { return Err("its list of storages holds something else".into()) };
        if key.len() > MAX_KEY_BYTES {
            return Err(format!("its list of storages has a name of more than {MAX_KEY_BYTES} bytes"));
        }
        let count = all.get(at..).and_then(|rest| rest.first_chunk::<8>()).map(|bytes| u64::from_le_bytes(*bytes));
        let count = count.ok_or("ends before its last storage")?;
        let size = sizes.get(&**key).copied().unwrap_or(1);
        let start = at as u64 + 8;
        let end = count.checked_mul(size).and_then(|bytes| bytes.checked_add(start)).filter(|end| *end <= file.len());
        let end =
            end.ok_or_else(|| format!("the storage '{key}' claims {count} values from byte {start} on, the file has {}", file.len()))?;
        storages.insert(key.to_string(), (start, end));
        at = end as usize;
    }
    Ok((pickle, storages))
}

/// The size of a value of each storage, from the references to it.
fn storage_sizes(pickle: &Pickle, sizes: &mut HashMap<String, u64>) -> Parsed<()> {
    for value in pickle.persistent() {
        if let Some(storage) = Storage::of(pickle, value)? {
            sizes.insert(
                storage.key.to_owned(),
                storage.kind.size().ok_or_else(|| format!("has values of the unknown kind {:?}", storage.kind))?,
            );
        }
    }
    Ok(())
}

fn parse(bytes: &[u8]) -> Parsed<(Pickle, usize)> {
    let bounded = &bytes[..bytes.len().min(MAX_PICKLE_BYTES as usize)];
    pickle::parse(bounded).map_err(|e| format!("its pickle {e}"))
}

struct Reader<'a> {
    file: &'a Arc<MappedFile>,
    pickle: &'a Pickle,
    storages: Storages,
    out: StateDict,
    visits: usize,
    /// Bytes of names that were made.
    named: usize,
}

impl Reader<'_> {
    fn top(&mut self) -> Parsed<()> {
        let mut root = &self.pickle.root;
        if let Some(inner) = self.pickle.get(root, "state_dict") {
            self.notes(root);
            root = inner;
        } else if let Some(entries) = self.pickle.entries(root) {
            let mut values: Vec<&Value> = entries.map(|(_, value)| value).take(2).collect();
            if let (Some(inner), true) = (values.pop(), values.is_empty())
                && self.is_dictionary(inner)
            {
                root = inner;
            }
        }
        self.notes(root);
        self.collect(root, String::new(), 0)
    }

    fn is_dictionary(&self, value: &Value) -> bool {
        match value {
            Value::Dict(_) => true,
            // The first textual inversions are kept in the latter.
            _ => self
                .pickle
                .call(value)
                .is_some_and(|(name, _)| matches!(name, "collections.OrderedDict" | "torch.nn.modules.container.ParameterDict")),
        }
    }

    /// Keeps texts and numbers.
    fn notes(&mut self, value: &Value) {
        let Some(entries) = self.pickle.entries(value) else { return };
        for (key, value) in entries {
            let Value::Text(key) = key else { continue };
            let note = match value {
                Value::Text(text) => Json::from(&**text),
                Value::Int(number) => Json::from(*number),
                Value::Float(number) => Json::from(*number),
                Value::Bool(is) => Json::from(*is),
                Value::None
                | Value::Bytes
                | Value::Tuple(_)
                | Value::List(_)
                | Value::Dict(_)
                | Value::Global(_)
                | Value::Call(..)
                | Value::Persistent(_) => continue,
            };
            self.out.metadata.insert(key.to_string(), note);
        }
    }

    fn collect(&mut self, value: &Value, name: String, depth: usize) -> Parsed<()> {
        self.visits += 1;
        if depth > MAX_NESTING || self.visits > MAX_VISITS {
            return Err("nests its dictionaries too deeply".into());
        }
        self.named += name.len();
        if name.len() > MAX_NAME_BYTES {
            return Err(format!("it has a name of {} bytes, at most {MAX_NAME_BYTES} are allowed", name.len()));
        }
        if self.named > MAX_NAMES_BYTES {
            return Err(format!("its names of tensors take more than {MAX_NAMES_BYTES} bytes"));
        }
        let inside = |key: &dyn std::fmt::Display| if name.is_empty() { key.to_string() } else { format!("{name}.{key}") };
        if let Some(found) = self.tensor(value).map_err(|e| format!("the tensor '{name}' {e}"))? {
            let name = if name.is_empty() { "tensor".into() } else { name };
            let tensor = match found {
                Found::Tensor(tensor) => tensor,
                Found::Unknown { dtype, shape } => Unreadable { path: self.out.origin().to_owned(), name: name.clone(), dtype }.lazy(shape),
            };
            self.out.insert(name, tensor);
        } else if self.is_dictionary(value) {
            let entries: Vec<(&Value, &Value)> = self.pickle.entries(value).into_iter().flatten().collect();
            for (key, value) in entries {
                match key {
                    Value::Text(key) => self.collect(value, inside(key), depth + 1)?,
                    Value::Int(key) => self.collect(value, inside(key), depth + 1)?,
                    _ => {}
                }
            }
        } else if let Value::List(list) = value {
            for (i, value) in self.pickle.items(*list).iter().enumerate() {
                self.collect(value, inside(&i), depth + 1)?;
            }
        }
        Ok(())
    }

    /// The tensor that a value stands for, if it is one.
    fn tensor(&self, value: &Value) -> Parsed<Option<Found>> {
        let mut call = value;
        // A parameter and a tensor of a subclass are wrapped; no wrapping is deeper.
        for _ in 0..4 {
            let Some((function, arguments)) = self.pickle.call(call) else { return Ok(None) };
            match (function, arguments) {
                ("torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state", [inner, ..]) => call = inner,
                ("torch._tensor._rebuild_from_type_v2", [Value::Global(inner), _, Value::Tuple(arguments), ..]) => {
                    return self.rebuild(inner, self.pickle.items(*arguments));
                }
                (function, arguments) => return self.rebuild(function, arguments),
            }
        }
        Ok(None)
    }

    fn rebuild(&self, function: &str, arguments: &[Value]) -> Parsed<Option<Found>> {
        let (storage, offset, shape, strides, kind) = match (function, arguments) {
            ("torch._utils._rebuild_tensor_v2" | "torch._utils._rebuild_tensor", [storage, offset, shape, strides, ..]) => {
                (storage, offset, shape, strides, None)
            }
            ("torch._utils._rebuild_tensor_v3", [storage, offset, shape, strides, _, _, Value::Global(dtype), ..]) => {
                (storage, offset, shape, strides, Some(named_dtype(dtype)))
            }
            // Sparse and quantised tensors, and what else torch makes in a way of its own.
            (function, _) if function.starts_with("torch._utils._rebuild_") => {
                return Ok(Some(Found::Unknown { dtype: function.to_owned(), shape: Vec::new() }));
            }
            _ => return Ok(None),
        };
        let storage = Storage::of(self.pickle, storage)?.ok_or("has no storage")?;
        let dtype = match kind.unwrap_or(storage.kind) {
            ValueKind::Known(dtype) => dtype,
            ValueKind::Bytes => return Err("has values of no type".into()),
            ValueKind::Unknown { name, .. } => return Ok(Some(Found::Unknown { dtype: name, shape: numbers(self.pickle, shape)? })),
        };
        let &(start, end) =
            self.storages.get(storage.key).ok_or_else(|| format!("lies in the storage '{}', which is not there", storage.key))?;
        let Value::Int(offset) = offset else { return Err("has no place in its storage".into()) };
        let (shape, strides) = (numbers(self.pickle, shape)?, numbers(self.pickle, strides)?);
        if shape.len() != strides.len() || shape.len() > MAX_AXES {
            return Err(format!("has {} axes and {} steps, at most {MAX_AXES} are allowed", shape.len(), strides.len()));
        }
        let first = u64::try_from(*offset)
            .ok()
            .and_then(|offset| offset.checked_add(storage.offset)?.checked_mul(dtype.size())?.checked_add(start));
        let first = first.ok_or("lies outside its storage")?;
        let strides = (!is_contiguous(&shape, &strides)).then_some(strides);
        let values = Values { dtype, shape, start: first, strides };
        values.check(end)?;
        Ok(Some(Found::Tensor(values.lazy(self.file))))
    }
}

/// What a value stands for.
enum Found {
    Tensor(LazyTensor),
    /// A tensor of values that are not known.
    Unknown {
        dtype: String,
        shape: Vec<usize>,
    },
}

/// What values a storage or a tensor has.
#[derive(Debug)]
enum ValueKind {
    Known(Dtype),
    /// Bytes, whose type the tensor tells.
    Bytes,
    Unknown {
        name: String,
        size: Option<u64>,
    },
}

impl ValueKind {
    /// Bytes of one, if known.
    fn size(&self) -> Option<u64> {
        match self {
            Self::Known(dtype) => Some(dtype.size()),
            Self::Bytes => Some(1),
            Self::Unknown { size, .. } => *size,
        }
    }
}

/// A reference to a storage.
struct Storage<'a> {
    kind: ValueKind,
    key: &'a str,
    /// The first value of a view.
    offset: u64,
}

impl<'a> Storage<'a> {
    fn of(pickle: &'a Pickle, value: &'a Value) -> Parsed<Option<Self>> {
        let Value::Persistent(id) = value else { return Ok(None) };
        let [Value::Tuple(id)] = pickle.items(*id) else { return Ok(None) };
        let [Value::Text(kind), Value::Global(storage), key, _location, _count, rest @ ..] = pickle.items(*id) else { return Ok(None) };
        if &**kind != "storage" {
            return Ok(None);
        }
        let Value::Text(key) = key else { return Err("has a storage without a name".into()) };
        if key.len() > MAX_KEY_BYTES {
            return Err(format!("has a storage whose name has more than {MAX_KEY_BYTES} bytes"));
        }
        let offset = match rest {
            [Value::Tuple(view), ..] => match pickle.items(*view) {
                [_, Value::Int(offset), ..] => u64::try_from(*offset).map_err(|_| "lies before its storage")?,
                _ => return Err("has a view that is none".into()),
            },
            _ => 0,
        };
        Ok(Some(Self { kind: storage_kind(storage), key, offset }))
    }
}

fn storage_kind(name: &str) -> ValueKind {
    let plain = name.strip_prefix("torch.cuda.").or_else(|| name.strip_prefix("torch.")).unwrap_or(name);
    ValueKind::Known(match plain {
        "FloatStorage" => Dtype::F32,
        "DoubleStorage" => Dtype::F64,
        "HalfStorage" => Dtype::F16,
        "BFloat16Storage" => Dtype::Bf16,
        "LongStorage" => Dtype::I64,
        "IntStorage" => Dtype::I32,
        "ShortStorage" => Dtype::I16,
        "CharStorage" => Dtype::I8,
        "ByteStorage" => Dtype::U8,
        "BoolStorage" => Dtype::Bool,
        "storage.UntypedStorage" | "UntypedStorage" => return ValueKind::Bytes,
        _ => {
            let size = match plain {
                "QInt8Storage" | "QUInt8Storage" | "QUInt4x2Storage" | "QUInt2x4Storage" => Some(1),
                "QInt32Storage" => Some(4),
                "ComplexFloatStorage" => Some(8),
                "ComplexDoubleStorage" => Some(16),
                _ => None,
            };
            return ValueKind::Unknown { name: name.to_owned(), size };
        }
    })
}

fn named_dtype(name: &str) -> ValueKind {
    ValueKind::Known(match name {
        "torch.float32" => Dtype::F32,
        "torch.float64" => Dtype::F64,
        "torch.float16" => Dtype::F16,
        "torch.bfloat16" => Dtype::Bf16,
        "torch.float8_e4m3fn" => Dtype::F8E4M3,
        "torch.float8_e5m2" => Dtype::F8E5M2,
        "torch.int64" => Dtype::I64,
        "torch.int32" => Dtype::I32,
        "torch.int16" => Dtype::I16,
        "torch.int8" => Dtype::I8,
        "torch.uint8" => Dtype::U8,
        "torch.uint16" => Dtype::U16,
        "torch.uint32" => Dtype::U32,
        "torch.uint64" => Dtype::U64,
        "torch.bool" => Dtype::Bool,
        _ => return ValueKind::Unknown { name: name.to_owned(), size: None },
    })
}

/// The numbers of a tuple; also of a `torch.Size`, which is a call with a tuple.
fn numbers(pickle: &Pickle, value: &Value) -> Parsed<Vec<usize>> {
    let wrong = "has a shape that is none";
    let items = match (value, pickle.call(value)) {
        (Value::Tuple(items), _) | (_, Some(("torch.Size", [Value::Tuple(items)]))) => pickle.items(*items),
        _ => return Err(wrong.into()),
    };
    let number = |item: &Value| match item {
        Value::Int(number) => usize::try_from(*number).ok(),
        _ => None,
    };
    if items.len() > MAX_AXES {
        return Err(format!("has {} axes, at most {MAX_AXES} are allowed", items.len()));
    }
    items.iter().map(|item| number(item).ok_or_else(|| wrong.to_owned())).collect()
}

fn is_contiguous(shape: &[usize], strides: &[usize]) -> bool {
    let mut step = 1usize;
    shape.iter().zip(strides).rev().all(|(axis, stride)| {
        let fits = *axis == 1 || *stride == step;
        step = step.saturating_mul((*axis).max(1));
        fits
    })
}

//! The safetensors format (<https://github.com/huggingface/safetensors>): eight bytes of length, a JSON header with each tensor's type,
//! shape and place, then the values. A file is opened by reading its header only; every claim of the header is checked against the
//! file's size.

use std::fmt;
use std::fs::File as Disk;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use candle_core::DType;
use indexmap::IndexMap;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value as Json, json};

use crate::dtype::{self, Dtype, MAX_AXES, MAX_NAME_BYTES};
use crate::error::{Error, Result};
use crate::mapped::{MappedFile, Unreadable, Values, decode};
use crate::state_dict::StateDict;

/// The largest header that is read, in bytes; the format's own limit.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;

/// The format's name in errors.
const FORMAT: &str = "safetensors";

/// One tensor of a file, as its header describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// The type of its values.
    pub dtype: Dtype,
    /// Its axes.
    pub shape: Vec<usize>,
    /// Where its bytes begin, counted from the end of the header.
    pub start: u64,
    /// Where they end.
    pub end: u64,
}

/// A file whose header has been read and checked.
#[derive(Debug)]
pub struct File {
    path: PathBuf,
    disk: Disk,
    data_start: u64,
    metadata: Map<String, Json>,
    tensors: IndexMap<String, Tensor>,
    /// The name of the type and the shape of each tensor whose type is not known.
    unknown: IndexMap<String, (String, Vec<usize>)>,
}

impl File {
    /// Opens a file and checks its header.
    pub fn open(path: &Path) -> Result<Self> {
        let (disk, header, data_start, data_bytes) = read_header(path)?;
        let invalid = |reason: String| Error::Invalid { path: path.to_owned(), format: FORMAT, reason };
        let entries: Entries = serde_json::from_slice(&header).map_err(|e| invalid(format!("its header cannot be read: {e}")))?;
        let mut metadata = Map::new();
        let (mut tensors, mut unknown) = (IndexMap::new(), IndexMap::new());
        let mut places = Vec::new();
        for (name, entry) in entries.0 {
            if name == "__metadata__" {
                metadata = read_metadata_object(entry);
                continue;
            }
            if name.len() > MAX_NAME_BYTES {
                return Err(invalid(format!("it has a name of {} bytes, at most {MAX_NAME_BYTES} are allowed", name.len())));
            }
            let raw = read_tensor(entry, data_bytes).map_err(|reason| invalid(format!("the tensor '{name}' {reason}")))?;
            let [start, end] = raw.data_offsets;
            places.push((start, end, name.clone()));
            match Dtype::parse(&raw.dtype) {
                Some(dtype) => drop(tensors.insert(name, Tensor { dtype, shape: raw.shape, start, end })),
                None => drop(unknown.insert(name, (raw.dtype, raw.shape))),
            }
        }
        check_overlaps(places).map_err(invalid)?;
        Ok(Self { path: path.to_owned(), disk, data_start, metadata, tensors, unknown })
    }

    /// What stands under `__metadata__`: texts, in files as the format wants them.
    pub fn metadata(&self) -> &Map<String, Json> {
        &self.metadata
    }

    /// All tensors of the open file, read when asked through a memory map.
    pub(crate) fn into_state_dict(self) -> Result<StateDict> {
        let file = MappedFile::from_disk(&self.path, FORMAT, self.disk)?;
        let mut dict = StateDict::from_file(&self.path);
        dict.metadata = self.metadata;
        for (name, tensor) in self.tensors {
            let values = Values { dtype: tensor.dtype, shape: tensor.shape, start: self.data_start + tensor.start, strides: None };
            dict.insert(name, values.lazy(&file));
        }
        for (name, (dtype, shape)) in self.unknown {
            let tensor = Unreadable { path: self.path.clone(), name: name.clone(), dtype }.lazy(shape);
            dict.insert(name, tensor);
        }
        Ok(dict)
    }

    /// All tensors of known types, in the header's order.
    pub fn tensors(&self) -> &IndexMap<String, Tensor> {
        &self.tensors
    }

    /// A tensor's shape and its values as 32-bit numbers, if those take no more than `max_bytes`. Reads F32, F16, BF16 and F64.
    pub fn read_f32(&self, name: &str, max_bytes: u64) -> Result<(Vec<usize>, Vec<f32>)> {
        let missing = || Error::Missing { path: self.path.clone(), name: name.into() };
        let tensor = self.tensors.get(name).ok_or_else(missing)?;
        let values = (tensor.end - tensor.start) / tensor.dtype.size();
        if values.saturating_mul(4) > max_bytes {
            return Err(Error::TooLarge { path: self.path.clone(), name: name.into(), bytes: values.saturating_mul(4), limit: max_bytes });
        }
        if !matches!(tensor.dtype, Dtype::F32 | Dtype::F16 | Dtype::Bf16 | Dtype::F64) {
            return Err(Error::Dtype { path: self.path.clone(), name: name.into(), dtype: tensor.dtype.name().into() });
        }
        let values = decode(tensor.dtype, &self.read_bytes(tensor)?, &[values as usize])?;
        Ok((tensor.shape.clone(), values.to_dtype(DType::F32)?.to_vec1()?))
    }

    fn read_bytes(&self, tensor: &Tensor) -> Result<Vec<u8>> {
        let fail = |source| Error::Read { path: self.path.clone(), source };
        // The header was checked against the file's size, so that this is no more than the file holds.
        let mut bytes = vec![0; (tensor.end - tensor.start) as usize];
        let mut disk = &self.disk;
        disk.seek(SeekFrom::Start(self.data_start + tensor.start)).map_err(fail)?;
        disk.read_exact(&mut bytes).map_err(fail)?;
        Ok(bytes)
    }
}

/// What stands under `__metadata__`; empty if there are none. Checks the whole header.
pub fn read_metadata(path: &Path) -> Result<Map<String, Json>> {
    File::open(path).map(|file| file.metadata)
}

/// A tensor of 32-bit numbers to be written.
#[derive(Debug, Clone, Copy)]
pub struct TensorF32<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its axes.
    pub shape: &'a [usize],
    /// Its values, the last axis running fastest.
    pub values: &'a [f32],
}

/// A file's bytes: these tensors, and these metadata if given.
pub fn to_bytes(tensors: &[TensorF32<'_>], metadata: Option<&[(String, String)]>) -> Result<Vec<u8>> {
    for tensor in tensors {
        let expected = tensor.shape.iter().product();
        if tensor.values.len() != expected {
            return Err(Error::Shape { name: tensor.name.into(), values: tensor.values.len(), expected });
        }
    }
    let described = tensors.iter().map(|tensor| (tensor.name, Dtype::F32, tensor.shape));
    let mut bytes = header(described, metadata);
    bytes.extend(tensors.iter().flat_map(|tensor| tensor.values).flat_map(|value| value.to_le_bytes()));
    Ok(bytes)
}

/// How a file of these tensors begins, whose values follow in this order.
pub(crate) fn header<'a>(
    tensors: impl IntoIterator<Item = (&'a str, Dtype, &'a [usize])>,
    metadata: Option<&[(String, String)]>,
) -> Vec<u8> {
    let mut entries = Map::new();
    if let Some(metadata) = metadata {
        let texts: Map<String, Json> = metadata.iter().map(|(key, value)| (key.clone(), Json::from(value.as_str()))).collect();
        entries.insert("__metadata__".into(), Json::Object(texts));
    }
    let mut end = 0u64;
    for (name, dtype, shape) in tensors {
        let start = end;
        end += shape.iter().fold(dtype.size(), |bytes, axis| bytes.saturating_mul(*axis as u64));
        entries.insert(name.into(), json!({"dtype": dtype.name(), "shape": shape, "data_offsets": [start, end]}));
    }
    let text = Json::Object(entries).to_string();
    // The values begin at a multiple of eight, as other readers expect.
    let length = text.len().next_multiple_of(8);
    let mut bytes = (length as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes.resize(8 + length, b' ');
    bytes
}

/// The header's members, none twice.
struct Entries(Vec<(String, Json)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Entries, A::Error> {
        let mut entries: IndexMap<String, Json> = IndexMap::new();
        while let Some((name, entry)) = map.next_entry::<String, Json>()? {
            if entries.contains_key(&name) {
                let name: String = name.chars().take(MAX_NAME_BYTES / 4).collect();
                return Err(serde::de::Error::custom(format!("'{name}' is there twice")));
            }
            entries.insert(name, entry);
        }
        Ok(Entries(entries.into_iter().collect()))
    }
}

/// The open file, the header's bytes, where the values begin, and how many bytes they have.
fn read_header(path: &Path) -> Result<(Disk, Vec<u8>, u64, u64)> {
    let fail = |source| Error::Read { path: path.to_owned(), source };
    let invalid = |reason: String| Error::Invalid { path: path.to_owned(), format: FORMAT, reason };
    let mut disk = Disk::open(path).map_err(fail)?;
    let size = disk.metadata().map_err(fail)?.len();
    if size < 8 {
        return Err(invalid(format!("it has only {size} bytes")));
    }
    let mut length = [0; 8];
    disk.read_exact(&mut length).map_err(fail)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER_BYTES {
        return Err(invalid(format!("its header claims {length} bytes, at most {MAX_HEADER_BYTES} are allowed")));
    }
    if length > size - 8 {
        return Err(invalid(format!("its header claims {length} bytes, the file has {size}")));
    }
    let mut header = vec![0; length as usize];
    disk.read_exact(&mut header).map_err(fail)?;
    Ok((disk, header, 8 + length, size - 8 - length))
}

/// Nothing here needs them: what is none, such as a null, counts as empty.
fn read_metadata_object(entry: Json) -> Map<String, Json> {
    match entry {
        Json::Object(map) => map,
        _ => Map::new(),
    }
}

#[derive(Deserialize)]
struct RawTensor {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

/// What the header says of a tensor, if it can be true. Of a type that is not known, a value is taken to have one bit at least.
fn read_tensor(entry: Json, data_bytes: u64) -> std::result::Result<RawTensor, String> {
    let raw: RawTensor = serde_json::from_value(entry).map_err(|e| format!("is not described rightly: {e}"))?;
    if raw.shape.len() > MAX_AXES {
        return Err(format!("has {} axes, at most {MAX_AXES} are allowed", raw.shape.len()));
    }
    let [start, end] = raw.data_offsets;
    if start > end || end > data_bytes {
        return Err(format!("lies at {start}..{end}, the file has {data_bytes} bytes of values"));
    }
    let count = dtype::count(raw.shape.iter().map(|axis| *axis as u64));
    let fits = match (Dtype::parse(&raw.dtype), count) {
        (Some(dtype), Some(count)) => count.checked_mul(dtype.size()) == Some(end - start),
        (None, Some(count)) => count.div_ceil(8) <= end - start,
        (_, None) => false,
    };
    if !fits {
        return Err(format!("has {} bytes, which does not fit its shape {:?} of {}", end - start, raw.shape, raw.dtype));
    }
    Ok(raw)
}

fn check_overlaps(mut places: Vec<(u64, u64, String)>) -> std::result::Result<(), String> {
    places.retain(|(start, end, _)| start < end);
    places.sort_unstable();
    for pair in places.windows(2) {
        if pair[0].1 > pair[1].0 {
            return Err(format!("the tensors '{}' and '{}' overlap", pair[0].2, pair[1].2));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    fn write(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("some.safetensors");
        std::fs::write(&path, bytes).unwrap();
        (dir, path)
    }

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(data);
        bytes
    }

    fn reason(bytes: &[u8]) -> String {
        let (_dir, path) = write(bytes);
        let text = File::open(&path).expect_err("accepted").to_string();
        assert!(text.contains("some.safetensors"), "{text}");
        text
    }

    #[test]
    fn what_is_written_is_read_again() {
        let values: Vec<f32> = (0..6).map(|v| v as f32 / 3.0).collect();
        let tensors = [TensorF32 { name: "a", shape: &[2, 3], values: &values }, TensorF32 { name: "empty", shape: &[0], values: &[] }];
        let metadata = [("prompt".to_owned(), "{\"é\": 1}".to_owned())];
        let (_dir, path) = write(&to_bytes(&tensors, Some(&metadata)).unwrap());
        let file = File::open(&path).unwrap();
        assert_eq!(file.read_f32("a", 24).unwrap(), (vec![2, 3], values));
        assert_eq!(file.read_f32("empty", 0).unwrap(), (vec![0], vec![]));
        assert!(matches!(file.read_f32("a", 23), Err(Error::TooLarge { bytes: 24, limit: 23, .. })));
        assert!(matches!(file.read_f32("b", 24), Err(Error::Missing { .. })));
        assert_eq!(read_metadata(&path).unwrap()["prompt"], "{\"é\": 1}");
        let length = u64::from_le_bytes(std::fs::read(&path).unwrap()[..8].try_into().unwrap());
        assert_eq!(length % 8, 0);
    }

    #[test]
    fn half_precision_is_widened() {
        let header = r#"{"h":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},"b":{"dtype":"BF16","shape":[1],"data_offsets":[4,6]},
            "i":{"dtype":"I8","shape":[1],"data_offsets":[6,7]}}"#;
        // 1.5 and -0.25 in binary16, 3.0 in bfloat16.
        let (_dir, path) = write(&file(header, &[0x00, 0x3e, 0x00, 0xb4, 0x40, 0x40, 1]));
        let file = File::open(&path).unwrap();
        assert_eq!(file.read_f32("h", 100).unwrap().1, [1.5, -0.25]);
        assert_eq!(file.read_f32("b", 100).unwrap().1, [3.0]);
        assert!(matches!(file.read_f32("i", 100), Err(Error::Dtype { dtype, .. }) if dtype == "I8"));
    }

    #[test]
    fn damaged_files_are_refused() {
        let tensor =
            |dtype: &str, shape: &str, offsets: &str| format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#);
        assert!(reason(b"short").contains("only 5 bytes"));
        assert!(reason(&u64::MAX.to_le_bytes()).contains("at most 100000000"));
        assert!(reason(&9u64.to_le_bytes()).contains("the file has 8"));
        assert!(reason(&file("[]", b"")).contains("cannot be read"));
        assert!(reason(&file(&format!(r#"{{"{}":[]}}"#, "a".repeat(70_000)), b"")).contains("a name of 70000 bytes"));
        assert!(reason(&file(&tensor("F32", "[1]", "[0,4]"), b"abc")).contains("has 3 bytes of values"));
        assert!(reason(&file(&tensor("F32", "[1]", "[4,0]"), b"abcd")).contains("lies at 4..0"));
        assert!(reason(&file(&tensor("F32", "[2]", "[0,4]"), b"abcd")).contains("does not fit"));
        assert!(reason(&file(&tensor("F32", "[4611686018427387904,4]", "[0,0]"), b"")).contains("does not fit"));
        assert!(reason(&file(&tensor("F31", "[33]", "[0,4]"), b"abcd")).contains("does not fit its shape [33] of F31"));
        assert!(reason(&file(&tensor("F31", "[1]", "[0,5]"), b"abcd")).contains("lies at 0..5"));
        assert!(reason(&file(&tensor("F32", "[-1]", "[0,4]"), b"abcd")).contains("not described rightly"));
        let twice = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#;
        assert!(reason(&file(twice, b"a")).contains("'a' is there twice"));
        let overlap = r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#;
        assert!(reason(&file(overlap, b"ab")).contains("overlap"));
        assert!(reason(&file(&overlap.replace("U8", "F4"), b"ab")).contains("overlap"));
    }

    #[test]
    fn what_nothing_needs_may_be_of_any_type() {
        for (metadata, kept) in [("null", 0), ("[1]", 0), (r#""text""#, 0), (r#"{"a":1,"b":null,"c":["x"]}"#, 3)] {
            for dtype in ["F4", "F6_E2M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "C64", "I4", "anything later"] {
                let header = format!(
                    r#"{{"__metadata__":{metadata},"odd":{{"dtype":"{dtype}","shape":[2],"data_offsets":[0,2]}},
                        "a":{{"dtype":"U8","shape":[1],"data_offsets":[2,3]}}}}"#
                );
                let (_dir, path) = write(&file(&header, &[1, 2, 3]));
                let dict = StateDict::open(&path).unwrap();
                assert_eq!((dict.metadata.len(), dict.shape("odd")), (kept, Some([2].as_slice())));
                assert_eq!(dict.get("a").unwrap().read().unwrap().to_vec1::<u8>().unwrap(), [3]);
                let error = dict.get("odd").unwrap().read().unwrap_err().to_string();
                assert!(error.contains("'odd'") && error.contains("some.safetensors") && error.contains(dtype), "{error}");
            }
        }
    }
}

//! Values that can leave their process: pictures, masks, latents, sound and noise levels as descriptions and the memory of their tensors. Knows how
//! a tensor is told in a frame, not how frames travel.
//!
//! `{"tensors": {name: {dtype, shape, at, len}}, "meta": {…}}`: a tensor alone has the empty name; a latent's have the names of its keys, and
//! its other keys are the meta. Deeper ones have a `tree`, which only workers read.

use std::sync::Arc;

use comfyd_node::{Opaque, Value};
use comfyd_values::{Audio, Image, Latent, Mask, Sigmas};
use half::{bf16, f16};
use indexmap::IndexMap;
use ndarray::{ArcArray, ArrayD, Ix3, Ix4, IxDyn};
use serde_json::{Map, Value as Json, json};

/// The memory of a tensor on its way out. It is shared with the value, not copied.
#[derive(Clone)]
pub(crate) enum Piece {
    /// An array in standard layout.
    Array(ArcArray<f32, IxDyn>),
    /// Noise levels.
    Levels(Arc<Vec<f32>>),
    /// Another worker's tensor.
    Bytes(Arc<Vec<u8>>),
}

impl Piece {
    fn new(array: &ArcArray<f32, IxDyn>) -> Self {
        if array.is_standard_layout() {
            return Self::Array(array.clone());
        }
        Self::Array(array.as_standard_layout().into_owned().into_shared())
    }

    /// Its bytes, in this machine's order, which is the other process's too.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Array(array) => bytemuck::cast_slice(array.as_slice().unwrap_or_default()),
            Self::Levels(levels) => bytemuck::cast_slice(levels),
            Self::Bytes(bytes) => bytes,
        }
    }

    fn shape(&self) -> Vec<usize> {
        match self {
            Self::Array(array) => array.shape().to_vec(),
            Self::Levels(levels) => vec![levels.len()],
            Self::Bytes(bytes) => vec![bytes.len()],
        }
    }
}

/// An object of this process as others take it: its description, whose tensors lie in the blob from `at` on, and its pieces. `None` where it
/// cannot leave.
pub(crate) fn pack(object: &Value, at: u64) -> Option<(Json, Vec<Piece>)> {
    if let Some(carried) = object.downcast::<Carried>() {
        return Some(carried.at(at));
    }
    let mut meta = Map::new();
    let mut parts: Vec<(&str, Piece)> = Vec::new();
    if let Some(image) = object.downcast::<Image>() {
        parts.push(("", Piece::new(&image.0.clone().into_dyn())));
    } else if let Some(mask) = object.downcast::<Mask>() {
        parts.push(("", Piece::new(&mask.0.clone().into_dyn())));
    } else if let Some(sigmas) = object.downcast::<Sigmas>() {
        parts.push(("", Piece::Levels(sigmas.0.clone())));
    } else if let Some(audio) = object.downcast::<Audio>() {
        parts.push(("waveform", Piece::new(&audio.waveform.clone().into_dyn())));
        meta.insert("sample_rate".into(), json!(audio.sample_rate));
    } else if let Some(latent) = object.downcast::<Latent>() {
        parts.push(("samples", Piece::new(&latent.samples)));
        if let Some(mask) = &latent.noise_mask {
            parts.push(("noise_mask", Piece::new(mask)));
        }
        meta.clone_from(&latent.extra);
        if let Some(index) = &latent.batch_index {
            meta.insert("batch_index".into(), json!(index));
        }
    } else {
        return None;
    }
    let mut tensors = Map::new();
    let mut at = at;
    for (name, piece) in &parts {
        let len = piece.bytes().len() as u64;
        tensors.insert((*name).into(), json!({"dtype": "float32", "shape": piece.shape(), "at": at, "len": len}));
        at += len;
    }
    Some((json!({"tensors": tensors, "meta": meta}), parts.into_iter().map(|(_, piece)| piece).collect()))
}

/// So much of a tensor is read at once.
const PART_BYTES: usize = 256 << 10;

/// What a tensor's numbers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    F32,
    F64,
    F16,
    Bf16,
    Bool,
    U8,
    I8,
    I16,
    I32,
    I64,
}

impl Kind {
    fn new(name: &str) -> Option<Self> {
        Some(match name {
            "float32" => Self::F32,
            "float64" => Self::F64,
            "float16" => Self::F16,
            "bfloat16" => Self::Bf16,
            "bool" => Self::Bool,
            "uint8" => Self::U8,
            "int8" => Self::I8,
            "int16" => Self::I16,
            "int32" => Self::I32,
            "int64" => Self::I64,
            _ => return None,
        })
    }

    fn size(self) -> u64 {
        match self {
            Self::Bool | Self::U8 | Self::I8 => 1,
            Self::F16 | Self::Bf16 | Self::I16 => 2,
            Self::F32 | Self::I32 => 4,
            Self::F64 | Self::I64 => 8,
        }
    }

    /// Numbers of this kind as `f32`, which is what native nodes compute with.
    fn floats(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::F32 => of(bytes, f32::from_ne_bytes),
            Self::F64 => of(bytes, |b| f64::from_ne_bytes(b) as f32),
            Self::F16 => of(bytes, |b| f16::from_ne_bytes(b).to_f32()),
            Self::Bf16 => of(bytes, |b| bf16::from_ne_bytes(b).to_f32()),
            Self::Bool | Self::U8 => of(bytes, |[b]| f32::from(b)),
            Self::I8 => of(bytes, |b| f32::from(i8::from_ne_bytes(b))),
            Self::I16 => of(bytes, |b| f32::from(i16::from_ne_bytes(b))),
            Self::I32 => of(bytes, |b| i32::from_ne_bytes(b) as f32),
            Self::I64 => of(bytes, |b| i64::from_ne_bytes(b) as f32),
        }
    }
}

fn of<const N: usize>(bytes: &[u8], read: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    bytes.as_chunks::<N>().0.iter().map(|chunk| read(*chunk)).collect()
}

/// Where a tensor lies in a blob that is about to be read.
#[derive(Debug)]
pub(crate) struct Place {
    name: String,
    kind: Kind,
    shape: Vec<usize>,
    /// Its first byte.
    pub at: u64,
    /// So many bytes.
    pub len: u64,
}

/// The places that a description names, in the order in which they lie; the error says what is wrong with it.
pub(crate) fn places(portable: &Json) -> Result<Vec<Place>, String> {
    let tensors = portable.get("tensors").and_then(Json::as_object).ok_or("a portable value without tensors")?;
    let mut places = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let place = place(name, tensor).ok_or_else(|| format!("a tensor that is told as {tensor}"))?;
        places.push(place);
    }
    places.sort_by_key(|place| place.at);
    Ok(places)
}

fn place(name: &str, tensor: &Json) -> Option<Place> {
    let kind = Kind::new(tensor.get("dtype")?.as_str()?)?;
    let axis = |axis: &Json| axis.as_u64().and_then(|axis| usize::try_from(axis).ok());
    let shape: Vec<usize> = tensor.get("shape")?.as_array()?.iter().map(axis).collect::<Option<_>>()?;
    let (at, len) = (tensor.get("at")?.as_u64()?, tensor.get("len")?.as_u64()?);
    let numbers = shape.iter().try_fold(1_u64, |product, axis| product.checked_mul(*axis as u64))?;
    (numbers.checked_mul(kind.size())? == len).then(|| Place { name: name.into(), kind, shape, at, len })
}

/// The tensors of a portable value that came, by name.
#[derive(Debug, Default)]
pub(crate) struct Tensors(IndexMap<String, Tensor>);

/// A tensor that came.
#[derive(Debug)]
enum Tensor {
    Floats(ArrayD<f32>),
    /// Numbers of another kind, as they came.
    Other {
        kind: Kind,
        shape: Vec<usize>,
        bytes: Vec<u8>,
    },
}

impl Tensor {
    /// As native nodes compute with it.
    fn floats(self) -> ArrayD<f32> {
        match self {
            Self::Floats(array) => array,
            // The length was compared with the shape when the place was read.
            Self::Other { kind, shape, bytes } => ArrayD::from_shape_vec(IxDyn(&shape), kind.floats(&bytes)).unwrap_or_default(),
        }
    }

    fn piece(self) -> Piece {
        match self {
            Self::Floats(array) => Piece::Array(array.into_shared()),
            Self::Other { bytes, .. } => Piece::Bytes(Arc::new(bytes)),
        }
    }
}

/// A value of one worker on its way to another: what that said of it, and its tensors, whatever they mean.
pub(crate) struct Carried {
    portable: Json,
    /// In the order in which the description names them.
    pieces: Vec<Piece>,
}

impl Carried {
    /// What came.
    pub fn new(portable: Json, tensors: Tensors) -> Self {
        let mut tensors = tensors.0;
        let names = portable.get("tensors").and_then(Json::as_object).into_iter().flatten().map(|(name, _)| name);
        let pieces = names.filter_map(|name| tensors.swap_remove(name)).map(Tensor::piece).collect();
        Self { portable, pieces }
    }

    /// The same with its tensors from there on in the blob.
    fn at(&self, mut at: u64) -> (Json, Vec<Piece>) {
        let mut portable = self.portable.clone();
        let tensors = portable.get_mut("tensors").and_then(Json::as_object_mut).into_iter().flatten();
        for ((_, tensor), piece) in tensors.zip(&self.pieces) {
            tensor["at"] = at.into();
            at += piece.bytes().len() as u64;
        }
        (portable, self.pieces.clone())
    }
}

impl Opaque for Carried {
    fn type_name(&self) -> &str {
        "*"
    }

    fn size_bytes(&self) -> usize {
        self.pieces.iter().map(|piece| piece.bytes().len()).sum()
    }
}

impl Tensors {
    /// Reads one: `fill` fills memory with the blob's next bytes. That of `f32` becomes the array as it is.
    pub fn read<E>(&mut self, place: Place, fill: impl FnMut(&mut [u8]) -> Result<(), E>) -> Result<(), E> {
        let Place { name, kind, shape, len, .. } = place;
        if kind == Kind::F32 {
            let floats = in_parts((len / 4) as usize, fill)?;
            // The length was compared with the shape when the place was read.
            self.0.extend(ArrayD::from_shape_vec(IxDyn(&shape), floats).ok().map(|array| (name, Tensor::Floats(array))));
        } else {
            let bytes = in_parts(len as usize, fill)?;
            self.0.insert(name, Tensor::Other { kind, shape, bytes });
        }
        Ok(())
    }
}

/// So many numbers that `fill` brings part by part: a part stays in a processor's own cache, and large memory is written once, not zeroed before.
fn in_parts<T: bytemuck::Pod, E>(count: usize, mut fill: impl FnMut(&mut [u8]) -> Result<(), E>) -> Result<Vec<T>, E> {
    let mut numbers = Vec::with_capacity(count);
    let mut part = vec![T::zeroed(); count.min(PART_BYTES / size_of::<T>())];
    while numbers.len() < count {
        let wanted = part.len().min(count - numbers.len());
        let part = &mut part[..wanted];
        fill(bytemuck::cast_slice_mut(part))?;
        numbers.extend_from_slice(part);
    }
    Ok(numbers)
}

/// What came, as the value that native nodes take for a link of type `declared`; by its shape where that says nothing. The error names what
/// it is instead.
pub(crate) fn unpack(portable: &Json, tensors: Tensors, declared: &str) -> Result<Arc<dyn Opaque>, String> {
    let mut tensors = tensors.0;
    if let Some(tensor) = tensors.swap_remove("") {
        return alone(tensor.floats(), declared);
    }
    if portable.get("tree").is_some() {
        return Err(format!("a structure of {} tensors", tensors.len()));
    }
    let mut extra = portable.get("meta").and_then(Json::as_object).cloned().unwrap_or_default();
    let names = || tensors.keys().cloned().collect::<Vec<_>>().join(", ");
    if tensors.len() == 1 && tensors.contains_key("waveform") {
        let rate = extra.get("sample_rate").and_then(Json::as_f64).filter(|rate| *rate >= 1.0 && *rate <= f64::from(u32::MAX));
        let waveform = tensors.swap_remove("waveform").map(Tensor::floats).unwrap_or_default();
        let shape = shape_text(waveform.shape());
        let sound = rate.zip(waveform.into_dimensionality::<Ix3>().ok());
        let (rate, waveform) = sound.ok_or_else(|| format!("sound of shape {shape} with the rate {:?}", extra.get("sample_rate")))?;
        return Ok(Arc::new(Audio::new(waveform, rate as u32)));
    }
    if !tensors.contains_key("samples") || tensors.keys().any(|name| name != "samples" && name != "noise_mask") {
        return Err(format!("a dict with the tensors {}", names()));
    }
    let mut taken = |name: &str| tensors.swap_remove(name).map(|tensor| tensor.floats().into_shared());
    let (samples, noise_mask) = (taken("samples").unwrap_or_default(), taken("noise_mask"));
    let index = extra.get("batch_index").and_then(Json::as_array);
    let batch_index = index.and_then(|index| index.iter().map(Json::as_i64).collect::<Option<Vec<_>>>());
    if batch_index.is_some() {
        extra.shift_remove("batch_index");
    }
    Ok(Arc::new(Latent { samples, noise_mask, batch_index, extra }))
}

fn alone(tensor: ArrayD<f32>, declared: &str) -> Result<Arc<dyn Opaque>, String> {
    let shape = shape_text(tensor.shape());
    let other = || format!("a tensor of shape {shape}");
    let is = |ty: &str| declared.split(',').any(|part| part.trim() == ty);
    match (tensor.shape(), tensor.ndim()) {
        // Masks as some nodes have them, with an axis for their one channel.
        ([_, 1, _, _], 4) if is("MASK") && !is("IMAGE") => mask(tensor.index_axis_move(ndarray::Axis(1), 0)).ok_or_else(other),
        ([.., 1..=4], 4) => picture(tensor).ok_or_else(other),
        (_, 4) if is("IMAGE") => picture(tensor).ok_or_else(other),
        (_, 3) if is("MASK") || !is("IMAGE") => mask(tensor).ok_or_else(other),
        // One picture or one mask without the axis of the batch.
        (_, 3) => picture(tensor.insert_axis(ndarray::Axis(0))).ok_or_else(other),
        (_, 2) if is("MASK") => mask(tensor.insert_axis(ndarray::Axis(0))).ok_or_else(other),
        (_, 1) => Ok(Arc::new(Sigmas::new(tensor.into_iter().collect()))),
        _ => Err(other()),
    }
}

fn picture(tensor: ArrayD<f32>) -> Option<Arc<dyn Opaque>> {
    Some(Arc::new(Image::new(tensor.into_dimensionality::<Ix4>().ok()?)))
}

fn mask(tensor: ArrayD<f32>) -> Option<Arc<dyn Opaque>> {
    Some(Arc::new(Mask::new(tensor.into_dimensionality::<Ix3>().ok()?)))
}

/// A shape for people: `1x64x64x3`.
pub(crate) fn shape_text(shape: &[usize]) -> String {
    shape.iter().map(usize::to_string).collect::<Vec<_>>().join("x")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use ndarray::Array;

    use super::*;

    fn back(value: &Value, declared: &str) -> Arc<dyn Opaque> {
        let (portable, pieces) = pack(value, 0).unwrap();
        let blob: Vec<u8> = pieces.iter().flat_map(|piece| piece.bytes().to_vec()).collect();
        received(&portable, &blob, declared).unwrap()
    }

    fn received(portable: &Json, blob: &[u8], declared: &str) -> Result<Arc<dyn Opaque>, String> {
        let mut tensors = Tensors::default();
        for place in places(portable)? {
            let bytes = &blob[place.at as usize..(place.at + place.len) as usize];
            tensors.read(place, |memory| {
                memory.copy_from_slice(bytes);
                Ok::<_, String>(())
            })?;
        }
        unpack(portable, tensors, declared)
    }

    #[test]
    fn what_leaves_comes_back_equal() {
        let image = Image::new(Array::from_shape_fn((2, 3, 4, 3), |(b, y, x, c)| (b * 100 + y * 20 + x * 3 + c) as f32));
        let there = back(&Value::object(image.clone()), "IMAGE");
        assert_eq!(*Value::Object(there).downcast::<Image>().unwrap(), image);
        // A view that is not in memory's order.
        let turned = Image(image.0.clone().permuted_axes([0, 2, 1, 3]));
        assert_eq!(*Value::Object(back(&Value::object(turned.clone()), "*")).downcast::<Image>().unwrap(), turned);
        let mask = Mask::solid(1, 2, 3, 0.5);
        assert_eq!(*Value::Object(back(&Value::object(mask.clone()), "*")).downcast::<Mask>().unwrap(), mask);
        let sigmas = Sigmas::new(vec![14.6, 0.0]);
        assert_eq!(*Value::Object(back(&Value::object(sigmas.clone()), "SIGMAS")).downcast::<Sigmas>().unwrap(), sigmas);
        let audio = Audio::new(Array::from_shape_fn((2, 1, 5), |(b, c, n)| (b * 10 + c + n) as f32), 44_100);
        assert_eq!(*Value::Object(back(&Value::object(audio.clone()), "AUDIO")).downcast::<Audio>().unwrap(), audio);
        let latent = Latent {
            noise_mask: Some(Array::ones(IxDyn(&[1, 1, 8, 8])).into_shared()),
            batch_index: Some(vec![3]),
            extra: json!({"type": "audio"}).as_object().unwrap().clone(),
            ..Latent::new(Array::zeros(IxDyn(&[1, 4, 8, 8])).into_shared())
        };
        assert_eq!(*Value::Object(back(&Value::object(latent.clone()), "LATENT")).downcast::<Latent>().unwrap(), latent);
    }

    #[test]
    fn numbers_of_other_kinds_become_floats() {
        let cases: [(&str, Vec<u8>); 6] = [
            ("float16", [f16::from_f32(1.0), f16::from_f32(-2.0)].iter().flat_map(|v| v.to_ne_bytes()).collect()),
            ("bfloat16", [bf16::from_f32(1.0), bf16::from_f32(-2.0)].iter().flat_map(|v| v.to_ne_bytes()).collect()),
            ("float64", [1_f64, -2.0].iter().flat_map(|v| v.to_ne_bytes()).collect()),
            ("int64", [1_i64, -2].iter().flat_map(|v| v.to_ne_bytes()).collect()),
            ("int8", [1_i8, -2].iter().flat_map(|v| v.to_ne_bytes()).collect()),
            ("int32", [1_i32, -2].iter().flat_map(|v| v.to_ne_bytes()).collect()),
        ];
        for (dtype, blob) in cases {
            let portable = json!({"tensors": {"": {"dtype": dtype, "shape": [2], "at": 0, "len": blob.len()}}});
            let sigmas = Value::Object(received(&portable, &blob, "*").unwrap()).downcast::<Sigmas>().unwrap();
            assert_eq!(*sigmas.0, [1.0, -2.0], "{dtype}");
        }
    }

    #[test]
    fn what_is_no_native_value_is_told() {
        let tensor = |shape: &[usize]| {
            let len = shape.iter().product::<usize>() * 4;
            let portable = json!({"tensors": {"": {"dtype": "float32", "shape": shape, "at": 0, "len": len}}});
            (portable, vec![0; len])
        };
        let (portable, blob) = tensor(&[1, 2, 2, 9]);
        assert_eq!(received(&portable, &blob, "*").err().unwrap(), "a tensor of shape 1x2x2x9");
        assert!(received(&portable, &blob, "IMAGE").is_ok());
        let (portable, blob) = tensor(&[2, 5]);
        assert!(received(&portable, &blob, "*").is_err());
        assert_eq!(Value::Object(received(&portable, &blob, "MASK").unwrap()).downcast::<Mask>().unwrap().height(), 2);
        let (portable, blob) = tensor(&[3, 1, 2, 5]);
        assert_eq!(Value::Object(received(&portable, &blob, "MASK").unwrap()).downcast::<Mask>().unwrap().0.shape(), [3, 2, 5]);
        let (mut portable, blob) = tensor(&[1, 2, 4]);
        portable = json!({"tensors": {"waveform": portable["tensors"][""]}, "meta": {"sample_rate": 8000}});
        assert!(received(&portable, &blob, "AUDIO").is_ok());
        portable["meta"]["sample_rate"] = json!("fast");
        assert!(received(&portable, &blob, "AUDIO").err().unwrap().starts_with("sound of shape 1x2x4"));
        let odd = json!({"tensors": {"": {"dtype": "float32", "shape": [3], "at": 0, "len": 8}}});
        assert!(places(&odd).unwrap_err().starts_with("a tensor that is told as"), "its length does not fit its shape");
        assert!(places(&json!({})).is_err());
    }
}

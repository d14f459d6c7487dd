//! What fuzzing calls: any bytes as a file of weights, opened, told apart and read. Knows no family of models.
#![allow(clippy::expect_used)]

use std::io::{Cursor, Write};
use std::path::Path;

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::lora::{self, clip_keys, unet_keys};
use crate::{EncoderKind, StateDict, Unet, gguf, safetensors, torch};

#[cfg(test)]
#[path = "../../../fuzz/kept.rs"]
mod kept;

/// Values of tensors that are read: a small file may repeat a value many times.
const MAX_READ_BYTES: u64 = 1 << 20;

/// A safetensors file: its whole, and its header behind the length that it has.
pub fn safetensors(data: &[u8], scratch: &Path) {
    for file in [data.to_vec(), [&(data.len() as u64).to_le_bytes()[..], data].concat()] {
        std::fs::write(scratch, file).expect("the scratch file can be written");
        if let Ok(file) = safetensors::File::open(scratch) {
            for name in file.tensors().keys().take(8) {
                let _ = file.read_f32(name, MAX_READ_BYTES);
            }
        }
        open(scratch);
    }
}

/// A GGUF file.
pub fn gguf(data: &[u8], scratch: &Path) {
    let magic = if data.starts_with(gguf::MAGIC) { &[][..] } else { gguf::MAGIC };
    std::fs::write(scratch, [magic, data].concat()).expect("the scratch file can be written");
    open(scratch);
}

/// A PyTorch file, or a pickle in one.
pub fn pickle(data: &[u8], scratch: &Path) {
    let file = if torch::is_torch(data) { data.to_vec() } else { archive(data) };
    std::fs::write(scratch, file).expect("the scratch file can be written");
    open(scratch);
}

fn archive(pickle: &[u8]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in [("a/data.pkl", pickle), ("a/data/0", [1; 64].as_slice())] {
        zip.start_file(name, SimpleFileOptions::default().compression_method(CompressionMethod::Stored)).expect("memory takes it");
        zip.write_all(bytes).expect("memory takes it");
    }
    zip.finish().expect("memory takes it").into_inner()
}

fn open(path: &Path) {
    let dict = match StateDict::open(path) {
        Ok(dict) => dict,
        Err(error) => return drop(error.to_string()),
    };
    for (_, tensor) in dict.iter().filter(|(_, tensor)| tensor.size_bytes() <= MAX_READ_BYTES).take(32) {
        if let Ok(values) = tensor.read() {
            assert_eq!(values.dims(), tensor.shape(), "what is read has the shape that was told");
        }
        let rows = tensor.shape().first().copied().unwrap_or_default();
        let _ = tensor.rows(rows / 2, rows - rows / 2).map(|rows| rows.read());
    }
    let keys = Unet::find(&dict).ok().map(|unet| unet_keys(&unet.weights, &unet.config));
    let keys = keys.unwrap_or_else(|| clip_keys(&[(EncoderKind::ClipL, dict.clone())]));
    if dict.iter().map(|(_, tensor)| tensor.size_bytes()).max().unwrap_or_default() <= MAX_READ_BYTES {
        let _ = lora::load(&dict, &keys);
    }
}

#[cfg(test)]
#[test]
fn what_fuzzing_found_is_answered() {
    let dir = tempfile::tempdir().expect("a folder");
    let scratch = dir.path().join("file");
    kept::replay("safetensors", |data| safetensors(data, &scratch));
    kept::replay("gguf", |data| gguf(data, &scratch));
    kept::replay("pickle", |data| pickle(data, &scratch));
}

//! What a model file says of itself, and the picture that shows what it does. Does not know how a model runs.

use std::io::Read;
use std::path::{Path, PathBuf};

use base64::Engine;
use comfyd_folders::extension;
use serde_json::Value;

use crate::form::BASE64;

/// Longest safetensors header that is searched for a cover picture, in bytes.
const MAX_HEADER: u64 = 8 * 1024 * 1024;
/// Largest picture file that is used as a preview, in bytes.
const MAX_PREVIEW: u64 = 64 * 1024 * 1024;

/// The picture that shows what a model does: beside its file, or in it.
pub(crate) fn picture(model: &Path) -> Option<Vec<u8>> {
    picture_beside(model).or_else(|| cover(model))
}

/// The JSON header of a safetensors file: its length in 8 bytes, little-endian, then the text. `None` if the file has none, or a longer
/// one than `max` bytes.
pub(crate) fn safetensors_header(path: &Path, max: u64) -> Option<Value> {
    let mut file = std::fs::File::open(path).ok()?;
    let mut length = [0; 8];
    file.read_exact(&mut length).ok()?;
    let length = u64::from_le_bytes(length);
    if length > max || length > file.metadata().ok()?.len().saturating_sub(8) {
        return None;
    }
    let mut text = vec![0; usize::try_from(length).ok()?];
    file.read_exact(&mut text).ok()?;
    comfyd_wire::json::read(&text).ok().filter(Value::is_object)
}

/// The picture `name.png`, or `name.preview.png`, next to `name.safetensors`; with any ending of pictures that can be read.
fn picture_beside(model: &Path) -> Option<Vec<u8>> {
    let stem = model.file_stem()?.to_str()?;
    let mut found: Vec<PathBuf> = std::fs::read_dir(model.parent()?).ok()?.flatten().map(|e| e.path()).filter(|p| shows(p, stem)).collect();
    found.sort_unstable();
    let path = found.first()?;
    (path.metadata().ok()?.len() <= MAX_PREVIEW).then(|| std::fs::read(path).ok()).flatten()
}

fn shows(path: &Path, stem: &str) -> bool {
    let Some(name) = path.file_stem().and_then(|s| s.to_str()) else { return false };
    let wanted = name == stem || name.strip_suffix(".preview") == Some(stem);
    let ending = path.file_name().and_then(|s| s.to_str()).map(extension).unwrap_or_default();
    wanted && path.is_file() && comfyd_imaging::decode::endings().contains(&ending.as_str())
}

/// The first of the pictures that trainers put into `ssmd_cover_images`: a JSON list, as text, of Base64.
fn cover(model: &Path) -> Option<Vec<u8>> {
    let header = safetensors_header(&model.with_extension("safetensors"), MAX_HEADER)?;
    let covers = comfyd_wire::json::read(header.get("__metadata__")?.get("ssmd_cover_images")?.as_str()?.as_bytes()).ok()?;
    // Broken into lines or not.
    let code: Vec<u8> = covers.get(0)?.as_str()?.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    BASE64.decode(code).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn a_header_longer_than_the_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.safetensors");
        std::fs::write(&path, [&u64::MAX.to_le_bytes()[..], b"{}"].concat()).unwrap();
        assert_eq!(safetensors_header(&path, u64::MAX), None);
        std::fs::write(&path, [&2u64.to_le_bytes()[..], b"{}"].concat()).unwrap();
        assert_eq!(safetensors_header(&path, 2), Some(serde_json::json!({})));
        assert_eq!(safetensors_header(&path, 1), None);
    }

    #[test]
    fn previews_are_pictures_named_like_the_model() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["m.safetensors", "m.txt", "m.preview.png", "mm.png"] {
            std::fs::write(dir.path().join(name), name).unwrap();
        }
        assert_eq!(picture_beside(&dir.path().join("m.safetensors")).unwrap(), b"m.preview.png");
        assert_eq!(picture_beside(&dir.path().join("other.safetensors")), None);
    }

    #[test]
    fn a_cover_is_taken_from_the_header() {
        let dir = tempfile::tempdir().unwrap();
        for (code, wanted) in [("Zg==", Some("f")), ("Zm9v\\\\n  YmFy", Some("foobar")), ("Zm8", Some("fo")), ("Zm9*", None)] {
            let header = format!(r#"{{"__metadata__": {{"ssmd_cover_images": "[\"{code}\"]"}}}}"#);
            std::fs::write(dir.path().join("m.safetensors"), [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat())
                .unwrap();
            assert_eq!(picture(&dir.path().join("m.safetensors")), wanted.map(Into::into), "{code}");
        }
    }
}

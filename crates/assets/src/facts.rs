//! What a file says of itself: its size and time, its media type, the header of a safetensors file, the size of a picture, its hash. Knows no
//! database.

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata};
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::time::UNIX_EPOCH;

use serde_json::{Map, Value, json};

use comfyd_folders::extension;

/// Longest header of a safetensors file that is read, in bytes.
const MAX_HEADER: u64 = 8 << 20;
/// Most trained words that are kept, and the longest text.
const MAX_WORDS: usize = 100;
const MAX_TEXT: usize = 2048;
/// What is read of a file at once, in bytes.
const CHUNK_BYTES: usize = 4 << 20;

/// Media types of files that only this kind of server has.
const OWN_TYPES: [(&[&str], &str); 5] = [
    (&[".safetensors", ".sft"], "application/safetensors"),
    (&[".pt", ".pth"], "application/pytorch"),
    (&[".ckpt", ".pkl"], "application/pickle"),
    (&[".gguf"], "application/gguf"),
    (&[".yaml", ".yml"], "application/yaml"),
];

/// By which names a safetensors file says what, the better ones first.
const NAMES: [(&str, &[&str]); 11] = [
    ("base_model", &["ss_base_model_version", "modelspec.base_model", "base_model"]),
    ("air", &["air", "modelspec.air"]),
    ("source_url", &["source_url"]),
    ("source_arn", &["source_arn"]),
    ("repo_url", &["repo_url"]),
    ("preview_url", &["preview_url"]),
    ("source_hash", &["source_hash", "sshs_model_hash"]),
    ("repo_id", &["repo_id", "hf_repo_id"]),
    ("revision", &["revision", "hf_revision"]),
    ("filepath", &["filepath", "hf_filepath"]),
    ("resolve_url", &["resolve_url", "hf_url"]),
];

/// The size and the time of a file, which change when its content does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub size: u64,
    pub mtime_ns: i64,
}

impl Stamp {
    /// Of a file; fails for what is none.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        Self::from(&fs::metadata(path)?)
    }

    fn from(found: &Metadata) -> io::Result<Self> {
        if !found.is_file() {
            return Err(io::Error::other("it is no file"));
        }
        let since = found.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Self { size: found.len(), mtime_ns: i64::try_from(since.as_nanos()).unwrap_or(i64::MAX) })
    }
}

/// The media type that a name's ending stands for.
pub fn mime_of(name: &str) -> Option<&'static str> {
    let ending = extension(name);
    let own = OWN_TYPES.iter().find(|(endings, _)| endings.contains(&ending.as_str()));
    own.map(|(_, mime)| *mime).or_else(|| mime_guess::from_path(name).first_raw())
}

/// What a file says of itself.
pub(crate) fn system_metadata(path: &Path, loader_path: Option<&str>, size: u64) -> Map<String, Value> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let ending = extension(&name);
    let mut facts = Map::new();
    facts.insert("filename".into(), loader_path.unwrap_or(&name).into());
    facts.insert("content_length".into(), size.into());
    facts.insert("format".into(), ending.trim_start_matches('.').into());
    let mime = mime_of(&name);
    facts.extend(mime.map(|mime| ("content_type".to_owned(), mime.into())));
    if matches!(ending.as_str(), ".safetensors" | ".sft")
        && let Some(header) = header(path)
    {
        facts.extend(of_header(&header));
    }
    if mime.is_some_and(|mime| mime.starts_with("image/")) {
        facts.extend(picture(path).into_iter().flatten());
    }
    facts
}

/// That a file is a picture, and of what size.
pub(crate) fn picture(path: &Path) -> Option<Map<String, Value>> {
    let reader = image::ImageReader::new(BufReader::new(File::open(path).ok()?)).with_guessed_format().ok()?;
    let (width, height) = reader.into_dimensions().ok().filter(|(width, height)| *width > 0 && *height > 0)?;
    json!({"kind": "image", "width": width, "height": height}).as_object().cloned()
}

/// What a safetensors file says besides its tensors.
fn header(path: &Path) -> Option<Map<String, Value>> {
    let mut file = File::open(path).ok()?;
    let mut length = [0; 8];
    file.read_exact(&mut length).ok()?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER || length > file.metadata().ok()?.len().saturating_sub(8) {
        return None;
    }
    let mut text = vec![0; usize::try_from(length).ok()?];
    file.read_exact(&mut text).ok()?;
    match comfyd_wire::json::read(&text).ok()?.get_mut("__metadata__")?.take() {
        Value::Object(said) => Some(said),
        _ => None,
    }
}

fn of_header(said: &Map<String, Value>) -> Map<String, Value> {
    let text = |name: &&str| said.get(*name)?.as_str().filter(|text| !text.is_empty()).map(|text| text.chars().take(MAX_TEXT).collect());
    let named = NAMES.iter().filter_map(|(key, names)| Some(((*key).to_owned(), Value::String(names.iter().find_map(text)?))));
    let mut facts: Map<String, Value> = named.collect();
    let words = trained_words(said);
    if !words.is_empty() {
        facts.insert("trained_words".into(), words.into());
    }
    if said.get("ssmd_cover_images").and_then(Value::as_str).is_some_and(|images| !images.is_empty()) {
        facts.insert("has_preview_images".into(), true.into());
    }
    facts
}

/// The words that a model was trained on: the tags of all its data sets, or those that it lists itself.
fn trained_words(said: &Map<String, Value>) -> Vec<String> {
    let text = |name: &str| said.get(name).and_then(Value::as_str);
    let read = |text: &str| comfyd_wire::json::read(text.as_bytes()).ok();
    let sets = text("ss_tag_frequency").and_then(read);
    let tags: BTreeSet<&String> =
        sets.iter().filter_map(Value::as_object).flatten().filter_map(|(_, set)| set.as_object()).flatten().map(|(tag, _)| tag).collect();
    if !tags.is_empty() {
        return tags.into_iter().take(MAX_WORDS).cloned().collect();
    }
    let Some(listed) = text("trained_words") else { return Vec::new() };
    let words: Vec<String> = match read(listed) {
        Some(Value::Array(words)) => words.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        Some(_) | None => listed.split(',').map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect(),
    };
    words.into_iter().take(MAX_WORDS).map(|word| word.chars().take(MAX_TEXT).collect()).collect()
}

/// The hash of a file; `None` where `go_on` said no between two parts, or the file changed meanwhile.
pub(crate) fn hash(path: &Path, mut go_on: impl FnMut() -> bool) -> io::Result<Option<(String, Stamp)>> {
    let mut file = File::open(path)?;
    let before = Stamp::from(&file.metadata()?)?;
    let mut hasher = blake3::Hasher::new();
    let length = usize::try_from(before.size).map_or(CHUNK_BYTES, |size| size.clamp(1, CHUNK_BYTES));
    let mut chunk = vec![0; length];
    loop {
        if !go_on() {
            return Ok(None);
        }
        match file.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => drop(hasher.update(&chunk[..count])),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok((Stamp::of(path)? == before).then(|| (format!("blake3:{}", hasher.finalize().to_hex()), before)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn a_model_says_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.safetensors");
        let tags = json!({"a": {"cat": 2, "dog": 1}, "b": {"ant": 1}, "c": 3}).to_string();
        let header = json!({"__metadata__": {
            "modelspec.base_model": "sdxl", "ss_base_model_version": "", "hf_repo_id": "a/b", "ss_tag_frequency": tags,
            "ssmd_cover_images": "[]",
        }});
        let header = header.to_string();
        fs::write(&path, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat()).unwrap();
        let facts = system_metadata(&path, Some("x/m.safetensors"), 5);
        let wanted = json!({
            "filename": "x/m.safetensors", "content_length": 5, "format": "safetensors", "content_type": "application/safetensors",
            "base_model": "sdxl", "repo_id": "a/b", "trained_words": ["ant", "cat", "dog"], "has_preview_images": true,
        });
        assert_eq!(Value::Object(facts), wanted);
        fs::write(&path, [&u64::MAX.to_le_bytes()[..], b"{}"].concat()).unwrap();
        assert_eq!(header_keys(&path), ["filename", "content_length", "format", "content_type"]);
        let listed = |text: &str| trained_words(json!({"trained_words": text}).as_object().unwrap());
        assert_eq!((listed(r#"["a b", "c"]"#), listed("a b, ,c")), (vec!["a b".into(), "c".into()], vec!["a b".into(), "c".into()]));
    }

    fn header_keys(path: &Path) -> Vec<String> {
        system_metadata(path, None, 1).keys().cloned().collect()
    }

    #[test]
    fn a_picture_has_a_size_and_what_only_seems_to_be_one_has_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.png");
        image::RgbImage::new(5, 3).save(&path).unwrap();
        assert_eq!(Value::Object(picture(&path).unwrap()), json!({"kind": "image", "width": 5, "height": 3}));
        fs::write(&path, b"no picture").unwrap();
        assert_eq!(picture(&path), None);
    }

    #[test]
    fn a_hash_is_blake3_and_can_be_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, b"").unwrap();
        let empty = "blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
        assert_eq!(hash(&path, || true).unwrap().unwrap().0, empty);
        assert_eq!(hash(&path, || false).unwrap(), None);
        assert!(hash(dir.path(), || true).is_err());
    }
}

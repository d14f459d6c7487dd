//! `/upload/image` and `/upload/mask`: files from clients into the input, output and temp folders.

use std::io::Cursor;
use std::path::{Path, PathBuf};

use axum::Json;
use axum::extract::State;
use bytes::Bytes;
use comfyd_folders::whole::{Replace, is_unfinished};
use comfyd_folders::{Folders, Kind, join_inside, split_annotation};
use serde_json::{Value, json};

use crate::form::Form;
use crate::openapi::{Doc, Table};
use crate::routes::userdata::write_file;
use crate::routes::view::{blocking, decode, parse_kind};
use crate::{ApiError, ApiShape, App};

/// Numbers that are tried for a free name.
const MAX_NUMBER: u32 = 10_000;

/// The routes of this module. The bound on bodies is the router's.
pub(super) fn routes() -> Table {
    Table::default().post("/upload/image", image, Doc::new("files", "Stores a file.").form("UploadForm").json("Uploaded")).post(
        "/upload/mask",
        mask,
        Doc::new(
            "files",
            "Stores a picture with the alpha channel of a mask: among the outputs in the API document's shape without a type.",
        )
        .form("UploadForm")
        .json("Uploaded"),
    )
}

/// What a form says.
#[derive(Default)]
struct Upload {
    file: Option<(String, Bytes)>,
    overwrite: bool,
    kind: Option<String>,
    subfolder: String,
    original_ref: Option<String>,
}

async fn image(State(app): State<App>, form: Form) -> Result<Json<Value>, ApiError> {
    let upload = Upload::read(&form)?;
    blocking(move || store(&app.folders, upload, Ok)).await
}

async fn mask(State(app): State<App>, shape: ApiShape, form: Form) -> Result<Json<Value>, ApiError> {
    let mut upload = Upload::read(&form)?;
    if shape == ApiShape::Documented {
        upload.kind.get_or_insert_with(|| Kind::Output.as_str().to_owned());
    }
    blocking(move || {
        let original = original_path(&app.folders, upload.original_ref.as_deref())?;
        store(&app.folders, upload, |bytes| with_alpha_of(&original, &bytes).map(Bytes::from))
    })
    .await
}

impl Upload {
    fn read(form: &Form) -> Result<Self, ApiError> {
        Ok(Self {
            file: form.get("image").and_then(|part| Some((part.file_name.clone()?, part.bytes.clone()))),
            overwrite: form.text("overwrite")?.is_some_and(|text| matches!(text.as_str(), "true" | "1")),
            kind: form.text("type")?,
            subfolder: form.text("subfolder")?.unwrap_or_default(),
            original_ref: form.text("original_ref")?,
        })
    }
}

/// Stores the form's file, changed by `change`, and tells where. The same bytes under the same name are not stored twice.
fn store(folders: &Folders, form: Upload, change: impl FnOnce(Bytes) -> Result<Bytes, ApiError>) -> Result<Json<Value>, ApiError> {
    let (name, bytes) = form.file.ok_or_else(|| ApiError::bad_request("no file came: send it as the part 'image' with a file name"))?;
    let name = file_name(&name)?;
    let kind = form.kind.as_deref().map_or(Ok(Kind::Input), parse_kind)?;
    let folder = folders.inside(kind, Path::new(&form.subfolder))?;
    let answer = |name: &str| Json(json!({"name": name, "subfolder": form.subfolder, "type": kind.as_str()}));
    if !form.overwrite && std::fs::read(folder.join(&name)).is_ok_and(|old| old == bytes) {
        return Ok(answer(&name));
    }
    let changed = change(bytes.clone())?;
    if form.overwrite {
        write_file(&folder.join(&name), &changed, Replace::Yes)?;
        return Ok(answer(&name));
    }
    for number in 0..MAX_NUMBER {
        let candidate = if number == 0 { name.clone() } else { numbered(&name, number) };
        let path = folder.join(&candidate);
        if path.exists() {
            if std::fs::read(&path).is_ok_and(|old| old == bytes) {
                return Ok(answer(&candidate));
            }
            continue;
        }
        // Somebody else may take the name between the question and the answer: then the next one is tried.
        if write_file(&path, &changed, Replace::No)? {
            return Ok(answer(&candidate));
        }
    }
    Err(ApiError::conflict("there are too many files of that name: choose another one").details(name))
}

/// The name under which a file is stored: one path component, slashes percent-encoded.
fn file_name(name: &str) -> Result<String, ApiError> {
    let name = name.replace('/', "%2F");
    if name.is_empty() || name == "." || name == ".." || name.len() > 240 || name.chars().any(char::is_control) || is_unfinished(&name) {
        let rule = "the file name cannot be used: send 1 to 240 bytes without control characters, not the name of an unfinished file";
        return Err(ApiError::bad_request(rule).details(name));
    }
    Ok(name)
}

/// `a.png` and 2 → `a (2).png`.
fn numbered(name: &str, number: u32) -> String {
    match name.rfind('.') {
        Some(dot) if name[..dot].bytes().any(|b| b != b'.') => format!("{} ({number}){}", &name[..dot], &name[dot..]),
        _ => format!("{name} ({number})"),
    }
}

/// The picture that a mask belongs to, named as `{"filename", "type", "subfolder"}`.
fn original_path(folders: &Folders, reference: Option<&str>) -> Result<PathBuf, ApiError> {
    let shape =
        || ApiError::bad_request("'original_ref' must be JSON such as {\"filename\": \"a.png\", \"type\": \"input\", \"subfolder\": \"\"}");
    let reference = comfyd_wire::json::read(reference.ok_or_else(shape)?.as_bytes()).map_err(|e| shape().details(e.to_string()))?;
    let (name, kind) = split_annotation(reference.get("filename").and_then(Value::as_str).ok_or_else(shape)?);
    if name.is_empty() || name.starts_with('/') || name.contains("..") || name.contains('\0') {
        return Err(ApiError::bad_request("the original's file name must be relative and without '..'").details(name));
    }
    let kind = match kind {
        Some(kind) => kind,
        None => parse_kind(reference.get("type").and_then(Value::as_str).unwrap_or("output"))?,
    };
    let subfolder = reference.get("subfolder").and_then(Value::as_str).unwrap_or_default();
    let folder = folders.inside(kind, Path::new(subfolder)).map_err(|e| ApiError::forbidden(e.to_string()))?;
    let path = join_inside(&folder, Path::new(name))?;
    if !path.is_file() {
        return Err(ApiError::not_found("the original picture of the mask is not there: upload it first").details(name));
    }
    Ok(path)
}

/// The original as PNG with the alpha of `mask` and, if it was a PNG, with its texts.
fn with_alpha_of(original: &Path, mask: &[u8]) -> Result<Vec<u8>, ApiError> {
    let bytes = std::fs::read(original).map_err(|e| ApiError::internal(format!("cannot read the original picture: {e}")))?;
    let mut picture = decode(&bytes)?.into_rgba8();
    let mask = decode(mask)?.into_rgba8();
    if picture.dimensions() != mask.dimensions() {
        let ((w, h), (mw, mh)) = (picture.dimensions(), mask.dimensions());
        return Err(ApiError::bad_request(format!("the mask is {mw}x{mh} but the picture {w}x{h}: send a mask of the picture's size")));
    }
    for (pixel, mask) in picture.pixels_mut().zip(mask.pixels()) {
        pixel.0[3] = mask.0[3];
    }
    let failed = |e: png::EncodingError| ApiError::internal(format!("cannot encode the picture: {e}"));
    let mut out = Vec::new();
    let mut encoder = png::Encoder::new(&mut out, picture.width(), picture.height());
    encoder.set_color(png::ColorType::Rgba);
    encoder.set_depth(png::BitDepth::Eight);
    for (key, text) in png_texts(&bytes) {
        // tEXt holds Latin-1 only.
        if text.chars().all(|c| u32::from(c) < 256) {
            encoder.add_text_chunk(key, text).map_err(failed)?;
        } else {
            encoder.add_itxt_chunk(key, text).map_err(failed)?;
        }
    }
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(picture.as_raw()).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(out)
}

/// The texts of a PNG, in whichever chunk they are; none of what is not a PNG.
fn png_texts(bytes: &[u8]) -> Vec<(String, String)> {
    let Ok(mut reader) = png::Decoder::new(Cursor::new(bytes)).read_info() else { return Vec::new() };
    // Texts may stand behind the pixels.
    if reader.finish().is_err() {
        tracing::debug!("the original picture's end could not be read: texts behind its pixels are lost");
    }
    let info = reader.info();
    let latin = info.uncompressed_latin1_text.iter().map(|t| (t.keyword.clone(), t.text.clone()));
    let packed = info.compressed_latin1_text.iter().filter_map(|t| Some((t.keyword.clone(), t.get_text().ok()?)));
    let utf8 = info.utf8_text.iter().filter_map(|t| Some((t.keyword.clone(), t.get_text().ok()?)));
    latin.chain(packed).chain(utf8).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn sample(alpha: u8, text: &[(&str, &str)]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut encoder = png::Encoder::new(&mut out, 2, 1);
        encoder.set_color(png::ColorType::Rgba);
        for (key, value) in text {
            encoder.add_itxt_chunk((*key).into(), (*value).into()).unwrap();
        }
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(&[1, 2, 3, alpha, 4, 5, 6, alpha]).unwrap();
        writer.finish().unwrap();
        out
    }

    fn form(bytes: &[u8], overwrite: bool) -> Upload {
        Upload { file: Some(("a.png".into(), Bytes::copy_from_slice(bytes))), overwrite, ..Upload::default() }
    }

    fn folders(dir: &Path) -> Folders {
        Folders::new(comfyd_folders::Roots::under(dir)).unwrap()
    }

    #[test]
    fn the_same_bytes_keep_the_name_and_others_are_numbered() {
        let dir = tempfile::tempdir().unwrap();
        let folders = folders(dir.path());
        let put = |bytes: &[u8], overwrite| store(&folders, form(bytes, overwrite), Ok).unwrap().0["name"].clone();
        assert_eq!(put(b"1", false), "a.png");
        assert_eq!(put(b"1", false), "a.png");
        assert_eq!(put(b"2", false), "a (1).png");
        assert_eq!(put(b"2", false), "a (1).png");
        assert_eq!(put(b"3", false), "a (2).png");
        assert_eq!(put(b"4", true), "a.png");
        assert_eq!(std::fs::read(dir.path().join("input/a.png")).unwrap(), b"4");
        assert_eq!(std::fs::read_dir(dir.path().join("input")).unwrap().count(), 3);
    }

    #[test]
    fn a_mask_replaces_alpha_and_keeps_texts() {
        let dir = tempfile::tempdir().unwrap();
        let original = dir.path().join("o.png");
        std::fs::write(&original, sample(255, &[("prompt", "{}"), ("note", "日本")])).unwrap();
        let out = with_alpha_of(&original, &sample(7, &[])).unwrap();
        assert_eq!(decode(&out).unwrap().into_rgba8().into_raw(), [1, 2, 3, 7, 4, 5, 6, 7]);
        assert_eq!(png_texts(&out), [("prompt".to_owned(), "{}".to_owned()), ("note".to_owned(), "日本".to_owned())]);
    }

    #[test]
    fn names_stay_one_component() {
        assert_eq!(file_name("../../evil.png").unwrap(), "..%2F..%2Fevil.png");
        assert!(file_name("..").is_err());
        assert!(file_name("a\0.png").is_err());
        assert_eq!(numbered(".hidden", 1), ".hidden (1)");
        assert_eq!(numbered("a.tar.gz", 1), "a.tar (1).gz");
    }
}

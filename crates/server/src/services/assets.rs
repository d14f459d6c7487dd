//! Assets as clients get them, who sees which, and uploads on their way to their place.

use std::fs::File;
use std::io::{ErrorKind, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use comfyd_assets::{Asset, Assets, Hashed, New, Sees, Store, Viewer, canonical_hash, iso, shown, subfolder_tag};
use comfyd_folders::whole::{Replace, Unfinished};
use comfyd_folders::{Folders, Kind};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::answer::blocking;
use crate::app::App;
use crate::error::{ApiError, is_disk_full};
use crate::principal::Principal;

/// Longest ending that a stored file keeps, with its dot.
const MAX_ENDING: usize = 16;
/// What is written as percent codes in the query of an address.
const CODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// Of which kinds content can be shown as it is.
const SHOWN: [&str; 4] = ["image/", "video/", "audio/", "text/"];

/// An asset.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AssetInfo {
    id: String,
    name: String,
    /// `blake3:` and 64 digits, once the bytes were read.
    #[serde(skip_serializing_if = "Option::is_none")]
    hash: Option<String>,
    /// What loaders call it.
    #[serde(skip_serializing_if = "Option::is_none")]
    loader_path: Option<String>,
    /// Its path below the folder that it is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    display_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    asset_hash: Option<String>,
    /// Bytes.
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    mime_type: Option<String>,
    tags: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    preview_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    preview_id: Option<String>,
    #[schema(value_type = Object)]
    user_metadata: Map<String, Value>,
    is_immutable: bool,
    /// What its file says of itself.
    #[schema(value_type = Object)]
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Map<String, Value>>,
    /// The prompt that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    job_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_id: Option<String>,
    created_at: String,
    updated_at: String,
    last_access_time: String,
    /// Of an upload: whether its content is new.
    #[serde(skip_serializing_if = "Option::is_none")]
    created_new: Option<bool>,
}

/// The asset of an upload that came another way.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct UploadedAsset {
    id: String,
    name: String,
    #[schema(required)]
    asset_hash: Option<String>,
    size: u64,
    #[schema(required)]
    mime_type: Option<String>,
    tags: Vec<String>,
}

impl AssetInfo {
    pub(crate) fn new(folders: &Folders, asset: Asset, created_new: Option<bool>) -> Self {
        let shows_itself = || {
            let own = asset.path.as_ref().and_then(|path| comfyd_assets::mime_of(&path.file_name()?.to_string_lossy()));
            let mime = asset.mime.as_deref().or(own).unwrap_or_default().trim().to_ascii_lowercase();
            SHOWN.iter().any(|kind| mime.starts_with(kind))
        };
        let preview = match (&asset.preview_id, &asset.path) {
            (Some(_), _) => asset.preview_path.as_deref(),
            (None, Some(path)) if shows_itself() => Some(path.as_path()),
            (None, _) => None,
        };
        Self {
            preview_url: preview.and_then(|path| view_url(folders, path)),
            display_name: asset.path.as_ref().and_then(|path| shown(folders, path)).map(|(_, below)| below),
            loader_path: asset.loader_path.filter(|_| asset.path.is_some()),
            id: asset.id,
            name: asset.name,
            asset_hash: asset.hash.clone(),
            hash: asset.hash,
            size: asset.size,
            mime_type: asset.mime,
            tags: asset.tags,
            preview_id: asset.preview_id,
            user_metadata: asset.user_metadata,
            is_immutable: false,
            metadata: asset.system_metadata,
            prompt_id: asset.job.clone(),
            job_id: asset.job,
            created_at: iso(asset.created),
            updated_at: iso(asset.updated),
            last_access_time: iso(asset.accessed),
            created_new,
        }
    }
}

/// Where `/view` shows a file; it shows no models.
fn view_url(folders: &Folders, path: &Path) -> Option<String> {
    let (root, below) = shown(folders, path)?;
    Kind::parse(root)?;
    let (subfolder, name) = below.rsplit_once('/').unwrap_or(("", &below));
    let coded = |text| utf8_percent_encode(text, CODED).to_string();
    let mut url = format!("/api/view?type={root}&filename={}", coded(name));
    if !subfolder.is_empty() {
        url.push_str(&format!("&subfolder={}", coded(subfolder)));
    }
    Some(url)
}

/// What somebody gets to see.
pub(crate) fn viewer(principal: &Principal) -> Viewer {
    let sees = match principal {
        Principal::Anonymous => Sees::All,
        Principal::User(_) => Sees::Unowned,
        Principal::Keyed(_) if principal.only().is_none() => Sees::All,
        Principal::Keyed(_) => Sees::Shared,
    };
    Viewer { owner: principal.owner(), sees }
}

/// Takes a picture that was stored among the assets; what fails is told in the log only, since the picture is stored.
pub(crate) fn stored(app: &App, principal: &Principal, kind: Kind, subfolder: &str, name: &str) -> Option<UploadedAsset> {
    let assets = app.options.assets.as_ref()?;
    let take = || -> comfyd_assets::Result<Option<Asset>> {
        let path =
            app.folders.found(kind, &Path::new(subfolder).join(name)).map_err(|error| comfyd_assets::Error::Invalid(error.to_string()))?;
        let role = if kind == Kind::Output { kind } else { Kind::Input };
        let labels = [Some(role.as_str()), subfolder_tag(subfolder), Some("uploaded")];
        let tags = labels.into_iter().flatten().map(str::to_owned).collect();
        assets.store()?.register(&viewer(principal), &path, &New { name: name.to_owned(), tags, ..New::default() })
    };
    match take() {
        Ok(asset) => asset.map(|asset| UploadedAsset {
            id: asset.id,
            name: asset.name,
            asset_hash: asset.hash,
            size: asset.size,
            mime_type: asset.mime,
            tags: asset.tags,
        }),
        Err(error) => {
            tracing::warn!(%error, "an upload is not among the assets");
            None
        }
    }
}

/// The file with the content of a hash that is named in place of a file, and its name; `None` where no hash is.
pub(crate) async fn by_hash(app: &App, principal: &Principal, name: &str) -> Result<Option<(PathBuf, String)>, ApiError> {
    let (Some(hash), Some(assets)) = (canonical_hash(name), app.options.assets.clone()) else { return Ok(None) };
    let viewer = viewer(principal);
    let found = blocking(move || Ok(opened(&assets)?.by_hash(&viewer, &hash)?)).await?;
    let found = found.ok_or_else(|| ApiError::not_found("there is no file with content of that hash").details(name))?;
    // Its kind is told by an ending, which a given name may lack.
    let own = found.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name = if comfyd_assets::mime_of(&found.name).is_some() { found.name } else { own };
    Ok(Some((found.path, name)))
}

/// A file on its way to its place.
pub(crate) struct Incoming {
    file: Unfinished,
    hasher: blake3::Hasher,
    pub size: u64,
}

impl Incoming {
    /// Begins one in a folder, which is made.
    pub(crate) fn begin(folder: &Path) -> Result<Self, ApiError> {
        std::fs::create_dir_all(folder).and_then(|()| Unfinished::begin(folder)).map_err(unwritten).map(|file| Self {
            file,
            hasher: blake3::Hasher::new(),
            size: 0,
        })
    }

    /// Takes what came.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), ApiError> {
        self.file.file().write_all(bytes).map_err(unwritten)?;
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// What came, once all of it did.
    pub(crate) fn hashed(&self) -> Hashed {
        Hashed { hash: format!("blake3:{}", self.hasher.finalize().to_hex()), size: self.size }
    }

    /// Puts it into a folder, under the name that its content has and with the ending of the name that it came with.
    pub(crate) fn put(mut self, folder: &Path, called: &str) -> std::io::Result<PathBuf> {
        let place = folder.join(format!("{}{}", self.hasher.finalize().to_hex(), ending(called)));
        std::fs::create_dir_all(folder)?;
        match self.file.put(&place, Replace::Yes) {
            Err(error) if error.kind() == ErrorKind::CrossesDevices => {
                let mut copy = Unfinished::begin(folder)?;
                let from: &mut File = self.file.file();
                from.rewind()?;
                std::io::copy(from, copy.file())?;
                copy.put(&place, Replace::Yes)?;
            }
            put => drop(put?),
        }
        Ok(place)
    }
}

/// The ending of a name with its dot, where it is a plain one.
fn ending(name: &str) -> &str {
    let plain = |ending: &&str| {
        ending.len() <= MAX_ENDING && ending.bytes().skip(1).all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
    };
    match name.rfind('.') {
        Some(dot) if dot > 0 && dot + 1 < name.len() => Some(&name[dot..]).filter(plain).unwrap_or_default(),
        _ => "",
    }
}

fn unwritten(error: std::io::Error) -> ApiError {
    if is_disk_full(&error) { ApiError::disk_full() } else { ApiError::internal(format!("the upload cannot be stored: {error}")) }
}

/// The last part of a name; `other` where there is none.
pub(crate) fn base_name<'a>(name: &'a str, other: &'a str) -> &'a str {
    let last = name.trim().rsplit('/').next().unwrap_or_default();
    if last.is_empty() { other } else { last }
}

/// The assets and their database. Waits until that is open: not for threads that serve requests.
pub(crate) fn opened(assets: &Arc<Assets>) -> Result<Arc<Store>, ApiError> {
    Ok(assets.store()?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use comfyd_folders::Roots;

    use super::*;

    #[test]
    fn a_stored_file_keeps_a_plain_ending() {
        for (name, wanted) in [
            ("a.safetensors", ".safetensors"),
            ("a.tar.gz", ".gz"),
            (".png", ""),
            ("a.", ""),
            ("a", ""),
            ("a.b/c", ""),
            ("a.p\u{0}g", ""),
            ("a.longer-than-sixteen", ""),
        ] {
            assert_eq!(ending(name), wanted, "{name}");
        }
        assert_eq!((base_name(" x/y.png ", "z"), base_name("x/", "z"), base_name("", "z")), ("y.png", "z", "z"));
    }

    #[test]
    fn a_file_is_shown_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let folders = Folders::new(Roots::under(dir.path())).unwrap();
        for (path, url) in [
            ("output/a b.png", Some("/api/view?type=output&filename=a%20b.png")),
            ("input/x/y&z/a.png", Some("/api/view?type=input&filename=a.png&subfolder=x%2Fy%26z")),
            ("temp/p.png", Some("/api/view?type=temp&filename=p.png")),
            ("models/vae/v.safetensors", None),
            ("else/a.png", None),
        ] {
            assert_eq!(view_url(&folders, &dir.path().join(path)).as_deref(), url, "{path}");
        }
    }

    #[test]
    fn an_upload_is_whole_or_not_there_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let mut given_up = Incoming::begin(&dir.path().join("a")).unwrap();
        given_up.write(b"half").unwrap();
        drop(given_up);
        let mut incoming = Incoming::begin(&dir.path().join("a")).unwrap();
        incoming.write(b"").unwrap();
        let hashed = incoming.hashed();
        let place = incoming.put(&dir.path().join("b"), "x.bin").unwrap();
        assert_eq!(place.file_name().unwrap().to_str().unwrap(), format!("{}.bin", &hashed.hash["blake3:".len()..]));
        assert!(place.is_file() && std::fs::read_dir(dir.path().join("a")).unwrap().next().is_none());
    }
}

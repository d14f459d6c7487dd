//! The server's settings. Every bound of the HTTP side is here. Does not know where they come from.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use comfyd_assets::Assets;
use comfyd_graph::Placing;
use comfyd_node::Replacements;
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::audit::Audit;
use crate::keys::Keys;
use crate::origins::{HostRule, OriginRule};

/// In which of two shapes answers come where the API document and ComfyUI's wire differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ApiShape {
    /// What ComfyUI's clients parse, enriched with the document's fields.
    #[default]
    Wire,
    /// The document's literal shape.
    Documented,
}

/// Which page `/` serves.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum FrontEnd {
    /// The official front end's folder (the one that holds `index.html`).
    Folder(PathBuf),
    /// The small page that comes with the server.
    #[default]
    Builtin,
    /// No page: the API alone.
    None,
}

/// What each user may have at most; `None` is no bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quotas {
    /// Prompts that it sends in one minute.
    pub prompts_per_minute: Option<u32>,
    /// Bytes of its files.
    pub disk_bytes: Option<u64>,
    /// Pixels that one prompt asks for, as far as its graph says so with plain numbers.
    pub prompt_pixels: Option<u64>,
}

/// The versions of the packages of pages that go with the program.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequiredVersions {
    /// The front end.
    pub front_end: String,
    /// The workflow templates.
    pub templates: String,
    /// The help of nodes.
    pub docs: String,
}

/// The server's settings. Every bound of the HTTP side is here.
#[derive(Clone)]
pub struct Options {
    /// Default shape of answers.
    pub shape: ApiShape,
    /// Page to serve.
    pub front_end: FrontEnd,
    /// Addresses that the server listens on; their hosts are its own.
    pub listen: Vec<IpAddr>,
    /// Further hosts that it answers to.
    pub allow_hosts: Vec<HostRule>,
    /// Origins whose pages may ask, besides its own.
    pub allow_origins: Vec<OriginRule>,
    /// Who may ask at all.
    pub keys: Arc<Keys>,
    /// Whether it answers over TLS itself.
    pub tls: bool,
    /// Proxies whose word is taken for who asks (`X-Forwarded-For`) and how (`X-Forwarded-Proto`).
    pub trusted_proxies: Vec<IpAddr>,
    /// Where it is written down what was changed, and who tried to get in.
    pub audit: Option<Arc<Audit>>,
    /// What is known of files, where that is wanted.
    pub assets: Option<Arc<Assets>>,
    /// What each user may have, where users are told apart.
    pub quotas: Quotas,
    /// Largest request body, in bytes.
    pub max_upload_bytes: usize,
    /// Connections at once; three quarters of them may be websockets.
    pub max_connections: usize,
    /// Memory that bodies, and pictures and answers in work, take together, in bytes; at least eight bodies' of the largest size.
    pub request_memory_bytes: usize,
    /// Whether prompts are told what they need, for workers that are not all alike.
    pub tells_needs: bool,
    /// Several users, told apart by the `comfy-user` header.
    pub multi_user: bool,
    /// Longer side of previews, in pixels, unless the node says otherwise.
    pub preview_size: u32,
    /// Messages that may wait for one websocket client before previews are dropped and then the client.
    pub ws_queue: usize,
    /// Whether nothing is downloaded.
    pub offline: bool,
    /// Hosts that models may be downloaded from.
    pub download_hosts: Vec<String>,
    /// Names in `extra_data` whose values stay in memory.
    pub secret_names: Vec<String>,
    /// How long a route of a custom node pack may take until its answer begins.
    pub python_timeout: Duration,
    /// Where nodes run whose class several processes have.
    pub placing: Placing,
    /// What stands in for classes that there are not any more.
    pub replacements: Replacements,
    /// What `/features` says besides what the server itself can do.
    pub feature_flags: Map<String, Value>,
    /// The command line, for `/system_stats`.
    pub argv: Vec<String>,
    /// The version of ComfyUI whose API is spoken.
    pub api_version: String,
    /// The versions of the front end and of the packages beside it that go with this program.
    pub required_versions: RequiredVersions,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            shape: ApiShape::Wire,
            front_end: FrontEnd::Builtin,
            listen: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
            allow_hosts: Vec::new(),
            allow_origins: Vec::new(),
            keys: Arc::default(),
            tls: false,
            trusted_proxies: Vec::new(),
            audit: None,
            assets: None,
            quotas: Quotas::default(),
            max_upload_bytes: 100 * 1024 * 1024,
            max_connections: 4096,
            request_memory_bytes: 1 << 30,
            tells_needs: false,
            multi_user: false,
            preview_size: 512,
            ws_queue: 512,
            offline: false,
            download_hosts: vec!["huggingface.co".into(), "civitai.com".into()],
            secret_names: comfyd_jobs::secrets::NAMES.map(str::to_owned).into(),
            python_timeout: Duration::from_secs(300),
            placing: Placing::default(),
            replacements: Replacements::default(),
            feature_flags: Map::new(),
            argv: Vec::new(),
            api_version: "0.33.0".into(),
            required_versions: RequiredVersions::default(),
        }
    }
}

/// What the server can do, for `/features` and the websocket's handshake.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Features {
    supports_preview_metadata: bool,
    supports_raw_previews: bool,
    supports_model_type_tags: bool,
    /// Bytes.
    max_upload_size: usize,
    /// What extensions of the front end ask for.
    #[schema(value_type = Object)]
    extension: Value,
    node_replacements: bool,
    /// Whether the calls about assets are served.
    assets: bool,
    /// What `--feature-flag` says.
    #[serde(flatten)]
    #[schema(ignore)]
    more: Map<String, Value>,
}

impl Options {
    /// What the server can do.
    pub(crate) fn features(&self) -> Features {
        let mut features = Features {
            supports_preview_metadata: true,
            supports_raw_previews: true,
            supports_model_type_tags: true,
            max_upload_size: self.max_upload_bytes,
            extension: json!({"manager": {"supports_v4": true}}),
            node_replacements: true,
            assets: self.assets.is_some(),
            more: Map::new(),
        };
        let own = serde_json::to_value(&features).unwrap_or_default();
        // What the server says of itself is not for others to say.
        let more = self.feature_flags.iter().filter(|(name, _)| own.get(name.as_str()).is_none());
        features.more = more.map(|(name, value)| (name.clone(), value.clone())).collect();
        features
    }
}

//! Hosts and origins: the rules that options name them by, and how requests spell them. Does not know what follows from either.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use url::{Host, Url};

/// A host that the server answers to, besides localhost and the addresses that it listens on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostRule {
    /// Every host.
    Any,
    /// This name or address.
    One(Host<String>),
    /// Every name below this one.
    Below(String),
}

impl FromStr for HostRule {
    type Err = String;

    /// Reads `*`, a name, an IP address or `*.name`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a host; write a name or an address without scheme and port, *.name, or * for all");
        if text == "*" {
            return Ok(Self::Any);
        }
        let (below, name) = text.strip_prefix("*.").map_or((false, text), |name| (true, name));
        let host = match name.parse::<IpAddr>() {
            Ok(IpAddr::V6(ip)) => normal(Host::Ipv6(ip)),
            Ok(IpAddr::V4(_)) | Err(_) => normal(Host::parse(name.strip_suffix('.').unwrap_or(name)).map_err(|_| wrong())?),
        };
        match (below, host) {
            (_, Host::Domain(name)) if name.contains('*') => Err(wrong()),
            (false, host) => Ok(Self::One(host)),
            (true, Host::Domain(name)) => Ok(Self::Below(name)),
            (true, Host::Ipv4(_) | Host::Ipv6(_)) => Err(wrong()),
        }
    }
}

impl HostRule {
    pub(crate) fn fits(&self, host: &Host<String>) -> bool {
        match (self, host) {
            (Self::Any, _) => true,
            (Self::One(known), host) => known == host,
            (Self::Below(parent), Host::Domain(name)) => name.strip_suffix(parent.as_str()).is_some_and(|rest| rest.ends_with('.')),
            (Self::Below(_), Host::Ipv4(_) | Host::Ipv6(_)) => false,
        }
    }
}

/// An origin whose pages may ask, besides the server's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginRule {
    /// Every origin; the host does not matter either then.
    Any,
    /// This one.
    One(Origin),
}

impl FromStr for OriginRule {
    type Err = String;

    /// Reads `*`, `null`, or a scheme with a host: `http://localhost:5173`, `file://`.
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let wrong = || format!("`{text}` is not an origin; write one such as http://localhost:5173, file://, null, or * for all");
        Origin::parse(text).map(Self::One).ok_or_else(wrong)
    }
}

/// Where a page comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// From nowhere that could be named: a sandboxed frame, a `data:` address, a file in most browsers.
    Null,
    /// From a server, or with a scheme of an application.
    Page {
        /// Without the colon; `ws` counts as `http`.
        scheme: String,
        /// `file://` has none.
        host: Option<Host<String>>,
        /// Given, or the scheme's.
        port: Option<u16>,
    },
}

impl Origin {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if text == "null" {
            return Some(Self::Null);
        }
        // The parser of addresses would take some of what is left out here for granted.
        let url = Url::parse(text).ok().filter(|_| text.bytes().all(|b| b.is_ascii_graphic()))?;
        let bare = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
        let nobody = url.username().is_empty() && url.password().is_none();
        (bare && nobody && text.contains("//")).then(|| Self::of(&url))
    }

    pub(crate) fn of(url: &Url) -> Self {
        let scheme = match url.scheme() {
            "ws" => "http",
            "wss" => "https",
            other => other,
        };
        Self::Page { scheme: scheme.to_owned(), host: url.host().map(|host| normal(host.to_owned())), port: url.port_or_known_default() }
    }

    /// Whether its pages are no server's.
    pub(crate) fn is_nowhere(&self) -> bool {
        matches!(self, Self::Null | Self::Page { host: None, .. })
    }

    /// Whether this is the server that was asked. Its own scheme is not known where a proxy ends TLS, so that a host without a port has
    /// the port of the page's scheme.
    pub(crate) fn is_at(&self, asked: &Authority) -> bool {
        match self {
            Self::Page { scheme, host: Some(host), port } => {
                let default = if scheme == "https" { 443 } else { 80 };
                ["http", "https"].contains(&scheme.as_str()) && *host == asked.host && *port == Some(asked.port.unwrap_or(default))
            }
            Self::Page { host: None, .. } | Self::Null => false,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Page { scheme, host, port } = self else { return f.write_str("null") };
        write!(f, "{scheme}://")?;
        if let Some(host) = host {
            write!(f, "{host}")?;
        }
        match (scheme.as_str(), port) {
            (_, None) | ("http", Some(80)) | ("https", Some(443)) => Ok(()),
            (_, Some(port)) => write!(f, ":{port}"),
        }
    }
}

/// What a request says whom it asks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Authority {
    pub host: Host<String>,
    port: Option<u16>,
}

impl Authority {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        // Addresses may hold more than this, such as a user's name or percent codes; a Host header may not.
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b)) {
            return None;
        }
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => (name, port),
            Some(_) | None => (text, ""),
        };
        let host = normal(Host::parse(name.strip_suffix('.').unwrap_or(name)).ok()?);
        let port = if port.is_empty() { None } else { Some(port.parse().ok()?) };
        Some(Self { host, port })
    }
}

/// One spelling for each host: that of addresses is the parser's work already.
pub(crate) fn normal(host: Host<String>) -> Host<String> {
    match host {
        Host::Domain(name) => Host::Domain(name.strip_suffix('.').unwrap_or(&name).to_ascii_lowercase()),
        Host::Ipv6(ip) => ip.to_ipv4_mapped().map_or(Host::Ipv6(ip), Host::Ipv4),
        Host::Ipv4(ip) => Host::Ipv4(ip),
    }
}

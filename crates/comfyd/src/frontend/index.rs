//! Finds a wheel on a Python package index: PEP 691's JSON, or PEP 503's HTML where an index has only that. Holds pip's settings as far
//! as they matter for that. Knows neither the package nor what is done with the file.

use std::path::PathBuf;

use reqwest::Url;
use serde::Deserialize;

use super::{Clients, Error, Result, get, public};

const PYPI: &str = "https://pypi.org/simple";

/// Largest list of files, in bytes. The front end's has half a megabyte.
const MAX_INDEX_BYTES: u64 = 32 << 20;

/// Largest settings file of pip's, in bytes.
const MAX_SETTINGS_BYTES: u64 = 1 << 20;

const JSON: &str = "application/vnd.pypi.simple.v1+json";
const ACCEPT: &str = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1";

/// A wheel on an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wheel {
    /// The file's name.
    pub file: String,
    /// The version in the name.
    pub version: String,
    /// Where it is.
    pub url: Url,
    /// Its SHA-256 in lower-case hexadecimal, if the index states one.
    pub sha256: Option<String>,
}

/// What pip's settings say about the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipSettings {
    /// The indexes, in the order in which they are asked; at least one.
    pub indexes: Vec<String>,
    /// Further certificate authorities: who names the file, and the file.
    pub certificates: Option<(String, PathBuf)>,
    /// Hosts, or hosts with a port, whose certificates are not checked.
    pub trusted_hosts: Vec<String>,
    /// The proxy for all requests; without it, those of the usual variables.
    pub proxy: Option<String>,
}

impl PipSettings {
    /// Reads the variables with `variable`, and pip's files where they leave something open. The variables go first, then the file that
    /// `PIP_CONFIG_FILE` names, the user's and the machine's.
    pub fn read(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let home = variable("HOME").map(PathBuf::from);
        let user = variable("XDG_CONFIG_HOME").map(PathBuf::from).or_else(|| home.as_ref().map(|home| home.join(".config")));
        let files = [
            variable("PIP_CONFIG_FILE").map(PathBuf::from),
            user.map(|folder| folder.join("pip/pip.conf")),
            home.map(|home| home.join(".pip/pip.conf")),
            Some("/etc/pip.conf".into()),
        ];
        let mut texts = Vec::new();
        for path in files.into_iter().flatten() {
            match std::fs::metadata(&path) {
                Ok(about) if about.is_file() && about.len() <= MAX_SETTINGS_BYTES => {
                    let text = std::fs::read_to_string(&path).map_err(|source| Error::File { path: path.clone(), source })?;
                    texts.push((path, text));
                }
                // Pip, too, passes over files that are not there, such as /dev/null.
                Ok(_) | Err(_) => {}
            }
        }
        Ok(Self::from(variable, &texts))
    }

    fn from(variable: &dyn Fn(&str) -> Option<String>, files: &[(PathBuf, String)]) -> Self {
        let setting = |name: &str, key: &str| {
            let from_env = variable(name).map(|value| (name.to_owned(), value));
            from_env.or_else(|| files.iter().find_map(|(path, text)| Some((format!("{}, {key}", path.display()), pip_key(text, key)?))))
        };
        let mut indexes = vec![setting("PIP_INDEX_URL", "index-url").map_or_else(|| PYPI.to_owned(), |(_, url)| url)];
        if let Some((_, extra)) = setting("PIP_EXTRA_INDEX_URL", "extra-index-url") {
            indexes.extend(extra.split_whitespace().map(str::to_owned));
        }
        let bundle = |name: &str| variable(name).map(|value| (name.to_owned(), value));
        let certificates = setting("PIP_CERT", "cert").or_else(|| bundle("REQUESTS_CA_BUNDLE")).or_else(|| bundle("SSL_CERT_FILE"));
        let trusted = setting("PIP_TRUSTED_HOST", "trusted-host").map(|(_, hosts)| hosts).unwrap_or_default();
        Self {
            indexes,
            certificates: certificates.map(|(origin, path)| (origin, path.into())),
            trusted_hosts: trusted.split_whitespace().map(str::to_ascii_lowercase).collect(),
            proxy: setting("PIP_PROXY", "proxy").map(|(_, proxy)| proxy),
        }
    }

    /// Whether the certificate of this address's host need not be valid.
    pub fn trusts(&self, url: &Url) -> bool {
        trusted(&self.trusted_hosts, url)
    }
}

/// Whether a list of hosts, with or without a port, names this address's host.
pub(super) fn trusted(hosts: &[String], url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().to_ascii_lowercase();
    let with_port = format!("{host}:{}", url.port_or_known_default().unwrap_or_default());
    hosts.iter().any(|known| *known == host || *known == with_port)
}

/// The value of a key in the sections of a pip.conf that `pip download` and `pip install` share: `[global]`, `[install]`, `[download]`.
/// Lines that are indented continue the value above.
fn pip_key(text: &str, key: &str) -> Option<String> {
    let mut relevant = false;
    let mut found: Option<String> = None;
    let mut continues = false;
    for line in text.lines() {
        let bare = line.trim();
        if bare.is_empty() || bare.starts_with(['#', ';']) {
            continue;
        }
        if line.starts_with([' ', '\t']) && !bare.starts_with('[') {
            if let Some(value) = found.as_mut().filter(|_| continues) {
                value.push(' ');
                value.push_str(bare);
            }
            continue;
        }
        continues = false;
        if let Some(section) = bare.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            relevant = ["global", "install", "download"].contains(&section.trim());
        } else if let Some((name, value)) = bare.split_once(['=', ':'])
            && relevant
            && name.trim().replace('_', "-") == key
        {
            found = Some(value.trim().to_owned());
            continues = true;
        }
    }
    found.map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

/// Finds the wheel of a version, or of the newest release for `latest`, on the first index that has it.
pub async fn find(clients: &Clients, settings: &PipSettings, package: &str, version: &str) -> Result<Wheel> {
    let mut known: Vec<Wheel> = Vec::new();
    let mut failure = None;
    for index in &settings.indexes {
        let url = format!("{}/{package}/", index.trim_end_matches('/'));
        let url = Url::parse(&url).map_err(|error| Error::Setting { setting: "pip's index-url".into(), message: error.to_string() })?;
        let asked = url.clone();
        let listed = match get(clients, url, ACCEPT, MAX_INDEX_BYTES, &|_, _| {}).await {
            Ok(answer) if answer.content_type == JSON => parse_json(&answer.bytes, &with_credentials(answer.url, &asked), package),
            Ok(answer) => Ok(parse_html(&String::from_utf8_lossy(&answer.bytes), &with_credentials(answer.url, &asked), package)),
            Err(error) => Err(error),
        };
        match listed {
            Ok(wheels) => known.extend(wheels),
            Err(error) => failure = failure.or(Some(error)),
        }
        if let Some(wheel) = choose(&known, version) {
            return Ok(wheel.clone());
        }
    }
    if let Some(error) = failure {
        return Err(error);
    }
    known.sort_by_cached_key(|wheel| std::cmp::Reverse(order(&wheel.version)));
    known.dedup_by(|a, b| a.version == b.version);
    let newest: Vec<&str> = known.iter().take(8).map(|wheel| wheel.version.as_str()).collect();
    Err(Error::NoVersion { version: version.into(), known: if newest.is_empty() { "none".into() } else { newest.join(", ") } })
}

/// The address that answered, with the user name and password of the one that was asked if both are on the same server: the HTTP client
/// takes them out, and relative links of a private index need them.
fn with_credentials(mut answered: Url, asked: &Url) -> Url {
    if answered.origin() == asked.origin() {
        // Both fail only for addresses that can hold neither.
        let _ = answered.set_username(asked.username());
        let _ = answered.set_password(asked.password());
    }
    answered
}

pub(super) fn choose<'a>(wheels: &'a [Wheel], version: &str) -> Option<&'a Wheel> {
    if version != "latest" {
        return wheels.iter().find(|wheel| wheel.version == version);
    }
    let release = |wheel: &&Wheel| wheel.version.chars().all(|c| c.is_ascii_digit() || c == '.');
    wheels.iter().filter(release).max_by_key(|wheel| order(&wheel.version))
}

/// The numbers in a version, for comparing.
pub fn order(version: &str) -> Vec<u64> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

/// Whether the text is a version, and so a safe name of a folder.
pub fn is_version(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit())
        && text.len() <= 40
        && text.chars().all(|c| c.is_ascii_alphanumeric() || ".+-".contains(c))
}

/// A wheel for every platform of this package; `None` for other files.
fn wheel(file: &str, address: &str, base: &Url, package: &str, sha256: Option<&str>) -> Option<Wheel> {
    let version = file.strip_suffix("-py3-none-any.whl")?.strip_prefix(&package.replace('-', "_"))?.strip_prefix('-')?;
    let mut url = base.join(address).ok().filter(|url| ["http", "https"].contains(&url.scheme()))?;
    url.set_fragment(None);
    let sha256 = sha256.map(str::to_ascii_lowercase).filter(|hash| hash.len() == 64 && hash.chars().all(|c| c.is_ascii_hexdigit()));
    is_version(version).then(|| Wheel { file: file.into(), version: version.into(), url, sha256 })
}

pub(super) fn parse_json(bytes: &[u8], base: &Url, package: &str) -> Result<Vec<Wheel>> {
    #[derive(Deserialize)]
    struct Listing {
        files: Vec<File>,
    }
    #[derive(Deserialize)]
    struct File {
        filename: String,
        url: String,
        #[serde(default)]
        hashes: std::collections::HashMap<String, String>,
        #[serde(default)]
        yanked: serde_json::Value,
    }
    let listing: Listing = serde_json::from_slice(bytes).map_err(|error| Error::Index { url: public(base), message: error.to_string() })?;
    // `yanked` is false, true, or the reason as a text.
    let usable = listing.files.iter().filter(|file| matches!(file.yanked, serde_json::Value::Null | serde_json::Value::Bool(false)));
    Ok(usable.filter_map(|file| wheel(&file.filename, &file.url, base, package, file.hashes.get("sha256").map(String::as_str))).collect())
}

/// Reads the links of PEP 503: the text is the file's name, the address's fragment its hash.
pub(super) fn parse_html(page: &str, base: &Url, package: &str) -> Vec<Wheel> {
    let mut wheels = Vec::new();
    for link in page.split("<a ").skip(1) {
        let Some((attributes, rest)) = link.split_once('>') else { continue };
        let Some((file, _)) = rest.split_once("</a") else { continue };
        let Some(address) = attribute(attributes, "href").filter(|_| !attributes.contains("data-yanked")) else { continue };
        let address = address.replace("&amp;", "&");
        let sha256 = address.split_once('#').and_then(|(_, fragment)| fragment.split('&').find_map(|part| part.strip_prefix("sha256=")));
        wheels.extend(wheel(file.trim(), &address, base, package, sha256));
    }
    wheels
}

fn attribute<'a>(attributes: &'a str, name: &str) -> Option<&'a str> {
    ['"', '\''].into_iter().find_map(|quote| {
        let (_, rest) = attributes.split_once(&format!("{name}={quote}"))?;
        rest.split_once(quote).map(|(value, _)| value)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn variables_go_before_files_and_files_before_defaults() {
        let files = [
            ("/a/pip.conf".into(), "[global]\nindex-url = https://a/simple\n[list]\ncert = /wrong\n".to_owned()),
            (
                "/b/pip.conf".into(),
                "# x\n[install]\nindex_url: https://b\n[global]\ncert=/b.pem\nextra-index-url =\n  https://c\n  https://d\n".into(),
            ),
        ];
        let none = PipSettings::from(&|_| None, &[]);
        assert_eq!(none, PipSettings { indexes: vec![PYPI.into()], certificates: None, trusted_hosts: Vec::new(), proxy: None });
        let from_files = PipSettings::from(&|_| None, &files);
        assert_eq!(from_files.indexes, ["https://a/simple", "https://c", "https://d"]);
        assert_eq!(from_files.certificates, Some(("/b/pip.conf, cert".into(), "/b.pem".into())));
        let env = |name: &str| match name {
            "PIP_INDEX_URL" => Some("https://e".to_owned()),
            "SSL_CERT_FILE" => Some("/e.pem".to_owned()),
            _ => None,
        };
        assert_eq!(PipSettings::from(&env, &[]).indexes, ["https://e"]);
        assert_eq!(PipSettings::from(&env, &[]).certificates, Some(("SSL_CERT_FILE".into(), "/e.pem".into())));
        assert_eq!(PipSettings::from(&env, &files).certificates.unwrap().1, PathBuf::from("/b.pem"));
    }

    #[test]
    fn trusted_hosts_are_matched_with_and_without_port() {
        let files = [("/a/pip.conf".into(), "[global]\ntrusted-host =\n  Mirror.local\n  other:8443\nproxy = http://p:1\n".to_owned())];
        let settings = PipSettings::from(&|_| None, &files);
        let trusts = |url: &str| settings.trusts(&Url::parse(url).unwrap());
        assert!(trusts("https://mirror.local/simple") && trusts("https://mirror.local:99/x") && trusts("https://other:8443/"));
        assert!(!trusts("https://other/") && !trusts("https://a.mirror.local/"));
        assert_eq!(settings.proxy.as_deref(), Some("http://p:1"));
        let env = |name: &str| (name == "PIP_TRUSTED_HOST").then(|| "a b".to_owned());
        assert_eq!(PipSettings::from(&env, &files).trusted_hosts, ["a", "b"]);
    }

    #[test]
    fn credentials_stay_on_their_server() {
        let asked = Url::parse("https://user:word@i/simple/a/").unwrap();
        let here = with_credentials(Url::parse("https://i/simple/a/").unwrap(), &asked);
        assert_eq!(here.join("../../f.whl").unwrap().as_str(), "https://user:word@i/f.whl");
        let elsewhere = with_credentials(Url::parse("https://j/simple/a/").unwrap(), &asked);
        assert_eq!(elsewhere.as_str(), "https://j/simple/a/");
    }

    #[test]
    fn json_and_html_lists_say_the_same() {
        let base = Url::parse("https://i/simple/a-b/").unwrap();
        let hash = "AB".repeat(32);
        let json = format!(
            r#"{{"files": [{{"filename": "a_b-1.9.0-py3-none-any.whl", "url": "../../f/a_b-1.9.0-py3-none-any.whl", "hashes": {{"sha256": "{hash}"}}}},
            {{"filename": "a_b-1.10.0-py3-none-any.whl", "url": "https://f/x.whl", "hashes": {{}}, "yanked": false}},
            {{"filename": "a_b-2.0.0rc1-py3-none-any.whl", "url": "https://f/y.whl"}},
            {{"filename": "a_b-3.0.0-py3-none-any.whl", "url": "https://f/z.whl", "yanked": "broken"}},
            {{"filename": "a_b-4.0.0-py3-none-any.whl", "url": "file:///etc/passwd"}},
            {{"filename": "a_b-1.9.0.tar.gz", "url": "https://f/s"}}]}}"#
        );
        let html = format!(
            "<html><a href=\"../../f/a_b-1.9.0-py3-none-any.whl#sha256={hash}\" data-requires-python=\"&gt;=3\">a_b-1.9.0-py3-none-any.whl</a>\n\
             <a rel='x' href='https://f/x.whl'>a_b-1.10.0-py3-none-any.whl</a> <a href=\"https://f/y.whl\">a_b-2.0.0rc1-py3-none-any.whl</a>\
             <a href=\"https://f/z.whl\" data-yanked=\"\">a_b-3.0.0-py3-none-any.whl</a><a href=\"https://f/s\">a_b-1.9.0.tar.gz</a>"
        );
        let wheels = parse_json(json.as_bytes(), &base, "a-b").unwrap();
        assert_eq!(wheels, parse_html(&html, &base, "a-b"));
        assert_eq!(wheels.iter().map(|w| w.version.as_str()).collect::<Vec<_>>(), ["1.9.0", "1.10.0", "2.0.0rc1"]);
        assert_eq!(wheels[0].url.as_str(), "https://i/f/a_b-1.9.0-py3-none-any.whl");
        assert_eq!(wheels[0].sha256.as_deref(), Some("ab".repeat(32).as_str()));
        assert_eq!(choose(&wheels, "latest").unwrap().version, "1.10.0");
        assert_eq!(choose(&wheels, "2.0.0rc1").unwrap().version, "2.0.0rc1");
        assert_eq!(choose(&wheels, "3.0.0"), None);
        assert!(matches!(parse_json(b"<html>", &base, "a-b"), Err(Error::Index { .. })));
    }
}

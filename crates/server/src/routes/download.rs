//! `/internal/models/download`: fetches a model file from an allowed host into a model folder. What a client asks for never makes the
//! server talk to its own network: each address is checked after its name was looked up, and that address is the one connected to.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use comfyd_folders::whole::rename_new;
use comfyd_folders::{extension, join_inside};
use futures_util::StreamExt;
use parking_lot::Mutex;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_RANGE, ETAG, IF_RANGE, LOCATION, RANGE};
use reqwest::{Client, Response, StatusCode, Url};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::error::is_disk_full;
use crate::json::{LenientJson, number};
use crate::openapi::{Doc, Table};
use crate::{ApiError, App};

/// Redirects that are followed.
const MAX_REDIRECTS: usize = 5;
/// Downloads at once, and at once from one host.
const MAX_DOWNLOADS: usize = 16;
const MAX_PER_HOST: usize = 8;
/// Disk space that is left free, in bytes; on small file systems less, this part of them.
const DISK_RESERVE: u64 = 256 * 1024 * 1024;
const RESERVED_PART: u64 = 10;
/// How often the space is looked at again, in bytes: others write too.
const MEASURE_EVERY: u64 = 8 * 1024 * 1024;
/// Longest safetensors header that is believed, in bytes; also the format's own bound.
const MAX_HEADER: u64 = 100_000_000;

/// Targets that are being written, so that no two requests write one file, and the hosts that they come from.
type Active = Mutex<BTreeMap<PathBuf, String>>;

static ACTIVE: Active = Active::new(BTreeMap::new());

/// The routes of this module.
pub(super) fn routes() -> Table {
    Table::default().post(
        "/internal/models/download",
        download,
        Doc::new("models", "Fetches a model file from an allowed host into a model folder.").body("DownloadRequest").json("Downloaded"),
    )
}

/// A refusal or failure, as a sentence for the client.
type Failure = String;

/// Ends when the client closes its connection: what came is gone on with by the next request, if the host says what it belongs to.
async fn download(State(app): State<App>, LenientJson(body): LenientJson) -> Result<Json<Value>, ApiError> {
    answer(&app, &Policy::public(app.options.download_hosts.clone()), &body).await.map(Json)
}

pub(crate) async fn answer(app: &App, policy: &Policy, body: &Value) -> Result<Value, ApiError> {
    let text = |key: &str| {
        let value = body.get(key).and_then(Value::as_str).filter(|v| !v.is_empty());
        value.ok_or_else(|| ApiError::bad_request(format!("'{key}' is missing: it must be a text")))
    };
    let (url, folder, name) = (text("url")?, text("model_directory")?, text("model_filename")?);
    let interval = body.get("progress_interval").and_then(number).unwrap_or(1.0).clamp(0.1, 3600.0);
    let report = |progress: Progress| app.hub.broadcast("download_progress", &progress.to_json(name));
    let done = match target(app, folder, name) {
        Ok(target) => fetch(policy, url, &target, Duration::from_secs_f64(interval), &report).await.map(|()| target),
        Err(failure) => Err(failure),
    };
    Ok(match done {
        Ok(path) => json!({"status": "success", "message": format!("{name} was downloaded"), "download_path": path}),
        Err(failure) => {
            tracing::warn!(url, "a model was not downloaded: {failure}");
            json!({"status": "error", "message": failure, "download_path": ""})
        }
    })
}

/// Where a model is put: the first path of its folder.
fn target(app: &App, folder: &str, name: &str) -> Result<PathBuf, Failure> {
    if !matches!(extension(name).as_str(), ".safetensors" | ".sft") {
        return Err("the file's name must end in .safetensors or .sft: other formats can run code when they are read".into());
    }
    if name.chars().any(|c| c.is_control() || c == '\\') || name.split('/').any(|part| part.starts_with('.')) {
        return Err("the file's name must not have control characters, backslashes or parts that start with a dot".into());
    }
    let root = app.folders.model_paths(folder).and_then(<[PathBuf]>::first);
    let root = root.filter(|_| folder != "custom_nodes").ok_or_else(|| format!("there is no model folder '{folder}': see /models"))?;
    join_inside(root, Path::new(name)).map_err(|e| e.to_string())
}

/// What one download may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Looking the host's name up, and connecting, each.
    connect: Duration,
    /// The longest silence of the host.
    idle: Duration,
    /// All of it.
    total: Duration,
    /// In each such time at least so many bytes must come.
    pace: (Duration, u64),
    /// Bytes of the file.
    bytes: u64,
}

const BOUNDS: Bounds = Bounds {
    connect: Duration::from_secs(15),
    idle: Duration::from_secs(60),
    total: Duration::from_secs(24 * 3600),
    pace: (Duration::from_secs(60), 256 * 1024),
    bytes: 256 << 30,
};

/// What may be connected to, and for how long.
pub(crate) struct Policy {
    hosts: Vec<String>,
    https_only: bool,
    allowed: fn(IpAddr) -> bool,
    bounds: Bounds,
    active: &'static Active,
}

impl Policy {
    fn public(hosts: Vec<String>) -> Self {
        Self { hosts, https_only: true, allowed: is_public, bounds: BOUNDS, active: &ACTIVE }
    }

    /// Files of this machine, for tests.
    #[cfg(test)]
    pub(crate) fn local() -> Self {
        let allowed = |ip: IpAddr| ip == IpAddr::from([127, 0, 0, 1]) || ip == IpAddr::from(Ipv6Addr::LOCALHOST);
        Self {
            hosts: vec!["localhost".into(), "127.0.0.1".into()],
            https_only: false,
            allowed,
            bounds: BOUNDS,
            active: Box::leak(Box::default()),
        }
    }

    /// Fails unless the host of an address that a client gave is allowed.
    fn check_host(&self, url: &Url) -> Result<(), Failure> {
        let host = url.host_str().unwrap_or_default().trim_end_matches('.');
        let listed = self.hosts.iter().any(|known| {
            host.eq_ignore_ascii_case(known)
                || host.len() > known.len()
                    && host.is_char_boundary(host.len() - known.len() - 1)
                    && host[host.len() - known.len() - 1..].eq_ignore_ascii_case(&format!(".{known}"))
        });
        if listed { Ok(()) } else { Err(format!("the host '{host}' is not allowed: add it with --download-host")) }
    }

    /// Fails unless an address may be asked, be it a client's or one that a host redirects to. Allowed hosts keep their files at others,
    /// whose names change: what they redirect to need not be listed, but must be encrypted, and public as [`Policy::resolve`] sees it.
    fn check(&self, url: &Url) -> Result<(), Failure> {
        if self.https_only && url.scheme() != "https" {
            return Err(format!("'{}' is not https: only encrypted addresses are fetched", url.scheme()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("the address must not hold a user name or password".into());
        }
        Ok(())
    }

    /// The host's addresses; fails if any is not allowed, as a name that leads to both is an attempt at something.
    async fn resolve(&self, url: &Url) -> Result<Vec<SocketAddr>, Failure> {
        let host = url.host_str().unwrap_or_default();
        let port = url.port_or_known_default().unwrap_or(443);
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let found = tokio::time::timeout(self.bounds.connect, tokio::net::lookup_host((bare, port))).await;
        let found = found.map_err(|_| format!("the host '{host}' was not found in time: try again later"))?;
        let found = found.map_err(|e| format!("the host '{host}' was not found: {e}"))?;
        let found: Vec<SocketAddr> = found.collect();
        if found.is_empty() {
            return Err(format!("the host '{host}' has no address"));
        }
        match found.iter().find(|a| !(self.allowed)(a.ip())) {
            Some(bad) => Err(format!("the host '{host}' leads to {}, which is not a public address", bad.ip())),
            None => Ok(found),
        }
    }
}

/// Whether an address is somewhere on the public internet: not this machine, its networks, nor a reserved range.
fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            let special = matches!((a, b), (0 | 10 | 127, _) | (100, 64..=127) | (169, 254) | (172, 16..=31) | (192, 168) | (198, 18..=19))
                || matches!((a, b, c), (192, 0, 0 | 2) | (192, 88, 99) | (198, 51, 100) | (203, 0, 113));
            !special && a < 224
        }
        IpAddr::V6(v6) => {
            if let Some(v4) = embedded_v4(v6) {
                return is_public(IpAddr::V4(v4));
            }
            // Only 2000::/3 is given out; in it, documentation (2001:db8::/32, 3fff::/20) and the protocols' 2001::/23 are not hosts.
            let [a, b, ..] = v6.segments();
            a & 0xe000 == 0x2000 && !(a == 0x2001 && (b == 0x0db8 || b < 0x0200)) && !(a == 0x3fff && b < 0x1000)
        }
    }
}

/// The IPv4 address inside a mapped, NAT64 or 6to4 address.
fn embedded_v4(v6: Ipv6Addr) -> Option<std::net::Ipv4Addr> {
    let s = v6.segments();
    let v4 = |high: u16, low: u16| std::net::Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match s {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(v4(high, low)),
        [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => v6.to_ipv4_mapped(),
    }
}

/// How far a download is.
#[derive(Debug, Clone, Copy)]
struct Progress {
    done: u64,
    total: Option<u64>,
    bytes_per_second: f64,
}

impl Progress {
    fn to_json(self, name: &str) -> Value {
        let percentage = self.total.filter(|t| *t > 0).map_or(0.0, |t| self.done as f64 * 100.0 / t as f64);
        json!({
            "filename": name,
            "progress_percentage": percentage,
            "speed": self.bytes_per_second,
            "downloaded": self.done,
            "total": self.total,
            "status": if self.total == Some(self.done) { "completed" } else { "in_progress" },
        })
    }
}

/// Holds a target for one download.
struct Slot(&'static Active, PathBuf);

impl Slot {
    fn take(all: &'static Active, target: &Path, host: &str) -> Result<Self, Failure> {
        let mut active = all.lock();
        if active.contains_key(target) {
            return Err("this file is being downloaded already".into());
        }
        if active.len() >= MAX_DOWNLOADS {
            return Err(format!("{MAX_DOWNLOADS} downloads are running: wait for one to end"));
        }
        if active.values().filter(|known| *known == host).count() >= MAX_PER_HOST {
            return Err(format!("{MAX_PER_HOST} downloads from '{host}' are running: wait for one to end"));
        }
        active.insert(target.to_owned(), host.to_owned());
        Ok(Self(all, target.to_owned()))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
    }
}

/// What is kept beside the part of a file, so that only the same file is gone on with.
struct Part {
    path: PathBuf,
    note: PathBuf,
}

impl Part {
    fn of(target: &Path) -> Self {
        // Hidden, so that it is not taken for a model.
        let with = |ending: &str| {
            let mut name = std::ffi::OsString::from(".");
            name.push(target.file_name().unwrap_or_default());
            name.push(ending);
            target.with_file_name(name)
        };
        Self { path: with(".part"), note: with(".part.etag") }
    }

    /// Bytes that are there and the validator they came with.
    fn known(&self, url: &str) -> Option<(u64, String)> {
        let note = std::fs::read_to_string(&self.note).ok()?;
        let (known_url, etag) = note.split_once('\n')?;
        let length = self.path.metadata().ok()?.len();
        (known_url == url && length > 0 && !etag.is_empty()).then(|| (length, etag.to_owned()))
    }

    /// Remembers the validator; weak ones do not promise the same bytes.
    fn remember(&self, url: &str, response: &Response) {
        let etag = response.headers().get(ETAG).and_then(|v| v.to_str().ok()).filter(|e| !e.starts_with("W/")).unwrap_or_default();
        if let Err(e) = std::fs::write(&self.note, format!("{url}\n{etag}")) {
            tracing::debug!("the download cannot be resumed later: {e}");
        }
    }

    fn forget(&self) {
        for file in [&self.path, &self.note] {
            if file.exists()
                && let Err(e) = std::fs::remove_file(file)
            {
                tracing::warn!(file = %file.display(), "a left-over of a download could not be removed: {e}");
            }
        }
    }
}

/// Removes what came of a file when its download is over, in whatever way, unless a later one can go on with it.
struct Leftover<'a>(&'a Part, &'a str);

impl Drop for Leftover<'_> {
    fn drop(&mut self) {
        let Self(part, url) = self;
        if part.known(url).is_none() {
            part.forget();
        }
    }
}

/// Fetches `url` to `target`, going on with a part that is there; the target appears only when it is whole.
async fn fetch(
    policy: &Policy,
    url: &str,
    target: &Path,
    interval: Duration,
    report: &(dyn Fn(Progress) + Send + Sync),
) -> Result<(), Failure> {
    let parsed = Url::parse(url).map_err(|e| format!("the address cannot be read: {e}"))?;
    policy.check(&parsed)?;
    policy.check_host(&parsed)?;
    if target.exists() {
        return Err("the file is there already: remove it first, or choose another name".into());
    }
    let _slot = Slot::take(policy.active, target, parsed.host_str().unwrap_or_default())?;
    let folder = target.parent().ok_or("the target has no folder")?;
    tokio::fs::create_dir_all(folder).await.map_err(|e| format!("the folder cannot be made: {e}"))?;
    let part = Part::of(target);
    let _leftover = Leftover(&part, url);
    let whole = fetch_part(policy, url, parsed, &part, interval, report);
    let hours = policy.bounds.total.as_secs() / 3600;
    tokio::time::timeout(policy.bounds.total, whole)
        .await
        .map_err(|_| format!("the download was not over after {hours} hours: try again to go on from there"))??;
    if !is_safetensors(&part.path).await {
        part.forget();
        return Err("what the host sent is not a safetensors file: does the address lead to a page, or need a login?".into());
    }
    let renamed = rename_new(&part.path, target).map_err(|e| format!("the file cannot be put in place: {e}"))?;
    part.forget();
    if renamed { Ok(()) } else { Err("a file of that name came there meanwhile: remove it first, or choose another name".into()) }
}

/// Fetches what is missing of a part.
async fn fetch_part(
    policy: &Policy,
    url: &str,
    parsed: Url,
    part: &Part,
    interval: Duration,
    report: &(dyn Fn(Progress) + Send + Sync),
) -> Result<(), Failure> {
    let mut response = request(policy, parsed.clone(), part.known(url).as_ref()).await?;
    if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
        part.forget();
        response = request(policy, parsed, None).await?;
    }
    let start = match response.status() {
        StatusCode::OK => 0,
        StatusCode::PARTIAL_CONTENT => {
            let have = part.path.metadata().map(|m| m.len()).unwrap_or_default();
            let range = response.headers().get(CONTENT_RANGE).and_then(|v| v.to_str().ok()).unwrap_or_default();
            if !range.starts_with(&format!("bytes {have}-")) {
                part.forget();
                return Err("the host sent another part than was asked for: try again".into());
            }
            have
        }
        status => return Err(format!("the host answered {status}")),
    };
    if start == 0 {
        part.remember(url, &response);
    }
    receive(response, part, start, &policy.bounds, interval, report).await
}

/// Sends the request, following redirects by hand so that each is checked.
async fn request(policy: &Policy, mut url: Url, known: Option<&(u64, String)>) -> Result<Response, Failure> {
    for _ in 0..=MAX_REDIRECTS {
        policy.check(&url)?;
        let addresses = policy.resolve(&url).await?;
        let client = client(policy, &url, &addresses)?;
        let mut request = client.get(url.clone()).header(ACCEPT_ENCODING, "identity");
        if let Some((start, etag)) = known {
            request = request.header(RANGE, format!("bytes={start}-")).header(IF_RANGE, etag);
        }
        let response = request.send().await.map_err(|e| format!("the host cannot be reached: {}", chain(&e)))?;
        if !response.status().is_redirection() {
            return Ok(response);
        }
        let next = response.headers().get(LOCATION).and_then(|v| v.to_str().ok()).ok_or("the host redirects to nowhere")?;
        url = url.join(next).map_err(|e| format!("the host redirects to an address that cannot be read: {e}"))?;
    }
    Err(format!("the host redirects more than {MAX_REDIRECTS} times"))
}

/// A client that connects to the checked addresses only: no proxy, no second look-up of the name, no redirects of its own.
fn client(policy: &Policy, url: &Url, addresses: &[SocketAddr]) -> Result<Client, Failure> {
    // Fails only where one is installed already, which is as good.
    drop(rustls::crypto::ring::default_provider().install_default());
    Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .gzip(false)
        .https_only(policy.https_only)
        .connect_timeout(policy.bounds.connect)
        .read_timeout(policy.bounds.idle)
        .resolve_to_addrs(url.host_str().unwrap_or_default(), addresses)
        .user_agent(concat!("comfyd/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|e| format!("no client can be made: {}", chain(&e)))
}

/// An error with its causes; reqwest's own text leaves them out.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

async fn receive(
    response: Response,
    part: &Part,
    start: u64,
    bounds: &Bounds,
    interval: Duration,
    report: &(dyn Fn(Progress) + Send + Sync),
) -> Result<(), Failure> {
    let total = response.content_length().map(|rest| start.saturating_add(rest));
    let mut room = Room::of(&part.path);
    if total.is_some_and(|t| t > bounds.bytes) {
        return Err(too_long(bounds));
    }
    if total.is_some_and(|t| t - start > room.left) {
        return Err(room.full());
    }
    let failed = |e: std::io::Error| {
        if is_disk_full(&e) {
            part.forget();
        }
        format!("the file cannot be written: {e}")
    };
    let mut options = tokio::fs::OpenOptions::new();
    options.create(true).write(true);
    let file = if start == 0 { options.truncate(true).open(&part.path).await } else { options.append(true).open(&part.path).await };
    let mut file = tokio::io::BufWriter::with_capacity(1 << 20, file.map_err(failed)?);
    let (mut done, began, mut told) = (start, Instant::now(), Instant::now());
    let (mut paced, mut paced_at) = (Instant::now(), start);
    let progress = |done: u64| Progress { done, total, bytes_per_second: (done - start) as f64 / began.elapsed().as_secs_f64().max(1e-3) };
    report(progress(done));
    let mut chunks = response.bytes_stream();
    let mut broken = None;
    while let Some(chunk) = chunks.next().await {
        let again = "try again to go on from there";
        let chunk = match chunk {
            Ok(chunk) => chunk,
            Err(e) => {
                broken = Some(format!("the connection broke after {done} bytes: {}: {again}", chain(&e)));
                break;
            }
        };
        if done + chunk.len() as u64 > bounds.bytes {
            part.forget();
            return Err(too_long(bounds));
        }
        if !room.take(chunk.len() as u64) {
            part.forget();
            return Err(room.full());
        }
        file.write_all(&chunk).await.map_err(failed)?;
        done += chunk.len() as u64;
        if room.taken >= MEASURE_EVERY {
            file.flush().await.map_err(failed)?;
            room = Room::of(&part.path);
        }
        if paced.elapsed() >= bounds.pace.0 {
            if done - paced_at < bounds.pace.1 {
                broken = Some(format!("the host sends too slowly: {done} bytes came: {again}"));
                break;
            }
            (paced, paced_at) = (Instant::now(), done);
        }
        if told.elapsed() >= interval {
            told = Instant::now();
            report(progress(done));
        }
    }
    // What came is kept even where the rest did not: the next try goes on from it.
    file.flush().await.map_err(failed)?;
    file.get_ref().sync_all().await.map_err(failed)?;
    if let Some(failure) = broken {
        return Err(failure);
    }
    if let Some(total) = total.filter(|t| *t != done) {
        return Err(format!("{done} of {total} bytes came: try again to go on from there"));
    }
    report(Progress { total: Some(done), ..progress(done) });
    Ok(())
}

fn too_long(bounds: &Bounds) -> Failure {
    format!("the file has more than {} bytes, which is no model: it is not fetched", bounds.bytes)
}

/// What may still be written to a file's file system, as it was measured.
struct Room {
    left: u64,
    taken: u64,
}

impl Room {
    /// No bound where the system does not tell.
    fn of(path: &Path) -> Self {
        let folder = path.parent().unwrap_or(path);
        let left = match (fs4::available_space(folder), fs4::total_space(folder)) {
            (Ok(free), Ok(total)) => free.saturating_sub(DISK_RESERVE.min(total / RESERVED_PART)),
            (Err(_), _) | (_, Err(_)) => u64::MAX,
        };
        Self { left, taken: 0 }
    }

    fn take(&mut self, bytes: u64) -> bool {
        self.taken += bytes;
        self.taken <= self.left
    }

    fn full(&self) -> Failure {
        format!("the disk has room for {} MiB more: make room and try again", self.left >> 20)
    }
}

/// Whether a file starts with a header as safetensors files have. The header can be long: it is read off the request threads.
async fn is_safetensors(path: &Path) -> bool {
    let path = path.to_owned();
    let read = tokio::task::spawn_blocking(move || crate::routes::view::safetensors_header(&path, MAX_HEADER).is_some());
    read.await.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use axum::body::Body;
    use axum::http::HeaderMap;
    use axum::response::IntoResponse;
    use axum::routing::get;

    fn model() -> Vec<u8> {
        [&2u64.to_le_bytes()[..], b"{}", &[7; 5000]].concat()
    }

    /// `/m` knows ranges, `/go` redirects to it, `/out` to a host that is not allowed, `/loop` to itself, `/page` is no model.
    async fn host() -> String {
        async fn send(headers: HeaderMap) -> axum::response::Response {
            let start =
                headers.get("range").and_then(|r| r.to_str().ok()?.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
            let fresh = headers.get("if-range").is_some_and(|e| e == "\"v1\"");
            let all = model();
            match start.filter(|_| fresh) {
                Some(start) => {
                    let range = format!("bytes {start}-{}/{}", all.len() - 1, all.len());
                    (
                        axum::http::StatusCode::PARTIAL_CONTENT,
                        [("etag", "\"v1\"".to_owned()), ("content-range", range)],
                        all[start..].to_vec(),
                    )
                        .into_response()
                }
                None => ([("etag", "\"v1\"")], all).into_response(),
            }
        }
        async fn away(headers: HeaderMap) -> axum::response::Response {
            let place = format!("http://{}/m", headers["host"].to_str().unwrap().replace("localhost", "127.0.0.1"));
            (axum::http::StatusCode::FOUND, [("location", place)]).into_response()
        }
        let to = |place: &'static str| get(move || async move { (axum::http::StatusCode::FOUND, [("location", place)], Body::empty()) });
        let app = axum::Router::new()
            .route("/m", get(send))
            .route("/go", to("/m"))
            .route("/inside", to("http://127.0.0.2:1/m"))
            .route("/away", get(away))
            .route("/loop", to("/loop"))
            .route("/page", get(|| async { "<html>please log in</html>" }))
            .route("/silent", get(|| async { sent(Duration::from_secs(3600), 1) }))
            .route("/slow", get(|| async { sent(Duration::from_millis(20), 1) }))
            .route("/endless", get(|| async { sent(Duration::ZERO, 64 << 10) }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        format!("http://{address}")
    }

    /// A model of no length: a first piece at once, and after each pause a further one.
    fn sent(pause: Duration, piece: usize) -> axum::response::Response {
        let rest = futures_util::stream::unfold((), move |()| async move {
            tokio::time::sleep(pause).await;
            Some((Ok::<_, std::io::Error>(vec![7; piece]), ()))
        });
        let first = futures_util::stream::iter([Ok(model())]);
        Body::from_stream(first.chain(rest)).into_response()
    }

    #[tokio::test]
    async fn a_host_cannot_hold_a_download_for_ever() {
        let (dir, host) = (tempfile::tempdir().unwrap(), host().await);
        let target = dir.path().join("m.safetensors");
        let short = Duration::from_millis(200);
        for (path, bounds, reason) in [
            ("/silent", Bounds { idle: short, ..BOUNDS }, "broke after 5010 bytes"),
            ("/slow", Bounds { pace: (short, 1 << 20), ..BOUNDS }, "too slowly"),
            ("/slow", Bounds { total: short, ..BOUNDS }, "was not over"),
            ("/endless", Bounds { bytes: 1 << 20, ..BOUNDS }, "more than 1048576 bytes"),
        ] {
            let policy = Policy { bounds, ..Policy::local() };
            let got = fetch(&policy, &format!("{host}{path}"), &target, Duration::from_secs(1), &|_| ()).await;
            let failure = got.unwrap_err();
            assert!(failure.contains(reason), "{path}: {failure}");
            // Nothing says which file the part belongs to.
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "{path}");
        }
    }

    #[tokio::test]
    async fn slow_downloads_leave_room_for_others_and_end_with_their_clients() {
        let (dir, host) = (tempfile::tempdir().unwrap(), host().await);
        let policy = std::sync::Arc::new(Policy::local());
        let slow: Vec<_> = (0..MAX_PER_HOST)
            .map(|n| {
                let policy = std::sync::Arc::clone(&policy);
                let (url, target) = (format!("{host}/slow"), dir.path().join(format!("{n}.safetensors")));
                tokio::spawn(async move { fetch(&policy, &url, &target, Duration::from_secs(1), &|_| ()).await })
            })
            .collect();
        let parts =
            || std::fs::read_dir(dir.path()).unwrap().flatten().filter(|e| e.path().extension().is_some_and(|e| e == "part")).count();
        let begun = async {
            while parts() < MAX_PER_HOST {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), begun).await.unwrap();
        let target = dir.path().join("m.safetensors");
        let get = async |host: &str| fetch(&policy, &format!("{host}/m"), &target, Duration::from_secs(1), &|_| ()).await;
        assert!(get(&host).await.unwrap_err().contains("from '127.0.0.1' are running"));
        get(&host.replace("127.0.0.1", "localhost")).await.unwrap();
        std::fs::remove_file(&target).unwrap();
        // As a request is dropped whose client closed its connection.
        for download in slow {
            download.abort();
            assert!(download.await.unwrap_err().is_cancelled());
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        get(&host).await.unwrap();
    }

    #[tokio::test]
    async fn a_client_that_leaves_ends_its_download() {
        let (dir, host) = (tempfile::tempdir().unwrap(), host().await);
        let target = dir.path().join("m.safetensors");
        let ordered = async move || {
            let done = fetch(&Policy::local(), &format!("{host}/slow"), &target, Duration::from_secs(1), &|_| ()).await;
            format!("{done:?}")
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = axum::Router::new().route("/", axum::routing::post(ordered));
        tokio::spawn(async move { axum::serve(listener, routes).await });
        let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
        client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        let files = async |some: bool| {
            while std::fs::read_dir(dir.path()).unwrap().next().is_some() != some {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let long = Duration::from_secs(60);
        tokio::time::timeout(long, files(true)).await.expect("it begins");
        drop(client);
        tokio::time::timeout(long, files(false)).await.expect("it ends");
    }

    #[test]
    fn room_is_that_of_the_targets_file_system() {
        let dir = tempfile::tempdir().unwrap();
        let mut room = Room::of(&dir.path().join("m.part"));
        let free = fs4::available_space(dir.path()).unwrap();
        assert!(room.left < free, "some of the free {free} bytes are kept");
        assert!(room.take(room.left) && !room.take(1));
    }

    async fn get_to(target: &Path, url: &str) -> Result<(), Failure> {
        fetch(&Policy::local(), url, target, Duration::from_secs(1), &|_| ()).await
    }

    #[tokio::test]
    async fn a_model_is_fetched_through_a_redirect() {
        let (dir, host) = (tempfile::tempdir().unwrap(), host().await);
        let target = dir.path().join("sub/m.safetensors");
        get_to(&target, &format!("{host}/go")).await.unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), model());
        assert_eq!(std::fs::read_dir(target.parent().unwrap()).unwrap().count(), 1, "nothing is left over");
        assert!(get_to(&target, &format!("{host}/go")).await.unwrap_err().contains("there already"));
    }

    #[tokio::test]
    async fn a_part_is_gone_on_with_only_if_the_file_is_the_same() {
        let (dir, host) = (tempfile::tempdir().unwrap(), host().await);
        let url = format!("{host}/m");
        for (etag, name) in [("\"v1\"", "a.safetensors"), ("\"old\"", "b.safetensors")] {
            let target = dir.path().join(name);
            let part = Part::of(&target);
            // Another byte than the host's: it shows in the result whether the part was used.
            let mut begun = model()[..100].to_vec();
            begun[50] = 1;
            std::fs::write(&part.path, &begun).unwrap();
            std::fs::write(&part.note, format!("{url}\n{etag}")).unwrap();
            get_to(&target, &url).await.unwrap();
            let got = std::fs::read(&target).unwrap();
            assert_eq!(got.len(), model().len());
            assert_eq!(got[50] == 1, etag == "\"v1\"");
        }
    }

    #[tokio::test]
    async fn refusals_leave_nothing_behind() {
        let (dir, host) = (tempfile::tempdir().unwrap(), host().await);
        let target = dir.path().join("m.safetensors");
        for (path, reason) in
            [("/inside", "127.0.0.2, which is not a public"), ("/loop", "redirects more"), ("/page", "not a safetensors"), ("/none", "404")]
        {
            let failure = get_to(&target, &format!("{host}{path}")).await.unwrap_err();
            assert!(failure.contains(reason), "{path}: {failure}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn an_allowed_host_may_redirect_to_where_it_keeps_its_files() {
        let (dir, host) = (tempfile::tempdir().unwrap(), host().await);
        let policy = Policy { hosts: vec!["localhost".into()], ..Policy::local() };
        let get = async |url: String| fetch(&policy, &url, &dir.path().join("m.safetensors"), Duration::from_secs(1), &|_| ()).await;
        assert!(get(format!("{host}/m")).await.unwrap_err().contains("not allowed"), "127.0.0.1 is not listed");
        get(format!("{}/away", host.replace("127.0.0.1", "localhost"))).await.unwrap();
        // With https alone, a redirect must not lead to an unencrypted address.
        let strict = Policy { https_only: true, ..Policy::public(vec![]) };
        assert!(strict.check(&Url::parse("http://example.com/m").unwrap()).is_err());
    }

    #[tokio::test]
    async fn the_public_policy_refuses_this_machine() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("m.safetensors");
        let policy = Policy { https_only: false, ..Policy::public(vec!["localhost".into()]) };
        let url = host().await.replace("127.0.0.1", "localhost");
        let failure = fetch(&policy, &format!("{url}/m"), &target, Duration::from_secs(1), &|_| ()).await.unwrap_err();
        assert!(failure.contains("not a public address"), "{failure}");
    }

    #[test]
    fn hosts_are_matched_by_label() {
        let policy = Policy::public(vec!["example.com".into()]);
        let check = |url: &str| {
            let url = Url::parse(url).unwrap();
            policy.check(&url).is_ok() && policy.check_host(&url).is_ok()
        };
        assert!(check("https://example.com/a") && check("https://cdn.Example.com/a"));
        assert!(!check("http://example.com/a") && !check("https://notexample.com/a") && !check("https://example.com.evil.net/a"));
        assert!(!check("https://example.com@evil.net/a") && !check("https://user@example.com/a"));
    }

    #[test]
    fn addresses_of_this_machine_and_its_networks_are_not_public() {
        for ip in [
            "127.0.0.1",
            "10.1.2.3",
            "172.31.0.1",
            "192.168.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001:db8::1",
            "ff02::1",
        ] {
            assert!(!is_public(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["8.8.8.8", "172.32.0.1", "2606:4700::1111", "2a00:1450::1"] {
            assert!(is_public(ip.parse().unwrap()), "{ip}");
        }
    }
}

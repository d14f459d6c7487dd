//! `/internal/models/download`: fetches a model file from an allowed host into a model folder. What a client asks for never makes the
//! server talk to its own network: each address is checked after its name was looked up, and that address is the one connected to.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use comfyd_folders::{extension, join_inside};
use futures_util::StreamExt;
use parking_lot::Mutex;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_RANGE, ETAG, IF_RANGE, LOCATION, RANGE};
use reqwest::{Client, Response, StatusCode, Url};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::json::{LenientJson, number};
use crate::openapi::{Doc, Table};
use crate::{ApiError, App};

/// Redirects that are followed.
const MAX_REDIRECTS: usize = 5;
/// Downloads at once.
const MAX_DOWNLOADS: usize = 4;
/// Disk space that is left free, in bytes.
const DISK_RESERVE: u64 = 256 * 1024 * 1024;
/// Longest safetensors header that is believed, in bytes; also the format's own bound.
const MAX_HEADER: u64 = 100_000_000;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest silence of the other side.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// Targets that are being written, so that no two requests write one file.
static ACTIVE: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

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

async fn download(State(app): State<App>, LenientJson(body): LenientJson) -> Result<Json<Value>, ApiError> {
    let text = |key: &str| {
        let value = body.get(key).and_then(Value::as_str).filter(|v| !v.is_empty());
        value.ok_or_else(|| ApiError::bad_request(format!("'{key}' is missing: it must be a text")))
    };
    let (url, folder, name) = (text("url")?, text("model_directory")?, text("model_filename")?);
    let interval = body.get("progress_interval").and_then(number).unwrap_or(1.0).clamp(0.1, 3600.0);
    let policy = Policy::public(app.options.download_hosts.clone());
    let target = target(&app, folder, name);
    let done = match target {
        Ok(target) => {
            let report = {
                let (app, name) = (app.clone(), name.to_owned());
                move |progress: Progress| app.hub.broadcast("download_progress", &progress.to_json(&name))
            };
            // Goes on when the client closes its connection: half a model is of no use to anybody.
            let url = url.to_owned();
            let interval = Duration::from_secs_f64(interval);
            tokio::spawn(async move { fetch(&policy, &url, &target, interval, &report).await.map(|()| target) }).await
        }
        Err(failure) => Ok(Err(failure)),
    };
    let answer = match done {
        Ok(Ok(path)) => json!({"status": "success", "message": format!("{name} was downloaded"), "download_path": path}),
        Ok(Err(failure)) => {
            tracing::warn!(url, "a model was not downloaded: {failure}");
            json!({"status": "error", "message": failure, "download_path": ""})
        }
        Err(e) => return Err(ApiError::internal(format!("the download stopped: {e}"))),
    };
    Ok(Json(answer))
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

/// What may be connected to.
struct Policy {
    hosts: Vec<String>,
    https_only: bool,
    allowed: fn(IpAddr) -> bool,
}

impl Policy {
    fn public(hosts: Vec<String>) -> Self {
        Self { hosts, https_only: true, allowed: is_public }
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
        let found = tokio::net::lookup_host((bare, port)).await.map_err(|e| format!("the host '{host}' was not found: {e}"))?;
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
struct Slot(PathBuf);

impl Slot {
    fn take(target: &Path) -> Result<Self, Failure> {
        let mut active = ACTIVE.lock();
        if active.len() >= MAX_DOWNLOADS {
            return Err(format!("{MAX_DOWNLOADS} downloads are running: wait for one to end"));
        }
        if active.insert(target.to_owned()) { Ok(Self(target.to_owned())) } else { Err("this file is being downloaded already".into()) }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        ACTIVE.lock().remove(&self.0);
    }
}

/// What is kept beside the part of a file, so that only the same file is gone on with.
struct Part {
    path: PathBuf,
    note: PathBuf,
}

impl Part {
    fn of(target: &Path) -> Self {
        let with = |ending: &str| {
            let mut name = target.file_name().unwrap_or_default().to_owned();
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
    let _slot = Slot::take(target)?;
    let folder = target.parent().ok_or("the target has no folder")?;
    tokio::fs::create_dir_all(folder).await.map_err(|e| format!("the folder cannot be made: {e}"))?;
    let part = Part::of(target);
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
    receive(response, &part, start, interval, report).await?;
    if !is_safetensors(&part.path).await {
        part.forget();
        return Err("what the host sent is not a safetensors file: does the address lead to a page, or need a login?".into());
    }
    tokio::fs::rename(&part.path, target).await.map_err(|e| format!("the file cannot be put in place: {e}"))?;
    part.forget();
    Ok(())
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
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
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
    interval: Duration,
    report: &(dyn Fn(Progress) + Send + Sync),
) -> Result<(), Failure> {
    let total = response.content_length().map(|rest| start.saturating_add(rest));
    let room = free_disk(&part.path).saturating_sub(DISK_RESERVE);
    let full = || format!("the disk has room for {} MiB more: make room and try again", room >> 20);
    if total.is_some_and(|t| t - start > room) {
        return Err(full());
    }
    let failed = |e: std::io::Error| format!("the file cannot be written: {e}");
    let mut options = tokio::fs::OpenOptions::new();
    options.create(true).write(true);
    let file = if start == 0 { options.truncate(true).open(&part.path).await } else { options.append(true).open(&part.path).await };
    let mut file = tokio::io::BufWriter::with_capacity(1 << 20, file.map_err(failed)?);
    let (mut done, began, mut told) = (start, Instant::now(), Instant::now());
    let progress = |done: u64| Progress { done, total, bytes_per_second: (done - start) as f64 / began.elapsed().as_secs_f64().max(1e-3) };
    report(progress(done));
    let mut chunks = response.bytes_stream();
    let mut broken = None;
    while let Some(chunk) = chunks.next().await {
        match chunk {
            Ok(chunk) if done - start + chunk.len() as u64 > room => broken = Some(full()),
            Ok(chunk) => {
                file.write_all(&chunk).await.map_err(failed)?;
                done += chunk.len() as u64;
            }
            Err(e) => broken = Some(format!("the connection broke after {done} bytes: {}: try again to go on from there", chain(&e))),
        }
        if broken.is_some() {
            break;
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

/// Free bytes of the disk that holds a path; no bound where that cannot be told.
fn free_disk(path: &Path) -> u64 {
    let disks = sysinfo::Disks::new_with_refreshed_list();
    let real = path.parent().and_then(|p| p.canonicalize().ok()).unwrap_or_else(|| path.to_owned());
    let holding = disks.list().iter().filter(|d| real.starts_with(d.mount_point()));
    holding.max_by_key(|d| d.mount_point().as_os_str().len()).map_or(u64::MAX, sysinfo::Disk::available_space)
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

    fn local() -> Policy {
        let allowed = |ip: IpAddr| ip == IpAddr::from([127, 0, 0, 1]) || ip == IpAddr::from(Ipv6Addr::LOCALHOST);
        Policy { hosts: vec!["localhost".into(), "127.0.0.1".into()], https_only: false, allowed }
    }

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
            .route("/page", get(|| async { "<html>please log in</html>" }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        format!("http://{address}")
    }

    async fn get_to(target: &Path, url: &str) -> Result<(), Failure> {
        fetch(&local(), url, target, Duration::from_secs(1), &|_| ()).await
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
        let policy = Policy { hosts: vec!["localhost".into()], ..local() };
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

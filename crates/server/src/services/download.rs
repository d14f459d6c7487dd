//! Fetches model files: one request at a time for a file, gone on with where an earlier one broke off, put in place when it is whole. Does
//! not know which hosts and addresses are good: that is the policy's.

mod policy;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use comfyd_folders::whole::rename_new;
use futures_util::StreamExt;
use parking_lot::Mutex;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_RANGE, ETAG, IF_RANGE, LOCATION, RANGE};
use reqwest::{Client, Response, StatusCode, Url};
use tokio::io::AsyncWriteExt;

pub(crate) use self::policy::Policy;
use crate::error::is_disk_full;
use crate::services::download::policy::Bounds;
use crate::services::models::safetensors_header;

/// Redirects that are followed.
const MAX_REDIRECTS: usize = 5;
/// Downloads at once, and at once from one host.
const MAX_DOWNLOADS: usize = 16;
const MAX_PER_HOST: usize = 8;
/// Disk space that is left free, in bytes; on small file systems less, this part of them.
const DISK_RESERVE: u64 = 256 * 1024 * 1024;
const RESERVED_PART: u64 = 10;
/// How often the space is looked at again, in bytes: others write too. Where little is left free more often, so that all downloads together
/// do not write that before they notice.
const MEASURE_EVERY: u64 = 8 * 1024 * 1024;
/// Longest safetensors header that is believed, in bytes; also the format's own bound.
const MAX_HEADER: u64 = 100_000_000;

/// A refusal or failure, as a sentence for the client.
pub(crate) type Failure = String;

/// How far a download is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Progress {
    pub done: u64,
    pub total: Option<u64>,
    pub bytes_per_second: f64,
}

/// Who is told how far it is.
type Report<'a> = &'a (dyn Fn(Progress) + Send + Sync);

/// All downloads of one server.
pub(crate) struct Downloads {
    policy: Policy,
    /// Targets that are being written, so that no two requests write one file, and the hosts that they come from.
    active: Mutex<BTreeMap<PathBuf, String>>,
}

impl Downloads {
    pub(crate) fn new(policy: Policy) -> Self {
        Self { policy, active: Mutex::default() }
    }

    fn take<'a>(&'a self, target: &'a Path, host: &str) -> Result<Slot<'a>, Failure> {
        let mut active = self.active.lock();
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
        Ok(Slot(self, target))
    }

    /// Fetches `url` to `target`, going on with a part that is there; the target appears only when it is whole.
    pub(crate) async fn fetch(&self, url: &str, target: &Path, interval: Duration, report: Report<'_>) -> Result<(), Failure> {
        let parsed = Url::parse(url).map_err(|e| format!("the address cannot be read: {e}"))?;
        self.policy.check(&parsed)?;
        self.policy.check_host(&parsed)?;
        if target.exists() {
            return Err("the file is there already: remove it first, or choose another name".into());
        }
        let _slot = self.take(target, parsed.host_str().unwrap_or_default())?;
        let folder = target.parent().ok_or("the target has no folder")?;
        tokio::fs::create_dir_all(folder).await.map_err(|e| format!("the folder cannot be made: {e}"))?;
        let part = Part::of(target);
        let _leftover = Leftover(&part, url);
        let whole = fetch_part(&self.policy, url, parsed, &part, interval, report);
        let hours = self.policy.bounds.total.as_secs() / 3600;
        tokio::time::timeout(self.policy.bounds.total, whole)
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
}

/// Holds a target for one download.
struct Slot<'a>(&'a Downloads, &'a Path);

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.active.lock().remove(self.1);
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

/// Fetches what is missing of a part.
async fn fetch_part(policy: &Policy, url: &str, parsed: Url, part: &Part, interval: Duration, report: Report<'_>) -> Result<(), Failure> {
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
    report: Report<'_>,
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
    // Not left to another thread: a download that ends meanwhile would leave behind what that thread makes later.
    let mut options = std::fs::OpenOptions::new();
    let options = options.create(true).write(true).truncate(start == 0).append(start > 0);
    let file = options.open(&part.path).map(tokio::fs::File::from_std);
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
        if room.taken >= room.measure_after {
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
    /// How many bytes are taken before it is measured again.
    measure_after: u64,
}

impl Room {
    /// No bound where the system does not tell.
    fn of(path: &Path) -> Self {
        let folder = path.parent().unwrap_or(path);
        match (fs4::available_space(folder), fs4::total_space(folder)) {
            (Ok(free), Ok(total)) => Self::within(free, total),
            (Err(_), _) | (_, Err(_)) => Self { left: u64::MAX, taken: 0, measure_after: MEASURE_EVERY },
        }
    }

    /// Where so much of a file system is free.
    fn within(free: u64, total: u64) -> Self {
        let reserve = DISK_RESERVE.min(total / RESERVED_PART);
        let measure_after = MEASURE_EVERY.min(reserve / (2 * MAX_DOWNLOADS as u64));
        Self { left: free.saturating_sub(reserve), taken: 0, measure_after }
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
    let read = tokio::task::spawn_blocking(move || safetensors_header(&path, MAX_HEADER).is_some());
    read.await.unwrap_or(false)
}

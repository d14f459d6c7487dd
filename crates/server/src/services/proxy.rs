//! Hands a request to the process of a ComfyUI and its answer back, both as streams, websockets included. Does not know which requests.

use std::io;
use std::path::Path;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{
    CONNECTION, HOST, HeaderName, ORIGIN, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, REFERER, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, Version};
use axum::response::Response;
use http_body_util::Limited;
use hyper::client::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
#[cfg(not(unix))]
use tokio::net::TcpStream as Stream;
#[cfg(unix)]
use tokio::net::UnixStream as Stream;

use crate::body::{over_limit, unreadable};
use crate::error::ApiError;

/// How long the process may take to let a connection in.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// What is about one connection only (RFC 9110, 7.6.1).
const HOP_BY_HOP: [HeaderName; 8] =
    [CONNECTION, HeaderName::from_static("keep-alive"), PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];
/// What tells where a page is from. The server has decided already whether it may ask; the process would decide by rules of its own.
const OF_THE_PAGE: [HeaderName; 3] = [ORIGIN, REFERER, HeaderName::from_static("sec-fetch-site")];

/// Marks an answer that is another process's: it is sent on as it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Forwarded;

/// How much, and how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Bytes of the request's body.
    pub body: usize,
    /// Until the answer begins.
    pub first_byte: Duration,
}

/// Sends a request to a Unix socket and gives what is answered.
pub(crate) async fn forward(socket: &Path, mut request: Request, bounds: Bounds) -> Result<Response, ApiError> {
    let unreachable = |error: &dyn std::fmt::Display| {
        let message = "ComfyUI's process does not take the request: look into the log, and send it again";
        ApiError::new(StatusCode::BAD_GATEWAY, "python_unreachable", message).details(error.to_string())
    };
    let late = |what: &str| {
        let message = format!("ComfyUI's process did not {what} in time: it may be busy; send the request again later");
        ApiError::new(StatusCode::GATEWAY_TIMEOUT, "python_timeout", message)
    };
    let client = request.extensions_mut().remove::<OnUpgrade>();
    let request = rewritten(request, bounds.body);
    let connecting = tokio::time::timeout(CONNECT_TIMEOUT, connect(socket));
    let stream = connecting.await.map_err(|_| late("let the request in"))?.map_err(|e| unreachable(&e))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| unreachable(&e))?;
    // Ends with the answer's body, or when the client is gone. What goes wrong is told to whoever reads the answer.
    tokio::spawn(async move { drop(connection.with_upgrades().await) });
    let answer = tokio::time::timeout(bounds.first_byte, sender.send_request(request)).await.map_err(|_| late("answer"))?;
    let mut answer = answer.map_err(|e| if over_limit(&e) { unreadable(&e) } else { unreachable(&e) })?.map(Body::new);
    let upgraded = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
    if let (true, Some(client)) = (upgraded, client) {
        tokio::spawn(join(client, hyper::upgrade::on(&mut answer)));
    }
    let upgrade = answer.headers().get(UPGRADE).filter(|_| upgraded).cloned();
    remove_hop_by_hop(answer.headers_mut());
    add_upgrade(answer.headers_mut(), upgrade);
    answer.extensions_mut().insert(Forwarded);
    Ok(answer)
}

#[cfg(unix)]
async fn connect(socket: &Path) -> io::Result<Stream> {
    Stream::connect(socket).await
}

#[cfg(not(unix))]
async fn connect(_: &Path) -> io::Result<Stream> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Passes on what either side of a websocket says, until one is gone.
async fn join(client: OnUpgrade, process: OnUpgrade) {
    if let (Ok(client), Ok(process)) = tokio::join!(client, process) {
        // Who is gone is told nothing.
        drop(tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(process)).await);
    }
}

/// The request as the process gets it.
fn rewritten(request: Request, max_body: usize) -> Request {
    let (mut parts, body) = request.into_parts();
    if !parts.headers.contains_key(HOST)
        && let Some(host) = parts.uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok())
    {
        parts.headers.insert(HOST, host);
    }
    // A proxy's form names the server, too.
    let path = parts.uri.path_and_query().cloned();
    parts.uri = path.map(Uri::from).unwrap_or_default();
    parts.version = Version::HTTP_11;
    let upgrade = parts.headers.get(UPGRADE).cloned();
    remove_hop_by_hop(&mut parts.headers);
    for name in OF_THE_PAGE {
        parts.headers.remove(name);
    }
    add_upgrade(&mut parts.headers, upgrade);
    Request::from_parts(parts, Body::new(Limited::new(body, max_body)))
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in HOP_BY_HOP.iter().chain(&named) {
        headers.remove(name);
    }
}

fn add_upgrade(headers: &mut HeaderMap, upgrade: Option<HeaderValue>) {
    if let Some(upgrade) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, upgrade);
    }
}

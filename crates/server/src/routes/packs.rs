//! What custom node packs add to the server: scripts, which are sent from disk, and routes, which the packs' process answers.

use std::path::Path;
use std::sync::Arc;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use axum::response::Response;
use percent_encoding::percent_decode_str;

use crate::answer::blocking;
use crate::answer::file::{Disposition, send_file};
use crate::app::App;
use crate::error::ApiError;
use crate::installations::{Site, Stage};
use crate::services::paths::inside;
use crate::services::proxy::{Bounds, forward};

/// Tells the process the client's address, which a Unix socket does not.
const REMOTE: HeaderName = HeaderName::from_static("x-comfyd-remote");

/// The decoded path of an address that may name a file; `None` for hidden files and what no client should name.
pub(super) fn file_path(uri: &Uri) -> Option<String> {
    let path = percent_decode_str(uri.path().trim_start_matches('/')).decode_utf8_lossy().into_owned();
    (!path.contains(['\0', '\\']) && !path.split('/').any(|part| part.starts_with('.'))).then_some(path)
}

/// A file of a pack's web folder, if there is one. Needs no process.
pub(crate) async fn script(app: &App, uri: &Uri, headers: &HeaderMap) -> Result<Option<Response>, ApiError> {
    if app.installations.is_empty() {
        return Ok(None);
    }
    let Some(path) = file_path(uri) else { return Ok(None) };
    let manifests: Vec<_> = app.installations.manifests().collect();
    let found = blocking(move || {
        let files = manifests.iter().filter_map(|manifest| {
            let (folder, rest) = manifest.web_file(&path)?;
            // Links that lead out of a pack's folder are not followed: what is served must be what the pack brought.
            let (folder, file) = (folder.canonicalize().ok()?, inside(folder, rest).ok()?.canonicalize().ok()?);
            file.starts_with(folder).then_some(file)
        });
        Ok(files.into_iter().find(|file| file.is_file()))
    });
    let Some(file) = found.await? else { return Ok(None) };
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    send_file(&file, name, headers, Disposition::Page).await.map(Some)
}

/// The ComfyUI that has a route for this.
pub(crate) fn owner(app: &App, method: &Method, uri: &Uri) -> Option<Arc<Site>> {
    if app.installations.is_empty() {
        return None;
    }
    let path = percent_decode_str(uri.path()).decode_utf8_lossy();
    let has = |site: &&Arc<Site>| site.manifest().is_some_and(|manifest| manifest.has_route(method.as_str(), &path));
    app.installations.sites().iter().find(has).cloned()
}

/// Has a request answered by a ComfyUI's process, which is started and waited for if need be.
pub(crate) async fn forwarded(app: &App, site: &Site, request: Request) -> Result<Response, ApiError> {
    if site.installation.stage() != Stage::Ready {
        let installation = Arc::clone(&site.installation);
        app.installations.wait(move || installation.ready().map_err(not_ready)).await?;
    }
    let (mut parts, body) = request.into_parts();
    let address = app.gate.address(&parts).and_then(|address| HeaderValue::from_str(&address.to_string()).ok());
    // Nobody else may say it.
    parts.headers.remove(REMOTE);
    parts.headers.extend(address.map(|address| (REMOTE, address)));
    let request = Request::from_parts(parts, body);
    let bounds = Bounds { body: app.options.max_upload_bytes, first_byte: app.options.python_timeout };
    let socket = site.installation.socket();
    forward(Path::new(&socket), request, bounds).await
}

/// 503: what is asked for needs a process that cannot be had.
pub(crate) fn not_ready(why: String) -> ApiError {
    let message = "this needs ComfyUI's process, which does not start: `comfyd python check` and the log tell more";
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "python_not_ready", message).details(why)
}

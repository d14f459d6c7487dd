//! The whole router: every route under `/` and `/api`, bounds, the origin check, JSON errors for what is not there.

use std::any::Any;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    CONTENT_LENGTH, CONTENT_TYPE, HOST, ORIGIN,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{NotForContentType, Predicate, SizeAbove};

use crate::routes::frontend;
use crate::{ApiError, App, error, routes};

/// Answers smaller than this are not worth compressing.
const COMPRESS_ABOVE_BYTES: u16 = 1024;
/// Longest text of an error of the framework.
const MAX_PLAIN_ERROR_BYTES: usize = 16 * 1024;

/// The server as one service.
pub fn router(app: App) -> Router {
    let compress = SizeAbove::new(COMPRESS_ABOVE_BYTES).and(NotForContentType::IMAGES);
    let routes = routes::all().into_router();
    Router::new()
        // The nested routes' `/` is `/api` only.
        .route("/api/", get(frontend::index))
        .nest("/api", routes.clone().fallback(unknown).method_not_allowed_fallback(wrong_method))
        .merge(routes)
        .fallback(page_or_unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(app.options.max_upload_bytes))
        .layer(middleware::map_response(plain_error_to_json))
        .layer(CompressionLayer::new().gzip(true).compress_when(compress))
        .layer(middleware::from_fn_with_state(app.clone(), origin))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn_with_state(app.clone(), error::in_shape))
        .with_state(app)
}

/// What no route takes may be a file of the front end.
async fn page_or_unknown(app: State<App>, method: Method, uri: Uri, headers: HeaderMap) -> Response {
    if matches!(method, Method::GET | Method::HEAD) {
        frontend::fallback(app, method, uri, headers).await.into_response()
    } else {
        unknown(method, uri).await.into_response()
    }
}

/// GET of an unknown path is 404; other methods are 405, as the reference's static route answers them.
async fn unknown(method: Method, uri: Uri) -> ApiError {
    if matches!(method, Method::GET | Method::HEAD) {
        ApiError::not_found(format!("there is nothing at {}", uri.path()))
    } else {
        wrong_method(method, uri).await
    }
}

async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", format!("{} does not take {method}", uri.path()))
}

/// Errors of the framework itself (an unreadable query, path or handshake) are plain text: they get the form of all others.
async fn plain_error_to_json(response: Response) -> Response {
    let (status, headers) = (response.status(), response.headers());
    let plain = headers.get(CONTENT_TYPE).is_none_or(|mime| mime.as_bytes().starts_with(b"text/plain"));
    if !(status.is_client_error() || status.is_server_error()) || !plain {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let text = axum::body::to_bytes(body, MAX_PLAIN_ERROR_BYTES).await.unwrap_or_default();
    let text = match String::from_utf8_lossy(&text) {
        text if text.trim().is_empty() => status.canonical_reason().unwrap_or("the request failed").to_owned(),
        text => text.into_owned(),
    };
    let error = ApiError::new(status, if status.is_client_error() { "bad_request" } else { "internal_error" }, text).into_response();
    for name in [CONTENT_TYPE, CONTENT_LENGTH] {
        parts.headers.remove(name);
    }
    let (error_parts, body) = error.into_parts();
    parts.headers.extend(error_parts.headers);
    parts.extensions.extend(error_parts.extensions);
    Response::from_parts(parts, body)
}

fn panicked(_: Box<dyn Any + Send>) -> Response {
    ApiError::internal("the request could not be answered because of a fault in the server; its log tells more").into_response()
}

/// With a CORS origin set, answers say so. Otherwise a page of another site must not reach a server on this machine: requests whose
/// `Origin` is not their `Host` are refused (DNS rebinding and cross-site requests).
async fn origin(State(app): State<App>, request: Request, next: Next) -> Response {
    let Some(allowed) = &app.options.cors_origin else {
        if foreign_origin(request.headers()) {
            return ApiError::forbidden("requests of other origins are refused: start with --enable-cors-header to allow them")
                .into_response();
        }
        return next.run(request).await;
    };
    let mut response = if request.method() == Method::OPTIONS { StatusCode::OK.into_response() } else { next.run(request).await };
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(allowed) {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, value);
    }
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST, GET, DELETE, PUT, OPTIONS, PATCH"));
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("Content-Type, Authorization, Comfy-User"));
    headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    response
}

/// As in the reference, only for hosts of this machine: there the check matters, and elsewhere a proxy may have rewritten the host.
fn foreign_origin(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok());
    let (Some(origin), Some(host)) = (text(ORIGIN), text(HOST)) else { return false };
    let (origin_name, origin_port) = split_port(origin.split_once("://").map_or(origin, |(_, rest)| rest));
    let (host_name, host_port) = split_port(host);
    let loopback = host_name.eq_ignore_ascii_case("localhost")
        || host_name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    let same_port = origin_port.is_none() || host_port.is_none() || origin_port == host_port;
    loopback && !(origin_name.eq_ignore_ascii_case(host_name) && same_port)
}

fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => (name, Some(port)),
        Some(_) | None => (authority, None),
    }
}

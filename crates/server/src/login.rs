//! The page on which a person shows a key, and what built-in pages may do in a browser. Knows neither keys nor routes.

use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

const PAGE: &str = include_str!("login.html");

/// The page, as it is shown at this path.
pub(crate) fn page(path: &str, why: &str) -> Response {
    // Below a proxy's prefix the path that comes here is not the browser's: where it can be, the form's address is relative.
    let action = if matches!(path, "/" | "/login") { "login" } else { "/login" };
    let why = why.replace('&', "&amp;").replace('<', "&lt;").replace('`', "");
    let policy = format!("{}; form-action 'self'; frame-ancestors 'none'", policy(PAGE));
    let headers = [(CONTENT_TYPE, "text/html; charset=utf-8"), (CACHE_CONTROL, "no-store")];
    (headers, [(CONTENT_SECURITY_POLICY, policy)], PAGE.replace("{{why}}", &why).replace("{{action}}", action)).into_response()
}

/// What lets a page's own style and script work, and no other.
pub(crate) fn policy(page: &str) -> String {
    format!("default-src 'none'; base-uri 'none'; style-src {}; script-src {}", source(page, "style"), source(page, "script"))
}

/// The hash of the one element of that name.
fn source(page: &str, element: &str) -> String {
    let inside = page.split_once(&format!("<{element}>")).and_then(|(_, rest)| rest.split_once(&format!("</{element}>")));
    inside.map_or_else(|| "'none'".to_owned(), |(text, _)| format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text))))
}

//! The whole router: every route under `/` and `/api`, bounds, JSON errors for what is not there.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use axum::http::request::Parts;
use axum::http::uri::PathAndQuery;
use axum::http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use http_body_util::Limited;
use hyper::upgrade::OnUpgrade;
use tower::ServiceExt;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{NotForContentType, Predicate, SizeAbove};

use crate::app::App;
use crate::audit::{Concerns, Record};
use crate::body;
use crate::doors::Doors;
use crate::error::{self, ApiError};
use crate::keys::Caller;
use crate::openapi::Operation;
use crate::permission::Permission;
use crate::principal::Principal;
use crate::query::Query;
use crate::routes::{self, frontend, packs};
use crate::sent::Sent;
use crate::services::proxy::Forwarded;

/// Answers smaller than this are not worth compressing.
const COMPRESS_ABOVE_BYTES: u16 = 1024;
/// What browsers are told with every answer: to take it for what it says it is, and to tell no other site where they were.
const SAFE: [(HeaderName, &str); 2] = [(X_CONTENT_TYPE_OPTIONS, "nosniff"), (REFERRER_POLICY, "same-origin")];
/// Longest text of an error of the framework.
const MAX_PLAIN_ERROR_BYTES: usize = 16 * 1024;

/// The server as one service.
pub fn router(app: App) -> Router {
    // What another process sends may be a stream of events, of which each must arrive at once.
    let own = |_: StatusCode, _: Version, _: &HeaderMap, about: &Extensions| about.get::<Forwarded>().is_none();
    let compress = SizeAbove::new(COMPRESS_ABOVE_BYTES).and(NotForContentType::IMAGES).and(own);
    let doors = Arc::new(Doors::new(&app.options));
    let table = routes::all();
    let permissions = Arc::new(permissions(&table.operations));
    app.document.get_or_init(|| table.document(&app.options.api_version).to_string().into());
    let routes = Router::new()
        .merge(table.into_router())
        .fallback(page_or_unknown)
        .method_not_allowed_fallback(page_or_unknown)
        .layer(DefaultBodyLimit::max(app.options.max_upload_bytes))
        .layer(middleware::map_response(plain_error_to_json))
        .layer(CompressionLayer::new().gzip(true).compress_when(compress));
    let routes = match doors.cors() {
        Some(cors) => routes.layer(cors),
        None => routes,
    };
    // Layers cost each request time: what can be done in one place is.
    let entrance = Entrance { app: app.clone(), doors, permissions, routes: Arc::default() };
    let again = Arc::clone(&entrance.routes);
    let routes = routes.layer(CatchPanicLayer::custom(panicked)).layer(middleware::from_fn_with_state(entrance, enter)).with_state(app);
    again.get_or_init(|| routes).clone()
}

/// What each method of each route needs.
type Permissions = HashMap<String, Vec<(Method, Permission)>>;

fn permissions(operations: &[Operation]) -> Permissions {
    let mut permissions = Permissions::new();
    for Operation { method, path, permission, .. } in operations {
        let Ok(method) = method.to_ascii_uppercase().parse::<Method>() else { continue };
        for path in [(*path).to_owned(), format!("/api{path}")] {
            permissions.entry(path).or_default().push((method.clone(), *permission));
        }
    }
    permissions
}

/// What a request needs. What no route takes may be a file of the front end, or concerns custom nodes, whose routes may do what prompts do.
fn wanted(permissions: &Permissions, request: &Parts) -> Permission {
    let method = if request.method == Method::HEAD { &Method::GET } else { &request.method };
    let route = request.extensions.get::<MatchedPath>().and_then(|path| permissions.get(path.as_str()));
    let known = route.and_then(|methods| methods.iter().find(|(known, _)| known == method));
    match known {
        Some((_, permission)) => *permission,
        None if *method != Method::GET => Permission::Run,
        None if route.is_none() && is_manifest(request.uri.path()) => Permission::Anybody,
        None => Permission::Read,
    }
}

/// Browsers show no cookie with the one file of the front end that names its icon.
fn is_manifest(path: &str) -> bool {
    let name = path.strip_prefix("/assets/manifest").and_then(|rest| rest.strip_suffix(".json"));
    name.is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)))
}

/// What every request passes.
#[derive(Clone)]
struct Entrance {
    app: App,
    doors: Arc<Doors>,
    permissions: Arc<Permissions>,
    /// All routes, for requests whose path must be spelled otherwise first: layers come after the route was chosen.
    routes: Arc<OnceLock<Router>>,
}

/// Lets a request in, and gives errors the shape that it asked for: whoever failed, a handler, a layer or the framework, knows nothing of
/// shapes.
async fn enter(State(entrance): State<Entrance>, mut request: Request, next: Next) -> Response {
    let Entrance { app, doors, permissions, routes } = entrance;
    if let (Some(plain), Some(routes)) = (plain_path(request.uri()), routes.get()) {
        *request.uri_mut() = plain;
        // What the first choice of a route left must not reach the second; what the connection gave must.
        let left = std::mem::take(request.extensions_mut());
        *request.extensions_mut() = of_connection(left);
        return routes.clone().oneshot(request).await.into_response();
    }
    let shape = Query::read(&mut request, app.options.shape);
    let mut record = None;
    let let_in = async {
        let (mut parts, body) = request.into_parts();
        doors.check(&parts).map_err(IntoResponse::into_response)?;
        if app.gate.is_shut() {
            let wanted = wanted(&permissions, &parts);
            app.gate.admit(&mut parts, wanted).map_err(|answer| *answer)?;
        }
        record = app.gate.audit().and_then(|_| begun(&app, &parts));
        // Who has shown no key has a form to send, and takes nothing from those who have.
        let is_stranger = app.gate.is_shut() && parts.extensions.get::<Arc<Caller>>().is_none();
        let most = if is_stranger { body::SMALL_BYTES } else { app.options.max_upload_bytes };
        let request = body::decoded(most, Request::from_parts(parts, body)).await;
        let mut request = request.map_err(IntoResponse::into_response)?;
        if is_stranger {
            *request.body_mut() = Body::new(Limited::new(std::mem::take(request.body_mut()), most));
        }
        // What it takes is taken until it is answered.
        let work = body::counted(&app.room, &mut request);
        Ok::<_, Response>((request, work))
    };
    let mut response = match let_in.await {
        Err(answer) => answer,
        // Where no other origin is allowed, nobody needs to be told more.
        Ok((request, _)) if request.method() == Method::OPTIONS && !doors.has_cors() => StatusCode::OK.into_response(),
        Ok((request, _work)) => next.run(request).await,
    };
    if let (Some(record), Some(audit)) = (record, app.gate.audit()) {
        let what = response.extensions_mut().remove::<Concerns>().map(|Concerns(what)| what).unwrap_or_default();
        audit.tell(Record { what, status: Some(response.status().as_u16()), ..record });
    }
    for (name, value) in SAFE {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    if app.gate.is_shut() {
        // What one user gets no cache may give to another, nor to the next one of the same browser.
        response.headers_mut().entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("private, no-cache"));
    }
    error::in_shape(shape, response)
}

/// What the audit log is told of a request that may change something.
fn begun(app: &App, request: &Parts) -> Option<Record> {
    if matches!(request.method, Method::GET | Method::HEAD | Method::OPTIONS) {
        return None;
    }
    let caller = request.extensions.get::<Arc<Caller>>();
    Some(Record {
        user: caller.map(|caller| Arc::clone(&caller.user)).unwrap_or_default(),
        key: caller.map(|caller| caller.id.clone()).unwrap_or_default(),
        address: app.gate.address(request),
        ..Record::of(format!("{} {}", request.method, request.uri.path()))
    })
}

fn of_connection(mut extensions: Extensions) -> Extensions {
    let mut kept = Extensions::new();
    if let Some(upgrade) = extensions.remove::<OnUpgrade>() {
        kept.insert(upgrade);
    }
    if let Some(sent) = extensions.remove::<ConnectInfo<Sent>>() {
        kept.insert(sent);
    }
    kept
}

/// What no route takes may be a file of the front end; other methods than GET are 405. So the reference's static route answers them, which
/// is asked too where a route takes other methods.
///
/// Behind the front end's files come those of custom node packs, and their routes.
async fn page_or_unknown(State(app): State<App>, principal: Principal, request: Request) -> Result<Response, ApiError> {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if reads && let Some(page) = frontend::file(&app, principal.clone(), request.uri(), request.headers()).await? {
        return Ok(page);
    }
    // At the first start of a ComfyUI nobody knows yet what its packs have.
    app.installations.known().await;
    if reads && let Some(script) = packs::script(&app, request.uri(), request.headers()).await? {
        return Ok(script);
    }
    if let Some(site) = packs::owner(&app, request.method(), request.uri()) {
        principal.caller().map_or(Ok(()), |caller| Permission::Run.ask(caller))?;
        return packs::forwarded(&app, &site, request).await;
    }
    let (method, path) = (request.method(), request.uri().path());
    Err(if reads {
        ApiError::not_found("there is nothing at that address").details(path)
    } else {
        ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", format!("{path} does not take {method}"))
    })
}

/// Errors of the framework itself (an unreadable query, path or handshake) are plain text: they get the form of all others.
async fn plain_error_to_json(response: Response) -> Response {
    let (status, headers) = (response.status(), response.headers());
    let plain = headers.get(CONTENT_TYPE).is_none_or(|mime| mime.as_bytes().starts_with(b"text/plain"));
    let forwarded = response.extensions().get::<Forwarded>().is_some();
    if !(status.is_client_error() || status.is_server_error()) || !plain || forwarded {
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

/// Routes are found by the decoded path: percent codes of characters that could stand there as they are become these. `None` where there
/// are none.
fn plain_path(uri: &Uri) -> Option<Uri> {
    let text = uri.path_and_query().map(PathAndQuery::as_str).filter(|text| text.contains('%'))?;
    let (path, query) = text.split_at(text.find('?').unwrap_or(text.len()));
    let mut plain = String::with_capacity(text.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        plain.push_str(&rest[..at]);
        let code = rest.get(at..at + 3);
        let decoded = code.and_then(|code| u8::from_str_radix(&code[1..], 16).ok()).map(char::from);
        match (decoded.filter(|c| c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@".contains(*c)), code) {
            (Some(c), _) => plain.push(c),
            (None, code) => plain.push_str(code.unwrap_or("%")),
        }
        rest = &rest[at + code.map_or(1, str::len)..];
    }
    plain.push_str(rest);
    if plain == path {
        return None;
    }
    plain.push_str(query);
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = plain.parse().ok();
    Uri::from_parts(parts).ok()
}

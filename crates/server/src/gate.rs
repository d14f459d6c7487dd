//! Whom a key lets in: where a request may show one, what it is answered without a good one, and from where it comes. Knows no route but by
//! what is permitted there.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::ConnectInfo;
use axum::http::header::{ACCEPT, AUTHORIZATION, COOKIE, HOST, LOCATION, RETRY_AFTER, SET_COOKIE, UPGRADE, WWW_AUTHENTICATE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use comfyd_jobs::now_ms;
use parking_lot::Mutex;
use url::form_urlencoded;

use crate::audit::{Audit, Record};
use crate::error::ApiError;
use crate::keys::{Caller, Keys};
use crate::login;
use crate::options::Options;
use crate::permission::Permission;
use crate::query::Query;
use crate::sent::Sent;

/// Where programs may show a key besides `Authorization`.
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// How long a browser stays logged in.
const COOKIE_AGE: Duration = Duration::from_secs(30 * 24 * 3600);
/// Wrong keys that an address may show in this time. Good ones are taken all the same: who shares the address is not shut out.
const MAX_FAILURES: u32 = 10;
const FAILURES_WITHIN: Duration = Duration::from_secs(60);
/// Addresses whose failures are counted.
const MAX_ADDRESSES: usize = 4096;

/// Cookies of the name that are tried: each is compared with all keys, and browsers send one, or a few of different paths.
const MAX_COOKIES: usize = 4;
/// What a caller without a key is told.
const NO_KEY: &str = "this server asks for a key: open /login in a browser, or send one as 'Authorization: Bearer KEY' or 'X-API-Key: KEY' \
     (whoever runs the server makes one with `comfyd key add NAME`)";
/// The same on the page to log in.
const NO_KEY_PAGE: &str = "This server asks for a key. Whoever runs it makes one with `comfyd key add NAME`.";
const WRONG_KEY: &str = "this key opens nothing: it is mistyped, was revoked or has ended; ask whoever runs the server for another";
const TOO_MANY: &str = "too many wrong keys came from this address: wait a minute, and send the right one";

/// Asks for keys.
pub(crate) struct Gate {
    keys: Arc<Keys>,
    tls: bool,
    proxies: Vec<IpAddr>,
    /// Whether it is beyond this machine that the server is reached.
    beyond: bool,
    audit: Option<Arc<Audit>>,
    failures: Mutex<HashMap<IpAddr, Failures>>,
}

/// The wrong keys of an address.
struct Failures {
    since: Instant,
    count: u32,
}

/// Where a key was shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Header,
    Cookie,
    Query,
}

impl Gate {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            keys: Arc::clone(&options.keys),
            tls: options.tls,
            proxies: options.trusted_proxies.iter().map(|ip| plain(*ip)).collect(),
            beyond: !options.listen.iter().all(IpAddr::is_loopback),
            audit: options.audit.clone(),
            failures: Mutex::default(),
        }
    }

    /// Whether a key is asked for.
    pub(crate) fn is_shut(&self) -> bool {
        self.keys.required()
    }

    /// Where what is changed is written down: not on a machine's own server that asks for no key.
    pub(crate) fn audit(&self) -> Option<&Audit> {
        self.audit.as_deref().filter(|_| self.beyond || self.is_shut())
    }

    /// Lets a request in that shows a key which allows what it wants, and leaves whose it is with it.
    ///
    /// # Errors
    /// The answer to one that is not let in, or is to come again with a cookie.
    pub(crate) fn admit(&self, request: &mut Parts, wanted: Permission) -> Result<(), Box<Response>> {
        // A browser asks with it whether a page of another origin may ask at all, and shows no key. Nothing else is answered to it.
        if request.method == Method::OPTIONS {
            return Ok(());
        }
        let shown = shown(request);
        let found = shown.iter().find_map(|(place, key)| Some((*place, key, self.keys.find(key)?)));
        let Some((place, key, caller)) = found else {
            if wanted == Permission::Anybody {
                return Ok(());
            }
            let refused = if shown.is_empty() {
                self.refused(request, no_key(), Some(NO_KEY_PAGE))
            } else {
                self.refused(request, self.wrong_key(request), None)
            };
            return Err(Box::new(refused));
        };
        if place == Place::Query && !is_websocket(request) {
            return Err(Box::new(self.welcome(request, key, &caller)));
        }
        if let Err(error) = wanted.ask(&caller) {
            self.record(request, &caller, &format!("{} {}", request.method, request.uri.path()), Some(error.status().as_u16()));
            return Err(Box::new(error.into_response()));
        }
        hide(&mut request.headers);
        request.extensions.insert(caller);
        Ok(())
    }

    /// Whose key this is that was typed in.
    pub(crate) fn try_key(&self, request: &Parts, key: &str) -> Result<Arc<Caller>, ApiError> {
        let found = self.keys.find(key);
        if let Some(caller) = &found {
            self.record(request, caller, "login", None);
        }
        found.ok_or_else(|| self.wrong_key(request))
    }

    /// Counts a wrong key; the error for it.
    fn wrong_key(&self, request: &Parts) -> ApiError {
        let wrong = ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", WRONG_KEY);
        let Some(address) = self.address(request) else { return wrong };
        if self.failed(network(address)) {
            return ApiError::new(StatusCode::TOO_MANY_REQUESTS, "too_many_wrong_keys", TOO_MANY);
        }
        tracing::warn!(%address, "a wrong key was shown");
        if let Some(audit) = self.audit() {
            let action = format!("wrong key at {} {}", request.method, request.uri.path());
            audit.tell(Record { address: Some(address), status: Some(401), ..Record::of(action) });
        }
        wrong
    }

    /// Counts a failure. Whether there were too many.
    fn failed(&self, address: IpAddr) -> bool {
        let now = Instant::now();
        let mut failures = self.failures.lock();
        if failures.len() >= MAX_ADDRESSES && !failures.contains_key(&address) {
            failures.retain(|_, failures| now - failures.since < FAILURES_WITHIN);
            let oldest = failures.iter().min_by_key(|(_, failures)| failures.since).map(|(address, _)| *address);
            if let Some(oldest) = oldest.filter(|_| failures.len() >= MAX_ADDRESSES) {
                failures.remove(&oldest);
            }
        }
        let known = failures.entry(address).or_insert(Failures { since: now, count: 0 });
        if now - known.since >= FAILURES_WITHIN {
            *known = Failures { since: now, count: 0 };
        }
        known.count = known.count.saturating_add(1);
        known.count > MAX_FAILURES
    }

    /// The answer to who is not let in: the page to log in where a browser would show it, which says why in words of its own, if there are.
    fn refused(&self, request: &Parts, error: ApiError, why: Option<&str>) -> Response {
        let status = error.status();
        let page = shows_pages(request).then(|| login::page(request.uri.path(), why.unwrap_or(error.message())));
        let mut response = page.unwrap_or_else(|| error.into_response());
        *response.status_mut() = status;
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"comfyd\""));
        } else {
            say_when(&mut response);
        }
        response
    }

    /// Sends a browser that came with the key in its address to the same place without it, with a cookie.
    fn welcome(&self, request: &Parts, key: &str, caller: &Caller) -> Response {
        self.record(request, caller, "login", None);
        let rest = form_urlencoded::parse(request.uri.query().unwrap_or_default().as_bytes()).filter(|(name, _)| name != "token");
        let rest = form_urlencoded::Serializer::new(String::new()).extend_pairs(rest).finish();
        let mark = if rest.is_empty() { "" } else { "?" };
        // Two slashes at the beginning would be another host.
        let path = request.uri.path().trim_start_matches(['/', '\\']);
        let headers = [(LOCATION, format!("/{path}{mark}{rest}")), (SET_COOKIE, self.cookie(request, Some((key, caller))))];
        (StatusCode::SEE_OTHER, headers).into_response()
    }

    /// The cookie that keeps a browser logged in, or one that ends this.
    pub(crate) fn cookie(&self, request: &Parts, login: Option<(&str, &Caller)>) -> String {
        let (key, age) = login.map_or(("", 0), |(key, caller)| {
            let left_ms = caller.expires_ms.map_or(i64::MAX, |end| end.saturating_sub(now_ms()));
            (key, COOKIE_AGE.as_secs().min(left_ms.max(0).unsigned_abs() / 1000))
        });
        let secure = if self.secure(request) { "; Secure" } else { "" };
        format!("{}={key}; Path=/; HttpOnly; SameSite=Strict; Max-Age={age}{secure}", cookie_name(&request.headers))
    }

    fn record(&self, request: &Parts, caller: &Caller, action: &str, status: Option<u16>) {
        if let Some(audit) = self.audit() {
            let (user, key) = (Arc::clone(&caller.user), caller.id.clone());
            audit.tell(Record { user, key, address: self.address(request), status, ..Record::of(action) });
        }
    }

    /// From where the request comes: the other end of its connection, or what a trusted proxy says.
    pub(crate) fn address(&self, request: &Parts) -> Option<IpAddr> {
        let peer = plain(request.extensions.get::<ConnectInfo<Sent>>()?.0.peer?);
        if !self.proxies.contains(&peer) {
            return Some(peer);
        }
        // Each proxy adds whom it saw at the end; what stands before the first that is not trusted, anybody may have written.
        let said = request.headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
        let said: Vec<&str> = said.flat_map(|text| text.split(',')).collect();
        let mut seen = said.iter().rev().map_while(|text| text.trim().parse().ok().map(plain));
        let mut nearest = peer;
        loop {
            match seen.next() {
                Some(address) if self.proxies.contains(&address) => nearest = address,
                Some(address) => return Some(address),
                None => return Some(nearest),
            }
        }
    }

    /// Whether the browser talks TLS, to this server or to a trusted proxy.
    fn secure(&self, request: &Parts) -> bool {
        let peer = request.extensions.get::<ConnectInfo<Sent>>().and_then(|ConnectInfo(sent)| sent.peer);
        let trusted = peer.is_some_and(|peer| self.proxies.contains(&plain(peer)));
        let said = request.headers.get(FORWARDED_PROTO).and_then(|value| value.to_str().ok());
        self.tls || trusted && said.is_some_and(|proto| proto.trim().eq_ignore_ascii_case("https"))
    }
}

/// The error for who shows no key.
fn no_key() -> ApiError {
    ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", NO_KEY)
}

/// The keys that a request shows, with the places. In its address one counts for websockets, which browsers give no headers, and for the
/// first visit to a page: addresses are kept in too many places.
fn shown(request: &Parts) -> Vec<(Place, String)> {
    let text = |value: &HeaderValue| value.to_str().ok().map(|text| text.trim().to_owned());
    let mut shown: Vec<(Place, String)> = Vec::new();
    let bearer = request.headers.get(AUTHORIZATION).and_then(text);
    let bearer = bearer.and_then(|text| {
        let (scheme, key) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim().to_owned())
    });
    shown.extend(bearer.map(|key| (Place::Header, key)));
    shown.extend(request.headers.get(API_KEY).and_then(text).map(|key| (Place::Header, key)));
    let name = cookie_name(&request.headers);
    let kept = cookies(&request.headers).filter(|(known, _)| *known == name).take(MAX_COOKIES);
    shown.extend(kept.map(|(_, key)| (Place::Cookie, key.to_owned())));
    if is_websocket(request) || request.method == Method::GET && (shows_pages(request) || request.uri.path() == "/") {
        let token = request.extensions.get::<Query>().and_then(|query| query.get("token"));
        shown.extend(token.map(|key| (Place::Query, key.to_owned())));
    }
    shown.retain(|(_, key)| !key.is_empty());
    shown
}

/// Takes the keys out of the headers: neither handlers nor the processes of custom nodes have a use for them.
fn hide(headers: &mut HeaderMap) {
    let name = cookie_name(headers);
    let others: Vec<String> = cookies(headers).filter(|(known, _)| *known != name).map(|(name, value)| format!("{name}={value}")).collect();
    for header in [AUTHORIZATION, API_KEY, COOKIE] {
        headers.remove(header);
    }
    if let Some(others) = (!others.is_empty()).then(|| HeaderValue::from_str(&others.join("; ")).ok()).flatten() {
        headers.insert(COOKIE, others);
    }
}

fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='))
}

/// Browsers do not tell the ports of a host apart by themselves.
fn cookie_name(headers: &HeaderMap) -> String {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let port = host.rsplit_once(':').map(|(_, port)| port).filter(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
    port.map_or_else(|| "comfyd_key".to_owned(), |port| format!("comfyd_key_{port}"))
}

fn is_websocket(request: &Parts) -> bool {
    let upgrade = request.headers.get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    upgrade && matches!(request.uri.path(), "/ws" | "/api/ws")
}

/// Whether a person sees the answer.
fn shows_pages(request: &Parts) -> bool {
    let accepts = request.headers.get(ACCEPT).and_then(|value| value.to_str().ok()).is_some_and(|accept| accept.contains("text/html"));
    accepts && matches!(request.method, Method::GET | Method::HEAD)
}

/// One spelling for each address.
fn plain(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(ip) => ip.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

/// Whose failures are counted together: whoever has one address of IPv6 has all of its network.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 64))),
        IpAddr::V4(_) => address,
    }
}

/// Tells who has shown too many wrong keys when to come back.
pub(crate) fn say_when(response: &mut Response) {
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(FAILURES_WITHIN.as_secs()));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use axum::http::Request;

    use super::*;

    fn request(peer: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::get("/queue");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        parts.extensions.insert(ConnectInfo(Sent::by(peer.parse().unwrap())));
        parts
    }

    #[test]
    fn addresses_are_those_that_trusted_proxies_saw() {
        let proxies = ["10.0.0.1", "10.0.0.2"].map(|ip| ip.parse().unwrap()).into();
        let gate = Gate::new(&Options { trusted_proxies: proxies, ..Options::default() });
        for (peer, said, seen) in [
            ("1.2.3.4", "9.9.9.9", "1.2.3.4"),
            ("::ffff:1.2.3.4", "", "1.2.3.4"),
            ("10.0.0.1", "9.9.9.9", "9.9.9.9"),
            ("10.0.0.1", "6.6.6.6, 9.9.9.9", "9.9.9.9"),
            ("10.0.0.1", "6.6.6.6, 9.9.9.9, 10.0.0.2", "9.9.9.9"),
            ("10.0.0.1", "6.6.6.6, nobody", "10.0.0.1"),
            ("10.0.0.1", "", "10.0.0.1"),
        ] {
            assert_eq!(gate.address(&request(peer, &[("x-forwarded-for", said)])).unwrap().to_string(), seen, "{peer} {said}");
        }
        let secure = |peer: &str| gate.cookie(&request(peer, &[("x-forwarded-proto", "https"), ("host", "h:81")]), None);
        assert_eq!(secure("10.0.0.2"), "comfyd_key_81=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0; Secure");
        assert!(!secure("1.2.3.4").contains("Secure"));
    }

    #[test]
    fn failures_are_counted_for_each_network_and_bounded() {
        let gate = Gate::new(&Options::default());
        let failed = |ip: &str| gate.failed(network(ip.parse().unwrap()));
        assert!((0..MAX_FAILURES).all(|n| !failed(&format!("2001:db8::{n}"))));
        assert!(failed("2001:db8::ffff") && !failed("2001:db8:0:1::1") && !failed("1.2.3.4"));
        for n in 0..2 * MAX_ADDRESSES as u32 {
            gate.failed(IpAddr::V4(n.into()));
        }
        assert_eq!(gate.failures.lock().len(), MAX_ADDRESSES);
    }

    #[test]
    fn few_cookies_are_tried() {
        let parts = request("192.0.2.1", &[("cookie", &"comfyd_key=x; ".repeat(1000))]);
        assert_eq!(shown(&parts).len(), MAX_COOKIES);
    }

    #[test]
    fn keys_do_not_travel_on() {
        let cookie = ("cookie", "a=1; comfyd_key_81=k; b=2");
        let mut parts = request("1.1.1.1", &[("host", "h:81"), cookie, ("x-api-key", "x"), ("authorization", "bearer  y")]);
        let keys: Vec<String> = shown(&parts).into_iter().map(|(_, key)| key).collect();
        assert_eq!(keys, ["y", "x", "k"]);
        hide(&mut parts.headers);
        assert_eq!(parts.headers[COOKIE], "a=1; b=2");
        assert!(shown(&parts).is_empty());
    }
}

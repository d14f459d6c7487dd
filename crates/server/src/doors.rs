//! Who may ask: the hosts that this server answers to, and the origins whose pages it serves. Knows no route.
//!
//! A browser lets any page send requests to servers on its user's machine and network. Such a page is known by its `Origin`, or by what the
//! browser says of the request (`Sec-Fetch-Site`, `Referer`). A page whose name is made to resolve to this machine (DNS rebinding) has the
//! same origin as the server it talks to; it is known by a `Host` that is none of this server's names.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::header::{HOST, ORIGIN};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use parking_lot::Mutex;
use tower_http::cors::{AllowHeaders, AllowOrigin, Any, CorsLayer};
use url::{Host, Url};

use crate::error::ApiError;
use crate::options::Options;
use crate::origins::{Authority, HostRule, Origin, OriginRule, normal};

/// How long a browser may keep the answer to a preflight request.
const PREFLIGHT_AGE: Duration = Duration::from_secs(600);

/// The rules of one server.
pub(crate) struct Doors {
    listen: Vec<IpAddr>,
    hosts: Vec<HostRule>,
    origins: Vec<OriginRule>,
    /// The spelling of the last host that the server answered to: nearly all requests come with the same.
    answered: Mutex<String>,
}

impl Doors {
    pub(crate) fn new(options: &Options) -> Self {
        let mut hosts = options.allow_hosts.clone();
        if !options.listen.iter().all(IpAddr::is_loopback)
            && let Some(name) = sysinfo::System::host_name()
        {
            let names = [format!("{name}.local"), name];
            hosts.extend(names.iter().filter_map(|name| Host::parse(name).ok()).map(|host| HostRule::One(normal(host))));
        }
        Self { listen: options.listen.clone(), hosts, origins: options.allow_origins.clone(), answered: Mutex::default() }
    }

    /// Fails unless the request names this server and comes from nobody's page or an allowed one.
    pub(crate) fn check(&self, request: &Parts) -> Result<(), ApiError> {
        // A proxy's form of the request names the server in its first line too.
        let line = request.uri.authority().map(|authority| authority.as_str());
        let host = one_header(&request.headers, HOST)?;
        let origin = one_header(&request.headers, ORIGIN)?;
        let page = origin.or_else(|| foreign_page(request));
        if page.is_none() && line.is_none() && host.is_some_and(|host| self.answered.lock().as_str() == host) {
            return Ok(());
        }
        let mut asked = None;
        for text in [host, line].into_iter().flatten() {
            let authority =
                Authority::parse(text).ok_or_else(|| ApiError::bad_request("the request's host cannot be read").details(text))?;
            if !self.answers_to(&authority.host) {
                return Err(refused(format!(
                    "this server does not answer to the host '{0}': start it with --allow-host {0} if that is one of its names",
                    authority.host
                )));
            }
            asked = Some(authority);
        }
        if let Some(host) = host {
            let mut answered = self.answered.lock();
            host.clone_into(&mut answered);
        }
        let Some(page) = page else { return Ok(()) };
        let parsed = if origin.is_some() { Origin::parse(page) } else { Url::parse(page).ok().map(|url| Origin::of(&url)) };
        let own = parsed.as_ref().zip(asked.as_ref()).is_some_and(|(origin, asked)| origin.is_at(asked));
        // A page that hides its origin, and one that has none, can ask blindly only: its browser keeps the answer from it.
        let hidden = page.is_empty() && self.origins.iter().any(|rule| matches!(rule, OriginRule::One(o) if o.is_nowhere()));
        if own || hidden || self.allows(parsed.as_ref()) {
            return Ok(());
        }
        let (shown, option) = match &parsed {
            Some(origin) => (format!("'{origin}'"), format!("--allow-origin {origin}")),
            None => ("another site".to_owned(), "--allow-origin and the page's origin".to_owned()),
        };
        Err(refused(format!("requests of pages from {shown} are refused: start the server with {option} to allow them")))
    }

    fn answers_to(&self, host: &Host<String>) -> bool {
        let address = match host {
            Host::Domain(name) => {
                return name == "localhost" || self.everybody() || self.hosts.iter().any(|rule| rule.fits(host));
            }
            Host::Ipv4(ip) => IpAddr::V4(*ip),
            Host::Ipv6(ip) => IpAddr::V6(*ip),
        };
        // An address cannot be made to lead elsewhere as a name can, and a server that listens everywhere cannot know all of its own: that
        // of a container's host, or of a router before it, is not among them.
        let own = address.is_loopback() || self.listen.iter().any(|ip| ip.is_unspecified() || *ip == address);
        own || self.everybody() || self.hosts.iter().any(|rule| rule.fits(host))
    }

    fn everybody(&self) -> bool {
        self.origins.contains(&OriginRule::Any)
    }

    fn allows(&self, origin: Option<&Origin>) -> bool {
        self.origins.iter().any(|rule| match rule {
            OriginRule::Any => true,
            OriginRule::One(known) => Some(known) == origin,
        })
    }

    /// Whether pages of other origins are allowed at all.
    pub(crate) fn has_cors(&self) -> bool {
        !self.origins.is_empty()
    }

    /// What tells the browser that an allowed page may read the answers, where there can be one. Also answers every OPTIONS request.
    pub(crate) fn cors(self: &Arc<Self>) -> Option<CorsLayer> {
        if !self.has_cors() {
            return None;
        }
        let methods = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
        let layer = CorsLayer::new().allow_methods(methods).allow_headers(AllowHeaders::mirror_request()).max_age(PREFLIGHT_AGE);
        let layer = layer.allow_private_network(true);
        if self.everybody() {
            // Browsers take no credentials along to such a server, whatever it says of them.
            return Some(layer.allow_origin(Any));
        }
        let doors = Arc::clone(self);
        let allowed = move |origin: &HeaderValue, _: &Parts| origin.to_str().is_ok_and(|text| doors.allows(Origin::parse(text).as_ref()));
        Some(layer.allow_origin(AllowOrigin::predicate(allowed)).allow_credentials(true))
    }
}

/// Refuses, and tells those who run the server too: they know the option to use.
fn refused(message: String) -> ApiError {
    tracing::warn!("{message}");
    ApiError::forbidden(message)
}

/// A header's value, if there is one and it says something. Several are an error: whoever stands between might read another one.
fn one_header(headers: &HeaderMap, name: HeaderName) -> Result<Option<&str>, ApiError> {
    let mut values = headers.get_all(&name).iter();
    let value = values.next();
    if values.next().is_some() {
        return Err(ApiError::bad_request(format!("the request has more than one header '{name}': send one")));
    }
    let text = value.map(HeaderValue::to_str).transpose();
    let text = text.map_err(|_| ApiError::bad_request(format!("the header '{name}' must be plain ASCII")))?;
    Ok(text.map(str::trim).filter(|text| !text.is_empty()))
}

/// The page behind a request that says no origin, where the browser tells that it is another site's: the `Referer`, empty where it is
/// hidden. Pictures, scripts and frames are asked for so. Going to a page of this server by a link is no request of the other page.
fn foreign_page(request: &Parts) -> Option<&str> {
    let text = |name: &str| request.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let foreign = !matches!(text("sec-fetch-site"), "" | "none" | "same-origin");
    let goes_there = text("sec-fetch-mode") == "navigate" && text("sec-fetch-dest") == "document";
    let reads = matches!(request.method, Method::GET | Method::HEAD);
    (foreign && !(goes_there && reads)).then(|| text("referer"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn doors(listen: &[&str], hosts: &[&str], origins: &[&str]) -> Doors {
        Doors::new(&Options {
            listen: listen.iter().map(|ip| ip.parse().unwrap()).collect(),
            allow_hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
            allow_origins: origins.iter().map(|origin| origin.parse().unwrap()).collect(),
            ..Options::default()
        })
    }

    /// The status of a GET request: 200 if it is let in.
    fn ask(doors: &Doors, headers: &[(&str, &str)]) -> u16 {
        let mut request = axum::http::Request::get("/prompt");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        match doors.check(&request.body(()).unwrap().into_parts().0) {
            Ok(()) => 200,
            Err(error) => axum::response::IntoResponse::into_response(error).status().as_u16(),
        }
    }

    #[test]
    fn a_server_answers_to_its_own_names_in_every_spelling() {
        let local = doors(&["127.0.0.1"], &[], &[]);
        let own = "localhost LocalHost:8188 localhost. localhost.:9000 localhost: localhost:0 127.0.0.1:8188 127.0.0.1. 127.8.9.1 127.1 0x7f.1 \
            2130706433 017700000001 [::1]:8188 [0:0:0:0:0:0:0:1] [::ffff:127.0.0.1] [::FFFF:7f00:1]";
        for host in own.split(' ') {
            assert_eq!(ask(&local, &[("host", host)]), 200, "{host}");
        }
        let strangers = "0.0.0.0 0.0.0.0:8188 0 [::] evil.example:8188 x.localhost localhost.evil.example 127.0.0.1.nip.io 192.168.1.5 \
            [::ffff:10.0.0.1] 128.0.0.1";
        for host in strangers.split(' ') {
            let origin = format!("http://{host}");
            assert_eq!(ask(&local, &[("host", host)]), 403, "{host}");
            assert_eq!(ask(&local, &[("host", host), ("origin", &origin)]), 403, "{host}");
        }
        let unreadable =
            "a@localhost localhost/ local\thost localhost:99999 localhost:+1 localhost:x ::1 %6cocalhost [::1 [127.0.0.1] :8188";
        for host in unreadable.split(' ') {
            assert_eq!(ask(&local, &[("host", host)]), 400, "{host}");
        }
        assert_eq!(ask(&local, &[("host", "localhost"), ("host", "localhost")]), 400);
        assert_eq!(ask(&local, &[("host", "")]), 200);
        assert_eq!(ask(&local, &[]), 200);
    }

    #[test]
    fn a_server_that_listens_everywhere_answers_to_addresses_and_to_no_name() {
        let open = doors(&["0.0.0.0", "::"], &[], &[]);
        for (host, status) in [("192.168.1.5:9000", 200), ("[fe80::1]", 200), ("0.0.0.0:8188", 200), ("pod.proxy.example", 403)] {
            assert_eq!(ask(&open, &[("host", host)]), status, "{host}");
        }
        let one = doors(&["192.168.1.5"], &[], &[]);
        for (host, status) in [("192.168.1.5", 200), ("[::ffff:192.168.1.5]", 200), ("localhost", 200), ("192.168.1.6", 403)] {
            assert_eq!(ask(&one, &[("host", host)]), status, "{host}");
        }
        if let Some(name) = sysinfo::System::host_name().filter(|name| Host::parse(name).is_ok()) {
            assert_eq!(ask(&one, &[("host", &name)]), 200, "{name}");
            assert_eq!(ask(&one, &[("host", &format!("{name}.local:8188"))]), 200, "{name}");
        }
    }

    #[test]
    fn further_hosts_are_allowed_by_name() {
        let named = doors(&["127.0.0.1"], &["Comfy.Example", "*.tunnel.example", "10.0.0.1", "fd00::1"], &[]);
        for (host, status) in [
            ("comfy.example", 200),
            ("COMFY.example.:443", 200),
            ("a.comfy.example", 403),
            ("a.b.tunnel.example", 200),
            ("tunnel.example", 403),
            ("eviltunnel.example", 403),
            ("10.0.0.1:80", 200),
            ("[fd00::1]", 200),
            ("10.0.0.2", 403),
        ] {
            assert_eq!(ask(&named, &[("host", host)]), status, "{host}");
        }
        assert_eq!(ask(&named, &[("host", "comfy.example"), ("origin", "https://comfy.example")]), 200);
        assert_eq!(ask(&doors(&["127.0.0.1"], &["*"], &[]), &[("host", "any.example")]), 200);
        assert_eq!(ask(&doors(&["127.0.0.1"], &["*"], &[]), &[("host", "any.example"), ("origin", "http://other.example")]), 403);
        for wrong in ["", "http://a", "a:80", "a/b", "*.1.2.3.4", "a b", "**"] {
            assert!(wrong.parse::<HostRule>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn pages_of_other_origins_are_refused() {
        let local = doors(&["127.0.0.1"], &[], &[]);
        for (host, origin, status) in [
            ("localhost:8188", "http://localhost:8188", 200),
            ("LOCALHOST:8188", "http://localhost.:8188", 200),
            ("127.0.0.1:8188", "http://127.1:8188", 200),
            ("[::ffff:127.0.0.1]:8188", "http://127.0.0.1:8188", 200),
            ("localhost", "http://localhost", 200),
            ("localhost:80", "http://localhost", 200),
            ("localhost", "https://localhost", 200),
            ("localhost:8188", "ws://localhost:8188", 200),
            ("localhost:8188", "", 200),
            ("localhost:8188", "http://localhost", 403),
            ("localhost:8188", "http://localhost:3000", 403),
            ("localhost", "http://localhost:8188", 403),
            ("localhost:8188", "http://127.0.0.1:8188", 403),
            ("localhost:8188", "http://evil.example", 403),
            ("localhost:8188", "http://localhost:8188.evil.example", 403),
            ("localhost:8188", "http://localhost:8188@evil.example", 403),
            ("localhost:8188", "http://evil@localhost:8188", 403),
            ("localhost:8188", "http://localhost:8188/x", 403),
            ("localhost:8188", "ftp://localhost:8188", 403),
            ("localhost:8188", "localhost:8188", 403),
            ("localhost:8188", "null", 403),
            ("localhost:8188", "file://", 403),
            ("localhost:8188", "http://", 403),
            ("localhost:8188", "http://localhost:8188 http://evil.example", 403),
        ] {
            assert_eq!(ask(&local, &[("host", host), ("origin", origin)]), status, "{host} {origin}");
        }
        assert_eq!(ask(&local, &[("origin", "http://localhost:8188")]), 403, "without a host nothing is the same");
        assert_eq!(ask(&local, &[("host", "localhost"), ("origin", "http://localhost"), ("origin", "http://evil.example")]), 400);
    }

    #[test]
    fn what_a_foreign_page_asks_for_without_an_origin_is_refused_too() {
        let (local, named) = (doors(&["127.0.0.1"], &[], &[]), doors(&["127.0.0.1"], &[], &["http://localhost:5173"]));
        let files = doors(&["127.0.0.1"], &[], &["file://"]);
        let host = ("host", "localhost:8188");
        let picture = |site: &'static str| [host, ("sec-fetch-site", site), ("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "image")];
        assert_eq!(["none", "same-origin", "same-site", "cross-site"].map(|site| ask(&local, &picture(site))), [200, 200, 403, 403]);
        let going = |dest: &'static str| [host, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", dest)];
        assert_eq!(["document", "iframe", "object"].map(|dest| ask(&local, &going(dest))), [200, 403, 403]);
        let shown_by = |page: &'static str| [&picture("same-site")[..], &[("referer", page)]].concat();
        assert_eq!(ask(&named, &shown_by("http://localhost:5173/app?x=1")), 200);
        assert_eq!(ask(&named, &shown_by("http://localhost:3000/http://localhost:5173")), 403);
        assert_eq!(ask(&local, &shown_by("http://localhost:5173/")), 403);
        assert_eq!([&local, &named, &files].map(|doors| ask(doors, &picture("cross-site"))), [403, 403, 200]);
    }

    #[test]
    fn allowed_origins_are_those_and_no_others() {
        let named = doors(&["127.0.0.1"], &[], &["HTTP://LocalHost:5173/", "https://ui.example:443", "file://", "vscode-webview://AbC"]);
        for (origin, status) in [
            ("http://localhost:5173", 200),
            ("https://ui.example", 200),
            ("file://", 200),
            ("vscode-webview://abc", 200),
            ("http://ui.example", 403),
            ("http://localhost:5174", 403),
            ("null", 403),
            ("http://evil.example", 403),
            ("vscode-webview://abd", 403),
        ] {
            assert_eq!(ask(&named, &[("host", "localhost:8188"), ("origin", origin)]), status, "{origin}");
        }
        assert_eq!(ask(&named, &[("host", "rebound.example"), ("origin", "http://localhost:5173")]), 403);
        assert_eq!(ask(&doors(&["127.0.0.1"], &[], &["null"]), &[("host", "localhost"), ("origin", "null")]), 200);
        assert_eq!(ask(&doors(&["127.0.0.1"], &[], &["*"]), &[("host", "x.example"), ("origin", "http://evil.example")]), 200);
        for wrong in ["", "localhost:5173", "http://", "http://a/b", "http://a?b", "http://u@a", "file:///tmp/a"] {
            assert!(wrong.parse::<OriginRule>().is_err(), "{wrong}");
        }
    }
}

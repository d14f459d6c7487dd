//! What clients may do with HTTP, over real sockets: who is let in, how bodies are coded, how paths and queries are spelled.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use comfyd_node::{Input, Schema};
use comfyd_server::{Options, RequiredVersions, listen};
use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

/// For localhost, valid for a hundred years; its key is no secret.
const CERTIFICATE: &str = include_str!("localhost.pem");

struct Server {
    inner: support::Server,
    address: SocketAddr,
    _stop: watch::Sender<bool>,
}

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", String::from_utf8_lossy(&self.body)))
    }

    fn message(&self) -> String {
        self.json()["error"]["message"].as_str().unwrap_or_default().to_owned()
    }

    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }
}

impl Server {
    fn start(change: impl FnOnce(&mut Options)) -> Self {
        Self::with_tls(None, change)
    }

    fn with_tls(tls: Option<Arc<rustls::ServerConfig>>, change: impl FnOnce(&mut Options)) -> Self {
        let show = Schema::new("Show").display("Show").category("test").description("Shows.").input(Input::text("value")).output_node();
        let inner = support::Server::new([show], |options, _| {
            options.max_upload_bytes = 1 << 20;
            change(options);
        });
        let listeners = listen::bind(&["127.0.0.1:0".parse().unwrap()]).unwrap();
        let address = listeners[0].local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(listen::serve(inner.router.clone(), listeners, tls, listen::Bounds::default(), stopped));
        Self { inner, address, _stop: stop }
    }

    /// Sends a request as it stands, and reads until the server closes.
    async fn raw(&self, request: &[u8]) -> Answer {
        exchange(TcpStream::connect(self.address).await.unwrap(), request).await
    }

    /// `line` is the method and the target; `headers` go before those that a body needs.
    async fn send(&self, line: &str, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Answer {
        let body = body.as_ref();
        let mut request = format!("{line} HTTP/1.1\r\n");
        if !headers.iter().any(|(name, _)| *name == "Host") {
            request.push_str(&format!("Host: {}\r\n", self.address));
        }
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() {
            request.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        if !headers.iter().any(|(name, _)| *name == "Upgrade") {
            request.push_str("Connection: close\r\n");
        }
        request.push_str("\r\n");
        self.raw(&[request.as_bytes(), body].concat()).await
    }

    async fn get(&self, target: &str) -> Answer {
        self.send(&format!("GET {target}"), &[], "").await
    }

    async fn open_socket(&self, target: &str, headers: &[(&str, &str)]) -> Answer {
        let upgrade = [
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        self.send(&format!("GET {target}"), &[headers, &upgrade].concat(), "").await
    }

    /// The name under which a form's file was stored, and its content.
    async fn upload(&self, content_type: &str, form: impl AsRef<[u8]>) -> (String, Vec<u8>) {
        let answer = self.send("POST /upload/image", &[("Content-Type", content_type)], form).await;
        assert_eq!(answer.status, 200, "{}", answer.message());
        let name = answer.json()["name"].as_str().unwrap().to_owned();
        let content = std::fs::read(self.inner.dir.path().join("input").join(&name)).unwrap();
        (name, content)
    }
}

/// Reads until the other side closes, or until a refusal or the first message of a websocket has come.
async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &[u8]) -> Answer {
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let count = stream.read(&mut chunk).await.unwrap();
        answer.extend(&chunk[..count]);
        let of_socket = answer.starts_with(b"HTTP/1.1 101") || request.windows(8).any(|bytes| bytes == b"Upgrade:");
        if count == 0 || of_socket && answer.ends_with(b"}") {
            break;
        }
    }
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap_or_else(|| panic!("{:?}", String::from_utf8_lossy(&answer)));
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head, body: answer[end + 4..].to_vec() }
}

const PROMPT: &str = r#"{"prompt": {"1": {"class_type": "Show", "inputs": {"value": "é"}}}}"#;

/// Everything that a page must not reach.
const CALLS: [&str; 9] = [
    "GET /queue",
    "GET /object_info",
    "GET /nothing",
    "POST /prompt",
    "POST /api/interrupt",
    "POST /upload/image",
    "POST /settings/a",
    "DELETE /userdata/a",
    "OPTIONS /prompt",
];

#[tokio::test]
async fn pages_of_other_origins_reach_nothing() {
    let server = Server::start(|_| ());
    let own = format!("http://{}", server.address);
    for (headers, option) in [
        ([("Host", "evil.example"), ("Origin", "http://evil.example")], "--allow-host evil.example"),
        ([("Host", "0.0.0.0:8188"), ("Origin", "http://evil.example")], "--allow-host 0.0.0.0"),
        ([("Host", "localhost."), ("Origin", "http://evil.example")], "--allow-origin http://evil.example"),
        ([("Host", "localhost:8188"), ("Origin", "null")], "--allow-origin null"),
        ([("Host", "localhost:8188"), ("Origin", "file://")], "--allow-origin file://"),
        ([("Host", "localhost:8188"), ("Sec-Fetch-Site", "cross-site")], "--allow-origin"),
    ] {
        for call in CALLS {
            let answer = server.send(call, &headers, "{}").await;
            assert_eq!((answer.status, answer.header("access-control-allow-origin")), (403, None), "{call} {headers:?}");
            assert!(answer.message().contains(option), "{call} {headers:?}: {}", answer.message());
        }
        assert_eq!(server.open_socket("/ws", &headers).await.status, 403, "{headers:?}");
    }
    assert!(server.inner.device.interrupted.lock().is_empty());
    for headers in [vec![], vec![("Origin", "")], vec![("Origin", own.as_str())], vec![("Sec-Fetch-Site", "same-origin")]] {
        assert_eq!(server.send("POST /prompt", &headers, PROMPT).await.status, 200, "{headers:?}");
        assert_eq!(server.open_socket("/ws", &headers).await.status, 101, "{headers:?}");
    }
}

#[tokio::test]
async fn the_first_line_names_the_server_too() {
    let server = Server::start(|options| options.allow_hosts = vec!["named.example".parse().unwrap()]);
    for (head, status) in [
        ("GET /prompt HTTP/1.0\r\n", 200),
        ("GET http://localhost:9000/prompt HTTP/1.1\r\nHost: localhost:9000\r\n", 200),
        ("GET http://evil.example/prompt HTTP/1.1\r\nHost: localhost\r\n", 403),
        ("GET http://localhost/prompt HTTP/1.1\r\nHost: evil.example\r\n", 403),
        ("GET http://a@localhost/prompt HTTP/1.1\r\nHost: localhost\r\n", 400),
        ("GET /prompt HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n", 400),
        ("GET /prompt HTTP/1.1\r\nHost: local\thost\r\n", 400),
        ("GET /prompt HTTP/1.1\r\nHost: NAMED.example\r\nOrigin: https://named.example\r\n", 200),
    ] {
        assert_eq!(server.raw(format!("{head}Connection: close\r\n\r\n").as_bytes()).await.status, status, "{head}");
    }
}

#[tokio::test]
async fn an_allowed_origin_allows_itself_only() {
    let server = Server::start(|options| options.allow_origins = vec!["http://localhost:5173".parse().unwrap(), "null".parse().unwrap()]);
    for origin in ["http://localhost:5173", "null"] {
        let answer = server.send("GET /prompt", &[("Origin", origin)], "").await;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some(origin)));
        assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
        assert!(answer.header("vary").unwrap().contains("origin"));
        assert_eq!(server.open_socket("/ws", &[("Origin", origin)]).await.status, 101);
    }
    let asked =
        [("Origin", "http://localhost:5173"), ("Access-Control-Request-Method", "PATCH"), ("Access-Control-Request-Headers", "x-own")];
    let preflight = server.send("OPTIONS /internal/logs/subscribe", &asked, "").await;
    assert_eq!((preflight.status, preflight.header("access-control-allow-headers")), (200, Some("x-own")));
    assert!(preflight.header("access-control-allow-methods").unwrap().contains("PATCH"));
    for origin in ["http://localhost:5174", "http://evil.example", "file://"] {
        let answer = server.send("GET /prompt", &[("Origin", origin)], "").await;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (403, None), "{origin}");
        assert_eq!(server.open_socket("/ws", &[("Origin", origin)]).await.status, 403, "{origin}");
    }
    let open = Server::start(|options| options.allow_origins = vec!["*".parse().unwrap()]);
    let answer = open.send("POST /prompt", &[("Origin", "http://any.example"), ("Host", "tunnel.example")], PROMPT).await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some("*")));
}

#[tokio::test]
async fn silent_tls_connections_hold_up_nobody() {
    let key = PrivateKeyDer::from_pem_slice(CERTIFICATE.as_bytes()).unwrap();
    let certificate = CertificateDer::from_pem_slice(CERTIFICATE.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![certificate.clone()], key).unwrap();
    let server = Server::with_tls(Some(Arc::new(config)), |_| ());
    let silent: Vec<_> = (0..300).map(|_| std::net::TcpStream::connect(server.address).unwrap()).collect();

    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config.with_root_certificates(roots).with_no_client_auth()));
    let stream = TcpStream::connect(server.address).await.unwrap();
    let stream = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
    let answer = exchange(stream, b"GET /prompt HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    assert_eq!(answer.status, 200);
    // It was not served because the others had been given up: of these only the oldest are gone, to make room.
    let open = |mut stream: &std::net::TcpStream| {
        stream.set_nonblocking(true).unwrap();
        std::io::Read::read(&mut stream, &mut [0]).is_err_and(|e| e.kind() == ErrorKind::WouldBlock)
    };
    let open = silent.iter().map(open).collect::<Vec<_>>();
    assert!(open[100..].iter().all(|open| *open), "{open:?}");
    assert!(!open[0], "their number is bounded");
}

fn packed<W: Write>(mut encoder: W, finish: impl FnOnce(W) -> std::io::Result<Vec<u8>>, bytes: &[u8]) -> Vec<u8> {
    encoder.write_all(bytes).unwrap();
    finish(encoder).unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    packed(GzEncoder::new(Vec::new(), Compression::fast()), GzEncoder::finish, bytes)
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    packed(ZlibEncoder::new(Vec::new(), Compression::fast()), ZlibEncoder::finish, bytes)
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    packed(DeflateEncoder::new(Vec::new(), Compression::fast()), DeflateEncoder::finish, bytes)
}

#[tokio::test]
async fn bodies_are_decoded_as_their_headers_say() {
    let server = Server::start(|_| ());
    let prompt = PROMPT.as_bytes();
    let halves = [gzip(&prompt[..20]), gzip(&prompt[20..])].concat();
    for (coding, body) in [
        ("gzip", gzip(prompt)),
        ("X-GZip", gzip(prompt)),
        ("gzip", halves),
        ("deflate", zlib(prompt)),
        ("Deflate", deflate(prompt)),
        ("deflate, gzip", gzip(&zlib(prompt))),
        ("gzip\r\nContent-Encoding: identity, deflate", deflate(&gzip(prompt))),
        ("identity", prompt.to_vec()),
        ("", prompt.to_vec()),
    ] {
        let answer = server.send("POST /prompt", &[("Content-Encoding", coding)], body).await;
        assert_eq!(answer.status, 200, "{coding}: {}", answer.message());
    }
    for (coding, body, status) in [
        ("br", prompt.to_vec(), 415),
        ("zstd, gzip", gzip(prompt), 415),
        ("gzip, gzip, gzip, gzip", prompt.to_vec(), 400),
        ("gzip", prompt.to_vec(), 400),
        ("deflate", prompt.to_vec(), 400),
        ("gzip", gzip(prompt)[..30].to_vec(), 400),
        ("gzip", gzip(&vec![b' '; 50 << 20]), 413),
        ("gzip, gzip", gzip(&gzip(&vec![b' '; 50 << 20])), 413),
        ("deflate", zlib(&vec![b' '; 50 << 20]), 413),
        // Members that hold nothing.
        ("gzip", gzip(b"").repeat(1 << 16), 413),
    ] {
        let answer = server.send("POST /prompt", &[("Content-Encoding", coding)], body).await;
        assert_eq!(answer.status, status, "{coding}: {}", answer.json());
    }
    // Not only JSON.
    assert_eq!(server.send("POST /userdata/a.txt", &[("Content-Encoding", "gzip")], gzip(b"text")).await.status, 200);
    assert_eq!(server.get("/userdata/a.txt").await.body, b"text");
    let form = gzip(b"--B\r\nContent-Disposition: form-data; name=image; filename=a.png\r\n\r\nabc\r\n--B--\r\n");
    let headers = [("Content-Encoding", "gzip"), ("Content-Type", "multipart/form-data; boundary=B")];
    assert_eq!(server.send("POST /upload/image", &headers, form).await.json()["name"], "a.png");
    assert_eq!(server.send("POST /interrupt", &[("Content-Encoding", "gzip")], "").await.status, 200);
}

#[tokio::test]
async fn texts_are_read_in_their_charset() {
    let server = Server::start(|_| ());
    let wide = |bytes: fn(u16) -> [u8; 2]| PROMPT.encode_utf16().flat_map(bytes).collect::<Vec<u8>>();
    let latin: Vec<u8> = PROMPT.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
    for (charset, body) in [
        ("; charset=utf-8", PROMPT.into()),
        ("", [b"\xef\xbb\xbf", PROMPT.as_bytes()].concat()),
        ("; charset=UTF-16", [b"\xff\xfe".to_vec(), wide(u16::to_le_bytes)].concat()),
        ("; charset=utf-16", [b"\xfe\xff".to_vec(), wide(u16::to_be_bytes)].concat()),
        ("; charset=\"utf-16-le\"", wide(u16::to_le_bytes)),
        ("; x=y; Charset=utf_16_be", wide(u16::to_be_bytes)),
        ("; charset=latin-1", latin.clone()),
        ("; charset=ISO-8859-1", latin.clone()),
        ("; charset=cp1252", latin.clone()),
    ] {
        let answer = server.send("POST /prompt", &[("Content-Type", &format!("application/json{charset}"))], body).await;
        assert_eq!(answer.status, 200, "{charset}: {}", answer.message());
        let id = answer.json()["prompt_id"].as_str().unwrap().to_owned();
        let queue = server.get("/queue").await.json();
        let item = queue["queue_pending"].as_array().unwrap().iter().find(|item| item[1] == id.as_str()).unwrap().clone();
        assert_eq!(item[2]["1"]["inputs"]["value"], "é", "{charset}");
    }
    for (charset, status) in [("utf-8", 400), ("ascii", 400), ("no-such-charset", 415)] {
        let answer = server.send("POST /prompt", &[("Content-Type", &format!("application/json; charset={charset}"))], &latin).await;
        assert_eq!(answer.status, status, "{charset}");
    }
}

#[tokio::test]
async fn uploads_have_the_name_that_the_client_gives() {
    let server = Server::start(|_| ());
    let form = |head: &str| format!("--B\r\n{head}\r\n\r\nabc\r\n--B--\r\n");
    for (content_type, head, name) in [
        (
            "multipart/form-data; boundary=B",
            "Content-Disposition: form-data; name=\"image\"; filename*=UTF-8''%e2%82%ac%20x.png",
            "€ x.png",
        ),
        (
            "multipart/form-data; boundary=\"B\"",
            "Content-Disposition: form-data; name=image; filename=\"=?utf-8?B?w6kucG5n?=\"; filename*=utf-8''%C3%A9.png",
            "é.png",
        ),
        ("Multipart/Form-Data;BOUNDARY=B", "content-disposition:form-data;name=\"image\";filename=c.png", "c.png"),
        (
            "multipart/form-data; charset=utf-8; boundary=B",
            "Content-Type: image/png\r\nContent-Disposition: form-data; FILENAME=\"d;e.png\"; name=\"image\"",
            "d;e.png",
        ),
        ("multipart/form-data; boundary=B", "Content-Disposition: form-data; name*=utf-8''im%61ge; filename=\"f\\\"g.png\"", "f\"g.png"),
    ] {
        assert_eq!(server.upload(content_type, form(head)).await, (name.to_owned(), b"abc".to_vec()), "{head}");
    }
    let odd = "multipart/form-data; boundary=----=_Part_1(2)";
    let body = "------=_Part_1(2)\r\nContent-Disposition: form-data; name=image; filename=h.png\r\nContent-Transfer-Encoding: base64\r\n\r\nYW\r\nJj\r\n------=_Part_1(2)--\r\n";
    assert_eq!(server.upload(odd, body).await, ("h.png".to_owned(), b"abc".to_vec()));
    // The first value of a name counts, the texts have charsets of their own, and what is no file is none.
    let body = b"--B\r\nContent-Disposition: form-data; name=_charset_\r\n\r\niso-8859-1\r\n\
        --B\r\nContent-Disposition: form-data; name=subfolder\r\n\r\n\xe9\r\n\
        --B\r\nContent-Disposition: form-data; name=subfolder\r\n\r\nother\r\n\
        --B\r\nContent-Disposition: form-data; name=image; filename=i.png\r\n\r\n1\r\n\
        --B\r\nContent-Disposition: form-data; name=image; filename=j.png\r\n\r\n2\r\n--B--\r\n";
    let answer = server.send("POST /upload/image", &[("Content-Type", "multipart/form-data; boundary=B")], body).await.json();
    assert_eq!(answer, json!({"name": "i.png", "subfolder": "é", "type": "input"}));
    for (content_type, body, status) in [
        ("multipart/form-data; boundary=B", form("Content-Disposition: form-data; name=image"), 400),
        ("multipart/form-data; boundary=B", form("Content-Disposition: form-data; name=image; filename=\"\""), 400),
        ("multipart/form-data; boundary=B", form("Content-Type: image/png"), 400),
        ("multipart/form-data; boundary=B", "--B\r\nContent-Disposition: form-data; name=image; filename=a.png\r\n\r\nabc".into(), 400),
        (
            "multipart/form-data; boundary=B",
            form(&format!("Content-Disposition: form-data; name=image; filename=a.png\r\n\r\n{}", "x".repeat(2 << 20))),
            413,
        ),
        ("multipart/form-data", form(""), 400),
        ("application/x-www-form-urlencoded", "image=a".into(), 400),
    ] {
        let answer = server.send("POST /upload/image", &[("Content-Type", content_type)], &body).await;
        assert_eq!(answer.status, status, "{}: {}", &body[..body.len().min(80)], answer.message());
    }
}

#[tokio::test]
async fn paths_and_queries_are_read_as_the_reference_does() {
    let server = Server::start(|_| ());
    for target in ["/prompt", "/nothing", "/api/queue", "/ws", "/api"] {
        let answer = server.send(&format!("OPTIONS {target}"), &[], "").await;
        assert_eq!((answer.status, &answer.body[..]), (200, &b""[..]), "{target}");
    }
    for (target, status) in [
        ("/prom%70t", 200),
        ("/api/%71ueue?x=%2", 200),
        ("/%61%70%69/pr%6Fmpt", 200),
        ("/object_info/Sho%77", 200),
        ("/api%2Fprompt", 404),
        ("/prom%2570t", 404),
        ("/prompt%", 404),
        ("/prompt/", 404),
        ("//prompt", 404),
        ("/PROMPT", 404),
        ("/api", 404),
        ("/api/", 200),
        ("/api/api/prompt", 404),
        ("/history?max_items=1&max_items=x", 200),
        ("/history?max_items=x&max_items=1", 400),
    ] {
        let answer = server.get(target).await;
        assert_eq!(answer.status, status, "{target}");
        let path = target.split('?').next().unwrap();
        if status == 404 {
            assert_eq!(answer.json()["error"]["details"], path, "the path as asked");
        }
    }
    assert_eq!(server.get("/object_info/Sho%77").await.json()["Show"]["name"], "Show");
    for name in ["a+b", "A", "B"] {
        std::fs::write(server.inner.dir.path().join(format!("input/{name}.txt")), name).unwrap();
    }
    for (query, status, content) in [
        ("filename=A.txt&filename=B.txt", 200, "A"),
        ("filename=a%2Bb.txt", 200, "a+b"),
        ("filename=a+b.txt", 404, ""),
        ("filename=a;b.txt&filename=A.txt", 404, ""),
        ("%66ilename=B.txt", 200, "B"),
    ] {
        let answer = server.get(&format!("/view?type=input&type=output&{query}")).await;
        assert_eq!(answer.status, status, "{query}");
        assert!(status != 200 || answer.body == content.as_bytes(), "{query}");
    }
    let socket = server.open_socket("/ws?clientId=first&clientId=second", &[]).await;
    assert_eq!(socket.status, 101);
    assert!(String::from_utf8_lossy(&socket.body).contains("\"sid\":\"first\""), "{:?}", String::from_utf8_lossy(&socket.body));
    let wrong = server.send("POST /api/nothing", &[], "{}").await;
    assert_eq!((wrong.status, wrong.message().contains("/api/nothing")), (405, true));
}

#[tokio::test]
async fn ids_in_bodies_are_read_as_the_reference_does() {
    let server = Server::start(|_| ());
    let mut prompt: Value = serde_json::from_str(PROMPT).unwrap();
    prompt["prompt_id"] = Value::Null;
    let answer = server.send("POST /prompt", &[], prompt.to_string()).await;
    assert_eq!((answer.status, answer.json()["prompt_id"].as_str().unwrap().len()), (200, 36));
    for (body, stopped) in [
        (r#"{"prompt_id": 5}"#, None),
        (r#"{"prompt_id": true}"#, None),
        (r#"{"prompt_id": ["a"]}"#, None),
        (r#"{"prompt_id": "a"}"#, Some(Some("a"))),
        (r#"{"prompt_id": null}"#, Some(None)),
        (r#"{"prompt_id": ""}"#, Some(None)),
        (r#"{"prompt_id": 0}"#, Some(None)),
        ("{}", Some(None)),
        ("", Some(None)),
        ("no JSON", Some(None)),
    ] {
        assert_eq!(server.send("POST /interrupt", &[], body).await.status, 200, "{body}");
        let asked = server.inner.device.interrupted.lock().drain(..).next();
        assert_eq!(asked, stopped.map(|id| id.map(str::to_owned)), "{body}");
    }
    assert_eq!(server.send("POST /interrupt", &[], "[5]").await.status, 400);
    assert!(server.inner.device.interrupted.lock().is_empty());
}

#[tokio::test]
async fn small_answers_are_the_references() {
    let (front_end, templates, docs) = ("1.58.1".to_owned(), "0.11.97".to_owned(), "0.5.15".to_owned());
    let server = Server::start(|options| options.required_versions = RequiredVersions { front_end, templates, docs });
    let system = server.get("/system_stats").await.json()["system"].clone();
    assert_eq!((&system["required_frontend_version"], &system["required_templates_version"]), (&json!("1.58.1"), &json!("0.11.97")));
    assert_eq!(system["comfyui_version"], "0.33.0");
    assert_eq!(system["comfy_package_versions"][0], json!({"name": "comfyui-frontend-package", "installed": null, "required": "1.58.1"}));
    if cfg!(target_os = "linux") {
        assert_eq!(system["os"], "linux");
    }
    assert_eq!(server.send("POST /users", &[], r#"{"username": "__system"}"#).await.status, 400);
    let user = server.send("POST /users", &[], r#"{"username": "a b"}"#).await;
    assert_eq!((user.status, user.json().as_str().unwrap().starts_with("a-b_")), (200, true));
    assert_eq!(server.send("POST /users", &[], r#"{"username": "default"}"#).await.status, 400);
    let several = Server::start(|options| options.multi_user = true);
    let style = several.get("/api/userdata/user.css").await;
    assert_eq!((style.status, style.header("content-type"), &style.body[..]), (200, Some("text/css; charset=utf-8"), &b""[..]));
    assert_eq!(several.get("/api/userdata/other.css").await.status, 401);
}

#[tokio::test]
async fn whoever_watches_is_told_how_the_server_is() {
    let server = Server::start(|_| ());
    server.inner.add_jobs().await;
    for (path, status) in [("/health", "ok"), ("/api/ready", "ready")] {
        assert_eq!(server.get(path).await.json(), json!({"status": status}));
    }
    let answer = server.get("/metrics").await;
    assert_eq!(answer.header("content-type"), Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    for line in ["comfyd_queue_prompts{state=\"running\"} 1", "comfyd_queue_prompts{state=\"pending\"} 1", "comfyd_sockets 0", "# EOF"] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    assert!(text.contains("comfyd_device_memory_bytes{device="), "{text}");
}

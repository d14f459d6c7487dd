//! Clients that behave badly: some send what is no request, some begin requests and answers and go no further. Others must not notice.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::load::{Client, Ledger, status};

/// Connections that stay silent at a time, of each kind.
const SILENT: usize = 20;
/// How long they do.
const SILENCE: Duration = Duration::from_secs(2);
const PACE: Duration = Duration::from_millis(50);

/// What is refused with a 4xx: path, and the body where it is sent one.
const BAD: [(&str, Option<&str>); 18] = [
    ("/prompt", Some("")),
    ("/prompt", Some("{")),
    ("/prompt", Some("[]")),
    ("/prompt", Some(r#"{"prompt": {}}"#)),
    ("/prompt", Some(r#"{"prompt": {"1": {"class_type": "NoSuchClass", "inputs": {}}}}"#)),
    ("/prompt", Some(r#"{"prompt": {"1": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "../../x"}}}}"#)),
    ("/prompt", Some(r#"{"prompt": {"1": {"class_type": "EmptyImage", "inputs": {"width": 1e99, "height": -1, "batch_size": "x"}}}}"#)),
    ("/prompt", Some("{\"prompt\": \"\\ud800\", \"number\": 1e999}")),
    ("/prompt", Some("[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[")),
    ("/upload/image", Some("no form")),
    ("/upload/mask", Some("no form")),
    ("/history", Some("\u{0}")),
    ("/queue", Some("{\"delete\": ")),
    ("/view?filename=../comfyd.db&type=input", None),
    ("/view?filename=x.png&type=output&subfolder=../user", None),
    ("/userdata/..%2f..%2fcomfyd.db", None),
    ("/internal/files/..", None),
    ("/api/jobs/no-such-job", None),
];

/// Sends bad input until it is told to stop, and counts what was refused; anything but a 4xx is a fault.
pub(super) async fn send_bad_input(host: String, ledger: Arc<Ledger>) {
    let mut client = Client::new(host);
    for (path, body) in BAD.iter().cycle() {
        if ledger.stop.load(Ordering::Relaxed) {
            return;
        }
        match client.ask(path, *body).await {
            Ok(_accepted) => ledger.fault(format!("{path} took {body:?}")),
            Err(error) => match status(&error) {
                Some(400..500) => drop(ledger.bad.fetch_add(1, Ordering::Relaxed)),
                // A full disk, or a server that stops or was killed meanwhile.
                Some(503 | 507) | None => {}
                Some(_) => ledger.fault(format!("{path}, of {body:?}: {error}")),
            },
        }
        tokio::time::sleep(PACE).await;
    }
}

/// Holds connections whose request never ends, such whose answer is never read, websockets that are never read, and bodies that come too
/// slowly, until it is told to stop.
pub(super) async fn stay_silent(host: String, ledger: Arc<Ledger>) {
    const WEBSOCKET: &str =
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    let kinds = [
        ("GET /object_info", ""),
        ("GET /object_info", "\r\n"),
        ("GET /ws", WEBSOCKET),
        ("POST /prompt", "Content-Length: 1000000\r\n\r\n{"),
    ];
    while !ledger.stop.load(Ordering::Relaxed) {
        let mut held = Vec::new();
        for (line, end) in kinds.repeat(SILENT) {
            let Ok(mut stream) = TcpStream::connect(&host).await else { break };
            // A server that is killed meanwhile is asked again.
            let _ = stream.write_all(format!("{line} HTTP/1.1\r\nHost: {host}\r\n{end}").as_bytes()).await;
            held.push(stream);
        }
        tokio::time::sleep(SILENCE).await;
    }
}

//! What connections may take, over real sockets: time, places, memory. Clients that say nothing, read nothing or ask for much.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use comfyd_jobs::{EventSink, NewJob, NodeRef, Position, Status, contract};
use comfyd_node::{Input, Schema};
use comfyd_server::Options;
use comfyd_server::listen::{self, Bounds};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Message;

/// What tests wait for; what takes as long has failed.
const LONG: Duration = Duration::from_secs(20);

struct Server {
    inner: support::Server,
    address: SocketAddr,
    _stop: watch::Sender<bool>,
}

/// Bounds that are over soon.
fn short() -> Bounds {
    let (soon, later) = (Duration::from_millis(300), Duration::from_secs(3600));
    Bounds { head: soon, idle: soon, body: (soon, 1 << 20), taking: later, ..Bounds::default() }
}

impl Server {
    fn start(bounds: Bounds, change: impl FnOnce(&mut Options)) -> Self {
        let show = Schema::new("Show").display("Show").category("test").description("Shows.").input(Input::text("value")).output_node();
        let inner = support::Server::new([show], |options, _| change(options));
        let listeners = listen::bind(&["127.0.0.1:0".parse().unwrap()]).unwrap();
        let address = listeners[0].local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(listen::serve(inner.router.clone(), listeners, None, bounds, stopped));
        Self { inner, address, _stop: stop }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends bytes, and reads until the server closes.
    async fn exchange(&self, request: &[u8]) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request).await.unwrap();
        until_closed(&mut stream).await
    }

    async fn socket(&self, client: &str) -> tokio_tungstenite::WebSocketStream<TcpStream> {
        let stream = self.connect().await;
        tokio_tungstenite::client_async(format!("ws://{}/ws?clientId={client}", self.address), stream).await.unwrap().0
    }
}

/// What comes until the other side closes.
async fn until_closed(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    // A connection that is reset is closed too.
    let _ = tokio::time::timeout(LONG, stream.read_to_end(&mut answer)).await.expect("the connection is closed");
    String::from_utf8_lossy(&answer).into_owned()
}

async fn answers(stream: &mut TcpStream) -> bool {
    if stream.write_all(b"GET /prompt HTTP/1.1\r\nHost: localhost\r\n\r\n").await.is_err() {
        return false;
    }
    let mut answer = [0; 4096];
    let count = tokio::time::timeout(LONG, stream.read(&mut answer)).await.expect("an answer").unwrap_or_default();
    answer[..count].starts_with(b"HTTP/1.1 200")
}

#[tokio::test]
async fn connections_that_say_nothing_or_too_little_are_closed() {
    let server = Server::start(short(), |_| ());
    let (mut silent, mut half, mut idle) = (server.connect().await, server.connect().await, server.connect().await);
    half.write_all(b"GET /prompt HTTP/1.1\r\nHost: local").await.unwrap();
    assert!(answers(&mut idle).await);
    for stream in [&mut silent, &mut half, &mut idle] {
        assert_eq!(until_closed(stream).await, "");
    }
    // Bytes now and then do not help.
    let mut slow = server.connect().await;
    let start = Instant::now();
    while slow.write_all(b"G").await.is_ok() {
        assert!(start.elapsed() < LONG, "a head that takes for ever is taken");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_body_that_comes_too_slowly_is_refused_in_words() {
    let server = Server::start(short(), |_| ());
    let answer = server.exchange(b"POST /prompt HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{").await;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("the body comes too slowly"), "{answer}");
    // One that is fast enough may take longer.
    let mut stream = server.connect().await;
    stream.write_all(b"POST /prompt HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 4194304\r\n\r\n").await.unwrap();
    for _ in 0..4 {
        stream.write_all(&vec![b' '; 1 << 20]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    let answer = until_closed(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}

#[tokio::test]
async fn who_comes_takes_the_place_of_who_waits_for_nothing() {
    let server = Server::start(Bounds::of(8), |options| options.max_connections = 8);
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(server.connect().await);
    }
    let mut late = server.connect().await;
    assert!(answers(&mut late).await, "others get in");
    assert_eq!(until_closed(&mut silent[0]).await, "", "the oldest has gone");
    // Websockets keep their places, and leave some to others.
    let mut sockets = Vec::new();
    for client in 0..6 {
        sockets.push(server.socket(&client.to_string()).await);
    }
    let refused = tokio_tungstenite::client_async(format!("ws://{}/ws", server.address), server.connect().await).await;
    assert!(refused.is_err_and(|error| error.to_string().contains("503")));
    assert!(answers(&mut server.connect().await).await);
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_closed_and_slows_nobody() {
    let bounds = Bounds { taking: Duration::from_secs(1), ..Bounds::default() };
    let server = Server::start(bounds, |_| ());
    let mut deaf = server.socket("deaf").await;
    let mut heard = server.socket("heard").await;
    let text = "x".repeat(1 << 20);
    for number in 0..40 {
        server.inner.app.hub.event("tick", &json!([number, text]), None, None);
        loop {
            let Message::Text(message) = heard.next().await.unwrap().unwrap() else { continue };
            if message.contains("tick") {
                break;
            }
        }
    }
    let start = Instant::now();
    while server.inner.app.hub.len() > 1 {
        assert!(start.elapsed() < LONG, "it is still connected");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // What it was sent before is there, then the end.
    let mut count = 0;
    while let Some(Ok(_)) = deaf.next().await {
        count += 1;
    }
    assert!(count < 40, "{count}");
}

#[tokio::test]
async fn a_socket_that_was_taken_over_and_reads_nothing_ends_and_the_new_one_gets_the_rest() {
    let server = Server::start(Bounds::default(), |_| ());
    let _deaf = server.socket("c").await;
    let big = "x".repeat(1 << 20);
    let node =
        NodeRef { id: "1".into(), display_id: "1".into(), real_id: "1".into(), parent_id: None, class_type: "A".into(), title: None };
    let event = |number: usize| {
        let kind = comfyd_jobs::EventKind::Text { node: node.clone(), text: format!("{number} {big}") };
        comfyd_jobs::Event { prompt_id: "p".into(), owner: "".into(), client_id: Some("c".into()), kind }
    };
    for number in 0..40 {
        server.inner.app.hub.emit(event(number));
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut again = server.socket("c").await;
    server.inner.app.hub.emit(event(40));
    let mut numbers = Vec::new();
    while numbers.last() != Some(&40) {
        let message = tokio::time::timeout(LONG, again.next()).await.unwrap().unwrap().unwrap();
        let Message::Binary(frame) = message else { continue };
        let text = String::from_utf8_lossy(&frame[9..]).into_owned();
        numbers.push(text.split(' ').next().unwrap().parse().unwrap());
    }
    // Those that the system took for the first one are gone with it.
    let first = numbers[0];
    assert!(first < 40 && numbers == (first..=40).collect::<Vec<usize>>(), "{numbers:?}");
}

#[tokio::test]
async fn what_a_client_says_is_bounded_before_it_has_come() {
    let server = Server::start(Bounds::default(), |_| ());
    let mut socket = server.socket("c").await;
    // The beginning of a frame of 15 MB.
    let head = [&[0x81, 0xff][..], &(15u64 << 20).to_be_bytes(), &[0; 4], &[b'x'; 1000]].concat();
    socket.get_mut().write_all(&head).await.unwrap();
    let start = Instant::now();
    while !server.inner.app.hub.is_empty() {
        assert!(start.elapsed() < LONG, "it waits for the rest");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut socket = server.socket("c").await;
    socket.send(Message::text("{}")).await.unwrap();
    assert_eq!(server.inner.app.hub.len(), 1);
}

fn big_job(id: &str, bytes: usize) -> NewJob {
    let text = json!({"1": {"class_type": "Show", "inputs": {"value": "x".repeat(bytes)}}});
    NewJob { prompt: serde_json::value::to_raw_value(&text).unwrap().into(), ..contract::job(id, Position::Back) }
}

#[tokio::test]
async fn long_answers_are_sent_in_parts_and_say_the_same() {
    let server = support::Server::new([Schema::new("Show")], |_, _| ());
    for number in 0..24 {
        server.app.store.enqueue(big_job(&format!("p{number}"), 1 << 20)).await.unwrap();
    }
    let queue = server.send("GET", "/queue", &[], "").await.json();
    let ids = |list: &Value| list.as_array().unwrap().iter().map(|item| item[1].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    let all: Vec<String> = (0..24).map(|number| format!("p{number}")).collect();
    assert_eq!((ids(&queue["queue_running"]), ids(&queue["queue_pending"])), (vec![], all.clone()));
    let item = &queue["queue_pending"][3];
    assert_eq!((item[0].as_f64(), item[2]["1"]["class_type"].as_str(), &item[4]), (Some(3.0), Some("Show"), &json!(["1"])));

    while let Some(claim) = server.app.store.claim(&contract::worker()).await.unwrap() {
        server.app.store.finish(&claim.token, &contract::outcome(Status::Success)).await.unwrap();
    }
    // Twice: what is too long to be kept is written anew.
    for _ in 0..2 {
        for (query, wanted) in [("", 0..24), ("?max_items=20", 4..24), ("?max_items=3&offset=2", 2..5), ("?offset=30", 0..0)] {
            let history = server.get(&format!("/history{query}")).await.json();
            let ids: Vec<String> = history.as_object().unwrap().keys().cloned().collect();
            assert_eq!(ids, all[wanted.clone()], "{query}");
            let documented =
                server.get(&format!("/history{query}{}shape=documented", if query.is_empty() { "?" } else { "&" })).await.json();
            let ids: Vec<&str> = documented.as_array().unwrap().iter().map(|entry| entry["prompt_id"].as_str().unwrap()).collect();
            assert_eq!(ids, all[wanted], "{query}");
        }
    }
    let jobs = server.get("/jobs?limit=5&offset=2").await.json();
    let ids: Vec<&str> = jobs["jobs"].as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap()).collect();
    assert_eq!((ids.len(), jobs["pagination"]["total"].as_u64()), (5, Some(24)));
}

#[tokio::test]
async fn bodies_that_take_much_memory_to_read_are_refused_in_words() {
    let server = support::Server::new([Schema::new("Show")], |options, _| options.request_memory_bytes = 1 << 30);
    let dense = |unit: &str, bytes: usize| format!("[{}0]", unit.repeat(bytes / unit.len()));
    for unit in ["0,", "[],", "{\"a\":0},", "[0],", "\"\","] {
        let answer = server.post("/prompt", dense(unit, 64 << 20)).await;
        let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
        assert_eq!(answer.status, 413, "{unit}: {message}");
        assert!(message.contains("MiB of memory"), "{unit}: {message}");
    }
    // What is long, but no more than a text, is read.
    let text = "x,".repeat(8 << 20);
    let answer = server.post("/prompt", json!({"prompt": {"1": {"class_type": "Show", "inputs": {"value": text}}}})).await;
    assert_ne!(answer.status, 413, "{:?}", answer.json());
}

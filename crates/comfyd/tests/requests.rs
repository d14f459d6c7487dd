//! How much memory requests take, of the real program: bodies, pictures and long answers, several at once. Linux tells the peak.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::Cursor;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};
use support::{Part, Server, multipart};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// What requests may take of memory, and what the program and its parts have beside, in MiB.
const MOST: u64 = 1024 + 512;

/// The most memory that the process has had, in MiB.
fn peak(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

async fn post(server: &Server, path: &str, kind: &str, body: Vec<u8>) -> (u16, Value) {
    let request = reqwest::Client::new().post(format!("{}{path}", server.url)).header("content-type", kind).body(body);
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap_or(Value::Null))
}

#[tokio::test]
async fn bodies_that_are_dense_with_values_cost_a_small_multiple_of_themselves() {
    let server = Server::start(&[]).await;
    let bodies = ["0,", "[],", "{\"a\":0},", "\"\",", "[[[0]]],", "0,"].map(|unit| format!("[{}0]", unit.repeat((64 << 20) / unit.len())));
    let answers = join_all(bodies.map(|body| post(&server, "/prompt", "application/json", body.into_bytes()))).await;
    for (status, body) in &answers {
        let message = body["error"]["message"].as_str().unwrap();
        assert!([413, 503].contains(status) && message.contains("memory"), "{status} {message}");
    }
    assert!(peak(&server) < MOST, "{} MiB", peak(&server));
    eprintln!("six bodies of 64 MB at once: {} MiB", peak(&server));
}

/// A grey PNG of one colour.
fn grey(side: u32) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    image::GrayImage::new(side, side).write_to(&mut out, image::ImageFormat::Png).unwrap();
    out.into_inner()
}

#[tokio::test]
async fn pictures_are_turned_into_others_within_bounds_however_many_at_once() {
    let server = Server::start(&[]).await;
    let input = server.base.path().join("input");
    std::fs::write(input.join("a.png"), grey(4096)).unwrap();
    // Its beginning says that it has 32768 x 32768 pixels.
    let mut bomb = grey(16);
    bomb[16..24].copy_from_slice(&[0, 0, 128, 0, 0, 0, 128, 0]);
    let mut right = checksum(&bomb[12..29]).to_be_bytes();
    bomb[29..33].swap_with_slice(&mut right);
    std::fs::write(input.join("bomb.png"), &bomb).unwrap();

    let view = async |query: String| {
        let ask = async || reqwest::get(format!("{}/view?type=input&filename={query}", server.url)).await.unwrap();
        let mut response = ask().await;
        // On a busy machine some wait for the others in vain, and come again when they are told to.
        for _ in 0..10 {
            if response.status().as_u16() != 503 {
                break;
            }
            let seconds = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            response = ask().await;
        }
        (response.status().as_u16(), response.bytes().await.unwrap())
    };
    let asked = (0..24).map(|number| view(["a.png&channel=a", "a.png&channel=rgb", "a.png&preview=webp"][number % 3].to_owned()));
    for (status, body) in join_all(asked).await {
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    }
    for query in ["bomb.png&channel=a", "bomb.png&preview=jpeg"] {
        let (status, body) = view(query.to_owned()).await;
        let text = String::from_utf8_lossy(&body);
        // What it would take in memory is known before its pixels are counted.
        assert!([400, 413].contains(&status) && (text.contains("1073741824") || text.contains("too_large")), "{status} {text}");
    }
    let reference = json!({"filename": "bomb.png", "type": "input"}).to_string();
    let part = |name, bytes| Part { name, filename: None, content_type: "text/plain", bytes };
    let image = Part { name: "image", filename: Some("mask.png"), content_type: "image/png", bytes: &bomb };
    let (form, kind) = multipart(&[image, part("original_ref", reference.as_bytes())]);
    let (status, body) = post(&server, "/upload/mask", &kind, form).await;
    assert!((400..500).contains(&status), "{status} {body}");
    assert!(peak(&server) < MOST, "{} MiB", peak(&server));
    eprintln!("24 pictures of 4096 x 4096 at once: {} MiB", peak(&server));
}

/// CRC-32 as PNG has it.
fn checksum(bytes: &[u8]) -> u32 {
    let step =
        |crc: u32, byte: &u8| (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 });
    !bytes.iter().fold(!0, step)
}

#[tokio::test]
async fn long_answers_that_nobody_reads_take_little_and_hold_up_nobody() {
    let server = Server::start(&[]).await;
    let workflow = "w".repeat(10 << 20);
    for _ in 0..12 {
        let graph = json!({
            "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}},
            "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
        });
        let (status, answer) = server.post("/prompt", &json!({"prompt": graph, "extra_data": {"note": workflow}})).await;
        assert_eq!(status, 200, "{answer}");
        server.finished(answer["prompt_id"].as_str().unwrap()).await;
    }
    let address = server.url.trim_start_matches("http://").to_owned();
    let mut deaf = Vec::new();
    for path in ["/history", "/history?max_items=9", "/jobs", "/queue"].into_iter().cycle().take(32) {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes()).await.unwrap();
        deaf.push(stream);
    }
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        let asked = Instant::now();
        server.get("/queue").await;
        assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(peak(&server) < MOST, "{} MiB", peak(&server));
    eprintln!("32 clients that do not read 120 MB each: {} MiB", peak(&server));
    drop(deaf);
    assert_eq!(server.get("/history").await.as_object().unwrap().len(), 12);
}

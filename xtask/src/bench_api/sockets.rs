//! Many websocket clients at once: most only listen, some send prompts. Counts whether each got every event that it must get.

use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

use super::prompts::small_prompt;
use crate::http::Connection;

/// Clients that only listen.
const IDLE: usize = 1_000;
/// Clients that send prompts.
const ACTIVE: usize = 200;
/// Prompts of each active client.
const PROMPTS: usize = 5;
/// Events that a client gets of a prompt whose results are cached, at least once each.
const EVENTS: [&str; 4] = ["execution_start", "execution_cached", "executing", "execution_success"];
/// A client that has not got all by then has lost something.
const TIMEOUT: Duration = Duration::from_secs(120);

/// What came of it.
pub(super) struct Outcome {
    pub(super) connected: Duration,
    pub(super) ran: Duration,
    pub(super) events: usize,
    /// Clients that did not get all events, and why.
    pub(super) lost: Vec<String>,
}

/// Connects all clients, sends all prompts, and waits until every client has got everything.
pub(super) async fn measure(host: &str) -> io::Result<Outcome> {
    let began = Instant::now();
    let mut clients = JoinSet::new();
    let mut ready = Vec::new();
    for number in 0..IDLE + ACTIVE {
        let (tell, connected) = oneshot::channel();
        let prompts = if number < ACTIVE { PROMPTS } else { 0 };
        clients.spawn(listen(host.to_owned(), format!("bench-{number}"), prompts, tell));
        ready.push(connected);
        // Not more at once than a server lets wait.
        if number % 50 == 49 {
            for connected in ready.drain(..) {
                connected.await.map_err(|_| io::Error::other("a client could not connect"))?;
            }
        }
    }
    let connected = began.elapsed();
    let began = Instant::now();
    let mut connection = Connection::open(host).await?;
    for round in 0..PROMPTS {
        for client in 0..ACTIVE {
            let body = small_prompt(round as u32, &format!("bench-{client}"));
            connection.post("/prompt", &body).await?;
        }
    }
    let (mut events, mut lost) = (0, Vec::new());
    while let Some(ended) = clients.join_next().await {
        match ended.map_err(io::Error::other)? {
            Ok(count) => events += count,
            Err(why) => lost.push(why),
        }
    }
    Ok(Outcome { connected, ran: began.elapsed(), events, lost })
}

/// Counts events until all of `prompts` are there, or, without prompts, until the queue was busy and is empty again.
async fn listen(host: String, id: String, prompts: usize, connected: oneshot::Sender<()>) -> Result<usize, String> {
    let url = format!("ws://{host}/ws?clientId={id}");
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.map_err(|error| format!("{id}: {error}"))?;
    // The receiver is gone only when the measurement has failed already.
    let _ = connected.send(());
    let (mut count, mut busy) = (0, false);
    let mut seen: HashMap<String, usize> = HashMap::new();
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let complete = prompts > 0 && EVENTS.iter().all(|event| seen.get(*event).copied().unwrap_or(0) >= prompts);
        if complete {
            return Ok(count);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let message = match tokio::time::timeout(left, socket.next()).await {
            Ok(Some(Ok(message))) => message,
            Ok(Some(Err(error))) => return Err(format!("{id}: {error}")),
            Ok(None) => return Err(format!("{id}: the server closed the connection")),
            Err(_) => return Err(format!("{id}: after {count} events, {seen:?}")),
        };
        let Message::Text(text) = message else { continue };
        let message: Value = serde_json::from_str(text.as_str()).map_err(|error| format!("{id}: {error}"))?;
        count += 1;
        let event = message["type"].as_str().unwrap_or_default();
        if event == "status" {
            let remaining = message["data"]["status"]["exec_info"]["queue_remaining"].as_u64().unwrap_or(0);
            busy |= remaining > 0;
            if prompts == 0 && busy && remaining == 0 {
                return Ok(count);
            }
        }
        // `executing` says only once for each prompt that it is done.
        if event != "executing" || message["data"]["node"].is_null() {
            *seen.entry(event.to_owned()).or_default() += 1;
        }
    }
}

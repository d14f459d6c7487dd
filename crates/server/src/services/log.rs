//! The last lines of the log, which the front end's terminal shows, and who follows it. Does not know where lines come from.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use parking_lot::Mutex;
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::ApiError;
use crate::events::Told;
use crate::hub::Hub;

/// Log lines that are kept.
const MAX_LINES: usize = 300;
/// Longest log line that is kept, in bytes.
const MAX_LINE: usize = 16 * 1024;
/// Clients that may follow the log.
const MAX_FOLLOWERS: usize = 1000;
/// How often new lines are sent to those who follow.
const FEED_INTERVAL: Duration = Duration::from_millis(250);

/// The log that is shown. Clones share it: whoever writes the log holds one, the server another.
#[derive(Clone, Default)]
pub struct Log {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    lines: VecDeque<Line>,
    /// Lines ever written; the last of `lines` has this number.
    written: u64,
    followers: BTreeSet<String>,
    /// Whether a task sends new lines.
    feeding: bool,
}

/// One line.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Line {
    /// When.
    #[serde(rename = "t")]
    pub time: String,
    /// What.
    #[serde(rename = "m")]
    pub text: String,
}

/// What a `logs` event holds.
#[derive(Serialize)]
struct Fresh {
    entries: Vec<Line>,
    /// The log is no terminal.
    size: Option<()>,
}

impl Log {
    /// Keeps a line; the oldest one goes. `time` is shown as it is (ISO 8601).
    pub fn keep(&self, time: impl Into<String>, text: &str) {
        let mut end = text.len().min(MAX_LINE);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let mut log = self.inner.lock();
        if log.lines.len() >= MAX_LINES {
            log.lines.pop_front();
        }
        log.lines.push_back(Line { time: time.into(), text: text[..end].to_owned() });
        log.written += 1;
    }

    /// The lines that are kept, from the oldest.
    pub(crate) fn lines(&self) -> Vec<Line> {
        self.inner.lock().lines.iter().cloned().collect()
    }

    /// Takes a client among those who follow. New lines go to all clients as `logs` events while anybody does; who does not follow has no
    /// listener for them.
    pub(crate) fn follow(&self, client: &str, hub: &Hub) -> Result<(), ApiError> {
        let mut log = self.inner.lock();
        if log.followers.len() >= MAX_FOLLOWERS {
            return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "too_many", "too many clients follow the log: try again later"));
        }
        log.followers.insert(client.to_owned());
        if !log.feeding {
            log.feeding = true;
            tokio::spawn(self.clone().feed(hub.clone(), log.written));
        }
        Ok(())
    }

    /// Takes a client out again.
    pub(crate) fn unfollow(&self, client: &str) {
        self.inner.lock().followers.remove(client);
    }

    /// Sends the lines after number `sent` until nobody follows or nobody is connected.
    async fn feed(self, hub: Hub, mut sent: u64) {
        loop {
            tokio::time::sleep(FEED_INTERVAL).await;
            let entries: Vec<Line> = {
                let mut log = self.inner.lock();
                if log.followers.is_empty() || hub.is_empty() {
                    log.followers.clear();
                    log.feeding = false;
                    return;
                }
                let count = usize::try_from(log.written - sent).unwrap_or(usize::MAX).min(log.lines.len());
                sent = log.written;
                log.lines.range(log.lines.len() - count..).cloned().collect()
            };
            if !entries.is_empty() {
                hub.broadcast(Told::Logs, &Fresh { entries, size: None });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn the_log_keeps_the_newest_lines_and_cuts_at_a_character() {
        let log = Log::default();
        for number in 0..MAX_LINES + 10 {
            log.keep("t", &format!("line {number}"));
        }
        log.keep("t", &"é".repeat(MAX_LINE));
        let lines = log.lines();
        assert_eq!(lines.len(), MAX_LINES);
        assert_eq!(lines.last().unwrap().text.len(), MAX_LINE);
        assert_eq!(lines.first().unwrap().text, "line 11");
    }
}

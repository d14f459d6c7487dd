//! Leases: every process tells that it is there, and what one ran that is not heard of for the length of a lease goes back into the line. No
//! clock of another host is believed: each watcher counts the time itself, and only while it could write to NATS all along, so that an
//! outage of NATS, or its own, costs nobody's lease.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use comfyd_jobs::line::{Place, Running};
use comfyd_jobs::{Outcome, now_ms};
use futures_util::StreamExt as _;
use tokio::task::JoinHandle;

use crate::bucket::Document;
use crate::document::{SCHEMA, State as At, nonce};
use crate::inner::Inner;
use crate::members::{About, Beat, beat};

/// How many times a process tells that it is there in the length of a lease.
const BEATS: u32 = 4;
/// How long a watcher's own sign stays in the bucket.
const SIGN_KEPT: Duration = Duration::from_hours(1);

impl Inner {
    fn beats(&self) -> String {
        format!("comfyd.{}.beat", self.options.cluster)
    }

    /// Tells that this process is there, and, where it does so, gives back what those ran who are not.
    pub fn keep_leases(self: Arc<Self>) -> JoinHandle<()> {
        tokio::spawn(async move {
            let interval = self.options.lease / BEATS;
            let tell = async {
                loop {
                    // Where it cannot be told, it is told the next time.
                    let beat = beat(self.session(), self.about.lock().clone());
                    let _ = self.link.client.publish(self.beats(), beat).await;
                    let _soon = tokio::time::timeout(interval, self.beat.notified()).await;
                }
            };
            if self.options.expires {
                tokio::join!(tell, self.hear(), self.watch(interval));
            } else {
                tell.await;
            }
        })
    }

    /// Tells that this process ends.
    pub async fn tell_end(&self) {
        let beat = Beat { v: SCHEMA, session: self.session().to_owned(), about: About::default(), ends: true };
        let _ = self.link.client.publish(self.beats(), serde_json::to_vec(&beat).unwrap_or_default().into()).await;
        let _ = self.link.client.flush().await;
    }

    async fn hear(self: &Arc<Self>) {
        loop {
            let Ok(mut beats) = self.link.client.subscribe(self.beats()).await else {
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            };
            while let Some(message) = beats.next().await {
                if let Ok(beat) = serde_json::from_slice::<Beat>(&message.payload) {
                    if beat.ends {
                        // As long ago as a lease lasts.
                        let ended = Instant::now().checked_sub(self.options.lease).unwrap_or_else(Instant::now);
                        self.leases.heard.lock().insert(beat.session.clone(), ended);
                        self.members.lock().remove(&beat.session);
                        self.fleet.send_modify(|changes| *changes += 1);
                        continue;
                    }
                    self.leases.heard.lock().insert(beat.session.clone(), Instant::now());
                    // It may be asked for more, which must not keep the others from being heard.
                    let inner = self.clone();
                    tokio::spawn(async move { inner.heard(beat).await });
                }
            }
        }
    }

    async fn watch(&self, interval: Duration) {
        let mut last = Instant::now();
        loop {
            tokio::time::sleep(interval).await;
            // Who slept himself has heard nobody meanwhile.
            let slept = last.elapsed() > interval * 2;
            last = Instant::now();
            // It is known before the first lease ends whose signs did not come through.
            let signed = !slept && tokio::time::timeout(self.options.lease / 3, self.sign()).await.unwrap_or(false);
            {
                let mut since = self.leases.sound.lock();
                *since = since.filter(|_| signed).or_else(|| signed.then(Instant::now));
            }
            if !self.leases.settled(self.options.lease) {
                continue;
            }
            self.forget_silent();
            self.expire().await;
            self.trim().await;
        }
    }

    /// Forgets those who have not been heard of for the length of a lease.
    fn forget_silent(&self) {
        let mut members = self.members.lock();
        let there = members.len();
        members.retain(|_, member| member.heard.elapsed() < self.options.lease);
        if members.len() < there {
            self.fleet.send_modify(|changes| *changes += 1);
        }
    }

    /// Whether this process can write.
    async fn sign(&self) -> bool {
        let nonce = nonce();
        let key = format!("watcher.{}", self.session());
        let head = format!("{{\"v\":{SCHEMA},\"nonce\":{nonce}}}");
        let document = Document { key: &key, head, nonce, texts: Bytes::new(), after: None, kept: Some(SIGN_KEPT) };
        self.write_sign(&document).await
    }

    /// Gives back what those ran who have not been heard of for the length of a lease.
    async fn expire(&self) {
        let now = Instant::now();
        let overdue: Vec<Running> = {
            let state = self.mirror.state.lock();
            let mut heard = self.leases.heard.lock();
            let session = |running: &&Running| {
                let live = state.live.get(&running.job.id)?;
                let At::Running { session, .. } = &live.head.state else { return None };
                Some(session.clone())
            };
            let is_overdue = |running: &&Running| {
                session(running).is_some_and(|session| {
                    // One that was never heard of is given a whole lease from now on.
                    session != *self.session() && heard.entry(session).or_insert(now).elapsed() >= self.options.lease
                })
            };
            let overdue = state.line.running().iter().filter(is_overdue).cloned().collect();
            // Of those that hold nothing it does not matter any more.
            heard.retain(|_, heard| heard.elapsed() < self.options.lease * 10);
            overdue
        };
        for running in overdue {
            let crashes = running.place.crashes.saturating_add(1);
            let place = Place { crashes, ..running.place };
            let most = self.options.max_tries;
            let failed = (most > 0 && crashes >= most).then(|| Outcome::crashed(&running.job, crashes, running.claimed_ms, now_ms()));
            let prompt_id = &running.job.id;
            match self.give_back(&running, place, failed).await {
                Ok(true) => {
                    tracing::warn!(prompt_id, tries = crashes, "the worker of a prompt is not heard of any more: it was given back")
                }
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, prompt_id, "a prompt whose worker is gone could not be given back"),
            }
        }
    }
}

//! Random operations on a store and on a naive model of it, compared after every step.

use std::collections::HashMap;

use super::harness::{Harness, forged, job, outcome, snapshot, status_name};
use crate::memory::Options as Limits;
use crate::store::{Claim, Error, JobStore, OnRestart, Position, Status, Token, WorkerId};

const LIMITS: Limits =
    Limits { max_pending: 8, max_pending_bytes: usize::MAX, max_of_owner: usize::MAX, max_history: 6, max_outcome_bytes: 1 << 20 };

const MAX_CRASHES: u32 = 2;

/// A job in the model: (precedence, number, arrival, id).
type Entry = (i64, f64, usize, String);

/// Lists that are sorted when they are looked at.
#[derive(Default)]
struct Model {
    counter: i32,
    arrivals: usize,
    restarts: i64,
    pending: Vec<Entry>,
    running: Vec<(Entry, Token)>,
    /// All tokens that were given out, whether they are worth something or not.
    tokens: Vec<Token>,
    history: Vec<(String, Status)>,
    /// By arrival.
    crashes: HashMap<usize, u32>,
}

impl Model {
    fn knows(&self, id: &str) -> bool {
        self.pending.iter().any(|entry| entry.3 == id) || self.runs(id) || self.history.iter().any(|(known, _)| known == id)
    }

    fn runs(&self, id: &str) -> bool {
        self.running.iter().any(|(entry, _)| entry.3 == id)
    }

    fn sort(&mut self) {
        self.pending.sort_by(|a, b| a.partial_cmp(b).expect("no NaN in the model"));
    }

    fn take_held(&mut self, token: &Token) -> Option<Entry> {
        let index = self.running.iter().position(|(_, held)| held == token)?;
        Some(self.running.remove(index).0)
    }

    /// Looks at what the store answered to who used a token that is worth nothing.
    fn expect_refusal(&self, token: &Token, error: Option<Error>) {
        match error {
            Some(Error::NotHeld(id)) => assert!(id == token.prompt_id && self.runs(&id), "model: '{id}' does not run: {token:?}"),
            Some(Error::NotRunning(id)) => assert!(id == token.prompt_id && !self.runs(&id), "model: '{id}' runs: {token:?}"),
            other => panic!("model: {token:?} is not held, and the store said {other:?}"),
        }
    }

    /// The first waiting job goes to who has claimed one.
    fn claim(&mut self, claimed: Option<Claim>, worker: &WorkerId) {
        let wanted = if self.pending.is_empty() { None } else { Some(self.pending.remove(0)) };
        assert_eq!(claimed.as_ref().map(|claim| &claim.job.id), wanted.as_ref().map(|entry| &entry.3), "model: the claimed job");
        let Some((Claim { token, .. }, entry)) = claimed.zip(wanted) else { return };
        assert!(token.worker == *worker && token.prompt_id == entry.3 && !self.tokens.contains(&token), "model: {token:?}");
        self.tokens.push(token.clone());
        self.running.push((entry, token));
    }

    fn push_history(&mut self, id: String, status: Status) {
        self.history.push((id, status));
        let over = self.history.len().saturating_sub(LIMITS.max_history);
        self.history.drain(..over);
    }

    /// `worker` gets back what it held, or everything.
    fn recover(&mut self, worker: Option<&WorkerId>, on_restart: OnRestart) -> usize {
        let (stopped, others) =
            std::mem::take(&mut self.running).into_iter().partition(|(_, token)| worker.is_none_or(|worker| token.worker == *worker));
        self.running = others;
        let stopped: Vec<Entry> = Vec::into_iter(stopped).map(|(entry, _)| entry).collect();
        let many = stopped.len();
        for entry in &stopped {
            *self.crashes.entry(entry.2).or_default() += 1;
        }
        match on_restart {
            OnRestart::Rerun { .. } => {
                let crashed = |entry: &Entry| self.crashes[&entry.2] >= MAX_CRASHES;
                let (failed, stopped): (Vec<Entry>, Vec<Entry>) = stopped.into_iter().partition(crashed);
                for entry in failed {
                    self.push_history(entry.3, Status::Error);
                }
                // Later restarts come first; within one, the order of the claims decides.
                self.restarts += 1;
                for (index, mut entry) in stopped.into_iter().enumerate() {
                    entry.0 = -1000 * self.restarts + i64::try_from(index).expect("few") - i64::try_from(many).expect("few");
                    self.pending.push(entry);
                }
                self.sort();
            }
            OnRestart::Fail => {
                for entry in stopped {
                    self.push_history(entry.3, Status::Error);
                }
            }
        }
        many
    }

    fn snapshot(&self) -> String {
        let text = |entry: &Entry| format!(" {}@{}", entry.3, entry.1);
        let running: String = self.running.iter().map(|(entry, _)| text(entry)).collect();
        let pending: String = self.pending.iter().map(text).collect();
        let history: String = self.history.iter().map(|(id, status)| format!(" {id}:{}", status_name(*status))).collect();
        format!("running{running} | pending{pending} | history{history}")
    }
}

/// xorshift64: the same sequence everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    fn worker(&mut self) -> WorkerId {
        WorkerId::new(["one", "two"][self.roll(2) as usize])
    }

    /// One of few ids, so that they meet in every state.
    fn id(&mut self) -> String {
        format!("p{}", self.roll(18))
    }
}

/// Runs `steps` random operations and compares the whole state after each.
pub(super) async fn compare(harness: &dyn Harness, seed: u64, steps: usize) {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut model = Model::default();
    let mut store = harness.fresh(LIMITS).await;
    let mut log = Vec::new();
    for _ in 0..steps {
        let done = if dice.roll(24) == 0 {
            if harness.durable() {
                store = harness.reopen(store, LIMITS).await;
                // They ended with the process that held them.
                model.tokens.clear();
            }
            restart(store.as_ref(), &mut model, &mut dice, harness.durable()).await
        } else {
            step(store.as_ref(), &mut model, &mut dice).await
        };
        log.push(done);
        let found = snapshot(store.as_ref()).await;
        let tail = log[log.len().saturating_sub(12)..].join("\n  ");
        assert_eq!(found, model.snapshot(), "model, seed {seed}, step {}; the last steps:\n  {tail}", log.len());
    }
}

/// After a restart of the process nobody holds anything; otherwise one worker starts anew.
async fn restart(store: &dyn JobStore, model: &mut Model, dice: &mut Dice, process: bool) -> String {
    let on_restart = if dice.roll(3) == 0 { OnRestart::Fail } else { OnRestart::Rerun { max_crashes: MAX_CRASHES } };
    let worker = dice.worker();
    let stopped = model.recover(if process { None } else { Some(&worker) }, on_restart);
    let recovered = store.recover(&worker, on_restart).await.expect("recover");
    assert_eq!(recovered.pending, model.pending.len(), "model: recovered.pending");
    assert_eq!(recovered.rerun + recovered.failed, stopped, "model: recovered.rerun and failed");
    format!("restart {on_restart:?}")
}

/// One random operation on both; says which.
async fn step(store: &dyn JobStore, model: &mut Model, dice: &mut Dice) -> String {
    match dice.roll(16) {
        0..=5 => enqueue(store, model, dice).await,
        6..=8 => {
            let worker = dice.worker();
            model.claim(store.claim(&worker).await.expect("claim"), &worker);
            format!("claim for {worker}")
        }
        9..=10 => finish(store, model, dice).await,
        11 => finish_and_claim(store, model, dice).await,
        12 => {
            let token = token(model, dice);
            let result = store.requeue(&token).await;
            match model.take_held(&token) {
                Some(entry) => {
                    result.expect("requeue");
                    model.pending.push(entry);
                    model.sort();
                }
                None => model.expect_refusal(&token, result.err()),
            }
            format!("requeue {token:?}")
        }
        13 => {
            let ids = [dice.id(), dice.id(), dice.id()];
            let before = model.pending.len();
            model.pending.retain(|entry| !ids.contains(&entry.3));
            let removed = store.remove_pending(&ids).await.expect("remove_pending");
            assert_eq!(removed, before - model.pending.len(), "model: how many waiting jobs were removed");
            format!("remove {ids:?}")
        }
        14 => {
            let ids = [dice.id(), dice.id(), dice.id()];
            let before = model.history.len();
            model.history.retain(|(id, _)| !ids.contains(id));
            let removed = store.delete_history(&ids).await.expect("delete_history");
            assert_eq!(removed, before - model.history.len(), "model: how many entries were deleted");
            format!("delete {ids:?}")
        }
        _rarely if dice.roll(2) == 0 => {
            let removed = store.clear_history().await.expect("clear_history");
            assert_eq!(removed, std::mem::take(&mut model.history).len(), "model: how many entries were cleared");
            "clear the history".to_owned()
        }
        _rarely => {
            let removed = store.clear_pending().await.expect("clear_pending");
            assert_eq!(removed, std::mem::take(&mut model.pending).len(), "model: how many waiting jobs were cleared");
            "clear the queue".to_owned()
        }
    }
}

async fn enqueue(store: &dyn JobStore, model: &mut Model, dice: &mut Dice) -> String {
    let id = dice.id();
    let (position, number, used) = match dice.roll(4) {
        0 => (Position::Front, f64::from(-model.counter), 1),
        1 => {
            let given = f64::from(u8::try_from(dice.roll(8)).expect("less than 8")) / 2.0 - 1.0;
            (Position::At(given), given, 0)
        }
        _usually => (Position::Back, f64::from(model.counter), 1),
    };
    let done = format!("enqueue {id} {position:?}");
    match store.enqueue(job(&id, position)).await {
        Ok(ticket) => {
            assert!(!model.knows(&id) && model.pending.len() < LIMITS.max_pending, "model: {done} must be refused");
            assert_eq!(ticket.number, number, "model: the number of {done}");
            model.pending.push((0, number, model.arrivals, id));
            model.arrivals += 1;
            model.counter += used;
            model.sort();
        }
        Err(Error::Duplicate(_)) => assert!(model.knows(&id), "model: {done} is not a duplicate"),
        Err(Error::Full(_)) => assert!(model.pending.len() >= LIMITS.max_pending, "model: {done} found the queue full"),
        Err(error) => panic!("model: {done}: {error}"),
    }
    done
}

/// A token that is held, or any other.
fn token(model: &Model, dice: &mut Dice) -> Token {
    let held: Vec<&Token> = model.running.iter().map(|(_, token)| token).collect();
    let all: Vec<&Token> = model.tokens.iter().collect();
    let from = if held.is_empty() || dice.roll(4) == 0 { all } else { held };
    let any = dice.roll(u64::MAX) as usize;
    if from.is_empty() { forged(&dice.id()) } else { from[any % from.len()].clone() }
}

fn status(dice: &mut Dice) -> Status {
    [Status::Success, Status::Error, Status::Interrupted][dice.roll(3) as usize]
}

async fn finish_and_claim(store: &dyn JobStore, model: &mut Model, dice: &mut Dice) -> String {
    let (token, status) = (token(model, dice), status(dice));
    let result = store.finish_and_claim(&token, &outcome(status)).await;
    match model.take_held(&token) {
        Some(entry) => {
            model.push_history(entry.3, status);
            model.claim(result.expect("finish_and_claim"), &token.worker);
        }
        None => model.expect_refusal(&token, result.err()),
    }
    format!("finish {token:?} {} and claim", status_name(status))
}

async fn finish(store: &dyn JobStore, model: &mut Model, dice: &mut Dice) -> String {
    let (token, status) = (token(model, dice), status(dice));
    let result = store.finish(&token, &outcome(status)).await;
    match model.take_held(&token) {
        Some(entry) => {
            result.expect("finish");
            model.push_history(entry.3, status);
        }
        None => model.expect_refusal(&token, result.err()),
    }
    format!("finish {token:?} {}", status_name(status))
}

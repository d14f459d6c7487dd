//! Random operations on a store and on a naive model of it, compared after every step.

use super::{Harness, job, outcome, snapshot, status_name};
use crate::memory::Options as Limits;
use crate::store::{Error, JobStore, OnRestart, Position, Status};

const LIMITS: Limits = Limits { max_pending: 8, max_history: 6, max_outcome_bytes: 1 << 20 };

/// A job in the model: (precedence, number, arrival, id).
type Entry = (i64, f64, usize, String);

/// Lists that are sorted when they are looked at.
#[derive(Default)]
struct Model {
    counter: i32,
    arrivals: usize,
    restarts: i64,
    pending: Vec<Entry>,
    running: Vec<Entry>,
    history: Vec<(String, Status)>,
}

impl Model {
    fn knows(&self, id: &str) -> bool {
        self.pending.iter().chain(&self.running).any(|entry| entry.3 == id) || self.history.iter().any(|(known, _)| known == id)
    }

    fn sort(&mut self) {
        self.pending.sort_by(|a, b| a.partial_cmp(b).expect("no NaN in the model"));
    }

    fn take_running(&mut self, id: &str) -> Option<Entry> {
        let index = self.running.iter().position(|entry| entry.3 == id)?;
        Some(self.running.remove(index))
    }

    fn push_history(&mut self, id: String, status: Status) {
        self.history.push((id, status));
        let over = self.history.len().saturating_sub(LIMITS.max_history);
        self.history.drain(..over);
    }

    fn recover(&mut self, on_restart: OnRestart) {
        match on_restart {
            OnRestart::Rerun => {
                // Later restarts come first; within one, the order of the claims decides.
                self.restarts += 1;
                let running = std::mem::take(&mut self.running);
                let many = i64::try_from(running.len()).expect("few");
                for (index, mut entry) in running.into_iter().enumerate() {
                    entry.0 = -1000 * self.restarts - many + i64::try_from(index).expect("few");
                    self.pending.push(entry);
                }
                self.sort();
            }
            OnRestart::Fail => {
                for entry in std::mem::take(&mut self.running) {
                    self.push_history(entry.3, Status::Error);
                }
            }
        }
    }

    fn snapshot(&self) -> String {
        let list = |entries: &[Entry]| entries.iter().map(|entry| format!(" {}@{}", entry.3, entry.1)).collect::<String>();
        let history: String = self.history.iter().map(|(id, status)| format!(" {id}:{}", status_name(*status))).collect();
        format!("running{} | pending{} | history{history}", list(&self.running), list(&self.pending))
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
            }
            restart(store.as_ref(), &mut model, &mut dice).await
        } else {
            step(store.as_ref(), &mut model, &mut dice).await
        };
        log.push(done);
        let found = snapshot(store.as_ref()).await;
        let tail = log[log.len().saturating_sub(12)..].join("\n  ");
        assert_eq!(found, model.snapshot(), "model, seed {seed}, step {}; the last steps:\n  {tail}", log.len());
    }
}

async fn restart(store: &dyn JobStore, model: &mut Model, dice: &mut Dice) -> String {
    let on_restart = if dice.roll(3) == 0 { OnRestart::Fail } else { OnRestart::Rerun };
    let stopped = model.running.len();
    model.recover(on_restart);
    let recovered = store.recover(on_restart).await.expect("recover");
    assert_eq!(recovered.pending, model.pending.len(), "model: recovered.pending");
    assert_eq!(recovered.rerun + recovered.failed, stopped, "model: recovered.rerun and failed");
    format!("restart {on_restart:?}")
}

/// One random operation on both; says which.
async fn step(store: &dyn JobStore, model: &mut Model, dice: &mut Dice) -> String {
    match dice.roll(16) {
        0..=5 => enqueue(store, model, dice).await,
        6..=8 => {
            let wanted = if model.pending.is_empty() { None } else { Some(model.pending.remove(0)) };
            let claimed = store.claim().await.expect("claim");
            assert_eq!(claimed.map(|job| job.id.clone()), wanted.as_ref().map(|entry| entry.3.clone()), "model: the claimed job");
            model.running.extend(wanted);
            "claim".to_owned()
        }
        9..=10 => finish(store, model, dice).await,
        11 => finish_and_claim(store, model, dice).await,
        12 => {
            let id = model.running.first().map_or_else(|| dice.id(), |entry| entry.3.clone());
            let wanted = model.take_running(&id);
            assert_eq!(store.requeue(&id).await.is_ok(), wanted.is_some(), "model: whether '{id}' could be put back");
            model.pending.extend(wanted);
            model.sort();
            format!("requeue {id}")
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

/// A job that runs, or any if none does, and how it ends.
fn ending(model: &Model, dice: &mut Dice) -> (String, Status) {
    let status = [Status::Success, Status::Error, Status::Interrupted][dice.roll(3) as usize];
    let any = dice.roll(u64::MAX) as usize;
    let id = if model.running.is_empty() { dice.id() } else { model.running[any % model.running.len()].3.clone() };
    (id, status)
}

async fn finish_and_claim(store: &dyn JobStore, model: &mut Model, dice: &mut Dice) -> String {
    let (id, status) = ending(model, dice);
    let result = store.finish_and_claim(&id, &outcome(status)).await;
    match model.take_running(&id) {
        Some(entry) => {
            model.push_history(entry.3, status);
            let wanted = if model.pending.is_empty() { None } else { Some(model.pending.remove(0)) };
            let claimed = result.expect("finish_and_claim").map(|job| job.id.clone());
            assert_eq!(claimed, wanted.as_ref().map(|entry| entry.3.clone()), "model: the job claimed when '{id}' ended");
            model.running.extend(wanted);
        }
        None => assert!(matches!(result, Err(Error::NotRunning(_))), "model: end of '{id}', which does not run: {result:?}"),
    }
    format!("finish {id} {} and claim", status_name(status))
}

async fn finish(store: &dyn JobStore, model: &mut Model, dice: &mut Dice) -> String {
    let (id, status) = ending(model, dice);
    let finished = store.finish(&id, &outcome(status)).await;
    match model.take_running(&id) {
        Some(entry) => {
            assert!(finished.is_ok(), "model: finish of '{id}': {finished:?}");
            model.push_history(entry.3, status);
        }
        None => assert!(matches!(finished, Err(Error::NotRunning(_))), "model: finish of '{id}', which does not run: {finished:?}"),
    }
    format!("finish {id} {}", status_name(status))
}

//! The line of waiting and running jobs: order, ids and numbers. Pure: it knows no clock, no lock and no storage, so that every store
//! that keeps its queue in memory (as such or as a mirror of what is on disk) orders it in the same way.

use std::collections::HashMap;
use std::sync::Arc;

use crate::store::{Claim, Counts, Error, Job, NewJob, OnRestart, Outcome, Position, Queue, Recovered, Result, Token, WorkerId};
pub use crate::waiting::Place;
use crate::waiting::Waiting;

/// How many jobs may be in the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Waiting, of all owners.
    pub pending: usize,
    /// Bytes that the texts of those have together.
    pub bytes: usize,
    /// Waiting and running, of one owner; nobody in particular has no such bound.
    pub of_owner: usize,
}

/// A job that runs.
#[derive(Debug, Clone)]
pub struct Running {
    /// Where it stood, and where it goes when it is put back.
    pub place: Place,
    /// The job.
    pub job: Arc<Job>,
    /// When it was claimed, in milliseconds since 1970.
    pub claimed_ms: i64,
    /// Which claim it was.
    pub claim: i64,
    /// Who holds it; nobody if it was claimed in an earlier process.
    pub holder: Option<WorkerId>,
}

impl Running {
    /// How it ends if [`Line::restart`] fails it.
    pub fn failed(&self, on_restart: OnRestart, ended_ms: i64) -> Outcome {
        match on_restart {
            OnRestart::Fail => Outcome::stopped(&self.job, self.claimed_ms, ended_ms),
            OnRestart::Rerun { .. } => Outcome::crashed(&self.job, self.place.crashes, self.claimed_ms, ended_ms),
        }
    }
}

/// What [`Line::restart`] moved.
#[derive(Debug, Clone, Default)]
pub struct Restarted {
    /// Jobs that wait again with a new place: those that ran, and those that already had precedence from an earlier restart.
    pub reranked: Vec<(Place, Arc<Job>)>,
    /// Jobs that are no longer in the line and have failed.
    pub failed: Vec<Running>,
    /// The figures.
    pub figures: Recovered,
}

/// Waiting and running jobs.
#[derive(Debug, Clone, Default)]
pub struct Line {
    pending: Waiting,
    /// In the order in which they were claimed; as short as there are devices.
    running: Vec<Running>,
    places: HashMap<String, Place>,
    next_number: u64,
    next_arrival: i64,
    next_claim: i64,
}

impl Line {
    /// An empty line whose next job gets `next_number` and `next_arrival`.
    pub fn new(next_number: u64, next_arrival: i64) -> Self {
        Self { next_number, next_arrival, ..Self::default() }
    }

    /// The number that the next job at the back gets.
    pub fn next_number(&self) -> u64 {
        self.next_number
    }

    /// Whether a job with this id waits or runs.
    pub fn contains(&self, id: &str) -> bool {
        self.places.contains_key(id) || self.running.iter().any(|running| running.job.id == id)
    }

    /// Whether one of these jobs waits.
    pub fn any_waits(&self, ids: &[String]) -> bool {
        ids.iter().any(|id| self.places.contains_key(id))
    }

    /// How many jobs wait.
    pub fn waiting(&self) -> usize {
        self.pending.len()
    }

    /// The job that a token is for, if it still runs and is held with it.
    ///
    /// # Errors
    /// [`Error::NotRunning`] and [`Error::NotHeld`].
    pub fn held(&self, token: &Token) -> Result<&Running> {
        Ok(&self.running[self.index_held(token)?])
    }

    /// The tokens of all jobs that run and that somebody holds.
    pub fn tokens(&self) -> Vec<Token> {
        let token = |running: &Running| {
            let worker = running.holder.clone()?;
            Some(Token { prompt_id: running.job.id.clone(), worker, claim: running.claim })
        };
        self.running.iter().filter_map(token).collect()
    }

    fn index_held(&self, token: &Token) -> Result<usize> {
        let id = &token.prompt_id;
        let index = self.running.iter().position(|running| running.job.id == *id).ok_or_else(|| Error::NotRunning(id.clone()))?;
        let Running { claim, holder, .. } = &self.running[index];
        if *claim == token.claim && holder.as_ref() == Some(&token.worker) { Ok(index) } else { Err(Error::NotHeld(id.clone())) }
    }

    /// Takes a new job in and gives it its number.
    ///
    /// # Errors
    /// [`Error::Duplicate`] when the id waits or runs; [`Error::Full`], [`Error::FullBytes`] and [`Error::OwnerFull`] at the bounds. None uses
    /// up a number.
    pub fn admit(&mut self, new: &NewJob, bounds: Bounds) -> Result<(Place, Arc<Job>)> {
        self.admissible(new, bounds)?;
        let (number, next_number) = number(new.position, self.next_number);
        let place = Place { rank: 0, number, arrival: self.next_arrival, crashes: 0 };
        let job = Arc::new(new.numbered(number));
        self.insert(place, job.clone(), next_number);
        Ok((place, job))
    }

    /// Whether a new job may come in.
    ///
    /// # Errors
    /// As of [`Line::admit`].
    pub fn admissible(&self, new: &NewJob, bounds: Bounds) -> Result<()> {
        if self.contains(&new.id) {
            return Err(Error::Duplicate(new.id.clone()));
        }
        if self.pending.len() >= bounds.pending {
            return Err(Error::Full(bounds.pending));
        }
        if self.pending.bytes().saturating_add(new.prompt.get().len() + new.extra_data.get().len()) > bounds.bytes {
            return Err(Error::FullBytes(bounds.bytes));
        }
        if !new.owner.is_empty() {
            let running = self.running.iter().filter(|running| running.job.owner == new.owner).count();
            if running + self.pending.of(&new.owner) >= bounds.of_owner {
                return Err(Error::OwnerFull(bounds.of_owner));
            }
        }
        Ok(())
    }

    /// Puts a job that is known to be new at its place, and sets the next number.
    pub fn insert(&mut self, place: Place, job: Arc<Job>, next_number: u64) {
        self.next_number = next_number;
        self.next_arrival = self.next_arrival.max(place.arrival + 1);
        self.wait(place, job);
    }

    fn wait(&mut self, place: Place, job: Arc<Job>) {
        self.places.insert(job.id.clone(), place);
        self.pending.insert(place, job);
    }

    /// Adds a job that already runs, after the others that run.
    pub fn insert_running(&mut self, running: Running) {
        self.next_arrival = self.next_arrival.max(running.place.arrival + 1);
        self.next_claim = self.next_claim.max(running.claim.saturating_add(1));
        self.running.push(running);
    }

    /// Marks the first waiting job as running, held by this worker. Its place comes along.
    pub fn claim(&mut self, worker: &WorkerId, claimed_ms: i64) -> Option<(Place, Claim)> {
        let (place, job) = self.pending.pop_next()?;
        self.places.remove(&job.id);
        let token = Token { prompt_id: job.id.clone(), worker: worker.clone(), claim: self.next_claim };
        self.insert_running(Running { place, job: job.clone(), claimed_ms, claim: token.claim, holder: Some(worker.clone()) });
        Some((place, Claim { job, token }))
    }

    /// The first waiting job, in the order in which they are claimed, that is wanted, and behind it those that are next of the same owner:
    /// so many together. What goes before all others stands alone.
    pub fn upcoming(&self, many: usize, wants: impl Fn(&Job) -> bool) -> Vec<Arc<Job>> {
        let Some(place) = self.pending.next(&wants) else { return Vec::new() };
        let many = if place.rank < 0 { 1 } else { many };
        self.pending.from(&place).filter(|job| wants(job)).take(many).cloned().collect()
    }

    /// The place of a waiting job.
    pub fn place(&self, id: &str) -> Option<Place> {
        self.places.get(id).copied()
    }

    /// Marks a waiting job as running: another process claimed it, or this one in its storage. Its owner has had its turn.
    pub fn start(&mut self, id: &str, claimed_ms: i64, claim: i64, holder: Option<WorkerId>) {
        if let Some(place) = self.places.remove(id)
            && let Some(job) = self.pending.take(&place)
        {
            self.insert_running(Running { place, job, claimed_ms, claim, holder });
        }
    }

    /// Those that run, in the order in which they were claimed.
    pub fn running(&self) -> &[Running] {
        &self.running
    }

    /// Takes a job out of the line whether it waits or runs, and whoever holds it.
    pub fn remove_anywhere(&mut self, id: &str) -> Option<Arc<Job>> {
        if let Some(place) = self.places.remove(id) {
            return self.pending.remove(&place);
        }
        let index = self.running.iter().position(|running| running.job.id == id)?;
        Some(self.running.remove(index).job)
    }

    /// Takes a running job out of the line.
    ///
    /// # Errors
    /// [`Error::NotRunning`] and [`Error::NotHeld`].
    pub fn take_held(&mut self, token: &Token) -> Result<Running> {
        let index = self.index_held(token)?;
        Ok(self.running.remove(index))
    }

    /// Puts a running job back where it stood.
    ///
    /// # Errors
    /// [`Error::NotRunning`] and [`Error::NotHeld`].
    pub fn requeue(&mut self, token: &Token) -> Result<Place> {
        let Running { place, job, .. } = self.take_held(token)?;
        self.wait(place, job);
        Ok(place)
    }

    /// Removes a waiting job.
    pub fn remove(&mut self, id: &str) -> Option<Place> {
        let place = self.places.remove(id)?;
        self.pending.remove(&place);
        Some(place)
    }

    /// Removes all waiting jobs and says how many.
    pub fn clear(&mut self) -> usize {
        let removed = self.pending.len();
        self.pending.clear();
        self.places.clear();
        removed
    }

    /// Deals with the jobs that this worker, or nobody, holds: they get precedence in the order in which they were claimed, or leave the
    /// line as failed.
    pub fn restart(&mut self, worker: &WorkerId, on_restart: OnRestart) -> Restarted {
        let mut stopped: Vec<Running> =
            self.running.extract_if(.., |running| running.holder.as_ref().is_none_or(|holder| holder == worker)).collect();
        for running in &mut stopped {
            running.place.crashes = running.place.crashes.saturating_add(1);
        }
        let fails = |running: &Running| match on_restart {
            OnRestart::Rerun { max_crashes } => max_crashes > 0 && running.place.crashes >= max_crashes,
            OnRestart::Fail => true,
        };
        let (failed, stopped): (Vec<_>, Vec<_>) = stopped.into_iter().partition(fails);
        let (failures, rerun) = (failed.len(), stopped.len());
        let reranked = self.give_precedence(stopped);
        Restarted { reranked, failed, figures: Recovered { pending: self.pending.len(), rerun, failed: failures } }
    }

    /// Running and waiting jobs.
    pub fn queue(&self) -> Queue {
        Queue { running: self.running.iter().map(|running| running.job.clone()).collect(), pending: self.pending.in_order() }
    }

    /// The figures.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts { pending: self.pending.len(), ..Counts::default() };
        for (owner, pending) in self.pending.owners().filter(|(owner, _)| !owner.is_empty()) {
            counts.owners.insert(Arc::clone(owner), Counts { pending, ..Counts::default() });
        }
        for Running { job, .. } in &self.running {
            counts.of_running(&job.owner, |counts| {
                counts.running += 1;
                counts.running_ids.push(job.id.clone());
            });
        }
        counts
    }

    fn give_precedence(&mut self, stopped: Vec<Running>) -> Vec<(Place, Arc<Job>)> {
        if stopped.is_empty() {
            return Vec::new();
        }
        let mut first: Vec<(Place, Arc<Job>)> = stopped.into_iter().map(|running| (running.place, running.job)).collect();
        // Those with precedence from an earlier restart that have not run yet stay behind the ones that have.
        while let Some(entry) = self.pending.pop_with_precedence() {
            first.push(entry);
        }
        let mut rank = 0;
        for (place, _) in first.iter_mut().rev() {
            rank -= 1;
            place.rank = rank;
        }
        for (place, job) in &first {
            self.wait(*place, job.clone());
        }
        first
    }
}

/// The number for a position, and the counter afterwards.
pub fn number(position: Position, counter: u64) -> (f64, u64) {
    // Adding 0.0 turns -0.0 into 0.0: the two are one number, and arrival decides between them.
    match position {
        Position::Back => (counter as f64, counter + 1),
        Position::Front => (-(counter as f64) + 0.0, counter + 1),
        Position::At(number) if number.is_nan() => (f64::INFINITY, counter),
        Position::At(number) => (number + 0.0, counter),
    }
}

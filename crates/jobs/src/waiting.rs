//! The waiting jobs of a [`crate::line::Line`], and who is next. Owners take turns: each one's jobs run in the order of their places, and
//! whoever has waited longest for a turn is next. Where there is one owner only, or nobody is told apart, that is the order of places.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::store::Job;

/// Owners whose turns are remembered although none of their jobs waits.
const MAX_REMEMBERED: usize = 4096;

/// A job's place in the line: the order in which the jobs of one owner are claimed. Owners take turns.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// 0 for ordinary jobs; negative for those that the server was running when it stopped, which come first.
    pub rank: i64,
    /// The job's number; never NaN.
    pub number: f64,
    /// Grows with every job that arrives: ties of the number run in this order. Unique.
    pub arrival: i64,
    /// How often the job was running when whoever ran it ended without warning. Takes no part in the order.
    pub crashes: u32,
}

impl Ord for Place {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank.cmp(&other.rank).then(self.number.total_cmp(&other.number)).then(self.arrival.cmp(&other.arrival))
    }
}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Place {}

#[derive(Debug, Clone, Default)]
pub(crate) struct Waiting {
    jobs: BTreeMap<Place, Arc<Job>>,
    /// What their texts have together.
    bytes: usize,
    /// How many jobs of each owner wait.
    owners: HashMap<Arc<str>, usize>,
    turns: Turns,
}

/// When each owner had its last turn.
#[derive(Debug, Clone, Default)]
struct Turns {
    last: HashMap<Arc<str>, u64>,
    next: u64,
}

impl Turns {
    fn of(&self, owner: &str) -> u64 {
        self.last.get(owner).copied().unwrap_or(0)
    }

    fn take(&mut self, owner: &Arc<str>) {
        self.next += 1;
        self.last.insert(Arc::clone(owner), self.next);
    }
}

fn bytes(job: &Job) -> usize {
    job.prompt.get().len() + job.extra_data.get().len()
}

impl Waiting {
    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    /// How many bytes the texts of all have together.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many of this owner's jobs wait.
    pub fn of(&self, owner: &str) -> usize {
        self.owners.get(owner).copied().unwrap_or(0)
    }

    /// The owners of whom jobs wait, and how many.
    pub fn owners(&self) -> impl Iterator<Item = (&Arc<str>, usize)> {
        self.owners.iter().map(|(owner, count)| (owner, *count))
    }

    pub fn insert(&mut self, place: Place, job: Arc<Job>) {
        *self.owners.entry(Arc::clone(&job.owner)).or_default() += 1;
        self.bytes += bytes(&job);
        self.jobs.insert(place, job);
    }

    pub fn remove(&mut self, place: &Place) -> Option<Arc<Job>> {
        let job = self.jobs.remove(place)?;
        self.bytes -= bytes(&job);
        if let Some(count) = self.owners.get_mut(&job.owner) {
            *count -= 1;
            if *count == 0 {
                self.owners.remove(&job.owner);
            }
        }
        Some(job)
    }

    pub fn clear(&mut self) {
        self.jobs.clear();
        self.bytes = 0;
        self.owners.clear();
    }

    /// Takes the first one with precedence out, if there is one.
    pub fn pop_with_precedence(&mut self) -> Option<(Place, Arc<Job>)> {
        let (place, _) = self.jobs.first_key_value().filter(|(place, _)| place.rank < 0)?;
        let place = *place;
        self.remove(&place).map(|job| (place, job))
    }

    /// Takes the next one out; its owner has had its turn.
    pub fn pop_next(&mut self) -> Option<(Place, Arc<Job>)> {
        let place = self.next(|_| true)?;
        self.take(&place).map(|job| (place, job))
    }

    /// Takes one out whose owner has had its turn with it.
    pub fn take(&mut self, place: &Place) -> Option<Arc<Job>> {
        let job = self.remove(place)?;
        self.turns.take(&job.owner);
        if self.turns.last.len() > MAX_REMEMBERED {
            self.turns.last.retain(|owner, _| self.owners.contains_key(owner));
        }
        Some(job)
    }

    /// The job at a place, and those of its owner behind it.
    pub fn from(&self, place: &Place) -> impl Iterator<Item = &Arc<Job>> {
        let owner = self.jobs.get(place).map(|job| &job.owner);
        self.jobs.range(*place..).map(|(_, job)| job).filter(move |job| Some(&job.owner) == owner)
    }

    /// Where the next one that is wanted stands.
    pub fn next(&self, wants: impl Fn(&Job) -> bool) -> Option<Place> {
        let mut wanted = self.jobs.iter().filter(|(_, job)| wants(job));
        let (first, job) = wanted.next()?;
        // What ran when the server stopped goes before all turns.
        if self.owners.len() < 2 || first.rank < 0 {
            return Some(*first);
        }
        let mut best = (self.turns.of(&job.owner), *first);
        let mut seen = HashSet::from([&job.owner]);
        for (place, job) in wanted {
            if seen.insert(&job.owner) {
                best = best.min((self.turns.of(&job.owner), *place));
            }
            if seen.len() == self.owners.len() {
                break;
            }
        }
        Some(best.1)
    }

    /// All, in the order in which they will run if no other comes.
    pub fn in_order(&self) -> Vec<Arc<Job>> {
        if self.owners.len() < 2 {
            return self.jobs.values().cloned().collect();
        }
        let mut ordered: Vec<Arc<Job>> = Vec::with_capacity(self.jobs.len());
        let mut turns = self.turns.clone();
        let mut lines: HashMap<&Arc<str>, Vec<(&Place, &Arc<Job>)>> = HashMap::new();
        for (place, job) in &self.jobs {
            if place.rank < 0 {
                turns.take(&job.owner);
                ordered.push(Arc::clone(job));
            } else {
                lines.entry(&job.owner).or_default().push((place, job));
            }
        }
        lines.values_mut().for_each(|line| line.reverse());
        // Each owner's first one, by the owner's last turn.
        let mut heads: BTreeMap<(u64, Place), &Arc<str>> = BTreeMap::new();
        for (owner, line) in &lines {
            heads.extend(line.last().map(|(place, _)| ((turns.of(owner), **place), *owner)));
        }
        while let Some((_, owner)) = heads.pop_first() {
            let Some(line) = lines.get_mut(owner) else { continue };
            ordered.extend(line.pop().map(|(_, job)| Arc::clone(job)));
            turns.take(owner);
            heads.extend(line.last().map(|(place, _)| ((turns.of(owner), **place), owner)));
        }
        ordered
    }
}

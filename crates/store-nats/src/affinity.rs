//! Which of the jobs that are next a worker takes: one whose models it has at hand, so that models are loaded less often. It knows neither
//! how jobs are claimed nor what a model is.

use std::collections::HashMap;
use std::sync::Arc;

use comfyd_jobs::{Job, Needs, WorkerId};

/// Jobs whose passing over is remembered.
const MAX_REMEMBERED: usize = 4096;

/// What the workers of a process used last, and what they passed over how often.
#[derive(Debug, Default)]
pub(crate) struct Affinity {
    last: HashMap<WorkerId, Arc<Needs>>,
    passed: HashMap<String, usize>,
    /// What the last choice would pass over.
    passing: Vec<String>,
}

impl Affinity {
    /// The place of the job to take. One that was passed over as often as the window is wide is taken before all behind it.
    pub fn choose(&mut self, worker: &WorkerId, upcoming: &[Arc<Job>], window: usize) -> usize {
        self.passing.clear();
        let Some(last) = self.last.get(worker).filter(|last| !last.models.is_empty()) else { return 0 };
        let at_hand = |job: &Arc<Job>| !job.needs.models.is_empty() && job.needs.models.iter().all(|model| last.models.contains(model));
        for (place, job) in upcoming.iter().enumerate() {
            if at_hand(job) {
                self.passing = upcoming[..place].iter().map(|job| job.id.clone()).collect();
                return place;
            }
            if self.passed.get(&job.id).is_some_and(|times| *times >= window) {
                return 0;
            }
        }
        0
    }

    /// A job that was chosen was claimed.
    pub fn took(&mut self, worker: &WorkerId, job: &Job) {
        self.passed.remove(&job.id);
        if self.passed.len() > MAX_REMEMBERED {
            self.passed.clear();
        }
        for id in self.passing.drain(..) {
            *self.passed.entry(id).or_default() += 1;
        }
        self.last.insert(worker.clone(), job.needs.clone());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use comfyd_jobs::{NewJob, Position, contract};

    use super::*;

    fn job(id: &str, model: &str) -> Arc<Job> {
        let needs = Needs { classes: vec![], models: vec![("checkpoints".into(), model.into())], ..Needs::default() };
        Arc::new(NewJob { needs: Arc::new(needs), ..contract::job(id, Position::Back) }.numbered(0.0))
    }

    #[test]
    fn a_worker_stays_with_its_models_but_passes_nobody_over_for_ever() {
        let (mut affinity, worker) = (Affinity::default(), WorkerId::new("w"));
        let first = job("first", "a");
        assert_eq!(affinity.choose(&worker, &[first.clone(), job("x", "b")], 2), 0);
        affinity.took(&worker, &first);
        let passed = job("passed", "b");
        for n in 0..2 {
            let upcoming = [passed.clone(), job(&format!("j{n}"), "a")];
            assert_eq!(affinity.choose(&worker, &upcoming, 2), 1, "its model is at hand");
            affinity.took(&worker, &upcoming[1]);
        }
        assert_eq!(affinity.choose(&worker, &[passed.clone(), job("j2", "a")], 2), 0, "it was passed over twice");
        assert_eq!(affinity.choose(&WorkerId::new("other"), &[passed.clone(), job("j2", "a")], 2), 0, "another has nothing at hand");
        affinity.took(&worker, &passed);
        assert_eq!(affinity.choose(&worker, &[job("j2", "a"), job("j3", "b")], 2), 1);
    }
}

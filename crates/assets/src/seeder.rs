//! The thread that keeps the database and the folders alike: when it scans, what it tells of that, and that it waits while prompts run.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use serde::Serialize;
use tokio::sync::watch;

use crate::error::{Error, Result};
use crate::scan::{BATCH, Root};
use crate::store::Store;

/// Most faults of a scan that are kept.
const MAX_ERRORS: usize = 200;
/// How often it is told how far a scan is.
const BETWEEN_REPORTS: Duration = Duration::from_secs(1);

/// Who is told what a scan does.
pub type Tell = dyn Fn(&ScanEvent) + Send + Sync;

/// What a scan does; its serde form is what clients are told.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum ScanEvent {
    /// A part of it begins: `fast`, which finds files, or `enrich`, which looks into them.
    Started {
        /// The folders.
        roots: Vec<&'static str>,
        /// Files that there are, where that is known.
        #[serde(skip_serializing_if = "Option::is_none")]
        total: Option<usize>,
        /// The part.
        phase: &'static str,
    },
    /// How far finding files is.
    Found {
        /// `fast`.
        phase: &'static str,
        /// Files that were dealt with.
        scanned: usize,
        /// New files that there are.
        total: usize,
        /// Files that were new.
        created: usize,
    },
    /// How far looking into files is.
    LookedInto {
        /// `enrich`.
        phase: &'static str,
        /// Files of which more is known.
        enriched: usize,
    },
    /// All files are found.
    FastComplete {
        /// The folders.
        roots: Vec<&'static str>,
        /// Files that were new.
        created: usize,
        /// Files that were known.
        skipped: usize,
        /// Files that there are.
        total: usize,
    },
    /// All files were looked into.
    EnrichComplete {
        /// The folders.
        roots: Vec<&'static str>,
        /// Files of which more is known.
        enriched: usize,
    },
    /// It is over.
    Completed {
        /// `full`.
        phase: &'static str,
        /// Files that there are.
        total: usize,
        /// Files that were new.
        created: usize,
        /// Files of which more is known.
        enriched: usize,
        /// Files that were known.
        skipped: usize,
        /// Seconds.
        elapsed: f64,
    },
    /// It was given up.
    Cancelled {
        /// Files that were dealt with.
        scanned: usize,
        /// Files that there are.
        total: usize,
        /// Files that were new.
        created: usize,
    },
    /// It waits while prompts run.
    Paused {},
    /// It goes on.
    Resumed {},
    /// It failed.
    Error {
        /// Why.
        message: String,
    },
}

impl ScanEvent {
    /// Its name on the wire.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Started { .. } => "assets.seed.started",
            Self::Found { .. } | Self::LookedInto { .. } => "assets.seed.progress",
            Self::FastComplete { .. } => "assets.seed.fast_complete",
            Self::EnrichComplete { .. } => "assets.seed.enrich_complete",
            Self::Completed { .. } => "assets.seed.completed",
            Self::Cancelled { .. } => "assets.seed.cancelled",
            Self::Paused {} => "assets.seed.paused",
            Self::Resumed {} => "assets.seed.resumed",
            Self::Error { .. } => "assets.seed.error",
        }
    }
}

/// How far a scan is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Files that were dealt with.
    pub scanned: usize,
    /// Files that there are.
    pub total: usize,
    /// Files that were new.
    pub created: usize,
    /// Files that were known.
    pub skipped: usize,
}

/// What the scan does, and what the last one did.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// `idle`, `running`, `paused` or `cancelling`.
    pub state: &'static str,
    /// How far it is; `None` before the first one.
    pub progress: Option<Progress>,
    /// What went wrong.
    pub errors: Vec<String>,
}

/// A scan that was asked for.
#[derive(Debug, Clone)]
struct Scan {
    roots: Vec<Root>,
    /// Whether what is outside of all folders is marked first.
    prune: bool,
}

#[derive(Debug, Default)]
struct State {
    wanted: Option<Scan>,
    running: bool,
    paused: bool,
    cancelled: bool,
    ended: bool,
    /// How many scans were asked for.
    asked: u64,
    progress: Option<Progress>,
    errors: Vec<String>,
}

/// The scans. Clones share them.
#[derive(Clone)]
pub(crate) struct Seeder {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// How many scans are done.
    done: watch::Sender<u64>,
    tell: Box<Tell>,
    hashes: bool,
}

impl Seeder {
    pub(crate) fn new(hashes: bool, tell: Box<Tell>) -> Self {
        let (state, changed, done) = (Mutex::default(), Condvar::new(), watch::Sender::new(0));
        Self { shared: Arc::new(Shared { state, changed, done, tell, hashes }) }
    }

    /// Has these roots scanned. Its number; `None` while another scan runs.
    pub(crate) fn start(&self, roots: &[Root], prune: bool) -> Option<u64> {
        let mut state = self.shared.state.lock();
        if state.running || state.wanted.is_some() || state.ended {
            return None;
        }
        state.wanted = Some(Scan { roots: roots.to_owned(), prune });
        state.cancelled = false;
        state.errors.clear();
        state.progress = Some(Progress::default());
        state.asked += 1;
        self.shared.changed.notify_all();
        Some(state.asked)
    }

    /// Waits for the end of a scan.
    pub(crate) async fn wait(&self, number: u64) {
        // Fails only when the sender is gone, which this holds.
        let _ = self.shared.done.subscribe().wait_for(|done| *done >= number).await;
    }

    /// Gives up the scan that runs. Whether one did.
    pub(crate) fn cancel(&self) -> bool {
        let mut state = self.shared.state.lock();
        if !state.running && state.wanted.is_none() || state.cancelled {
            return false;
        }
        state.cancelled = true;
        self.shared.changed.notify_all();
        true
    }

    /// Has scans wait, or go on.
    pub(crate) fn pause(&self, paused: bool) {
        let mut state = self.shared.state.lock();
        let resumed = state.paused && !paused && state.running;
        state.paused = paused;
        self.shared.changed.notify_all();
        drop(state);
        if resumed {
            self.tell(ScanEvent::Resumed {});
        }
    }

    /// Ends the thread.
    pub(crate) fn end(&self) {
        let mut state = self.shared.state.lock();
        (state.ended, state.cancelled) = (true, true);
        self.shared.changed.notify_all();
        // Nobody waits for what does not come any more.
        self.shared.done.send_replace(u64::MAX);
    }

    pub(crate) fn status(&self) -> Status {
        let state = self.shared.state.lock();
        let name = match (state.running || state.wanted.is_some(), state.cancelled, state.paused) {
            (false, ..) => "idle",
            (true, true, _) => "cancelling",
            (true, false, true) => "paused",
            (true, false, false) => "running",
        };
        Status { state: name, progress: state.progress, errors: state.errors.clone() }
    }

    /// Does something while no scan runs; `None` while one does.
    pub(crate) fn between<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        {
            let mut state = self.shared.state.lock();
            if state.running || state.wanted.is_some() {
                return None;
            }
            state.running = true;
        }
        let done = work();
        self.shared.state.lock().running = false;
        Some(done)
    }

    /// Scans whenever that is asked for, until the end.
    pub(crate) fn run(&self, store: &Store) {
        while let Some(scan) = self.next() {
            let began = Instant::now();
            // A library that panics on a file must not end all scans, nor keep those waiting who wait for this one.
            let scanned = catch_unwind(AssertUnwindSafe(|| self.scan(store, &scan, began)));
            let failed = match scanned {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some("a file could not be read because of a fault in the server".to_owned()),
            };
            if let Some(message) = failed {
                tracing::error!("a scan of the folders for assets failed: {message}");
                self.tell(ScanEvent::Error { message: message.clone() });
                self.fault(message);
            }
            let mut state = self.shared.state.lock();
            state.running = false;
            let number = state.asked;
            drop(state);
            self.shared.done.send_if_modified(|done| {
                number > *done && {
                    *done = number;
                    true
                }
            });
        }
    }

    fn next(&self) -> Option<Scan> {
        let mut state = self.shared.state.lock();
        loop {
            if state.ended {
                return None;
            }
            if let Some(scan) = state.wanted.take() {
                state.running = true;
                return Some(scan);
            }
            self.shared.changed.wait(&mut state);
        }
    }

    /// Waits while it is to wait. Whether to go on.
    fn goes_on(&self) -> bool {
        let mut state = self.shared.state.lock();
        if state.paused && !state.cancelled {
            drop(state);
            self.tell(ScanEvent::Paused {});
            state = self.shared.state.lock();
        }
        while state.paused && !state.cancelled {
            self.shared.changed.wait(&mut state);
        }
        !state.cancelled
    }

    fn scan(&self, store: &Store, scan: &Scan, began: Instant) -> Result<()> {
        let roots = &scan.roots;
        let mut go_on = || self.goes_on();
        if scan.prune {
            store.mark_outside()?;
            store.compare_temp(&mut go_on)?;
        }
        let names: Vec<&'static str> = roots.iter().map(|root| root.name()).collect();
        let known = store.compare(roots, &mut go_on)?;
        let (stubs, total, skipped) = store.new_files(roots, &known, &mut go_on);
        drop(known);
        self.progress(|progress| (progress.total, progress.skipped) = (total, skipped));
        self.tell(ScanEvent::Started { roots: names.clone(), total: Some(total), phase: "fast" });
        let mut created = 0;
        let mut told = Instant::now();
        for batch in stubs.chunks(BATCH) {
            if !self.goes_on() {
                break;
            }
            match store.add(batch) {
                Ok(added) => created += added,
                Err(full @ Error::Full(_)) => {
                    self.fault(full.to_string());
                    break;
                }
                Err(error) => self.fault(format!("some files could not be added: {error}")),
            }
            self.progress(|progress| (progress.scanned, progress.created) = (progress.scanned + batch.len(), created));
            if told.elapsed() >= BETWEEN_REPORTS {
                told = Instant::now();
                let scanned = self.status().progress.unwrap_or_default().scanned;
                self.tell(ScanEvent::Found { phase: "fast", scanned, total: stubs.len(), created });
            }
        }
        if self.goes_on() {
            self.tell(ScanEvent::FastComplete { roots: names.clone(), created, skipped, total });
            self.tell(ScanEvent::Started { roots: names.clone(), total: None, phase: "enrich" });
        }
        let enriched = self.look_into(store, roots)?;
        if !self.goes_on() {
            let scanned = self.status().progress.unwrap_or_default().scanned;
            self.tell(ScanEvent::Cancelled { scanned, total, created });
            return Ok(());
        }
        self.tell(ScanEvent::EnrichComplete { roots: names, enriched });
        let elapsed = (began.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
        tracing::info!(total, created, enriched, skipped, "the folders were scanned for assets");
        self.tell(ScanEvent::Completed { phase: "full", total, created, enriched, skipped, elapsed });
        Ok(())
    }

    /// Looks into the files of which too little is known. How many there were.
    fn look_into(&self, store: &Store, roots: &[Root]) -> Result<usize> {
        let (mut enriched, mut behind, mut told) = (0, 0, Instant::now());
        loop {
            let files = store.unread(roots, behind, self.shared.hashes)?;
            let Some(last) = files.last() else { return Ok(enriched) };
            behind = last.seq;
            for file in &files {
                if !self.goes_on() {
                    return Ok(enriched);
                }
                match store.look_into(file, self.shared.hashes, &mut || self.goes_on()) {
                    Ok(more) => enriched += usize::from(more),
                    Err(error) => self.fault(format!("a file could not be looked into: {error}")),
                }
                if told.elapsed() >= BETWEEN_REPORTS {
                    told = Instant::now();
                    self.tell(ScanEvent::LookedInto { phase: "enrich", enriched });
                }
            }
        }
    }

    fn progress(&self, change: impl FnOnce(&mut Progress)) {
        change(self.shared.state.lock().progress.get_or_insert_default());
    }

    fn fault(&self, message: String) {
        let mut state = self.shared.state.lock();
        if state.errors.len() < MAX_ERRORS {
            state.errors.push(message);
        }
    }

    fn tell(&self, event: ScanEvent) {
        (self.shared.tell)(&event);
    }
}

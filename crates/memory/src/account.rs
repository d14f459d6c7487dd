//! The account, its parts, and the leases on it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::machine;

/// From so many bytes on, the machine is asked as well, and the processes beside this one. It takes some microseconds.
const LARGE: u64 = 4 << 20;
/// What stays free of the machine's memory for whoever does not ask, at most; and which part of it.
const MARGIN: u64 = 256 << 20;
const MARGIN_PART: u64 = 8;
/// Of the memory that there is, the part that is the budget unless another is given.
const DEFAULT_BUDGET: f64 = 0.8;

/// Does without something of its own, if it can: told how many bytes are missing, it says whether it gave any back.
type Giver = Arc<dyn Fn(u64) -> bool + Send + Sync>;
/// Tells how much memory is taken or free at the moment, in bytes.
type Figure = Arc<dyn Fn() -> u64 + Send + Sync>;

/// There is not enough memory for what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("out of memory: {} are needed, and {}", Size(*.wanted), Rest { free: *.free, budget: *.budget })]
pub struct OutOfMemory {
    /// What was asked for, in bytes.
    pub wanted: u64,
    /// What there would have been.
    pub free: u64,
    /// Of how much; `None` where there is a budget for it, but the machine has no more.
    pub budget: Option<u64>,
}

/// What there is instead, for people.
struct Rest {
    free: u64,
    budget: Option<u64>,
}

impl fmt::Display for Rest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let free = Size(self.free);
        match self.budget {
            Some(budget) => write!(f, "{free} of {} are free: make it smaller, or raise --memory-budget if there is more", Size(budget)),
            None => write!(f, "the machine has {free} left for this: make it smaller, or end other programs"),
        }
    }
}

/// A number of bytes, for people.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes < 1 << 10 => write!(f, "{bytes} bytes"),
            bytes if bytes < 1 << 20 => write!(f, "{:.1} KiB", bytes as f64 / f64::from(1 << 10)),
            bytes if bytes < 1 << 30 => write!(f, "{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
            bytes => write!(f, "{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
        }
    }
}

/// Memory that may be held, and what is held of it. Clones are the same account.
#[derive(Clone)]
pub struct Account(Arc<Inner>);

struct Inner {
    budget: u64,
    held: AtomicU64,
    /// What this is a part of: all that is held here is held there too.
    whole: Option<Account>,
    shared: Arc<Shared>,
}

/// What an account and its parts have in common.
#[derive(Default)]
struct Shared {
    givers: RwLock<Vec<(u8, Giver)>>,
    beside: RwLock<Vec<Figure>>,
    /// What was beside when it was looked last.
    beside_bytes: AtomicU64,
    /// What there is, whoever holds it; asked for so many bytes and more.
    free: Option<Figure>,
    large: u64,
    /// What of that stays free.
    margin: u64,
    /// The address space is bounded: only the allocator knows what still has a place in it.
    tries: bool,
    freed: Notify,
}

impl Account {
    /// An account of so many bytes, whatever the machine has.
    pub fn new(budget: u64) -> Self {
        Self::with(budget, Shared::default())
    }

    /// An account that refuses nothing.
    pub fn unbounded() -> Self {
        Self::new(u64::MAX)
    }

    /// An account of this budget, or of four fifths of the memory that this process may use, which never gives more than is free.
    pub fn of_machine(budget: Option<u64>) -> Self {
        // What is taken of the address space by now is not to be had any more.
        let total = machine::total().min(machine::address_space().unwrap_or(u64::MAX));
        let shared = Shared {
            free: Some(Arc::new(machine::free)),
            large: LARGE,
            margin: MARGIN.min(total / MARGIN_PART),
            tries: machine::address_space().is_some(),
            ..Shared::default()
        };
        Self::with(budget.unwrap_or((total as f64 * DEFAULT_BUDGET) as u64), shared)
    }

    /// An account of memory that others use too and that is no part of the machine's, such as a graphics card's: `free` tells how much is
    /// left of it, of which `margin` bytes stay free.
    pub fn of_device(budget: u64, margin: u64, free: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self::with(budget, Shared { free: Some(Arc::new(free)), margin, ..Shared::default() })
    }

    fn with(budget: u64, shared: Shared) -> Self {
        Self(Arc::new(Inner { budget, held: AtomicU64::new(0), whole: None, shared: Arc::new(shared) }))
    }

    /// A part of this account for one purpose: at most so many bytes, which count in the whole as well.
    pub fn part(&self, budget: u64) -> Self {
        let shared = Arc::clone(&self.0.shared);
        Self(Arc::new(Inner { budget, held: AtomicU64::new(0), whole: Some(self.clone()), shared }))
    }

    /// The most that may be held.
    pub fn budget(&self) -> u64 {
        self.0.budget
    }

    /// What is held.
    pub fn held(&self) -> u64 {
        self.0.held.load(Ordering::Acquire)
    }

    /// What is held of the whole, by processes beside this one too.
    pub fn taken(&self) -> u64 {
        self.root().held().saturating_add(self.look_beside())
    }

    /// Somebody who holds what can be done without: asked when there is too little, those of lower rank first, from any thread. Must not ask
    /// for memory itself.
    pub fn gives_way(&self, rank: u8, giver: impl Fn(u64) -> bool + Send + Sync + 'static) {
        let mut givers = self.0.shared.givers.write();
        let place = givers.partition_point(|(other, _)| *other <= rank);
        givers.insert(place, (rank, Arc::new(giver)));
    }

    /// A process beside this one, whose memory is taken off the budget.
    pub fn beside_is(&self, bytes: impl Fn() -> u64 + Send + Sync + 'static) {
        self.0.shared.beside.write().push(Arc::new(bytes));
    }

    /// So many bytes, for as long as the lease lives. Where there are too few, others give way first.
    pub fn reserve(&self, bytes: u64) -> Result<Lease, OutOfMemory> {
        self.take(bytes)?;
        Ok(Lease { account: self.clone(), bytes })
    }

    /// Whether there are so many bytes, without anybody giving way.
    pub fn has(&self, bytes: u64) -> bool {
        self.take_now(bytes).is_ok_and(|()| {
            self.give_back(bytes);
            true
        })
    }

    /// The same as [`Account::reserve`], once there is enough: waits so long for others to be done.
    pub async fn reserve_within(&self, bytes: u64, patience: Duration) -> Result<Lease, OutOfMemory> {
        let until = Instant::now() + patience;
        loop {
            let freed = self.0.shared.freed.notified();
            tokio::pin!(freed);
            // From here on nothing that is freed is missed.
            freed.as_mut().enable();
            match self.reserve(bytes) {
                Err(error) if bytes > self.0.budget || tokio::time::timeout_at(until, freed).await.is_err() => return Err(error),
                Err(_) => {}
                Ok(lease) => return Ok(lease),
            }
        }
    }

    /// Counts bytes that are there already, whether there is enough or not.
    pub fn count(&self, bytes: u64) -> Lease {
        self.add(bytes);
        Lease { account: self.clone(), bytes }
    }

    /// Has others give way as long as more is held than there may be: what was counted without being asked for.
    pub fn relieve(&self) {
        let root = self.root();
        if !root.0.shared.beside.read().is_empty() {
            root.look_beside();
        }
        while let Some(over) = root.held().checked_sub(root.most()).filter(|over| *over > 0) {
            if !root.give_way(over) {
                return;
            }
        }
    }

    fn root(&self) -> &Self {
        self.0.whole.as_ref().map_or(self, Self::root)
    }

    fn add(&self, bytes: u64) {
        let mut account = Some(self);
        while let Some(Self(inner)) = account {
            inner.held.fetch_add(bytes, Ordering::AcqRel);
            account = inner.whole.as_ref();
        }
    }

    fn give_back(&self, bytes: u64) {
        let mut account = Some(self);
        while let Some(Self(inner)) = account {
            inner.held.fetch_sub(bytes, Ordering::AcqRel);
            account = inner.whole.as_ref();
        }
        if bytes > 0 {
            self.0.shared.freed.notify_waiters();
        }
    }

    /// Takes bytes, and has others give way for them.
    fn take(&self, bytes: u64) -> Result<(), OutOfMemory> {
        loop {
            let Err(Missing { error, is_of_part }) = self.take_now(bytes) else { return Ok(()) };
            // What can never fit must not drive out what does, nor must who finds a part full: others have nothing of it.
            if is_of_part || bytes > self.0.budget || !self.give_way(bytes.saturating_sub(error.free).max(1)) {
                return Err(error);
            }
        }
    }

    /// Whether anybody gave something back.
    fn give_way(&self, missing: u64) -> bool {
        let givers = self.0.shared.givers.read().clone();
        givers.iter().any(|(_, give)| give(missing))
    }

    fn take_now(&self, bytes: u64) -> Result<(), Missing> {
        let shared = &self.0.shared;
        let large = bytes >= shared.large;
        if large {
            self.look_beside();
        }
        self.take_counted(bytes)?;
        let refuse = |free: u64| {
            self.give_back(bytes);
            Err(Missing { error: OutOfMemory { wanted: bytes, free, budget: None }, is_of_part: false })
        };
        if !large {
            return Ok(());
        }
        let wanted = bytes.saturating_add(shared.margin);
        if let Some(free) = shared.free.as_ref().map(|free| free()).filter(|free| *free < wanted) {
            return refuse(free.saturating_sub(shared.margin));
        }
        if shared.tries && !has_place(wanted) {
            return refuse(0);
        }
        Ok(())
    }

    /// Takes bytes of this account and of those that it is a part of, or of none.
    fn take_counted(&self, bytes: u64) -> Result<(), Missing> {
        let Inner { budget, held, whole, .. } = &*self.0;
        let most = self.most();
        let more = |held: u64| held.checked_add(bytes).filter(|sum| *sum <= most);
        held.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).map_err(|held| Missing {
            error: OutOfMemory { wanted: bytes, free: most.saturating_sub(held), budget: Some(*budget) },
            is_of_part: whole.is_some(),
        })?;
        if let Some(whole) = whole
            && let Err(refused) = whole.take_counted(bytes)
        {
            held.fetch_sub(bytes, Ordering::AcqRel);
            return Err(refused);
        }
        Ok(())
    }

    /// The most that may be held here, without what others hold beside this process.
    fn most(&self) -> u64 {
        let beside = if self.0.whole.is_some() { 0 } else { self.0.shared.beside_bytes.load(Ordering::Acquire) };
        // One that takes all must not end all work here.
        self.0.budget - beside.min(self.0.budget / 4 * 3)
    }

    /// What processes beside this one hold now.
    fn look_beside(&self) -> u64 {
        let bytes = self.0.shared.beside.read().iter().map(|bytes| bytes()).sum();
        self.0.shared.beside_bytes.store(bytes, Ordering::Release);
        bytes
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("budget", &self.0.budget).field("held", &self.held()).finish_non_exhaustive()
    }
}

/// Whether the allocator finds a place for so many bytes. They are not touched.
fn has_place(bytes: u64) -> bool {
    usize::try_from(bytes).is_ok_and(|bytes| Vec::<u8>::new().try_reserve_exact(bytes).is_ok())
}

/// Why bytes were not taken.
struct Missing {
    error: OutOfMemory,
    /// Whether it is a part's bound.
    is_of_part: bool,
}

/// Bytes that somebody holds. Dropped, they are free again.
#[derive(Debug)]
#[must_use = "the bytes are free again once it is dropped"]
pub struct Lease {
    account: Account,
    bytes: u64,
}

impl Lease {
    /// How many bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// From now on so many bytes: more must be there.
    pub fn resize(&mut self, bytes: u64) -> Result<(), OutOfMemory> {
        if bytes > self.bytes {
            self.account.take(bytes - self.bytes)?;
            self.bytes = bytes;
        } else {
            self.set(bytes);
        }
        Ok(())
    }

    /// From now on so many bytes, which are there already.
    pub fn set(&mut self, bytes: u64) {
        if bytes > self.bytes {
            self.account.add(bytes - self.bytes);
        } else {
            self.account.give_back(self.bytes - bytes);
        }
        self.bytes = bytes;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.account.give_back(self.bytes);
    }
}

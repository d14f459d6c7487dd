//! Results kept between prompts, by signature: which stay is the policy's choice, how much memory they take is bounded by the budget.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use comfyd_graph::Signature;

use crate::options::CachePolicy;
use crate::results::{NodeResult, address};

/// Bytes accounted for a result beside its values: the entry itself and its bookkeeping.
const ENTRY_BYTES: usize = 256;
/// Smaller results are kept when memory is short: dropping them would give back next to nothing.
const WORTH_DROPPING: usize = 64 << 10;

/// Where a node of an expansion stands: its results stay while the node that it expanded from is in the prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scope {
    /// The id of the prompt's node.
    pub root: Arc<str>,
    /// The class of the prompt's node.
    pub class: Arc<str>,
    /// The id of the node that it expanded from.
    pub parent: Arc<str>,
}

struct Entry {
    result: Arc<NodeResult>,
    scope: Option<Scope>,
    /// The prompt that used it last.
    used_in: u64,
    /// When it was used last.
    tick: u64,
    /// Bytes of what only this entry can hold: everything but shared objects.
    own_bytes: usize,
    /// Whether it holds objects.
    objects: bool,
}

impl Entry {
    /// Whether its values can still be used: those of a process that ended cannot.
    fn alive(&self) -> bool {
        let mut alive = true;
        if self.objects {
            self.result.each_object(&mut |object| alive &= object.alive());
        }
        alive
    }

    /// All bytes that it may hold, of shared objects too.
    fn bytes(&self) -> usize {
        let mut bytes = self.own_bytes;
        self.result.each_object(&mut |object| bytes += object.size_bytes());
        bytes
    }
}

/// An object in memory, held by so many entries.
struct Shared {
    entries: usize,
    bytes: usize,
}

pub(crate) struct Cache {
    policy: CachePolicy,
    budget_bytes: Option<usize>,
    entries: HashMap<Signature, Entry>,
    /// Entries by their last use.
    by_use: BTreeMap<u64, Signature>,
    /// Objects by address: one that several nodes pass on is accounted once.
    objects: HashMap<usize, Shared>,
    bytes: usize,
    prompt: u64,
    tick: u64,
}

impl Cache {
    pub fn new(policy: CachePolicy, budget_bytes: Option<usize>) -> Self {
        Self {
            policy,
            budget_bytes,
            entries: HashMap::new(),
            by_use: BTreeMap::new(),
            objects: HashMap::new(),
            bytes: 0,
            prompt: 0,
            tick: 0,
        }
    }

    /// A prompt begins that holds nodes with these signatures; `lives` tells whether a scope's root is in it.
    pub fn begin(&mut self, signatures: &HashSet<Signature>, lives: &dyn Fn(&Scope) -> bool) {
        self.prompt += 1;
        self.retain(|_, entry| entry.alive());
        match self.policy {
            CachePolicy::None => self.clear(),
            CachePolicy::Classic => {
                self.retain(|signature, entry| signatures.contains(signature) || entry.scope.as_ref().is_some_and(lives));
            }
            CachePolicy::Lru(max) => {
                for signature in signatures {
                    if let Some(entry) = self.entries.get_mut(signature) {
                        entry.used_in = self.prompt;
                    }
                }
                self.drop_oldest_prompts(max);
            }
        }
    }

    /// The prompt is over; the nodes named expanded anew in it, so that what their earlier expansions left is of no more use.
    pub fn end(&mut self, expanded: &HashSet<Arc<str>>) {
        if self.policy == CachePolicy::Classic && !expanded.is_empty() {
            let prompt = self.prompt;
            self.retain(|_, entry| entry.used_in == prompt || !entry.scope.as_ref().is_some_and(|s| expanded.contains(&s.parent)));
        }
    }

    pub fn contains(&self, signature: &Signature) -> bool {
        self.entries.get(signature).is_some_and(Entry::alive)
    }

    /// Gives a result without counting it as used.
    pub fn peek(&self, signature: &Signature) -> Option<Arc<NodeResult>> {
        self.entries.get(signature).filter(|e| e.alive()).map(|e| e.result.clone())
    }

    /// Gives a result and notes its use.
    pub fn get(&mut self, signature: &Signature) -> Option<Arc<NodeResult>> {
        let entry = self.entries.get_mut(signature)?;
        if !entry.alive() {
            self.remove(signature);
            return None;
        }
        self.by_use.remove(&entry.tick);
        self.tick += 1;
        entry.tick = self.tick;
        entry.used_in = self.prompt;
        self.by_use.insert(self.tick, *signature);
        Some(entry.result.clone())
    }

    /// Keeps a result, and drops those used longest ago if the budget is exceeded: this one too if it alone exceeds it.
    pub fn put(&mut self, signature: Signature, result: Arc<NodeResult>, scope: Option<Scope>) {
        if self.policy == CachePolicy::None {
            return;
        }
        self.remove(&signature);
        let (own_bytes, objects) = self.hold(&result);
        self.bytes += own_bytes;
        self.tick += 1;
        self.by_use.insert(self.tick, signature);
        self.entries.insert(signature, Entry { result, scope, used_in: self.prompt, tick: self.tick, own_bytes, objects });
        while self.budget_bytes.is_some_and(|budget| self.bytes > budget) {
            let Some((_, oldest)) = self.by_use.pop_first() else { return };
            self.remove(&oldest);
        }
    }

    /// Memory is short: drops what was used longest ago and is not in use, about so many bytes of it. Whether there was any.
    pub fn give_way(&mut self, missing: u64) -> bool {
        let mut given = 0;
        let mut dropped = Vec::new();
        for signature in self.by_use.values() {
            let Some(entry) = self.entries.get(signature).filter(|entry| Arc::strong_count(&entry.result) == 1) else { continue };
            let bytes = entry.bytes();
            if bytes >= WORTH_DROPPING && given < missing {
                given = given.saturating_add(bytes as u64);
                dropped.push(*signature);
            }
        }
        dropped.iter().for_each(|signature| self.remove(signature));
        !dropped.is_empty()
    }

    pub fn clear(&mut self) {
        self.entries.clear();
        self.by_use.clear();
        self.objects.clear();
        self.bytes = 0;
    }

    /// How many results are kept, and the bytes that they are accounted with.
    pub fn usage(&self) -> (usize, usize) {
        (self.entries.len(), self.bytes)
    }

    fn retain(&mut self, keep: impl Fn(&Signature, &Entry) -> bool) {
        let drop: Vec<Signature> = self.entries.iter().filter(|(s, e)| !keep(s, e)).map(|(s, _)| *s).collect();
        for signature in drop {
            self.remove(&signature);
        }
    }

    /// As in the reference, the results of whole prompts are dropped, the oldest first, and never those that this prompt uses.
    fn drop_oldest_prompts(&mut self, max: usize) {
        if self.entries.len() <= max {
            return;
        }
        let mut by_prompt: BTreeMap<u64, Vec<Signature>> = BTreeMap::new();
        for (signature, entry) in &self.entries {
            by_prompt.entry(entry.used_in).or_default().push(*signature);
        }
        for (prompt, signatures) in by_prompt {
            if self.entries.len() <= max || prompt == self.prompt {
                return;
            }
            for signature in signatures {
                self.remove(&signature);
            }
        }
    }

    fn remove(&mut self, signature: &Signature) {
        let Some(entry) = self.entries.remove(signature) else { return };
        self.by_use.remove(&entry.tick);
        self.bytes -= entry.own_bytes;
        entry.result.each_object(&mut |object| {
            if let Some(shared) = self.objects.get_mut(&address(object)) {
                shared.entries -= 1;
                if shared.entries == 0 {
                    self.bytes -= shared.bytes;
                    self.objects.remove(&address(object));
                }
            }
        });
    }

    /// Accounts a result's objects; gives the bytes of the rest, and whether there are objects.
    fn hold(&mut self, result: &NodeResult) -> (usize, bool) {
        let mut objects = false;
        result.each_object(&mut |object| {
            objects = true;
            let shared = self.objects.entry(address(object)).or_insert_with(|| Shared { entries: 0, bytes: object.size_bytes() });
            if shared.entries == 0 {
                self.bytes += shared.bytes;
            }
            shared.entries += 1;
        });
        (ENTRY_BYTES + result.plain_bytes, objects)
    }
}

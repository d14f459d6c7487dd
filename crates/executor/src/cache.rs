//! Results kept between prompts, by signature: which stay is the policy's choice, how much memory they take is bounded by the budget.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use comfyd_graph::Signature;
use comfyd_node::Value;
use serde_json::Value as Json;

use crate::options::CachePolicy;

/// Bytes accounted for a result beside its values: the entry itself and its bookkeeping.
const ENTRY_BYTES: usize = 256;

/// What a node gave.
#[derive(Debug, Default)]
pub(crate) struct NodeResult {
    /// Output slot → its values, one per call.
    pub outputs: Vec<Arc<Vec<Value>>>,
    /// What the client is shown.
    pub ui: Option<Arc<Json>>,
}

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
        !self.objects || self.result.outputs.iter().flat_map(|values| values.iter()).all(alive)
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
    pub fn peek(&self, signature: &Signature) -> Option<&NodeResult> {
        self.entries.get(signature).filter(|e| e.alive()).map(|e| &*e.result)
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
        for_each_object(&entry.result, &mut |address, _| {
            if let Some(shared) = self.objects.get_mut(&address) {
                shared.entries -= 1;
                if shared.entries == 0 {
                    self.bytes -= shared.bytes;
                    self.objects.remove(&address);
                }
            }
        });
    }

    /// Accounts a result's objects; gives the bytes of the rest, and whether there are objects.
    fn hold(&mut self, result: &NodeResult) -> (usize, bool) {
        let mut objects = false;
        for_each_object(result, &mut |address, bytes| {
            objects = true;
            let shared = self.objects.entry(address).or_insert(Shared { entries: 0, bytes });
            if shared.entries == 0 {
                self.bytes += shared.bytes;
            }
            shared.entries += 1;
        });
        let plain: usize = result.outputs.iter().flat_map(|v| v.iter()).map(plain_bytes).sum();
        let ui = result.ui.as_ref().map_or(0, |ui| ui.to_string().len());
        (ENTRY_BYTES + plain + ui, objects)
    }
}

/// Calls back with the address and size of each object, as often as it occurs.
fn for_each_object(result: &NodeResult, callback: &mut dyn FnMut(usize, usize)) {
    for value in result.outputs.iter().flat_map(|values| values.iter()) {
        object(value, callback);
    }
}

fn object(value: &Value, callback: &mut dyn FnMut(usize, usize)) {
    match value {
        Value::Object(object) => callback(Arc::as_ptr(object).cast::<()>() as usize, object.size_bytes()),
        Value::List(values) => values.iter().for_each(|v| object(v, callback)),
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) | Value::Json(_) | Value::Blocker(_) => {}
    }
}

fn alive(value: &Value) -> bool {
    match value {
        Value::Object(object) => object.alive(),
        Value::List(values) => values.iter().all(alive),
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) | Value::Json(_) | Value::Blocker(_) => true,
    }
}

fn plain_bytes(value: &Value) -> usize {
    match value {
        Value::Object(_) => size_of::<Value>(),
        Value::List(values) => values.iter().map(plain_bytes).sum(),
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) | Value::Json(_) | Value::Blocker(_) => {
            size_of::<Value>() + value.size_bytes()
        }
    }
}

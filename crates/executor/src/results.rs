//! What nodes gave, and the account of memory that is told of it: an object that several results hold counts once.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use comfyd_memory::{Account, Lease};
use comfyd_node::{Opaque, Value};
use parking_lot::Mutex;
use serde_json::Value as Json;

/// What a node gave.
#[derive(Debug)]
pub(crate) struct NodeResult {
    /// First, so that it is told before the values are gone: their addresses may be others' then.
    _held: Held,
    /// Output slot → its values, one per call.
    pub outputs: Vec<Arc<Vec<Value>>>,
    /// What the client is shown.
    pub ui: Option<Arc<Json>>,
    /// Bytes of all but objects, about.
    pub plain_bytes: usize,
}

impl NodeResult {
    /// Calls back with each object, as often as it occurs.
    pub fn each_object<'a>(&'a self, callback: &mut dyn FnMut(&'a Arc<dyn Opaque>)) {
        self.outputs.iter().for_each(|values| each_object(values, callback));
    }
}

/// The results of an executor that are in memory.
pub(crate) struct Ledger {
    account: Account,
    /// By address.
    objects: Mutex<HashMap<usize, Counted>>,
}

/// An object that so many results hold.
struct Counted {
    results: usize,
    _lease: Lease,
}

impl Ledger {
    pub fn new(account: Account) -> Arc<Self> {
        Arc::new(Self { account, objects: Mutex::default() })
    }

    /// Counts what a node gave.
    pub fn result(self: &Arc<Self>, outputs: Vec<Arc<Vec<Value>>>, ui: Option<Arc<Json>>) -> NodeResult {
        let mut addresses = Vec::new();
        let mut objects = self.objects.lock();
        outputs.iter().for_each(|values| {
            each_object(values, &mut |object| {
                // What lies in another process counts there.
                if object.host().is_some() {
                    return;
                }
                let lease = || Counted { results: 0, _lease: self.account.count(object.size_bytes() as u64) };
                objects.entry(address(object)).or_insert_with(lease).results += 1;
                addresses.push(address(object));
            });
        });
        drop(objects);
        let plain: usize = outputs.iter().flat_map(|values| values.iter()).map(plain_bytes).sum();
        let plain_bytes = plain + ui.as_ref().map_or(0, |ui| ui.to_string().len());
        let _held = Held { ledger: self.clone(), addresses, _plain: self.account.count(plain_bytes as u64) };
        NodeResult { _held, outputs, ui, plain_bytes }
    }

    /// Results of earlier prompts go if there are more than there may be.
    pub fn relieve(&self) {
        self.account.relieve();
    }
}

/// What a result holds of the account.
struct Held {
    ledger: Arc<Ledger>,
    addresses: Vec<usize>,
    _plain: Lease,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut objects = self.ledger.objects.lock();
        for address in &self.addresses {
            if let Some(counted) = objects.get_mut(address) {
                counted.results -= 1;
                if counted.results == 0 {
                    objects.remove(address);
                }
            }
        }
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("objects", &self.addresses.len()).finish_non_exhaustive()
    }
}

/// Where an object is.
pub(crate) fn address(object: &Arc<dyn Opaque>) -> usize {
    Arc::as_ptr(object).cast::<()>() as usize
}

fn each_object<'a>(values: &'a [Value], callback: &mut dyn FnMut(&'a Arc<dyn Opaque>)) {
    for value in values {
        match value {
            Value::Object(object) => callback(object),
            Value::List(values) => each_object(values, callback),
            Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) | Value::Json(_) | Value::Blocker(_) => {}
        }
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

//! Objects that lie in a worker, as this process holds them: by number, until nobody here uses them any more.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use comfyd_node::{Error, Opaque, Result, Value};
use parking_lot::Mutex;
use serde_json::Value as Json;

use crate::frame::{Blob, Message};
use crate::link::Link;
use crate::portable::{self, Carried, Tensors};

/// How long an object may take to come: it may lie on a busy device.
const FETCH: Duration = Duration::from_secs(120);
/// The largest object of this process of which a worker keeps a copy, and what it may keep in all.
const MAX_KEPT: usize = 64 << 20;
const MAX_KEPT_ALL: usize = 512 << 20;
/// The type that says nothing.
const ANY: &str = "*";

/// The objects of one process of a worker.
pub(crate) struct Objects {
    /// The connection to it.
    pub link: Arc<Link>,
    known: Mutex<Known>,
    puts: Mutex<Puts>,
}

/// Objects of this process that went to the worker, and of which it keeps copies until the prompt ends. It does so from their second time
/// on: most go there once, and memory that is used again at once is much quicker than new memory.
#[derive(Default)]
struct Puts {
    /// By address, which nothing else can have while it is pointed to from here; with the number of the worker's copy.
    known: HashMap<usize, (Option<u64>, Weak<dyn Opaque>)>,
    numbers: u64,
    bytes: usize,
}

#[derive(Default)]
struct Known {
    /// Handle → the object here, and which of its successive holders that is.
    remotes: HashMap<u64, (u64, Weak<Remote>)>,
    holders: u64,
}

/// What a worker tells of an object.
pub(crate) struct Told {
    /// Its number there.
    pub handle: u64,
    /// Its class there.
    pub kind: String,
    /// Its memory, in bytes.
    pub size: usize,
    /// The lengths of its axes, if it is a tensor.
    pub shape: Option<Vec<usize>>,
}

/// An object in a worker.
pub(crate) struct Remote {
    objects: Arc<Objects>,
    told: Told,
    holder: u64,
    /// The type of the link that it came along, once one says more than `*`.
    ty: OnceLock<Box<str>>,
    /// It as a native value, while that is used.
    local: Mutex<Option<Weak<dyn Opaque>>>,
}

/// An object that came.
enum Fetched {
    Plain(Value),
    /// A description, and its tensors.
    Tensors(Json, Tensors),
}

impl Objects {
    /// No objects yet.
    pub fn new(link: Arc<Link>) -> Arc<Self> {
        Arc::new(Self { link, known: Mutex::default(), puts: Mutex::default() })
    }

    /// The object of that number: the same for the same number.
    pub fn get(self: &Arc<Self>, told: Told, declared: &str) -> Arc<Remote> {
        let mut known = self.known.lock();
        let handle = told.handle;
        if let Some(remote) = known.remotes.get(&handle).and_then(|(_, remote)| remote.upgrade()) {
            drop(known);
            remote.name(declared);
            return remote;
        }
        known.holders += 1;
        let holder = known.holders;
        let remote = Arc::new(Remote { objects: self.clone(), told, holder, ty: OnceLock::new(), local: Mutex::new(None) });
        known.remotes.insert(handle, (holder, Arc::downgrade(&remote)));
        // Its last holder may have let go of it while it was on its way here again.
        self.link.keep(handle);
        drop(known);
        remote.name(declared);
        remote
    }

    /// Whether an object of this process went there in this prompt, and the number of the copy that the worker keeps, if it does.
    pub fn crossed(&self, object: &Arc<dyn Opaque>) -> Option<Option<u64>> {
        let puts = self.puts.lock();
        puts.known.get(&address(object)).filter(|(_, known)| known.strong_count() > 0).map(|(number, _)| *number)
    }

    /// A number for the copy that the worker is about to get; `None` where it is to keep none.
    pub fn new_put(&self, object: &Arc<dyn Opaque>) -> Option<u64> {
        let size = object.size_bytes();
        let mut puts = self.puts.lock();
        if size > MAX_KEPT || puts.bytes + size > MAX_KEPT_ALL {
            return None;
        }
        puts.bytes += size;
        puts.numbers += 1;
        Some(puts.numbers)
    }

    /// These go there, with the message that was made.
    pub fn cross(&self, made: Vec<(Option<u64>, Arc<dyn Opaque>)>) {
        let mut puts = self.puts.lock();
        puts.known.extend(made.into_iter().map(|(number, object)| (address(&object), (number, Arc::downgrade(&object)))));
    }

    /// The prompt is over, and with it the copies.
    pub fn forget_puts(&self) {
        let mut puts = self.puts.lock();
        puts.known.clear();
        puts.bytes = 0;
    }
}

fn address(object: &Arc<dyn Opaque>) -> usize {
    Arc::as_ptr(object).cast::<()>().addr()
}

impl Remote {
    /// Its number, for the process in which it lies.
    pub fn handle(&self) -> u64 {
        self.told.handle
    }

    /// Whether it lies in that process.
    pub fn lies_in(&self, objects: &Arc<Objects>) -> bool {
        Arc::ptr_eq(&self.objects, objects)
    }

    fn name(&self, declared: &str) {
        if declared != ANY {
            self.ty.get_or_init(|| declared.into());
        }
    }

    /// Why it cannot be used, if the process in which it lay has ended.
    pub fn lost(&self) -> Option<String> {
        (!self.alive()).then(|| format!("{} is lost: {}", self.describe(), self.objects.link.gone()))
    }

    fn fetch(&self) -> Result<Fetched> {
        if let Some(why) = self.lost() {
            return Err(Error::Failed(why));
        }
        let message = Message::new("fetch").field("h", &self.told.handle);
        let mut frame = self.objects.link.wait(message, FETCH)?;
        if let (Some(portable), Blob::Tensors(tensors)) = (frame.json.get_mut("p").map(Json::take), frame.blob) {
            return Ok(Fetched::Tensors(portable, tensors));
        }
        match frame.json.get("j") {
            Some(json) => Ok(Fetched::Plain(Value::from(json))),
            None => Err(Error::CannotCross(format!("{} cannot leave it", self.describe()))),
        }
    }

    /// It as another worker takes it.
    pub fn carried(&self) -> Result<Value> {
        Ok(match self.fetch()? {
            Fetched::Plain(value) => value,
            Fetched::Tensors(portable, tensors) => Value::object(Carried::new(portable, tensors)),
        })
    }
}

impl Opaque for Remote {
    fn type_name(&self) -> &str {
        self.ty.get().map_or(ANY, |ty| ty)
    }

    fn size_bytes(&self) -> usize {
        self.told.size
    }

    fn describe(&self) -> String {
        let shape = self.told.shape.as_deref().map(|shape| format!(" of shape {}", portable::shape_text(shape))).unwrap_or_default();
        format!("a {}{shape} in the Python worker '{}'", self.told.kind, self.objects.link.name)
    }

    fn host(&self) -> Option<&str> {
        Some(&self.objects.link.name)
    }

    fn localize(&self) -> Result<Option<Value>> {
        // Held while it comes, so that it comes once.
        let mut local = self.local.lock();
        if let Some(object) = local.as_ref().and_then(Weak::upgrade).filter(|_| self.alive()) {
            return Ok(Some(Value::Object(object)));
        }
        let (portable, tensors) = match self.fetch()? {
            Fetched::Plain(value) => return Ok(Some(value)),
            Fetched::Tensors(portable, tensors) => (portable, tensors),
        };
        let object = portable::unpack(&portable, tensors, self.type_name()).map_err(|what| {
            let (ty, place) = (self.type_name(), &self.objects.link.name);
            Error::CannotCross(format!("{what} of type {ty} cannot leave the Python worker '{place}'"))
        })?;
        *local = Some(Arc::downgrade(&object));
        Ok(Some(Value::Object(object)))
    }

    fn alive(&self) -> bool {
        self.objects.link.alive()
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        let mut known = self.objects.known.lock();
        // Another may hold the number by now: it came again between the last use of this and here.
        if known.remotes.get(&self.told.handle).is_some_and(|(holder, _)| *holder == self.holder) {
            known.remotes.remove(&self.told.handle);
            self.objects.link.release(self.told.handle);
        }
    }
}

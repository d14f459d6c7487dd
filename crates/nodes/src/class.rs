//! How a node class is declared here: a schema, a function, and for some a check and a fingerprint.

use comfyd_imaging::decode::Limits;
use comfyd_imaging::resize::{Crop, Method};
use std::sync::Arc;

use comfyd_engine::patches::ModelPatch;
use comfyd_engine::{Engine, Model, SD_LATENTS};
use comfyd_memory::Lease;
use comfyd_node::{CancellationToken, Context, Error, Fingerprint, Inputs, Node, NodeOutput, Opaque, Result, Schema, Value};
use comfyd_values::{Image, Latent, Mask};
use comfyd_wire::json;
use ndarray::{ArcArray, RemoveAxis};
use parking_lot::Mutex;
use serde_json::Value as Json;

use crate::apart::{apart, each};
use crate::services::State;

/// The largest width and height that widgets allow, in pixels.
pub(crate) const MAX_RESOLUTION: i64 = 16384;

/// Pixels per cell, on each side, of the latents that nodes make or change without a model: Stable Diffusion's.
pub(crate) const CELL: usize = SD_LATENTS.factor;

/// Bytes of decoded pictures, as f32 RGB, for which there is room at first, and how often a picture is there until it is decoded: as it was
/// stored, and as its mask.
const DECODED: u64 = 64 << 20;
const DECODED_COPIES: u64 = 2;

/// Computes a node's outputs.
pub(crate) type Run = fn(&mut Call<'_, '_>) -> Result<NodeOutput>;
type Validate = fn(&State, &Inputs) -> std::result::Result<(), String>;
type Needed = fn(&State, &Inputs) -> Result<Vec<String>>;
type Declines = fn(&State, &Inputs) -> Option<Error>;
type FingerprintOf = fn(&State, &Inputs, &CancellationToken) -> Result<Fingerprint>;

/// The declaration of one class.
#[derive(Clone, Copy)]
pub(crate) struct Class {
    schema: fn() -> Schema,
    run: Run,
    declines: Option<Declines>,
    validate: Option<Validate>,
    fingerprint: Option<FingerprintOf>,
    needed: Option<Needed>,
}

impl Class {
    /// A class whose result depends on its inputs alone.
    pub(crate) const fn new(schema: fn() -> Schema, run: Run) -> Self {
        Self { schema, run, declines: None, validate: None, fingerprint: None, needed: None }
    }

    /// Tells why another implementation should be taken with these widget values, where there is one.
    pub(crate) const fn declines(self, declines: Declines) -> Self {
        Self { declines: Some(declines), ..self }
    }

    /// Checks widget values beyond the schema.
    pub(crate) const fn validate(self, validate: Validate) -> Self {
        Self { validate: Some(validate), ..self }
    }

    /// Tells which of the lazy inputs are needed, by those that are there.
    pub(crate) const fn needed(self, needed: Needed) -> Self {
        Self { needed: Some(needed), ..self }
    }

    /// Tells the cache what else the result depends on.
    pub(crate) const fn fingerprint(self, fingerprint: FingerprintOf) -> Self {
        Self { fingerprint: Some(fingerprint), ..self }
    }
}

/// A class together with what it works with.
pub(crate) struct Bound {
    class: Class,
    state: Arc<State>,
    /// Whether it makes arrays or files of what it is given.
    makes: bool,
}

impl Bound {
    pub(crate) fn new(class: Class, state: Arc<State>) -> Self {
        let schema = (class.schema)();
        let arrays = |ty: &str| ["IMAGE", "LATENT", "MASK"].contains(&ty);
        let makes = schema.output_node || schema.outputs.iter().any(|output| arrays(&output.ty));
        Self { class, state, makes }
    }
}

impl Node for Bound {
    fn schema(&self) -> Schema {
        (self.class.schema)()
    }

    fn declines(&self, inputs: &Inputs) -> Option<String> {
        let reason = self.class.declines.and_then(|declines| declines(&self.state, inputs))?;
        Some(self.state.for_clients(reason).to_string())
    }

    fn validate(&self, inputs: &Inputs) -> std::result::Result<(), String> {
        self.class.validate.map_or(Ok(()), |validate| validate(&self.state, inputs))
    }

    fn fingerprint(&self, inputs: &Inputs, cancel: &CancellationToken) -> Result<Fingerprint> {
        let found = self.class.fingerprint.map_or(Ok(Fingerprint::Inputs), |fingerprint| fingerprint(&self.state, inputs, cancel));
        found.map_err(|error| self.state.for_clients(error))
    }

    fn needed(&self, inputs: &Inputs) -> Result<Vec<String>> {
        let Some(needed) = self.class.needed else { return Ok(self.schema().lazy_inputs(inputs)) };
        needed(&self.state, inputs).map_err(|error| self.state.for_clients(error))
    }

    fn run(&self, cx: &mut Context<'_>, inputs: Inputs) -> Result<NodeOutput> {
        let done = Call::new(&self.state, cx, &inputs, self.makes).and_then(|mut call| (self.class.run)(&mut call));
        done.map_err(|error| self.state.for_clients(error))
    }
}

/// One call of a node, with short ways to its inputs.
pub(crate) struct Call<'a, 'c> {
    pub(crate) state: &'a State,
    pub(crate) cx: &'a mut Context<'c>,
    pub(crate) inputs: &'a Inputs,
    /// What it may allocate, until it is over: then what it gave is counted.
    room: Arc<Mutex<Lease>>,
}

impl<'a, 'c> Call<'a, 'c> {
    /// A call of a class that `makes` something has room for as much as it is given, which is about what classes need that do not ask for more.
    fn new(state: &'a State, cx: &'a mut Context<'c>, inputs: &'a Inputs, makes: bool) -> Result<Self> {
        let given: usize = if makes { inputs.iter().map(|(_, value)| value.size_bytes()).sum() } else { 0 };
        let room = state.services.engine.account().reserve(given as u64).map_err(Error::out_of_memory)?;
        Ok(Self { state, cx, inputs, room: Arc::new(Mutex::new(room)) })
    }

    /// An object of the engine, such as a model.
    pub(crate) fn object<T: Opaque>(&self, name: &str) -> Result<Arc<T>> {
        if matches!(self.inputs.value(name)?, Value::Null) {
            return Err(Error::msg(format!("input '{name}' is empty: the file it comes from holds none; load one from another file")));
        }
        self.inputs.get(name)
    }

    /// What loads models and runs them.
    pub(crate) fn engine(&self) -> &Engine {
        &self.state.services.engine
    }

    /// The model of the input `model` with a patch of its use.
    pub(crate) fn patched(&self, patch: impl ModelPatch + Clone + Sync + 'static) -> Result<NodeOutput> {
        Ok(NodeOutput::one(Value::object(self.object::<Model>("model")?.with(patch))))
    }

    /// The pictures of an input: (B, H, W, C), none of the axes empty.
    pub(crate) fn image(&self, name: &str) -> Result<Image> {
        let image = self.inputs.get::<Image>(name)?;
        if image.0.is_empty() {
            return Err(empty(name, image.describe()));
        }
        Ok(Arc::unwrap_or_clone(image))
    }

    /// The masks of an input: (B, H, W), none of the axes empty.
    pub(crate) fn mask(&self, name: &str) -> Result<Mask> {
        let mask = self.inputs.get::<Mask>(name)?;
        if mask.0.is_empty() {
            return Err(empty(name, mask.describe()));
        }
        Ok(Arc::unwrap_or_clone(mask))
    }

    /// The masks of an optional input.
    pub(crate) fn mask_optional(&self, name: &str) -> Result<Option<Mask>> {
        self.inputs.optional(name).map(|_| self.mask(name)).transpose()
    }

    /// The latents of an input: at least (B, C, N), none of the axes empty.
    pub(crate) fn latent(&self, name: &str) -> Result<Latent> {
        let latent = self.inputs.get::<Latent>(name)?;
        if latent.samples.is_empty() {
            return Err(empty(name, latent.describe()));
        }
        if latent.samples.ndim() < 3 {
            return Err(Error::msg(format!("input '{name}' holds {}; latents have at least three axes", latent.describe())));
        }
        Ok(Arc::unwrap_or_clone(latent))
    }

    /// A number that must fit `T`.
    pub(crate) fn int<T: TryFrom<i128>>(&self, name: &str) -> Result<T> {
        self.inputs.int_as(name)
    }

    /// The number that an input of a node that takes lists holds first.
    pub(crate) fn first<T: TryFrom<i128>>(&self, name: &str) -> Result<T> {
        let wrong = |got: &str| Error::msg(format!("input '{name}' holds {got}, which is out of range; give it a whole number"));
        match self.inputs.list(name)?.first() {
            Some(Value::Int(int)) => T::try_from(*int).map_err(|_| wrong(&int.to_string())),
            Some(other) => Err(wrong(other.type_name())),
            None => Err(Error::MissingInput(name.into())),
        }
    }

    /// A number of at least `min`.
    pub(crate) fn count(&self, name: &str, min: usize) -> Result<usize> {
        let count = self.inputs.int_as::<usize>(name)?;
        if count < min { Err(Error::msg(format!("input '{name}' is {count}, it must be at least {min}"))) } else { Ok(count) }
    }

    /// Which one of a batch, the nearest that there is: counted from 0, or from the end if it is negative.
    pub(crate) fn place(&self, name: &str, batch: usize) -> Result<usize> {
        Ok(match self.inputs.int_as::<i64>(name)? {
            index @ ..0 => batch.saturating_sub(usize::try_from(index.unsigned_abs()).unwrap_or(usize::MAX)),
            index => usize::try_from(index).unwrap_or(usize::MAX).min(batch.saturating_sub(1)),
        })
    }

    /// A number that is not NaN or infinite.
    pub(crate) fn float(&self, name: &str) -> Result<f64> {
        let value = self.inputs.float(name)?;
        if value.is_finite() { Ok(value) } else { Err(Error::msg(format!("input '{name}' is {value}, give it a finite number"))) }
    }

    /// What `take` makes of each input that was given of one that grows, in their order: `call.each("images", Call::image)`.
    pub(crate) fn each<T>(&self, name: &str, take: impl Fn(&Self, &str) -> Result<T>) -> Result<Vec<T>> {
        self.inputs.group(name).iter().map(|(member, _)| take(self, &format!("{name}.{member}"))).collect()
    }

    /// A switch.
    pub(crate) fn bool(&self, name: &str) -> Result<bool> {
        self.inputs.bool(name)
    }

    /// A switch that may be absent.
    pub(crate) fn bool_or(&self, name: &str, absent: bool) -> Result<bool> {
        self.inputs.optional(name).map_or(Ok(absent), |_| self.inputs.bool(name))
    }

    /// A text, or the choice of a combo.
    pub(crate) fn text(&self, name: &str) -> Result<&str> {
        self.inputs.text(name)
    }

    /// How to scale.
    pub(crate) fn method(&self, name: &str) -> Result<Method> {
        self.inputs.text(name)?.parse().map_err(Error::other)
    }

    /// What to do when the aspect ratio changes.
    pub(crate) fn crop(&self, name: &str) -> Result<Crop> {
        self.inputs.text(name)?.parse().map_err(Error::other)
    }

    /// Does work on pictures of so many values that takes long and cannot be interrupted; it is left behind when the prompt is.
    pub(crate) fn apart<T: Send + 'static>(
        &self,
        values: usize,
        work: impl FnOnce() -> comfyd_imaging::Result<T> + Send + 'static,
    ) -> Result<T> {
        self.aside(values, work)?.map_err(Error::other)
    }

    /// The same for work that cannot fail. What the call may allocate stays taken until it is over, though it was left behind.
    pub(crate) fn aside<T: Send + 'static>(&self, values: usize, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let room = Arc::clone(&self.room);
        apart(self.cx.cancel_token(), values, move || {
            let _room = room;
            work()
        })
    }

    /// What `make` makes of texts of so many bytes, which takes room for so many.
    pub(crate) fn of_text<T: Send + 'static>(&self, bytes: usize, room: usize, make: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        self.room(room as u64)?;
        self.aside(bytes, make)
    }

    /// A JSON text, if it is one.
    pub(crate) fn json(&self, text: &str) -> Result<Option<Json>> {
        let room = json::bytes_when_read(text.as_bytes());
        let text = text.to_owned();
        self.of_text(text.len(), room, move || json::read(text.as_bytes()).ok())
    }

    /// The same work for each picture or mask of a batch; it takes long, cannot be interrupted, and is left behind when the prompt is.
    pub(crate) fn one_by_one<D: RemoveAxis + 'static>(
        &self,
        batch: &ArcArray<f32, D>,
        work: impl Fn(ArcArray<f32, D>) -> comfyd_imaging::Result<ArcArray<f32, D>> + Send + Sync + 'static,
    ) -> Result<ArcArray<f32, D>> {
        each(self.cx.cancel_token(), &self.room, batch, work)
    }

    /// What `decode` makes of a file. How large it becomes is in the file: it is tried with as much room as most need, and again with as much
    /// as it says, until there is no more.
    pub(crate) fn decoded<T: Send + 'static>(
        &self,
        file: Vec<u8>,
        decode: impl Fn(&[u8], &Limits) -> comfyd_imaging::Result<T> + Clone + Send + 'static,
    ) -> Result<T> {
        let file = Arc::new(file);
        let most = self.state.services.limits.max_tensor_bytes;
        let mut limits = Limits { max_bytes: most.min(DECODED), ..Limits::default() };
        loop {
            self.room_of(limits.max_bytes.saturating_mul(DECODED_COPIES))?;
            let (bytes, within, decode) = (Arc::clone(&file), limits.clone(), decode.clone());
            match self.aside(usize::MAX, move || decode(&bytes, &within))? {
                Err(comfyd_imaging::Error::TooLarge { found, limit, .. }) if limit == limits.max_bytes && limit < most => {
                    limits.max_bytes = found.max(2 * limit).min(most);
                }
                done => return done.map_err(Error::other),
            }
        }
    }

    /// Room for so many bytes, what was asked for before included.
    fn room_of(&self, bytes: u64) -> Result<()> {
        let mut room = self.room.lock();
        let bytes = bytes.max(room.bytes());
        room.resize(bytes).map_err(Error::out_of_memory)
    }

    /// Room for so many bytes more, until the call is over. Fails if memory is short.
    pub(crate) fn room(&self, bytes: u64) -> Result<()> {
        let mut room = self.room.lock();
        let more = room.bytes().saturating_add(bytes);
        room.resize(more).map_err(Error::out_of_memory)
    }

    /// Room for an array of this shape, four bytes per value. Fails if it is larger than the limit, or if memory is short. Called before every
    /// allocation whose size the inputs decide.
    pub(crate) fn reserve(&self, shape: &[usize]) -> Result<()> {
        let limit = self.state.services.limits.max_tensor_bytes;
        let bytes = shape.iter().try_fold(4u64, |bytes, axis| bytes.checked_mul(*axis as u64));
        if let Some(bytes) = bytes.filter(|bytes| *bytes <= limit) {
            return self.room(bytes);
        }
        let shape = shape.iter().map(usize::to_string).collect::<Vec<_>>().join(" x ");
        let limit = limit >> 20;
        Err(Error::out_of_memory(format!(
            "the result would have {shape} values, more than the limit of {limit} MiB; make it smaller or raise the limit"
        )))
    }

    /// Room for a text of this many bytes, instead of what was asked for another one before. Fails if it is longer than the limit.
    pub(crate) fn reserve_text(&self, bytes: usize) -> Result<()> {
        let limit = self.state.services.limits.max_text_bytes;
        if bytes as u64 <= limit {
            // It is grown in steps, and copied once as a whole.
            return self.room_of(2 * bytes as u64);
        }
        Err(Error::out_of_memory(format!(
            "the text would have {bytes} bytes, more than the limit of {limit}; make it shorter or raise the limit"
        )))
    }
}

/// The error for a combo's value that the node does not know (linked values are not checked against the list).
pub(crate) fn unknown_choice(name: &str, value: &str) -> Error {
    Error::msg(format!("input '{name}' does not know '{value}'; take one of the listed choices"))
}

fn empty(name: &str, what: String) -> Error {
    Error::msg(format!("input '{name}' holds {what}, which has no values; give it something that is not empty"))
}

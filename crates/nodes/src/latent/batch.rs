//! Latents put together, taken apart and counted.

use std::sync::Arc;

use comfyd_node::{Error, Grow, Input, NodeOutput, Result, Schema, Value};
use comfyd_values::Latent;
use ndarray::{ArcArray, IxDyn};

use crate::class::{Call, Class, unknown_choice};
use crate::latent::arrays::{Samples, expect_picture, fit_batch, join, narrow, repeat as repeat_samples};
use crate::resize::{self, like};

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("LatentFromBatch")
                .display("Get Latent From Batch")
                .category("model/latent/batch")
                .description(
                    "Takes some consecutive latents out of a batch; they keep the noise that they had in the \
                     batch.",
                )
                .aliases(["one of many", "nth latent"])
                .input(Input::link("samples", "LATENT"))
                .input(Input::int("batch_index").default(0).min(-16384).max(16384).tooltip("The first one to take, counted from 0."))
                .input(Input::int("length").default(1).min(1).max(64).tooltip("How many to take."))
                .output("LATENT")
        },
        from_batch,
    ),
    Class::new(
        || {
            Schema::new("RepeatLatentBatch")
                .display("Repeat Latent Batch")
                .category("model/latent/batch")
                .description("Repeats a batch of latents.")
                .aliases(["copies", "several pictures"])
                .input(Input::link("samples", "LATENT"))
                .input(Input::int("amount").default(1).min(1).max(64).tooltip("How often."))
                .output("LATENT")
        },
        repeat,
    ),
    Class::new(
        || {
            Schema::new("LatentBatch")
                .display("Batch Latents (DEPRECATED)")
                .deprecated()
                .category("model/latent/batch")
                .module("comfy_extras.nodes_latent")
                .schema_generation()
                .description("Puts two batches of latents behind each other. The second gets the size of the first.")
                .aliases(["append", "several latents"])
                .input(Input::link("samples1", "LATENT").tooltip("The first batch."))
                .input(Input::link("samples2", "LATENT").tooltip("The second batch."))
                .output("LATENT")
        },
        batch,
    ),
    Class::new(
        || {
            Schema::new("RebatchLatents")
                .display("Rebatch Latents")
                .category("model/latent/batch")
                .module("comfy_extras.nodes_rebatch")
                .schema_generation()
                .description("Regroups latents into batches of another size.")
                .input(Input::link("latents", "LATENT").tooltip("Latents, of all batches."))
                .input(Input::int("batch_size").default(1).min(1).max(4096).tooltip("Latents per batch."))
                .input_is_list()
                .output_list("LATENT")
        },
        rebatch,
    ),
    Class::new(
        || {
            let latent = Input::link("latent", "LATENT").tooltip("Latents.");
            Schema::new("BatchLatentsNode")
                .display("Batch Latents")
                .category("model/latent/batch")
                .module("comfy_extras.nodes_post_processing")
                .schema_generation()
                .description("Puts latents behind each other into one batch. All get the size of the first.")
                .aliases(["join latents", "collect", "combine"])
                .input(Input::grow("latents", Grow::numbered(latent, "latent").max(50)))
                .output("LATENT")
        },
        batch_all,
    ),
    Class::new(
        || {
            Schema::new("LatentBatchSeedBehavior")
                .no_display()
                .category("model/latent/advanced")
                .module("comfy_extras.nodes_latent")
                .schema_generation()
                .description("Decides whether the latents of a batch get different noise or all the same.")
                .input(Input::link("samples", "LATENT").tooltip("The batch."))
                .input(
                    Input::combo("seed_behavior", ["random", "fixed"])
                        .default("fixed")
                        .tooltip("random: each its own noise; fixed: all the noise of the first."),
                )
                .output("LATENT")
        },
        seed_behavior,
    ),
    Class::new(
        || {
            Schema::new("TrimVideoLatent")
                .display("Trim Video Latent")
                .category("model/latent")
                .module("comfy_extras.nodes_wan")
                .schema_generation()
                .description("Drops frames at the beginning of a video latent.")
                .input(Input::link("samples", "LATENT").tooltip("The video."))
                .input(Input::int("trim_amount").default(0).min(0).max(99999).tooltip("Latent frames to drop."))
                .output("LATENT")
        },
        trim_video,
    ),
];

/// The places in the noise sequence of the first `count` samples, as the reference assumes them where none are given.
fn places(start: i64, count: usize) -> Vec<i64> {
    (start..).take(count).collect()
}

fn from_batch(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let mut latent = call.latent("samples")?;
    let batch = latent.samples.shape()[0];
    let start = call.place("batch_index", batch)?;
    let length = call.count("length", 1)?.min(batch - start);
    if let Some(mask) = latent.noise_mask.take() {
        let mask = match mask.shape()[0] {
            1 => mask,
            known => narrow(call, &fit_batch(call, &mask, known.max(batch))?, 0, start, length)?,
        };
        latent.noise_mask = Some(mask);
    }
    latent.samples = narrow(call, &latent.samples, 0, start, length)?;
    latent.batch_index = Some(match &latent.batch_index {
        Some(places) => places.iter().skip(start).take(length).copied().collect(),
        None => places(start as i64, length),
    });
    Ok(NodeOutput::one(latent))
}

fn batch_all(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let latents = call.each("latents", Call::latent)?;
    let Some(first) = latents.first() else { return Err(Error::MissingInput("latents".into())) };
    let mut parts = Vec::with_capacity(latents.len());
    let mut indices = Vec::new();
    for latent in &latents {
        parts.push(like(call, &latent.samples, &first.samples)?);
        indices.extend(latent.batch_index.clone().unwrap_or_else(|| places(0, latent.samples.shape()[0])));
    }
    let samples = join(call, &parts.iter().collect::<Vec<_>>(), 0)?;
    Ok(NodeOutput::one(Latent { samples, batch_index: Some(indices), ..first.clone() }))
}

fn repeat(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let mut latent = call.latent("samples")?;
    let amount = call.count("amount", 1)?;
    latent.samples = repeat_samples(call, &latent.samples, amount)?;
    if let Some(mask) = latent.noise_mask.take_if(|mask| mask.shape()[0] > 1) {
        latent.noise_mask = Some(repeat_samples(call, &mask, amount)?);
    }
    if let Some(known) = latent.batch_index.take() {
        let (low, high) = (known.iter().min().copied().unwrap_or(0), known.iter().max().copied().unwrap_or(0));
        let offset = high.saturating_sub(low).saturating_add(1);
        let shifted = |i: usize| known.iter().map(move |place| place.saturating_add(offset.saturating_mul(i as i64)));
        latent.batch_index = Some((0..amount).flat_map(shifted).collect());
    }
    Ok(NodeOutput::one(latent))
}

fn batch(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (mut first, second) = (call.latent("samples1")?, call.latent("samples2")?);
    let samples = resize::like(call, &second.samples, &first.samples)?;
    let own = |latent: &Latent| latent.batch_index.clone().unwrap_or_else(|| places(0, latent.samples.shape()[0]));
    let mut index = own(&first);
    index.extend(own(&second));
    first.samples = join(call, &[&first.samples, &samples], 0)?;
    first.batch_index = Some(index);
    Ok(NodeOutput::one(first))
}

fn seed_behavior(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let mut latent = call.latent("samples")?;
    latent.batch_index = match call.text("seed_behavior")? {
        "random" => None,
        "fixed" => {
            let place = latent.batch_index.as_ref().and_then(|places| places.first()).copied().unwrap_or(0);
            Some(vec![place; latent.samples.shape()[0]])
        }
        other => return Err(unknown_choice("seed_behavior", other)),
    };
    Ok(NodeOutput::one(latent))
}

fn trim_video(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let mut latent = call.latent("samples")?;
    let amount = call.count("trim_amount", 0)?;
    let frames = latent.samples.shape()[2];
    if amount >= frames {
        return Err(Error::msg(format!("the latent has {frames} frames; input 'trim_amount' must leave at least one, it is {amount}")));
    }
    latent.samples = narrow(call, &latent.samples, 2, amount, frames - amount)?;
    Ok(NodeOutput::one(latent))
}

/// Samples with one mask and one place in the noise sequence each.
struct Piece {
    samples: Samples,
    mask: Samples,
    places: Vec<i64>,
}

impl Piece {
    /// A latent that begins at place `offset` of the noise sequence, unless it says otherwise.
    fn new(call: &Call<'_, '_>, latent: Latent, offset: usize) -> Result<Self> {
        let shape = latent.samples.shape().to_vec();
        let mask = match latent.noise_mask {
            Some(mask) if mask.ndim() == 4 => mask,
            Some(mask) => mask.insert_axis(ndarray::Axis(1)).into_dyn(),
            None => {
                let shape = [shape[0], 1, shape[2].saturating_mul(8), shape[3].saturating_mul(8)];
                call.reserve(&shape)?;
                ArcArray::from_elem(IxDyn(&shape), 1.0)
            }
        };
        let mask = if mask.shape()[0] < shape[0] { fit_batch(call, &mask, shape[0])? } else { mask };
        let places = latent.batch_index.unwrap_or_else(|| places(offset as i64, shape[0]));
        Ok(Self { samples: latent.samples, mask, places })
    }

    fn len(&self) -> usize {
        self.samples.shape()[0]
    }

    /// As many as there are of `length` samples from `start` on.
    fn slice(&self, call: &Call<'_, '_>, start: usize, length: usize) -> Result<Self> {
        let cut = |samples: &Samples| {
            let start = start.min(samples.shape()[0]);
            narrow(call, samples, 0, start, length.min(samples.shape()[0] - start))
        };
        let places = self.places.iter().skip(start).take(length).copied().collect();
        Ok(Self { samples: cut(&self.samples)?, mask: cut(&self.mask)?, places })
    }

    fn join(&self, call: &Call<'_, '_>, next: &Self) -> Result<Self> {
        Ok(Self {
            samples: join(call, &[&self.samples, &next.samples], 0)?,
            mask: join(call, &[&self.mask, &next.mask], 0)?,
            places: [self.places.as_slice(), &next.places].concat(),
        })
    }

    /// As a value on a link; a mask of ones says nothing and is left out.
    fn into_value(self) -> Value {
        let mut latent = Latent::new(self.samples);
        latent.noise_mask = Some(self.mask).filter(|mask| mask.iter().any(|value| *value != 1.0));
        latent.batch_index = Some(self.places);
        latent.into()
    }
}

fn rebatch(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let size = usize::try_from(first_int(call.inputs.list("batch_size")?)?).ok().filter(|size| *size > 0);
    let size = size.ok_or_else(|| Error::msg("input 'batch_size' must be at least 1"))?;
    let mut out = Vec::new();
    let mut current: Option<Piece> = None;
    let mut processed = 0;
    for value in call.inputs.list("latents")? {
        call.cx.check_cancelled()?;
        let latent = value.downcast::<Latent>().ok_or_else(|| Error::msg("input 'latents' must hold latents only"))?;
        expect_picture(&latent.samples, "latents")?;
        let next = Piece::new(call, Arc::unwrap_or_clone(latent), processed)?;
        processed += next.places.len();
        let mut piece = match current.take() {
            Some(piece) if piece.samples.shape()[2..] == next.samples.shape()[2..] => piece.join(call, &next)?,
            Some(piece) => {
                out.push(piece.slice(call, 0, size)?.into_value());
                next
            }
            None => next,
        };
        // A piece of exactly the size waits, as in the reference: what is cut off here is never empty.
        if piece.len() > size {
            let full = piece.len() / size;
            for index in 0..full {
                out.push(piece.slice(call, index * size, size)?.into_value());
            }
            piece = piece.slice(call, full * size, size)?;
        }
        current = Some(piece).filter(|piece| piece.len() > 0);
    }
    if let Some(piece) = current {
        out.push(piece.slice(call, 0, size)?.into_value());
    }
    Ok(NodeOutput::one(Value::list(out)))
}

/// The first value of an input of a node that takes lists.
pub(crate) fn first_int(values: &[Value]) -> Result<i128> {
    match values.first() {
        Some(Value::Int(value)) => Ok(*value),
        Some(other) => Err(Error::WrongType { name: "batch_size".into(), got: other.type_name().into(), wanted: "an integer".into() }),
        None => Err(Error::MissingInput("batch_size".into())),
    }
}

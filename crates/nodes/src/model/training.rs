//! Pictures and texts made ready for training.

use comfyd_engine::{Clip, CondEntry, Conditioning, Vae};
use comfyd_node::{Error, Input, NodeOutput, Opaque, Result, Schema, Value};
use comfyd_values::{Image, Latent};
use ndarray::{ArcArray, Axis, IxDyn};

use crate::class::{Call, Class};
use crate::tensors;

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("MakeTrainingDataset")
                .display("Make Training Dataset")
                .category("model/training")
                .module("comfy_extras.nodes_dataset")
                .schema_generation()
                .experimental()
                .description("Encodes pictures and their texts for training.")
                .aliases(["encode dataset", "lora"])
                .input(Input::link("images", "IMAGE").tooltip("The pictures."))
                .input(Input::link("vae", "VAE").tooltip("The autoencoder."))
                .input(Input::link("clip", "CLIP").tooltip("The text encoder."))
                .input(Input::text("texts").option("forceInput", true).tooltip("A text for each picture, or one for all.").optional())
                .input_is_list()
                .output_list_named("LATENT", "latents")
                .output_list_named("CONDITIONING", "conditioning")
        },
        make,
    ),
    Class::new(
        || {
            Schema::new("ResolutionBucket")
                .display("Resolution Bucket")
                .category("model/training")
                .module("comfy_extras.nodes_dataset")
                .schema_generation()
                .experimental()
                .description("Puts latents of one size and their conditionings together.")
                .aliases(["group by size", "batch"])
                .input(Input::link("latents", "LATENT").tooltip("The latents."))
                .input(Input::link("conditioning", "CONDITIONING").tooltip("A conditioning for each of them."))
                .input_is_list()
                .output_list_named("LATENT", "latents")
                .output_list_named("CONDITIONING", "conditioning")
        },
        buckets,
    ),
];

/// The objects of an input of a class that takes lists.
fn objects<T: Opaque>(call: &Call<'_, '_>, name: &str) -> Result<Vec<std::sync::Arc<T>>> {
    let objects = call.inputs.list(name)?.iter().map(|value| value.downcast::<T>());
    objects
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| Error::msg(format!("input '{name}' holds something else than it takes; check its links")))
}

fn make(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (images, vaes, clips) = (objects::<Image>(call, "images")?, objects::<Vae>(call, "vae")?, objects::<Clip>(call, "clip")?);
    let (Some(vae), Some(clip)) = (vaes.first(), clips.first()) else { return Err(Error::msg("inputs 'vae' and 'clip' hold nothing")) };
    let mut texts = Vec::new();
    if call.inputs.optional("texts").is_some() {
        for value in call.inputs.list("texts")? {
            let Value::Text(text) = value else {
                return Err(Error::msg(format!("input 'texts' holds {}, give it texts", value.type_name())));
            };
            texts.push(&**text);
        }
    }
    if texts.is_empty() {
        texts.push("");
    }
    if texts.len() == 1 {
        texts = texts.repeat(images.len().max(1));
    }
    if texts.len() != images.len() {
        return Err(Error::msg(format!(
            "there are {} texts for {} pictures; give one for each, one for all or none",
            texts.len(),
            images.len()
        )));
    }
    let (mut latents, mut conditionings) = (Vec::new(), Vec::new());
    for (index, (image, text)) in images.iter().zip(texts).enumerate() {
        call.cx.progress(index as f64, images.len() as f64)?;
        let latent = vae.encode(call.cx, &tensors::image(call, image)?)?;
        latents.push(Value::object(Latent::new(tensors::to_array(call, &latent)?)));
        conditionings.push(Value::object(clip.encode(call.cx, text)?));
    }
    Ok(NodeOutput::values([Value::list(latents), Value::list(conditionings)]))
}

/// Samples of one shape, and what belongs to each.
struct Bucket {
    shape: Vec<usize>,
    samples: Vec<ArcArray<f32, IxDyn>>,
    entries: Vec<CondEntry>,
}

fn buckets(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (latents, conditionings) = (objects::<Latent>(call, "latents")?, objects::<Conditioning>(call, "conditioning")?);
    if latents.len() != conditionings.len() {
        return Err(Error::msg(format!(
            "there are {} latents and {} conditionings; give each latent one",
            latents.len(),
            conditionings.len()
        )));
    }
    let mut buckets: Vec<Bucket> = Vec::new();
    for (latent, conditioning) in latents.iter().zip(&conditionings) {
        if latent.samples.ndim() < 3 {
            return Err(Error::msg(format!("{} has no rows and columns; latents have at least three axes", latent.describe())));
        }
        for index in 0..latent.samples.shape()[0] {
            call.cx.check_cancelled()?;
            let Some(entry) = conditioning.entries().get(index) else {
                return Err(Error::msg("a latent holds more samples than its conditioning has entries; take the batch apart"));
            };
            let sample = latent.samples.clone().index_axis_move(Axis(0), index);
            let shape = sample.shape().to_vec();
            // Samples of one size but of other channels cannot lie in one batch.
            match buckets.iter_mut().find(|bucket| bucket.shape == shape) {
                Some(bucket) => {
                    bucket.samples.push(sample);
                    bucket.entries.push(entry.clone());
                }
                None => buckets.push(Bucket { shape, samples: vec![sample], entries: vec![entry.clone()] }),
            }
        }
    }
    let (mut latents, mut conditionings) = (Vec::new(), Vec::new());
    for Bucket { shape, samples, entries } in buckets {
        call.reserve(&[&[samples.len()], shape.as_slice()].concat())?;
        let views: Vec<_> = samples.iter().map(|sample| sample.view()).collect();
        let stacked = ndarray::stack(Axis(0), &views).map_err(Error::other)?;
        latents.push(Value::object(Latent::new(stacked.into_shared())));
        conditionings.push(Value::object(Conditioning::new(entries)));
    }
    Ok(NodeOutput::values([Value::list(latents), Value::list(conditionings)]))
}

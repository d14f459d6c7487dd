//! Models and text encoders merged.

use std::sync::Arc;

use comfyd_engine::{Clip, Model};
use comfyd_node::{Error, Input, NodeOutput, Result, Schema, Value};

use crate::class::{Call, Class};

/// The inputs that hold the models.
const MODELS: [&str; 2] = ["model1", "model2"];

/// What the inputs of the classes for one family are.
const SHARE: &str = "Share of the first model in this part.";

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("ModelMergeSimple")
                .category("model/merging")
                .module("comfy_extras.nodes_model_merging")
                .description("Mixes two diffusion models.")
                .input(Input::link("model1", "MODEL"))
                .input(Input::link("model2", "MODEL"))
                .input(Input::float("ratio").default(1.0).min(0.0).max(1.0).step(0.01).tooltip("The share of the first input."))
                .output("MODEL")
        },
        simple,
    ),
    Class::new(
        || {
            Schema::new("ModelMergeBlocks")
                .category("model/merging")
                .module("comfy_extras.nodes_model_merging")
                .description("Mixes two diffusion models, with shares for encoder, middle and decoder.")
                .input(Input::link("model1", "MODEL"))
                .input(Input::link("model2", "MODEL"))
                .input(Input::float("input").default(1.0).min(0.0).max(1.0).step(0.01).tooltip("Share of the first model in the encoder."))
                .input(Input::float("middle").default(1.0).min(0.0).max(1.0).step(0.01).tooltip("Share of the first model in the middle."))
                .input(Input::float("out").default(1.0).min(0.0).max(1.0).step(0.01).tooltip("Share of the first model in the decoder."))
                .output("MODEL")
        },
        blocks,
    ),
    Class::new(
        || {
            Schema::new("ModelMergeSubtract")
                .category("model/merging")
                .module("comfy_extras.nodes_model_merging")
                .description("The first diffusion model minus the second.")
                .input(Input::link("model1", "MODEL"))
                .input(Input::link("model2", "MODEL"))
                .input(
                    Input::float("multiplier").default(1.0).min(-10.0).max(10.0).step(0.01).tooltip("How much of the difference is kept."),
                )
                .output("MODEL")
        },
        subtract,
    ),
    Class::new(
        || {
            Schema::new("ModelMergeAdd")
                .category("model/merging")
                .module("comfy_extras.nodes_model_merging")
                .description("Adds the second diffusion model, usually a difference, to the first.")
                .input(Input::link("model1", "MODEL"))
                .input(Input::link("model2", "MODEL"))
                .output("MODEL")
        },
        add,
    ),
    Class::new(
        || {
            Schema::new("CLIPMergeSimple")
                .category("model/merging")
                .module("comfy_extras.nodes_model_merging")
                .description("Mixes two text encoders.")
                .input(Input::link("clip1", "CLIP"))
                .input(Input::link("clip2", "CLIP"))
                .input(Input::float("ratio").default(1.0).min(0.0).max(1.0).step(0.01).tooltip("The share of the first input."))
                .output("CLIP")
        },
        clip_simple,
    ),
    Class::new(
        || {
            Schema::new("CLIPMergeSubtract")
                .category("model/merging")
                .module("comfy_extras.nodes_model_merging")
                .description("The first text encoder minus the second.")
                .aliases(["difference of encoders"])
                .input(Input::link("clip1", "CLIP"))
                .input(Input::link("clip2", "CLIP"))
                .input(
                    Input::float("multiplier").default(1.0).min(-10.0).max(10.0).step(0.01).tooltip("How much of the difference is kept."),
                )
                .output("CLIP")
        },
        clip_subtract,
    ),
    Class::new(
        || {
            Schema::new("CLIPMergeAdd")
                .category("model/merging")
                .module("comfy_extras.nodes_model_merging")
                .description("Adds the second text encoder, usually a difference, to the first.")
                .aliases(["sum of encoders"])
                .input(Input::link("clip1", "CLIP"))
                .input(Input::link("clip2", "CLIP"))
                .output("CLIP")
        },
        clip_add,
    ),
    Class::new(|| family("ModelMergeSD1", "Mixes two models of Stable Diffusion 1 block by block.", 12, "."), blocks),
    Class::new(|| family("ModelMergeSD2", "Mixes two models of Stable Diffusion 2 block by block.", 12, "."), blocks),
    Class::new(|| family("ModelMergeSDXL", "Mixes two models of Stable Diffusion XL block by block.", 9, ""), blocks),
];

fn simple(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (first, second) = models(call)?;
    Ok(NodeOutput::one(Value::object(first.merge(&second, call.float("ratio")?))))
}

fn subtract(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (first, second) = models(call)?;
    Ok(NodeOutput::one(Value::object(first.subtract(&second, call.float("multiplier")?))))
}

fn add(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (first, second) = models(call)?;
    Ok(NodeOutput::one(Value::object(first.add(&second))))
}

/// ModelMergeBlocks and the classes for one family: each input but the models is the share for the weights whose names begin like it; the
/// first of them is for all others.
fn blocks(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (first, second) = models(call)?;
    let names: Vec<&str> = call.inputs.iter().map(|(name, _)| name).filter(|name| !MODELS.contains(name)).collect();
    let ratios = names.iter().map(|name| Ok(((*name).to_owned(), call.float(name)?))).collect::<Result<Vec<_>>>()?;
    let Some((_, default)) = ratios.first() else { return Err(Error::MissingInput("input".into())) };
    Ok(NodeOutput::one(Value::object(first.merge_blocks(&second, *default, &ratios))))
}

fn clip_simple(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (first, second) = clips(call)?;
    Ok(NodeOutput::one(Value::object(first.merge(&second, call.float("ratio")?))))
}

fn clip_subtract(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (first, second) = clips(call)?;
    Ok(NodeOutput::one(Value::object(first.subtract(&second, call.float("multiplier")?))))
}

fn clip_add(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (first, second) = clips(call)?;
    Ok(NodeOutput::one(Value::object(first.add(&second))))
}

fn models(call: &Call<'_, '_>) -> Result<(Arc<Model>, Arc<Model>)> {
    let [first, second] = MODELS;
    Ok((call.object(first)?, call.object(second)?))
}

fn clips(call: &Call<'_, '_>) -> Result<(Arc<Clip>, Arc<Clip>)> {
    Ok((call.object("clip1")?, call.object("clip2")?))
}

/// The class that mixes models of a family block by block. `dot` ends the names of numbered blocks: without it, 1 stands for 10 and 11 too.
fn family(class: &str, description: &str, blocks: usize, dot: &str) -> Schema {
    let share = |schema: Schema, name: &str| schema.input(Input::float(name).default(1.0).min(0.0).max(1.0).step(0.01).tooltip(SHARE));
    let numbered = |mut schema: Schema, part: &str, count: usize| {
        for index in 0..count {
            schema = share(schema, &format!("{part}.{index}{dot}"));
        }
        schema
    };
    let mut schema = Schema::new(class)
        .category("model/merging/model specific")
        .module("comfy_extras.nodes_model_merging_model_specific")
        .description(description)
        .input(Input::link("model1", "MODEL"))
        .input(Input::link("model2", "MODEL"));
    schema = share(share(schema, "time_embed."), "label_emb.");
    schema = numbered(schema, "input_blocks", blocks);
    schema = numbered(schema, "middle_block", 3);
    schema = numbered(schema, "output_blocks", blocks);
    share(schema, "out.").output("MODEL")
}

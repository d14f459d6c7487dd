//! Texts in boxes, with GLIGEN.

use std::sync::Arc;

use comfyd_engine::{Clip, Conditioning, Gligen, PlacedText, TextBoxes};
use comfyd_node::{Error, FileSource, Input, NodeOutput, Result, Schema, Value};

use super::text::embeddings_fingerprint;
use crate::class::{CELL, Call, Class, MAX_RESOLUTION};
use crate::loaders::files::{declined, files_fingerprint, model_file};

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("GLIGENLoader")
                .display("Load GLIGEN Model")
                .category("model/loaders")
                .description("Loads a GLIGEN model, which puts texts into boxes of a picture.")
                .aliases(["boxes", "grounding"])
                .input(Input::files("gligen_name", FileSource::Models("gligen".into())))
                .output("GLIGEN")
        },
        load,
    )
    .declines(|state, inputs| declined(state, inputs, &[("gligen", "gligen_name")], |engine, paths| engine.load_gligen(paths[0])))
    .fingerprint(|state, inputs, cancel| files_fingerprint(state, inputs, cancel, &[("gligen", "gligen_name")])),
    Class::new(
        || {
            Schema::new("GLIGENTextBoxApply")
                .display("Apply GLIGEN Text Box")
                .category("model/conditioning/gligen")
                .description("Ties a text to a rectangle of the picture. Several can be put one after another.")
                .aliases(["boxes", "regions", "grounding"])
                .input(Input::link("conditioning_to", "CONDITIONING"))
                .input(Input::link("clip", "CLIP"))
                .input(Input::link("gligen_textbox_model", "GLIGEN"))
                .input(Input::text("text").multiline().option("dynamicPrompts", true).tooltip("What belongs into the box."))
                .input(Input::int("width").default(64).min(8).max(MAX_RESOLUTION).step(8).tooltip("Width."))
                .input(Input::int("height").default(64).min(8).max(MAX_RESOLUTION).step(8).tooltip("Height."))
                .input(Input::int("x").default(0).min(0).max(MAX_RESOLUTION).step(8).tooltip("Left edge."))
                .input(Input::int("y").default(0).min(0).max(MAX_RESOLUTION).step(8).tooltip("Upper edge."))
                .output("CONDITIONING")
        },
        apply,
    )
    .fingerprint(embeddings_fingerprint),
];

fn load(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let path = model_file(call.state, "gligen", call.text("gligen_name")?)?;
    Ok(NodeOutput::one(Value::object(call.engine().load_gligen(&path)?)))
}

fn apply(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let gligen = call.object::<Gligen>("gligen_textbox_model")?;
    let text = call.object::<Clip>("clip")?.encode_pooled(call.cx, call.text("text")?)?;
    let cells = |name: &str| Ok::<_, Error>(call.int::<usize>(name)? / CELL);
    let placed = PlacedText { text, height: cells("height")?, width: cells("width")?, y: cells("y")?, x: cells("x")? };
    let conditioning = call.object::<Conditioning>("conditioning_to")?.map(|entry| {
        let before = entry.boxes.as_ref().map(|boxes| boxes.texts.clone()).unwrap_or_default();
        let texts = before.into_iter().chain([placed.clone()]).collect();
        entry.boxes = Some(Arc::new(TextBoxes { gligen: gligen.as_ref().clone(), texts }));
    });
    Ok(NodeOutput::one(Value::object(conditioning)))
}

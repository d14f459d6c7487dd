//! Pictures as styles.

use comfyd_engine::{CondEntry, Conditioning, StyleModel, Tensor, Told, VisionOutput};
use comfyd_node::{Error, FileSource, Input, NodeOutput, Result, Schema, Value};
use half::f16;
use ndarray::{Array3, s};

use crate::class::{Call, Class, unknown_choice};
use crate::loaders::files::{declined, files_fingerprint, model_file};

/// What is added to the scores of attention, and the axes of the picture's tokens in it, by the reference's names.
const MASK: &str = "attention_mask";
const MASK_SHAPE: &str = "attention_mask_img_shape";

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("StyleModelLoader")
                .display("Load Style Model")
                .category("model/loaders")
                .description("Loads a model that makes a picture a part of a prompt: T2I-Adapter's style adapter or Flux Redux.")
                .aliases(["redux", "style transfer"])
                .input(Input::files("style_model_name", FileSource::Models("style_models".into())))
                .output("STYLE_MODEL")
        },
        load,
    )
    .declines(|state, inputs| {
        declined(state, inputs, &[("style_models", "style_model_name")], |engine, paths| engine.load_style_model(paths[0]))
    })
    .fingerprint(|state, inputs, cancel| files_fingerprint(state, inputs, cancel, &[("style_models", "style_model_name")])),
    Class::new(
        || {
            Schema::new("StyleModelApply")
                .display("Apply Style Model")
                .category("model/conditioning")
                .description("Puts what a style model makes of a picture behind the text; its tokens are scaled, or looked at less.")
                .aliases(["redux", "style transfer"])
                .input(Input::link("conditioning", "CONDITIONING"))
                .input(Input::link("style_model", "STYLE_MODEL"))
                .input(Input::link("clip_vision_output", "CLIP_VISION_OUTPUT"))
                .input(Input::float("strength").default(1.0).min(0.0).max(10.0).step(0.001).tooltip("How much the picture counts."))
                .input(Input::combo("strength_type", ["multiply", "attn_bias"]))
                .output("CONDITIONING")
        },
        apply,
    ),
];

fn load(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let path = model_file(call.state, "style_models", call.text("style_model_name")?)?;
    Ok(NodeOutput::one(Value::object(call.engine().load_style_model(&path)?)))
}

fn apply(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let strength = call.float("strength")?;
    let biased = match call.text("strength_type")? {
        "multiply" => false,
        "attn_bias" => true,
        other => return Err(unknown_choice("strength_type", other)),
    };
    let seen = call.object::<VisionOutput>("clip_vision_output")?;
    let mut tokens = call.object::<StyleModel>("style_model")?.tokens(call.cx, &seen)?;
    if !biased {
        tokens = (tokens * strength).map_err(Error::other)?;
    }
    let bias = if biased { strength.ln() as f32 } else { 0.0 };
    let mut entries = Vec::new();
    for entry in call.object::<Conditioning>("conditioning")?.entries() {
        entries.push(styled(call, entry, &tokens, bias, biased && strength != 1.0)?);
    }
    Ok(NodeOutput::one(Value::object(Conditioning::new(entries))))
}

/// A condition with tokens behind its text; with `bias` on the way from other tokens to them if there is a mask or one is `wanted`.
fn styled(call: &Call<'_, '_>, entry: &CondEntry, tokens: &Tensor, bias: f32, wanted: bool) -> Result<CondEntry> {
    let Some(text) = &entry.cross_attn else { return Err(Error::msg("a condition has no text to put the style behind")) };
    let (batch, words, width) = text.dims3().map_err(Error::other)?;
    let (_, more, made) = tokens.dims3().map_err(Error::other)?;
    if (batch, width) != (1, made) {
        return Err(Error::msg(format!(
            "this style model makes tokens {made} wide, the text encoder {width}; load the ones that belong to the diffusion model"
        )));
    }
    let mut styled = entry.clone();
    let told = match entry.told.get(MASK) {
        Some(Told::Tensor(mask)) => Some(mask),
        _ => None,
    };
    if told.is_some() || wanted {
        // One place stands for all of the picture.
        let (before, after) = (words + 1, words + more + 1);
        call.reserve(&[2, after, after])?;
        let mut mask = Array3::<f32>::zeros((1, after, after));
        if let Some(told) = told {
            let (shape, values) = comfyd_engine::values(told)?;
            if shape != [1, before, before] {
                return Err(Error::msg(format!("an attention mask of the shape {shape:?} does not fit a text of {words} tokens")));
            }
            let old = Array3::from_shape_vec((1, before, before), values).map_err(Error::other)?;
            // Rows and columns of the text and of the picture, with room for the new tokens in between.
            let parts = [(0..words, 0..words), (words..before, words + more..after)];
            for (from_rows, to_rows) in &parts {
                for (from_columns, to_columns) in &parts {
                    let old = old.slice(s![.., from_rows.clone(), from_columns.clone()]);
                    mask.slice_mut(s![.., to_rows.clone(), to_columns.clone()]).assign(&old);
                }
            }
        }
        let bias = f16::from_f32(bias).to_f32();
        for rows in [0..words, words + more..after] {
            mask.slice_mut(s![.., rows, words..words + more]).fill(bias);
        }
        styled.told.set(MASK, comfyd_engine::tensor(&[1, after, after], mask.into_raw_vec_and_offset().0)?);
        styled.told.set(MASK_SHAPE, Told::List(vec![1.0.into(), 1.0.into()]));
    }
    styled.cross_attn = Some(Tensor::cat(&[text, tokens], 1).map_err(Error::other)?);
    Ok(styled)
}

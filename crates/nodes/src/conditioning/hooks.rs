//! Hooks: LoRAs and models that count for some conditionings only, with strengths that follow keyframes.

use std::sync::Arc;

use comfyd_engine::{Clip, HookGroup, HookKeyframe, HookKeyframes};
use comfyd_node::{CancellationToken, Error, FileSource, Fingerprint, Input, Inputs, NodeOutput, Result, Schema, Value};
use serde_json::Value as Json;

use crate::class::{Call, Class, unknown_choice};
use crate::loaders::adapters::declines_lora;
use crate::loaders::checkpoint::declines_checkpoint;
use crate::loaders::files::{files_fingerprint, model_file};
use crate::services::State;

const INTERPOLATIONS: [&str; 4] = ["linear", "ease_in", "ease_out", "ease_in_out"];

/// The inputs of the classes that join hooks.
const HOOKS: [&str; 8] = ["hooks_A", "hooks_B", "hooks_C", "hooks_D", "hooks_E", "hooks_F", "hooks_G", "hooks_H"];

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            with_previous(
                schema("CreateHookLora", "Create Hook LoRA", "create")
                    .description("A LoRA as a hook, which changes the models only for the conditionings that it is put on.")
                    .input(Input::files("lora_name", FileSource::Models("loras".into())))
                    .input(strength("strength_model"))
                    .input(strength("strength_clip")),
            )
        },
        lora,
    )
    .declines(declines_lora)
    .fingerprint(lora_fingerprint),
    Class::new(
        || {
            with_previous(
                schema("CreateHookLoraModelOnly", "Create Hook LoRA (MO)", "create")
                    .description("A LoRA as a hook, for the diffusion model alone.")
                    .input(Input::files("lora_name", FileSource::Models("loras".into())))
                    .input(strength("strength_model")),
            )
        },
        lora,
    )
    .declines(declines_lora)
    .fingerprint(lora_fingerprint),
    Class::new(
        || {
            with_previous(
                schema("CreateHookModelAsLora", "Create Hook Model as LoRA", "create")
                    .description("The difference to a checkpoint as a hook.")
                    .input(Input::files("ckpt_name", FileSource::Models("checkpoints".into())))
                    .input(strength("strength_model"))
                    .input(strength("strength_clip")),
            )
        },
        model_as_lora,
    )
    .declines(declines_checkpoint)
    .fingerprint(model_fingerprint),
    Class::new(
        || {
            with_previous(
                schema("CreateHookModelAsLoraModelOnly", "Create Hook Model as LoRA (MO)", "create")
                    .description("The difference to a checkpoint as a hook, for the diffusion model alone.")
                    .input(Input::files("ckpt_name", FileSource::Models("checkpoints".into())))
                    .input(strength("strength_model")),
            )
        },
        model_as_lora,
    )
    .declines(declines_checkpoint)
    .fingerprint(model_fingerprint),
    Class::new(
        || {
            schema("SetHookKeyframes", "Set Hook Keyframes", "scheduling")
                .description("Lets the strengths of hooks follow keyframes.")
                .input(Input::link("hooks", "HOOKS"))
                .input(Input::link("hook_kf", "HOOK_KEYFRAMES").optional())
                .output("HOOKS")
        },
        set_keyframes,
    ),
    Class::new(
        || {
            keyframes_output(
                schema("CreateHookKeyframe", "Create Hook Keyframe", "scheduling")
                    .description("A keyframe: from a point of the sampling on, hooks count so much.")
                    .input(strength("strength_mult"))
                    .input(percent("start_percent", 0.0)),
            )
        },
        keyframe,
    ),
    Class::new(
        || {
            let strength = |name: &str| {
                Input::float(name).default(1.0).min(0.0).max(10.0).step(0.001).tooltip("The factor of the first or the last keyframe.")
            };
            keyframes_output(
                schema("CreateHookKeyframesInterpolated", "Create Hook Keyframes Interp.", "scheduling")
                    .description("Keyframes between two strengths.")
                    .input(strength("strength_start"))
                    .input(strength("strength_end"))
                    .input(Input::combo("interpolation", INTERPOLATIONS))
                    .input(percent("start_percent", 0.0))
                    .input(percent("end_percent", 1.0))
                    .input(Input::int("keyframes_count").default(5).min(2).max(100).step(1).tooltip("How many keyframes."))
                    .input(Input::bool("print_keyframes").default(false).tooltip("Writes them into the log.").advanced()),
            )
        },
        interpolated,
    ),
    Class::new(
        || {
            keyframes_output(
                schema("CreateHookKeyframesFromFloats", "Create Hook Keyframes From Floats", "scheduling")
                    .description("Keyframes of given strengths at equal distances.")
                    .input(Input::link("floats_strength", "FLOATS").default(-1).min(-1).step(0.001).option("forceInput", true))
                    .input(percent("start_percent", 0.0))
                    .input(percent("end_percent", 1.0))
                    .input(Input::bool("print_keyframes").default(false).tooltip("Writes them into the log.").advanced()),
            )
        },
        from_floats,
    ),
    Class::new(|| joining("CombineHooks2", "Combine Hooks [2]", 2), combine),
    Class::new(|| joining("CombineHooks4", "Combine Hooks [4]", 4), combine),
    Class::new(|| joining("CombineHooks8", "Combine Hooks [8]", 8), combine),
    Class::new(
        || {
            schema("SetClipHooks", "Set CLIP Hooks", "clip")
                .description("Lets a text encoder encode with hooks.")
                .input(Input::link("clip", "CLIP"))
                .input(Input::bool("apply_to_conds").default(true).tooltip("Puts the hooks on what is encoded as well.").advanced())
                .input(
                    Input::bool("schedule_clip").default(false).tooltip("Encodes anew for each strength that keyframes give.").advanced(),
                )
                .input(Input::link("hooks", "HOOKS").optional())
                .output("CLIP")
        },
        set_clip_hooks,
    ),
];

/// A class of this module. `menu` is the part of the menu below the hooks.
pub(super) fn schema(class: &str, display: &str, menu: &str) -> Schema {
    let category = if menu.is_empty() { "advanced/hooks".to_owned() } else { format!("advanced/hooks/{menu}") };
    Schema::new(class).display(display).category(&category).module("comfy_extras.nodes_hooks").experimental()
}

fn with_previous(schema: Schema) -> Schema {
    schema.input(Input::link("prev_hooks", "HOOKS").optional()).output("HOOKS")
}

fn keyframes_output(schema: Schema) -> Schema {
    schema.input(Input::link("prev_hook_kf", "HOOK_KEYFRAMES").optional()).output_named("HOOK_KEYFRAMES", "HOOK_KF")
}

fn strength(name: &str) -> Input {
    Input::float(name).default(1.0).min(-20.0).max(20.0).step(0.01).tooltip("How strong the effect is.")
}

/// A point of the sampling.
pub(super) fn percent(name: &str, default: f64) -> Input {
    Input::float(name).default(default).min(0.0).max(1.0).step(0.001).tooltip("A point of the sampling: 0 its begin, 1 its end.")
}

fn joining(class: &str, display: &str, count: usize) -> Schema {
    let schema = schema(class, display, "combine").description("Joins hooks.");
    HOOKS[..count].iter().fold(schema, |schema, name| schema.input(Input::link(name, "HOOKS").optional())).output("HOOKS")
}

fn strengths(call: &Call<'_, '_>) -> Result<(f64, f64)> {
    let for_clip = call.inputs.optional("strength_clip").map_or(Ok(0.0), |_| call.float("strength_clip"))?;
    Ok((call.float("strength_model")?, for_clip))
}

/// The hooks of the input `prev_hooks` and another one.
fn appended(call: &Call<'_, '_>, hook: Option<HookGroup>) -> Result<NodeOutput> {
    let previous = call.inputs.get_optional::<HookGroup>("prev_hooks")?.unwrap_or_default();
    Ok(NodeOutput::one(match hook {
        Some(hook) => Value::object(previous.combine(&hook)),
        None => Value::from(previous),
    }))
}

fn lora(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (for_model, for_clip) = strengths(call)?;
    if for_model == 0.0 && for_clip == 0.0 {
        return appended(call, None);
    }
    let path = model_file(call.state, "loras", call.text("lora_name")?)?;
    appended(call, Some(HookGroup::lora(path, for_model, for_clip)))
}

fn model_as_lora(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (for_model, for_clip) = strengths(call)?;
    let path = model_file(call.state, "checkpoints", call.text("ckpt_name")?)?;
    let loaded = call.engine().load_checkpoint(&path)?;
    appended(call, Some(loaded.as_hook(for_model, for_clip)))
}

fn set_keyframes(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let hooks = call.object::<HookGroup>("hooks")?;
    Ok(NodeOutput::one(match call.inputs.get_optional::<HookKeyframes>("hook_kf")? {
        Some(keyframes) => Value::object(hooks.with_keyframes(&keyframes)),
        None => Value::from(hooks),
    }))
}

fn previous_keyframes(call: &Call<'_, '_>) -> Result<Arc<HookKeyframes>> {
    Ok(call.inputs.get_optional::<HookKeyframes>("prev_hook_kf")?.unwrap_or_default())
}

fn keyframe(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (strength, start_percent) = (call.float("strength_mult")?, call.float("start_percent")?);
    let keyframes = previous_keyframes(call)?.with(HookKeyframe { strength, start_percent, guarantee_steps: 1 });
    Ok(NodeOutput::one(Value::object(keyframes)))
}

fn interpolated(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let count = call.count("keyframes_count", 1)?;
    let (from, to) = (call.float("strength_start")? as f32, call.float("strength_end")? as f32);
    let half_turn = std::f32::consts::PI;
    let curve: Box<dyn Fn(f32) -> f32> = match call.text("interpolation")? {
        "linear" => return added(call, linspace(from, to, count)),
        "ease_in" => Box::new(|t| t * t),
        "ease_out" => Box::new(|t| 1.0 - (1.0 - t) * (1.0 - t)),
        "ease_in_out" => Box::new(move |t| (1.0 - (t * half_turn).cos()) / 2.0),
        other => return Err(unknown_choice("interpolation", other)),
    };
    added(call, linspace(0.0, 1.0, count).into_iter().map(|t| (to - from) * curve(t) + from).collect())
}

fn from_floats(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    const MAX_KEYFRAMES: usize = 10_000;
    let wrong = || Error::msg("input 'floats_strength' must be a number or a list of numbers");
    let floats: Vec<f64> = match call.inputs.value("floats_strength")? {
        Value::Float(value) => vec![*value],
        Value::Int(value) => vec![*value as f64],
        Value::List(values) => values
            .iter()
            .map(|value| match value {
                Value::Float(value) => Ok(*value),
                Value::Int(value) => Ok(*value as f64),
                _ => Err(wrong()),
            })
            .collect::<Result<_>>()?,
        Value::Json(json) => match json.as_ref() {
            Json::Array(values) => values.iter().map(|value| value.as_f64().ok_or_else(wrong)).collect::<Result<_>>()?,
            _ => return Err(wrong()),
        },
        _ => return Err(wrong()),
    };
    if floats.len() > MAX_KEYFRAMES {
        return Err(Error::msg(format!("{} keyframes are more than the limit of {MAX_KEYFRAMES}; give fewer", floats.len())));
    }
    added(call, floats.into_iter().map(|value| value as f32).collect())
}

/// The keyframes of the input and further ones at equal distances, the first of which counts for one step at least.
fn added(call: &Call<'_, '_>, strengths: Vec<f32>) -> Result<NodeOutput> {
    let percents = linspace(call.float("start_percent")? as f32, call.float("end_percent")? as f32, strengths.len());
    let print = call.bool("print_keyframes")?;
    let mut keyframes = previous_keyframes(call)?.as_ref().clone();
    for (i, (percent, strength)) in percents.into_iter().zip(strengths).enumerate() {
        if print {
            tracing::info!("keyframe of hooks: from {percent} on {strength}");
        }
        let (strength, start_percent) = (f64::from(strength), f64::from(percent));
        keyframes = keyframes.with(HookKeyframe { strength, start_percent, guarantee_steps: usize::from(i == 0) });
    }
    Ok(NodeOutput::one(Value::object(keyframes)))
}

/// Numbers at equal distances, counted from both ends as torch does.
fn linspace(from: f32, to: f32, count: usize) -> Vec<f32> {
    let step = if count > 1 { (to - from) / (count - 1) as f32 } else { 0.0 };
    (0..count).map(|i| if i < count / 2 || count == 1 { from + step * i as f32 } else { to - step * (count - 1 - i) as f32 }).collect()
}

fn combine(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let mut all: Option<HookGroup> = None;
    for name in HOOKS {
        if let Some(hooks) = call.inputs.get_optional::<HookGroup>(name)? {
            all = Some(all.map_or_else(|| hooks.as_ref().clone(), |all| all.combine(&hooks)));
        }
    }
    Ok(NodeOutput::one(all.map_or(Value::Null, Value::object)))
}

fn set_clip_hooks(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let clip = call.object::<Clip>("clip")?;
    Ok(NodeOutput::one(match call.inputs.get_optional::<HookGroup>("hooks")? {
        Some(hooks) => Value::object(clip.with_hooks(&hooks, call.bool("apply_to_conds")?, call.bool("schedule_clip")?)),
        None => Value::from(clip),
    }))
}

fn lora_fingerprint(state: &State, inputs: &Inputs, cancel: &CancellationToken) -> Result<Fingerprint> {
    files_fingerprint(state, inputs, cancel, &[("loras", "lora_name")])
}

fn model_fingerprint(state: &State, inputs: &Inputs, cancel: &CancellationToken) -> Result<Fingerprint> {
    files_fingerprint(state, inputs, cancel, &[("checkpoints", "ckpt_name")])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_equal() {
        assert_eq!(linspace(0.0, 1.0, 5), [0.0, 0.25, 0.5, 0.75, 1.0]);
        assert_eq!(linspace(2.0, 2.0, 1), [2.0]);
        assert!(linspace(0.0, 1.0, 0).is_empty());
    }
}

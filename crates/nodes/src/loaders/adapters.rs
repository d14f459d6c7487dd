//! LoRA and ControlNet files.

use std::path::PathBuf;

use comfyd_engine::{Clip, ControlNet, Model};
use comfyd_models::controlnet::UNION_TYPES;
use comfyd_node::{CancellationToken, Error, FileSource, Fingerprint, Input, Inputs, NodeOutput, Result, Schema, Value};
use comfyd_weights::StateDict;

use crate::class::{Call, Class, unknown_choice};
use crate::loaders::files::{declined, files_fingerprint, model_file};
use crate::services::State;

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("LoraLoader")
                .display("Load LoRA (Model and CLIP)")
                .category("model/loaders")
                .essentials("Image Generation")
                .description("Changes a diffusion model and its text encoder by a LoRA. Several can be put one after another.")
                .aliases(["style file", "fine-tuning", "adapter"])
                .input(Input::link("model", "MODEL").tooltip("The diffusion model."))
                .input(Input::link("clip", "CLIP").tooltip("The text encoder."))
                .input(Input::files("lora_name", FileSource::Models("loras".into())).tooltip("The file in the folder loras."))
                .input(
                    Input::float("strength_model")
                        .default(1.0)
                        .min(-100.0)
                        .max(100.0)
                        .step(0.01)
                        .tooltip("How much of the change the diffusion model takes; negative values turn it round."),
                )
                .input(
                    Input::float("strength_clip")
                        .default(1.0)
                        .min(-100.0)
                        .max(100.0)
                        .step(0.01)
                        .tooltip("How much of the change the text encoder takes; negative values turn it round."),
                )
                .output("MODEL")
                .output("CLIP")
        },
        lora,
    )
    .declines(declines_lora)
    .fingerprint(lora_fingerprint),
    Class::new(
        || {
            Schema::new("LoraLoaderModelOnly")
                .display("Load LoRA")
                .category("model/loaders")
                .essentials("Image Generation")
                .description("Changes a diffusion model by a LoRA and leaves the text encoder as it is.")
                .aliases(["style file", "fine-tuning", "adapter"])
                .input(Input::link("model", "MODEL"))
                .input(Input::files("lora_name", FileSource::Models("loras".into())))
                .input(
                    Input::float("strength_model")
                        .default(1.0)
                        .min(-100.0)
                        .max(100.0)
                        .step(0.01)
                        .tooltip("How much of the change the diffusion model takes; negative values turn it round."),
                )
                .output("MODEL")
        },
        lora_model_only,
    )
    .declines(declines_lora)
    .fingerprint(lora_fingerprint),
    Class::new(
        || {
            Schema::new("ControlNetLoader")
                .display("Load ControlNet Model")
                .category("model/loaders")
                .description("Loads a ControlNet, which makes the picture follow a hint such as edges or a pose.")
                .aliases(["pose", "depth", "edges"])
                .input(Input::files("control_net_name", FileSource::Models("controlnet".into())))
                .output("CONTROL_NET")
        },
        control_net,
    )
    .declines(declines_control_net)
    .fingerprint(control_net_fingerprint),
    Class::new(
        || {
            Schema::new("DiffControlNetLoader")
                .display("Load ControlNet Model (diff)")
                .category("model/loaders")
                .description("Loads a ControlNet that is stored as its difference from a diffusion model.")
                .input(Input::link("model", "MODEL"))
                .input(Input::files("control_net_name", FileSource::Models("controlnet".into())))
                .output("CONTROL_NET")
        },
        diff_control_net,
    )
    .declines(declines_control_net)
    .fingerprint(control_net_fingerprint),
    Class::new(
        || {
            Schema::new("SetUnionControlNetType")
                .display("Set Union ControlNet Type")
                .category("model/conditioning/controlnet")
                .module("comfy_extras.nodes_controlnet")
                .schema_generation()
                .description("Tells a ControlNet for several kinds of hints which kind it gets.")
                .aliases(["several controls", "mode"])
                .input(Input::link("control_net", "CONTROL_NET"))
                .input(Input::combo("type", ["auto"].into_iter().chain(UNION_TYPES)))
                .output("CONTROL_NET")
        },
        union_type,
    ),
];

fn lora(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let model = call.object::<Model>("model")?;
    let clip = call.inputs.get_optional::<Clip>("clip")?;
    let (for_model, for_clip) = (call.float("strength_model")?, call.float("strength_clip")?);
    let path = (for_model != 0.0 || for_clip != 0.0).then(|| lora_file(call)).transpose()?;
    let changed = match &path {
        Some(path) if for_model != 0.0 => Value::object(model.with_lora(path, for_model)?),
        Some(_) | None => Value::from(model),
    };
    let clip = match (clip, &path) {
        (Some(clip), Some(path)) if for_clip != 0.0 => Value::object(clip.with_lora(path, for_clip)?),
        (Some(clip), _) => Value::from(clip),
        (None, _) => Value::Null,
    };
    Ok(NodeOutput::values([changed, clip]))
}

fn lora_model_only(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let model = call.object::<Model>("model")?;
    let strength = call.float("strength_model")?;
    if strength == 0.0 {
        return Ok(NodeOutput::one(model));
    }
    Ok(NodeOutput::one(Value::object(model.with_lora(&lora_file(call)?, strength)?)))
}

fn control_net(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let path = model_file(call.state, "controlnet", call.text("control_net_name")?)?;
    Ok(NodeOutput::one(Value::object(call.engine().load_controlnet(&path, None)?)))
}

fn diff_control_net(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let model = call.object::<Model>("model")?;
    let path = model_file(call.state, "controlnet", call.text("control_net_name")?)?;
    Ok(NodeOutput::one(Value::object(call.engine().load_controlnet(&path, Some(&model))?)))
}

fn union_type(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let net = call.object::<ControlNet>("control_net")?;
    let kind = call.text("type")?;
    let index = UNION_TYPES.iter().position(|known| *known == kind);
    if index.is_none() && kind != "auto" {
        return Err(unknown_choice("type", kind));
    }
    Ok(NodeOutput::one(Value::object(net.with_union_types(index.into_iter().collect()))))
}

fn lora_file(call: &Call<'_, '_>) -> Result<PathBuf> {
    model_file(call.state, "loras", call.text("lora_name")?)
}

/// What a LoRA changes is told by the model, which declines on its own: here it is only whether the file can be read.
pub(crate) fn declines_lora(state: &State, inputs: &Inputs) -> Option<Error> {
    declined(state, inputs, &[("loras", "lora_name")], |_, paths| Ok(StateDict::open(paths[0])?))
}

fn declines_control_net(state: &State, inputs: &Inputs) -> Option<Error> {
    declined(state, inputs, &[("controlnet", "control_net_name")], |engine, paths| engine.load_controlnet(paths[0], None))
}

fn lora_fingerprint(state: &State, inputs: &Inputs, cancel: &CancellationToken) -> Result<Fingerprint> {
    files_fingerprint(state, inputs, cancel, &[("loras", "lora_name")])
}

fn control_net_fingerprint(state: &State, inputs: &Inputs, cancel: &CancellationToken) -> Result<Fingerprint> {
    files_fingerprint(state, inputs, cancel, &[("controlnet", "control_net_name")])
}

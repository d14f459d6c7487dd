//! Pictures as prompts: through a vision encoder into a conditioning.

use comfyd_engine::{ClipVision, Conditioning, Unclip, VisionCrop, VisionOutput};
use comfyd_node::{Input, NodeOutput, Result, Schema, Value};

use crate::class::{Call, Class, unknown_choice};
use crate::tensors;

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("CLIPVisionEncode")
                .display("CLIP Vision Encode")
                .category("model/conditioning")
                .description("Shows pictures to a vision encoder.")
                .aliases(["picture as prompt", "embedding"])
                .input(Input::link("clip_vision", "CLIP_VISION"))
                .input(Input::link("image", "IMAGE"))
                .input(Input::combo("crop", ["center", "none"]))
                .output("CLIP_VISION_OUTPUT")
        },
        encode,
    ),
    Class::new(
        || {
            Schema::new("unCLIPConditioning")
                .category("model/conditioning")
                .description(
                    "Gives a conditioning what a vision encoder saw, for models that take pictures as prompts (unCLIP, SDXL Revision).",
                )
                .aliases(["revision", "picture prompt", "variations"])
                .input(Input::link("conditioning", "CONDITIONING"))
                .input(Input::link("clip_vision_output", "CLIP_VISION_OUTPUT"))
                .input(Input::float("strength").default(1.0).min(-10.0).max(10.0).step(0.01).tooltip("How much it counts."))
                .input(Input::float("noise_augmentation").default(0.0).min(0.0).max(1.0).step(0.01).tooltip("How freely it is followed."))
                .output("CONDITIONING")
        },
        unclip,
    ),
];

fn encode(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let crop = match call.text("crop")? {
        "center" => VisionCrop::Center,
        "none" => VisionCrop::Stretch,
        other => return Err(unknown_choice("crop", other)),
    };
    let pictures = tensors::image(call, &call.image("image")?)?;
    let seen = call.object::<ClipVision>("clip_vision")?.encode(call.cx, &pictures, crop)?;
    Ok(NodeOutput::one(Value::object(seen)))
}

fn unclip(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let conditioning = call.object::<Conditioning>("conditioning")?;
    let (strength, noise_augmentation) = (call.float("strength")?, call.float("noise_augmentation")?);
    if strength == 0.0 {
        return Ok(NodeOutput::one(conditioning));
    }
    let unclip = Unclip { seen: call.object::<VisionOutput>("clip_vision_output")?, strength, noise_augmentation };
    Ok(NodeOutput::one(Value::object(conditioning.map(|entry| entry.unclip.push(unclip.clone())))))
}

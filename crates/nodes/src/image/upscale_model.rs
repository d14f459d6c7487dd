//! Pictures enlarged by a model.

use comfyd_engine::UpscaleModel;
use comfyd_node::{CancellationToken, FileSource, Fingerprint, Input, Inputs, NodeOutput, Result, Schema, Value};

use crate::class::{Call, Class};
use crate::latent::vae::first_channels;
use crate::loaders::files::{declined, files_fingerprint, model_file};
use crate::services::State;
use crate::tensors;

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("UpscaleModelLoader")
                .display("Load Upscale Model")
                .category("loaders")
                .module("comfy_extras.nodes_upscale_model")
                .schema_generation()
                .description("Loads a model that enlarges pictures.")
                .input(
                    Input::files("model_name", FileSource::Models("upscale_models".into()))
                        .tooltip("The file in the folder upscale_models."),
                )
                .output("UPSCALE_MODEL")
        },
        load,
    )
    .declines(|state, inputs| {
        declined(state, inputs, &[("upscale_models", "model_name")], |engine, paths| engine.load_upscale_model(paths[0]))
    })
    .fingerprint(fingerprint),
    Class::new(
        || {
            Schema::new("ImageUpscaleWithModel")
                .display("Upscale Image (using Model)")
                .category("image/upscaling")
                .module("comfy_extras.nodes_upscale_model")
                .schema_generation()
                .description("Enlarges pictures with a model.")
                .input(Input::link("upscale_model", "UPSCALE_MODEL").tooltip("The model that enlarges."))
                .input(Input::link("image", "IMAGE").tooltip("The pictures."))
                .output("IMAGE")
        },
        upscale,
    ),
];

fn load(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let path = model_file(call.state, "upscale_models", call.text("model_name")?)?;
    Ok(NodeOutput::one(Value::object(call.engine().load_upscale_model(&path)?)))
}

fn upscale(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let model = call.object::<UpscaleModel>("upscale_model")?;
    let image = first_channels(&call.image("image")?)?;
    let scale = model.scale();
    call.reserve(&[image.batch(), image.height().saturating_mul(scale), image.width().saturating_mul(scale), 3])?;
    Ok(NodeOutput::one(tensors::to_image(call, &model.upscale(call.cx, &tensors::image(call, &image)?)?)?))
}

fn fingerprint(state: &State, inputs: &Inputs, cancel: &CancellationToken) -> Result<Fingerprint> {
    files_fingerprint(state, inputs, cancel, &[("upscale_models", "model_name")])
}

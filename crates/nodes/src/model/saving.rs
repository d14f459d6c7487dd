//! Models written to files.

use comfyd_engine::{Clip, LoraExtraction, Model, Output, Vae, save_lora};
use comfyd_folders::Kind;
use comfyd_node::{Error, Input, NodeOutput, Result, Schema};

use crate::class::{Call, Class, unknown_choice};
use crate::saving;

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("CheckpointSave")
                .display("Save Checkpoint")
                .category("model/merging")
                .module("comfy_extras.nodes_model_merging")
                .description("Saves a diffusion model, a text encoder and an autoencoder as one checkpoint, with the workflow inside.")
                .aliases(["write model", "store"])
                .input(Input::link("model", "MODEL"))
                .input(Input::link("clip", "CLIP"))
                .input(Input::link("vae", "VAE"))
                .input(
                    Input::text("filename_prefix")
                        .default("checkpoints/ComfyUI")
                        .tooltip("Start of the file names. A slash makes folders."),
                )
                .hidden_metadata()
                .output_node()
        },
        checkpoint,
    ),
    Class::new(
        || {
            Schema::new("CLIPSave")
                .category("model/merging")
                .module("comfy_extras.nodes_model_merging")
                .description("Saves text encoders.")
                .input(Input::link("clip", "CLIP"))
                .input(Input::text("filename_prefix").default("clip/ComfyUI").tooltip("Start of the file names. A slash makes folders."))
                .hidden_metadata()
                .output_node()
        },
        clip,
    ),
    Class::new(
        || {
            Schema::new("VAESave")
                .category("model/merging")
                .module("comfy_extras.nodes_model_merging")
                .description("Saves an autoencoder.")
                .input(Input::link("vae", "VAE"))
                .input(Input::text("filename_prefix").default("vae/ComfyUI_vae").tooltip("Start of the file names. A slash makes folders."))
                .hidden_metadata()
                .output_node()
        },
        vae,
    ),
    Class::new(
        || {
            Schema::new("ModelSave")
                .category("model/merging")
                .module("comfy_extras.nodes_model_merging")
                .description("Saves a diffusion model.")
                .aliases(["write model", "store"])
                .input(Input::link("model", "MODEL"))
                .input(
                    Input::text("filename_prefix")
                        .default("diffusion_models/ComfyUI")
                        .tooltip("Start of the file names. A slash makes folders."),
                )
                .hidden_metadata()
                .output_node()
        },
        model,
    ),
    Class::new(
        || {
            Schema::new("LoraSave")
                .display("Extract and Save Lora")
                .category("experimental")
                .module("comfy_extras.nodes_lora_extract")
                .schema_generation()
                .experimental()
                .description("Saves the differences of models as a LoRA.")
                .aliases(["difference to file", "extract"])
                .input(
                    Input::text("filename_prefix")
                        .default("loras/ComfyUI_extracted_lora")
                        .tooltip("Start of the file names. A slash makes folders."),
                )
                .input(Input::int("rank").default(8).min(1).max(4096).step(1).tooltip("How much of each difference is kept.").advanced())
                .input(Input::combo("lora_type", ["standard", "full_diff"]).tooltip("Narrow matrices, or whole differences.").advanced())
                .input(Input::bool("bias_diff").default(true).tooltip("Keeps the differences of biases and norms too.").advanced())
                .input(Input::link("model_diff", "MODEL").tooltip("A difference of diffusion models.").optional())
                .input(Input::link("text_encoder_diff", "CLIP").tooltip("A difference of text encoders.").optional())
                .hidden_metadata()
                .output_node()
        },
        lora,
    ),
];

fn checkpoint(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let model = call.object::<Model>("model")?;
    let (clip, vae) = (call.object::<Clip>("clip")?, call.object::<Vae>("vae")?);
    let metadata = saving::metadata(call);
    save_model(call, call.text("filename_prefix")?, |output, title| model.save(output, Some(&clip), Some(&vae), title, &metadata))
}

fn clip(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let clip = call.object::<Clip>("clip")?;
    let prefix = call.text("filename_prefix")?;
    let mut metadata = saving::metadata(call);
    if !call.state.services.disable_metadata {
        metadata.insert(0, ("format".into(), "pt".into()));
    }
    for encoder in clip.encoders() {
        save_model(call, &format!("{prefix}_{encoder}"), |output, _| clip.save(encoder, output, &metadata))?;
    }
    Ok(NodeOutput::default())
}

fn vae(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let vae = call.object::<Vae>("vae")?;
    let metadata = saving::metadata(call);
    save_model(call, call.text("filename_prefix")?, |output, _| vae.save(output, &metadata))
}

fn model(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let model = call.object::<Model>("model")?;
    let metadata = saving::metadata(call);
    save_model(call, call.text("filename_prefix")?, |output, title| model.save(output, None, None, title, &metadata))
}

fn lora(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let model = call.inputs.get_optional::<Model>("model_diff")?;
    let clip = call.inputs.get_optional::<Clip>("text_encoder_diff")?;
    if model.is_none() && clip.is_none() {
        return Ok(NodeOutput::default());
    }
    let full = match call.text("lora_type")? {
        "standard" => false,
        "full_diff" => true,
        other => return Err(unknown_choice("lora_type", other)),
    };
    let settings = LoraExtraction { rank: call.count("rank", 1)?, full, bias: call.bool("bias_diff")? };
    save_model(call, call.text("filename_prefix")?, |output, _| save_lora(call.cx, model.as_deref(), clip.as_deref(), settings, output))
}

/// Writes a file into the output folder. `write` also gets the title for the metadata.
fn save_model(call: &Call<'_, '_>, prefix: &str, write: impl FnOnce(Output<'_>, &str) -> comfyd_engine::Result<()>) -> Result<NodeOutput> {
    call.cx.check_cancelled()?;
    let target = call.state.services.folders.save_target(Kind::Output, prefix, 0, 0).map_err(Error::other)?;
    let mut saving = target.begin().map_err(Error::other)?;
    let title = format!("{} {}", target.prefix, saving.number());
    write(Output { out: saving.file(), cancel: call.cx.cancel_token() }, &title)?;
    // A model is worth waiting for the disk.
    saving.file().sync_all().map_err(|error| Error::other(saving.failed(error)))?;
    saving.finish(0, "safetensors").map_err(Error::other)?;
    Ok(NodeOutput::default())
}

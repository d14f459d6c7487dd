//! Latents in files.

use comfyd_folders::Kind;
use comfyd_node::{CancellationToken, Error, FileSource, Fingerprint, Input, Inputs, NodeOutput, Result, Schema};
use comfyd_values::Latent;
use comfyd_weights::safetensors::{self, TensorF32};
use ndarray::ArcArray;

use crate::class::{Call, Class};
use crate::image::load::{file_fingerprint, validate_file};
use crate::saving;
use crate::services::State;

/// Marks files whose values are those of the link; older files hold them times this factor of SD1.
const VERSION_KEY: &str = "latent_format_version_0";
const OLD_FACTOR: f64 = 0.18215;

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("LoadLatent")
                .display("Load Latent")
                .category("model/latent")
                .description("Reads a latent from the input folder.")
                .aliases(["latent file"])
                .input(Input::files("latent", FileSource::InputFiles(vec![".latent".into()])))
                .output("LATENT")
                .validates(["latent"])
        },
        load,
    )
    .validate(validate)
    .fingerprint(fingerprint),
    Class::new(
        || {
            Schema::new("SaveLatent")
                .display("Save Latent")
                .category("model/latent")
                .description("Saves latents in the output folder, with the workflow inside.")
                .aliases(["latent file", "store"])
                .input(Input::link("samples", "LATENT"))
                .input(Input::text("filename_prefix").default("latents/ComfyUI").tooltip(
                    "Start of the file names. A slash makes folders; %width%, %height%, %year%, %month%, %day%, \
                     %hour%, %minute%, %second% and %batch_num% are filled in.",
                ))
                .hidden_metadata()
                .output_named("LATENT", "samples")
                .output_node()
        },
        save,
    ),
];

fn load(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let path = call.state.input_file(call.text("latent")?)?;
    let file = safetensors::File::open(&path).map_err(Error::other)?;
    let (shape, mut values) = file.read_f32("latent_tensor", call.state.services.limits.max_tensor_bytes).map_err(Error::other)?;
    if !file.tensors().contains_key(VERSION_KEY) {
        // The factor as the reference forms it: one division in double precision, then single precision.
        let factor = (1.0 / OLD_FACTOR) as f32;
        values.iter_mut().for_each(|value| *value *= factor);
    }
    let samples = ArcArray::from_shape_vec(shape, values).map_err(Error::other)?;
    Ok(NodeOutput::one(Latent::new(samples)))
}

fn save(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let latent = call.latent("samples")?;
    let target = call.state.services.folders.save_target(Kind::Output, call.text("filename_prefix")?, 0, 0).map_err(Error::other)?;
    let samples = latent.samples.as_standard_layout();
    let values = samples.as_slice().ok_or_else(|| Error::msg("the latent cannot be laid out in one piece"))?;
    let tensors =
        [TensorF32 { name: VERSION_KEY, shape: &[0], values: &[] }, TensorF32 { name: "latent_tensor", shape: samples.shape(), values }];
    let metadata = (!call.state.services.disable_metadata).then(|| saving::metadata(call));
    let bytes = safetensors::to_bytes(&tensors, metadata.as_deref()).map_err(Error::other)?;
    let saved = target.save(0, "latent", &bytes).map_err(Error::other)?;
    Ok(NodeOutput::one(latent.clone()).with_ui("latents", vec![saved.to_json()]))
}

fn validate(state: &State, inputs: &Inputs) -> std::result::Result<(), String> {
    validate_file(state, inputs, "latent", "latent")
}

fn fingerprint(state: &State, inputs: &Inputs, cancel: &CancellationToken) -> Result<Fingerprint> {
    file_fingerprint(state, inputs, cancel, "latent")
}

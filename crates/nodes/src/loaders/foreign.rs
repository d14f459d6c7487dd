//! Loaders of models that the engine does not run. The official front end looks these classes up by name to tie model folders to nodes, and
//! builds no node that has a model's widget when one of them is missing: hence they are declared.

use comfyd_node::{Error, FileSource, Input, NodeOutput, Result, Schema, Value};

use crate::class::{Call, Class};
use crate::loaders::files::{files_fingerprint, model_file};

pub(crate) const CLASSES: &[Class] = &[Class::new(
    || {
        Schema::new("ImageOnlyCheckpointLoader")
            .display("Load Checkpoint Image Only (img2vid model)")
            .category("model/loaders")
            .module("comfy_extras.nodes_video_model")
            .description("Loads a checkpoint without its text encoder. Vision encoders are not supported: that output stays empty.")
            .input(Input::files("ckpt_name", FileSource::Models("checkpoints".into())))
            .output("MODEL")
            .output("CLIP_VISION")
            .output("VAE")
    },
    without_text,
)
.declines(|_, _| Some(Error::msg("it loads no vision encoders")))
.fingerprint(|state, inputs, cancel| files_fingerprint(state, inputs, cancel, &[("checkpoints", "ckpt_name")]))];

fn without_text(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let path = model_file(call.state, "checkpoints", call.text("ckpt_name")?)?;
    let loaded = call.engine().load_checkpoint(&path)?;
    let vae = loaded.vae.map_or(Value::Null, Value::object);
    Ok(NodeOutput::values([Value::object(loaded.model), Value::Null, vae]))
}

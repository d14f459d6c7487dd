//! Models back to files: the markers and the metadata that tell a model's kind. The names of tensors are `weights`' business.

use std::io::Write;

use candle_core::{Device, Tensor};
use comfyd_node::CancellationToken;
use comfyd_weights::{EncoderKind, StateDict, save, write};

use crate::families::Objective;
use crate::{Clip, Error, Model, Result, Vae};

/// Where a model is written to, and what ends the writing early.
pub struct Output<'a> {
    /// Takes the bytes of a safetensors file.
    pub out: &'a mut dyn Write,
    /// Asked before each tensor.
    pub cancel: &'a CancellationToken,
}

impl Model {
    /// The safetensors file that ModelSave (no encoder, no autoencoder) and CheckpointSave write, with these metadata beside those that
    /// tell the model's kind. `title` becomes the title in the metadata.
    pub fn save(
        &self,
        output: Output<'_>,
        clip: Option<&Clip>,
        vae: Option<&Vae>,
        title: &str,
        metadata: &[(String, String)],
    ) -> Result<()> {
        let mut texts = architecture(self, title);
        let schedule = self.schedule();
        // What the file said of its prediction, whatever was set since: the reference writes no more than that.
        let (key, markers): (_, &[&str]) = match self.kind.objective() {
            Objective::Eps => (Some("epsilon"), &[]),
            Objective::V { .. } if schedule.is_zsnr() => (Some("v"), &["v_pred", "ztsnr"]),
            Objective::V { .. } => (Some("v"), &["v_pred"]),
            Objective::VContinuous { .. } | Objective::Edm => (None, &[]),
        };
        texts.extend(key.map(|key| ("modelspec.predict_key".to_owned(), key.to_owned())));
        let unet = self.weights.for_saving();
        let clips: Vec<(EncoderKind, StateDict)> =
            clip.iter().flat_map(|clip| clip.parts.iter()).map(|(kind, weights)| (*kind, weights.for_saving())).collect();
        let vae = vae.map(|vae| vae.weights.for_saving());
        let parts = save::Parts { unet: &unet, places: self.kind.family().encoders(), clips: &clips, vae: vae.as_ref(), markers };
        let mut dict = save::checkpoint(&parts)?;
        // The noise levels that are set now.
        if schedule.is_continuous_edm() && schedule.prediction() == comfyd_samplers::Prediction::V {
            dict.insert("edm_vpred.sigma_max", Tensor::new(schedule.sigma_max(), &Device::Cpu)?);
            dict.insert("edm_vpred.sigma_min", Tensor::new(schedule.sigma_min(), &Device::Cpu)?);
        }
        texts.extend_from_slice(metadata);
        write(output, &dict, texts)
    }
}

impl Clip {
    /// The safetensors file that CLIPSave writes for one of its encoders, with these metadata.
    pub fn save(&self, encoder: &str, output: Output<'_>, metadata: &[(String, String)]) -> Result<()> {
        let (_, weights) =
            self.parts.iter().find(|(kind, _)| kind.name() == encoder).ok_or_else(|| {
                Error::msg(format!("there is no text encoder '{encoder}' here; take one of {}", self.encoders().join(", ")))
            })?;
        write(output, &save::clip(&weights.for_saving())?, metadata.to_vec())
    }
}

impl Vae {
    /// The safetensors file that VAESave writes, with these metadata.
    pub fn save(&self, output: Output<'_>, metadata: &[(String, String)]) -> Result<()> {
        write(output, &save::vae(&self.weights.for_saving()), metadata.to_vec())
    }
}

/// Writes tensors by their names.
fn write(output: Output<'_>, dict: &StateDict, metadata: Vec<(String, String)>) -> Result<()> {
    write_as(output, dict, write::Options { metadata, ..write::Options::default() })
}

/// The same, with the writer's other options.
pub(crate) fn write_as(output: Output<'_>, dict: &StateDict, options: write::Options<'_>) -> Result<()> {
    let interrupted = || output.cancel.is_cancelled();
    write::write_to(output.out, dict, &write::Options { interrupted: Some(&interrupted), ..options })?;
    Ok(())
}

fn architecture(model: &Model, title: &str) -> Vec<(String, String)> {
    let Some(name) = model.kind.architecture() else { return Vec::new() };
    let text = |key: &str, value: &str| (format!("modelspec.{key}"), value.to_owned());
    vec![text("architecture", name), text("sai_model_spec", "1.0.0"), text("implementation", "sgm"), text("title", title)]
}

//! The names that LoRA files give to a model's weights.

use indexmap::IndexMap;

use crate::convert::clip::EncoderKind;
use crate::convert::unet;
use crate::detect::UNetConfig;
use crate::state_dict::StateDict;

/// From the name in a LoRA file (without `.lora_up.weight` and the like) to the weight that is meant.
#[derive(Debug, Clone, Default)]
pub struct KeyMap(IndexMap<String, String>);

impl KeyMap {
    /// All names and their weights.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, weight)| (name.as_str(), weight.as_str()))
    }

    /// The weight that a name means.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn insert(&mut self, name: impl Into<String>, weight: &str) {
        self.0.insert(name.into(), weight.to_owned());
    }
}

/// The names of a UNet's weights: `weights` has ldm's names without a prefix, and so have the targets.
pub fn unet_keys(weights: &StateDict, config: &UNetConfig) -> KeyMap {
    let mut keys = KeyMap::default();
    for weight in weights.names() {
        if let Some(stem) = weight.strip_suffix(".weight") {
            keys.insert(format!("lora_unet_{}", stem.replace('.', "_")), weight);
            keys.insert(format!("diffusion_model.{stem}"), weight);
        } else {
            keys.insert(format!("diffusion_model.{weight}"), weight);
        }
    }
    for (diffusers, weight) in unet::names(config) {
        let Some(stem) = diffusers.strip_suffix(".weight").filter(|_| weights.contains(&weight)) else { continue };
        let flat = stem.replace('.', "_");
        keys.insert(format!("lora_unet_{flat}"), &weight);
        keys.insert(format!("lycoris_{flat}"), &weight);
        // Attention processors, as diffusers called them, and PEFT's plain names.
        let processor = stem.replace(".to_", ".processor.to_");
        let processor = processor.strip_suffix(".to_out.0").map(|start| format!("{start}.to_out")).unwrap_or(processor);
        for prefix in ["", "unet."] {
            keys.insert(format!("{prefix}{processor}"), &weight);
        }
        for prefix in ["unet.", "base_model.model.", "unet.base_model.model."] {
            keys.insert(format!("{prefix}{stem}"), &weight);
        }
        keys.insert(stem, &weight);
    }
    keys
}

/// The parts of a layer that LoRA files change.
const LAYER_PARTS: [&str; 6] = ["mlp.fc1", "mlp.fc2", "self_attn.k_proj", "self_attn.q_proj", "self_attn.v_proj", "self_attn.out_proj"];

/// The names of text encoders' weights: each of `encoders` has transformers' names. The targets are `clip_l.text_model.…` and the like: the
/// encoder's name, a point, the weight's name.
pub fn clip_keys(encoders: &[(EncoderKind, StateDict)]) -> KeyMap {
    let mut keys = KeyMap::default();
    let has_l = encoders.iter().any(|(kind, _)| *kind == EncoderKind::ClipL);
    for (kind, weights) in encoders {
        for weight in weights.names() {
            let Some(stem) = weight.strip_suffix(".weight") else { continue };
            keys.insert(format!("text_encoders.{}.transformer.{stem}", kind.name()), &format!("{}.{weight}", kind.name()));
        }
    }
    for (kind, weights) in encoders {
        // The encoder's number in names, and what diffusers calls it.
        let (flat, dotted): (&[&str], &str) = match kind {
            EncoderKind::ClipL | EncoderKind::ClipH => (&["lora_te", "lora_te1"], "text_encoder"),
            EncoderKind::ClipG if has_l => (&["lora_te2"], "text_encoder_2"),
            EncoderKind::ClipG => (&["lora_te", "lora_prior_te"], "text_encoder"),
        };
        for weight in weights.names() {
            let Some(stem) = weight.strip_suffix(".weight") else { continue };
            let Some((layer, part)) = stem.strip_prefix("text_model.encoder.layers.").and_then(|rest| rest.split_once('.')) else {
                continue;
            };
            if !LAYER_PARTS.contains(&part) {
                continue;
            }
            let target = format!("{}.{weight}", kind.name());
            let name = part.replace('.', "_");
            for prefix in flat {
                keys.insert(format!("{prefix}_text_model_encoder_layers_{layer}_{name}"), &target);
            }
            keys.insert(format!("{dotted}.text_model.encoder.layers.{layer}.{part}"), &target);
        }
        let projections: &[&str] = match kind {
            EncoderKind::ClipL => &["lora_te1_text_projection"],
            EncoderKind::ClipH => &[],
            EncoderKind::ClipG => &["lora_prior_te_text_projection", "lora_te2_text_projection"],
        };
        for name in projections {
            if weights.contains("text_projection.weight") {
                keys.insert(*name, &format!("{}.text_projection.weight", kind.name()));
            }
        }
    }
    keys
}

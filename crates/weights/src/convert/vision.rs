//! Vision encoders: OpenCLIP's names, and those of transformers.

use super::clip::{insert_layer_part, transposed};
use crate::state_dict::StateDict;

/// Where unCLIP checkpoints keep theirs.
const IN_CHECKPOINTS: &str = "embedder.model.visual.";

/// OpenCLIP's names outside layers, and transformers' (whose spelling of one of them is its own).
const OTHER_PARTS: [(&str, &str); 7] = [
    ("class_embedding", "vision_model.embeddings.class_embedding"),
    ("conv1.weight", "vision_model.embeddings.patch_embedding.weight"),
    ("positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    ("ln_pre.weight", "vision_model.pre_layrnorm.weight"),
    ("ln_pre.bias", "vision_model.pre_layrnorm.bias"),
    ("ln_post.weight", "vision_model.post_layernorm.weight"),
    ("ln_post.bias", "vision_model.post_layernorm.bias"),
];

/// The vision encoder of a file, which may hold more, under transformers' names.
pub fn standalone(dict: &StateDict) -> StateDict {
    if dict.has_prefix("visual.transformer.resblocks.") {
        return from_open_clip(dict, "visual.");
    }
    dict.rename(|name| {
        let is_part = name.starts_with("vision_model.") || name == "visual_projection.weight";
        (is_part && !name.ends_with("position_ids")).then(|| name.to_owned())
    })
}

/// The vision encoder of a checkpoint; empty if it has none.
pub fn of_checkpoint(dict: &StateDict) -> StateDict {
    from_open_clip(dict, IN_CHECKPOINTS)
}

fn from_open_clip(dict: &StateDict, prefix: &str) -> StateDict {
    let mut out = dict.empty_like();
    for (name, tensor) in dict.iter() {
        let Some(name) = name.strip_prefix(prefix) else { continue };
        if let Some((_, to)) = OTHER_PARTS.iter().find(|(from, _)| *from == name) {
            out.insert(*to, tensor.clone());
        } else if let Some(rest) = name.strip_prefix("transformer.resblocks.") {
            insert_layer_part(&mut out, "vision_model", rest, tensor);
        } else if name == "proj" && tensor.shape().len() == 2 {
            out.insert("visual_projection.weight", transposed(tensor));
        }
    }
    out
}

//! Autoencoders: diffusers' names to ldm's.

use crate::state_dict::{LazyTensor, StateDict};

/// The autoencoder whose names begin with `prefix`, under ldm's names, whichever it has. Attention matrices become 1x1 convolutions.
pub fn from_any(dict: &StateDict, prefix: &str) -> StateDict {
    let dict = dict.with_prefix(prefix, "");
    if dict.contains("decoder.up_blocks.0.resnets.0.norm1.weight") { from_diffusers(&dict) } else { dict }
}

/// An autoencoder with diffusers' names under ldm's.
pub fn from_diffusers(dict: &StateDict) -> StateDict {
    let levels = (0..16).take_while(|i| dict.has_prefix(&format!("decoder.up_blocks.{i}."))).count();
    let mut out = dict.empty_like();
    for (name, tensor) in dict.iter() {
        let to = ldm_name(name, levels).unwrap_or_else(|| name.to_owned());
        let is_matrix = to.contains("mid.attn_1.") && to.ends_with(".weight") && tensor.shape().len() == 2;
        out.insert(to, if is_matrix { convolution(tensor) } else { tensor.clone() });
    }
    out
}

fn convolution(tensor: &LazyTensor) -> LazyTensor {
    let mut shape = tensor.shape().to_vec();
    shape.extend([1, 1]);
    let to = shape.clone();
    tensor.map(shape, move |t| t.reshape(to.as_slice()))
}

/// ldm's name for a name of diffusers; the decoder's levels count from the other end there.
fn ldm_name(name: &str, levels: usize) -> Option<String> {
    let (half, rest) = name.split_once('.').filter(|(half, _)| matches!(*half, "encoder" | "decoder"))?;
    let parts: Vec<&str> = rest.split('.').collect();
    let level = |text: &str| text.parse::<usize>().ok();
    Some(match parts.as_slice() {
        ["conv_norm_out", kind] => format!("{half}.norm_out.{kind}"),
        ["mid_block", "resnets", i, part @ ..] => format!("{half}.mid.block_{}.{}", level(i)? + 1, resnet(part)),
        ["mid_block", "attentions", "0", part @ ..] => format!("{half}.mid.attn_1.{}", attention(part)?),
        ["down_blocks", i, "resnets", j, part @ ..] => format!("{half}.down.{i}.block.{j}.{}", resnet(part)),
        ["down_blocks", i, "downsamplers", "0", part @ ..] => format!("{half}.down.{i}.downsample.{}", part.join(".")),
        ["up_blocks", i, "resnets", j, part @ ..] => {
            format!("{half}.up.{}.block.{j}.{}", levels.checked_sub(1 + level(i)?)?, resnet(part))
        }
        ["up_blocks", i, "upsamplers", "0", part @ ..] => {
            format!("{half}.up.{}.upsample.{}", levels.checked_sub(1 + level(i)?)?, part.join("."))
        }
        _ => return None,
    })
}

fn resnet(part: &[&str]) -> String {
    part.join(".").replace("conv_shortcut", "nin_shortcut")
}

fn attention(part: &[&str]) -> Option<String> {
    Some(match part {
        ["group_norm", kind] => format!("norm.{kind}"),
        ["query" | "to_q", kind] => format!("q.{kind}"),
        ["key" | "to_k", kind] => format!("k.{kind}"),
        ["value" | "to_v", kind] => format!("v.{kind}"),
        ["proj_attn", kind] | ["to_out", "0", kind] => format!("proj_out.{kind}"),
        _ => return None,
    })
}

/// The tiny autoencoder of two files, under the names of one: `taesd_encoder.…`, `taesd_decoder.…`. Files that have these names already,
/// diffusers' (`encoder.layers.…`) and the original ones (`0.weight`, …) are understood; either file may be the other as well.
pub fn taesd(encoder: &StateDict, decoder: &StateDict) -> StateDict {
    let mut out = encoder.empty_like();
    for (dict, half) in [(encoder, "encoder"), (decoder, "decoder")] {
        let whole = format!("taesd_{half}.");
        let layers = format!("{half}.layers.");
        let (prefix, shift) = if dict.has_prefix(&whole) {
            (whole.as_str(), 0)
        } else if dict.has_prefix(&layers) {
            // diffusers' decoder has no module for the clamp that comes first.
            (layers.as_str(), usize::from(half == "decoder"))
        } else {
            ("", 0)
        };
        for (name, tensor) in dict.iter() {
            let Some((layer, rest)) = name.strip_prefix(prefix).and_then(|name| name.split_once('.')) else { continue };
            let Some(layer) = layer.parse::<usize>().ok().and_then(|layer| layer.checked_add(shift)) else { continue };
            out.insert(format!("taesd_{half}.{layer}.{rest}"), tensor.clone());
        }
    }
    out
}

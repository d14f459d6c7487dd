//! UNets: diffusers' names and ldm's, told one from the other by the shape of the network.

use crate::detect::{Heads, UNetConfig, count};
use crate::state_dict::StateDict;

/// ldm's names of a residual block's parts, and diffusers'.
const RESNET: [(&str, &str); 6] = [
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
    ("in_layers.0", "norm1"),
    ("out_layers.0", "norm2"),
];

/// Parts of a transformer, of the same name in both schemes, and whether they have a bias.
const ATTENTION: [&str; 3] = ["proj_in", "proj_out", "norm"];

/// Parts of a block of a transformer, of the same name in both schemes, and whether they have a bias.
const BLOCK: [(&str, bool); 13] = [
    ("norm1", true),
    ("norm2", true),
    ("norm3", true),
    ("attn1.to_q", false),
    ("attn1.to_k", false),
    ("attn1.to_v", false),
    ("attn1.to_out.0", true),
    ("attn2.to_q", false),
    ("attn2.to_k", false),
    ("attn2.to_v", false),
    ("attn2.to_out.0", true),
    ("ff.net.0.proj", true),
    ("ff.net.2", true),
];

/// Parts outside blocks: ldm's names and diffusers'.
const BASIC: [(&str, &str); 9] = [
    ("label_emb.0.0", "class_embedding.linear_1"),
    ("label_emb.0.2", "class_embedding.linear_2"),
    ("label_emb.0.0", "add_embedding.linear_1"),
    ("label_emb.0.2", "add_embedding.linear_2"),
    ("input_blocks.0.0", "conv_in"),
    ("out.0", "conv_norm_out"),
    ("out.2", "conv_out"),
    ("time_embed.0", "time_embedding.linear_1"),
    ("time_embed.2", "time_embedding.linear_2"),
];

/// All parts that a UNet of this shape may have: diffusers' name and ldm's, `.weight` and `.bias` included.
pub fn names(config: &UNetConfig) -> Vec<(String, String)> {
    let mut out = Names::default();
    let mut depth = config.transformer_depth.iter().copied();
    for (level, &residual) in config.num_res_blocks.iter().enumerate() {
        let first = 1 + config.num_res_blocks[..level].iter().map(|blocks| blocks + 1).sum::<usize>();
        for i in 0..residual {
            let ldm = format!("input_blocks.{}", first + i);
            out.resnet(&format!("down_blocks.{level}.resnets.{i}"), &format!("{ldm}.0"));
            out.transformer(&format!("down_blocks.{level}.attentions.{i}"), &format!("{ldm}.1"), depth.next().unwrap_or(0));
        }
        out.both(&format!("down_blocks.{level}.downsamplers.0.conv"), &format!("input_blocks.{}.0.op", first + residual));
    }
    if config.middle_block {
        out.transformer("mid_block.attentions.0", "middle_block.1", config.transformer_depth_middle.unwrap_or(0));
        out.resnet("mid_block.resnets.0", "middle_block.0");
        out.resnet("mid_block.resnets.1", "middle_block.2");
    }
    let mut depth = config.transformer_depth_output.iter().rev().copied();
    let mut block = 0;
    for (level, &residual) in config.num_res_blocks.iter().rev().enumerate() {
        for i in 0..=residual {
            let ldm = format!("output_blocks.{block}");
            let depth = depth.next().unwrap_or(0);
            out.resnet(&format!("up_blocks.{level}.resnets.{i}"), &format!("{ldm}.0"));
            out.transformer(&format!("up_blocks.{level}.attentions.{i}"), &format!("{ldm}.1"), depth);
            if i == residual {
                let part = if depth > 0 { 2 } else { 1 };
                out.both(&format!("up_blocks.{level}.upsamplers.0.conv"), &format!("{ldm}.{part}.conv"));
            }
            block += 1;
        }
    }
    for (ldm, diffusers) in BASIC {
        out.both(diffusers, ldm);
    }
    out.0
}

#[derive(Default)]
struct Names(Vec<(String, String)>);

impl Names {
    fn weight(&mut self, diffusers: &str, ldm: &str) {
        self.0.push((format!("{diffusers}.weight"), format!("{ldm}.weight")));
    }

    fn both(&mut self, diffusers: &str, ldm: &str) {
        self.weight(diffusers, ldm);
        self.0.push((format!("{diffusers}.bias"), format!("{ldm}.bias")));
    }

    fn resnet(&mut self, diffusers: &str, ldm: &str) {
        for (from, to) in RESNET {
            self.both(&format!("{diffusers}.{to}"), &format!("{ldm}.{from}"));
        }
    }

    fn transformer(&mut self, diffusers: &str, ldm: &str, depth: usize) {
        if depth == 0 {
            return;
        }
        for part in ATTENTION {
            self.both(&format!("{diffusers}.{part}"), &format!("{ldm}.{part}"));
        }
        for block in 0..depth {
            for (part, has_bias) in BLOCK {
                let (diffusers, ldm) =
                    (format!("{diffusers}.transformer_blocks.{block}.{part}"), format!("{ldm}.transformer_blocks.{block}.{part}"));
                if has_bias {
                    self.both(&diffusers, &ldm);
                } else {
                    self.weight(&diffusers, &ldm);
                }
            }
        }
    }
}

/// The shape of a UNet, or of a ControlNet, with diffusers' names; `None` if the names are others.
pub fn diffusers_config(dict: &StateDict) -> Option<UNetConfig> {
    let axis = |name: &str, axis: usize| dict.shape(name).and_then(|shape| shape.get(axis)).copied();
    let (model_channels, in_channels) = (axis("conv_in.weight", 0).filter(|width| *width > 0)?, axis("conv_in.weight", 1)?);
    let levels = count(dict, |i| format!("down_blocks.{i}."));
    if levels == 0 {
        return None;
    }
    let (mut num_res_blocks, mut channel_mult, mut depths) = (Vec::new(), Vec::new(), Vec::new());
    let mut transformer = None;
    let mut depth = |prefix: String| {
        let found = count(dict, |i| format!("{prefix}.transformer_blocks.{i}."));
        if found > 0 && transformer.is_none() {
            transformer = Some((
                axis(&format!("{prefix}.transformer_blocks.0.attn2.to_k.weight"), 1).unwrap_or(0),
                dict.shape(&format!("{prefix}.proj_in.weight")).is_some_and(|shape| shape.len() == 2),
            ));
        }
        found
    };
    for level in 0..levels {
        let residual = count(dict, |i| format!("down_blocks.{level}.resnets.{i}."));
        num_res_blocks.push(residual);
        channel_mult.push(axis(&format!("down_blocks.{level}.resnets.0.conv2.weight"), 0)? / model_channels);
        depths.extend((0..residual).map(|i| depth(format!("down_blocks.{level}.attentions.{i}"))));
    }
    let mut output: Vec<usize> = Vec::new();
    for level in 0..count(dict, |i| format!("up_blocks.{i}.")) {
        let residual = count(dict, |i| format!("up_blocks.{level}.resnets.{i}."));
        output.extend((0..residual).map(|i| depth(format!("up_blocks.{level}.attentions.{i}"))));
    }
    output.reverse();
    let middle_block = dict.has_prefix("mid_block.");
    let middle = depth("mid_block.attentions.0".into());
    let (context_dim, use_linear_in_transformer) = transformer.unwrap_or((0, false));
    Some(UNetConfig {
        in_channels,
        out_channels: axis("conv_out.weight", 0).unwrap_or(4),
        model_channels,
        num_res_blocks,
        channel_mult,
        transformer_depth: depths,
        transformer_depth_output: output,
        transformer_depth_middle: (middle > 0).then_some(middle),
        middle_block,
        context_dim,
        use_linear_in_transformer,
        adm_in_channels: axis("class_embedding.linear_1.weight", 1).or_else(|| axis("add_embedding.linear_1.weight", 1)),
        heads: if use_linear_in_transformer { Heads::Channels(64) } else { Heads::Count(8) },
    })
}

/// A UNet with diffusers' names under ldm's; `None` if the names are others.
pub fn from_diffusers(dict: &StateDict) -> Option<StateDict> {
    let config = diffusers_config(dict)?;
    let mut out = dict.empty_like();
    for (from, to) in names(&config) {
        if let Some(tensor) = dict.get(&from) {
            out.insert(to, tensor.clone());
        }
    }
    Some(out)
}

//! Splitting of checkpoints, from the layouts of whole models.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::path::PathBuf;

use candle_core::DType;
use comfyd_weights::convert::vae;
use comfyd_weights::detect::Heads;
use comfyd_weights::{EncoderKind, EncoderNames, EncoderPlace, StateDict, Unet, synthetic};

fn layout(name: &str) -> StateDict {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../conformance/diffusion").join(name);
    synthetic::state_dict(&std::fs::read_to_string(path).unwrap(), DType::F16).unwrap()
}

fn place(names: EncoderNames, prefixes: &'static [&'static str]) -> EncoderPlace {
    EncoderPlace { kind: EncoderKind::ClipL, names, prefixes }
}

#[test]
fn sd15_is_split() {
    let dict = layout("sd15.layout.json");
    let unet = Unet::find(&dict).unwrap();
    let config = &unet.config;
    assert_eq!((config.in_channels, config.out_channels, config.model_channels, config.context_dim), (4, 4, 320, 768));
    assert_eq!((config.num_res_blocks.as_slice(), config.channel_mult.as_slice()), ([2, 2, 2, 2].as_slice(), [1, 2, 4, 4].as_slice()));
    assert_eq!(config.transformer_depth, [1, 1, 1, 1, 1, 1, 0, 0]);
    assert_eq!(config.transformer_depth_output, [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0]);
    assert_eq!((config.transformer_depth_middle, config.middle_block, config.adm_in_channels), (Some(1), true, None));
    assert_eq!((config.use_linear_in_transformer, config.heads), (false, Heads::Count(8)));
    assert_eq!(unet.weights.len(), 686);
    assert_eq!(place(EncoderNames::Transformers { position_ids: false }, &["cond_stage_model.transformer."]).read(&dict).len(), 196);
    assert_eq!(vae::from_any(&dict, "first_stage_model.").len(), 248);
}

#[test]
fn sdxl_is_split() {
    let dict = layout("sdxl.layout.json");
    let config = Unet::find(&dict).unwrap().config;
    assert_eq!((config.context_dim, config.adm_in_channels), (2048, Some(2816)));
    assert_eq!(config.transformer_depth, [0, 0, 2, 2, 10, 10]);
    assert_eq!(config.transformer_depth_output, [0, 0, 0, 2, 2, 2, 10, 10, 10]);
    assert_eq!((config.transformer_depth_middle, config.heads), (Some(10), Heads::Channels(64)));
    let l = place(EncoderNames::Transformers { position_ids: true }, &["conditioner.embedders.0.transformer."]).read(&dict);
    let g = place(EncoderNames::OpenClip, &["another.", "conditioner.embedders.1.model."]).read(&dict);
    assert_eq!((l.len(), g.len()), (196, 12 * 32 + 4 + 4 * 32 + 2));
    assert_eq!(g.shape("text_model.encoder.layers.31.self_attn.v_proj.weight"), Some([1280, 1280].as_slice()));
    let whole = dict.get("conditioner.embedders.1.model.transformer.resblocks.3.attn.in_proj_weight").unwrap().read().unwrap();
    let v = g.get("text_model.encoder.layers.3.self_attn.v_proj.weight").unwrap().read().unwrap();
    let wanted = whole.narrow(0, 2560, 1280).unwrap();
    assert_eq!(wanted.to_vec2::<half::f16>().unwrap(), v.to_vec2::<half::f16>().unwrap());
}

//! Adapters against what the reference makes of the same weights (`golden/make_golden.py`), and the naming schemes.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use comfyd_weights::convert::clip;
use comfyd_weights::detect::unet_config;
use comfyd_weights::lora::{self, Adapter, KeyMap};
use comfyd_weights::{EncoderKind, StateDict, Unet, synthetic};

fn golden() -> StateDict {
    StateDict::open(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/adapters.safetensors")).unwrap()
}

fn sd15() -> (Unet, [(EncoderKind, StateDict); 1]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../conformance/diffusion/sd15.layout.json");
    let dict = synthetic::state_dict(&std::fs::read_to_string(path).unwrap(), DType::F16).unwrap();
    let text = clip::from_transformers(&dict, "cond_stage_model.transformer.");
    (Unet::find(&dict).unwrap(), [(EncoderKind::ClipL, text)])
}

/// A key map with the one name `key`.
fn one_key() -> KeyMap {
    let mut weights = StateDict::default();
    weights.insert("key.weight", Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap());
    lora::clip_keys(&[(EncoderKind::ClipL, weights)])
}

#[test]
fn every_kind_gives_the_references_numbers() {
    let golden = golden();
    let kinds: Vec<&str> = golden.names().filter_map(|name| name.strip_suffix(".weight").filter(|stem| !stem.contains('.'))).collect();
    assert_eq!(kinds.len(), 24);
    for kind in kinds {
        let file = golden.with_prefix(&format!("{kind}.key."), "text_encoders.clip_l.transformer.key.");
        let lora = lora::load(&file, &one_key()).unwrap();
        assert_eq!(lora.unused, Vec::<String>::new(), "{kind}");
        let [(target, adapter)] = lora.adapters.as_slice() else { panic!("{kind}: {:?}", lora.adapters) };
        assert_eq!(target, "clip_l.key.weight");
        let weight = golden.get(&format!("{kind}.weight")).unwrap().read().unwrap();
        for strength in ["1.0", "0.6"] {
            let wanted = golden.get(&format!("{kind}.out.{strength}")).unwrap().read().unwrap();
            let got = adapter.apply(&weight, strength.parse().unwrap()).unwrap();
            assert_eq!(got.dims(), wanted.dims(), "{kind}");
            let worst = (got - &wanted).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(worst < 2e-6, "{kind} at {strength}: {worst}");
        }
    }
}

#[test]
fn adapters_of_other_shapes_are_errors() {
    let golden = golden();
    let weight = Tensor::zeros((5, 7), DType::F32, &Device::Cpu).unwrap();
    let kinds: Vec<&str> = golden.names().filter_map(|name| name.strip_suffix(".weight").filter(|stem| !stem.contains('.'))).collect();
    for kind in kinds.into_iter().filter(|kind| *kind != "reshape") {
        let file = golden.with_prefix(&format!("{kind}.key."), "text_encoders.clip_l.transformer.key.");
        for (_, adapter) in lora::load(&file, &one_key()).unwrap().adapters {
            assert!(adapter.apply(&weight, 1.0).is_err(), "{kind}");
        }
    }
}

fn file(names: &[&str]) -> StateDict {
    let mut file = StateDict::default();
    for name in names {
        for part in ["up", "down"] {
            let lower = name.replace("lora_up.", "lora_down.").replace(".up.weight", ".down.weight").replace("lora_B", "lora_A");
            let name = if part == "up" { name.to_string() } else { lower };
            file.insert(name, Tensor::zeros((2, 2), DType::F32, &Device::Cpu).unwrap());
        }
    }
    file
}

#[test]
fn every_naming_scheme_is_understood() {
    let (unet, clips) = sd15();
    let keys = lora::unet_keys(&unet.weights, &unet_config(&unet.weights, "").unwrap());
    let q = "output_blocks.4.1.transformer_blocks.0.attn1.to_q.weight";
    for (name, target) in [
        ("lora_unet_up_blocks_1_attentions_1_transformer_blocks_0_attn1_to_q.lora_up.weight", q),
        ("lora_unet_output_blocks_4_1_transformer_blocks_0_attn1_to_q.lora_up.weight", q),
        ("lycoris_up_blocks_1_attentions_1_transformer_blocks_0_attn1_to_q.lora_up.weight", q),
        ("diffusion_model.output_blocks.4.1.transformer_blocks.0.attn1.to_q.lora_up.weight", q),
        ("unet.up_blocks.1.attentions.1.transformer_blocks.0.attn1.to_q.lora_B.weight", q),
        ("unet.up_blocks.1.attentions.1.transformer_blocks.0.attn1.to_q.lora.up.weight", q),
        ("up_blocks.1.attentions.1.transformer_blocks.0.attn1.processor.to_q_lora.up.weight", q),
        ("unet.up_blocks.1.attentions.1.transformer_blocks.0.attn1.processor.to_q.lora.up.weight", q),
        ("base_model.model.up_blocks.1.attentions.1.transformer_blocks.0.attn1.to_q.lora_B.weight", q),
        ("base_model.model.up_blocks.1.attentions.1.transformer_blocks.0.attn1.to_q.lora_B.default.weight", q),
        (
            "up_blocks.1.attentions.1.transformer_blocks.0.attn2.processor.to_out_lora.up.weight",
            "output_blocks.4.1.transformer_blocks.0.attn2.to_out.0.weight",
        ),
        ("lora_unet_down_blocks_0_downsamplers_0_conv.lora_up.weight", "input_blocks.3.0.op.weight"),
        ("lora_unet_up_blocks_0_upsamplers_0_conv.lora_up.weight", "output_blocks.2.1.conv.weight"),
        ("lora_unet_mid_block_attentions_0_proj_in.lora_up.weight", "middle_block.1.proj_in.weight"),
        ("lora_unet_mid_block_resnets_1_conv1.lora_up.weight", "middle_block.2.in_layers.2.weight"),
    ] {
        let lora = lora::load(&file(&[name]), &keys).unwrap();
        assert_eq!(lora.adapters.iter().map(|(to, _)| to.as_str()).collect::<Vec<_>>(), [target], "{name}");
        assert!(lora.unused.is_empty(), "{name}: {:?}", lora.unused);
    }
    let keys = lora::clip_keys(&clips);
    for name in [
        "lora_te_text_model_encoder_layers_3_self_attn_q_proj.lora_up.weight",
        "lora_te1_text_model_encoder_layers_3_self_attn_q_proj.lora_up.weight",
        "text_encoder.text_model.encoder.layers.3.self_attn.q_proj.lora_B.weight",
        "text_encoder.text_model.encoder.layers.3.self_attn.q_proj.lora_linear_layer.up.weight",
        "text_encoders.clip_l.transformer.text_model.encoder.layers.3.self_attn.q_proj.lora_up.weight",
    ] {
        let lora = lora::load(&file(&[name]), &keys).unwrap();
        assert_eq!(lora.adapters[0].0, "clip_l.text_model.encoder.layers.3.self_attn.q_proj.weight", "{name}");
    }
}

#[test]
fn biases_and_unknown_names() {
    let (unet, _) = sd15();
    let keys = lora::unet_keys(&unet.weights, &unet.config);
    let tensor = || Tensor::ones(320, DType::F32, &Device::Cpu).unwrap();
    let mut file = StateDict::default();
    for name in [
        "lora_unet_input_blocks_1_0_in_layers_0.diff",
        "lora_unet_input_blocks_1_0_in_layers_0.diff_b",
        "diffusion_model.out.0.bias.diff",
        "nonsense.lora_up.weight",
    ] {
        file.insert(name, tensor());
    }
    let lora = lora::load(&file, &keys).unwrap();
    let mut targets: Vec<&str> = lora.adapters.iter().map(|(to, _)| to.as_str()).collect();
    targets.sort_unstable();
    assert_eq!(targets, ["input_blocks.1.0.in_layers.0.bias", "input_blocks.1.0.in_layers.0.weight", "out.0.bias"]);
    assert!(lora.adapters.iter().all(|(_, adapter)| matches!(adapter, Adapter::Diff(_))));
    assert_eq!(lora.unused, ["nonsense.lora_up.weight"]);
    // Half of an adapter names what is missing.
    let mut half = StateDict::default();
    half.insert("lora_unet_input_blocks_1_0_in_layers_0.lora_up.weight", tensor());
    assert!(lora::load(&half, &keys).expect_err("accepted").to_string().contains("lora_down"));
}

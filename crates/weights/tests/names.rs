//! Conversions of names against the reference's (`golden/make_names.py`), and files that are written and read again.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use comfyd_weights::convert::{self, ControlFile, clip, unet, vae};
use comfyd_weights::{EncoderKind, EncoderNames, EncoderPlace, Error, StateDict, Unet, save, synthetic, write};
use serde_json::Value as Json;

fn golden() -> Json {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/names.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn layout(family: &str) -> StateDict {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../../conformance/diffusion/{family}.layout.json"));
    synthetic::state_dict(&std::fs::read_to_string(path).unwrap(), DType::F16).unwrap()
}

fn small(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap()
}

fn shapes(dict: &StateDict) -> BTreeMap<String, Vec<usize>> {
    dict.iter().map(|(name, tensor)| (name.to_owned(), tensor.shape().to_vec())).collect()
}

#[test]
fn diffusers_unets_are_converted() {
    for family in ["sd15", "sdxl"] {
        let whole = Unet::find(&layout(family)).unwrap();
        let golden = golden();
        let names = golden[format!("unet.{family}")].as_object().unwrap();
        let mut diffusers = StateDict::default();
        for (from, to) in names {
            diffusers.insert(from, whole.weights.get(to.as_str().unwrap()).unwrap().clone());
        }
        assert_eq!(unet::diffusers_config(&diffusers).unwrap(), whole.config);
        let found = Unet::find(&diffusers).unwrap();
        assert_eq!(found.config, whole.config);
        assert_eq!(shapes(&found.weights), shapes(&whole.weights));
        let to: BTreeMap<String, String> = unet::names(&whole.config).into_iter().collect();
        for (name, wanted) in names {
            assert_eq!(to.get(name).map(String::as_str), wanted.as_str(), "{name}");
        }
    }
}

#[test]
fn diffusers_autoencoders_are_converted() {
    for kind in ["vae.new", "vae.old"] {
        let golden = golden();
        let mut diffusers = StateDict::default();
        let mut wanted = BTreeMap::new();
        for (name, to) in golden[kind].as_object().unwrap() {
            let shape: Vec<usize> = serde_json::from_value(to[1].clone()).unwrap();
            diffusers.insert(name, small(if shape.len() == 4 { &[2, 2] } else { &shape }));
            wanted.insert(to[0].as_str().unwrap().to_owned(), shape);
        }
        let converted = vae::from_any(&diffusers, "");
        assert_eq!(shapes(&converted), wanted, "{kind}");
        assert_eq!(converted.get("encoder.mid.attn_1.q.weight").unwrap().read().unwrap().dims(), [2, 2, 1, 1]);
    }
}

#[test]
fn checkpoints_are_saved_as_the_reference_does() {
    let place = |kind, names, prefixes| EncoderPlace { kind, names, prefixes };
    let transformers = |position_ids| EncoderNames::Transformers { position_ids };
    let sd15 = [place(EncoderKind::ClipL, transformers(false), &["cond_stage_model.transformer."])];
    let sdxl = [
        place(EncoderKind::ClipL, transformers(true), &["conditioner.embedders.0.transformer."]),
        place(EncoderKind::ClipG, EncoderNames::OpenClip, &["conditioner.embedders.1.model."]),
    ];
    for (places, name) in [(&sd15[..], "sd15"), (&sdxl[..], "sdxl")] {
        let dict = layout(name);
        let clips: Vec<(EncoderKind, StateDict)> = places.iter().map(|place| (place.kind, place.read(&dict))).collect();
        let saved = save::checkpoint(&save::Parts {
            unet: &Unet::find(&dict).unwrap().weights,
            places,
            clips: &clips,
            vae: Some(&vae::from_any(&dict, "first_stage_model.")),
            markers: &["v_pred", "ztsnr"],
        })
        .unwrap();
        let saved = shapes(&saved);
        let golden = golden();
        let wanted: BTreeMap<String, Vec<usize>> = serde_json::from_value(golden[format!("saved.{name}")].clone()).unwrap();
        let encoders: BTreeMap<String, Vec<usize>> =
            saved.iter().filter(|(name, _)| name.starts_with("cond")).map(|(name, shape)| (name.clone(), shape.clone())).collect();
        assert_eq!(encoders, wanted);
        assert_eq!((&saved["v_pred"], &saved["ztsnr"]), (&vec![0], &vec![0]));
        for (name, tensor) in dict.iter() {
            assert_eq!(saved.get(name).map(Vec::as_slice), Some(tensor.shape()), "{name}");
        }
    }
}

#[test]
fn open_clip_and_back() {
    let shapes_of = [
        ("positional_embedding", vec![5, 4]),
        ("token_embedding.weight", vec![7, 4]),
        ("ln_final.weight", vec![4]),
        ("ln_final.bias", vec![4]),
        ("text_projection", vec![4, 4]),
        ("logit_scale", vec![]),
        ("transformer.resblocks.0.ln_1.weight", vec![4]),
        ("transformer.resblocks.0.attn.in_proj_weight", vec![12, 4]),
        ("transformer.resblocks.0.attn.in_proj_bias", vec![12]),
        ("transformer.resblocks.0.attn.out_proj.weight", vec![4, 4]),
        ("transformer.resblocks.0.mlp.c_fc.weight", vec![16, 4]),
        ("transformer.resblocks.0.mlp.c_proj.bias", vec![4]),
    ];
    let dict = synthetic::from_shapes(shapes_of.map(|(name, shape)| (name.to_owned(), shape)), DType::F32);
    let (kind, encoder) = clip::standalone(&dict).unwrap();
    assert_eq!(kind, EncoderKind::ClipL);
    let value = |dict: &StateDict, name: &str| dict.get(name).unwrap().read().unwrap();
    let flat = |tensor: Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let projection = value(&dict, "text_projection").t().unwrap().contiguous().unwrap();
    assert_eq!(flat(value(&encoder, "text_projection.weight")), flat(projection));
    let keys = value(&dict, "transformer.resblocks.0.attn.in_proj_weight").narrow(0, 4, 4).unwrap().contiguous().unwrap();
    assert_eq!(flat(value(&encoder, "text_model.encoder.layers.0.self_attn.k_proj.weight")), flat(keys));
    let back = clip::to_open_clip(&encoder);
    assert_eq!(shapes(&back), shapes(&dict));
    for name in dict.names() {
        assert_eq!(flat(value(&back, name)), flat(value(&dict, name)), "{name}");
    }
}

#[test]
fn standalone_encoders_are_told_apart() {
    let layers = |count: usize, prefix: &str| {
        let names = (0..count).map(|i| (format!("{prefix}encoder.layers.{i}.mlp.fc1.weight"), vec![1, 1]));
        synthetic::from_shapes(names, DType::F32)
    };
    for (count, prefix, kind) in [
        (12, "text_model.", EncoderKind::ClipL),
        (24, "text_model.", EncoderKind::ClipH),
        (32, "", EncoderKind::ClipG),
        (12, "transformer.text_model.", EncoderKind::ClipL),
    ] {
        let (found, encoder) = clip::standalone(&layers(count, prefix)).unwrap();
        assert_eq!(found, kind);
        assert!(encoder.contains("text_model.encoder.layers.0.mlp.fc1.weight"));
    }
    assert!(clip::standalone(&StateDict::default()).expect_err("accepted").to_string().contains("looked for"));
}

#[test]
fn controlnets_of_both_schemes() {
    // The encoder's half of SD1.5 under diffusers' names, with the parts of a ControlNet.
    let whole = Unet::find(&layout("sd15")).unwrap();
    let mut ldm = StateDict::default();
    let mut diffusers = StateDict::default();
    for (from, to) in unet::names(&whole.config) {
        if let Some(tensor) = whole.weights.get(&to).filter(|_| !to.starts_with("out")) {
            diffusers.insert(from, tensor.clone());
            ldm.insert(to, tensor.clone());
        }
    }
    for kind in ["weight", "bias"] {
        for i in 0..12 {
            diffusers.insert(format!("controlnet_down_blocks.{i}.{kind}"), small(&[1, 3]));
            ldm.insert(format!("zero_convs.{i}.0.{kind}"), small(&[1, 3]));
        }
        diffusers.insert(format!("controlnet_mid_block.{kind}"), small(&[1, 3]));
        ldm.insert(format!("middle_block_out.0.{kind}"), small(&[1, 3]));
        for (from, to) in [("conv_in", 0), ("blocks.0", 2), ("blocks.1", 4), ("blocks.2", 6), ("conv_out", 8)] {
            diffusers.insert(format!("controlnet_cond_embedding.{from}.{kind}"), small(&[16, 3]));
            ldm.insert(format!("input_hint_block.{to}.{kind}"), small(&[16, 3]));
        }
    }
    for dict in [diffusers, ldm.clone(), ldm.with_prefix("", "control_model.")] {
        let ControlFile::ControlNet(net) = convert::control(&dict).unwrap() else { panic!("no ControlNet") };
        assert_eq!(shapes(&net.weights), shapes(&ldm));
        assert_eq!((net.hint_channels, net.is_difference, net.union_types), (3, false, None));
        assert_eq!((&net.config.transformer_depth, net.config.heads), (&whole.config.transformer_depth, whole.config.heads));
        assert_eq!(net.config.transformer_depth_middle, Some(1));
    }
    let mut lora = StateDict::default();
    lora.insert("lora_controlnet", small(&[0]));
    assert!(convert::control(&lora).is_err(), "it has nothing that looks at a picture");
    lora.insert("input_hint_block.0.weight", small(&[16, 3, 3, 3]));
    lora.insert("time_embed.0.bias", small(&[4]));
    lora.insert("time_embed.0.up", small(&[4, 2]));
    assert!(convert::control(&lora).unwrap_err().to_string().contains("no time_embed.0.down"));
    lora.insert("time_embed.0.down", small(&[2, 3]));
    let ControlFile::ControlLora(lora) = convert::control(&lora).unwrap() else { panic!("no control-LoRA") };
    assert_eq!(lora.weights.names().collect::<Vec<_>>(), ["input_hint_block.0.weight", "time_embed.0.bias"]);
    assert_eq!(lora.hint_channels, 3);
    let [(name, difference)] = &lora.differences[..] else { panic!("not one difference") };
    assert_eq!(name, "time_embed.0.weight");
    assert_eq!(difference.product(&[4, 3, 1, 1]).unwrap().dims(), [4, 3, 1, 1]);
    assert!(difference.product(&[4, 4]).is_err());
    let mut adapter = StateDict::default();
    adapter.insert("adapter.conv_in.weight", small(&[1]));
    adapter.insert("adapter.body.0.resnets.0.block1.weight", small(&[1]));
    adapter.insert("adapter.body.1.resnets.1.block2.weight", small(&[1]));
    adapter.insert("adapter.body.1.in_conv.weight", small(&[1]));
    let ControlFile::T2iAdapter(adapter) = convert::control(&adapter).unwrap() else { panic!("no adapter") };
    assert_eq!(
        adapter.names().collect::<Vec<_>>(),
        ["conv_in.weight", "body.0.block1.weight", "body.3.block2.weight", "body.2.in_conv.weight"]
    );
    assert!(convert::control(&StateDict::default()).is_err());
}

#[test]
fn unions_of_controlnets_keep_their_own_parts() {
    let shapes = [
        ("conv_in.weight", vec![32, 4, 3, 3]),
        ("down_blocks.0.resnets.0.conv1.weight", vec![32, 32, 3, 3]),
        ("down_blocks.0.resnets.0.conv2.weight", vec![32, 32, 3, 3]),
        ("controlnet_cond_embedding.conv_in.weight", vec![16, 3, 3, 3]),
        ("controlnet_cond_embedding.blocks.5.bias", vec![256]),
        ("controlnet_cond_embedding.conv_out.weight", vec![32, 256, 3, 3]),
        ("transformer_layes.0.attn.in_proj_weight", vec![96, 32]),
        ("control_add_embedding.linear_1.bias", vec![32]),
        ("task_embedding", vec![6, 32]),
    ];
    // Only the last block of the picture's convolutions is given here, the others are found by counting.
    let blocks = (0..5).map(|i| (format!("controlnet_cond_embedding.blocks.{i}.bias"), vec![16]));
    let diffusers = synthetic::from_shapes(shapes.map(|(name, shape)| (name.to_owned(), shape)).into_iter().chain(blocks), DType::F32);
    let ControlFile::ControlNet(net) = convert::control(&diffusers).unwrap() else { panic!("no ControlNet") };
    assert_eq!(net.union_types, Some(6));
    for name in [
        "input_blocks.0.0.weight",
        "input_blocks.1.0.in_layers.2.weight",
        "input_hint_block.12.bias",
        "input_hint_block.14.weight",
        "transformer_layes.0.attn.in_proj.weight",
        "task_embedding",
    ] {
        assert!(net.weights.contains(name), "{name}");
    }
}

#[test]
fn differences_are_added_to_their_base() {
    let of = |value: f32, shape: &[usize], dtype| Tensor::full(value, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
    let Ok(whole) = Unet::find(&layout("sd15")) else { panic!("no UNet") };
    let mut file = StateDict::default();
    for (name, tensor) in whole.weights.iter().filter(|(name, _)| name.contains("input_blocks")) {
        file.insert(format!("control_model.{name}"), tensor.clone());
    }
    file.insert("control_model.zero_convs.0.0.weight", of(1.0, &[2], DType::F32));
    file.insert("control_model.input_hint_block.0.weight", of(1.0, &[2, 3, 3, 3], DType::F32));
    file.insert("control_model.both", of(1.0, &[2], DType::F16));
    file.insert("control_model.of_other_shapes", of(1.0, &[2], DType::F32));
    let ControlFile::ControlNet(net) = convert::control(&file).unwrap() else { panic!("no ControlNet") };
    assert!(!net.is_difference);
    file.insert("difference", of(0.0, &[], DType::F32));
    let ControlFile::ControlNet(net) = convert::control(&file).unwrap() else { panic!("no ControlNet") };
    assert!(net.is_difference);

    let mut base = StateDict::default();
    base.insert("both", of(2.5, &[2], DType::F32));
    base.insert("of_other_shapes", of(2.5, &[3], DType::F32));
    base.insert("other", of(2.5, &[2], DType::F32));
    let sum = net.with_base(&base);
    let read = |name: &str| sum.get(name).unwrap().read().unwrap();
    assert_eq!(read("both").dtype(), DType::F16);
    assert_eq!(read("both").to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap(), [3.5, 3.5]);
    assert_eq!(read("of_other_shapes").to_vec1::<f32>().unwrap(), [1.0, 1.0]);
    assert!(!sum.contains("other"));
}

#[test]
fn files_without_a_unet_are_told_in_words() {
    let nothing = Unet::find(&StateDict::default().with_origin("none.ckpt")).expect_err("accepted").to_string();
    assert!(nothing.contains("none.ckpt") && nothing.contains("looked for"), "{nothing}");
}

#[test]
fn tiny_autoencoders_of_all_schemes() {
    let of = |names: &[&str]| synthetic::from_shapes(names.iter().map(|name| (name.to_string(), vec![1])), DType::F32);
    let wanted = ["taesd_encoder.0.weight", "taesd_decoder.1.weight"];
    for (encoder, decoder) in [("0.weight", "1.weight"), ("encoder.layers.0.weight", "decoder.layers.0.weight"), (wanted[0], wanted[1])] {
        assert_eq!(vae::taesd(&of(&[encoder]), &of(&[decoder])).names().collect::<Vec<_>>(), wanted);
    }
}

#[test]
fn written_files_are_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    let mut dict = synthetic::from_shapes([("b.weight".to_owned(), vec![3, 5]), ("a.bias".to_owned(), vec![7])], DType::F32);
    dict.insert("h", small(&[2]).to_dtype(DType::F16).unwrap());
    dict.insert("ids", Tensor::arange(0i64, 4, &Device::Cpu).unwrap());
    let metadata = vec![("prompt".to_owned(), "{}".to_owned())];
    write::write(&path, &dict, &write::Options { metadata, ..write::Options::default() }).unwrap();
    let again = StateDict::open(&path).unwrap();
    assert_eq!(again.names().collect::<Vec<_>>(), ["ids", "a.bias", "b.weight", "h"]);
    assert_eq!(again.metadata["prompt"], "{}");
    for (name, tensor) in dict.iter() {
        let (a, b) = (tensor.read().unwrap(), again.get(name).unwrap().read().unwrap());
        assert_eq!((a.dtype(), a.dims(), a.to_string()), (b.dtype(), b.dims(), b.to_string()));
    }

    let asked = std::cell::Cell::new(0);
    let interrupted = || asked.replace(asked.get() + 1) == 2;
    let mut out = Vec::new();
    let left = write::write_to(&mut out, &dict, &write::Options { interrupted: Some(&interrupted), ..write::Options::default() });
    assert!(matches!(left, Err(Error::Interrupted)));
    assert!(asked.get() == 3 && out.len() < std::fs::read(&path).unwrap().len(), "it ends at the tensor at which it was interrupted");

    write::write(&path, &dict, &write::Options { dtype: Some(DType::F16), ..write::Options::default() }).unwrap();
    let halved = StateDict::open(&path).unwrap();
    assert_eq!((halved.get("b.weight").unwrap().dtype(), halved.get("ids").unwrap().dtype()), (DType::F16, DType::I64));
}

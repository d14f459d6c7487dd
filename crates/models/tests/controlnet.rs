//! Tiny ControlNets and adapters against the reference's: `golden/make_controlnet_golden.py` made the results.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod unet_support;

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use comfyd_models::controlnet::{self, ControlInput, ControlNet, ControlNetConfig};
use comfyd_models::t2i_adapter::{self, T2iAdapter, T2iAdapterConfig};
use comfyd_models::unet::{Control, Hooks};
use comfyd_models::{Error, Result, Vb};
use comfyd_weights::StateDict;
use comfyd_weights::detect::Heads;

use unet_support::{Asked, assert_close, golden, layout, noise};

fn dict(name: &str) -> StateDict {
    comfyd_weights::synthetic::from_shapes(layout("controlnet_layouts.json", name), DType::F32)
}

/// Detects, builds and checks that every tensor is used. Tiny heads cannot be told from a file.
fn control_net(name: &str) -> ControlNet {
    let mut config = ControlNetConfig::detect(&dict(name)).unwrap();
    if name == "xl" {
        config.unet.heads = Heads::Channels(16);
    }
    let layout = layout("controlnet_layouts.json", name);
    let weights = Asked::new(layout.clone());
    let net = ControlNet::new(&config, &Vb::new(weights.clone())).unwrap();
    assert_eq!(*weights.names.lock().unwrap(), layout.into_keys().collect());
    net
}

#[track_caller]
fn assert_control(name: &str, got: &Control, golden: &HashMap<String, Tensor>) {
    for (part, got) in [("input", &got.input), ("middle", &got.middle), ("output", &got.output)] {
        let length = golden.get(&format!("{name}.{part}.length")).map_or(0.0, |t| t.to_vec1::<f32>().unwrap()[0]);
        assert_eq!(got.len(), length as usize, "{name}.{part}");
        for (i, got) in got.iter().enumerate() {
            let key = format!("{name}.{part}.{i}");
            match (got, golden.get(&key)) {
                (Some(got), Some(wanted)) => assert_close(&key, got, wanted),
                (got, wanted) => assert_eq!(got.is_some(), wanted.is_some(), "{key}"),
            }
        }
    }
}

struct Given {
    x: Tensor,
    picture: Tensor,
    timesteps: Tensor,
    context: Tensor,
    y: Tensor,
}

fn given(b: usize, h: usize, w: usize) -> Given {
    Given {
        x: noise("x", &[b, 4, h, w]),
        picture: noise("hint", &[b, 3, 8 * h, 8 * w]),
        timesteps: Tensor::new(&[801.25f32, 17.0][..b], &Device::Cpu).unwrap(),
        context: noise("context", &[b, 7, 24]),
        y: noise("y", &[b, 20]),
    }
}

fn run(net: &ControlNet, given: &Given, union_types: &[usize], hooks: &mut dyn Hooks) -> Result<Control> {
    let hint = net.prepare_hint(&given.picture, union_types)?;
    let Given { x, timesteps, context, y, .. } = given;
    net.forward(&ControlInput { x, hint: &hint, timesteps, context, y: Some(y), union_types }, hooks)
}

#[test]
fn control_nets_answer_as_the_reference() {
    let golden = golden("controlnet.safetensors");
    for name in ["sd1", "xl"] {
        assert_control(name, &run(&control_net(name), &given(2, 6, 4), &[], &mut ()).unwrap(), &golden);
    }
}

#[test]
fn unions_are_told_what_they_look_at() {
    let golden = golden("controlnet.safetensors");
    let (net, given) = (control_net("union"), given(1, 2, 2));
    assert_control("union.tile", &run(&net, &given, &[5], &mut ()).unwrap(), &golden);
    assert_control("union.none", &run(&net, &given, &[], &mut ()).unwrap(), &golden);
    let error = run(&net, &given, &[6], &mut ()).unwrap_err().to_string();
    assert!(error.contains("number 6 (tile)"), "{error}");
    assert!(run(&net, &given, &[1, 2], &mut ()).is_err());
}

#[test]
fn one_picture_serves_a_whole_batch() {
    let net = control_net("sd1");
    let mut two = given(2, 6, 4);
    let one = two.picture.narrow(0, 0, 1).unwrap();
    two.picture = one.repeat((2, 1, 1, 1)).unwrap();
    let repeated = run(&net, &two, &[], &mut ()).unwrap();
    two.picture = one;
    let single = run(&net, &two, &[], &mut ()).unwrap();
    assert_close("last", single.middle[0].as_ref().unwrap(), repeated.middle[0].as_ref().unwrap());
}

struct Stop;

impl Hooks for Stop {
    fn check(&mut self) -> Result<()> {
        Err(Error::Interrupted)
    }
}

#[test]
fn control_nets_can_be_interrupted_and_tell_what_does_not_fit() {
    let net = control_net("sd1");
    assert!(matches!(run(&net, &given(2, 6, 4), &[], &mut Stop), Err(Error::Interrupted)));
    let mut other = given(2, 6, 4);
    other.picture = noise("hint", &[2, 3, 40, 32]);
    assert!(run(&net, &other, &[], &mut ()).unwrap_err().to_string().contains("4 x 5"));
    other.picture = noise("hint", &[2, 1, 48, 32]);
    assert!(run(&net, &other, &[], &mut ()).is_err());
}

#[test]
fn files_of_other_layouts_become_ldm_s() {
    let ldm = dict("sd1");
    let prefixed = ldm.with_prefix("", "control_model.");
    assert!(controlnet::canonical(&prefixed).unwrap().contains("zero_convs.0.0.weight"));
    assert!(controlnet::canonical(&dict("light")).is_none());
    assert!(ControlNetConfig::detect(&dict("light")).is_none());

    let shapes = [
        ("conv_in.weight", vec![32, 4, 3, 3]),
        ("down_blocks.0.resnets.0.conv1.weight", vec![32, 32, 3, 3]),
        ("down_blocks.0.resnets.0.conv2.weight", vec![32, 32, 3, 3]),
        ("controlnet_cond_embedding.conv_in.weight", vec![16, 3, 3, 3]),
        ("controlnet_cond_embedding.blocks.5.bias", vec![256]),
        ("controlnet_cond_embedding.conv_out.weight", vec![32, 256, 3, 3]),
        ("controlnet_down_blocks.3.weight", vec![32, 32, 1, 1]),
        ("controlnet_mid_block.bias", vec![32]),
        ("transformer_layes.0.attn.in_proj_weight", vec![96, 32]),
        ("task_embedding", vec![6, 32]),
    ];
    let diffusers = comfyd_weights::synthetic::from_shapes(shapes.map(|(name, shape)| (name.to_owned(), shape)), DType::F32);
    let converted = controlnet::canonical(&diffusers).unwrap();
    for name in [
        "input_blocks.0.0.weight",
        "input_blocks.1.0.in_layers.2.weight",
        "input_hint_block.0.weight",
        "input_hint_block.12.bias",
        "input_hint_block.14.weight",
        "zero_convs.3.0.weight",
        "middle_block_out.0.bias",
        "transformer_layes.0.attn.in_proj.weight",
        "task_embedding",
    ] {
        assert!(converted.contains(name), "{name}");
    }
}

#[test]
fn differences_are_added_to_their_base() {
    let scalar = |value: f32, dtype| Tensor::full(value, (2,), &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
    let (mut control, mut base) = (StateDict::default(), StateDict::default());
    control.insert("difference", Tensor::zeros((), DType::F32, &Device::Cpu).unwrap());
    control.insert("both", scalar(1.0, DType::F16));
    control.insert("own", scalar(1.0, DType::F32));
    base.insert("both", scalar(2.5, DType::F32));
    base.insert("other", scalar(2.5, DType::F32));
    assert!(controlnet::is_difference(&control));
    let sum = controlnet::add_base(&control, &base);
    let read = |name: &str| sum.get(name).unwrap().read().unwrap();
    assert_eq!(read("both").dtype(), DType::F16);
    assert_eq!(read("both").to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap(), [3.5, 3.5]);
    assert_eq!(read("own").to_vec1::<f32>().unwrap(), [1.0, 1.0]);
    assert!(!sum.contains("other"));
}

#[test]
fn adapters_answer_as_the_reference() {
    let golden = golden("controlnet.safetensors");
    for (name, h, w) in [("full", 40, 24), ("mean", 40, 24), ("adapter_xl", 64, 48), ("light", 40, 24)] {
        let config = T2iAdapterConfig::detect(&dict(name)).unwrap();
        let layout = layout("controlnet_layouts.json", name);
        let weights = Asked::new(layout.clone());
        let adapter = T2iAdapter::new(&config, &Vb::new(weights.clone())).unwrap();
        assert_eq!(*weights.names.lock().unwrap(), layout.into_keys().collect(), "{name}");
        let picture = noise("hint", &[1, config.picture_channels(), h, w]);
        assert_control(name, &adapter.forward(&picture, &mut || Ok(())).unwrap(), &golden);
        assert!(matches!(adapter.forward(&picture, &mut || Err(Error::Interrupted)), Err(Error::Interrupted)));
        assert!(adapter.forward(&noise("hint", &[1, config.picture_channels(), h + 1, w]), &mut || Ok(())).is_err());
    }
}

#[test]
fn adapters_with_diffusers_names() {
    let shapes = [
        ("adapter.conv_in.weight", vec![8, 64, 3, 3]),
        ("adapter.body.0.resnets.0.block1.weight", vec![8, 8, 3, 3]),
        ("adapter.body.1.in_conv.weight", vec![16, 8, 1, 1]),
        ("adapter.body.1.resnets.1.block2.bias", vec![16]),
    ];
    let diffusers = comfyd_weights::synthetic::from_shapes(shapes.map(|(name, shape)| (name.to_owned(), shape)), DType::F32);
    let names: Vec<String> = t2i_adapter::canonical(&diffusers).names().map(str::to_owned).collect();
    assert_eq!(names, ["conv_in.weight", "body.0.block1.weight", "body.2.in_conv.weight", "body.3.block2.bias"]);
}

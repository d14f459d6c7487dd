//! Tiny ControlNets and adapters against the reference's: `golden/make_controlnet_golden.py` made the results.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod unet_support;

use std::collections::HashMap;

use candle_core::{DType, Tensor};
use comfyd_models::backbone::Hooks;
use comfyd_models::controlnet::{ControlInput, ControlNet, ControlNetConfig};
use comfyd_models::residuals::Residuals;
use comfyd_models::t2i_adapter::{T2iAdapter, T2iAdapterConfig};
use comfyd_models::{Error, Result, Vb};
use comfyd_weights::StateDict;
use comfyd_weights::convert;
use comfyd_weights::detect::Heads;

use unet_support::{Asked, assert_close, golden, layout, noise};

fn dict(name: &str) -> StateDict {
    comfyd_weights::synthetic::from_shapes(layout("controlnet_layouts.json", name), DType::F32)
}

/// Detects, builds and checks that every tensor is used. Tiny heads cannot be told from a file.
fn control_net(name: &str) -> ControlNet {
    let Ok(convert::ControlFile::ControlNet(file)) = convert::control(&dict(name)) else { panic!("{name} is no ControlNet") };
    let mut config = ControlNetConfig::from(&*file);
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
fn assert_control(name: &str, got: &Residuals, golden: &HashMap<String, Tensor>) {
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
    timesteps: Vec<f32>,
    context: Tensor,
    y: Tensor,
}

fn given(b: usize, h: usize, w: usize) -> Given {
    Given {
        x: noise("x", &[b, 4, h, w]),
        picture: noise("hint", &[b, 3, 8 * h, 8 * w]),
        timesteps: [801.25, 17.0][..b].to_vec(),
        context: noise("context", &[b, 7, 24]),
        y: noise("y", &[b, 20]),
    }
}

fn run(net: &ControlNet, given: &Given, union_types: &[usize], hooks: &mut dyn Hooks) -> Result<Residuals> {
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

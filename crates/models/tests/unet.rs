//! Tiny UNets of every family against the reference's: `golden/make_unet_golden.py` made the results.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod unet_support;

use candle_core::{Device, Tensor};
use comfyd_models::backbone::{Backbone, BlockInfo, Hooks, Stage};
use comfyd_models::residuals::Residuals;
use comfyd_models::timestep::timestep_embedding;
use comfyd_models::unet::UNet;
use comfyd_models::{Error, Result, Vb};

use unet_support::{Asked, Inputs, assert_close, config, golden, noise, run, unet, unet_layout};

#[test]
fn time_steps_as_sinusoids() {
    let golden = golden("unet.safetensors");
    let embedding = |width| timestep_embedding(&[0.0, 1.0, 17.0, 801.25, 999.0], width, &Device::Cpu).unwrap();
    assert_close("even", &embedding(32), &golden["timestep.32"]);
    assert_close("odd", &embedding(7), &golden["timestep.7"]);
}

#[test]
fn every_family_predicts_as_the_reference() {
    let golden = golden("unet.safetensors");
    for name in ["sd1", "sd2", "xl", "refiner", "inpaint", "edit", "distilled", "headless"] {
        assert_close(name, &run(name, 2, 8, 4, &mut ()), &golden[&format!("{name}.even")]);
    }
}

#[test]
fn odd_sizes_grow_to_the_size_of_the_skip() {
    let golden = golden("unet.safetensors");
    for name in ["sd1", "refiner"] {
        assert_close(name, &run(name, 1, 7, 5, &mut ()), &golden[&format!("{name}.odd")]);
    }
}

#[test]
fn every_tensor_of_a_checkpoint_is_used() {
    for name in ["sd1", "xl", "refiner"] {
        let weights = Asked::new(unet_layout(name));
        UNet::new(&config(name), &Vb::new(weights.clone())).unwrap();
        let asked = weights.names.lock().unwrap().clone();
        let there = unet_layout(name).into_keys().collect();
        assert_eq!(asked, there, "{name}");
    }
}

#[test]
fn control_goes_to_its_place() {
    let golden = golden("unet.safetensors");
    let shapes = [[2, 32, 8, 4], [2, 32, 8, 4], [2, 32, 4, 2], [2, 64, 4, 2]];
    let all = Residuals {
        input: (0..4).map(|i| (i != 1).then(|| noise(&format!("control.input.{i}"), &shapes[3 - i]))).collect(),
        middle: vec![Some(noise("control.middle.0", &[2, 64, 4, 2]))],
        output: (0..4).map(|i| (i != 2).then(|| noise(&format!("control.output.{i}"), &shapes[i]))).collect(),
    };
    let inputs = Inputs::new("sd1", 2, 8, 4);
    let (unet, mut input) = (unet("sd1"), inputs.input());
    input.residuals = Some(&all);
    assert_close("all", &unet.forward(&input, &mut ()).unwrap(), &golden["control.all"]);
    let short = Residuals { input: vec![Some(noise("control.short", &[1, 32, 8, 4]))], ..Residuals::default() };
    input.residuals = Some(&short);
    assert_close("short", &unet.forward(&input, &mut ()).unwrap(), &golden["control.short"]);
}

/// Notes what a pass calls; stops it when told.
#[derive(Default)]
struct Notes {
    checks: usize,
    stop_at: Option<usize>,
    blocks: Vec<(Stage, usize)>,
    transformers: Vec<usize>,
    skipped: usize,
}

impl Hooks for Notes {
    fn check(&mut self) -> Result<()> {
        self.checks += 1;
        if self.stop_at == Some(self.checks) { Err(Error::Interrupted) } else { Ok(()) }
    }

    fn input_block(&mut self, h: Tensor, at: &BlockInfo<'_>) -> Result<Tensor> {
        self.blocks.push((at.stage, at.index));
        Ok(h)
    }

    fn output_block(&mut self, h: Tensor, skip: Tensor, at: &BlockInfo<'_>) -> Result<(Tensor, Tensor)> {
        self.blocks.push((at.stage, at.index));
        Ok((h, skip))
    }

    fn attn2_output(&mut self, out: Tensor, at: &BlockInfo<'_>) -> Result<Tensor> {
        assert_eq!((at.heads, at.head_dim, at.latent), (8, out.dim(2)? / 8, [2, 4, 8, 4]));
        self.transformers.push(at.transformer_index);
        Ok(out)
    }

    fn control_skipped(&mut self, activations: &[usize], control: &[usize]) {
        assert_eq!((activations, control), (&[2, 32, 8, 4][..], &[2, 32, 4, 4][..]));
        self.skipped += 1;
    }
}

#[test]
fn hooks_see_every_block_and_can_stop_the_pass() {
    let mut notes = Notes::default();
    run("sd1", 2, 8, 4, &mut notes);
    let of = |part, n| (0..n).map(move |i| (part, i));
    assert_eq!(notes.blocks, of(Stage::Input, 4).chain(of(Stage::Output, 4)).collect::<Vec<_>>());
    assert_eq!(notes.transformers, (0..7).collect::<Vec<_>>());
    // 8 residual blocks, 7 transformer blocks, and once before the end.
    assert_eq!(notes.checks, 16);

    let mut stopping = Notes { stop_at: Some(5), ..Notes::default() };
    let error = unet("sd1").forward(&Inputs::new("sd1", 2, 8, 4).input(), &mut stopping).unwrap_err();
    assert!(matches!(error, Error::Interrupted));
    assert_eq!(stopping.checks, 5);
}

#[test]
fn control_that_does_not_fit_is_left_out_and_reported() {
    let golden = golden("unet.safetensors");
    let control = Residuals { input: vec![Some(noise("any", &[2, 32, 4, 4]))], ..Residuals::default() };
    let inputs = Inputs::new("sd1", 2, 8, 4);
    let mut input = inputs.input();
    input.residuals = Some(&control);
    let mut notes = Notes::default();
    assert_close("out", &unet("sd1").forward(&input, &mut notes).unwrap(), &golden["sd1.even"]);
    assert_eq!(notes.skipped, 1);
}

#[test]
fn control_is_scaled_averaged_and_merged() {
    let one = |value: f32| Some(Tensor::full(value, (1, 1, 1, 2), &Device::Cpu).unwrap());
    let first = |tensor: &Option<Tensor>| tensor.as_ref().map(|t| t.flatten_all().unwrap().to_vec1::<f32>().unwrap()[0]);
    let list = |tensors: &[Option<Tensor>]| tensors.iter().map(first).collect::<Vec<_>>();
    let control = Residuals { input: vec![one(1.0), None, one(3.0)], ..Residuals::default() };
    assert_eq!(list(&control.scaled(2.0).unwrap().input), [Some(2.0), None, Some(6.0)]);
    let previous = Residuals { input: vec![one(10.0), one(20.0), None, one(40.0)], middle: vec![one(5.0)], output: vec![] };
    let merged = control.merged(&previous).unwrap();
    assert_eq!(list(&merged.input), [Some(11.0), Some(20.0), Some(3.0), Some(40.0)]);
    assert_eq!(list(&merged.middle), [Some(5.0)]);
    let uneven = Residuals { middle: vec![Some(Tensor::new(&[[[[1f32, 3.0]]]], &Device::Cpu).unwrap())], ..Residuals::default() };
    let averaged = uneven.averaged().unwrap().middle[0].clone().unwrap();
    assert_eq!(averaged.flatten_all().unwrap().to_vec1::<f32>().unwrap(), [2.0, 2.0]);
}

#[test]
fn wrong_inputs_and_files_are_told_in_words() {
    let unet = unet("xl");
    let inputs = Inputs::new("xl", 2, 8, 4);
    let other = noise("x", &[2, 9, 8, 4]);
    let mut input = inputs.input();
    input.x = &other;
    assert!(unet.forward(&input, &mut ()).unwrap_err().to_string().contains("4 channels, these have 9"));
    let context = noise("context", &[2, 7, 20]);
    let mut input = inputs.input();
    input.context = &context;
    assert!(unet.forward(&input, &mut ()).unwrap_err().to_string().contains("width 24, this has 20"));
    let mut input = inputs.input();
    input.y = None;
    assert!(unet.forward(&input, &mut ()).unwrap_err().to_string().contains("vector conditioning"));

    let mut layout = unet_layout("sd1");
    layout.remove("middle_block.2.out_layers.3.bias");
    let error = UNet::new(&config("sd1"), &Vb::new(Asked::new(layout))).unwrap_err();
    assert!(matches!(error, Error::Missing(name) if name == "middle_block.2.out_layers.3.bias"));
    let error = UNet::new(&config("sd2"), &Vb::new(Asked::new(unet_layout("sd1")))).unwrap_err();
    assert!(matches!(error, Error::Shape { .. }), "{error}");
}

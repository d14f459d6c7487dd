//! What the tests of denoisers share: tiny configurations, weights and inputs that follow the rule of
//! `conformance/diffusion/make_checkpoint.py`, and golden tensors.
#![allow(missing_docs, dead_code, clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Tensor};
use comfyd_kernels::Level;
use comfyd_models::backbone::{Backbone, Hooks, Pass};
use comfyd_models::unet::UNet;
use comfyd_models::{Provider, Result, Vb};
use comfyd_weights::detect::{Heads, UNetConfig};
use comfyd_weights::{StateDict, Weight, synthetic};

/// Uniform numbers of about unit variance, as `noise` in the scripts.
pub fn noise(name: &str, shape: &[usize]) -> Tensor {
    let count: usize = shape.iter().product();
    // A matrix of three columns has the amplitude sqrt(3 / 3) = 1.
    let unit = synthetic::tensor(name, &[count.div_ceil(3), 3]).unwrap().flatten_all().unwrap().narrow(0, 0, count).unwrap();
    (unit * 1.7320508).unwrap().reshape(shape).unwrap()
}

/// The tensors of a golden file.
pub fn golden(file: &str) -> HashMap<String, Tensor> {
    let path = format!("{}/tests/golden/{file}", env!("CARGO_MANIFEST_DIR"));
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

/// The layout of that name in a golden file of layouts.
pub fn layout(file: &str, name: &str) -> HashMap<String, Vec<usize>> {
    let path = format!("{}/tests/golden/{file}", env!("CARGO_MANIFEST_DIR"));
    let mut all: HashMap<String, HashMap<String, Vec<usize>>> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    all.remove(name).unwrap()
}

/// Compares with the root of the mean square as the unit. Products that are close to single precision leave results close to those of it.
#[track_caller]
pub fn assert_close(name: &str, got: &Tensor, wanted: &Tensor) {
    assert_close_within(name, got, wanted, if Level::best().is_close() { 1e-4 } else { 1e-5 });
}

#[track_caller]
pub fn assert_close_within(name: &str, got: &Tensor, wanted: &Tensor, tolerance: f64) {
    assert_eq!(got.dims(), wanted.dims(), "{name}");
    let error = relative_error(got, wanted);
    assert!(error < tolerance, "{name}: relative error {error:e}");
}

pub fn relative_error(got: &Tensor, wanted: &Tensor) -> f64 {
    let values = |t: &Tensor| t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
    let (got, wanted) = (values(got), values(wanted));
    let square: f64 = wanted.iter().map(|w| w * w).sum();
    let difference: f64 = got.iter().zip(&wanted).map(|(g, w)| (g - w) * (g - w)).sum();
    (difference / square).sqrt()
}

/// Weights by rule, and which of them were asked for.
pub struct Asked {
    dict: StateDict,
    pub names: Mutex<BTreeSet<String>>,
}

impl Asked {
    pub fn new(layout: impl IntoIterator<Item = (String, Vec<usize>)>) -> Arc<Self> {
        Arc::new(Self { dict: synthetic::from_shapes(layout, DType::F32), names: Mutex::default() })
    }
}

impl Provider for Asked {
    fn weight(&self, name: &str) -> Result<Option<Weight>> {
        let weight = Provider::weight(&self.dict, name)?;
        if weight.is_some() {
            self.names.lock().unwrap().insert(name.to_owned());
        }
        Ok(weight)
    }
}

pub fn config(name: &str) -> UNetConfig {
    let sd1 = UNetConfig {
        in_channels: 4,
        out_channels: 4,
        model_channels: 32,
        num_res_blocks: vec![1, 1],
        channel_mult: vec![1, 2],
        transformer_depth: vec![1, 1],
        transformer_depth_output: vec![1, 1, 1, 1],
        transformer_depth_middle: Some(1),
        middle_block: true,
        context_dim: 24,
        use_linear_in_transformer: false,
        adm_in_channels: None,
        heads: Heads::Count(8),
    };
    let xl = UNetConfig {
        num_res_blocks: vec![1, 2],
        transformer_depth: vec![0, 2, 2],
        transformer_depth_output: vec![0, 0, 2, 1, 2],
        transformer_depth_middle: Some(2),
        use_linear_in_transformer: true,
        adm_in_channels: Some(20),
        heads: Heads::Channels(16),
        ..sd1.clone()
    };
    match name {
        "sd1" => sd1,
        "sd2" => UNetConfig { use_linear_in_transformer: true, heads: Heads::Channels(16), ..sd1 },
        "xl" => xl,
        "refiner" => UNetConfig {
            num_res_blocks: vec![1, 1, 1],
            channel_mult: vec![1, 2, 2],
            transformer_depth: vec![0, 1, 0],
            transformer_depth_output: vec![0, 0, 1, 1, 0, 0],
            transformer_depth_middle: Some(1),
            ..xl
        },
        "inpaint" => UNetConfig { in_channels: 9, ..sd1 },
        "edit" => UNetConfig { in_channels: 8, ..sd1 },
        "distilled" => UNetConfig { transformer_depth_middle: None, ..sd1 },
        "headless" => UNetConfig { transformer_depth_middle: None, middle_block: false, ..sd1 },
        _ => panic!("no configuration {name}"),
    }
}

/// The names and shapes of that tiny UNet's weights.
pub fn unet_layout(name: &str) -> HashMap<String, Vec<usize>> {
    let file = "unet_layouts.json";
    let channels = config(name).in_channels;
    let mut layout = layout(file, if matches!(name, "xl" | "refiner") { name } else { "sd1" });
    layout.get_mut("input_blocks.0.0.weight").unwrap()[1] = channels;
    if name == "sd2" {
        for (name, shape) in &mut layout {
            if name.ends_with("proj_in.weight") || name.ends_with("proj_out.weight") {
                shape.truncate(2);
            }
        }
    }
    layout
}

pub fn unet(name: &str) -> UNet {
    UNet::new(&config(name), &Vb::new(Asked::new(unet_layout(name)))).unwrap()
}

/// The inputs of the script's function of this name.
pub struct Inputs {
    pub x: Tensor,
    pub timesteps: Vec<f32>,
    pub context: Tensor,
    pub y: Option<Tensor>,
    pub sigmas: Vec<f64>,
    pub cond_or_uncond: Vec<usize>,
}

impl Inputs {
    pub fn new(name: &str, b: usize, h: usize, w: usize) -> Self {
        let config = config(name);
        Self {
            x: noise("x", &[b, config.in_channels, h, w]),
            timesteps: [801.25, 17.0, 999.0][..b].to_vec(),
            context: noise("context", &[b, 7, config.context_dim]),
            y: config.adm_in_channels.map(|width| noise("y", &[b, width])),
            sigmas: vec![9.0],
            cond_or_uncond: vec![1, 0],
        }
    }

    pub fn input(&self) -> Pass<'_> {
        Pass {
            x: &self.x,
            timesteps: &self.timesteps,
            context: &self.context,
            y: self.y.as_ref(),
            residuals: None,
            sigmas: &self.sigmas,
            cond_or_uncond: &self.cond_or_uncond,
        }
    }
}

/// One pass of a tiny UNet.
pub fn run(name: &str, b: usize, h: usize, w: usize, hooks: &mut dyn Hooks) -> Tensor {
    unet(name).forward(&Inputs::new(name, b, h, w).input(), hooks).unwrap()
}

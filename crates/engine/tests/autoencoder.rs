//! Autoencoders as VAELoader gets them.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use candle_core::DType;
use comfyd_engine::{Engine, EngineOptions, SD_LATENTS, SDXL_LATENTS};
use comfyd_kernels::random::Generator;
use comfyd_node::{CancellationToken, Context, Hidden, SilentReporter};
use comfyd_samplers::noise;
use comfyd_weights::{StateDict, synthetic, write};

/// The steps of TAESD that have weights: number in the file, channels in and out, whether it is a block of three convolutions.
type Steps = &'static [(usize, usize, usize, bool)];

const DECODER: Steps = &[
    (1, 4, 64, false),
    (3, 64, 64, true),
    (4, 64, 64, true),
    (5, 64, 64, true),
    (7, 64, 64, false),
    (8, 64, 64, true),
    (9, 64, 64, true),
    (10, 64, 64, true),
    (12, 64, 64, false),
    (13, 64, 64, true),
    (14, 64, 64, true),
    (15, 64, 64, true),
    (17, 64, 64, false),
    (18, 64, 64, true),
    (19, 64, 3, false),
];

const ENCODER: Steps = &[
    (0, 3, 64, false),
    (1, 64, 64, true),
    (2, 64, 64, false),
    (3, 64, 64, true),
    (4, 64, 64, true),
    (5, 64, 64, true),
    (6, 64, 64, false),
    (7, 64, 64, true),
    (8, 64, 64, true),
    (9, 64, 64, true),
    (10, 64, 64, false),
    (11, 64, 64, true),
    (12, 64, 64, true),
    (13, 64, 64, true),
    (14, 64, 4, false),
];

fn tiny(steps: Steps) -> StateDict {
    let mut shapes = Vec::new();
    for &(number, input, output, block) in steps {
        let names = if block { [0, 2, 4].map(|conv| format!("{number}.conv.{conv}")).to_vec() } else { vec![number.to_string()] };
        for name in names {
            shapes.push((format!("{name}.weight"), vec![output, input, 3, 3]));
            // Those that shrink or grow have none.
            if block || input != 64 || output != 64 {
                shapes.push((format!("{name}.bias"), vec![output]));
            }
        }
    }
    synthetic::from_shapes(shapes, DType::F32)
}

/// Files of a tiny autoencoder do not tell the scale of the latents on links; its name in the widget does.
#[test]
fn tiny_autoencoders_know_the_scale_of_latents_on_links() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str, steps| {
        let path = dir.path().join(name);
        write::write(&path, &tiny(steps), &write::Options::default()).unwrap();
        path
    };
    let (encoder, decoder) = (path("encoder.safetensors", ENCODER), path("decoder.safetensors", DECODER));
    let (hidden, cancel) = (Hidden::default(), CancellationToken::default());
    let cx = Context::new("1", &hidden, &cancel, &SilentReporter, 0);

    let pictures = |device, format, scale: f64| {
        let engine = Engine::new(EngineOptions { device, ..EngineOptions::default() }).unwrap();
        let vae = engine.load_taesd(format, &encoder, &decoder).unwrap();
        let latent = (noise::latent(3, &[1, 4, 4, 6], None).unwrap() / scale).unwrap();
        let decoded = vae.decode(&cx, &latent).unwrap();
        assert_eq!(decoded.dims(), [1, 32, 48, 3]);
        let pixels = comfyd_engine::tensor(&[1, 32, 48, 3], Generator::new(4).rand(32 * 48 * 3)).unwrap();
        let encoded = (vae.encode(&cx, &pixels).unwrap() * scale).unwrap();
        (decoded.flatten_all().unwrap().to_vec1::<f32>().unwrap(), encoded.flatten_all().unwrap().to_vec1::<f32>().unwrap())
    };
    let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4);
    for device in comfyd_engine::devices() {
        // The model's own latents are the same for both, once each is told its scale.
        let (sd15, sdxl) = (pictures(device, &SD_LATENTS, 0.18215), pictures(device, &SDXL_LATENTS, 0.13025));
        assert!(close(&sd15.0, &sdxl.0) && close(&sd15.1, &sdxl.1));
        // And a wrong scale shows.
        let wrong = pictures(device, &SD_LATENTS, 0.13025);
        assert!(!close(&sd15.0, &wrong.0) && !close(&sd15.1, &wrong.1));
    }
}

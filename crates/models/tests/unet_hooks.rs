//! The model patches of a UNet against the reference's nodes: `golden/make_unet_golden.py` made the results.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod unet_support;

use std::sync::{Arc, Mutex};

use candle_core::{D, Tensor};
use comfyd_imaging::resize::Method;
use comfyd_kernels::random::Generator;
use comfyd_models::Result;
use comfyd_models::backbone::{Backbone, BlockInfo, HookList, Hooks, Stage};
use comfyd_models::unet::hooks::{AttentionScores, Downscale, FreeU, FreeUVersion, HyperTile, PerturbedAttention, TokenMerging};

use unet_support::{Inputs, assert_close, golden, noise, run, unet};

/// FreeU as on a UNet whose first level has half the channels that the tiny one has, as in the script.
struct OnNarrower(FreeU);

impl Hooks for OnNarrower {
    fn output_block(&mut self, h: Tensor, skip: Tensor, at: &BlockInfo<'_>) -> Result<(Tensor, Tensor)> {
        self.0.output_block(h, skip, &BlockInfo { model_channels: 16, ..*at })
    }
}

fn free_u(version: FreeUVersion) -> OnNarrower {
    OnNarrower(FreeU { version, deep: (1.3, 0.9), shallow: (1.4, 0.2) })
}

fn at() -> BlockInfo<'static> {
    BlockInfo {
        stage: Stage::Output,
        index: 0,
        transformer: 0,
        transformer_index: 0,
        heads: 0,
        head_dim: 0,
        model_channels: 32,
        latent: [2, 4, 8, 8],
        sigmas: &[],
        cond_or_uncond: &[],
    }
}

fn random(seed: u64) -> Arc<Mutex<Generator>> {
    Arc::new(Mutex::new(Generator::new(seed)))
}

#[test]
fn free_u_amplifies_features_and_damps_skips() {
    let golden = golden("unet.safetensors");
    for (name, version) in [("FreeU", FreeUVersion::V1), ("FreeU_V2", FreeUVersion::V2)] {
        for (h, w) in [(6, 4), (5, 3)] {
            for channels in [64, 32] {
                let shape = [2, channels, h, w];
                let (a, b) = free_u(version).output_block(noise("h", &shape), noise("skip", &shape), &at()).unwrap();
                let key = format!("{name}.{h}x{w}.{channels}");
                assert_close(&key, &a, &golden[&format!("{key}.h")]);
                assert_close(&key, &b, &golden[&format!("{key}.skip")]);
            }
        }
    }
    assert_close("unet", &run("sd1", 2, 8, 4, &mut free_u(FreeUVersion::V1)), &golden["FreeU.unet"]);
}

#[test]
fn hyper_tile_draws_its_grids_as_the_reference() {
    let golden = golden("unet.safetensors");
    for (depth, scale) in [(0, false), (1, true)] {
        let mut tiles = HyperTile::new(4, 3, depth, scale, random(11));
        assert_close("tiles", &run("sd1", 1, 16, 24, &mut tiles), &golden[&format!("HyperTile.{depth}")]);
    }
}

#[test]
fn token_merging_merges_the_reference_s_tokens() {
    let golden = golden("unet.safetensors");
    assert_close("even", &run("sd1", 2, 8, 6, &mut TokenMerging::new(0.5, random(12))), &golden["ToMe.even"]);
    assert_close("odd", &run("sd1", 1, 7, 5, &mut TokenMerging::new(0.5, random(13))), &golden["ToMe.odd"]);
    // Nothing to merge, and everything.
    assert_close("none", &run("sd1", 2, 8, 4, &mut TokenMerging::new(0.0, random(1))), &golden["sd1.even"]);
    run("sd1", 2, 8, 4, &mut TokenMerging::new(1.0, random(1)));
}

#[test]
fn deep_shrink_resizes_at_its_block_and_noise_levels() {
    let golden = golden("unet.safetensors");
    let shrink = |method: &str| {
        let method: Method = method.parse().unwrap();
        Downscale { block: 1, factor: 2.0, sigma_start: 10.0, sigma_end: 6.5, after_skip: true, shrink: method, grow: method }
    };
    for method in ["bicubic", "nearest-exact", "bilinear", "area", "bislerp"] {
        assert_close(method, &run("sd1", 1, 8, 12, &mut shrink(method)), &golden[&format!("Downscale.{method}")]);
    }
    let mut before = Downscale { factor: 1.7, after_skip: false, grow: Method::Bicubic, ..shrink("bilinear") };
    assert_close("before", &run("sd1", 1, 8, 12, &mut before), &golden["Downscale.before"]);
    let mut inputs = Inputs::new("sd1", 1, 8, 12);
    inputs.sigmas = vec![6.0];
    assert_close("late", &unet("sd1").forward(&inputs.input(), &mut before).unwrap(), &golden["Downscale.late"]);
}

#[test]
fn scores_of_the_unconditional_chunk_are_kept() {
    let golden = golden("unet.safetensors");
    let mut scores = AttentionScores::new();
    let mut inputs = Inputs::new("sd1", 2, 8, 4);
    inputs.cond_or_uncond = vec![0, 1];
    assert_close("unet", &unet("sd1").forward(&inputs.input(), &mut scores).unwrap(), &golden["SAG.unet"]);
    let kept = scores.scores().unwrap();
    assert_close("scores", &kept, &golden["SAG.scores"]);
    assert!((kept.sum(D::Minus1).unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap() - 1.0).abs() < 1e-5);

    let mut conditional = AttentionScores::new();
    inputs.cond_or_uncond = vec![0];
    unet("sd1").forward(&inputs.input(), &mut conditional).unwrap();
    assert!(conditional.scores().is_none());
}

#[test]
fn perturbed_attention_passes_values_through() {
    let golden = golden("unet.safetensors");
    assert_close("unet", &run("sd1", 2, 8, 4, &mut PerturbedAttention), &golden["PAG.unet"]);
    // The last of two replacements wins.
    let mut both = HookList::default();
    both.push(AttentionScores::new());
    both.push(PerturbedAttention);
    assert_close("both", &run("sd1", 2, 8, 4, &mut both), &golden["PAG.unet"]);
}

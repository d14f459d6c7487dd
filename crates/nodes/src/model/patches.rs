//! Changes inside the denoiser.

use comfyd_engine::patches::{Hooked, Sampling};
use comfyd_engine::{Clip, Model};
use comfyd_models::unet::hooks::{Downscale, FreeU, FreeUVersion, HyperTile, TokenMerging};
use comfyd_node::{Error, Input, NodeOutput, Result, Schema, Value};

use crate::class::{Call, Class};

/// The smallest side of HyperTile's tiles, in pixels.
const MIN_TILE: usize = 32;

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("FreeU")
                .no_display()
                .category("model/patch/unet")
                .module("comfy_extras.nodes_freelunch")
                .schema_generation()
                .description("Strengthens the backbone and weakens the low frequencies of skip connections in the decoder (FreeU).")
                .input(Input::link("model", "MODEL"))
                .input(
                    Input::float("b1")
                        .default(1.1)
                        .min(0.0)
                        .max(10.0)
                        .step(0.01)
                        .tooltip("Factor of the backbone at the lowest level.")
                        .advanced(),
                )
                .input(
                    Input::float("b2")
                        .default(1.2)
                        .min(0.0)
                        .max(10.0)
                        .step(0.01)
                        .tooltip("Factor of the backbone one level above.")
                        .advanced(),
                )
                .input(
                    Input::float("s1")
                        .default(0.9)
                        .min(0.0)
                        .max(10.0)
                        .step(0.01)
                        .tooltip("Factor of the low frequencies of the skip connection at the lowest level.")
                        .advanced(),
                )
                .input(
                    Input::float("s2")
                        .default(0.2)
                        .min(0.0)
                        .max(10.0)
                        .step(0.01)
                        .tooltip("Factor of the low frequencies of the skip connection one level above.")
                        .advanced(),
                )
                .output("MODEL")
        },
        |call| freeu(call, FreeUVersion::V1),
    ),
    Class::new(
        || {
            Schema::new("FreeU_V2")
                .no_display()
                .category("model/patch/unet")
                .module("comfy_extras.nodes_freelunch")
                .schema_generation()
                .description("FreeU in its second version, which strengthens where the features are strong.")
                .input(Input::link("model", "MODEL"))
                .input(
                    Input::float("b1")
                        .default(1.3)
                        .min(0.0)
                        .max(10.0)
                        .step(0.01)
                        .tooltip("Factor of the backbone at the lowest level.")
                        .advanced(),
                )
                .input(
                    Input::float("b2")
                        .default(1.4)
                        .min(0.0)
                        .max(10.0)
                        .step(0.01)
                        .tooltip("Factor of the backbone one level above.")
                        .advanced(),
                )
                .input(
                    Input::float("s1")
                        .default(0.9)
                        .min(0.0)
                        .max(10.0)
                        .step(0.01)
                        .tooltip("Factor of the low frequencies of the skip connection at the lowest level.")
                        .advanced(),
                )
                .input(
                    Input::float("s2")
                        .default(0.2)
                        .min(0.0)
                        .max(10.0)
                        .step(0.01)
                        .tooltip("Factor of the low frequencies of the skip connection one level above.")
                        .advanced(),
                )
                .output("MODEL")
        },
        |call| freeu(call, FreeUVersion::V2),
    ),
    Class::new(
        || {
            Schema::new("HyperTile")
                .no_display()
                .category("model/patch/unet")
                .module("comfy_extras.nodes_hypertile")
                .schema_generation()
                .description("Runs self-attention on tiles, which is faster for large pictures.")
                .input(Input::link("model", "MODEL").tooltip("The diffusion model."))
                .input(Input::int("tile_size").default(256).min(1).max(2048).tooltip("Side of a tile in pixels, at least.").advanced())
                .input(Input::int("swap_size").default(2).min(1).max(128).tooltip("How many divisions are tried in turn.").advanced())
                .input(Input::int("max_depth").default(0).min(0).max(10).tooltip("The lowest level that is tiled.").advanced())
                .input(Input::bool("scale_depth").default(false).tooltip("Makes tiles larger on lower levels.").advanced())
                .output("MODEL")
        },
        hyper_tile,
    ),
    Class::new(
        || {
            Schema::new("PatchModelAddDownscale")
                .display("PatchModelAddDownscale (Kohya Deep Shrink)")
                .category("model/patch/unet")
                .module("comfy_extras.nodes_model_downscale")
                .schema_generation()
                .description(
                    "Runs the inner blocks at a smaller size in the first part of the sampling, against doubled motifs in large pictures.",
                )
                .input(Input::link("model", "MODEL").tooltip("The diffusion model."))
                .input(
                    Input::int("block_number")
                        .default(3)
                        .min(1)
                        .max(32)
                        .step(1)
                        .tooltip("The block after which the size is reduced.")
                        .advanced(),
                )
                .input(
                    Input::float("downscale_factor").default(2.0).min(0.1).max(9.0).step(0.001).tooltip("By how much the size is reduced."),
                )
                .input(
                    Input::float("start_percent")
                        .default(0.0)
                        .min(0.0)
                        .max(1.0)
                        .step(0.001)
                        .tooltip("The part of the sampling after which it begins.")
                        .advanced(),
                )
                .input(
                    Input::float("end_percent")
                        .default(0.35)
                        .min(0.0)
                        .max(1.0)
                        .step(0.001)
                        .tooltip("The part of the sampling after which it ends.")
                        .advanced(),
                )
                .input(Input::bool("downscale_after_skip").default(true).tooltip("Reduces after the skip connection was taken.").advanced())
                .input(
                    Input::combo("downscale_method", ["bicubic", "nearest-exact", "bilinear", "area", "bislerp"])
                        .tooltip("How it is reduced."),
                )
                .input(
                    Input::combo("upscale_method", ["bicubic", "nearest-exact", "bilinear", "area", "bislerp"])
                        .tooltip("How latents are enlarged."),
                )
                .output("MODEL")
        },
        downscale,
    ),
    Class::new(
        || {
            Schema::new("TomePatchModel")
                .no_display()
                .category("model/patch/unet")
                .module("comfy_extras.nodes_tomesd")
                .schema_generation()
                .description("Merges similar tokens before self-attention, which is faster (token merging).")
                .input(Input::link("model", "MODEL").tooltip("The diffusion model."))
                .input(Input::float("ratio").default(0.3).min(0.0).max(1.0).step(0.01).tooltip("The share of tokens that is merged."))
                .output("MODEL")
        },
        |call| {
            let ratio = call.float("ratio")?;
            call.patched(Hooked(move |sampling: &Sampling<'_>| TokenMerging::new(ratio, sampling.random())))
        },
    ),
    Class::new(
        || {
            Schema::new("UNetSelfAttentionMultiply")
                .no_display()
                .category("experimental/attention_experiments")
                .module("comfy_extras.nodes_attention_multiply")
                .schema_generation()
                .experimental()
                .description("Multiplies the weights of self-attention.")
                .input(Input::link("model", "MODEL").tooltip("The diffusion model."))
                .input(Input::float("q").default(1.0).min(0.0).max(10.0).step(0.01).tooltip("Factor of the queries.").advanced())
                .input(Input::float("k").default(1.0).min(0.0).max(10.0).step(0.01).tooltip("Factor of the keys.").advanced())
                .input(Input::float("v").default(1.0).min(0.0).max(10.0).step(0.01).tooltip("Factor of the values.").advanced())
                .input(Input::float("out").default(1.0).min(0.0).max(10.0).step(0.01).tooltip("Factor of the result.").advanced())
                .output("MODEL")
        },
        |call| attention_multiply(call, "attn1"),
    ),
    Class::new(
        || {
            Schema::new("UNetCrossAttentionMultiply")
                .no_display()
                .category("experimental/attention_experiments")
                .module("comfy_extras.nodes_attention_multiply")
                .schema_generation()
                .experimental()
                .description("Multiplies the weights of cross-attention.")
                .input(Input::link("model", "MODEL").tooltip("The diffusion model."))
                .input(Input::float("q").default(1.0).min(0.0).max(10.0).step(0.01).tooltip("Factor of the queries.").advanced())
                .input(Input::float("k").default(1.0).min(0.0).max(10.0).step(0.01).tooltip("Factor of the keys.").advanced())
                .input(Input::float("v").default(1.0).min(0.0).max(10.0).step(0.01).tooltip("Factor of the values.").advanced())
                .input(Input::float("out").default(1.0).min(0.0).max(10.0).step(0.01).tooltip("Factor of the result.").advanced())
                .output("MODEL")
        },
        |call| attention_multiply(call, "attn2"),
    ),
    Class::new(
        || {
            Schema::new("CLIPAttentionMultiply")
                .no_display()
                .category("experimental/attention_experiments")
                .module("comfy_extras.nodes_attention_multiply")
                .schema_generation()
                .experimental()
                .description("Multiplies the attention weights of a text encoder.")
                .aliases(["experiment with attention"])
                .input(Input::link("clip", "CLIP").tooltip("The text encoder."))
                .input(Input::float("q").default(1.0).min(0.0).max(10.0).step(0.01).tooltip("Factor of the queries.").advanced())
                .input(Input::float("k").default(1.0).min(0.0).max(10.0).step(0.01).tooltip("Factor of the keys.").advanced())
                .input(Input::float("v").default(1.0).min(0.0).max(10.0).step(0.01).tooltip("Factor of the values.").advanced())
                .input(Input::float("out").default(1.0).min(0.0).max(10.0).step(0.01).tooltip("Factor of the result.").advanced())
                .output("CLIP")
        },
        clip_attention_multiply,
    ),
    Class::new(
        || {
            let factor = |name: &str| {
                Input::float(name).default(1.0).min(0.0).max(10.0).step(0.01).tooltip("A factor of what attention gives.").advanced()
            };
            Schema::new("UNetTemporalAttentionMultiply")
                .no_display()
                .category("experimental/attention_experiments")
                .module("comfy_extras.nodes_attention_multiply")
                .schema_generation()
                .experimental()
                .description("Multiplies the results of attention. Models for pictures have only the structural kind.")
                .input(Input::link("model", "MODEL").tooltip("The diffusion model."))
                .input(factor("self_structural"))
                .input(factor("self_temporal"))
                .input(factor("cross_structural"))
                .input(factor("cross_temporal"))
                .output("MODEL")
        },
        temporal_attention_multiply,
    ),
];

fn freeu(call: &Call<'_, '_>, version: FreeUVersion) -> Result<NodeOutput> {
    let [b1, b2, s1, s2] = floats(call, ["b1", "b2", "s1", "s2"])?;
    call.patched(Hooked(move |_: &Sampling<'_>| FreeU { version, deep: (b1, s1), shallow: (b2, s2) }))
}

fn hyper_tile(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (tile_size, swap_size) = (call.count("tile_size", 1)?.max(MIN_TILE), call.count("swap_size", 1)?);
    let (max_depth, scale_depth) = (call.int("max_depth")?, call.bool("scale_depth")?);
    call.patched(Hooked(move |sampling: &Sampling<'_>| {
        HyperTile::new(tile_size / sampling.latents.factor, swap_size, max_depth, scale_depth, sampling.random())
    }))
}

fn downscale(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let factor = call.float("downscale_factor")?;
    if factor <= 0.0 {
        return Err(Error::msg(format!("input 'downscale_factor' is {factor}; take a number above 0")));
    }
    let (block, after_skip) = (call.int("block_number")?, call.bool("downscale_after_skip")?);
    let (start, end) = (call.float("start_percent")?, call.float("end_percent")?);
    let (shrink, grow) = (call.method("downscale_method")?, call.method("upscale_method")?);
    call.patched(Hooked(move |sampling: &Sampling<'_>| {
        let (sigma_start, sigma_end) = (sampling.schedule.percent_to_sigma(start), sampling.schedule.percent_to_sigma(end));
        Downscale { block, factor, sigma_start, sigma_end, after_skip, shrink, grow }
    }))
}

/// Multiplies the projections of the UNet's attention layers of this name.
fn attention_multiply(call: &Call<'_, '_>, layer: &str) -> Result<NodeOutput> {
    let names = ["to_q", "to_k", "to_v", "to_out.0"].map(|projection| format!("{layer}.{projection}"));
    let factors = floats(call, ["q", "k", "v", "out"])?;
    Ok(NodeOutput::one(Value::object(call.object::<Model>("model")?.multiplied(|name| factor_of(name, &names, factors)))))
}

fn temporal_attention_multiply(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let names = ["attn1.to_out.0", "attn2.to_out.0"].map(str::to_owned);
    let factors = floats(call, ["self_structural", "cross_structural"])?;
    Ok(NodeOutput::one(Value::object(call.object::<Model>("model")?.multiplied(|name| factor_of(name, &names, factors)))))
}

fn clip_attention_multiply(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let names = ["q_proj", "k_proj", "v_proj", "out_proj"].map(|projection| format!("self_attn.{projection}"));
    let factors = floats(call, ["q", "k", "v", "out"])?;
    Ok(NodeOutput::one(Value::object(call.object::<Clip>("clip")?.multiplied(|name| factor_of(name, &names, factors)))))
}

/// The factor of the layer that a weight or a bias belongs to.
fn factor_of<const N: usize>(name: &str, layers: &[String; N], factors: [f64; N]) -> Option<f64> {
    let layer = name.strip_suffix(".weight").or(name.strip_suffix(".bias"))?;
    layers.iter().zip(factors).find(|(end, _)| layer.ends_with(end.as_str())).map(|(_, factor)| factor)
}

fn floats<const N: usize>(call: &Call<'_, '_>, names: [&str; N]) -> Result<[f64; N]> {
    let mut values = [0.0; N];
    for (value, name) in values.iter_mut().zip(names) {
        *value = call.float(name)?;
    }
    Ok(values)
}

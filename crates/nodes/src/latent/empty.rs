//! Latents full of zeros, in the shapes of the model families.

use comfyd_engine::SD_LATENTS;
use comfyd_node::{Input, NodeOutput, Result, Schema};
use comfyd_values::Latent;
use ndarray::{ArcArray, IxDyn};

use crate::class::{Call, Class, MAX_RESOLUTION};
use crate::tensors::SPATIAL_RATIO;

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("EmptyLatentImage")
                .display("Empty Latent Image")
                .category("model/latent")
                .description("Starts pictures for models with four latent channels (SD1, SD2, SDXL).")
                .aliases(["blank canvas", "width and height", "start"])
                .input(Input::int("width").default(512).min(16).max(MAX_RESOLUTION).step(8).tooltip("Pixels wide, after decoding."))
                .input(Input::int("height").default(512).min(16).max(MAX_RESOLUTION).step(8).tooltip("Pixels high, after decoding."))
                .input(Input::int("batch_size").default(1).min(1).max(4096).tooltip("How many at once."))
                .output("LATENT")
        },
        sd,
    ),
    Class::new(
        || {
            Schema::new("EmptySD3LatentImage")
                .no_display()
                .category("model/latent/stable diffusion")
                .module("comfy_extras.nodes_sd3")
                .schema_generation()
                .description("Starts pictures for models with sixteen latent channels (SD3, Flux).")
                .input(Input::int("width").default(1024).min(16).max(MAX_RESOLUTION).step(16).tooltip("Pixels wide, after decoding."))
                .input(Input::int("height").default(1024).min(16).max(MAX_RESOLUTION).step(16).tooltip("Pixels high, after decoding."))
                .input(Input::int("batch_size").default(1).min(1).max(4096).tooltip("How many at once."))
                .output("LATENT")
        },
        sd3,
    ),
    Class::new(
        || {
            Schema::new("EmptyHunyuanLatentVideo")
                .display("Empty HunyuanVideo 1.0 Latent")
                .category("model/latent/hunyuan video")
                .module("comfy_extras.nodes_hunyuan")
                .schema_generation()
                .description("Starts a video for Hunyuan Video and models with its latent shape.")
                .input(Input::int("width").default(848).min(16).max(MAX_RESOLUTION).step(16).tooltip("Pixels wide, after decoding."))
                .input(Input::int("height").default(480).min(16).max(MAX_RESOLUTION).step(16).tooltip("Pixels high, after decoding."))
                .input(Input::int("length").default(25).min(1).max(MAX_RESOLUTION).step(4).tooltip("Frames, after decoding."))
                .input(Input::int("batch_size").default(1).min(1).max(4096).tooltip("How many at once."))
                .output("LATENT")
        },
        hunyuan_video,
    ),
    Class::new(
        || {
            Schema::new("EmptyHunyuanImageLatent")
                .no_display()
                .category("model/latent/hunyuan image")
                .module("comfy_extras.nodes_hunyuan")
                .schema_generation()
                .description("Starts pictures for Hunyuan Image.")
                .input(Input::int("width").default(2048).min(64).max(MAX_RESOLUTION).step(32).tooltip("Pixels wide, after decoding."))
                .input(Input::int("height").default(2048).min(64).max(MAX_RESOLUTION).step(32).tooltip("Pixels high, after decoding."))
                .input(Input::int("batch_size").default(1).min(1).max(4096).tooltip("How many at once."))
                .output("LATENT")
        },
        hunyuan_image,
    ),
    Class::new(
        || {
            Schema::new("EmptyMochiLatentVideo")
                .no_display()
                .category("model/latent/mochi")
                .module("comfy_extras.nodes_mochi")
                .schema_generation()
                .description("Starts a video for Mochi.")
                .input(Input::int("width").default(848).min(16).max(MAX_RESOLUTION).step(16).tooltip("Pixels wide, after decoding."))
                .input(Input::int("height").default(480).min(16).max(MAX_RESOLUTION).step(16).tooltip("Pixels high, after decoding."))
                .input(Input::int("length").default(25).min(7).max(MAX_RESOLUTION).step(6).tooltip("Frames, after decoding."))
                .input(Input::int("batch_size").default(1).min(1).max(4096).tooltip("How many at once."))
                .output("LATENT")
        },
        mochi,
    ),
    Class::new(
        || {
            Schema::new("EmptyLTXVLatentVideo")
                .no_display()
                .category("model/latent/ltxv")
                .module("comfy_extras.nodes_lt")
                .schema_generation()
                .description("Starts a video for LTX-Video.")
                .input(Input::int("width").default(768).min(64).max(MAX_RESOLUTION).step(32).tooltip("Pixels wide, after decoding."))
                .input(Input::int("height").default(512).min(64).max(MAX_RESOLUTION).step(32).tooltip("Pixels high, after decoding."))
                .input(Input::int("length").default(97).min(1).max(MAX_RESOLUTION).step(8).tooltip("Frames, after decoding."))
                .input(Input::int("batch_size").default(1).min(1).max(4096).tooltip("How many at once."))
                .output("LATENT")
        },
        ltxv,
    ),
    Class::new(
        || {
            Schema::new("EmptyCosmosLatentVideo")
                .no_display()
                .category("model/latent/cosmos")
                .module("comfy_extras.nodes_cosmos")
                .schema_generation()
                .description("Starts a video for Cosmos.")
                .input(Input::int("width").default(1280).min(16).max(MAX_RESOLUTION).step(16).tooltip("Pixels wide, after decoding."))
                .input(Input::int("height").default(704).min(16).max(MAX_RESOLUTION).step(16).tooltip("Pixels high, after decoding."))
                .input(Input::int("length").default(121).min(1).max(MAX_RESOLUTION).step(8).tooltip("Frames, after decoding."))
                .input(Input::int("batch_size").default(1).min(1).max(4096).tooltip("How many at once."))
                .output("LATENT")
        },
        cosmos,
    ),
    Class::new(
        || {
            Schema::new("EmptyChromaRadianceLatentImage")
                .no_display()
                .category("model/latent/chroma radiance")
                .module("comfy_extras.nodes_chroma_radiance")
                .schema_generation()
                .description("Starts pictures for Chroma Radiance, which works on pixels.")
                .input(Input::int("width").default(1024).min(16).max(MAX_RESOLUTION).step(16).tooltip("Pixels wide, after decoding."))
                .input(Input::int("height").default(1024).min(16).max(MAX_RESOLUTION).step(16).tooltip("Pixels high, after decoding."))
                .input(Input::int("batch_size").default(1).min(1).max(4096).tooltip("How many at once."))
                .output("LATENT")
        },
        chroma_radiance,
    ),
    Class::new(
        || {
            Schema::new("EmptyLatentHunyuan3Dv2")
                .no_display()
                .category("model/latent/hunyuan 3d")
                .module("comfy_extras.nodes_hunyuan3d")
                .schema_generation()
                .description("Starts shapes for Hunyuan 3D 2.")
                .input(Input::int("resolution").default(3072).min(1).max(8192).tooltip("How many latent vectors describe a shape."))
                .input(Input::int("batch_size").default(1).min(1).max(4096).tooltip("How many at once."))
                .output("LATENT")
        },
        hunyuan_3d,
    ),
    Class::new(
        || {
            Schema::new("EmptyAceStepLatentAudio")
                .display("Empty Ace Step 1.0 Latent Audio")
                .category("model/latent/ace")
                .module("comfy_extras.nodes_ace")
                .schema_generation()
                .description("Starts sound for ACE-Step.")
                .input(Input::float("seconds").default(120.0).min(1.0).max(1000.0).step(0.1).tooltip("How long."))
                .input(Input::int("batch_size").default(1).min(1).max(4096).tooltip("How many at once."))
                .output("LATENT")
        },
        ace_step,
    ),
    Class::new(
        || {
            Schema::new("StableCascade_EmptyLatentImage")
                .no_display()
                .category("model/latent/stable cascade")
                .module("comfy_extras.nodes_stable_cascade")
                .schema_generation()
                .description("Starts pictures for both stages of Stable Cascade.")
                .input(Input::int("width").default(1024).min(256).max(MAX_RESOLUTION).step(8).tooltip("Pixels wide, after decoding."))
                .input(Input::int("height").default(1024).min(256).max(MAX_RESOLUTION).step(8).tooltip("Pixels high, after decoding."))
                .input(
                    Input::int("compression")
                        .default(42)
                        .min(4)
                        .max(128)
                        .step(1)
                        .tooltip("Pixels per latent pixel of the first stage.")
                        .advanced(),
                )
                .input(Input::int("batch_size").default(1).min(1).max(4096).tooltip("How many at once."))
                .output_named("LATENT", "stage_c")
                .output_named("LATENT", "stage_b")
        },
        stable_cascade,
    ),
    Class::new(
        || {
            Schema::new("EmptyFlux2LatentImage")
                .display("Empty Flux 2 Latent")
                .category("model/latent/flux")
                .module("comfy_extras.nodes_flux")
                .schema_generation()
                .description("Starts pictures for Flux 2.")
                .input(Input::int("width").default(1024).min(16).max(MAX_RESOLUTION).step(16).tooltip("Pixels wide, after decoding."))
                .input(Input::int("height").default(1024).min(16).max(MAX_RESOLUTION).step(16).tooltip("Pixels high, after decoding."))
                .input(Input::int("batch_size").default(1).min(1).max(4096).tooltip("How many at once."))
                .output("LATENT")
        },
        |call| Ok(NodeOutput::one(picture(call, 128, 16)?)),
    ),
    Class::new(
        || {
            Schema::new("EmptyHunyuanVideo15Latent")
                .display("Empty HunyuanVideo 1.5 Latent")
                .category("model/latent/hunyuan video")
                .module("comfy_extras.nodes_hunyuan")
                .schema_generation()
                .description("Starts a video for HunyuanVideo 1.5.")
                .input(Input::int("width").default(848).min(16).max(MAX_RESOLUTION).step(16).tooltip("Pixels wide, after decoding."))
                .input(Input::int("height").default(480).min(16).max(MAX_RESOLUTION).step(16).tooltip("Pixels high, after decoding."))
                .input(Input::int("length").default(25).min(1).max(MAX_RESOLUTION).step(4).tooltip("Frames, after decoding."))
                .input(Input::int("batch_size").default(1).min(1).max(4096).tooltip("How many at once."))
                .output("LATENT")
        },
        |call| Ok(with_ratio(video(call, 32, 4, 16)?, 16)),
    ),
    Class::new(
        || {
            Schema::new("EmptyQwenImageLayeredLatentImage")
                .display("Empty Qwen Image Layered Latent")
                .category("model/latent/qwen")
                .module("comfy_extras.nodes_qwen")
                .schema_generation()
                .description("Starts pictures in layers for Qwen Image Layered.")
                .input(Input::int("width").default(640).min(16).max(MAX_RESOLUTION).step(16).tooltip("Pixels wide, after decoding."))
                .input(Input::int("height").default(640).min(16).max(MAX_RESOLUTION).step(16).tooltip("Pixels high, after decoding."))
                .input(
                    Input::int("layers")
                        .default(3)
                        .min(0)
                        .max(MAX_RESOLUTION)
                        .step(1)
                        .tooltip("How many layers there are beside the whole picture."),
                )
                .input(Input::int("batch_size").default(1).min(1).max(4096).tooltip("How many at once."))
                .output("LATENT")
        },
        layered,
    ),
    Class::new(
        || {
            Schema::new("EmptyHiDreamO1LatentImage")
                .display("Empty HiDream-O1 Latent Image")
                .category("model/latent/hidream")
                .module("comfy_extras.nodes_hidream_o1")
                .schema_generation()
                .description("Starts pictures for HiDream O1, which works on pixels.")
                .input(Input::int("width").default(2048).min(64).max(4096).step(32).tooltip("Pixels wide, after decoding."))
                .input(Input::int("height").default(2048).min(64).max(4096).step(32).tooltip("Pixels high, after decoding."))
                .input(Input::int("batch_size").default(1).min(1).max(64).tooltip("How many at once."))
                .output("LATENT")
        },
        chroma_radiance,
    ),
    Class::new(
        || {
            Schema::new("EmptyARVideoLatent")
                .no_display()
                .category("model/latent/autoregressive")
                .module("comfy_extras.nodes_ar_video")
                .schema_generation()
                .description("Starts a video for models that make one frame after the other.")
                .input(Input::int("width").default(832).min(16).max(8192).step(16).tooltip("Pixels wide, after decoding."))
                .input(Input::int("height").default(480).min(16).max(8192).step(16).tooltip("Pixels high, after decoding."))
                .input(Input::int("length").default(81).min(1).max(1024).step(4).tooltip("Frames, after decoding."))
                .input(Input::int("batch_size").default(1).min(1).max(64).tooltip("How many at once."))
                .output("LATENT")
        },
        |call| Ok(NodeOutput::one(video(call, 16, 4, 8)?)),
    ),
];

fn zeros(call: &Call<'_, '_>, shape: &[usize]) -> Result<Latent> {
    call.reserve(shape)?;
    Ok(Latent::new(ArcArray::zeros(IxDyn(shape))))
}

/// Pictures of these channels, each latent pixel standing for `pixels` x `pixels` pixels.
fn picture(call: &Call<'_, '_>, channels: usize, pixels: usize) -> Result<Latent> {
    let (width, height) = (call.count("width", pixels)?, call.count("height", pixels)?);
    zeros(call, &[call.count("batch_size", 1)?, channels, height / pixels, width / pixels])
}

/// An empty latent that tells samplers how many pixels a cell stands for, on each side, so that it fits models with other latents too.
fn with_ratio(latent: Latent, pixels: usize) -> NodeOutput {
    let ratio = (SPATIAL_RATIO.to_owned(), pixels.into());
    NodeOutput::one(Latent { extra: [ratio].into_iter().collect(), ..latent })
}

/// A video of these channels; the first frame stands alone, then `frames` frames go together.
fn video(call: &Call<'_, '_>, channels: usize, frames: usize, pixels: usize) -> Result<Latent> {
    let (width, height) = (call.count("width", pixels)?, call.count("height", pixels)?);
    let length = (call.count("length", 1)? - 1) / frames + 1;
    zeros(call, &[call.count("batch_size", 1)?, channels, length, height / pixels, width / pixels])
}

/// Layers stand where frames of videos do.
fn layered(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (width, height) = (call.count("width", 8)?, call.count("height", 8)?);
    let shape = [call.count("batch_size", 1)?, 16, call.count("layers", 0)? + 1, height / 8, width / 8];
    Ok(NodeOutput::one(zeros(call, &shape)?))
}

fn sd(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    Ok(with_ratio(picture(call, SD_LATENTS.channels, SD_LATENTS.factor)?, SD_LATENTS.factor))
}

fn sd3(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    Ok(with_ratio(picture(call, 16, 8)?, 8))
}

fn hunyuan_image(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    Ok(NodeOutput::one(picture(call, 64, 32)?))
}

fn chroma_radiance(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    Ok(NodeOutput::one(picture(call, 3, 1)?))
}

fn hunyuan_video(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    Ok(with_ratio(video(call, 16, 4, 8)?, 8))
}

fn mochi(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    Ok(NodeOutput::one(video(call, 12, 6, 8)?))
}

fn ltxv(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    Ok(with_ratio(video(call, 128, 8, 32)?, 32))
}

fn cosmos(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    Ok(NodeOutput::one(video(call, 16, 8, 8)?))
}

fn hunyuan_3d(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let mut latent = zeros(call, &[call.count("batch_size", 1)?, 64, call.count("resolution", 1)?])?;
    latent.extra.insert("type".into(), "hunyuan3dv2".into());
    Ok(NodeOutput::one(latent))
}

fn ace_step(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    // 44100 samples a second, 512 to a frame of the spectrum, 8 of those to a latent column.
    let length = (call.float("seconds")?.max(0.0) * 44100.0 / 512.0 / 8.0) as usize;
    let mut latent = zeros(call, &[call.count("batch_size", 1)?, 8, 16, length])?;
    latent.extra.insert("type".into(), "audio".into());
    Ok(NodeOutput::one(latent))
}

fn stable_cascade(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let compression = call.count("compression", 1)?;
    let (width, height) = (call.count("width", compression.max(4))?, call.count("height", compression.max(4))?);
    let batch = call.count("batch_size", 1)?;
    let first = zeros(call, &[batch, 16, height / compression, width / compression])?;
    let second = zeros(call, &[batch, 4, height / 4, width / 4])?;
    Ok(NodeOutput::values([first, second].map(|latent| latent.into())))
}

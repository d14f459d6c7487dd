//! Texts and conditionings with pictures, videos or latents that models work from: Mage Flow, Boogu, JoyImage, Bernini, PiD.

use comfyd_engine::{Clip, Conditioning, Tensor, Told, Vae};
use comfyd_imaging::resize::{Crop, Method};
use comfyd_node::{Error, Grow, Input, NodeOutput, Result, Schema, Value};
use comfyd_values::{Image, Latent};
use ndarray::{ArcArray, Axis, IxDyn, s};

use super::edit::{REFERENCE_PIXELS, of_pixels, with_references};
use super::text::embeddings_fingerprint;
use super::video::{MEANS, SPREADS};
use crate::class::{Call, Class, unknown_choice};
use crate::{resize, tensors};

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("TextEncodeMageFlowEdit")
                .no_display()
                .category("model/conditioning/mage")
                .module("comfy_extras.nodes_mage")
                .schema_generation()
                .description("Turns prompts and the pictures that they are about into conditionings and an empty latent for Mage Flow.")
                .aliases(["edit by instruction"])
                .input(Input::link("clip", "CLIP").tooltip("The text encoder."))
                .input(Input::text("prompt").multiline().option("dynamicPrompts", true).tooltip("The prompt."))
                .input(
                    Input::text("negative_prompt")
                        .multiline()
                        .advanced()
                        .option("dynamicPrompts", true)
                        .tooltip("What the result is not to show."),
                )
                .input(pictures())
                .input(Input::int("width").default(0).min(0).max(8192).step(16).tooltip("Pixels wide; 0 takes the first picture's."))
                .input(Input::int("height").default(0).min(0).max(8192).step(16).tooltip("Pixels high; 0 takes the first picture's."))
                .input(Input::int("batch_size").default(1).min(1).max(4096).tooltip("How many at once."))
                .input(Input::link("vae", "VAE").tooltip("The autoencoder.").optional())
                .output_named("CONDITIONING", "positive")
                .output_named("CONDITIONING", "negative")
                .output_named("LATENT", "latent")
        },
        mage,
    )
    .fingerprint(embeddings_fingerprint),
    Class::new(
        || {
            Schema::new("TextEncodeBooguEdit")
                .no_display()
                .category("model/conditioning/boogu")
                .module("comfy_extras.nodes_boogu")
                .schema_generation()
                .description("Turns prompts and the pictures that they are about into conditionings for Boogu.")
                .aliases(["edit by instruction"])
                .input(Input::link("clip", "CLIP").tooltip("The text encoder."))
                .input(Input::text("prompt").multiline().option("dynamicPrompts", true).tooltip("The prompt."))
                .input(
                    Input::text("negative_prompt")
                        .multiline()
                        .advanced()
                        .option("dynamicPrompts", true)
                        .tooltip("What the result is not to show."),
                )
                .input(Input::link("vae", "VAE").tooltip("The autoencoder."))
                .input(pictures())
                .output_named("CONDITIONING", "positive")
                .output_named("CONDITIONING", "negative")
        },
        boogu,
    )
    .fingerprint(embeddings_fingerprint),
    Class::new(
        || {
            Schema::new("TextEncodeJoyImageEdit")
                .no_display()
                .category("model/conditioning/joyimage")
                .module("comfy_extras.nodes_joyimage")
                .schema_generation()
                .description("Turns a prompt and the pictures that it is about into a conditioning for JoyImage.")
                .aliases(["edit by instruction"])
                .input(Input::link("clip", "CLIP").tooltip("The text encoder."))
                .input(Input::text("prompt").multiline().option("dynamicPrompts", true).tooltip("The prompt."))
                .input(Input::link("vae", "VAE").tooltip("The autoencoder.").optional())
                .input(
                    Input::grow("images", Grow::numbered(Input::link("image", "IMAGE").tooltip("A picture."), "image").min(0).max(6))
                        .tooltip("The pictures that it is about.")
                        .optional(),
                )
                .output("CONDITIONING")
        },
        joy,
    )
    .fingerprint(embeddings_fingerprint),
    Class::new(
        || {
            Schema::new("BerniniConditioning")
                .display("Bernini Conditioning")
                .category("model/conditioning/bernini")
                .module("comfy_extras.nodes_bernini")
                .schema_generation()
                .description("Gives both prompts videos and pictures to work from, for Bernini.")
                .aliases(["video to video", "edit video"])
                .input(Input::link("positive", "CONDITIONING").tooltip("What the result is to show."))
                .input(Input::link("negative", "CONDITIONING").tooltip("What the result is not to show."))
                .input(Input::link("vae", "VAE").tooltip("The autoencoder."))
                .input(Input::int("width").default(832).min(16).max(8192).step(16).tooltip("Pixels wide."))
                .input(Input::int("height").default(480).min(16).max(8192).step(16).tooltip("Pixels high."))
                .input(Input::int("length").default(81).min(1).max(8192).step(4).tooltip("Frames, after decoding."))
                .input(Input::int("batch_size").default(1).min(1).max(4096).tooltip("How many at once."))
                .input(Input::link("source_video", "IMAGE").tooltip("The video to change.").optional())
                .input(Input::link("reference_video", "IMAGE").tooltip("A video of what is to be put in.").optional())
                .input(
                    Input::grow(
                        "reference_images",
                        Grow::numbered(
                            Input::link("reference_image", "IMAGE").tooltip("A picture of what is to be put in."),
                            "reference_image_",
                        )
                        .min(0)
                        .max(8),
                    )
                    .tooltip("Pictures of what is to be put in.")
                    .optional(),
                )
                .input(
                    Input::int("ref_max_size")
                        .default(848)
                        .min(16)
                        .max(8192)
                        .step(16)
                        .tooltip("Pixels of the longer side that references have at most.")
                        .optional(),
                )
                .output_named("CONDITIONING", "positive")
                .output_named("CONDITIONING", "negative")
                .output_named("LATENT", "latent")
        },
        bernini,
    ),
    Class::new(
        || {
            Schema::new("PiDConditioning")
                .display("PiD Conditioning")
                .category("model/conditioning")
                .module("comfy_extras.nodes_pid")
                .schema_generation()
                .description("Gives a conditioning the latent that a pixel diffusion decoder is to decode.")
                .aliases(["decode", "upscale"])
                .input(Input::link("positive", "CONDITIONING").tooltip("The prompt."))
                .input(Input::link("latent", "LATENT").tooltip("The latents."))
                .input(
                    Input::combo("latent_format", ["flux", "sd3", "sdxl", "qwenimage"])
                        .default("flux")
                        .tooltip("Which model the latent belongs to."),
                )
                .input(
                    Input::float("degrade_sigma")
                        .default(0.0)
                        .min(0.0)
                        .max(1.0)
                        .step(0.01)
                        .tooltip("How much noise is expected in the latent: 0 is none."),
                )
                .output("CONDITIONING")
        },
        pid,
    ),
];

/// Up to sixteen pictures.
fn pictures() -> Input {
    let names = (1..=16).map(|number| format!("image_{number}"));
    let picture = Input::link("image", "IMAGE").tooltip("A picture.");
    Input::grow("images", Grow::listed(picture, names).min(0)).tooltip("The pictures that it is about.")
}

/// Channels and pixels of a cell of Mage Flow's latents.
const MAGE_CHANNELS: usize = 128;
const MAGE_CELL: usize = 16;

/// What the autoencoder makes of pictures of a size.
fn encoded(call: &Call<'_, '_>, image: &Image) -> Result<Tensor> {
    Ok(call.object::<Vae>("vae")?.encode(call.cx, &tensors::image(call, image)?)?)
}

fn text(call: &Call<'_, '_>, text: &str) -> Result<Conditioning> {
    Ok(call.object::<Clip>("clip")?.encode(call.cx, text)?)
}

/// Mage's references have the size of the result, since it finds their places by those of the result.
fn mage(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let images = call.each("images", Call::image)?;
    let (own_width, own_height) = images.first().map_or((1024, 1024), |image| (image.width(), image.height()));
    let side = |name: &str, own: usize| {
        let side = match call.count(name, 0)? {
            0 => own,
            side => side,
        };
        Ok::<_, Error>((side / MAGE_CELL).max(1) * MAGE_CELL)
    };
    let (width, height) = (side("width", own_width)?, side("height", own_height)?);
    let mut references = Vec::new();
    for image in images.iter().filter(|_| call.inputs.optional("vae").is_some()) {
        let fits = (image.width(), image.height()) == (width, height);
        let image = if fits { image.clone() } else { resize::image(call, image, width, height, Method::Bicubic, Crop::Disabled)? };
        references.push(encoded(call, &image)?);
    }
    let negative = match call.text("negative_prompt")? {
        "" => " ",
        negative => negative,
    };
    let prompts = [call.text("prompt")?, negative].map(|prompt| Ok::<_, Error>(with_references(&text(call, prompt)?, &references)));
    let [positive, negative] = prompts;
    let shape = [call.count("batch_size", 1)?, MAGE_CHANNELS, height / MAGE_CELL, width / MAGE_CELL];
    call.reserve(&shape)?;
    let latent = Latent::new(ArcArray::zeros(IxDyn(&shape)));
    Ok(NodeOutput::values([Value::object(positive?), Value::object(negative?), Value::object(latent)]))
}

fn boogu(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let mut references = Vec::new();
    for image in call.each("images", Call::image)? {
        references.push(encoded(call, &of_pixels(call, &image, REFERENCE_PIXELS, 16)?)?);
    }
    let told = |prompt: &str| Ok::<_, Error>(Value::object(with_references(&text(call, call.text(prompt)?)?, &references)));
    Ok(NodeOutput::values([told("prompt")?, told("negative_prompt")?]))
}

/// Heights and widths in which JoyImage was trained, narrow ones first, by rows of equal height: the height, and the widths in steps of 64.
const JOY_SIZES: [(usize, std::ops::RangeInclusive<usize>); 25] = [
    (512, 1792..=2048),
    (576, 1600..=1792),
    (640, 1472..=1600),
    (704, 1344..=1472),
    (768, 1216..=1344),
    (832, 1152..=1216),
    (896, 1088..=1152),
    (960, 1024..=1088),
    (1024, 960..=1024),
    (1088, 896..=960),
    (1152, 832..=896),
    (1216, 768..=832),
    (1280, 768..=768),
    (1344, 704..=768),
    (1408, 704..=704),
    (1472, 640..=704),
    (1536, 640..=640),
    (1600, 576..=640),
    (1664, 576..=576),
    (1728, 576..=576),
    (1792, 512..=576),
    (1856, 512..=512),
    (1920, 512..=512),
    (1984, 512..=512),
    (2048, 512..=512),
];

fn joy(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let mut references = Vec::new();
    for image in call.each("images", Call::image)? {
        if image.batch() != 1 {
            return Err(Error::msg(format!(
                "each of the images must be a single picture, one holds {}; take the batch apart",
                image.batch()
            )));
        }
        if call.inputs.optional("vae").is_none() {
            continue;
        }
        let shape = image.height() as f64 / image.width() as f64;
        let sizes = JOY_SIZES.iter().flat_map(|(height, widths)| widths.clone().step_by(64).map(move |width| (*height, width)));
        let off = |(height, width): &(usize, usize)| (*height as f64 / *width as f64 - shape).abs();
        let (height, width) = sizes.min_by(|a, b| off(a).total_cmp(&off(b))).unwrap_or((1024, 1024));
        let image = resize::image(call, &image, width, height, Method::Bilinear, Crop::Center)?;
        references.push(encoded(call, &image)?);
    }
    Ok(NodeOutput::one(Value::object(with_references(&text(call, call.text("prompt")?)?, &references))))
}

fn bernini(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (width, height) = (call.count("width", 8)?, call.count("height", 8)?);
    let (length, batch) = (call.count("length", 1)?, call.count("batch_size", 1)?);
    let longest = call.inputs.optional("ref_max_size").map_or(Ok(848), |_| call.count("ref_max_size", 1))?;
    let part = |image: Image, range: std::ops::Range<usize>| Image(image.0.slice_move(s![range, .., .., ..]));
    let trimmed = |name: &str| {
        let image = call.image(name)?;
        let frames = image.batch().min(length);
        Ok::<_, Error>(part(image, 0..frames))
    };
    let mut context = Vec::new();
    if call.inputs.optional("source_video").is_some() {
        let video = resize::image(call, &trimmed("source_video")?, width, height, Method::Area, Crop::Center)?;
        context.push(encoded(call, &video)?);
    }
    if call.inputs.optional("reference_video").is_some() {
        context.push(encoded(call, &within(call, &trimmed("reference_video")?, longest)?)?);
    }
    for images in call.each("reference_images", Call::image)? {
        for index in 0..images.batch() {
            context.push(encoded(call, &within(call, &part(images.clone(), index..index + 1), longest)?)?);
        }
    }
    let told = |name: &str| {
        let conditioning = call.object::<Conditioning>(name)?;
        if context.is_empty() {
            return Ok::<_, Error>(Value::from(conditioning));
        }
        let latents = Told::List(context.iter().cloned().map(Told::from).collect());
        Ok(Value::object(conditioning.map(|entry| entry.told.set("context_latents", latents.clone()))))
    };
    let shape = [batch, 16, (length - 1) / 4 + 1, height / 8, width / 8];
    call.reserve(&shape)?;
    let latent = Latent::new(ArcArray::zeros(IxDyn(&shape)));
    Ok(NodeOutput::values([told("positive")?, told("negative")?, Value::object(latent)]))
}

/// Frames whose longer side has so many pixels at most, the sides multiples of 16.
fn within(call: &Call<'_, '_>, image: &Image, longest: usize) -> Result<Image> {
    const STEP: f64 = 16.0;
    let scale = (longest as f64 / image.width().max(image.height()) as f64).min(1.0);
    let side = |side: usize| ((side as f64 * scale / STEP).round_ties_even() * STEP).max(STEP) as usize;
    resize::image(call, image, side(image.width()), side(image.height()), Method::Area, Crop::Disabled)
}

fn pid(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let latent = call.latent("latent")?;
    let mut samples = latent.samples;
    let channels = samples.shape()[1];
    // How models' own latents differ from those on links: what is taken away, and what they are multiplied by.
    let scaled: Vec<(f32, f32)> = match call.text("latent_format")? {
        "flux" if channels == 128 => vec![(0.0, 1.0)],
        "flux" => vec![(0.1159, 0.3611)],
        "sd3" => vec![(0.0609, 1.5305)],
        "sdxl" => vec![(0.0, 0.13025)],
        "qwenimage" => MEANS.into_iter().zip(SPREADS).map(|(mean, spread)| (mean, 1.0 / spread)).collect(),
        other => return Err(unknown_choice("latent_format", other)),
    };
    if scaled.len() != 1 && (scaled.len() != channels || samples.ndim() != 5) {
        return Err(Error::msg(format!("a latent of the shape {:?} is none of Qwen Image; choose its latent_format", samples.shape())));
    }
    if samples.ndim() == 5 {
        samples = samples.index_axis_move(Axis(2), 0);
    }
    call.reserve(samples.shape())?;
    let mut samples = samples.to_owned();
    for (index, mut channel) in samples.axis_iter_mut(Axis(1)).enumerate() {
        let (mean, factor) = scaled[index % scaled.len()];
        channel.mapv_inplace(|value| (value - mean) * factor);
    }
    let samples = tensors::of(call, &samples.into_shared())?;
    let sigma = comfyd_engine::tensor(&[1], vec![call.float("degrade_sigma")? as f32])?;
    let conditioning = call.object::<Conditioning>("positive")?.map(|entry| {
        entry.told.set("lq_latent", samples.clone());
        entry.told.set("degrade_sigma", sigma.clone());
    });
    Ok(NodeOutput::one(Value::object(conditioning)))
}

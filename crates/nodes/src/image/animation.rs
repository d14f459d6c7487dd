//! Batches of pictures saved as one moving picture.

use comfyd_folders::Kind;
use comfyd_imaging::{Raster, apng, webp};
use comfyd_node::{Error, Input, NodeOutput, Result, Schema};
use comfyd_values::Image;
use serde_json::json;

use crate::class::{Call, Class, unknown_choice};
use crate::saving;

/// The EXIF tag that holds the prompt ("Model").
const EXIF_PROMPT: u16 = 0x0110;

/// The EXIF tag of the first further entry ("Make"); the next ones count down.
const EXIF_EXTRA: u16 = 0x010f;

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("SaveAnimatedWEBP")
                .display("Save Animated WEBP")
                .category("image")
                .module("comfy_extras.nodes_images")
                .schema_generation()
                .description("Saves a batch of pictures as one animated WebP file in the output folder.")
                .input(Input::link("images", "IMAGE"))
                .input(Input::text("filename_prefix").default("ComfyUI").tooltip(
                    "Start of the file names. A slash makes folders; %width%, %height%, %year%, %month%, %day%, \
                     %hour%, %minute%, %second% and %batch_num% are filled in.",
                ))
                .input(Input::float("fps").default(6.0).min(0.01).max(1000.0).step(0.01).tooltip("Pictures per second."))
                .input(Input::bool("lossless").default(true).tooltip("Keeps every pixel; off makes smaller files."))
                .input(
                    Input::int("quality")
                        .default(80)
                        .min(0)
                        .max(100)
                        .tooltip("How good it looks when not lossless; how hard to compress when lossless."),
                )
                .input(Input::combo("method", ["default", "fastest", "slowest"]))
                .hidden_metadata()
                .output_named("IMAGE", "images")
                .output_node()
        },
        save_webp,
    ),
    Class::new(
        || {
            Schema::new("SaveAnimatedPNG")
                .display("Save Animated PNG")
                .category("image")
                .module("comfy_extras.nodes_images")
                .schema_generation()
                .description("Saves a batch of pictures as one animated PNG file in the output folder.")
                .input(Input::link("images", "IMAGE"))
                .input(Input::text("filename_prefix").default("ComfyUI").tooltip(
                    "Start of the file names. A slash makes folders; %width%, %height%, %year%, %month%, %day%, \
                     %hour%, %minute%, %second% and %batch_num% are filled in.",
                ))
                .input(Input::float("fps").default(6.0).min(0.01).max(1000.0).step(0.01).tooltip("Pictures per second."))
                .input(
                    Input::int("compress_level").default(4).min(0).max(9).tooltip("0 is fast and large, 9 is slow and small.").advanced(),
                )
                .hidden_metadata()
                .output_named("IMAGE", "images")
                .output_node()
        },
        save_apng,
    ),
];

fn save_webp(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let images = call.image("images")?;
    let method = match call.text("method")? {
        "default" => 4,
        "fastest" => 0,
        "slowest" => 6,
        other => return Err(unknown_choice("method", other)),
    };
    let mut exif = Vec::new();
    let mut tag = EXIF_EXTRA;
    for (key, text) in saving::metadata(call) {
        let text = format!("{key}:{text}");
        if key == saving::PROMPT {
            exif.push((EXIF_PROMPT, text));
        } else {
            exif.push((tag, text));
            tag = tag.checked_sub(1).ok_or_else(|| Error::msg("extra_pnginfo has too many entries for a WebP file; send fewer"))?;
        }
    }
    let options = webp::Options { lossless: call.bool("lossless")?, quality: call.int::<u8>("quality")?.min(100).into(), method, exif };
    let frame_ms = frame_ms(call)?;
    let bytes = encode(call, &images, move |frames, interrupted| webp::encode_animation(frames, frame_ms, &options, interrupted))?;
    save(call, &images, "webp", &bytes, images.batch() != 1)
}

fn save_apng(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let images = call.image("images")?;
    let options = apng::Options {
        frame_ms: frame_ms(call)?,
        compression: call.int::<u8>("compress_level")?.min(9),
        metadata: saving::metadata(call),
    };
    let bytes = encode(call, &images, move |frames, interrupted| apng::encode(frames, &options, interrupted))?;
    save(call, &images, "png", &bytes, true)
}

/// Asked between the frames, so that no thread goes on for long after an interruption.
fn encode(
    call: &Call<'_, '_>,
    images: &Image,
    encode: impl FnOnce(&[Raster], &dyn Fn() -> bool) -> comfyd_imaging::Result<Vec<u8>> + Send + 'static,
) -> Result<Vec<u8>> {
    let mut frames = Vec::with_capacity(images.batch());
    for index in 0..images.batch() {
        call.cx.check_cancelled()?;
        frames.push(Raster::from_image(images, index).map_err(Error::other)?);
    }
    let cancel = call.cx.cancel_token().clone();
    call.apart(images.0.len(), move || encode(&frames, &|| cancel.is_cancelled()))
}

/// How long each picture is shown.
fn frame_ms(call: &Call<'_, '_>) -> Result<u32> {
    let fps = call.float("fps")?;
    if fps <= 0.0 {
        return Err(Error::msg(format!("input 'fps' is {fps}, it must be above 0")));
    }
    Ok((1000.0 / fps) as u32)
}

fn save(call: &Call<'_, '_>, images: &Image, ending: &str, bytes: &[u8], animated: bool) -> Result<NodeOutput> {
    let prefix = call.text("filename_prefix")?;
    let target = call.state.services.folders.save_target(Kind::Output, prefix, images.width(), images.height()).map_err(Error::other)?;
    let saved = target.save(0, ending, bytes).map_err(Error::other)?;
    Ok(NodeOutput::one(images.clone()).with_ui("images", vec![saved.to_json()]).with_ui("animated", vec![json!(animated)]))
}

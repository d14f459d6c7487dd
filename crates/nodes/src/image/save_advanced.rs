//! Pictures saved with more than eight bits.

use std::sync::Arc;

use comfyd_folders::Kind;
use comfyd_imaging::{Raster, exr, png};
use comfyd_node::{Branch, Error, Input, NodeOutput, Result, Schema};

use super::save::pictures;
use crate::class::{Call, Class, unknown_choice};
use crate::saving;

pub(crate) const CLASSES: &[Class] = &[Class::new(
    || {
        Schema::new("SaveImageAdvanced")
            .display("Save Image (Advanced)")
            .category("image")
            .module("comfy_extras.nodes_images")
            .schema_generation()
            .essentials("Basics")
            .description(
                "Saves pictures in the output folder with the workflow inside: PNG with 8 or 16 bits, or EXR with floating-point numbers.",
            )
            .aliases(["exr", "hdr", "16 bit", "export"])
            .input(Input::link("images", "IMAGE").tooltip("What to save."))
            .input(
                Input::text("filename_prefix").default("ComfyUI").tooltip("What the names of the files begin with; folders are allowed."),
            )
            .input(
                Input::branch(
                    "format",
                    [
                        Branch::new(
                            "png",
                            [
                                Input::combo("bit_depth", ["8-bit", "16-bit"])
                                    .default("8-bit")
                                    .advanced()
                                    .tooltip("How finely colours are kept."),
                                Input::combo("input_color_space", ["sRGB"])
                                    .default("sRGB")
                                    .advanced()
                                    .tooltip("What the values of the pictures mean. EXR files hold linear light."),
                            ],
                        ),
                        Branch::new(
                            "exr",
                            [
                                Input::combo("bit_depth", ["32-bit float"])
                                    .default("32-bit float")
                                    .advanced()
                                    .tooltip("How finely colours are kept."),
                                Input::combo("input_color_space", ["sRGB", "HDR", "linear"])
                                    .default("sRGB")
                                    .advanced()
                                    .tooltip("What the values of the pictures mean. EXR files hold linear light."),
                            ],
                        ),
                    ],
                )
                .tooltip("The kind of file."),
            )
            .hidden_metadata()
            .output_named("IMAGE", "images")
            .output_node()
    },
    save,
)];

/// How one picture becomes a file.
#[derive(Clone, Copy)]
enum Form {
    Png8,
    Png16,
    Exr(exr::Light),
}

fn save(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let images = pictures(call)?;
    let (format, depth) = (call.text("format")?, call.text("format.bit_depth")?);
    let space = call.inputs.optional("format.input_color_space").map_or(Ok("sRGB"), |_| call.text("format.input_color_space"))?;
    let form = match (format, depth) {
        ("png", "8-bit") => Form::Png8,
        ("png", "16-bit") => Form::Png16,
        ("exr", "32-bit float") => Form::Exr(match space {
            "sRGB" => exr::Light::Srgb,
            "HDR" => exr::Light::Hlg,
            "linear" => exr::Light::Linear,
            other => return Err(unknown_choice("format.input_color_space", other)),
        }),
        ("png" | "exr", other) => return Err(unknown_choice("format.bit_depth", other)),
        (other, _) => return Err(unknown_choice("format", other)),
    };
    if ![1, 3, 4].contains(&images.channels()) {
        return Err(Error::msg(format!("pictures of {} channels cannot be saved; give it grey, RGB or RGBA", images.channels())));
    }
    let prefix = call.text("filename_prefix")?;
    let target = call.state.services.folders.save_target(Kind::Output, prefix, images.width(), images.height()).map_err(Error::other)?;
    let options = Arc::new(png::Options { compression: saving::SAVE_COMPRESSION, text: saving::metadata(call) });
    let mut saved = Vec::with_capacity(images.batch());
    // What is written, and what it is packed from.
    call.reserve(&[2, images.height(), images.width(), images.channels()])?;
    for index in 0..images.batch() {
        let (images, options) = (images.clone(), Arc::clone(&options));
        let bytes = call.apart(images.width() * images.height() * images.channels(), move || match form {
            Form::Png8 => png::encode(&Raster::from_image(&images, index)?, &options),
            Form::Png16 => png::encode_16(&images, index, &options),
            Form::Exr(light) => exr::encode(&images, index, light, &options.text),
        })?;
        saved.push(target.save(index, format, &bytes).map_err(Error::other)?.to_json());
    }
    Ok(NodeOutput::one(images).with_ui("images", saved))
}

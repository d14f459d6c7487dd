//! Texts saved to files.

use comfyd_folders::Kind;
use comfyd_node::{Error, Input, NodeOutput, Result, Schema};

use crate::class::{Call, Class, unknown_choice};
use crate::python;

pub(crate) const CLASSES: &[Class] = &[Class::new(
    || {
        Schema::new("SaveText")
            .display("Save Text")
            .category("text")
            .module("comfy_extras.nodes_text")
            .schema_generation()
            .description("Saves a text in the output folder. JSON is laid out for people.")
            .aliases(["write text", "export text"])
            .input(Input::text("text").option("forceInput", true).tooltip("The text."))
            .input(
                Input::text("filename_prefix").default("ComfyUI").tooltip("What the names of the files begin with; folders are allowed."),
            )
            .input(Input::combo("format", ["txt", "csv", "md", "json"]).default("txt").tooltip("The ending of the file."))
            .hidden_metadata()
            .output_named("STRING", "text")
            .output_node()
    },
    save,
)];

fn save(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (text, ending) = (call.text("text")?, call.text("format")?);
    let laid_out = match ending {
        "json" => match call.json(text)? {
            Some(value) => {
                let most = call.state.services.limits.max_text_bytes as usize;
                // What lies deep is indented far.
                let room = text.len().saturating_mul(2048).min(2 * most);
                let laid_out = call.of_text(text.len(), room, move || python::dumps_readable(&value, 2, most))?;
                call.reserve_text(laid_out.len())?;
                Some(laid_out)
            }
            None => None,
        },
        "txt" | "csv" | "md" => None,
        other => return Err(unknown_choice("format", other)),
    };
    let target = call.state.services.folders.save_target(Kind::Output, call.text("filename_prefix")?, 1, 1).map_err(Error::other)?;
    let saved = target.save(0, ending, laid_out.as_deref().unwrap_or(text).as_bytes()).map_err(Error::other)?;
    Ok(NodeOutput::one(text).with_ui("text", vec![text.into()]).with_ui("files", vec![saved.to_json()]))
}

//! Vector pictures.

use comfyd_folders::Kind;
use comfyd_node::{Error, Input, NodeOutput, Result, Schema, Value};
use comfyd_values::Svg;
use serde_json::{Map, Value as Json};

use crate::class::{Call, Class};
use crate::{python, saving};

pub(crate) const CLASSES: &[Class] = &[Class::new(
    || {
        Schema::new("SaveSVGNode")
            .display("Save SVG")
            .category("image")
            .module("comfy_extras.nodes_images")
            .schema_generation()
            .description("Saves vector pictures as SVG files in the output folder, with the workflow inside.")
            .aliases(["vector file"])
            .input(Input::link("svg", "SVG"))
            .input(Input::text("filename_prefix").default("svg/ComfyUI").tooltip(
                "Start of the file names. A slash makes folders; %width%, %height%, %year%, %month%, %day%, \
                     %hour%, %minute%, %second% and %batch_num% are filled in.",
            ))
            .hidden_metadata()
            .output_named("SVG", "svg")
            .output_node()
    },
    save_svg,
)];

fn save_svg(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let svg = call.inputs.get::<Svg>("svg")?;
    let metadata = metadata_element(call);
    let prefix = call.text("filename_prefix")?;
    let target = call.state.services.folders.save_target(Kind::Output, prefix, 0, 0).map_err(Error::other)?;
    let mut saved = Vec::new();
    for (index, picture) in svg.0.iter().enumerate() {
        call.cx.check_cancelled()?;
        let text = insert_metadata(picture, &metadata);
        saved.push(target.save(index, "svg", text.as_bytes()).map_err(Error::other)?.to_json());
    }
    Ok(NodeOutput::one(Value::Object(svg)).with_ui("images", saved))
}

/// What is inserted behind `<svg …>`; empty if there is nothing to tell.
fn metadata_element(call: &Call<'_, '_>) -> String {
    let metadata: Map<String, Json> = saving::metadata_json(call).into_iter().collect();
    if metadata.is_empty() {
        return String::new();
    }
    // The end of a CDATA section inside one is written as two sections.
    let json = python::dumps_indented(&Json::Object(metadata), 2).replace("]]>", "]]]]><![CDATA[>");
    format!("\n  <metadata>\n                <![CDATA[\n            {json}\n                ]]>\n            </metadata>\n            ")
}

fn insert_metadata(svg: &str, metadata: &str) -> String {
    let mut out = String::with_capacity(svg.len() + metadata.len());
    let mut rest = svg;
    while let Some(start) = rest.find("<svg") {
        let Some(end) = rest[start..].find('>') else { break };
        let (head, tail) = rest.split_at(start + end + 1);
        out.push_str(head);
        out.push_str(metadata);
        rest = tail;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_go_behind_the_opening_tag() {
        assert_eq!(insert_metadata("<?xml?><svg a=\"1\"><g/></svg>", "[m]"), "<?xml?><svg a=\"1\">[m]<g/></svg>");
        assert_eq!(insert_metadata("no picture", "[m]"), "no picture");
    }
}

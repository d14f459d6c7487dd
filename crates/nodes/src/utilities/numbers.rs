//! Numbers: converted, chosen, and sizes that follow from a shape.

use comfyd_node::{Error, Input, NodeOutput, Result, Schema, Value};
use comfyd_wire::python;

use crate::class::{Call, Class, unknown_choice};

/// Shapes by the names that the widget lists: width to height.
const SHAPES: [(&str, f64, f64); 8] = [
    ("1:1 (Square)", 1.0, 1.0),
    ("2:3 (Portrait Photo)", 2.0, 3.0),
    ("3:2 (Photo)", 3.0, 2.0),
    ("3:4 (Portrait Standard)", 3.0, 4.0),
    ("4:3 (Standard)", 4.0, 3.0),
    ("9:16 (Portrait Widescreen)", 9.0, 16.0),
    ("16:9 (Widescreen)", 16.0, 9.0),
    ("21:9 (Ultrawide)", 21.0, 9.0),
];

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("ComfyNumberConvert")
                .display("Convert Number")
                .category("utilities")
                .module("comfy_extras.nodes_number_convert")
                .schema_generation()
                .description("Makes numbers of both kinds out of a number, a text or a yes or no.")
                .aliases(["round down", "text to number", "integer", "decimal", "parse"])
                .input(
                    Input::link("value", "INT,FLOAT,STRING,BOOLEAN")
                        .display("value")
                        .tooltip("What is converted; fractions are cut off for INT."),
                )
                .output("FLOAT")
                .output("INT")
        },
        convert,
    ),
    Class::new(
        || {
            Schema::new("ResolutionSelector")
                .display("Resolution Selector")
                .category("utilities")
                .module("comfy_extras.nodes_resolution")
                .schema_generation()
                .description("Width and height of a shape and a number of pixels, for example for an empty latent.")
                .aliases(["aspect ratio", "megapixels", "picture size"])
                .input(
                    Input::combo("aspect_ratio", SHAPES.map(|(name, _, _)| name))
                        .default(SHAPES[0].0)
                        .tooltip("The shape: width to height."),
                )
                .input(
                    Input::float("megapixels")
                        .default(1.0)
                        .min(0.1)
                        .max(16.0)
                        .step(0.1)
                        .tooltip("The size; 1 megapixel is 1024 x 1024 pixels."),
                )
                .input(
                    Input::int("multiple")
                        .default(8)
                        .min(8)
                        .max(128)
                        .step(4)
                        .advanced()
                        .tooltip("Width and height become multiples of this."),
                )
                .output_named("INT", "width")
                .output_named("INT", "height")
        },
        resolution,
    ),
    Class::new(
        || {
            Schema::new("SeedNode")
                .display("Seed")
                .category("utilities")
                .module("comfy_extras.nodes_seed")
                .schema_generation()
                .description("A number that several nodes can take as their seed.")
                .aliases(["noise seed", "random number"])
                .input(Input::int("seed").min(0).max(i64::MAX).option("control_after_generate", "fixed").tooltip("The number."))
                .output_named("INT", "seed")
        },
        |call| Ok(NodeOutput::one(call.inputs.value("seed")?.clone())),
    ),
    Class::new(
        || {
            Schema::new("ColorToRGBInt")
                .display("Color Picker")
                .category("utilities")
                .module("comfy_extras.nodes_color")
                .schema_generation()
                .description("A colour as one number, as a text, and how opaque it is.")
                .aliases(["colour", "hex", "rgb"])
                .input(Input::link("color", "COLOR").default("#ffffff").socketless().tooltip("The colour."))
                .output_named("INT", "rgb_int")
                .output_named("COLOR", "hex")
                .output_named("FLOAT", "alpha")
        },
        color,
    ),
];

fn convert(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let not_finite = |value: f64| Error::msg(format!("input 'value' is {value}, give it a finite number"));
    let (float, int) = match call.inputs.value("value")? {
        Value::Bool(yes) => (f64::from(u8::from(*yes)), i128::from(*yes)),
        Value::Int(int) => (*int as f64, *int),
        Value::Float(float) => (*float, *float as i128),
        Value::Text(text) => {
            let float = python::float(text).ok_or_else(|| Error::msg(format!("input 'value' holds '{text}', which is no number")))?;
            // Whole numbers keep all their digits.
            (float, python::int(text).unwrap_or(float as i128))
        }
        other => return Err(Error::WrongType { name: "value".into(), got: other.type_name().into(), wanted: "a number or a text".into() }),
    };
    if !float.is_finite() {
        return Err(not_finite(float));
    }
    Ok(NodeOutput::values([float.into(), int.into()]))
}

fn resolution(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let chosen = call.text("aspect_ratio")?;
    let shape = SHAPES.iter().find(|(name, _, _)| *name == chosen).ok_or_else(|| unknown_choice("aspect_ratio", chosen))?;
    let (_, wide, high) = *shape;
    let multiple = call.count("multiple", 1)?;
    let scale = (call.float("megapixels")? * 1024.0 * 1024.0 / (wide * high)).sqrt();
    let side = |share: f64| (share * scale / multiple as f64).round_ties_even() as i64 * multiple as i64;
    Ok(NodeOutput::values([side(wide).into(), side(high).into()]))
}

fn color(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let text = call.text("color")?;
    let wrong = || Error::msg(format!("input 'color' holds '{text}'; write a colour as #rrggbb or #rrggbbaa"));
    let digits = text.strip_prefix('#').filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit())).ok_or_else(wrong)?;
    let (color, alpha) = match digits.len() {
        6 => (digits, None),
        8 => (&digits[..6], Some(&digits[6..])),
        _ => return Err(wrong()),
    };
    let number = |digits: &str| i64::from_str_radix(digits, 16).map_err(|_| wrong());
    let alpha = alpha.map_or(Ok(1.0), |alpha| Ok::<_, Error>(number(alpha)? as f64 / 255.0))?;
    Ok(NodeOutput::values([number(color)?.into(), format!("#{color}").into(), alpha.into()]))
}

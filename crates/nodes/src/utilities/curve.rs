//! Curves that people draw, and what pictures hold of each level.

use std::sync::Arc;

use comfyd_node::{Error, Input, NodeOutput, Opaque, Result, Schema, Value};
use ndarray::{Axis, s};
use serde_json::{Value as Json, json};

use crate::class::{Call, Class};

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("ImageHistogram")
                .display("Image Histogram")
                .category("utilities")
                .module("comfy_extras.nodes_curve")
                .schema_generation()
                .description("Counts how often each of 256 levels occurs: of the colours together, the brightness, and each colour.")
                .aliases(["levels", "exposure"])
                .input(Input::link("image", "IMAGE").tooltip("The picture."))
                .output_named("HISTOGRAM", "rgb")
                .output_named("HISTOGRAM", "luminance")
                .output_named("HISTOGRAM", "red")
                .output_named("HISTOGRAM", "green")
                .output_named("HISTOGRAM", "blue")
        },
        histogram,
    ),
    Class::new(
        || {
            Schema::new("CurveEditor")
                .display("Curve Editor")
                .category("utilities")
                .module("comfy_extras.nodes_curve")
                .schema_generation()
                .description("A curve that you draw, from values of 0 to 1 to others.")
                .aliases(["tone curve", "levels"])
                .input(
                    Input::link("curve", "CURVE")
                        .default(json!({"points": [[0.0, 0.0], [1.0, 1.0]], "interpolation": "monotone_cubic"}))
                        .socketless()
                        .tooltip("The curve."),
                )
                .input(Input::link("histogram", "HISTOGRAM").tooltip("What is drawn behind it.").optional())
                .output_named("CURVE", "curve")
                .intermediate_output()
        },
        curve,
    ),
];

/// Levels of a histogram.
const LEVELS: usize = 256;
/// Points of a curve.
const MAX_POINTS: usize = 10_000;

/// `CURVE`: points from left to right.
#[derive(Debug)]
struct Curve {
    points: Vec<(f64, f64)>,
    linear: bool,
}

impl Opaque for Curve {
    fn type_name(&self) -> &'static str {
        "CURVE"
    }

    fn size_bytes(&self) -> usize {
        self.points.len() * size_of::<(f64, f64)>()
    }

    fn describe(&self) -> String {
        let between = if self.linear { "straight lines" } else { "a smooth line" };
        format!("a curve through {} points with {between} between them", self.points.len())
    }
}

fn curve(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let given = call.inputs.value("curve")?;
    let curve = match given.downcast::<Curve>() {
        Some(curve) => curve,
        None => Arc::new(read(&given.to_json()).ok_or_else(|| {
            Error::msg("input 'curve' is no curve; give it points as [[x, y], …], or an object with 'points' and 'interpolation'")
        })?),
    };
    let output = NodeOutput::one(Value::from(curve));
    Ok(match call.inputs.optional("histogram").map(Value::to_json) {
        Some(Json::Array(levels)) => output.with_ui("histogram", levels),
        Some(_) | None => output,
    })
}

/// The curve of a widget's value.
fn read(given: &Json) -> Option<Curve> {
    let (points, interpolation) = match given {
        Json::Object(object) => (object.get("points")?, object.get("interpolation").and_then(Json::as_str)),
        points => (points, None),
    };
    let number = |json: &Json| json.as_f64().filter(|number| number.is_finite());
    let point = |json: &Json| match json.as_array()?.as_slice() {
        [x, y] => Some((number(x)?, number(y)?)),
        _ => None,
    };
    let mut points = points.as_array().filter(|points| points.len() <= MAX_POINTS)?.iter().map(point).collect::<Option<Vec<_>>>()?;
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    Some(Curve { points, linear: interpolation == Some("linear") })
}

fn histogram(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let image = call.image("image")?;
    if image.channels() < 3 {
        return Err(Error::msg(format!("a picture of {} channels has no red, green and blue; give it one in colour", image.channels())));
    }
    let counted = call.aside(image.0.len() / image.batch(), move || {
        let mut counts = [[0u64; LEVELS]; 4];
        let level = |value: f32| (value * 255.0).clamp(0.0, 255.0) as usize;
        for pixel in image.0.slice(s![0, .., .., ..3]).lanes(Axis(2)) {
            let [red, green, blue] = [pixel[0], pixel[1], pixel[2]];
            for (counts, value) in counts.iter_mut().zip([red, green, blue, 0.2126 * red + 0.7152 * green + 0.0722 * blue]) {
                counts[level(value)] += 1;
            }
        }
        counts
    })?;
    let [red, green, blue, luminance] = counted;
    let mean: Vec<u64> = (0..LEVELS).map(|level| (red[level] + green[level] + blue[level]) / 3).collect();
    let told = |counts: &[u64]| Value::from(&json!(counts));
    Ok(NodeOutput::values([told(&mean), told(&luminance), told(&red), told(&green), told(&blue)]))
}

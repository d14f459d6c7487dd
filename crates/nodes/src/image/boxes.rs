//! Boxes in pictures as nodes hand them on: `{x, y, width, height}` in pixels, elements with a `bbox` in thousandths, lists of either, and JSON
//! texts of those.

use comfyd_node::{Error, Result, Value};
use comfyd_wire::python;
use serde_json::{Map, Value as Json, json};

/// Bytes of a JSON text that a person's editor writes at most: what reading it takes is not asked for.
const MOST_TEXT: usize = 4 << 20;

/// Reads a JSON text of an editor.
pub(super) fn read_json(name: &str, text: &str) -> Result<Json> {
    if text.len() > MOST_TEXT {
        return Err(Error::msg(format!(
            "input '{name}' has {} bytes, more than the {MOST_TEXT} of a JSON text here; shorten it",
            text.len()
        )));
    }
    comfyd_wire::json::read(text.trim().as_bytes())
        .map_err(|error| Error::msg(format!("input '{name}' is no JSON: {error}; give it boxes or a JSON text of them")))
}

/// A number without its fraction; 0 if it is none.
pub(super) fn whole(value: Option<&Json>) -> i64 {
    value.and_then(|value| value.as_i64().or_else(|| value.as_f64().map(|number| number as i64))).unwrap_or(0)
}

/// The boxes in a value, in pixels of a canvas of this size, which only elements need.
pub(super) fn read(value: &Value, width: i64, height: i64) -> Result<Vec<Map<String, Json>>> {
    let json = match value {
        Value::Null => return Ok(Vec::new()),
        Value::Text(text) if text.trim().is_empty() => return Ok(Vec::new()),
        Value::Text(text) => read_json("bboxes", text)?,
        other => other.to_json(),
    };
    let wrong = || Error::msg("input 'bboxes' must hold boxes with x, y, width and height, or elements with a bbox of four numbers");
    let frame: Vec<Json> = match json {
        Json::Object(_) => vec![json],
        // Boxes of several pictures: those of the first.
        Json::Array(items) => match items.first() {
            Some(Json::Array(first)) => return Ok(first.iter().filter_map(Json::as_object).map(pixels).collect()),
            Some(_) | None => items,
        },
        _ => return Err(wrong()),
    };
    let Some(first) = frame.first() else { return Ok(Vec::new()) };
    let is_element = first.get("bbox").and_then(Json::as_array).is_some_and(|edges| edges.len() == 4);
    let is_box = ["x", "y", "width", "height"].iter().all(|name| first.get(name).is_some());
    let objects = frame.iter().filter_map(Json::as_object);
    if is_element {
        if width <= 0 || height <= 0 {
            return Err(Error::msg("elements with a bbox in thousandths need the size of the canvas; set canvas_width and canvas_height"));
        }
        return objects.map(|element| of_element(element, width, height).ok_or_else(wrong)).collect();
    }
    if is_box { Ok(objects.map(pixels).collect()) } else { Err(wrong()) }
}

fn pixels(of: &Map<String, Json>) -> Map<String, Json> {
    let mut out: Map<String, Json> =
        ["x", "y", "width", "height"].into_iter().map(|name| (name.to_owned(), of.get(name).cloned().unwrap_or(json!(0)))).collect();
    if let Some(meta) = of.get("metadata").filter(|meta| meta.is_object()) {
        out.insert("metadata".into(), meta.clone());
    }
    out
}

/// `bbox` is top, left, bottom and right in thousandths.
fn of_element(element: &Map<String, Json>, width: i64, height: i64) -> Option<Map<String, Json>> {
    let edges: Vec<f64> = element.get("bbox")?.as_array()?.iter().map(python::float_of).collect::<Option<_>>()?;
    let &[top, left, bottom, right] = edges.as_slice() else { return None };
    let across = |edge: f64| (edge / 1000.0 * width as f64).round_ties_even() as i64;
    let down = |edge: f64| (edge / 1000.0 * height as f64).round_ties_even() as i64;
    let is_text = element.get("type").and_then(Json::as_str) == Some("text");
    let told = |name: &str| element.get(name).cloned().unwrap_or(json!(""));
    let box_of = json!({
        "x": across(left.min(right)),
        "y": down(top.min(bottom)),
        "width": across((right - left).abs()),
        "height": down((bottom - top).abs()),
        "metadata": {
            "type": if is_text { "text" } else { "obj" },
            "text": if is_text { told("text") } else { json!("") },
            "desc": told("desc"),
            "palette": element.get("color_palette").filter(|palette| palette.is_array()).cloned().unwrap_or(json!([])),
        },
    });
    box_of.as_object().cloned()
}

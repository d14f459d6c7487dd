//! Boxes that people draw on a canvas, with what each is to hold, and the prompts that are made of them.

use comfyd_imaging::Raster;
use comfyd_imaging::resize::{Crop, Method};
use comfyd_imaging::text::{Bounds, Font, Layer};
use comfyd_node::{Branch, Error, Input, NodeOutput, Result, Schema, Value};
use comfyd_values::Image;
use comfyd_wire::python;
use ndarray::{Array4, Axis, s};
use serde_json::{Map, Value as Json, json};

use super::boxes;
use crate::class::{Call, Class, MAX_RESOLUTION, unknown_choice};
use crate::resize;
use crate::string::case::is_space;

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("CreateBoundingBoxes")
                .display("Create Bounding Boxes")
                .category("utilities")
                .module("comfy_extras.nodes_bounding_boxes")
                .schema_generation()
                .experimental()
                .output_node()
                .hidden_metadata()
                .description("Boxes that you draw on a canvas: as elements of a prompt, in pixels, and as a picture of them.")
                .aliases(["regions", "layout", "ideogram"])
                .input(Input::link("background", "IMAGE").tooltip("What lies behind the boxes.").optional())
                .input(
                    Input::link("bboxes", "BOUNDING_BOX,ARRAY,STRING")
                        .tooltip("What the canvas begins with: boxes, elements, or a JSON text of either. What is drawn stays until this changes.")
                        .optional(),
                )
                .input(Input::int("width").default(1024).min(64).max(MAX_RESOLUTION).step(16).tooltip("Pixels wide."))
                .input(Input::int("height").default(1024).min(64).max(MAX_RESOLUTION).step(16).tooltip("Pixels high."))
                .input(
                    Input::link("editor_state", "BOUNDING_BOXES")
                        .default(json!([]))
                        .option("socketless", false)
                        .tooltip("The boxes, those at the back first, each with its kind, its text, what it shows and its colours."),
                )
                .input(
                    Input::link("last_incoming", "BOUNDING_BOXES")
                        .default(json!([]))
                        .socketless()
                        .tooltip("What the canvas began with last; the canvas keeps it.")
                        .optional(),
                )
                .output_named("IMAGE", "preview")
                .output_named("BOUNDING_BOX", "bboxes")
                .output_named("ARRAY", "elements")
        },
        create,
    ),
    Class::new(
        || {
            Schema::new("BuildJsonPromptIdeogram")
                .display("Build JSON Prompt (Ideogram)")
                .category("text")
                .module("comfy_extras.nodes_json_prompt")
                .schema_generation()
                .experimental()
                .description("Puts a prompt for Ideogram 4 together.")
                .aliases(["structured prompt", "layout"])
                .input(Input::link("element", "ARRAY").tooltip("What is where in the picture, as Create Bounding Boxes gives it."))
                .input(Input::text("high_level_description").multiline().default("").tooltip("The whole picture in a sentence or two."))
                .input(Input::text("background").multiline().default("").tooltip("What is behind all elements."))
                .input(
                    Input::branch(
                        "style",
                        [
                            Branch::new("none", []),
                            Branch::new("photo", [Input::text("photo").default("").tooltip("Camera and lens, for a photograph.")]),
                            Branch::new("art_style", [Input::text("art_style").default("").tooltip("The style, for anything else.")]),
                        ],
                    )
                    .tooltip("What the picture is to look like."),
                )
                .input(Input::text("aesthetics").default("").tooltip("Its mood, in words."))
                .input(Input::text("lighting").default("").tooltip("Its light, in words."))
                .input(Input::text("medium").default("").tooltip("What it is made with: photograph, painting, …"))
                .input(
                    Input::link("color_palette", "COLORS")
                        .default(json!([]))
                        .option("socketless", false)
                        .tooltip("Up to 16 colours that it is to have, as #rrggbb."),
                )
                .output_named("DICT", "prompt")
        },
        build,
    ),
];

/// The longer side of the picture of the boxes, at most.
const LONGEST: usize = 1024;
/// How bright the background is behind the boxes.
const DIM: f32 = 0.25;
/// Colours of a box that are shown and told.
const COLORS: usize = 5;
/// Boxes that are drawn; more would hide each other.
const MOST: usize = 10_000;
const BLACK: [u8; 4] = [0, 0, 0, 255];
const WHITE: [u8; 4] = [255; 4];

/// A box as shares of the canvas.
struct Region {
    x: f64,
    y: f64,
    w: f64,
    h: f64,
    is_text: bool,
    text: Json,
    desc: Json,
    palette: Vec<String>,
}

impl Region {
    fn of(found: &Map<String, Json>, width: f64, height: f64) -> Self {
        let number = |name: &str| found.get(name).and_then(python::float_of).unwrap_or(0.0);
        let meta = found.get("metadata").and_then(Json::as_object);
        let told = |name: &str| meta.and_then(|meta| meta.get(name)).cloned().unwrap_or(json!(""));
        Self {
            x: number("x") / width,
            y: number("y") / height,
            w: number("width") / width,
            h: number("height") / height,
            is_text: told("type") == "text",
            text: told("text"),
            desc: told("desc"),
            palette: palette(&told("palette")),
        }
    }

    /// In pixels of a canvas.
    fn pixels(&self, width: f64, height: f64) -> Json {
        let (x, w) = if self.w < 0.0 { (self.x + self.w, -self.w) } else { (self.x, self.w) };
        let (y, h) = if self.h < 0.0 { (self.y + self.h, -self.h) } else { (self.y, self.h) };
        json!({"x": rounded(x * width), "y": rounded(y * height), "width": rounded(w * width), "height": rounded(h * height)})
    }

    /// As an element of a prompt: edges in thousandths.
    fn element(&self) -> Json {
        let grid = |share: f64| rounded(share * 1000.0).clamp(0, 1000);
        let [top, left, bottom, right] = [self.y, self.x, self.y + self.h, self.x + self.w].map(grid);
        let edges = json!([top.min(bottom), left.min(right), top.max(bottom), left.max(right)]);
        let mut element = match self.is_text {
            true => json!({"type": "text", "bbox": edges, "text": self.text, "desc": self.desc}),
            false => json!({"type": "obj", "bbox": edges, "desc": self.desc}),
        };
        if !self.palette.is_empty() {
            let colors: Vec<String> = self.palette.iter().take(COLORS).map(|color| color.to_uppercase()).collect();
            element["color_palette"] = json!(colors);
        }
        element
    }

    /// What is written into it.
    fn caption(&self) -> String {
        let words = |json: &Json| json.as_str().unwrap_or_default().to_owned();
        let (text, desc) = (words(&self.text), words(&self.desc));
        match (self.is_text && !text.is_empty(), desc.is_empty()) {
            (false, _) => desc,
            (true, true) => format!("\"{text}\""),
            (true, false) => format!("\"{text}\" — {desc}"),
        }
    }
}

fn rounded(value: f64) -> i64 {
    value.round_ties_even() as i64
}

/// The colours of a list, or of an object's values.
fn palette(colors: &Json) -> Vec<String> {
    let all: Vec<&Json> = match colors {
        Json::Array(colors) => colors.iter().collect(),
        Json::Object(colors) => colors.values().collect(),
        _ => Vec::new(),
    };
    all.into_iter().filter_map(Json::as_str).filter(|color| !color.is_empty()).map(str::to_owned).collect()
}

/// `#rrggbb`; white otherwise.
fn rgb(color: &str) -> [u8; 3] {
    let digits = color.trim_start_matches('#');
    let part = |at: usize| digits.get(at..at + 2).and_then(|part| u8::from_str_radix(part, 16).ok());
    match (digits.len(), part(0), part(2), part(4)) {
        (6, Some(r), Some(g), Some(b)) => [r, g, b],
        _ => [255; 3],
    }
}

fn brightness(color: [u8; 3]) -> f64 {
    color.iter().zip([0.299, 0.587, 0.114]).map(|(part, weight)| f64::from(*part) * weight).sum()
}

/// A colour, lighter where it could not be read on the dark background.
fn readable(color: [u8; 3]) -> [u8; 4] {
    const BRIGHT: f64 = 130.0;
    let bright = brightness(color);
    let more = if bright >= BRIGHT { 0.0 } else { (BRIGHT - bright) / (255.0 - bright) };
    let [r, g, b] = color.map(|part| rounded(f64::from(part) + (255.0 - f64::from(part)) * more) as u8);
    [r, g, b, 255]
}

fn create(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (width, height) = (call.int::<i64>("width")?, call.int::<i64>("height")?);
    let incoming = call.inputs.optional("bboxes").map_or(Ok(Vec::new()), |value| boxes::read(value, width, height))?;
    let incoming: Vec<Json> = incoming.into_iter().map(Json::Object).collect();
    let list = |name: &str| match call.inputs.optional(name).map(Value::to_json) {
        Some(Json::Array(items)) => items,
        _ => Vec::new(),
    };
    let is_new = !incoming.is_empty() && incoming != list("last_incoming");
    let source = if is_new { incoming.clone() } else { list("editor_state") };
    let found = source.iter().filter_map(Json::as_object);
    let regions: Vec<Region> = found.map(|found| Region::of(found, width as f64, height as f64)).collect();
    if regions.len() > MOST {
        return Err(Error::msg(format!("there are {} boxes; take at most {MOST}", regions.len())));
    }
    let frame: Vec<Json> = regions.iter().map(|region| region.pixels(width as f64, height as f64)).collect();
    let frames = if frame.is_empty() { json!([]) } else { json!([frame]) };
    let elements: Vec<Json> = regions.iter().map(Region::element).collect();
    let ground = ground(call, width as usize, height as usize)?;
    call.room((ground.0.len() * 2 * size_of::<[f32; 2]>()) as u64)?;
    let preview = call.apart(ground.0.len(), move || shown(&ground, &regions))?;
    let output = NodeOutput::values([Value::from(preview), Value::from(&frames), Value::from(&json!(elements))]);
    let output = output.with_ui("dims", vec![json!(width), json!(height)]);
    Ok(if incoming.is_empty() { output } else { output.with_ui("input_bboxes", incoming) })
}

/// What lies behind the boxes, (1, H, W, 3), dim: the background made as small as wanted, or grey.
fn ground(call: &Call<'_, '_>, width: usize, height: usize) -> Result<Image> {
    let background = call.inputs.optional("background").is_some().then(|| call.image("background")).transpose()?;
    let (width, height) = background.as_ref().map_or((width, height), |image| (image.width(), image.height()));
    let scale = (LONGEST as f64 / width.max(height).max(1) as f64).min(1.0);
    let side = |side: usize| ((side as f64 * scale).round_ties_even() as usize).max(1);
    let (width, height) = (side(width), side(height));
    let Some(background) = background else {
        call.reserve(&[height, width, 3])?;
        return Ok(Image::new(Array4::from_elem((1, height, width, 3), (128.0 * DIM).round_ties_even() / 255.0)));
    };
    let first = Image::new(background.0.slice(s![..1, .., .., ..]).to_owned());
    let small = resize::image(call, &first, width, height, Method::Lanczos, Crop::Disabled)?;
    let (channels, dim) = (small.channels(), |value: f32| ((value * 255.0).clamp(0.0, 255.0).floor() * DIM).floor() / 255.0);
    Ok(Image::new(Array4::from_shape_fn((1, height, width, 3), |(_, y, x, channel)| {
        dim(small.0[[0, y, x, if channels < 3 { 0 } else { channel }]])
    })))
}

/// The boxes above the ground.
fn shown(ground: &Image, regions: &[Region]) -> comfyd_imaging::Result<Image> {
    let (width, height) = (ground.width(), ground.height());
    let size = 10.max((height as f64 / 64.0).round_ties_even() as usize);
    let (font, small) = (Font::new(size)?, Font::new(9.max(size - 2))?);
    let mut layer = Layer::new(width, height)?;
    for (region, number) in regions.iter().zip(1..) {
        draw(&mut layer, [&font, &small], size as i64, region, number, (width as f64, height as f64))?;
    }
    let mut out = ground.0.to_owned();
    for (mut pixel, &[r, g, b, alpha]) in out.lanes_mut(Axis(3)).into_iter().zip(&layer.pixels) {
        pixel.iter_mut().zip([r, g, b]).for_each(|(value, over)| *value = *value * (1.0 - alpha) + over * alpha);
    }
    // As a picture of bytes.
    Ok(Raster::from_image(&Image::new(out.mapv(|value| (value * 255.0).round() / 255.0)), 0)?.to_image())
}

/// One box: its border, its colours, its number and what it is to show.
fn draw(
    layer: &mut Layer,
    [font, small]: [&Font; 2],
    size: i64,
    region: &Region,
    number: usize,
    canvas: (f64, f64),
) -> comfyd_imaging::Result<()> {
    let at = |share: f64, side: f64| rounded(share * side).clamp(0, side as i64);
    let (x1, x2) = (at(region.x, canvas.0), at(region.x + region.w, canvas.0));
    let (y1, y2) = (at(region.y, canvas.1), at(region.y + region.h, canvas.1));
    let (x1, x2, y1, y2) = (x1.min(x2), x1.max(x2), y1.min(y2), y1.max(y2));
    let color = region.palette.first().map_or([140; 3], |color| rgb(color));
    let opaque = |[r, g, b]: [u8; 3]| [r, g, b, 255];
    // The last column and row are drawn too.
    let inclusive = |left: i64, top: i64, right: i64, bottom: i64| Bounds { left, top, right: right + 1, bottom: bottom + 1 };
    layer.frame(inclusive(x1, y1, x2, y2), 2, opaque(color));
    let swatches = &region.palette[..region.palette.len().min(COLORS)];
    if x2 - x1 > 2 {
        let wide = (x2 - x1) as f64 / swatches.len().max(1) as f64;
        for (swatch, at) in swatches.iter().zip(0..) {
            let edge = |at: i32| x1 + rounded(f64::from(at) * wide);
            layer.fill(inclusive(edge(at), y1, edge(at + 1), y1 + 5.max(size / 2)), opaque(rgb(swatch)));
        }
    }
    let tag = format!("{number:02}");
    layer.fill(inclusive(x1, y1, x1 + small.length(&tag) + 6, y1 + size + 2), opaque(color));
    let ink = if brightness(color) > 140.0 { BLACK } else { WHITE };
    layer.lines(small, &[((x1 + 3, y1 + 1), &tag)], ink, None)?;
    if x2 - x1 > 8 {
        let lines = wrapped(&region.caption(), x2 - x1 - 8, font);
        let places = (0..).map(|line| (x1 + 4, y1 + size + 5 + line * (size + 2))).take_while(|(_, y)| *y <= y2);
        let lines: Vec<((i64, i64), &str)> = places.zip(lines.iter().map(String::as_str)).collect();
        layer.lines(font, &lines, readable(color), None)?;
    }
    Ok(())
}

/// Lines that are broken between words.
fn wrapped(text: &str, most: i64, font: &Font) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.split('\n').filter(|_| !text.is_empty()) {
        let (mut line, mut wide) = (String::new(), 0);
        for word in paragraph.split_whitespace() {
            let own = font.length(word);
            let joined = if line.is_empty() { own } else { wide + font.advance(' ') + own };
            if !line.is_empty() && joined > most {
                lines.push(std::mem::replace(&mut line, word.to_owned()));
                wide = own;
            } else {
                if !line.is_empty() {
                    line.push(' ');
                }
                line.push_str(word);
                wide = joined;
            }
        }
        lines.push(line);
    }
    lines
}

fn build(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let elements = match call.inputs.value("element")?.to_json() {
        Json::Array(elements) => Json::Array(elements),
        _ => json!([]),
    };
    let text = |name: &str| call.text(name).map(str::to_owned);
    let colors = call.inputs.optional("color_palette").map(Value::to_json).unwrap_or_default();
    let colors: Vec<String> = palette(&colors).iter().map(|color| color.to_uppercase()).collect();
    let mut prompt = Map::new();
    let whole = text("high_level_description")?;
    if !whole.chars().all(is_space) {
        prompt.insert("high_level_description".into(), whole.into());
    }
    let kind = call.text("style")?;
    if kind != "none" {
        let mut style = json!({"aesthetics": text("aesthetics")?, "lighting": text("lighting")?});
        match kind {
            "photo" => {
                style["photo"] = text("style.photo")?.into();
                style["medium"] = text("medium")?.into();
            }
            "art_style" => {
                style["medium"] = text("medium")?.into();
                style["art_style"] = text("style.art_style")?.into();
            }
            other => return Err(unknown_choice("style", other)),
        }
        if !colors.is_empty() {
            style["color_palette"] = json!(colors);
        }
        prompt.insert("style_description".into(), style);
    }
    prompt.insert("compositional_deconstruction".into(), json!({"background": text("background")?, "elements": elements}));
    Ok(NodeOutput::one(Value::from(&Json::Object(prompt))))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn numbers_are_read_as_python_reads_them() {
        let told = |bbox: Json| boxes::read(&Value::from(&json!([{"bbox": bbox}])), 1000, 100);
        let found = told(json!(["0", " 100 ", true, "1e2"])).unwrap();
        assert_eq!([&found[0]["x"], &found[0]["width"], &found[0]["height"]], [&json!(100), &json!(0), &json!(0)]);
        assert!(told(json!(["zero", 1, 2, 3])).is_err());
        let found = json!({"x": true, "y": 5});
        let region = Region::of(found.as_object().unwrap(), 10.0, 10.0);
        assert_eq!((region.x, region.y, region.w), (0.1, 0.5, 0.0));
    }
}

//! Pictures in layers, and the picture that they make.

use std::sync::Arc;

use comfyd_folders::Kind;
use comfyd_imaging::layers::{self, Blend, Canvas, Place};
use comfyd_node::{Error, Input, NodeOutput, Opaque, Result, Schema, Value};
use comfyd_values::{Image, Mask};
use comfyd_wire::python::repr_float;
use ndarray::{Axis, s};
use serde_json::{Map, Value as Json, json};
use sha2::{Digest, Sha256};

use super::boxes;
use crate::class::{Call, Class, MAX_RESOLUTION};
use crate::saving;

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("ImageCompositor")
                .display("Create Layered Image")
                .category("image")
                .module("comfy_extras.nodes_compositor")
                .schema_generation()
                .experimental()
                .description("Puts layers together to one picture. The editor on the node moves, turns and blends them.")
                .aliases(["photoshop", "psd", "stack", "collage"])
                .input(Input::link("layers", "LAYERS").tooltip("The layers."))
                .input(Input::link("compositor", "COMPOSITOR").default(json!({})).socketless().tooltip("What the editor keeps of them."))
                .hidden_metadata()
                .output("IMAGE")
                .output("MASK")
                .output_node()
                .intermediate_output()
        },
        composite,
    ),
    Class::new(
        || {
            Schema::new("AddLayer")
                .display("Add Layer")
                .category("image")
                .module("comfy_extras.nodes_compositor")
                .schema_generation()
                .experimental()
                .description("Adds a picture to a stack of layers.")
                .aliases(["stack", "collage"])
                .input(Input::link("image", "IMAGE").tooltip("The picture; each of a batch becomes a layer."))
                .input(Input::link("layers", "LAYERS").tooltip("The stack that it is added to; without one a new one is begun.").optional())
                .input(Input::link("mask", "MASK").tooltip("What of it is transparent.").optional())
                .input(Input::text("name").default("").tooltip("A name for people.").optional())
                .input(Input::int("x").default(0).min(-16384).max(MAX_RESOLUTION).tooltip("Left edge on the canvas.").optional())
                .input(Input::int("y").default(0).min(-16384).max(MAX_RESOLUTION).tooltip("Upper edge on the canvas.").optional())
                .input(Input::float("opacity").default(1.0).min(0.0).max(1.0).step(0.01).tooltip("How much of it is seen.").optional())
                .input(
                    Input::combo(
                        "blend_mode",
                        [
                            "normal",
                            "multiply",
                            "screen",
                            "overlay",
                            "darken",
                            "lighten",
                            "color-dodge",
                            "color-burn",
                            "hard-light",
                            "soft-light",
                            "difference",
                            "exclusion",
                            "linear-dodge",
                            "linear-burn",
                            "vivid-light",
                            "pin-light",
                            "linear-light",
                            "hard-mix",
                            "subtract",
                            "divide",
                            "grain-extract",
                            "grain-merge",
                            "hue",
                            "saturation",
                            "color",
                            "luminosity",
                        ],
                    )
                    .default("normal")
                    .tooltip("How it changes what is below.")
                    .optional(),
                )
                .input(
                    Input::float("rotation")
                        .default(0.0)
                        .min(-360.0)
                        .max(360.0)
                        .step(1.0)
                        .tooltip("By how many degrees it is turned clockwise.")
                        .optional(),
                )
                .input(Input::int("width").default(0).min(0).max(MAX_RESOLUTION).tooltip("Width on the canvas; 0 is its own.").optional())
                .input(Input::int("height").default(0).min(0).max(MAX_RESOLUTION).tooltip("Height on the canvas; 0 is its own.").optional())
                .input(Input::int("z_index").default(0).min(-1000).max(1000).tooltip("Layers of a higher number lie above.").optional())
                .input(Input::bool("flip_h").default(false).tooltip("Mirrors it left to right.").optional())
                .input(Input::bool("flip_v").default(false).tooltip("Mirrors it upside down.").optional())
                .output("LAYERS")
        },
        add,
    ),
    Class::new(
        || {
            Schema::new("LayersFromBoundingBoxes")
                .display("Layers From Bounding Boxes")
                .category("image")
                .module("comfy_extras.nodes_compositor")
                .schema_generation()
                .experimental()
                .description("Makes layers of a batch of pictures, each placed by a box.")
                .aliases(["stack", "boxes"])
                .input(Input::link("image", "IMAGE").tooltip("The pictures."))
                .input(
                    Input::link("bboxes", "BOUNDING_BOX,ARRAY,STRING")
                        .tooltip("A box for each picture: x, y, width and height, or an element with a bbox in thousandths."),
                )
                .input(Input::link("mask", "MASK").tooltip("What of each picture is transparent.").optional())
                .input(Input::link("layers", "LAYERS").tooltip("The stack that they are added to.").optional())
                .input(
                    Input::bool("crop_to_content")
                        .default(true)
                        .tooltip("Cuts pictures to the content_rect that their boxes tell.")
                        .optional(),
                )
                .input(
                    Input::int("canvas_width")
                        .default(0)
                        .min(0)
                        .max(MAX_RESOLUTION)
                        .tooltip("Width of the canvas; 0 is as wide as the layers reach.")
                        .optional(),
                )
                .input(
                    Input::int("canvas_height")
                        .default(0)
                        .min(0)
                        .max(MAX_RESOLUTION)
                        .tooltip("Height of the canvas; 0 is as high as the layers reach.")
                        .optional(),
                )
                .output("LAYERS")
        },
        from_boxes,
    ),
];

/// Layers of one picture.
const MAX_LAYERS: usize = 50;

/// A picture of a stack; each of a batch becomes a layer.
#[derive(Debug, Clone)]
struct Item {
    image: Image,
    mask: Option<Mask>,
    name: Option<Arc<str>>,
    x: i64,
    y: i64,
    width: Option<i64>,
    height: Option<i64>,
    /// Clockwise, in radians.
    rotation: f64,
    opacity: f64,
    blend: Arc<str>,
    z_index: i64,
    flip_h: bool,
    flip_v: bool,
}

/// `LAYERS`.
#[derive(Debug, Clone, Default)]
struct Layers {
    items: Vec<Item>,
    canvas: Option<(i64, i64)>,
}

impl Opaque for Layers {
    fn type_name(&self) -> &'static str {
        "LAYERS"
    }

    fn size_bytes(&self) -> usize {
        self.items.iter().map(|item| item.image.size_bytes() + item.mask.as_ref().map_or(0, Opaque::size_bytes)).sum()
    }

    fn describe(&self) -> String {
        format!("a stack of {} layers", self.items.len())
    }
}

/// One layer: a picture of an item, and its mask.
struct Frame<'a> {
    item: &'a Item,
    image: Image,
    alpha: Option<Mask>,
}

impl Frame<'_> {
    fn size(&self) -> (i64, i64) {
        let or = |wanted: Option<i64>, own: usize| wanted.unwrap_or(own as i64);
        (or(self.item.width, self.image.width()), or(self.item.height, self.image.height()))
    }

    fn place(&self) -> Place {
        let (Item { x, y, rotation, flip_h, flip_v, .. }, (width, height)) = (self.item, self.size());
        let [x, y, width, height] = [*x, *y, width, height].map(|side| side as f64);
        Place { x, y, width, height, rotation: *rotation, flip_h: *flip_h, flip_v: *flip_v }
    }

    /// What tells whether the editor's state belongs to this layer: the reference's own print of it.
    fn fingerprint(&self) -> Result<String> {
        let raster = layers::raster(&self.image, self.alpha.as_ref()).map_err(Error::other)?;
        let mut hash = Sha256::new();
        let shape: Vec<String> = self.image.0.shape().iter().map(usize::to_string).collect();
        hash.update(format!("({})", shape.join(", ")));
        let pixels = raster.data().as_chunks::<4>().0;
        hash.update(pixels.iter().flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect::<Vec<u8>>());
        if self.alpha.is_some() {
            hash.update(pixels.iter().map(|pixel| pixel[3]).collect::<Vec<u8>>());
        }
        let Item { x, y, rotation, opacity, blend, flip_h, flip_v, .. } = self.item;
        let (width, height) = self.size();
        let truth = |yes: bool| if yes { "True" } else { "False" };
        hash.update(format!(
            "({x}, {y}, {width}, {height}, {}, {}, '{blend}', True, {}, {})",
            repr_float(*rotation),
            repr_float(*opacity),
            truth(*flip_h),
            truth(*flip_v)
        ));
        Ok(hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
    }

    fn told(&self) -> Json {
        let Item { x, y, rotation, name, opacity, blend, flip_h, flip_v, .. } = self.item;
        let (width, height) = self.size();
        json!({
            "x": x, "y": y, "width": width, "height": height, "rotation": rotation, "name": name.as_deref(), "visible": true,
            "opacity": opacity, "blend": &**blend, "flipH": flip_h, "flipV": flip_v,
        })
    }
}

/// The layers of a stack, lowest first.
fn frames(stack: &Layers) -> Result<Vec<Frame<'_>>> {
    let mut items: Vec<&Item> = stack.items.iter().collect();
    items.sort_by_key(|item| item.z_index);
    let count: usize = items.iter().map(|item| item.image.batch()).sum();
    if count > MAX_LAYERS {
        return Err(Error::msg(format!("{count} layers are more than the {MAX_LAYERS} that a picture may have; leave some out")));
    }
    let mut frames = Vec::new();
    for item in items {
        for index in 0..item.image.batch() {
            let image = Image(item.image.0.clone().slice_move(s![index..index + 1, .., .., ..]));
            let mask = item.mask.as_ref().and_then(|mask| mask_of(mask, index));
            let alpha = layers::alpha(&image, mask.as_ref()).map_err(Error::other)?;
            frames.push(Frame { item, image, alpha });
        }
    }
    Ok(frames)
}

/// The mask of one picture of a batch: the only one, or that of its place.
fn mask_of(masks: &Mask, index: usize) -> Option<Mask> {
    let index = if masks.batch() == 1 { 0 } else { index };
    (index < masks.batch()).then(|| Mask(masks.0.clone().slice_move(s![index..index + 1, .., ..])))
}

/// A layer as it is put on the canvas.
struct Put {
    index: usize,
    place: Place,
    blend: Blend,
    opacity: f32,
}

/// A whole composition: the canvas, what covers it, the layers from the lowest on.
struct Composition {
    width: i64,
    height: i64,
    ground: Option<([u8; 3], f32)>,
    puts: Vec<Put>,
}

impl Composition {
    /// As the stack has it.
    fn of(stack: &Layers, frames: &[Frame<'_>]) -> Self {
        let reach = || {
            frames.iter().fold((1, 1), |(width, height), frame| {
                let [x, y, own_width, own_height] = frame.place().bounds();
                (width.max(x + own_width), height.max(y + own_height))
            })
        };
        let (width, height) = stack.canvas.unwrap_or_else(reach);
        let put = |(index, frame): (usize, &Frame<'_>)| Put {
            index,
            place: frame.place(),
            blend: Blend::named(&frame.item.blend).unwrap_or(Blend::Normal),
            opacity: frame.item.opacity.clamp(0.0, 1.0) as f32,
        };
        Self { width, height, ground: None, puts: frames.iter().enumerate().map(put).collect() }
    }

    /// As the editor left it; `None` where that belongs to other layers.
    fn edited(state: &Json, frames: &[Frame<'_>], prints: &[String]) -> Option<Self> {
        let text = state.as_str().and_then(|text| boxes::read_json("compositor", text).ok());
        let state = text.as_ref().unwrap_or(state).as_object()?;
        if state.get("version").is_some_and(|version| !version.is_null() && version.as_i64() != Some(1)) {
            return None;
        }
        let entries = state.get("layers")?.as_array().filter(|entries| !entries.is_empty())?;
        let known: Vec<&str> = state.get("inputs")?.as_array()?.iter().map(Json::as_str).collect::<Option<_>>()?;
        if known != prints || entries.len() != frames.len() {
            return None;
        }
        let side = |name: &str| {
            let side = state.get("canvas")?.get(name)?;
            let side = side.as_f64().or_else(|| side.as_str()?.trim().parse().ok()).filter(|side| side.is_finite())?;
            Some(side.round_ties_even() as i64).filter(|side| *side > 0)
        };
        let (width, height) = (side("w")?, side("h")?);
        let ground = state.get("background").and_then(Json::as_object).filter(|ground| truth(ground.get("visible"), true));
        let ground = ground.map(|ground| (color(ground.get("color")), number(Some(ground), "opacity", 1.0).clamp(0.0, 1.0) as f32));
        let order = state.get("order").and_then(Json::as_array).and_then(|order| {
            let order = order.iter().map(|index| usize::try_from(index.as_u64()?).ok()).collect::<Option<Vec<_>>>()?;
            let mut sorted = order.clone();
            sorted.sort_unstable();
            sorted.into_iter().eq(0..frames.len()).then_some(order)
        });
        let order = order.unwrap_or_else(|| (0..frames.len()).collect());
        let puts = order.into_iter().filter_map(|index| edited(index, entries[index].as_object(), &frames[index].image));
        Some(Self { width, height, ground: ground.filter(|(_, opacity)| *opacity > 0.0), puts: puts.collect() })
    }
}

/// Python's truth of a value.
fn truth(value: Option<&Json>, absent: bool) -> bool {
    match value {
        None => absent,
        Some(Json::Null) => false,
        Some(Json::Bool(yes)) => *yes,
        Some(Json::Number(number)) => number.as_f64() != Some(0.0),
        Some(Json::String(text)) => !text.is_empty(),
        Some(Json::Array(items)) => !items.is_empty(),
        Some(Json::Object(members)) => !members.is_empty(),
    }
}

fn number(object: Option<&Map<String, Json>>, name: &str, absent: f64) -> f64 {
    object.and_then(|object| object.get(name)?.as_f64()).filter(|number| number.is_finite()).unwrap_or(absent)
}

/// `#rgb` or `#rrggbb`; white otherwise.
fn color(value: Option<&Json>) -> [u8; 3] {
    let text = value.and_then(Json::as_str).unwrap_or_default().trim().to_lowercase();
    let digits = text.strip_prefix('#').filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit())).unwrap_or_default();
    let digits: String = if digits.len() == 3 { digits.chars().flat_map(|digit| [digit, digit]).collect() } else { digits.into() };
    let part = |at: usize| digits.get(at..at + 2).and_then(|part| u8::from_str_radix(part, 16).ok());
    match (digits.len(), part(0), part(2), part(4)) {
        (6, Some(r), Some(g), Some(b)) => [r, g, b],
        _ => [255; 3],
    }
}

/// A layer as the editor left it; `None` if it is hidden.
fn edited(index: usize, entry: Option<&Map<String, Json>>, image: &Image) -> Option<Put> {
    if !truth(entry.and_then(|entry| entry.get("visible")), true) {
        return None;
    }
    let transform = entry.and_then(|entry| entry.get("transform")?.as_object());
    let most = MAX_RESOLUTION as f64;
    let at = |name: &str| number(transform, name, 0.0).clamp(-most, most);
    let size = |name: &str, own: usize| match number(transform, name, own as f64) {
        size if size <= 0.0 => own as f64,
        size => size.min(most),
    };
    let flip = |name: &str| truth(entry.and_then(|entry| entry.get(name)), false);
    let place = Place {
        x: at("x"),
        y: at("y"),
        width: size("w", image.width()),
        height: size("h", image.height()),
        rotation: number(transform, "rotation", 0.0),
        flip_h: flip("flipH"),
        flip_v: flip("flipV"),
    };
    let blend = entry.and_then(|entry| Blend::named(entry.get("blend")?.as_str()?)).unwrap_or(Blend::Normal);
    Some(Put { index, place, blend, opacity: number(entry, "opacity", 1.0).clamp(0.0, 1.0) as f32 })
}

fn composite(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let stack = call.inputs.get::<Layers>("layers")?;
    let frames = frames(&stack)?;
    let state = call.inputs.optional("compositor").map(Value::to_json).unwrap_or_default();
    let (mut shown, mut prints) = (Vec::new(), Vec::new());
    for frame in &frames {
        call.cx.check_cancelled()?;
        let raster = layers::raster(&frame.image, frame.alpha.as_ref()).map_err(Error::other)?;
        call.reserve(&[raster.height(), raster.width(), 4])?;
        let preview = if frame.alpha.is_some() { raster.to_image() } else { raster.to_rgb().to_image() };
        shown.extend(saving::saved_png(call, &preview, Kind::Temp, &call.state.preview_prefix, saving::PREVIEW_COMPRESSION)?);
        prints.push(frame.fingerprint()?);
    }
    let edited = if frames.is_empty() { None } else { Composition::edited(&state, &frames, &prints) };
    let is_given = match &state {
        Json::Object(state) => !state.is_empty(),
        Json::String(text) => !matches!(text.as_str(), "" | "{}"),
        _ => false,
    };
    let stale = is_given && edited.is_none();
    let picture = match edited.or_else(|| (!frames.is_empty()).then(|| Composition::of(&stack, &frames))) {
        Some(composition) => drawn(call, &frames, &composition)?,
        None => Image::solid(1, 64, 64, 0),
    };
    let (picture, mask) = with_mask(picture);
    let saved = saving::saved_png(call, &picture, Kind::Temp, &call.state.preview_prefix, saving::PREVIEW_COMPRESSION)?;
    let output = NodeOutput::values([Value::from(picture), Value::from(mask)])
        .with_ui("images", saved)
        .with_ui("animated", vec![false.into()])
        .with_ui("compositor_layers", shown)
        .with_ui("compositor_inputs", prints.into_iter().map(Json::String).collect())
        .with_ui("compositor_bboxes", frames.iter().map(Frame::told).collect());
    Ok(if stale { output.with_ui("compositor_state_stale", vec![true.into()]) } else { output })
}

fn drawn(call: &Call<'_, '_>, frames: &[Frame<'_>], composition: &Composition) -> Result<Image> {
    let Composition { width, height, ground, puts } = composition;
    if [*width, *height].iter().any(|side| !(1..=MAX_RESOLUTION).contains(side)) {
        return Err(Error::msg(format!(
            "a canvas of {width} x {height} pixels is beyond {MAX_RESOLUTION} x {MAX_RESOLUTION}; make it smaller"
        )));
    }
    let (width, height) = (*width as usize, *height as usize);
    // The canvas and the result.
    call.reserve(&[2, height, width, 4])?;
    let ground = *ground;
    let mut canvas = call.aside(width * height * 4, move || {
        let mut canvas = Canvas::new(width, height);
        if let Some((color, opacity)) = ground {
            canvas.fill(color, opacity);
        }
        canvas
    })?;
    for (done, Put { index, place, blend, opacity }) in puts.iter().enumerate() {
        call.cx.progress(done as f64, puts.len() as f64)?;
        let (frame, place, blend, opacity) = (&frames[*index], *place, *blend, *opacity);
        let layer = layers::raster(&frame.image, frame.alpha.as_ref()).map_err(Error::other)?;
        // Scaled, turned, and premultiplied.
        let [_, _, across, down] = place.bounds();
        call.reserve(&[3, across.unsigned_abs() as usize, down.unsigned_abs() as usize])?;
        canvas = call.apart(usize::MAX, move || {
            canvas.put(layer, &place, blend, opacity)?;
            Ok(canvas)
        })?;
    }
    call.aside(width * height * 4, move || canvas.finish())
}

/// Three channels if nothing of it is transparent, and what is.
fn with_mask(picture: Image) -> (Image, Mask) {
    let (height, width) = (picture.height(), picture.width());
    if picture.channels() != 4 {
        return (picture, Mask::solid(1, height, width, 0.0));
    }
    if layers::is_opaque(picture.0.index_axis(Axis(0), 0)) {
        return (Image(picture.0.slice_move(s![.., .., .., ..3])), Mask::solid(1, height, width, 0.0));
    }
    let mask = picture.0.slice(s![.., .., .., 3]).mapv(|alpha| (1.0 - alpha).clamp(0.0, 1.0));
    (picture, Mask::new(mask))
}

/// The stack of the optional input `layers`.
fn before(call: &Call<'_, '_>) -> Result<Layers> {
    Ok(call.inputs.get_optional::<Layers>("layers")?.map(|layers| layers.as_ref().clone()).unwrap_or_default())
}

fn add(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let or = |name: &str, absent: f64| call.inputs.optional(name).map_or(Ok(absent), |_| call.float(name));
    let whole = |name: &str| call.inputs.optional(name).map_or(Ok(0), |_| call.int::<i64>(name));
    let text = |name: &str| call.inputs.optional(name).map_or(Ok(""), |_| call.text(name));
    let blend = match text("blend_mode")? {
        "" => "normal",
        blend => blend,
    };
    if Blend::named(blend).is_none() {
        return Err(crate::class::unknown_choice("blend_mode", blend));
    }
    let item = Item {
        image: call.image("image")?,
        mask: call.mask_optional("mask")?,
        name: Some(text("name")?).filter(|name| !name.is_empty()).map(Into::into),
        x: whole("x")?,
        y: whole("y")?,
        width: Some(whole("width")?).filter(|width| *width > 0),
        height: Some(whole("height")?).filter(|height| *height > 0),
        rotation: or("rotation", 0.0)?.to_radians(),
        opacity: or("opacity", 1.0)?,
        blend: blend.into(),
        z_index: whole("z_index")?,
        flip_h: call.bool_or("flip_h", false)?,
        flip_v: call.bool_or("flip_v", false)?,
    };
    let mut stack = before(call)?;
    stack.items.push(item);
    Ok(NodeOutput::one(Value::object(stack)))
}

fn from_boxes(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let images = call.image("image")?;
    let masks = call.mask_optional("mask")?;
    let side = |name: &str| call.inputs.optional(name).map_or(Ok(0), |_| call.int::<i64>(name));
    let (width, height) = (side("canvas_width")?, side("canvas_height")?);
    let boxes = boxes::read(call.inputs.value("bboxes")?, width, height)?;
    let cut = call.bool_or("crop_to_content", true)?;
    let mut stack = before(call)?;
    let lowest = stack.items.iter().map(|item| item.z_index).max().unwrap_or(-1) + 1;
    let empty = Map::new();
    for index in 0..images.batch() {
        let place = boxes.get(index).unwrap_or(&empty);
        let meta = place.get("metadata").and_then(Json::as_object).unwrap_or(&empty);
        let mut image = Image(images.0.clone().slice_move(s![index..index + 1, .., .., ..]));
        let mut mask = masks.as_ref().and_then(|masks| mask_of(masks, index));
        let (mut x, mut y) = (boxes::whole(place.get("x")), boxes::whole(place.get("y")));
        let sized = |name: &str| Some(boxes::whole(place.get(name))).filter(|side| *side > 0);
        let (mut own_width, mut own_height) = (sized("width"), sized("height"));
        if let Some([left, top, across, down]) = meta.get("content_rect").filter(|_| cut).and_then(content) {
            let (most_x, most_y) = (image.width() as i64, image.height() as i64);
            let (left, top) = (left.clamp(0, most_x), top.clamp(0, most_y));
            let (across, down) = (across.clamp(0, most_x - left), down.clamp(0, most_y - top));
            if across > 0 && down > 0 {
                let range = |from: i64, length: i64| from as usize..(from + length) as usize;
                image = Image(image.0.slice_move(s![.., range(top, down), range(left, across), ..]));
                mask = mask.map(|mask| {
                    let within = |range: std::ops::Range<usize>, most: usize| range.start.min(most)..range.end.min(most);
                    let (rows, columns) = (within(range(top, down), mask.height()), within(range(left, across), mask.width()));
                    Mask(mask.0.slice_move(s![.., rows, columns]))
                });
                (x, y) = (x + left, y + top);
                (own_width, own_height) = (None, None);
            }
        }
        let text = |name: &str| meta.get(name).and_then(Json::as_str).filter(|text| !text.is_empty());
        stack.items.push(Item {
            image,
            mask: mask.filter(|mask| !mask.0.is_empty()),
            name: text("name").or_else(|| text("desc")).map(Into::into),
            x,
            y,
            width: own_width,
            height: own_height,
            rotation: 0.0,
            opacity: 1.0,
            blend: "normal".into(),
            z_index: meta.get("z_index").filter(|z| z.is_number()).map_or(lowest + index as i64, |z| boxes::whole(Some(z))),
            flip_h: false,
            flip_v: false,
        });
    }
    if width > 0 && height > 0 {
        stack.canvas = Some((width, height));
    }
    Ok(NodeOutput::one(Value::object(stack)))
}

/// Left, top, width and height.
fn content(rect: &Json) -> Option<[i64; 4]> {
    let sides: Vec<i64> = rect.as_array()?.iter().map(|side| boxes::whole(Some(side))).collect();
    sides.try_into().ok()
}

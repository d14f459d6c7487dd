//! Pictures in layers: scaled, turned and flipped as Pillow does it, and blended one over the other in linear light. Knows no document and no node.

use comfyd_values::{Image, Mask};
use ndarray::{Array3, Array4, ArrayView3, Axis, s};

use crate::color::multiplied;
use crate::resample::{self, Filter};
use crate::{Error, Raster, Result, resize};

/// How a layer changes what is below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Blend {
    Normal,
    Multiply,
    Screen,
    Overlay,
    Darken,
    Lighten,
    ColorDodge,
    ColorBurn,
    HardLight,
    SoftLight,
    Difference,
    Exclusion,
    LinearDodge,
    LinearBurn,
    VividLight,
    PinLight,
    LinearLight,
    HardMix,
    Subtract,
    Divide,
    GrainExtract,
    GrainMerge,
    Hue,
    Saturation,
    Color,
    Luminosity,
}

impl Blend {
    /// All of them, by their names.
    pub const ALL: [(&'static str, Self); 26] = [
        ("normal", Self::Normal),
        ("multiply", Self::Multiply),
        ("screen", Self::Screen),
        ("overlay", Self::Overlay),
        ("darken", Self::Darken),
        ("lighten", Self::Lighten),
        ("color-dodge", Self::ColorDodge),
        ("color-burn", Self::ColorBurn),
        ("hard-light", Self::HardLight),
        ("soft-light", Self::SoftLight),
        ("difference", Self::Difference),
        ("exclusion", Self::Exclusion),
        ("linear-dodge", Self::LinearDodge),
        ("linear-burn", Self::LinearBurn),
        ("vivid-light", Self::VividLight),
        ("pin-light", Self::PinLight),
        ("linear-light", Self::LinearLight),
        ("hard-mix", Self::HardMix),
        ("subtract", Self::Subtract),
        ("divide", Self::Divide),
        ("grain-extract", Self::GrainExtract),
        ("grain-merge", Self::GrainMerge),
        ("hue", Self::Hue),
        ("saturation", Self::Saturation),
        ("color", Self::Color),
        ("luminosity", Self::Luminosity),
    ];

    /// The one of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, blend)| *blend)
    }

    /// Whether it works on linear light, not on values as screens show them.
    fn is_linear(self) -> bool {
        use Blend::{Darken, Divide, Lighten, LinearDodge, Luminosity, Multiply, Normal, Subtract};
        matches!(self, Normal | Multiply | Darken | Lighten | LinearDodge | Subtract | Divide | Luminosity)
    }
}

const NEAR_ZERO: f32 = 1e-6;

/// Where a layer lies: in pixels of the canvas, turned clockwise about its middle by so many radians.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Place {
    /// Left edge before it is turned.
    pub x: f64,
    /// Upper edge before it is turned.
    pub y: f64,
    /// Width before it is turned.
    pub width: f64,
    /// Height before it is turned.
    pub height: f64,
    /// Clockwise.
    pub rotation: f64,
    /// Mirrored left to right.
    pub flip_h: bool,
    /// Mirrored upside down.
    pub flip_v: bool,
}

impl Place {
    /// Left, top, width and height of the rectangle around it.
    pub fn bounds(&self) -> [i64; 4] {
        let (cx, cy) = (self.x + self.width / 2.0, self.y + self.height / 2.0);
        let (sin, cos) = self.rotation.sin_cos();
        let (hw, hh) = (self.width / 2.0, self.height / 2.0);
        let corners = [(-hw, -hh), (hw, -hh), (hw, hh), (-hw, hh)];
        let xs = corners.map(|(dx, dy)| cx + dx * cos - dy * sin);
        let ys = corners.map(|(dx, dy)| cy + dx * sin + dy * cos);
        let ends = |values: [f64; 4]| {
            let (low, high) =
                (values.iter().copied().fold(f64::INFINITY, f64::min), values.iter().copied().fold(f64::NEG_INFINITY, f64::max));
            (low.floor() as i64, high.ceil() as i64)
        };
        let ((left, right), (top, bottom)) = (ends(xs), ends(ys));
        [left, top, (right - left).max(1), (bottom - top).max(1)]
    }
}

/// How much is there of each pixel of a picture (1, H, W, C): its alpha, less what a mask hides; `None` if all of it.
///
/// # Errors
/// If the mask cannot be scaled to the picture.
pub fn alpha(picture: &Image, mask: Option<&Mask>) -> Result<Option<Mask>> {
    let own = (picture.channels() == 4).then(|| Mask(picture.0.clone().slice_move(s![.., .., .., 3])));
    let Some(mask) = mask else { return Ok(own) };
    let mask = match (mask.height(), mask.width()) == (picture.height(), picture.width()) {
        true => mask.clone(),
        false => resize::mask(mask, picture.width(), picture.height(), resize::Method::Bilinear, resize::Crop::Disabled)?,
    };
    let shown = mask.0.mapv(|value| (1.0 - value).clamp(0.0, 1.0));
    Ok(Some(Mask(match own {
        Some(own) => (&own.0 * &shown).into_shared(),
        None => shown.into_shared(),
    })))
}

/// A picture (1, H, W, >= 3) with its alpha in eight bits, rounded.
///
/// # Errors
/// If it has no colours.
pub fn raster(picture: &Image, alpha: Option<&Mask>) -> Result<Raster> {
    if picture.channels() < 3 {
        return Err(Error::Shape(format!("a layer of {} channels has no colours", picture.channels())));
    }
    let level = |value: f32| (value * 255.0).round_ties_even().clamp(0.0, 255.0) as u8;
    let mut data = Vec::with_capacity(picture.height() * picture.width() * 4);
    let pixels = picture.0.slice(s![0, .., .., ..3]);
    for ((y, x), _) in pixels.index_axis(Axis(2), 0).indexed_iter() {
        data.extend((0..3).map(|channel| level(pixels[[y, x, channel]])));
        data.push(alpha.map_or(255, |alpha| level(alpha.0[[0, y, x]])));
    }
    Raster::new(picture.width(), picture.height(), 4, data)
}

/// What layers are put on: red, green, blue in linear light and alpha, all zero at first.
pub struct Canvas(Array3<f32>);

impl Canvas {
    /// One of a size.
    pub fn new(width: usize, height: usize) -> Self {
        Self(Array3::zeros((height, width, 4)))
    }

    /// Covers it with a colour of eight bits.
    pub fn fill(&mut self, color: [u8; 3], opacity: f32) {
        let [r, g, b] = color.map(|value| to_linear(f32::from(value) / 255.0));
        for mut pixel in self.0.lanes_mut(Axis(2)) {
            let below = [pixel[0], pixel[1], pixel[2], pixel[3]];
            let above = [r, g, b, 1.0];
            pixel.iter_mut().zip(composited(Blend::Normal, below, above, opacity)).for_each(|(value, new)| *value = new);
        }
    }

    /// Puts a layer (RGBA) on it.
    ///
    /// # Errors
    /// If it cannot be scaled or turned.
    pub fn put(&mut self, layer: Raster, place: &Place, blend: Blend, opacity: f32) -> Result<()> {
        let layer = prepared(layer, place)?;
        let [left, top, width, height] = place.bounds();
        let (canvas_height, canvas_width, _) = self.0.dim();
        // The turned picture lies in the middle of the rectangle around the place.
        let inset = |room: i64, length: usize| (room - length as i64).div_euclid(2);
        let (dx, dy) = (left + inset(width, layer.width()), top + inset(height, layer.height()));
        let within = |from: i64, length: i64, most: usize| from.max(0)..(from + length).min(most as i64).max(from.max(0));
        for y in within(top, height, canvas_height) {
            for x in within(left, width, canvas_width) {
                let (from_x, from_y) = (x - dx, y - dy);
                let inside = (0..layer.width() as i64).contains(&from_x) && (0..layer.height() as i64).contains(&from_y);
                let above = if inside {
                    let at = 4 * (from_y as usize * layer.width() + from_x as usize);
                    let [r, g, b, alpha]: [f32; 4] = std::array::from_fn(|channel| f32::from(layer.data()[at + channel]) / 255.0);
                    [to_linear(r), to_linear(g), to_linear(b), alpha]
                } else {
                    [0.0; 4]
                };
                let mut pixel = self.0.slice_mut(s![y as usize, x as usize, ..]);
                let below = [pixel[0], pixel[1], pixel[2], pixel[3]];
                pixel.iter_mut().zip(composited(blend, below, above, opacity)).for_each(|(value, new)| *value = new);
            }
        }
        Ok(())
    }

    /// The picture (1, H, W, 4) as screens show it.
    pub fn finish(self) -> Image {
        let (height, width, _) = self.0.dim();
        let mut out = self.0;
        for mut pixel in out.lanes_mut(Axis(2)) {
            for channel in 0..4 {
                let value = pixel[channel].clamp(0.0, 1.0);
                pixel[channel] = if channel < 3 { to_shown(value) } else { value };
            }
        }
        Image::new(out.into_shape_with_order((1, height, width, 4)).unwrap_or_else(|_| Array4::zeros((1, height, width, 4))))
    }
}

/// Flipped, scaled and turned.
fn prepared(layer: Raster, place: &Place) -> Result<Raster> {
    let mut layer = mirrored(layer, place.flip_h, place.flip_v)?;
    let side = |length: f64| length.round_ties_even().max(1.0) as usize;
    let (width, height) = (side(place.width), side(place.height));
    if (layer.width(), layer.height()) != (width, height) {
        layer = resample::resize(&layer, width, height, Filter::Lanczos)?;
    }
    if place.rotation == 0.0 { Ok(layer) } else { turned(&layer, -place.rotation.to_degrees()) }
}

/// The pixel for each place, row by row.
fn rearranged(layer: &Raster, width: usize, height: usize, from: impl Fn(usize, usize) -> (usize, usize)) -> Result<Raster> {
    let mut data = Vec::with_capacity(layer.data().len());
    for y in 0..height {
        for x in 0..width {
            let (x, y) = from(x, y);
            let at = 4 * (y * layer.width() + x);
            data.extend_from_slice(&layer.data()[at..at + 4]);
        }
    }
    Raster::new(width, height, 4, data)
}

fn mirrored(layer: Raster, horizontally: bool, vertically: bool) -> Result<Raster> {
    if !horizontally && !vertically {
        return Ok(layer);
    }
    let (width, height) = (layer.width(), layer.height());
    let flip = |at: usize, length: usize, flips: bool| if flips { length - 1 - at } else { at };
    rearranged(&layer, width, height, |x, y| (flip(x, width, horizontally), flip(y, height, vertically)))
}

/// `Image.rotate` with `expand`, bicubic: counterclockwise by degrees, transparent where nothing is.
fn turned(layer: &Raster, degrees: f64) -> Result<Raster> {
    let degrees = degrees.rem_euclid(360.0);
    let (width, height) = (layer.width(), layer.height());
    if degrees == 0.0 {
        return Ok(layer.clone());
    }
    if degrees == 180.0 {
        return rearranged(layer, width, height, |x, y| (width - 1 - x, height - 1 - y));
    }
    if degrees == 90.0 {
        return rearranged(layer, height, width, |x, y| (width - 1 - y, x));
    }
    if degrees == 270.0 {
        return rearranged(layer, height, width, |x, y| (y, height - 1 - x));
    }
    let angle = -degrees.to_radians();
    let rounded = |value: f64| (value * 1e15).round_ties_even() / 1e15;
    let (cos, sin) = (rounded(angle.cos()), rounded(angle.sin()));
    let (w, h) = (width as f64, height as f64);
    let turn = |x: f64, y: f64| (cos * x + sin * y, -sin * x + cos * y);
    let (cx, cy) = turn(-w / 2.0, -h / 2.0);
    let (mut dx, mut dy) = (cx + w / 2.0, cy + h / 2.0);
    let corners = [(0.0, 0.0), (w, 0.0), (w, h), (0.0, h)].map(|(x, y)| {
        let (x, y) = turn(x, y);
        (x + dx, y + dy)
    });
    let length = |values: [f64; 4]| {
        let (low, high) = values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(*value), high.max(*value)));
        (high.ceil() - low.floor()) as usize
    };
    let (new_width, new_height) = (length(corners.map(|(x, _)| x)), length(corners.map(|(_, y)| y)));
    let (mx, my) = turn(-(new_width as f64 - w) / 2.0, -(new_height as f64 - h) / 2.0);
    (dx, dy) = (mx + dx, my + dy);

    let data: Vec<u8> = layer
        .data()
        .as_chunks::<4>()
        .0
        .iter()
        .flat_map(|[r, g, b, a]| [multiplied(*r, *a), multiplied(*g, *a), multiplied(*b, *a), *a])
        .collect();
    let mut out = Vec::with_capacity(new_width * new_height * 4);
    for y in 0..new_height {
        for x in 0..new_width {
            let (from_x, from_y) = turn(x as f64 + 0.5, y as f64 + 0.5);
            let pixel = bicubic(&data, (width, height), from_x + dx, from_y + dy);
            out.extend(crate::color::multiplied_back(pixel));
        }
    }
    Raster::new(new_width, new_height, 4, out)
}

/// Pillow's pixel between pixels; nothing outside.
fn bicubic(data: &[u8], (width, height): (usize, usize), x: f64, y: f64) -> [u8; 4] {
    if x < 0.0 || x >= width as f64 || y < 0.0 || y >= height as f64 {
        return [0; 4];
    }
    let (x, y) = (x - 0.5, y - 0.5);
    let (left, top) = (x.floor() as i64 - 1, y.floor() as i64 - 1);
    let (dx, dy) = (x - x.floor(), y - y.floor());
    let cubic = |[a, b, c, d]: [f64; 4], at: f64| b + at * (c - a + at * (2.0 * (a - b) + c - d + at * (b - a - c + d)));
    let column = |offset: i64| (left + offset).clamp(0, width as i64 - 1) as usize;
    std::array::from_fn(|channel| {
        let row = |row: usize| cubic([0, 1, 2, 3].map(|offset| f64::from(data[4 * (row * width + column(offset)) + channel])), dx);
        // A row that is not there is the one before it.
        let first = row(top.clamp(0, height as i64 - 1) as usize);
        let mut rows = [first; 4];
        for offset in 1..4 {
            let at = top + offset as i64;
            rows[offset] = if (0..height as i64).contains(&at) { row(at as usize) } else { rows[offset - 1] };
        }
        cubic(rows, dy).clamp(0.0, 255.0) as u8
    })
}

fn to_linear(value: f32) -> f32 {
    if value <= 0.04045 { value / 12.92 } else { ((value.max(0.0) + 0.055) / 1.055).powf(2.4) }
}

fn to_shown(value: f32) -> f32 {
    if value <= 0.003_130_8 { 12.92 * value } else { 1.055 * value.max(0.0).powf(1.0 / 2.4) - 0.055 }
}

/// A pixel over another one, both RGBA in linear light.
fn composited(blend: Blend, below: [f32; 4], above: [f32; 4], opacity: f32) -> [f32; 4] {
    let colors = |pixel: [f32; 4]| [pixel[0], pixel[1], pixel[2]];
    let (under, over) = (colors(below), colors(above));
    let mixed = if blend.is_linear() {
        blended(blend, under, over)
    } else {
        blended(blend, under.map(to_shown), over.map(to_shown)).map(to_linear)
    };
    let (under_alpha, alpha) = (below[3], above[3] * opacity);
    if blend != Blend::Normal {
        // Only where something is below it.
        if under_alpha == 0.0 || alpha == 0.0 {
            return below;
        }
        let [r, g, b]: [f32; 3] = std::array::from_fn(|channel| mixed[channel] * alpha + under[channel] * (1.0 - alpha));
        return [r, g, b, under_alpha];
    }
    let union = alpha + (1.0 - alpha) * under_alpha;
    if alpha == 0.0 || union == 0.0 {
        return [under[0], under[1], under[2], union];
    }
    if under_alpha == 0.0 {
        return [over[0], over[1], over[2], union];
    }
    let ratio = alpha / union;
    let [r, g, b]: [f32; 3] = std::array::from_fn(|channel| {
        let (under, over, mixed) = (under[channel], over[channel], mixed[channel]);
        ratio * (under_alpha * (mixed - over) + over - under) + under
    });
    [r, g, b, union]
}

fn blended(blend: Blend, under: [f32; 3], over: [f32; 3]) -> [f32; 3] {
    match blend {
        Blend::Hue => hue(under, over),
        Blend::Saturation => saturation(under, over),
        Blend::Color => color(under, over),
        Blend::Luminosity => luminosity(under, over),
        _ => std::array::from_fn(|channel| channel_of(blend, under[channel], over[channel])),
    }
}

/// One channel of what is below (`i`) and of the layer (`l`).
fn channel_of(blend: Blend, i: f32, l: f32) -> f32 {
    let quotient = |a: f32, b: f32| if b.abs() >= NEAR_ZERO { a / b } else { 0.0 };
    let dodge = |i: f32, room: f32| match () {
        () if i <= 0.0 => 0.0,
        () if room <= NEAR_ZERO => 1.0,
        () => quotient(i, room).min(1.0),
    };
    match blend {
        Blend::Multiply => i * l,
        Blend::Screen => 1.0 - (1.0 - i) * (1.0 - l),
        Blend::Overlay if i < 0.5 => 2.0 * i * l,
        Blend::Overlay => 1.0 - 2.0 * (1.0 - l) * (1.0 - i),
        Blend::Darken => i.min(l),
        Blend::Lighten => i.max(l),
        Blend::ColorDodge => dodge(i, 1.0 - l),
        Blend::ColorBurn if i >= 1.0 => 1.0,
        Blend::ColorBurn if l <= NEAR_ZERO => 0.0,
        Blend::ColorBurn => 1.0 - quotient(1.0 - i, l).min(1.0),
        Blend::HardLight if l > 0.5 => (1.0 - (1.0 - i) * (1.0 - (l - 0.5) * 2.0)).min(1.0),
        Blend::HardLight => (i * (l * 2.0)).min(1.0),
        Blend::SoftLight => (1.0 - i) * (i * l) + i * (1.0 - (1.0 - i) * (1.0 - l)),
        Blend::Difference => (i - l).abs(),
        Blend::Exclusion => 0.5 - 2.0 * (i - 0.5) * (l - 0.5),
        Blend::LinearDodge => i + l,
        Blend::LinearBurn => i + l - 1.0,
        Blend::VividLight if l > 0.5 => dodge(i, 2.0 * (1.0 - l)),
        Blend::VividLight if i >= 1.0 => 1.0,
        Blend::VividLight if 2.0 * l <= NEAR_ZERO => 0.0,
        Blend::VividLight => (1.0 - quotient(1.0 - i, 2.0 * l)).max(0.0),
        Blend::PinLight if l > 0.5 => i.max(2.0 * (l - 0.5)),
        Blend::PinLight => i.min(2.0 * l),
        Blend::LinearLight => i + 2.0 * l - 1.0,
        Blend::HardMix => f32::from(u8::from(i + l >= 1.0)),
        Blend::Subtract => (i - l).max(0.0),
        Blend::Divide => (i / l.max(NEAR_ZERO)).clamp(0.0, 1.0),
        Blend::GrainExtract => i - l + 0.5,
        Blend::GrainMerge => i + l - 0.5,
        Blend::Normal | Blend::Hue | Blend::Saturation | Blend::Color | Blend::Luminosity => l,
    }
}

fn ends([r, g, b]: [f32; 3]) -> (f32, f32) {
    (r.min(g).min(b), r.max(g).max(b))
}

/// The part of the largest channel by which the smallest is below it.
fn saturation_of(colors: [f32; 3]) -> f32 {
    let (low, high) = ends(colors);
    if high == 0.0 { 0.0 } else { (high - low) / high }
}

fn hue(under: [f32; 3], over: [f32; 3]) -> [f32; 3] {
    let (low, high) = ends(over);
    if high - low <= NEAR_ZERO {
        return under;
    }
    let (_, value) = ends(under);
    let ratio = saturation_of(under) * value / (high - low);
    over.map(|channel| channel * ratio + value - high * ratio)
}

fn saturation(under: [f32; 3], over: [f32; 3]) -> [f32; 3] {
    let (low, high) = ends(under);
    if high - low <= NEAR_ZERO {
        return [high; 3];
    }
    let ratio = saturation_of(over) * high / (high - low);
    under.map(|channel| channel * ratio + (1.0 - ratio) * high)
}

fn color(under: [f32; 3], over: [f32; 3]) -> [f32; 3] {
    let lightness = |colors| {
        let (low, high) = ends(colors);
        (low + high) / 2.0
    };
    let (under_light, light) = (lightness(under), lightness(over));
    if light.abs() <= NEAR_ZERO || (1.0 - light).abs() <= NEAR_ZERO {
        return [under_light; 3];
    }
    let room = under_light.min(1.0 - under_light);
    let ratio = room / light.min(1.0 - light);
    let mut offset = if under_light > 0.5 { 1.0 - 2.0 * room } else { 0.0 };
    if light > 0.5 {
        offset += 2.0 * room - ratio;
    }
    over.map(|channel| channel * ratio + offset)
}

fn luminosity(under: [f32; 3], over: [f32; 3]) -> [f32; 3] {
    let luminance = |[r, g, b]: [f32; 3]| r * 0.222_488_4 + g * 0.716_903_7 + b * 0.060_607_91;
    let (below, above) = (luminance(under), luminance(over));
    if below <= NEAR_ZERO { [above; 3] } else { under.map(|channel| channel * (above / below)) }
}

/// Whether a picture (1, H, W, 4) is opaque everywhere, as good as.
pub fn is_opaque(picture: ArrayView3<f32>) -> bool {
    const NEARLY: f32 = 1.0 - 1e-3;
    picture.index_axis(Axis(2), 3).iter().all(|alpha| *alpha >= NEARLY)
}

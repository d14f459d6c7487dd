//! Text in pictures as Pillow draws it with its built-in font: Aileron Regular in a small character set, glyph behind glyph without kerning, hinted
//! as FreeType hints it. Knows neither nodes nor how lines are chosen.
//!
//! The font (`aileron.ttf`, by Sora Sagano, <https://dotcolon.net/fonts/aileron>, CC0) is the file that Pillow has, so that words have the same width
//! to the pixel. Edges differ: FreeType measures how much of a pixel is covered in 256 steps, this in fewer.

use std::collections::HashMap;

use skrifa::instance::{LocationRef, Size};
use skrifa::outline::{DrawSettings, Engine, HintingInstance, HintingOptions, OutlineGlyph, OutlinePen, SmoothMode, Target};
use skrifa::{FontRef, GlyphId, MetadataProvider as _};
use tiny_skia::{FillRule, LineCap, LineJoin, Mask, Path, PathBuilder, Stroke, Transform};

use crate::{Error, Result};

const AILERON: &[u8] = include_bytes!("aileron.ttf");

/// A rectangle of whole pixels: left, top, right and bottom, the latter two outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Left.
    pub left: i64,
    /// Top.
    pub top: i64,
    /// Behind the last column.
    pub right: i64,
    /// Behind the last row.
    pub bottom: i64,
}

/// The font in one size.
#[derive(Debug)]
pub struct Font {
    glyphs: HashMap<char, Glyph>,
    missing: Glyph,
    /// From the top of a line to its base line, in pixels.
    ascent: i64,
}

#[derive(Debug, Default, Clone)]
struct Glyph {
    /// To the next glyph, in whole pixels.
    advance: i64,
    /// Around the origin on the base line, downwards; `None` for a space.
    path: Option<Path>,
    /// What the outline's points span.
    bounds: Option<Bounds>,
}

impl Font {
    /// The font in a size of pixels per em.
    ///
    /// # Errors
    /// If the size is none that the font can have.
    pub fn new(pixels: usize) -> Result<Self> {
        let failed = |why: &dyn std::fmt::Display| Error::Shape(format!("text of {pixels} pixels cannot be drawn: {why}"));
        let font = FontRef::new(AILERON).map_err(|error| failed(&error))?;
        let (size, place) = (Size::new(pixels as f32), LocationRef::default());
        let outlines = font.outline_glyphs();
        let smooth = Target::Smooth { mode: SmoothMode::Normal, symmetric_rendering: false, preserve_linear_metrics: false };
        let options = HintingOptions { engine: Engine::Auto(None), target: smooth };
        let hinting = HintingInstance::new(&outlines, size, place, options).map_err(|error| failed(&error))?;
        let glyph = |id: GlyphId| outlines.get(id).map_or_else(Glyph::default, |outline| Glyph::of(&outline, &hinting));
        let glyphs = font.charmap().mappings().filter_map(|(code, id)| Some((char::from_u32(code)?, glyph(id)))).collect();
        let ascent = font.metrics(size, place).ascent.ceil() as i64;
        Ok(Self { glyphs, missing: glyph(GlyphId::NOTDEF), ascent })
    }

    fn glyph(&self, char: char) -> &Glyph {
        self.glyphs.get(&char).unwrap_or(&self.missing)
    }

    /// How far a character moves what follows, in pixels.
    pub fn advance(&self, char: char) -> i64 {
        self.glyph(char).advance
    }

    /// How wide a line is, in pixels.
    pub fn length(&self, line: &str) -> i64 {
        line.chars().map(|char| self.advance(char)).sum()
    }

    /// What a line covers when its upper left corner is at the origin, with an edge of `stroke` pixels around it.
    pub fn bounds(&self, line: &str, stroke: i64) -> Bounds {
        let (mut at, mut found) = (0, None::<Bounds>);
        for char in line.chars() {
            let glyph = self.glyph(char);
            // What has no outline stands on the base line.
            let own = glyph.bounds.unwrap_or(Bounds { left: 0, top: 0, right: 0, bottom: 0 });
            let (left, right) = ((at + own.left).min(0), (at + own.right).max(at + glyph.advance));
            let (top, bottom) = (self.ascent + own.top, self.ascent + own.bottom);
            let known = found.unwrap_or(Bounds { left, top, right, bottom });
            found = Some(Bounds {
                left: known.left.min(left),
                top: known.top.min(top),
                right: known.right.max(right),
                bottom: known.bottom.max(bottom),
            });
            at += glyph.advance;
        }
        let Bounds { left, top, right, bottom } = found.unwrap_or(Bounds { left: 0, top: 0, right: 0, bottom: 0 });
        Bounds { left: left - stroke, top: top - stroke, right: right + stroke, bottom: bottom + stroke }
    }

    /// Adds a line whose upper left corner is at a place.
    fn outline(&self, (mut x, y): (i64, i64), line: &str, into: &mut PathBuilder) {
        for char in line.chars() {
            let glyph = self.glyph(char);
            let moved = glyph.path.clone().and_then(|path| path.transform(Transform::from_translate(x as f32, (y + self.ascent) as f32)));
            if let Some(path) = moved {
                into.push_path(&path);
            }
            x += glyph.advance;
        }
    }
}

impl Glyph {
    fn of(outline: &OutlineGlyph<'_>, hinting: &HintingInstance) -> Self {
        let mut pen = Pen::default();
        // A font that is compiled in has no glyph that fails; one that did would be a gap.
        let Ok(metrics) = outline.draw(DrawSettings::hinted(hinting, false), &mut pen) else { return Self::default() };
        let advance = metrics.advance_width.unwrap_or_default().round() as i64;
        Self { advance, path: pen.path.finish(), bounds: pen.bounds.map(|bounds| bounds.whole()) }
    }
}

/// Takes an outline, which counts upwards.
#[derive(Default)]
struct Pen {
    path: PathBuilder,
    bounds: Option<Span>,
}

/// What points span.
#[derive(Clone, Copy)]
struct Span([f32; 4]);

impl Span {
    fn whole(self) -> Bounds {
        let [left, top, right, bottom] = self.0;
        Bounds { left: left.floor() as i64, top: top.floor() as i64, right: right.ceil() as i64, bottom: bottom.ceil() as i64 }
    }
}

impl Pen {
    fn seen(&mut self, x: f32, y: f32) -> (f32, f32) {
        let y = -y;
        let Span([left, top, right, bottom]) = self.bounds.unwrap_or(Span([x, y, x, y]));
        self.bounds = Some(Span([left.min(x), top.min(y), right.max(x), bottom.max(y)]));
        (x, y)
    }
}

impl OutlinePen for Pen {
    fn move_to(&mut self, x: f32, y: f32) {
        let (x, y) = self.seen(x, y);
        self.path.move_to(x, y);
    }

    fn line_to(&mut self, x: f32, y: f32) {
        let (x, y) = self.seen(x, y);
        self.path.line_to(x, y);
    }

    fn quad_to(&mut self, cx: f32, cy: f32, x: f32, y: f32) {
        let ((cx, cy), (x, y)) = (self.seen(cx, cy), self.seen(x, y));
        self.path.quad_to(cx, cy, x, y);
    }

    fn curve_to(&mut self, ax: f32, ay: f32, bx: f32, by: f32, x: f32, y: f32) {
        let ((ax, ay), (bx, by), (x, y)) = (self.seen(ax, ay), self.seen(bx, by), self.seen(x, y));
        self.path.cubic_to(ax, ay, bx, by, x, y);
    }

    fn close(&mut self) {
        self.path.close();
    }
}

/// What is drawn above a picture: a colour with alpha for each pixel, not premultiplied, all in 0 to 1, rows from the top. It begins
/// transparent black.
#[derive(Debug)]
pub struct Layer {
    width: usize,
    height: usize,
    /// Red, green, blue, alpha.
    pub pixels: Vec<[f32; 4]>,
}

impl Layer {
    /// An empty layer.
    ///
    /// # Errors
    /// If a side is 0 or beyond what can be drawn on.
    pub fn new(width: usize, height: usize) -> Result<Self> {
        crate::resize::check_size(4, width, height)?;
        Ok(Self { width, height, pixels: vec![[0.0; 4]; width * height] })
    }

    /// Draws lines with their upper left corners, and an edge of `stroke` pixels around them in a colour of its own.
    ///
    /// # Errors
    /// If the layer is too large to be drawn on.
    pub fn lines(&mut self, font: &Font, lines: &[((i64, i64), &str)], color: [u8; 4], stroke: Option<(i64, [u8; 4])>) -> Result<()> {
        let mut outline = PathBuilder::new();
        for (place, line) in lines {
            let bounds = font.bounds(line, stroke.map_or(0, |(width, _)| width));
            // What lies outside is not drawn, and has no more to be computed.
            if place.1 + bounds.bottom >= 0 && place.1 + bounds.top <= self.height as i64 {
                font.outline(*place, line, &mut outline);
            }
        }
        let Some(path) = outline.finish() else { return Ok(()) };
        if let Some((width, color)) = stroke {
            let pen = Stroke { width: 2.0 * width as f32, line_cap: LineCap::Round, line_join: LineJoin::Round, ..Stroke::default() };
            let mut mask = self.mask()?;
            if let Some(edge) = path.stroke(&pen, 1.0) {
                mask.fill_path(&edge, FillRule::Winding, true, Transform::identity());
            }
            mask.fill_path(&path, FillRule::Winding, true, Transform::identity());
            self.paint(&mask, color);
        }
        let mut mask = self.mask()?;
        mask.fill_path(&path, FillRule::Winding, true, Transform::identity());
        self.paint(&mask, color);
        Ok(())
    }

    /// Puts a colour in the place of what is in a rectangle.
    pub fn fill(&mut self, bounds: Bounds, color: [u8; 4]) {
        let within = |at: i64, most: usize| at.clamp(0, most as i64) as usize;
        let color = color.map(|part| f32::from(part) / 255.0);
        let (left, right) = (within(bounds.left, self.width), within(bounds.right, self.width));
        for row in within(bounds.top, self.height)..within(bounds.bottom, self.height) {
            if left < right {
                self.pixels[row * self.width + left..row * self.width + right].fill(color);
            }
        }
    }

    /// Puts a colour in the place of the border of a rectangle, `width` pixels of it.
    pub fn frame(&mut self, bounds: Bounds, width: i64, color: [u8; 4]) {
        let Bounds { left, top, right, bottom } = bounds;
        self.fill(Bounds { bottom: (top + width).min(bottom), ..bounds }, color);
        self.fill(Bounds { top: (bottom - width).max(top), ..bounds }, color);
        self.fill(Bounds { right: (left + width).min(right), ..bounds }, color);
        self.fill(Bounds { left: (right - width).max(left), ..bounds }, color);
    }

    fn mask(&self) -> Result<Mask> {
        let side = |side: usize| u32::try_from(side).unwrap_or(u32::MAX);
        Mask::new(side(self.width), side(self.height))
            .ok_or_else(|| Error::Shape(format!("{} x {} pixels cannot be drawn on", self.width, self.height)))
    }

    /// Moves all four parts of each pixel towards a colour, as far as the mask covers it.
    fn paint(&mut self, mask: &Mask, color: [u8; 4]) {
        let color = color.map(|part| f32::from(part) / 255.0);
        for (pixel, &covered) in self.pixels.iter_mut().zip(mask.data()) {
            if covered > 0 {
                let share = f32::from(covered) / 255.0;
                pixel.iter_mut().zip(color).for_each(|(part, color)| *part += (color - *part) * share);
            }
        }
    }
}

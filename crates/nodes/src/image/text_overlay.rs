//! Lines of text drawn on pictures.

use comfyd_imaging::text::{Bounds, Font, Layer};
use comfyd_node::{Error, Input, NodeOutput, Result, Schema};
use comfyd_values::Image;
use ndarray::Axis;

use crate::class::{Call, Class, unknown_choice};

pub(crate) const CLASSES: &[Class] = &[Class::new(
    || {
        Schema::new("TextOverlay")
            .display("Draw Text Overlay")
            .category("text")
            .module("comfy_extras.nodes_text_overlay")
            .schema_generation()
            .description(
                "Writes a text at the top or the bottom of pictures. It is wrapped at their width, and smaller where it is too high.",
            )
            .aliases(["caption", "watermark", "subtitle", "write"])
            .input(Input::link("images", "IMAGE").tooltip("The pictures."))
            .input(Input::text("text").multiline().default("").tooltip("What is written; \\n begins a line."))
            .input(
                Input::float("font_size")
                    .default(5.0)
                    .min(0.5)
                    .max(50.0)
                    .step(0.5)
                    .tooltip("The size of the font, in hundredths of the height."),
            )
            .input(Input::link("color", "COLOR").default("#ffffff").socketless().tooltip("The colour of the text."))
            .input(Input::combo("position", ["top", "bottom"]).default("top").tooltip("Where it stands."))
            .input(Input::combo("align", ["left", "center", "right"]).default("left").tooltip("Where its lines begin."))
            .input(Input::bool("outline").default(true).tooltip("Puts a black edge around the letters."))
            .output_named("IMAGE", "images")
    },
    overlay,
)];

/// From one line to the next, in sizes of the font.
const LINE: f64 = 1.2;
/// The width of the edge around letters, in sizes of the font.
const EDGE: f64 = 0.04;
/// How much of the pictures' smaller side is left free around.
const MARGIN: f64 = 0.01;
/// The smallest size of the font where a text is too high: of the height, and in pixels.
const SMALLEST: (f64, i64) = (0.02, 10);
/// What a text that is too high is made smaller by at once.
const SMALLER: f64 = 0.9;
const BLACK: [u8; 4] = [0, 0, 0, 255];

/// What is wanted.
struct Wanted {
    text: String,
    /// In hundredths of the height.
    font_size: f64,
    color: [u8; 4],
    at_bottom: bool,
    /// How much of a line's width stands left of where it is placed, and where that is in the width.
    align: f64,
    outline: bool,
}

fn overlay(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let images = call.image("images")?;
    let text = call.text("text")?;
    if text.trim().is_empty() {
        return Ok(NodeOutput::one(images));
    }
    let color = call.text("color")?;
    let wanted = Wanted {
        text: text.replace("\\n", "\n").replace("\\t", "\t"),
        font_size: call.float("font_size")?,
        color: parsed(color).ok_or_else(|| Error::msg(format!("input 'color' holds '{color}'; write a colour as #rrggbb or #rrggbbaa")))?,
        at_bottom: call.text("position")? == "bottom",
        align: match call.text("align")? {
            "left" => 0.0,
            "center" => 0.5,
            "right" => 1.0,
            other => return Err(unknown_choice("align", other)),
        },
        outline: call.bool("outline")?,
    };
    let (width, height) = (images.width(), images.height());
    // The pictures with the text, the layer of it, and two masks of bytes.
    call.reserve(&[images.batch(), height, width, images.channels().max(3)])?;
    call.room((width * height * (4 * size_of::<f32>() + 2)) as u64)?;
    let values = images.0.len() + 4 * width * height;
    Ok(NodeOutput::one(call.apart(values, move || drawn(&images, &wanted))?))
}

/// `#rgb`, `#rgba`, `#rrggbb` or `#rrggbbaa`.
fn parsed(text: &str) -> Option<[u8; 4]> {
    let digits = text.trim().strip_prefix('#')?;
    let digits: String = if digits.len() <= 4 { digits.chars().flat_map(|digit| [digit; 2]).collect() } else { digits.to_owned() };
    if !matches!(digits.len(), 6 | 8) || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let part = |at: usize| digits.get(at..at + 2).and_then(|part| u8::from_str_radix(part, 16).ok());
    Some([part(0)?, part(2)?, part(4)?, part(6).unwrap_or(255)])
}

fn drawn(images: &Image, wanted: &Wanted) -> comfyd_imaging::Result<Image> {
    let (width, height) = (images.width() as i64, images.height() as i64);
    let rounded = |value: f64| value.round_ties_even() as i64;
    let margin = rounded(MARGIN * width.min(height) as f64);
    let most = (1.max(width - 2 * margin), 1.max(height - 2 * margin));
    let mut size = 1.max(rounded(wanted.font_size / 100.0 * height as f64));
    let smallest = size.min(SMALLEST.1.max(rounded(SMALLEST.0 * height as f64)));
    let block = loop {
        let block = Block::new(&wanted.text, size, wanted.outline, most.0)?;
        if block.bounds.bottom - block.bounds.top <= most.1 || size <= smallest {
            break block;
        }
        size = smallest.max((size as f64 * SMALLER) as i64);
    };
    let top = if wanted.at_bottom { height - margin - block.bounds.bottom } else { margin - block.bounds.top };
    let across = margin as f64 * (1.0 - 2.0 * wanted.align) + width as f64 * wanted.align;
    let lines: Vec<((i64, i64), &str)> = block
        .lines
        .iter()
        .zip(0..)
        .map(|(line, number)| {
            // Both are rounded as the reference rounds them.
            let left = (across + 0.5).floor() - (block.font.length(line) as f64 * wanted.align).ceil();
            ((left as i64, top + number * block.step), line.as_str())
        })
        .collect();
    let mut layer = Layer::new(width as usize, height as usize)?;
    layer.lines(&block.font, &lines, wanted.color, (block.stroke > 0).then_some((block.stroke, BLACK)))?;
    let mut out = match images.0.dim() {
        // Grey becomes coloured.
        (batch, height, width, 1) => {
            images.0.broadcast((batch, height, width, 3)).map_or_else(|| images.0.to_owned(), |grey| grey.to_owned())
        }
        _ => images.0.to_owned(),
    };
    for mut picture in out.outer_iter_mut() {
        for (mut pixel, &[r, g, b, alpha]) in picture.lanes_mut(Axis(2)).into_iter().zip(&layer.pixels) {
            // Where a picture has an alpha, text is opaque.
            pixel.iter_mut().zip([r, g, b, 1.0]).for_each(|(value, over)| *value = *value * (1.0 - alpha) + over * alpha);
        }
    }
    Ok(Image::new(out))
}

/// A text in lines that are no wider than wanted.
struct Block {
    font: Font,
    lines: Vec<String>,
    stroke: i64,
    /// From one line to the next, in pixels.
    step: i64,
    /// What all lines cover when the first one's corner is at the origin.
    bounds: Bounds,
}

impl Block {
    fn new(text: &str, size: i64, outline: bool, most: i64) -> comfyd_imaging::Result<Self> {
        let font = Font::new(size as usize)?;
        let stroke = if outline { 1.max((size as f64 * EDGE).round_ties_even() as i64) } else { 0 };
        let lines = wrapped(text, most, |char| font.advance(char));
        // What lines of the font have by themselves.
        let natural = font.bounds("A", stroke).bottom + stroke;
        let step = natural + (size as f64 * LINE - natural as f64).round_ties_even() as i64;
        let mut bounds = font.bounds(lines.first().map_or("", String::as_str), stroke);
        for (line, number) in lines.iter().zip(0..) {
            let own = font.bounds(line, stroke);
            bounds.top = bounds.top.min(own.top + number * step);
            bounds.bottom = bounds.bottom.max(own.bottom + number * step);
        }
        Ok(Self { font, lines, stroke, step, bounds })
    }
}

/// Lines of at most so many pixels: broken between words, and inside of words that are wider.
fn wrapped(text: &str, most: i64, advance: impl Fn(char) -> i64) -> Vec<String> {
    let length = |text: &str| text.chars().map(&advance).sum::<i64>();
    let mut lines = Vec::new();
    for paragraph in text.split('\n') {
        let (mut current, mut wide) = (String::new(), 0);
        let mut words = paragraph.split_whitespace().peekable();
        if words.peek().is_none() {
            lines.push(String::new());
            continue;
        }
        for mut word in words {
            let mut own = length(word);
            while own > most && word.chars().nth(1).is_some() {
                if !current.is_empty() {
                    lines.push(std::mem::take(&mut current));
                }
                // One character at least, and as many as there is room for.
                let (mut cut, mut width) = (0, 0);
                for char in word.chars() {
                    if cut > 0 && width + advance(char) > most {
                        break;
                    }
                    (cut, width) = (cut + char.len_utf8(), width + advance(char));
                }
                lines.push(word[..cut].to_owned());
                (word, own) = (&word[cut..], own - width);
            }
            let joined = if current.is_empty() { own } else { wide + advance(' ') + own };
            if current.is_empty() || joined <= most {
                if !current.is_empty() {
                    current.push(' ');
                }
                current.push_str(word);
                wide = joined;
            } else {
                lines.push(std::mem::replace(&mut current, word.to_owned()));
                wide = own;
            }
        }
        if !current.is_empty() {
            lines.push(current);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_between_words_and_inside_of_wide_ones() {
        let wrap = |text: &str, most: i64| wrapped(text, most, |_| 1);
        assert_eq!(wrap("ab cd ef", 5), ["ab cd", "ef"]);
        assert_eq!(wrap("a  b\n\nc", 9), ["a b", "", "c"]);
        assert_eq!(wrap("ab cdefghij k", 4), ["ab", "cdef", "ghij", "k"]);
        assert_eq!(wrap("abc", 0), ["a", "b", "c"]);
    }

    #[test]
    fn colours_have_three_or_four_parts() {
        assert_eq!(parsed("#f80"), Some([255, 136, 0, 255]));
        assert_eq!(parsed(" #11223344"), Some([17, 34, 51, 68]));
        assert!(["red", "#12", "#12345", "#éé", "#gggggg"].iter().all(|text| parsed(text).is_none()));
    }
}

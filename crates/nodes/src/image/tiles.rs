//! Pictures taken apart into tiles that overlap, and put together again.

use comfyd_node::{Error, Input, NodeOutput, Result, Schema, Value};
use comfyd_values::Image;
use ndarray::{Array4, Zip, s};

use crate::class::{Call, Class, MAX_RESOLUTION};

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            let tile = |name: &str, text: &str| Input::int(name).default(1024).min(64).max(MAX_RESOLUTION).tooltip(text);
            schema("SplitImageToTileList", "Split Image into List of Tiles")
                .description("Cuts pictures into tiles that overlap; nodes behind it run once for each tile.")
                .input(Input::link("image", "IMAGE").tooltip("The pictures."))
                .input(tile("tile_width", "Width of a tile in pixels."))
                .input(tile("tile_height", "Height of a tile in pixels."))
                .input(overlap("Pixels that neighbouring tiles share."))
                .output_list("IMAGE")
        },
        split,
    ),
    Class::new(
        || {
            let side = |name: &str, text: &str| Input::int(name).default(1024).min(64).max(32768).tooltip(text);
            schema("ImageMergeTileList", "Merge List of Tiles to Image")
                .description("Puts tiles together again, one fading into the next where they overlap.")
                .input(Input::link("image_list", "IMAGE").tooltip("The tiles, in the order in which they were cut."))
                .input(side("final_width", "Width of the whole picture in pixels."))
                .input(side("final_height", "Height of the whole picture in pixels."))
                .input(overlap("Pixels that neighbouring tiles share, as when they were cut."))
                .input_is_list()
                .output("IMAGE")
        },
        merge,
    ),
];

fn schema(class: &str, display: &str) -> Schema {
    let words = ["tiling", "grid", "cut into pieces", "mosaic"];
    Schema::new(class).display(display).category("image/batch").module("comfy_extras.nodes_images").schema_generation().aliases(words)
}

fn overlap(text: &str) -> Input {
    Input::int("overlap").default(128).min(0).max(4096).tooltip(text)
}

/// Where a tile lies.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Place {
    left: usize,
    top: usize,
    right: usize,
    bottom: usize,
}

/// The places of all tiles, row by row; the last ones of a row and a column end with the picture.
fn places(width: usize, height: usize, tile: (usize, usize), overlap: usize) -> Vec<Place> {
    let mut places = Vec::new();
    for (top, bottom) in stretches(height, tile.1, overlap) {
        for (left, right) in stretches(width, tile.0, overlap) {
            places.push(Place { left, top, right, bottom });
        }
    }
    places
}

fn stretches(length: usize, tile: usize, overlap: usize) -> Vec<(usize, usize)> {
    // At least a quarter of a tile further each time, whatever the overlap.
    let step = ((tile as f64 * 0.25).max(tile as f64 - overlap as f64).round_ties_even() as usize).max(1);
    let mut stretches = Vec::new();
    for start in (0..length).step_by(step) {
        let end = (start + tile).min(length);
        stretches.push((end.saturating_sub(tile), end));
        if end == length {
            break;
        }
    }
    stretches
}

fn split(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let image = call.image("image")?;
    let tile = (call.count("tile_width", 1)?, call.count("tile_height", 1)?);
    let mut tiles = Vec::new();
    for Place { left, top, right, bottom } in places(image.width(), image.height(), tile, call.count("overlap", 0)?) {
        call.cx.check_cancelled()?;
        call.reserve(&[image.batch(), bottom - top, right - left, image.channels()])?;
        tiles.push(Image(image.0.slice(s![.., top..bottom, left..right, ..]).to_shared()).into());
    }
    Ok(NodeOutput::one(Value::list(tiles)))
}

fn merge(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let mut tiles = Vec::new();
    for value in call.inputs.list("image_list")? {
        let tile = value.downcast::<Image>().filter(|image| !image.0.is_empty());
        tiles.push(tile.ok_or_else(|| Error::msg("input 'image_list' must hold pictures only, none of them empty"))?);
    }
    let Some(head) = tiles.first() else { return Err(Error::MissingInput("image_list".into())) };
    let (width, height, overlap): (_, _, usize) =
        (call.first::<usize>("final_width")?.max(1), call.first::<usize>("final_height")?.max(1), call.first("overlap")?);
    let (batch, channels) = (head.batch(), head.channels());
    let (tile_width, tile_height) = (head.width(), head.height());
    call.reserve(&[batch, height, width, channels + 1])?;
    let weights = if overlap > 0 { (fade(tile_height), fade(tile_width)) } else { (vec![1.0; tile_height], vec![1.0; tile_width]) };
    let mut canvas = Array4::<f32>::zeros((batch, height, width, channels));
    let mut sum = Array4::<f32>::zeros((1, height, width, 1));
    for (tile, place) in tiles.iter().zip(places(width, height, (tile_width, tile_height), overlap)) {
        call.cx.check_cancelled()?;
        if (tile.batch(), tile.channels()) != (batch, channels) {
            return Err(Error::msg("the tiles differ in their number of pictures or channels; make them equal first"));
        }
        let rows = (place.bottom - place.top).min(tile.height()).min(tile_height);
        let columns = (place.right - place.left).min(tile.width()).min(tile_width);
        let (rows_there, columns_there) = (place.top..place.top + rows, place.left..place.left + columns);
        let weight = Array4::from_shape_fn((1, rows, columns, 1), |(_, y, x, _)| weights.0[y] * weights.1[x]);
        let cut = tile.0.slice(s![.., ..rows, ..columns, ..]);
        let mut there = canvas.slice_mut(s![.., rows_there.clone(), columns_there.clone(), ..]);
        let spread = weight.broadcast(there.raw_dim()).ok_or_else(|| Error::msg("the tiles cannot be laid over the picture"))?;
        Zip::from(&mut there).and(&cut).and(&spread).for_each(|there, value, weight| *there += value * weight);
        let mut there = sum.slice_mut(s![.., rows_there, columns_there, ..]);
        there += &weight;
    }
    sum.mapv_inplace(|weight| if weight == 0.0 { 1.0 } else { weight });
    canvas /= &sum;
    Ok(NodeOutput::one(Image::new(canvas)))
}

/// How much each row or column of a tile counts: half a wave of a sine, never nothing.
fn fade(length: usize) -> Vec<f32> {
    let step = 1.0 / length.saturating_sub(1).max(1) as f32;
    // From both ends, so that it is the same from either.
    let at = |place: usize| if place < length / 2 { step * place as f32 } else { 1.0 - step * (length - 1 - place) as f32 };
    (0..length).map(|place| (std::f32::consts::PI * at(place)).sin().max(1e-5)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_the_picture() {
        // python: SplitImageToTileList.get_grid_coords
        assert_eq!(stretches(100, 64, 16), [(0, 64), (36, 100)]);
        assert_eq!(stretches(200, 64, 16), [(0, 64), (48, 112), (96, 160), (136, 200)]);
        assert_eq!(stretches(64, 64, 64), [(0, 64)]);
        assert_eq!(stretches(80, 64, 4096), [(0, 64), (16, 80)]);
        assert_eq!(stretches(10, 64, 0), [(0, 10)]);
        assert_eq!(places(100, 10, (64, 64), 16).len(), 2);
    }
}

//! Reducing a picture to a palette as Pillow does: median cut (Heckbert 1982) with its order of ties, nearest palette colour by its
//! coarse look-up table, Floyd-Steinberg and Bayer dithering. Knows no node.
//!
//! Ties decide which colours end up in which box, and Pillow's ties depend on the order of its hash table. Where a picture has few
//! enough colours (up to 65536) this file follows that order.

use crate::{Error, Raster, Result};
use comfyd_values::Image;
use ndarray::Array4;
use std::collections::{BTreeMap, HashMap};

/// How [`quantize`] spreads the error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dither {
    /// Not at all.
    None,
    /// To the neighbours that follow.
    FloydSteinberg,
    /// By an ordered pattern of this many pixels squared: 2, 4, 8 or 16.
    Bayer(u32),
}

impl std::str::FromStr for Dither {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Ok(match name {
            "none" => Self::None,
            "floyd-steinberg" => Self::FloydSteinberg,
            "bayer-2" => Self::Bayer(2),
            "bayer-4" => Self::Bayer(4),
            "bayer-8" => Self::Bayer(8),
            "bayer-16" => Self::Bayer(16),
            _ => {
                return Err(Error::Parameter(format!(
                    "{name:?} is no dithering: use none, floyd-steinberg, bayer-2, bayer-4, bayer-8 or bayer-16"
                )));
            }
        })
    }
}

type Rgb = [u8; 3];

/// Reduces every picture of a batch to `colors` colours of its own (ComfyUI's ImageQuantize).
///
/// # Errors
/// If the number of colours is not 1 to 256, the pictures are not RGB, or the dithering pattern has another size.
pub fn quantize(image: &Image, colors: usize, dither: Dither) -> Result<Image> {
    if !(1..=256).contains(&colors) {
        return Err(Error::Parameter(format!("a palette has 1 to 256 colours, not {colors}")));
    }
    if image.channels() != 3 {
        return Err(Error::Shape(format!(
            "only pictures with three channels can be quantised, this one has {}: remove its alpha",
            image.channels()
        )));
    }
    if let Dither::Bayer(order) = dither
        && !matches!(order, 2 | 4 | 8 | 16)
    {
        return Err(Error::Parameter(format!("the Bayer pattern has a side of 2, 4, 8 or 16, not {order}")));
    }
    let mut values = Vec::with_capacity(image.0.len());
    for index in 0..image.batch() {
        let raster = Raster::from_image(image, index)?;
        let (pixels, _) = raster.data().as_chunks::<3>();
        let mut palette = Palette::new(median_cut(pixels, colors));
        let mapped: Vec<Rgb> = match dither {
            Dither::None => pixels.iter().map(|pixel| palette.nearest(*pixel)).collect(),
            Dither::FloydSteinberg => floyd_steinberg(pixels, raster.width(), &mut palette),
            Dither::Bayer(order) => {
                // With the order that Pillow's palette reports, its unused entries included.
                let spread = 2.0 * 256.0 / palette.colors.len() as f32;
                let pattern = bayer_pattern(order, spread);
                let width = raster.width();
                let shifted = |(index, pixel): (usize, &Rgb)| {
                    let shift = pattern[index / width % order as usize][index % width % order as usize];
                    pixel.map(|value| (f32::from(value) + shift).clamp(0.0, 255.0) as u8)
                };
                pixels.iter().enumerate().map(|pixel| palette.nearest(shifted(pixel))).collect()
            }
        };
        values.extend(mapped.as_flattened().iter().map(|&byte| f32::from(byte) / 255.0));
    }
    let array = Array4::from_shape_vec(image.0.raw_dim(), values).map_err(|error| Error::Shape(error.to_string()))?;
    Ok(Image::new(array))
}

/// What to add to each pixel before it is mapped: Bayer's matrix, times `spread`, plus a half.
fn bayer_pattern(order: u32, spread: f32) -> Vec<Vec<f32>> {
    let mut matrix = vec![vec![0.0_f32]];
    let mut quarters = 1.0_f32;
    for _ in 0..order.ilog2() {
        quarters *= 4.0;
        let side = matrix.len();
        let offset = |y: usize, x: usize| match (y < side, x < side) {
            (true, true) => -1.5,
            (true, false) => 0.5,
            (false, true) => 1.5,
            (false, false) => -0.5,
        };
        matrix = (0..2 * side)
            .map(|y| (0..2 * side).map(|x| (quarters * matrix[y % side][x % side] + offset(y, x)) / quarters).collect())
            .collect();
    }
    matrix.iter().map(|row| row.iter().map(|value| spread * value + 0.5).collect()).collect()
}

fn floyd_steinberg(pixels: &[Rgb], width: usize, palette: &mut Palette) -> Vec<Rgb> {
    let mut out = Vec::with_capacity(pixels.len());
    // Errors for the row below, in sixteenths, one position to the left of the pixel that receives them.
    let mut below = vec![[0i32; 3]; width + 1];
    for row in pixels.chunks_exact(width) {
        let (mut carried, mut diagonal, mut straight) = ([0i32; 3], [0i32; 3], [0i32; 3]);
        for (x, pixel) in row.iter().enumerate() {
            let wanted: Rgb = std::array::from_fn(|c| (i32::from(pixel[c]) + (carried[c] + below[x + 1][c]) / 16).clamp(0, 255) as u8);
            let found = palette.nearest(wanted);
            for c in 0..3 {
                let error = i32::from(wanted[c]) - i32::from(found[c]);
                below[x][c] = error * 3 + straight[c];
                straight[c] = error * 5 + diagonal[c];
                diagonal[c] = error;
                carried[c] = error * 7;
            }
            out.push(found);
        }
        // Behind the end of a row Pillow leaves three errors of the blue channel instead of one of each.
        below[width] = [straight[2], diagonal[2], diagonal[2]];
    }
    out
}

/// A palette and Pillow's look-up table for it: 64 steps per channel, each answered for its lowest corner.
struct Palette {
    colors: Vec<Rgb>,
    exact: HashMap<Rgb, Rgb>,
    coarse: HashMap<Rgb, Rgb>,
}

impl Palette {
    fn new(colors: Vec<Rgb>) -> Self {
        let exact = colors.iter().map(|&color| (color, color)).collect();
        Self { colors, exact, coarse: HashMap::new() }
    }

    /// The palette's own colour if it is there, else the one nearest to the corner of the pixel's 4x4x4 cell.
    fn nearest(&mut self, pixel: Rgb) -> Rgb {
        if let Some(&color) = self.exact.get(&pixel) {
            return color;
        }
        let corner = pixel.map(|value| value & !3);
        *self.coarse.entry(corner).or_insert_with(|| {
            let nearest = self.colors.iter().min_by_key(|&&color| distance(color, corner));
            nearest.copied().unwrap_or(corner)
        })
    }
}

fn distance(a: Rgb, b: Rgb) -> u32 {
    a.iter().zip(b).map(|(&a, b)| u32::from(a.abs_diff(b)).pow(2)).sum()
}

/// One colour of the picture and how many pixels have it.
#[derive(Clone, Copy)]
struct Entry {
    color: Rgb,
    count: u64,
}

/// The mean colours of the boxes that the picture's colours are cut into, in the order of the boxes.
fn median_cut(pixels: &[Rgb], colors: usize) -> Vec<Rgb> {
    let (entries, shift) = histogram(pixels);
    // Per channel: the entries from high to low.
    let lists: [Vec<u32>; 3] = std::array::from_fn(|channel| {
        let mut order: Vec<u32> = (0..entries.len() as u32).collect();
        sort_by_channel(&mut order, &entries, channel);
        order
    });
    let mut tree = vec![Node { lists, pixels: pixels.len() as u64, children: None }];
    let mut heap = Heap::default();
    heap.add(0, &tree);
    'cutting: for _ in 1..colors {
        let next = loop {
            match heap.remove(&tree) {
                None => break 'cutting,
                Some(node) if tree[node].volume(&entries) != 1 => break node,
                Some(_) => {}
            }
        };
        let (left, right) = tree[next].split(&entries);
        tree[next].children = Some((tree.len(), tree.len() + 1));
        tree.push(left);
        tree.push(right);
        heap.add(tree.len() - 2, &tree);
        heap.add(tree.len() - 1, &tree);
    }
    means(pixels, &tree, &entries, shift)
}

/// Mean of the pixels in each leaf, leaves from left to right.
fn means(pixels: &[Rgb], tree: &[Node], entries: &[Entry], shift: u32) -> Vec<Rgb> {
    let mut leaf_of: HashMap<Rgb, usize> = HashMap::with_capacity(entries.len());
    let mut leaves = 0;
    let mut open = vec![0];
    while let Some(node) = open.pop() {
        match tree[node].children {
            Some((left, right)) => open.extend([right, left]),
            None if tree[node].lists[0].is_empty() => {}
            None => {
                leaf_of.extend(tree[node].lists[0].iter().map(|&entry| (entries[entry as usize].color, leaves)));
                leaves += 1;
            }
        }
    }
    let mut sums = vec![[0u64; 4]; leaves];
    for pixel in pixels {
        // Every pixel's colour is an entry, and every entry is in a leaf.
        if let Some(&leaf) = leaf_of.get(&pixel.map(|value| value >> shift)) {
            for channel in 0..3 {
                sums[leaf][channel] += u64::from(pixel[channel]);
            }
            sums[leaf][3] += 1;
        }
    }
    let mean = |sum: u64, count: u64| (0.5 + sum as f64 / count.max(1) as f64) as u8;
    sums.iter().map(|&[r, g, b, count]| [mean(r, count), mean(g, count), mean(b, count)]).collect()
}

/// The colours of a picture, reduced by `shift` bits so that there are at most 65536 of them, in the order in which Pillow's hash table
/// yields them, reversed.
fn histogram(pixels: &[Rgb]) -> (Vec<Entry>, u32) {
    const MAX_ENTRIES: usize = 65536;
    let mut counts: BTreeMap<Rgb, u64> = BTreeMap::new();
    let mut shift = 0;
    for pixel in pixels {
        *counts.entry(pixel.map(|value| value >> shift)).or_insert(0) += 1;
        while counts.len() > MAX_ENTRIES {
            shift += 1;
            let mut merged = BTreeMap::new();
            for (color, count) in counts {
                *merged.entry(color.map(|value| value >> 1)).or_insert(0) += count;
            }
            counts = merged;
        }
    }
    let buckets = bucket_count(counts.len());
    let mut entries: Vec<Entry> = counts.into_iter().map(|(color, count)| Entry { color, count }).collect();
    // Buckets from last to first, and within a bucket from the highest hash down.
    entries.sort_by_key(|entry| {
        let hash = hash(entry.color);
        std::cmp::Reverse((hash % buckets, hash))
    });
    (entries, shift)
}

/// The hash that orders colours in Pillow's table.
fn hash([r, g, b]: Rgb) -> u32 {
    (u32::from(r).wrapping_mul(463)) ^ (u32::from(g) << 8).wrapping_mul(10069) ^ (u32::from(b) << 16).wrapping_mul(64997)
}

/// Buckets of Pillow's table after so many insertions: it starts with 11, and grows to an odd number from twice the size plus one on
/// when there are more than three entries to a bucket. (Its search for a prime accepts 1, 3, 7, 9, 11 and 13 modulo 16.)
fn bucket_count(entries: usize) -> u32 {
    let mut buckets = 11u32;
    while entries > buckets as usize * 3 {
        buckets = buckets * 2 + 1;
        while !matches!(buckets % 16, 1 | 3 | 7 | 9 | 11 | 13) {
            buckets += 1;
        }
    }
    buckets
}

/// Sorts entries from high to low with Pillow's merge sort, in which of two equals the one from the second half comes first.
fn sort_by_channel(order: &mut [u32], entries: &[Entry], channel: usize) {
    if order.len() < 2 {
        return;
    }
    // The split that a walk at double speed finds.
    let (first, second) = order.split_at_mut(order.len() / 2);
    sort_by_channel(first, entries, channel);
    sort_by_channel(second, entries, channel);
    let value = |entry: u32| entries[entry as usize].color[channel];
    let mut merged = Vec::with_capacity(first.len() + second.len());
    let (mut a, mut b) = (first.iter().copied().peekable(), second.iter().copied().peekable());
    while let (Some(&left), Some(&right)) = (a.peek(), b.peek()) {
        if value(left) > value(right) {
            merged.extend(a.next());
        } else {
            merged.extend(b.next());
        }
    }
    merged.extend(a);
    merged.extend(b);
    order.copy_from_slice(&merged);
}

/// A box of colours, cut in two or not.
struct Node {
    lists: [Vec<u32>; 3],
    pixels: u64,
    children: Option<(usize, usize)>,
}

impl Node {
    fn range(&self, entries: &[Entry], channel: usize) -> u32 {
        let value = |entry: Option<&u32>| entry.map_or(0, |&entry| u32::from(entries[entry as usize].color[channel]));
        value(self.lists[channel].first()) - value(self.lists[channel].last())
    }

    fn volume(&self, entries: &[Entry]) -> u32 {
        (0..3).map(|channel| self.range(entries, channel) + 1).product()
    }

    /// Cuts where half of the pixels are passed, along the channel with the largest range weighted by brightness. Equal values stay
    /// together on the left.
    fn split(&mut self, entries: &[Entry]) -> (Self, Self) {
        const WEIGHTS: [u32; 3] = [77, 150, 29];
        let weighted = |channel: usize| self.range(entries, channel) * WEIGHTS[channel];
        // Of equals the first.
        let channel = [1, 2].into_iter().fold(0, |best, candidate| if weighted(candidate) > weighted(best) { candidate } else { best });
        let order = &self.lists[channel];
        let value = |position: usize| entries[order[position] as usize].color[channel];
        let mut passed = 0;
        let mut cut = 0;
        while cut < order.len() && passed * 2 <= self.pixels {
            passed += entries[order[cut] as usize].count;
            cut += 1;
        }
        while cut < order.len() && value(cut) == value(cut - 1) {
            cut += 1;
        }
        if cut == order.len() {
            // Nothing is left on the right: give it the lowest value.
            while cut > 0 && value(cut - 1) == value(order.len() - 1) {
                cut -= 1;
            }
        }
        let mut goes_right = vec![false; entries.len()];
        order[cut..].iter().for_each(|&entry| goes_right[entry as usize] = true);
        let part = |right: bool| -> [Vec<u32>; 3] {
            std::array::from_fn(|channel| {
                self.lists[channel].iter().copied().filter(|&entry| goes_right[entry as usize] == right).collect()
            })
        };
        let node = |lists: [Vec<u32>; 3]| {
            let pixels = lists[0].iter().map(|&entry| entries[entry as usize].count).sum();
            Self { lists, pixels, children: None }
        };
        let halves = (node(part(false)), node(part(true)));
        self.lists = Default::default();
        halves
    }
}

/// Boxes by their number of pixels, the largest first. A binary heap whose order of equals is Pillow's.
#[derive(Default)]
struct Heap(Vec<usize>);

impl Heap {
    fn add(&mut self, node: usize, tree: &[Node]) {
        self.0.push(node);
        let mut at = self.0.len() - 1;
        while at > 0 {
            let parent = (at - 1) / 2;
            if tree[node].pixels <= tree[self.0[parent]].pixels {
                break;
            }
            self.0.swap(at, parent);
            at = parent;
        }
    }

    fn remove(&mut self, tree: &[Node]) -> Option<usize> {
        let last = self.0.pop()?;
        let Some(&top) = self.0.first() else { return Some(last) };
        let mut at = 0;
        loop {
            let mut child = 2 * at + 1;
            if child >= self.0.len() {
                break;
            }
            if child + 1 < self.0.len() && tree[self.0[child]].pixels < tree[self.0[child + 1]].pixels {
                child += 1;
            }
            if tree[last].pixels > tree[self.0[child]].pixels {
                break;
            }
            self.0[at] = self.0[child];
            at = child;
        }
        self.0[at] = last;
        Some(top)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    /// A picture with very many colours: three channels of a multiplicative hash of the position.
    fn noisy(width: usize, height: usize) -> Image {
        let hash = |i: u32| i.wrapping_mul(2_654_435_761) ^ (i.wrapping_mul(40503) >> 7);
        let value = |y: usize, x: usize, c: usize| (hash((y * width + x) as u32) >> (8 * c)) as u8;
        Image::new(Array4::from_shape_fn((1, height, width, 3), |(_, y, x, c)| f32::from(value(y, x, c)) / 255.0))
    }

    fn crc32(bytes: &[u8]) -> u32 {
        let mut crc = u32::MAX;
        for &byte in bytes {
            crc ^= u32::from(byte);
            for _ in 0..8 {
                crc = (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 };
            }
        }
        !crc
    }

    // def noisy(w, h): i = np.arange(w * h, dtype=np.uint32); v = (i * np.uint32(2654435761)) ^ ((i * np.uint32(40503)) >> 7)
    //     return np.stack([(v >> (8 * c)).astype(np.uint8) for c in range(3)], -1).reshape(h, w, 3)
    // im = Image.fromarray(noisy(w, h)); p = im.quantize(colors)
    // zlib.crc32(np.array(im.quantize(palette=p, dither=dither).convert("RGB")).tobytes()), for Bayer by ComfyUI's ImageQuantize
    const CHECKSUMS: [(usize, usize, usize, &str, u32); 8] = [
        (64, 48, 16, "none", 723408265),
        (64, 48, 256, "none", 4267272120),
        (64, 48, 7, "floyd-steinberg", 357291266),
        (64, 48, 32, "bayer-2", 2228662267),
        (61, 47, 9, "bayer-16", 2099543408),
        (64, 48, 100, "bayer-8", 3033565395),
        (400, 300, 50, "none", 3066757622),
        (400, 300, 256, "floyd-steinberg", 3323385093),
    ];

    #[test]
    fn results_equal_pillows() {
        for (width, height, colors, dither, expected) in CHECKSUMS {
            let result = quantize(&noisy(width, height), colors, dither.parse().unwrap()).unwrap();
            // Values are bytes over 255; rounding gives the bytes back.
            let bytes: Vec<u8> = result.0.iter().map(|value| (value * 255.0).round() as u8).collect();
            assert_eq!(crc32(&bytes), expected, "{width}x{height}, {colors} colours, {dither}");
        }
    }

    #[test]
    fn one_colour_stays_and_bad_input_is_an_error() {
        let image = Image::solid(2, 3, 3, 0x102030);
        assert_eq!(quantize(&image, 256, Dither::FloydSteinberg).unwrap(), image);
        assert!(quantize(&image, 0, Dither::None).is_err());
        assert!(quantize(&image, 257, Dither::None).is_err());
        assert!(quantize(&image, 2, Dither::Bayer(3)).is_err());
        assert!(quantize(&Image::new(Array4::zeros((1, 2, 2, 4))), 2, Dither::None).is_err());
    }
}

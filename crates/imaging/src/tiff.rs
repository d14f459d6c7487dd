//! Reading TIFF files: every page, in every kind of samples that Pillow opens. The `tiff` crate unpacks them; what they mean is decided here.

use std::borrow::Cow;
use std::io::Cursor;

use ::tiff::decoder::{Decoder, DecodingResult, Limits};
use ::tiff::tags::Tag;
use image::RgbaImage;
use image::metadata::Orientation;

use crate::color::{from_cmyk, multiplied_back};
use crate::{Error, Result, jpeg};

/// Directories of one file that are looked at.
const MAX_PAGES: usize = 4096;
/// Bytes of one tag, such as the list of a page's strips.
const MAX_TAG_BYTES: usize = 16 << 20;
/// Bytes that one page may unpack to, and that one strip or tile of it may.
const MAX_PAGE_BYTES: usize = 4 << 30;

/// `PhotometricInterpretation`, and its values.
const MEANING: u16 = 262;
const WHITE_IS_ZERO: u16 = 0;
const BLACK_IS_ZERO: u16 = 1;
const RGB: u16 = 2;
const PALETTE: u16 = 3;
const CMYK: u16 = 5;
const YCBCR: u16 = 6;
/// `Compression` by JPEG.
const JPEG: u16 = 7;
/// `ExtraSamples` that are alpha, premultiplied or not.
const ASSOCIATED: u16 = 1;
const UNASSOCIATED: u16 = 2;

/// A decoded page, already turned as its tags say.
pub(crate) struct Page {
    pub(crate) pixels: RgbaImage,
    pub(crate) has_alpha: bool,
}

/// Reads up to `count` pages. `check` is told the size of each before it is unpacked.
///
/// # Errors
/// If `check` fails, if the first page is damaged, or if its samples are of a kind that is not read.
pub(crate) fn pages(file: &[u8], count: usize, mut check: impl FnMut((u32, u32)) -> Result<()>) -> Result<Vec<Page>> {
    let (file, meanings) = as_plain_bands(file)?;
    let mut limits = Limits::default();
    (limits.decoding_buffer_size, limits.intermediate_buffer_size) = (MAX_PAGE_BYTES, MAX_PAGE_BYTES);
    limits.ifd_value_size = MAX_TAG_BYTES;
    let mut decoder = Decoder::new(Cursor::new(file.as_ref())).map_err(failed)?.with_limits(limits);
    let mut pages = Vec::new();
    for &meaning in meanings.iter().take(count) {
        check(decoder.dimensions().map_err(failed)?)?;
        match page(&mut decoder, &file, meaning) {
            Ok(page) => pages.push(page),
            // What could be read of a damaged file is kept.
            Err(_) if !pages.is_empty() => break,
            Err(error) => return Err(error),
        }
        if !decoder.more_images() || decoder.next_image().is_err() {
            break;
        }
    }
    Ok(pages)
}

fn failed(error: ::tiff::TiffError) -> Error {
    Error::Decode(error.to_string())
}

fn unsupported(what: &str) -> Error {
    Error::Decode(format!("TIFF files with {what} are not read"))
}

/// The file with palettes and inverted greys declared as plain grey, which is what the crate unpacks without looking into them, and what each
/// directory had declared before.
fn as_plain_bands(file: &[u8]) -> Result<(Cow<'_, [u8]>, Vec<u16>)> {
    let broken = || Error::Decode("the TIFF file's directory is damaged".into());
    let little = file.starts_with(b"II");
    let number = |at: usize, length: usize| -> Option<usize> {
        let bytes = file.get(at..at.checked_add(length)?)?;
        let add = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        let value = if little { bytes.iter().rev().fold(0, add) } else { bytes.iter().fold(0, add) };
        usize::try_from(value).ok()
    };
    let big = number(2, 2) == Some(43);
    let (word, count_bytes, entry_bytes) = if big { (8, 8, 20) } else { (4, 2, 12) };
    let mut copy = Cow::Borrowed(file);
    let mut meanings = Vec::new();
    let mut next = number(if big { 8 } else { 4 }, word).ok_or_else(broken)?;
    while next != 0 && meanings.len() < MAX_PAGES {
        let Some(entries) = number(next, count_bytes) else { break };
        let mut meaning = WHITE_IS_ZERO;
        for entry in 0..entries.min(usize::from(u16::MAX)) {
            let at = next + count_bytes + entry * entry_bytes;
            if number(at, 2) != Some(usize::from(MEANING)) {
                continue;
            }
            let value = at + entry_bytes - word;
            meaning = number(value, 2).and_then(|value| u16::try_from(value).ok()).ok_or_else(broken)?;
            if [WHITE_IS_ZERO, PALETTE].contains(&meaning) {
                let plain = if little { BLACK_IS_ZERO.to_le_bytes() } else { BLACK_IS_ZERO.to_be_bytes() };
                copy.to_mut()[value..value + 2].copy_from_slice(&plain);
            }
        }
        meanings.push(meaning);
        next = number(next.saturating_add(count_bytes + entries.saturating_mul(entry_bytes)), word).unwrap_or(0);
    }
    if meanings.is_empty() { Err(broken()) } else { Ok((copy, meanings)) }
}

fn page(decoder: &mut Decoder<Cursor<&[u8]>>, file: &[u8], meaning: u16) -> Result<Page> {
    let (width, height) = decoder.dimensions().map_err(failed)?;
    let tag = |decoder: &mut Decoder<_>, tag| decoder.find_tag_unsigned::<u16>(tag).map_err(failed);
    let orientation = tag(decoder, Tag::Orientation)?.and_then(|value| Orientation::from_exif(u8::try_from(value).ok()?));
    let (pixels, has_alpha) = if tag(decoder, Tag::Compression)? == Some(JPEG) {
        (jpeg_page(decoder, file, meaning)?, false)
    } else {
        let bands = Bands::read(decoder, width as usize, height as usize)?;
        let palette = decoder.find_tag_unsigned_vec::<u16>(Tag::ColorMap).map_err(failed)?;
        bands.to_rgba(meaning, &palette.unwrap_or_default(), (width, height))?
    };
    let mut picture = image::DynamicImage::ImageRgba8(pixels);
    picture.apply_orientation(orientation.unwrap_or(Orientation::NoTransforms));
    Ok(Page { pixels: picture.into_rgba8(), has_alpha })
}

/// A page's samples as they are stored, unpacked.
struct Bands {
    samples: DecodingResult,
    bits: u8,
    /// Bands of a pixel, with their kinds beyond the colour's.
    count: usize,
    extra: Vec<u16>,
    /// How far apart a pixel's bands, and the pixels, are.
    band_stride: usize,
    pixel_stride: usize,
}

impl Bands {
    fn read(decoder: &mut Decoder<Cursor<&[u8]>>, width: usize, height: usize) -> Result<Self> {
        let color = decoder.colortype().map_err(failed)?;
        let (bits, count) = (color.bit_depth(), usize::from(color.num_samples()));
        let extra = decoder.find_tag_unsigned_vec::<u16>(Tag::ExtraSamples).map_err(failed)?.unwrap_or_default();
        let mut samples = DecodingResult::U8(Vec::new());
        let layout = decoder.read_image_to_buffer(&mut samples).map_err(failed)?;
        if bits < 8 {
            if count != 1 {
                return Err(unsupported("several channels of less than 8 bits"));
            }
            samples = DecodingResult::U8(unpacked(&samples, bits, width, height));
        }
        let planar = layout.planes > 1;
        let (band_stride, pixel_stride) = if planar { (width * height, 1) } else { (1, count) };
        let bands = Self { samples, bits, count, extra, band_stride, pixel_stride };
        if bands.len() < width * height * count { Err(unsupported("incomplete planes")) } else { Ok(bands) }
    }

    fn len(&self) -> usize {
        match &self.samples {
            DecodingResult::U8(all) => all.len(),
            DecodingResult::I8(all) => all.len(),
            DecodingResult::U16(all) => all.len(),
            DecodingResult::I16(all) => all.len(),
            DecodingResult::U32(all) => all.len(),
            DecodingResult::I32(all) => all.len(),
            DecodingResult::F32(all) => all.len(),
            _ => 0,
        }
    }

    /// A grey in eight bits, by Pillow's rules: 16 bits are clipped, wider and signed ones are divided by 255 and clipped, and floats lose
    /// their fraction and are clipped.
    fn grey(&self, index: usize) -> u8 {
        let clip = |value: i32| u8::try_from(value.max(0)).unwrap_or(u8::MAX);
        match &self.samples {
            DecodingResult::U8(all) => all[index],
            DecodingResult::I8(all) => all[index] as u8,
            DecodingResult::U16(all) => clip(i32::from(all[index])),
            DecodingResult::I16(all) => clip(i32::from(all[index]) / 255),
            DecodingResult::U32(all) => clip(all[index] as i32 / 255),
            DecodingResult::I32(all) => clip(all[index] / 255),
            // Conversion saturates, and makes 0 of what is no number.
            DecodingResult::F32(all) => all[index] as u8,
            _ => 0,
        }
    }

    /// A colour in eight bits: the high byte.
    fn color(&self, index: usize) -> u8 {
        match &self.samples {
            DecodingResult::U16(all) => (all[index] >> 8) as u8,
            _ => self.grey(index),
        }
    }

    fn to_rgba(&self, meaning: u16, palette: &[u16], (width, height): (u32, u32)) -> Result<(RgbaImage, bool)> {
        let narrow = self.bits <= 8;
        let colors = match meaning {
            WHITE_IS_ZERO | BLACK_IS_ZERO | PALETTE => 1,
            RGB if self.bits == 8 || self.bits == 16 => 3,
            CMYK if self.bits == 8 || self.bits == 16 => 4,
            _ => return Err(unsupported(&format!("colours of kind {meaning} in {} bits", self.bits))),
        };
        // Colours without a declared fourth channel have alpha in it.
        let alpha = match self.extra.first() {
            Some(&kind) if [ASSOCIATED, UNASSOCIATED].contains(&kind) && colors < 4 && self.count > colors => Some(kind),
            None if colors == 3 && self.count > 3 => Some(UNASSOCIATED),
            _ => None,
        };
        if self.count < colors {
            return Err(unsupported("fewer channels than their colours have"));
        }
        let full = (1usize << self.bits.min(8)) - 1;
        let entry = |index: usize, channel: usize| palette.get(index + channel * (full + 1)).map_or(0, |value| (value >> 8) as u8);
        let pixel = |x: u32, y: u32| {
            let at = (y as usize * width as usize + x as usize) * self.pixel_stride;
            let band = |band: usize| at + band * self.band_stride;
            let [r, g, b] = match meaning {
                PALETTE => [0, 1, 2].map(|channel| entry(usize::from(self.grey(at)), channel)),
                RGB => [0, 1, 2].map(|channel| self.color(band(channel))),
                CMYK => from_cmyk([0, 1, 2, 3].map(|channel| self.color(band(channel)))),
                _ => {
                    let value = self.grey(at);
                    let spread = if narrow { (usize::from(value) * 255 / full) as u8 } else { value };
                    [if narrow && meaning == WHITE_IS_ZERO { 255 - spread } else { spread }; 3]
                }
            };
            let alpha_value = alpha.map_or(255, |_| self.color(band(colors)));
            image::Rgba(match alpha {
                Some(ASSOCIATED) => multiplied_back([r, g, b, alpha_value]),
                _ => [r, g, b, alpha_value],
            })
        };
        if self.len() == 0 {
            return Err(unsupported("samples of 64 bits"));
        }
        Ok((RgbaImage::from_fn(width, height, pixel), alpha.is_some()))
    }
}

/// One sample per byte of rows in which they are packed.
fn unpacked(packed: &DecodingResult, bits: u8, width: usize, height: usize) -> Vec<u8> {
    let DecodingResult::U8(packed) = packed else { return Vec::new() };
    let per_byte = usize::from(8 / bits);
    let row = width.div_ceil(per_byte);
    let mask = (1u8 << bits) - 1;
    let mut all = Vec::with_capacity(width * height);
    for row in packed.chunks_exact(row).take(height) {
        all.extend((0..width).map(|x| row[x / per_byte] >> (8 - usize::from(bits) * (x % per_byte + 1)) & mask));
    }
    all
}

/// A page whose strips or tiles are JPEG files that share their tables.
fn jpeg_page(decoder: &mut Decoder<Cursor<&[u8]>>, file: &[u8], meaning: u16) -> Result<RgbaImage> {
    let broken = || Error::Decode("a part of the TIFF file is damaged".into());
    let (width, height) = decoder.dimensions().map_err(failed)?;
    let samples = decoder.find_tag_unsigned::<u16>(Tag::SamplesPerPixel).map_err(failed)?.unwrap_or(1);
    if ![(1, BLACK_IS_ZERO), (3, RGB), (3, YCBCR), (4, CMYK)].contains(&(samples, meaning)) {
        return Err(Error::Decode(format!("JPEG parts of {samples} channels that are colours of kind {meaning} are not read")));
    }
    let mut list = |tags: [Tag; 2]| -> Result<Vec<u64>> {
        let values = tags.into_iter().find_map(|tag| decoder.find_tag_unsigned_vec::<u64>(tag).transpose());
        values.ok_or_else(broken)?.map_err(failed)
    };
    let offsets = list([Tag::TileOffsets, Tag::StripOffsets])?;
    let lengths = list([Tag::TileByteCounts, Tag::StripByteCounts])?;
    let tables = match decoder.find_tag(Tag::JPEGTables).map_err(failed)? {
        Some(value) => value.into_u8_vec().map_err(failed)?,
        None => Vec::new(),
    };
    let part = decoder.chunk_dimensions();
    let across = width.div_ceil(part.0.max(1));
    let mut page = RgbaImage::from_pixel(width, height, image::Rgba([0, 0, 0, 255]));
    for (index, (offset, length)) in (0u32..).zip(offsets.iter().zip(lengths)) {
        let (x, y) = (index % across * part.0, (index / across).saturating_mul(part.1));
        if y >= height {
            break;
        }
        let range = usize::try_from(*offset).ok().zip(usize::try_from(offset.saturating_add(length)).ok());
        let data = range.and_then(|(start, end)| file.get(start..end)).ok_or_else(broken)?;
        let pixels = jpeg::decode_part(&tables, data, meaning == YCBCR, part)?;
        image::imageops::replace(&mut page, &pixels, i64::from(x), i64::from(y));
    }
    Ok(page)
}

//! Reading and writing JPEG files. Reading is libjpeg-turbo's, whose decoder mozjpeg carries unchanged: its integer transform, its chroma
//! upsampling and its colour conversion, so that pixels are Pillow's bit for bit.

use std::cell::Cell;
use std::io::{self, BufRead, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::RgbaImage;
use mozjpeg::{ColorSpace, Decompress, Marker};

use crate::color::from_cmyk;
use crate::raster::Raster;
use crate::{Error, Result};

/// Passes over a picture that one file may ask for: progressive files have about ten, and each costs as much as a whole picture.
const MAX_SCANS: usize = 500;

/// A JPEG file's picture and what was noted beside it.
pub(crate) struct Decoded {
    pub(crate) pixels: RgbaImage,
    pub(crate) exif: Option<Vec<u8>>,
    pub(crate) xmp: Option<Vec<u8>>,
}

/// Reads a JPEG file. `check` is told the size before anything is allocated. Of a file that ends too early, what is there is kept and
/// the rest is black (white if it is in CMYK), as Pillow does when told to load truncated files.
///
/// # Errors
/// If `check` fails, if the file is damaged before its first pixel, or of a kind that libjpeg does not read.
pub(crate) fn decode(file: &[u8], check: impl FnOnce((u32, u32)) -> Result<()>) -> Result<Decoded> {
    read(file, true, check)
}

fn read(file: &[u8], inverted_cmyk: bool, check: impl FnOnce((u32, u32)) -> Result<()>) -> Result<Decoded> {
    let scans = scans(file);
    if scans > MAX_SCANS {
        return Err(Error::TooLarge { what: "passes", found: scans as u64, limit: MAX_SCANS as u64 });
    }
    let ended = Cell::new(false);
    let source = Source { rest: file, ended: &ended };
    // libjpeg's errors unwind; what it holds is dropped on the way.
    let start = || Decompress::builder().with_markers(&[Marker::APP(1)]).from_reader(source);
    let decoder = caught(start)?;
    let (width, height) = decoder.size();
    let size = (side(width)?, side(height)?);
    check(size)?;
    let part = |name: &[u8]| decoder.markers().find_map(|marker| marker.data.strip_prefix(name).map(<[u8]>::to_vec));
    let (exif, xmp) = (part(b"Exif\0\0"), part(b"http://ns.adobe.com/xap/1.0/\0"));
    let in_cmyk = match decoder.components().len() {
        1 | 3 => false,
        4 => true,
        other => return Err(Error::Decode(format!("a JPEG file has {other} channels instead of 1, 3 or 4"))),
    };
    let wanted = if in_cmyk { ColorSpace::JCS_CMYK } else { ColorSpace::JCS_EXT_RGBA };
    let mut pixels = vec![if in_cmyk { 255 } else { 0 }; width * height * 4];
    let rows = || decoder.to_colorspace(wanted)?.read_scanlines_into(&mut pixels).map(|_| ());
    match caught(rows) {
        Err(error) if !ended.get() && pixels.iter().all(|&byte| byte == pixels[0]) => return Err(error),
        _ => {}
    }
    for pixel in pixels.as_chunks_mut::<4>().0 {
        let [r, g, b] = match (in_cmyk, inverted_cmyk) {
            (false, _) => [pixel[0], pixel[1], pixel[2]],
            (true, true) => from_cmyk(pixel.map(|ink| 255 - ink)),
            (true, false) => from_cmyk(*pixel),
        };
        *pixel = [r, g, b, 255];
    }
    let too_large = || Error::Decode("the picture does not fit into memory".into());
    Ok(Decoded { pixels: RgbaImage::from_raw(size.0, size.1, pixels).ok_or_else(too_large)?, exif, xmp })
}

fn side(length: usize) -> Result<u32> {
    u32::try_from(length).map_err(|_| Error::Decode("the picture is too large".into()))
}

/// Calls libjpeg and makes an error of what it throws.
fn caught<T>(call: impl FnOnce() -> io::Result<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|error| Error::Decode(error.to_string())),
        Err(thrown) => {
            let text = thrown.downcast_ref::<String>().map_or("libjpeg failed", String::as_str);
            Err(Error::Decode(text.trim_start_matches("libjpeg fatal error: ").to_owned()))
        }
    }
}

/// The bytes of a file, then an end marker, then an error: libjpeg would go on with made-up end markers otherwise, and read tables out of
/// them.
struct Source<'a> {
    rest: &'a [u8],
    ended: &'a Cell<bool>,
}

impl Source<'_> {
    const END: &'static [u8] = &[0xff, 0xd9];
}

impl BufRead for Source<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.rest.is_empty() {
            if self.ended.replace(true) {
                return Err(io::Error::other("the file ends too early"));
            }
            self.rest = Self::END;
        }
        Ok(self.rest)
    }

    fn consume(&mut self, amount: usize) {
        self.rest = self.rest.get(amount..).unwrap_or_default();
    }
}

impl Read for Source<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(into)?;
        self.consume(count);
        Ok(count)
    }
}

/// How many passes over the picture a file holds.
fn scans(file: &[u8]) -> usize {
    let (mut count, mut at) = (0, 2);
    while let Some(found) = file.get(at..).and_then(|rest| rest.iter().position(|&byte| byte == 0xff)) {
        at += found + 1;
        let Some(&marker) = file.get(at) else { break };
        match marker {
            // Not a marker, or one without content.
            0x00 | 0x01 | 0xd0..=0xd8 => at += 1,
            0xd9 => break,
            0xff => {}
            _ => {
                count += usize::from(marker == 0xda);
                let Some(length) = file.get(at + 1..at + 3) else { break };
                at += 1 + usize::from(u16::from_be_bytes([length[0], length[1]]));
            }
        }
    }
    count
}

/// Reads a strip or tile of a TIFF file: `tables` stand for all of its parts, and whether the colours are YCbCr is said outside of them.
/// CMYK is not inverted there.
///
/// # Errors
/// If it is damaged, or larger than `most`.
pub(crate) fn decode_part(tables: &[u8], data: &[u8], ycc: bool, most: (u32, u32)) -> Result<RgbaImage> {
    let tables = tables.strip_prefix(b"\xff\xd8").unwrap_or(tables);
    let tables = tables.strip_suffix(b"\xff\xd9").unwrap_or(tables);
    let mut file = vec![0xff, 0xd8];
    // Adobe's marker says whether three channels are RGB (0) or YCbCr (1).
    file.extend(b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0");
    file.push(u8::from(ycc));
    file.extend(tables);
    file.extend(data.strip_prefix(b"\xff\xd8").unwrap_or(data));
    let fits = |(width, height)| match width <= most.0 && height <= most.1 {
        true => Ok(()),
        false => Err(Error::Decode("a part of the TIFF file is larger than it says".into())),
    };
    Ok(read(&file, false, fits)?.pixels)
}

/// Writes a picture with quality 1 to 100. Alpha is dropped.
///
/// # Errors
/// If the quality is out of range, or a side exceeds 65535 pixels.
pub fn encode(raster: &Raster, quality: u8) -> Result<Vec<u8>> {
    if !(1..=100).contains(&quality) {
        return Err(Error::Parameter(format!("JPEG quality {quality} must be 1 to 100")));
    }
    let side = raster.width().max(raster.height());
    if side > usize::from(u16::MAX) {
        return Err(Error::TooLarge { what: "pixels on one side of a JPEG file", found: side as u64, limit: u64::from(u16::MAX) });
    }
    let (prepared, color) = match raster.channels() {
        1 => (None, image::ExtendedColorType::L8),
        _ => (Some(raster.to_rgb()), image::ExtendedColorType::Rgb8),
    };
    let data = prepared.as_ref().unwrap_or(raster).data();
    let mut file = Vec::new();
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut file, quality)
        .encode(data, raster.width() as u32, raster.height() as u32, color)
        .map_err(|error| Error::Encode(error.to_string()))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    #[test]
    fn a_smooth_picture_comes_back_nearly_the_same() {
        for channels in [1, 3, 4] {
            let data: Vec<u8> = (0..32 * 32).flat_map(|i| [(i / 32 * 4) as u8; 4].into_iter().take(channels)).collect();
            let raster = Raster::new(32, 32, channels, data).unwrap();
            let decoded = image::load_from_memory(&encode(&raster, 95).unwrap()).unwrap().to_rgb8();
            for (a, b) in decoded.as_raw().iter().zip(raster.to_rgb().data()) {
                assert!(a.abs_diff(*b) <= 3, "{a} against {b}");
            }
        }
        assert!(encode(&Raster::new(1, 1, 1, vec![0]).unwrap(), 0).is_err());
    }
}

//! Reading picture files as ComfyUI's LoadImage and LoadImageMask read them with Pillow, and the table of what can be read. Knows the
//! formats, not where files lie.
//!
//! What Pillow decides and this file follows: a file's content says what it is, not its name; colours of 16 bits per channel keep their high
//! byte, but 16-bit grey is clipped, except in PNG files that a node loads, which keep their precision as in ComfyUI 0.33; a colour key (tRNS of
//! a grey or RGB PNG) is no alpha for pictures, but is for masks; EXIF orientation
//! is applied where a node asks for a picture, and not where one asks for pixels; the colour under transparent pixels is kept, except in
//! GIF files behind the first frame, where it is black.

use crate::color::from_cmyk;

use crate::{Error, Raster, Result, avif, jpeg, tiff};
use comfyd_values::{Image, Mask};
use image::codecs::{gif::GifDecoder, png::PngDecoder, pnm::PnmDecoder, webp::WebPDecoder};
use image::metadata::Orientation;
use image::{AnimationDecoder, DynamicImage, ImageDecoder, ImageFormat, RgbaImage};
use image_extras::{pcx::PCXDecoder, sgi::SgiDecoder};
use ndarray::{Array3, Array4, ArrayViewMut3, Axis, s};
use std::cmp::Reverse;
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Side of the empty mask that stands for "no alpha".
const NO_ALPHA_SIDE: usize = 64;

const PNG_MAGIC: &[u8] = b"\x89PNG\r\n\x1a\n";

/// A kind of picture file.
struct Format {
    name: &'static str,
    /// The endings under which such files are offered, lower case with the dot.
    endings: &'static [&'static str],
    /// Whether a file begins like one.
    fits: fn(&[u8]) -> bool,
    /// Decodes up to that many frames, at least one.
    frames: fn(&[u8], &mut Budget, usize) -> Result<Vec<Frame>>,
}

/// All kinds of files that are read: what lists offer and what decodes are one table.
const FORMATS: &[Format] = &[
    Format { name: "PNG", endings: &[".png", ".apng"], fits: |file| file.starts_with(PNG_MAGIC), frames: png_frames },
    Format {
        name: "JPEG",
        endings: &[".jpg", ".jpeg", ".jpe", ".jfif"],
        fits: |file| file.starts_with(b"\xff\xd8\xff"),
        frames: jpeg_frame,
    },
    Format {
        name: "WebP",
        endings: &[".webp"],
        fits: |file| file.starts_with(b"RIFF") && file.get(8..12) == Some(b"WEBP"),
        frames: webp_frames,
    },
    Format { name: "GIF", endings: &[".gif"], fits: |file| file.starts_with(b"GIF87a") || file.starts_with(b"GIF89a"), frames: gif_frames },
    Format { name: "BMP", endings: &[".bmp"], fits: |file| file.starts_with(b"BM"), frames: bmp_frame },
    Format {
        name: "TIFF",
        endings: &[".tif", ".tiff"],
        fits: |file| [b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"].iter().any(|magic| file.starts_with(*magic)),
        frames: tiff_frames,
    },
    Format { name: "AVIF", endings: &[".avif"], fits: avif::fits, frames: avif_frame },
    Format { name: "ICO", endings: &[".ico"], fits: |file| file.starts_with(b"\0\0\x01\0"), frames: ico_frame },
    Format {
        name: "PNM",
        endings: &[".pbm", ".pgm", ".ppm", ".pnm"],
        fits: |file| file.first() == Some(&b'P') && file.get(1).is_some_and(|digit| (b'1'..=b'6').contains(digit)),
        frames: pnm_frame,
    },
    Format {
        name: "QOI",
        endings: &[".qoi"],
        fits: |file| file.starts_with(b"qoif"),
        frames: |file, budget, _| plain(ImageFormat::Qoi, file, budget),
    },
    Format {
        name: "JPEG 2000",
        endings: &[".jp2", ".j2k", ".jpx", ".j2c", ".jpc", ".jpf"],
        fits: |file| file.starts_with(b"\0\0\0\x0cjP  \r\n\x87\n") || file.starts_with(b"\xff\x4f\xff\x51"),
        frames: jpeg_2000_frame,
    },
    Format {
        name: "PCX",
        endings: &[".pcx"],
        fits: |file| file.first() == Some(&10) && file.get(1).is_some_and(|version| [0, 2, 3, 5].contains(version)),
        frames: |file, budget, _| one(PCXDecoder::new(Cursor::new(file)), budget),
    },
    Format {
        name: "SGI",
        endings: &[".sgi", ".rgb", ".rgba", ".bw"],
        fits: |file| file.starts_with(b"\x01\xda"),
        frames: |file, budget, _| one(SgiDecoder::new(Cursor::new(file)), budget),
    },
    // Has no magic number, so that it comes last.
    Format { name: "TGA", endings: &[".tga"], fits: tga_fits, frames: |file, budget, _| plain(ImageFormat::Tga, file, budget) },
];

/// The endings of files that can be read, lower case with the dot.
pub fn endings() -> Vec<&'static str> {
    FORMATS.iter().flat_map(|format| format.endings).copied().collect()
}

/// How large a file's contents may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Pixels of one frame. The default is Pillow's.
    pub max_pixels: u64,
    /// Frames of one file.
    pub max_frames: usize,
    /// Bytes of all frames together, as f32 RGB.
    pub max_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_pixels: 178_956_970, max_frames: 4096, max_bytes: 8 << 30 }
    }
}

/// What LoadImage outputs.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// All frames of the first frame's size, RGB.
    pub image: Image,
    /// 1 - alpha for each frame; one 64x64 mask of zeros per frame if none has alpha.
    pub mask: Mask,
}

/// A channel that LoadImageMask reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// 1 - alpha.
    Alpha,
    /// The red channel.
    Red,
    /// The green channel.
    Green,
    /// The blue channel.
    Blue,
}

/// Reads a file as LoadImage does: all frames as a batch, and a mask from alpha.
///
/// # Errors
/// If the file is damaged, of an unknown format, or exceeds the limits.
pub fn load_image(file: &[u8], limits: &Limits) -> Result<Loaded> {
    let frames: Vec<Frame> = decode(file, limits, usize::MAX)?.into_iter().map(Frame::upright).collect();
    let (width, height) = frames[0].pixels.dimensions();
    let frames: Vec<&Frame> = frames.iter().filter(|frame| frame.pixels.dimensions() == (width, height)).collect();
    let (width, height) = (width as usize, height as usize);

    let mut image = Array4::zeros((frames.len(), height, width, 3));
    let masked = |frame: &Frame| frame.alpha_band || frame.keyed;
    let with_alpha = frames.iter().any(|frame| masked(frame));
    let mask_shape = if with_alpha { (frames.len(), height, width) } else { (frames.len(), NO_ALPHA_SIDE, NO_ALPHA_SIDE) };
    let mut mask = Array3::zeros(mask_shape);
    for (index, frame) in frames.iter().enumerate() {
        let mut colors = image.index_axis_mut(Axis(0), index);
        let mut holes = masked(frame).then(|| mask.index_axis_mut(Axis(0), index));
        let holes = holes.iter_mut().flat_map(|mask| mask.iter_mut());
        match &frame.wide {
            Some(wide) => {
                let channels = wide.pixels().flat_map(|pixel| &pixel.0[..3]);
                colors.iter_mut().zip(channels).for_each(|(value, &channel)| *value = f32::from(channel) / 65535.0);
                holes.zip(wide.pixels()).for_each(|(value, pixel)| *value = 1.0 - f32::from(pixel.0[3]) / 65535.0);
            }
            None => {
                copy_rgb(&frame.pixels, colors);
                holes.zip(frame.pixels.pixels()).for_each(|(value, pixel)| *value = 1.0 - f32::from(pixel.0[3]) / 255.0);
            }
        }
    }
    Ok(Loaded { image: Image::new(image), mask: Mask::new(mask) })
}

/// Reads one channel as LoadImageMask does: of all frames, and alpha as LoadImage's mask.
///
/// # Errors
/// If the file is damaged, of an unknown format, or exceeds the limits.
pub fn load_mask(file: &[u8], channel: Channel, limits: &Limits) -> Result<Mask> {
    let loaded = load_image(file, limits)?;
    let index = match channel {
        Channel::Alpha => return Ok(loaded.mask),
        Channel::Red => 0,
        Channel::Green => 1,
        Channel::Blue => 2,
    };
    Ok(Mask::new(loaded.image.0.index_axis(Axis(3), index).to_owned()))
}

/// The first frame as it is stored, in 8 bits and not turned: RGBA if the file has an alpha channel, RGB otherwise.
///
/// # Errors
/// If the file is damaged, of an unknown format, or exceeds the limits.
pub fn raster(file: &[u8], limits: &Limits) -> Result<Raster> {
    let frame = first_frame(file, limits)?;
    let (width, height) = frame.pixels.dimensions();
    let raster = Raster::new(width as usize, height as usize, 4, frame.pixels.into_raw())?;
    Ok(if frame.alpha_band { raster } else { raster.to_rgb() })
}

/// RGBA in 16 bits.
type Wide = image::ImageBuffer<image::Rgba<u16>, Vec<u16>>;

/// One decoded frame.
struct Frame {
    pixels: RgbaImage,
    /// The pixels as they are in a file of 16 bits, for nodes that compute with them.
    wide: Option<Wide>,
    /// Whether alpha counts for LoadImage: an alpha channel or a palette with transparency, but not a colour key.
    alpha_band: bool,
    /// Whether a colour stands for transparency, which counts for masks alone.
    keyed: bool,
    /// How the pixels are to be turned.
    orientation: Orientation,
}

impl Frame {
    fn new(pixels: RgbaImage, alpha_band: bool, orientation: Orientation) -> Self {
        Self { pixels, wide: None, alpha_band, keyed: false, orientation }
    }

    fn upright(mut self) -> Self {
        if self.orientation != Orientation::NoTransforms {
            let mut picture = DynamicImage::ImageRgba8(self.pixels);
            picture.apply_orientation(self.orientation);
            self.pixels = picture.into_rgba8();
            if let Some(wide) = self.wide.take() {
                let mut picture = DynamicImage::ImageRgba16(wide);
                picture.apply_orientation(self.orientation);
                self.wide = Some(picture.into_rgba16());
            }
            self.orientation = Orientation::NoTransforms;
        }
        self
    }
}

fn first_frame(file: &[u8], limits: &Limits) -> Result<Frame> {
    decode(file, limits, 1)?.into_iter().next().ok_or_else(no_picture)
}

/// Decodes up to `count` frames, at least one.
fn decode(file: &[u8], limits: &Limits, count: usize) -> Result<Vec<Frame>> {
    let format = FORMATS.iter().find(|format| (format.fits)(file)).ok_or_else(|| {
        let names: Vec<&str> = FORMATS.iter().map(|format| format.name).collect();
        Error::Decode(format!("the format is not known, only {}", names.join(", ")))
    })?;
    let frames = caught(|| (format.frames)(file, &mut Budget::new(limits), count))??;
    if frames.is_empty() { Err(no_picture()) } else { Ok(frames) }
}

fn no_picture() -> Error {
    Error::Decode("the file holds no picture".into())
}

/// How a file's pixels are to be turned: EXIF says it or, if that is silent, XMP.
fn orientation(exif: Option<&[u8]>, xmp: Option<&[u8]>) -> Orientation {
    let from_xmp = || {
        let name = b"tiff:Orientation".as_slice();
        let xmp = xmp?;
        let found = xmp.windows(name.len()).position(|window| window == name)?;
        let value = &xmp[found + name.len()..];
        let digit = value.strip_prefix(b"=\"").or_else(|| value.strip_prefix(b">"))?.first()?;
        Orientation::from_exif(digit.wrapping_sub(b'0'))
    };
    exif.and_then(Orientation::from_exif_chunk).or_else(from_xmp).unwrap_or(Orientation::NoTransforms)
}

/// How a decoder's pixels are to be turned. What it cannot read is silent.
fn orientation_of(decoder: &mut impl ImageDecoder) -> Orientation {
    let exif = decoder.exif_metadata().ok().flatten();
    let xmp = decoder.xmp_metadata().ok().flatten();
    orientation(exif.as_deref(), xmp.as_deref())
}

/// Counts what a file has used of its limits.
struct Budget<'a> {
    limits: &'a Limits,
    frames: usize,
    bytes: u64,
}

impl<'a> Budget<'a> {
    fn new(limits: &'a Limits) -> Self {
        Self { limits, frames: 0, bytes: 0 }
    }

    /// Refuses frames that are too large, before their pixels are decoded.
    fn check_frame(&self, (width, height): (u32, u32)) -> Result<()> {
        let pixels = u64::from(width) * u64::from(height);
        if pixels == 0 {
            return Err(Error::Decode("the picture has no pixels".into()));
        }
        if pixels > self.limits.max_pixels {
            return Err(Error::TooLarge { what: "pixels", found: pixels, limit: self.limits.max_pixels });
        }
        Ok(())
    }

    /// Counts a frame that is about to be kept.
    fn add_frame(&mut self, (width, height): (u32, u32)) -> Result<()> {
        self.check_frame((width, height))?;
        self.frames += 1;
        if self.frames > self.limits.max_frames {
            return Err(Error::TooLarge { what: "frames", found: self.frames as u64, limit: self.limits.max_frames as u64 });
        }
        self.add_pixels((width, height))
    }

    /// Counts the pixels of a frame.
    fn add_pixels(&mut self, (width, height): (u32, u32)) -> Result<()> {
        self.bytes += u64::from(width) * u64::from(height) * 3 * size_of::<f32>() as u64;
        if self.bytes > self.limits.max_bytes {
            return Err(Error::TooLarge { what: "bytes when decoded", found: self.bytes, limit: self.limits.max_bytes });
        }
        Ok(())
    }
}

fn decode_error(error: image::ImageError) -> Error {
    Error::Decode(error.to_string())
}

fn jpeg_frame(file: &[u8], budget: &mut Budget, _: usize) -> Result<Vec<Frame>> {
    let decoded = jpeg::decode(file, |size| budget.add_frame(size))?;
    let orientation = orientation(decoded.exif.as_deref(), decoded.xmp.as_deref());
    Ok(vec![Frame::new(decoded.pixels, false, orientation)])
}

fn avif_frame(file: &[u8], budget: &mut Budget, _: usize) -> Result<Vec<Frame>> {
    let decoded = avif::decode(file, |size| budget.add_frame(size))?;
    Ok(vec![Frame::new(decoded.pixels, decoded.has_alpha, decoded.orientation)])
}

fn jpeg_2000_frame(file: &[u8], budget: &mut Budget, _: usize) -> Result<Vec<Frame>> {
    let failed = |error: hayro_jpeg2000::error::DecodeError| Error::Decode(error.to_string());
    let picture = hayro_jpeg2000::Image::new(file, &hayro_jpeg2000::DecodeSettings::default()).map_err(failed)?;
    let (width, height) = (picture.width(), picture.height());
    budget.add_frame((width, height))?;
    let alpha_band = picture.has_alpha();
    let colors = usize::from(picture.color_space().num_channels());
    let data = picture.decode().map_err(failed)?;
    let pixel = |bands: &[u8]| -> Option<[u8; 4]> {
        let alpha = if alpha_band { *bands.get(colors)? } else { 255 };
        let [r, g, b] = match colors {
            1 => [bands[0]; 3],
            3 => [bands[0], bands[1], bands[2]],
            4 => from_cmyk([bands[0], bands[1], bands[2], bands[3]]),
            _ => return None,
        };
        Some([r, g, b, alpha])
    };
    let rgba: Option<Vec<[u8; 4]>> = data.chunks_exact(colors + usize::from(alpha_band)).map(pixel).collect();
    let pixels = rgba.and_then(|rgba| RgbaImage::from_raw(width, height, rgba.into_flattened()));
    let pixels = pixels.ok_or_else(|| Error::Decode(format!("{colors} channels are not read")))?;
    Ok(vec![Frame::new(pixels, alpha_band, Orientation::NoTransforms)])
}

/// What a decoder makes of a damaged file must not end more than the reading of it.
fn caught<T>(call: impl FnOnce() -> T) -> Result<T> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|_| Error::Decode("the data is damaged".into()))
}

fn tiff_frames(file: &[u8], budget: &mut Budget, count: usize) -> Result<Vec<Frame>> {
    let pages = tiff::pages(file, count, |size| budget.add_frame(size))?;
    let frame = |page: tiff::Page| Frame::new(page.pixels, page.has_alpha, Orientation::NoTransforms);
    Ok(pages.into_iter().map(frame).collect())
}

fn bmp_frame(file: &[u8], budget: &mut Budget, _: usize) -> Result<Vec<Frame>> {
    let mut frames = plain(ImageFormat::Bmp, file, budget)?;
    if file.get(28..30) == Some(&[16, 0]) {
        // Pillow rounds colours of five and six bits down.
        let six_bits = file.get(30) == Some(&3) && file.get(58..62) == Some(&0x7e0u32.to_le_bytes());
        let most = [31, if six_bits { 63 } else { 31 }, 31];
        for pixel in frames.iter_mut().flat_map(|frame| frame.pixels.pixels_mut()) {
            for (channel, most) in pixel.0.iter_mut().zip(most) {
                let stored = (u32::from(*channel) * most + 127) / 255;
                *channel = (stored * 255 / most) as u8;
            }
        }
    }
    Ok(frames)
}

/// The picture of an icon file: the largest, and among equals the one of fewest bits.
fn ico_frame(file: &[u8], budget: &mut Budget, _: usize) -> Result<Vec<Frame>> {
    let broken = || Error::Decode("the icon's directory is damaged".into());
    let count = file.get(4..6).map(|two| usize::from(u16::from_le_bytes([two[0], two[1]]))).ok_or_else(broken)?;
    let entries = file.get(6..6 + count * 16).ok_or_else(broken)?.chunks_exact(16);
    let side = |byte: u8| if byte == 0 { 256 } else { u32::from(byte) };
    let bits = |entry: &[u8]| match (u16::from_le_bytes([entry[6], entry[7]]), entry[2]) {
        (0, 0) => 256,
        (0, colors) => colors.ilog2() + u32::from(!colors.is_power_of_two()),
        (bits, _) => u32::from(bits),
    };
    let best = entries.min_by_key(|entry| (Reverse(side(entry[0]) * side(entry[1])), bits(entry))).ok_or_else(no_picture)?;
    let word = |at: usize| u32::from_le_bytes([best[at], best[at + 1], best[at + 2], best[at + 3]]) as usize;
    let picture = file.get(word(12)..).ok_or_else(broken)?;
    if picture.starts_with(PNG_MAGIC) {
        return png_frames(picture, budget, 1);
    }
    // An icon of this one picture, so that the decoder chooses no other.
    let mut icon = vec![0, 0, 1, 0, 1, 0];
    icon.extend(&best[..8]);
    let picture = picture.get(..word(8)).unwrap_or(picture);
    // Some writers, Pillow among them, cut the mask behind the pixels short.
    let mask = 32 * side(best[1]) as usize;
    icon.extend(u32::try_from(picture.len() + mask).map_err(|_| broken())?.to_le_bytes());
    icon.extend(22u32.to_le_bytes());
    icon.extend(picture);
    icon.resize(icon.len() + mask, 0);
    plain(ImageFormat::Ico, &icon, budget)
}

fn pnm_frame(file: &[u8], budget: &mut Budget, _: usize) -> Result<Vec<Frame>> {
    let decoder = PnmDecoder::new(Cursor::new(file)).map_err(decode_error)?;
    budget.add_frame(decoder.dimensions())?;
    let most = f64::from(decoder.header().maximal_sample().max(1));
    let picture = DynamicImage::from_decoder(decoder).map_err(decode_error)?;
    let (width, height) = (picture.width(), picture.height());
    // The crate scales the file's numbers and rounds halves up, Pillow rounds them to even.
    let scaled = |value: f64, full: f64, to: f64| ((value * most / full).round() / most * to).round_ties_even();
    let byte = |value: u8| scaled(f64::from(value), 255.0, 255.0) as u8;
    let wide = |value: u16, to| scaled(f64::from(value), 65535.0, to);
    let pixels = match picture {
        DynamicImage::ImageLuma8(grey) => RgbaImage::from_fn(width, height, |x, y| {
            let value = byte(grey.get_pixel(x, y).0[0]);
            image::Rgba([value, value, value, 255])
        }),
        DynamicImage::ImageRgb8(color) => RgbaImage::from_fn(width, height, |x, y| {
            let [r, g, b] = color.get_pixel(x, y).0.map(byte);
            image::Rgba([r, g, b, 255])
        }),
        // Wide grey is held in 32 bits, which the nodes divide by 255.
        DynamicImage::ImageLuma16(grey) => RgbaImage::from_fn(width, height, |x, y| {
            let value = clipped(wide(grey.get_pixel(x, y).0[0], 65535.0) as u16 / 255);
            image::Rgba([value, value, value, 255])
        }),
        DynamicImage::ImageRgb16(color) => RgbaImage::from_fn(width, height, |x, y| {
            let [r, g, b] = color.get_pixel(x, y).0.map(|value| wide(value, 255.0) as u8);
            image::Rgba([r, g, b, 255])
        }),
        other => to_rgba(other),
    };
    Ok(vec![Frame::new(pixels, false, Orientation::NoTransforms)])
}

/// Whether a file's first bytes make sense as a TGA header: kind of palette and of pixels, sides and depth.
fn tga_fits(file: &[u8]) -> bool {
    let Some(header) = file.get(..18) else { return false };
    let sides = [u16::from_le_bytes([header[12], header[13]]), u16::from_le_bytes([header[14], header[15]])];
    header[1] <= 1 && [1, 2, 3, 9, 10, 11].contains(&header[2]) && !sides.contains(&0) && [1, 8, 16, 24, 32].contains(&header[16])
}

fn gif_frames(file: &[u8], budget: &mut Budget, count: usize) -> Result<Vec<Frame>> {
    let decoder = GifDecoder::new(Cursor::new(file)).map_err(decode_error)?;
    budget.check_frame(decoder.dimensions())?;
    let mut frames = animation(decoder, true, Orientation::NoTransforms, budget, count)?;
    // GIF frames are decoded as RGBA; only those with a hole in them count as having alpha.
    for frame in &mut frames {
        frame.alpha_band = frame.pixels.pixels().any(|pixel| pixel.0[3] != 255);
    }
    match Hidden::of(file) {
        Hidden::Nothing => {}
        Hidden::Grey => frames.iter_mut().for_each(|frame| frame.alpha_band = false),
        Hidden::Color([r, g, b]) => {
            for first in frames.iter_mut().take(1) {
                first.alpha_band = true;
                for pixel in first.pixels.pixels_mut().filter(|pixel| pixel.0[3] == 0) {
                    pixel.0 = [r, g, b, 0];
                }
            }
        }
    }
    Ok(frames)
}

/// What a GIF file's first frame has behind its transparent pixels.
enum Hidden {
    Nothing,
    /// A palette of which each entry is its own index: Pillow opens such files as grey, without alpha.
    Grey,
    /// A colour of the palette, which Pillow shows in the first frame.
    Color([u8; 3]),
}

impl Hidden {
    fn of(file: &[u8]) -> Self {
        let first = || -> Option<(Option<u8>, Vec<u8>)> {
            let mut decoder = gif::Decoder::new(Cursor::new(file)).ok()?;
            let frame = decoder.next_frame_info().ok()??;
            let (transparent, palette) = (frame.transparent, frame.palette.clone());
            Some((transparent, palette.or_else(|| decoder.global_palette().map(<[u8]>::to_vec))?))
        };
        let Some((transparent, palette)) = first() else { return Self::Nothing };
        let colors = palette.as_chunks::<3>().0;
        if (0u8..=255).zip(colors).all(|(index, color)| *color == [index; 3]) {
            return Self::Grey;
        }
        let color = transparent.map(|index| colors.get(usize::from(index)).copied().unwrap_or_default());
        color.map_or(Self::Nothing, Self::Color)
    }
}

fn webp_frames(file: &[u8], budget: &mut Budget, count: usize) -> Result<Vec<Frame>> {
    let mut decoder = WebPDecoder::new(Cursor::new(file)).map_err(decode_error)?;
    budget.check_frame(decoder.dimensions())?;
    match decoder.has_animation() {
        true => webp_animation(file, &mut decoder, budget, count),
        false => Ok(vec![still(decoder, budget)?]),
    }
}

/// The one picture of a file whose format the `image` crate decodes as Pillow does.
fn plain(format: ImageFormat, file: &[u8], budget: &mut Budget) -> Result<Vec<Frame>> {
    let mut reader = image::ImageReader::with_format(Cursor::new(file), format);
    reader.no_limits();
    one(reader.into_decoder(), budget)
}

fn one<D: ImageDecoder>(decoder: image::ImageResult<D>, budget: &mut Budget) -> Result<Vec<Frame>> {
    Ok(vec![still(decoder.map_err(decode_error)?, budget)?])
}

fn animation<'a>(
    decoder: impl AnimationDecoder<'a>,
    alpha_band: bool,
    orientation: Orientation,
    budget: &mut Budget,
    count: usize,
) -> Result<Vec<Frame>> {
    let mut frames: Vec<Frame> = Vec::new();
    for frame in decoder.into_frames().take(count) {
        let frame = match frame {
            Ok(frame) => frame,
            // Like Pillow, keep what could be read of a damaged animation.
            Err(_) if !frames.is_empty() => break,
            Err(error) => return Err(decode_error(error)),
        };
        let pixels = frame.into_buffer();
        budget.add_frame(pixels.dimensions())?;
        frames.push(Frame::new(pixels, alpha_band, orientation));
    }
    Ok(frames)
}

fn still(mut decoder: impl ImageDecoder, budget: &mut Budget) -> Result<Frame> {
    budget.add_frame(decoder.dimensions())?;
    let alpha_band = decoder.color_type().has_alpha();
    let orientation = orientation_of(&mut decoder);
    let picture = DynamicImage::from_decoder(decoder).map_err(decode_error)?;
    Ok(Frame::new(to_rgba(picture), alpha_band, orientation))
}

/// The frames of an animated WebP file. The `image` crate blends opaque pixels inexactly, so that it only decodes the parts.
fn webp_animation(file: &[u8], decoder: &mut impl ImageDecoder, budget: &mut Budget, count: usize) -> Result<Vec<Frame>> {
    let (canvas, alpha_band, orientation) = (decoder.dimensions(), decoder.color_type().has_alpha(), orientation_of(decoder));
    let mut pixels = RgbaImage::new(canvas.0, canvas.1);
    let mut frames: Vec<Frame> = Vec::new();
    for (kind, data) in crate::webp::chunks_lenient(file) {
        if &kind != b"ANMF" || frames.len() == count {
            continue;
        }
        let part = match webp_part(data, canvas) {
            Ok(part) => part,
            // Like Pillow, keep what could be read of a damaged animation.
            Err(_) if !frames.is_empty() => break,
            Err(error) => return Err(error),
        };
        budget.add_frame(canvas)?;
        for (x, y, source) in part.pixels.enumerate_pixels() {
            let target = pixels.get_pixel_mut(part.x + x, part.y + y);
            *target = if part.blend { blend_over(*source, *target) } else { *source };
        }
        frames.push(Frame::new(pixels.clone(), alpha_band, orientation));
        if part.dispose {
            for (x, y, _) in part.pixels.enumerate_pixels() {
                pixels.put_pixel(part.x + x, part.y + y, image::Rgba([0; 4]));
            }
        }
    }
    Ok(frames)
}

/// One frame of an animated WebP file, before it is put onto the canvas.
struct WebpPart {
    x: u32,
    y: u32,
    pixels: RgbaImage,
    blend: bool,
    dispose: bool,
}

fn webp_part(data: &[u8], canvas: (u32, u32)) -> Result<WebpPart> {
    let broken = || Error::Decode("a frame of the WebP file is damaged".into());
    let (header, payload) = data.split_at_checked(16).ok_or_else(broken)?;
    let u24 = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], 0]);
    let (x, y, width, height) = (u24(0) * 2, u24(3) * 2, u24(6) + 1, u24(9) + 1);
    if x + width > canvas.0 || y + height > canvas.1 {
        return Err(broken());
    }
    let decoder = WebPDecoder::new(Cursor::new(crate::webp::still_from_frame(payload, width, height)?)).map_err(decode_error)?;
    if decoder.dimensions() != (width, height) {
        return Err(broken());
    }
    let pixels = DynamicImage::from_decoder(decoder).map_err(decode_error)?.into_rgba8();
    Ok(WebpPart { x, y, pixels, blend: header[15] & 2 == 0, dispose: header[15] & 1 == 1 })
}

/// `source` over `target`, neither premultiplied, in libwebp's integers.
fn blend_over(source: image::Rgba<u8>, target: image::Rgba<u8>) -> image::Rgba<u8> {
    let alpha = u32::from(source.0[3]);
    match alpha {
        255 => return source,
        0 => return target,
        _ => {}
    }
    let target_weight = (u32::from(target.0[3]) * (256 - alpha)) >> 8;
    let blended_alpha = alpha + target_weight;
    let scale = (1 << 24) / blended_alpha;
    let channel = |c: usize| {
        let sum = u32::from(source.0[c]) * alpha + u32::from(target.0[c]) * target_weight;
        ((u64::from(sum) * u64::from(scale)) >> 24) as u8
    };
    image::Rgba([channel(0), channel(1), channel(2), blended_alpha as u8])
}

fn clipped(value: u16) -> u8 {
    u8::try_from(value).unwrap_or(u8::MAX)
}

/// Eight bits per channel, by Pillow's rules for wider channels.
fn to_rgba(picture: DynamicImage) -> RgbaImage {
    let (width, height) = (picture.width(), picture.height());
    let high = |value: u16| (value >> 8) as u8;
    match picture {
        DynamicImage::ImageLuma16(grey) => RgbaImage::from_fn(width, height, |x, y| {
            let value = high(grey.get_pixel(x, y).0[0]);
            image::Rgba([value, value, value, 255])
        }),
        DynamicImage::ImageLumaA16(grey) => RgbaImage::from_fn(width, height, |x, y| {
            let [value, alpha] = grey.get_pixel(x, y).0.map(high);
            image::Rgba([value, value, value, alpha])
        }),
        DynamicImage::ImageRgb16(color) => RgbaImage::from_fn(width, height, |x, y| {
            let [r, g, b] = color.get_pixel(x, y).0.map(high);
            image::Rgba([r, g, b, 255])
        }),
        DynamicImage::ImageRgba16(color) => RgbaImage::from_fn(width, height, |x, y| image::Rgba(color.get_pixel(x, y).0.map(high))),
        other => other.into_rgba8(),
    }
}

fn png_frames(file: &[u8], budget: &mut Budget, count: usize) -> Result<Vec<Frame>> {
    let mut decoder = PngDecoder::with_limits(Cursor::new(file), image::Limits::no_limits()).map_err(decode_error)?;
    budget.check_frame(decoder.dimensions())?;
    let orientation = orientation_of(&mut decoder);
    let still = png_still(file, orientation, budget)?;
    if !decoder.is_apng().map_err(decode_error)? || count == 1 {
        return Ok(vec![still]);
    }
    let mut frames = Vec::new();
    let alpha_band = still.alpha_band;
    // A default picture that is not part of the animation comes first, as in Pillow.
    match default_picture_is_a_frame(file) {
        true => *budget = Budget::new(budget.limits),
        false => frames.push(still),
    }
    frames.extend(animation(decoder.apng().map_err(decode_error)?, alpha_band, orientation, budget, count)?);
    Ok(frames)
}

fn default_picture_is_a_frame(file: &[u8]) -> bool {
    let Ok(chunks) = crate::png::chunks(file) else { return false };
    chunks.flatten().map(|(kind, _)| kind).take_while(|kind| kind != b"IDAT").any(|kind| &kind == b"fcTL")
}

/// The default picture of a PNG file. Decoded by hand because a colour key must be told from an alpha channel.
fn png_still(file: &[u8], orientation: Orientation, budget: &mut Budget) -> Result<Frame> {
    let error = |error: png::DecodingError| Error::Decode(error.to_string());
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(file), png::Limits { bytes: usize::MAX });
    decoder.set_transformations(png::Transformations::EXPAND);
    decoder.ignore_checksums(true);
    let mut reader = decoder.read_info().map_err(error)?;
    let info = reader.info();
    let (width, height) = (info.width, info.height);
    budget.add_frame((width, height))?;
    let alpha_band = match info.color_type {
        png::ColorType::GrayscaleAlpha | png::ColorType::Rgba => true,
        png::ColorType::Indexed => info.trns.is_some(),
        png::ColorType::Grayscale | png::ColorType::Rgb => false,
    };
    let keyed = !alpha_band && info.trns.is_some();
    if info.bit_depth == png::BitDepth::Sixteen {
        // Such pixels are there twice.
        budget.add_pixels((width, height))?;
    }
    let too_large = || Error::Decode("the picture does not fit into memory".into());
    let mut data = vec![0; reader.output_buffer_size().ok_or_else(too_large)?];
    let (color, depth) = match reader.next_frame(&mut data) {
        Ok(output) => (output.color_type, output.bit_depth),
        // Like Pillow when told to load truncated files, keep the rows that could be read.
        Err(png::DecodingError::IoError(cause)) if cause.kind() == std::io::ErrorKind::UnexpectedEof => reader.output_color_type(),
        Err(cause) => return Err(error(cause)),
    };
    let wide = depth == png::BitDepth::Sixteen;
    let grey16 = wide && matches!(color, png::ColorType::Grayscale);
    let channels = color.samples();
    let bytes = channels * if wide { 2 } else { 1 };
    let sample = |pixel: &[u8], channel: usize| match (wide, grey16) {
        (false, _) => pixel[channel],
        (true, false) => pixel[channel * 2],
        (true, true) => clipped(u16::from_be_bytes([pixel[0], pixel[1]])),
    };
    let wide_pixels = wide.then(|| {
        let pixel = |pixel: &[u8]| {
            let value = |channel: usize| u16::from_be_bytes([pixel[channel * 2], pixel[channel * 2 + 1]]);
            match channels {
                1 => [value(0), value(0), value(0), u16::MAX],
                2 => [value(0), value(0), value(0), value(1)],
                3 => [value(0), value(1), value(2), u16::MAX],
                _ => [value(0), value(1), value(2), value(3)],
            }
        };
        Wide::from_raw(width, height, data.chunks_exact(bytes).flat_map(pixel).collect()).ok_or_else(too_large)
    });
    let rgba = match (wide, channels) {
        // The usual ones, without a look at each sample.
        (false, 4) => data,
        (false, 3) => data.as_chunks::<3>().0.iter().flat_map(|&[r, g, b]| [r, g, b, 255]).collect(),
        _ => {
            let pixel = |pixel: &[u8]| {
                let value = |channel| sample(pixel, channel);
                match channels {
                    1 => [value(0), value(0), value(0), 255],
                    2 => [value(0), value(0), value(0), value(1)],
                    3 => [value(0), value(1), value(2), 255],
                    _ => [value(0), value(1), value(2), value(3)],
                }
            };
            data.chunks_exact(bytes).flat_map(pixel).collect()
        }
    };
    let pixels = RgbaImage::from_raw(width, height, rgba).ok_or_else(too_large)?;
    Ok(Frame { wide: wide_pixels.transpose()?, keyed, ..Frame::new(pixels, alpha_band, orientation) })
}

fn copy_rgb(pixels: &RgbaImage, mut target: ArrayViewMut3<f32>) {
    // The quotient of every byte, so that the inner loop only copies.
    let unit: [f32; 256] = std::array::from_fn(|byte| byte as f32 / 255.0);
    let mut target = target.slice_mut(s![.., .., ..3]);
    for (mut target, source) in target.rows_mut().into_iter().zip(pixels.pixels()) {
        for channel in 0..3 {
            target[channel] = unit[usize::from(source.0[channel])];
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;
    use crate::{png as png_file, webp as webp_file};

    fn limits() -> Limits {
        Limits::default()
    }

    fn png_bytes(width: u32, color: png::ColorType, depth: png::BitDepth, data: &[u8], palette: &[u8], trns: &[u8]) -> Vec<u8> {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, width, 1);
        encoder.set_color(color);
        encoder.set_depth(depth);
        if !palette.is_empty() {
            encoder.set_palette(palette.to_vec());
        }
        if !trns.is_empty() {
            encoder.set_trns(trns.to_vec());
        }
        encoder.write_header().unwrap().write_image_data(data).unwrap();
        file
    }

    /// Red channel of the picture and the alpha mask, as bytes.
    fn load(file: &[u8]) -> (Vec<u8>, (usize, usize), Vec<u8>) {
        let loaded = load_image(file, &limits()).unwrap();
        let byte = |value: &f32| (value * 255.0).round() as u8;
        let red = loaded.image.0.slice(s![0, 0, .., 0]).iter().map(byte).collect();
        let mask = loaded.mask.0.slice(s![0, 0, ..]).iter().map(byte).collect();
        (red, (loaded.mask.height(), loaded.mask.width()), mask)
    }

    // Expected values: np.array(Image.open(file).convert("RGB" or "RGBA")) of files with these very samples.
    const WIDE: [u16; 8] = [0, 100, 255, 256, 1000, 32768, 65000, 65535];

    fn wide(channels: usize) -> Vec<u8> {
        WIDE.iter().flat_map(|value| value.to_be_bytes().repeat(channels)).collect()
    }

    #[test]
    fn wide_channels_keep_their_precision_in_nodes_and_are_pillows_elsewhere() {
        let exact: Vec<f32> = WIDE.iter().map(|value| f32::from(*value) / 65535.0).collect();
        for (color, channels) in
            [(png::ColorType::Grayscale, 1), (png::ColorType::GrayscaleAlpha, 2), (png::ColorType::Rgb, 3), (png::ColorType::Rgba, 4)]
        {
            let file = png_bytes(8, color, png::BitDepth::Sixteen, &wide(channels), &[], &[]);
            let loaded = load_image(&file, &limits()).unwrap();
            for channel in 0..3 {
                assert_eq!(loaded.image.0.slice(s![0, 0, .., channel]).to_vec(), exact, "{color:?}");
            }
            match channels % 2 {
                1 => assert_eq!(loaded.mask.0.dim(), (1, 64, 64), "{color:?}"),
                _ => assert_eq!(loaded.mask.0.slice(s![0, 0, ..]).to_vec(), exact.iter().map(|value| 1.0 - value).collect::<Vec<f32>>()),
            }
            let high = if channels == 1 { [0, 100, 255, 255, 255, 255, 255, 255] } else { [0, 0, 0, 1, 3, 128, 253, 255] };
            let raster = raster(&file, &limits()).unwrap();
            assert_eq!(raster.data().iter().step_by(raster.channels()).copied().collect::<Vec<u8>>(), high, "{color:?}");
        }
    }

    #[test]
    fn narrow_grey_is_spread_over_the_whole_range() {
        let (red, ..) = load(&png_bytes(8, png::ColorType::Grayscale, png::BitDepth::Two, &[0b0001_1011, 0b1110_0100], &[], &[]));
        assert_eq!(red, [0, 85, 170, 255, 255, 170, 85, 0]);
        let (red, ..) = load(&png_bytes(8, png::ColorType::Grayscale, png::BitDepth::One, &[0b0001_1011], &[], &[]));
        assert_eq!(red, [0, 0, 0, 255, 255, 0, 255, 255]);
    }

    #[test]
    fn palette_transparency_is_alpha_and_a_colour_key_is_for_masks() {
        let palette: Vec<u8> = (0..24).collect();
        let indices: Vec<u8> = (0..8).collect();
        let (red, _, mask) = load(&png_bytes(8, png::ColorType::Indexed, png::BitDepth::Eight, &indices, &palette, &[255, 0, 5]));
        assert_eq!(red, [0, 3, 6, 9, 12, 15, 18, 21]);
        assert_eq!(mask, [0, 255, 250, 0, 0, 0, 0, 0]);

        let keyed = png_bytes(8, png::ColorType::Grayscale, png::BitDepth::Eight, &indices, &[], &[0, 3]);
        assert_eq!(load(&keyed).2, [0, 0, 0, 255, 0, 0, 0, 0]);
        let mask = load_mask(&keyed, Channel::Alpha, &limits()).unwrap();
        assert_eq!(mask.0.iter().map(|value| *value as u8).collect::<Vec<u8>>(), [0, 0, 0, 1, 0, 0, 0, 0]);
        let opaque = png_bytes(8, png::ColorType::Grayscale, png::BitDepth::Eight, &indices, &[], &[]);
        assert_eq!(load_mask(&opaque, Channel::Alpha, &limits()).unwrap(), Mask::solid(1, 64, 64, 0.0));
        assert_eq!(load_mask(&keyed, Channel::Green, &limits()).unwrap().0[[0, 0, 7]], 7.0 / 255.0);
        assert_eq!(raster(&keyed, &limits()).unwrap().channels(), 3);
    }

    fn frame(value: u8) -> Raster {
        Raster::new(6, 4, 3, (0..72).map(|i| value.wrapping_add(i * 3) | 1).collect()).unwrap()
    }

    #[test]
    fn all_frames_of_animations_make_a_batch() {
        let frames = [frame(0), frame(90), frame(201)];
        let apng = crate::apng::Options { frame_ms: 100, compression: 1, metadata: vec![] };
        let webp = webp_file::Options { lossless: true, ..webp_file::Options::lossy(75.0) };
        let files =
            [crate::apng::encode(&frames, &apng, &|| false).unwrap(), webp_file::encode_animation(&frames, 100, &webp, &|| false).unwrap()];
        for file in files {
            let loaded = load_image(&file, &limits()).unwrap();
            assert_eq!(loaded.mask.0.dim(), (3, 64, 64));
            for (index, frame) in frames.iter().enumerate() {
                assert_eq!(&Raster::from_image(&loaded.image, index).unwrap(), frame, "frame {index}");
            }
            let few = Limits { max_frames: 2, ..limits() };
            assert!(load_image(&file, &few).unwrap_err().to_string().contains("frames"));
        }
    }

    #[test]
    fn gif_frames_and_transparency() {
        let mut file = Vec::new();
        let mut encoder = image::codecs::gif::GifEncoder::new(&mut file);
        for value in [10, 200] {
            let picture = RgbaImage::from_fn(4, 4, |x, _| image::Rgba([value, 0, 0, if x == 3 { 0 } else { 255 }]));
            encoder.encode_frame(image::Frame::new(picture)).unwrap();
        }
        drop(encoder);
        let loaded = load_image(&file, &limits()).unwrap();
        assert_eq!(loaded.image.0.dim(), (2, 4, 4, 3));
        assert_eq!(loaded.image.0[[1, 0, 0, 0]], 200.0 / 255.0);
        assert_eq!(loaded.mask.0.slice(s![0, 0, ..]).to_vec(), [0.0, 0.0, 0.0, 1.0]);
    }

    #[test]
    fn bmp_and_tiff_are_read() {
        let picture = image::RgbImage::from_fn(5, 3, |x, y| image::Rgb([x as u8 * 40, y as u8 * 50, 7]));
        for format in [ImageFormat::Bmp, ImageFormat::Tiff] {
            let mut file = Cursor::new(Vec::new());
            picture.write_to(&mut file, format).unwrap();
            assert_eq!(raster(file.get_ref(), &limits()).unwrap().data(), picture.as_raw().as_slice());
        }
    }

    #[test]
    fn orientation_of_exif_is_applied() {
        // A 2x1 picture, orientation 6: turn by 90 degrees clockwise.
        let tiff = b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, 2, 1);
        encoder.set_color(png::ColorType::Grayscale);
        let mut writer = encoder.write_header().unwrap();
        writer.write_chunk(png::chunk::ChunkType(*b"eXIf"), tiff).unwrap();
        writer.write_image_data(&[10, 20]).unwrap();
        drop(writer);
        let turned = Raster::from_image(&load_image(&file, &limits()).unwrap().image, 0).unwrap();
        assert_eq!((turned.width(), turned.height(), turned.data()), (1, 2, [10, 10, 10, 20, 20, 20].as_slice()));
        let stored = raster(&file, &limits()).unwrap();
        assert_eq!((stored.width(), stored.height(), stored.data()), (2, 1, turned.data()));
    }

    #[test]
    fn broken_and_oversized_files_are_refused() {
        for file in [b"".as_slice(), b"hello, world", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\x10\0\0\0WEBPVP8L"] {
            assert!(matches!(load_image(file, &limits()), Err(Error::Decode(_))), "{file:?}");
        }
        let file = png_file::encode(&frame(0), &png_file::Options::default()).unwrap();
        let small = Limits { max_pixels: 23, ..limits() };
        assert_eq!(load_image(&file, &small).unwrap_err(), Error::TooLarge { what: "pixels", found: 24, limit: 23 });
        let few_bytes = Limits { max_bytes: 100, ..limits() };
        assert!(load_image(&file, &few_bytes).unwrap_err().to_string().contains("bytes"));
    }

    #[test]
    fn a_truncated_png_keeps_the_rows_that_are_there() {
        let raster = Raster::new(8, 200, 3, (0..4800u32).map(|i| (i * i % 251) as u8).collect()).unwrap();
        let file = png_file::encode(&raster, &png_file::Options::default()).unwrap();
        let loaded = load_image(&file[..file.len() / 2], &limits()).unwrap();
        assert_eq!(loaded.image.0[[0, 10, 3, 1]], f32::from(raster.data()[(10 * 8 + 3) * 3 + 1]) / 255.0);
        assert_eq!(loaded.image.0[[0, 199, 3, 1]], 0.0);
    }
}

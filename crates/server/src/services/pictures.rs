//! Pictures as they are shown: read as the nodes read them, turned into what a client asks for, given a mask's alpha.

use std::io::Cursor;

use comfyd_imaging::decode::Limits;
use image::{DynamicImage, ImageFormat, ImageReader};

use crate::answer::{blocking, laborious};
use crate::error::ApiError;
use crate::json::whole;
use crate::room::Room;

/// Largest side that WebP can hold, in pixels.
const MAX_WEBP_SIDE: u32 = 16_383;
/// WebP and JPEG quality unless the request says otherwise.
const QUALITY: u8 = 90;

/// What a picture takes a pixel while it is decoded and turned into another: channels of 16 bits, or its pixels three times.
const PIXEL_BYTES: u64 = 12;
/// Pixels that are allowed for where a file's beginning does not tell their number.
const MAX_UNKNOWN_PIXELS: u64 = 1 << 25;

/// What a picture is turned into before it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// WebP; with `true` without its alpha.
    Webp { quality: u8, opaque: bool },
    /// JPEG.
    Jpeg { quality: u8 },
    /// PNG of the colours.
    Rgb,
    /// PNG, black, of the alpha.
    Alpha,
}

impl Shape {
    /// What a request asks for; `None` for the file as it is.
    pub(crate) fn asked(preview: Option<&str>, channel: &str) -> Option<Self> {
        match (preview, channel) {
            (Some(preview), _) => Some(Self::preview(preview, channel)),
            (None, "rgb") => Some(Self::Rgb),
            (None, "a") => Some(Self::Alpha),
            (None, _) => None,
        }
    }

    /// From `webp;80`. JPEG has no alpha: with a channel that asks for it, WebP stands in.
    fn preview(text: &str, channel: &str) -> Self {
        let format = text.split(';').next().unwrap_or_default();
        let quality = text.rsplit(';').next().and_then(whole).flatten().map_or(QUALITY, |q| q.clamp(1, 100) as u8);
        if format == "jpeg" && !channel.contains('a') { Self::Jpeg { quality } } else { Self::Webp { quality, opaque: channel == "rgb" } }
    }

    pub(crate) fn mime(self) -> &'static str {
        match self {
            Self::Webp { .. } => "image/webp",
            Self::Jpeg { .. } => "image/jpeg",
            Self::Rgb | Self::Alpha => "image/png",
        }
    }

    /// Tells what is made of one file apart.
    pub(crate) fn variant(self) -> String {
        format!("-{self:?}").replace(|c: char| !c.is_ascii_alphanumeric() && c != '-', "")
    }

    pub(crate) fn encode(self, picture: DynamicImage) -> Result<Vec<u8>, ApiError> {
        match self {
            Self::Webp { quality, opaque } => encode_webp(&picture, quality, opaque),
            Self::Jpeg { quality } => {
                let mut out = Vec::new();
                let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut out, quality);
                picture.into_rgb8().write_with_encoder(encoder).map_err(encoding)?;
                Ok(out)
            }
            Self::Rgb => png(&DynamicImage::ImageRgb8(picture.into_rgb8())),
            Self::Alpha => {
                let mut pixels = picture.into_rgba8();
                for pixel in pixels.pixels_mut() {
                    pixel.0 = [0, 0, 0, pixel.0[3]];
                }
                png(&DynamicImage::ImageRgba8(pixels))
            }
        }
    }
}

/// WebP of a quality in 1..=100.
pub(crate) fn encode_webp(picture: &DynamicImage, quality: u8, opaque: bool) -> Result<Vec<u8>, ApiError> {
    let (width, height) = (picture.width(), picture.height());
    if width > MAX_WEBP_SIDE || height > MAX_WEBP_SIDE {
        return Err(ApiError::bad_request(format!("{width}x{height} is too large for WebP: ask for preview=jpeg")));
    }
    let quality = f32::from(quality);
    let memory = match picture {
        DynamicImage::ImageRgb8(rgb) => webp::Encoder::from_rgb(rgb.as_raw(), width, height).encode(quality),
        picture if opaque || !picture.color().has_alpha() => {
            webp::Encoder::from_rgb(picture.to_rgb8().as_raw(), width, height).encode(quality)
        }
        picture => webp::Encoder::from_rgba(picture.to_rgba8().as_raw(), width, height).encode(quality),
    };
    Ok(memory.to_vec())
}

fn png(picture: &DynamicImage) -> Result<Vec<u8>, ApiError> {
    let mut out = Cursor::new(Vec::new());
    picture.write_to(&mut out, ImageFormat::Png).map_err(encoding)?;
    Ok(out.into_inner())
}

fn encoding(error: image::ImageError) -> ApiError {
    ApiError::internal(format!("cannot encode the picture: {error}"))
}

/// A picture's file of which is known how much memory it takes at most.
pub(crate) struct Measured<B> {
    file: B,
    pixels: u64,
}

impl<B: AsRef<[u8]>> Measured<B> {
    /// Looks at the file's beginning.
    pub(crate) fn new(file: B) -> Self {
        let reader = ImageReader::new(Cursor::new(file.as_ref())).with_guessed_format().ok();
        let size = reader.filter(|reader| reader.format().is_some()).and_then(|reader| reader.into_dimensions().ok());
        let pixels = size.map_or(MAX_UNKNOWN_PIXELS, |(width, height)| u64::from(width) * u64::from(height));
        Self { file, pixels: pixels.min(Limits::default().max_pixels) }
    }

    /// How many bytes it takes to decode it and to turn it into another.
    pub(crate) fn memory(&self) -> u64 {
        self.pixels * PIXEL_BYTES
    }

    /// Decodes it as the nodes do.
    pub(crate) fn decode(&self) -> Result<DynamicImage, ApiError> {
        decode(self.file.as_ref(), self.pixels)
    }
}

/// Makes something of a file's picture, once there is memory for it.
pub(crate) async fn made<T: Send + 'static>(
    room: &Room,
    file: Vec<u8>,
    make: impl FnOnce(DynamicImage) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let picture = blocking(move || Ok(Measured::new(file))).await?;
    let lease = room.take(picture.memory()).await?;
    laborious(picture.memory(), move || {
        let made = picture.decode().and_then(make);
        drop(lease);
        made
    })
    .await
}

fn decode(file: &[u8], max_pixels: u64) -> Result<DynamicImage, ApiError> {
    let limits = Limits { max_pixels, ..Limits::default() };
    let raster = comfyd_imaging::decode::raster(file, &limits).map_err(|e| ApiError::bad_request(e.to_string()))?;
    let (width, height, alpha) = (raster.width() as u32, raster.height() as u32, raster.has_alpha());
    let pixels = raster.into_data();
    let picture = match alpha {
        true => image::RgbaImage::from_raw(width, height, pixels).map(DynamicImage::ImageRgba8),
        false => image::RgbImage::from_raw(width, height, pixels).map(DynamicImage::ImageRgb8),
    };
    picture.ok_or_else(|| ApiError::internal("the picture's size and its pixels differ"))
}

/// The original as PNG with the alpha of `mask` and, if it was a PNG, with its texts.
pub(crate) fn with_alpha_of<B: AsRef<[u8]>, M: AsRef<[u8]>>(original: &Measured<B>, mask: &Measured<M>) -> Result<Vec<u8>, ApiError> {
    let mut picture = original.decode()?.into_rgba8();
    let mask = mask.decode()?.into_rgba8();
    if picture.dimensions() != mask.dimensions() {
        let ((w, h), (mw, mh)) = (picture.dimensions(), mask.dimensions());
        return Err(ApiError::bad_request(format!("the mask is {mw}x{mh} but the picture {w}x{h}: send a mask of the picture's size")));
    }
    for (pixel, mask) in picture.pixels_mut().zip(mask.pixels()) {
        pixel.0[3] = mask.0[3];
    }
    let failed = |e: png::EncodingError| ApiError::internal(format!("cannot encode the picture: {e}"));
    let mut out = Vec::new();
    let mut encoder = png::Encoder::new(&mut out, picture.width(), picture.height());
    encoder.set_color(png::ColorType::Rgba);
    encoder.set_depth(png::BitDepth::Eight);
    for (key, text) in png_texts(original.file.as_ref()) {
        // tEXt holds Latin-1 only.
        if text.chars().all(|c| u32::from(c) < 256) {
            encoder.add_text_chunk(key, text).map_err(failed)?;
        } else {
            encoder.add_itxt_chunk(key, text).map_err(failed)?;
        }
    }
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(picture.as_raw()).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(out)
}

/// The texts of a PNG, in whichever chunk they are; none of what is not a PNG.
fn png_texts(bytes: &[u8]) -> Vec<(String, String)> {
    let Ok(mut reader) = png::Decoder::new(Cursor::new(bytes)).read_info() else { return Vec::new() };
    // Texts may stand behind the pixels.
    if reader.finish().is_err() {
        tracing::debug!("the original picture's end could not be read: texts behind its pixels are lost");
    }
    let info = reader.info();
    let latin = info.uncompressed_latin1_text.iter().map(|t| (t.keyword.clone(), t.text.clone()));
    let packed = info.compressed_latin1_text.iter().filter_map(|t| Some((t.keyword.clone(), t.get_text().ok()?)));
    let utf8 = info.utf8_text.iter().filter_map(|t| Some((t.keyword.clone(), t.get_text().ok()?)));
    latin.chain(packed).chain(utf8).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn jpeg_gives_way_when_alpha_is_asked_for() {
        assert_eq!(Shape::preview("jpeg;50", ""), Shape::Jpeg { quality: 50 });
        assert_eq!(Shape::preview("jpeg", "rgba"), Shape::Webp { quality: 90, opaque: false });
        assert_eq!(Shape::preview("gif;0", "rgb"), Shape::Webp { quality: 1, opaque: true });
    }

    fn sample(alpha: u8, text: &[(&str, &str)]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut encoder = png::Encoder::new(&mut out, 2, 1);
        encoder.set_color(png::ColorType::Rgba);
        for (key, value) in text {
            encoder.add_itxt_chunk((*key).into(), (*value).into()).unwrap();
        }
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(&[1, 2, 3, alpha, 4, 5, 6, alpha]).unwrap();
        writer.finish().unwrap();
        out
    }

    #[test]
    fn a_mask_replaces_alpha_and_keeps_texts() {
        let original = Measured::new(sample(255, &[("prompt", "{}"), ("note", "日本")]));
        let out = with_alpha_of(&original, &Measured::new(sample(7, &[]))).unwrap();
        assert_eq!(Measured::new(&out).decode().unwrap().into_rgba8().into_raw(), [1, 2, 3, 7, 4, 5, 6, 7]);
        assert_eq!(png_texts(&out), [("prompt".to_owned(), "{}".to_owned()), ("note".to_owned(), "日本".to_owned())]);
    }
}

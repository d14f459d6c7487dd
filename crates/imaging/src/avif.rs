//! Reading AVIF files: the container, AV1 (decoded by a port of dav1d to Rust), and the conversion to RGB in libyuv's integers, by which
//! Pillow's pixels are made. Of a sequence, the picture that stands for it is read.

use av1::pixel::{MatrixCoefficients, YUVRange};
use av1::{Decoder, Picture, PixelLayout, PlanarImageComponent, Settings};
use image::RgbaImage;
use image::metadata::Orientation;
use re_rav1d::dav1d as av1;

use crate::{Error, Result};

/// An AVIF file's picture.
pub(crate) struct Decoded {
    pub(crate) pixels: RgbaImage,
    pub(crate) has_alpha: bool,
    pub(crate) orientation: Orientation,
}

/// Whether a file begins as AVIF files do.
pub(crate) fn fits(file: &[u8]) -> bool {
    let brands = |content: &[u8]| content.as_chunks::<4>().0.iter().any(|brand| [b"avif", b"avis"].contains(&brand));
    file.get(4..8) == Some(b"ftyp") && child(file, b"ftyp").is_some_and(brands)
}

/// Reads an AVIF file. `check` is told the size before pixels are decoded.
///
/// # Errors
/// If `check` fails, if the file is damaged, or of a kind that is not read.
pub(crate) fn decode(file: &[u8], check: impl FnOnce((u32, u32)) -> Result<()>) -> Result<Decoded> {
    let failed = |error: avif_parse::Error| Error::Decode(format!("AVIF: {error}"));
    if !claims_what_is_there(file) {
        return Err(Error::Decode("AVIF: the file is cut off or damaged".into()));
    }
    let parts = avif_parse::read_avif(&mut &*file).map_err(failed)?;
    let size = parts.primary_item_metadata().map_err(failed)?;
    let (width, height) = (size.max_frame_width.get(), size.max_frame_height.get());
    check((width, height))?;
    let limit = width.saturating_mul(height);
    let color = Planes::decode(parts.primary_item.to_vec(), limit)?;
    let alpha = parts.alpha_item.map(|data| Planes::decode(data.to_vec(), limit)).transpose()?;
    if alpha.as_ref().is_some_and(|alpha| alpha.size != color.size) {
        return Err(Error::Decode("AVIF: colour and alpha differ in size".into()));
    }
    let mut pixels = color.to_rgba(alpha.is_none())?;
    if let Some(alpha) = &alpha {
        for (pixel, &value) in pixels.pixels_mut().zip(&alpha.luma) {
            pixel.0[3] = alpha.stretched(value);
            if parts.premultiplied_alpha {
                pixel.0 = multiplied_back(pixel.0);
            }
        }
    }
    Ok(Decoded { pixels, has_alpha: alpha.is_some(), orientation: orientation(file).unwrap_or(Orientation::NoTransforms) })
}

type Size = (usize, usize);

/// A decoded AV1 frame in eight bits.
struct Planes {
    size: Size,
    luma: Vec<u8>,
    /// U and V with their size; none if the frame is grey.
    chroma: Option<([Vec<u8>; 2], Size)>,
    matrix: MatrixCoefficients,
    full_range: bool,
}

impl Planes {
    fn decode(data: Vec<u8>, max_pixels: u32) -> Result<Self> {
        let failed = |error: av1::Error| Error::Decode(format!("AVIF: {error}"));
        let mut settings = Settings::new();
        settings.set_n_threads(1);
        settings.set_max_frame_delay(1);
        settings.set_frame_size_limit(max_pixels);
        let mut decoder = Decoder::with_settings(&settings).map_err(failed)?;
        let mut sent = decoder.send_data(data, None, None, None);
        loop {
            match decoder.get_picture() {
                Err(error) if error.is_again() && sent.is_err() => sent = decoder.send_pending_data(),
                Err(error) => return Err(failed(error)),
                Ok(picture) => return Ok(Self::of(&picture)),
            }
        }
    }

    fn of(picture: &Picture) -> Self {
        let size = (picture.width() as usize, picture.height() as usize);
        let chroma_size = match picture.pixel_layout() {
            PixelLayout::I400 => None,
            PixelLayout::I420 => Some((size.0.div_ceil(2), size.1.div_ceil(2))),
            PixelLayout::I422 => Some((size.0.div_ceil(2), size.1)),
            PixelLayout::I444 => Some(size),
        };
        let plane = |component, size| eight_bits(picture, component, size);
        Self {
            size,
            luma: plane(PlanarImageComponent::Y, size),
            chroma: chroma_size.map(|size| ([PlanarImageComponent::U, PlanarImageComponent::V].map(|c| plane(c, size)), size)),
            matrix: picture.matrix_coefficients(),
            full_range: picture.color_range() == YUVRange::Full,
        }
    }

    /// A luma over the whole range of bytes.
    fn stretched(&self, luma: u8) -> u8 {
        if self.full_range { luma } else { ((i32::from(luma) - 16) as f32 * (255.0 / 219.0) + 0.5).clamp(0.0, 255.0) as u8 }
    }

    fn to_rgba(&self, opaque: bool) -> Result<RgbaImage> {
        let (width, height) = self.size;
        let grey = || vec![128; width * height];
        let [u, v] = match &self.chroma {
            Some((planes, size)) => [0, 1].map(|plane| widened(&planes[plane], *size, self.size)),
            None => [grey(), grey()],
        };
        let constants = match self.matrix {
            MatrixCoefficients::Identity => None,
            other => Some(Constants::of(other, self.full_range)?),
        };
        let mut rgba = Vec::with_capacity(width * height * 4);
        for ((&y, u), v) in self.luma.iter().zip(u).zip(v) {
            let [r, g, b] = match &constants {
                // libyuv has no such conversion, so that Pillow's comes from libavif's floats.
                Some(_) if opaque && self.chroma.is_none() => [self.stretched(y); 3],
                Some(constants) => constants.rgb(y, u, v),
                None => [v, y, u],
            };
            rgba.extend([r, g, b, 255]);
        }
        let too_large = || Error::Decode("the picture does not fit into memory".into());
        RgbaImage::from_raw(width as u32, height as u32, rgba).ok_or_else(too_large)
    }
}

/// A plane's samples without the gaps between rows; of deeper ones the upper eight bits.
fn eight_bits(picture: &Picture, component: PlanarImageComponent, (width, height): (usize, usize)) -> Vec<u8> {
    let (plane, stride) = (picture.plane(component), picture.stride(component) as usize);
    let shift = picture.bit_depth().saturating_sub(8);
    let mut all = Vec::with_capacity(width * height);
    for row in plane.chunks(stride.max(1)).take(height) {
        match shift {
            0 => all.extend(row.iter().take(width)),
            _ => all.extend(row.as_chunks::<2>().0.iter().take(width).map(|&two| (u16::from_ne_bytes(two) >> shift) as u8)),
        }
    }
    all
}

/// RGBA of colours that are premultiplied with their alpha, in libyuv's integers.
fn multiplied_back([r, g, b, alpha]: [u8; 4]) -> [u8; 4] {
    let inverse = match alpha {
        0 => 0,
        1 => 65535,
        255 => 256,
        alpha => 65536 / u32::from(alpha),
    };
    let channel = |value: u8| ((u32::from(value) * 257 * inverse) >> 16).min(255) as u8;
    [channel(r), channel(g), channel(b), alpha]
}

/// A chroma plane at the frame's size: each sample between two is three parts of the nearer and one of the farther, in both directions. In
/// the last column it is the nearer alone.
fn widened(plane: &[u8], from: (usize, usize), to: (usize, usize)) -> Vec<u8> {
    let nearest = |at: usize, full: bool, length: usize| -> (usize, usize) {
        if full {
            return (at, at);
        }
        let near = at / 2;
        let far = if at.is_multiple_of(2) { near.saturating_sub(1) } else { (near + 1).min(length - 1) };
        (near, far)
    };
    let (full_width, full_height) = (from.0 == to.0, from.1 == to.1);
    let mut all = Vec::with_capacity(to.0 * to.1);
    for y in 0..to.1 {
        let (near_y, far_y) = nearest(y, full_height, from.1);
        for x in 0..to.0 {
            let (near_x, far_x) = nearest(x, full_width, from.0);
            let far_x = if x + 1 == to.0 { near_x } else { far_x };
            let at = |x: usize, y: usize| u32::from(plane[y * from.0 + x]);
            // Where both are the same sample, halving the weights changes nothing but the rounding, which libyuv does so.
            let value = if near_y == far_y {
                (3 * at(near_x, near_y) + at(far_x, near_y) + 2) >> 2
            } else {
                (9 * at(near_x, near_y) + 3 * at(far_x, near_y) + 3 * at(near_x, far_y) + at(far_x, far_y) + 8) >> 4
            };
            all.push(value as u8);
        }
    }
    all
}

/// A colour matrix in libyuv's fixed point: six bits after the point.
struct Constants {
    y_gain: u32,
    y_bias: i32,
    u_to_b: i32,
    u_to_g: i32,
    v_to_g: i32,
    v_to_r: i32,
}

impl Constants {
    fn of(matrix: MatrixCoefficients, full_range: bool) -> Result<Self> {
        let (y_gain, y_bias, [u_to_b, u_to_g, v_to_g, v_to_r]) = match (matrix, full_range) {
            (MatrixCoefficients::BT470BG | MatrixCoefficients::Unspecified, true) => (16320, 32, [113, 22, 46, 90]),
            (MatrixCoefficients::BT470BG | MatrixCoefficients::Unspecified, false) => (18997, -1160, [128, 25, 52, 102]),
            (MatrixCoefficients::BT709, true) => (16320, 32, [119, 12, 30, 101]),
            (MatrixCoefficients::BT709, false) => (18997, -1160, [128, 14, 34, 115]),
            (MatrixCoefficients::BT2020NonConstantLuminance, true) => (16320, 32, [120, 11, 37, 94]),
            (MatrixCoefficients::BT2020NonConstantLuminance, false) => (19003, -1160, [128, 12, 42, 107]),
            (other, _) => return Err(Error::Decode(format!("AVIF files with the colour matrix {other:?} are not read"))),
        };
        Ok(Self { y_gain, y_bias, u_to_b, u_to_g, v_to_g, v_to_r })
    }

    fn rgb(&self, y: u8, u: u8, v: u8) -> [u8; 3] {
        let luma = ((u32::from(y) * 0x0101 * self.y_gain) >> 16) as i32 + self.y_bias;
        let (u, v) = (i32::from(u) - 128, i32::from(v) - 128);
        let byte = |value: i32| (value >> 6).clamp(0, 255) as u8;
        [byte(luma + v * self.v_to_r), byte(luma - u * self.u_to_g - v * self.v_to_g), byte(luma + u * self.u_to_b)]
    }
}

/// How the container says that the picture is to be turned: `irot` counts quarter turns against the clock, `imir` then mirrors.
fn orientation(file: &[u8]) -> Option<Orientation> {
    let meta = child(file, b"meta")?.get(4..)?;
    let properties = child(child(meta, b"iprp")?, b"ipco")?;
    let turns = child(properties, b"irot").and_then(|data| data.first()).map_or(0, |turns| turns & 3);
    let axis = child(properties, b"imir").and_then(|data| data.first()).map(|axis| axis & 1);
    let exif = match (turns, axis) {
        (0, None) => 1,
        (1, None) => 8,
        (2, None) => 3,
        (_, None) => 6,
        (0, Some(1)) | (2, Some(0)) => 2,
        (0, Some(_)) | (2, Some(_)) => 4,
        (1, Some(1)) | (3, Some(0)) => 7,
        (_, Some(_)) => 5,
    };
    Orientation::from_exif(exif)
}

/// Whether boxes lie in what they are in, and lists are no longer than their boxes: the reader takes memory for what they claim.
fn claims_what_is_there(content: &[u8]) -> bool {
    boxes(content).all(|found| {
        let Some((kind, content)) = found else { return false };
        // Of lists the second version has counts of four bytes; those of places have two bytes before theirs.
        let many = |at: usize, short: bool| number(content.get(at..at + if short { 2 } else { 4 })) as usize;
        match kind {
            b"meta" => content.get(4..).is_some_and(claims_what_is_there),
            b"iprp" | b"ipco" => claims_what_is_there(content),
            b"iinf" => {
                let short = content.first() == Some(&0);
                many(4, short) <= content.len() && content.get(if short { 6 } else { 8 }..).is_some_and(claims_what_is_there)
            }
            b"iloc" => many(6, content.first().is_some_and(|version| *version < 2)) <= content.len(),
            _ => true,
        }
    })
}

/// The content of the first box of that kind.
fn child<'a>(content: &'a [u8], kind: &[u8; 4]) -> Option<&'a [u8]> {
    boxes(content).map_while(|found| found).find(|(found, _)| *found == kind).map(|(_, content)| content)
}

/// Kinds and contents of boxes, one behind the other; `None` of one that claims more than there is, and of what is behind it.
fn boxes(mut rest: &[u8]) -> impl Iterator<Item = Option<(&[u8], &[u8])>> {
    std::iter::from_fn(move || {
        let (header, behind) = rest.split_at_checked(8)?;
        let (length, head) = match number(Some(&header[..4])) {
            // Up to the end.
            0 => (rest.len() as u64, 8),
            1 => (number(behind.get(..8)), 16),
            length => (length, 8),
        };
        let found = usize::try_from(length).ok().and_then(|length| rest.get(head..length));
        if let Some(content) = found {
            rest = &rest[head + content.len()..];
        }
        Some(found.map(|content| (&header[4..], content)))
    })
}

/// A number whose first byte counts most; zero where it is not there.
fn number(bytes: Option<&[u8]>) -> u64 {
    bytes.map_or(0, |bytes| bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

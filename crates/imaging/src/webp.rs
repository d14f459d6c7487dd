//! WebP files, still and animated, with EXIF text as ComfyUI's SaveAnimatedWEBP has Pillow write it. Knows no node.

use crate::raster::Raster;
use crate::{Error, Result};

/// Longest side that the format allows.
const MAX_SIDE: usize = 16383;
/// Longest time that a frame can show.
const MAX_DURATION_MS: u32 = (1 << 24) - 1;
/// A frame's flags: it replaces what was there, alpha included, and stays.
const FRAME_REPLACES: u8 = 0x02;
/// Bit of the VP8X flags that announces frames.
const FLAG_ANIMATION: u8 = 0x02;
/// Bit of the VP8X flags that announces an EXIF chunk.
const FLAG_EXIF: u8 = 0x08;
/// Bit of the VP8X flags that announces transparency.
const FLAG_ALPHA: u8 = 0x10;
/// What Pillow puts before the EXIF data of animated files.
const EXIF_PREFIX: &[u8] = b"Exif\0\0";

/// How to write a WebP file.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Whether every pixel is to be kept exactly.
    pub lossless: bool,
    /// 0 to 100: quality of a lossy file, effort of a lossless one.
    pub quality: f32,
    /// 0 (fastest) to 6 (smallest file).
    pub method: u8,
    /// EXIF tags and their texts. ComfyUI: `prompt:{json}` as 0x0110, `name:{json}` as 0x010f and downwards.
    pub exif: Vec<(u16, String)>,
}

impl Options {
    /// Lossy with this quality, method 4, no EXIF: what previews use.
    pub fn lossy(quality: f32) -> Self {
        Self { lossless: false, quality, method: 4, exif: Vec::new() }
    }

    fn config(&self) -> Result<webp::WebPConfig> {
        if !(0.0..=100.0).contains(&self.quality) || self.method > 6 {
            return Err(Error::Parameter(format!(
                "WebP quality {} must be 0 to 100 and method {} must be 0 to 6",
                self.quality, self.method
            )));
        }
        let mut config = webp::WebPConfig::new().map_err(|()| Error::Encode("the WebP library has another version".into()))?;
        config.lossless = i32::from(self.lossless);
        config.quality = self.quality;
        config.method = i32::from(self.method);
        Ok(config)
    }
}

/// Writes a still picture.
///
/// # Errors
/// If it is larger than 16383 pixels on a side, or an option is out of range.
pub fn encode(raster: &Raster, options: &Options) -> Result<Vec<u8>> {
    check_size(raster)?;
    let config = options.config()?;
    let prepared = with_colors(raster);
    let (width, height) = (prepared.width() as u32, prepared.height() as u32);
    let encoder = webp::Encoder::new(prepared.data(), layout(&prepared), width, height);
    let memory = encoder.encode_advanced(&config).map_err(|error| Error::Encode(format!("WebP: {error:?}")))?;
    if options.exif.is_empty() {
        return Ok(memory.to_vec());
    }
    add_exif(&memory, &tiff(&options.exif)?, &prepared)
}

/// Writes an animation that repeats for ever; each frame shows for `frame_ms` milliseconds. One frame makes a still picture. Of each frame
/// only the rectangle is written that differs from the one before.
///
/// # Errors
/// If there is no frame, the frames differ in size, one is larger than 16383 pixels on a side, or an option is out of range; or if
/// `interrupted`, which is asked before each frame, says so.
pub fn encode_animation(frames: &[Raster], frame_ms: u32, options: &Options, interrupted: &dyn Fn() -> bool) -> Result<Vec<u8>> {
    let first = match frames {
        [] => return Err(Error::Parameter("an animation needs at least one picture".into())),
        [single] => return encode(single, options),
        [first, ..] => first,
    };
    check_size(first)?;
    if frames.iter().any(|frame| (frame.width(), frame.height()) != (first.width(), first.height())) {
        return Err(Error::Shape("the pictures of an animation must all have the same size".into()));
    }
    if frame_ms > MAX_DURATION_MS {
        return Err(Error::Parameter("a picture shows too long for a WebP file: raise the frame rate".into()));
    }
    let still = Options { exif: Vec::new(), ..options.clone() };
    let mut written: Vec<(Frame, Vec<u8>)> = Vec::new();
    let mut before: Option<Raster> = None;
    for frame in frames {
        if interrupted() {
            return Err(Error::Interrupted);
        }
        let frame = if frames.iter().any(Raster::has_alpha) { frame.to_rgba() } else { frame.to_rgb() };
        let changed = match &before {
            None => Some((0, 0, frame.width(), frame.height())),
            Some(before) => changed(before, &frame),
        };
        let last = written.last_mut().map(|(last, _)| last).filter(|last| last.duration_ms + frame_ms <= MAX_DURATION_MS);
        match (changed, last) {
            (None, Some(last)) => last.duration_ms += frame_ms,
            (changed, _) => {
                // The format has even offsets only.
                let (x, y, right, bottom) = changed.unwrap_or((0, 0, 1, 1));
                let (x, y) = (x & !1, y & !1);
                let part = frame.crop(x, y, right - x, bottom - y)?;
                let file = encode(&part, &still)?;
                written.push((Frame { x, y, width: part.width(), height: part.height(), duration_ms: frame_ms }, file));
            }
        }
        before = Some(frame);
    }
    assemble(first.width(), first.height(), &written, &options.exif)
}

/// Where a frame lies in the picture, and how long it shows.
struct Frame {
    x: usize,
    y: usize,
    width: usize,
    height: usize,
    duration_ms: u32,
}

/// The smallest rectangle outside of which two pictures of one size are the same: left, top, and behind it right and bottom. `None` if they
/// are the same.
fn changed(before: &Raster, after: &Raster) -> Option<(usize, usize, usize, usize)> {
    let (width, channels) = (after.width(), after.channels());
    let (mut rectangle, rows) = (None, before.data().chunks_exact(width * channels).zip(after.data().chunks_exact(width * channels)));
    for (y, (old, new)) in rows.enumerate() {
        if old == new {
            continue;
        }
        let differs = |x: &usize| old[x * channels..(x + 1) * channels] != new[x * channels..(x + 1) * channels];
        let (left, right) = ((0..width).find(differs).unwrap_or(0), (0..width).rev().find(differs).unwrap_or(0) + 1);
        let (x, top, far, _) = rectangle.unwrap_or((left, y, right, y));
        rectangle = Some((x.min(left), top, far.max(right), y + 1));
    }
    rectangle
}

/// Puts frames, each a file of its own, into one file.
fn assemble(width: usize, height: usize, frames: &[(Frame, Vec<u8>)], exif: &[(u16, String)]) -> Result<Vec<u8>> {
    let u24 = |value: usize| (value as u32).to_le_bytes().into_iter().take(3);
    let mut out = b"RIFF\0\0\0\0WEBP".to_vec();
    let mut parts = Vec::new();
    let mut flags = FLAG_ANIMATION | if exif.is_empty() { 0 } else { FLAG_EXIF };
    for (frame, file) in frames {
        let mut data: Vec<u8> = [frame.x / 2, frame.y / 2, frame.width - 1, frame.height - 1].into_iter().flat_map(u24).collect();
        data.extend(u24(frame.duration_ms as usize));
        data.push(FRAME_REPLACES);
        for (kind, chunk) in chunks(file)? {
            match &kind {
                b"VP8X" => flags |= chunk.first().unwrap_or(&0) & FLAG_ALPHA,
                _ => push_chunk(&mut data, &kind, chunk)?,
            }
            // A lossless frame tells of its alpha itself, in the bit behind its signature and its sides.
            if &kind == b"VP8L" && chunk.get(4).is_some_and(|byte| byte & 0x10 != 0) {
                flags |= FLAG_ALPHA;
            }
        }
        parts.push(data);
    }
    let header: Vec<u8> = [flags, 0, 0, 0].into_iter().chain(u24(width - 1)).chain(u24(height - 1)).collect();
    push_chunk(&mut out, b"VP8X", &header)?;
    // No background, and no end.
    push_chunk(&mut out, b"ANIM", &[0; 6])?;
    for part in parts {
        push_chunk(&mut out, b"ANMF", &part)?;
    }
    if !exif.is_empty() {
        push_chunk(&mut out, b"EXIF", &[EXIF_PREFIX, &tiff(exif)?].concat())?;
    }
    finish(out)
}

/// The EXIF texts of a WebP file: tag and text.
///
/// # Errors
/// If the file is no WebP or ends within a chunk.
pub fn read_exif(file: &[u8]) -> Result<Vec<(u16, String)>> {
    for (kind, data) in chunks(file)? {
        if &kind == b"EXIF" {
            return Ok(parse_tiff(data.strip_prefix(EXIF_PREFIX).unwrap_or(data)).unwrap_or_default());
        }
    }
    Ok(Vec::new())
}

fn check_size(raster: &Raster) -> Result<()> {
    let side = raster.width().max(raster.height());
    if side > MAX_SIDE {
        return Err(Error::TooLarge { what: "pixels on one side of a WebP file", found: side as u64, limit: MAX_SIDE as u64 });
    }
    Ok(())
}

fn with_colors(raster: &Raster) -> Raster {
    if raster.has_alpha() { raster.to_rgba() } else { raster.to_rgb() }
}

fn layout(raster: &Raster) -> webp::PixelLayout {
    if raster.has_alpha() { webp::PixelLayout::Rgba } else { webp::PixelLayout::Rgb }
}

/// The chunks of a WebP file in order: type and data.
fn chunks(file: &[u8]) -> Result<Vec<([u8; 4], &[u8])>> {
    let broken = || Error::Decode("the WebP file is damaged or incomplete".into());
    if file.len() < 12 || &file[..4] != b"RIFF" || &file[8..12] != b"WEBP" {
        return Err(Error::Decode("it does not start like a WebP file".into()));
    }
    let mut rest = &file[12..];
    let mut chunks = Vec::new();
    while !rest.is_empty() {
        let (kind, after) = rest.split_first_chunk::<4>().ok_or_else(broken)?;
        let (length, after) = after.split_first_chunk::<4>().ok_or_else(broken)?;
        let length = u32::from_le_bytes(*length) as usize;
        let (data, after) = after.split_at_checked(length).ok_or_else(broken)?;
        chunks.push((*kind, data));
        // Chunks are padded to an even length.
        rest = after.get(length % 2..).unwrap_or(&[]);
    }
    Ok(chunks)
}

/// Like [`chunks`], but ends where the file is damaged.
pub(crate) fn chunks_lenient(file: &[u8]) -> impl Iterator<Item = ([u8; 4], &[u8])> {
    let mut rest = file.get(12..).unwrap_or(&[]);
    std::iter::from_fn(move || {
        let (kind, after) = rest.split_first_chunk::<4>()?;
        let (length, after) = after.split_first_chunk::<4>()?;
        let length = u32::from_le_bytes(*length) as usize;
        let (data, after) = after.split_at_checked(length)?;
        rest = after.get(length % 2..).unwrap_or(&[]);
        Some((*kind, data))
    })
}

/// The chunks of an animation's frame as a file of their own.
///
/// # Errors
/// If the file would exceed 4 GiB.
pub(crate) fn still_from_frame(payload: &[u8], width: u32, height: u32) -> Result<Vec<u8>> {
    let mut out = b"RIFF\0\0\0\0WEBP".to_vec();
    // An alpha chunk is only read behind a VP8X chunk that announces it.
    if payload.starts_with(b"ALPH") {
        let mut header = vec![FLAG_ALPHA, 0, 0, 0];
        header.extend(&(width - 1).to_le_bytes()[..3]);
        header.extend(&(height - 1).to_le_bytes()[..3]);
        push_chunk(&mut out, b"VP8X", &header)?;
    }
    out.extend(payload);
    finish(out)
}

/// Puts an EXIF chunk at the end and announces it in the VP8X chunk, which is made if the file has none.
fn add_exif(file: &[u8], exif: &[u8], raster: &Raster) -> Result<Vec<u8>> {
    let chunks = chunks(file)?;
    let mut out = b"RIFF\0\0\0\0WEBP".to_vec();
    if chunks.first().is_none_or(|(kind, _)| kind != b"VP8X") {
        let flags = FLAG_EXIF | if raster.has_alpha() { FLAG_ALPHA } else { 0 };
        let mut header = vec![flags, 0, 0, 0];
        header.extend(&(raster.width() as u32 - 1).to_le_bytes()[..3]);
        header.extend(&(raster.height() as u32 - 1).to_le_bytes()[..3]);
        push_chunk(&mut out, b"VP8X", &header)?;
    }
    for (kind, data) in chunks {
        let mut data = data.to_vec();
        if &kind == b"VP8X"
            && let Some(flags) = data.first_mut()
        {
            *flags |= FLAG_EXIF;
        }
        push_chunk(&mut out, &kind, &data)?;
    }
    push_chunk(&mut out, b"EXIF", exif)?;
    finish(out)
}

/// Writes the file's size into its head.
fn finish(mut out: Vec<u8>) -> Result<Vec<u8>> {
    let size = u32::try_from(out.len() - 8).map_err(|_| Error::Encode("the WebP file would exceed 4 GiB".into()))?;
    out[4..8].copy_from_slice(&size.to_le_bytes());
    Ok(out)
}

fn push_chunk(out: &mut Vec<u8>, kind: &[u8; 4], data: &[u8]) -> Result<()> {
    let length = u32::try_from(data.len()).map_err(|_| Error::Encode("a WebP chunk would exceed 4 GiB".into()))?;
    out.extend(kind);
    out.extend(length.to_le_bytes());
    out.extend(data);
    if data.len() % 2 == 1 {
        out.push(0);
    }
    Ok(())
}

/// A big-endian TIFF directory of texts, sorted by tag: what EXIF data is.
fn tiff(entries: &[(u16, String)]) -> Result<Vec<u8>> {
    const ASCII: u16 = 2;
    let too_large = |_| Error::Encode("the metadata of a WebP file would exceed 4 GiB".into());
    let mut entries: Vec<(u16, Vec<u8>)> = entries.iter().map(|(tag, text)| (*tag, text.bytes().chain([0]).collect())).collect();
    entries.sort_by_key(|(tag, _)| *tag);
    let mut head = b"MM\0\x2a\0\0\0\x08".to_vec();
    let values_at = head.len() + 2 + entries.len() * 12 + 4;
    let mut values: Vec<u8> = Vec::new();
    head.extend((entries.len() as u16).to_be_bytes());
    for (tag, text) in &entries {
        head.extend(tag.to_be_bytes());
        head.extend(ASCII.to_be_bytes());
        head.extend(u32::try_from(text.len()).map_err(too_large)?.to_be_bytes());
        if text.len() <= 4 {
            let mut inline = [0; 4];
            inline[..text.len()].copy_from_slice(text);
            head.extend(inline);
        } else {
            head.extend(u32::try_from(values_at + values.len()).map_err(too_large)?.to_be_bytes());
            values.extend(text);
        }
    }
    // No further directory follows.
    head.extend([0; 4]);
    head.extend(values);
    Ok(head)
}

/// The texts of the first directory of TIFF data; nothing if it is damaged.
fn parse_tiff(data: &[u8]) -> Option<Vec<(u16, String)>> {
    let big = match data.get(..2)? {
        b"MM" => true,
        b"II" => false,
        _ => return None,
    };
    let u16_at = |at: usize| {
        let bytes = *data.get(at..)?.first_chunk::<2>()?;
        Some(if big { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    };
    let u32_at = |at: usize| {
        let bytes = *data.get(at..)?.first_chunk::<4>()?;
        Some(if big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) } as usize)
    };
    let directory = u32_at(4)?;
    let mut entries = Vec::new();
    for index in 0..usize::from(u16_at(directory)?) {
        let at = directory + 2 + index * 12;
        if u16_at(at + 2)? != 2 {
            continue;
        }
        let length = u32_at(at + 4)?;
        let start = if length <= 4 { at + 8 } else { u32_at(at + 8)? };
        let text = data.get(start..start.checked_add(length)?)?;
        let text = text.strip_suffix(b"\0").unwrap_or(text);
        entries.push((u16_at(at)?, String::from_utf8_lossy(text).into_owned()));
    }
    Some(entries)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;
    use image::AnimationDecoder;

    fn frame(channels: usize, value: u8) -> Raster {
        Raster::new(4, 3, channels, (0..12 * channels).map(|i| value.wrapping_add(i as u8) | 1).collect()).unwrap()
    }

    fn exif() -> Vec<(u16, String)> {
        vec![(0x0110, "prompt:{}".into()), (0x010f, "workflow:{\"a\": 1}".into()), (0x010e, "x:1".into())]
    }

    fn lossless(exif: Vec<(u16, String)>) -> Options {
        Options { lossless: true, quality: 80.0, method: 4, exif }
    }

    // m = Image.Exif(); m[0x0110] = 'prompt:{}'; m[0x010f] = 'workflow:{"a": 1}'; m[0x010e] = 'x:1'; m.tobytes()[6:]
    const PILLOW_EXIF: &[u8] = b"MM\0*\0\0\0\x08\0\x03\x01\x0e\0\x02\0\0\0\x04x:1\0\x01\x0f\0\x02\0\0\0\x12\0\0\x002\x01\x10\0\x02\0\0\0\n\0\0\0D\0\0\0\0workflow:{\"a\": 1}\0prompt:{}\0";

    #[test]
    fn exif_equals_pillows() {
        assert_eq!(tiff(&exif()).unwrap(), PILLOW_EXIF);
        let mut sorted = exif();
        sorted.reverse();
        assert_eq!(parse_tiff(PILLOW_EXIF).unwrap(), sorted);
    }

    #[test]
    fn lossless_stills_come_back_with_their_exif() {
        for channels in [3, 4] {
            let raster = frame(channels, 5);
            let file = encode(&raster, &lossless(exif())).unwrap();
            assert_eq!(image::load_from_memory(&file).unwrap().as_bytes(), raster.data());
            assert_eq!(read_exif(&file).unwrap().len(), 3);
            assert_eq!(file.len(), 8 + u32::from_le_bytes(file[4..8].try_into().unwrap()) as usize);
        }
        let plain = encode(&frame(3, 5), &lossless(vec![])).unwrap();
        assert_eq!(read_exif(&plain).unwrap(), []);
    }

    #[test]
    fn animations_keep_frames_durations_and_exif() {
        let frames = [frame(3, 0), frame(3, 90), frame(3, 200)];
        let file = encode_animation(&frames, 166, &lossless(exif()), &|| false).unwrap();
        let decoder = image::codecs::webp::WebPDecoder::new(std::io::Cursor::new(&file)).unwrap();
        let decoded = decoder.into_frames().collect_frames().unwrap();
        assert_eq!(decoded.len(), 3);
        for (decoded, expected) in decoded.iter().zip(&frames) {
            assert_eq!(decoded.delay().numer_denom_ms().0, 166);
            // This decoder blends with an error of one; the exact values are checked where files are read.
            let mut pairs = decoded.buffer().as_raw().iter().zip(expected.to_rgba().into_data());
            assert!(pairs.all(|(a, b)| a.abs_diff(b) <= 1));
        }
        assert_eq!(read_exif(&file).unwrap()[2], (0x0110, "prompt:{}".into()));
    }

    /// Eight by six pixels that differ from each other, and from those of other seeds only in a part.
    fn moving(channels: usize, part: (usize, usize), seed: u8) -> Raster {
        let mut data: Vec<u8> = (0..48 * channels).map(|i| (i * 5) as u8 | 0x81).collect();
        let at = (part.1 * 8 + part.0) * channels;
        data[at..at + channels].fill(seed | 1);
        Raster::new(8, 6, channels, data).unwrap()
    }

    #[test]
    fn frames_hold_what_changed_and_equal_ones_show_longer() {
        for channels in [3, 4] {
            let frames = [
                moving(channels, (0, 0), 3),
                moving(channels, (5, 3), 9),
                moving(channels, (5, 3), 9),
                moving(channels, (5, 3), 77),
                moving(channels, (7, 5), 77),
            ];
            let file = encode_animation(&frames, 100, &lossless(vec![]), &|| false).unwrap();
            let sizes: Vec<(u8, u8, u8, u8, u8)> = chunks(&file)
                .unwrap()
                .iter()
                .filter(|(kind, _)| kind == b"ANMF")
                .map(|(_, d)| (d[0] * 2, d[3] * 2, d[6] + 1, d[9] + 1, d[12]))
                .collect();
            assert_eq!(sizes, [(0, 0, 8, 6, 100), (0, 0, 6, 4, 200), (4, 2, 2, 2, 100), (4, 2, 4, 4, 100)]);
            let loaded = crate::decode::load_image(&file, &crate::decode::Limits::default()).unwrap();
            for (index, frame) in [0, 1, 3, 4].into_iter().enumerate() {
                let colors = Raster::from_image(&loaded.image, index).unwrap();
                assert_eq!(colors.data(), frames[frame].to_rgb().data(), "frame {frame} of {channels} channels");
            }
            // Not only this program reads it.
            let decoder = image::codecs::webp::WebPDecoder::new(std::io::Cursor::new(&file)).unwrap();
            assert_eq!(decoder.into_frames().collect_frames().unwrap().len(), 4);
        }
    }

    #[test]
    fn lossy_frames_keep_their_alpha_and_an_interruption_ends_it() {
        let frames = [moving(4, (0, 0), 3), moving(4, (5, 3), 9)];
        let file = encode_animation(&frames, 100, &Options::lossy(90.0), &|| false).unwrap();
        let flags = chunks(&file).unwrap()[0].1[0];
        assert_eq!(flags, FLAG_ANIMATION | FLAG_ALPHA);
        let asked = std::cell::Cell::new(0);
        let interrupted = || asked.replace(asked.get() + 1) == 1;
        assert_eq!(encode_animation(&frames, 100, &lossless(vec![]), &interrupted), Err(Error::Interrupted));
    }

    #[test]
    fn bad_input_is_an_error() {
        assert!(encode_animation(&[], 100, &lossless(vec![]), &|| false).is_err());
        assert!(encode(&frame(3, 0), &Options { method: 7, ..Options::lossy(80.0) }).is_err());
        assert!(encode(&frame(3, 0), &Options::lossy(101.0)).is_err());
        assert!(encode(&Raster::new(16384, 1, 1, vec![0; 16384]).unwrap(), &Options::lossy(80.0)).is_err());
        assert!(read_exif(b"RIFF").is_err());
    }
}

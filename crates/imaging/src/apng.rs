//! Animated PNG files, laid out as ComfyUI's SaveAnimatedPNG has Pillow write them. Knows no node.

use crate::png::{encode_error, encoder};
use crate::raster::Raster;
use crate::{Error, Result};

/// How to write an animated PNG file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// How long each frame shows, in milliseconds. ComfyUI: 1000 / fps, fraction dropped.
    pub frame_ms: u32,
    /// 0 stores, 1 is fastest, 9 smallest.
    pub compression: u8,
    /// Name and JSON text of the private `comf` chunks, written after the pixels in this order.
    pub metadata: Vec<(String, String)>,
}

/// Writes an animation that repeats for ever. Frames that equal the one before lengthen it, as in Pillow; if one frame remains, the
/// file is a still picture.
///
/// # Errors
/// If there is no frame, the frames differ in size or channels, or a metadata name or text is not Latin-1; or if `interrupted`, which is
/// asked before each frame, says so.
pub fn encode(frames: &[Raster], options: &Options, interrupted: &dyn Fn() -> bool) -> Result<Vec<u8>> {
    let first = frames.first().ok_or_else(|| Error::Parameter("an animation needs at least one picture".into()))?;
    let shape = |raster: &Raster| (raster.width(), raster.height(), raster.channels());
    if frames.iter().any(|frame| shape(frame) != shape(first)) {
        return Err(Error::Shape("the pictures of an animation must all have the same size and channels".into()));
    }
    let mut shown: Vec<(&Raster, u64)> = Vec::with_capacity(frames.len());
    for frame in frames {
        match shown.last_mut() {
            Some((last, duration_ms)) if *last == frame => *duration_ms += u64::from(options.frame_ms),
            _ => shown.push((frame, u64::from(options.frame_ms))),
        }
    }

    let mut file = Vec::new();
    let mut encoder = encoder(&mut file, first, options.compression)?;
    let animated = shown.len() > 1;
    if animated {
        encoder.set_animated(shown.len() as u32, 0).map_err(encode_error)?;
    }
    let mut writer = encoder.write_header().map_err(encode_error)?;
    for (frame, duration_ms) in shown {
        if interrupted() {
            return Err(Error::Interrupted);
        }
        if animated {
            let (numerator, denominator) = delay(duration_ms);
            writer.set_frame_delay(numerator, denominator).map_err(encode_error)?;
        }
        writer.write_image_data(frame.data()).map_err(encode_error)?;
    }
    for (name, text) in &options.metadata {
        writer.write_chunk(png::chunk::ChunkType(*b"comf"), &comf(name, text)?).map_err(encode_error)?;
    }
    writer.finish().map_err(encode_error)?;
    Ok(file)
}

/// The private `comf` chunks of a file: name and text.
///
/// # Errors
/// If the file is no PNG or ends within a chunk.
pub fn read_metadata(file: &[u8]) -> Result<Vec<(String, String)>> {
    let mut entries = Vec::new();
    for chunk in crate::png::chunks(file)? {
        if let (kind, data) = chunk?
            && &kind == b"comf"
            && let Some(zero) = data.iter().position(|&byte| byte == 0)
        {
            let text = |bytes: &[u8]| bytes.iter().map(|&byte| char::from(byte)).collect();
            entries.push((text(&data[..zero]), text(&data[zero + 1..])));
        }
    }
    Ok(entries)
}

/// Milliseconds as the fraction of a second that the format's two 16-bit numbers can hold.
fn delay(duration_ms: u64) -> (u16, u16) {
    match u16::try_from(duration_ms) {
        Ok(ms) => (ms, 1000),
        Err(_) => (u16::try_from(duration_ms / 1000).unwrap_or(u16::MAX), 1),
    }
}

fn comf(name: &str, text: &str) -> Result<Vec<u8>> {
    let latin1 = |text: &str| text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect::<Option<Vec<u8>>>();
    match (latin1(name), latin1(text)) {
        (Some(mut data), Some(text)) if !data.contains(&0) => {
            data.push(0);
            data.extend(text);
            Ok(data)
        }
        _ => Err(Error::Parameter(format!(
            "metadata {name:?} of an animated PNG must be Latin-1 text: write other characters as JSON escapes"
        ))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;
    use image::AnimationDecoder;

    fn frame(value: u8) -> Raster {
        Raster::new(5, 4, 3, (0..60).map(|i| value.wrapping_add(i)).collect()).unwrap()
    }

    fn options() -> Options {
        Options { frame_ms: 166, compression: 4, metadata: vec![("prompt".into(), "{}".into()), ("workflow".into(), "[1]".into())] }
    }

    #[test]
    fn frames_durations_and_metadata_come_back() {
        let frames = [frame(0), frame(9), frame(9), frame(77)];
        let file = encode(&frames, &options(), &|| false).unwrap();
        let decoder = image::codecs::png::PngDecoder::new(std::io::Cursor::new(&file)).unwrap();
        let decoded = decoder.apng().unwrap().into_frames().collect_frames().unwrap();
        let durations: Vec<(u32, u32)> = decoded.iter().map(|frame| frame.delay().numer_denom_ms()).collect();
        assert_eq!(durations, [(166, 1), (332, 1), (166, 1)], "the repeated picture shows twice as long");
        for (decoded, expected) in decoded.iter().zip([frame(0), frame(9), frame(77)]) {
            assert_eq!(decoded.buffer().as_raw(), expected.to_rgba().data());
        }
        assert_eq!(read_metadata(&file).unwrap(), options().metadata);
        let kinds: Vec<[u8; 4]> = crate::png::chunks(&file).unwrap().map(|chunk| chunk.unwrap().0).collect();
        assert_eq!(kinds[kinds.len() - 3..], [*b"comf", *b"comf", *b"IEND"]);
    }

    #[test]
    fn one_picture_makes_a_still_file() {
        let file = encode(&[frame(3), frame(3)], &options(), &|| false).unwrap();
        assert!(crate::png::chunks(&file).unwrap().all(|chunk| &chunk.unwrap().0 != b"acTL"));
        assert_eq!(read_metadata(&file).unwrap().len(), 2);
    }

    #[test]
    fn bad_input_is_an_error() {
        assert!(encode(&[], &options(), &|| false).is_err());
        assert!(encode(&[frame(0), Raster::new(1, 1, 3, vec![0; 3]).unwrap()], &options(), &|| false).is_err());
        let metadata = vec![("prompt".to_owned(), "雪".to_owned())];
        assert!(encode(&[frame(0)], &Options { metadata, ..options() }, &|| false).is_err());
    }
}

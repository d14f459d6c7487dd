//! PNG files: 8-bit pictures with text chunks, and reading the text back. Knows no animation (see [`crate::apng`]) and no node.

use comfyd_values::Image;

use crate::raster::Raster;
use crate::{Error, Result};

/// Longest keyword that the format allows, in bytes.
const MAX_KEYWORD: usize = 79;
/// Most compressed text that is read from one file, unpacked.
const MAX_TEXT_BYTES: usize = 64 << 20;

/// How to write a PNG file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// 0 stores, 1 is fastest, 9 smallest. ComfyUI saves with 4 and previews with 1.
    pub compression: u8,
    /// Keyword and text, written in this order before the pixels: Latin-1 as tEXt, other text as iTXt.
    pub text: Vec<(String, String)>,
}

/// Writes a picture.
///
/// # Errors
/// If a keyword is empty, longer than 79 bytes or not Latin-1.
pub fn encode(raster: &Raster, options: &Options) -> Result<Vec<u8>> {
    let mut file = Vec::with_capacity(raster.data().len() / 2 + 1024);
    let mut encoder = encoder(&mut file, raster, options.compression)?;
    encoder.validate_sequence(true);
    let mut writer = encoder.write_header().map_err(encode_error)?;
    for (keyword, text) in &options.text {
        let (kind, data) = text_chunk(keyword, text)?;
        writer.write_chunk(kind, &data).map_err(encode_error)?;
    }
    writer.write_image_data(raster.data()).map_err(encode_error)?;
    writer.finish().map_err(encode_error)?;
    Ok(file)
}

/// Writes a picture of a batch with 16 bits per channel, fractions dropped: grey, grey and alpha, RGB or RGBA.
///
/// # Errors
/// As [`encode`]; if there is no such picture.
pub fn encode_16(image: &Image, index: usize, options: &Options) -> Result<Vec<u8>> {
    if index >= image.batch() {
        return Err(Error::Shape(format!("picture {index} was asked for, but the batch holds {}", image.batch())));
    }
    let picture = image.0.index_axis(ndarray::Axis(0), index);
    let most = f32::from(u16::MAX);
    let data: Vec<u8> = picture.iter().flat_map(|value| ((value * most).clamp(0.0, most) as u16).to_be_bytes()).collect();
    // Its size and colours; the pixels are the ones above.
    let like = Raster::new(image.width(), image.height(), image.channels(), vec![0; data.len() / 2])?;
    let mut file = Vec::with_capacity(data.len() / 2 + 1024);
    let mut encoder = encoder(&mut file, &like, options.compression)?;
    encoder.set_depth(png::BitDepth::Sixteen);
    encoder.validate_sequence(true);
    let mut writer = encoder.write_header().map_err(encode_error)?;
    for (keyword, text) in &options.text {
        let (kind, data) = text_chunk(keyword, text)?;
        writer.write_chunk(kind, &data).map_err(encode_error)?;
    }
    writer.write_image_data(&data).map_err(encode_error)?;
    writer.finish().map_err(encode_error)?;
    Ok(file)
}

/// The text chunks of a PNG file, in order. Compressed text is unpacked; a chunk that is damaged is left out.
///
/// # Errors
/// If the file is no PNG, or damaged before its end.
pub fn read_text(file: &[u8]) -> Result<Vec<(String, String)>> {
    let mut texts = Vec::new();
    let mut left = MAX_TEXT_BYTES;
    for chunk in chunks(file)? {
        let (kind, data) = chunk?;
        let text = match &kind {
            b"tEXt" => parse_plain(data),
            b"zTXt" => parse_compressed(data, &mut left),
            b"iTXt" => parse_international(data, &mut left),
            _ => None,
        };
        texts.extend(text);
    }
    Ok(texts)
}

/// The chunks of a PNG file in order: type and data. Checksums are not looked at.
///
/// # Errors
/// If the file does not start like a PNG; an item is an error if the file ends within a chunk.
pub fn chunks(file: &[u8]) -> Result<impl Iterator<Item = Result<([u8; 4], &[u8])>>> {
    let mut rest = file.strip_prefix(b"\x89PNG\r\n\x1a\n").ok_or_else(|| Error::Decode("it does not start like a PNG file".into()))?;
    Ok(std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        match split_chunk(rest) {
            Some((kind, data, after)) => {
                // Whatever follows the end chunk is not part of the picture.
                rest = if &kind == b"IEND" { &[] } else { after };
                Some(Ok((kind, data)))
            }
            None => {
                rest = &[];
                Some(Err(Error::Decode("the PNG file ends in the middle of a chunk".into())))
            }
        }
    }))
}

fn split_chunk(rest: &[u8]) -> Option<([u8; 4], &[u8], &[u8])> {
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (kind, rest) = rest.split_first_chunk::<4>()?;
    let (data, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    Some((*kind, data, rest.get(4..)?))
}

/// An encoder set up for a picture's size and colours.
pub(crate) fn encoder<'a>(file: &'a mut Vec<u8>, raster: &Raster, compression: u8) -> Result<png::Encoder<'a, &'a mut Vec<u8>>> {
    let mut encoder = png::Encoder::new(file, raster.width() as u32, raster.height() as u32);
    encoder.set_color(match raster.channels() {
        1 => png::ColorType::Grayscale,
        2 => png::ColorType::GrayscaleAlpha,
        3 => png::ColorType::Rgb,
        _ => png::ColorType::Rgba,
    });
    encoder.set_depth(png::BitDepth::Eight);
    match compression {
        0 => encoder.set_deflate_compression(png::DeflateCompression::NoCompression),
        1 => {
            encoder.set_deflate_compression(png::DeflateCompression::FdeflateUltraFast);
            encoder.set_filter(png::Filter::Paeth);
        }
        2..=9 => {
            encoder.set_deflate_compression(png::DeflateCompression::Level(compression));
            encoder.set_filter(png::Filter::Adaptive);
        }
        _ => return Err(Error::Parameter(format!("compression level {compression} is not one of 0 to 9"))),
    }
    Ok(encoder)
}

pub(crate) fn encode_error(error: png::EncodingError) -> Error {
    Error::Encode(error.to_string())
}

fn text_chunk(keyword: &str, text: &str) -> Result<(png::chunk::ChunkType, Vec<u8>)> {
    let mut data = latin1(keyword).filter(|key| (1..=MAX_KEYWORD).contains(&key.len()) && !key.contains(&0)).ok_or_else(|| {
        Error::Parameter(format!("{keyword:?} cannot be the keyword of a PNG text: use 1 to {MAX_KEYWORD} Latin-1 characters"))
    })?;
    data.push(0);
    if let Some(bytes) = latin1(text) {
        data.extend(bytes);
        return Ok((png::chunk::tEXt, data));
    }
    // Not compressed, no language, no translated keyword.
    data.extend([0, 0, 0, 0]);
    data.extend(text.as_bytes());
    Ok((png::chunk::iTXt, data))
}

fn latin1(text: &str) -> Option<Vec<u8>> {
    text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect()
}

fn from_latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| char::from(byte)).collect()
}

fn split_at_zero(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let zero = data.iter().position(|&byte| byte == 0)?;
    Some((&data[..zero], &data[zero + 1..]))
}

fn parse_plain(data: &[u8]) -> Option<(String, String)> {
    let (keyword, text) = split_at_zero(data)?;
    Some((from_latin1(keyword), from_latin1(text)))
}

fn parse_compressed(data: &[u8], left: &mut usize) -> Option<(String, String)> {
    let (keyword, rest) = split_at_zero(data)?;
    let (&0, packed) = rest.split_first()? else { return None };
    Some((from_latin1(keyword), from_latin1(&inflate(packed, left)?)))
}

fn parse_international(data: &[u8], left: &mut usize) -> Option<(String, String)> {
    let (keyword, rest) = split_at_zero(data)?;
    let (&[compressed, method], rest) = rest.split_first_chunk::<2>()?;
    let (_language, rest) = split_at_zero(rest)?;
    let (_translated, rest) = split_at_zero(rest)?;
    let text = match (compressed, method) {
        (0, _) => rest.to_vec(),
        (1, 0) => inflate(rest, left)?,
        _ => return None,
    };
    Some((from_latin1(keyword), String::from_utf8(text).ok()?))
}

/// Unpacks a text of at most `left` bytes, which it takes of them.
fn inflate(packed: &[u8], left: &mut usize) -> Option<Vec<u8>> {
    use std::io::Read;
    let mut text = Vec::new();
    let read = flate2::read::ZlibDecoder::new(packed).take(*left as u64 + 1).read_to_end(&mut text).ok()?;
    *left = left.checked_sub(read)?;
    Some(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    fn gradient(channels: usize) -> Raster {
        let data = (0..64 * 48 * channels).map(|i| (i * 7 % 251) as u8).collect();
        Raster::new(64, 48, channels, data).unwrap()
    }

    #[test]
    fn pixels_survive_every_compression_level() {
        for channels in [1, 3, 4] {
            for compression in 0..=9 {
                let raster = gradient(channels);
                let file = encode(&raster, &Options { compression, text: vec![] }).unwrap();
                let decoded = image::load_from_memory(&file).unwrap();
                assert_eq!(decoded.as_bytes(), raster.data(), "{channels} channels, level {compression}");
            }
        }
        assert!(encode(&gradient(3), &Options { compression: 10, text: vec![] }).is_err());
    }

    #[test]
    fn text_is_written_in_order_and_read_back() {
        let text: Vec<(String, String)> =
            [("prompt", "{\"1\": \"é\"}"), ("workflow", "雪 ☃"), ("empty", "")].map(|(k, t)| (k.to_owned(), t.to_owned())).to_vec();
        let file = encode(&gradient(3), &Options { compression: 4, text: text.clone() }).unwrap();
        assert_eq!(read_text(&file).unwrap(), text);
        let kinds: Vec<[u8; 4]> = chunks(&file).unwrap().map(|chunk| chunk.unwrap().0).filter(|kind| kind != b"IDAT").collect();
        assert_eq!(kinds, [*b"IHDR", *b"tEXt", *b"iTXt", *b"tEXt", *b"IEND"]);
    }

    #[test]
    fn bad_keywords_and_files_are_errors() {
        for keyword in ["", "雪", &"x".repeat(80)] {
            let options = Options { compression: 1, text: vec![(keyword.to_owned(), String::new())] };
            assert!(encode(&gradient(1), &options).unwrap_err().to_string().contains("keyword"));
        }
        assert!(read_text(b"GIF89a").is_err());
        let file = encode(&gradient(1), &Options::default()).unwrap();
        assert!(read_text(&file[..file.len() - 14]).is_err());
    }

    #[test]
    fn compressed_text_is_unpacked() {
        use std::io::Write;
        let mut packer = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        packer.write_all("packed".as_bytes()).unwrap();
        let packed = packer.finish().unwrap();
        let mut left = 20;
        assert_eq!(parse_compressed(&[b"key\0\0".as_slice(), &packed].concat(), &mut left), Some(("key".into(), "packed".into())));
        let international = [b"key\0\x01\0\0\0".as_slice(), &packed].concat();
        assert_eq!(parse_international(&international, &mut left), Some(("key".into(), "packed".into())));
        assert_eq!(left, 8);
        assert!(parse_international(&international, &mut left).is_some());
        assert_eq!(parse_international(&international, &mut left), None, "all texts of a file together are bounded");
    }
}

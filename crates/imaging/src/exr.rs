//! OpenEXR files (<https://openexr.com/en/latest/OpenEXRFileLayout.html>): one part of 32-bit numbers in rows, uncompressed, with texts in the header.
//! They are written only.

use comfyd_values::Image;
use ndarray::Axis;

use crate::{Error, Result};

/// What the values of a picture mean. Files hold linear light.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Light {
    /// As screens show them (IEC 61966-2-1).
    Srgb,
    /// Hybrid log-gamma with Rec. 2020's colours (BT.2100).
    Hlg,
    /// Linear light with Rec. 709's colours.
    Linear,
}

/// Where red, green, blue and white lie (CIE 1931 x, y).
const REC_709: [f32; 8] = [0.64, 0.33, 0.3, 0.6, 0.15, 0.06, 0.3127, 0.329];
const REC_2020: [f32; 8] = [0.708, 0.292, 0.17, 0.797, 0.131, 0.046, 0.3127, 0.329];

/// The longest name of an attribute, and the longest without a mark in the header.
const MAX_NAME: usize = 255;
const SHORT_NAME: usize = 31;
const LONG_NAMES: u32 = 0x400;
const FLOAT: u32 = 2;

/// Writes a picture of a batch: grey, RGB or RGBA.
///
/// # Errors
/// If there is no such picture, or a name of a text is longer than 255 bytes.
pub fn encode(image: &Image, index: usize, light: Light, texts: &[(String, String)]) -> Result<Vec<u8>> {
    if index >= image.batch() {
        return Err(Error::Shape(format!("picture {index} was asked for, but the batch holds {}", image.batch())));
    }
    // Channels stand in the order of their names.
    let channels: &[(&str, usize)] = match image.channels() {
        1 => &[("Y", 0)],
        3 => &[("B", 2), ("G", 1), ("R", 0)],
        4 => &[("A", 3), ("B", 2), ("G", 1), ("R", 0)],
        other => return Err(Error::Shape(format!("a picture of {other} channels cannot be saved as EXR"))),
    };
    let (width, height) = (image.width() as u32, image.height() as u32);
    let mut file = vec![0x76, 0x2f, 0x31, 0x01];
    let long = if texts.iter().any(|(name, _)| name.len() > SHORT_NAME) { LONG_NAMES } else { 0 };
    file.extend((2 | long).to_le_bytes());
    let mut list = Vec::new();
    for (name, _) in channels {
        list.extend(name.bytes().chain([0]));
        for number in [FLOAT, 0, 1, 1] {
            list.extend(number.to_le_bytes());
        }
    }
    list.push(0);
    let window: Vec<u8> = [0, 0, width - 1, height - 1].into_iter().flat_map(u32::to_le_bytes).collect();
    let colours = if light == Light::Hlg { REC_2020 } else { REC_709 };
    let colours: Vec<u8> = colours.into_iter().flat_map(f32::to_le_bytes).collect();
    attribute(&mut file, "channels", "chlist", &list)?;
    attribute(&mut file, "chromaticities", "chromaticities", &colours)?;
    attribute(&mut file, "compression", "compression", &[0])?;
    attribute(&mut file, "dataWindow", "box2i", &window)?;
    attribute(&mut file, "displayWindow", "box2i", &window)?;
    attribute(&mut file, "lineOrder", "lineOrder", &[0])?;
    attribute(&mut file, "pixelAspectRatio", "float", &1f32.to_le_bytes())?;
    attribute(&mut file, "screenWindowCenter", "v2f", &[0; 8])?;
    attribute(&mut file, "screenWindowWidth", "float", &1f32.to_le_bytes())?;
    for (name, text) in texts {
        attribute(&mut file, name, "string", text.as_bytes())?;
    }
    file.push(0);
    // A row: its number, its length, its channels one after another.
    let row_bytes = image.width() * channels.len() * size_of::<f32>();
    let first = file.len() + image.height() * size_of::<u64>();
    file.reserve(image.height() * (size_of::<u64>() + 8 + row_bytes));
    for row in 0..image.height() {
        file.extend(((first + row * (8 + row_bytes)) as u64).to_le_bytes());
    }
    let picture = image.0.index_axis(Axis(0), index);
    for (number, row) in picture.outer_iter().enumerate() {
        file.extend((number as u32).to_le_bytes());
        file.extend((row_bytes as u32).to_le_bytes());
        for (name, channel) in channels {
            let values = row.index_axis(Axis(1), *channel);
            for value in values {
                let value = if *name == "A" { *value } else { linear(*value, light) };
                file.extend(value.to_le_bytes());
            }
        }
    }
    Ok(file)
}

fn attribute(file: &mut Vec<u8>, name: &str, kind: &str, value: &[u8]) -> Result<()> {
    if name.is_empty() || name.len() > MAX_NAME || name.contains('\0') {
        return Err(Error::Parameter(format!("{name:?} cannot be the name of a text in an EXR file: use 1 to {MAX_NAME} bytes")));
    }
    let length = u32::try_from(value.len()).ok().filter(|length| i32::try_from(*length).is_ok());
    let length = length.ok_or_else(|| Error::Parameter(format!("the text {name:?} is too long for an EXR file")))?;
    file.extend(name.bytes().chain([0]).chain(kind.bytes()).chain([0]));
    file.extend(length.to_le_bytes());
    file.extend(value);
    Ok(())
}

fn linear(value: f32, light: Light) -> f32 {
    /// BT.2100's constants.
    const A: f32 = 0.178_832_77;
    const B: f32 = 0.284_668_92;
    const C: f32 = 0.559_910_7;
    match light {
        Light::Linear => value,
        Light::Srgb if value <= 0.04045 => value / 12.92,
        Light::Srgb => ((value + 0.055) / 1.055).powf(2.4),
        Light::Hlg if value <= 0.5 => value * value / 3.0,
        Light::Hlg => (((value - C) / A).exp() + B) / 12.0,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use ndarray::Array4;

    use super::*;

    /// The values of a file's channels in the order of the file, row by row.
    fn pixels(file: &[u8], rows: usize, row_values: usize) -> Vec<f32> {
        let start = file.len() - rows * (8 + 4 * row_values);
        let offset = file.len() - rows * (8 + 4 * row_values) - rows * 8;
        for row in 0..rows {
            let told = u64::from_le_bytes(file[offset + row * 8..offset + row * 8 + 8].try_into().unwrap());
            assert_eq!(told as usize, start + row * (8 + 4 * row_values), "where row {row} begins");
        }
        let row = |row: usize| &file[start + row * (8 + 4 * row_values) + 8..start + (row + 1) * (8 + 4 * row_values)];
        (0..rows).flat_map(|number| row(number).as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes))).collect()
    }

    #[test]
    fn light_is_linear_in_files() {
        let image = Image::new(Array4::from_shape_vec((1, 2, 1, 4), vec![0.02, 0.5, 1.0, 0.25, 0.75, 0.4, -0.1, 1.0]).unwrap());
        // python: srgb_to_linear and hlg_to_linear of the reference's nodes_images, in the order A, B, G, R
        for (light, want) in [
            (Light::Srgb, [0.25, 1.0, 0.21404114, 0.00154799, 1.0, -0.00773994, 0.13286832, 0.52252155]),
            (Light::Hlg, [0.25, 1.0, 0.08333334, 0.00013333, 1.0, 0.00333333, 0.05333333, 0.26496256]),
            (Light::Linear, [0.25, 1.0, 0.5, 0.02, 1.0, -0.1, 0.4, 0.75]),
        ] {
            let file = encode(&image, 0, light, &[("prompt".into(), "{}".into())]).unwrap();
            assert!(file.windows(20).any(|part| part == b"prompt\0string\0\x02\0\0\0{}"));
            let got = pixels(&file, 2, 4);
            assert!(got.iter().zip(want).all(|(got, want)| (got - want).abs() < 1e-6), "{light:?}: {got:?}");
        }
        assert!(encode(&image, 1, Light::Srgb, &[]).is_err());
        assert!(encode(&image, 0, Light::Srgb, &[("x".repeat(256), String::new())]).is_err());
    }
}

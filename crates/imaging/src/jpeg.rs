//! Writing JPEG files, for previews.

use crate::raster::Raster;
use crate::{Error, Result};

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

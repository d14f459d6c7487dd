//! What fuzzing calls: any bytes as a picture file, decoded or asked for its texts.

use crate::decode::{Channel, Limits, load_image, load_mask, raster};
use crate::{apng, png, webp};

#[cfg(test)]
#[path = "../../../fuzz/kept.rs"]
mod kept;

/// A picture, as nodes and the server read it. That a decoder panics is caught where it is called.
pub fn picture(data: &[u8]) {
    let limits = Limits { max_pixels: 1 << 18, max_frames: 8, max_bytes: 16 << 20 };
    if let Ok(loaded) = load_image(data, &limits) {
        let (frames, height, width, channels) = loaded.image.0.dim();
        assert!(channels == 3 && frames <= limits.max_frames && (height * width) as u64 <= limits.max_pixels, "within the limits");
        assert_eq!(loaded.mask.0.dim().0, frames, "a mask for each frame");
    }
    let _ = load_mask(data, Channel::Alpha, &limits);
    let _ = raster(data, &limits);
}

/// The texts that a picture carries.
pub fn picture_text(data: &[u8]) {
    // Most of a PNG's first bytes are the same in all.
    for file in [data.to_vec(), [b"\x89PNG\r\n\x1a\n".as_slice(), data].concat()] {
        let _ = png::read_text(&file);
        let _ = apng::read_metadata(&file);
        let _ = webp::read_exif(&file);
    }
}

#[cfg(test)]
#[test]
fn what_fuzzing_found_is_answered() {
    kept::replay("picture", picture);
    kept::replay("picture_text", picture_text);
}

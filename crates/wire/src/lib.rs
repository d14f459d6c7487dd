//! What ComfyUI's wire has of its own, as pure functions: the binary websocket frames, JSON as its Python reads it ([`json`]), numbers in texts
//! ([`python`]), and values as Python prints them ([`shown`]). All numbers of frames are big-endian; the first 32 bits tell the event. This crate knows no logic and no I/O.

pub mod json;
pub mod python;
pub mod shown;

use bytes::{BufMut, Bytes, BytesMut};

/// The first 32 bits of a binary frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum BinaryEvent {
    /// An encoded picture.
    PreviewImage = 1,
    /// Raw pixels.
    UnencodedPreviewImage = 2,
    /// A text under a node.
    Text = 3,
    /// An encoded picture with metadata.
    PreviewImageWithMetadata = 4,
}

impl BinaryEvent {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::PreviewImage, Self::UnencodedPreviewImage, Self::Text, Self::PreviewImageWithMetadata];
}

/// How an encoded picture is encoded: the second 32 bits of event 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum ImageType {
    /// JPEG.
    Jpeg = 1,
    /// PNG.
    Png = 2,
}

impl ImageType {
    /// The media type.
    pub fn mime(self) -> &'static str {
        match self {
            Self::Jpeg => "image/jpeg",
            Self::Png => "image/png",
        }
    }
}

/// Event 1: `u32 1, u32 image type, encoded bytes`.
pub fn preview_image(image_type: ImageType, encoded: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(8 + encoded.len());
    out.put_u32(BinaryEvent::PreviewImage as u32);
    out.put_u32(image_type as u32);
    out.put_slice(encoded);
    out.freeze()
}

/// Event 2: `u32 2, u32 channels, u32 width, u32 height, pixels`, 8 bits a channel, rows top to bottom without padding. Sent to clients
/// that ask for it (feature flag `supports_raw_previews`, or `?preview=raw`).
pub fn unencoded_preview(width: u32, height: u32, channels: u8, pixels: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(16 + pixels.len());
    out.put_u32(BinaryEvent::UnencodedPreviewImage as u32);
    out.put_u32(channels.into());
    out.put_u32(width);
    out.put_u32(height);
    out.put_slice(pixels);
    out.freeze()
}

/// A frame of event 1 or 2 as the API document has it: behind the wire's bytes a `u32` more, where readers of the wire's frames do not look.
/// Of event 1 it is the largest size that the picture was reduced to (0 without one), of event 2 the [`ImageType`] that the picture would
/// be sent in.
pub fn documented(frame: &[u8], number: u32) -> Bytes {
    let mut out = BytesMut::with_capacity(frame.len() + 4);
    out.put_slice(frame);
    out.put_u32(number);
    out.freeze()
}

/// Event 3: `u32 3, u32 length of the node's id, id, text`, both UTF-8.
pub fn text(node_id: &str, text: &str) -> Bytes {
    let mut out = BytesMut::with_capacity(8 + node_id.len() + text.len());
    out.put_u32(BinaryEvent::Text as u32);
    out.put_u32(node_id.len() as u32);
    out.put_slice(node_id.as_bytes());
    out.put_slice(text.as_bytes());
    out.freeze()
}

/// Event 4: `u32 4, u32 length of the metadata, metadata as JSON, encoded bytes`. The metadata names the picture's `image_type`.
pub fn preview_with_metadata(metadata: &serde_json::Value, encoded: &[u8]) -> Bytes {
    let metadata = metadata.to_string();
    let mut out = BytesMut::with_capacity(8 + metadata.len() + encoded.len());
    out.put_u32(BinaryEvent::PreviewImageWithMetadata as u32);
    out.put_u32(metadata.len() as u32);
    out.put_slice(metadata.as_bytes());
    out.put_slice(encoded);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_laid_out_as_clients_read_them() {
        assert_eq!(&preview_image(ImageType::Png, b"xy")[..], b"\0\0\0\x01\0\0\0\x02xy");
        assert_eq!(&unencoded_preview(2, 1, 3, b"abcdef")[..], b"\0\0\0\x02\0\0\0\x03\0\0\0\x02\0\0\0\x01abcdef");
        assert_eq!(&documented(&preview_image(ImageType::Png, b"xy"), 512)[..], b"\0\0\0\x01\0\0\0\x02xy\0\0\x02\0");
        assert_eq!(&text("12", "hi")[..], b"\0\0\0\x03\0\0\0\x0212hi");
        let meta = serde_json::json!({"a": 1});
        assert_eq!(&preview_with_metadata(&meta, b"z")[..], b"\0\0\0\x04\0\0\0\x07{\"a\":1}z");
    }
}

//! A picture on its way to clients. A result is encoded by whoever computed it: that is a part of its prompt's work, and keeps the prompt
//! from running ahead of what is sent. A preview is encoded when the first client is about to be sent it, once for each form that is asked.

use std::sync::Arc;

use bytes::Bytes;
use comfyd_jobs::NodeRef;
use comfyd_node::PreviewImage;
use comfyd_wire::ImageType;
use tokio::sync::Mutex;

use crate::frames::{self, Abilities};

pub(super) struct Picture {
    source: Arc<Source>,
    /// Locked while it is encoded, so that others who want the same form get it too.
    frames: Mutex<Vec<(Abilities, Option<Bytes>)>>,
}

struct Source {
    prompt_id: Arc<str>,
    node: NodeRef,
    pixels: Pixels,
    max_size: Option<u32>,
}

enum Pixels {
    /// A result, as PNG.
    Result(Bytes),
    Preview(PreviewImage),
}

impl Picture {
    /// A preview is reduced to `preview_size`, unless it says itself to what. `None` if it is a result that cannot be encoded.
    pub(super) fn new(prompt_id: Arc<str>, node: NodeRef, image: PreviewImage, preview_size: u32) -> Option<Self> {
        let max_size = image.max_size.or((!image.lossless).then_some(preview_size));
        let pixels = match image.lossless {
            true => Pixels::Result(told(frames::png(&image, max_size))?),
            false => Pixels::Preview(image),
        };
        Some(Self { source: Arc::new(Source { prompt_id, node, pixels, max_size }), frames: Mutex::default() })
    }

    /// The bytes that are kept of it.
    pub(super) fn bytes(&self) -> usize {
        match &self.source.pixels {
            Pixels::Result(png) => png.len(),
            Pixels::Preview(image) => image.pixels.len(),
        }
    }

    /// Its frame for clients that understand this; `None` if it cannot be encoded.
    pub(super) async fn frame(&self, abilities: Abilities) -> Option<Bytes> {
        let source = self.source.clone();
        let image = match &source.pixels {
            Pixels::Result(png) => {
                let Source { prompt_id, node, max_size, .. } = &*source;
                return Some(frames::picture_frame(prompt_id, node, ImageType::Png, png, *max_size, abilities));
            }
            Pixels::Preview(image) => image.clone(),
        };
        let mut frames = self.frames.lock().await;
        if let Some((_, frame)) = frames.iter().find(|(known, _)| *known == abilities) {
            return frame.clone();
        }
        let encode = move || frames::preview_frame(&source.prompt_id, &source.node, &image, source.max_size, abilities);
        let frame = told(tokio::task::spawn_blocking(encode).await).and_then(told);
        frames.push((abilities, frame.clone()));
        frame
    }
}

/// The value; why there is none goes into the log.
fn told<T, E: std::fmt::Display>(encoded: Result<T, E>) -> Option<T> {
    encoded.inspect_err(|error| tracing::warn!(%error, "a picture could not be encoded")).ok()
}

//! A picture on its way to clients: encoded when the first one is about to be sent it, once for each form that clients ask for.

use std::sync::Arc;

use bytes::Bytes;
use comfyd_jobs::NodeRef;
use comfyd_node::PreviewImage;
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
    image: PreviewImage,
    max_size: Option<u32>,
}

impl Picture {
    /// A preview is reduced to `preview_size`, unless it says itself to what.
    pub(super) fn new(prompt_id: Arc<str>, node: NodeRef, image: PreviewImage, preview_size: u32) -> Self {
        let max_size = image.max_size.or((!image.lossless).then_some(preview_size));
        Self { source: Arc::new(Source { prompt_id, node, image, max_size }), frames: Mutex::default() }
    }

    /// The bytes of its pixels.
    pub(super) fn bytes(&self) -> usize {
        self.source.image.pixels.len()
    }

    /// Its frame for clients that understand this; `None` if it cannot be encoded.
    pub(super) async fn frame(&self, abilities: Abilities) -> Option<Bytes> {
        let mut frames = self.frames.lock().await;
        if let Some((_, frame)) = frames.iter().find(|(known, _)| *known == abilities) {
            return frame.clone();
        }
        let source = self.source.clone();
        let encode = move || frames::image_frame(&source.prompt_id, &source.node, &source.image, source.max_size, abilities);
        let frame = match tokio::task::spawn_blocking(encode).await {
            Ok(Ok(frame)) => Some(frame),
            Ok(Err(error)) => {
                tracing::warn!(%error, "a picture could not be encoded");
                None
            }
            Err(error) => {
                tracing::warn!(%error, "encoding a picture was cut short");
                None
            }
        };
        frames.push((abilities, frame.clone()));
        frame
    }
}

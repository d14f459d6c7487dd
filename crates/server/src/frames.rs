//! Events as clients get them: JSON data and binary frames. ComfyUI's oddities of the websocket live here.

use axum::extract::ws::Message;
use bytes::Bytes;
use comfyd_jobs::event::{NodeProgress, NodeState};
use comfyd_jobs::{Counts, Event, EventKind, NodeRef};
use comfyd_node::PreviewImage;
use comfyd_wire::{self as wire, ImageType};
use image::{DynamicImage, ImageError, RgbImage, RgbaImage};
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::events::Told;
use crate::json::Plain;

/// What a client can understand, from its feature flags and its query.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Abilities {
    /// Previews with metadata (binary event 4).
    pub preview_metadata: bool,
    /// Raw pixels in place of JPEG (binary event 2).
    pub raw_previews: bool,
    /// Frames with what the API document has in them.
    pub documented: bool,
}

/// JPEG quality of previews, as the reference's.
const PREVIEW_QUALITY: u8 = 95;

/// The `status` object of events and of `GET /prompt`, with the figures that the API document names.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct QueueStatus {
    #[schema(inline)]
    exec_info: QueueFigures,
}

/// What the queue is at.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
struct QueueFigures {
    /// Running and waiting.
    queue_remaining: usize,
    queue_running: usize,
    queue_pending: usize,
    #[schema(required)]
    running_prompt_id: Option<String>,
}

impl From<&Counts> for QueueStatus {
    fn from(counts: &Counts) -> Self {
        let (queue_running, queue_pending) = (counts.running, counts.pending);
        let running_prompt_id = counts.running_ids.first().cloned();
        Self { exec_info: QueueFigures { queue_remaining: queue_running + queue_pending, queue_running, queue_pending, running_prompt_id } }
    }
}

/// What a `status` event holds; the first one of a connection tells the client's id too.
#[derive(Debug, Serialize)]
pub(crate) struct Status<'a> {
    pub status: &'a QueueStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sid: Option<&'a str>,
}

/// An event of the server's own as JSON.
pub(crate) fn text(event: Told, data: &impl Serialize) -> Message {
    named(event.name(), data)
}

/// An event of any name as JSON.
pub(crate) fn named(event: &str, data: &impl Serialize) -> Message {
    #[derive(Serialize)]
    struct Named<'a, T> {
        #[serde(rename = "type")]
        event: &'a str,
        data: &'a T,
    }
    // Fails only where keys are no texts: ours are.
    Message::Text(serde_json::to_string(&Named { event, data }).unwrap_or_default().into())
}

/// The message of an event that is told all clients in the same form; `None` for others.
pub(crate) fn message(event: &Event) -> Option<Message> {
    let id = &*event.prompt_id;
    Some(match &event.kind {
        EventKind::Message(message) => text(message.into(), message),
        EventKind::Executing(node) => executing(id, node),
        EventKind::Idle => idle(id),
        EventKind::Progress { node, value, max } => {
            text(Told::Progress, &json!({"value": Plain(*value), "max": Plain(*max), "prompt_id": id, "node": node.id}))
        }
        EventKind::ProgressState(nodes) => text(Told::ProgressState, &json!({"prompt_id": id, "nodes": progress_nodes(id, nodes)})),
        EventKind::Executed { node, output } => {
            text(Told::Executed, &json!({"node": node.id, "display_node": node.display_id, "output": output, "prompt_id": id}))
        }
        EventKind::Text { node, text } => Message::Binary(wire::text(&node.id, text)),
        EventKind::Image { .. } | EventKind::Queue { .. } => return None,
    })
}

/// `executing` without a node: the prompt is over.
pub(crate) fn idle(prompt_id: &str) -> Message {
    text(Told::Executing, &json!({"node": null, "prompt_id": prompt_id}))
}

/// `executing`, with the class and title that the API document names.
pub(crate) fn executing(prompt_id: &str, node: &NodeRef) -> Message {
    let NodeRef { id, display_id, class_type, title, .. } = node;
    let title = title.as_ref().unwrap_or(class_type);
    let data = json!({"node": id, "display_node": display_id, "prompt_id": prompt_id, "class_type": class_type, "title": title});
    text(Told::Executing, &data)
}

/// A result as PNG; its longer side is at most `max_size`.
pub(crate) fn png(image: &PreviewImage, max_size: Option<u32>) -> Result<Bytes, ImageError> {
    let mut bytes = Vec::new();
    contain(to_dynamic(image)?, max_size).write_to(&mut std::io::Cursor::new(&mut bytes), image::ImageFormat::Png)?;
    Ok(bytes.into())
}

/// The frame of a preview, in the form that the client understands best; its longer side is at most `max_size`.
pub(crate) fn preview_frame(
    prompt_id: &str,
    node: &NodeRef,
    image: &PreviewImage,
    max_size: Option<u32>,
    abilities: Abilities,
) -> Result<Bytes, ImageError> {
    let rgb = contain(to_dynamic(image)?, max_size).into_rgb8();
    if abilities.raw_previews {
        let frame = wire::unencoded_preview(rgb.width(), rgb.height(), 3, rgb.as_raw());
        return Ok(if abilities.documented { wire::documented(&frame, ImageType::Jpeg as u32) } else { frame });
    }
    let mut bytes = Vec::new();
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, PREVIEW_QUALITY).encode_image(&rgb)?;
    Ok(picture_frame(prompt_id, node, ImageType::Jpeg, &bytes, max_size, abilities))
}

/// The frame of an encoded picture.
pub(crate) fn picture_frame(
    prompt_id: &str,
    node: &NodeRef,
    image_type: ImageType,
    bytes: &[u8],
    max_size: Option<u32>,
    abilities: Abilities,
) -> Bytes {
    if abilities.preview_metadata {
        let mut metadata = json!({
            "node_id": node.id, "prompt_id": prompt_id, "display_node_id": node.display_id,
            "parent_node_id": node.parent_id, "real_node_id": node.real_id, "image_type": image_type.mime(),
        });
        if abilities.documented {
            metadata["max_size"] = json!(max_size);
        }
        return wire::preview_with_metadata(&metadata, bytes);
    }
    let frame = wire::preview_image(image_type, bytes);
    if abilities.documented { wire::documented(&frame, max_size.unwrap_or(0)) } else { frame }
}

fn to_dynamic(image: &PreviewImage) -> Result<DynamicImage, ImageError> {
    let (w, h, pixels) = (image.width, image.height, image.pixels.as_ref().clone());
    let picture = match image.channels {
        4 => RgbaImage::from_raw(w, h, pixels).map(DynamicImage::ImageRgba8),
        _ => RgbImage::from_raw(w, h, pixels).map(DynamicImage::ImageRgb8),
    };
    picture
        .ok_or_else(|| ImageError::Parameter(image::error::ParameterError::from_kind(image::error::ParameterErrorKind::DimensionMismatch)))
}

/// Scales so that the picture just fits a square, as PIL's `ImageOps.contain`: smaller pictures grow.
fn contain(picture: DynamicImage, max_size: Option<u32>) -> DynamicImage {
    match max_size {
        Some(side) if side > 0 && picture.width().max(picture.height()) != side => {
            picture.resize(side, side, image::imageops::FilterType::Triangle)
        }
        _ => picture,
    }
}

fn progress_nodes(prompt_id: &str, nodes: &[NodeProgress]) -> Map<String, Value> {
    let shown = nodes.iter().filter(|n| n.state != NodeState::Pending);
    shown
        .map(|n| {
            let data = json!({
                "value": Plain(n.value), "max": Plain(n.max), "state": n.state, "node_id": n.node.id, "prompt_id": prompt_id,
                "display_node_id": n.node.display_id, "parent_node_id": n.node.parent_id, "real_node_id": n.node.real_id,
            });
            (n.node.id.to_string(), data)
        })
        .collect()
}

//! Moves of a camera as rays through pixels (Plücker coordinates, <https://arxiv.org/abs/2106.02634>).

use comfyd_engine::Tensor;
use comfyd_node::{Error, Input, NodeOutput, Opaque, Result, Schema, Value};

use crate::class::{Call, Class, MAX_RESOLUTION, unknown_choice};

pub(crate) const CLASSES: &[Class] = &[Class::new(
    || {
        Schema::new("WanCameraEmbedding")
            .no_display()
            .category("model/conditioning/wan/camera")
            .module("comfy_extras.nodes_camera_trajectory")
            .schema_generation()
            .description("Describes how a camera moves through a video, for Wan Fun Camera.")
            .aliases(["pan", "zoom", "orbit"])
            .input(
                Input::combo(
                    "camera_pose",
                    [
                        "Static",
                        "Pan Up",
                        "Pan Down",
                        "Pan Left",
                        "Pan Right",
                        "Zoom In",
                        "Zoom Out",
                        "Anti Clockwise (ACW)",
                        "ClockWise (CW)",
                    ],
                )
                .default("Static")
                .tooltip("The move."),
            )
            .input(Input::int("width").default(832).min(16).max(MAX_RESOLUTION).step(16).tooltip("Pixels wide."))
            .input(Input::int("height").default(480).min(16).max(MAX_RESOLUTION).step(16).tooltip("Pixels high."))
            .input(Input::int("length").default(81).min(1).max(MAX_RESOLUTION).step(4).tooltip("Frames, after decoding."))
            .input(Input::float("speed").default(1.0).min(0).max(10.0).step(0.1).tooltip("How fast it is.").optional())
            .input(
                Input::float("fx")
                    .default(0.5)
                    .min(0)
                    .max(1)
                    .step(1e-09)
                    .advanced()
                    .tooltip("Focal length across, in parts of the width.")
                    .optional(),
            )
            .input(
                Input::float("fy")
                    .default(0.5)
                    .min(0)
                    .max(1)
                    .step(1e-09)
                    .advanced()
                    .tooltip("Focal length down, in parts of the height.")
                    .optional(),
            )
            .input(
                Input::float("cx")
                    .default(0.5)
                    .min(0)
                    .max(1)
                    .step(0.01)
                    .advanced()
                    .tooltip("Where the axis passes through the picture, across.")
                    .optional(),
            )
            .input(
                Input::float("cy")
                    .default(0.5)
                    .min(0)
                    .max(1)
                    .step(0.01)
                    .advanced()
                    .tooltip("Where the axis passes through the picture, down.")
                    .optional(),
            )
            .output_named("WAN_CAMERA_EMBEDDING", "camera_embedding")
            .output_named("INT", "width")
            .output_named("INT", "height")
            .output_named("INT", "length")
    },
    embedding,
)];

/// How many numbers describe the ray through a pixel.
const RAY: usize = 6;
/// Frames that go together.
const STRIDE: usize = 4;
/// How far a camera goes at full speed, and how far it turns.
const DISTANCE: f64 = 1.5;
const ANGLE: f64 = std::f64::consts::FRAC_PI_3;
/// Width by height of the pictures in which focal lengths are measured.
const MEASURED: f64 = 1280.0 / 720.0;

/// `WAN_CAMERA_EMBEDDING`: rays (1, 24, T, H, W), those of four frames in the channels.
#[derive(Debug)]
pub(super) struct CameraEmbedding(pub(super) Tensor);

impl Opaque for CameraEmbedding {
    fn type_name(&self) -> &'static str {
        "WAN_CAMERA_EMBEDDING"
    }

    fn size_bytes(&self) -> usize {
        self.0.elem_count() * 4
    }

    fn describe(&self) -> String {
        format!("a camera's move, {:?}", self.0.dims())
    }
}

/// Where the camera goes, and by how much it turns about its axis.
fn course(pose: &str) -> Result<([f64; 3], f64)> {
    Ok(match pose {
        "Static" => ([0.0, 0.0, 0.0], 0.0),
        "Pan Up" => ([0.0, -1.0, 0.0], 0.0),
        "Pan Down" => ([0.0, 1.0, 0.0], 0.0),
        "Pan Left" => ([-1.0, 0.0, 0.0], 0.0),
        "Pan Right" => ([1.0, 0.0, 0.0], 0.0),
        "Zoom In" => ([0.0, 0.0, 2.0], 0.0),
        "Zoom Out" => ([0.0, 0.0, -2.0], 0.0),
        "Anti Clockwise (ACW)" => ([0.0, 0.0, 0.0], -1.0),
        "ClockWise (CW)" => ([0.0, 0.0, 0.0], 1.0),
        other => return Err(unknown_choice("camera_pose", other)),
    })
}

fn embedding(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (width, height, length) = (call.count("width", 1)?, call.count("height", 1)?, call.count("length", 1)?);
    let or = |name: &str, absent: f64| call.inputs.optional(name).map_or(Ok(absent), |_| call.float(name));
    let (speed, mut fx, mut fy) = (or("speed", 1.0)?, or("fx", 0.5)?, or("fy", 0.5)?);
    let (cx, cy) = ((or("cx", 0.5)? * width as f64) as f32, (or("cy", 0.5)? * height as f64) as f32);
    let (goal, turn) = course(call.text("camera_pose")?)?;
    // The shape of the picture decides which of the focal lengths is stretched.
    if MEASURED > width as f64 / height as f64 {
        fx *= height as f64 * MEASURED / width as f64;
    } else {
        fy *= width as f64 / MEASURED / height as f64;
    }
    let (fx, fy) = ((fx * width as f64) as f32, (fy * height as f64) as f32);
    if fx == 0.0 || fy == 0.0 {
        return Err(Error::msg("a camera needs focal lengths above 0; raise fx and fy"));
    }
    // The first frame is there four times.
    let groups = (length - 1 + STRIDE) / STRIDE;
    if !(length - 1 + STRIDE).is_multiple_of(STRIDE) {
        return Err(Error::msg(format!("a length of {length} does not fit groups of {STRIDE} frames behind the first; take 4 n + 1")));
    }
    let shape = [1, RAY * STRIDE, groups, height, width];
    call.reserve(&shape)?;
    call.reserve(&shape)?;
    let plane = height * width;
    let mut out = vec![0f32; RAY * STRIDE * groups * plane];
    for place in 0..groups * STRIDE {
        call.cx.check_cancelled()?;
        let frame = place.saturating_sub(STRIDE - 1);
        let part = frame as f64 / length as f64 * speed;
        let (sin, cos) = (part * ANGLE * turn).sin_cos();
        let (sin, cos) = (sin as f32, cos as f32);
        let origin = goal.map(|goal| (part * DISTANCE * goal) as f32);
        let (group, within) = (place / STRIDE, place % STRIDE);
        for y in 0..height {
            let down = (y as f32 + 0.5 - cy) / fy;
            for x in 0..width {
                let across = (x as f32 + 0.5 - cx) / fx;
                let norm = (across * across + down * down + 1.0).sqrt();
                let [across, down, ahead] = [across / norm, down / norm, 1.0 / norm];
                let ray = [across * cos - down * sin, across * sin + down * cos, ahead];
                let moment = [
                    origin[1] * ray[2] - origin[2] * ray[1],
                    origin[2] * ray[0] - origin[0] * ray[2],
                    origin[0] * ray[1] - origin[1] * ray[0],
                ];
                for (channel, value) in moment.into_iter().chain(ray).enumerate() {
                    out[((channel * STRIDE + within) * groups + group) * plane + y * width + x] = value;
                }
            }
        }
    }
    let embedding = CameraEmbedding(comfyd_engine::tensor(&shape, out)?);
    let sizes = [width, height, length].map(|side| Value::from(side as i64));
    Ok(NodeOutput::values([Value::object(embedding)].into_iter().chain(sizes)))
}

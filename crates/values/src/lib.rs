//! What travels along links between nodes and is of no engine: pictures, masks, latents, noise levels, vector pictures. Plain `f32` arrays
//! in CPU memory, as in ComfyUI, which keeps intermediate values there too.

mod arrays;
mod other;

pub use crate::arrays::{Image, Latent, Mask};
pub use crate::other::{LatentOperation, Sigmas, Svg};

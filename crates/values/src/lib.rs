//! What travels along links between nodes and is of no engine: pictures, masks, latents, sound, film, noise levels, vector pictures. Plain
//! `f32` arrays in CPU memory, as in ComfyUI, which keeps intermediate values there too; films may be files.

mod arrays;
mod media;
mod other;

pub use crate::arrays::{Image, Latent, Mask};
pub use crate::media::{Audio, FilmFile, Frames, Video};
pub use crate::other::{LatentOperation, Sigmas, Svg};

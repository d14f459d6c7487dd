//! The built-in nodes: models, conditioning, sampling, pictures, masks, latents, texts and plain values. This crate knows neither HTTP nor how a graph is ordered.
//!
//! # Adding a node
//!
//! 1. Choose the folder that bears the name of the node's menu (`image/`, `mask/`, `latent/`, `string/`, …) and in it the file of its
//!    family.
//! 2. Add a line to that file's `CLASSES`: `Class::new(|| Schema::new("ImageInvert").display("Invert Image Colors")…, invert)`. The schema must equal the reference's
//!    `/object_info` (a test compares every class); the descriptions and tooltips are our own words.
//! 3. Write the function: `fn invert(call: &mut Call<'_, '_>) -> Result<NodeOutput>`. It takes inputs from the call, computes with
//!    `comfyd_imaging`, and wraps the result. What it allocates it announces first with `call.reserve(shape)`, long
//!    loops call `call.cx.check_cancelled()`, and long work that cannot ask is done `apart`.
//! 4. A node whose input needs a look at the disk adds `.validate(…)`, one whose result depends on more than its inputs
//!    `.fingerprint(…)`.
//! 5. A new file goes into its folder's list of families (`families`).

mod apart;
mod audio;
mod class;
mod conditioning;
mod image;
mod latent;
mod loaders;
mod mask;
mod media;
mod model;
mod preview_3d;
mod preview_any;
mod primitive;
mod python;
mod replacements;
mod resize;
mod sampling;
mod saving;
mod services;
mod string;
mod tensors;
mod utilities;
mod video;

use std::sync::Arc;

use comfyd_node::{Node, Provider};

use crate::class::{Bound, Class};
pub use crate::replacements::replacements;
use crate::services::State;
pub use crate::services::{Limits, Services};
#[cfg(fuzzing)]
pub use crate::string::fuzz;

/// The built-in node classes.
pub struct Builtin {
    state: Arc<State>,
}

impl Builtin {
    /// The classes, working with these folders and limits.
    pub fn new(services: Services) -> Self {
        Self { state: Arc::new(State::new(services)) }
    }
}

impl Provider for Builtin {
    fn name(&self) -> &str {
        "built-in nodes"
    }

    fn nodes(&self) -> Vec<Arc<dyn Node>> {
        let classes = families().into_iter().flatten();
        classes.map(|class| Arc::new(Bound::new(*class, Arc::clone(&self.state))) as Arc<dyn Node>).collect()
    }
}

/// All classes, in the order in which clients see them.
fn families() -> Vec<&'static [Class]> {
    [
        loaders::families(),
        conditioning::families(),
        sampling::families(),
        model::families(),
        image::families(),
        mask::families(),
        latent::families(),
        audio::families(),
        video::families(),
        string::families(),
        utilities::families(),
        vec![primitive::CLASSES, preview_any::CLASSES, preview_3d::CLASSES],
    ]
    .concat()
}

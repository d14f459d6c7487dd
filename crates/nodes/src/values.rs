//! The objects that travel between these nodes: wrappers that give the array types of `comfyd_imaging` a link type.

use std::fmt;
use std::sync::Arc;

use comfyd_node::{NodeOutput, Opaque, Result};

/// Pictures on a link: `IMAGE`.
#[derive(Debug, Clone)]
pub struct Image(pub comfyd_imaging::Image);

/// Masks on a link: `MASK`.
#[derive(Debug, Clone)]
pub struct Mask(pub comfyd_imaging::Mask);

/// Latents on a link: `LATENT`.
#[derive(Debug, Clone)]
pub struct Latent(pub comfyd_imaging::Latent);

/// Vector pictures on a link, as the texts of SVG files: `SVG`.
#[derive(Debug, Clone)]
pub struct Svg(pub Vec<Arc<str>>);

type Samples = ndarray::ArcArray<f32, ndarray::IxDyn>;

type Operation = dyn Fn(&Samples) -> Result<Samples> + Send + Sync;

/// Something to do with the samples of a latent, handed on as a value: `LATENT_OPERATION`. The shape (B, C, H, W) stays.
#[derive(Clone)]
pub struct LatentOperation {
    name: &'static str,
    apply: Arc<Operation>,
}

impl LatentOperation {
    /// An operation with a name for people.
    pub fn new(name: &'static str, apply: impl Fn(&Samples) -> Result<Samples> + Send + Sync + 'static) -> Self {
        Self { name, apply: Arc::new(apply) }
    }

    /// Does it.
    pub fn apply(&self, samples: &Samples) -> Result<Samples> {
        (self.apply)(samples)
    }
}

impl fmt::Debug for LatentOperation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe())
    }
}

impl Opaque for Image {
    fn type_name(&self) -> &'static str {
        "IMAGE"
    }

    fn size_bytes(&self) -> usize {
        self.0.size_bytes()
    }

    fn describe(&self) -> String {
        let image = &self.0;
        format!("{} of {} x {} pixels, {} channels", counted(image.batch(), "image"), image.width(), image.height(), image.channels())
    }
}

impl Opaque for Mask {
    fn type_name(&self) -> &'static str {
        "MASK"
    }

    fn size_bytes(&self) -> usize {
        self.0.size_bytes()
    }

    fn describe(&self) -> String {
        format!("{} of {} x {} pixels", counted(self.0.batch(), "mask"), self.0.width(), self.0.height())
    }
}

impl Opaque for Latent {
    fn type_name(&self) -> &'static str {
        "LATENT"
    }

    fn size_bytes(&self) -> usize {
        self.0.size_bytes()
    }

    fn describe(&self) -> String {
        let axes: Vec<String> = self.0.samples.shape().iter().map(usize::to_string).collect();
        let mask = if self.0.noise_mask.is_some() { ", with a noise mask" } else { "" };
        format!("a latent of shape {}{mask}", axes.join(" x "))
    }
}

impl Opaque for Svg {
    fn type_name(&self) -> &'static str {
        "SVG"
    }

    fn size_bytes(&self) -> usize {
        self.0.iter().map(|svg| svg.len()).sum()
    }

    fn describe(&self) -> String {
        counted(self.0.len(), "vector picture")
    }
}

impl Opaque for LatentOperation {
    fn type_name(&self) -> &'static str {
        "LATENT_OPERATION"
    }

    fn size_bytes(&self) -> usize {
        0
    }

    fn describe(&self) -> String {
        format!("the latent operation '{}'", self.name)
    }
}

/// A node's one output, pictures.
pub(crate) fn image(image: comfyd_imaging::Image) -> Result<NodeOutput> {
    Ok(NodeOutput::one(Arc::new(Image(image))))
}

/// A node's one output, masks.
pub(crate) fn mask(mask: comfyd_imaging::Mask) -> Result<NodeOutput> {
    Ok(NodeOutput::one(Arc::new(Mask(mask))))
}

/// A node's one output, a latent.
pub(crate) fn latent(latent: comfyd_imaging::Latent) -> Result<NodeOutput> {
    Ok(NodeOutput::one(Arc::new(Latent(latent))))
}

/// A node's two outputs, pictures and masks.
pub(crate) fn image_and_mask(image: comfyd_imaging::Image, mask: comfyd_imaging::Mask) -> Result<NodeOutput> {
    Ok(NodeOutput::values([Arc::new(Image(image)).into(), Arc::new(Mask(mask)).into()]))
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

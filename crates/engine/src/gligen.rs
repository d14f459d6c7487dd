//! GLIGEN models on links, and the text boxes that conditions carry.

use std::fmt;
use std::sync::Arc;

use candle_core::Tensor;
use comfyd_models::Vb;
use comfyd_models::gligen::{self, GligenConfig, Grounded, TextBox};
use comfyd_node::Opaque;
use comfyd_weights::StateDict;

use crate::part::{Part, Weights};
use crate::precision::Precision;
use crate::{Engine, Result};

/// `GLIGEN`.
#[derive(Clone)]
pub struct Gligen {
    engine: Engine,
    config: Arc<GligenConfig>,
    weights: Weights,
}

/// A text and where it belongs, in cells of the latent.
#[derive(Debug, Clone)]
pub struct PlacedText {
    /// The pooled text without projection (1, D).
    pub text: Tensor,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// First row.
    pub y: usize,
    /// First column.
    pub x: usize,
}

/// What a condition carries: the model, and the texts in boxes.
#[derive(Debug)]
pub struct TextBoxes {
    /// The model.
    pub gligen: Gligen,
    /// The texts.
    pub texts: Vec<PlacedText>,
}

impl Gligen {
    pub(crate) fn new(engine: &Engine, weights: StateDict) -> Result<Self> {
        let config = Arc::new(GligenConfig::detect(&weights)?);
        let weights = Weights::new(Part::new(weights, engine.device().clone(), Precision::Stored));
        Ok(Self { engine: engine.clone(), config, weights })
    }

    fn model(&self) -> Result<Arc<gligen::Gligen>> {
        self.engine.residency().get(&[&self.weights], || Ok(gligen::Gligen::new(&self.config, &Vb::new(Arc::new(self.weights.clone())))?))
    }
}

impl TextBoxes {
    /// What steers a pass over latents with so many rows and columns.
    pub(crate) fn hooks(&self, rows: usize, columns: usize) -> Result<Grounded> {
        let model = self.gligen.model()?;
        let boxes: Vec<TextBox> = self
            .texts
            .iter()
            .map(|placed| {
                let across = |cell: usize| (cell as f64 / columns as f64) as f32;
                let down = |cell: usize| (cell as f64 / rows as f64) as f32;
                let PlacedText { height, width, y, x, .. } = *placed;
                TextBox { edges: [across(x), down(y), across(x + width), down(y + height)], text: placed.text.clone() }
            })
            .collect();
        let objects = model.objects(&boxes)?;
        Ok(Grounded::new(model, objects))
    }
}

impl fmt::Debug for Gligen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe())
    }
}

impl Opaque for Gligen {
    fn type_name(&self) -> &'static str {
        "GLIGEN"
    }

    fn size_bytes(&self) -> usize {
        0
    }

    fn describe(&self) -> String {
        format!("a GLIGEN model of {} parts", self.config.parts.len())
    }
}

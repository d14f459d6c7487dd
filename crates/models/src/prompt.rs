//! From a prompt's text to windows of weighted tokens: `(words:1.2)`, `embedding:name`, and what fits into the 77 tokens of a window.

use std::sync::Arc;

use comfyd_weights::StateDict;

use crate::Result;

/// One place of a window.
#[derive(Debug, Clone, PartialEq)]
pub enum Token {
    /// A word piece.
    Id(u32),
    /// A row of a textual inversion embedding.
    Embedding(Arc<[f32]>),
}

/// A token and its weight.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightedToken {
    /// What stands there.
    pub token: Token,
    /// 1: as it is.
    pub weight: f64,
    /// Number of the word from 1; 0 for the window's own tokens (start, end, padding).
    pub word: usize,
}

/// As many tokens as the model takes at once, beginning with the start token.
pub type Window = Vec<WeightedToken>;

/// Finds files of textual inversion embeddings.
pub trait Embeddings {
    /// The file of that name, with or without extension, as the prompt gives it; `None` if there is none.
    fn find(&self, name: &str) -> Result<Option<StateDict>>;
}

/// Knows no embedding.
pub struct NoEmbeddings;

impl Embeddings for NoEmbeddings {
    fn find(&self, _name: &str) -> Result<Option<StateDict>> {
        Ok(None)
    }
}

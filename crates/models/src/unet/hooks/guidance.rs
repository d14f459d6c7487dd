//! The UNet's part of guidance by self-attention: leaving it out (PAG) and looking at its scores (SAG). The guidance itself is the caller's.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{D, Tensor};

use crate::Result;
use crate::backbone::{BlockInfo, Hooks, Stage};

/// Perturbed-attention guidance (Ahn et al. 2024): each token of the middle attends to itself alone, so that its value is the result.
#[derive(Debug, Clone, Copy, Default)]
pub struct PerturbedAttention;

impl Hooks for PerturbedAttention {
    fn attn1(&mut self, _q: &Tensor, _k: &Tensor, v: &Tensor, at: &BlockInfo<'_>) -> Result<Option<Tensor>> {
        Ok((at.stage == Stage::Middle).then(|| v.clone()))
    }
}

/// Self-attention guidance (Hong et al. 2022): keeps the attention scores of the middle's first transformer block for the unconditional
/// chunk of the batch.
#[derive(Debug, Clone, Default)]
pub struct AttentionScores {
    scores: Arc<Mutex<Option<Tensor>>>,
}

impl AttentionScores {
    /// One that keeps nothing yet. Clones share what is kept.
    pub fn new() -> Self {
        Self::default()
    }

    /// The scores of the last pass that had an unconditional chunk: `(B · heads, N, N)`, each row adding up to 1.
    pub fn scores(&self) -> Option<Tensor> {
        self.scores.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Hooks for AttentionScores {
    fn attn1(&mut self, q: &Tensor, k: &Tensor, v: &Tensor, at: &BlockInfo<'_>) -> Result<Option<Tensor>> {
        if at.stage != Stage::Middle || at.transformer != 0 {
            return Ok(None);
        }
        let Some(chunk) = at.cond_or_uncond.iter().position(|kind| *kind == 1) else { return Ok(None) };
        let (b, n, inner) = q.dims3()?;
        let heads = at.heads;
        let split = |t: &Tensor| -> Result<Tensor> {
            let tokens = t.dim(1)?;
            Ok(t.reshape((b, tokens, heads, at.head_dim))?.transpose(1, 2)?.contiguous()?.reshape((b * heads, tokens, at.head_dim))?)
        };
        let scores = (split(q)?.matmul(&split(k)?.t()?)? * (1.0 / (at.head_dim as f64).sqrt()))?;
        let scores = candle_nn::ops::softmax(&scores, D::Minus1)?;
        let out = scores.matmul(&split(v)?)?.reshape((b, heads, n, at.head_dim))?.transpose(1, 2)?.contiguous()?.reshape((b, n, inner))?;
        let rows = heads * (b / at.cond_or_uncond.len());
        let kept = scores.narrow(0, rows * chunk, rows)?;
        *self.scores.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept);
        Ok(Some(out))
    }
}

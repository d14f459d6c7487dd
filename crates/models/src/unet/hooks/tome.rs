//! Token merging (Bolya and Hoffman 2023, "Token Merging for Fast Stable Diffusion"): similar tokens are joined before a self-attention at
//! the full size, and given the same result after it.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{D, Tensor};
use comfyd_kernels::random::Generator;

use crate::Result;
use crate::backbone::{AttentionInputs, BlockInfo, Hooks};

/// Side of the squares of which one token each is a destination.
const STRIDE: usize = 2;

/// Merges `ratio` of the tokens that a self-attention asks with.
#[derive(Debug, Clone)]
pub struct TokenMerging {
    ratio: f64,
    random: Arc<Mutex<Generator>>,
    unmerge: Option<Unmerge>,
}

/// For every token of every picture, the row of the merged ones that it gets back.
#[derive(Debug, Clone)]
struct Unmerge {
    rows: Tensor,
    batch: usize,
    tokens: usize,
}

impl TokenMerging {
    /// `ratio` from 0 to 1. `random` stands where torch's global generator stands in the reference: after the noise of the run.
    pub fn new(ratio: f64, random: Arc<Mutex<Generator>>) -> Self {
        Self { ratio, random, unmerge: None }
    }

    /// Destinations (one in each whole square) and sources (all others), both in the tokens' order.
    fn split(&self, height: usize, width: usize) -> (Vec<u32>, Vec<u32>) {
        let (rows, columns) = (height / STRIDE, width / STRIDE);
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        let chosen = random.randint(0, (STRIDE * STRIDE) as i64, rows * columns);
        let mut is_destination = vec![false; height * width];
        for (square, chosen) in chosen.iter().map(|chosen| *chosen as usize).enumerate() {
            let row = square / columns * STRIDE + chosen / STRIDE;
            let column = square % columns * STRIDE + chosen % STRIDE;
            is_destination[row * width + column] = true;
        }
        (0..(height * width) as u32).partition(|token| is_destination[*token as usize])
    }

    /// The merged tokens: first the sources left alone, most similar to a destination first, then the destinations.
    fn merge(&mut self, x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
        let (b, tokens, c) = x.dims3()?;
        let (destinations, sources) = self.split(height, width);
        let merged = ((tokens as f64 * self.ratio) as usize).min(sources.len());
        let device = x.device();
        let select = |ids: &[u32]| -> Result<Tensor> { Ok(x.index_select(&Tensor::new(ids, device)?, 1)?) };
        let (from, to) = (select(&sources)?, select(&destinations)?);
        let unit = |t: &Tensor| -> Result<Tensor> { Ok(t.broadcast_div(&t.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?)?) };
        let scores = unit(&from)?.matmul(&unit(&to)?.t()?)?;
        let best = scores.max(D::Minus1)?.to_vec2::<f32>()?;
        let partner = scores.argmax(D::Minus1)?.to_vec2::<u32>()?;

        let alone = sources.len() - merged;
        let out_rows = alone + destinations.len();
        let (mut alone_rows, mut merged_rows, mut target_rows) = (Vec::new(), Vec::new(), Vec::new());
        let mut counts = vec![1f32; b * destinations.len()];
        let mut back = vec![0u32; b * tokens];
        for picture in 0..b {
            let mut order: Vec<usize> = (0..sources.len()).collect();
            order.sort_by(|i, j| best[picture][*j].total_cmp(&best[picture][*i]));
            let first_row = picture * out_rows;
            for (rank, &source) in order.iter().enumerate() {
                let token = picture * tokens + sources[source] as usize;
                let row = (picture * sources.len() + source) as u32;
                if rank < merged {
                    let target = partner[picture][source] as usize;
                    merged_rows.push(row);
                    target_rows.push((picture * destinations.len() + target) as u32);
                    counts[picture * destinations.len() + target] += 1.0;
                    back[token] = (first_row + alone + target) as u32;
                } else {
                    alone_rows.push(row);
                    back[token] = (first_row + rank - merged) as u32;
                }
            }
            for (target, token) in destinations.iter().enumerate() {
                back[picture * tokens + *token as usize] = (first_row + alone + target) as u32;
            }
        }

        let from = from.reshape((b * sources.len(), c))?;
        let mut to = to.reshape((b * destinations.len(), c))?;
        if merged > 0 {
            let moved = from.index_select(&Tensor::new(merged_rows, device)?, 0)?;
            to = to.index_add(&Tensor::new(target_rows, device)?, &moved, 0)?;
        }
        let to = to.broadcast_div(&Tensor::from_vec(counts, (b * destinations.len(), 1), device)?)?.reshape((b, destinations.len(), c))?;
        self.unmerge = Some(Unmerge { rows: Tensor::new(back, device)?, batch: b, tokens });
        if alone == 0 {
            return Ok(to);
        }
        let left = from.index_select(&Tensor::new(alone_rows, device)?, 0)?.reshape((b, alone, c))?;
        Ok(Tensor::cat(&[&left, &to], 1)?)
    }
}

impl Hooks for TokenMerging {
    fn attn1_inputs(&mut self, mut inputs: AttentionInputs, at: &BlockInfo<'_>) -> Result<AttentionInputs> {
        let [_, _, height, width] = at.latent;
        let tokens = inputs.query.dim(1)?;
        if tokens == height * width && height > 1 && width > 1 && (tokens as f64 * self.ratio) as usize > 0 {
            inputs.query = self.merge(&inputs.query, height, width)?;
        }
        Ok(inputs)
    }

    fn attn1_output(&mut self, out: Tensor, _at: &BlockInfo<'_>) -> Result<Tensor> {
        let Some(Unmerge { rows, batch, tokens }) = self.unmerge.take() else { return Ok(out) };
        let (b, merged, c) = out.dims3()?;
        Ok(out.contiguous()?.reshape((b * merged, c))?.index_select(&rows, 0)?.reshape((batch, tokens, c))?)
    }
}

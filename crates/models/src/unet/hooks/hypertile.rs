//! HyperTile (tfernd): self-attention inside tiles of a random grid instead of over the whole picture.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::Tensor;
use comfyd_kernels::random::Generator;

use crate::Result;
use crate::backbone::{AttentionInputs, BlockInfo, Hooks};

/// HyperTile with the reference's options. As there, only queries are put into the tiles' order; keys and values are cut in the order in
/// which they lie.
#[derive(Debug, Clone)]
pub struct HyperTile {
    min_tile: usize,
    swap_size: usize,
    max_depth: u32,
    scale_depth: bool,
    random: Arc<Mutex<Generator>>,
    grid: Option<Grid>,
}

/// Tiles down and across, and the tokens' height and width.
#[derive(Debug, Clone, Copy)]
struct Grid {
    nh: usize,
    nw: usize,
    h: usize,
    w: usize,
}

impl HyperTile {
    /// `min_tile` in cells of the latent; the grid is chosen among the `swap_size` finest ones; attentions down to the size halved
    /// `max_depth` times are tiled, with tiles that grow with the depth if `scale_depth`. `random` stands where torch's global generator
    /// stands in the reference: after the noise of the run.
    pub fn new(min_tile: usize, swap_size: usize, max_depth: u32, scale_depth: bool, random: Arc<Mutex<Generator>>) -> Self {
        Self { min_tile, swap_size, max_depth: max_depth.min(16), scale_depth, random, grid: None }
    }

    /// How many parts of at least `least` tokens `value` is cut into: one of the first `swap_size` choices, never the last of them.
    fn parts(&self, value: usize, least: usize) -> usize {
        let divisors = (least.min(value).max(1)..=value).filter(|part| value.is_multiple_of(*part));
        let counts: Vec<usize> = divisors.take(self.swap_size).map(|part| value / part).collect();
        let choice = match counts.len() {
            0 | 1 => 0,
            n => self.random.lock().unwrap_or_else(PoisonError::into_inner).randint(0, n as i64 - 1, 1)[0] as usize,
        };
        counts.get(choice).copied().unwrap_or(1)
    }
}

impl Hooks for HyperTile {
    fn attn1_inputs(&mut self, mut inputs: AttentionInputs, at: &BlockInfo<'_>) -> Result<AttentionInputs> {
        let (b, tokens, c) = inputs.query.dims3()?;
        let [_, _, height, width] = at.latent.map(|axis| axis as f64);
        let size_at = |depth: u32| (height / f64::from(1u32 << depth)) * (width / f64::from(1u32 << depth));
        let Some(depth) = (0..=self.max_depth).find(|depth| size_at(*depth) == tokens as f64) else { return Ok(inputs) };

        // The reference takes the long axis for the height; so the tiles come out.
        let aspect = width / height;
        let h = (tokens as f64 * aspect).sqrt().round_ties_even() as usize;
        let w = (tokens as f64 / aspect).sqrt().round_ties_even() as usize;
        let least = self.min_tile << if self.scale_depth { depth } else { 0 };
        let (nh, nw) = (self.parts(h, least), self.parts(w, least));
        if nh * nw > 1 && h * w == tokens {
            let tiles = inputs.query.reshape(vec![b, nh, h / nh, nw, w / nw, c])?.permute(vec![0, 1, 3, 2, 4, 5])?;
            inputs.query = tiles.contiguous()?.reshape((b * nh * nw, tokens / (nh * nw), c))?;
            self.grid = Some(Grid { nh, nw, h, w });
        }
        Ok(inputs)
    }

    fn attn1_output(&mut self, out: Tensor, _at: &BlockInfo<'_>) -> Result<Tensor> {
        let Some(Grid { nh, nw, h, w }) = self.grid.take() else { return Ok(out) };
        let (tiles, _, c) = out.dims3()?;
        let b = tiles / (nh * nw);
        let rows = out.reshape(vec![b, nh, nw, h / nh, w / nw, c])?.permute(vec![0, 1, 3, 2, 4, 5])?;
        Ok(rows.contiguous()?.reshape((b, h * w, c))?)
    }
}

//! Noise that belongs to a path: a Brownian motion over the noise levels, so that steps of any length between the same levels add up to the
//! same noise (torchsde's `BrownianTree`, k-diffusion's `BrownianTreeNoiseSampler`). Knows no sampler.

use candle_core::{Device, Shape, Tensor};
use comfyd_kernels::random::Generator;

use super::{NoiseSource, randn, seed_sequence};
use crate::math::{divide, scale};
use crate::{Error, Result};

/// torchsde's pool of entropy for a tree, in words.
const POOL_SIZE: usize = 24;
/// The path is resolved to six decimals, so no interval is halved more often than its width allows.
const MAX_DEPTH: u32 = 100;

/// A Brownian motion between two noise levels, made on the CPU.
#[derive(Debug)]
pub struct BrownianTree {
    entropy: u64,
    start: f64,
    end: f64,
    /// The motion from `start` to `end`, on the CPU.
    whole: Tensor,
    device: Device,
}

/// A node of the tree: an interval, and where it stands.
#[derive(Debug, Clone, Copy)]
struct Interval {
    start: f64,
    end: f64,
    key: u128,
    depth: u32,
}

impl BrownianTree {
    /// The motion between these noise levels for noise of the shape of `x` and on its device.
    pub fn new(x: &Tensor, sigma_min: f32, sigma_max: f32, seed: u64) -> Result<Self> {
        let (low, high) = (f64::from(sigma_min.min(sigma_max)), f64::from(sigma_min.max(sigma_max)));
        if !(low.is_finite() && high.is_finite()) {
            return Err(Error::msg("noise levels must be finite for noise along a path; check the sigmas"));
        }
        let root = seed_sequence::words(seed, &[], POOL_SIZE, 1);
        let whole = scale(&seeded_randn(root[0], x.shape())?, (high - low).sqrt() as f32)?;
        Ok(Self { entropy: seed, start: round(low), end: round(high), whole, device: x.device().clone() })
    }

    /// The motion's increment from `low` to `high`, which lie in the interval and are rounded to the tree's resolution.
    fn increment(&self, low: f64, high: f64) -> Result<Tensor> {
        let (low, high) = (low.clamp(self.start, self.end), high.clamp(self.start, self.end));
        if low == high {
            return Ok(self.whole.zeros_like()?);
        }
        let mut parts = Vec::new();
        let root = Interval { start: self.start, end: self.end, key: 0, depth: 0 };
        self.collect(root, self.whole.clone(), round(low), round(high), &mut parts)?;
        let mut parts = parts.into_iter();
        let mut total = parts.next().map_or_else(|| self.whole.zeros_like(), Ok)?;
        for part in parts {
            total = (total + part)?;
        }
        Ok(total)
    }

    /// The increments over the largest nodes that make up `low` to `high`, in ascending order; `w` is this node's.
    fn collect(&self, node: Interval, w: Tensor, low: f64, high: f64, parts: &mut Vec<Tensor>) -> Result<()> {
        if (low == node.start && high == node.end) || node.depth >= MAX_DEPTH {
            parts.push(w);
            return Ok(());
        }
        if low >= high {
            return Ok(());
        }
        let middle = round(0.5 * (node.end + node.start));
        let (left_w, right_w) = self.halves(node, middle, &w)?;
        let depth = node.depth + 1;
        let left = Interval { start: node.start, end: middle, key: 2 * node.key, depth };
        let right = Interval { start: middle, end: node.end, key: 2 * node.key + 1, depth };
        if high <= middle {
            return self.collect(left, left_w, low, high, parts);
        }
        if low >= middle {
            return self.collect(right, right_w, low, high, parts);
        }
        self.collect(left, left_w, low, middle, parts)?;
        self.collect(right, right_w, middle, high, parts)
    }

    /// A node's increment split at `middle`: a Brownian bridge, whose noise is seeded by the node's place in the tree.
    fn halves(&self, node: Interval, middle: f64, w: &Tensor) -> Result<(Tensor, Tensor)> {
        let reciprocal = 1.0 / (node.end - node.start);
        let (left, right) = (middle - node.start, node.end - middle);
        let seed = seed_sequence::words(self.entropy, &[node.key, u128::from(node.depth)], POOL_SIZE, 1)[0];
        let noise = seeded_randn(seed, w.shape())?;
        let mean = scale(&scale(w, left as f32)?, reciprocal as f32)?;
        let left_w = (mean + scale(&noise, (left * right * reciprocal).sqrt() as f32)?)?;
        let right_w = (w - &left_w)?;
        Ok((left_w, right_w))
    }
}

impl NoiseSource for BrownianTree {
    fn noise(&mut self, sigma: f32, sigma_next: f32) -> Result<Tensor> {
        let (low, high) = (f64::from(sigma.min(sigma_next)), f64::from(sigma.max(sigma_next)));
        let sign = if sigma < sigma_next { 1.0 } else { -1.0 };
        let increment = scale(&self.increment(low, high)?, sign)?;
        let noise = divide(&increment, (sigma_next - sigma).abs().sqrt())?;
        Ok(noise.to_device(&self.device)?)
    }
}

fn seeded_randn(seed: u32, shape: &Shape) -> Result<Tensor> {
    randn(&mut Generator::new(u64::from(seed)), shape, &Device::Cpu)
}

/// Rounds to six decimals as Python does: to the nearest decimal number, ties to even, exactly.
fn round(x: f64) -> f64 {
    const SCALE: f64 = 1e6;
    let product = x * SCALE;
    // The product's rounding error, so that numbers next to a tie fall on their side.
    let error = x.mul_add(SCALE, -product);
    let whole = product.floor();
    let above_tie = product - whole - 0.5;
    let up = if above_tie == -error { whole % 2.0 != 0.0 } else { above_tie > -error };
    (if up { whole + 1.0 } else { whole }) / SCALE
}

//! Kwon et al. (2025), tangential damping.

use candle_core::Tensor;

use super::contract::{Call, ModelPatch};
use crate::Result;
use crate::array::total;

/// TCFG.
#[derive(Debug, Clone, Copy)]
pub struct TangentialDamping;

impl ModelPatch for TangentialDamping {
    fn before(&mut self, call: &Call<'_>, predictions: &mut [Tensor]) -> Result<()> {
        if call.has_uncond {
            let damped = damped(&(call.x - &predictions[0])?, &(call.x - &predictions[1])?)?;
            predictions[1] = (call.x - damped)?;
        }
        Ok(())
    }
}

/// What of the score without the prompt lies along the first right singular vector of both scores.
fn damped(cond: &Tensor, uncond: &Tensor) -> Result<Tensor> {
    let dot = |a: &Tensor, b: &Tensor| -> Result<Vec<f32>> { Ok(total(&(a * b)?)?.flatten_all()?.to_vec1()?) };
    let (uu, uc, cc) = (dot(uncond, uncond)?, dot(uncond, cond)?, dot(cond, cond)?);
    let batch = uu.len();
    let mut parts = Vec::with_capacity(batch);
    for i in 0..batch {
        // The singular vector of the two rows from the eigenvector of their 2 x 2 Gram matrix.
        let (a, b, d) = (f64::from(uu[i]), f64::from(uc[i]), f64::from(cc[i]));
        let largest = (a + d) / 2.0 + (((a - d) / 2.0).powi(2) + b * b).sqrt();
        let (p, q) = if b.abs() > 1e-30 {
            (b, largest - a)
        } else if a >= d {
            (1.0, 0.0)
        } else {
            (0.0, 1.0)
        };
        let (u, c) = (uncond.narrow(0, i, 1)?, cond.narrow(0, i, 1)?);
        let vector = ((&u * p)? + (c * q)?)?;
        let length = f64::from(vector.sqr()?.sum_all()?.to_scalar::<f32>()?).sqrt().max(1e-30);
        let vector = (vector / length)?;
        let along = f64::from((&u * &vector)?.sum_all()?.to_scalar::<f32>()?);
        parts.push((vector * along)?);
    }
    Ok(Tensor::cat(&parts, 0)?)
}

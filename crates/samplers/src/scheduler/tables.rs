//! Schedulers that are published tables, interpolated for other numbers of steps. Knows no schedule.

use super::check_steps;
use crate::math::linspace_f64;
use crate::{Error, Result};

/// The model types that [`align_your_steps`] has tables for.
pub const AYS_MODEL_TYPES: [&str; 3] = ["SD1", "SDXL", "SVD"];

const AYS_SD1: [f64; 11] = [
    14.6146412293,
    6.4745760956,
    3.8636745985,
    2.6946151520,
    1.8841921177,
    1.3943805092,
    0.9642583904,
    0.6523686016,
    0.3977456272,
    0.1515232662,
    0.0291671582,
];
const AYS_SDXL: [f64; 11] = [
    14.6146412293,
    6.3184485287,
    3.7681790315,
    2.1811480769,
    1.3405244945,
    0.8620721141,
    0.5550693289,
    0.3798540708,
    0.2332364134,
    0.1114188177,
    0.0291671582,
];
const AYS_SVD: [f64; 11] = [700.00, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002];

/// The optimised noise levels of Align Your Steps (Sabour et al. 2024) for a kind of model; see [`AYS_MODEL_TYPES`]. Below a denoise of 1
/// only that part of the steps is kept, at the end; at 0 none.
pub fn align_your_steps(model_type: &str, steps: usize, denoise: f64) -> Result<Vec<f32>> {
    let table = match model_type {
        "SD1" => AYS_SD1,
        "SDXL" => AYS_SDXL,
        "SVD" => AYS_SVD,
        _ => {
            let known = AYS_MODEL_TYPES.join(", ");
            return Err(Error::msg(format!("Align Your Steps has no noise levels for '{model_type}'; choose one of {known}")));
        }
    };
    last_steps(&table, steps, denoise)
}

/// The table for so many steps, of which the last ones are kept as denoise says.
fn last_steps(table: &[f64], steps: usize, denoise: f64) -> Result<Vec<f32>> {
    check_steps(steps)?;
    if denoise <= 0.0 {
        return Ok(Vec::new());
    }
    let kept = if denoise < 1.0 { (steps as f64 * denoise).round_ties_even() as usize } else { steps };
    let levels = if table.len() == steps + 1 { table.to_vec() } else { loglinear(table, steps + 1) };
    let mut sigmas: Vec<f32> = levels[levels.len() - (kept + 1)..].iter().map(|sigma| *sigma as f32).collect();
    if let Some(last) = sigmas.last_mut() {
        *last = 0.0;
    }
    Ok(sigmas)
}

/// `n` numbers on the curve through the table's, linear in logarithms.
fn loglinear(table: &[f64], n: usize) -> Vec<f64> {
    let last = table.len() - 1;
    let logs: Vec<f64> = table.iter().rev().map(|sigma| sigma.ln()).collect();
    let knots = linspace_f64(0.0, 1.0, table.len());
    let mut values: Vec<f64> = linspace_f64(0.0, 1.0, n)
        .into_iter()
        .map(|x| {
            let above = knots.partition_point(|knot| *knot <= x);
            if above > last {
                return logs[last].exp();
            }
            let low = above.max(1) - 1;
            let slope = (logs[low + 1] - logs[low]) / (knots[low + 1] - knots[low]);
            (slope * (x - knots[low]) + logs[low]).exp()
        })
        .collect();
    values.reverse();
    values
}

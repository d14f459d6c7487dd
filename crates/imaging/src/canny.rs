//! Canny edges (Canny 1986), with the choices that kornia makes: a 5x5 Gaussian of sigma 1, unnormalised Sobel, and OpenCV's rule for
//! neighbours that are equal.

use crate::filter::reflect;

use crate::{Error, Result};
use comfyd_values::Image;
use ndarray::{Array4, Axis};

/// Added under the root of the magnitude.
const EPSILON: f32 = 1e-6;
/// (dy, dx) of the neighbours, from the right onwards in steps of 45 degrees downwards.
const DIRECTIONS: [(isize, isize); 8] = [(0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1)];

/// White edges on black, as RGB. Edges stronger than `high` are kept, and those stronger than `low` that touch a kept one.
///
/// # Errors
/// If the picture has neither one nor three channels, is smaller than 3x3, or the thresholds are not 0 < low <= high.
pub fn canny(image: &Image, low: f32, high: f32) -> Result<Image> {
    let (batch, height, width, channels) = image.0.dim();
    if channels != 1 && channels != 3 {
        return Err(Error::Shape(format!("edges are found in pictures with 1 or 3 channels, this one has {channels}: remove its alpha")));
    }
    if height < 3 || width < 3 {
        return Err(Error::Shape(format!("edges are found in pictures of at least 3x3 pixels, this one has {width}x{height}")));
    }
    if low.is_nan() || high.is_nan() || low <= 0.0 || low > high {
        return Err(Error::Parameter(format!("the thresholds must be 0 < low <= high, not {low} and {high}")));
    }
    let mut out = Array4::zeros((batch, height, width, 3));
    for (picture, mut out) in image.0.outer_iter().zip(out.outer_iter_mut()) {
        let grey: Vec<f32> = picture.lanes(Axis(2)).into_iter().map(|pixel| grey(&pixel)).collect();
        let edges = edges(&grey, height, width, low, high);
        for (mut pixel, edge) in out.lanes_mut(Axis(2)).into_iter().zip(edges) {
            pixel.fill(if edge { 1.0 } else { 0.0 });
        }
    }
    Ok(Image::new(out))
}

fn grey(pixel: &ndarray::ArrayView1<f32>) -> f32 {
    match pixel.len() {
        3 => pixel[2].mul_add(0.114, pixel[1].mul_add(0.587, pixel[0] * 0.299)),
        _ => pixel[0],
    }
}

fn edges(grey: &[f32], height: usize, width: usize, low: f32, high: f32) -> Vec<bool> {
    let raw = [-2.0_f32, -1.0, 0.0, 1.0, 2.0].map(|x| (-x * x / 2.0).exp());
    let sum: f32 = raw.iter().sum();
    let weights = raw.map(|weight| weight / sum);
    let blurred = blur(grey, height, width, &weights);

    // Outside the picture there is no gradient, but the magnitude is that of a flat pixel.
    let padded_width = width + 2;
    let flat = EPSILON.sqrt();
    let mut magnitude = vec![flat; padded_width * (height + 2)];
    let mut direction = vec![0u8; grey.len()];
    for y in 0..height {
        for x in 0..width {
            let (gx, gy) = sobel(&blurred, height, width, y, x);
            magnitude[(y + 1) * padded_width + x + 1] = (gx * gx + gy * gy + EPSILON).sqrt();
            let octant = (gy.atan2(gx) * (4.0 / std::f32::consts::PI)).round_ties_even();
            direction[y * width + x] = (octant as i32).rem_euclid(8) as u8;
        }
    }

    let mut strength = vec![0.0; grey.len()];
    for y in 0..height {
        for x in 0..width {
            let at = (y + 1) * padded_width + x + 1;
            let own = magnitude[at];
            let forward = usize::from(direction[y * width + x]);
            let largest = [forward, (forward + 4) % 8].into_iter().all(|k| {
                let (dy, dx) = DIRECTIONS[k];
                let neighbour = magnitude[at.wrapping_add_signed(dy * padded_width as isize + dx)];
                // Of two equal pixels the left or the upper one is the edge.
                own > neighbour || (matches!(k, 0 | 2) && own == neighbour)
            });
            if largest && own > flat {
                strength[y * width + x] = own;
            }
        }
    }
    trace(&strength, height, width, low, high)
}

/// Blurs along the rows, then along the columns, with reflected borders. Products and sums are fused as torch fuses them: on smooth
/// slopes neighbouring magnitudes are equal but for the last bit, and that bit decides where the edge is.
fn blur(values: &[f32], height: usize, width: usize, weights: &[f32; 5]) -> Vec<f32> {
    let along = |values: &[f32], length: usize, stride: usize, position: usize, at: usize| {
        let start = at - position * stride;
        let value = |tap: usize| values[start + reflect(position + tap, 2, length) * stride];
        (1..5).fold(value(0) * weights[0], |sum, tap| value(tap).mul_add(weights[tap], sum))
    };
    let rows: Vec<f32> = (0..values.len()).map(|at| along(values, width, 1, at % width, at)).collect();
    (0..rows.len()).map(|at| along(&rows, height, width, at / width, at)).collect()
}

/// Unnormalised Sobel gradient (x, y); the border is repeated.
fn sobel(values: &[f32], height: usize, width: usize, y: usize, x: usize) -> (f32, f32) {
    let (above, below) = (y.saturating_sub(1), (y + 1).min(height - 1));
    let (left, right) = (x.saturating_sub(1), (x + 1).min(width - 1));
    let at = |y: usize, x: usize| values[y * width + x];
    // Summed row by row, as a convolution sums.
    let gx = -at(above, left) + at(above, right) - 2.0 * at(y, left) + 2.0 * at(y, right) - at(below, left) + at(below, right);
    let gy = -at(above, left) - 2.0 * at(above, x) - at(above, right) + at(below, left) + 2.0 * at(below, x) + at(below, right);
    (gx, gy)
}

/// Follows the edges from the strong pixels through the weak ones.
fn trace(strength: &[f32], height: usize, width: usize, low: f32, high: f32) -> Vec<bool> {
    let mut edge: Vec<bool> = strength.iter().map(|&value| value > high).collect();
    let mut open: Vec<usize> = (0..edge.len()).filter(|&at| edge[at]).collect();
    while let Some(at) = open.pop() {
        let (y, x) = (at / width, at % width);
        for (dy, dx) in DIRECTIONS {
            let (Some(y), Some(x)) = (y.checked_add_signed(dy), x.checked_add_signed(dx)) else { continue };
            let next = y * width + x;
            if y < height && x < width && !edge[next] && strength[next] > low {
                edge[next] = true;
                open.push(next);
            }
        }
    }
    edge
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    // x = torch.zeros(1, 3, 8, 8); x[:, :, 2:7, 3:] = 1; x[:, :, :, 5:] *= 0.6
    // kornia.filters.canny(x, 0.4, 0.8)[1][0, 0].int().tolist()
    #[rustfmt::skip]
    const EDGES: [[u8; 8]; 8] = [
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 1, 1, 1, 1, 1],
        [0, 0, 1, 0, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 1, 0, 0],
        [0, 0, 1, 0, 0, 1, 0, 0],
        [0, 0, 1, 1, 1, 1, 1, 1],
        [0, 0, 1, 0, 0, 0, 0, 0],
    ];

    #[test]
    fn edges_equal_kornias() {
        let image = Image::new(Array4::from_shape_fn((1, 8, 8, 3), |(_, y, x, _)| match ((2..7).contains(&y), x) {
            (true, 3..5) => 1.0,
            (true, 5..) => 0.6,
            (true, _) | (false, _) => 0.0,
        }));
        let found = canny(&image, 0.4, 0.8).unwrap();
        for (y, row) in EDGES.iter().enumerate() {
            let actual: Vec<u8> = (0..8).map(|x| found.0[[0, y, x, 2]] as u8).collect();
            assert_eq!(actual, row, "row {y}");
        }
    }

    #[test]
    fn unusable_input_is_an_error() {
        let image = Image::solid(1, 8, 8, 0);
        assert!(canny(&image, 0.5, 0.4).is_err());
        assert!(canny(&image, 0.0, 0.4).is_err());
        assert!(canny(&Image::solid(1, 2, 8, 0), 0.1, 0.4).is_err());
        assert!(canny(&Image::new(Array4::zeros((1, 8, 8, 4))), 0.1, 0.4).is_err());
    }
}

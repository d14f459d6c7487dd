//! Grey morphology with a square kernel, as ComfyUI's ImageMorphology does with kornia: what lies outside the picture does not count.

use crate::{Error, Result};
use comfyd_values::Image;
use ndarray::{ArrayD, ArrayViewD, Axis};
use std::collections::VecDeque;

/// What to do with a picture's bright and dark areas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// The minimum under the kernel.
    Erode,
    /// The maximum under the kernel.
    Dilate,
    /// Erode, then dilate: removes bright specks.
    Open,
    /// Dilate, then erode: removes dark specks.
    Close,
    /// Dilated minus eroded: edges.
    Gradient,
    /// Closed minus the picture: dark specks.
    BottomHat,
    /// The picture minus opened: bright specks.
    TopHat,
}

impl std::str::FromStr for Operation {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Ok(match name {
            "erode" => Self::Erode,
            "dilate" => Self::Dilate,
            "open" => Self::Open,
            "close" => Self::Close,
            "gradient" => Self::Gradient,
            "bottom_hat" => Self::BottomHat,
            "top_hat" => Self::TopHat,
            _ => {
                return Err(Error::Parameter(format!(
                    "{name:?} is no morphology: use erode, dilate, open, close, gradient, bottom_hat or top_hat"
                )));
            }
        })
    }
}

/// Applies an operation with a kernel of `kernel_size` pixels squared.
///
/// # Errors
/// If the kernel has no pixels.
pub fn apply(image: &Image, operation: Operation, kernel_size: usize) -> Result<Image> {
    if kernel_size == 0 {
        return Err(Error::Parameter("the kernel of a morphology must have at least one pixel".into()));
    }
    let dilate = |image: &Image| extremum(image, kernel_size, Extremum::Max);
    let erode = |image: &Image| extremum(image, kernel_size, Extremum::Min);
    let minus = |a: Image, b: &Image| Image((a.0.to_owned() - &b.0).into_shared());
    Ok(match operation {
        Operation::Erode => erode(image),
        Operation::Dilate => dilate(image),
        Operation::Open => dilate(&erode(image)),
        Operation::Close => erode(&dilate(image)),
        Operation::Gradient => minus(dilate(image), &erode(image)),
        Operation::BottomHat => minus(erode(&dilate(image)), image),
        Operation::TopHat => minus(image.clone(), &dilate(&erode(image))),
    })
}

/// Largest or smallest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extremum {
    Max,
    Min,
}

impl Extremum {
    pub(crate) fn of(self, a: f32, b: f32) -> f32 {
        match self {
            Self::Max => a.max(b),
            Self::Min => a.min(b),
        }
    }

    fn replaces(self, new: f32, old: f32) -> bool {
        match self {
            Self::Max => new >= old,
            Self::Min => new <= old,
        }
    }
}

fn extremum(image: &Image, kernel_size: usize, extremum: Extremum) -> Image {
    // kornia's origin: the larger half of an even kernel lies before the pixel when eroding, behind it when dilating.
    let (before, after) = match extremum {
        Extremum::Max => (kernel_size - 1 - kernel_size / 2, kernel_size / 2),
        Extremum::Min => (kernel_size / 2, kernel_size - 1 - kernel_size / 2),
    };
    let across = running(image.0.view().into_dyn(), Axis(2), before, after, extremum);
    let both = running(across.view(), Axis(1), before, after, extremum);
    match both.into_dimensionality() {
        Ok(array) => Image::new(array),
        // Running extrema keep the number of axes.
        Err(_) => image.clone(),
    }
}

/// The extremum over each position, `before` positions before it and `after` after it, along one axis; positions outside do not count.
/// Takes the same time for every window (a queue of candidates, Lemire 2006).
pub(crate) fn running(array: ArrayViewD<f32>, axis: Axis, before: usize, after: usize, extremum: Extremum) -> ArrayD<f32> {
    let mut out = ArrayD::zeros(array.raw_dim());
    let mut candidates: VecDeque<(usize, f32)> = VecDeque::new();
    for (source, mut target) in array.lanes(axis).into_iter().zip(out.lanes_mut(axis)) {
        candidates.clear();
        let length = source.len();
        let mut entered = 0;
        for position in 0..length {
            while entered < length && entered <= position + after {
                let value = source[entered];
                while candidates.back().is_some_and(|&(_, old)| extremum.replaces(value, old)) {
                    candidates.pop_back();
                }
                candidates.push_back((entered, value));
                entered += 1;
            }
            while candidates.front().is_some_and(|&(index, _)| index + before < position) {
                candidates.pop_front();
            }
            target[position] = candidates.front().map_or(source[position], |&(_, value)| value);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;
    use ndarray::Array4;

    fn row(values: &[f32]) -> Image {
        Image::new(Array4::from_shape_vec((1, 1, values.len(), 1), values.to_vec()).unwrap())
    }

    fn applied(image: &Image, operation: &str, kernel_size: usize) -> Vec<f32> {
        apply(image, operation.parse().unwrap(), kernel_size).unwrap().0.iter().copied().collect()
    }

    // x = torch.zeros(1, 1, 1, 9); x[..., 4] = 1
    // for k in (2, 3, 4): dilation(x, torch.ones(k, k)), erosion(1 - x, torch.ones(k, k))
    #[test]
    fn kernels_of_even_size_lie_as_kornias() {
        let spot = row(&[0., 0., 0., 0., 1., 0., 0., 0., 0.]);
        let hole = row(&[1., 1., 1., 1., 0., 1., 1., 1., 1.]);
        assert_eq!(applied(&spot, "dilate", 2), [0., 0., 0., 1., 1., 0., 0., 0., 0.]);
        assert_eq!(applied(&hole, "erode", 2), [1., 1., 1., 1., 0., 0., 1., 1., 1.]);
        assert_eq!(applied(&spot, "dilate", 3), [0., 0., 0., 1., 1., 1., 0., 0., 0.]);
        assert_eq!(applied(&spot, "dilate", 4), [0., 0., 1., 1., 1., 1., 0., 0., 0.]);
        assert_eq!(applied(&hole, "erode", 4), [1., 1., 1., 0., 0., 0., 0., 1., 1.]);
    }

    #[test]
    fn composed_operations() {
        let spot = row(&[0., 0., 0., 0., 1., 0., 0., 0., 0.]);
        assert_eq!(applied(&spot, "open", 3), [0.; 9]);
        assert_eq!(applied(&spot, "close", 3), [0., 0., 0., 0., 1., 0., 0., 0., 0.]);
        assert_eq!(applied(&spot, "top_hat", 3), [0., 0., 0., 0., 1., 0., 0., 0., 0.]);
        assert_eq!(applied(&spot, "bottom_hat", 3), [0.; 9]);
        assert_eq!(applied(&spot, "gradient", 3), [0., 0., 0., 1., 1., 1., 0., 0., 0.]);
        assert!(apply(&spot, Operation::Erode, 0).is_err());
    }

    #[test]
    fn running_extrema_equal_the_naive_ones() {
        let image = Image::new(Array4::from_shape_fn((2, 7, 9, 3), |(b, y, x, c)| ((b * 31 + y * 17 + x * 7 + c * 5) % 23) as f32));
        for (before, after) in [(0, 0), (1, 3), (4, 2), (99, 99)] {
            let out = running(image.0.view().into_dyn(), Axis(2), before, after, Extremum::Max);
            for ((b, y, x, c), _) in image.0.indexed_iter() {
                let window = x.saturating_sub(before)..(x + after + 1).min(9);
                let expected = window.map(|x| image.0[[b, y, x, c]]).fold(f32::MIN, f32::max);
                assert_eq!(out[[b, y, x, c]], expected);
            }
        }
    }
}

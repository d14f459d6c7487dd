//! Colours of one picture brought to another: by mean and spread or by covariance in CIE Lab (Reinhard et al. 2001; Pitié and Kokaram 2007,
//! the Monge-Kantorovitch solution), or by histograms.

use comfyd_values::Image;
use ndarray::{ArcArray, ArrayView3, Axis, Ix4};

use crate::{Error, Result};

/// How colours are matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Mean and spread of each axis of CIE Lab.
    Reinhard,
    /// Mean and covariance in CIE Lab.
    Covariance,
    /// Histograms of each channel.
    Histogram,
}

/// What stands for the pictures that are changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Each picture for itself, with the reference of the same place, or the last one.
    Each,
    /// All of them.
    All,
    /// One of them, or the last one.
    One(usize),
}

const LEVELS: usize = 256;
const LEAST_SPREAD: f64 = 1e-6;

type Lab = [f32; 3];

/// Colours of pictures in CIE Lab: their mean and their covariance.
#[derive(Debug, Clone, Copy)]
struct Statistics {
    mean: [f64; 3],
    covariance: [[f64; 3]; 3],
}

/// From each level of a channel to the one that takes its place.
type Table = Vec<[f32; LEVELS]>;

#[derive(Debug, Clone)]
enum Change {
    /// `matrix * lab + offset`.
    Affine([[f64; 3]; 3], [f64; 3]),
    Table(Table),
}

/// A change of colours.
pub struct Transfer {
    reference: Image,
    method: Method,
    /// The same for all pictures; `None`: each has its own.
    change: Option<Change>,
    /// Of the reference, where it is one picture.
    single: Option<Statistics>,
}

impl Transfer {
    /// The change from `target` to `reference`, which have as many channels: three, or for histograms any number.
    ///
    /// # Errors
    /// If it was interrupted.
    pub fn new(target: &Image, reference: Image, method: Method, source: Source, interrupted: &dyn Fn() -> bool) -> Result<Self> {
        let one = |index: usize| index.min(target.batch() - 1);
        let range = match source {
            Source::Each => None,
            Source::All => Some(0..target.batch()),
            Source::One(index) => Some(one(index)..one(index) + 1),
        };
        let (mut change, mut single) = (None, None);
        match (method, range) {
            (Method::Histogram, Some(range)) => {
                change = Some(Change::Table(table(
                    &shares(target, range, interrupted)?,
                    &shares(&reference, 0..reference.batch(), interrupted)?,
                )));
            }
            (Method::Histogram, None) => {}
            (_, Some(range)) => {
                let from = statistics(target, range, interrupted)?;
                change = Some(affine(method, &from, &statistics(&reference, 0..reference.batch(), interrupted)?));
            }
            (_, None) if reference.batch() == 1 => single = Some(statistics(&reference, 0..1, interrupted)?),
            (_, None) => {}
        }
        Ok(Self { reference, method, change, single })
    }

    /// One picture of the batch, changed by `strength` (1 is all of it): (1, H, W, C).
    ///
    /// # Errors
    /// If there is no such picture.
    pub fn apply(&self, target: &Image, index: usize, strength: f32) -> Result<ArcArray<f32, Ix4>> {
        if index >= target.batch() {
            return Err(Error::Shape(format!("picture {index} was asked for, but the batch holds {}", target.batch())));
        }
        let change = match &self.change {
            Some(change) => change.clone(),
            None => self.own(target, index)?,
        };
        let mut out = target.0.clone().slice_move(ndarray::s![index..index + 1, .., .., ..]).to_owned();
        for mut pixel in out.lanes_mut(Axis(3)) {
            match &change {
                Change::Table(table) => {
                    for (value, levels) in pixel.iter_mut().zip(table) {
                        let matched = levels[level(*value)];
                        *value = mixed(*value, matched, strength).clamp(0.0, 1.0);
                    }
                }
                Change::Affine(matrix, offset) => {
                    let lab = to_lab([pixel[0], pixel[1], pixel[2]]);
                    let changed: Lab = std::array::from_fn(|row| {
                        let sum: f64 = (0..3).map(|column| matrix[row][column] * f64::from(lab[column])).sum();
                        mixed(lab[row], (sum + offset[row]) as f32, strength)
                    });
                    pixel.iter_mut().zip(to_rgb(changed)).for_each(|(value, changed)| *value = changed);
                }
            }
        }
        Ok(out.into_shared())
    }

    /// The change for a picture that counts for itself.
    fn own(&self, target: &Image, index: usize) -> Result<Change> {
        let beside = index.min(self.reference.batch() - 1);
        let never = || false;
        if self.method == Method::Histogram {
            let (from, to) = (shares(target, index..index + 1, &never)?, shares(&self.reference, beside..beside + 1, &never)?);
            return Ok(Change::Table(table(&from, &to)));
        }
        let to = match self.single {
            Some(statistics) => statistics,
            None => statistics(&self.reference, beside..beside + 1, &never)?,
        };
        Ok(affine(self.method, &statistics(target, index..index + 1, &never)?, &to))
    }
}

fn mixed(from: f32, to: f32, strength: f32) -> f32 {
    if strength == 1.0 { to } else { from + strength * (to - from) }
}

fn pictures(
    image: &Image,
    range: std::ops::Range<usize>,
    interrupted: &dyn Fn() -> bool,
    mut each: impl FnMut(ArrayView3<f32>),
) -> Result<()> {
    for index in range {
        if interrupted() {
            return Err(Error::Interrupted);
        }
        each(image.0.index_axis(Axis(0), index));
    }
    Ok(())
}

/// The statistics of pictures of one size, each of which counts as much.
fn statistics(image: &Image, range: std::ops::Range<usize>, interrupted: &dyn Fn() -> bool) -> Result<Statistics> {
    let count = (range.len() * image.height() * image.width()) as f64;
    let mut mean = [0.0; 3];
    pictures(image, range.clone(), interrupted, |picture| {
        for pixel in picture.lanes(Axis(2)) {
            let lab = to_lab([pixel[0], pixel[1], pixel[2]]);
            mean.iter_mut().zip(lab).for_each(|(sum, value)| *sum += f64::from(value));
        }
    })?;
    mean.iter_mut().for_each(|sum| *sum /= count);
    let mut covariance = [[0.0; 3]; 3];
    pictures(image, range, interrupted, |picture| {
        for pixel in picture.lanes(Axis(2)) {
            let lab = to_lab([pixel[0], pixel[1], pixel[2]]);
            let centred: [f64; 3] = std::array::from_fn(|axis| f64::from(lab[axis]) - mean[axis]);
            for (row, value) in covariance.iter_mut().zip(centred) {
                row.iter_mut().zip(centred).for_each(|(sum, other)| *sum += value * other);
            }
        }
    })?;
    covariance.iter_mut().flatten().for_each(|sum| *sum /= count);
    Ok(Statistics { mean, covariance })
}

fn affine(method: Method, from: &Statistics, to: &Statistics) -> Change {
    let matrix = match method {
        Method::Reinhard => {
            let spread = |of: &Statistics, axis: usize| of.covariance[axis][axis].sqrt().max(LEAST_SPREAD);
            std::array::from_fn(|row| std::array::from_fn(|column| if row == column { spread(to, row) / spread(from, row) } else { 0.0 }))
        }
        Method::Covariance | Method::Histogram => transport(&from.covariance, &to.covariance),
    };
    let offset = std::array::from_fn(|row| to.mean[row] - (0..3).map(|column| matrix[row][column] * from.mean[column]).sum::<f64>());
    Change::Affine(matrix, offset)
}

type Matrix = [[f64; 3]; 3];

fn product(a: &Matrix, b: &Matrix) -> Matrix {
    std::array::from_fn(|row| std::array::from_fn(|column| (0..3).map(|k| a[row][k] * b[k][column]).sum()))
}

fn transposed(a: &Matrix) -> Matrix {
    std::array::from_fn(|row| std::array::from_fn(|column| a[column][row]))
}

/// The columns of `a` multiplied by these factors.
fn scaled(a: &Matrix, factors: [f64; 3]) -> Matrix {
    std::array::from_fn(|row| std::array::from_fn(|column| a[row][column] * factors[column]))
}

/// The shortest way from one normal distribution to another.
fn transport(from: &Matrix, to: &Matrix) -> Matrix {
    let (values, vectors) = eigen(*from);
    let roots = values.map(|value| value.max(0.0).sqrt().max(LEAST_SPREAD));
    let whitened = scaled(&vectors, roots);
    let (values, inner) = eigen(product(&product(&transposed(&whitened), to), &whitened));
    let half = product(&scaled(&inner, values.map(|value| value.max(0.0).sqrt())), &transposed(&inner));
    let back = scaled(&vectors, roots.map(|root| 1.0 / root));
    product(&product(&back, &half), &transposed(&back))
}

/// Eigenvalues of a symmetric matrix and the vectors to them in columns (Jacobi's rotations).
fn eigen(mut a: Matrix) -> ([f64; 3], Matrix) {
    const SWEEPS: usize = 30;
    let mut vectors = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
    for _ in 0..SWEEPS {
        for (p, q) in [(0, 1), (0, 2), (1, 2)] {
            if a[p][q].abs() < f64::MIN_POSITIVE {
                continue;
            }
            let theta = (a[q][q] - a[p][p]) / (2.0 * a[p][q]);
            let tangent = theta.signum() / (theta.abs() + theta.hypot(1.0));
            let cosine = 1.0 / tangent.hypot(1.0);
            let sine = tangent * cosine;
            let mut turn = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
            (turn[p][p], turn[q][q], turn[p][q], turn[q][p]) = (cosine, cosine, sine, -sine);
            a = product(&product(&transposed(&turn), &a), &turn);
            vectors = product(&vectors, &turn);
        }
    }
    ([a[0][0], a[1][1], a[2][2]], vectors)
}

fn level(value: f32) -> usize {
    ((value * (LEVELS - 1) as f32) as i64).clamp(0, LEVELS as i64 - 1) as usize
}

/// For each channel the share of values at or below each level.
fn shares(image: &Image, range: std::ops::Range<usize>, interrupted: &dyn Fn() -> bool) -> Result<Vec<[f32; LEVELS]>> {
    let mut counts = vec![[0f32; LEVELS]; image.channels()];
    pictures(image, range, interrupted, |picture| {
        for pixel in picture.lanes(Axis(2)) {
            pixel.iter().zip(&mut counts).for_each(|(value, counts)| counts[level(*value)] += 1.0);
        }
    })?;
    for counts in &mut counts {
        let mut sum = 0.0;
        counts.iter_mut().for_each(|count| {
            sum += *count;
            *count = sum;
        });
        counts.iter_mut().for_each(|count| *count /= sum);
    }
    Ok(counts)
}

fn table(from: &[[f32; LEVELS]], to: &[[f32; LEVELS]]) -> Table {
    let one = |(from, to): (&[f32; LEVELS], &[f32; LEVELS])| {
        from.map(|share| to.partition_point(|other| *other < share).min(LEVELS - 1) as f32 / (LEVELS - 1) as f32)
    };
    from.iter().zip(to).map(one).collect()
}

/// White, as CIE XYZ.
const WHITE: [f32; 3] = [0.950_47, 1.0, 1.088_83];

fn to_lab(rgb: [f32; 3]) -> Lab {
    const THRESHOLD: f32 = 0.008_856;
    let linear = rgb.map(|value| if value > 0.04045 { ((value + 0.055) / 1.055).powf(2.4) } else { value / 12.92 });
    let [r, g, b] = linear;
    let xyz = [
        0.412_453 * r + 0.357_58 * g + 0.180_423 * b,
        0.212_671 * r + 0.715_16 * g + 0.072_169 * b,
        0.019_334 * r + 0.119_193 * g + 0.950_227 * b,
    ];
    let [x, y, z]: [f32; 3] = std::array::from_fn(|axis| {
        let value = xyz[axis] / WHITE[axis];
        if value > THRESHOLD { value.powf(1.0 / 3.0) } else { 7.787 * value + 4.0 / 29.0 }
    });
    [116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)]
}

fn to_rgb([lightness, a, b]: Lab) -> [f32; 3] {
    let y = (lightness + 16.0) / 116.0;
    let steps = [a / 500.0 + y, y, (y - b / 200.0).max(0.0)];
    let [x, y, z]: [f32; 3] = std::array::from_fn(|axis| {
        let step = steps[axis];
        WHITE[axis] * if step > 0.206_896_6 { step.powi(3) } else { (step - 4.0 / 29.0) / 7.787 }
    });
    let linear = [
        3.240_481_3 * x - 1.537_151_5 * y - 0.498_536_33 * z,
        -0.969_255 * x + 1.875_99 * y + 0.041_555_926 * z,
        0.055_646_64 * x - 0.204_041_34 * y + 1.057_311 * z,
    ];
    linear.map(|value| {
        let shown = if value > 0.003_130_8 { 1.055 * value.powf(1.0 / 2.4) - 0.055 } else { 12.92 * value };
        shown.clamp(0.0, 1.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_way_leads_to_the_other_covariance() {
        let from = [[4.0, 1.0, 0.5], [1.0, 3.0, -0.2], [0.5, -0.2, 2.0]];
        let to = [[1.0, -0.3, 0.1], [-0.3, 5.0, 0.7], [0.1, 0.7, 0.9]];
        let way = transport(&from, &to);
        let arrived = product(&product(&way, &from), &transposed(&way));
        assert!(arrived.iter().flatten().zip(to.iter().flatten()).all(|(got, want)| (got - want).abs() < 1e-9), "{arrived:?}");
    }

    #[test]
    fn colours_come_back_from_lab() {
        for rgb in [[0.0, 0.5, 1.0], [0.02, 0.03, 0.9], [1.0, 1.0, 1.0]] {
            let back = to_rgb(to_lab(rgb));
            assert!(back.iter().zip(rgb).all(|(back, rgb)| (back - rgb).abs() < 1e-4), "{back:?} {rgb:?}");
        }
    }
}

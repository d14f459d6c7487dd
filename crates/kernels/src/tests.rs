//! Every kernel against a plain implementation in double precision, over random sizes and every instruction set of this processor.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::too_many_arguments)]

use half::{bf16, f16};
use proptest::prelude::*;

use crate::activation::{all_at, geglu_at};
use crate::attention::attention_at;
use crate::conv::conv2d_at;
use crate::linear::{linear_at, transpose_at};
use crate::norm::{group_norm_at, layer_norm_at};
use crate::winograd::Input;
use crate::{Added, Attention, Conv2d, Format, GroupNorm, Level, Mask, Out, Packed, Precision, Weight, upsample_nearest};

mod winograd;

/// Numbers in [-1, 1), the same for the same seed.
fn numbers(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// A weight in one of the three types, and the numbers it stands for.
struct Stored {
    f32s: Vec<f32>,
    f16s: Vec<f16>,
    bf16s: Vec<bf16>,
    kind: usize,
}

impl Stored {
    fn new(seed: u64, len: usize, kind: usize) -> Self {
        let values = numbers(seed, len);
        let f16s: Vec<f16> = values.iter().map(|&x| f16::from_f32(x)).collect();
        let bf16s: Vec<bf16> = values.iter().map(|&x| bf16::from_f32(x)).collect();
        let f32s = match kind {
            0 => values,
            1 => f16s.iter().map(|x| x.to_f32()).collect(),
            _ => bf16s.iter().map(|x| x.to_f32()).collect(),
        };
        Self { f32s, f16s, bf16s, kind }
    }

    fn weight(&self) -> Weight<'_> {
        match self.kind {
            0 => Weight::F32(&self.f32s),
            1 => Weight::F16(&self.f16s),
            _ => Weight::BF16(&self.bf16s),
        }
    }
}

/// The instruction sets of this processor. A test that fails shows the one that it was at last.
fn levels() -> impl Iterator<Item = Level> {
    Level::available().inspect(|level| println!("{}", level.name()))
}

#[track_caller]
fn assert_close(got: &[f32], wanted: &[f64], tolerance: f64) {
    assert_eq!(got.len(), wanted.len());
    for (i, (g, w)) in got.iter().zip(wanted).enumerate() {
        assert!((f64::from(*g) - w).abs() <= tolerance * (1.0 + w.abs()), "element {i}: got {g}, wanted {w}");
    }
}

/// How far from exact sums of so many products of numbers below one may be: what exact products leave, by the square root of their number,
/// and what the rounding of factors leaves, by the same.
fn tolerance(level: Level, exact: f64, products: usize) -> f64 {
    (exact + of_rounding(level)) * (1.0 + (products as f64).sqrt())
}

/// How far a product may be from exact because its factors are rounded, each by up to 2^-9.
fn of_rounding(level: Level) -> f64 {
    match level {
        _ if level.rounds() => 1.0 / 256.0,
        // Factors of two parts, each rounded by up to 2^-9 of the other, and without the product of the second ones: 2^-18 three times.
        _ if level.is_close() => 1.5 / 131_072.0,
        _ => 0.0,
    }
}

fn check_linear(rows: usize, depth: usize, columns: usize, kind: usize, with_bias: bool) {
    let x = numbers(1, rows * depth);
    let weight = Stored::new(2, columns * depth, kind);
    let bias = numbers(3, columns);
    let mut wanted = vec![0.0; rows * columns];
    for i in 0..rows {
        for j in 0..columns {
            let dot: f64 = (0..depth).map(|k| f64::from(x[i * depth + k]) * f64::from(weight.f32s[j * depth + k])).sum();
            wanted[i * columns + j] = dot + if with_bias { f64::from(bias[j]) } else { 0.0 };
        }
    }
    for level in levels() {
        let mut out = vec![f32::NAN; rows * columns];
        linear_at(level, &x, weight.weight(), with_bias.then_some(&bias), rows, depth, columns, Out::of(&mut out)).unwrap();
        assert_close(&out, &wanted, tolerance(level, 2e-6, depth));
    }
}

/// A convolution in double precision.
fn convolved(x: &[f32], weight: &[f32], bias: Option<&[f32]>, sizes: &Conv2d) -> Vec<f64> {
    let Conv2d { batch, in_channels, out_channels, height, width, kernel_height, kernel_width, stride, padding } = *sizes;
    let (out_height, out_width) = sizes.output_size().unwrap();
    let mut wanted = Vec::new();
    for b in 0..batch {
        for o in 0..out_channels {
            for y in 0..out_height {
                for column in 0..out_width {
                    let mut sum = bias.map_or(0.0, |bias| f64::from(bias[o]));
                    for i in 0..in_channels {
                        for ky in 0..kernel_height {
                            for kx in 0..kernel_width {
                                let (sy, sx) = ((y * stride + ky).wrapping_sub(padding), (column * stride + kx).wrapping_sub(padding));
                                if sy < height && sx < width {
                                    let w = weight[((o * in_channels + i) * kernel_height + ky) * kernel_width + kx];
                                    sum += f64::from(w) * f64::from(x[((b * in_channels + i) * height + sy) * width + sx]);
                                }
                            }
                        }
                    }
                    wanted.push(sum);
                }
            }
        }
    }
    wanted
}

fn check_conv(sizes: Conv2d, kind: usize, with_bias: bool) {
    let Conv2d { batch, in_channels, out_channels, height, width, kernel_height, kernel_width, .. } = sizes;
    let x = numbers(1, batch * in_channels * height * width);
    let weight = Stored::new(2, out_channels * in_channels * kernel_height * kernel_width, kind);
    let bias = numbers(3, out_channels);
    let wanted = convolved(&x, &weight.f32s, with_bias.then_some(&bias), &sizes);
    for level in levels() {
        let mut out = vec![f32::NAN; wanted.len()];
        conv2d_at(
            level,
            Input { x: &x, doubled: false },
            weight.weight(),
            Added { bias: with_bias.then_some(&bias), ..Added::default() },
            &sizes,
            Out::of(&mut out),
        )
        .unwrap();
        assert_close(&out, &wanted, tolerance(level, 2e-6, in_channels * kernel_height * kernel_width));
    }
}

/// Each way to keep few bits, and where a block's half precision numbers are.
const FORMATS: [(Format, &[usize]); 13] = [
    (Format::E4m3, &[]),
    (Format::E5m2, &[]),
    (Format::Q4_0, &[0]),
    (Format::Q4_1, &[0, 2]),
    (Format::Q5_0, &[0]),
    (Format::Q5_1, &[0, 2]),
    (Format::Q8_0, &[0]),
    (Format::Q2K, &[80, 82]),
    (Format::Q3K, &[108]),
    (Format::Q4K, &[0, 2]),
    (Format::Q5K, &[0, 2]),
    (Format::Q6K, &[208]),
    // A number in single precision, whose upper half this sets.
    (Format::Q8K, &[2]),
];

/// Blocks of any bits with scales that are numbers.
fn blocks(format: Format, halves: &[usize], count: usize) -> Vec<u8> {
    let (numbers_each, bytes_each) = format.block();
    assert_eq!(count % numbers_each, 0);
    let mut bytes: Vec<u8> = numbers(7, count / numbers_each * bytes_each).iter().map(|x| (x * 128.0) as i8 as u8).collect();
    for (i, block) in bytes.chunks_exact_mut(bytes_each).enumerate() {
        // 0x2000 is 2^-7 in half precision; 0x3800 with zeros behind it is 2^-15 in single precision.
        let scale: u16 = if format == Format::Q8K { 0x3800 } else { 0x2000 } + i as u16 % 64;
        halves.iter().for_each(|at| block[*at..at + 2].copy_from_slice(&scale.to_le_bytes()));
        if halves.is_empty() && block[0] & 0x7c == 0x7c {
            block[0] &= 0x83;
        }
    }
    bytes
}

/// To the bit: what is multiplied must not depend on where slices, panels and blocks end, or on the instruction set.
#[test]
fn few_bits_give_what_their_numbers_give() {
    for (format, halves) in FORMATS {
        for (rows, depth, columns) in [(1, 328, 64), (3, 36, 64), (4, 1000, 32), (17, 320, 40), (9, 64, 20), (33, 1000, 32), (5, 4, 64)] {
            let (x, bytes) = (numbers(1, rows * depth), blocks(format, halves, depth * columns));
            for scale_count in [0, 1, columns] {
                let scales = numbers(3, scale_count);
                let packed = Packed { format, bytes: &bytes, scales: &scales };
                let mut plain = vec![0.0; depth * columns];
                packed.unpack_rows(Level::Portable, depth, 0, 0, depth, &mut plain);
                assert!(plain.iter().all(|x| x.is_finite()) && plain.iter().any(|x| *x != plain[0]), "{format:?}");
                let mut row = vec![0.0; depth];
                crate::embedding(&[2], packed, columns, depth, Out::of(&mut row)).unwrap();
                assert_eq!(row, plain[2 * depth..3 * depth], "{format:?}");
                for level in levels() {
                    let product = |weight| {
                        let mut out = vec![f32::NAN; rows * columns];
                        linear_at(level, &x, weight, None, rows, depth, columns, Out::of(&mut out)).unwrap();
                        out
                    };
                    assert_eq!(product(Weight::Packed(packed)), product(Weight::F32(&plain)), "{format:?} {rows}x{depth}x{columns}");
                }
            }
        }
    }
}

#[test]
fn few_bits_convolve_as_their_numbers_do() {
    for (format, halves) in FORMATS {
        for (in_channels, out_channels, kernel, size) in [(4, 64, 3, 7), (40, 128, 3, 4), (320, 8, 1, 5), (8, 32, 2, 9)] {
            let (depth, stride, padding) = (in_channels * kernel * kernel, kernel.min(2), kernel / 2);
            let sizes = Conv2d {
                batch: 2,
                in_channels,
                out_channels,
                height: size,
                width: size + 1,
                kernel_height: kernel,
                kernel_width: kernel,
                stride,
                padding,
            };
            let (height, width) = sizes.output_size().unwrap();
            let x = numbers(1, 2 * in_channels * size * (size + 1));
            let (bytes, scales) = (blocks(format, halves, depth * out_channels), numbers(3, out_channels));
            let packed = Packed { format, bytes: &bytes, scales: &scales };
            let mut plain = vec![0.0; depth * out_channels];
            packed.unpack_rows(Level::Portable, depth, 0, 0, depth, &mut plain);
            for level in levels() {
                let product = |weight| {
                    let mut out = vec![f32::NAN; 2 * out_channels * height * width];
                    conv2d_at(level, Input { x: &x, doubled: false }, weight, Added::default(), &sizes, Out::of(&mut out)).unwrap();
                    out
                };
                assert_eq!(product(Weight::Packed(packed)), product(Weight::F32(&plain)), "{format:?} {sizes:?}");
            }
        }
    }
}

/// `mask_kind`: none, over queries and keys, over everything.
fn check_attention(sizes: Attention, mask_kind: usize) {
    let Attention { batch, heads, head_dim, queries, keys } = sizes;
    let inner = heads * head_dim;
    let (q, k, v) = (numbers(1, batch * queries * inner), numbers(2, batch * keys * inner), numbers(3, batch * keys * inner));
    let q: Vec<f32> = q.iter().map(|x| 4.0 * x).collect();
    let mut values = numbers(4, batch * heads * queries * keys);
    for (i, value) in values.iter_mut().enumerate() {
        if i % 5 == 3 {
            *value = f32::NEG_INFINITY;
        }
    }
    let mask = match mask_kind {
        0 => None,
        1 => Some(Mask { values: &values[..queries * keys], batch_stride: 0, head_stride: 0, query_stride: keys }),
        _ => Some(Mask { values: &values, batch_stride: heads * queries * keys, head_stride: queries * keys, query_stride: keys }),
    };
    let mut wanted = vec![0.0; q.len()];
    for b in 0..batch {
        for h in 0..heads {
            for n in 0..queries {
                let scores: Vec<f64> = (0..keys)
                    .map(|m| {
                        let dot: f64 = (0..head_dim)
                            .map(|d| {
                                let (at, to) = ((b * queries + n) * inner + h * head_dim + d, (b * keys + m) * inner + h * head_dim + d);
                                f64::from(q[at]) * f64::from(k[to])
                            })
                            .sum();
                        let add =
                            mask.map_or(0.0, |mask| mask.values[b * mask.batch_stride + h * mask.head_stride + n * mask.query_stride + m]);
                        dot / (head_dim as f64).sqrt() + f64::from(add)
                    })
                    .collect();
                let greatest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                if greatest == f64::NEG_INFINITY {
                    continue;
                }
                let weights: Vec<f64> = scores.iter().map(|s| (s - greatest).exp()).collect();
                let sum: f64 = weights.iter().sum();
                for d in 0..head_dim {
                    let dot: f64 = (0..keys).map(|m| weights[m] * f64::from(v[(b * keys + m) * inner + h * head_dim + d])).sum();
                    wanted[(b * queries + n) * inner + h * head_dim + d] = dot / sum;
                }
            }
        }
    }
    for level in levels() {
        let mut out = vec![f32::NAN; q.len()];
        attention_at(level, &q, &k, &v, &sizes, mask, Out::of(&mut out)).unwrap();
        // Scores are up to 4 here, and weights follow their exponentials.
        assert_close(&out, &wanted, 3e-6 + 8.0 * of_rounding(level));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn linear_of_any_size(rows in 1usize..70, depth in 0usize..90, columns in 1usize..90, kind in 0usize..3, bias: bool) {
        check_linear(rows, depth, columns, kind, bias);
    }

    #[test]
    fn conv2d_of_any_size(
        (batch, in_channels, out_channels) in (1usize..3, 1usize..7, 1usize..20),
        (height, width) in (3usize..24, 3usize..40),
        (kernel_height, kernel_width) in (1usize..4, 1usize..4),
        (stride, padding) in (1usize..4, 0usize..3),
        kind in 0usize..3,
        bias: bool,
    ) {
        check_conv(
            Conv2d { batch, in_channels, out_channels, height, width, kernel_height, kernel_width, stride, padding },
            kind,
            bias,
        );
    }

    #[test]
    fn conv2d_3x3_and_1x1(
        (batch, in_channels, out_channels) in (1usize..3, 1usize..20, 1usize..40),
        (height, width) in (1usize..24, 1usize..40),
        small: bool,
        kind in 0usize..3,
    ) {
        let (kernel, padding) = if small { (1, 0) } else { (3, 1) };
        check_conv(
            Conv2d {
                batch, in_channels, out_channels, height, width,
                kernel_height: kernel, kernel_width: kernel, stride: 1, padding,
            },
            kind,
            true,
        );
    }

    #[test]
    fn attention_of_any_size(
        (batch, heads, head_dim) in (1usize..3, 1usize..4, 1usize..70),
        (queries, keys) in (1usize..120, 1usize..300),
        mask in 0usize..3,
    ) {
        check_attention(Attention { batch, heads, head_dim, queries, keys }, mask);
    }

    #[test]
    fn norms_of_any_size(
        (batch, groups, each, pixels) in (1usize..3, 1usize..5, 1usize..5, 1usize..2000),
        mean in -100.0f32..100.0,
        silu: bool,
    ) {
        check_norms(batch, groups, each, pixels, mean, silu);
    }

    #[test]
    fn activations_of_any_length(len in 1usize..200, scale in 0.1f32..100.0, columns in 1usize..40) {
        check_activations(len, scale, columns);
    }
}

#[test]
fn larger_products_are_divided_into_slices_and_tasks() {
    check_linear(200, 700, 150, 0, true);
    check_linear(3, 1000, 130, 1, true);
    // More of the depth than is packed at a time.
    check_linear(130, 1500, 70, 1, true);
    check_linear(90, 1500, 170, 0, true);
    check_conv(
        Conv2d {
            batch: 2,
            in_channels: 80,
            out_channels: 210,
            height: 9,
            width: 18,
            kernel_height: 3,
            kernel_width: 3,
            stride: 1,
            padding: 1,
        },
        1,
        true,
    );
    check_conv(
        Conv2d {
            batch: 1,
            in_channels: 130,
            out_channels: 70,
            height: 16,
            width: 64,
            kernel_height: 3,
            kernel_width: 3,
            stride: 2,
            padding: 1,
        },
        0,
        false,
    );
    check_attention(Attention { batch: 1, heads: 2, head_dim: 40, queries: 100, keys: 600 }, 0);
    check_attention(Attention { batch: 1, heads: 1, head_dim: 512, queries: 20, keys: 300 }, 0);
}

fn check_norms(batch: usize, groups: usize, each: usize, pixels: usize, mean: f32, silu: bool) {
    let channels = groups * each;
    let x: Vec<f32> = numbers(1, batch * channels * pixels).iter().map(|x| x + mean).collect();
    let (weight, bias) = (numbers(2, channels), numbers(3, channels));
    let eps = 1e-5;
    let normed = |run: &[f32]| -> (f64, f64) {
        let mean = run.iter().map(|&x| f64::from(x)).sum::<f64>() / run.len() as f64;
        let variance = run.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / run.len() as f64;
        (mean, 1.0 / (variance + eps).sqrt())
    };
    let mut wanted = Vec::new();
    for (index, run) in x.chunks(each * pixels).enumerate() {
        let (mean, scale) = normed(run);
        for (i, x) in run.iter().enumerate() {
            let channel = index % groups * each + i / pixels;
            let y = (f64::from(*x) - mean) * scale * f64::from(weight[channel]) + f64::from(bias[channel]);
            wanted.push(if silu { y / (1.0 + (-y).exp()) } else { y });
        }
    }
    // What single precision of the numbers themselves costs.
    let tolerance = 2e-6 * (1.0 + f64::from(mean.abs()));
    for level in levels() {
        let mut out = vec![f32::NAN; x.len()];
        group_norm_at(level, &x, &weight, &bias, &GroupNorm { batch, channels, pixels, groups, eps, silu }, Out::of(&mut out)).unwrap();
        assert_close(&out, &wanted, tolerance);
    }
    let mut wanted = Vec::new();
    for row in x.chunks(channels) {
        let (mean, scale) = normed(row);
        wanted.extend(row.iter().zip(&weight).zip(&bias).map(|((x, w), b)| (f64::from(*x) - mean) * scale * f64::from(*w) + f64::from(*b)));
    }
    if channels > 1 {
        for level in levels() {
            let mut out = vec![f32::NAN; x.len()];
            layer_norm_at(level, &x, Some(&weight), Some(&bias), channels, eps, Out::of(&mut out)).unwrap();
            // Few numbers that lie close together are spread by the norm, and their rounding with them.
            assert_close(&out, &wanted, tolerance * 300.0);
        }
    }
}

fn reference_erf(x: f64) -> f64 {
    // The series converges for every number here; the terms alternate and stay small enough below four.
    if x.abs() > 4.5 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

fn check_activations(len: usize, scale: f32, columns: usize) {
    let x: Vec<f32> = numbers(5, len).iter().map(|x| x * scale).collect();
    let gelu = |x: f32| 0.5 * f64::from(x) * (1.0 + reference_erf(f64::from(x) / std::f64::consts::SQRT_2));
    let wanted: [Vec<f64>; 3] = [
        x.iter().map(|&x| f64::from(x) / (1.0 + (-f64::from(x)).exp())).collect(),
        x.iter().map(|&x| f64::from(x) / (1.0 + (-1.702 * f64::from(x)).exp())).collect(),
        x.iter().map(|&x| gelu(x)).collect(),
    ];
    let pairs = numbers(6, 2 * columns * 3);
    let gated: Vec<f64> = pairs
        .chunks(2 * columns)
        .flat_map(|row| (0..columns).map(|i| f64::from(row[i]) * gelu(row[columns + i])).collect::<Vec<_>>())
        .collect();
    for level in levels() {
        for (got, wanted) in all_at(level, &x).iter().zip(&wanted) {
            assert_close(got, wanted, 1e-6);
        }
        let mut out = vec![f32::NAN; 3 * columns];
        geglu_at(level, &pairs, columns, Out::of(&mut out)).unwrap();
        assert_close(&out, &gated, 1e-6);
    }
}

/// Random numbers seldom meet the worst places, which lie where the error function is almost one.
#[test]
fn gelu_is_accurate_everywhere() {
    let x: Vec<f32> = (0..=120_000).map(|i| -6.0 + i as f32 * 1e-4).collect();
    let wanted: Vec<f64> = x.iter().map(|&x| 0.5 * f64::from(x) * (1.0 + reference_erf(f64::from(x) / std::f64::consts::SQRT_2))).collect();
    for level in levels() {
        assert_close(&all_at(level, &x)[2], &wanted, 1e-6);
    }
}

#[test]
fn activations_at_the_ends_of_the_numbers() {
    for level in levels() {
        let [silu, quick, gelu] = all_at(level, &[f32::NAN, f32::INFINITY, -1e30, 1e30, 0.0, -0.0, -90.0, 90.0]);
        for got in [silu, quick, gelu] {
            assert!(got[0].is_nan());
            assert_eq!(got[1], f32::INFINITY);
            assert!(got[2].abs() < 1e-6, "{}", got[2]);
            assert_eq!(got[3], 1e30);
            assert_eq!((got[4], got[5]), (0.0, 0.0));
            assert!(got[6].abs() < 1e-6);
            assert_eq!(got[7], 90.0);
        }
    }
}

#[test]
fn numbers_that_are_none_pass_through() {
    let sizes = Attention { batch: 1, heads: 1, head_dim: 8, queries: 3, keys: 20 };
    let (mut q, k, v) = (numbers(1, 24), numbers(2, 160), numbers(3, 160));
    q[0] = f32::NAN;
    q[8] = f32::INFINITY;
    for level in levels() {
        let mut out = vec![f32::NAN; 24];
        attention_at(level, &q, &k, &v, &sizes, None, Out::of(&mut out)).unwrap();
        assert!(out[..16].iter().all(|x| x.is_nan()));
        assert!(out[16..].iter().all(|x| x.is_finite()));
        let nothing = vec![f32::NEG_INFINITY; 60];
        let mask = Mask { values: &nothing, batch_stride: 0, head_stride: 0, query_stride: 20 };
        attention_at(level, &k[..24], &k, &v, &sizes, Some(mask), Out::of(&mut out)).unwrap();
        assert_eq!(out, vec![0.0; 24]);
        let mut x = numbers(1, 60);
        x[7] = f32::NAN;
        let mut out = vec![f32::NAN; 60];
        group_norm_at(
            level,
            &x,
            &[1.0; 2],
            &[0.0; 2],
            &GroupNorm { batch: 1, channels: 2, pixels: 30, groups: 2, eps: 1e-5, silu: true },
            Out::of(&mut out),
        )
        .unwrap();
        assert!(out[..30].iter().all(|x| x.is_nan()));
        assert!(out[30..].iter().all(|x| x.is_finite()));
    }
}

#[test]
fn upsampling_repeats() {
    let x: Vec<f32> = (0..12).map(|x| x as f32).collect();
    for factor in 1..4 {
        let mut out = vec![f32::NAN; 12 * factor * factor];
        upsample_nearest(&x, 2, 2, 3, factor, Out::of(&mut out)).unwrap();
        for (i, got) in out.iter().enumerate() {
            let (plane, y, column) = (i / (6 * factor * factor), i / (3 * factor) % (2 * factor), i % (3 * factor));
            assert_eq!(*got, x[plane * 6 + y / factor * 3 + column / factor]);
        }
    }
}

#[test]
fn transposition_of_any_size() {
    for level in levels() {
        for [batch, rows, columns] in [[1, 1, 1], [2, 17, 130], [3, 64, 8], [1, 100, 65], [2, 0, 3]] {
            let (x, residual) = (numbers(1, batch * rows * columns), numbers(2, batch * rows * columns));
            for residual in [None, Some(&residual[..])] {
                let mut out = vec![f32::NAN; x.len()];
                transpose_at(level, &x, [batch, rows, columns], residual, Out::of(&mut out)).unwrap();
                for (at, got) in out.iter().enumerate() {
                    let (image, column, row) = (at / (rows * columns), at / rows % columns, at % rows);
                    let wanted = x[(image * rows + row) * columns + column] + residual.map_or(0.0, |residual| residual[at]);
                    assert_eq!(*got, wanted, "{level:?} {batch} {rows} {columns}");
                }
            }
        }
    }
}

#[test]
fn sums() {
    let (a, b) = (numbers(1, 40_001), numbers(2, 40_001));
    let mut out = vec![f32::NAN; a.len()];
    crate::add(&a, &b, Out::of(&mut out)).unwrap();
    assert!(out.iter().zip(a.iter().zip(&b)).all(|(sum, (a, b))| *sum == a + b));
    let mut out = vec![f32::NAN; 39_996];
    crate::add_planes(&a[..39_996], &b[..12], Out::of(&mut out)).unwrap();
    assert!(out.iter().enumerate().all(|(i, sum)| *sum == a[i] + b[i / 3333]));
    assert!(crate::add_planes(&a, &b[..7], Out::of(&mut [0.0; 40_001])).is_err());
}

#[test]
fn wrong_lengths_are_errors() {
    let mut out = vec![f32::NAN; 6];
    let error = crate::linear(&[0.0; 8], Weight::F32(&[0.0; 11]), None, 2, 4, 3, Out::of(&mut out)).unwrap_err();
    assert_eq!(error.to_string(), "the weight has 11 elements where the sizes [3, 4] need 12");
    let sizes =
        Conv2d { batch: 1, in_channels: 1, out_channels: 1, height: 2, width: 2, kernel_height: 3, kernel_width: 3, stride: 1, padding: 0 };
    assert!(crate::conv2d(&[0.0; 4], Weight::F32(&[0.0; 9]), Added::default(), &sizes, Out::of(&mut [])).is_err());
    assert!(crate::layer_norm(&[0.0; 5], None, None, 2, 1e-5, Out::of(&mut [0.0; 5])).is_err());
    assert!(crate::geglu(&[0.0; 5], 0, Out::of(&mut [0.0; 5])).is_err());
    let huge = usize::MAX / 2;
    assert!(crate::linear(&[], Weight::F32(&[]), None, huge, 4, huge, Out::of(&mut [])).is_err());
    let short = Mask { values: &[0.0; 3], batch_stride: 0, head_stride: 0, query_stride: 2 };
    let sizes = Attention { batch: 1, heads: 1, head_dim: 1, queries: 2, keys: 2 };
    assert!(crate::attention(&[0.0; 2], &[0.0; 2], &[0.0; 2], &sizes, Some(short), Out::of(&mut [0.0; 2])).is_err());
}

/// What the options choose is what kernels use; exact products stay exact.
#[test]
fn levels_that_round_are_for_those_who_ask() {
    assert_eq!(Precision::chosen(), Precision::Auto);
    assert!(!Level::best().rounds());
    let names: Vec<_> = Level::available().map(Level::name).collect();
    let best = Level::available().filter(|level| !level.rounds()).last().unwrap();
    assert_eq!(Level::best(), best, "{names:?}");
}

/// Sums of many products, in units of what they are on the average: as far off as single precision leaves them, or fifteen times as far
/// where they are close to it.
#[test]
fn close_products_are_close() {
    let (rows, depth, columns) = (64, 2000, 64);
    let (x, weight) = (numbers(1, rows * depth), numbers(2, columns * depth));
    let wanted: Vec<f64> = (0..rows * columns)
        .map(|i| (0..depth).map(|k| f64::from(x[i / columns * depth + k]) * f64::from(weight[i % columns * depth + k])).sum())
        .collect();
    let mean = (wanted.iter().map(|x| x * x).sum::<f64>() / wanted.len() as f64).sqrt();
    for level in levels().filter(|level| !level.rounds()) {
        let mut out = vec![f32::NAN; rows * columns];
        linear_at(level, &x, Weight::F32(&weight), None, rows, depth, columns, Out::of(&mut out)).unwrap();
        let error = out.iter().zip(&wanted).map(|(got, wanted)| (f64::from(*got) - wanted).powi(2)).sum::<f64>();
        let error = (error / wanted.len() as f64).sqrt() / mean;
        println!("{error:e}");
        assert!(error < if level.is_close() { 5e-6 } else { 3e-7 }, "{error:e}");
    }
}

/// Half precision reaches from 6e-8 to 65504; products of numbers of any size must not leave it.
#[test]
fn rounded_numbers_may_be_of_any_size() {
    let (rows, depth, columns) = (30, 200, 70);
    for (of_x, of_weight) in [(1e9, 1e-9), (1e-12, 1e3), (3e4, 3e4), (1e-20, 1e-10), (0.0, 1.0)] {
        let x: Vec<f32> = numbers(1, rows * depth).iter().map(|x| x * of_x).collect();
        let weight: Vec<f32> = numbers(2, columns * depth).iter().map(|x| x * of_weight).collect();
        let product = |level| {
            let mut out = vec![f32::NAN; rows * columns];
            linear_at(level, &x, Weight::F32(&weight), None, rows, depth, columns, Out::of(&mut out)).unwrap();
            out
        };
        let wanted: Vec<f64> = product(Level::Portable).iter().map(|x| f64::from(*x / of_x.max(f32::MIN_POSITIVE) / of_weight)).collect();
        for level in levels() {
            let got: Vec<f32> = product(level).iter().map(|x| x / of_x.max(f32::MIN_POSITIVE) / of_weight).collect();
            assert_close(&got, &wanted, tolerance(level, 4e-6, depth));
        }
    }
    // What is no number does not get lost.
    let mut x = numbers(1, rows * depth);
    (x[5 * depth + 7], x[6 * depth + 8]) = (f32::NAN, f32::INFINITY);
    let weight = numbers(2, columns * depth);
    for level in levels() {
        let mut out = vec![f32::NAN; rows * columns];
        linear_at(level, &x, Weight::F32(&weight), None, rows, depth, columns, Out::of(&mut out)).unwrap();
        assert!(out[5 * columns..6 * columns].iter().all(|x| x.is_nan()), "{}", level.name());
        assert!(out[6 * columns..7 * columns].iter().all(|x| !x.is_finite()), "{}", level.name());
        assert!(out[..5 * columns].iter().all(|x| x.is_finite()), "{}", level.name());
    }
}

//! Winograd's algorithm against a convolution in double precision, with all that is added to results.

use proptest::prelude::*;

use super::{Stored, assert_close, convolved, levels, numbers, of_rounding};
use crate::conv::conv2d_at;
use crate::rows::Rows;
use crate::winograd::{self, Input};
use crate::{Added, Conv2d, Format, Level, Out, Packed, Weight, upsample_nearest};

fn sizes(batch: usize, in_channels: usize, out_channels: usize, (height, width): (usize, usize), padding: usize) -> Conv2d {
    Conv2d { batch, in_channels, out_channels, height, width, kernel_height: 3, kernel_width: 3, stride: 1, padding }
}

/// The largest error in units of what a result is on the average.
fn check(sizes: Conv2d, kind: usize, doubled: bool, more: bool) -> f64 {
    let Conv2d { batch, in_channels, out_channels, height, width, .. } = sizes;
    let (out_height, out_width) = sizes.output_size().unwrap();
    let planes = batch * in_channels;
    let x = numbers(1, if doubled { planes * (height / 2) * (width / 2) } else { planes * height * width });
    let weight = Stored::new(2, out_channels * in_channels * 9, kind);
    let bias = numbers(3, out_channels);
    let (per_image, residual) = (numbers(4, batch * out_channels), numbers(5, batch * out_channels * out_height * out_width));
    let mut whole = vec![0.0; planes * height * width];
    if doubled {
        upsample_nearest(&x, planes, height / 2, width / 2, 2, Out::of(&mut whole)).unwrap();
    } else {
        whole.copy_from_slice(&x);
    }
    let mut wanted = convolved(&whole, &weight.f32s, Some(&bias), &sizes);
    let mut added = Added { bias: Some(&bias), ..Added::default() };
    if more {
        for (i, sum) in wanted.iter_mut().enumerate() {
            *sum += f64::from(per_image[i / (out_height * out_width)]) + f64::from(residual[i]);
        }
        added = Added { per_image: Some(&per_image), residual: Some(&residual), ..added };
    }
    let scale = (wanted.iter().map(|x| x * x).sum::<f64>() / wanted.len() as f64).sqrt();
    let mut worst = 0.0f64;
    for level in levels() {
        let mut out = vec![f32::NAN; wanted.len()];
        let rows = Rows::new(weight.weight(), in_channels * 9, level);
        winograd::run(level, Input { x: &x, doubled }, rows, added, &sizes, (out_height, out_width), &mut Out::of(&mut out));
        assert_close(&out, &wanted, 8e-6 * (1.0 + (in_channels as f64).sqrt()));
        let largest = out.iter().zip(&wanted).map(|(got, wanted)| (f64::from(*got) - wanted).abs()).fold(0.0, f64::max);
        worst = worst.max(largest / scale);
        // The way that the sizes choose.
        let mut out = vec![f32::NAN; wanted.len()];
        conv2d_at(level, Input { x: &x, doubled }, weight.weight(), added, &sizes, Out::of(&mut out)).unwrap();
        assert_close(&out, &wanted, (8e-6 + 4.0 * of_rounding(level)) * (1.0 + (in_channels as f64).sqrt()));
    }
    worst
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pictures_of_any_size(
        batch in 1usize..3, in_channels in 1usize..40, out_channels in 1usize..70, height in 1usize..30, width in 1usize..40,
        padding in 0usize..3, kind in 0usize..3, more in any::<bool>(),
    ) {
        prop_assume!(height + 2 * padding >= 3 && width + 2 * padding >= 3);
        check(sizes(batch, in_channels, out_channels, (height, width), padding), kind, false, more);
    }

    #[test]
    fn doubled_pictures_of_any_size(
        batch in 1usize..3, in_channels in 1usize..40, out_channels in 1usize..40, height in 1usize..12, width in 1usize..20,
        padding in 0usize..2, more in any::<bool>(),
    ) {
        prop_assume!(height + padding > 1 && width + padding > 1);
        check(sizes(batch, in_channels, out_channels, (2 * height, 2 * width), padding), 1, true, more);
    }
}

/// Several slices of channels and several chunks of tiles, and how exact the results are: the bound is that of a direct convolution whose
/// sums are twice as far off.
#[test]
fn long_sums_stay_exact() {
    for (sizes, bound) in
        [(sizes(2, 200, 40, (9, 14), 1), 2e-5), (sizes(1, 640, 16, (8, 8), 1), 2e-5), (sizes(1, 330, 33, (40, 40), 1), 2e-5)]
    {
        let worst = check(sizes, 0, false, false);
        assert!(worst < bound, "{sizes:?}: {worst:e}");
    }
}

#[test]
fn few_bits_give_what_their_numbers_give() {
    let sizes = sizes(1, 20, 36, (10, 12), 1);
    let (x, scales) = (numbers(1, 20 * 120), numbers(3, 36));
    let bytes: Vec<u8> = numbers(7, 36 * 180).iter().map(|x| ((x * 100.0) as i8 as u8) & 0xbf).collect();
    let packed = Packed { format: Format::E4m3, bytes: &bytes, scales: &scales };
    let mut plain = vec![0.0; 36 * 180];
    packed.unpack_rows(Level::Portable, 180, 0, 0, 180, &mut plain);
    for level in levels() {
        let result = |weight| {
            let mut out = vec![f32::NAN; 36 * 120];
            let rows = Rows::new(weight, 180, level);
            winograd::run(level, Input { x: &x, doubled: false }, rows, Added::default(), &sizes, (10, 12), &mut Out::of(&mut out));
            out
        };
        assert_eq!(result(Weight::Packed(packed)), result(Weight::F32(&plain)));
    }
}

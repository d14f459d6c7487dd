//! Every operation of the CPU kernels against candle's own: views with an offset, strides, weights of every type.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{D, DType, Device, Tensor};
use comfyd_kernels::Level;
use comfyd_weights::{Quantized, Scaled8, SmallFloat, Weight};

use crate::ops::{self, Added, cpu, portable};

fn tensor(seed: u64, shape: &[usize]) -> Tensor {
    let len: usize = shape.iter().product();
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let numbers: Vec<f32> = (0..len).map(|_| next()).collect();
    Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap()
}

#[track_caller]
fn assert_close(got: Option<Tensor>, wanted: &Tensor) {
    let got = got.expect("the kernels do this");
    assert_eq!(got.dims(), wanted.dims());
    let difference = (got - wanted).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap();
    let bound = if Level::best().is_close() { 1e-4 } else { 2e-5 };
    assert!(difference < bound, "the difference is {difference}");
}

#[cfg(feature = "cuda")]
mod card;

const TYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

#[test]
fn linear_with_views_and_every_type() {
    for dtype in TYPES {
        let weight = Weight::Dense(tensor(1, &[50, 37]).to_dtype(dtype).unwrap().narrow(0, 3, 40).unwrap());
        let bias = tensor(2, &[40]).to_dtype(dtype).unwrap();
        let x = tensor(3, &[2, 9, 37]).narrow(1, 2, 6).unwrap();
        assert_close(cpu::linear(&x, &weight, Some(&bias)).unwrap(), &portable::linear(&x, &weight, Some(&bias)).unwrap());
        let row = x.narrow(0, 1, 1).unwrap().narrow(1, 0, 1).unwrap();
        assert_close(cpu::linear(&row, &weight, None).unwrap(), &portable::linear(&row, &weight, None).unwrap());
    }
    assert!(ops::linear(&tensor(1, &[2, 5]), &tensor(2, &[3, 4]).into(), None).is_err());
    // Planes seen as tokens, and tokens that become planes.
    let (weight, bias) = (Weight::Dense(tensor(1, &[70, 70])), tensor(2, &[70]));
    let (x, planes) = (tensor(3, &[2, 70, 35]), tensor(4, &[2, 70, 5, 7]));
    let tokens = x.transpose(1, 2).unwrap();
    let wanted = portable::linear(&tokens.contiguous().unwrap(), &weight, Some(&bias)).unwrap();
    assert_close(cpu::linear(&tokens, &weight, Some(&bias)).unwrap(), &wanted);
    let wanted = (wanted.transpose(1, 2).unwrap().reshape(planes.shape()).unwrap() + &planes).unwrap();
    assert_close(cpu::linear_to_planes(&tokens, (&weight, Some(&bias)), &planes).unwrap(), &wanted);
    assert!(ops::linear_to_planes(&tokens, (&weight, None), &tensor(4, &[2, 35, 70, 1])).is_err());
}

#[test]
fn conv2d_with_every_type() {
    for dtype in TYPES {
        for (kernel, stride, padding) in [(3, 1, 1), (3, 2, 1), (1, 1, 0), (2, 2, 0)] {
            let weight = Weight::Dense(tensor(1, &[10, 7, kernel, kernel]).to_dtype(dtype).unwrap());
            let bias = tensor(2, &[10]).to_dtype(dtype).unwrap();
            let x = tensor(3, &[2, 9, 12, 19]).narrow(1, 1, 7).unwrap();
            let wanted = portable::conv2d(&x, &weight, Some(&bias), stride, padding).unwrap();
            assert_close(cpu::conv2d(&x, &weight, with_bias(&bias), stride, padding).unwrap(), &wanted);
        }
    }
    assert!(ops::conv2d(&tensor(1, &[1, 2, 2, 2]), &tensor(2, &[1, 3, 3, 3]).into(), None, 1, 1).is_err());
}

fn with_bias(bias: &Tensor) -> Added<'_> {
    Added { bias: Some(bias), ..Added::default() }
}

#[test]
fn sums_of_convolutions_are_made_in_one_go() {
    // Small and direct, and large enough for the other algorithm.
    for (channels, size) in [(7, 5), (20, 12)] {
        let weight = Weight::Dense(tensor(1, &[24, channels, 3, 3]));
        let (bias, embedding) = (tensor(2, &[24]), tensor(4, &[2, 24]));
        let x = tensor(3, &[2, channels, size, size + 3]);
        let residual = tensor(5, &[2, 24, size + 3, size]).transpose(2, 3).unwrap();
        let added = Added { bias: Some(&bias), channels: Some(&embedding), residual: Some(&residual) };
        assert_close(cpu::conv2d(&x, &weight, added, 1, 1).unwrap(), &portable::conv2d_added(&x, &weight, added, 1, 1).unwrap());
        let doubled = portable::upsample_nearest_2x(&x).unwrap();
        let wanted = portable::conv2d(&doubled, &weight, Some(&bias), 1, 1).unwrap();
        assert_close(cpu::conv2d_of_doubled(&x, &weight, Some(&bias), 1).unwrap(), &wanted);
        let wrong = Added { residual: Some(&x), ..Added::default() };
        assert!(cpu::conv2d(&x, &weight, wrong, 1, 1).unwrap().is_none() && ops::conv2d_added(&x, &weight, wrong, 1, 1).is_err());
    }
}

/// A weight of that shape in every form of few bits.
fn few_bits(shape: &[usize]) -> Vec<Weight> {
    let weight = tensor(1, shape);
    let scales = [None, Some(tensor(5, &[1])), Some(tensor(6, &shape[..1]))];
    let floats = [SmallFloat::E4m3, SmallFloat::E5m2].into_iter().flat_map(|kind| {
        let rounded = Scaled8::round(kind, &weight).unwrap();
        scales.clone().map(|scale| Weight::Scaled8(Scaled8 { scale, ..rounded.clone() }))
    });
    let kinds = [
        GgmlDType::Q4_0,
        GgmlDType::Q4_1,
        GgmlDType::Q5_0,
        GgmlDType::Q5_1,
        GgmlDType::Q8_0,
        GgmlDType::Q2K,
        GgmlDType::Q3K,
        GgmlDType::Q4K,
        GgmlDType::Q5K,
        GgmlDType::Q6K,
        GgmlDType::Q8K,
    ];
    let blocks = kinds.map(|kind| {
        let blocks = Arc::new(QTensor::quantize(&weight.flatten_all().unwrap(), kind).unwrap());
        Weight::Quantized(Quantized { blocks, shape: shape.to_vec() })
    });
    floats.chain(blocks).collect()
}

/// The tensor library unpacks whole weights, the kernels panels of them.
#[test]
fn few_bits_are_multiplied_as_what_they_are_unpacked_to() {
    for weight in few_bits(&[64, 36]) {
        assert!(weight.size_bytes() < 64 * 36 * 5 / 4 && weight.dims() == [64, 36], "{weight:?}");
        let dense = Weight::Dense(weight.dense().unwrap());
        let ids = Tensor::new(&[[0u32, 63], [17, 2]], &Device::Cpu).unwrap();
        let rows = |weight: &Weight| ops::embedding(&ids, weight).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(rows(&weight), rows(&dense), "{weight:?}");
        for count in [2, 7] {
            let x = tensor(3, &[count, 36]);
            let product = |weight: &Weight| cpu::linear(&x, weight, None).unwrap().unwrap().to_vec2::<f32>().unwrap();
            assert_eq!(product(&weight), product(&dense), "{weight:?}");
            assert_close(cpu::linear(&x, &weight, None).unwrap(), &portable::linear(&x, &weight, None).unwrap());
        }
    }
    for weight in few_bits(&[64, 4, 3, 3]) {
        let (dense, x) = (Weight::Dense(weight.dense().unwrap()), tensor(3, &[2, 4, 6, 5]));
        let product = |weight: &Weight| {
            let product = cpu::conv2d(&x, weight, Added::default(), 1, 1).unwrap().unwrap();
            product.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        assert_eq!(product(&weight), product(&dense), "{weight:?}");
        assert_close(cpu::conv2d(&x, &weight, Added::default(), 1, 1).unwrap(), &portable::conv2d(&x, &weight, None, 1, 1).unwrap());
    }
}

#[test]
fn attention_with_masks() {
    let (q, k, v) = (tensor(1, &[2, 17, 24]), tensor(2, &[2, 21, 24]), tensor(3, &[2, 21, 24]));
    assert_close(cpu::attention(&q, &k, &v, 3, None).unwrap(), &portable::attention(&q, &k, &v, 3, None).unwrap());
    for shape in [&[17, 21][..], &[2, 17, 21], &[2, 3, 17, 21], &[1, 1, 17, 21], &[2, 1, 1, 21]] {
        let mask = tensor(4, shape);
        assert_close(cpu::attention(&q, &k, &v, 3, Some(&mask)).unwrap(), &portable::attention(&q, &k, &v, 3, Some(&mask)).unwrap());
    }
    let part = q.narrow(D::Minus1, 8, 8).unwrap();
    let (k, v) = (k.narrow(D::Minus1, 0, 8).unwrap(), v.narrow(D::Minus1, 16, 8).unwrap());
    assert_close(cpu::attention(&part, &k, &v, 2, None).unwrap(), &portable::attention(&part, &k, &v, 2, None).unwrap());
    assert!(ops::attention(&q, &k, &v, 3, None).is_err());
}

#[test]
fn norms() {
    for dtype in TYPES {
        let (weight, bias) = (tensor(1, &[12]).to_dtype(dtype).unwrap(), tensor(2, &[12]).to_dtype(dtype).unwrap());
        let x = tensor(3, &[2, 12, 5, 7]);
        let wanted = portable::group_norm(&x, &weight, &bias, 4, 1e-5).unwrap();
        assert_close(cpu::group_norm(&x, &weight, &bias, 4, 1e-5, false).unwrap(), &wanted);
        assert_close(cpu::group_norm(&x, &weight, &bias, 4, 1e-5, true).unwrap(), &portable::silu(&wanted).unwrap());
        let x = tensor(3, &[3, 5, 12]).transpose(0, 1).unwrap();
        assert_close(cpu::layer_norm(&x, &weight, &bias, 1e-5).unwrap(), &portable::layer_norm(&x, &weight, &bias, 1e-5).unwrap());
    }
}

#[test]
fn single_numbers() {
    let x = (tensor(1, &[3, 5, 26]) * 4.0).unwrap().narrow(1, 1, 3).unwrap();
    assert_close(cpu::elementwise(&x, comfyd_kernels::silu).unwrap(), &portable::silu(&x).unwrap());
    assert_close(cpu::elementwise(&x, comfyd_kernels::gelu).unwrap(), &portable::gelu(&x).unwrap());
    assert_close(cpu::elementwise(&x, comfyd_kernels::quick_gelu).unwrap(), &portable::quick_gelu(&x).unwrap());
    assert_close(cpu::geglu(&x).unwrap(), &portable::geglu(&x).unwrap());
    assert_close(cpu::add(&x, &x).unwrap(), &portable::add(&x, &x).unwrap());
    let (image, embedding) = (tensor(2, &[2, 3, 4, 5]), tensor(3, &[2, 3]));
    assert_close(cpu::upsample_nearest_2x(&image).unwrap(), &portable::upsample_nearest_2x(&image).unwrap());
    assert_close(cpu::add_channels(&image, &embedding).unwrap(), &portable::add_channels(&image, &embedding).unwrap());
    assert_eq!(ops::gelu(&x.to_dtype(DType::F64).unwrap()).unwrap().dtype(), DType::F64);
}

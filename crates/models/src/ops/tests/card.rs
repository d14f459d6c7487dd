//! The operations on a card against candle's own on the processor. Needs a card: `cargo test -p comfyd-models --features cuda card`.

use std::sync::LazyLock;

use super::*;

static CARD: LazyLock<Device> = LazyLock::new(|| {
    let device = Device::new_cuda_with_stream(0).expect("these tests need a card");
    assert!(device.is_cuda());
    device
});

fn there(t: &Tensor) -> Tensor {
    t.to_device(&CARD).unwrap()
}

/// As exact as factors of eleven bits are: `‖got - wanted‖ / ‖wanted‖`.
#[track_caller]
fn assert_near(got: &Tensor, wanted: &Tensor, tolerance: f32) {
    assert!(got.device().is_cuda() && got.dtype() == DType::F32 && got.dims() == wanted.dims(), "{got:?} {wanted:?}");
    let length = |t: &Tensor| t.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
    let error = length(&(got.to_device(&Device::Cpu).unwrap() - wanted).unwrap()) / length(wanted);
    assert!(error < tolerance, "the error is {error}");
}

fn tolerance(dtype: DType) -> f32 {
    if dtype == DType::BF16 { 8e-3 } else { 1e-3 }
}

#[test]
fn card_multiplies_matrices() {
    for dtype in TYPES {
        for (rows, depth, columns) in [(6, 37, 40), (1, 320, 1280), (300, 768, 64)] {
            let weight = Weight::Dense(tensor(1, &[columns + 3, depth]).to_dtype(dtype).unwrap().narrow(0, 3, columns).unwrap());
            let bias = tensor(2, &[columns]).to_dtype(dtype).unwrap();
            let x = tensor(3, &[2, rows + 1, depth]).narrow(1, 1, rows).unwrap();
            let on_card = weight.to_device(&CARD).unwrap();
            for bias in [Some(&bias), None] {
                let got = ops::linear(&there(&x), &on_card, bias.map(there).as_ref()).unwrap();
                assert_near(&got, &portable::linear(&x, &weight, bias).unwrap(), tolerance(dtype));
            }
        }
    }
    // Planes seen as tokens.
    let (x, weight) = (tensor(3, &[2, 36, 50]).transpose(1, 2).unwrap(), Weight::Dense(tensor(1, &[64, 36]).to_dtype(DType::F16).unwrap()));
    let wanted = portable::linear(&x, &weight, None).unwrap();
    let there_too = there(&x.transpose(1, 2).unwrap().contiguous().unwrap()).transpose(1, 2).unwrap();
    for _ in 0..2 {
        assert_near(&ops::linear(&there_too, &weight.to_device(&CARD).unwrap(), None).unwrap(), &wanted, 1e-3);
    }
    for weight in few_bits(&[64, 36]) {
        let x = tensor(3, &[7, 36]);
        assert_near(
            &ops::linear(&there(&x), &weight.to_device(&CARD).unwrap(), None).unwrap(),
            &portable::linear(&x, &weight, None).unwrap(),
            2e-3,
        );
    }
}

#[test]
fn card_multiplies_and_adds() {
    for dtype in TYPES {
        for (tokens, width) in [(35, 70), (64, 320)] {
            let weight = |seed, rows, columns| Weight::Dense((tensor(seed, &[rows, columns]) * 0.2).unwrap().to_dtype(dtype).unwrap());
            let x = tensor(3, &[2, tokens, width]);
            let (wide, narrow) = (weight(1, 6 * width, width), weight(2, width, 3 * width));
            let (of_wide, of_narrow) = (tensor(4, &[6 * width]), tensor(5, &[width]));
            let [wide_there, narrow_there] = [&wide, &narrow].map(|weight| weight.to_device(&CARD).unwrap());
            let [of_wide_there, of_narrow_there] = [&of_wide, &of_narrow].map(there);
            for residual in [None, Some(tensor(6, &[2, tokens, width]))] {
                let wanted = ops::feed_forward(&x, (&wide, Some(&of_wide)), (&narrow, Some(&of_narrow)), residual.as_ref()).unwrap();
                let (first, last) = ((&wide_there, Some(&of_wide_there)), (&narrow_there, Some(&of_narrow_there)));
                let got = ops::feed_forward(&there(&x), first, last, residual.as_ref().map(there).as_ref()).unwrap();
                assert_near(&got, &wanted, tolerance(dtype));
            }
            let planes = tensor(7, &[2, width, tokens / 5, 5]);
            let x = x.narrow(1, 0, tokens / 5 * 5).unwrap();
            let square = weight(8, width, width);
            for bias in [None, Some(&of_narrow)] {
                let wanted = ops::linear_to_planes(&x, (&square, bias), &planes).unwrap();
                let layer = (&square.to_device(&CARD).unwrap(), bias.map(there));
                let got = ops::linear_to_planes(&there(&x), (layer.0, layer.1.as_ref()), &there(&planes)).unwrap();
                assert_near(&got, &wanted, tolerance(dtype));
            }
        }
    }
}

#[test]
fn card_convolves() {
    for dtype in TYPES {
        for (kernel, stride, padding) in [(3, 1, 1), (3, 2, 1), (1, 1, 0), (2, 2, 0), (3, 2, 0)] {
            let weight = Weight::Dense(tensor(1, &[10, 7, kernel, kernel]).to_dtype(dtype).unwrap());
            let x = tensor(3, &[2, 9, 12, 19]).narrow(1, 1, 7).unwrap();
            let plain = portable::conv2d(&x, &weight, None, stride, padding).unwrap();
            let (bias, embedding, residual) = (tensor(2, &[10]), tensor(4, &[2, 10]), tensor(5, plain.dims()));
            let on_card = weight.to_device(&CARD).unwrap();
            assert_near(&ops::conv2d(&there(&x), &on_card, None, stride, padding).unwrap(), &plain, tolerance(dtype));
            let added = Added { bias: Some(&bias), channels: Some(&embedding), residual: Some(&residual) };
            let wanted = portable::conv2d_added(&x, &weight, added, stride, padding).unwrap();
            let [bias, embedding, residual] = [&bias, &embedding, &residual].map(there);
            let added = Added { bias: Some(&bias), channels: Some(&embedding), residual: Some(&residual) };
            assert_near(&ops::conv2d_added(&there(&x), &on_card, added, stride, padding).unwrap(), &wanted, tolerance(dtype));
        }
        let (x, weight) = (tensor(3, &[2, 7, 6, 9]), Weight::Dense(tensor(1, &[10, 7, 3, 3]).to_dtype(dtype).unwrap()));
        let wanted = portable::conv2d(&portable::upsample_nearest_2x(&x).unwrap(), &weight, None, 1, 1).unwrap();
        assert_near(&ops::conv2d_of_doubled(&there(&x), &weight.to_device(&CARD).unwrap(), None, 1).unwrap(), &wanted, tolerance(dtype));
    }
}

/// More patches than are made at once.
#[test]
fn card_convolves_large_pictures() {
    let (x, weight) = (tensor(3, &[1, 64, 420, 300]), Weight::Dense(tensor(1, &[3, 64, 3, 3])));
    let wanted = cpu::conv2d(&x, &weight, Added::default(), 1, 1).unwrap().unwrap();
    assert_near(&ops::conv2d(&there(&x), &weight.to_device(&CARD).unwrap(), None, 1, 1).unwrap(), &wanted, 1e-3);
}

#[test]
fn card_attends() {
    for (width, heads, queries, keys) in [
        (8, 3, 17, 21),
        (32, 2, 64, 64),
        (40, 8, 200, 77),
        (64, 5, 130, 257),
        (80, 2, 65, 64),
        (96, 1, 3, 1),
        (128, 2, 90, 90),
        (160, 8, 70, 77),
        (12, 2, 9, 9),
        (168, 2, 70, 33),
        (512, 1, 150, 90),
    ] {
        let tokens = |seed, count| tensor(seed, &[2, count, heads * width]);
        let (q, k, v) = ((tokens(1, queries) * 3.0).unwrap(), (tokens(2, keys) * 3.0).unwrap(), tokens(3, keys));
        let masks = [
            None,
            Some(tensor(4, &[queries, keys])),
            Some(tensor(5, &[2, queries, keys])),
            Some((tensor(6, &[2, heads, queries, keys]) * 4.0).unwrap()),
            Some(tensor(7, &[2, 1, 1, keys])),
        ];
        for mask in &masks {
            let got = ops::attention(&there(&q), &there(&k), &there(&v), heads, mask.as_ref().map(there).as_ref()).unwrap();
            assert_near(&got, &portable::attention(&q, &k, &v, heads, mask.as_ref()).unwrap(), 2e-3);
        }
    }
    // As text encoders mask: nothing looks ahead.
    let (q, k, v) = (tensor(1, &[2, 77, 128]), tensor(2, &[2, 77, 128]), tensor(3, &[2, 77, 128]));
    let ahead: Vec<f32> = (0..77 * 77).map(|at| if at % 77 > at / 77 { f32::NEG_INFINITY } else { 0.0 }).collect();
    let mask = Tensor::from_vec(ahead, (77, 77), &Device::Cpu).unwrap();
    let got = ops::attention(&there(&q), &there(&k), &there(&v), 2, Some(&there(&mask))).unwrap();
    assert_near(&got, &portable::attention(&q, &k, &v, 2, Some(&mask)).unwrap(), 2e-3);
}

#[test]
fn card_normalises() {
    for (shape, groups) in [(&[2, 12, 5, 7][..], 4), (&[1, 64, 130, 70], 32), (&[2, 320, 9, 1], 32)] {
        let (weight, bias) = (tensor(1, &[shape[1]]), tensor(2, &[shape[1]]));
        let x = (tensor(3, shape) + 5.0).unwrap();
        let wanted = portable::group_norm(&x, &weight, &bias, groups, 1e-5).unwrap();
        let got = ops::group_norm(&there(&x), &there(&weight), &there(&bias), groups, 1e-5).unwrap();
        assert_near(&got, &wanted, 1e-4);
        let got = ops::group_norm_silu(&there(&x), &there(&weight), &there(&bias), groups, 1e-5).unwrap();
        assert_near(&got, &portable::silu(&wanted).unwrap(), 1e-4);
    }
    for columns in [12, 320, 1280] {
        let (weight, bias, x) =
            (tensor(1, &[columns]), tensor(2, &[columns]), (tensor(3, &[3, 5, columns]) + 2.0).unwrap().transpose(0, 1).unwrap());
        let wanted = portable::layer_norm(&x, &weight, &bias, 1e-5).unwrap();
        assert_near(&ops::layer_norm(&there(&x), &there(&weight), &there(&bias), 1e-5).unwrap(), &wanted, 1e-4);
    }
}

#[test]
fn card_takes_single_numbers() {
    let x = (tensor(1, &[3, 5, 26]) * 4.0).unwrap();
    assert_near(&ops::geglu(&there(&x)).unwrap(), &portable::geglu(&x).unwrap(), 1e-5);
    assert_near(&ops::silu(&there(&x)).unwrap(), &portable::silu(&x).unwrap(), 1e-5);
    assert_near(&ops::gelu(&there(&x)).unwrap(), &portable::gelu(&x).unwrap(), 1e-5);
    assert_near(&ops::quick_gelu(&there(&x)).unwrap(), &portable::quick_gelu(&x).unwrap(), 1e-5);
    for shape in [&[3, 5, 7][..], &[2, 64]] {
        let (a, b) = (tensor(4, shape), tensor(5, shape));
        assert_near(&ops::add(&there(&a), &there(&b)).unwrap(), &(a + b).unwrap(), 1e-6);
    }
    let (image, embedding) = (tensor(2, &[2, 3, 4, 5]), tensor(3, &[2, 3]));
    assert_near(&ops::upsample_nearest_2x(&there(&image)).unwrap(), &portable::upsample_nearest_2x(&image).unwrap(), 1e-6);
    assert_near(
        &ops::add_channels(&there(&image), &there(&embedding)).unwrap(),
        &portable::add_channels(&image, &embedding).unwrap(),
        1e-6,
    );
}

//! Every kernel at the sizes of Stable Diffusion: `cargo bench -p comfyd-kernels -- NAME` runs those whose name contains NAME. `PRECISION=bf16`
//! rounds factors, `RAYON_NUM_THREADS` sets the threads, and `PROCESSOR_TIME=1` (Linux) measures what all threads ran for together in place of
//! the time that passed, which other load disturbs less.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use comfyd_kernels::random::Generator;
use comfyd_kernels::{
    Added, Attention, Conv2d, Format, GroupNorm, Out, Packed, Precision, Weight, add, attention, conv2d, conv2d_of_doubled, geglu, gelu,
    group_norm, layer_norm, linear, quick_gelu, silu, upsample_nearest,
};
use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{Criterion, Throughput};
use half::f16;

/// What all threads of this process run for.
struct ProcessorTime;

impl Measurement for ProcessorTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        let of_thread = |path: std::path::PathBuf| -> Option<u64> {
            std::fs::read_to_string(path.join("schedstat")).ok()?.split_whitespace().next()?.parse().ok()
        };
        let threads = std::fs::read_dir("/proc/self/task").expect("PROCESSOR_TIME needs Linux");
        Duration::from_nanos(threads.flatten().filter_map(|thread| of_thread(thread.path())).sum())
    }
    fn end(&self, before: Duration) -> Duration {
        self.start().saturating_sub(before)
    }
    fn add(&self, one: &Duration, other: &Duration) -> Duration {
        *one + *other
    }
    fn zero(&self) -> Duration {
        Duration::ZERO
    }
    fn to_f64(&self, time: &Duration) -> f64 {
        WallTime.to_f64(time)
    }
    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

fn main() {
    if let Ok(named) = std::env::var("PRECISION") {
        Precision::ALL.into_iter().find(|known| known.name() == named).expect("PRECISION is auto, f32 or bf16").choose();
    }
    let few = || Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
    if std::env::var_os("PROCESSOR_TIME").is_some() {
        all(few().with_measurement(ProcessorTime).configure_from_args());
    } else {
        all(few().configure_from_args());
    }
}

fn all<M: Measurement + 'static>(mut criterion: Criterion<M>) {
    products(&mut criterion);
    convolutions(&mut criterion);
    other_convolutions(&mut criterion);
    attentions(&mut criterion);
    elementwise(&mut criterion);
    criterion.final_summary();
}

/// One kernel; `operations` are the multiplications and additions of a call.
fn time<M: Measurement, T>(criterion: &mut Criterion<M>, name: &str, operations: usize, mut work: impl FnMut() -> T) {
    let mut group = criterion.benchmark_group("kernels");
    if operations > 0 {
        group.throughput(Throughput::Elements(operations as u64));
    }
    group.bench_function(name, |bencher| bencher.iter(&mut work));
    group.finish();
}

/// Numbers in [-1, 1), always the same.
fn numbers(len: usize) -> Vec<f32> {
    Generator::new(1).rand(len).into_iter().map(|x| 2.0 * x - 1.0).collect()
}

/// A weight in every form; in few bits with whatever numbers these bytes are.
fn weights<'a>(numbers: &'a [f32], halves: &'a [f16], bytes: &'a [u8]) -> Vec<(String, Weight<'a>)> {
    let dense = [("f32".to_owned(), Weight::F32(numbers)), ("f16".to_owned(), Weight::F16(halves))];
    let formats = [
        Format::E4m3,
        Format::E5m2,
        Format::Q4_0,
        Format::Q4_1,
        Format::Q5_0,
        Format::Q5_1,
        Format::Q8_0,
        Format::Q2K,
        Format::Q3K,
        Format::Q4K,
        Format::Q5K,
        Format::Q6K,
        Format::Q8K,
    ];
    let packed = formats.map(|format| {
        let (numbers_each, bytes_each) = format.block();
        let bytes = &bytes[..numbers.len() / numbers_each * bytes_each];
        (format!("{format:?}"), Weight::Packed(Packed { format, bytes, scales: &[] }))
    });
    dense.into_iter().chain(packed).collect()
}

fn products<M: Measurement>(criterion: &mut Criterion<M>) {
    let text = [(77, 768, 768), (77, 768, 3072), (77, 3072, 768), (154, 768, 3072)];
    for (rows, depth, columns) in [(4096, 1280, 1280), (4096, 320, 2560), (64, 1280, 1280), (2, 320, 1280)].into_iter().chain(text) {
        let (x, w, bias) = (numbers(rows * depth), numbers(columns * depth), numbers(columns));
        let halves: Vec<f16> = w.iter().map(|&x| f16::from_f32(x)).collect();
        let mut out = vec![0.0; rows * columns];
        let bytes = vec![0x31; 2 * w.len()];
        for (kind, weight) in weights(&w, &halves, &bytes) {
            time(criterion, &format!("linear {rows}x{depth}x{columns} {kind}"), 2 * rows * depth * columns, || {
                linear(&x, weight, Some(&bias), rows, depth, columns, Out::of(&mut out)).unwrap();
            });
        }
    }
}

fn convolutions<M: Measurement>(criterion: &mut Criterion<M>) {
    for (channels, size) in [(320, 64), (640, 32), (1280, 16), (1280, 8), (128, 256), (512, 64)] {
        let (batch, pixels) = (2, size * size);
        let (x, w, bias) = (numbers(batch * channels * pixels), numbers(channels * channels * 9), numbers(channels));
        let halves: Vec<f16> = w.iter().map(|&x| f16::from_f32(x)).collect();
        let mut out = vec![0.0; x.len()];
        let sizes = Conv2d {
            batch,
            in_channels: channels,
            out_channels: channels,
            height: size,
            width: size,
            kernel_height: 3,
            kernel_width: 3,
            stride: 1,
            padding: 1,
        };
        let bytes = vec![0x31; 2 * w.len()];
        for (kind, weight) in weights(&w, &halves, &bytes) {
            time(criterion, &format!("conv 3x3 {channels} {size}x{size} {kind}"), 2 * batch * channels * channels * 9 * pixels, || {
                conv2d(&x, weight, Added { bias: Some(&bias), ..Added::default() }, &sizes, Out::of(&mut out)).unwrap();
            });
        }
    }
}

/// Those that are not 3x3 with a stride of one: shortcuts, halving, doubling.
fn other_convolutions<M: Measurement>(criterion: &mut Criterion<M>) {
    let (batch, channels, size) = (2, 320, 64);
    for (name, kernel, stride, doubled) in [("1x1", 1, 1, false), ("3x3 stride 2", 3, 2, false), ("3x3 of doubled", 3, 1, true)] {
        let (x, w) = (numbers(batch * channels * size * size), numbers(channels * channels * kernel * kernel));
        let halves: Vec<f16> = w.iter().map(|&x| f16::from_f32(x)).collect();
        let side = if doubled { 2 * size } else { size };
        let sizes = Conv2d {
            batch,
            in_channels: channels,
            out_channels: channels,
            height: side,
            width: side,
            kernel_height: kernel,
            kernel_width: kernel,
            stride,
            padding: kernel / 2,
        };
        let (height, width) = sizes.output_size().unwrap();
        let mut out = vec![0.0; batch * channels * height * width];
        let convolution = if doubled { conv2d_of_doubled } else { conv2d };
        let operations = 2 * batch * channels * channels * kernel * kernel * height * width;
        time(criterion, &format!("conv {name} {channels} {size}x{size}"), operations, || {
            convolution(&x, Weight::F16(&halves), Added::default(), &sizes, Out::of(&mut out)).unwrap();
        });
    }
}

fn attentions<M: Measurement>(criterion: &mut Criterion<M>) {
    for (queries, keys, heads, head_dim) in [
        (4096, 4096, 8, 40),
        (4096, 4096, 10, 64),
        (1024, 1024, 8, 80),
        (1024, 1024, 20, 64),
        (256, 256, 8, 160),
        (256, 256, 20, 64),
        (4096, 77, 8, 40),
        (4096, 77, 10, 64),
        (1024, 77, 20, 64),
    ] {
        let batch = 2;
        let inner = heads * head_dim;
        let (q, k, v) = (numbers(batch * queries * inner), numbers(batch * keys * inner), numbers(batch * keys * inner));
        let mut out = vec![0.0; q.len()];
        let sizes = Attention { batch, heads, head_dim, queries, keys };
        time(criterion, &format!("attention {queries}x{keys} h{heads} d{head_dim}"), 4 * batch * queries * keys * inner, || {
            attention(&q, &k, &v, &sizes, None, Out::of(&mut out)).unwrap();
        });
    }
}

fn elementwise<M: Measurement>(criterion: &mut Criterion<M>) {
    let x = numbers(2 * 320 * 64 * 64);
    let (weight, bias) = (numbers(320), numbers(320));
    let mut out = vec![0.0; x.len()];
    let sizes = GroupNorm { batch: 2, channels: 320, pixels: 64 * 64, groups: 32, eps: 1e-5, silu: true };
    time(criterion, "group_norm_silu 2x320x64x64", 0, || group_norm(&x, &weight, &bias, &sizes, Out::of(&mut out)).unwrap());
    time(criterion, "layer_norm 2x4096x320", 0, || layer_norm(&x, Some(&weight), Some(&bias), 320, 1e-5, Out::of(&mut out)).unwrap());
    let activations = [("silu", silu as fn(&[f32], Out<'_>) -> _), ("gelu", gelu), ("quick_gelu", quick_gelu)];
    for (name, activation) in activations {
        time(criterion, &format!("{name} 2x320x64x64"), 0, || activation(&x, Out::of(&mut out)).unwrap());
    }
    time(criterion, "add 2x320x64x64", 0, || add(&x, &x, Out::of(&mut out)).unwrap());
    let mut doubled = vec![0.0; 4 * x.len()];
    time(criterion, "upsample_nearest 2x320x64x64", 0, || upsample_nearest(&x, 2 * 320, 64, 64, 2, Out::of(&mut doubled)).unwrap());
    let x = numbers(2 * 4096 * 2560);
    let mut out = vec![0.0; x.len() / 2];
    time(criterion, "geglu 2x4096x2560", 0, || geglu(&x, 1280, Out::of(&mut out)).unwrap());
}

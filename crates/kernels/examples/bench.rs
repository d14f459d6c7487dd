//! Times every kernel at the sizes of Stable Diffusion: `cargo run --release -p comfyd-kernels --example bench -- [NAME [REPEATS [PRECISION]]]` runs
//! those whose name contains NAME and prints the least time of each, and the least processor time of all threads together, which other load
//! disturbs less (0 where the system does not tell it). `RAYON_NUM_THREADS` sets the threads.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Instant;

use comfyd_kernels::{
    Added, Attention, Conv2d, Format, GroupNorm, Packed, Precision, Weight, attention, conv2d, geglu, group_norm, layer_norm, linear,
};
use half::f16;

struct Bench {
    only: String,
    repeats: usize,
}

impl Bench {
    fn time(&self, name: &str, operations: usize, mut work: impl FnMut()) {
        if !name.contains(&self.only) {
            return;
        }
        work();
        let (mut least, mut least_busy) = (f64::INFINITY, f64::INFINITY);
        for _ in 0..self.repeats {
            let (start, busy) = (Instant::now(), processor_time_s());
            work();
            least = least.min(start.elapsed().as_secs_f64());
            least_busy = least_busy.min(processor_time_s() - busy);
        }
        let rate = operations as f64 / least / 1e9;
        println!("{name}\t{:.2} ms\t{rate:.1} GFLOP/s\t{:.2} ms of processors", 1e3 * least, 1e3 * least_busy);
    }
}

/// What all threads of this process have run for so far.
fn processor_time_s() -> f64 {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else { return 0.0 };
    let of_thread = |path: std::path::PathBuf| -> Option<f64> {
        std::fs::read_to_string(path.join("schedstat")).ok()?.split_whitespace().next()?.parse().ok()
    };
    threads.flatten().filter_map(|thread| of_thread(thread.path())).sum::<f64>() / 1e9
}

fn numbers(len: usize) -> Vec<f32> {
    let mut state = 88_172_645_463_325_252u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

fn main() {
    let mut args = std::env::args().skip(1);
    let only = args.next().unwrap_or_default();
    let repeats = args.next().map_or(5, |repeats| repeats.parse().expect("REPEATS is a number"));
    if let Some(precision) = args.next() {
        let known = Precision::ALL.into_iter().find(|known| known.name() == precision).expect("PRECISION is auto, f32 or bf16");
        known.choose();
    }
    let bench = Bench { only, repeats };
    products(&bench);
    convolutions(&bench);
    attentions(&bench);
    elementwise(&bench);
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

fn products(bench: &Bench) {
    for (rows, depth, columns) in [(4096, 1280, 1280), (4096, 320, 2560), (64, 1280, 1280), (154, 768, 3072), (2, 320, 1280)] {
        let (x, w, bias) = (numbers(rows * depth), numbers(columns * depth), numbers(columns));
        let halves: Vec<f16> = w.iter().map(|&x| f16::from_f32(x)).collect();
        let mut out = vec![0.0; rows * columns];
        let bytes = vec![0x31; 2 * w.len()];
        for (kind, weight) in weights(&w, &halves, &bytes) {
            bench.time(&format!("linear {rows}x{depth}x{columns} {kind}"), 2 * rows * depth * columns, || {
                linear(&x, weight, Some(&bias), rows, depth, columns, &mut out).unwrap();
            });
        }
    }
}

fn convolutions(bench: &Bench) {
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
            bench.time(&format!("conv 3x3 {channels} {size}x{size} {kind}"), 2 * batch * channels * channels * 9 * pixels, || {
                conv2d(&x, weight, Added { bias: Some(&bias), ..Added::default() }, &sizes, &mut out).unwrap();
            });
        }
    }
}

fn attentions(bench: &Bench) {
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
        bench.time(&format!("attention {queries}x{keys} h{heads} d{head_dim}"), 4 * batch * queries * keys * inner, || {
            attention(&q, &k, &v, &sizes, None, &mut out).unwrap();
        });
    }
}

fn elementwise(bench: &Bench) {
    let x = numbers(2 * 320 * 64 * 64);
    let (weight, bias) = (numbers(320), numbers(320));
    let mut out = vec![0.0; x.len()];
    let sizes = GroupNorm { batch: 2, channels: 320, pixels: 64 * 64, groups: 32, eps: 1e-5, silu: true };
    bench.time("group_norm_silu 2x320x64x64", 0, || group_norm(&x, &weight, &bias, &sizes, &mut out).unwrap());
    bench.time("layer_norm 2x4096x320", 0, || layer_norm(&x, Some(&weight), Some(&bias), 320, 1e-5, &mut out).unwrap());
    let x = numbers(2 * 4096 * 2560);
    let mut out = vec![0.0; x.len() / 2];
    bench.time("geglu 2x4096x2560", 0, || geglu(&x, 1280, &mut out).unwrap());
}

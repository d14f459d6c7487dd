//! Weights in few bits, and their numbers as `f32`: eight-bit floats, and ggml's blocks of 32 or 256 numbers with scales of their own
//! (`ggml-common.h` of <https://github.com/ggml-org/ggml>). A product unpacks what it is about to multiply; no whole copy is ever made.

use half::f16;

use crate::simd::{Level, Simd, Task, dispatch};

/// How numbers are kept in few bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Format {
    /// Floats with three bits of mantissa and no infinity.
    E4m3,
    /// Floats with two bits of mantissa.
    E5m2,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Q8K,
}

impl Format {
    /// The numbers of a block, and its bytes.
    pub fn block(self) -> (usize, usize) {
        match self {
            Self::E4m3 | Self::E5m2 => (1, 1),
            Self::Q4_0 => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q5_0 => (32, 22),
            Self::Q5_1 => (32, 24),
            Self::Q8_0 => (32, 34),
            Self::Q2K => (256, 84),
            Self::Q3K => (256, 110),
            Self::Q4K => (256, 144),
            Self::Q5K => (256, 176),
            Self::Q6K => (256, 210),
            Self::Q8K => (256, 292),
        }
    }
}

/// A weight in few bits. What comes out of blocks is rounded to half precision, in which the reference unpacks them.
#[derive(Clone, Copy, Debug)]
pub struct Packed<'a> {
    /// How its numbers are kept.
    pub format: Format,
    /// The blocks. They follow each other without regard to rows.
    pub bytes: &'a [u8],
    /// What the numbers are multiplied by: nothing, one number, or one for each row.
    pub scales: &'a [f32],
}

impl Packed<'_> {
    /// Writes the numbers `k0..k0 + kc` of rows of `depth` numbers from `row` on, as many as there is room for.
    pub(crate) fn unpack_rows(self, level: Level, depth: usize, row: usize, k0: usize, kc: usize, out: &mut [f32]) {
        // Whole rows follow each other, so that no block is unpacked twice.
        let at_once = if kc == depth { out.len() } else { kc };
        for (i, out) in out.chunks_mut(at_once.max(1)).enumerate() {
            dispatch(level, Unpack { packed: self, start: (row + i) * depth + k0, out });
        }
        if self.scales.is_empty() {
            return;
        }
        for (i, out) in out.chunks_mut(kc.max(1)).enumerate() {
            let scale = self.scales[if self.scales.len() == 1 { 0 } else { row + i }];
            out.iter_mut().for_each(|x| *x *= scale);
        }
    }
}

/// Unpacks a run of numbers.
struct Unpack<'a, 'b> {
    packed: Packed<'a>,
    start: usize,
    out: &'b mut [f32],
}

impl Task for Unpack<'_, '_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { packed: Packed { format, bytes, .. }, start, out } = self;
        match format {
            Format::E4m3 => return floats(bytes, start, out, e4m3),
            Format::E5m2 => return floats(bytes, start, out, e5m2),
            Format::Q4_0 => parts::<32, 1, 18>(bytes, start, out, q4_0),
            Format::Q4_1 => parts::<32, 1, 20>(bytes, start, out, q4_1),
            Format::Q5_0 => parts::<32, 1, 22>(bytes, start, out, q5_0),
            Format::Q5_1 => parts::<32, 1, 24>(bytes, start, out, q5_1),
            Format::Q8_0 => parts::<32, 1, 34>(bytes, start, out, q8_0),
            Format::Q2K => parts::<128, 2, 84>(bytes, start, out, q2_k),
            Format::Q3K => parts::<128, 2, 110>(bytes, start, out, q3_k),
            Format::Q4K => parts::<64, 4, 144>(bytes, start, out, q4_k),
            Format::Q5K => parts::<64, 4, 176>(bytes, start, out, q5_k),
            Format::Q6K => parts::<128, 2, 210>(bytes, start, out, q6_k),
            Format::Q8K => parts::<64, 4, 292>(bytes, start, out, q8_k),
        }
        let mut vectors = out.chunks_exact_mut(S::LANES);
        for vector in &mut vectors {
            // SAFETY: the caller has the instruction set, and the chunk is a vector long.
            unsafe { S::store(vector.as_mut_ptr(), S::round_f16(S::load(vector.as_ptr()))) };
        }
        vectors.into_remainder().iter_mut().for_each(|x| *x = f16::from_f32(*x).to_f32());
    }
}

#[inline(always)]
fn floats(bytes: &[u8], start: usize, out: &mut [f32], value: impl Fn(u8) -> f32) {
    for (out, byte) in out.iter_mut().zip(&bytes[start..]) {
        *out = value(*byte);
    }
}

/// Unpacks blocks of `PARTS` parts of `LEN` numbers. What is asked for may begin and end inside a part.
#[inline(always)]
fn parts<const LEN: usize, const PARTS: usize, const BYTES: usize>(
    bytes: &[u8],
    start: usize,
    mut out: &mut [f32],
    unpack: impl Fn(&[u8; BYTES], usize, &mut [f32; LEN]),
) {
    let (blocks, _) = bytes.as_chunks::<BYTES>();
    let (mut part, mut skip) = (start / LEN, start % LEN);
    while !out.is_empty() {
        let block = &blocks[part / PARTS];
        let (some, rest) = out.split_at_mut(out.len().min(LEN - skip));
        if let Ok(whole) = <&mut [f32; LEN]>::try_from(&mut *some) {
            unpack(block, part % PARTS, whole);
        } else {
            let mut whole = [0.0; LEN];
            unpack(block, part % PARTS, &mut whole);
            some.copy_from_slice(&whole[skip..skip + some.len()]);
        }
        (out, part, skip) = (rest, part + 1, 0);
    }
}

/// Without branches, as the functions below are, so that the compiler makes vectors of them.
#[inline(always)]
fn e4m3(byte: u8) -> f32 {
    let bits = u32::from(byte);
    // The exponents' biases are 7 and 127; below the normal range the mantissa counts 2^-9.
    let normal = ((bits & 0x7f) << 20) + (120 << 23);
    let small = ((bits & 7) as f32 * 2f32.powi(-9)).to_bits();
    let number = if bits & 0x78 == 0 { small } else { normal };
    let number = if bits & 0x7f == 0x7f { f32::NAN.to_bits() } else { number };
    f32::from_bits(number | (bits & 0x80) << 24)
}

#[inline(always)]
fn e5m2(byte: u8) -> f32 {
    let bits = u32::from(byte);
    // The exponents' biases are 15 and 127; below the normal range the mantissa counts 2^-16, above it the largest exponent stays that.
    let normal = ((bits & 0x7f) << 21) + (112 << 23);
    let small = ((bits & 3) as f32 * 2f32.powi(-16)).to_bits();
    let number = if bits & 0x7c == 0 { small } else { normal };
    let number = if bits & 0x7c == 0x7c { (bits & 3) << 21 | 0xff << 23 } else { number };
    f32::from_bits(number | (bits & 0x80) << 24)
}

/// The half precision number at a place of a block.
#[inline(always)]
fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// The whole number of five bits that have their highest one apart, at a place of a block.
#[inline(always)]
fn high_bits(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

/// Sixteen bytes hold the low four bits of the first sixteen numbers, above them those of the others.
#[inline(always)]
fn nibbles(low: &[u8], high: u32, out: &mut [f32; 32], value: impl Fn(i32) -> f32) {
    for (i, byte) in low.iter().enumerate().take(16) {
        let (first, second) = (high >> i & 1, high >> (i + 16) & 1);
        out[i] = value((u32::from(byte & 0xf) | first << 4) as i32);
        out[i + 16] = value((u32::from(byte >> 4) | second << 4) as i32);
    }
}

#[inline(always)]
fn q4_0(block: &[u8; 18], _: usize, out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    nibbles(&block[2..], 0, out, |q| (q - 8) as f32 * d);
}

#[inline(always)]
fn q4_1(block: &[u8; 20], _: usize, out: &mut [f32; 32]) {
    let (d, min) = (half_at(block, 0), half_at(block, 2));
    nibbles(&block[4..], 0, out, |q| q as f32 * d + min);
}

#[inline(always)]
fn q5_0(block: &[u8; 22], _: usize, out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    nibbles(&block[6..], high_bits(block, 2), out, |q| (q - 16) as f32 * d);
}

#[inline(always)]
fn q5_1(block: &[u8; 24], _: usize, out: &mut [f32; 32]) {
    let (d, min) = (half_at(block, 0), half_at(block, 2));
    nibbles(&block[8..], high_bits(block, 4), out, |q| q as f32 * d + min);
}

#[inline(always)]
fn q8_0(block: &[u8; 34], _: usize, out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for (out, q) in out.iter_mut().zip(&block[2..]) {
        *out = f32::from(*q as i8) * d;
    }
}

/// Runs of sixteen numbers with a scale and a minimum each, both of four bits.
#[inline(always)]
fn q2_k(block: &[u8; 84], part: usize, out: &mut [f32; 128]) {
    let (d, min, bits) = (half_at(block, 80), half_at(block, 82), &block[16 + 32 * part..48 + 32 * part]);
    for (i, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = block[8 * part + i];
        let (d, min) = (d * f32::from(scale & 0xf), min * f32::from(scale >> 4));
        for (out, q) in out.iter_mut().zip(&bits[i % 2 * 16..]) {
            *out = d * f32::from(q >> (i / 2 * 2) & 3) - min;
        }
    }
}

/// Runs of sixteen numbers with a scale each, of six bits: four in its first eight bytes, two in the next four.
#[inline(always)]
fn q3_k(block: &[u8; 110], part: usize, out: &mut [f32; 128]) {
    let (d, high, scales) = (half_at(block, 108), &block[..32], &block[96..108]);
    let bits = &block[32 + 32 * part..64 + 32 * part];
    for (i, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let run = 8 * part + i;
        let scale = scales[run % 8] >> (run / 8 * 4) & 0xf | (scales[8 + run % 4] >> (run / 4 * 2) & 3) << 4;
        let d = d * (f32::from(scale) - 32.0);
        let from = i % 2 * 16;
        for (out, (q, high)) in out.iter_mut().zip(bits[from..].iter().zip(&high[from..])) {
            let high = high >> (run / 2) & 1;
            *out = d * f32::from((q >> (i / 2 * 2) & 3 | high << 2) as i8 - 4);
        }
    }
}

/// The scale and the minimum of one of eight runs, of six bits each, in twelve bytes.
#[inline(always)]
fn scale_and_min(scales: &[u8], run: usize) -> (f32, f32) {
    let (scale, min) = if run < 4 {
        (scales[run] & 63, scales[run + 4] & 63)
    } else {
        (scales[run + 4] & 0xf | scales[run - 4] >> 6 << 4, scales[run + 4] >> 4 | scales[run] >> 6 << 4)
    };
    (f32::from(scale), f32::from(min))
}

#[inline(always)]
fn q4_k(block: &[u8; 144], part: usize, out: &mut [f32; 64]) {
    let (d, min, bits) = (half_at(block, 0), half_at(block, 2), &block[16 + 32 * part..48 + 32 * part]);
    for (i, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, of_min) = scale_and_min(&block[4..16], 2 * part + i);
        let (d, min) = (d * scale, min * of_min);
        for (out, q) in out.iter_mut().zip(bits) {
            *out = d * f32::from(q >> (4 * i) & 0xf) - min;
        }
    }
}

#[inline(always)]
fn q5_k(block: &[u8; 176], part: usize, out: &mut [f32; 64]) {
    let (d, min, bits) = (half_at(block, 0), half_at(block, 2), &block[48 + 32 * part..80 + 32 * part]);
    for (i, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let run = 2 * part + i;
        let (scale, of_min) = scale_and_min(&block[4..16], run);
        let (d, min) = (d * scale, min * of_min);
        for (out, (q, high)) in out.iter_mut().zip(bits.iter().zip(&block[16..48])) {
            *out = d * f32::from(q >> (4 * i) & 0xf | (high >> run & 1) << 4) - min;
        }
    }
}

#[inline(always)]
fn q6_k(block: &[u8; 210], part: usize, out: &mut [f32; 128]) {
    let (d, low, high) = (half_at(block, 208), &block[64 * part..64 + 64 * part], &block[128 + 32 * part..160 + 32 * part]);
    for (i, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let (run, from) = (i / 2, i % 2 * 16);
        let d = d * f32::from(block[192 + 8 * part + i] as i8);
        for (out, (low, high)) in out.iter_mut().zip(low[run % 2 * 32 + from..].iter().zip(&high[from..])) {
            let q = low >> (run / 2 * 4) & 0xf | (high >> (2 * run) & 3) << 4;
            *out = d * f32::from(q as i8 - 32);
        }
    }
}

#[inline(always)]
fn q8_k(block: &[u8; 292], part: usize, out: &mut [f32; 64]) {
    let d = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
    for (out, q) in out.iter_mut().zip(&block[4 + 64 * part..]) {
        *out = d * f32::from(*q as i8);
    }
}

//! The rows of a weight as the products read them: where they lie, as `f32` in a buffer, or rounded to tiles. Knows no way of packing.

use std::mem::MaybeUninit;

use crate::simd::{Element, Level, Simd, Sixteen, prefetch};
use crate::tile16::round_rows;
use crate::weight::Weight;

/// A weight whose rows can be read piece by piece.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    weight: Weight<'a>,
    depth: usize,
    level: Level,
}

impl<'a> Rows<'a> {
    /// Rows of `depth` numbers, read with these instructions.
    pub(crate) fn new(weight: Weight<'a>, depth: usize, level: Level) -> Self {
        Self { weight, depth, level }
    }

    /// Whether pieces lie where they are, so that they need no buffer.
    pub(crate) fn lie(&self) -> bool {
        matches!(self.weight, Weight::F32(_))
    }

    /// Where these numbers begin, and what is read next, most likely: the numbers behind them, or the first ones of the rows below.
    #[inline(always)]
    fn places(&self, row: usize, count: usize, k0: usize, kc: usize) -> (usize, usize) {
        let start = row * self.depth + k0;
        (start, if k0 + kc < self.depth { start + kc } else { (row + count) * self.depth })
    }

    /// The numbers `k0..k0 + kc` of `count` rows from `row` on, and how far apart the rows are.
    ///
    /// # Safety
    /// The rows have these numbers; the instruction set is available; the buffer holds `count * kc` numbers unless they [`Rows::lie`], and is
    /// initialised as by [`Rows::room`].
    #[inline(always)]
    pub(crate) unsafe fn pieces<S: Simd>(&self, row: usize, count: usize, k0: usize, kc: usize, buffer: *mut f32) -> (*const f32, usize) {
        let (start, next) = self.places(row, count, k0, kc);
        // SAFETY: the caller's.
        unsafe {
            match self.weight {
                Weight::F32(numbers) => return (numbers.as_ptr().add(start), self.depth),
                Weight::F16(numbers) => convert_rows::<S, _>(numbers.as_ptr(), (start, next), self.depth, count, kc, buffer),
                Weight::BF16(numbers) => convert_rows::<S, _>(numbers.as_ptr(), (start, next), self.depth, count, kc, buffer),
                Weight::Packed(packed) => {
                    packed.unpack_rows(self.level, self.depth, row, k0, kc, std::slice::from_raw_parts_mut(buffer, count * kc));
                }
            }
        }
        (buffer, kc)
    }

    /// The same rounded to tiles, of rows of the `whole` depth.
    ///
    /// # Safety
    /// As for [`Rows::pieces`], and for [`round_rows`].
    #[inline(always)]
    pub(crate) unsafe fn round<S: Sixteen>(
        &self,
        (row, count): (usize, usize),
        (k0, kc): (usize, usize),
        whole: usize,
        buffer: *mut f32,
        to: *mut u32,
    ) {
        let (start, next) = self.places(row, count, k0, kc);
        let (apart, depth) = ((self.depth, next - start), (kc, whole));
        // SAFETY: the caller's.
        unsafe {
            match self.weight {
                Weight::F32(numbers) => round_rows::<S, _>(numbers.as_ptr().add(start), apart, count, depth, 1.0, to),
                Weight::F16(numbers) => round_rows::<S, _>(numbers.as_ptr().add(start), apart, count, depth, 1.0, to),
                Weight::BF16(numbers) => round_rows::<S, _>(numbers.as_ptr().add(start), apart, count, depth, 1.0, to),
                Weight::Packed(_) => {
                    let (numbers, ld) = self.pieces::<S::F32>(row, count, k0, kc, buffer);
                    round_rows::<S, _>(numbers, (ld, 0), count, depth, 1.0, to);
                }
            }
        }
    }

    /// A buffer for [`Rows::pieces`], initialised where it is handed on as a slice: to clear it for every weight costs a product up to a fifth.
    #[inline(always)]
    pub(crate) fn room<const N: usize>(&self) -> MaybeUninit<[f32; N]> {
        let mut buffer = MaybeUninit::uninit();
        if matches!(self.weight, Weight::Packed(_)) {
            buffer.write([0.0; N]);
        }
        buffer
    }
}

/// Converts rows that are `ld` apart, and has the system fetch as much from where the next ones begin: rows are too short for processors to
/// see what comes.
///
/// # Safety
/// `numbers` is valid for `count` rows of `kc` elements from `start` on, `dst` for as many numbers.
#[inline(always)]
unsafe fn convert_rows<S: Simd, E: Element>(
    numbers: *const E,
    (start, next): (usize, usize),
    ld: usize,
    count: usize,
    kc: usize,
    dst: *mut f32,
) {
    for row in 0..count {
        // SAFETY: the caller's; `i + LANES <= kc` in the first loop, `i < kc` in the second. Nothing need be there to be fetched.
        unsafe {
            let (src, dst) = (numbers.add(start + row * ld), dst.add(row * kc));
            let next = numbers.wrapping_add(next + row * ld);
            let mut i = 0;
            while i + S::LANES <= kc {
                if i.is_multiple_of(64 / size_of::<E>()) {
                    prefetch(next.wrapping_add(i));
                }
                S::store(dst.add(i), E::load::<S>(src.add(i)));
                i += S::LANES;
            }
            while i < kc {
                *dst.add(i) = (*src.add(i)).to_f32();
                i += 1;
            }
        }
    }
}

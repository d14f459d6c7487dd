//! The rows of a weight as the products read them: where they lie, or unpacked into a buffer. Knows no way of packing.

use std::mem::MaybeUninit;

use crate::simd::{Element, Simd};

/// A weight whose rows can be read piece by piece.
pub(crate) trait Rows: Copy + Send + Sync {
    /// What the pieces are made of.
    type Element: Element;
    /// Whether pieces are written to the buffer.
    const PACKED: bool;

    /// The numbers `k0..k0 + kc` of `count` rows from `row` on, and how far apart the rows are.
    ///
    /// # Safety
    /// The rows have these numbers; the instruction set is available; the buffer holds `count * kc` initialised numbers if this is packed.
    unsafe fn pieces<S: Simd>(
        &self,
        row: usize,
        count: usize,
        k0: usize,
        kc: usize,
        buffer: *mut Self::Element,
    ) -> (*const Self::Element, usize);
}

/// A buffer for [`Rows::pieces`], initialised where it is written to: to clear it for rows that lie in memory costs a product up to a fifth.
#[inline(always)]
pub(crate) fn room<W: Rows, const N: usize>() -> MaybeUninit<[f32; N]> {
    let mut buffer = MaybeUninit::uninit();
    if W::PACKED {
        buffer.write([0.0; N]);
    }
    buffer
}

/// Rows that lie in memory one after the other.
#[derive(Clone, Copy)]
pub(crate) struct Dense<'a, E> {
    pub(crate) numbers: &'a [E],
    pub(crate) depth: usize,
}

impl<E: Element> Rows for Dense<'_, E> {
    type Element = E;
    const PACKED: bool = false;

    #[inline(always)]
    unsafe fn pieces<S: Simd>(&self, row: usize, _: usize, k0: usize, _: usize, _: *mut E) -> (*const E, usize) {
        // SAFETY: the caller's.
        (unsafe { self.numbers.as_ptr().add(row * self.depth + k0) }, self.depth)
    }
}

//! The innermost loops of products of sixteen bits, and what rounds the factors for them. Knows no blocking.
//!
//! Each block of a factor is multiplied by a power of two of its own before it is rounded, and the sums by what takes that back while they are
//! widened, so that half precision has room for numbers of any size.

// Tiles are arrays of registers: loops with constant bounds over indices are what the compiler unrolls.
#![allow(clippy::needless_range_loop)]

use std::hint::black_box;

use crate::simd::{Element, Simd, Sixteen, TILE_LEN, TILE_ROWS, TILE_WORDS, TileProduct, prefetch};
use crate::tile::{Init, Target};

/// Columns of a panel.
const WIDTH: usize = 32;
/// Rows of a tile of two panels.
const ROWS: usize = 12;
/// Most panels of a tile.
const MOST_PANELS: usize = 2;
/// Words from one rounded row to the next: a constant, so that a tile's rows need one pointer.
pub(crate) const ROW_STRIDE: usize = 160;
/// What lies behind the last number of an odd depth.
static NOTHING: [f32; WIDTH] = [0.0; WIDTH];

/// The words of this many numbers along the depth.
pub(crate) const fn words<S: Sixteen>(depth: usize) -> usize {
    depth.div_ceil(S::DEPTH)
}

/// The words of a panel of this depth.
pub(crate) const fn panel_words<S: Sixteen>(depth: usize) -> usize {
    let words = words::<S>(depth);
    (if S::TILES.is_some() { words.next_multiple_of(TILE_WORDS) * S::PARTS } else { words }) * S::ROW_WORDS
}

/// The words of as many rows of this depth as a tile has.
pub(crate) const fn group_words<S: Sixteen>(depth: usize) -> usize {
    TILE_ROWS * words::<S>(depth).next_multiple_of(TILE_WORDS) * S::PARTS
}

/// The words of so many rounded rows of this depth: whole tiles, as many rows as are multiplied at once, or rows [`ROW_STRIDE`] apart.
pub(crate) const fn rows_words<S: Sixteen>(rows: usize, depth: usize) -> usize {
    if S::TILES.is_some() { rows.div_ceil(TALL_ROWS) * 2 * group_words::<S>(depth) } else { rows * ROW_STRIDE }
}

/// The greatest magnitude of rows that are `ld` apart, but for what is not a number.
///
/// # Safety
/// The instruction set is available; `src` is valid for these rows of `len` numbers.
#[inline(always)]
unsafe fn greatest<S: Simd>(src: *const f32, ld: usize, rows: usize, len: usize) -> f32 {
    // SAFETY: the caller's; `i + LANES <= len` in the first loop, `i < len` in the second.
    unsafe {
        let mut most = [S::zero(); 2];
        let mut rest = 0.0f32;
        for row in 0..rows {
            let src = src.add(row * ld);
            let mut i = 0;
            while i + S::LANES <= len {
                let number = S::load(src.add(i));
                most[row % 2] = S::max(S::max(number, S::sub(S::zero(), number)), most[row % 2]);
                i += S::LANES;
            }
            while i < len {
                rest = rest.max((*src.add(i)).abs());
                i += 1;
            }
        }
        S::max_of(S::max(most[0], most[1])).max(rest)
    }
}

/// What numbers of these rows are multiplied by before they are rounded.
///
/// # Safety
/// As for [`greatest`].
#[inline(always)]
pub(crate) unsafe fn scale_of<S: Sixteen>(src: *const f32, ld: usize, rows: usize, len: usize) -> f32 {
    // SAFETY: the caller's.
    if S::SCALES { S::scale(unsafe { greatest::<S::F32>(src, ld, rows, len) }) } else { 1.0 }
}

/// Rows of numbers, `ld` apart, as words along the depth: [`ROW_STRIDE`] apart, or in tiles, those of sixteen rows of the `whole` depth behind
/// each other. Fetches what lies so far `ahead`.
///
/// # Safety
/// The instruction set is available; `src` is valid for these rows, `dst` for [`rows_words`].
#[inline(always)]
pub(crate) unsafe fn round_rows<S: Sixteen, E: Element>(
    src: *const E,
    (ld, ahead): (usize, usize),
    rows: usize,
    (depth, whole): (usize, usize),
    scale: f32,
    dst: *mut u32,
) {
    let (group, stride, vector) = match S::TILES {
        Some(_) => (group_words::<S>(whole), TILE_WORDS, S::PARTS * TILE_LEN),
        None => (TILE_ROWS * ROW_STRIDE, ROW_STRIDE, TILE_WORDS),
    };
    // SAFETY: the caller's. Nothing need be there to be fetched.
    unsafe {
        for row in 0..rows {
            let (src, mut dst) = (src.add(row * ld), dst.add(row / TILE_ROWS * group + row % TILE_ROWS * stride));
            let mut k = 0;
            while k + 16 * S::DEPTH <= depth {
                prefetch(src.wrapping_add(k + ahead));
                let second = if S::DEPTH > 1 { E::load::<S::F32>(src.add(k + 16)) } else { S::F32::zero() };
                S::along([E::load::<S::F32>(src.add(k)), second], scale, dst);
                k += 16 * S::DEPTH;
                dst = dst.add(vector);
            }
            if k < depth {
                let mut rest = [0.0f32; WIDTH];
                for i in k..depth {
                    rest[i - k] = (*src.add(i)).to_f32();
                }
                S::along([S::F32::load(rest.as_ptr()), S::F32::load(rest[16..].as_ptr())], scale, dst);
            }
        }
    }
}

/// `depth` rows of `columns` numbers, `ld` apart, as words of columns: for each word of the depth one for every column. Gives what takes the
/// scale back.
///
/// # Safety
/// The instruction set is available; `src` is valid for these rows, `dst` for the words.
#[inline(always)]
pub(crate) unsafe fn round_turned<S: Sixteen>(src: *const f32, ld: usize, depth: usize, columns: usize, dst: *mut u32) -> f32 {
    debug_assert!(S::PARTS == 1);
    // SAFETY: the caller's.
    unsafe {
        let scale = scale_of::<S>(src, ld, depth, columns);
        for word in 0..words::<S>(depth) {
            let (k, dst) = (word * S::DEPTH, dst.add(word * columns));
            let has_second = S::DEPTH > 1 && k + 1 < depth;
            let mut i = 0;
            while i + 16 <= columns {
                let first = src.add(k * ld + i);
                S::across([first, if has_second { first.add(ld) } else { NOTHING.as_ptr() }], scale, dst.add(i));
                i += 16;
            }
            if i < columns {
                let (mut rest, mut rest_words) = ([[0.0f32; 16]; 2], [0u32; 16]);
                for j in i..columns {
                    rest[0][j - i] = *src.add(k * ld + j);
                    rest[1][j - i] = if has_second { *src.add((k + 1) * ld + j) } else { 0.0 };
                }
                S::across([rest[0].as_ptr(), rest[1].as_ptr()], scale, rest_words.as_mut_ptr());
                dst.add(i).copy_from_nonoverlapping(rest_words.as_ptr(), columns - i);
            }
        }
        1.0 / scale
    }
}

/// A panel of `depth` rows of two vectors of numbers, rounded. Gives what takes the scale back.
///
/// # Safety
/// The instruction set is available; `src` is valid for these rows, `dst` for the panel's words.
#[inline(always)]
pub(crate) unsafe fn round_panel<S: Sixteen>(src: *const f32, depth: usize, scale: f32, dst: *mut u32) -> f32 {
    // SAFETY: the caller's.
    unsafe {
        let words = words::<S>(depth);
        // Where a word's row is: behind each tile's rows are those of its other parts.
        let at = |word: usize| (word + word / TILE_WORDS * TILE_WORDS * (S::PARTS - 1)) * S::ROW_WORDS;
        for word in 0..words {
            let k = word * S::DEPTH;
            let second = if k + 1 < depth { src.add((k + 1) * WIDTH) } else { NOTHING.as_ptr() };
            S::row([src.add(k * WIDTH), second], scale, dst.add(at(word)));
        }
        if S::TILES.is_some() {
            for (word, part) in (words..words.next_multiple_of(TILE_WORDS)).flat_map(|word| (0..S::PARTS).map(move |part| (word, part))) {
                dst.add(at(word) + part * TILE_WORDS * S::ROW_WORDS).write_bytes(0, S::ROW_WORDS);
            }
        }
        1.0 / scale
    }
}

/// A rounded panel, where its sums go, and what they are multiplied by.
#[derive(Clone, Copy)]
pub(crate) struct Panel16 {
    pub(crate) b: *const u32,
    pub(crate) target: Target,
    pub(crate) scale: f32,
}

/// All tiles of a block of rows and one or two panels. The rows of A are as [`round_rows`] writes them, or, if it is `TURNED`, its columns
/// `ld` words apart; the depth is `kw` words.
///
/// # Safety
/// The instruction set is available; `a` is valid for the rows, the panels for `kw` rows, the targets for the rows and their columns.
#[inline(always)]
pub(crate) unsafe fn block16<S: Sixteen, const TURNED: bool>(rows: usize, kw: usize, a: *const u32, ld: usize, panels: &[Panel16]) {
    // SAFETY: the rows named lie below `rows`.
    unsafe {
        if let (Some(product), false) = (S::TILES, TURNED) {
            for panel in panels {
                tiles::<S>(product, rows, kw, a, *panel);
            }
            return;
        }
        if let ([first, second], true) = (panels, S::PANELS == MOST_PANELS) {
            let panels = [*first, *second];
            let mut row = 0;
            while row + ROWS <= rows {
                Tile16 { row, kw, a, ld, panels }.run::<S, ROWS, TURNED>();
                row += ROWS;
            }
            while row + 4 <= rows {
                Tile16 { row, kw, a, ld, panels }.run::<S, 4, TURNED>();
                row += 4;
            }
            while row < rows {
                Tile16 { row, kw, a, ld, panels }.run::<S, 1, TURNED>();
                row += 1;
            }
            return;
        }
        for panel in panels {
            let panels = [*panel];
            let mut row = 0;
            // The sizes are constants, so that one branch is left.
            while row + S::TALL <= rows {
                let tile = Tile16 { row, kw, a, ld, panels };
                match S::TALL {
                    24 => tile.run::<S, 24, TURNED>(),
                    12 => tile.run::<S, 12, TURNED>(),
                    _ => tile.run::<S, 1, TURNED>(),
                }
                row += if matches!(S::TALL, 24 | 12) { S::TALL } else { 1 };
            }
            while row + 8 <= rows {
                Tile16 { row, kw, a, ld, panels }.run::<S, 8, TURNED>();
                row += 8;
            }
            while row + 2 <= rows {
                Tile16 { row, kw, a, ld, panels }.run::<S, 2, TURNED>();
                row += 2;
            }
            while row < rows {
                Tile16 { row, kw, a, ld, panels }.run::<S, 1, TURNED>();
                row += 1;
            }
        }
    }
}

/// Rows that are multiplied at once where there are [tiles](Sixteen::TILES).
pub(crate) const TALL_ROWS: usize = 32;

/// Their sums, each of whose rows is whole cache lines.
#[repr(align(64))]
struct Sums([f32; TALL_ROWS * WIDTH]);

/// All rows of a block and a panel, many at once.
///
/// # Safety
/// As for `block16`; words behind the depth are zero in rows and panel, up to a whole tile.
#[inline(always)]
unsafe fn tiles<S: Sixteen>(product: TileProduct, rows: usize, kw: usize, a: *const u32, panel: Panel16) {
    let Panel16 { b, target: Target { c, ldc, columns, init }, scale } = panel;
    debug_assert!(scale == 1.0);
    let steps = kw.div_ceil(TILE_WORDS);
    let mut sums = Sums([0.0; TALL_ROWS * WIDTH]);
    for row in (0..rows).step_by(TALL_ROWS) {
        // SAFETY: the caller's; the rows and columns named exist.
        unsafe {
            let (a, c, count) = (a.add(row * steps * S::PARTS * TILE_WORDS), c.add(row * ldc), TALL_ROWS.min(rows - row));
            let sums = sums.0.as_mut_ptr();
            // What is not whole is added up elsewhere.
            let whole = count == TALL_ROWS && columns == WIDTH && steps > 0;
            let (mut from, to) = ((sums.cast_const(), WIDTH), if whole { (c, ldc) } else { (sums, WIDTH) });
            match init {
                Init::Zero => from = (NOTHING.as_ptr(), 0),
                Init::Accumulate if whole => from = (c, ldc),
                // The same row again and again.
                Init::Columns(bias) if whole => from = (bias, 0),
                Init::Rows(bias) => {
                    for i in 0..count {
                        let bias = S::F32::splat(*bias.add(row + i));
                        S::F32::store(sums.add(i * WIDTH), bias);
                        S::F32::store(sums.add(i * WIDTH + 16), bias);
                    }
                }
                Init::Accumulate => (0..count).for_each(|i| sums.add(i * WIDTH).copy_from_nonoverlapping(c.add(i * ldc), columns)),
                Init::Columns(bias) => (0..count).for_each(|i| sums.add(i * WIDTH).copy_from_nonoverlapping(bias, columns)),
            }
            if steps > 0 {
                product(a, b, steps, from, to);
            }
            if !whole {
                let from = if steps > 0 { (sums.cast_const(), WIDTH) } else { from };
                for i in 0..count {
                    c.add(i * ldc).copy_from_nonoverlapping(from.0.add(i * from.1), columns);
                }
            }
        }
    }
}

/// One tile of the product.
struct Tile16<const P: usize> {
    row: usize,
    kw: usize,
    a: *const u32,
    ld: usize,
    panels: [Panel16; P],
}

impl<const P: usize> Tile16<P> {
    #[inline(always)]
    unsafe fn run<S: Sixteen, const R: usize, const TURNED: bool>(self) {
        let Self { row, kw, a, ld, panels } = self;
        let run = kw.div_ceil(kw.div_ceil(S::RUN).max(1));
        let (from_row, from_column) = if TURNED { (1, ld) } else { (ROW_STRIDE, 1) };
        // SAFETY: the rows `row..row + R` and the panels are valid by the contract of `block16`.
        unsafe {
            let mut a = a.add(row * from_row);
            let mut b: [*const u32; P] = std::array::from_fn(|p| panels[p].b);
            let mut k0 = 0;
            loop {
                // Or the compiler finds it out again, by a division, for every word.
                let words = black_box(run.min(kw - k0));
                let mut sums = [[S::zero(); P]; R];
                for _ in 0..words {
                    let row: [S::Row; P] = std::array::from_fn(|p| S::load(b[p]));
                    for i in 0..R {
                        let x = S::splat(*a.add(i * from_row));
                        for p in 0..P {
                            sums[i][p] = S::multiply_add(x, row[p], sums[i][p]);
                        }
                    }
                    for b in &mut b {
                        *b = b.add(S::ROW_WORDS);
                    }
                    a = a.add(from_column);
                }
                let (mut first, mut last) = ([S::zero(); R], [S::zero(); R]);
                for i in 0..R {
                    (first[i], last[i]) = (sums[i][0], sums[i][P - 1]);
                }
                write::<S, R>(first, row, k0 > 0, panels[0]);
                if P > 1 {
                    write::<S, R>(last, row, k0 > 0, panels[P - 1]);
                }
                k0 += words;
                if k0 >= kw {
                    return;
                }
            }
        }
    }
}

/// Writes the sums of the rows from `row` on, or adds them where these are `more` of the depth.
///
/// # Safety
/// The instruction set is available; the target is valid for these rows.
#[inline(always)]
unsafe fn write<S: Sixteen, const R: usize>(sums: [S::Sums; R], row: usize, more: bool, panel: Panel16) {
    let Panel16 { target: Target { c, ldc, columns, init }, scale, .. } = panel;
    let init = if more { Init::Accumulate } else { init };
    // SAFETY: the caller's.
    unsafe {
        // Or the compiler keeps what was written in registers, which are taken.
        let c = black_box(c.add(row * ldc));
        let scales = S::F32::splat(scale);
        if columns < WIDTH {
            for i in 0..R {
                write_part::<S>(S::widen(sums[i]), row + i, Target { c: c.add(i * ldc), ldc, columns, init }, scale);
            }
            return;
        }
        match init {
            Init::Zero => {
                for i in 0..R {
                    let sums = S::widen(sums[i]);
                    for v in 0..2 {
                        S::F32::store(c.add(i * ldc + 16 * v), S::F32::mul(sums[v], scales));
                    }
                }
            }
            Init::Accumulate => {
                for i in 0..R {
                    let sums = S::widen(sums[i]);
                    for v in 0..2 {
                        let c = c.add(i * ldc + 16 * v);
                        S::F32::store(c, S::F32::fma(sums[v], scales, S::F32::load(c)));
                    }
                }
            }
            Init::Rows(bias) => {
                for i in 0..R {
                    let (sums, bias) = (S::widen(sums[i]), S::F32::splat(*bias.add(row + i)));
                    for v in 0..2 {
                        S::F32::store(c.add(i * ldc + 16 * v), S::F32::fma(sums[v], scales, bias));
                    }
                }
            }
            Init::Columns(bias) => {
                let bias = [S::F32::load(bias), S::F32::load(bias.add(16))];
                for i in 0..R {
                    let sums = S::widen(sums[i]);
                    for v in 0..2 {
                        S::F32::store(c.add(i * ldc + 16 * v), S::F32::fma(sums[v], scales, bias[v]));
                    }
                }
            }
        }
    }
}

/// Writes the sums of one row and of a part of a panel, at the right edge.
///
/// # Safety
/// The instruction set is available; the target is valid for its columns.
#[inline(always)]
unsafe fn write_part<S: Sixteen>(sums: [<S::F32 as Simd>::V; 2], row: usize, target: Target, scale: f32) {
    // SAFETY: the caller's.
    unsafe {
        let mut buffer = [0.0f32; WIDTH];
        S::F32::store(buffer.as_mut_ptr(), sums[0]);
        S::F32::store(buffer.as_mut_ptr().add(16), sums[1]);
        for (j, x) in buffer.iter().enumerate().take(target.columns) {
            let c = target.c.add(j);
            let start = match target.init {
                Init::Zero => 0.0,
                Init::Accumulate => *c,
                Init::Rows(bias) => *bias.add(row),
                Init::Columns(bias) => *bias.add(j),
            };
            *c = x.mul_add(scale, start);
        }
    }
}

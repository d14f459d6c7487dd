//! The vocabulary of products of numbers that are rounded to sixteen bits, with sums in single precision.

use super::vector::{Simd, Task};

/// Products of one instruction set.
///
/// The left factor is read word by word, each of which goes to all lanes of a register: a number twice, or two that follow each other along
/// the depth. The right factor lies in panels of two vectors of columns, as in single precision: a row for every word's depth.
///
/// # Safety
/// Every method may only be called where the instruction set is available; pointers need no alignment.
pub(crate) trait Sixteen: Copy + Send + Sync + 'static {
    /// The vectors of single precision beside it.
    type F32: Simd;
    /// A word in all lanes.
    type Word: Copy;
    /// A row of a panel.
    type Row: Copy;
    /// Sums of products: one for every column of a panel.
    type Sums: Copy;
    /// Numbers of the depth in a word.
    const DEPTH: usize;
    /// The words that a row of a panel takes.
    const ROW_WORDS: usize;
    /// Panels that a tile of twelve rows can have.
    const PANELS: usize;
    /// Rows of a tile of one panel.
    const TALL: usize;
    /// Words of the depth that may be summed before the sums are widened.
    const RUN: usize;
    /// Whether numbers need to be multiplied by a [scale](Self::scale).
    const SCALES: bool = true;
    /// What multiplies many rows at once, where there is such a thing: then panels and rounded rows are as deep as it takes.
    const TILES: Option<TileProduct> = None;
    /// Numbers of sixteen bits that stand for each number: what it is rounded to, and with two what rounding leaves of it. There are two with
    /// tiles only, and the tile of the second ones lies behind that of the first.
    const PARTS: usize = 1;

    /// The power of two that numbers up to this magnitude are multiplied by before they are rounded.
    fn scale(greatest: f32) -> f32;
    /// A word in all lanes.
    unsafe fn splat(word: u32) -> Self::Word;
    /// Reads a row of a panel.
    unsafe fn load(p: *const u32) -> Self::Row;
    /// No sums yet.
    unsafe fn zero() -> Self::Sums;
    /// `sums + a * b`
    unsafe fn multiply_add(a: Self::Word, b: Self::Row, sums: Self::Sums) -> Self::Sums;
    /// The sums in single precision.
    unsafe fn widen(sums: Self::Sums) -> [<Self::F32 as Simd>::V; 2];
    /// Writes the words of `DEPTH` vectors of numbers, of two, that follow each other along the depth: a vector of words.
    unsafe fn along(numbers: [<Self::F32 as Simd>::V; 2], scale: f32, words: *mut u32);
    /// Writes the words of one vector of columns whose numbers along the depth lie in these rows, of which only `DEPTH` are read.
    unsafe fn across(rows: [*const f32; 2], scale: f32, words: *mut u32);
    /// Writes a row of a panel from rows of two vectors of numbers, of which only `DEPTH` are read.
    unsafe fn row(rows: [*const f32; 2], scale: f32, words: *mut u32);
}

/// The product of 32 rows and a panel of 32 columns, over `steps` (at least one) times [`TILE_WORDS`] words of the depth, added to what it
/// starts from: where that and the sums are, and how far apart their rows are. The rows of the left factor lie in two groups of sixteen, each
/// of them `steps` tiles of all parts.
pub(crate) type TileProduct = unsafe fn(a: *const u32, b: *const u32, steps: usize, from: (*const f32, usize), to: (*mut f32, usize));

/// Words of the depth that a tile holds.
pub(crate) const TILE_WORDS: usize = 16;
/// Rows of a tile.
pub(crate) const TILE_ROWS: usize = 16;
/// Words of a tile.
pub(crate) const TILE_LEN: usize = TILE_ROWS * TILE_WORDS;

/// A piece of work that can be done with either kind of products.
pub(crate) trait Task16: Task {
    /// Does it with products of sixteen bits. Implementations are `#[inline(always)]`.
    ///
    /// # Safety
    /// The instruction set must be available.
    unsafe fn run16<S: Sixteen>(self);
}

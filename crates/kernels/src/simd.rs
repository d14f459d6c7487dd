//! One vocabulary of vector operations with four instruction sets behind it, one of products of sixteen bits ([`Sixteen`]) with three, and the
//! choice between them at run time. Knows no kernel.
//!
//! Kernels are written once, generic over [`Simd`], as a [`Task`]; [`dispatch`] runs a task inside a function that has the instruction set
//! switched on. Everything a task calls in its loops must be `#[inline(always)]`, or it would be compiled without the instruction set.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_bf16;
#[cfg(target_arch = "x86_64")]
mod avx512_fp16;
mod level;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
mod precision;
// Only x86-64 has products of sixteen bits here.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
mod sixteen;
mod vector;

pub use self::level::Level;
pub(crate) use self::level::{dispatch, dispatch16};
pub use self::precision::Precision;
pub(crate) use self::sixteen::{Sixteen, TILE_LEN, TILE_ROWS, TILE_WORDS, Task16, TileProduct};
pub(crate) use self::vector::{Element, MAX_LANES, Simd, Task, prefetch};

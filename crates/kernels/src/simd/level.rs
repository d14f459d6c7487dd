//! The instruction sets, and the choice between them at run time.

use std::sync::atomic::{AtomicUsize, Ordering};

#[cfg(target_arch = "x86_64")]
use super::avx2::{self, Avx2};
#[cfg(target_arch = "x86_64")]
use super::avx512::{self, Avx512};
#[cfg(target_arch = "aarch64")]
use super::neon::Neon;
use super::portable::Portable;
use super::precision::Precision;
use super::sixteen::Task16;
use super::vector::{Simd, Task};
#[cfg(target_arch = "x86_64")]
use super::{amx, avx512_bf16, avx512_fp16};

/// The instruction sets that kernels are compiled for, from the plainest to the one that is preferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What the target has at least.
    Portable,
    /// AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512F besides.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX-512BW, DQ, VL and BF16 besides, for products of bfloat16.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    /// AVX-512BW, DQ, VL and FP16 besides, for products of half precision. Where both are there, these are the faster ones.
    #[cfg(target_arch = "x86_64")]
    Avx512Fp16,
    /// AVX-512-BF16 and AMX, each product made of three of bfloat16 that together have the factors to 2^-17: close to single precision.
    #[cfg(target_arch = "x86_64")]
    AmxThrice,
    /// AVX-512-BF16 and AMX with products of bfloat16: the fastest by far.
    #[cfg(target_arch = "x86_64")]
    Amx,
    /// What every 64-bit Arm has.
    #[cfg(target_arch = "aarch64")]
    Neon,
}

/// The place in [`Level::ALL`] of the best one that may be used.
static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);

impl Level {
    const ALL: &[Self] = &[
        Self::Portable,
        #[cfg(target_arch = "x86_64")]
        Self::Avx2,
        #[cfg(target_arch = "x86_64")]
        Self::Avx512,
        #[cfg(target_arch = "x86_64")]
        Self::Avx512Bf16,
        #[cfg(target_arch = "x86_64")]
        Self::Avx512Fp16,
        #[cfg(target_arch = "x86_64")]
        Self::AmxThrice,
        #[cfg(target_arch = "x86_64")]
        Self::Amx,
        #[cfg(target_arch = "aarch64")]
        Self::Neon,
    ];

    /// What it is called in options.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => "avx512-bf16",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Fp16 => "avx512-fp16",
            #[cfg(target_arch = "x86_64")]
            Self::AmxThrice => "amx-thrice",
            #[cfg(target_arch = "x86_64")]
            Self::Amx => "amx",
            #[cfg(target_arch = "aarch64")]
            Self::Neon => "neon",
        }
    }

    /// Those that this processor has.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.iter().copied().filter(|level| level.is_available())
    }

    /// Lets this process use none that is preferred to this one from now on.
    pub fn limit(self) {
        LIMIT.store(self as usize, Ordering::Relaxed);
    }

    fn is_available(self) -> bool {
        // The standard library remembers the answers.
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => Self::Avx2.is_available() && is_x86_feature_detected!("avx512f"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => Self::Avx512.has_words() && is_x86_feature_detected!("avx512bf16"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Fp16 => Self::Avx512.has_words() && is_x86_feature_detected!("avx512fp16"),
            #[cfg(target_arch = "x86_64")]
            Self::AmxThrice | Self::Amx => Self::Avx512Bf16.is_available() && amx::is_available(),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => std::arch::is_aarch64_feature_detected!("neon"),
        }
    }

    /// Whether it is available with the rest of AVX-512 that products of sixteen bits are compiled with.
    #[cfg(target_arch = "x86_64")]
    fn has_words(self) -> bool {
        self.is_available()
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
    }

    /// Whether its products round their factors to sixteen bits.
    pub fn rounds(self) -> bool {
        match self {
            Self::Portable => false,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 | Self::Avx512 | Self::AmxThrice => false,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 | Self::Avx512Fp16 | Self::Amx => true,
            #[cfg(target_arch = "aarch64")]
            Self::Neon => false,
        }
    }

    /// Whether there are [tiles](super::Sixteen::TILES).
    pub(crate) fn has_tiles(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::AmxThrice | Self::Amx => true,
            _ => false,
        }
    }

    /// Whether its products are not in single precision, but close to it.
    pub fn is_close(self) -> bool {
        self.has_tiles() && !self.rounds()
    }

    /// The best one that this processor has and that may be used. One that [rounds](Self::rounds) may with [`Precision::Bf16`], one that
    /// [is close](Self::is_close) without [`Precision::F32`].
    pub fn best() -> Self {
        let (limit, precision) = (LIMIT.load(Ordering::Relaxed), Precision::chosen());
        let allowed = |level: &Self| match precision {
            Precision::Auto => !level.rounds(),
            Precision::F32 => !level.rounds() && !level.is_close(),
            Precision::Bf16 => true,
        } && level.is_available();
        Self::ALL.iter().copied().take(limit.saturating_add(1)).rfind(allowed).unwrap_or(Self::Portable)
    }

    /// The elements of its vectors and the rows of its tiles.
    pub(crate) fn geometry(self) -> (usize, usize) {
        fn of<S: Simd>() -> (usize, usize) {
            (S::LANES, S::TILE_ROWS)
        }
        match self {
            Self::Portable => of::<Portable>(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => of::<Avx2>(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 | Self::Avx512Bf16 | Self::Avx512Fp16 | Self::AmxThrice | Self::Amx => of::<Avx512>(),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => of::<Neon>(),
        }
    }
}

/// Runs a task with products of sixteen bits, where the level has them.
#[inline]
pub(crate) fn dispatch16<T: Task16>(level: Level, task: T) {
    match level {
        // SAFETY: the level came from the detection of the processor's features.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Bf16 => unsafe { avx512_bf16::run(task) },
        // SAFETY: the level came from the detection of the processor's features.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Fp16 => unsafe { avx512_fp16::run(task) },
        // SAFETY: the level came from the detection of the processor's features.
        #[cfg(target_arch = "x86_64")]
        Level::AmxThrice => unsafe { avx512_bf16::run_with_tiles::<_, 2>(task) },
        // SAFETY: the level came from the detection of the processor's features.
        #[cfg(target_arch = "x86_64")]
        Level::Amx => unsafe { avx512_bf16::run_with_tiles::<_, 1>(task) },
        level => dispatch(level, task),
    }
}

/// Runs a task with an instruction set that is available, in single precision.
#[inline]
pub(crate) fn dispatch<T: Task>(level: Level, task: T) {
    match level {
        // SAFETY: the portable set is plain Rust.
        Level::Portable => unsafe { task.run::<Portable>() },
        // SAFETY: the level came from the detection of the processor's features.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::run(task) },
        // SAFETY: the level came from the detection of the processor's features.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Avx512Bf16 | Level::Avx512Fp16 | Level::AmxThrice | Level::Amx => unsafe { avx512::run(task) },
        // SAFETY: the level came from the detection of the processor's features; the target has them switched on.
        #[cfg(target_arch = "aarch64")]
        Level::Neon => unsafe { task.run::<Neon>() },
    }
}

//! The instruction sets, and the choice between them at run time.

use std::sync::atomic::{AtomicUsize, Ordering};

#[cfg(target_arch = "x86_64")]
use super::avx2::{self, Avx2};
#[cfg(target_arch = "x86_64")]
use super::avx512::{self, Avx512};
#[cfg(target_arch = "aarch64")]
use super::neon::Neon;
use super::portable::Portable;
use super::vector::{Simd, Task};

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
            #[cfg(target_arch = "aarch64")]
            Self::Neon => std::arch::is_aarch64_feature_detected!("neon"),
        }
    }

    /// The best one that this processor has and that may be used.
    pub fn best() -> Self {
        let limit = LIMIT.load(Ordering::Relaxed);
        Self::ALL.iter().copied().take(limit.saturating_add(1)).rfind(|level| level.is_available()).unwrap_or(Self::Portable)
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
            Self::Avx512 => of::<Avx512>(),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => of::<Neon>(),
        }
    }
}

/// Runs a task with an instruction set that is available.
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
        Level::Avx512 => unsafe { avx512::run(task) },
        // SAFETY: the level came from the detection of the processor's features; the target has them switched on.
        #[cfg(target_arch = "aarch64")]
        Level::Neon => unsafe { task.run::<Neon>() },
    }
}

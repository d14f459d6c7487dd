//! The instruction sets, and the choice between them at run time.

#[cfg(target_arch = "x86_64")]
use super::avx2::{self, Avx2};
#[cfg(target_arch = "x86_64")]
use super::avx512::{self, Avx512};
use super::portable::Portable;
use super::vector::{Simd, Task};

/// The instruction sets that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    /// The best one this processor has.
    pub(crate) fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            // The standard library remembers the answers.
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") {
                return if is_x86_feature_detected!("avx512f") { Self::Avx512 } else { Self::Avx2 };
            }
        }
        Self::Portable
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
        }
    }
}

/// Runs a task with an instruction set that [`Level::best`] gave, or with the portable one.
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
    }
}

/// The levels this processor can run, for tests.
#[cfg(test)]
pub(crate) fn levels() -> Vec<Level> {
    let mut levels = vec![Level::Portable];
    #[cfg(target_arch = "x86_64")]
    {
        if Level::best() != Level::Portable {
            levels.push(Level::Avx2);
        }
        if Level::best() == Level::Avx512 {
            levels.push(Level::Avx512);
        }
    }
    levels
}

//! How exact the products of models are, for the whole process.

use std::sync::atomic::{AtomicBool, Ordering};

/// What the factors of products are rounded to. Sums and everything else are in single precision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Precision {
    /// Nothing: single precision.
    #[default]
    F32,
    /// Sixteen bits: bfloat16, or half precision where its products are the faster ones. Has an effect where the processor has such
    /// products ([`Level::Avx512Bf16`](super::Level), [`Level::Avx512Fp16`](super::Level)).
    Bf16,
}

static IS_BF16: AtomicBool = AtomicBool::new(false);

impl Precision {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::F32, Self::Bf16];

    /// What it is called in options.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }

    /// Has this process compute so from now on.
    pub fn choose(self) {
        IS_BF16.store(self == Self::Bf16, Ordering::Relaxed);
    }

    /// How this process computes.
    pub fn chosen() -> Self {
        if IS_BF16.load(Ordering::Relaxed) { Self::Bf16 } else { Self::F32 }
    }
}

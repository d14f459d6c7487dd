//! How exact the products of models are, for the whole process.

use std::sync::atomic::{AtomicU8, Ordering};

/// What the factors of products are rounded to. Sums and everything else are in single precision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Precision {
    /// What suits the device: on the processor nothing, or [what is close to it](super::Level::is_close) and faster; on a card what the weight
    /// is held in, and TF32 where that is single precision.
    #[default]
    Auto,
    /// Nothing: single precision.
    F32,
    /// Sixteen bits: bfloat16, or on the processor half precision where its products are the faster ones. Has an effect where there are
    /// such products: on cards, and on processors at [`Level::Avx512Bf16`](super::Level) and those above it.
    Bf16,
}

static CHOSEN: AtomicU8 = AtomicU8::new(Precision::Auto as u8);

impl Precision {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Auto, Self::F32, Self::Bf16];

    /// What it is called in options.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }

    /// Has this process compute so from now on.
    pub fn choose(self) {
        CHOSEN.store(self as u8, Ordering::Relaxed);
    }

    /// How this process computes.
    pub fn chosen() -> Self {
        let chosen = CHOSEN.load(Ordering::Relaxed);
        Self::ALL.into_iter().find(|one| *one as u8 == chosen).unwrap_or_default()
    }
}

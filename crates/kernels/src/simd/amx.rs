//! Products of bfloat16 with AMX: tiles of 16 rows of 64 bytes, summed in single precision. Where the system has it, a process must ask for
//! the tiles' room before it may use them, and each thread says how it divides them.

use std::arch::asm;

use super::sixteen::{TILE_LEN, TILE_ROWS};

/// How a thread divides the tiles: all eight have 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static ALL_WHOLE: Configuration = Configuration {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// Whether the processor has tiles and products of bfloat16 in them, and the system lets this process use them, which it is asked for.
#[cfg(target_os = "linux")]
pub(crate) fn is_available() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    use std::sync::OnceLock;

    /// arch_prctl(2), its request for the room of a part of the registers, and that of the tiles' contents.
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const XFEATURE_XTILEDATA: i64 = 18;
    /// Bits of CPUID's leaf 7.
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;

    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        if cfg!(miri) || __cpuid(0).eax < 7 {
            return false;
        }
        let has = __cpuid_count(7, 0).edx;
        if has & AMX_BF16 == 0 || has & AMX_TILE == 0 {
            return false;
        }
        let refused: i64;
        // SAFETY: the call reads its arguments alone; the system keeps all registers but those that are named.
        unsafe {
            asm!(
                "syscall",
                inlateout("rax") ARCH_PRCTL => refused,
                in("rdi") ARCH_REQ_XCOMP_PERM,
                in("rsi") XFEATURE_XTILEDATA,
                lateout("rcx") _,
                lateout("r11") _,
                options(nostack),
            );
        }
        refused == 0
    })
}

/// Elsewhere nobody has found out how a process asks for them.
#[cfg(not(target_os = "linux"))]
pub(crate) fn is_available() -> bool {
    false
}

/// Until it is dropped, the thread's tiles are all whole. Afterwards they take no room when the system changes threads.
pub(super) struct Configured(());

impl Configured {
    /// Has the thread divide its tiles so.
    ///
    /// # Safety
    /// [`is_available`] has said that there are tiles.
    pub(super) unsafe fn begin() -> Self {
        // SAFETY: the caller's; what is read is a configuration.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const ALL_WHOLE, options(nostack, readonly, preserves_flags)) };
        Self(())
    }
}

impl Drop for Configured {
    fn drop(&mut self) {
        // SAFETY: this was made where there are tiles.
        unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
    }
}

/// Adds the products of two tiles of rows and two of columns to their sums.
macro_rules! four_products {
    () => {
        "tdpbf16ps tmm0, tmm4, tmm6\ntdpbf16ps tmm1, tmm4, tmm7\ntdpbf16ps tmm2, tmm5, tmm6\ntdpbf16ps tmm3, tmm5, tmm7"
    };
}

/// Does this for every step, from the upper and the lower tiles of rows and the panel on. A row of a tile of rows is `short`, one of a panel `long`.
macro_rules! over_steps {
    (($a:ident, $lower:ident, $b:ident, $steps:ident), $($line:expr),+ $(,)?) => {
        asm!(
            "2:",
            $($line),+,
            "dec {steps}",
            "jnz 2b",
            a = inout(reg) $a => _,
            lower = inout(reg) $lower => _,
            b = inout(reg) $b => _,
            steps = inout(reg) $steps => _,
            short = in(reg) 64_usize,
            long = in(reg) 128_usize,
            options(nostack, readonly),
        )
    };
}

/// The product of 32 rows and 32 columns of numbers in so many parts: see [`TileProduct`](super::sixteen::TileProduct).
///
/// # Safety
/// The thread's tiles are [`Configured`]; the pointers are valid as the type says.
#[inline]
pub(super) unsafe fn product<const PARTS: usize>(
    a: *const u32,
    b: *const u32,
    steps: usize,
    from: (*const f32, usize),
    to: (*mut f32, usize),
) {
    // SAFETY: the caller's. A tile has 1024 bytes.
    unsafe {
        asm!(
            "tileloadd tmm0, [{upper} + {stride}]",
            "tileloadd tmm1, [{upper} + {stride} + 64]",
            "tileloadd tmm2, [{lower} + {stride}]",
            "tileloadd tmm3, [{lower} + {stride} + 64]",
            upper = in(reg) from.0,
            lower = in(reg) from.0.add(TILE_ROWS * from.1),
            stride = in(reg) 4 * from.1,
            options(nostack, readonly, preserves_flags),
        );
        let lower = a.add(steps * PARTS * TILE_LEN);
        if PARTS == 1 {
            over_steps!(
                (a, lower, b, steps),
                "tileloadd tmm4, [{a} + {short}]",
                "tileloadd tmm5, [{lower} + {short}]",
                "tileloadd tmm6, [{b} + {long}]",
                "tileloadd tmm7, [{b} + {long} + 64]",
                four_products!(),
                "add {a}, 1024",
                "add {lower}, 1024",
                "add {b}, 2048",
            );
        } else {
            // Without the products of the second parts, which are as small as what the parts have lost.
            over_steps!(
                (a, lower, b, steps),
                "tileloadd tmm4, [{a} + {short} + 1024]",
                "tileloadd tmm5, [{lower} + {short} + 1024]",
                "tileloadd tmm6, [{b} + {long}]",
                "tileloadd tmm7, [{b} + {long} + 64]",
                four_products!(),
                "tileloadd tmm4, [{a} + {short}]",
                "tileloadd tmm5, [{lower} + {short}]",
                four_products!(),
                "tileloadd tmm6, [{b} + {long} + 2048]",
                "tileloadd tmm7, [{b} + {long} + 2112]",
                four_products!(),
                "add {a}, 2048",
                "add {lower}, 2048",
                "add {b}, 4096",
            );
        }
        asm!(
            "tilestored [{upper} + {stride}], tmm0",
            "tilestored [{upper} + {stride} + 64], tmm1",
            "tilestored [{lower} + {stride}], tmm2",
            "tilestored [{lower} + {stride} + 64], tmm3",
            upper = in(reg) to.0,
            lower = in(reg) to.0.add(TILE_ROWS * to.1),
            stride = in(reg) 4 * to.1,
            options(nostack, preserves_flags),
        );
    }
}

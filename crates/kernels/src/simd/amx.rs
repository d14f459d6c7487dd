//! Products of bfloat16 with AMX: tiles of 16 rows of 64 bytes, summed in single precision. Where the system has it, a process must ask for
//! the tiles' room before it may use them, and each thread says how it divides them.

use std::arch::asm;

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

/// The product of 32 rows and 32 columns: see [`TileProduct`](super::sixteen::TileProduct).
///
/// # Safety
/// The thread's tiles are [`Configured`]; the pointers are valid as the type says.
#[inline]
pub(super) unsafe fn product(a: *const u32, a_stride: usize, b: *const u32, steps: usize, c: *mut f32) {
    // SAFETY: the caller's.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm4, [{a} + {a_stride}]",
            "tileloadd tmm5, [{lower} + {a_stride}]",
            "tileloadd tmm6, [{b} + {row}]",
            "tileloadd tmm7, [{b} + {row} + 64]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a}, 64",
            "add {lower}, 64",
            "add {b}, 2048",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{c} + {row}], tmm0",
            "tilestored [{c} + {row} + 64], tmm1",
            "tilestored [{c} + {row} + 2048], tmm2",
            "tilestored [{c} + {row} + 2112], tmm3",
            a = inout(reg) a => _,
            lower = inout(reg) a.add(16 * a_stride) => _,
            b = inout(reg) b => _,
            steps = inout(reg) steps => _,
            a_stride = in(reg) 4 * a_stride,
            // A row of a panel of words, and one of the result, are as long.
            row = in(reg) 128_usize,
            c = in(reg) c,
            options(nostack),
        );
    }
}

//! Stands in for the library gemm where targets are built: none multiplies matrices, and to instrument its thousands of kernels takes longer
//! than everything else together.

/// How many threads were to be used.
#[derive(Clone, Copy)]
pub enum Parallelism {
    /// One.
    None,
    /// So many.
    Rayon(usize),
}

/// Multiplies nothing.
///
/// # Panics
/// Always: a target that gets here needs the library itself.
#[allow(clippy::too_many_arguments)]
pub fn gemm<T>(
    _: usize,
    _: usize,
    _: usize,
    _: *mut T,
    _: isize,
    _: isize,
    _: bool,
    _: *const T,
    _: isize,
    _: isize,
    _: *const T,
    _: isize,
    _: isize,
    _: T,
    _: T,
    _: bool,
    _: bool,
    _: bool,
    _: Parallelism,
) {
    panic!("no target of fuzzing multiplies matrices: take the patch out of fuzz/Cargo.toml");
}

//! CPU kernels and torch-compatible random numbers

//! CPU kernels and torch-compatible random numbers. This crate knows neither models nor nodes.

pub mod random;

//! The comfyd binary.
mod config;
fn main() {}

//! The comfyd binary.
mod config;
mod frontend;
fn main() {}

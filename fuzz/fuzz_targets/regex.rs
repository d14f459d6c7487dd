//! Regular expressions.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| comfyd_nodes::fuzz::regex(data));

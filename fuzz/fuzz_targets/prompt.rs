//! Prompts.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| comfyd_graph::fuzz::prompt(data));

//! Safetensors files.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| comfyd_weights::fuzz::safetensors(data, &comfyd_fuzz::scratch()));

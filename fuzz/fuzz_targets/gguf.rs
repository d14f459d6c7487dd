//! GGUF files.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| comfyd_weights::fuzz::gguf(data, &comfyd_fuzz::scratch()));

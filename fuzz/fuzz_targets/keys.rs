//! The file of keys.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| comfyd_server::fuzz::keys(data, &comfyd_fuzz::scratch()));

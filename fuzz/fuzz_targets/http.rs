//! Connections.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| comfyd_server::fuzz::http(data, &comfyd_fuzz::scratch()));

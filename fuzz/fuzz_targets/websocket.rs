//! What websocket clients send.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| comfyd_server::fuzz::websocket(data, &comfyd_fuzz::scratch()));

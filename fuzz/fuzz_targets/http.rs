//! Connections.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| comfyd_server::fuzz::http(data, &comfyd_fuzz::scratch()));

/// Leaks are not looked for: now and then a new server takes the place of one whose parts refer to each other. A process has one.
#[unsafe(no_mangle)]
extern "C" fn __lsan_is_turned_off() -> std::ffi::c_int {
    1
}

//! Messages of Python workers.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| comfyd_python::fuzz::frame(data));

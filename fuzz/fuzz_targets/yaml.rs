//! Files of search paths.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| comfyd_folders::fuzz::yaml(data));

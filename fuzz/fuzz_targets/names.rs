//! Names of files.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| comfyd_folders::fuzz::names(data));

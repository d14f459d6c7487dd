//! Texts in picture files.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| comfyd_imaging::fuzz::picture_text(data));

//! Texts of pictures.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| comfyd_models::fuzz::tokenizer(data));

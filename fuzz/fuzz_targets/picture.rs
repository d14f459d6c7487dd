//! Picture files.
#![no_main]

libfuzzer_sys::fuzz_target!(
    // Panics of decoders are caught where they are called, which the hook of the library forestalls.
    init: std::panic::set_hook(Box::new(|_| {})),
    |data: &[u8]| comfyd_imaging::fuzz::picture(data)
);

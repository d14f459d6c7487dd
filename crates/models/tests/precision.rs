//! Tiny UNets with products of sixteen bits. In a process of its own, since all models of a process compute alike.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod unet_support;

use comfyd_kernels::{Level, Precision};

use unet_support::{assert_close, assert_close_within, golden, relative_error, run};

/// Of a step's root of the mean square. Factors in bfloat16 differ from exact ones by 2^-9 at most, and a few dozen layers add up.
const BOUND: f64 = 0.03;

#[test]
fn rounded_products_stay_near_the_reference() {
    let golden = golden("unet.safetensors");
    for name in ["sd1", "sd2", "xl"] {
        let wanted = &golden[&format!("{name}.even")];
        assert_close(name, &run(name, 2, 8, 4, &mut ()), wanted);
        Precision::Bf16.choose();
        let rounded = run(name, 2, 8, 4, &mut ());
        assert_close_within(name, &rounded, wanted, BOUND);
        if Level::best().rounds() {
            let error = relative_error(&rounded, wanted);
            assert!(error > 1e-5, "{name}: nothing was rounded ({error:e})");
        }
        Precision::F32.choose();
        assert_close(name, &run(name, 2, 8, 4, &mut ()), wanted);
    }
}

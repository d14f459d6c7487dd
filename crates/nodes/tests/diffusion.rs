//! The recorded cases on reduced models: text to picture with every sampler and scheduler, adapters, patches, guiders, hooks, merging, the
//! families. Recorded from the reference by `conformance/diffusion/record_cases.py`.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::sync::Arc;
use std::time::Instant;

use comfyd_engine::{CpuLevel, EngineOptions};
use common::{Bench, compare, conformance, models, told};
use serde_json::{Map, Value as Json};

/// How far latents may be off, for cases whose names begin so; the longest beginning counts. Most reach 5e-6. Pictures pass through the
/// autoencoder's encoder, whose norms of nearly even ground enlarge the last bits; velocities at high noise levels do likewise.
const LIMITS: [(&str, f64); 5] = [("", 1e-4), ("told/", 3e-4), ("vae/", 3e-4), ("inpaint/", 3e-4), ("inpaint/edit", 1e-3)];

/// Left out: it takes as many steps as its bound on the error asks for, which is slow, and the reference itself moves by 6e-3 between one
/// and two threads. Its full-size case is one of `cargo xtask parity`.
const LEFT_OUT: [&str; 1] = ["sampler/dpm_adaptive"];

fn limit(name: &str) -> f64 {
    let limit = LIMITS.iter().filter(|(start, _)| name.starts_with(start)).max_by_key(|(start, _)| start.len()).unwrap().1;
    // Products that are close to single precision: of all cases three pass the limits, the most by 3.4 times.
    if CpuLevel::best().is_close() { 4.0 * limit } else { limit }
}

fn run(starts: &[&str]) {
    let folder = conformance().join("diffusion/reduced");
    let cases: Map<String, Json> = serde_json::from_slice(&std::fs::read(folder.join("cases.json")).unwrap()).unwrap();
    let mut failed = Vec::new();
    let mut count = 0;
    let wanted = |name: &str| starts.iter().any(|start| name.starts_with(start)) && !LEFT_OUT.contains(&name);
    for device in comfyd_engine::devices() {
        let mut bench = Bench::with_models(models::folder(), EngineOptions { device, ..EngineOptions::default() });
        bench.catalog.insert(Arc::new(told::ShowConditioning));
        for (name, case) in cases.iter().filter(|(name, _)| wanted(name)) {
            count += 1;
            let begin = Instant::now();
            let result = compare::check(&bench, &folder, case);
            println!("{name} on {}: {result:?} in {} ms", bench.engine.device_name(), begin.elapsed().as_millis());
            match result {
                Ok(error) if error <= limit(name) => {}
                Ok(error) => failed.push(format!("{name}: relative error {error:.2e}")),
                Err(error) => failed.push(format!("{name}: {error}")),
            }
        }
    }
    assert!(count > 0, "there are no cases that begin with {starts:?}");
    assert!(failed.is_empty(), "{} of {count} failed:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn every_sampler() {
    run(&["sampler/"]);
}

#[test]
fn every_scheduler() {
    run(&["scheduler/", "sigmas/"]);
}

#[test]
fn text_and_pictures() {
    run(&["txt2img/", "vae/", "inpaint/", "loader/"]);
}

#[test]
fn pictures_and_boxes_as_prompts() {
    run(&["vision/", "unclip/", "gligen/", "style/"]);
}

#[test]
fn what_models_that_are_not_here_are_told() {
    run(&["told/"]);
}

#[test]
fn other_families() {
    run(&["sd2/", "sdxl/", "refiner/"]);
}

#[test]
fn adapters() {
    run(&["adapter/"]);
}

#[test]
fn patches_of_models() {
    run(&["patch/"]);
}

#[test]
fn guiders_and_merging() {
    run(&["guider/", "merge/"]);
}

#[test]
fn conditioning() {
    run(&["cond/"]);
}

#[test]
fn hooks() {
    run(&["hooks/"]);
}

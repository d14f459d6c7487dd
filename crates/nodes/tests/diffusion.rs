//! The recorded cases on reduced models: text to picture with every sampler and scheduler, adapters, patches, guiders, hooks, merging, the
//! families. Recorded from the reference by `conformance/diffusion/record_cases.py`.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::time::Instant;

use comfyd_engine::EngineOptions;
use common::{Bench, compare, conformance, models};
use serde_json::{Map, Value as Json};

/// What the cases whose names begin so have in common: how far their latents may be off. Where a limit is above the usual one, the
/// reference moves as much when it computes with one thread instead of two.
const LIMITS: [(&str, f64); 1] = [("", 1e-4)];

fn limit(name: &str) -> f64 {
    LIMITS.iter().filter(|(start, _)| name.starts_with(start)).max_by_key(|(start, _)| start.len()).unwrap().1
}

fn run(starts: &[&str]) {
    let folder = conformance().join("diffusion/reduced");
    let cases: Map<String, Json> = serde_json::from_slice(&std::fs::read(folder.join("cases.json")).unwrap()).unwrap();
    let bench = Bench::with_models(models::folder(), EngineOptions::default());
    let mut failed = Vec::new();
    let mut count = 0;
    for (name, case) in cases.iter().filter(|(name, _)| starts.iter().any(|start| name.starts_with(start))) {
        count += 1;
        let begin = Instant::now();
        let result = compare::check(&bench, &folder, case);
        println!("{name}: {result:?} in {} ms", begin.elapsed().as_millis());
        match result {
            Ok(error) if error <= limit(name) => {}
            Ok(error) => failed.push(format!("{name}: relative error {error:.2e}")),
            Err(error) => failed.push(format!("{name}: {error}")),
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
fn other_families() {
    run(&["sd2/", "sdxl/"]);
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

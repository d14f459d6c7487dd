//! Every class's declaration against the reference's `/object_info`.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use comfyd_node::{CancellationToken, Choices, Fingerprint, Input, InputKind, Inputs};
use common::{Bench, conformance};
use serde_json::{Value as Json, json};

/// Classes that the reference does not have any more, for workflows that were made for older ones.
const OWN: &[&str] = &["LoadImageSetFromFolderNode", "Preview3DAnimation"];

/// What differs, extra keys of objects allowed.
fn differences(path: &str, got: &Json, want: &Json, out: &mut Vec<String>) {
    match (got, want) {
        (Json::Object(got), Json::Object(want)) => {
            for (key, want) in want {
                match got.get(key) {
                    Some(got) => differences(&format!("{path}.{key}"), got, want, out),
                    None => out.push(format!("{path}.{key} is missing")),
                }
            }
        }
        (Json::Array(got), Json::Array(want)) if got.len() == want.len() => {
            for (i, (got, want)) in got.iter().zip(want).enumerate() {
                differences(&format!("{path}[{i}]"), got, want, out);
            }
        }
        (got, want) if got == want => {}
        (got, want) => out.push(format!("{path}: {got}, the reference has {want}")),
    }
}

/// Where the keys of objects stand in another order, without those that the reference does not have.
fn order(path: &str, got: &Json, want: &Json, out: &mut Vec<String>) {
    match (got, want) {
        (Json::Object(got), Json::Object(want)) => {
            let keys: Vec<&String> = got.keys().filter(|key| want.contains_key(*key)).collect();
            if keys != want.keys().filter(|key| got.contains_key(*key)).collect::<Vec<_>>() {
                out.push(format!("{path} has the order {keys:?}, the reference {:?}", want.keys().collect::<Vec<_>>()));
            }
            for (key, want) in want {
                order(&format!("{path}.{key}"), got.get(key).unwrap_or(&Json::Null), want, out);
            }
        }
        (Json::Array(got), Json::Array(want)) => {
            for (i, (got, want)) in got.iter().zip(want).enumerate() {
                order(&format!("{path}[{i}]"), got, want, out);
            }
        }
        _ => {}
    }
}

fn reference() -> serde_json::Map<String, Json> {
    serde_json::from_slice(&std::fs::read(conformance().join("object_info.json")).unwrap()).unwrap()
}

#[test]
fn every_class_equals_the_reference() {
    let bench = Bench::new();
    // The reference was recorded with this one file and this one folder in its input folder, and one checkpoint.
    std::fs::write(bench.folders.roots().input.join("example.png"), b"").unwrap();
    std::fs::create_dir(bench.folders.roots().input.join("3d")).unwrap();
    let checkpoints = bench.folders.model_paths("checkpoints").unwrap()[0].clone();
    std::fs::create_dir_all(&checkpoints).unwrap();
    std::fs::write(checkpoints.join("sd15_random.safetensors"), b"").unwrap();
    let reference = reference();
    let mut out = Vec::new();
    for entry in bench.catalog.iter() {
        let class = &entry.schema.class;
        let Some(want) = reference.get(class) else {
            if OWN.contains(&class.as_str()) {
                continue;
            }
            out.push(format!("{class} is not in the reference"));
            continue;
        };
        let got = entry.schema.object_info(&*bench.folders);
        differences(class, &got, want, &mut out);
        order(class, &got, want, &mut out);
        // Extra keys are for explanations only: no extra inputs.
        let names = |info: &Json, group: &str| info["input"][group].as_object().map(|g| g.keys().cloned().collect::<Vec<_>>());
        for group in ["required", "optional", "hidden"] {
            if names(&got, group) != names(want, group) {
                out.push(format!("{class}: {group} inputs {:?}, the reference has {:?}", names(&got, group), names(want, group)));
            }
        }
    }
    assert!(out.is_empty(), "{}", out.join("\n"));
}

/// What `/object_info` does not show: whether a class takes lists, whether more than its inputs decides its result, which inputs it checks
/// itself, which are lazy or handed on as links.
#[test]
fn every_class_has_the_references_hidden_properties() {
    let properties: Json = serde_json::from_slice(&std::fs::read(conformance().join("properties.json")).unwrap()).unwrap();
    let mut wrong = Vec::new();
    for entry in Bench::new().catalog.iter() {
        let schema = &entry.schema;
        let names = |wanted: &dyn Fn(&Input) -> bool| {
            let mut names: Vec<&str> = schema.inputs.iter().filter(|input| wanted(input)).map(|input| input.name.as_str()).collect();
            names.sort_unstable();
            names
        };
        // Without a widget's value none of them can tell what it looks at.
        let fingerprint = entry.native().unwrap().fingerprint(&Inputs::default(), &CancellationToken::default()).unwrap();
        let mut got = json!({
            "input_is_list": schema.input_is_list,
            "fingerprint": fingerprint != Fingerprint::Inputs,
            "validates": schema.validates,
            "lazy": names(&|input| input.lazy),
            "raw_link": names(&|input| input.raw_link),
        });
        got.as_object_mut().unwrap().retain(|_, value| *value != json!(false) && *value != json!([]));
        let mut want = properties.get(&schema.class).cloned().unwrap_or(json!({}));
        let files = |input: &Input| matches!(input.kind, InputKind::Combo(Choices::Files { .. }));
        if schema.inputs.iter().any(files) {
            // The reference notices no change of a model's file, or of a folder.
            want["fingerprint"] = json!(true);
        }
        if got != want {
            wrong.push(format!("{}: {got}, the reference has {want}", schema.class));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_class_is_described() {
    for entry in Bench::new().catalog.iter() {
        assert!(entry.schema.description.len() > 5, "{} has no description", entry.schema.class);
    }
}

#[test]
fn a_difference_is_noticed() {
    let reference = reference();
    let mut changed = reference["ImageScale"].clone();
    changed["input"]["required"]["width"][1]["max"] = 1.into();
    let mut out = Vec::new();
    differences("ImageScale", &changed, &reference["ImageScale"], &mut out);
    assert_eq!(out, ["ImageScale.input.required.width[1].max: 1, the reference has 16384"]);
}

/// The front end 1.27.10 looks these up by name before it builds any node with a model's widget, and fails if one is missing.
#[test]
fn the_front_end_finds_the_loaders_that_it_knows_by_name() {
    let bench = Bench::new();
    for class in [
        "CheckpointLoaderSimple",
        "ImageOnlyCheckpointLoader",
        "LoraLoader",
        "LoraLoaderModelOnly",
        "VAELoader",
        "ControlNetLoader",
        "UNETLoader",
        "UpscaleModelLoader",
        "StyleModelLoader",
        "GLIGENLoader",
    ] {
        assert!(bench.catalog.iter().any(|entry| entry.schema.class == class), "{class} is missing");
    }
}

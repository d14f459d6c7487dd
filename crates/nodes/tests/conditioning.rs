//! The conditioning nodes against what the reference does to its lists, and the nodes for noise levels against its values.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::sync::Arc;

use comfyd_engine::{Area, CondEntry, Conditioning, tensor, values as tensor_values};
use comfyd_node::Value;
use comfyd_values::Sigmas;
use common::{Bench, inputs, values};
use serde_json::json;

/// A conditioning of `tokens` tokens of two values, all `value`, with a pooled text.
fn conditioning(tokens: usize, value: f32) -> Value {
    let text = tensor(&[1, tokens, 2], vec![value; tokens * 2]).unwrap();
    let pooled = tensor(&[1, 2], vec![value; 2]).unwrap();
    Value::object(Conditioning::new(vec![CondEntry { cross_attn: Some(text), pooled: Some(pooled), ..CondEntry::default() }]))
}

fn run(bench: &Bench, class: &str, widgets: &serde_json::Value, links: &[(&str, Value)]) -> Vec<Value> {
    let mut all = inputs(widgets);
    for (name, value) in links {
        all.insert(*name, value.clone());
    }
    values(&bench.run(class, all).unwrap())
}

fn entries(value: &Value) -> Vec<CondEntry> {
    value.downcast::<Conditioning>().unwrap().entries().to_vec()
}

fn text(entry: &CondEntry) -> Vec<f32> {
    tensor_values(entry.cross_attn.as_ref().unwrap()).unwrap().1
}

fn levels(value: &Value) -> Vec<f32> {
    value.downcast::<Sigmas>().unwrap().0.to_vec()
}

#[test]
fn conditionings_are_combined_averaged_and_joined() {
    let bench = Bench::new();
    let both = [("conditioning_1", conditioning(2, 1.0)), ("conditioning_2", conditioning(3, 2.0))];
    let combined = entries(&run(&bench, "ConditioningCombine", &json!({}), &both)[0]);
    assert_eq!(combined.iter().map(|e| text(e).len()).collect::<Vec<_>>(), [4, 6]);

    let both = [("conditioning_to", conditioning(3, 1.0)), ("conditioning_from", conditioning(2, 2.0))];
    let averaged = entries(&run(&bench, "ConditioningAverage", &json!({"conditioning_to_strength": 0.75}), &both)[0]);
    // The shorter text counts as zero where it ends.
    assert_eq!(text(&averaged[0]), [1.25, 1.25, 1.25, 1.25, 0.75, 0.75]);
    assert_eq!(tensor_values(averaged[0].pooled.as_ref().unwrap()).unwrap().1, [1.25, 1.25]);

    let joined = entries(&run(&bench, "ConditioningConcat", &json!({}), &both)[0]);
    assert_eq!(text(&joined[0]), [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0]);

    let zeroed = entries(&run(&bench, "ConditioningZeroOut", &json!({}), &[("conditioning", conditioning(2, 1.0))])[0]);
    assert_eq!(text(&zeroed[0]), [0.0; 4]);
}

#[test]
fn conditionings_are_bounded() {
    let bench = Bench::new();
    let link = [("conditioning", conditioning(1, 1.0))];
    let widgets = json!({"width": 71, "height": 64, "x": 8, "y": 16, "strength": 0.5});
    let entry = entries(&run(&bench, "ConditioningSetArea", &widgets, &link)[0]).remove(0);
    assert_eq!(entry.area, Some(Area::Latent { height: 8, width: 8, y: 2, x: 1 }));
    assert_eq!((entry.strength, entry.set_area_to_bounds), (Some(0.5), false));

    let widgets = json!({"width": 0.5, "height": 1.0, "x": 0.25, "y": 0.0, "strength": 1.0});
    let entry = entries(&run(&bench, "ConditioningSetAreaPercentage", &widgets, &link)[0]).remove(0);
    assert_eq!(entry.area, Some(Area::Percent { height: 1.0, width: 0.5, y: 0.0, x: 0.25 }));

    let entry = entries(&run(&bench, "ConditioningSetTimestepRange", &json!({"start": 0.2, "end": 0.7}), &link)[0]).remove(0);
    assert_eq!((entry.start_percent, entry.end_percent), (Some(0.2), Some(0.7)));

    let mask = comfyd_values::Mask::solid(1, 4, 6, 0.5);
    let links = [link[0].clone(), ("mask", Value::object(mask))];
    let widgets = json!({"strength": 0.8, "set_cond_area": "mask bounds"});
    let entry = entries(&run(&bench, "ConditioningSetMask", &widgets, &links)[0]).remove(0);
    assert_eq!(entry.mask.unwrap().dims(), [1, 4, 6]);
    assert_eq!((entry.mask_strength, entry.set_area_to_bounds), (Some(0.8), true));
}

#[test]
fn noise_levels_are_taken_apart() {
    let bench = Bench::new();
    let link = [("sigmas", Value::object(Sigmas(Arc::new(vec![8.0, 4.0, 2.0, 1.0, 0.0]))))];
    let parts = run(&bench, "SplitSigmas", &json!({"step": 2}), &link);
    assert_eq!((levels(&parts[0]), levels(&parts[1])), (vec![8.0, 4.0, 2.0], vec![2.0, 1.0, 0.0]));
    let parts = run(&bench, "SplitSigmasDenoise", &json!({"denoise": 0.5}), &link);
    assert_eq!((levels(&parts[0]), levels(&parts[1])), (vec![8.0, 4.0, 2.0], vec![2.0, 1.0, 0.0]));
    assert_eq!(levels(&run(&bench, "FlipSigmas", &json!({}), &link)[0]), [0.0001, 1.0, 2.0, 4.0, 8.0]);
    assert_eq!(levels(&run(&bench, "SetFirstSigma", &json!({"sigma": 14.5}), &link)[0]), [14.5, 4.0, 2.0, 1.0, 0.0]);
    let widgets = json!({"steps": 2, "start_at_sigma": -1.0, "end_at_sigma": 4.0, "spacing": "linear"});
    assert_eq!(levels(&run(&bench, "ExtendIntermediateSigmas", &widgets, &link)[0]), [8.0, 6.0, 4.0, 3.0, 2.0, 1.0, 0.0]);
}

#[test]
fn gits_levels_as_the_reference() {
    let bench = Bench::new();
    // python: GITSScheduler.execute(0.8, 4, 0.5)
    let got = levels(&run(&bench, "GITSScheduler", &json!({"coeff": 0.8, "steps": 4, "denoise": 0.5}), &[])[0]);
    assert_eq!(got, [7.490_016_5, 3.072_779_7, 0.0]);
}

#[test]
fn a_missing_part_of_a_checkpoint_is_named() {
    let mut all = inputs(&json!({"text": "a"}));
    all.insert("clip", Value::Null);
    let error = Bench::new().run("CLIPTextEncode", all).unwrap_err().to_string();
    assert!(error.contains("'clip'") && error.contains("load one"), "{error}");
}

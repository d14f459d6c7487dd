//! Answers to prompts: those recorded from the reference, one of each kind, and any.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use comfyd_node::{
    ChoicePart, Choices, Context, Error, Hosted, Input, InputKind, Node, NodeOutput, Raised, Refusal, Result, Schema, StaticOptions, Value,
};
use insta::assert_snapshot;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::double::{Check, anything, here, there};
use crate::prompt::Limits;

type Refuse = fn(&Inputs) -> std::result::Result<(), String>;

/// A class that is only declared; validation runs no node.
struct Declared {
    schema: Schema,
    refuse: Option<Refuse>,
}

impl Node for Declared {
    fn schema(&self) -> Schema {
        self.schema.clone()
    }

    fn validate(&self, inputs: &Inputs) -> std::result::Result<(), String> {
        self.refuse.map_or(Ok(()), |refuse| refuse(inputs))
    }

    fn run(&self, _cx: &mut Context<'_>, _inputs: Inputs) -> Result<NodeOutput> {
        Ok(NodeOutput::default())
    }
}

fn size(name: &str, default: i64, max: i64) -> Input {
    Input::int(name).default(default).min(1).max(max).step(1)
}

fn catalog() -> Catalog {
    let mut catalog = Catalog::new();
    let mut add = |schema: Schema| catalog.insert(Arc::new(Declared { schema, refuse: None }));
    let color = Input::int("color").default(0).min(0).max(0xFF_FFFF).step(1).option("display", "color");
    let empty = Schema::new("EmptyImage").input(size("width", 512, 16384)).input(size("height", 512, 16384));
    add(empty.input(Input::int("batch_size").default(1).min(1).max(4096)).input(color).output("IMAGE"));
    add(Schema::new("ImageInvert").input(Input::link("image", "IMAGE")).output("IMAGE"));
    add(Schema::new("PreviewImage").input(Input::link("images", "IMAGE")).output_node());
    add(Schema::new("PreviewAny").input(Input::link("source", "*").options()).output_node());
    let value = Input::float("value").default(1.0).min(0.0).max(1.0).step(0.01);
    add(Schema::new("SolidMask").input(value).input(size("width", 512, 16384)).input(size("height", 512, 16384)).output("MASK"));
    let methods = ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"];
    let scale = Schema::new("ImageScale").input(Input::link("image", "IMAGE")).input(Input::combo("upscale_method", methods));
    let scale = scale.input(size("width", 512, 16384).min(0)).input(size("height", 512, 16384).min(0));
    add(scale.input(Input::combo("crop", ["disabled", "center"])).output("IMAGE"));
    let long: Vec<String> = (0..25).map(|i| format!("choice{i}")).collect();
    add(Schema::new("Long").input(Input::combo("choice", long)).output_node());
    let kinds = Schema::new("Kinds").input(Input::int("int")).input(Input::float("float")).input(Input::text("text"));
    add(kinds.input(Input::bool("bool")).output_node());
    add(Schema::new("Union").input(Input::link("a", "MASK,IMAGE")).output_node());
    let load = Schema::new("Load").input(Input::combo("file", ["a"])).validates(["file"]).output_node();
    let refuse: Refuse = |inputs| match inputs.text("file") {
        Ok("bad") => Err("Invalid image file: bad".into()),
        Ok("panic") => panic!("on purpose"),
        _ => Ok(()),
    };
    catalog.insert(Arc::new(Declared { schema: load, refuse: Some(refuse) }));
    catalog
}

fn run(prompt: Json, targets: Option<&[String]>) -> std::result::Result<Validated, Rejected> {
    let prompt = Prompt::parse(prompt, &Limits::default()).map_err(Rejected::from)?;
    validate(&catalog(), &StaticOptions, prompt, targets, &Placing::default())
}

/// The answer's errors, or the outputs and errors of a prompt that is accepted.
fn check(prompt: Json) -> String {
    let answer = match run(prompt, None) {
        Err(rejected) => rejected.to_json(),
        Ok(validated) => json!({"outputs": validated.outputs, "node_errors": validated.node_errors.to_json()}),
    };
    serde_json::to_string_pretty(&answer).unwrap()
}

/// The rule of conformance/transcript.py: what the reference says must be there, extra keys may be.
fn missing(reference: &Json, got: &Json, path: &str, out: &mut Vec<String>) {
    match (reference, got) {
        (Json::Object(a), Json::Object(b)) => {
            for (key, value) in a {
                match b.get(key) {
                    Some(got) => missing(value, got, &format!("{path}.{key}"), out),
                    None => out.push(format!("{path}.{key} is missing")),
                }
            }
        }
        (Json::Array(a), Json::Array(b)) if a.len() == b.len() => {
            let mut pairs = [a.clone(), b.clone()];
            if path.ends_with(".errors") {
                // There in the order of a Python set.
                pairs.iter_mut().for_each(|errors| errors.sort_by_key(|error| format!("{} {}", error["type"], error["details"])));
            }
            let [a, b] = &pairs;
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                missing(a, b, &format!("{path}[{i}]"), out);
            }
        }
        (Json::String(volatile), _) if volatile == "<volatile>" || (volatile.is_empty() && got.is_string()) => {}
        (a, b) if a == b => {}
        (a, b) => out.push(format!("{path}: {b}, the reference has {a}")),
    }
}

#[test]
fn answers_are_those_recorded_from_the_reference() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../conformance/transcripts.json");
    let scenarios: Json = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mut compared = 0;
    let about_graphs = |name: &str| name.starts_with("prompt/") && name != "prompt/bad_id";
    for (name, scenario) in scenarios.as_object().unwrap().iter().filter(|(name, _)| about_graphs(name)) {
        let steps = scenario["steps"].as_array().unwrap().iter().zip(scenario["observed"].as_array().unwrap());
        for (step, observed) in steps {
            let (prompt, answer) = (&step["json"]["prompt"], &observed["json"]);
            let known_class = |n: &Json| !["RegexReplace", "SaveImage", "ImageScaleBy"].map(Json::from).contains(&n["class_type"]);
            if !prompt.is_object() || answer.is_null() || !prompt.as_object().unwrap().values().all(known_class) {
                continue;
            }
            compared += 1;
            let (status, got) = match run(prompt.clone(), None) {
                Err(rejected) => (400, rejected.to_json()),
                Ok(validated) => (200, json!({"node_errors": validated.node_errors.to_json(), "prompt_id": "<id>", "number": 0})),
            };
            assert_eq!(json!(status), observed["status"], "{name}: {got}");
            let mut differences = Vec::new();
            missing(answer, &got, name, &mut differences);
            assert!(differences.is_empty(), "{differences:#?}");
        }
    }
    assert!(compared > 15, "only {compared} scenarios were compared");
}

#[test]
fn all_errors_of_all_nodes_are_told_at_once() {
    let prompt = json!({
        "1": {"class_type": "EmptyImage", "inputs": {"width": -3, "height": "tall", "batch_size": 1.9}},
        "2": {"class_type": "ImageScale", "inputs": {"image": ["1", 0], "upscale_method": true, "width": [1], "height": 9, "crop": "center"}},
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
        "4": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    });
    let Err(rejected) = run(prompt, None) else { panic!("it must be refused") };
    let lines: Vec<String> = rejected
        .node_errors
        .nodes
        .iter()
        .flat_map(|(id, r)| {
            r.problems.iter().map(move |p| format!("{id} {:?} {}: {} | {}", r.dependent_outputs, p.kind(), p.message(), p.details()))
        })
        .collect();
    assert_snapshot!(lines.join("\n"), @r#"
    1 ["3", "4"] value_smaller_than_min: Value -3 smaller than min of 1 | width
    1 ["3", "4"] invalid_input_type: Failed to convert an input value to a INT value | height, tall, invalid literal for int() with base 10: 'tall'
    1 ["3", "4"] required_input_missing: Required input is missing | color
    2 ["3"] bad_linked_input: Bad linked input, must be a length-2 list of [node_id, slot_index] | width
    2 ["3"] value_not_in_list: Value not in list | upscale_method: True not in ['nearest-exact', 'bilinear', 'area', 'bicubic', 'lanczos']
    "#);
}

#[test]
fn a_long_list_is_named_by_its_length() {
    assert_snapshot!(check(json!({"1": {"class_type": "Long", "inputs": {"choice": 3}}})), @r#"
    {
      "error": {
        "type": "prompt_outputs_failed_validation",
        "message": "Prompt outputs failed validation",
        "details": "Value not in list: choice: 3 not in (list of length 25)",
        "extra_info": {}
      },
      "node_errors": {
        "1": {
          "errors": [
            {
              "type": "value_not_in_list",
              "message": "Value not in list",
              "details": "choice: 3 not in (list of length 25)",
              "extra_info": {
                "input_name": "choice",
                "input_config": null,
                "received_value": 3
              }
            }
          ],
          "dependent_outputs": [
            "1"
          ],
          "class_type": "Long"
        }
      }
    }
    "#);
}

#[test]
fn a_cycle_names_its_nodes() {
    let prompt = json!({
        "1": {"class_type": "ImageInvert", "inputs": {"image": ["2", 0]}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
        "4": {"class_type": "ImageInvert", "inputs": {"image": ["4", 0]}},
        "5": {"class_type": "PreviewImage", "inputs": {"images": ["4", 0]}},
    });
    let Err(rejected) = run(prompt, None) else { panic!("it must be refused") };
    let details: Vec<String> = rejected.node_errors.nodes.iter().map(|(id, r)| format!("{id}: {}", r.problems[0].details())).collect();
    assert_snapshot!(details.join("\n"), @r#"
    2: 2 (ImageInvert) -> 1 (ImageInvert) -> 2 (ImageInvert)
    1: 2 (ImageInvert) -> 1 (ImageInvert) -> 2 (ImageInvert)
    4: 4 (ImageInvert) -> 4 (ImageInvert)
    "#);
}

#[test]
fn a_node_that_links_nowhere_is_told_through_the_node_that_uses_it() {
    let prompt = json!({
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["77", 0]}},
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
    });
    assert_snapshot!(check(prompt), @r#"
    {
      "error": {
        "type": "prompt_outputs_failed_validation",
        "message": "Prompt outputs failed validation",
        "details": "",
        "extra_info": {}
      },
      "node_errors": {
        "2": {
          "errors": [
            {
              "type": "exception_during_inner_validation",
              "message": "Exception when validating inner node",
              "details": "'77'",
              "extra_info": {
                "input_name": "images",
                "input_config": [
                  "IMAGE",
                  {}
                ],
                "exception_message": "'77'",
                "exception_type": "KeyError",
                "traceback": [],
                "linked_node": [
                  "2",
                  0
                ]
              }
            }
          ],
          "dependent_outputs": [
            "3"
          ],
          "class_type": "ImageInvert"
        }
      }
    }
    "#);
}

#[test]
fn a_class_may_refuse_its_values() {
    assert_snapshot!(check(json!({"1": {"class_type": "Load", "inputs": {"file": "bad"}}})), @r#"
    {
      "error": {
        "type": "prompt_outputs_failed_validation",
        "message": "Prompt outputs failed validation",
        "details": "Custom validation failed for node: file - Invalid image file: bad",
        "extra_info": {}
      },
      "node_errors": {
        "1": {
          "errors": [
            {
              "type": "custom_validation_failed",
              "message": "Custom validation failed for node",
              "details": "file - Invalid image file: bad",
              "extra_info": {
                "input_name": "file"
              }
            }
          ],
          "dependent_outputs": [
            "1"
          ],
          "class_type": "Load"
        }
      }
    }
    "#);
    assert!(check(json!({"1": {"class_type": "Load", "inputs": {"file": "other"}}})).contains("\"node_errors\": {}"));
    assert!(check(json!({"1": {"class_type": "Load", "inputs": {"file": "panic"}}})).contains("the validation of class 'Load' panicked"));
}

#[test]
fn values_are_converted_as_python_converts_them() {
    let convert = |int: Json, float: Json, text: Json, bool: Json| {
        let inputs = json!({"int": int, "float": float, "text": text, "bool": bool});
        let validated = run(json!({"1": {"class_type": "Kinds", "inputs": inputs}}), None).unwrap();
        Json::Object(validated.prompt.inputs("1").unwrap().clone()).to_string()
    };
    let lines = [
        convert(json!(" 4_0 "), json!("1e3"), json!(1e16), json!("")),
        convert(json!(2.9), json!(3), json!(0.00001), json!(0.0)),
        convert(json!(true), json!(false), json!({"a": [null, true, "it's"]}), json!({"__value__": []})),
        convert(json!(u64::MAX), json!(0.1), json!({"__value__": ["x", 1]}), json!("false")),
        convert(json!("-7"), json!("-.5"), json!(null), json!({"__value__": [1]})),
    ];
    assert_snapshot!(lines.join("\n"), @r#"
    {"int":40,"float":1000.0,"text":"1e+16","bool":false}
    {"int":2,"float":3.0,"text":"1e-05","bool":false}
    {"int":1,"float":0.0,"text":"{'a': [None, True, \"it's\"]}","bool":false}
    {"int":18446744073709551615,"float":0.1,"text":"['x', 1]","bool":true}
    {"int":-7,"float":-0.5,"text":"None","bool":true}
    "#);
}

#[test]
fn links_may_share_a_member_of_a_union() {
    let prompt = json!({
        "1": {"class_type": "SolidMask", "inputs": {"value": 0.5, "width": 8, "height": 8}},
        "2": {"class_type": "Union", "inputs": {"a": ["1", 0]}},
        "3": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
    });
    assert_eq!(run(prompt, None).unwrap().outputs, ["3", "2"]);
}

#[test]
fn partial_targets_choose_the_outputs() {
    let prompt = json!({
        "1": {"class_type": "SolidMask", "inputs": {"value": 0.5, "width": 8, "height": 8}},
        "2": {"class_type": "Union", "inputs": {"a": ["1", 0]}},
        "3": {"class_type": "Union", "inputs": {"a": ["9", 0]}},
    });
    let targets = ["2".to_owned()];
    let validated = run(prompt.clone(), Some(&targets)).unwrap();
    assert_eq!(validated.outputs, ["2"]);
    assert!(validated.node_errors.is_empty(), "outputs that are not asked for are not checked");
    assert_eq!(run(prompt, Some(&[])).unwrap_err().error, PromptProblem::NoOutputs);
}

#[test]
fn bounds_are_told() {
    let nodes: serde_json::Map<String, Json> = (0..4).map(|i| (i.to_string(), json!({"class_type": "X", "inputs": {}}))).collect();
    let limits = Limits { max_nodes: 3, max_inputs: 1, max_depth: 1 };
    let refused = |json: Json| Prompt::parse(json, &limits).unwrap_err().to_json()["message"].as_str().unwrap().to_owned();
    let messages = [
        refused(json!([1])),
        refused(Json::Object(nodes)),
        refused(json!({"1": {"class_type": "X", "inputs": {"a": 1, "b": 2}}})),
        refused(json!({"1": {"class_type": "X", "inputs": {"a": [[1]]}}})),
        refused(json!({"1": {"class_type": "X", "inputs": 5}})),
    ];
    assert_snapshot!(messages.join("\n"), @r#"
    the prompt must be an object of nodes in API format: export the workflow with "Export (API)"
    the prompt has 4 nodes, at most 3 are allowed: split it, or raise the limit
    node '1' has 2 inputs, at most 1 are allowed
    input 'a' of node '1' is nested deeper than 1 levels: flatten the value
    the inputs of node '1' must be an object of names and values
    "#);
}

#[test]
fn a_long_chain_needs_no_stack() {
    let mut nodes = serde_json::Map::new();
    nodes.insert("0".into(), json!({"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}));
    for i in 1..9_999 {
        nodes.insert(i.to_string(), json!({"class_type": "ImageInvert", "inputs": {"image": [(i + 1).to_string(), 0]}}));
    }
    let inputs = json!({"width": 1, "height": 1, "batch_size": 1, "color": 0});
    nodes.insert("9999".into(), json!({"class_type": "EmptyImage", "inputs": inputs}));
    assert_eq!(run(Json::Object(nodes), None).unwrap().outputs, ["0"]);
}

fn any_value() -> impl Strategy<Value = Json> {
    let id = (0..8u8).prop_map(|i| i.to_string());
    prop_oneof![
        3 => (id, -1..3i64).prop_map(|(id, slot)| json!([id, slot])),
        1 => any::<i64>().prop_map(Json::from),
        1 => any::<f64>().prop_map(Json::from),
        1 => "[a-z0-9_.+-]{0,5}".prop_map(Json::from),
        1 => Just(json!(null)),
        1 => Just(json!([1])),
        1 => Just(json!([[], {}])),
        1 => Just(json!(["1", 0.0])),
        1 => Just(json!({"__value__": ["1", 0]})),
        1 => Just(json!({"a": [true]})),
    ]
}

/// What a widget gets from a JSON text, or what is wrong with it: `type|message|details`.
fn widget(input: &Input, sent: &str) -> std::result::Result<Value, String> {
    let mut catalog = Catalog::new();
    let schema = Schema::new("One").input(input.clone()).output_node();
    catalog.insert(Arc::new(Declared { schema, refuse: None }));
    let body = format!(r#"{{"1": {{"class_type": "One", "inputs": {{"x": {sent}}}}}}}"#);
    let prompt = Prompt::parse(comfyd_wire::json::read(body.as_bytes()).unwrap(), &Limits::default()).unwrap();
    match validate(&catalog, &StaticOptions, prompt, None, &Placing::default()) {
        Ok(validated) => {
            // As it is stored and read again.
            let stored = comfyd_wire::json::read(validated.prompt.into_json().to_string().as_bytes()).unwrap();
            let graph = crate::Graph::from_prompt(&catalog, &stored, &Placement::default()).unwrap();
            let crate::InputSource::Value(value) = &graph.node(0).inputs[0].source else { panic!("a link") };
            Ok(value.clone())
        }
        Err(rejected) => {
            let problem = &rejected.node_errors.nodes["1"].problems[0];
            Err(format!("{}|{}|{}", problem.kind(), problem.message(), problem.details()))
        }
    }
}

#[test]
fn whole_numbers_are_exact_and_read_as_python_reads_them() {
    let seed = Input::int("x").min(0).max(u64::MAX);
    let signed = Input::int("x").min(-i64::MAX).max(i64::MAX);
    let free = Input::int("x");
    let too_big = |shown: &str| Err(format!("value_bigger_than_max|Value {shown} bigger than max of 18446744073709551615|x"));
    let not_int = |shown: &str, reason: &str| {
        let reason = if reason.is_empty() { format!("invalid literal for int() with base 10: '{shown}'") } else { reason.into() };
        Err(format!("invalid_input_type|Failed to convert an input value to a INT value|x, {shown}, {reason}"))
    };
    let cases: Vec<(&Input, &str, std::result::Result<i128, String>)> = vec![
        (&seed, "18446744073709551615", Ok(u64::MAX.into())),
        (&seed, "18446744073709551614", Ok(i128::from(u64::MAX - 1))),
        (&seed, "9007199254740993", Ok(9_007_199_254_740_993)),
        (&seed, "18446744073709551616", too_big("18446744073709551616")),
        (&seed, "18446744073709551617", too_big("18446744073709551617")),
        (&seed, "1e30", too_big("1000000000000000019884624838656")),
        (&seed, "1.8446744073709552e19", too_big("18446744073709551616")),
        (&seed, "1.8446744073709550e19", Ok(18_446_744_073_709_549_568)),
        (&seed, r#""18446744073709551615""#, Ok(u64::MAX.into())),
        (&seed, r#""18446744073709551616""#, too_big("18446744073709551616")),
        (&seed, r#""1_000""#, Ok(1000)),
        (&seed, r#"" 7 ""#, Ok(7)),
        (&seed, r#""+٣""#, Ok(3)),
        (&seed, r#""007""#, Ok(7)),
        (&seed, r#""-0""#, Ok(0)),
        (&seed, r#""0x10""#, not_int("0x10", "")),
        (&seed, r#""1e3""#, not_int("1e3", "")),
        (&seed, r#""7.0""#, not_int("7.0", "")),
        (&seed, r#""1__0""#, not_int("1__0", "")),
        (&seed, r#""""#, not_int("", "")),
        (&seed, "NaN", not_int("nan", "cannot convert float NaN to integer")),
        (&seed, "Infinity", not_int("inf", "cannot convert float infinity to integer")),
        (&seed, "-1e999", not_int("-inf", "cannot convert float infinity to integer")),
        (&seed, "true", Ok(1)),
        (&seed, "3.99", Ok(3)),
        (&seed, "-0.5", Ok(0)),
        (&seed, "-1", Err("value_smaller_than_min|Value -1 smaller than min of 0|x".into())),
        (&seed, "-1e300", Err(format!("value_smaller_than_min|Value {:.0} smaller than min of 0|x", -1e300))),
        (&seed, r#"{"__value__": 18446744073709551616}"#, too_big("18446744073709551616")),
        (&signed, "-9223372036854775807", Ok((-i64::MAX).into())),
        (
            &signed,
            "-9223372036854775808",
            Err("value_smaller_than_min|Value -9223372036854775808 smaller than min of -9223372036854775807|x".into()),
        ),
        (
            &signed,
            "9223372036854775808",
            Err("value_bigger_than_max|Value 9223372036854775808 bigger than max of 9223372036854775807|x".into()),
        ),
        (&free, "-1", Ok(-1)),
        (&free, "18446744073709551616", Ok(1 << 64)),
        (&free, r#""-170141183460469231731687303715884105728""#, Ok(i128::MIN)),
        (
            &free,
            "170141183460469231731687303715884105728",
            not_int("170141183460469231731687303715884105728", "it has more than 128 bits: send a smaller one"),
        ),
    ];
    for (input, sent, wanted) in cases {
        let got = widget(input, sent).map(|value| match value {
            Value::Int(int) => int,
            other => panic!("{sent}: {other:?}"),
        });
        assert_eq!(got, wanted, "{sent}");
    }
}

#[test]
fn floats_are_read_as_python_reads_them() {
    let cfg = Input::float("x").min(0.0).max(100.0);
    let free = Input::float("x");
    let wide = Input::float("x").min(-i64::MAX).max(i64::MAX);
    let too_big = |shown: &str, max: &str| Err(format!("value_bigger_than_max|Value {shown} bigger than max of {max}|x"));
    let cases: Vec<(&Input, &str, std::result::Result<&str, String>)> = vec![
        (&cfg, "NaN", Ok("nan")),
        (&cfg, r#""nan""#, Ok("nan")),
        (&cfg, "Infinity", too_big("inf", "100.0")),
        (&cfg, "1e999", too_big("inf", "100.0")),
        (&cfg, r#"" Infinity ""#, too_big("inf", "100.0")),
        (&cfg, "-Infinity", Err("value_smaller_than_min|Value -inf smaller than min of 0.0|x".into())),
        (&cfg, "18446744073709551616", too_big("1.8446744073709552e+19", "100.0")),
        (&cfg, r#""1e1""#, Ok("10.0")),
        (&cfg, r#""1_0.5""#, Ok("10.5")),
        (&cfg, r#""٣.٥""#, Ok("3.5")),
        (&cfg, "7", Ok("7.0")),
        (&cfg, "false", Ok("0.0")),
        (
            &cfg,
            r#""1,5""#,
            Err("invalid_input_type|Failed to convert an input value to a FLOAT value|x, 1,5, could not convert string to float: '1,5'"
                .into()),
        ),
        (&free, "Infinity", Ok("inf")),
        (&free, "-Infinity", Ok("-inf")),
        (&free, "18446744073709551616", Ok("1.8446744073709552e+19")),
        // 2^63 as a float is above the limit of 2^63 - 1, which as a float is the same.
        (&wide, "9223372036854775807", too_big("9.223372036854776e+18", "9223372036854775807")),
    ];
    for (input, sent, wanted) in cases {
        let got = widget(input, sent).map(|value| match value {
            Value::Float(float) => comfyd_wire::python::repr_float(float),
            other => panic!("{sent}: {other:?}"),
        });
        assert_eq!(got, wanted.map(str::to_owned), "{sent}");
    }
}

#[test]
fn numbers_that_json_cannot_hold_are_texts_as_python_prints_them() {
    for (sent, wanted) in [("NaN", "nan"), ("-Infinity", "-inf"), ("18446744073709551616", "18446744073709551616"), ("1e3", "1000.0")] {
        let got = widget(&Input::text("x"), sent).unwrap();
        assert!(matches!(&got, Value::Text(text) if &**text == wanted), "{sent}: {got:?}");
        assert!(matches!(widget(&Input::bool("x"), sent), Ok(Value::Bool(true))), "{sent}");
    }
    let wrong = widget(&Input::combo("x", ["a"]), "NaN").unwrap_err();
    assert_eq!(wrong, "value_not_in_list|Value not in list|x: 'nan' not in ['a']");
}

#[test]
fn the_answers_numbers_are_numbers() {
    let prompt = json!({"1": {"class_type": "EmptyImage", "inputs": {"width": "99999999999999999999", "height": 1, "batch_size": 1, "color": 0}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}});
    let rejected = run(prompt, None).unwrap_err().to_json();
    assert_eq!(rejected["node_errors"]["1"]["errors"][0]["extra_info"]["received_value"], json!(1e20));
}

/// All that is done with a prompt, on a thread with the stack of the server's threads.
#[test]
fn the_deepest_values_are_checked_on_a_threads_stack() {
    let work = || {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let depth = comfyd_wire::json::MAX_DEPTH - 4;
            let value = format!("{}0{}", open.repeat(depth), close.repeat(depth));
            for input in [Input::text("x"), Input::int("x"), Input::bool("x"), Input::combo("x", ["a"]), Input::link("x", "*")] {
                let wrapped = format!(r#"{{"__value__": {value}}}"#);
                match (widget(&input, &wrapped), &input.kind) {
                    (Ok(value), InputKind::Other(_)) => assert!(matches!(value, Value::Json(_))),
                    (Ok(value), InputKind::Text) => assert!(matches!(value, Value::Text(text) if text.len() > depth)),
                    (Ok(value), InputKind::Bool) => assert!(matches!(value, Value::Bool(true))),
                    (Err(wrong), InputKind::Int | InputKind::Combo(_)) => assert!(wrong.len() < 100 * depth),
                    (got, kind) => panic!("{kind:?}: {:?}", got.is_ok()),
                }
            }
        }
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(work).unwrap().join().unwrap();
}

fn any_node() -> impl Strategy<Value = Json> {
    let class =
        prop::sample::select(vec!["EmptyImage", "ImageInvert", "PreviewImage", "PreviewAny", "ImageScale", "Kinds", "Union", "Load"]);
    let name = prop::sample::select(vec![
        "width",
        "height",
        "image",
        "images",
        "source",
        "a",
        "file",
        "int",
        "float",
        "text",
        "bool",
        "upscale_method",
        "other",
    ]);
    (class, prop::collection::btree_map(name, any_value(), 0..5)).prop_map(|(class, inputs)| json!({"class_type": class, "inputs": inputs}))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is sent: no panic, an answer that is the same the second time, and what was accepted is accepted again unchanged.
    #[test]
    fn any_graph_is_answered(nodes in prop::collection::vec(any_node(), 1..8)) {
        let prompt: Json = nodes.into_iter().enumerate().map(|(i, node)| (i.to_string(), node)).collect::<serde_json::Map<_, _>>().into();
        let first = run(prompt.clone(), None);
        prop_assert_eq!(&first, &run(prompt, None));
        if let Ok(validated) = first {
            let json = validated.prompt.clone().into_json();
            let again = run(json, Some(&validated.outputs)).expect("what was accepted is accepted again");
            prop_assert_eq!(again.outputs, validated.outputs);
            prop_assert_eq!(again.prompt, validated.prompt);
        }
    }

    #[test]
    fn any_json_is_parsed_or_refused(text in "[\\[\\]{}\",:0-9a-z]{0,40}") {
        if let Ok(json) = serde_json::from_str::<Json>(&text) {
            let _ = run(json, None);
        }
    }
}

/// Classes of another process.
fn hosted_catalog() -> Catalog {
    let mut catalog = catalog();
    let checked = || Hosted { validates: true, ..Hosted::default() };
    let refuse: Check = |arguments, types| {
        let told = |name: &str| match arguments.get(name) {
            Some(Argument::Constant(value)) => value.to_json().to_string(),
            Some(Argument::Link { node, slot, values }) => format!("@{node}.{slot} {}", values.is_none()),
            None => "absent".into(),
        };
        let names: Vec<String> = arguments.keys().map(|name| format!("{name}={}", told(name))).collect();
        let raised = |kind: &str, message: &str| Raised {
            kind: kind.into(),
            message: message.into(),
            traceback: vec!["line 1\n".into()],
            ..Raised::default()
        };
        match arguments.get("how") {
            Some(Argument::Constant(Value::Text(how))) if &**how == "raise" => Err(Error::Raised(Box::new(raised("mine.Trouble", "no")))),
            Some(Argument::Constant(Value::Text(how))) if &**how == "panic" => panic!("on purpose"),
            Some(Argument::Constant(Value::Text(how))) if &**how == "away" => Err(Error::Unreachable("nobody is there".into())),
            Some(Argument::Constant(Value::Text(how))) if &**how == "fine" => Ok(Vec::new()),
            _ => Ok(vec![
                Refusal { input: "how".into(), reason: Some(format!("{} {}", names.join(" "), Json::Object(types.clone()))) },
                Refusal { input: "image".into(), reason: None },
            ]),
        }
    };
    let schema = Schema::new("Picky").input(Input::text("how")).input(Input::link("image", "IMAGE").optional()).output_node();
    there(&mut catalog, "default", schema, Hosted { open: true, ..checked() }, refuse);
    let schema = Schema::new("Typed").input(Input::link("a", "IMAGE")).output_node();
    there(&mut catalog, "default", schema, Hosted { validates_types: true, ..checked() }, anything);
    let schema = Schema::new("All").input(Input::int("n").min(0).max(3)).input(Input::combo("c", ["x"])).output_node();
    there(&mut catalog, "default", schema, Hosted { validates_all: true, ..checked() }, anything);
    let mut accepting = Input::link("a", "IMAGE");
    accepting.accepts.push("MASK".into());
    let choices = [ChoicePart::Fixed(json!("p")), ChoicePart::Fixed(json!(1))];
    let mut parts = Input::combo("parts", ["p"]).optional();
    parts.kind = InputKind::Combo(Choices::Parts(choices.into()));
    let several = Input::combo("several", ["x", "y"]).option("multiselect", true).optional();
    let template = json!({"input": {"required": {"image": ["IMAGE", {}]}}, "prefix": "image", "min": 1, "max": 3});
    let grown = Input::link("grown", "COMFY_AUTOGROW_V3").option("template", template);
    let schema = Schema::new("Newer").input(accepting).input(several).input(parts).input(grown).output_node().schema_generation();
    there(&mut catalog, "default", schema, Hosted::default(), anything);
    let schema = Schema::new("Lists").input(Input::int("n")).output("COMBO").output("COMBO");
    there(&mut catalog, "default", schema, Hosted { choices: vec![(0, json!(["x", "y"]))], ..Hosted::default() }, anything);
    let schema = Schema::new("Chooses").input(Input::combo("c", ["x", "y"])).input(Input::combo("d", ["x"]).optional()).output_node();
    there(&mut catalog, "default", schema, Hosted::default(), anything);
    catalog
}

fn hosted(prompt: Json) -> Vec<String> {
    let prompt = Prompt::parse(prompt, &Limits::default()).unwrap();
    let errors = match validate(&hosted_catalog(), &StaticOptions, prompt, None, &Placing::default()) {
        Ok(validated) => validated.node_errors,
        Err(rejected) if rejected.node_errors.is_empty() => return vec![rejected.error.to_string()],
        Err(rejected) => rejected.node_errors,
    };
    let problems = errors.nodes.iter().flat_map(|(id, report)| report.problems.iter().map(move |problem| (id, problem)));
    problems.map(|(id, problem)| format!("{id} {} {}", problem.kind(), problem.details())).collect()
}

fn one(class: &str, inputs: Json) -> Vec<String> {
    let mask = json!({"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 8, "height": 8}});
    let image = json!({"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}});
    let lists = json!({"class_type": "Lists", "inputs": {"n": 1}});
    hosted(json!({"m": mask, "i": image, "l": lists, "1": {"class_type": class, "inputs": inputs}}))
}

#[test]
fn classes_of_other_processes_check_their_values_themselves() {
    assert!(one("Picky", json!({"how": "fine", "image": ["i", 0]})).is_empty());
    let told = one("Picky", json!({"more": {"__value__": [1]}, "image": ["i", 0], "how": 5, "other": ["i", 0]}));
    assert_snapshot!(told.join("\n"), @r#"
    1 custom_validation_failed how - more={"__value__":[1]} image=@i.0 true how="5" other=@i.0 true {"image":"IMAGE"}
    1 custom_validation_failed image
    "#);
    assert_eq!(one("Picky", json!({"how": "panic"})), ["1 exception_during_validation the validation of class 'Picky' panicked"]);
    let prompt = Prompt::parse(json!({"1": {"class_type": "Picky", "inputs": {"how": "raise"}}}), &Limits::default()).unwrap();
    let rejected = validate(&hosted_catalog(), &StaticOptions, prompt, None, &Placing::default()).unwrap_err();
    let error = &rejected.to_json()["node_errors"]["1"]["errors"][0];
    assert_eq!(error["extra_info"], json!({"exception_type": "mine.Trouble", "traceback": ["line 1\n"]}));
}

#[test]
fn what_nobody_can_check_now_is_no_mistake_of_the_prompt() {
    let picky = |how: &str| json!({"class_type": "Picky", "inputs": {"how": how}});
    let prompt = Prompt::parse(json!({"1": picky("fine"), "2": picky("away"), "3": picky("raise")}), &Limits::default()).unwrap();
    let rejected = validate(&hosted_catalog(), &StaticOptions, prompt, None, &Placing::default()).unwrap_err();
    assert_snapshot!(rejected.to_json().to_string(), @r#"{"error":{"type":"worker_unavailable","message":"the inputs of class 'Picky' cannot be checked now: nobody is there: try again later","details":"Node ID '#2'","extra_info":{}},"node_errors":{}}"#);
}

#[test]
fn a_class_of_another_process_may_take_over_the_checks() {
    assert!(one("Typed", json!({"a": ["m", 0]})).is_empty(), "it looks at the types itself");
    assert!(one("All", json!({"n": 7, "c": "z"})).is_empty(), "it looks at all values itself");
    assert_eq!(one("All", json!({"n": "x", "c": "z"})).len(), 1, "but they are converted");
}

#[test]
fn types_and_choices_of_other_processes_are_checked_as_they_compare_them() {
    let newer = |more: Json| {
        let mut inputs = json!({"a": ["m", 0], "grown.image0": ["i", 0]});
        inputs.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        one("Newer", inputs)
    };
    assert_eq!(
        newer(json!({"grown.image1": ["m", 0]}))[0],
        "1 return_type_mismatch grown.image1, received_type(MASK) mismatch input_type(IMAGE)"
    );
    assert_eq!(one("Newer", json!({"a": ["m", 0]})), ["1 required_input_missing image0"]);
    assert!(newer(json!({})).is_empty(), "a type that it accepts, and an input that stands for others");
    assert!(newer(json!({"several": {"__value__": ["x", "y"]}, "parts": 1})).is_empty());
    assert_eq!(
        newer(json!({"several": {"__value__": ["x", "z", "it's"]}})),
        [r#"1 value_not_in_list several: 'z', "it's" not in ['x', 'y']"#]
    );
    assert_eq!(newer(json!({"parts": "q"})), ["1 value_not_in_list parts: 'q' not in ['p', 1]"]);
    assert!(one("Chooses", json!({"c": ["l", 0]})).is_empty(), "a list as type fits the combo of that list");
    assert_eq!(
        one("Chooses", json!({"c": ["l", 1], "d": ["l", 0]})),
        [
            "1 return_type_mismatch d, received_type(['x', 'y']) mismatch input_type(['x'])",
            "1 return_type_mismatch c, received_type(COMBO) mismatch input_type(['x', 'y'])",
        ],
    );
}

#[test]
fn what_no_process_runs_together_is_refused() {
    let mut catalog = hosted_catalog();
    there(&mut catalog, "default", Schema::new("Make").input(Input::int("n")).output("MODEL"), Hosted::default(), anything);
    here(&mut catalog, Schema::new("Use").input(Input::link("model", "MODEL")).output_node(), None);
    let json = json!({"1": {"class_type": "Make", "inputs": {"n": 1}}, "2": {"class_type": "Use", "inputs": {"model": ["1", 0]}}});
    let prompt = Prompt::parse(json, &Limits::default()).unwrap();
    let rejected = validate(&catalog, &StaticOptions, prompt, None, &Placing::default()).unwrap_err();
    assert_snapshot!(rejected.to_json().to_string(), @r#"{"error":{"type":"prompt_cannot_be_placed","message":"what class 'Make' gives class 'Use' (MODEL) cannot leave the process that made it, and no process runs both","details":"Node ID '#1' -> Node ID '#2'","extra_info":{}},"node_errors":{}}"#);
}

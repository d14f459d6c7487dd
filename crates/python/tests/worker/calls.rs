//! Calls: values both ways, lists, lazy inputs, expansions, several at once, reports.

use std::sync::Arc;
use std::time::{Duration, Instant};

use comfyd_node::{Error, Fingerprint, Inspected, NodeOutput, Returned, Source, Value};
use comfyd_python::HistoryWanted;
use comfyd_values::{Image, Latent, LatentOperation, Mask, Sigmas};
use ndarray::{Array, IxDyn};
use serde_json::{Map, json};

use crate::support::*;

fn json_of(value: &Value) -> serde_json::Value {
    value.to_json()
}

#[test]
fn plain_values_go_and_come_as_they_are() {
    if !python() {
        return;
    }
    let rig = rig();
    rig.begin().unwrap();
    let values_of: [Value; 9] = [
        Value::Null,
        true.into(),
        7.into(),
        2.0.into(),
        f64::NEG_INFINITY.into(),
        "ä\n\"".into(),
        u64::MAX.into(),
        (-3).into(),
        (1_i128 << 90).into(),
    ];
    for value in values_of {
        let back = rig.value("StubEcho", &[("value", is(value.clone()))]).unwrap();
        assert_eq!(format!("{back:?}"), format!("{value:?}"));
        let along = rig.value("StubEcho", &[("value", link([value.clone()]))]).unwrap();
        assert_eq!(std::mem::discriminant(&along), std::mem::discriminant(&value), "{value:?}");
    }
    let nan = rig.value("StubEcho", &[("value", is(f64::NAN))]).unwrap();
    assert!(matches!(nan, Value::Float(float) if float.is_nan()));
    assert!(matches!(rig.value("StubEcho", &[("value", is(Value::Blocker(None)))]), Ok(Value::Blocker(None))));
    let odd = values(&rig.run("StubOdd", &[]).unwrap());
    assert!(matches!(odd[0][0], Value::Float(f64::INFINITY)));
    assert!(matches!(odd[1][0], Value::Float(1.0)));
    assert!(matches!(&odd[2][0], Value::Text(text) if &**text == "own"));
    assert!(matches!(odd[3][0], Value::Int(big) if big == 1 << 70), "{:?}", odd[3][0]);
    // A list is an object of the worker, but JSON where it is needed here.
    let Value::Object(list) = &odd[4][0] else { panic!("{:?}", odd[4][0]) };
    assert_eq!(list.type_name(), "*");
    assert_eq!(json_of(&list.localize().unwrap().unwrap()), json!([1, "two"]));
    let constant = rig.value("StubEcho", &[("value", is(Value::Json(Arc::new(json!({"a": [1, 2.5]})))))]).unwrap();
    let Value::Object(constant) = constant else { panic!("{constant:?}") };
    assert_eq!(json_of(&constant.localize().unwrap().unwrap()), json!({"a": [1, 2.5]}));
    rig.worker.host().end();
}

#[test]
fn lists_are_mapped_in_the_worker() {
    if !python() {
        return;
    }
    let rig = rig();
    rig.begin().unwrap();
    let list = values(&rig.run("StubList", &[("count", is(3))]).unwrap());
    assert_eq!(list.len(), 1);
    let added = values(&rig.run("StubAdd", &[("a", link(list[0].clone())), ("b", is(10))]).unwrap());
    assert_eq!(added[0].iter().map(json_of).collect::<Vec<_>>(), [10, 11, 12]);
    let sum = rig.value("StubSum", &[("values", link(added[0].clone()))]).unwrap();
    assert_eq!(json_of(&sum), json!(33));
    let shown = rig.run("StubOutput", &[("value", link(["a".into(), "b".into()]))]).unwrap();
    assert_eq!(serde_json::Value::from(shown.ui.unwrap()), json!({"text": ["a", "b"]}));
    let blocked = rig.run("StubBlock", &[("value", is(1)), ("block", is(true)), ("message", is(""))]).unwrap();
    assert!(matches!(values(&blocked)[0][0], Value::Blocker(None)));
    rig.worker.host().end();
}

#[test]
fn native_values_cross_both_ways() {
    if !python() {
        return;
    }
    let rig = rig();
    rig.begin().unwrap();
    let image = Image::new(Array::from_shape_fn((1, 3, 5, 3), |(_, y, x, c)| (y * 15 + x * 3 + c) as f32));
    let there = rig.value("StubEcho", &[("value", link([Value::object(image.clone())]))]).unwrap();
    let Value::Object(there) = there else { panic!("{there:?}") };
    assert_eq!(there.describe(), "a Tensor of shape 1x3x5x3 in the Python worker 'default'");
    assert_eq!((there.size_bytes(), there.host()), (180, Some("default")));
    let back = there.localize().unwrap().unwrap();
    assert_eq!(*back.downcast::<Image>().unwrap(), image);
    let Value::Object(first) = &back else { panic!("{back:?}") };
    let Some(Value::Object(second)) = there.localize().unwrap() else { panic!("nothing") };
    assert!(Arc::ptr_eq(first, &second), "it is brought once while it is used");
    let echoed = |value: Value| {
        let Value::Object(there) = rig.value("StubEcho", &[("value", link([value]))]).unwrap() else { panic!("no object") };
        there.localize().unwrap().unwrap()
    };
    let mask = Mask::solid(2, 3, 4, 0.5);
    assert_eq!(*echoed(Value::object(mask.clone())).downcast::<Mask>().unwrap(), mask);
    let sigmas = Sigmas::new(vec![3.0, 1.0, 0.0]);
    assert_eq!(*echoed(Value::object(sigmas.clone())).downcast::<Sigmas>().unwrap(), sigmas);
    let latent = Latent {
        noise_mask: Some(Array::ones(IxDyn(&[1, 2, 3])).into_shared()),
        batch_index: Some(vec![0, 4]),
        extra: json!({"kind": "x"}).as_object().unwrap().clone(),
        ..Latent::new(Array::from_elem(IxDyn(&[2, 4, 2, 3]), 0.25).into_shared())
    };
    assert_eq!(*echoed(Value::object(latent.clone())).downcast::<Latent>().unwrap(), latent);
    // An output's type says what a tensor is.
    let size = [("height", is(2)), ("width", is(3)), ("value", is(0.5))];
    let Value::Object(tensor) = rig.value("StubTensor", &size).unwrap() else { panic!("no object") };
    assert_eq!(tensor.type_name(), "IMAGE");
    assert_eq!(*tensor.localize().unwrap().unwrap().downcast::<Image>().unwrap(), Image::new(Array::from_elem((1, 2, 3, 3), 0.5)));
    let sum = rig.value("StubTensorSum", &[("image", link([Value::Object(tensor)]))]).unwrap();
    assert_eq!(json_of(&sum), json!(9.0));
    let Value::Object(latent) = rig.value("StubLatent", &[("length", is(3))]).unwrap() else { panic!("no object") };
    let latent = latent.localize().unwrap().unwrap().downcast::<Latent>().unwrap();
    assert_eq!((latent.samples.shape(), &latent.extra["kind"]), (&[1, 3][..], &json!("stub")));
    rig.worker.host().end();
}

#[test]
fn what_cannot_cross_is_told() {
    if !python() {
        return;
    }
    let (rig, other) = (rig(), rig());
    rig.begin().unwrap();
    other.begin().unwrap();
    let Value::Object(thing) = rig.value("StubObject", &[("name", is("n"))]).unwrap() else { panic!("no object") };
    assert_eq!(thing.type_name(), "STUB_OBJECT");
    assert!(thing.alive());
    let message = |error: Error| match error {
        Error::CannotCross(why) => why,
        other => panic!("{other:?}"),
    };
    let why = message(thing.localize().unwrap_err());
    assert!(why.contains("type Thing cannot leave"), "{why}");
    let why = message(other.value("StubUseObject", &[("object", link([Value::Object(thing.clone())]))]).unwrap_err());
    assert!(why.contains("type Thing cannot leave"), "{why}");
    let native = Value::object(LatentOperation::new("sharpen", |samples| Ok(samples.clone())));
    let why = message(rig.value("StubEcho", &[("value", link([native]))]).unwrap_err());
    assert!(why.contains("LATENT_OPERATION cannot go to the Python worker 'default'"), "{why}");
    // What can cross goes from one worker to the other.
    let size = [("height", is(1)), ("width", is(1)), ("value", is(2.0))];
    let tensor = rig.value("StubTensor", &size).unwrap();
    assert_eq!(json_of(&other.value("StubTensorSum", &[("image", link([tensor]))]).unwrap()), json!(6.0));
    let shape = |rig: &Rig, value: &Value| json_of(&rig.value("StubShape", &[("value", link([value.clone()]))]).unwrap());
    for (made, known, shown) in [
        (rig.value("StubAudio", &[("length", is(2))]), true, "{'waveform': 'torch.float32 [1, 1, 2] [0.5, 0.5]', 'sample_rate': 8000}"),
        (
            rig.value("StubTree", &[]),
            false,
            "[['torch.float32 [2] [0.5, 1.5]', {'pooled': 'torch.int64 [2] [1, 1099511627776]', 'sizes': (1, 2.5, inf), 3: None}]]",
        ),
    ] {
        let made = made.unwrap();
        assert_eq!(shape(&rig, &made), json!(shown));
        for _ in 0..3 {
            assert_eq!(shape(&other, &made), json!(shown), "also one that is kept there");
        }
        let Value::Object(object) = made else { panic!("no object") };
        match object.localize() {
            Ok(here) => assert!(known && here.is_some()),
            Err(error) => assert!(!known && matches!(error, Error::CannotCross(_)), "it is nothing that is known here"),
        }
    }
    assert_eq!(json_of(&rig.value("StubUseObject", &[("object", link([Value::Object(thing)]))]).unwrap()), json!("n"));
    rig.worker.host().end();
    other.worker.host().end();
}

#[test]
fn objects_live_as_long_as_they_are_used() {
    if !python() {
        return;
    }
    let rig = rig();
    rig.begin().unwrap();
    let alive = || rig.value("StubAlive", &[]).unwrap().to_json();
    let first = rig.value("StubObject", &[("name", is("a"))]).unwrap();
    let second = rig.value("StubObject", &[("name", is("b"))]).unwrap();
    assert_eq!(alive(), json!(2));
    let (Value::Object(one), Value::Object(same)) = (&first, rig.value("StubEcho", &[("value", link([first.clone()]))]).unwrap()) else {
        panic!("no objects")
    };
    assert!(Arc::ptr_eq(one, &same), "one object there is one here");
    assert_eq!(one.type_name(), "STUB_OBJECT", "a type that says nothing does not replace one that does");
    drop((second, same));
    until("the second is let go", || alive() == json!(1));
    let kept = rig.value("StubSame", &[]).unwrap();
    drop(kept);
    for _ in 0..20 {
        let again = rig.value("StubSame", &[]).unwrap();
        assert_eq!(json_of(&rig.value("StubUseObject", &[("object", link([again]))]).unwrap()), json!("same"));
    }
    // Many at once are let go without a message that takes them along.
    let many: Vec<_> = (0..300).map(|_| rig.value("StubObject", &[("name", is("m"))]).unwrap()).collect();
    rig.worker.host().end();
    drop((first, many));
    until("all are let go", || rig.objects() == 0);
    rig.begin().unwrap();
    assert_eq!(alive(), json!(1), "only the one that the class keeps");
    rig.worker.host().end();
}

#[test]
fn a_class_is_asked_what_it_needs() {
    if !python() {
        return;
    }
    let rig = rig();
    rig.begin().unwrap();
    let needed = |class: &str, inputs: &[_]| rig.class(class).needed(&call("1", inputs), &rig.cancel).unwrap();
    assert_eq!(needed("StubLazy", &[("pick", is(true)), ("first", unknown()), ("second", unknown())]), ["first"]);
    assert_eq!(needed("StubLazy", &[("pick", is(false)), ("first", unknown()), ("second", link([3.into()]))]), [""; 0]);
    assert_eq!(needed("StubAdd", &[("a", unknown()), ("b", is(1))]), [""; 0], "it does not say");
    let picked = [("pick", is(true)), ("first", link([5.into()])), ("second", unknown())];
    assert_eq!(json_of(&rig.value("StubLazy", &picked).unwrap()), json!(5));
    let names =
        rig.class("StubOpen").inspect(&arguments(&[("x", unknown()), ("lazy_a", unknown()), ("raw_b", unknown()), ("c", is(1))])).unwrap();
    assert_eq!(names["x"], Inspected::default());
    assert_eq!(names["lazy_a"], Inspected { lazy: true, raw_link: false });
    assert_eq!(names["raw_b"], Inspected { lazy: false, raw_link: true });
    let open = rig.value("StubOpen", &[("c", is(1)), ("raw_b", unknown()), ("x", link(["y".into()]))]).unwrap();
    let Value::Text(open) = open else { panic!("{open:?}") };
    assert_eq!(serde_json::from_str::<serde_json::Value>(&open).unwrap(), json!({"c": 1, "raw_b": ["9", 0], "x": "y"}));
    rig.worker.host().end();
}

#[test]
fn a_class_says_what_its_result_depends_on() {
    if !python() {
        return;
    }
    let rig = rig();
    rig.begin().unwrap();
    let told = |mode: &str| rig.class("StubChanged").fingerprint(&call("1", &[("mode", is(mode))]), &rig.cancel).unwrap();
    assert!(matches!(told("same"), Fingerprint::Text(_)));
    assert_eq!(told("same"), told("same"));
    assert_ne!(told("counter"), told("counter"));
    assert_eq!(told("nan"), Fingerprint::Always);
    assert!(rig.class("StubChanged").fingerprints() && !rig.class("StubAdd").fingerprints());
    let plain = rig.class("StubAdd").fingerprint(&call("1", &[]), &rig.cancel).unwrap();
    assert_eq!(plain, Fingerprint::Inputs);
    rig.worker.host().end();
}

#[test]
fn a_class_checks_its_inputs_before_any_prompt_begins() {
    if !python() {
        return;
    }
    let mut rig = cold(|_| {});
    rig.worker.known().unwrap();
    rig.learn();
    let check = |class: &str, inputs: &[_], types: Map<_, _>| rig.class(class).validate("1", &arguments(inputs), &types);
    let refused = check("StubChecked", &[("number", is(11)), ("other", is(1))], Map::new()).unwrap();
    assert_eq!(refused.len(), 1);
    assert_eq!((refused[0].input.as_str(), refused[0].reason.as_deref()), ("number", Some("too much")));
    let refused = check("StubChecked", &[("number", is(-1)), ("other", is(1))], Map::new()).unwrap();
    assert_eq!(refused[0].reason, None);
    assert!(check("StubChecked", &[("number", is(1)), ("other", is(1))], Map::new()).unwrap().is_empty());
    let raised = check("StubChecked", &[("number", is(5)), ("other", is(1))], Map::new()).unwrap_err();
    assert!(matches!(&raised, Error::Raised(raised) if raised.kind == "ValueError" && raised.message == "not five"), "{raised:?}");
    let types = |ty: &str| json!({"value": ty}).as_object().unwrap().clone();
    assert!(check("StubCheckedTypes", &[("value", unknown())], types("INT")).unwrap().is_empty());
    let refused = check("StubCheckedTypes", &[("value", unknown())], types("IMAGE")).unwrap();
    assert_eq!(refused[0].reason.as_deref(), Some("INT is wanted, not IMAGE"));
    assert!(check("StubAdd", &[], Map::new()).unwrap().is_empty());
    let schema = |class: &str| rig.entries[class].schema.hosted.clone().unwrap();
    assert!(schema("StubCheckedAll").validates_all && schema("StubCheckedTypes").validates_types);
    assert!(!schema("StubAdd").validates && rig.entries["StubChecked"].schema.validates == ["number"]);
}

#[test]
fn nodes_expand_into_others() {
    if !python() {
        return;
    }
    let rig = rig();
    rig.begin().unwrap();
    let calls = |class: &str, inputs: &[_]| match rig.run(class, inputs).unwrap().returned {
        Returned::Calls(calls) => calls,
        Returned::Values(values) => panic!("{values:?}"),
    };
    let chain = calls("StubExpand", &[("times", is(2)), ("value", is(5))]);
    let [NodeOutput { values, expand: Some(expand), .. }] = &chain[..] else { panic!("{chain:?}") };
    let ids: Vec<&String> = expand.nodes.keys().collect();
    assert_eq!(ids, ["1.0.0.1", "1.0.0.2"]);
    assert!(matches!(&values[0], Source::Link { node, slot: 0 } if node == "1.0.0.2"));
    let first = &expand.nodes["1.0.0.1"];
    assert_eq!((first.class_type.as_str(), first.display_id.as_deref()), ("StubAdd", Some("shown")));
    assert!(matches!(first.inputs["a"], Source::Value(Value::Int(5))));
    assert!(matches!(&expand.nodes["1.0.0.2"].inputs["a"], Source::Link { node, slot: 0 } if node == "1.0.0.1"));
    let some = calls("StubExpandSome", &[("count", link([2.into(), 3.into()]))]);
    assert!(some[0].expand.is_none() && matches!(some[0].values[0], Source::Value(Value::Int(2))));
    assert!(some[1].expand.is_some());
    let object = calls("StubExpandObject", &[]);
    let node = &object[0].expand.as_ref().unwrap().nodes[0];
    let Source::Value(inner) = &node.inputs["object"] else { panic!("{node:?}") };
    assert_eq!(json_of(&rig.value("StubUseObject", &[("object", is(inner.clone()))]).unwrap()), json!("inner"));
    rig.worker.host().end();
}

#[test]
fn asynchronous_calls_run_at_once() {
    if !python() {
        return;
    }
    let rig = rig();
    rig.begin().unwrap();
    assert!(rig.entries["StubSleep"].schema.hosted.as_ref().unwrap().is_async);
    let began = Instant::now();
    let answers: Vec<_> =
        (0..4).map(|index| rig.start("StubSleep", &index.to_string(), &[("value", is(index)), ("seconds", is(1.0))])).collect();
    for (index, answer) in answers.into_iter().enumerate() {
        let output = answer.recv_timeout(Duration::from_secs(10)).unwrap().unwrap();
        assert_eq!(json_of(&values(&output)[0][0]), json!(index));
    }
    assert!(began.elapsed() < Duration::from_millis(3_000), "{:?}", began.elapsed());
    rig.worker.host().end();
}

#[test]
fn nodes_report() {
    if !python() {
        return;
    }
    let rig = rig();
    rig.begin().unwrap();
    rig.run("StubProgress", &[("steps", is(3)), ("preview", is(true)), ("seconds", is(0.15))]).unwrap();
    assert_eq!(rig.heard.progress.lock().last(), Some(&("1".to_owned(), 3.0, 3.0)));
    let (node, image) = rig.heard.images.lock()[0].clone();
    assert_eq!((node.as_str(), image.width, image.height, image.channels, image.lossless), ("1", 4, 2, 3, false));
    assert_eq!(*image.pixels, (0..24).collect::<Vec<u8>>());
    rig.run("StubProgressText", &[("text", is("hello"))]).unwrap();
    assert_eq!(*rig.heard.texts.lock(), [("1".to_owned(), "hello".to_owned())]);
    rig.run("StubEvent", &[("name", is("stub.told")), ("text", is("x")), ("all", is(false))]).unwrap();
    rig.run("StubEvent", &[("name", is("stub.told")), ("text", is("y")), ("all", is(true))]).unwrap();
    assert_eq!(
        *rig.heard.events.lock(),
        [("stub.told".to_owned(), json!({"text": "x"}), Some("me".to_owned())), ("stub.told".to_owned(), json!({"text": "y"}), None)]
    );
    assert_eq!(rig.heard.binary.lock()[0], (77, b"x".to_vec(), Some("me".to_owned())));
    let hidden = rig.value("StubHidden", &[("text", is("t"))]).unwrap();
    let Value::Text(hidden) = hidden else { panic!("{hidden:?}") };
    let hidden: serde_json::Value = serde_json::from_str(&hidden).unwrap();
    assert_eq!((&hidden["node"], &hidden["token"], &hidden["png"]), (&json!("1"), &json!("secret-token"), &json!({"workflow": {"x": 1}})));
    rig.run("StubEnqueue", &[("times", is(1))]).unwrap();
    let item = rig.heard.enqueued.lock()[0].clone();
    assert_eq!((&item[2]["1"]["class_type"], &item[3]["client_id"], &item[4]), (&json!("StubText"), &json!("me"), &json!(["1"])));
    rig.run("StubRemove", &[("id", is(item[1].as_str().unwrap()))]).unwrap();
    rig.run("StubRemove", &[("id", is(""))]).unwrap();
    assert_eq!(*rig.heard.removed.lock(), [Some(vec![item[1].as_str().unwrap().to_owned()]), None]);
    rig.worker.host().end();
    let request = rig.worker.on_prompt(json!({"prompt": {}, "extra_data": {"stub_handler": 1}})).unwrap();
    assert_eq!(request["extra_data"]["stub"], json!(true));
}

#[test]
fn a_native_value_that_is_used_again_stays_there_until_the_prompt_ends() {
    if !python() {
        return;
    }
    let rig = rig();
    let image = Value::object(Image::solid(1, 2, 2, 0x0080_8080));
    let there = || match rig.value("StubEcho", &[("value", link([image.clone()]))]).unwrap() {
        Value::Object(there) => there,
        other => panic!("{other:?}"),
    };
    rig.begin().unwrap();
    let (first, second, third) = (there(), there(), there());
    assert!(!Arc::ptr_eq(&first, &second), "most are used once");
    assert!(Arc::ptr_eq(&second, &third), "the same object there, too");
    let both = values(&rig.run("StubEcho", &[("value", link([image.clone(), image.clone()]))]).unwrap());
    assert_eq!(both[0].len(), 2);
    rig.worker.host().end();
    rig.begin().unwrap();
    let (_, fourth) = (there(), there());
    assert!(!Arc::ptr_eq(&second, &fourth), "another prompt has a copy of its own");
    assert_eq!(fourth.localize().unwrap().unwrap().downcast::<Image>(), image.downcast::<Image>());
    rig.worker.host().end();
}

#[test]
fn packs_see_the_history() {
    if !python() {
        return;
    }
    let rig = rig();
    rig.begin().unwrap();
    let told = json_of(&rig.value("StubHistory", &[("id", is("p0"))]).unwrap());
    let told: serde_json::Value = serde_json::from_str(told.as_str().unwrap()).unwrap();
    let entry = json!({"prompt": [1, "p0", {}, {}, []], "outputs": {"9": {"text": ["ä"]}}});
    assert_eq!((&told["one"]["p0"], &told["attribute"]), (&entry, &json!(["p0"])));
    let wanted = HistoryWanted { prompt_id: Some("p0".into()), ..HistoryWanted::default() };
    let newest = HistoryWanted { max_items: Some(2), ..HistoryWanted::default() };
    assert_eq!(*rig.heard.wanted.lock(), [wanted, newest, HistoryWanted::default()]);
    until("it is told what to forget", || *rig.heard.forgotten.lock() == [Some(vec!["p0".to_owned()])]);
}

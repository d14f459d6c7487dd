//! The rules of execution, one by one, as the reference's own tests show them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use comfyd_executor::{CachePolicy, ExecutorOptions};
use comfyd_jobs::{HistoryEntry, Message, Status};
use comfyd_memory::Account;
use comfyd_node::CancellationToken;
use proptest::prelude::*;
use serde_json::json;

use common::{Bench, Ran, job, prompt};

const POLICIES: [CachePolicy; 4] = [CachePolicy::Classic, CachePolicy::Lru(0), CachePolicy::Lru(100), CachePolicy::None];

fn bench() -> Bench {
    Bench::new(ExecutorOptions::default())
}

fn with(cache: CachePolicy) -> Bench {
    Bench::new(ExecutorOptions { cache, ..ExecutorOptions::default() })
}

fn run(text: &str) -> Ran {
    bench().run(text)
}

fn succeeded(ran: &Ran) {
    assert_eq!(ran.outcome.status, Status::Success, "{:#?}", ran.outcome.messages);
}

#[test]
fn events_come_in_the_order_of_the_recorded_scenarios() {
    let mut bench = bench();
    let text = "1:Num value=3\n2:Add a=@1 b=4\nout:Show value=@2";
    let first = bench.run(text);
    let lines = [
        "start",
        "cached []",
        "executing 1 shown at 1",
        "executing 2 shown at 2",
        "executing out shown at out",
        "executed out {\"values\":[7]}",
    ];
    assert_eq!(first.events, lines.join("\n"));
    assert_eq!(first.outcome.outputs, json!({"out": {"values": [7]}}));
    let meta = json!({"out": {"node_id": "out", "display_node": "out", "parent_node": null, "real_node_id": "out"}});
    let entry = HistoryEntry::new(job("p", &json!({}), vec![]), &first.outcome, usize::MAX).unwrap();
    assert_eq!(entry.meta.get(), meta.to_string());
    let names: Vec<&str> = first.outcome.messages.iter().map(Message::name).collect();
    assert_eq!(names, ["execution_start", "execution_cached", "execution_success"]);
    assert!(first.end()["timestamp"].as_i64().unwrap() > 0);
    assert!(matches!(first.outcome.messages.last(), Some(Message::Success { .. })));

    let again = bench.run(text);
    assert_eq!(again.events, "start\ncached [\"1\", \"2\", \"out\"]\nexecuted out {\"values\":[7]}");
    assert_eq!(again.outcome.outputs, first.outcome.outputs);
    assert_eq!(again.outcome.meta, first.outcome.meta);

    let partly = bench.run(&format!("{text}\nout2:Show value=@1"));
    let lines = [
        "start",
        "cached [\"1\", \"2\", \"out\"]",
        "executed out {\"values\":[7]}",
        "executing out2 shown at out2",
        "executed out2 {\"values\":[3]}",
    ];
    assert_eq!(partly.events, lines.join("\n"));
}

#[test]
fn only_the_lazy_inputs_that_are_needed_run() {
    for cache in POLICIES {
        let mut bench = with(cache);
        let text = "a:Num value=1\nb:Num value=2\nw:Num value=0\npick:Pick which=@w a=@a b=@b\nout:Show value=@pick";
        let ran = bench.run(text);
        succeeded(&ran);
        assert!(ran.ran("a") && !ran.ran("b"), "{}", ran.events);
        assert_eq!(*ran.shown("out"), json!([1]));
        // Over a list, the calls may need different inputs.
        let ran = bench.run("a:Num value=1\nb:Num value=2\nx:Num value=0\ny:Num value=1\nl:MakeList v1=@x v2=@y v3=@x\npick:Pick which=@l a=@a b=@b\nout:Show value=@pick");
        assert_eq!(*ran.shown("out"), json!([1, 2, 1]), "{}", ran.events);
    }
}

#[test]
fn lists_are_mapped_and_the_last_value_repeats() {
    let lists = "one:Num value=1\ntwo:Num value=2\nten:Num value=10\nl:MakeList v1=@one v2=@two v3=@ten\nm:MakeList v1=@ten v2=@two";
    let ran = run(&format!("{lists}\nsum:Add a=@l b=@m\nout:Show value=@sum\ntotal:Total value=@sum\nout2:Show value=@total"));
    assert_eq!(*ran.shown("out"), json!([11, 4, 12]));
    assert_eq!(*ran.shown("out2"), json!([27]));
    let long = ExecutorOptions { max_list_len: 2, ..ExecutorOptions::default() };
    let ran = Bench::new(long).run(&format!("{lists}\nout:Show value=@l"));
    assert_eq!(ran.outcome.status, Status::Error);
    assert!(ran.end()["exception_message"].as_str().unwrap().contains("at most 2 are allowed"));
}

#[test]
fn a_blocker_stops_what_receives_it() {
    let text = "one:Num value=1\ntwo:Num value=2\nl:MakeList v1=@one v2=@two v3=@one\nb:Block value=@l block=2 verbose=false";
    let ran = run(&format!("{text}\nm:MakeList v1=@b\nout:Show value=@m\ntotal:Total value=@b\nout2:Show value=@total"));
    succeeded(&ran);
    assert_eq!(*ran.shown("out"), json!([1, 1]), "only the blocked entry is left out");
    assert!(ran.shown("out2").is_null(), "a node that takes lists is blocked by one entry");
    assert!(!ran.events.contains("error"), "{}", ran.events);

    let ran = run("one:Num value=1\nb:Block value=@one block=1 verbose=true\ns:Add a=@b b=1\nout:Show value=@s\nout2:Show value=@one");
    succeeded(&ran);
    assert!(ran.events.contains("error \"s\" \"Execution Blocked: stopped here\""), "{}", ran.events);
    assert_eq!(ran.events.matches("error").count(), 1, "the message is told once: {}", ran.events);
    assert_eq!(*ran.shown("out2"), json!([1]));
    assert_eq!(ran.outcome.messages.len(), 3, "the history does not hold it");
}

#[test]
fn expansions_nest_and_their_results_are_wired_back() {
    for cache in POLICIES {
        let mut bench = with(cache);
        for count in [0, 1, 4, 2] {
            let ran = bench.run(&format!("n:Num value=5\nloop:Loop count={count} value=@n\nout:Show value=@loop"));
            succeeded(&ran);
            assert_eq!(*ran.shown("out"), json!([5 + count]), "{cache:?} {}", ran.events);
        }
    }
    let ran = run("loop:Loop count=2 value=5\nout:Show value=@loop");
    assert!(ran.events.contains("executing loop.0.2.0.1 shown at loop"), "{}", ran.events);
}

#[test]
fn results_inside_expansions_are_cached() {
    let mut bench = bench();
    let first = bench.run("loop:Loop count=3 value=5\nout:Show value=@loop");
    assert!(first.ran("loop.0.1"));
    // The node itself changes, its first inner sum does not.
    let second = bench.run("loop:Loop count=4 value=5\nout:Show value=@loop");
    assert_eq!(*second.shown("out"), json!([9]));
    assert!(second.ran("loop") && !second.ran("loop.0.1"), "{}", second.events);
}

#[test]
fn calls_may_expand_or_not() {
    let ran = run("a:Num value=1\nb:Num value=20\nl:MakeList v1=@a v2=@b\nm:Mixed value=@l\nout:Show value=@m\nout2:Show value=@m.1");
    succeeded(&ran);
    assert_eq!(*ran.shown("out"), json!([1, 120]));
    assert_eq!(*ran.shown("out2"), json!(["literal", "expanded"]));
    assert_eq!(*ran.shown("m.1.2"), json!([120]), "an output node of an expansion runs and shows");
    let node = ran.outcome.meta.iter().find(|node| &*node.id == "m.1.2").unwrap();
    assert_eq!((&*node.display_id, node.parent_id.as_deref(), &*node.real_id), ("m", Some("m"), "m"));
}

#[test]
fn wrong_expansions_fail_their_prompt_at_the_node_that_expanded() {
    let options = ExecutorOptions { max_nodes: 500, max_expansion_depth: 50, ..ExecutorOptions::default() };
    let mut bench = Bench::new(options);
    for (how, message) in [
        ("duplicate", "exists already"),
        ("class", "node class 'Nothing'"),
        ("dangling", "links to node 'nowhere', which does not exist"),
        ("output", "links to node 'nowhere'"),
        ("link", "a link as output without an expansion"),
        ("inner", "inner trouble"),
        ("slot", "has no output 7"),
        ("endless", "nest 50 levels deep"),
    ] {
        let ran = bench.run(&format!("w:Wrong how={how}\nout:Show value=@w"));
        assert_eq!(ran.outcome.status, Status::Error, "{how}");
        assert!(ran.end()["exception_message"].as_str().unwrap().contains(message), "{how}: {}", ran.end());
        assert_eq!(ran.end()["node_id"], "w", "{how}");
        assert_eq!(ran.end()["node_type"], "Wrong", "{how}");
    }
    let ran = bench.run("c:Circle value=1\nout:Show value=@c");
    assert_eq!((&ran.end()["node_id"], &ran.end()["exception_type"]), (&json!("c"), &json!("graph.DependencyCycleError")));
    let ran = Bench::new(ExecutorOptions { max_nodes: 20, ..ExecutorOptions::default() }).run("w:Wrong how=endless\nout:Show value=@w");
    assert!(ran.end()["exception_message"].as_str().unwrap().contains("at most 20 are allowed"), "{}", ran.end());
}

#[test]
fn fingerprints_decide_whether_a_node_runs_again() {
    let mut bench = bench();
    let mut runs = |stamp: &str| bench.run(&format!("c:Changing value=1 stamp={stamp}\ns:Add a=@c b=1\nout:Show value=@s")).ran("c");
    assert!(runs("x"));
    assert!(!runs("x"));
    assert!(runs("y"));
    for stamp in ["always", "fail", "panic"] {
        assert!(runs(stamp) && runs(stamp), "{stamp}");
    }
    let counted: Vec<bool> = (0..4).map(|_| runs("count")).collect();
    assert_eq!(counted, [true, false, true, false], "the text is asked for once a prompt");
}

#[test]
fn a_comparison_can_be_interrupted() {
    let prompt = prompt("c:Changing value=1 stamp=interrupt\nout:Show value=@c");
    let ran = bench().run_job(&job("id", &prompt, vec!["out".into()]), &CancellationToken::default());
    assert_eq!(ran.outcome.status, Status::Interrupted);
    assert!(ran.end()["executed"].as_array().unwrap().is_empty());
}

#[test]
fn policies_keep_what_they_say() {
    let (a, b) = ("1:Num value=1\nout:Show value=@1", "1:Num value=2\nout:Show value=@1");
    for (cache, a_again, b_again) in [
        (CachePolicy::Classic, true, true),
        (CachePolicy::Lru(0), true, true),
        (CachePolicy::Lru(100), false, false),
        (CachePolicy::None, true, true),
    ] {
        let mut bench = with(cache);
        assert!(bench.run(a).ran("1"));
        assert_eq!(bench.run(a).ran("1"), cache == CachePolicy::None, "{cache:?}");
        assert!(bench.run(b).ran("1"));
        assert_eq!(bench.run(a).ran("1"), a_again, "{cache:?}");
        assert_eq!(bench.run(b).ran("1"), b_again, "{cache:?}");
        bench.executor.clear();
        assert_eq!(bench.executor.cache_usage(), (0, 0));
        assert!(bench.run(b).ran("1"));
        assert_eq!(bench.executor.cache_usage().0, if cache == CachePolicy::None { 0 } else { 2 });
    }
}

#[test]
fn the_budget_drops_what_was_used_longest_ago() {
    let options = ExecutorOptions { cache: CachePolicy::Lru(100), cache_budget_bytes: Some(10_000), ..ExecutorOptions::default() };
    let mut bench = Bench::new(options);
    let blob = |n: usize| format!("b{n}:Blob value={n} bytes=4000\ns{n}:Same value=@b{n}\nout{n}:Show value=@s{n}");
    bench.run(&blob(1));
    let (_, one) = bench.executor.cache_usage();
    assert!(one < 8_000, "an object that two nodes hold counts once: {one}");
    bench.run(&blob(2));
    assert!(bench.executor.cache_usage().1 <= 10_000);
    assert!(!bench.run(&blob(1)).ran("b1"), "both fit");
    bench.run(&blob(3));
    assert!(bench.executor.cache_usage().1 <= 10_000);
    assert!(!bench.run(&blob(1)).ran("b1"), "used after the second one");
    assert!(bench.run(&blob(2)).ran("b2"));
    // What is larger than the budget still runs.
    let ran = bench.run("b:Blob value=1 bytes=1000000\ns:Same value=@b\nout:Show value=@s");
    succeeded(&ran);
    assert!(bench.executor.cache_usage().1 <= 10_000);
}

#[test]
fn results_count_in_the_account_and_give_way() {
    let options = ExecutorOptions { cache: CachePolicy::Lru(100), ..ExecutorOptions::default() };
    let mut bench = Bench::new(options);
    let account = Account::new(1_000_000);
    bench.executor = bench.executor.with_account(&account);
    let blob = |n: usize| format!("b{n}:Blob value={n} bytes=400000\ns{n}:Same value=@b{n}\nout{n}:Show value=@s{n}");
    bench.run(&blob(1));
    let held = account.held();
    assert!((400_000..500_000).contains(&held), "an object that two nodes hold counts once: {held}");
    bench.run(&blob(2));
    assert!(!bench.run(&blob(1)).ran("b1"), "both fit");
    bench.run(&blob(3));
    assert!(account.held() <= 1_000_000);
    assert!(!bench.run(&blob(1)).ran("b1"), "it was used after the second one");
    // Others need it.
    let lease = account.reserve(500_000).unwrap();
    assert!(account.held() <= 1_000_000);
    assert!(!bench.run(&blob(1)).ran("b1") && bench.run(&blob(3)).ran("b3"), "what was used last stays");
    drop(lease);
    // What is in use stays, and counts.
    succeeded(&bench.run("b:Blob value=1 bytes=3000000\ns:Same value=@b\nout:Show value=@s"));
    assert!(account.held() <= 1_000_000);
    bench.executor.clear();
    assert_eq!(account.held(), 0);
}

#[test]
fn equal_nodes_of_one_prompt_run_once() {
    let ran = run("1:Num value=1\n2:Num value=1\nsum:Add a=@1 b=@2\nout:Show value=@sum");
    assert_eq!(*ran.shown("out"), json!([2]));
    assert!(ran.ran("1") != ran.ran("2"), "{}", ran.events);
    let ran = run("1:WhoAmI value=1\n2:WhoAmI value=1\nout:Show value=@1\nout2:Show value=@2");
    assert_eq!(*ran.shown("out"), json!(["1 of 4 \"W\""]));
    assert_eq!(*ran.shown("out2"), json!(["2 of 4 \"W\""]));
}

#[test]
fn a_raw_link_is_given_as_it_is() {
    let ran = run("1:Num value=1\nr:Raw value=@1\nout:Show value=@r");
    assert_eq!(*ran.shown("out"), json!(["[\"1\",0]"]));
}

#[test]
fn only_the_outputs_asked_for_run() {
    let prompt = prompt("1:Num value=1\n2:Num value=2\np:ShowAndPass value=@1\nout:Show value=@p\nother:Show value=@2");
    let ran = bench().run_job(&job("p", &prompt, vec!["out".into()]), &CancellationToken::default());
    succeeded(&ran);
    assert!(ran.ran("p") && ran.ran("1"), "an output node on the way runs");
    assert!(!ran.ran("2") && !ran.ran("other"));
    assert_eq!(*ran.shown("p"), json!([1]));
    let ran = bench().run_job(&job("p", &prompt, vec!["gone".into()]), &CancellationToken::default());
    assert_eq!(ran.outcome.status, Status::Error);
}

#[test]
fn what_nodes_show_on_the_way_is_told_again_from_the_cache() {
    let mut bench = bench();
    let text = "1:Num value=1\nseen:Seen value=@1\nout:Show value=@seen";
    let first = bench.run(text);
    assert_eq!(first.events.matches("executed seen").count(), 1);
    let second = bench.run(text);
    succeeded(&second);
    assert!(!second.ran("seen"));
    assert_eq!(second.events.matches(r#"executed seen {"values":[1]}"#).count(), 1);
    assert_eq!(*second.shown("seen"), json!([1]));
}

#[test]
fn inputs_that_stand_for_others_reach_the_node_as_groups() {
    let mut bench = bench();
    let text =
        "1:Num value=1\n2:Num value=2\nt:Told values.v2=@2 values.v0=@1 how=times how.factor=3 how.then=plus how.then.more=4 other=5";
    let ran = bench.run(&format!("{text}\nout:Show value=@t"));
    succeeded(&ran);
    let want = r#"v0=1 v2=2 | factor=3 then.more=4 then="plus" how="times" | more=4 then="plus""#;
    assert_eq!(*ran.shown("out"), json!([want]));
    // Each of them is part of what the cache knows the node by.
    let same = bench.run(&format!("{text}\nout:Show value=@t"));
    assert!(!same.ran("t"));
    let other = bench.run(&format!("{}\nout:Show value=@t", text.replace("how.then.more=4", "how.then.more=6")));
    assert!(other.ran("t"));
}

#[test]
fn an_error_reports_the_node_and_its_inputs() {
    let mut bench = bench();
    let ran = bench.run("1:Num value=1\nbad:Fail how=broken value=@1\nout:Show value=@bad\nout2:Show value=@1");
    assert_eq!(ran.outcome.status, Status::Error);
    let mut end = ran.end();
    end["timestamp"] = json!(0);
    let expected = json!({
        "prompt_id": "prompt", "node_id": "bad", "node_type": "Fail", "executed": ["1", "out2"], "exception_message": "broken\n",
        "exception_type": "RuntimeError", "traceback": [], "current_inputs": {"how": ["broken"], "value": [1]},
        "current_outputs": ["1", "bad", "out", "out2"], "timestamp": 0,
    });
    assert_eq!(end, expected);
    assert_eq!(ran.outcome.messages.last().unwrap().name(), "execution_error");
    assert_eq!(*ran.shown("out2"), json!([1]), "what ran before is in the history");
    // What ran before the error is cached; the failed node runs again.
    let again = bench.run("1:Num value=1\nbad:Fail how=broken value=@1\nout:Show value=@bad\nout2:Show value=@1");
    assert!(!again.ran("1") && again.ran("bad"));
}

#[test]
fn panics_and_huge_allocations_fail_their_prompt_only() {
    let mut bench = bench();
    for (how, message) in [("panic", "the node panicked: on purpose\n"), ("huge", "capacity overflow"), ("io", "disk full\n")] {
        let ran = bench.run(&format!("bad:Fail how={how}\nout:Show value=@bad"));
        assert_eq!(ran.outcome.status, Status::Error);
        assert!(ran.end()["exception_message"].as_str().unwrap().contains(message), "{}", ran.end());
    }
    succeeded(&bench.run("1:Num value=1\nout:Show value=@1"));
}

#[test]
fn an_interrupt_ends_the_prompt_within_a_step() {
    let mut bench = bench();
    let ran = bench.run("1:Num value=1\nbad:Fail how=interrupt value=@1\nout:Show value=@bad");
    assert_eq!(ran.outcome.status, Status::Interrupted);
    let data = ran.end();
    assert_eq!(ran.outcome.messages.last().unwrap().name(), "execution_interrupted");
    assert_eq!((&data["node_id"], &data["node_type"], &data["executed"]), (&json!("bad"), &json!("Fail"), &json!(["1"])));
    assert!(data["timestamp"].is_i64() && data.get("exception_message").is_none());
    let cancelled = CancellationToken::default();
    cancelled.cancel();
    let prompt = prompt("1:Num value=9\nout:Show value=@1");
    let ran = bench.run_job(&job("p", &prompt, vec!["out".into()]), &cancelled);
    assert_eq!((ran.outcome.status, &ran.end()["node_id"]), (Status::Interrupted, &json!("1")), "before the first call");
}

#[test]
fn progress_is_told() {
    let ran = run("s:Steps value=1\nout:Show value=@s");
    assert!(ran.events.contains("progress s 1/2\ntext s half done\nprogress s 2/2"), "{}", ran.events);
}

#[test]
fn a_job_that_cannot_be_read_fails() {
    for prompt in [json!(5), json!({"1": {"class_type": "Gone", "inputs": {}}}), json!({"1": 3})] {
        let ran = bench().run_job(&job("p", &prompt, vec!["1".into()]), &CancellationToken::default());
        assert_eq!(ran.outcome.status, Status::Error, "{prompt}");
        assert_eq!(ran.events, "start\ncached []");
    }
}

#[test]
fn a_long_chain_is_no_trouble() {
    let mut text = "0:Num value=0\n".to_owned();
    for i in 1..3_000 {
        text.push_str(&format!("{i}:Add a=@{} b=1\n", i - 1));
    }
    let mut bench = bench();
    let ran = bench.run(&format!("{text}out:Show value=@2999"));
    assert_eq!(*ran.shown("out"), json!([2999]));
    assert!(!bench.run(&format!("{text}out:Show value=@2999")).ran("1"));
}

#[test]
fn a_lazy_input_that_is_cached_is_there_at_once() {
    let mut bench = bench();
    let text = |which: u8| format!("a:Num value=7\nw:Num value={which}\npick:Pick which=@w a=@a b=@w\nout:Show value=@pick");
    assert_eq!(*bench.run(&format!("{}\nout2:Show value=@a", text(1))).shown("out"), json!([1]));
    let ran = bench.run(&text(0));
    assert_eq!(*ran.shown("out"), json!([7]), "{:#?}", ran.outcome.messages);
    assert!(!ran.ran("a"));
    assert_eq!(
        ran.events.matches("executing pick").count(),
        2,
        "as in the reference, it begins anew with what it asked for: {}",
        ran.events
    );
}

#[test]
fn an_expansion_may_use_any_node_of_the_graph() {
    for cache in POLICIES {
        for target in ["p:Mixed value=20", "p:Num value=120"] {
            let ran = with(cache).run(&format!("{target}\ns:Same value=@p\nr:Relink target=p after=@s\nout:Show value=@r"));
            succeeded(&ran);
            assert_eq!(*ran.shown("out"), json!([121]), "{cache:?} {target}");
        }
    }
}

#[test]
fn what_earlier_expansions_left_is_dropped() {
    let mut bench = bench();
    let mut usage = |value: u32| {
        bench.run(&format!("loop:Loop count=5 value={value}\nout:Show value=@loop"));
        bench.executor.cache_usage().0
    };
    let first = usage(1);
    // The innermost results of another start value are other ones; without dropping, they would add up.
    assert_eq!((2..10).map(&mut usage).collect::<Vec<_>>(), [first; 8]);
}

fn any_line(index: usize) -> impl Strategy<Value = String> {
    let below = move || (0..index.max(1)).prop_map(|i| format!("@n{i}"));
    let small = || 0..4u8;
    let leaf = small().prop_map(move |v| format!("n{index}:Num value={v}"));
    if index == 0 {
        return leaf.boxed();
    }
    prop_oneof![
        1 => leaf,
        3 => (below(), below()).prop_map(move |(a, b)| format!("n{index}:Add a={a} b={b}")),
        2 => (below(), below(), below()).prop_map(move |(w, a, b)| format!("n{index}:Pick which={w} a={a} b={b}")),
        2 => (below(), below()).prop_map(move |(a, b)| format!("n{index}:MakeList v1={a} v2={b}")),
        1 => below().prop_map(move |a| format!("n{index}:Total value={a}")),
        2 => (small(), below()).prop_map(move |(count, a)| format!("n{index}:Loop count={count} value={a}")),
        1 => below().prop_map(move |a| format!("n{index}:Mixed value={a}")),
        1 => (below(), small()).prop_map(move |(a, block)| format!("n{index}:Block value={a} block={block} verbose=true")),
        1 => (below(), small()).prop_map(move |(a, _)| format!("n{index}:Changing value={a} stamp=always")),
        1 => below().prop_map(move |a| format!("out{index}:Show value={a}\nn{index}:Same value={a}")),
    ]
    .boxed()
}

fn any_prompt() -> impl Strategy<Value = String> {
    (1..9usize).prop_flat_map(|len| {
        let lines: Vec<_> = (0..len).map(any_line).collect();
        lines.prop_map(move |lines| format!("{}\nout:Show value=@n{}", lines.join("\n"), len - 1))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, ..ProptestConfig::default() })]

    /// The cache changes what runs, never what comes out: a fresh executor, every policy and a tiny budget agree, prompt after prompt.
    #[test]
    fn the_cache_never_changes_a_result(prompts in prop::collection::vec(any_prompt(), 1..4)) {
        let tiny = ExecutorOptions { cache: CachePolicy::Lru(9), cache_budget_bytes: Some(900), ..ExecutorOptions::default() };
        let mut benches: Vec<Bench> = POLICIES.into_iter().map(with).chain([Bench::new(tiny)]).collect();
        for text in prompts.iter().chain(&prompts) {
            let fresh = run(text);
            for bench in &mut benches {
                let ran = bench.run(text);
                let told = |ran: &Ran| (ran.outcome.status, ran.end()["exception_message"].clone());
                prop_assert_eq!(told(&ran), told(&fresh), "{}", text);
                let outputs = |ran: &Ran| {
                    let outputs = ran.outcome.outputs.as_object().unwrap().clone();
                    outputs.into_iter().filter(|(id, _)| id.starts_with("out")).collect::<serde_json::Map<_, _>>()
                };
                if fresh.outcome.status == Status::Success {
                    prop_assert_eq!(outputs(&ran), outputs(&fresh), "{}", text);
                }
            }
        }
    }
}

#[test]
fn a_node_that_runs_again_asks_for_its_lazy_inputs_again() {
    let mut bench = with(CachePolicy::None);
    let lines = [
        "one:Num value=1",
        "nil:Num value=0",
        "twice:Pick which=@one a=@one b=@nil",
        "first:Pick which=@twice a=@one b=@one",
        "later:MakeList v1=@twice v2=@twice",
        "pick:Pick which=@first a=@first b=@later",
        "out:Show value=@pick",
    ];
    let ran = bench.run(&lines.join("\n"));
    succeeded(&ran);
    assert_eq!(*ran.shown("out"), json!([0, 0]));
    // Each time once to ask and once to run.
    assert_eq!(ran.events.matches("executing twice ").count(), 4, "{}", ran.events);
}

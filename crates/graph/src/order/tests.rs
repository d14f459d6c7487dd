//! Orders and signatures of small graphs, and of any graph. Knows no values.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use comfyd_node::{Catalog, Fingerprint, HiddenKind, Input, Schema};
use insta::assert_snapshot;
use proptest::prelude::*;
use serde_json::{Map, Value as Json, json};

use super::*;
use crate::fuzz::Declared;
use crate::placement::Placement;
use crate::signature::{Signature, Signatures};

fn catalog() -> Catalog {
    let mut catalog = Catalog::new();
    let two = |class: &str| Schema::new(class).input(Input::link("a", "*")).input(Input::link("b", "*"));
    catalog.insert(Arc::new(Declared(two("Op").output("*"))));
    catalog.insert(Arc::new(Declared(two("Save").output_node())));
    catalog.insert(Arc::new(Declared(two("Own").output("*").hidden("id", HiddenKind::UniqueId))));
    let lazy = Schema::new("Lazy").input(Input::link("a", "*").lazy()).input(Input::link("b", "*")).output("*");
    catalog.insert(Arc::new(Declared(lazy)));
    catalog
}

/// `id:Class(a,b)` words; an argument that begins with # is a constant.
fn graph(text: &str) -> Graph {
    let mut prompt = Map::new();
    for word in text.split_whitespace() {
        let (id, rest) = word.split_once(':').unwrap();
        let (class, arguments) = rest.trim_end_matches(')').split_once('(').unwrap();
        let mut inputs = Map::new();
        for (name, argument) in ["a", "b"].iter().zip(arguments.split(',').filter(|a| !a.is_empty())) {
            let value = argument.strip_prefix('#').map_or_else(|| json!([argument, 0]), Json::from);
            inputs.insert((*name).to_owned(), value);
        }
        prompt.insert(id.to_owned(), json!({"class_type": class, "inputs": inputs}));
    }
    Graph::from_prompt(&catalog(), &Json::Object(prompt), &Placement::default()).unwrap()
}

/// The order in which the nodes run, or the node blamed for a circle.
fn order(graph: &mut Graph, outputs: &[&str], known: &[&str]) -> String {
    let mut list = ExecutionList::new();
    let mut is_known = |graph: &Graph, node: NodeIndex| known.contains(&&*graph.node(node).id);
    for output in outputs {
        let node = graph.find(output).unwrap();
        if let Err(error) = list.add(graph, node, &mut is_known) {
            return error.to_string();
        }
    }
    let mut ran = Vec::new();
    loop {
        match list.next(graph) {
            Ok(None) => return ran.join(" "),
            Ok(Some(node)) => {
                ran.push(graph.node(node).id.to_string());
                list.complete(node);
            }
            Err(cycle) => return format!("{} cycle at {}", ran.join(" "), graph.node(cycle.blamed).id),
        }
    }
}

#[test]
fn outputs_come_as_soon_as_they_can() {
    let mut two_chains = graph("1:Op(#0) 2:Save(x) x:Op(#1) 5:Op(#7) 6:Op(5) 7:Save(6)");
    assert_snapshot!(order(&mut two_chains, &["2", "7"], &[]), @r#"
    x 2 5 6 7
    "#);
    assert_snapshot!(order(&mut two_chains, &["7", "2"], &[]), @r#"
    x 2 5 6 7
    "#);
    assert_snapshot!(order(&mut two_chains, &["2", "7"], &["x", "5"]), @r#"
    2 6 7
    "#);
}

#[test]
fn lazy_inputs_are_added_when_asked_for() {
    let mut lazy = graph("1:Op(#0) 2:Op(#1) 3:Lazy(1,2) 4:Save(3)");
    assert_snapshot!(order(&mut lazy, &["4"], &[]), @r#"
    2 3 4
    "#);
    let mut list = ExecutionList::new();
    let mut unknown = |_: &Graph, _| false;
    let four = lazy.find("4").unwrap();
    list.add(&mut lazy, four, &mut unknown).unwrap();
    let (first, two, three) = (lazy.find("1").unwrap(), lazy.find("2").unwrap(), lazy.find("3").unwrap());
    assert_eq!(list.next(&lazy), Ok(Some(two)));
    list.complete(two);
    assert_eq!(list.next(&lazy), Ok(Some(three)));
    assert_eq!(list.add_link(&mut lazy, first, three, &mut unknown), Ok(vec![first]));
    assert_eq!(list.next(&lazy), Ok(Some(first)), "the node waits for what it asked for");
    list.complete(first);
    assert_eq!(list.next(&lazy), Ok(Some(three)));
}

#[test]
fn what_waits_for_the_outside_lets_others_run() {
    let mut graph = graph("1:Op(#0) 2:Op(1) 3:Op(#1) 4:Save(2,3)");
    let [one, two, three, four] = ["1", "2", "3", "4"].map(|id| graph.find(id).unwrap());
    let mut list = ExecutionList::new();
    list.add(&mut graph, four, &mut |_: &Graph, _| false).unwrap();
    assert_eq!(list.next(&graph), Ok(Some(three)));
    list.suspend(three);
    assert_eq!(list.next(&graph), Ok(Some(one)), "others go on");
    list.complete(one);
    list.suspend(two);
    assert_eq!((list.next(&graph), list.is_empty()), (Ok(None), false), "no circle");
    list.resume(two);
    assert_eq!(list.next(&graph), Ok(Some(two)));
    list.complete(two);
    list.resume(three);
    list.complete(three);
    assert_eq!(list.next(&graph), Ok(Some(four)));
}

#[test]
fn circles_and_links_to_nowhere_are_told() {
    assert_snapshot!(order(&mut graph("0:Op(#0) 1:Op(2,0) 2:Op(1) 3:Save(2,0)"), &["3"], &[]), @r#"
    0 cycle at 3
    "#);
    assert_snapshot!(order(&mut graph("3:Save(x9)"), &["3"], &[]), @r#"
    input 'a' of node '3' links to node 'x9', which does not exist
    "#);
}

fn signatures(graph: &Graph) -> Vec<Option<Signature>> {
    let mut signatures = Signatures::new();
    (0..graph.nodes().len()).map(|i| signatures.get(graph, i, &mut |_, _| Fingerprint::Inputs)).collect()
}

#[test]
fn signatures_tell_results_apart_and_nothing_else() {
    let s = signatures(&graph("1:Op(#0) 2:Op(#0) 3:Op(1) 4:Save(1,2) 5:Save(2,1) 6:Save(1,3) 7:Own(#0) 8:Own(#0) 9:Lazy(#0)"));
    assert_eq!(s[0], s[1]);
    assert_ne!(s[0], s[2]);
    assert_eq!(s[3], s[4], "equal sources may stand for each other");
    assert_ne!(s[3], s[5]);
    assert_ne!(s[6], s[7], "the class asks for its id");
    assert_ne!(s[0], s[8]);
    assert_eq!(signatures(&graph("x:Op(#0) y:Op(x)"))[1], signatures(&graph("y:Op(z) z:Op(#0)"))[0], "ids do not matter");
    assert_eq!(signatures(&graph("1:Op(2) 2:Op(1) 3:Op(2) 4:Op(x9) 5:Op(4)")), [None; 5], "circles and links to nowhere");
}

#[test]
fn what_runs_always_is_never_equal() {
    let graph = graph("1:Op(#0) 2:Op(1) 3:Op(#5)");
    let mut signatures = Signatures::new();
    let mut get = |node| signatures.get(&graph, node, &mut |_, node| if node == 0 { Fingerprint::Always } else { Fingerprint::Inputs });
    assert_eq!((get(1), get(0)), (None, None));
    assert!(get(2).is_some());
    let with = |text: &str| {
        let mut fingerprint = |_: &Graph, _| Fingerprint::Text(text.into());
        Signatures::new().get(&graph, 0, &mut fingerprint)
    };
    assert_eq!(with("a"), with("a"));
    assert_ne!(with("a"), with("b"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any graph: every node that is needed runs once, after its sources; or a circle is told.
    #[test]
    fn any_graph_is_ordered(nodes in prop::collection::vec((0..4usize, 0..12usize, 0..12usize), 1..10)) {
        let classes = ["Op", "Save", "Lazy", "Own"];
        let words: Vec<String> = nodes.iter().enumerate().map(|(i, (class, a, b))| format!("n{i}:{}(n{a},n{b})", classes[*class])).collect();
        let mut graph = graph(&words.join(" "));
        let all: Vec<String> = (0..nodes.len()).map(|i| format!("n{i}")).collect();
        let outputs: Vec<&str> = all.iter().map(String::as_str).collect();
        let ran = order(&mut graph, &outputs, &[]);
        prop_assert_eq!(&ran, &order(&mut graph, &outputs, &[]));
        let _ = signatures(&graph);
        if ran.contains("cycle") || ran.contains("does not exist") {
            return Ok(());
        }
        let ran: Vec<&str> = ran.split(' ').collect();
        prop_assert_eq!(ran.len(), nodes.len());
        for (place, id) in ran.iter().enumerate() {
            let node = graph.node(graph.find(id).unwrap());
            for input in node.inputs.iter().filter(|i| !i.lazy) {
                let InputSource::Link(link) = &input.source else { continue };
                prop_assert!(ran[..place].contains(&&*link.node), "{id} ran before {}", link.node);
            }
        }
    }
}

/// What stands at a node's input: an earlier node, or a constant.
fn argument(node: usize, choice: usize, name: &dyn Fn(usize) -> String) -> String {
    if choice < node { name(choice) } else { format!("#{}", choice - node) }
}

/// Nodes without a circle, called so; the inputs `a` and `b` of each are arguments.
fn words(nodes: &[(bool, usize, usize)], name: &dyn Fn(usize) -> String) -> Vec<String> {
    let word = |(i, (lazy, a, b)): (usize, &(bool, usize, usize))| {
        let class = if *lazy { "Lazy" } else { "Op" };
        format!("{}:{class}({},{})", name(i), argument(i, *a, name), argument(i, *b, name))
    };
    nodes.iter().enumerate().map(word).collect()
}

fn signature(graph: &Graph, id: &str) -> Signature {
    Signatures::new().get(graph, graph.find(id).unwrap(), &mut |_, _| Fingerprint::Inputs).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// A signature is of what a node computes: neither names nor the order of the prompt are in it, and a change is in that of every node
    /// behind it and of no other.
    #[test]
    fn signatures_are_of_all_that_a_node_depends_on_and_of_nothing_else(
        nodes in prop::collection::vec((any::<bool>(), 0..14usize, 0..14usize), 1..10),
        changed in any::<prop::sample::Index>(),
    ) {
        let (one, other) = (|i: usize| format!("n{i}"), |i: usize| format!("{}", 90 - i * 7));
        let before = graph(&words(&nodes, &one).join(" "));
        let mut turned = words(&nodes, &other);
        turned.reverse();
        let turned = graph(&turned.join(" "));
        let mut changes = nodes.clone();
        let changed = changed.index(nodes.len());
        changes[changed].1 = 1000;
        let after = graph(&words(&changes, &one).join(" "));
        let mut depends = vec![false; nodes.len()];
        for (i, (_, a, b)) in changes.iter().enumerate() {
            depends[i] = i == changed || (*a < i && depends[*a]) || (*b < i && depends[*b]);
            let id = one(i);
            prop_assert_eq!(signature(&before, &id), signature(&turned, &other(i)), "{}", id);
            prop_assert_eq!(signature(&before, &id) != signature(&after, &id), depends[i], "{} after a change of n{}", id, changed);
        }
    }

    /// Whatever waits for the outside, and however long: every node runs once, and none before its sources.
    #[test]
    fn nodes_that_wait_change_nothing_but_the_order(
        nodes in prop::collection::vec((any::<bool>(), 0..14usize, 0..14usize), 1..10),
        waits in prop::collection::vec(0..4usize, 10),
    ) {
        let mut graph = graph(&words(&nodes, &|i| format!("n{i}")).join(" "));
        let mut list = ExecutionList::new();
        for node in 0..nodes.len() {
            list.add(&mut graph, node, &mut |_: &Graph, _| false).unwrap();
        }
        let (mut ran, mut outside): (Vec<NodeIndex>, Vec<(NodeIndex, usize)>) = (Vec::new(), Vec::new());
        let mut waited = vec![false; nodes.len()];
        while !list.is_empty() {
            match list.next(&graph).unwrap() {
                Some(node) if waits[node] > 0 && !waited[node] => {
                    waited[node] = true;
                    outside.push((node, waits[node]));
                    list.suspend(node);
                }
                Some(node) => {
                    list.complete(node);
                    ran.push(node);
                }
                None => prop_assert!(!outside.is_empty(), "nothing can run and nothing is waited for"),
            }
            outside.iter_mut().for_each(|(_, left)| *left -= 1);
            for (node, _) in outside.extract_if(.., |(_, left)| *left == 0) {
                list.resume(node);
            }
        }
        prop_assert_eq!(ran.len(), nodes.len());
        for (place, node) in ran.iter().enumerate() {
            for input in graph.node(*node).inputs.iter().filter(|input| !input.lazy) {
                let InputSource::Link(link) = &input.source else { continue };
                prop_assert!(ran[..place].contains(&link.target.unwrap()), "{} ran before {}", node, link.node);
            }
        }
    }
}

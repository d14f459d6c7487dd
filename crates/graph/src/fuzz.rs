//! What fuzzing calls: any text as a prompt, from its JSON to the order in which its nodes run. Knows no class that does something.
#![allow(clippy::expect_used)]

use std::sync::{Arc, OnceLock};

use comfyd_node::{
    Catalog, Context, Fingerprint, HiddenKind, Input, Inputs, Node, NodeOutput, OptionSource, Result, Schema, StaticOptions,
};

use crate::{ExecutionList, Graph, Limits, Placement, Placing, Prompt, Rejected, Signatures, Validated, validate};

#[cfg(test)]
#[path = "../../../fuzz/kept.rs"]
mod kept;

/// A class that does nothing.
pub(crate) struct Declared(pub(crate) Schema);

impl Node for Declared {
    fn schema(&self) -> Schema {
        self.0.clone()
    }

    fn run(&self, _cx: &mut Context<'_>, _inputs: Inputs) -> Result<NodeOutput> {
        Ok(NodeOutput::default())
    }
}

/// One class of each kind of input.
fn catalog() -> &'static Catalog {
    static CATALOG: OnceLock<Catalog> = OnceLock::new();
    CATALOG.get_or_init(|| {
        let kinds = Schema::new("K").input(Input::int("i").min(0).max(9).step(2)).input(Input::float("f").min(0.0).max(1.0).round(0.01));
        let kinds = kinds.input(Input::text("t")).input(Input::bool("b")).input(Input::combo("c", ["x", "y"])).output("A").output("B");
        let links = Schema::new("L").input(Input::link("a", "A,B")).input(Input::link("b", "*").optional()).output("*").output_list("A");
        let lazy = Schema::new("Z").input(Input::link("a", "*").lazy()).input(Input::link("b", "B").raw_link().optional()).output("A");
        let own = Schema::new("O").hidden("id", HiddenKind::UniqueId).hidden("p", HiddenKind::Prompt).input_is_list().output("B");
        let save = Schema::new("S").input(Input::link("a", "*")).input(Input::text("t").optional()).output_node();
        let mut catalog = Catalog::new();
        for schema in [kinds, links, lazy, own, save] {
            catalog.insert(Arc::new(Declared(schema)));
        }
        catalog
    })
}

fn check(prompt: &Prompt) -> std::result::Result<Validated, Rejected> {
    validate(catalog(), &StaticOptions as &dyn OptionSource, prompt.clone(), None, &Placing::default())
}

/// A prompt: read, checked, told what is wrong with it, ordered and signed.
pub fn prompt(data: &[u8]) {
    let Ok(json) = comfyd_wire::json::read(data) else { return };
    let prompt = match Prompt::parse(json, &Limits::default()) {
        Ok(prompt) => prompt,
        Err(problem) => return drop(Rejected::from(problem).to_json().to_string()),
    };
    let validated = match check(&prompt) {
        Ok(validated) => validated,
        Err(rejected) => return drop(rejected.to_json().to_string()),
    };
    drop(validated.node_errors.to_json().to_string());
    let again = check(&validated.prompt);
    assert!(again.is_ok_and(|again| !again.converted && again.outputs == validated.outputs), "what was accepted is accepted again");
    let Ok(mut graph) = Graph::from_prompt(catalog(), &validated.prompt.into_json(), &Placement::default()) else { return };
    let mut signatures = Signatures::new();
    for node in 0..graph.nodes().len() {
        signatures.get(&graph, node, &mut |_, _| Fingerprint::Inputs);
    }
    let mut list = ExecutionList::new();
    let mut unknown = |_: &Graph, _| false;
    for output in &validated.outputs {
        let node = graph.find(output).expect("an output is a node");
        if list.add(&mut graph, node, &mut unknown).is_err() {
            return;
        }
    }
    let mut left = graph.nodes().len();
    while let Ok(Some(node)) = list.next(&graph) {
        list.complete(node);
        left = left.checked_sub(1).expect("no node runs twice");
    }
}

#[cfg(test)]
#[test]
fn what_fuzzing_found_is_answered() {
    kept::replay("prompt", prompt);
}

//! Inputs that stand for others: the reference's newer classes declare some of which only the prompt tells what they are, under names that begin
//! with theirs and a dot. A node's schema has those in their place.

use std::borrow::Cow;
use std::sync::Arc;

use comfyd_node::{BRANCHES, Branch, Choices, Entry, GROWS, Grow, GrowNames, Input, InputKind, SLOT, Schema};
use serde_json::{Map, Value as Json};

use crate::prompt::unwrapped;

/// How deep choices may nest.
const DEPTH_MAX: usize = 16;

/// An implementation with the inputs that a node of these inputs has.
pub(crate) fn finalized(entry: &Entry, given: &Map<String, Json>) -> Entry {
    if !is_dynamic(entry) {
        return entry.clone();
    }
    let mut inputs = Inputs { given, found: Vec::new(), native: entry.schema.hosted.is_none() };
    for input in &entry.schema.inputs {
        inputs.add(input.clone(), DEPTH_MAX);
    }
    let schema = Schema { inputs: inputs.found, ..(*entry.schema).clone() };
    Entry { schema: Arc::new(schema), code: entry.code.clone() }
}

/// Whether the prompt decides about any of its inputs: it stands for others, or is newer than the prompt may be.
pub(crate) fn is_dynamic(entry: &Entry) -> bool {
    entry.schema.inputs.iter().any(|input| input.newer || [GROWS, BRANCHES, SLOT].contains(&input.type_name()))
}

struct Inputs<'a> {
    given: &'a Map<String, Json>,
    found: Vec<Input>,
    /// Whether the class runs in this process.
    native: bool,
}

impl Inputs<'_> {
    /// Adds an input, or what it stands for, and the input itself where it has a value.
    fn add(&mut self, input: Input, depth: usize) {
        let kind = stands_for(&input).into_owned();
        match kind {
            InputKind::Grow(grow) => self.grow(&input.name, &grow),
            InputKind::Branch(branches) => {
                let value = self.given.get(&input.name).map(unwrapped).filter(|_| depth > 0);
                let chosen = value.and_then(|value| branches.into_iter().find(|branch| value.as_str() == Some(&*branch.key)));
                // A class of this process is told of a choice that it lacks, and it says so; the reference hands its classes nothing.
                if chosen.is_some() || self.native {
                    self.members(&input.name, chosen.map(|branch| branch.inputs).unwrap_or_default(), depth);
                    let required = input.required && !input.newer;
                    self.found.push(Input { required, ..input });
                }
            }
            InputKind::Slot { ty, inputs } => {
                if self.given.contains_key(&input.name) && depth > 0 {
                    self.members(&input.name, inputs, depth);
                    self.found.push(Input { kind: InputKind::Other(ty), ..input });
                }
            }
            InputKind::Int | InputKind::Float | InputKind::Text | InputKind::Bool | InputKind::Combo(_) | InputKind::Other(_) => {
                let required = input.required && !input.newer;
                self.found.push(Input { required, ..input });
            }
        }
    }

    fn members(&mut self, prefix: &str, inputs: Vec<Input>, depth: usize) {
        for input in inputs {
            let name = format!("{prefix}.{}", input.name);
            self.add(Input { name, ..input }, depth.saturating_sub(1));
        }
    }

    fn grow(&mut self, prefix: &str, grow: &Grow) {
        for (at, name) in grow.all_names().into_iter().enumerate() {
            let required = grow.member.required && at < grow.min;
            self.found.push(Input { name: format!("{prefix}.{name}"), required, ..grow.member.clone() });
        }
    }
}

/// The kind of an input; classes of other processes tell only in their options what theirs stand for.
fn stands_for(input: &Input) -> Cow<'_, InputKind> {
    let InputKind::Other(ty) = &input.kind else { return Cow::Borrowed(&input.kind) };
    let told = |key: &str| input.options.as_ref().and_then(|options| options.get(key));
    let kind = match ty.as_str() {
        GROWS => told("template").and_then(grows).map(|grow| InputKind::Grow(Box::new(grow))),
        BRANCHES => {
            let branch = |told: &Json| Some(Branch { key: told.get("key")?.as_str()?.to_owned(), inputs: members(told.get("inputs")) });
            Some(InputKind::Branch(told("options").and_then(Json::as_array).into_iter().flatten().filter_map(branch).collect()))
        }
        SLOT => {
            let ty = told("slotType").and_then(Json::as_str).unwrap_or("*").to_owned();
            Some(InputKind::Slot { ty, inputs: members(told("inputs")) })
        }
        _ => return Cow::Borrowed(&input.kind),
    };
    // One that says nothing stands for nothing.
    Cow::Owned(kind.unwrap_or(InputKind::Branch(Vec::new())))
}

fn grows(template: &Json) -> Option<Grow> {
    let member = members(template.get("input")).into_iter().next()?;
    let count = |key: &str| template.get(key).and_then(Json::as_u64).and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
    let names = match (template.get("names").and_then(Json::as_array), template.get("prefix").and_then(Json::as_str)) {
        (Some(names), _) => GrowNames::Listed(names.iter().filter_map(Json::as_str).map(str::to_owned).collect()),
        (None, Some(prefix)) => GrowNames::Numbered { prefix: prefix.to_owned(), max: count("max") },
        (None, None) => return None,
    };
    Some(Grow { member, names, min: count("min") })
}

/// Inputs in their groups.
fn members(groups: Option<&Json>) -> Vec<Input> {
    let mut inputs = Vec::new();
    for (group, required) in [("required", true), ("optional", false)] {
        for (name, config) in groups.and_then(|groups| groups.get(group)).and_then(Json::as_object).into_iter().flatten() {
            inputs.push(declared(name.clone(), config, required));
        }
    }
    inputs
}

/// An input as clients are told of it: `["INT", {…}]`.
fn declared(name: String, config: &Json, required: bool) -> Input {
    let options = config.get(1).and_then(Json::as_object);
    let flag = |key: &str| options.and_then(|options| options.get(key)).and_then(Json::as_bool).unwrap_or(false);
    let kind = match config.get(0) {
        Some(Json::Array(choices)) => InputKind::Combo(Choices::Fixed(choices.clone())),
        Some(Json::String(ty)) => match ty.as_str() {
            "INT" => InputKind::Int,
            "FLOAT" => InputKind::Float,
            "STRING" => InputKind::Text,
            "BOOLEAN" => InputKind::Bool,
            "COMBO" => match options.and_then(|options| options.get("options")).and_then(Json::as_array) {
                Some(choices) => InputKind::Combo(Choices::Fixed(choices.clone())),
                None => InputKind::Combo(Choices::Remote),
            },
            ty => InputKind::Other(ty.to_owned()),
        },
        Some(_) | None => InputKind::Other("*".to_owned()),
    };
    let (lazy, raw_link) = (flag("lazy"), flag("rawLink"));
    Input { name, kind, required, newer: false, lazy, raw_link, accepts: Vec::new(), options: options.cloned() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use comfyd_node::{Catalog, Context, Generation, Hosted, Node, NodeOutput};
    use insta::assert_snapshot;
    use serde_json::json;

    use super::*;
    use crate::double::{anything, there};

    fn shown(options: &Json, ty: &str, given: &Json) -> String {
        let mut input = Input::link("in", ty);
        input.options = options.as_object().cloned();
        let schema = Schema { generation: Generation::Schema, ..Schema::new("C").input(Input::int("n")).input(input) };
        let mut catalog = Catalog::new();
        there(&mut catalog, "default", schema, Hosted::default(), anything);
        let entry = finalized(catalog.get("C").unwrap(), given.as_object().unwrap());
        let one = |input: &Input| format!("{}{} {}", input.name, if input.required { "" } else { "?" }, input.type_name());
        entry.schema.inputs.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn inputs_that_stand_for_others_become_these() {
        let template = |of: Json| json!({"template": of});
        let grown = template(json!({"input": {"required": {"image": ["IMAGE", {}]}}, "prefix": "image", "min": 1, "max": 3}));
        assert_snapshot!(shown(&grown, GROWS, &json!({})), @"n INT, in.image0 IMAGE, in.image1? IMAGE, in.image2? IMAGE");
        let named = template(json!({"input": {"required": {}, "optional": {"x": ["FLOAT", {}]}}, "names": ["a", "b"], "min": 1}));
        assert_snapshot!(shown(&named, GROWS, &json!({})), @"n INT, in.a? FLOAT, in.b? FLOAT");
        let inner = json!({"required": {"side": ["INT", {"min": 1}], "again": [BRANCHES, {"options": [{"key": "x", "inputs": {"optional": {"z": [["q"]]}}}]}]}});
        let choice = json!({"options": [{"key": "size", "inputs": inner}, {"key": "none", "inputs": {}}]});
        assert_snapshot!(shown(&choice, BRANCHES, &json!({})), @"n INT");
        assert_snapshot!(shown(&choice, BRANCHES, &json!({"in": "none"})), @"n INT, in COMFY_DYNAMICCOMBO_V3");
        let given = json!({"in": "size", "in.again": "x"});
        assert_snapshot!(shown(&choice, BRANCHES, &given), @"n INT, in.side INT, in.again.z? COMBO, in.again COMFY_DYNAMICCOMBO_V3, in COMFY_DYNAMICCOMBO_V3");
        let slot = json!({"slotType": "IMAGE", "inputs": {"required": {"by": ["COMBO", {"options": ["a"]}]}}});
        assert_snapshot!(shown(&slot, SLOT, &json!({"in": ["1", 0]})), @"n INT, in.by COMBO, in IMAGE");
    }

    #[test]
    fn classes_of_this_process_are_told_of_choices_that_they_lack() {
        let size = |name: &str| Input::branch(name, [Branch::new("by", [Input::float("factor")]), Branch::new("none", [])]);
        let grow = Input::grow("images", Grow::numbered(Input::link("image", "IMAGE"), "i").min(1).max(2));
        let schema = Schema::new("C").input(size("size")).input(grow).input(Input::slot("mask", "MASK", [size("how")]));
        let mut catalog = Catalog::new();
        catalog.insert(Arc::new(Native(schema)));
        let shown = |given: &Json| {
            let entry = finalized(catalog.get("C").unwrap(), given.as_object().unwrap());
            let one = |input: &Input| format!("{}{} {}", input.name, if input.required { "" } else { "?" }, input.type_name());
            entry.schema.inputs.iter().map(one).collect::<Vec<_>>().join(", ")
        };
        let grown = "images.i0 IMAGE, images.i1? IMAGE";
        assert_eq!(shown(&json!({})), format!("size COMFY_DYNAMICCOMBO_V3, {grown}"));
        assert_eq!(shown(&json!({"size": "other"})), format!("size COMFY_DYNAMICCOMBO_V3, {grown}"));
        assert_eq!(shown(&json!({"size": "by"})), format!("size.factor FLOAT, size COMFY_DYNAMICCOMBO_V3, {grown}"));
        let given = json!({"size": "none", "mask": ["1", 0], "mask.how": "by"});
        let slot = "mask.how.factor FLOAT, mask.how COMFY_DYNAMICCOMBO_V3, mask? MASK";
        assert_eq!(shown(&given), format!("size COMFY_DYNAMICCOMBO_V3, {grown}, {slot}"));
    }

    #[test]
    fn prompts_for_older_versions_may_lack_newer_inputs() {
        let mut catalog = Catalog::new();
        catalog.insert(Arc::new(Native(Schema::new("C").input(Input::int("old")).input(Input::int("new").newer()))));
        let entry = catalog.get("C").unwrap();
        let required = |entry: &Entry| entry.schema.inputs.iter().map(|input| input.required).collect::<Vec<_>>();
        assert_eq!((required(entry), required(&finalized(entry, &Map::new()))), (vec![true, true], vec![true, false]));
    }

    struct Native(Schema);

    impl Node for Native {
        fn schema(&self) -> Schema {
            self.0.clone()
        }

        fn run(&self, _: &mut Context<'_>, _: comfyd_node::Inputs) -> comfyd_node::Result<NodeOutput> {
            Ok(NodeOutput::default())
        }
    }
}

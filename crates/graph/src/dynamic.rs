//! Inputs that stand for others: the reference's newer classes declare some of which only the prompt tells what they are, under names that begin
//! with theirs and a dot. A node's schema has those in their place.

use std::sync::Arc;

use comfyd_node::{Choices, Entry, Input, InputKind, Schema};
use serde_json::{Map, Value as Json};

use crate::prompt::unwrapped;

/// As many inputs of one kind as the prompt gives.
const GROWS: &str = "COMFY_AUTOGROW_V3";
/// A choice that brings inputs of its own.
const CHOICE: &str = "COMFY_DYNAMICCOMBO_V3";
/// A link that brings inputs of its own.
const SLOT: &str = "COMFY_DYNAMICSLOT_V3";
/// Inputs that one may stand for; the reference has the same bound.
const NAMES_MAX: usize = 100;
/// How deep choices may nest.
const DEPTH_MAX: usize = 16;

/// An implementation with the inputs that a node of these inputs has.
pub(crate) fn finalized(entry: &Entry, given: &Map<String, Json>) -> Entry {
    let is_dynamic = |input: &Input| [GROWS, CHOICE, SLOT].contains(&input.type_name());
    if entry.schema.hosted.is_none() || !entry.schema.inputs.iter().any(is_dynamic) {
        return entry.clone();
    }
    let mut inputs = Inputs { given, found: Vec::new() };
    for input in &entry.schema.inputs {
        if is_dynamic(input) {
            inputs.stand_in(input.clone(), DEPTH_MAX);
        } else {
            inputs.found.push(input.clone());
        }
    }
    let schema = Schema { inputs: inputs.found, ..(*entry.schema).clone() };
    Entry { schema: Arc::new(schema), code: entry.code.clone() }
}

struct Inputs<'a> {
    given: &'a Map<String, Json>,
    found: Vec<Input>,
}

impl Inputs<'_> {
    /// Adds what an input stands for, and the input itself where it has a value.
    fn stand_in(&mut self, input: Input, depth: usize) {
        let options = input.options.clone().unwrap_or_default();
        if input.type_name() == GROWS {
            self.grow(&input.name, options.get("template").unwrap_or(&Json::Null));
            return;
        }
        let Some(value) = self.given.get(&input.name).map(unwrapped).filter(|_| depth > 0) else { return };
        if input.type_name() == SLOT {
            self.members(&input.name, options.get("inputs"), depth - 1);
            let ty = options.get("slotType").and_then(Json::as_str).unwrap_or("*");
            self.found.push(Input { kind: InputKind::Other(ty.to_owned()), ..input });
            return;
        }
        let all = options.get("options").and_then(Json::as_array);
        let Some(chosen) = all.into_iter().flatten().find(|option| option.get("key") == Some(value)) else { return };
        self.members(&input.name, chosen.get("inputs"), depth - 1);
        self.found.push(input);
    }

    /// The inputs of an option, in their groups.
    fn members(&mut self, prefix: &str, groups: Option<&Json>, depth: usize) {
        for (group, required) in [("required", true), ("optional", false)] {
            for (name, config) in groups.and_then(|groups| groups.get(group)).and_then(Json::as_object).into_iter().flatten() {
                let input = declared(format!("{prefix}.{name}"), config, required);
                if [GROWS, CHOICE, SLOT].contains(&input.type_name()) {
                    self.stand_in(input, depth);
                } else {
                    self.found.push(input);
                }
            }
        }
    }

    fn grow(&mut self, prefix: &str, template: &Json) {
        let first = |group: &str| template.get("input")?.get(group)?.as_object()?.values().next().cloned();
        let Some((config, required)) = first("required").map(|c| (c, true)).or_else(|| Some((first("optional")?, false))) else { return };
        let count = |key: &str| template.get(key).and_then(Json::as_u64).and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
        let names: Vec<String> = match (template.get("names").and_then(Json::as_array), template.get("prefix").and_then(Json::as_str)) {
            (Some(names), _) => names.iter().filter_map(Json::as_str).map(str::to_owned).collect(),
            (None, Some(start)) => (0..count("max").min(NAMES_MAX)).map(|at| format!("{start}{at}")).collect(),
            (None, None) => Vec::new(),
        };
        for (at, name) in names.iter().take(NAMES_MAX).enumerate() {
            self.found.push(declared(format!("{prefix}.{name}"), &config, required && at < count("min")));
        }
    }
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
    Input { name, kind, required, lazy, raw_link, accepts: Vec::new(), options: options.cloned() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use comfyd_node::{Catalog, Generation, Hosted};
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
        let inner = json!({"required": {"side": ["INT", {"min": 1}], "again": [CHOICE, {"options": [{"key": "x", "inputs": {"optional": {"z": [["q"]]}}}]}]}});
        let choice = json!({"options": [{"key": "size", "inputs": inner}, {"key": "none", "inputs": {}}]});
        assert_snapshot!(shown(&choice, CHOICE, &json!({})), @"n INT");
        assert_snapshot!(shown(&choice, CHOICE, &json!({"in": "none"})), @"n INT, in COMFY_DYNAMICCOMBO_V3");
        let given = json!({"in": "size", "in.again": "x"});
        assert_snapshot!(shown(&choice, CHOICE, &given), @"n INT, in.side INT, in.again.z? COMBO, in.again COMFY_DYNAMICCOMBO_V3, in COMFY_DYNAMICCOMBO_V3");
        let slot = json!({"slotType": "IMAGE", "inputs": {"required": {"by": ["COMBO", {"options": ["a"]}]}}});
        assert_snapshot!(shown(&slot, SLOT, &json!({"in": ["1", 0]})), @"n INT, in.by COMBO, in IMAGE");
    }
}

//! Puts classes that there are in the place of those that there are not any more, before a prompt is checked. The rules are the reference's,
//! but for what would end there with a stack trace: an input that the old node does not have is left out, and a class that only has another
//! name keeps its inputs.

use std::collections::HashMap;

use comfyd_node::replacement::From;
use comfyd_node::{Catalog, Replacement, Replacements};
use serde_json::{Map, Value as Json};

use crate::prompt::as_link;

/// Replaces classes that the catalog does not have by those that are registered for them and that it has. Whether anything was changed.
pub fn replace(prompt: &mut Json, catalog: &Catalog, replacements: &Replacements) -> bool {
    let Some(nodes) = prompt.as_object_mut() else { return false };
    let applies = |node: &Json| {
        let class = node.get("class_type")?.as_str()?;
        let found = if catalog.get(class).is_none() { replacements.of(class)? } else { return None };
        (catalog.get(&found.new).is_some() && node.get("inputs")?.is_object()).then_some(found)
    };
    let found: HashMap<String, &Replacement> = nodes.iter().filter_map(|(id, node)| Some((id.clone(), applies(node)?))).collect();
    if found.is_empty() {
        return false;
    }
    for node in nodes.values_mut() {
        // Links to outputs that are elsewhere now; before names of inputs change.
        for (_, value) in node.get_mut("inputs").and_then(Json::as_object_mut).into_iter().flatten() {
            let slot = as_link(value).and_then(|(target, slot)| moved(found.get(target)?, slot));
            if let Some(slot) = slot {
                value[1] = slot.into();
            }
        }
    }
    for (id, replacement) in &found {
        let Some(node) = nodes.get_mut(id) else { continue };
        node["class_type"] = replacement.new.as_str().into();
        if let Some(Json::Object(old)) = node.get_mut("inputs").map(Json::take) {
            node["inputs"] = Json::Object(inputs(replacement, old));
        }
    }
    true
}

/// Where an output of the old class is in the new one.
fn moved(replacement: &Replacement, slot: usize) -> Option<u64> {
    let outputs = replacement.outputs.as_ref()?;
    outputs.iter().find(|(old, _)| usize::try_from(*old).is_ok_and(|old| old == slot)).map(|(_, new)| *new)
}

fn inputs(replacement: &Replacement, old: Map<String, Json>) -> Map<String, Json> {
    let Some(new) = &replacement.inputs else { return old };
    let value = |from: &From| match from {
        From::Old(name) => old.get(name).cloned(),
        From::Value(value) => Some(value.clone()),
    };
    new.iter().filter_map(|input| Some((input.name.clone(), value(&input.from)?))).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use comfyd_node::{Generation, Hosted, Schema};
    use serde_json::json;

    use super::*;
    use crate::double::{anything, there};

    fn catalog(classes: &[&str]) -> Catalog {
        let mut catalog = Catalog::new();
        for class in classes {
            let schema = Schema { generation: Generation::Schema, ..Schema::new(class) };
            there(&mut catalog, "default", schema, Hosted::default(), anything);
        }
        catalog
    }

    #[test]
    fn what_is_not_there_any_more_runs_as_what_stands_in_for_it() {
        let all = Replacements::new([
            Replacement::renamed("Scale", "Resize").input("in", "image").value("how", "by").input("how.by", "scale").output(0, 2),
            Replacement::renamed("Invert ", "Invert"),
            Replacement::renamed("Gone", "Gone too"),
            Replacement::renamed("Kept", "Resize"),
        ]);
        let catalog = catalog(&["Resize", "Invert", "Kept"]);
        let mut prompt = json!({
            "1": {"class_type": "Kept", "inputs": {"a": 1}},
            "2": {"class_type": "Scale", "inputs": {"image": ["3", 0], "scale": 0.5, "lost": 1}, "_meta": {"title": "t"}},
            "3": {"class_type": "Scale", "inputs": {"image": ["1", 0]}},
            "4": {"class_type": "Invert ", "inputs": {"image": ["2", 0], "other": ["2", 1]}},
            "5": {"class_type": "Gone", "inputs": {"image": ["2", 0]}},
            "6": {"class_type": "Scale"},
            "7": {},
        });
        assert!(replace(&mut prompt, &catalog, &all));
        let expected = json!({
            "1": {"class_type": "Kept", "inputs": {"a": 1}},
            "2": {"class_type": "Resize", "inputs": {"in": ["3", 2], "how": "by", "how.by": 0.5}, "_meta": {"title": "t"}},
            "3": {"class_type": "Resize", "inputs": {"in": ["1", 0], "how": "by"}},
            "4": {"class_type": "Invert", "inputs": {"image": ["2", 2], "other": ["2", 1]}},
            "5": {"class_type": "Gone", "inputs": {"image": ["2", 2]}},
            "6": {"class_type": "Scale"},
            "7": {},
        });
        assert_eq!(prompt, expected);
        assert!(!replace(&mut prompt, &catalog, &all), "nothing is left to do");
        assert!(!replace(&mut json!([1]), &catalog, &all));
    }
}

//! A class's declaration, from what clients are told of it and what else the worker knows.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use comfyd_node::{ChoicePart, Choices, FileSource, Generation, HiddenKind, Hosted, Input, InputKind, Output, Schema};
use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value as Json};

use crate::facts::{Facts, Part, Validate};

/// A class.
#[derive(Debug, Clone)]
pub(crate) struct Class {
    /// Its declaration.
    pub schema: Arc<Schema>,
    /// What else is known of it.
    pub facts: Arc<Facts>,
}

impl Class {
    /// A class of that name; `told` is its part of `object_info`, a JSON text.
    pub fn new(name: &str, told: &str, facts: Facts) -> serde_json::Result<Self> {
        Ok(Self { schema: Arc::new(schema(name, told, &facts)?), facts: Arc::new(facts) })
    }
}

impl Class {
    /// The same, which could not let go of a value.
    pub fn staying(&self) -> Self {
        let mut class = self.clone();
        Arc::make_mut(&mut class.facts).stays = true;
        if let Some(hosted) = &mut Arc::make_mut(&mut class.schema).hosted {
            Arc::make_mut(hosted).stays = true;
        }
        class
    }
}

/// Where the inputs stand in what is told of a class.
#[derive(Deserialize)]
struct Places<'a> {
    #[serde(borrow, default)]
    input: IndexMap<Cow<'a, str>, IndexMap<Cow<'a, str>, &'a RawValue>>,
}

/// Where the choices of inputs that list files stand in what is told of a class, in this order.
fn gaps(told: &str, generation: Generation, facts: &Facts) -> Vec<(Range<usize>, String)> {
    if facts.lists.is_empty() {
        return Vec::new();
    }
    let place = |part: &RawValue| {
        let start = part.get().as_ptr().addr() - told.as_ptr().addr();
        start..start + part.get().len()
    };
    let choices = |input: &RawValue| match generation {
        Generation::Classic => Some(place(serde_json::from_str::<Vec<&RawValue>>(input.get()).ok()?.first()?)),
        Generation::Schema => {
            let parts: Vec<&RawValue> = serde_json::from_str(input.get()).ok()?;
            let options: IndexMap<Cow<'_, str>, &RawValue> = serde_json::from_str(parts.get(1)?.get()).ok()?;
            Some(place(options.get("options")?))
        }
    };
    let groups = serde_json::from_str::<Places<'_>>(told).map(|places| places.input).unwrap_or_default();
    let listed = groups.iter().filter(|(group, _)| ["required", "optional"].contains(&&***group)).flat_map(|(_, inputs)| inputs);
    let found = listed.filter(|(name, _)| facts.lists.contains_key(&***name));
    let mut gaps: Vec<_> = found.filter_map(|(name, input)| Some((choices(input)?, name.to_string()))).collect();
    gaps.sort_by_key(|(gap, _)| gap.start);
    gaps
}

fn schema(name: &str, told: &str, facts: &Facts) -> serde_json::Result<Schema> {
    let info: Json = serde_json::from_str(told)?;
    let text = |field: &str| info.get(field).and_then(Json::as_str).unwrap_or_default().to_owned();
    let flag = |field: &str| info.get(field).and_then(Json::as_bool);
    let generation = if facts.v3 { Generation::Schema } else { Generation::Classic };
    let mut inputs = Vec::new();
    for (group, required) in [("required", true), ("optional", false)] {
        for (name, config) in members(&info, group) {
            inputs.push(input(name, config, required, generation, facts));
        }
    }
    let hidden = members(&info, "hidden").filter_map(|(name, kind)| Some((name.clone(), hidden_kind(kind)?))).collect();
    let types = info.get("output").and_then(Json::as_array);
    let choices = types.into_iter().flatten().enumerate().filter(|(_, ty)| ty.is_array()).map(|(slot, ty)| (slot, ty.clone()));
    Ok(Schema {
        class: name.into(),
        display_name: info.get("display_name").and_then(Json::as_str).map(str::to_owned),
        category: text("category"),
        module: text("python_module"),
        description: text("description"),
        inputs,
        hidden,
        outputs: outputs(&info),
        output_node: flag("output_node").unwrap_or(false),
        intermediate_output: flag("has_intermediate_output").unwrap_or(false),
        input_is_list: facts.list,
        deprecated: flag("deprecated"),
        experimental: flag("experimental"),
        generation,
        validates: facts.validates.clone(),
        hosted: Some(Arc::new(Hosted {
            validates: facts.validate != Validate::None,
            validates_all: facts.validate == Validate::All,
            validates_types: facts.types,
            open: facts.open,
            is_async: facts.is_async,
            unique: facts.once,
            introspects: facts.introspects,
            info: told.into(),
            gaps: gaps(told, generation, facts),
            choices: choices.collect(),
            unlisted: facts.unlisted,
            stays: facts.stays,
        })),
        // Clients are told of the rest as the class tells it.
        ..Schema::default()
    })
}

fn members<'a>(info: &'a Json, group: &str) -> impl Iterator<Item = (&'a String, &'a Json)> {
    info.get("input").and_then(|input| input.get(group)).and_then(Json::as_object).into_iter().flatten()
}

/// An input as `["INT", {…}]`, `[[choices], {…}]`, `["COMBO", {"options": […]}]`.
fn input(name: &str, config: &Json, required: bool, generation: Generation, facts: &Facts) -> Input {
    let options = config.get(1).and_then(Json::as_object);
    let ty = config.get(0).unwrap_or(config);
    let flag = |field: &str| options.and_then(|options| options.get(field)).and_then(Json::as_bool).unwrap_or(false);
    Input {
        name: name.into(),
        kind: kind(name, ty, options, generation, facts),
        required,
        newer: false,
        lazy: flag("lazy"),
        raw_link: flag("rawLink"),
        accepts: facts.accepts.get(name).cloned().unwrap_or_default(),
        options: options.cloned(),
    }
}

fn kind(name: &str, ty: &Json, options: Option<&Map<String, Json>>, generation: Generation, facts: &Facts) -> InputKind {
    let template = facts.lists.get(name).map(|parts| Choices::Parts(parts.iter().map(part).collect()));
    match ty {
        Json::Array(choices) => {
            let template = template.filter(|_| generation == Generation::Classic);
            InputKind::Combo(template.unwrap_or_else(|| Choices::Fixed(choices.clone())))
        }
        Json::String(ty) => match ty.as_str() {
            "INT" => InputKind::Int,
            "FLOAT" => InputKind::Float,
            "STRING" => InputKind::Text,
            "BOOLEAN" => InputKind::Bool,
            "COMBO" => {
                let template = template.filter(|_| generation == Generation::Schema);
                InputKind::Combo(template.unwrap_or_else(|| listed(options)))
            }
            // A type with a comparison of its own that takes any.
            _ if facts.accepts.get(name).is_some_and(|types| types.iter().any(|ty| ty == "*")) => InputKind::Other("*".into()),
            _ => InputKind::Other(ty.clone()),
        },
        other => InputKind::Other(other.to_string()),
    }
}

/// The choices among the options of a `COMBO`.
fn listed(options: Option<&Map<String, Json>>) -> Choices {
    let listed = options.and_then(|options| options.get("options")).and_then(Json::as_array);
    match listed {
        None if options.is_some_and(|options| options.contains_key("remote")) => Choices::Remote,
        listed => Choices::Fixed(listed.cloned().unwrap_or_default()),
    }
}

fn part(part: &Part) -> ChoicePart {
    match part {
        Part::Value { v } => ChoicePart::Fixed(v.clone()),
        Part::Folder { folder } => ChoicePart::Files(FileSource::Models(folder.clone())),
    }
}

fn hidden_kind(kind: &Json) -> Option<HiddenKind> {
    // The newer way puts it into a list.
    match kind.get(0).unwrap_or(kind).as_str()? {
        "PROMPT" => Some(HiddenKind::Prompt),
        "EXTRA_PNGINFO" => Some(HiddenKind::ExtraPnginfo),
        "UNIQUE_ID" => Some(HiddenKind::UniqueId),
        _ => None,
    }
}

fn outputs(info: &Json) -> Vec<Output> {
    let entry = |field: &str, slot: usize| info.get(field).and_then(|list| list.get(slot));
    // A text in place of a tuple, as where its comma was forgotten, is one of its letters to Python.
    let letters = info.get("output").and_then(Json::as_str).map(|text| text.chars().map(|c| Json::from(c.to_string())).collect());
    let types = letters.as_ref().or_else(|| info.get("output")?.as_array());
    let output = |(slot, ty): (usize, &Json)| {
        // A list of choices, as combos had it before they had a name.
        let ty = ty.as_str().unwrap_or("COMBO");
        Output {
            ty: ty.into(),
            name: entry("output_name", slot).and_then(Json::as_str).unwrap_or(ty).into(),
            is_list: entry("output_is_list", slot).and_then(Json::as_bool).unwrap_or(false),
            is_list_unsaid: entry("output_is_list", slot).is_some_and(Json::is_null),
            matches: None,
        }
    };
    types.into_iter().flatten().enumerate().map(output).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use comfyd_node::OptionSource;
    use serde_json::json;

    use super::*;

    struct Files;

    impl OptionSource for Files {
        fn files(&self, source: &FileSource) -> Vec<String> {
            assert_eq!(*source, FileSource::Models("loras".into()));
            vec!["a.safetensors".into()]
        }
    }

    #[test]
    fn a_class_is_told_word_for_word_but_for_files() {
        let info = json!({
            "input": {
                "required": {"lora": [["None", "b.pt"], {"tooltip": "t"}], "n": ["INT", {"default": 1, "lazy": true}], "m": ["MODEL"]},
                "optional": {"any": ["*", {"rawLink": true}], "both": ["IMAGE,MASK", {}], "all": ["anything"], "kind": [["x", 1]]},
                "hidden": {"id": "UNIQUE_ID", "graph": "DYNPROMPT"},
            },
            "input_order": {"required": ["lora", "n", "m"]},
            "output": ["IMAGE", ["a", "b"]], "output_is_list": [false, true], "output_name": ["picture", "choice"],
            "name": "Mine", "display_name": "My own", "description": "d", "python_module": "custom_nodes.mine", "category": "c",
            "output_node": true, "deprecated": true, "something_new": {"x": 1},
        });
        let facts: Facts = serde_json::from_value(json!({
            "validate": "names", "validates": ["lora"], "once": true, "list": true, "accepts": {"m": ["CLIP"], "all": ["*"]},
            "lists": {"lora": [{"v": "None"}, {"folder": "loras"}]}, "later": 1,
        }))
        .unwrap();
        let schema = schema("Mine", &info.to_string(), &facts).unwrap();
        let kind = |name: &str| schema.find_input(name).unwrap().kind.clone();
        assert_eq!(kind("n"), InputKind::Int);
        assert_eq!(kind("any"), InputKind::Other("*".into()));
        assert_eq!(kind("both"), InputKind::Other("IMAGE,MASK".into()));
        assert_eq!(kind("all"), InputKind::Other("*".into()));
        assert_eq!(kind("kind"), InputKind::Combo(Choices::Fixed(vec![json!("x"), json!(1)])));
        assert!(schema.find_input("n").unwrap().lazy && schema.find_input("any").unwrap().raw_link);
        assert_eq!(schema.find_input("m").unwrap().accepts, ["CLIP"]);
        assert_eq!(schema.hidden, [("id".to_owned(), HiddenKind::UniqueId)]);
        assert_eq!(schema.outputs[1], Output { ty: "COMBO".into(), name: "choice".into(), is_list: true, ..Output::default() });
        assert!(schema.output_node && schema.input_is_list);
        let hosted = schema.hosted.clone().unwrap();
        assert!(hosted.validates && !hosted.validates_all && hosted.unique && !hosted.open);
        let mut told = info;
        told["input"]["required"]["lora"][0] = json!(["None", "a.safetensors"]);
        assert_eq!(schema.object_info(&Files), told);
    }

    #[test]
    fn combos_of_the_newer_way_are_read() {
        let info = json!({"input": {"required": {
            "a": ["COMBO", {"options": ["x"], "multiselect": false}],
            "b": ["COMBO", {"remote": {"route": "/r"}}],
            "c": ["COMBO", {"options": ["old"]}],
        }}});
        let facts = serde_json::from_value(json!({"v3": true, "lists": {"c": [{"folder": "loras"}, {"v": "x"}]}})).unwrap();
        let schema = schema("New", &info.to_string(), &facts).unwrap();
        assert_eq!(schema.generation, Generation::Schema);
        assert_eq!(schema.find_input("a").unwrap().kind, InputKind::Combo(Choices::Fixed(vec![json!("x")])));
        assert_eq!(schema.find_input("b").unwrap().kind, InputKind::Combo(Choices::Remote));
        let told = schema.object_info(&Files);
        assert_eq!(told["input"]["required"]["c"][1]["options"], json!(["a.safetensors", "x"]));
    }
}

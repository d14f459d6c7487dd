//! Checks of one input's constant value: conversion to the declared type, range, choices.

use std::cmp::Ordering;

use comfyd_node::{Choices, Generation, Input, InputKind, MATCH_TYPE, OptionSource, Schema};
use serde_json::{Value as Json, json};

use crate::prompt::unwrapped;
use crate::python;
use crate::report::Problem;

/// Converts a constant and checks it. Gives the converted value when it differs from what was sent, and what is wrong with it.
pub(crate) fn constant(schema: &Schema, input: &Input, sent: &Json, options: &dyn OptionSource) -> (Option<Json>, Option<Problem>) {
    let value = unwrapped(sent);
    // An array stays wrapped: by itself it would be taken for a link when the prompt is read again.
    let mut new = (value != sent && !value.is_array()).then(|| value.clone());
    match convert(&input.kind, value) {
        Ok(None) => {}
        Ok(Some(converted)) => new = Some(converted),
        Err((wanted, reason)) => {
            let (input, config, received) = (input.name.clone(), config(schema, input, options), value.clone());
            return (new, Some(Problem::InvalidInputType { input, config, wanted, received, reason }));
        }
    }
    if schema.validates.contains(&input.name) || schema.hosted.as_ref().is_some_and(|hosted| hosted.validates_all) {
        return (new, None);
    }
    let value = new.as_ref().unwrap_or(value);
    let problem = range(schema, input, value, options)
        .or_else(|| choice(schema, input, value, options))
        .or_else(|| beyond_nodes(schema, input, value, options));
    (new, problem)
}

/// The type of an output.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum OutputType {
    /// A name, or a union of names.
    Named(String),
    /// A list of choices, as some classes of other processes have it: such an output is meant for a combo of the same list.
    Choices(Json),
}

impl OutputType {
    /// The type of a class's output; `None` if it has no such output.
    pub fn of(schema: &Schema, slot: usize) -> Option<Self> {
        let output = schema.outputs.get(slot)?;
        let choices = schema.hosted.as_ref().and_then(|hosted| hosted.choices.iter().find(|(of, _)| *of == slot));
        Some(choices.map_or_else(|| Self::Named(output.ty.clone()), |(_, choices)| Self::Choices(choices.clone())))
    }

    /// As Python prints it.
    pub fn shown(&self) -> String {
        match self {
            Self::Named(name) => name.clone(),
            Self::Choices(choices) => python::repr(choices),
        }
    }

    pub fn to_json(&self) -> Json {
        match self {
            Self::Named(name) => Json::from(name.as_str()),
            Self::Choices(choices) => choices.clone(),
        }
    }
}

/// Whether an input takes an output's type: equal, sharing a member of a union, `*` on either side, or by the class's own comparison. A
/// classic combo takes no link but `*` and its own list.
pub(crate) fn accepts(received: &OutputType, input: &Input, generation: Generation) -> bool {
    let wanted = input.type_name();
    let received = match received {
        OutputType::Choices(list) => {
            return match &input.kind {
                InputKind::Combo(_) if generation == Generation::Schema => true,
                InputKind::Combo(Choices::Fixed(choices)) => list.as_array() == Some(choices),
                // The files were listed at another time than the output's list.
                InputKind::Combo(Choices::Files { .. } | Choices::Parts(_)) => true,
                InputKind::Combo(Choices::Remote) | InputKind::Int | InputKind::Float | InputKind::Text | InputKind::Bool => false,
                InputKind::Other(_) => wanted == "*" || wanted == MATCH_TYPE,
                InputKind::Grow(_) | InputKind::Branch(_) | InputKind::Slot { .. } => false,
            };
        }
        OutputType::Named(name) => name,
    };
    if received == "*" || wanted == "*" || input.accepts.contains(received) {
        return true;
    }
    let fixed = matches!(&input.kind, InputKind::Combo(Choices::Fixed(_) | Choices::Files { .. } | Choices::Parts(_)));
    if fixed && generation == Generation::Classic {
        return false;
    }
    let members = |ty: &'_ str| ty.split(',').map(|member| member.trim().to_owned()).collect::<Vec<_>>();
    received == wanted
        || received == MATCH_TYPE
        || wanted == MATCH_TYPE
        || members(received).iter().any(|r| r == "*" || members(wanted).iter().any(|w| w == r || w == "*"))
}

/// The input's declaration as the reference puts it into errors: always with an options object.
pub(crate) fn config(schema: &Schema, input: &Input, options: &dyn OptionSource) -> Json {
    let mut config = input.config(schema.generation, options);
    if let Json::Array(parts) = &mut config
        && parts.len() == 1
    {
        parts.push(json!({}));
    }
    config
}

/// `Ok(None)`: it has the type already. `Err`: the type's name and Python's sentence.
fn convert(kind: &InputKind, value: &Json) -> Result<Option<Json>, (&'static str, String)> {
    match kind {
        InputKind::Int if value.is_i64() || value.is_u64() => Ok(None),
        InputKind::Int => python::to_int(value).map(Some).map_err(|e| ("INT", e)),
        InputKind::Float if value.is_f64() => Ok(None),
        InputKind::Float => python::to_float(value).map(Some).map_err(|e| ("FLOAT", e)),
        InputKind::Text if value.is_string() => Ok(None),
        InputKind::Text => Ok(Some(Json::String(python::str(value)))),
        InputKind::Bool if value.is_boolean() => Ok(None),
        InputKind::Bool => Ok(Some(Json::Bool(python::truth(value)))),
        InputKind::Combo(_) | InputKind::Other(_) | InputKind::Grow(_) | InputKind::Branch(_) | InputKind::Slot { .. } => Ok(None),
    }
}

fn range(schema: &Schema, input: &Input, value: &Json, options: &dyn OptionSource) -> Option<Problem> {
    let declared = input.options.as_ref()?;
    if let Some(min) = declared.get("min")
        && python::compare(value, min) == Some(Ordering::Less)
    {
        let (received, min, config) = (value.clone(), min.clone(), config(schema, input, options));
        return Some(Problem::ValueSmallerThanMin { input: input.name.clone(), config, received, min });
    }
    if let Some(max) = declared.get("max")
        && python::compare(value, max) == Some(Ordering::Greater)
    {
        let (received, max, config) = (value.clone(), max.clone(), config(schema, input, options));
        return Some(Problem::ValueBiggerThanMax { input: input.name.clone(), config, received, max });
    }
    None
}

/// Python's integers have no bounds, those of nodes have 128 bits.
fn beyond_nodes(schema: &Schema, input: &Input, value: &Json, options: &dyn OptionSource) -> Option<Problem> {
    let digits = value.as_str().filter(|_| input.kind == InputKind::Int)?;
    if digits.parse::<i128>().is_ok() {
        return None;
    }
    let (input, config, received) = (input.name.clone(), config(schema, input, options), value.clone());
    Some(Problem::InvalidInputType {
        input,
        config,
        wanted: "INT",
        received,
        reason: "it has more than 128 bits: send a smaller one".into(),
    })
}

/// A widget with several choices is checked one by one.
fn choice(schema: &Schema, input: &Input, value: &Json, options: &dyn OptionSource) -> Option<Problem> {
    let InputKind::Combo(choices) = &input.kind else { return None };
    let several = input.options.as_ref().and_then(|o| o.get("multiselect")).and_then(Json::as_bool).unwrap_or(false);
    let values = match value {
        Json::Array(values) if several => values.as_slice(),
        _ => std::slice::from_ref(value),
    };
    let refused: Vec<Json> = values.iter().filter(|value| !chosen(input, choices, value, options)).cloned().collect();
    (!refused.is_empty()).then(|| not_in_list(schema, input, value, refused, options))
}

/// Whether a value is one of the choices.
pub(crate) fn chosen(input: &Input, choices: &Choices, value: &Json, options: &dyn OptionSource) -> bool {
    match choices {
        Choices::Fixed(choices) => choices.iter().any(|c| python::equal(c, value)),
        Choices::Files { extra, source } => {
            value.as_str().is_some_and(|text| extra.iter().any(|c| c == text) || options.offers(source, text))
        }
        Choices::Parts(_) => input.choices(options).is_some_and(|choices| choices.iter().any(|c| python::equal(c, value))),
        Choices::Remote => true,
    }
}

fn not_in_list(schema: &Schema, input: &Input, value: &Json, refused: Vec<Json>, options: &dyn OptionSource) -> Problem {
    Problem::ValueNotInList {
        input: input.name.clone(),
        config: config(schema, input, options),
        received: value.clone(),
        refused,
        choices: input.choices(options).unwrap_or_default(),
    }
}

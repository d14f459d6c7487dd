//! Checks of one input's constant value: conversion to the declared type, range, choices.

use std::cmp::Ordering;

use comfyd_node::{Choices, Generation, Input, InputKind, OptionSource, Schema};
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
    if schema.validates.contains(&input.name) {
        return (new, None);
    }
    let value = new.as_ref().unwrap_or(value);
    let problem = range(schema, input, value, options)
        .or_else(|| choice(schema, input, value, options))
        .or_else(|| beyond_nodes(schema, input, value, options));
    (new, problem)
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
        InputKind::Combo(_) | InputKind::Other(_) => Ok(None),
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

/// The reference checks the choices of classic declarations only: those of its newer schemas are left to the node.
fn choice(schema: &Schema, input: &Input, value: &Json, options: &dyn OptionSource) -> Option<Problem> {
    let InputKind::Combo(choices) = &input.kind else { return None };
    if schema.generation == Generation::Schema {
        return None;
    }
    let found = match choices {
        Choices::Fixed(choices) => choices.iter().any(|c| python::equal(c, value)),
        Choices::Files { extra, source } => {
            let Some(text) = value.as_str() else {
                return Some(not_in_list(schema, input, value, options));
            };
            extra.iter().any(|c| c == text) || options.files(source).iter().any(|c| c == text)
        }
        Choices::Parts(_) => input.choices(options).is_some_and(|choices| choices.iter().any(|c| python::equal(c, value))),
        Choices::Remote => true,
    };
    (!found).then(|| not_in_list(schema, input, value, options))
}

fn not_in_list(schema: &Schema, input: &Input, value: &Json, options: &dyn OptionSource) -> Problem {
    Problem::ValueNotInList {
        input: input.name.clone(),
        config: config(schema, input, options),
        received: value.clone(),
        choices: input.choices(options).unwrap_or_default(),
    }
}

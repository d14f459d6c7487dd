//! Answers that have no shape of their own.

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// Names in a list.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct Names(pub Vec<String>);

/// A text.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Text(pub String);

/// An object of whatever somebody stored.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(value_type = Object)]
pub(crate) struct Object(pub Map<String, Value>);

/// Whatever somebody stored.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct Any(pub Value);

/// How something ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ended {
    Success,
    Error,
}

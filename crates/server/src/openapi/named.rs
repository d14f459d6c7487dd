//! The schemas that are written by hand, as the fields of types refer to them.

use utoipa::openapi::{Ref, RefOr, Schema};

/// A graph, as the field of a type.
pub(crate) fn graph() -> RefOr<Schema> {
    Ref::from_schema_name("Graph").into()
}

/// What is wrong with nodes, by their ids.
pub(crate) fn node_errors() -> RefOr<Schema> {
    Ref::from_schema_name("NodeErrors").into()
}

/// What is wrong with nodes, as a list.
pub(crate) fn node_error_list() -> RefOr<Schema> {
    Ref::from_schema_name("NodeErrorList").into()
}

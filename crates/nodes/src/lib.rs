//! the built-in nodes

//! the Node trait, schemas, values and the catalog of node classes

//! parses, validates and orders workflow graphs

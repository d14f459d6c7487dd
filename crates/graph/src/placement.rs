//! Where nodes run: what may be wished, and what was decided.

use std::collections::{BTreeMap, HashMap};

use comfyd_node::{Catalog, Entry};

/// Which implementation of a class is preferred where there are several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PlacementMode {
    /// This process wherever it can run the node and nothing that cannot leave another process is linked to it.
    #[default]
    Auto,
    /// Other processes wherever one has the class: what they give is what the reference gives.
    Python,
    /// As [`PlacementMode::Auto`]; whoever builds the catalog puts this process's classes first, so that clients are told of these.
    Native,
}

/// How nodes are placed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Placing {
    /// Which implementation is preferred.
    pub mode: PlacementMode,
    /// The same for single classes: class → `native`, `python`, or the name of a host. Decides for all that must run where they do.
    pub prefer: BTreeMap<String, String>,
}

/// Which of its class's implementations each node uses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Placement {
    /// Node id → place in [`Catalog::all`]; the first one for nodes that are not here.
    nodes: HashMap<String, usize>,
}

impl Placement {
    pub(crate) fn set(&mut self, node: &str, implementation: usize) {
        if implementation > 0 {
            self.nodes.insert(node.to_owned(), implementation);
        }
    }

    /// The implementation that a node uses, if its class exists.
    pub fn entry<'c>(&self, catalog: &'c Catalog, node: &str, class: &str) -> Option<&'c Entry> {
        let place = if self.nodes.is_empty() { 0 } else { self.nodes.get(node).copied().unwrap_or(0) };
        let all = catalog.all(class);
        all.get(place).or(all.first())
    }
}

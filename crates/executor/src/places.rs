//! Where the nodes of one prompt run.

use comfyd_graph::{Graph, NodeIndex, Placement, Placing, Unplaceable, place, place_expansion};
use comfyd_node::{Catalog, Entry, Expansion, OptionSource, Result, Source};
use serde_json::{Map, Value as Json};

/// How the nodes of a run are placed, those of its expansions included.
pub(crate) struct Places<'a> {
    pub placing: Placing,
    pub files: Option<&'a dyn OptionSource>,
    /// Called before each node.
    pub before: Option<&'a BeforeNode>,
    /// Called with what each node shows.
    pub showing: Option<&'a Showing>,
}

/// What is to be done on the device thread before a node runs, whose class is given: models of another process may have to go.
pub type BeforeNode = dyn Fn(&Entry) + Send + Sync;

/// What is to be done on the device thread with what a node of a prompt shows, whose id is given, before anybody is told: its files may get
/// ids, or other names. What fails here fails the node.
pub type Showing = dyn Fn(&str, &mut Map<String, Json>) -> Result<()> + Send + Sync;

/// What is to be done on the device thread with a prompt before anything of it runs: other processes may look for the files that it names.
/// What fails here fails the prompt.
pub type Arriving = dyn Fn(&Json) -> Result<()> + Send + Sync;

impl Places<'_> {
    pub fn prompt(&self, catalog: &Catalog, prompt: &Json, outputs: &[String]) -> std::result::Result<Placement, Box<Unplaceable>> {
        match prompt.as_object() {
            Some(nodes) => place(catalog, nodes, outputs, &self.placing, self.files),
            None => Ok(Placement::default()),
        }
    }

    pub fn expansion(
        &self,
        catalog: &Catalog,
        graph: &Graph,
        parent: NodeIndex,
        expansion: &Expansion,
        values: &[Source],
    ) -> std::result::Result<Placement, Box<Unplaceable>> {
        place_expansion(catalog, graph, parent, expansion, values, &self.placing, self.files)
    }
}

//! The set of node classes that prompts may use.

use std::sync::Arc;

use indexmap::IndexMap;

use crate::hosted::{Host, HostedNode};
use crate::{Node, Schema};

/// A source of node classes: the built-in nodes, later Python and WebAssembly workers.
pub trait Provider {
    /// A name for messages.
    fn name(&self) -> &str;
    /// The classes it offers now.
    fn nodes(&self) -> Vec<Arc<dyn Node>>;
}

/// A class as one host has it.
#[derive(Clone)]
pub struct Entry {
    /// The class's declaration.
    pub schema: Arc<Schema>,
    /// Its code.
    pub code: Code,
}

/// Where a class's code is.
#[derive(Clone)]
pub enum Code {
    /// In this process.
    Native(Arc<dyn Node>),
    /// In another one.
    Hosted(Arc<dyn HostedNode>),
}

impl Entry {
    /// Its code, if that is in this process.
    pub fn native(&self) -> Option<&Arc<dyn Node>> {
        match &self.code {
            Code::Native(node) => Some(node),
            Code::Hosted(_) => None,
        }
    }

    /// The process in which it runs; `None` if that is this one.
    pub fn host(&self) -> Option<Arc<dyn Host>> {
        match &self.code {
            Code::Native(_) => None,
            Code::Hosted(node) => Some(node.host()),
        }
    }
}

/// All node classes by name, in the order in which they are listed to clients. A class may have several implementations, of which the
/// first is the one that clients are told of.
#[derive(Clone, Default)]
pub struct Catalog {
    entries: IndexMap<String, Vec<Entry>>,
    /// Whether any class runs in another process.
    hosted: bool,
}

impl Catalog {
    /// An empty catalog.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a provider's classes. Where one is there already, natively, it is replaced; the replaced names are returned, for a warning.
    pub fn add(&mut self, provider: &dyn Provider) -> Vec<String> {
        provider.nodes().into_iter().filter_map(|node| self.insert(node)).collect()
    }

    /// Adds one class; returns its name if it replaced another.
    pub fn insert(&mut self, node: Arc<dyn Node>) -> Option<String> {
        let schema = Arc::new(node.schema());
        let class = schema.class.clone();
        let entry = Entry { schema, code: Code::Native(node) };
        let all = self.entries.entry(class.clone()).or_default();
        match all.iter_mut().find(|other| matches!(other.code, Code::Native(_))) {
            Some(native) => {
                *native = entry;
                Some(class)
            }
            None => {
                all.push(entry);
                None
            }
        }
    }

    /// Adds an implementation behind those that its class has.
    pub fn push(&mut self, entry: Entry) {
        self.hosted |= matches!(entry.code, Code::Hosted(_));
        self.entries.entry(entry.schema.class.clone()).or_default().push(entry);
    }

    /// Whether any class runs in another process. Where none does, nobody has to ask where a node runs.
    pub fn has_hosted(&self) -> bool {
        self.hosted
    }

    /// The class of that name, as clients are told of it.
    pub fn get(&self, class: &str) -> Option<&Entry> {
        self.all(class).first()
    }

    /// All implementations of that class, the preferred one first.
    pub fn all(&self, class: &str) -> &[Entry] {
        self.entries.get(class).map_or(&[], Vec::as_slice)
    }

    /// All classes in order, as clients are told of them.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values().filter_map(|all| all.first())
    }

    /// How many classes there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;
    use crate::{Context, Inputs, NodeOutput, Result};

    /// A class whose declaration is made at run time, as that of a worker outside the process is.
    struct Remote {
        class: String,
        category: &'static str,
    }

    impl Node for Remote {
        fn schema(&self) -> Schema {
            Schema::new(&self.class).category(self.category)
        }

        fn run(&self, _: &mut Context<'_>, _: Inputs) -> Result<NodeOutput> {
            Ok(NodeOutput::default())
        }
    }

    struct Worker {
        category: &'static str,
        classes: &'static [&'static str],
    }

    impl Provider for Worker {
        fn name(&self) -> &str {
            self.category
        }

        fn nodes(&self) -> Vec<Arc<dyn Node>> {
            let node = |class: &&str| Arc::new(Remote { class: (*class).to_owned(), category: self.category }) as Arc<dyn Node>;
            self.classes.iter().map(node).collect()
        }
    }

    #[test]
    fn providers_are_added_one_after_the_other_and_later_ones_replace() {
        let mut catalog = Catalog::new();
        assert!(catalog.is_empty());
        assert!(catalog.add(&Worker { category: "first", classes: &["A", "B"] }).is_empty());
        assert_eq!(catalog.add(&Worker { category: "second", classes: &["B", "C"] }), ["B"], "the replaced ones are named");
        assert_eq!(catalog.len(), 3);
        let categories: Vec<String> = catalog.iter().map(|entry| format!("{}:{}", entry.schema.class, entry.schema.category)).collect();
        assert_eq!(categories, ["A:first", "B:second", "C:second"]);
        assert_eq!(catalog.get("B").unwrap().schema.category, "second");
        assert!(catalog.get("D").is_none());
    }
}

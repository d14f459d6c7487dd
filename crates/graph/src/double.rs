//! Processes and classes for the tests of this crate: only declared, nothing runs.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use comfyd_node::{
    Arguments, CancellationToken, Catalog, Code, Context, Done, Entry, Error, Fingerprint, Host, Hosted, HostedCall, HostedNode,
    HostedPrompt, Inputs, Inspected, Node, NodeOutput, Refusal, Reporter, Result, Schema,
};
use indexmap::IndexMap;
use serde_json::{Map, Value as Json};

pub(crate) struct Named(pub &'static str);

impl Host for Named {
    fn name(&self) -> &str {
        self.0
    }

    fn version(&self) -> String {
        String::new()
    }

    fn begin(&self, _prompt: &HostedPrompt<'_>, _reporter: Arc<dyn Reporter>, _cancel: &CancellationToken) -> Result<()> {
        Ok(())
    }

    fn end(&self) {}

    fn interrupt(&self) {}

    fn free(&self, _unload_models: bool, _free_memory: bool) {}
}

pub(crate) type Check = fn(&Arguments, &Map<String, Json>) -> Result<Vec<Refusal>>;

struct There {
    host: &'static str,
    check: Check,
}

impl HostedNode for There {
    fn host(&self) -> Arc<dyn Host> {
        Arc::new(Named(self.host))
    }

    fn validate(&self, _node: &str, arguments: &Arguments, types: &Map<String, Json>) -> Result<Vec<Refusal>> {
        (self.check)(arguments, types)
    }

    fn inspect(&self, _arguments: &Arguments) -> Result<IndexMap<String, Inspected>> {
        Ok(IndexMap::new())
    }

    fn fingerprint(&self, _call: &HostedCall, _cancel: &CancellationToken) -> Result<Fingerprint> {
        Ok(Fingerprint::Inputs)
    }

    fn needed(&self, _call: &HostedCall, _cancel: &CancellationToken) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn run(&self, _call: HostedCall, done: Done) {
        done(Err(Error::msg("nothing runs here")));
    }
}

/// A class of this process that does not take everything.
struct Here {
    schema: Schema,
    declines: Option<&'static str>,
}

impl Node for Here {
    fn schema(&self) -> Schema {
        self.schema.clone()
    }

    fn declines(&self, inputs: &Inputs) -> Option<String> {
        self.declines.filter(|file| inputs.text("file").is_ok_and(|text| text == *file)).map(|file| format!("it does not know {file}"))
    }

    fn run(&self, _cx: &mut Context<'_>, _inputs: Inputs) -> Result<NodeOutput> {
        Ok(NodeOutput::default())
    }
}

/// Adds a class of another process.
pub(crate) fn there(catalog: &mut Catalog, host: &'static str, schema: Schema, hosted: Hosted, check: Check) {
    let schema = Arc::new(Schema { hosted: Some(Arc::new(hosted)), ..schema });
    catalog.push(Entry { schema, code: Code::Hosted(Arc::new(There { host, check })) });
}

/// Adds a class of this process, which declines a file.
pub(crate) fn here(catalog: &mut Catalog, schema: Schema, declines: Option<&'static str>) {
    catalog.insert(Arc::new(Here { schema, declines }));
}

/// A check that refuses nothing.
pub(crate) fn anything(_arguments: &Arguments, _types: &Map<String, Json>) -> Result<Vec<Refusal>> {
    Ok(Vec::new())
}

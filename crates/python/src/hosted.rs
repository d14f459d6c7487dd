//! The classes of a worker as nodes.

use std::sync::Arc;
use std::time::Duration;

use comfyd_node::{
    Argument, Arguments, CancellationToken, Code, Done, Entry, Error, Fingerprint, Host, HostedCall, HostedNode, Inspected, Refusal, Result,
};
use indexmap::IndexMap;
use serde_json::{Map, Value as Json};

use crate::frame::Message;
use crate::host::Shared;
use crate::link::About;
use crate::remote::Objects;
use crate::schema::Class;
use crate::supervisor;
use crate::wire;

/// How long a class may take to check its inputs.
pub(crate) const CHECK: Duration = Duration::from_secs(60);

/// A class that runs in a worker.
struct Node {
    class: Class,
    shared: Arc<Shared>,
}

/// A class as the catalog has it.
pub(crate) fn entry(class: &Class, shared: &Arc<Shared>) -> Entry {
    let node = Node { class: class.clone(), shared: shared.clone() };
    Entry { schema: class.schema.clone(), code: Code::Hosted(Arc::new(node)) }
}

impl Node {
    fn name(&self) -> &str {
        &self.class.schema.class
    }

    /// For what is no part of a prompt: the process is started if need be.
    fn objects(&self) -> Result<Arc<Objects>> {
        self.shared.ready(None)?.ok_or(Error::Interrupted)
    }

    fn message(&self, op: &str, call: &HostedCall, objects: &Arc<Objects>) -> Result<Message> {
        let message = Message::new(op).field("node", &call.node).field("class", self.name()).field("display", &call.display);
        wire::with_inputs(message, &call.arguments, objects)
    }

    fn about(&self, call: &HostedCall) -> String {
        format!("node {} ({})", call.node, self.name())
    }

    fn prepare(&self, call: &HostedCall) -> Result<(Arc<Objects>, Message)> {
        let objects = self.shared.of_prompt()?;
        let message = self.message("run", call, &objects)?;
        Ok((objects, message))
    }
}

impl HostedNode for Node {
    fn host(&self) -> Arc<dyn Host> {
        self.shared.clone()
    }

    fn validate(&self, node: &str, arguments: &Arguments, types: &Map<String, Json>) -> Result<Vec<Refusal>> {
        if self.class.schema.hosted.as_ref().is_none_or(|hosted| !hosted.validates) {
            return Ok(Vec::new());
        }
        let message = wire::question(self.name(), node, arguments, types);
        Ok(wire::refusals(&self.objects()?.link.wait(message, CHECK)?.json))
    }

    fn inspect(&self, arguments: &Arguments) -> Result<IndexMap<String, Inspected>> {
        let schema = &self.class.schema;
        let undeclared =
            |(name, argument): (&Arc<str>, &Argument)| matches!(argument, Argument::Link { .. }) && schema.find_input(name).is_none();
        if !self.class.facts.open || !arguments.iter().any(undeclared) {
            return Ok(IndexMap::new());
        }
        let message = Message::new("inspect").field("class", self.name());
        let frame = self.objects()?.link.wait(wire::with_constants(message, arguments), CHECK)?;
        let names = frame.json.get("names").and_then(Json::as_object);
        let flag = |json: &Json, name: &str| json.get(name).and_then(Json::as_bool).unwrap_or(false);
        let inspected = |json: &Json| Inspected { lazy: flag(json, "lazy"), raw_link: flag(json, "raw") };
        Ok(names.into_iter().flatten().map(|(name, json)| (name.clone(), inspected(json))).collect())
    }

    fn fingerprints(&self) -> bool {
        self.class.facts.changed
    }

    fn fingerprint(&self, call: &HostedCall, cancel: &CancellationToken) -> Result<Fingerprint> {
        if !self.class.facts.changed {
            return Ok(Fingerprint::Inputs);
        }
        let objects = self.shared.of_prompt()?;
        let message = Message::new("changed").field("node", &call.node).field("class", self.name());
        let frame = objects.link.wait_in_prompt(wire::with_constants(message, &call.arguments), self.about(call), cancel)?;
        if frame.json.get("always").and_then(Json::as_bool) == Some(true) {
            return Ok(Fingerprint::Always);
        }
        let text = frame.json.get("text").and_then(Json::as_str);
        Ok(text.map_or(Fingerprint::Always, |text| Fingerprint::Text(text.to_owned())))
    }

    fn needed(&self, call: &HostedCall, cancel: &CancellationToken) -> Result<Vec<String>> {
        if !self.class.facts.lazy {
            return Ok(Vec::new());
        }
        let objects = self.shared.of_prompt()?;
        let message = self.message("lazy", call, &objects)?;
        let frame = objects.link.wait_in_prompt(message, self.about(call), cancel)?;
        let names = frame.json.get("needed").and_then(Json::as_array);
        Ok(names.into_iter().flatten().filter_map(|name| name.as_str().map(str::to_owned)).collect())
    }

    fn stay(&self) {
        supervisor::remember(&self.shared, self.name());
    }

    fn run(&self, call: HostedCall, done: Done) {
        let (objects, message) = match self.prepare(&call) {
            Ok(prepared) => prepared,
            Err(error) => return done(Err(error)),
        };
        let (schema, about) = (self.class.schema.clone(), About::Prompt(self.about(&call)));
        let link = objects.link.clone();
        link.ask(message, about, move |answer| {
            let output = answer.map(|mut frame| wire::output(&mut frame.json, &schema, &objects));
            // Its inputs were in use until now.
            drop(call);
            done(output.map_err(Error::from));
        });
    }
}

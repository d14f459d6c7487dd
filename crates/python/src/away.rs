//! Classes of a ComfyUI that is on another host: what is told of them there, and what they are here. Prompts that have them are checked here
//! and run there. Does not know how hosts speak with each other.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use comfyd_node::{
    Arguments, CancellationToken, Code, Done, Entry, Error, Fingerprint, Host, HostedCall, HostedNode, HostedPrompt, Inspected, Raised,
    Refusal, Reporter, Result,
};
use indexmap::IndexMap;
use serde_json::value::RawValue;
use serde_json::{Map, Value as Json, json};

use crate::facts::Facts;
use crate::frame::Message;
use crate::host::Shared;
use crate::hosted::CHECK;
use crate::manifest::Manifest;
use crate::schema::Class;
use crate::wire;

/// Has a question, a text of JSON, answered by [`crate::Worker::check`] on the host that has the class. Blocks.
pub type Ask = Arc<dyn Fn(String) -> Result<Json> + Send + Sync>;

/// The classes of a manifest, as one text.
pub(crate) fn told(manifest: &Manifest) -> serde_json::Result<String> {
    let mut told: IndexMap<&str, (Box<RawValue>, &Facts)> = IndexMap::with_capacity(manifest.classes.len());
    for (name, class) in &manifest.classes {
        let info = class.schema.hosted.as_ref().map_or("null", |hosted| &*hosted.info);
        told.insert(name, (serde_json::from_str(info)?, &class.facts));
    }
    serde_json::to_string(&told)
}

/// The classes that a worker told, as those of the host `name`. One that this version cannot read is left out.
///
/// # Errors
/// Where the text is none that a worker told.
pub fn classes(name: &str, told: &str, ask: Ask) -> serde_json::Result<Vec<Entry>> {
    let host: Arc<dyn Host> = Arc::new(Away { name: name.to_owned() });
    let told: IndexMap<String, Box<RawValue>> = serde_json::from_str(told)?;
    let entry = |class: &str, text: &RawValue| {
        let read = serde_json::from_str::<(&RawValue, Facts)>(text.get()).and_then(|(info, facts)| Class::new(class, info.get(), facts));
        let read =
            read.inspect_err(|error| tracing::warn!(class, host = name, "what another host tells of a class is not understood: {error}"));
        let node = Node { class: read.ok()?, host: Arc::clone(&host), ask: Arc::clone(&ask) };
        Some(Entry { schema: Arc::clone(&node.class.schema), code: Code::Hosted(Arc::new(node)) })
    };
    Ok(told.iter().filter_map(|(class, text)| entry(class, text)).collect())
}

/// Answers a question that [`Node`] asked on another host. Numbers in it may be longer than this process reads.
pub(crate) fn check(shared: &Shared, question: &str) -> Json {
    let fields: HashMap<Cow<'_, str>, &RawValue> = match serde_json::from_str(question) {
        Ok(fields) => fields,
        Err(error) => return json!({"failed": format!("what was asked of a class is no question: {error}")}),
    };
    let message = ["node", "class", "types", "inputs"]
        .into_iter()
        .filter_map(|name| Some((name, fields.get(name)?)))
        .fold(Message::new("validate"), |message, (name, field)| message.field(name, field));
    let answered = shared.ready(None).map_err(Error::from).and_then(|objects| {
        let objects = objects.ok_or(Error::Interrupted)?;
        Ok(objects.link.wait(message, CHECK)?.json)
    });
    match answered {
        Ok(answer) => json!({"refused": answer.get("refused")}),
        Err(Error::Raised(raised)) => json!({"raised": {"kind": raised.kind, "message": raised.message, "traceback": raised.traceback}}),
        Err(error) => json!({"failed": error.to_string()}),
    }
}

/// What such an answer says.
fn answered(answer: &Json) -> Result<Vec<Refusal>> {
    if let Some(raised) = answer.get("raised") {
        let text = |name: &str| raised[name].as_str().unwrap_or_default().to_owned();
        let traceback = raised["traceback"].as_array().into_iter().flatten().filter_map(|line| line.as_str().map(str::to_owned)).collect();
        return Err(Error::Raised(Box::new(Raised { kind: text("kind"), message: text("message"), traceback, ..Raised::default() })));
    }
    match answer.get("failed").and_then(Json::as_str) {
        // The class itself has said nothing.
        Some(why) => Err(Error::Unreachable(why.to_owned())),
        None => Ok(wire::refusals(answer)),
    }
}

/// A process on another host.
struct Away {
    name: String,
}

impl Away {
    fn away(&self) -> Error {
        Error::Failed(format!("its class is on another host ('{}') and cannot run here", self.name))
    }
}

impl Host for Away {
    fn name(&self) -> &str {
        &self.name
    }

    fn version(&self) -> String {
        String::new()
    }

    fn begin(&self, _: &HostedPrompt<'_>, _: Arc<dyn Reporter>, _: &CancellationToken) -> Result<()> {
        Err(self.away())
    }

    fn end(&self) {}

    fn interrupt(&self) {}

    fn free(&self, _: bool, _: bool) {}
}

/// A class there.
struct Node {
    class: Class,
    host: Arc<dyn Host>,
    ask: Ask,
}

impl Node {
    fn away(&self) -> Error {
        Error::Failed(format!("the class '{}' is on another host ('{}') and cannot run here", self.class.schema.class, self.host.name()))
    }
}

impl HostedNode for Node {
    fn host(&self) -> Arc<dyn Host> {
        Arc::clone(&self.host)
    }

    fn validate(&self, node: &str, arguments: &Arguments, types: &Map<String, Json>) -> Result<Vec<Refusal>> {
        if self.class.schema.hosted.as_ref().is_none_or(|hosted| !hosted.validates) {
            return Ok(Vec::new());
        }
        let question = wire::question(&self.class.schema.class, node, arguments, types).into_text();
        answered(&(self.ask)(question.map_err(|error| Error::Failed(error.to_string()))?)?)
    }

    fn inspect(&self, _: &Arguments) -> Result<IndexMap<String, Inspected>> {
        Ok(IndexMap::new())
    }

    fn fingerprint(&self, _: &HostedCall, _: &CancellationToken) -> Result<Fingerprint> {
        Err(self.away())
    }

    fn needed(&self, _: &HostedCall, _: &CancellationToken) -> Result<Vec<String>> {
        Err(self.away())
    }

    fn run(&self, _: HostedCall, done: Done) {
        done(Err(self.away()));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use comfyd_node::{Argument, Value};
    use parking_lot::Mutex;

    use super::*;

    #[test]
    fn classes_are_the_same_on_another_host_and_their_checks_are_asked_there() {
        let info = json!({"input": {"required": {"n": ["INT", {"default": 1}]}}, "output": ["INT"], "name": "Mine"}).to_string();
        let manifest = Manifest::new(json!({"classes": {
            "Mine": {"info": info, "validate": "names", "validates": ["n"]},
            "Plain": {"info": info, "once": true},
        }}));
        let text = told(&manifest).unwrap();
        // A later version tells more of a class; what is no class is left out.
        let mut later: Json = serde_json::from_str(&text).unwrap();
        later["Mine"][1]["later"] = json!([1]);
        later["Broken"] = json!(5);
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (asks, answers) = (Arc::clone(&asked), [json!({"refused": [{"input": "n", "reason": "too much"}]}), json!({"failed": "gone"})]);
        let ask: Ask = Arc::new(move |question| {
            asks.lock().push(question);
            Ok(answers[asks.lock().len() - 1].clone())
        });
        let away = classes("there", &later.to_string(), ask).unwrap();
        assert_eq!(away.len(), 2);
        for entry in &away {
            assert_eq!(entry.schema, manifest.classes[&entry.schema.class].schema);
            assert_eq!(entry.host().unwrap().name(), "there");
        }
        let Code::Hosted(mine) = &away[0].code else { unreachable!("all are") };
        let arguments: Arguments = [("n".into(), Argument::Constant(Value::Int(1 << 70)))].into_iter().collect();
        let refused = mine.validate("7", &arguments, &Map::new()).unwrap();
        assert_eq!(refused, [Refusal { input: "n".into(), reason: Some("too much".into()) }]);
        let unanswered = mine.validate("7", &arguments, &Map::new()).unwrap_err();
        assert!(matches!(&unanswered, Error::Unreachable(why) if why == "gone"), "{unanswered:?}");
        let question = r#"{"op":"validate","node":"7","class":"Mine","types":{},"inputs":[["n",1180591620717411303424]]}"#;
        assert_eq!(asked.lock()[0], question, "numbers are as long as they are");
        let Code::Hosted(plain) = &away[1].code else { unreachable!("all are") };
        assert!(plain.validate("8", &arguments, &Map::new()).unwrap().is_empty() && asked.lock().len() == 2, "it checks nothing");
    }

    #[test]
    fn exceptions_of_checks_come_back_as_they_were() {
        let raised = answered(&json!({"raised": {"kind": "ValueError", "message": "no", "traceback": ["a"]}})).unwrap_err();
        let Error::Raised(raised) = raised else { unreachable!("{raised}") };
        assert_eq!((raised.kind.as_str(), raised.message.as_str(), raised.traceback.len()), ("ValueError", "no", 1));
    }
}

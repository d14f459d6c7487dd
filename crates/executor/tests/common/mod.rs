//! Small nodes that show each rule of execution, and a bench that runs prompts of them and writes down what happens.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use comfyd_executor::{Executor, ExecutorOptions};
use comfyd_jobs::memory::MemorySink;
use comfyd_jobs::{Event, EventKind, Job, Message, Outcome, Secrets};
use comfyd_node::{
    Branch, CancellationToken, Catalog, Context, Error, Expansion, ExpansionNode, Fingerprint, Grow, HiddenKind, Input, Inputs, Node,
    NodeOutput, Opaque, Result, Schema, Source, Value,
};
use parking_lot::Mutex;
use serde_json::{Value as Json, json};

/// How many nodes of the class `Meet` have come into each room.
static ROOMS: Mutex<BTreeMap<String, i128>> = Mutex::new(BTreeMap::new());

/// Whether nodes of the class `Deaf` go on.
pub static DEAF: AtomicBool = AtomicBool::new(true);

type RunFn = Box<dyn Fn(&mut Context<'_>, Inputs) -> Result<NodeOutput> + Send + Sync>;
type NeededFn = fn(&Inputs) -> Result<Vec<String>>;
type FingerprintFn = fn(&Inputs, &CancellationToken) -> Result<Fingerprint>;

/// A class made of functions.
struct Class {
    schema: Schema,
    run: RunFn,
    needed: Option<NeededFn>,
    fingerprint: Option<FingerprintFn>,
}

impl Node for Class {
    fn schema(&self) -> Schema {
        self.schema.clone()
    }

    fn needed(&self, inputs: &Inputs) -> Result<Vec<String>> {
        self.needed.map_or(Ok(Vec::new()), |needed| needed(inputs))
    }

    fn fingerprint(&self, inputs: &Inputs, cancel: &CancellationToken) -> Result<Fingerprint> {
        self.fingerprint.map_or(Ok(Fingerprint::Inputs), |fingerprint| fingerprint(inputs, cancel))
    }

    fn run(&self, cx: &mut Context<'_>, inputs: Inputs) -> Result<NodeOutput> {
        (self.run)(cx, inputs)
    }
}

/// An object of a size.
pub struct Blob(pub usize);

impl Opaque for Blob {
    fn type_name(&self) -> &'static str {
        "BLOB"
    }

    fn size_bytes(&self) -> usize {
        self.0
    }
}

fn link(node: &str) -> Source {
    Source::Link { node: node.into(), slot: 0 }
}

fn node(class: &str, inputs: Vec<(&str, Source)>) -> ExpansionNode {
    let inputs = inputs.into_iter().map(|(name, source)| (name.to_owned(), source)).collect();
    ExpansionNode { class_type: class.into(), inputs, display_id: None }
}

fn expanded(nodes: Vec<(String, ExpansionNode)>, values: Vec<Source>) -> NodeOutput {
    NodeOutput { values, ui: None, expand: Some(Expansion { nodes: nodes.into_iter().collect() }) }
}

pub fn catalog() -> Catalog {
    let mut catalog = Catalog::new();
    let mut add = |schema: Schema, needed: Option<NeededFn>, fingerprint: Option<FingerprintFn>, run: RunFn| {
        catalog.insert(Arc::new(Class { schema, run, needed, fingerprint }));
    };
    let value = || Input::link("value", "*");

    let num = Schema::new("Num").input(Input::int("value")).output("INT");
    add(num, None, None, Box::new(|_, i| Ok(NodeOutput::one(i.int("value")?))));

    let sum = Schema::new("Add").input(Input::int("a")).input(Input::int("b")).output("INT");
    add(sum, None, None, Box::new(|_, i| Ok(NodeOutput::one(i.int("a")? + i.int("b")?))));

    let show = Schema::new("Show").input(value()).output_node();
    let run: RunFn = Box::new(|_, i| Ok(NodeOutput::default().with_ui("values", vec![i.value("value")?.to_json()])));
    add(show, None, None, run);

    // Shows something though it ends no graph.
    let seen = Schema::new("Seen").input(value()).output("*").intermediate_output();
    let run: RunFn = Box::new(|_, i| Ok(NodeOutput::one(i.value("value")?.clone()).with_ui("values", vec![i.value("value")?.to_json()])));
    add(seen, None, None, run);

    // Tells what it is given of inputs that stand for others.
    let ways = [Branch::new("times", [Input::int("factor"), Input::branch("then", [Branch::new("plus", [Input::int("more")])])])];
    let told = Schema::new("Told").input(Input::grow("values", Grow::numbered(value(), "v").max(3))).input(Input::branch("how", ways));
    let run: RunFn = Box::new(|_, i| {
        let told = |group: &Inputs| group.iter().map(|(name, value)| format!("{name}={}", value.to_json())).collect::<Vec<_>>().join(" ");
        Ok(NodeOutput::one(format!("{} | {} | {}", told(&i.group("values")), told(&i.group("how")), told(&i.group("how").group("then")))))
    });
    add(told.output("STRING"), None, None, run);

    // An output node with an output of its own.
    let pass = Schema::new("ShowAndPass").input(value()).output("*").output_node();
    let run: RunFn = Box::new(|_, i| Ok(NodeOutput::one(i.value("value")?.clone()).with_ui("values", vec![i.value("value")?.to_json()])));
    add(pass, None, None, run);

    let pick = Schema::new("Pick").input(Input::int("which")).input(Input::link("a", "*").lazy()).input(Input::link("b", "*").lazy());
    let wanted = |i: &Inputs| Ok::<_, Error>(if i.int("which")? == 0 { "a" } else { "b" });
    let needed: NeededFn = |i| Ok(vec![if i.int("which")? == 0 { "a" } else { "b" }.to_owned()]);
    let run: RunFn = Box::new(move |_, i| Ok(NodeOutput::one(i.value(wanted(&i)?)?.clone())));
    add(pick.output("*"), Some(needed), None, run);

    let make_list = Schema::new("MakeList").input(Input::link("v1", "*")).input(Input::link("v2", "*").optional());
    let make_list = make_list.input(Input::link("v3", "*").optional()).output_list("*");
    add(make_list, None, None, Box::new(|_, i| Ok(NodeOutput::one(Value::list(i.iter().map(|(_, v)| v.clone()).collect())))));

    let total = Schema::new("Total").input(value()).input_is_list().output("INT");
    let run: RunFn = Box::new(|_, i| {
        let total: i128 = i.list("value")?.iter().map(|v| if let Value::Int(i) = v { *i } else { 0 }).sum();
        Ok(NodeOutput::one(total))
    });
    add(total, None, None, run);

    let block = Schema::new("Block").input(value()).input(Input::int("block")).input(Input::bool("verbose")).output("*");
    let run: RunFn = Box::new(|_, i| {
        let message = i.bool("verbose")?.then(|| "stopped here".into());
        let blocks = i.value("value")?.to_json() == json!(i64::try_from(i.int("block")?).unwrap());
        Ok(NodeOutput::one(if blocks { Value::Blocker(message) } else { i.value("value")?.clone() }))
    });
    add(block, None, None, run);

    let changing = Schema::new("Changing").input(Input::int("value")).input(Input::text("stamp")).output("INT");
    let fingerprint: FingerprintFn = |i, cancel| match i.text("stamp")? {
        "always" => Ok(Fingerprint::Always),
        "fail" => Err(Error::msg("on purpose")),
        "panic" => panic!("on purpose"),
        "interrupt" => {
            cancel.cancel();
            Err(Error::Interrupted)
        }
        "count" => {
            static COUNT: AtomicUsize = AtomicUsize::new(0);
            Ok(Fingerprint::Text((COUNT.fetch_add(1, Ordering::Relaxed) / 2).to_string()))
        }
        stamp => Ok(Fingerprint::Text(stamp.into())),
    };
    add(changing, None, Some(fingerprint), Box::new(|_, i| Ok(NodeOutput::one(i.int("value")?))));

    let fail = Schema::new("Fail").input(Input::text("how")).input(value().optional()).output("INT");
    let run: RunFn = Box::new(|cx, i| match i.text("how")? {
        "panic" => panic!("on purpose"),
        "huge" => Ok(NodeOutput::one(Vec::<u64>::with_capacity(usize::MAX).len())),
        "io" => Err(std::io::Error::other("disk full").into()),
        "interrupt" => {
            cx.cancel_token().cancel();
            cx.progress(1.0, 2.0)?;
            Ok(NodeOutput::one(1))
        }
        how => Err(Error::msg(how)),
    });
    add(fail, None, None, run);

    let steps = Schema::new("Steps").input(Input::int("value")).output("INT");
    let run: RunFn = Box::new(|cx, i| {
        cx.progress(1.0, 2.0)?;
        cx.text("half done");
        cx.progress(2.0, 2.0)?;
        Ok(NodeOutput::one(i.int("value")?))
    });
    add(steps, None, None, run);

    let wait = Schema::new("Wait").input(Input::int("value")).output("INT");
    let run: RunFn = Box::new(|cx, _| {
        loop {
            cx.check_cancelled()?;
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    });
    add(wait, None, None, run);

    let deaf = Schema::new("Deaf").input(Input::int("value")).output("INT");
    let run: RunFn = Box::new(|_, i| {
        while DEAF.load(Ordering::Relaxed) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        Ok(NodeOutput::one(i.int("value")?))
    });
    add(deaf, None, None, run);

    // Ends once so many of the same room run at a time.
    let meet = Schema::new("Meet").input(Input::text("room")).input(Input::int("parties")).output("INT");
    let run: RunFn = Box::new(|cx, i| {
        let (room, parties) = (i.text("room")?.to_owned(), i.int("parties")?);
        *ROOMS.lock().entry(room.clone()).or_default() += 1;
        while ROOMS.lock()[&room] < parties {
            cx.check_cancelled()?;
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        Ok(NodeOutput::one(parties))
    });
    add(meet, None, None, run);

    let blob = Schema::new("Blob").input(Input::int("value")).input(Input::int("bytes")).output("BLOB");
    add(blob, None, None, Box::new(|_, i| Ok(NodeOutput::one(Value::object(Blob(i.int_as("bytes")?))))));
    let same = Schema::new("Same").input(value()).output("*");
    add(same, None, None, Box::new(|_, i| Ok(NodeOutput::one(i.value("value")?.clone()))));

    let whoami = Schema::new("WhoAmI").input(Input::int("value")).hidden("id", HiddenKind::UniqueId).output("STRING");
    let run: RunFn = Box::new(|cx, _| {
        let title = cx.hidden.extra_pnginfo().and_then(|i| i.get("workflow")).cloned().unwrap_or_default();
        Ok(NodeOutput::one(format!("{} of {} {title}", cx.node_id, cx.hidden.prompt.as_object().unwrap().len())))
    });
    add(whoami, None, None, run);

    let raw = Schema::new("Raw").input(value().raw_link()).output("STRING");
    add(raw, None, None, Box::new(|_, i| Ok(NodeOutput::one(i.value("value")?.to_json().to_string()))));

    add_expanding(&mut add);
    catalog
}

fn add_expanding(add: &mut dyn FnMut(Schema, Option<NeededFn>, Option<FingerprintFn>, RunFn)) {
    // Adds 1 to `value`, `count` times: one expansion inside the other.
    let repeat = Schema::new("Loop").input(Input::int("count")).input(Input::int("value")).output("INT");
    let run: RunFn = Box::new(|cx, i| {
        let (count, value) = (i.int("count")?, i.int("value")?);
        if count == 0 {
            return Ok(NodeOutput::one(value));
        }
        let (add, next) = (cx.expansion_id(), cx.expansion_id());
        let body = node("Add", vec![("a", Source::Value(value.into())), ("b", Source::Value(1i64.into()))]);
        let rest = node("Loop", vec![("count", Source::Value((count - 1).into())), ("value", link(&add))]);
        let values = vec![link(&next)];
        Ok(expanded(vec![(add, body), (next, rest)], values))
    });
    add(repeat, None, None, run);

    // Values below 10 are given as they are, others by an expansion that shows them.
    let mixed = Schema::new("Mixed").input(Input::int("value")).output("INT").output("STRING");
    let run: RunFn = Box::new(|cx, i| {
        let value = i.int("value")?;
        if value < 10 {
            return Ok(NodeOutput::values([value.into(), "literal".into()]));
        }
        let (add, show) = (cx.expansion_id(), cx.expansion_id());
        let sum = node("Add", vec![("a", Source::Value(value.into())), ("b", Source::Value(100i64.into()))]);
        let values = vec![link(&add), Source::Value("expanded".into())];
        let shows = node("Show", vec![("value", link(&add))]);
        Ok(expanded(vec![(add, sum), (show, shows)], values))
    });
    add(mixed, None, None, run);

    let circle = Schema::new("Circle").input(Input::int("value")).output("INT");
    let run: RunFn = Box::new(|cx, i| {
        let (a, b) = (cx.expansion_id(), cx.expansion_id());
        let value = || Source::Value(i.int("value").unwrap().into());
        let nodes =
            vec![(a.clone(), node("Add", vec![("a", value()), ("b", link(&b))])), (b, node("Add", vec![("a", value()), ("b", link(&a))]))];
        Ok(expanded(nodes, vec![link(&a)]))
    });
    add(circle, None, None, run);

    // Expands into a sum of another node's output, which it names by its id.
    let relink = Schema::new("Relink").input(Input::text("target")).input(Input::link("after", "*")).output("INT");
    let run: RunFn = Box::new(|cx, i| {
        let id = cx.expansion_id();
        let sum = node("Add", vec![("a", link(i.text("target")?)), ("b", Source::Value(1i64.into()))]);
        Ok(expanded(vec![(id.clone(), sum)], vec![link(&id)]))
    });
    add(relink, None, None, run);

    // What an expansion may get wrong.
    let wrong = Schema::new("Wrong").input(Input::text("how")).output("INT");
    let run: RunFn = Box::new(|cx, i| {
        let id = cx.expansion_id();
        let num = || node("Num", vec![("value", Source::Value(1i64.into()))]);
        Ok(match i.text("how")? {
            "duplicate" => expanded(vec![(cx.node_id.to_owned(), num())], vec![Source::Value(1i64.into())]),
            "class" => expanded(vec![(id.clone(), node("Nothing", vec![]))], vec![link(&id)]),
            "dangling" => expanded(vec![(id.clone(), node("Add", vec![("a", link("nowhere"))]))], vec![link(&id)]),
            "output" => expanded(vec![(id, num())], vec![link("nowhere")]),
            "link" => NodeOutput { values: vec![link("1")], ..NodeOutput::default() },
            "inner" => expanded(vec![(id.clone(), node("Fail", vec![("how", Source::Value("inner trouble".into()))]))], vec![link(&id)]),
            "slot" => expanded(vec![(id.clone(), num())], vec![Source::Link { node: id, slot: 7 }]),
            _ => {
                let again = node("Wrong", vec![("how", Source::Value("endless".into()))]);
                expanded(vec![(id.clone(), again)], vec![link(&id)])
            }
        })
    });
    add(wrong, None, None, run);
}

/// An event in a line; `None` for those of which there are too many.
pub fn line(event: &Event) -> Option<String> {
    Some(match &event.kind {
        EventKind::Message(Message::Start { .. }) => "start".into(),
        EventKind::Message(Message::Cached { nodes, .. }) => format!("cached {nodes:?}"),
        EventKind::Message(Message::Success { .. }) => "success".into(),
        EventKind::Message(Message::Failed(failure)) => format!("error {:?} {:?}", failure.node_id, failure.exception_message),
        EventKind::Message(Message::Interrupted(end)) => format!("interrupted {:?}", end.node_id),
        EventKind::Executing(node) => format!("executing {} shown at {}", node.id, node.display_id),
        EventKind::Idle => "idle".into(),
        EventKind::Progress { node, value, max } => format!("progress {} {value}/{max}", node.id),
        EventKind::ProgressState(_) => return None,
        EventKind::Executed { node, output } => format!("executed {} {output}", node.id),
        EventKind::Queue { counts, .. } => format!("queue {} running {} waiting", counts.running, counts.pending),
        EventKind::Image { node, .. } => format!("image {}", node.id),
        EventKind::Text { node, text } => format!("text {} {text}", node.id),
    })
}

/// What a sink was told since the last call, one event a line.
pub fn lines(sink: &MemorySink) -> String {
    sink.take().iter().filter_map(line).collect::<Vec<_>>().join("\n")
}

pub struct Bench {
    pub executor: Executor,
}

pub struct Ran {
    pub events: String,
    pub outcome: Outcome,
    pub sink: Arc<MemorySink>,
}

impl Ran {
    /// What a node showed.
    pub fn shown(&self, id: &str) -> &Json {
        &self.outcome.outputs[id]["values"]
    }

    /// Whether a node was called.
    pub fn ran(&self, id: &str) -> bool {
        self.events.contains(&format!("executing {id} "))
    }

    /// The data of the last message.
    pub fn end(&self) -> Json {
        serde_json::to_value(self.outcome.messages.last().unwrap()).unwrap()
    }
}

impl Bench {
    pub fn new(options: ExecutorOptions) -> Self {
        Self { executor: Executor::new(Arc::new(catalog()), options) }
    }

    /// Runs a prompt written as `id:Class name=value` lines; a value `@id` or `@id.slot` is a link. Output nodes are those named `out…`.
    pub fn run(&mut self, text: &str) -> Ran {
        let prompt = prompt(text);
        let outputs: Vec<String> = prompt.as_object().unwrap().keys().filter(|id| id.starts_with("out")).cloned().collect();
        self.run_job(&job("prompt", &prompt, outputs), &CancellationToken::default())
    }

    pub fn run_job(&mut self, job: &Job, cancel: &CancellationToken) -> Ran {
        let sink = Arc::new(MemorySink::default());
        let outcome = self.executor.run(job, cancel, sink.clone());
        Ran { events: lines(&sink), outcome, sink }
    }
}

pub fn prompt(text: &str) -> Json {
    let mut prompt = serde_json::Map::new();
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty()) {
        let mut words = line.split(' ');
        let (id, class) = words.next().unwrap().split_once(':').unwrap();
        let mut inputs = serde_json::Map::new();
        for word in words {
            let (name, value) = word.split_once('=').unwrap();
            let value = match value.strip_prefix('@') {
                Some(target) => {
                    let (node, slot) = target.split_once('.').unwrap_or((target, "0"));
                    json!([node, slot.parse::<usize>().unwrap()])
                }
                None => serde_json::from_str(value).unwrap_or_else(|_| json!(value)),
            };
            inputs.insert(name.into(), value);
        }
        prompt.insert(id.into(), json!({"class_type": class, "inputs": inputs}));
    }
    Json::Object(prompt)
}

pub fn job(id: &str, prompt: &Json, outputs: Vec<String>) -> Job {
    let extra = json!({"client_id": "me", "extra_pnginfo": {"workflow": "W"}});
    Job {
        id: id.into(),
        number: 0.0,
        owner: Arc::default(),
        client_id: Some("me".into()),
        workflow_id: None,
        prompt: serde_json::value::to_raw_value(prompt).unwrap().into(),
        extra_data: serde_json::value::to_raw_value(&extra).unwrap().into(),
        secrets: Secrets::default(),
        outputs,
        created_ms: 0,
    }
}

//! Classes of another process, played by a double: what it is told and when, what its answers become, and what happens when it fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use comfyd_executor::{Executor, ExecutorOptions};
use comfyd_graph::{PlacementMode, Placing};
use comfyd_jobs::Status;
use comfyd_node::{
    Argument, Arguments, CancellationToken, Catalog, Code, Context, Done, Entry, Error, Expansion, ExpansionNode, Fingerprint, Host,
    Hosted, HostedCall, HostedNode, HostedOutput, HostedPrompt, Input, Inputs, Inspected, Node, NodeOutput, Opaque, Raised, Refusal,
    Reporter, Result, Returned, Schema, Source, Value,
};
use indexmap::IndexMap;
use parking_lot::Mutex;
use serde_json::{Map, Value as Json, json};

use common::{Bench, Ran, catalog, job, prompt};

/// A process that is none.
struct Double {
    log: Mutex<Vec<String>>,
    reporter: Mutex<Option<Arc<dyn Reporter>>>,
    interrupted: AtomicBool,
    /// Objects of an earlier one are gone.
    generation: AtomicU64,
    version: AtomicU64,
    cannot_begin: AtomicBool,
    /// Calls that meet.
    meeting: Barrier,
    localized: AtomicUsize,
}

impl Double {
    fn note(&self, line: impl Into<String>) {
        self.log.lock().push(line.into());
    }

    /// What happened since the last call.
    fn taken(&self) -> Vec<String> {
        std::mem::take(&mut *self.log.lock())
    }

    fn count(&self, start: &str) -> usize {
        self.log.lock().iter().filter(|line| line.starts_with(start)).count()
    }
}

impl Host for Double {
    fn name(&self) -> &str {
        "double"
    }

    fn version(&self) -> String {
        self.version.load(SeqCst).to_string()
    }

    fn begin(&self, prompt: &HostedPrompt<'_>, reporter: Arc<dyn Reporter>, _cancel: &CancellationToken) -> Result<()> {
        let HostedPrompt { hidden, number, client_id, outputs } = prompt;
        self.note(format!("begin {} {number} {client_id:?} {outputs:?}", hidden.prompt_id));
        if self.cannot_begin.load(SeqCst) {
            return Err(Error::msg("the process does not start"));
        }
        self.interrupted.store(false, SeqCst);
        *self.reporter.lock() = Some(reporter);
        Ok(())
    }

    fn end(&self) {
        self.note("end");
    }

    fn interrupt(&self) {
        self.note("interrupt");
        self.interrupted.store(true, SeqCst);
    }

    fn free(&self, unload_models: bool, free_memory: bool) {
        self.note(format!("free {unload_models} {free_memory}"));
    }
}

/// A number that lies in the double.
struct Remote {
    host: Arc<Double>,
    generation: u64,
    number: i128,
}

impl Opaque for Remote {
    fn type_name(&self) -> &str {
        "REMOTE"
    }

    fn size_bytes(&self) -> usize {
        1_000
    }

    fn host(&self) -> Option<&str> {
        Some("double")
    }

    fn localize(&self) -> Result<Option<Value>> {
        self.host.localized.fetch_add(1, SeqCst);
        if self.number < 0 {
            return Err(Error::CannotCross("a negative number stays where it is".into()));
        }
        Ok(Some(Value::Int(self.number)))
    }

    fn alive(&self) -> bool {
        self.generation == self.host.generation.load(SeqCst)
    }
}

type RunFn = Box<dyn Fn(&Arc<Double>, &HostedCall) -> Result<HostedOutput> + Send + Sync>;

struct Class {
    host: Arc<Double>,
    name: &'static str,
    run: Arc<RunFn>,
}

impl HostedNode for Class {
    fn host(&self) -> Arc<dyn Host> {
        self.host.clone()
    }

    fn validate(&self, _node: &str, _arguments: &Arguments, _types: &Map<String, Json>) -> Result<Vec<Refusal>> {
        Ok(Vec::new())
    }

    fn inspect(&self, arguments: &Arguments) -> Result<IndexMap<String, Inspected>> {
        self.host.note("inspect");
        if arguments.contains_key("trouble") {
            return Err(Error::msg("it cannot tell"));
        }
        let found = |name: &str| Inspected { lazy: name.starts_with("lazy"), raw_link: name.starts_with("raw") };
        Ok(arguments.keys().map(|name| (name.to_string(), found(name))).collect())
    }

    fn fingerprints(&self) -> bool {
        self.name == "Stamped"
    }

    fn fingerprint(&self, call: &HostedCall, _cancel: &CancellationToken) -> Result<Fingerprint> {
        self.host.note(format!("fingerprint {}", shown(&call.arguments)));
        match call.arguments.get("stamp") {
            Some(Argument::Constant(Value::Text(text))) if &**text == "fail" => Err(Error::msg("on purpose")),
            Some(Argument::Constant(value)) => Ok(Fingerprint::Text(value.to_json().to_string())),
            Some(Argument::Link { .. }) | None => Ok(Fingerprint::Inputs),
        }
    }

    fn needed(&self, call: &HostedCall, _cancel: &CancellationToken) -> Result<Vec<String>> {
        match call.arguments.get("needs") {
            Some(Argument::Constant(Value::Text(names))) => Ok(names.split(',').map(str::to_owned).collect()),
            Some(_) | None => Ok(Vec::new()),
        }
    }

    fn stay(&self) {
        self.host.note(format!("stay {}", self.name));
    }

    fn run(&self, call: HostedCall, done: Done) {
        self.host.note(format!("run {}", call.node));
        if self.name == "Panics" {
            panic!("on purpose");
        }
        if self.name == "Silent" {
            return;
        }
        let (host, run) = (self.host.clone(), self.run.clone());
        std::thread::spawn(move || done(run(&host, &call)));
    }
}

/// The inputs as one line: constants, links with what came along them.
fn shown(arguments: &Arguments) -> String {
    let one = |(name, argument): (&Arc<str>, &Argument)| match argument {
        Argument::Constant(value) => format!("{name}={}", value.to_json()),
        Argument::Link { node, slot, values: None } => format!("{name}=@{node}.{slot}"),
        Argument::Link { values: Some(values), .. } => format!("{name}={:?}", values.iter().map(Value::to_json).collect::<Vec<_>>()),
    };
    arguments.iter().map(one).collect::<Vec<_>>().join(" ")
}

fn number(call: &HostedCall, name: &str) -> i128 {
    let value = match call.arguments.get(name) {
        Some(Argument::Constant(value)) => Some(value),
        Some(Argument::Link { values: Some(values), .. }) => values.first(),
        Some(Argument::Link { values: None, .. }) | None => None,
    };
    match value {
        Some(Value::Int(number)) => *number,
        Some(object) => object.downcast::<Remote>().map_or(0, |remote| remote.number),
        None => 0,
    }
}

fn values(values: Vec<Value>) -> HostedOutput {
    HostedOutput { returned: Returned::Values(vec![Arc::new(values)]), ui: None, blocked: Vec::new() }
}

struct Hosting {
    bench: Bench,
    host: Arc<Double>,
}

impl Hosting {
    fn run(&mut self, text: &str) -> Ran {
        self.bench.run(text)
    }
}

fn hosting() -> Hosting {
    let host = Arc::new(Double {
        log: Mutex::default(),
        reporter: Mutex::default(),
        interrupted: AtomicBool::default(),
        generation: AtomicU64::default(),
        version: AtomicU64::default(),
        cannot_begin: AtomicBool::default(),
        meeting: Barrier::new(2),
        localized: AtomicUsize::default(),
    });
    let executor = executor(&host, ExecutorOptions { max_list_len: 100, ..ExecutorOptions::default() });
    Hosting { bench: Bench { executor }, host }
}

fn executor(host: &Arc<Double>, options: ExecutorOptions) -> Executor {
    let mut catalog = catalog();
    fill(&mut catalog, host);
    Executor::new(Arc::new(catalog), options)
}

fn fill(catalog: &mut Catalog, host: &Arc<Double>) {
    let add = |catalog: &mut Catalog, schema: Schema, hosted: Hosted, run: RunFn| {
        let name = Box::leak(schema.class.clone().into_boxed_str());
        let class = Class { host: host.clone(), name, run: Arc::new(run) };
        let schema = Arc::new(Schema { hosted: Some(Arc::new(hosted)), ..schema });
        catalog.push(Entry { schema, code: Code::Hosted(Arc::new(class)) });
    };
    let open = || Hosted { open: true, ..Hosted::default() };
    // Types that may cross: the nodes around are of this process.
    let schema = |class: &str| Schema::new(class).input(Input::link("value", "INT").optional()).output("INT");

    // Gives its inputs as it was told them.
    let run: RunFn = Box::new(|_, call| Ok(values(vec![shown(&call.arguments).into()])));
    add(
        catalog,
        schema("Tell").input(Input::link("lazy", "*").optional().lazy()).input(Input::link("raw", "*").raw_link().optional()),
        open(),
        run,
    );
    let run: RunFn = Box::new(|_, call| Ok(values(vec![number(call, "value").into()])));
    add(catalog, schema("Stamped"), Hosted::default(), run);
    let run: RunFn = Box::new(|_, call| Ok(values(vec![call.node.to_string().into()])));
    add(catalog, schema("Unique"), Hosted { unique: true, ..Hosted::default() }, run);
    for class in ["Make", "MakeMany"] {
        let run: RunFn = Box::new(move |host, call| {
            let number = number(call, "value");
            let remote = || Value::object(Remote { host: host.clone(), generation: host.generation.load(SeqCst), number });
            Ok(values(if class == "Make" { vec![remote()] } else { vec![remote(), Value::list(vec![remote()])] }))
        });
        add(catalog, schema(class), Hosted::default(), run);
    }
    let run: RunFn = Box::new(|_, call| {
        let ui = json!({"values": ["a", "b"]}).as_object().cloned();
        let returned = Returned::Values(vec![Arc::new(vec![Value::Null; usize::try_from(number(call, "value")).unwrap()])]);
        Ok(HostedOutput { returned, ui, blocked: vec!["stopped here".into()] })
    });
    add(catalog, schema("Shows"), Hosted::default(), run);
    let run: RunFn = Box::new(|_, call| Ok(expanded(&call.node)));
    add(catalog, schema("Expands"), Hosted::default(), run);
    for class in ["Fails", "FailsAside"] {
        let raised = Raised {
            kind: "torch.OutOfMemoryError".into(),
            message: "no room".into(),
            traceback: vec!["  File \"x.py\"\n".into()],
            inputs: Some(json!({"value": ["<object>"]})),
            out_of_memory: true,
        };
        let run: RunFn = Box::new(move |_, _| Err(Error::Raised(Box::new(raised.clone()))));
        add(catalog, schema(class), Hosted { is_async: class == "FailsAside", ..Hosted::default() }, run);
    }
    // Each waits for the other.
    for class in ["Meets", "MeetsAside"] {
        let run: RunFn = Box::new(|host, _| {
            host.meeting.wait();
            Ok(values(vec![1.into()]))
        });
        add(catalog, schema(class), Hosted { is_async: class == "MeetsAside", ..Hosted::default() }, run);
    }
    for class in ["Waits", "WaitsAside"] {
        let run: RunFn = Box::new(|host, _| {
            let patience = Instant::now() + Duration::from_secs(20);
            while !host.interrupted.load(SeqCst) && Instant::now() < patience {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(Error::Interrupted)
        });
        add(catalog, schema(class), Hosted { is_async: class == "WaitsAside", ..Hosted::default() }, run);
    }
    for class in ["Panics", "Silent"] {
        add(catalog, schema(class), Hosted::default(), Box::new(|_, _| Ok(values(Vec::new()))));
    }
    let run: RunFn = Box::new(|host, call| {
        host.reporter.lock().as_ref().unwrap().progress(&call.node, 1.0, 2.0);
        Ok(values(vec![1.into()]))
    });
    add(catalog, schema("Reports"), Hosted::default(), run);
    let run: RunFn = Box::new(|_, call| Ok(values(vec![number(call, "value").into()])));
    add(catalog, schema("Both"), Hosted::default(), run);
    catalog.insert(Arc::new(BothHere));
    // Expands into the class that both have.
    let run: RunFn = Box::new(|_, call| {
        let id = format!("{}.both", call.node);
        let value = match &call.arguments["value"] {
            Argument::Link { values: Some(values), .. } => Source::Value(values[0].clone()),
            Argument::Link { node, slot, values: None } => Source::Link { node: node.to_string(), slot: *slot },
            Argument::Constant(value) => Source::Value(value.clone()),
        };
        let both =
            ExpansionNode { class_type: "Both".into(), inputs: [("value".to_owned(), value)].into_iter().collect(), display_id: None };
        let expand = Some(Expansion { nodes: [(id.clone(), both)].into_iter().collect() });
        let call = NodeOutput { values: vec![Source::Link { node: id, slot: 0 }], ui: None, expand };
        Ok(HostedOutput { returned: Returned::Calls(vec![call]), ui: None, blocked: Vec::new() })
    });
    add(catalog, schema("IntoBoth"), Hosted::default(), run);
}

/// A class that both processes have: gives its number plus a hundred here.
struct BothHere;

impl Node for BothHere {
    fn schema(&self) -> Schema {
        Schema::new("Both").input(Input::link("value", "INT").optional()).output("INT")
    }

    fn run(&self, _cx: &mut Context<'_>, inputs: Inputs) -> Result<NodeOutput> {
        Ok(NodeOutput::one(inputs.int("value")? + 100))
    }
}

/// Two calls: one gives a value, one a sum of the native class.
fn expanded(node: &str) -> HostedOutput {
    let id = format!("{node}.sum");
    let inputs = [("a", 40i64), ("b", 2)].map(|(name, value)| (name.to_owned(), Source::Value(value.into())));
    let sum = ExpansionNode { class_type: "Add".into(), inputs: inputs.into_iter().collect(), display_id: None };
    let expand = Some(Expansion { nodes: [(id.clone(), sum)].into_iter().collect() });
    let calls = vec![NodeOutput::one(7), NodeOutput { values: vec![Source::Link { node: id, slot: 0 }], ui: None, expand }];
    HostedOutput { returned: Returned::Calls(calls), ui: None, blocked: Vec::new() }
}

fn succeeded(ran: &Ran) {
    assert_eq!(ran.outcome.status, Status::Success, "{:#?}", ran.outcome.messages);
}

#[test]
fn a_node_is_one_call_with_all_that_the_graph_gives_it() {
    let mut hosting = hosting();
    let ran = hosting.run(
        "1:Num value=1\n2:Num value=2\nl:MakeList v1=@1 v2=@2\nt:Tell raw=@1 extra=5 value=@l more=@2.3 lazy=@2 raw2=@1 lazy2=@1\nout:Show value=@t",
    );
    succeeded(&ran);
    let told = "raw=@1.0 extra=5 value=[Number(1), Number(2)] more=@2.3 lazy=@2.0 raw2=@1.0 lazy2=@1.0";
    assert_eq!(*ran.shown("out"), json!([told]), "in the prompt's order, undeclared ones too; raw and lazy links without values");
    assert_eq!(hosting.host.taken(), ["begin prompt 0 Some(\"me\") [\"out\"]", "inspect", "run t", "end"]);
    // Nothing has to run: no process is waited for.
    hosting.run("1:Num value=1\n2:Num value=2\nl:MakeList v1=@1 v2=@2\nt:Tell raw=@1 extra=5 value=@l more=@2.3 lazy=@2 raw2=@1 lazy2=@1\nout:Show value=@t");
    assert_eq!(hosting.host.taken().len(), 0);
}

#[test]
fn answers_become_results_events_and_expansions() {
    let mut hosting = hosting();
    let ran = hosting.run("s:Shows value=2\nout:Show value=@s");
    succeeded(&ran);
    let lines = [
        "start",
        "cached []",
        "executing s shown at s",
        "error \"s\" \"Execution Blocked: stopped here\"",
        "executed s {\"values\":[\"a\",\"b\"]}",
        "executing out shown at out",
        "executed out {\"values\":[null,null]}",
    ];
    assert_eq!(ran.events, lines.join("\n"));
    let ran = hosting.run("e:Expands value=1\nout:Show value=@e");
    succeeded(&ran);
    assert_eq!(*ran.shown("out"), json!([7, 42]));
    assert!(ran.events.contains("executing e.sum shown at e"), "{}", ran.events);
    let ran = hosting.run("s:Shows value=101\nout:Show value=@s");
    assert!(ran.end()["exception_message"].as_str().unwrap().contains("at most 100 are allowed"), "{}", ran.end());
}

#[test]
fn other_nodes_run_beside_calls_that_allow_it() {
    let mut hosting = hosting();
    // Each of the two waits for the other; a native node and one of the host's own that waits for its answer run meanwhile.
    let ran =
        hosting.run("n:Num value=3\na:MeetsAside value=1\nb:MeetsAside value=2\nout:Show value=@a\nout2:Show value=@b\nout3:Show value=@n");
    succeeded(&ran);
    assert_eq!(ran.events.matches("executing a shown").count(), 1, "{}", ran.events);
    let place = |line: &str| ran.events.find(line).unwrap_or_else(|| panic!("no {line} in {}", ran.events));
    assert!(place("executing a ") < place("executing b ") && place("executing b ") < place("executing n "), "{}", ran.events);
    assert_eq!(hosting.host.taken(), ["begin prompt 0 Some(\"me\") [\"out\", \"out2\", \"out3\"]", "run a", "run b", "end"]);
    // An answer that comes while another one is waited for is taken afterwards.
    let ran = hosting.run("a:MeetsAside value=3\nb:Meets value=4\nout:Show value=@a\nout2:Show value=@b");
    succeeded(&ran);
    assert_eq!((ran.shown("out"), ran.shown("out2")), (&json!([1]), &json!([1])));
}

#[test]
fn an_interrupt_is_passed_on_once_and_ends_the_prompt() {
    for text in ["w:Waits value=1\nout:Show value=@w", "w:WaitsAside value=1\nv:WaitsAside value=2\nout:Show value=@w\nout2:Show value=@v"]
    {
        let mut hosting = hosting();
        let (host, cancel) = (hosting.host.clone(), CancellationToken::default());
        let stop = cancel.clone();
        let calls = text.matches("Waits").count();
        let canceller = std::thread::spawn(move || {
            let patience = Instant::now() + Duration::from_secs(20);
            while host.count("run") < calls && Instant::now() < patience {
                std::thread::sleep(Duration::from_millis(1));
            }
            stop.cancel();
        });
        let prompt = prompt(text);
        let outputs = prompt.as_object().unwrap().keys().filter(|id| id.starts_with("out")).cloned().collect();
        let ran = hosting.bench.run_job(&job("p", &prompt, outputs), &cancel);
        canceller.join().unwrap();
        assert_eq!(ran.outcome.status, Status::Interrupted);
        assert!(ran.end()["node_type"].as_str().unwrap().starts_with("Waits"), "{}", ran.end());
        assert_eq!((hosting.host.count("interrupt"), hosting.host.count("end")), (1, 1));
    }
}

#[test]
fn what_a_class_raises_is_told_in_its_own_words() {
    for class in ["Fails", "FailsAside"] {
        let mut hosting = hosting();
        let ran =
            hosting.run(&format!("n:Num value=1\nbad:{class} value=@n\nw:WaitsAside value=1\nout:Show value=@bad\nout2:Show value=@w"));
        // The other one is given up.
        if class == "Fails" {
            hosting.host.interrupted.store(true, SeqCst);
        }
        assert_eq!(ran.outcome.status, Status::Error);
        let end = ran.end();
        assert_eq!((&end["node_id"], &end["node_type"]), (&json!("bad"), &json!(class)));
        assert_eq!(end["exception_type"], "torch.OutOfMemoryError");
        let message = end["exception_message"].as_str().unwrap();
        assert!(message.starts_with("no room\n") && message.len() > 20, "with a tip: {message:?}");
        assert_eq!(end["traceback"], json!(["  File \"x.py\"\n"]));
        assert_eq!(end["current_inputs"], json!({"value": ["<object>"]}));
        let log = hosting.host.taken();
        assert_eq!(log[log.len() - 2..], ["end", "free true false"], "{log:?}");
        hosting.host.interrupted.store(true, SeqCst);
    }
}

#[test]
fn a_host_that_breaks_its_promises_fails_the_prompt_only() {
    let mut hosting = hosting();
    for (class, message) in
        [("Panics", "the node panicked: on purpose\n"), ("Silent", "the node's host gave no answer: run the prompt again\n")]
    {
        let ran = hosting.run(&format!("bad:{class} value=1\nout:Show value=@bad"));
        assert_eq!((&ran.end()["exception_message"], &ran.end()["node_id"]), (&json!(message), &json!("bad")));
        assert_eq!(ran.end()["current_inputs"], json!({"value": [1]}));
    }
    hosting.host.taken();
    hosting.host.cannot_begin.store(true, SeqCst);
    let ran = hosting.run("n:Num value=1\nc:Stamped value=@n\nt:Tell value=@c x=@n\nout:Show value=@n\nout2:Show value=@t");
    assert_eq!((&ran.end()["node_id"], &ran.end()["exception_message"]), (&json!("c"), &json!("the process does not start\n")));
    assert_eq!(*ran.shown("out"), json!([1]));
    assert_eq!((hosting.host.count("begin"), hosting.host.count("end")), (1, 0), "it is asked once, and not told of an end");
    hosting.host.cannot_begin.store(false, SeqCst);
    succeeded(&hosting.run("c:Stamped value=1\nout:Show value=@c"));
}

#[test]
fn lazy_inputs_are_evaluated_when_the_class_asks() {
    let mut hosting = hosting();
    let text = |needs: &str| format!("1:Num value=1\n2:Num value=2\nt:Tell needs={needs} lazy=@1 lazy2=@2 raw=@1\nout:Show value=@t");
    let ran = hosting.run(&text("lazy2,raw"));
    succeeded(&ran);
    assert_eq!(*ran.shown("out"), json!(["needs=\"lazy2,raw\" lazy=@1.0 lazy2=[Number(2)] raw=@1.0"]));
    assert_eq!(hosting.host.count("inspect"), 1, "its links are looked at once");
    let ran = hosting.run(&text("lazy,lazy2"));
    assert_eq!(*ran.shown("out"), json!(["needs=\"lazy,lazy2\" lazy=[Number(1)] lazy2=[Number(2)] raw=@1.0"]));
    let ran = hosting.run(&text("other"));
    assert_eq!(ran.end()["exception_type"], "comfy_execution.graph.NodeInputError", "{}", ran.end());
    let ran = hosting.run("1:Num value=1\nt:Tell trouble=@1\nout:Show value=@t");
    assert_eq!((&ran.end()["node_id"], &ran.end()["exception_message"]), (&json!("t"), &json!("it cannot tell\n")));
}

#[test]
fn objects_are_brought_to_the_nodes_of_this_process() {
    let mut hosting = hosting();
    let ran = hosting.run("r:MakeMany value=4\ns:Same value=@r\nout:Show value=@s\nt:Tell value=@r\nout2:Show value=@t");
    succeeded(&ran);
    assert_eq!(*ran.shown("out"), json!([4, [4]]), "in lists too");
    assert_eq!(*ran.shown("out2"), json!(["value=[String(\"<REMOTE>\"), Array [String(\"<REMOTE>\")]]"]), "the host gets its own");
    assert_eq!(hosting.host.localized.load(SeqCst), 2);
    let ran = hosting.run("r:Make value=-4\ns:Same value=@r\nout:Show value=@s");
    assert_eq!((&ran.end()["node_id"], &ran.end()["exception_message"]), (&json!("s"), &json!("a negative number stays where it is\n")));
}

#[test]
fn a_prompt_whose_value_cannot_cross_is_placed_anew_once() {
    let mut hosting = hosting();
    let ran = hosting.run("r:Make value=4\nb:Both value=@r\nout:Show value=@b");
    assert_eq!(*ran.shown("out"), json!([104]), "this process runs what it can");
    hosting.host.taken();
    let ran = hosting.run("n:Num value=9\nr:Make value=-4\nb:Both value=@r\nout:Show value=@b\nout2:Show value=@n");
    succeeded(&ran);
    assert_eq!(*ran.shown("out"), json!([-4]), "{}", ran.events);
    assert_eq!(*ran.shown("out2"), json!([9]));
    assert_eq!((ran.events.matches("start").count(), ran.events.matches("cached").count()), (1, 1), "{}", ran.events);
    assert_eq!((ran.events.matches("executing r ").count(), ran.events.matches("executing b ").count()), (1, 2), "{}", ran.events);
    assert_eq!((hosting.host.count("begin"), hosting.host.count("end")), (1, 1), "the host is told of one prompt");
    let stay: Vec<_> = hosting.host.taken().into_iter().filter(|line| line.starts_with("stay")).collect();
    assert_eq!(stay, ["stay Make"], "the class that gave the value remembers");
    // An expansion's node is placed by what it is given.
    let ran = hosting.run("x:IntoBoth value=3\nout:Show value=@x");
    assert_eq!(*ran.shown("out"), json!([103]), "{}", ran.events);
    let python = ExecutorOptions { placing: Placing { mode: PlacementMode::Python, ..Placing::default() }, ..ExecutorOptions::default() };
    hosting.bench.executor = executor(&hosting.host, python);
    let ran = hosting.run("r:Make value=4\nb:Both value=@r\nx:IntoBoth value=3\nout:Show value=@b\nout2:Show value=@x");
    assert_eq!((ran.shown("out"), ran.shown("out2")), (&json!([4]), &json!([3])), "{}", ran.events);
}

#[test]
fn results_of_a_process_that_ended_and_of_other_code_are_not_used_again() {
    let mut hosting = hosting();
    let text = "r:Make value=4\nt:Tell value=@r\nout:Show value=@t";
    assert!(hosting.run(text).ran("r"));
    assert!(hosting.bench.executor.cache_usage().1 > 1_000, "sizes count");
    assert!(!hosting.run(text).ran("r"));
    hosting.host.generation.fetch_add(1, SeqCst);
    let ran = hosting.run("r:Make value=4\nt:Tell value=@r extra=1\nout:Show value=@t");
    assert!(ran.ran("r"), "{}", ran.events);
    assert!(!hosting.run("r:Make value=4\nt:Tell value=@r extra=1\nout:Show value=@t").ran("r"));
    hosting.host.version.fetch_add(1, SeqCst);
    assert!(hosting.run(text).ran("r"));

    let ran = hosting.run("a:Unique value=1\nb:Unique value=1\nout:Show value=@a\nout2:Show value=@b");
    assert_eq!((ran.shown("out"), ran.shown("out2")), (&json!(["a"]), &json!(["b"])));
    hosting.host.taken();
    let mut runs = |stamp: &str| hosting.run(&format!("n:Num value=1\nc:Stamped value=@n stamp={stamp}\nout:Show value=@c")).ran("c");
    assert_eq!(["x", "x", "y", "fail", "fail"].map(&mut runs), [true, false, true, true, true]);
    assert_eq!(hosting.host.taken()[1], "fingerprint value=@n.0 stamp=\"x\"", "constants only");
}

#[test]
fn reports_reach_the_client_while_the_prompt_runs() {
    let mut hosting = hosting();
    let ran = hosting.run("r:Reports value=1\nout:Show value=@r");
    assert!(ran.events.contains("progress r 1/2"), "{}", ran.events);
    hosting.host.reporter.lock().as_ref().unwrap().progress("r", 2.0, 2.0);
    assert_eq!(common::lines(&ran.sink), "", "what comes later is dropped");
}

#[test]
fn before_each_node_it_is_said_where_it_runs() {
    let mut hosting = hosting();
    let said = Arc::new(Mutex::new(Vec::new()));
    let noted = said.clone();
    let before = move |entry: &Entry| {
        let place = entry.host().map_or("here".to_owned(), |host| host.name().to_owned());
        noted.lock().push(format!("{} {place}", entry.schema.class));
    };
    hosting.bench.executor = executor(&hosting.host, ExecutorOptions::default()).with_before(Arc::new(before));
    let graph = "r:Make value=4\nb:Both value=@r\nout:Show value=@b";
    succeeded(&hosting.run(graph));
    let place = hosting.host.name();
    assert_eq!(std::mem::take(&mut *said.lock()), [format!("Make {place}"), "Both here".into(), "Show here".into()]);
    hosting.run(graph);
    assert_eq!(*said.lock(), Vec::<String>::new(), "nothing runs that is cached");
}

#[test]
fn what_a_node_shows_can_be_added_to_before_anybody_is_told() {
    let mut hosting = hosting();
    let showing = |prompt: &str, shown: &mut Map<String, Json>| {
        shown.insert("of".to_owned(), json!([prompt]));
        Ok(())
    };
    hosting.bench.executor = executor(&hosting.host, ExecutorOptions::default()).with_showing(Arc::new(showing));
    let ran = hosting.run("r:Make value=4\nout:Show value=@r");
    succeeded(&ran);
    assert!(ran.events.contains("\"of\":"), "{}", ran.events);
    assert!(ran.outcome.outputs["out"]["of"][0].is_string());
}

#[test]
fn who_interrupts_a_prompt_that_waits_for_its_classes_is_not_told_that_there_are_none() {
    let mut hosting = hosting();
    hosting.bench.executor = executor(&hosting.host, ExecutorOptions::default()).with_learning(Arc::new(CancellationToken::cancel));
    let ran = hosting.run("r:Unheard value=4\nout:Show value=@r");
    assert_eq!(ran.outcome.status, Status::Interrupted, "{}", ran.events);
    // Where nobody interrupts it, it is.
    hosting.bench.executor = executor(&hosting.host, ExecutorOptions::default()).with_learning(Arc::new(|_| ()));
    assert_eq!(hosting.run("r:Unheard value=4\nout:Show value=@r").outcome.status, Status::Error);
}

#[test]
fn what_is_to_be_done_when_a_prompt_arrives_is_done_first_and_may_fail_it() {
    let mut hosting = hosting();
    let arriving = |prompt: &serde_json::Value| match prompt["r"]["inputs"]["value"] == 4 {
        true => Ok(()),
        false => Err(comfyd_node::Error::msg("a file cannot be had")),
    };
    hosting.bench.executor = executor(&hosting.host, ExecutorOptions::default()).with_arriving(Arc::new(arriving));
    succeeded(&hosting.run("r:Make value=4\nout:Show value=@r"));
    let refused = hosting.run("r:Make value=5\nout:Show value=@r");
    let told = format!("{:?}", refused.outcome.messages.last());
    assert!(refused.outcome.status == Status::Error && told.contains("a file cannot be had"), "{told}");
    assert!(!refused.events.contains("executing"), "nothing of it ran");
}

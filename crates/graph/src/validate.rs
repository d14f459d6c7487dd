//! Checks a prompt against the catalog and tells everything that is wrong with it.
//!
//! The walk is the reference's: from each output upwards through the links, each node once, in the same order of checks, so that the
//! errors are the same. It keeps its own stack: a chain of links may be as long as the prompt.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use comfyd_node::{Argument, Arguments, Catalog, Code, Entry, Generation, HostedNode, Input, Inputs, Node, OptionSource, Schema, Value};
use indexmap::IndexMap;
use serde_json::{Map, Value as Json};

use crate::check::OutputType;
use crate::dynamic::finalized;
use crate::place::place;
use crate::placement::{Placement, Placing};
use crate::prompt::{Prompt, as_link, unwrapped};
use crate::report::{Exception, NodeErrors, NodeReport, Problem, PromptProblem, Rejected, Unchecked, Wanted};
use crate::{check, python};

/// Links that are followed to tell which outputs depend on a broken node; beyond, `dependent_outputs` may be incomplete.
const DEPENDENT_STEPS_MAX: usize = 2_000_000;

/// A prompt of which at least one output can run.
#[derive(Debug, Clone, PartialEq)]
pub struct Validated {
    /// The output nodes to run, ordered by class name, then as in the prompt.
    pub outputs: Vec<String>,
    /// What is wrong with the outputs that are left out, node by node.
    pub node_errors: NodeErrors,
    /// The prompt with its widget values converted to the types that the classes declare.
    pub prompt: Prompt,
    /// Whether any value was another before.
    pub converted: bool,
}

/// Checks the outputs of a prompt (with `partial_targets`, only those named there) and all nodes that they use.
///
/// Outputs that pass are given back to be run, with the errors of the others beside them. Where the reference's order hangs on the
/// order of a Python set, it is fixed here: inputs are checked in descending order of their names, and outputs run ordered by their
/// class, then as in the prompt (this is what the recorded scenarios show).
pub fn validate(
    catalog: &Catalog,
    options: &dyn OptionSource,
    prompt: Prompt,
    partial_targets: Option<&[String]>,
    placing: &Placing,
) -> Result<Validated, Rejected> {
    let outputs = outputs(catalog, &prompt, partial_targets)?;
    if outputs.is_empty() {
        return Err(PromptProblem::NoOutputs.into());
    }
    let all = outputs.len();
    let (checked, open) = (IndexMap::new(), HashSet::new());
    // What cannot be placed is told after what is wrong in itself.
    let placed = place(catalog, prompt.nodes(), &outputs, placing, Some(options));
    let placement = placed.as_ref().cloned().unwrap_or_default();
    let mut walk = Walk { catalog, options, placement, prompt, converted: false, checked, frames: Vec::new(), open };
    let mut good = Vec::new();
    let mut bad = Vec::new();
    for output in outputs {
        if walk.check(&output)? {
            good.push(output);
        } else {
            bad.push(output);
        }
    }
    let node_errors = walk.node_errors(&bad);
    if good.is_empty() {
        let mut lines = Vec::new();
        for problem in bad.iter().filter_map(|o| walk.checked.get(o)).flatten().flatten() {
            lines.push(format!("{}: {}", problem.message(), problem.details()));
        }
        return Err(Rejected { error: PromptProblem::OutputsFailed { details: lines.join("\n") }, node_errors });
    }
    let placed = if good.len() == all { placed } else { place(catalog, walk.prompt.nodes(), &good, placing, Some(options)) };
    if let Err(unplaceable) = placed {
        return Err(PromptProblem::Unplaceable(unplaceable).into());
    }
    Ok(Validated { outputs: good, node_errors, prompt: walk.prompt, converted: walk.converted })
}

/// The output nodes asked for. Fails if any node of the prompt has no class, or one that does not exist.
fn outputs(catalog: &Catalog, prompt: &Prompt, partial_targets: Option<&[String]>) -> Result<Vec<String>, PromptProblem> {
    let targets: Option<HashSet<&str>> = partial_targets.map(|t| t.iter().map(String::as_str).collect());
    let mut outputs: Vec<(&str, &str)> = Vec::new();
    for (id, node) in prompt.nodes() {
        let title = || node.get("_meta")?.get("title")?.as_str().map(str::to_owned);
        let Some(class) = node.get("class_type") else {
            return Err(PromptProblem::MissingClass { node: id.as_str().into(), title: title().map(Box::from) });
        };
        let Some(entry) = class.as_str().and_then(|c| catalog.get(c)) else {
            let wanted = Wanted { class: python::str(class), title: title() };
            return Err(PromptProblem::UnknownClass { node: id.as_str().into(), wanted: wanted.into() });
        };
        if entry.schema.output_node && targets.as_ref().is_none_or(|t| t.contains(id.as_str())) {
            outputs.push((&entry.schema.class, id));
        }
    }
    outputs.sort_by_key(|(class, _)| *class);
    Ok(outputs.into_iter().map(|(_, id)| id.to_owned()).collect())
}

/// What a node's check gave. `None`: the node and everything above it is sound. Otherwise its own problems, which are none if only a
/// node above is broken.
type Finding = Option<Vec<Problem>>;

struct Walk<'a> {
    catalog: &'a Catalog,
    options: &'a dyn OptionSource,
    placement: Placement,
    prompt: Prompt,
    converted: bool,
    checked: IndexMap<String, Finding>,
    /// The nodes being checked, each linked to by the one before.
    frames: Vec<Frame>,
    /// Their ids.
    open: HashSet<String>,
}

/// A node being checked.
struct Frame {
    id: String,
    entry: Entry,
    /// Its inputs still to be checked, in reverse.
    todo: Vec<Todo>,
    /// The link that is being followed.
    following: Option<Todo>,
    /// The types of linked inputs.
    types: Map<String, Json>,
    problems: Vec<Problem>,
    /// Whether all nodes above that were checked are sound.
    sound: bool,
}

#[derive(Clone)]
enum Todo {
    /// An input that the class declares, by its place in the schema.
    Declared(usize),
    /// A link under a name that the class does not declare: the node gets it all the same.
    Undeclared(String),
}

enum Step {
    /// A link leads to a node that was not checked yet.
    Descend(String),
    /// The node is checked.
    Done,
    /// The node cannot be checked.
    Thrown(Exception),
    /// Whoever checks the node cannot be reached: why.
    Unreachable(String),
}

impl Walk<'_> {
    /// Checks a node and all above it; whether all are sound. Fails where one can be checked by nobody now.
    fn check(&mut self, id: &str) -> Result<bool, PromptProblem> {
        if let Some(finding) = self.checked.get(id) {
            return Ok(finding.is_none());
        }
        self.enter(id.to_owned());
        while let Some(mut frame) = self.frames.pop() {
            match self.step(&mut frame) {
                Step::Descend(next) => {
                    self.frames.push(frame);
                    self.enter(next);
                }
                Step::Done => {
                    // The circles that it is in stand before what else is wrong with it.
                    let mut problems = self.checked.get_mut(&frame.id).and_then(Option::take).unwrap_or_default();
                    problems.extend(frame.problems);
                    let finding = if frame.sound && problems.is_empty() { None } else { Some(problems) };
                    self.leave(frame.id, finding);
                }
                Step::Unreachable(reason) => {
                    let class = frame.entry.schema.class.clone();
                    return Err(PromptProblem::Unchecked(Box::new(Unchecked { node: frame.id, class, reason })));
                }
                Step::Thrown(exception) => {
                    let problem = self.thrown(exception);
                    self.leave(frame.id, Some(vec![problem]));
                }
            }
        }
        Ok(self.checked.get(id).is_some_and(Option::is_none))
    }

    fn enter(&mut self, id: String) {
        // Only ids of the prompt whose class is in the catalog get here.
        let Some(entry) = self.prompt.class_type(&id).and_then(|c| self.catalog.get(c)) else { return };
        let inputs = self.prompt.inputs(&id);
        let entry = inputs.map_or_else(|| entry.clone(), |inputs| finalized(entry, inputs));
        let schema = &entry.schema;
        let mut names: Vec<usize> = (0..schema.inputs.len()).collect();
        names.sort_by(|a, b| schema.inputs[*b].name.cmp(&schema.inputs[*a].name));
        let mut todo: Vec<Todo> = names.into_iter().map(Todo::Declared).collect();
        for (name, value) in inputs.into_iter().flatten() {
            if as_link(value).is_some() && schema.find_input(name).is_none() {
                todo.push(Todo::Undeclared(name.clone()));
            }
        }
        todo.reverse();
        self.open.insert(id.clone());
        self.frames.push(Frame { id, entry, todo, following: None, types: Map::new(), problems: Vec::new(), sound: true });
    }

    fn leave(&mut self, id: String, finding: Finding) {
        self.open.remove(&id);
        if let (Some(_), Some(parent)) = (&finding, self.frames.last_mut()) {
            parent.sound = false;
        }
        self.checked.insert(id, finding);
    }

    /// An exception is told with the input that was being followed, or as the output's own.
    fn thrown(&self, exception: Exception) -> Problem {
        let Some(parent) = self.frames.last() else { return Problem::Exception { exception } };
        let (input, config) = match &parent.following {
            Some(Todo::Declared(index)) => {
                let input = &parent.entry.schema.inputs[*index];
                (input.name.clone(), check::config(&parent.entry.schema, input, self.options))
            }
            Some(Todo::Undeclared(name)) => (name.clone(), Json::Null),
            None => (String::new(), Json::Null),
        };
        let link = self.prompt.inputs(&parent.id).and_then(|i| i.get(&input)).cloned().unwrap_or_default();
        Problem::InnerException { input, config, link, exception }
    }

    /// Goes on with a node's inputs until a link must be followed.
    fn step(&mut self, frame: &mut Frame) -> Step {
        while let Some(todo) = frame.todo.pop() {
            let followed = match &todo {
                Todo::Declared(index) => self.declared(frame, *index),
                Todo::Undeclared(name) => self.undeclared(frame, name),
            };
            match followed {
                Ok(None) => {}
                Ok(Some(next)) => {
                    frame.following = Some(todo);
                    return Step::Descend(next);
                }
                Err(exception) => return Step::Thrown(exception),
            }
        }
        match self.custom(frame) {
            Ok(()) => Step::Done,
            Err(step) => step,
        }
    }

    /// Checks one declared input; the node to check next if it links to one.
    fn declared(&mut self, frame: &mut Frame, index: usize) -> Result<Option<String>, Exception> {
        let schema = frame.entry.schema.clone();
        let input = &schema.inputs[index];
        let Some(value) = self.prompt.inputs(&frame.id).and_then(|i| i.get(&input.name)) else {
            if input.required {
                let last = input.name.rsplit('.').next().filter(|_| schema.generation == Generation::Schema);
                let shown = last.unwrap_or(&input.name).to_owned();
                frame.problems.push(Problem::RequiredInputMissing { input: input.name.clone(), shown });
            }
            return Ok(None);
        };
        let Json::Array(parts) = value else {
            let (converted, problem) = check::constant(&schema, input, value, self.options);
            if let Some(converted) = converted {
                self.converted |= self.prompt.set_input(&frame.id, &input.name, converted);
            }
            frame.problems.extend(problem);
            return Ok(None);
        };
        let [target, slot] = parts.as_slice() else {
            let (config, received) = (check::config(&schema, input, self.options), value.clone());
            frame.problems.push(Problem::BadLinkedInput { input: input.name.clone(), config, received });
            return Ok(None);
        };
        let (target, received) = self.output_type(target, slot)?;
        let own_check = schema.hosted.as_ref().is_some_and(|hosted| hosted.validates_types);
        if schema.hosted.is_some() {
            frame.types.insert(input.name.clone(), received.to_json());
        }
        if !own_check && !check::accepts(&received, input, schema.generation) {
            let input_type = match input.choices(self.options) {
                Some(choices) if schema.generation == Generation::Classic => python::repr_list(&choices),
                Some(_) | None => input.type_name().to_owned(),
            };
            let (config, link) = (check::config(&schema, input, self.options), value.clone());
            let (input, received_type) = (input.name.clone(), received.shown());
            frame.problems.push(Problem::ReturnTypeMismatch { input, config, received_type, input_type, link });
            return Ok(None);
        }
        let target = target.to_owned();
        Ok(self.follow(frame, target))
    }

    fn undeclared(&mut self, frame: &mut Frame, name: &str) -> Result<Option<String>, Exception> {
        let Some(value) = self.prompt.inputs(&frame.id).and_then(|i| i.get(name)) else { return Ok(None) };
        let Some((target, _)) = as_link(value) else { return Ok(None) };
        if !self.prompt.nodes().contains_key(target) {
            return Err(Exception::new("KeyError", python::repr_text(target)));
        }
        let target = target.to_owned();
        Ok(self.follow(frame, target))
    }

    /// The node that a link leads to and the type of the slot; the exceptions are those of Python's indexing.
    fn output_type<'p>(&'p self, target: &'p Json, slot: &Json) -> Result<(&'p str, OutputType), Exception> {
        let missing = || match target {
            Json::Array(_) | Json::Object(_) => Exception::new("TypeError", format!("unhashable type: '{}'", python::type_name(target))),
            Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => Exception::new("KeyError", python::repr(target)),
        };
        let id = target.as_str().ok_or_else(missing)?;
        let entry = self.prompt.class_type(id).and_then(|c| self.catalog.get(c)).ok_or_else(missing)?;
        if !(slot.is_i64() || slot.is_u64()) {
            let text = format!("tuple indices must be integers or slices, not {}", python::type_name(slot));
            return Err(Exception::new("TypeError", text));
        }
        let output = slot.as_u64().and_then(|s| usize::try_from(s).ok()).and_then(|s| OutputType::of(&entry.schema, s));
        match output {
            Some(output) => Ok((id, output)),
            None => Err(Exception::new("IndexError", "tuple index out of range")),
        }
    }

    fn follow(&mut self, frame: &mut Frame, target: String) -> Option<String> {
        if let Some(finding) = self.checked.get(&target) {
            frame.sound &= finding.is_none();
            return None;
        }
        if target == frame.id || self.open.contains(&target) {
            self.circle(frame, &target);
            return None;
        }
        Some(target)
    }

    /// Notes a circle at all nodes that are in it: from the open one that is linked to again to the one that does so.
    fn circle(&mut self, frame: &mut Frame, start: &str) {
        let at = self.frames.iter().position(|f| f.id == start).unwrap_or(self.frames.len());
        let named = |f: &Frame| (f.id.clone(), f.entry.schema.class.clone());
        let circle: Arc<[_]> = self.frames[at..].iter().map(named).chain([named(frame)]).collect();
        frame.sound = false;
        for (node, _) in circle.iter() {
            let problem = Problem::DependencyCycle { node: node.clone(), circle: circle.clone() };
            self.checked.insert(node.clone(), Some(vec![problem]));
        }
    }

    /// The class's own check, where the node is to run.
    fn custom(&self, frame: &mut Frame) -> Result<(), Step> {
        let Some(sent) = self.prompt.inputs(&frame.id) else { return Ok(()) };
        let entry = finalized(self.placement.entry(self.catalog, &frame.id, &frame.entry.schema.class).unwrap_or(&frame.entry), sent);
        match &entry.code {
            Code::Native(node) => native_check(&**node, &entry.schema, sent, &mut frame.problems).map_err(Step::Thrown),
            Code::Hosted(node) if entry.schema.hosted.as_ref().is_some_and(|h| h.validates) => {
                hosted_check(&**node, &entry.schema, sent, frame)
            }
            Code::Hosted(_) => Ok(()),
        }
    }

    fn node_errors(&self, bad: &[String]) -> NodeErrors {
        let mut nodes = IndexMap::new();
        for (id, finding) in &self.checked {
            if let Some(problems) = finding.as_ref().filter(|p| !p.is_empty()) {
                let class_type = self.prompt.class_type(id).unwrap_or_default().to_owned();
                nodes.insert(id.clone(), NodeReport { problems: problems.clone(), dependent_outputs: Vec::new(), class_type });
            }
        }
        let mut steps = DEPENDENT_STEPS_MAX;
        for output in bad {
            for id in self.above(output, &mut steps) {
                if let Some(report) = nodes.get_mut(id) {
                    report.dependent_outputs.push(output.clone());
                }
            }
        }
        NodeErrors { nodes }
    }

    /// A node and all that it uses.
    fn above<'p>(&'p self, id: &'p str, steps: &mut usize) -> HashSet<&'p str> {
        let mut seen = HashSet::from([id]);
        let mut todo = vec![id];
        while let Some(id) = todo.pop() {
            for (target, _) in self.prompt.inputs(id).into_iter().flatten().filter_map(|(_, v)| as_link(v)) {
                if *steps == 0 {
                    return seen;
                }
                *steps -= 1;
                if seen.insert(target) {
                    todo.push(target);
                }
            }
        }
        seen
    }
}

/// A refusal is told for every input that the check is about.
fn native_check(node: &dyn Node, schema: &Schema, sent: &Map<String, Json>, problems: &mut Vec<Problem>) -> Result<(), Exception> {
    let inputs = constants(schema.inputs.iter(), sent);
    // A node's panic must not reach the server.
    let Ok(checked) = catch_unwind(AssertUnwindSafe(|| node.validate(&inputs))) else { return Err(panicked(schema)) };
    let Err(reason) = checked else { return Ok(()) };
    let mut names: Vec<&str> = sent.keys().map(String::as_str).filter(|n| schema.validates.iter().any(|v| v == n)).collect();
    if schema.validates.is_empty() {
        names.push(inputs.iter().next().map_or("", |(name, _)| name));
    }
    for name in names {
        problems.push(Problem::CustomValidationFailed { input: name.to_owned(), reason: Some(reason.clone()) });
    }
    Ok(())
}

fn hosted_check(node: &dyn HostedNode, schema: &Schema, sent: &Map<String, Json>, frame: &mut Frame) -> Result<(), Step> {
    let arguments = arguments(schema, sent);
    let check = || node.validate(&frame.id, &arguments, &frame.types);
    let checked = catch_unwind(AssertUnwindSafe(check)).map_err(|_| Step::Thrown(panicked(schema)))?;
    let refusals = checked.map_err(|error| match error {
        comfyd_node::Error::Unreachable(reason) => Step::Unreachable(reason),
        error => Step::Thrown(error.into()),
    })?;
    for refusal in refusals {
        frame.problems.push(Problem::CustomValidationFailed { input: refusal.input, reason: refusal.reason });
    }
    Ok(())
}

fn panicked(schema: &Schema) -> Exception {
    Exception::new("RuntimeError", format!("the validation of class '{}' panicked", schema.class))
}

/// The inputs of a hosted class: constants, and links without values.
fn arguments(schema: &Schema, sent: &Map<String, Json>) -> Arguments {
    let argument = |name: &str, value: &Json| match (as_link(value), schema.find_input(name)) {
        (Some((node, slot)), _) => Argument::Link { node: node.into(), slot, values: None },
        (None, Some(input)) => Argument::Constant(python::value(Some(&input.kind), unwrapped(value))),
        (None, None) => Argument::Constant(Value::from(value)),
    };
    sent.iter().map(|(name, value)| (name.as_str().into(), argument(name, value))).collect()
}

/// The constants among the values sent for declared inputs, in the order of the declaration.
fn constants<'i>(declared: impl Iterator<Item = &'i Input>, sent: &Map<String, Json>) -> Inputs {
    let mut inputs = Inputs::default();
    for input in declared {
        if let Some(value) = sent.get(&input.name).filter(|v| as_link(v).is_none()) {
            inputs.insert(input.name.as_str(), python::value(Some(&input.kind), unwrapped(value)));
        }
    }
    inputs
}

#[cfg(test)]
mod tests;

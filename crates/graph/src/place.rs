//! Decides in which process each node runs, by what is linked: what cannot leave the process that made it joins the nodes at both ends of its
//! link, and joined nodes run in one process. Knows classes by their declarations, and files by their lists.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use comfyd_node::{
    Catalog, Code, Entry, Expansion, Input, InputKind, Inputs, MATCH_TYPE, OptionSource, Schema, Source, StaticOptions, Value,
};
use serde_json::{Map, Value as Json};

use crate::check::{self, OutputType};
use crate::dynamic::{finalized, is_dynamic};
use crate::graph::{Graph, NodeIndex};
use crate::placement::{Placement, PlacementMode, Placing};
use crate::prompt::{as_link, unwrapped};
use crate::python;
use crate::report::Unplaceable;

/// Types whose values have a form that every process reads.
const PORTABLE: [&str; 9] = ["IMAGE", "MASK", "LATENT", "SIGMAS", "INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"];
/// Processes that are told apart, this one included; classes of further ones are not used.
const HOSTS_MAX: usize = 64;
/// The name of the process that runs what no other is named for.
const DEFAULT_HOST: &str = "default";

/// Places the nodes that `outputs` need. Pure but for what native classes say of their constants, where another process has the class too.
/// Without `files`, choices among files count as right.
pub fn place(
    catalog: &Catalog,
    nodes: &Map<String, Json>,
    outputs: &[String],
    placing: &Placing,
    files: Option<&dyn OptionSource>,
) -> Result<Placement, Box<Unplaceable>> {
    if !catalog.has_hosted() {
        return Ok(Placement::default());
    }
    let needed = needed(nodes, outputs);
    let mut items = Vec::with_capacity(needed.len());
    for (id, node) in nodes.iter().filter(|(id, _)| needed.contains(id.as_str())) {
        let class = node.get("class_type").and_then(Json::as_str).unwrap_or_default();
        let mut item = Item { id, entries: catalog.all(class), gets: Vec::new(), slots: Vec::new(), placed: false };
        for (name, value) in node.get("inputs").and_then(Json::as_object).into_iter().flatten() {
            let given = match as_link(value) {
                Some((node, slot)) => Given::Link { node, slot },
                None => Given::Constant(Cow::Borrowed(value)),
            };
            item.gets.push((name, given));
        }
        items.push(item);
    }
    Placer::new(items, placing, files).place(&[])
}

/// Places the nodes of an expansion of `parent`, which gives `values`; what is placed already stays where it is.
pub fn place_expansion(
    catalog: &Catalog,
    graph: &Graph,
    parent: NodeIndex,
    expansion: &Expansion,
    values: &[Source],
    placing: &Placing,
    files: Option<&dyn OptionSource>,
) -> Result<Placement, Box<Unplaceable>> {
    if !catalog.has_hosted() {
        return Ok(Placement::default());
    }
    let mut items = Vec::with_capacity(expansion.nodes.len() + 1);
    for (id, node) in &expansion.nodes {
        let mut item = Item { id, entries: catalog.all(&node.class_type), gets: Vec::new(), slots: Vec::new(), placed: false };
        for (name, source) in &node.inputs {
            let given = match source {
                Source::Link { node, slot } => Given::Link { node, slot: *slot },
                Source::Value(value) if is_object(value) => Given::Object(value),
                Source::Value(value) => Given::Constant(Cow::Owned(value.to_json())),
            };
            item.gets.push((name, given));
        }
        items.push(item);
    }
    let links = expansion.nodes.values().flat_map(|node| node.inputs.values()).chain(values);
    let linked = links.filter_map(|source| if let Source::Link { node, .. } = source { graph.find(node) } else { None });
    let mut seen = HashSet::new();
    for index in linked.chain([parent]).filter(|index| seen.insert(*index)) {
        let node = graph.node(index);
        let entries = std::slice::from_ref(&node.entry);
        items.push(Item { id: &node.id, entries, gets: Vec::new(), slots: Vec::new(), placed: true });
    }
    let parent = &graph.node(parent);
    let given = values.iter().enumerate().filter_map(|(slot, source)| match source {
        Source::Link { node, slot: from } => {
            Some(Passed { node, slot: *from, to: &parent.id, ty: OutputType::of(&parent.entry.schema, slot)? })
        }
        Source::Value(_) => None,
    });
    Placer::new(items, placing, files).place(&given.collect::<Vec<_>>())
}

/// The nodes that outputs need.
fn needed<'p>(nodes: &'p Map<String, Json>, outputs: &'p [String]) -> HashSet<&'p str> {
    let mut needed: HashSet<&str> = outputs.iter().map(String::as_str).collect();
    let mut todo: Vec<&str> = needed.iter().copied().collect();
    while let Some(id) = todo.pop() {
        let inputs = nodes.get(id).and_then(|node| node.get("inputs")).and_then(Json::as_object);
        for (target, _) in inputs.into_iter().flatten().filter_map(|(_, value)| as_link(value)) {
            if needed.insert(target) {
                todo.push(target);
            }
        }
    }
    needed
}

fn is_object(value: &Value) -> bool {
    match value {
        Value::Object(_) => true,
        Value::List(values) => values.iter().any(is_object),
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) | Value::Json(_) | Value::Blocker(_) => false,
    }
}

/// Where an object lies; `None` inside for this process.
fn lies_in(value: &Value) -> Option<Option<&str>> {
    match value {
        Value::Object(object) => Some(object.host()),
        Value::List(values) => values.iter().find_map(lies_in),
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) | Value::Json(_) | Value::Blocker(_) => None,
    }
}

fn is_portable(ty: &str) -> bool {
    ty.split(',').all(|member| PORTABLE.contains(&member.trim()))
}

/// Whether an output gives numbers or texts.
fn is_plain(output: &OutputType) -> bool {
    match output {
        OutputType::Choices(_) => true,
        OutputType::Named(ty) => ["INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"].contains(&ty.as_str()),
    }
}

/// Whether what an output gives an input cannot leave the process that made it.
fn is_opaque(output: &OutputType, input: Option<&str>) -> bool {
    match output {
        OutputType::Choices(_) => false,
        OutputType::Named(ty) if ty == "*" || ty == MATCH_TYPE => !input.is_some_and(is_portable),
        OutputType::Named(ty) => !is_portable(ty),
    }
}

/// A node to be placed, or one beside these that was.
struct Item<'a> {
    id: &'a str,
    /// What it may use; the first is what clients are told of.
    entries: &'a [Entry],
    gets: Vec<(&'a str, Given<'a>)>,
    /// The outputs that are linked to.
    slots: Vec<usize>,
    placed: bool,
}

impl Item<'_> {
    /// Which inputs it has, and the constants among them.
    fn constants(&self) -> Map<String, Json> {
        let value = |given: &Given<'_>| match given {
            Given::Constant(value) => value.clone().into_owned(),
            Given::Link { .. } | Given::Object(_) => Json::Null,
        };
        self.gets.iter().map(|(name, given)| ((*name).to_owned(), value(given))).collect()
    }
}

enum Given<'a> {
    Link { node: &'a str, slot: usize },
    Constant(Cow<'a, Json>),
    Object(&'a Value),
}

/// An output of an expansion's node that becomes one of the node that expanded.
struct Passed<'a> {
    node: &'a str,
    slot: usize,
    to: &'a str,
    ty: OutputType,
}

struct Placer<'a> {
    items: Vec<Item<'a>>,
    places: HashMap<&'a str, usize>,
    placing: &'a Placing,
    files: Option<&'a dyn OptionSource>,
    /// This process, which has no name, then the others, the default one first.
    hosts: Vec<String>,
    /// Item → the item that it is joined to, or itself.
    joined: Vec<usize>,
    /// Of items that are joined to none: the hosts that can run all that is joined to them, as bits.
    able: Vec<u64>,
    /// Item → why this process cannot run it, although it has the class.
    misfits: Vec<Option<String>>,
}

impl<'a> Placer<'a> {
    fn new(items: Vec<Item<'a>>, placing: &'a Placing, files: Option<&'a dyn OptionSource>) -> Self {
        let mut hosts: Vec<String> = items.iter().flat_map(|item| item.entries).filter_map(|e| Some(e.host()?.name().to_owned())).collect();
        hosts.sort_by_key(|name| (name != DEFAULT_HOST, name.clone()));
        hosts.dedup();
        hosts.insert(0, String::new());
        hosts.truncate(HOSTS_MAX);
        let places = items.iter().enumerate().map(|(place, item)| (item.id, place)).collect();
        let joined = (0..items.len()).collect();
        let (able, misfits) = (vec![0; items.len()], vec![None; items.len()]);
        Self { items, places, placing, files, hosts, joined, able, misfits }
    }

    fn place(mut self, passed: &[Passed<'_>]) -> Result<Placement, Box<Unplaceable>> {
        self.note_slots(passed);
        for item in 0..self.items.len() {
            self.able[item] = self.able(item);
        }
        for item in 0..self.items.len() {
            self.join_inputs(item)?;
        }
        for Passed { node, slot, to, ty } in passed {
            let (Some(&from), Some(&to)) = (self.places.get(node), self.places.get(to)) else { continue };
            if let Some(output) = self.output(from, *slot)
                && is_opaque(&output, Some(&ty.shown()))
            {
                self.join(from, to, &output.shown())?;
            }
        }
        for item in 0..self.items.len() {
            if self.items[item].entries.iter().any(|e| e.schema.hosted.as_ref().is_some_and(|h| h.introspects)) {
                self.join_above(item)?;
            }
        }
        let mut placement = Placement::default();
        let chosen = self.choose();
        for (item, host) in chosen.into_iter().enumerate() {
            let Item { id, entries, placed: false, .. } = &self.items[item] else { continue };
            placement.set(id, entries.iter().position(|entry| self.host(entry) == Some(host)).unwrap_or(0));
        }
        Ok(placement)
    }

    fn note_slots(&mut self, passed: &[Passed<'_>]) {
        let mut used: Vec<(usize, usize)> = Vec::new();
        for (_, given) in self.items.iter().flat_map(|item| &item.gets) {
            if let Given::Link { node, slot } = given {
                used.extend(self.places.get(node).map(|&item| (item, *slot)));
            }
        }
        used.extend(passed.iter().filter_map(|p| Some((*self.places.get(p.node)?, p.slot))));
        for (item, slot) in used {
            if !self.items[item].slots.contains(&slot) {
                self.items[item].slots.push(slot);
            }
        }
    }

    /// The place of an implementation's host among the hosts.
    fn host(&self, entry: &Entry) -> Option<usize> {
        match &entry.code {
            Code::Native(_) => Some(0),
            Code::Hosted(node) => {
                let host = node.host();
                self.hosts.iter().position(|name| name == host.name())
            }
        }
    }

    fn bit(&self, entry: &Entry) -> u64 {
        self.host(entry).map_or(0, |host| 1 << host)
    }

    /// The type of an output, as clients are told it.
    fn output(&self, item: usize, slot: usize) -> Option<OutputType> {
        OutputType::of(&self.items[item].entries.first()?.schema, slot)
    }

    /// The hosts that can run a node by itself.
    fn able(&mut self, place: usize) -> u64 {
        let item = &self.items[place];
        let several = item.entries.len() > 1;
        let mut able = 0;
        let mut misfit = None;
        for (at, entry) in item.entries.iter().enumerate() {
            let wrong = match &entry.code {
                Code::Native(_) if several => self.misfit(item, entry),
                // What clients are told of is what the prompt was checked against.
                Code::Hosted(_) if at > 0 => self.slots_differ(item, &entry.schema),
                Code::Native(_) | Code::Hosted(_) => None,
            };
            match wrong {
                None => able |= self.bit(entry),
                Some(reason) if entry.native().is_some() => misfit = Some(reason),
                Some(_) => {}
            }
        }
        self.misfits[place] = misfit;
        able
    }

    fn slots_differ(&self, item: &Item<'_>, schema: &Schema) -> Option<String> {
        let told = item.entries.first().map(|entry| &entry.schema)?;
        let one = |schema: &Schema, slot: usize| schema.outputs.get(slot).map(|output| (output.ty.clone(), output.is_list));
        let slot = item.slots.iter().find(|slot| one(told, **slot) != one(schema, **slot))?;
        Some(format!("its output {slot} is of another type"))
    }

    /// Why this process cannot run a node that another one has too.
    fn misfit(&self, item: &Item<'_>, entry: &Entry) -> Option<String> {
        let fitted = if is_dynamic(entry) { Some(finalized(entry, &item.constants())) } else { None };
        let schema = fitted.as_ref().map_or(&entry.schema, |entry| &entry.schema);
        if item.entries.first().is_some_and(|told| told.schema.input_is_list != schema.input_is_list) {
            return Some("it takes lists in another way".into());
        }
        let mut constants = Inputs::default();
        for (name, given) in &item.gets {
            let Some(input) = schema.find_input(name) else { return Some(format!("it has no input '{name}'")) };
            match given {
                Given::Constant(value) => {
                    if let Some(reason) = self.refused(schema, input, value) {
                        return Some(reason);
                    }
                    constants.insert(*name, python::value(Some(&input.kind), unwrapped(value)));
                }
                Given::Link { node, slot } => {
                    let output = self.places.get(node).and_then(|&from| self.output(from, *slot));
                    if output.as_ref().is_some_and(|output| !check::accepts(output, input, schema.generation)) {
                        return Some(format!("its input '{name}' takes other types"));
                    }
                    // What takes anything shows it, and objects look otherwise there.
                    if input.type_name() == "*" && output.is_none_or(|output| !is_plain(&output)) {
                        return Some(format!("its input '{name}' may get an object, which that process shows in its own way"));
                    }
                }
                Given::Object(_) => {}
            }
        }
        let given = |name: &str| item.gets.iter().any(|(given, _)| *given == name);
        if let Some(missing) = schema.inputs.iter().find(|input| input.required && !given(&input.name)) {
            return Some(format!("it needs input '{}'", missing.name));
        }
        self.slots_differ(item, schema).or_else(|| {
            // A panic must not reach whoever places; what panics here cannot be relied on.
            let declines = || entry.native().and_then(|node| node.declines(&constants));
            catch_unwind(AssertUnwindSafe(declines)).unwrap_or_else(|_| Some("its look at the constants panicked".into()))
        })
    }

    /// What is wrong with a constant. Choices of the newer schemas count here too: what this process does not know another one may.
    fn refused(&self, schema: &Schema, input: &Input, value: &Json) -> Option<String> {
        let options: &dyn OptionSource = self.files.unwrap_or(&StaticOptions);
        if let InputKind::Combo(choices) = &input.kind {
            let unlisted = self.files.is_none() && matches!(choices, comfyd_node::Choices::Files { .. } | comfyd_node::Choices::Parts(_));
            let checked = unlisted || schema.validates.contains(&input.name);
            let known = checked || check::chosen(input, choices, unwrapped(value), options);
            return (!known).then(|| format!("its input '{}' has no choice {}", input.name, python::repr(unwrapped(value))));
        }
        check::constant(schema, input, value, options).1.map(|problem| problem.details())
    }

    /// Joins a node with what gives it something that cannot leave its process.
    fn join_inputs(&mut self, place: usize) -> Result<(), Box<Unplaceable>> {
        let Some(told) = self.items[place].entries.first().map(|entry| entry.schema.clone()) else { return Ok(()) };
        let mut links = Vec::new();
        let mut objects = Vec::new();
        for (name, given) in &self.items[place].gets {
            let input = told.find_input(name).map(Input::type_name);
            match given {
                Given::Link { node, slot } => {
                    if let Some(&from) = self.places.get(node)
                        && let Some(output) = self.output(from, *slot)
                        && is_opaque(&output, input)
                    {
                        links.push((from, output.shown()));
                    }
                }
                Given::Object(value) if !input.is_some_and(is_portable) => objects.push(*value),
                Given::Object(_) | Given::Constant(_) => {}
            }
        }
        for (from, ty) in links {
            self.join(from, place, &ty)?;
        }
        // A node that holds an object runs where that lies.
        for value in objects {
            let host = lies_in(value).flatten().unwrap_or_default();
            let bit = self.hosts.iter().position(|name| name == host).map_or(0, |host| 1 << host);
            let root = self.root(place);
            if self.able[root] & bit == 0 {
                return Err(self.unplaceable(place, place, value.type_name()));
            }
            self.able[root] = bit;
        }
        Ok(())
    }

    /// A class that reads the graph runs where all runs that is above it.
    fn join_above(&mut self, place: usize) -> Result<(), Box<Unplaceable>> {
        let mut seen = HashSet::from([place]);
        let mut todo = vec![place];
        while let Some(item) = todo.pop() {
            let above: Vec<usize> = self.items[item].gets.iter().filter_map(|(_, given)| self.linked(given)).collect();
            for from in above {
                if seen.insert(from) {
                    self.join(from, place, "the graph around it")?;
                    todo.push(from);
                }
            }
        }
        Ok(())
    }

    fn linked(&self, given: &Given<'_>) -> Option<usize> {
        match given {
            Given::Link { node, .. } => self.places.get(node).copied(),
            Given::Constant(_) | Given::Object(_) => None,
        }
    }

    /// The item to which all that is joined with this one is joined.
    fn root(&self, mut item: usize) -> usize {
        while self.joined[item] != item {
            item = self.joined[item];
        }
        item
    }

    /// The same; the way is shorter afterwards.
    fn find(&mut self, mut item: usize) -> usize {
        while self.joined[item] != item {
            self.joined[item] = self.joined[self.joined[item]];
            item = self.joined[item];
        }
        item
    }

    fn join(&mut self, from: usize, to: usize, ty: &str) -> Result<(), Box<Unplaceable>> {
        let (a, b) = (self.find(from), self.find(to));
        if self.able[a] & self.able[b] == 0 {
            return Err(self.unplaceable(from, to, ty));
        }
        let (first, other) = (a.min(b), a.max(b));
        self.able[first] &= self.able[other];
        self.joined[other] = first;
        Ok(())
    }

    fn unplaceable(&self, from: usize, to: usize, ty: &str) -> Box<Unplaceable> {
        let class = |item: usize| self.items[item].entries.first().map(|e| e.schema.class.clone()).unwrap_or_default();
        let roots = [self.root(from), self.root(to)];
        let misfit = (0..self.items.len()).filter(|item| roots.contains(&self.root(*item))).find_map(|item| {
            let reason = self.misfits[item].as_ref()?;
            Some(format!("'{}' is not run by this process here, since {reason}", class(item)))
        });
        let id = |item: usize| self.items[item].id.to_owned();
        let (from_class, to_class) = (class(from), class(to));
        Box::new(Unplaceable { from: id(from), from_class, to: id(to), to_class, ty: ty.to_owned(), reason: misfit })
    }

    /// The host of each item.
    fn choose(&self) -> Vec<usize> {
        let mut wished: HashMap<usize, usize> = HashMap::new();
        for (place, item) in self.items.iter().enumerate() {
            let Some(class) = item.entries.first().map(|e| e.schema.class.as_str()) else { continue };
            let Some(wish) = self.placing.prefer.get(class) else { continue };
            let root = self.root(place);
            if let (None, Some(host)) = (wished.get(&root), self.wished(wish, self.able[root])) {
                wished.insert(root, host);
            }
        }
        let native_first = self.placing.mode != PlacementMode::Python;
        let preferred = |able: u64| {
            let others = (1..self.hosts.len()).find(|host| able & (1 << host) != 0);
            if able & 1 != 0 && (native_first || others.is_none()) { 0 } else { others.unwrap_or(0) }
        };
        (0..self.items.len())
            .map(|place| {
                let root = self.root(place);
                wished.get(&root).copied().unwrap_or_else(|| preferred(self.able[root]))
            })
            .collect()
    }

    fn wished(&self, wish: &str, able: u64) -> Option<usize> {
        let can = |host: &usize| able & (1 << host) != 0;
        match wish {
            "native" => Some(0).filter(can),
            "python" => (1..self.hosts.len()).find(can),
            name => (1..self.hosts.len()).filter(can).find(|host| self.hosts[*host] == name),
        }
    }
}

#[cfg(test)]
mod tests;

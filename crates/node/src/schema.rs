//! The declaration of a node class: inputs and outputs, and what clients are told of it.

use std::ops::Range;
use std::sync::Arc;

use serde_json::{Map, Value as Json, json};

use crate::Inputs;
use crate::input::{Generation, Input, MATCH_TYPE, OptionSource};

/// One output slot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Output {
    /// Its type.
    pub ty: String,
    /// Its name.
    pub name: String,
    /// Whether the node gives a list.
    pub is_list: bool,
    /// Whether the reference tells clients nothing of that.
    pub is_list_unsaid: bool,
    /// The template whose type it follows ([`Input::matching`]).
    pub matches: Option<String>,
}

impl Output {
    /// One whose type follows that of the inputs of a template.
    pub fn matching(name: &str, template: &str) -> Self {
        Self { ty: MATCH_TYPE.into(), name: name.into(), matches: Some(template.into()), ..Self::default() }
    }
}

/// What ComfyUI calls a hidden input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HiddenKind {
    /// The graph.
    Prompt,
    /// `extra_data.extra_pnginfo`.
    ExtraPnginfo,
    /// The node's id.
    UniqueId,
}

impl HiddenKind {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prompt => "PROMPT",
            Self::ExtraPnginfo => "EXTRA_PNGINFO",
            Self::UniqueId => "UNIQUE_ID",
        }
    }
}

/// A node class's declaration. Build it with [`Schema::new`] and the methods named after the fields.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Schema {
    /// The class's name in graphs.
    pub class: String,
    /// The name shown; the reference sends null for some classes.
    pub display_name: Option<String>,
    /// The menu it is listed under, with slashes.
    pub category: String,
    /// The module that clients see as `python_module`.
    pub module: String,
    /// What it does, for people.
    pub description: String,
    /// Other words under which people look for it.
    pub search_aliases: Vec<String>,
    /// Where it stands among the nodes that beginners are shown; the reference says so of some classes of either generation.
    pub essentials: Option<String>,
    /// Inputs, required ones first.
    pub inputs: Vec<Input>,
    /// Hidden inputs. [`crate::Context`] has them whether declared or not; this is what clients are told.
    pub hidden: Vec<(String, HiddenKind)>,
    /// Output slots.
    pub outputs: Vec<Output>,
    /// Whether it ends a graph (saves, shows).
    pub output_node: bool,
    /// Whether what it shows is part of working with it, and no result of the graph.
    pub intermediate_output: bool,
    /// Whether it takes all values of each input at once.
    pub input_is_list: bool,
    /// Sent when set.
    pub deprecated: Option<bool>,
    /// Sent when set.
    pub experimental: Option<bool>,
    /// Shown to developers only. Sent when set.
    pub dev_only: Option<bool>,
    /// Whether it is given constants that it does not declare, too.
    pub takes_any: bool,
    /// Which way of declaring the reference uses for it.
    pub generation: Generation,
    /// Inputs for which the class's own check replaces those of range and choices.
    pub validates: Vec<String>,
    /// What only classes of other processes have.
    pub hosted: Option<Arc<Hosted>>,
}

/// What is to be known of a class whose code runs in another process, beyond its inputs and outputs.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Hosted {
    /// What clients are told of it: JSON, word for word but for the gaps. Read, those of a large installation take a hundred megabytes.
    pub info: Box<str>,
    /// Where the choices of inputs stand in it that list files ([`Choices::Parts`]), in this order.
    pub gaps: Vec<(Range<usize>, String)>,
    /// Outputs whose type is a list of choices.
    pub choices: Vec<(usize, Json)>,
    /// Whether a value at one of its links could not leave its process before: what is linked to it runs where it does, if that can be.
    pub stays: bool,
    /// Whether clients are not told of it, though it runs: its own process cannot tell of it either.
    pub unlisted: bool,
    /// Whether it has a check of its own.
    pub validates: bool,
    /// Whether that check is about all inputs.
    pub validates_all: bool,
    /// Whether that check gets the types of linked inputs, and replaces the check of these.
    pub validates_types: bool,
    /// Whether it takes inputs under names that it does not declare.
    pub open: bool,
    /// Whether other nodes may run while a call of it runs.
    pub is_async: bool,
    /// Whether its result may be used by no other node: it asks for its own id, or says so.
    pub unique: bool,
    /// Whether it reads the graph around it, or gets links themselves: what is above it must run in the same host.
    pub introspects: bool,
}

impl Schema {
    /// A class of the reference's `nodes` module unless [`Schema::module`] says otherwise.
    pub fn new(class: &str) -> Self {
        Self { class: class.into(), display_name: Some(class.into()), module: "nodes".into(), ..Self::default() }
    }

    /// The name shown.
    pub fn display(mut self, name: &str) -> Self {
        self.display_name = Some(name.into());
        self
    }

    /// The reference sends null as name.
    pub fn no_display(mut self) -> Self {
        self.display_name = None;
        self
    }

    /// The menu it is listed under.
    pub fn category(mut self, category: &str) -> Self {
        self.category = category.into();
        self
    }

    /// The module that clients see.
    pub fn module(mut self, module: &str) -> Self {
        self.module = module.into();
        self
    }

    /// What it does, for people.
    pub fn description(mut self, text: &str) -> Self {
        self.description = text.into();
        self
    }

    /// Other words under which people look for it.
    pub fn aliases<S: AsRef<str>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.search_aliases = words.into_iter().map(|word| word.as_ref().to_owned()).collect();
        self
    }

    /// Where it stands among the nodes that beginners are shown.
    pub fn essentials(mut self, category: &str) -> Self {
        self.essentials = Some(category.into());
        self
    }

    /// Adds an input.
    pub fn input(mut self, input: Input) -> Self {
        self.inputs.push(input);
        self
    }

    /// Adds a hidden input.
    pub fn hidden(mut self, name: &str, kind: HiddenKind) -> Self {
        self.hidden.push((name.into(), kind));
        self
    }

    /// Adds the hidden inputs of the classes that save files: `prompt` and `extra_pnginfo`.
    pub fn hidden_metadata(self) -> Self {
        self.hidden("prompt", HiddenKind::Prompt).hidden("extra_pnginfo", HiddenKind::ExtraPnginfo)
    }

    /// Adds an output named after its type.
    pub fn output(self, ty: &str) -> Self {
        self.output_named(ty, ty)
    }

    /// Adds an output.
    pub fn output_named(self, ty: &str, name: &str) -> Self {
        self.slot(Output { ty: ty.into(), name: name.into(), ..Output::default() })
    }

    /// Adds an output that is a list, named after its type.
    pub fn output_list(self, ty: &str) -> Self {
        self.output_list_named(ty, ty)
    }

    /// Adds an output that is a list.
    pub fn output_list_named(self, ty: &str, name: &str) -> Self {
        self.slot(Output { ty: ty.into(), name: name.into(), is_list: true, ..Output::default() })
    }

    /// Adds an output whose type follows that of the inputs of a template.
    pub fn output_matching(self, name: &str, template: &str) -> Self {
        self.slot(Output::matching(name, template))
    }

    /// Adds an output.
    pub fn slot(mut self, output: Output) -> Self {
        self.outputs.push(output);
        self
    }

    /// Ends a graph.
    pub fn output_node(mut self) -> Self {
        self.output_node = true;
        self
    }

    /// What it shows is part of working with it, and no result of the graph.
    pub fn intermediate_output(mut self) -> Self {
        self.intermediate_output = true;
        self
    }

    /// Takes all values of each input at once.
    pub fn input_is_list(mut self) -> Self {
        self.input_is_list = true;
        self
    }

    /// Marks it deprecated.
    pub fn deprecated(mut self) -> Self {
        self.deprecated = Some(true);
        self
    }

    /// Marks it experimental.
    pub fn experimental(mut self) -> Self {
        self.experimental = Some(true);
        self
    }

    /// Shown to developers only.
    pub fn dev_only(mut self) -> Self {
        self.dev_only = Some(true);
        self
    }

    /// It is given constants that it does not declare, too.
    pub fn takes_any(mut self) -> Self {
        self.takes_any = true;
        self
    }

    /// Declared the reference's newer way.
    pub fn schema_generation(mut self) -> Self {
        self.generation = Generation::Schema;
        self
    }

    /// [`crate::Node::validate`] checks these inputs.
    pub fn validates<S: AsRef<str>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.validates = names.into_iter().map(|n| n.as_ref().to_owned()).collect();
        self
    }

    /// The input of that name.
    pub fn find_input(&self, name: &str) -> Option<&Input> {
        self.inputs.iter().find(|i| i.name == name)
    }

    /// Whether `/object_info` tells of the class.
    pub fn is_listed(&self) -> bool {
        self.hosted.as_ref().is_none_or(|hosted| !hosted.unlisted)
    }

    /// The class as `/object_info` tells it, as text: that of a class of another process needs not be read for it.
    pub fn object_info_text(&self, source: &dyn OptionSource) -> String {
        match &self.hosted {
            Some(hosted) => self.hosted_info(hosted, source),
            None => self.object_info(source).to_string(),
        }
    }

    /// The lazy inputs that are not there.
    pub fn lazy_inputs(&self, there: &Inputs) -> Vec<String> {
        self.inputs.iter().filter(|input| input.lazy && !there.contains(&input.name)).map(|input| input.name.clone()).collect()
    }

    /// The class as `/object_info` tells it. Whole numbers beyond 64 bits, which classes of other processes may have, are rounded.
    pub fn object_info(&self, source: &dyn OptionSource) -> Json {
        if let Some(hosted) = &self.hosted {
            return serde_json::from_str(&self.hosted_info(hosted, source)).unwrap_or_default();
        }
        let mut input = Map::new();
        let mut order = Map::new();
        // The reference sends `required` even when it is empty, the other groups only when they are not.
        for (group, required) in [("required", true), ("optional", false)] {
            let members: Vec<&Input> = self.inputs.iter().filter(|i| i.required == required).collect();
            if members.is_empty() && !required {
                continue;
            }
            order.insert(group.into(), members.iter().map(|i| Json::from(i.name.as_str())).collect());
            let configs: Map<String, Json> = members.iter().map(|i| (i.name.clone(), i.config(self.generation, source))).collect();
            input.insert(group.into(), Json::Object(configs));
        }
        if !self.hidden.is_empty() {
            order.insert("hidden".into(), self.hidden.iter().map(|(name, _)| Json::from(name.as_str())).collect());
            let kinds: Map<String, Json> = self.hidden.iter().map(|(name, kind)| (name.clone(), self.hidden_config(*kind))).collect();
            input.insert("hidden".into(), Json::Object(kinds));
        }
        let newer = self.generation == Generation::Schema;
        let all = |field: fn(&Output) -> Json| self.outputs.iter().map(field).collect::<Json>();
        let mut info = json!({
            "input": input,
            "input_order": order,
            "is_input_list": self.input_is_list,
            "output": all(|output| json!(output.ty)),
            "output_is_list": all(|output| if output.is_list_unsaid { Json::Null } else { json!(output.is_list) }),
            "output_name": all(|output| json!(output.name)),
        });
        if newer {
            let matches = self.outputs.iter().any(|output| output.matches.is_some());
            info["output_tooltips"] = all(|_| Json::Null);
            info["output_matchtypes"] = if matches { all(|output| json!(output.matches)) } else { Json::Null };
        }
        info["name"] = json!(self.class);
        info["display_name"] = json!(self.display_name);
        info["description"] = json!(self.description);
        info["python_module"] = json!(self.module);
        info["category"] = json!(self.category);
        info["output_node"] = json!(self.output_node);
        if !newer {
            info["has_intermediate_output"] = json!(self.intermediate_output);
        }
        let always = newer.then_some(false);
        for (key, value) in [
            ("deprecated", self.deprecated.or(always)),
            ("experimental", self.experimental.or(always)),
            ("dev_only", self.dev_only.or(always)),
            ("api_node", always),
        ] {
            if let Some(value) = value {
                info[key] = Json::Bool(value);
            }
        }
        if newer {
            info["price_badge"] = Json::Null;
        }
        info["search_aliases"] = if newer && self.search_aliases.is_empty() { Json::Null } else { json!(self.search_aliases) };
        if newer || self.essentials.is_some() {
            info["essentials_category"] = json!(self.essentials);
        }
        if newer {
            info["has_intermediate_output"] = json!(self.intermediate_output);
        }
        info
    }

    fn hosted_info(&self, hosted: &Hosted, source: &dyn OptionSource) -> String {
        let told = if hosted.info.is_empty() { "null" } else { &*hosted.info };
        let mut text = String::with_capacity(told.len());
        let mut at = 0;
        for (gap, name) in &hosted.gaps {
            let choices = self.find_input(name).and_then(|input| input.choices(source));
            if let (Some(choices), Some(before)) = (choices, told.get(at..gap.start)) {
                text.push_str(before);
                text.push_str(&Json::Array(choices).to_string());
                at = gap.end;
            }
        }
        text.push_str(told.get(at..).unwrap_or_default());
        text
    }

    fn hidden_config(&self, kind: HiddenKind) -> Json {
        match self.generation {
            Generation::Classic => json!(kind.as_str()),
            Generation::Schema => json!([kind.as_str()]),
        }
    }
}

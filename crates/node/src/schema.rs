//! The declaration of a node class: inputs with their types, ranges and choices, and outputs.

use std::ops::Range;
use std::sync::Arc;

use serde_json::{Map, Value as Json, json};

/// Where a combo's choices come from when they are files.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum FileSource {
    /// Model files of a folder such as `checkpoints`.
    Models(String),
    /// Files in the input folder with one of these endings (lower case, with the dot).
    InputFiles(Vec<String>),
    /// Sub-folders of the input folder.
    InputFolders,
    /// Autoencoders: the files of the folder `vae`, then the built-in ones that can be used.
    Autoencoders,
    /// Folders of models in the layout of the diffusers library.
    DiffusersFolders,
}

/// A combo's choices.
#[derive(Debug, Clone, PartialEq)]
pub enum Choices {
    /// Fixed values (texts; the reference also uses numbers and booleans).
    Fixed(Vec<Json>),
    /// Files, listed when asked, after the choices that are always there.
    Files {
        /// Choices that are always there; a file of the same name is not listed twice.
        extra: Vec<String>,
        /// Where the files are.
        source: FileSource,
    },
    /// Fixed values and files in turn, as another process lists them; what comes twice is told twice.
    Parts(Vec<ChoicePart>),
    /// The client fetches them by the route that the options name (`remote`); not checked against a list.
    Remote,
}

/// A part of a combo's choices.
#[derive(Debug, Clone, PartialEq)]
pub enum ChoicePart {
    /// A value.
    Fixed(Json),
    /// Files, listed when asked.
    Files(FileSource),
}

/// Lists files for combos; implemented by whoever knows the folders.
pub trait OptionSource: Send + Sync {
    /// The files' names as clients see them, sorted.
    fn files(&self, source: &FileSource) -> Vec<String>;
}

/// An [`OptionSource`] with no files.
#[derive(Debug, Clone, Copy, Default)]
pub struct StaticOptions;

impl OptionSource for StaticOptions {
    fn files(&self, _source: &FileSource) -> Vec<String> {
        Vec::new()
    }
}

/// An input's type.
#[derive(Debug, Clone, PartialEq)]
pub enum InputKind {
    /// INT widget.
    Int,
    /// FLOAT widget.
    Float,
    /// STRING widget.
    Text,
    /// BOOLEAN widget.
    Bool,
    /// A choice.
    Combo(Choices),
    /// Any other type, such as `IMAGE`, `*`, or the union `IMAGE,MASK`.
    Other(String),
}

/// One input of a class.
#[derive(Debug, Clone, PartialEq)]
pub struct Input {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: InputKind,
    /// Whether a prompt must give it.
    pub required: bool,
    /// Whether it is evaluated only when the node asks for it.
    pub lazy: bool,
    /// Whether the node gets the link itself (`[node, slot]`) in place of its value.
    pub raw_link: bool,
    /// Types of outputs that it takes beyond what its own type says, by a comparison of the class's own.
    pub accepts: Vec<String>,
    /// The options object that clients get (`default`, `min`, `max`, `step`, `multiline`, `tooltip`, …); `None` where the reference
    /// sends none.
    pub options: Option<Map<String, Json>>,
}

impl Input {
    fn new(name: &str, kind: InputKind) -> Self {
        Self { name: name.into(), kind, required: true, lazy: false, raw_link: false, accepts: Vec::new(), options: None }
    }

    /// An input that takes links of a type: `IMAGE`, `*`, or a union such as `IMAGE,MASK`.
    pub fn link(name: &str, ty: &str) -> Self {
        Self::new(name, InputKind::Other(ty.into()))
    }

    /// An integer widget.
    pub fn int(name: &str) -> Self {
        Self::new(name, InputKind::Int).options()
    }

    /// A floating-point widget.
    pub fn float(name: &str) -> Self {
        Self::new(name, InputKind::Float).options()
    }

    /// A text widget.
    pub fn text(name: &str) -> Self {
        Self::new(name, InputKind::Text).options()
    }

    /// A switch.
    pub fn bool(name: &str) -> Self {
        Self::new(name, InputKind::Bool).options()
    }

    /// A choice among fixed texts.
    pub fn combo<S: AsRef<str>>(name: &str, choices: impl IntoIterator<Item = S>) -> Self {
        let choices = choices.into_iter().map(|c| Json::from(c.as_ref())).collect();
        Self::new(name, InputKind::Combo(Choices::Fixed(choices)))
    }

    /// A choice among files.
    pub fn files(name: &str, source: FileSource) -> Self {
        Self::new(name, InputKind::Combo(Choices::Files { extra: Vec::new(), source }))
    }

    /// A choice among fixed texts and, after them, files.
    pub fn files_and<S: Into<String>>(name: &str, fixed: impl IntoIterator<Item = S>, source: FileSource) -> Self {
        let extra = fixed.into_iter().map(Into::into).collect();
        Self::new(name, InputKind::Combo(Choices::Files { extra, source }))
    }

    /// A choice that the client fetches.
    pub fn remote(name: &str) -> Self {
        Self::new(name, InputKind::Combo(Choices::Remote)).options()
    }

    /// Gives the input an options object, empty at first (the reference sends `{}` for some inputs and nothing for others).
    pub fn options(mut self) -> Self {
        self.options.get_or_insert_default();
        self
    }

    /// Sets one option.
    pub fn option(mut self, key: &str, value: impl Into<Json>) -> Self {
        self.options.get_or_insert_default().insert(key.into(), value.into());
        self
    }

    /// The widget's first value.
    pub fn default(self, value: impl Into<Json>) -> Self {
        self.option("default", value)
    }

    /// The smallest value allowed.
    pub fn min(self, value: impl Into<Json>) -> Self {
        self.option("min", value)
    }

    /// The largest value allowed.
    pub fn max(self, value: impl Into<Json>) -> Self {
        self.option("max", value)
    }

    /// The widget's step.
    pub fn step(self, value: impl Into<Json>) -> Self {
        self.option("step", value)
    }

    /// The widget rounds to this.
    pub fn round(self, value: impl Into<Json>) -> Self {
        self.option("round", value)
    }

    /// A text of several lines.
    pub fn multiline(self) -> Self {
        self.option("multiline", true)
    }

    /// An explanation for people. Only for inputs that have an options object anyway.
    pub fn tooltip(self, text: &str) -> Self {
        self.option("tooltip", text)
    }

    /// Makes it optional.
    pub fn optional(mut self) -> Self {
        self.required = false;
        self
    }

    /// Evaluates it only when the node asks.
    pub fn lazy(mut self) -> Self {
        self.lazy = true;
        self.option("lazy", true)
    }

    /// Hands the node the link itself.
    pub fn raw_link(mut self) -> Self {
        self.raw_link = true;
        self.option("rawLink", true)
    }

    /// The type for matching links: `INT`, `COMBO`, `IMAGE`, ….
    pub fn type_name(&self) -> &str {
        match &self.kind {
            InputKind::Int => "INT",
            InputKind::Float => "FLOAT",
            InputKind::Text => "STRING",
            InputKind::Bool => "BOOLEAN",
            InputKind::Combo(_) => "COMBO",
            InputKind::Other(ty) => ty,
        }
    }

    /// A combo's choices now; `None` for other kinds and for choices that only the client knows.
    pub fn choices(&self, source: &dyn OptionSource) -> Option<Vec<Json>> {
        match &self.kind {
            InputKind::Combo(Choices::Fixed(choices)) => Some(choices.clone()),
            InputKind::Combo(Choices::Files { extra, source: files }) => {
                let listed = source.files(files).into_iter().filter(|file| !extra.contains(file));
                Some(extra.iter().cloned().chain(listed).map(Json::String).collect())
            }
            InputKind::Combo(Choices::Parts(parts)) => {
                let listed = |part: &ChoicePart| match part {
                    ChoicePart::Fixed(value) => vec![value.clone()],
                    ChoicePart::Files(files) => source.files(files).into_iter().map(Json::String).collect(),
                };
                Some(parts.iter().flat_map(listed).collect())
            }
            InputKind::Combo(Choices::Remote)
            | InputKind::Int
            | InputKind::Float
            | InputKind::Text
            | InputKind::Bool
            | InputKind::Other(_) => None,
        }
    }

    /// The input as clients get it in `/object_info` and in validation errors: `["INT", {…}]`, `[[choices], {…}]`.
    pub fn config(&self, generation: Generation, source: &dyn OptionSource) -> Json {
        let mut options = self.options.clone();
        let ty = match (self.choices(source), generation) {
            (Some(choices), Generation::Classic) => Json::Array(choices),
            (Some(choices), Generation::Schema) => {
                let map = options.get_or_insert_default();
                map.entry("multiselect").or_insert(Json::Bool(false));
                map.insert("options".into(), Json::Array(choices));
                json!("COMBO")
            }
            (None, _) => json!(self.type_name()),
        };
        match options {
            Some(options) => json!([ty, options]),
            None => json!([ty]),
        }
    }
}

/// Which of the reference's two ways of declaring nodes a class uses; it shows in small differences of `/object_info`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Generation {
    /// `INPUT_TYPES` classes: a combo is a list of its choices.
    #[default]
    Classic,
    /// `io.Schema` classes ("V3"): a combo is `COMBO` with `options`; `deprecated`, `experimental` and `api_node` are always sent.
    Schema,
}

/// One output slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its type.
    pub ty: String,
    /// Its name.
    pub name: String,
    /// Whether the node gives a list.
    pub is_list: bool,
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
    /// Inputs, required ones first.
    pub inputs: Vec<Input>,
    /// Hidden inputs. [`crate::Context`] has them whether declared or not; this is what clients are told.
    pub hidden: Vec<(String, HiddenKind)>,
    /// Output slots.
    pub outputs: Vec<Output>,
    /// Whether it ends a graph (saves, shows).
    pub output_node: bool,
    /// Whether it takes all values of each input at once.
    pub input_is_list: bool,
    /// Sent when set.
    pub deprecated: Option<bool>,
    /// Sent when set.
    pub experimental: Option<bool>,
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
    pub fn output_named(mut self, ty: &str, name: &str) -> Self {
        self.outputs.push(Output { ty: ty.into(), name: name.into(), is_list: false });
        self
    }

    /// Adds an output that is a list, named after its type.
    pub fn output_list(mut self, ty: &str) -> Self {
        self.outputs.push(Output { ty: ty.into(), name: ty.into(), is_list: true });
        self
    }

    /// Ends a graph.
    pub fn output_node(mut self) -> Self {
        self.output_node = true;
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
        let mut info = json!({
            "input": input,
            "input_order": order,
            "output": self.outputs.iter().map(|o| o.ty.as_str()).collect::<Vec<_>>(),
            "output_is_list": self.outputs.iter().map(|o| o.is_list).collect::<Vec<_>>(),
            "output_name": self.outputs.iter().map(|o| o.name.as_str()).collect::<Vec<_>>(),
            "name": self.class,
            "display_name": self.display_name,
            "description": self.description,
            "python_module": self.module,
            "category": self.category,
            "output_node": self.output_node,
        });
        let always = (self.generation == Generation::Schema).then_some(false);
        for (key, value) in
            [("deprecated", self.deprecated.or(always)), ("experimental", self.experimental.or(always)), ("api_node", always)]
        {
            if let Some(value) = value {
                info[key] = Json::Bool(value);
            }
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

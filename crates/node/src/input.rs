//! One input of a node class: its type, its widget's options, its choices, and inputs that stand for others.

use serde_json::{Map, Value as Json, json};

/// The type of inputs that grow, as clients know it.
pub const GROWS: &str = "COMFY_AUTOGROW_V3";
/// The type of choices that bring inputs.
pub const BRANCHES: &str = "COMFY_DYNAMICCOMBO_V3";
/// The type of links that bring inputs.
pub const SLOT: &str = "COMFY_DYNAMICSLOT_V3";
/// The type of inputs and outputs whose type follows that of another one; the client sees to that.
pub const MATCH_TYPE: &str = "COMFY_MATCHTYPE_V3";

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
    /// As many inputs of one kind as a prompt gives.
    Grow(Box<Grow>),
    /// A choice that brings inputs of its own.
    Branch(Vec<Branch>),
    /// A link that brings inputs of its own.
    Slot {
        /// The link's type.
        ty: String,
        /// What it brings.
        inputs: Vec<Input>,
    },
}

impl InputKind {
    /// Whether it stands for inputs that only a prompt tells, under names that begin with its own and a dot.
    pub fn is_dynamic(&self) -> bool {
        match self {
            Self::Grow(_) | Self::Branch(_) | Self::Slot { .. } => true,
            Self::Int | Self::Float | Self::Text | Self::Bool | Self::Combo(_) | Self::Other(_) => false,
        }
    }
}

/// An input that grows: what one of those is that it stands for, and their names.
#[derive(Debug, Clone, PartialEq)]
pub struct Grow {
    /// Each of them, but for its name; `required` where a prompt must give the first ones.
    pub member: Input,
    /// What they are called.
    pub names: GrowNames,
    /// How many a prompt must give.
    pub min: usize,
}

/// The names of what grows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GrowNames {
    /// A text and a number, counted from 0.
    Numbered {
        /// The text.
        prefix: String,
        /// How many there may be.
        max: usize,
    },
    /// These.
    Listed(Vec<String>),
}

impl Grow {
    /// The reference's bound on the names of one input that grows.
    pub const MOST: usize = 100;

    /// Inputs called `prefix0`, `prefix1`, …, of which one must be given and ten may be.
    pub fn numbered(member: Input, prefix: &str) -> Self {
        Self::new(member, GrowNames::Numbered { prefix: prefix.into(), max: 10 })
    }

    /// Inputs of these names, of which the first must be given.
    pub fn listed<S: AsRef<str>>(member: Input, names: impl IntoIterator<Item = S>) -> Self {
        Self::new(member, GrowNames::Listed(names.into_iter().map(|name| name.as_ref().to_owned()).collect()))
    }

    fn new(member: Input, names: GrowNames) -> Self {
        // They are sockets: there is no place for as many widgets.
        let widget = matches!(member.kind, InputKind::Int | InputKind::Float | InputKind::Text | InputKind::Bool | InputKind::Combo(_));
        let member = if widget { member.option("forceInput", true) } else { member };
        Self { member, names, min: 1 }
    }

    /// How many a prompt must give.
    pub fn min(self, min: usize) -> Self {
        Self { min, ..self }
    }

    /// How many numbered ones there may be.
    pub fn max(mut self, most: usize) -> Self {
        if let GrowNames::Numbered { max, .. } = &mut self.names {
            *max = most;
        }
        self
    }

    /// All names that a prompt may use, in their order.
    pub fn all_names(&self) -> Vec<String> {
        match &self.names {
            GrowNames::Numbered { prefix, max } => (0..(*max).min(Self::MOST)).map(|at| format!("{prefix}{at}")).collect(),
            GrowNames::Listed(names) => names.iter().take(Self::MOST).cloned().collect(),
        }
    }

    fn config(&self, generation: Generation, source: &dyn OptionSource) -> Json {
        let mut template = json!({"input": groups(std::slice::from_ref(&self.member), generation, source)});
        match &self.names {
            GrowNames::Numbered { prefix, max } => {
                (template["prefix"], template["min"], template["max"]) = (json!(prefix), json!(self.min), json!(max));
            }
            GrowNames::Listed(names) => (template["names"], template["min"]) = (json!(names), json!(self.min)),
        }
        template
    }
}

/// One of the choices that bring inputs of their own.
#[derive(Debug, Clone, PartialEq)]
pub struct Branch {
    /// The choice.
    pub key: String,
    /// What it brings.
    pub inputs: Vec<Input>,
}

impl Branch {
    /// A choice with its inputs.
    pub fn new(key: &str, inputs: impl IntoIterator<Item = Input>) -> Self {
        Self { key: key.into(), inputs: inputs.into_iter().collect() }
    }
}

/// Inputs by whether they are required, as clients are told of them.
fn groups(inputs: &[Input], generation: Generation, source: &dyn OptionSource) -> Json {
    let mut groups = json!({"required": {}});
    for input in inputs {
        let group = if input.required { "required" } else { "optional" };
        groups[group][&input.name] = input.config(generation, source);
    }
    groups
}

/// The order in which classes of the newer kind tell their options; those that only one class has stand before the first value.
const OPTION_ORDER: [&str; 34] = [
    "display_name",
    "tooltip",
    "lazy",
    "rawLink",
    "advanced",
    "",
    "default",
    "socketless",
    "widgetType",
    "forceInput",
    "component",
    "min",
    "max",
    "step",
    "round",
    "multiline",
    "placeholder",
    "dynamicPrompts",
    "multiselect",
    "options",
    "control_after_generate",
    "display",
    "gradient_stops",
    "image_upload",
    "image_folder",
    "audio_upload",
    "video_upload",
    "remote",
    "multi_select",
    "label_on",
    "label_off",
    "template",
    "slotType",
    "inputs",
];

/// Types whose widgets every client has.
const PLAIN_WIDGETS: [&str; 4] = ["INT", "FLOAT", "STRING", "BOOLEAN"];

fn in_order(options: Map<String, Json>) -> Map<String, Json> {
    // A widget that one class alone has is told with what else belongs to it.
    let own = options.get("widgetType").and_then(Json::as_str).is_some_and(|widget| !PLAIN_WIDGETS.contains(&widget));
    let rank = |name: &str| match name {
        "widgetType" | "image_upload" if own => 5,
        name => OPTION_ORDER.iter().position(|other| *other == name).unwrap_or(5),
    };
    let mut options: Vec<(String, Json)> = options.into_iter().collect();
    options.sort_by_key(|(name, _)| rank(name));
    options.into_iter().collect()
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
    /// Whether prompts for older versions of the reference do not have it: then it may be absent, whatever clients are told.
    pub newer: bool,
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
        Self { name: name.into(), kind, required: true, newer: false, lazy: false, raw_link: false, accepts: Vec::new(), options: None }
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

    /// As many inputs of one kind as a prompt gives: `images.image0`, `images.image1`, ….
    pub fn grow(name: &str, grow: Grow) -> Self {
        Self::new(name, InputKind::Grow(Box::new(grow)))
    }

    /// A choice that brings inputs of its own: `resize_type` and `resize_type.width`.
    pub fn branch(name: &str, branches: impl IntoIterator<Item = Branch>) -> Self {
        Self::new(name, InputKind::Branch(branches.into_iter().collect()))
    }

    /// A link that may be absent and brings inputs of its own where it is there.
    pub fn slot(name: &str, ty: &str, inputs: impl IntoIterator<Item = Input>) -> Self {
        let inputs = inputs.into_iter().collect();
        Self::new(name, InputKind::Slot { ty: ty.into(), inputs }).optional()
    }

    /// An input of whichever of these types (`IMAGE,MASK`, `*`) the others of the same template are linked to; clients see to it.
    pub fn matching(name: &str, template: &str, allowed: &str) -> Self {
        Self::link(name, MATCH_TYPE).option("template", json!({"template_id": template, "allowed_types": allowed}))
    }

    /// Lets a widget take links of other types too (`FLOAT,BOOLEAN`). What comes is then not converted.
    pub fn also(mut self, types: &str) -> Self {
        let own = self.type_name().to_owned();
        self.kind = InputKind::Other(format!("{own},{types}"));
        self.option("widgetType", own)
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

    /// The name that people see.
    pub fn display(self, name: &str) -> Self {
        self.option("display_name", name)
    }

    /// Shown only to those who ask for more.
    pub fn advanced(self) -> Self {
        self.option("advanced", true)
    }

    /// A widget that takes no link.
    pub fn socketless(self) -> Self {
        self.option("socketless", true)
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

    /// Prompts for older versions of the reference do not have it.
    pub fn newer(mut self) -> Self {
        self.newer = true;
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
            InputKind::Grow(_) => GROWS,
            InputKind::Branch(_) => BRANCHES,
            InputKind::Slot { .. } => SLOT,
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
            | InputKind::Other(_)
            | InputKind::Grow(_)
            | InputKind::Branch(_)
            | InputKind::Slot { .. } => None,
        }
    }

    /// The input as clients get it in `/object_info` and in validation errors: `["INT", {…}]`, `[[choices], {…}]`.
    pub fn config(&self, generation: Generation, source: &dyn OptionSource) -> Json {
        let mut options = self.options.clone();
        let ty = match (&self.kind, self.choices(source), generation) {
            (_, Some(choices), Generation::Classic) => Json::Array(choices),
            (_, Some(choices), Generation::Schema) => {
                let map = options.get_or_insert_default();
                map.entry("multiselect").or_insert(Json::Bool(false));
                map.insert("options".into(), Json::Array(choices));
                json!(self.type_name())
            }
            (kind, None, _) => {
                self.tell_dynamic(kind, &mut options, generation, source);
                json!(self.type_name())
            }
        };
        if (&self.kind, generation) == (&InputKind::Text, Generation::Schema) {
            options.get_or_insert_default().entry("multiline").or_insert(Json::Bool(false));
        }
        match (options, generation) {
            (Some(options), Generation::Classic) => json!([ty, options]),
            (None, Generation::Classic) => json!([ty]),
            (options, Generation::Schema) => json!([ty, in_order(options.unwrap_or_default())]),
        }
    }

    /// Adds what an input stands for.
    fn tell_dynamic(&self, kind: &InputKind, options: &mut Option<Map<String, Json>>, generation: Generation, source: &dyn OptionSource) {
        match kind {
            InputKind::Grow(grow) => {
                options.get_or_insert_default().insert("template".into(), grow.config(generation, source));
            }
            InputKind::Branch(branches) => {
                let one = |branch: &Branch| json!({"key": branch.key, "inputs": groups(&branch.inputs, generation, source)});
                options.get_or_insert_default().insert("options".into(), branches.iter().map(one).collect());
            }
            InputKind::Slot { ty, inputs } => {
                let options = options.get_or_insert_default();
                options.insert("slotType".into(), json!(ty));
                options.insert("inputs".into(), groups(inputs, generation, source));
            }
            InputKind::Int | InputKind::Float | InputKind::Text | InputKind::Bool | InputKind::Combo(_) | InputKind::Other(_) => {}
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

#[cfg(test)]
mod tests {
    use super::*;

    fn told(input: &Input) -> String {
        input.config(Generation::Schema, &StaticOptions).to_string()
    }

    #[test]
    fn clients_are_told_of_inputs_that_stand_for_others() {
        let image = Input::grow("images", Grow::numbered(Input::link("image", "IMAGE"), "image").min(2).max(3));
        let template = r#"{"input":{"required":{"image":["IMAGE",{}]}},"prefix":"image","min":2,"max":3}"#;
        assert_eq!(told(&image), format!(r#"["COMFY_AUTOGROW_V3",{{"template":{template}}}]"#));

        let named = Input::grow("values", Grow::listed(Input::float("value").optional(), ["a", "b"]));
        let template = r#"{"input":{"required":{},"optional":{"value":["FLOAT",{"forceInput":true}]}},"names":["a","b"],"min":1}"#;
        assert_eq!(told(&named), format!(r#"["COMFY_AUTOGROW_V3",{{"template":{template}}}]"#));

        let way = Branch::new("by", [Input::float("factor").max(2.0).advanced().default(1.0), Input::combo("crop", ["no", "yes"])]);
        let inputs = r#"{"required":{"factor":["FLOAT",{"advanced":true,"default":1.0,"max":2.0}],"crop":["COMBO",{"multiselect":false,"options":["no","yes"]}]}}"#;
        let options = format!(r#"[{{"key":"by","inputs":{inputs}}},{{"key":"none","inputs":{{"required":{{}}}}}}]"#);
        let choice = Input::branch("size", [way, Branch::new("none", [])]).tooltip("t");
        assert_eq!(told(&choice), format!(r#"["COMFY_DYNAMICCOMBO_V3",{{"tooltip":"t","options":{options}}}]"#));

        let slot = Input::slot("image", "IMAGE", [Input::int("n")]);
        assert_eq!(told(&slot), r#"["COMFY_DYNAMICSLOT_V3",{"slotType":"IMAGE","inputs":{"required":{"n":["INT",{}]}}}]"#);
        assert!(!slot.required);
    }

    #[test]
    fn types_that_follow_others_and_unions_are_told() {
        let any = Input::matching("input", "t", "IMAGE,MASK").lazy();
        let template = r#"{"template_id":"t","allowed_types":"IMAGE,MASK"}"#;
        assert_eq!(told(&any), format!(r#"["COMFY_MATCHTYPE_V3",{{"lazy":true,"template":{template}}}]"#));
        let file = Input::text("file").also("FILE_3D,MESH").default("").socketless();
        assert_eq!(told(&file), r#"["STRING,FILE_3D,MESH",{"default":"","socketless":true,"widgetType":"STRING"}]"#);
        assert_eq!(told(&Input::link("model", "MODEL")), r#"["MODEL",{}]"#);
        assert_eq!(Input::link("model", "MODEL").config(Generation::Classic, &StaticOptions).to_string(), r#"["MODEL"]"#);
    }
}

//! Every class of the catalog is validated and run by the real executor: with its smallest values, its first values, each choice of its
//! combos, its largest values, and with lists. What a class is given comes from its schema and from what other classes make, so that a
//! new class is run without a word here; only where a type alone does not say what fits do the tables below.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use comfyd_engine::EngineOptions;
use comfyd_executor::{CachePolicy, Executor};
use comfyd_jobs::{Event, EventKind, EventSink};
use comfyd_node::{CancellationToken, Choices, Context, Input, InputKind, Inputs, MATCH_TYPE, Node, NodeOutput, Result, Schema, Value};
use comfyd_nodes::Limits;
use comfyd_values::Svg;
use common::{Bench, models};
use serde_json::{Map, Value as Json, json};

/// What gives a value of a type: `[class, slot]`. For other types it is the first class that gives one and takes none.
fn producer(ty: &str) -> Option<(&'static str, usize)> {
    Some(match ty {
        "MODEL" => ("CheckpointLoaderSimple", 0),
        "CLIP" => ("CheckpointLoaderSimple", 1),
        "VAE" => ("CheckpointLoaderSimple", 2),
        "CONDITIONING" => ("CLIPTextEncode", 0),
        "IMAGE" | "*" => ("EmptyImage", 0),
        "MASK" => ("SolidMask", 0),
        "LATENT" => ("EmptyLatentImage", 0),
        "SIGMAS" => ("BasicScheduler", 0),
        "SVG" => ("TestSvg", 0),
        "AUDIO" => ("EmptyAudio", 0),
        "VIDEO" => ("CreateVideo", 0),
        "CLIP_VISION" => ("CLIPVisionLoader", 0),
        _ => return None,
    })
}

/// Values for classes for which a type alone does not say what fits, and first values where those of the schema are large. A value with
/// `class_type` stands for a node, whose output `slot` is taken.
fn given(class: &str, side: u32) -> Json {
    let number = || json!({"class_type": "PrimitiveInt", "slot": 0, "inputs": {"value": 1}});
    let film = || json!({"class_type": "EmptyHunyuanLatentVideo", "slot": 0, "inputs": {"width": 64, "height": 64, "length": 33}});
    let sdxl = |slot: usize| json!({"class_type": "CheckpointLoaderSimple", "slot": slot, "inputs": {"ckpt_name": "sdxl.safetensors"}});
    let stereo = |channels: u32| json!({"class_type": "EmptyAudio", "slot": 0, "inputs": {"duration": 0.5, "channels": channels}});
    match class {
        "EmptyAudio" => json!({"duration": 0.5}),
        "RecordAudio" => json!({"audio": "sound.wav"}),
        "SplitAudioChannels" => json!({"audio": stereo(2)}),
        "JoinAudioChannels" => json!({"audio_left": stereo(1), "audio_right": stereo(1)}),
        "EmptyLatentAudio" => json!({"seconds": 1.0}),
        "EmptyImage" | "SolidMask" => json!({"width": side, "height": side}),
        "EmptyLatentImage" => json!({"width": side.max(16), "height": side.max(16)}),
        "BasicScheduler" | "KSampler" | "KSamplerAdvanced" => json!({"steps": 2}),
        "CLIPTextEncode" => json!({"text": "a (red:1.2) cat"}),
        "WebcamCapture" => json!({"image": "picture.png"}),
        "CreateHookKeyframesFromFloats" => json!({"floats_strength": 0.5}),
        "ImageToMask" => json!({"image": {"class_type": "JoinImageWithAlpha", "slot": 0}}),
        "LoraSave" => json!({"model_diff": null}),
        "CLIPTextEncodeSDXL" => json!({"clip": sdxl(1)}),
        "ImageCompare" => json!({"compare_view": ""}),
        "CustomCombo" => json!({"choice": "one"}),
        "ConvertDictionaryToString" => json!({"dictionary": {"a": 1}}),
        "ConvertArrayToString" => json!({"array": {"__value__": [1, "b"]}}),
        // Clients wrap lists, which would be links otherwise.
        "CreateBoundingBoxes" => json!({
            "editor_state": {"__value__": [{"x": 4, "y": 6, "width": 30, "height": 40, "metadata": {"type": "text", "text": "a", "palette": ["#ff0000"]}}]},
            "last_incoming": {"__value__": []},
        }),
        "BuildJsonPromptIdeogram" => json!({"element": {"__value__": []}, "color_palette": {"__value__": ["#aabbcc"]}}),
        // They encode pictures of a megapixel.
        "TextEncodeQwenImageEdit" | "TextEncodeQwenImageEditPlus" | "TextEncodeBooguEdit" | "TextEncodeJoyImageEdit" => {
            json!({"vae": {"class_type": "VAELoader", "slot": 0, "inputs": {"vae_name": "pixel_space"}}})
        }
        // With pictures they need a VAE of videos, which no class loads.
        "WanFunControlToVideo"
        | "WanVaceToVideo"
        | "WanPhantomSubjectToVideo"
        | "Wan22ImageToVideoLatent"
        | "WanCameraImageToVideo"
        | "HunyuanVideo15ImageToVideo"
        | "CosmosImageToVideoLatent"
        | "CosmosPredict2ImageToVideoLatent" => json!({
            "start_image": null, "end_image": null, "control_video": null, "control_masks": null, "reference_image": null, "images": null
        }),
        "SVD_img2vid_Conditioning" | "SV3D_Conditioning" if side <= SIDE => json!({"width": 64, "height": 64}),
        "HunyuanVideo15SuperResolution" => json!({"start_image": null, "latent": film()}),
        "NormalizeVideoLatentStart" => json!({"latent": film()}),
        // Pictures are neither true nor false.
        "ComfyNotNode" => json!({"value": number()}),
        "ComfyMathExpression" => json!({"values.a": number(), "values.b": number()}),
        "ComfyAndNode" | "ComfyOrNode" => json!({"values.value0": number(), "values.value1": number()}),
        _ => json!({}),
    }
}

/// Width and height of pictures, unless a test wants others.
const SIDE: u32 = 64;

/// What must fail, and how: classes, what their inputs hold if they do not always fail, and the error. With the smallest values the reference
/// fails too.
const FAILING: [(&str, &[&str], &str); 19] = [
    ("CLIPLoader", &["stable_cascade", "sd3", "hidream"], "are not supported; take stable_diffusion or sdxl"),
    (
        "DualCLIPLoader",
        &["sd3", "flux", "hunyuan_video", "hidream", "hunyuan_image", "kandinsky5", "ltxv", "newbie", r#""ace""#],
        "are not supported; take stable_diffusion or sdxl",
    ),
    ("ModelSamplingDiscrete", &["img_to_img"], "img_to_img is for models that are not supported"),
    ("KarrasScheduler", &[r#""rho":0.0"#], "needs a rho above 0"),
    ("ExponentialScheduler", &[r#""sigma_min":0.0}"#], "needs noise levels above 0"),
    ("PolyexponentialScheduler", &[r#""sigma_min":0.0,"#], "needs noise levels above 0"),
    ("BetaSamplingScheduler", &[r#""alpha":0.0"#], "needs alpha and beta above 0"),
    ("ModelSamplingContinuousEDM", &[r#""sigma_min":0.0}"#], "needs limits above 0"),
    ("ModelSamplingContinuousV", &[r#""sigma_min":0.0}"#], "needs limits above 0"),
    ("ModelSamplingStableCascade", &[r#""shift":0.0"#], "needs a shift above 0"),
    ("TrimAudioDuration", &[r#""duration":0.0"#], "nothing is left of"),
    ("ImageScaleToMaxDimension", &[r#""largest_size":0"#], "must be at least 1"),
    ("LatentUpscaleBy", &[r#""scale_by":0.01"#], "every side must be at least 1"),
    ("PiDConditioning", &["qwenimage"], "is none of Qwen Image"),
    ("HunyuanImageToVideo", &["v2 (replace)"], "needs an autoencoder of videos"),
    ("Wan22FunControlToVideo", &[""], "makes latents of 4 channels"),
    ("WanCameraEmbedding", &[r#""fx":0.0"#], "needs focal lengths above 0"),
    ("SD_4XUpscale_Conditioning", &[r#""scale_ratio":0.0"#], "the result would be smaller than 4 pixels"),
    // The nearest number in double precision is smaller than the limit itself.
    ("PrimitiveFloat", &["-9.223372036854776e"], "smaller than min"),
];

/// Interrupts what takes many steps.
struct Patience {
    cancel: CancellationToken,
    steps: f64,
}

impl EventSink for Patience {
    fn emit(&self, event: Event) {
        if let EventKind::Progress { value, .. } = event.kind
            && value > self.steps
        {
            self.cancel.cancel();
        }
    }
}

/// Interrupts the class under test a while after it began.
struct Impatience {
    cancel: CancellationToken,
    after: Duration,
    cancelled: Arc<Mutex<Option<Instant>>>,
}

impl EventSink for Impatience {
    fn emit(&self, event: Event) {
        if !matches!(&event.kind, EventKind::Executing(node) if &*node.id == "it") {
            return;
        }
        let (cancel, after, cancelled) = (self.cancel.clone(), self.after, self.cancelled.clone());
        std::thread::spawn(move || {
            std::thread::sleep(after);
            *cancelled.lock().unwrap() = Some(Instant::now());
            cancel.cancel();
        });
    }
}

/// A class for these tests: its schema, and what it does.
struct Helper(Schema, fn(&Inputs) -> Result<NodeOutput>);

impl Node for Helper {
    fn schema(&self) -> Schema {
        self.0.clone()
    }

    fn run(&self, _: &mut Context<'_>, inputs: Inputs) -> Result<NodeOutput> {
        (self.1)(&inputs)
    }
}

/// Which of a class's values are taken for its widgets.
#[derive(Clone, Copy, PartialEq)]
enum Widgets {
    Smallest,
    First,
}

/// Whether a graph ran anew, or what is wrong.
type Ran = std::result::Result<bool, String>;

/// Runs single classes.
struct Runner {
    bench: Bench,
    executor: Executor,
    done: HashSet<String>,
    /// How many steps a node may take.
    patience: f64,
    /// Width and height of the pictures that classes are given.
    side: u32,
}

impl Runner {
    fn new(limits: Limits, patience: f64) -> Self {
        let mut bench = Bench::with_models_and_limits(models::folder(), EngineOptions::default(), limits);
        add_files(&bench);
        let sink = Schema::new("TestSink").input(Input::link("value", "*")).output_node();
        bench.catalog.insert(Arc::new(Helper(sink, |inputs| {
            let ty = inputs.value("value")?.type_name();
            Ok(NodeOutput::default().with_ui("type", vec![ty.into()]))
        })));
        let svg = Schema::new("TestSvg").output("SVG");
        bench.catalog.insert(Arc::new(Helper(svg, |_| Ok(NodeOutput::one(Value::object(Svg(vec!["<svg/>".into()])))))));
        let types: HashSet<String> =
            bench.catalog.iter().flat_map(|entry| every(&entry.schema)).map(|(_, input)| input.type_name().to_owned()).collect();
        for ty in types {
            // Combos take links of any type, but none of their own.
            let of = if ty == "COMBO" { "*" } else { &ty };
            let list = Schema::new(&format!("ListOf {ty}")).input(Input::link("value", of)).output_list(of);
            bench.catalog.insert(Arc::new(Helper(list, |inputs| {
                let value = inputs.value("value")?;
                Ok(NodeOutput::one(Value::list(vec![value.clone(), value.clone()])))
            })));
        }
        let executor = bench.executor(CachePolicy::Lru(200));
        Self { bench, executor, done: HashSet::new(), patience, side: SIDE }
    }

    /// All classes but those of the tests.
    fn classes(&self) -> Vec<Arc<Schema>> {
        let own = |class: &str| class.starts_with("Test") || class.starts_with("ListOf ");
        self.bench.catalog.iter().map(|entry| Arc::clone(&entry.schema)).filter(|schema| !own(&schema.class)).collect()
    }

    /// A graph that runs the class and shows all that it gives. `set` are widgets' values; `lists` gives it two values of each input.
    fn graph(&self, schema: &Schema, widgets: Widgets, set: &[(String, Json)], lists: bool) -> Json {
        let mut nodes = Map::new();
        let mut inputs = self.inputs(schema, widgets, set, &mut nodes);
        for (name, value) in set {
            inputs.insert(name.clone(), value.clone());
        }
        if lists {
            for input in flat(&schema.inputs, set).iter().filter(|input| !input.raw_link) {
                if let Some(value) = inputs.get_mut(&input.name) {
                    let id = format!("list {}", input.name);
                    let list = json!({"class_type": format!("ListOf {}", input.type_name()), "inputs": {"value": value.take()}});
                    *value = json!([id, 0]);
                    nodes.insert(id, list);
                }
            }
        }
        nodes.insert("it".into(), json!({"class_type": schema.class, "inputs": inputs}));
        for slot in 0..schema.outputs.len() {
            nodes.insert(format!("sink {slot}"), json!({"class_type": "TestSink", "inputs": {"value": ["it", slot]}}));
        }
        Json::Object(nodes)
    }

    /// What a class is given: links to nodes that are added to `nodes`, and its widgets' values.
    fn inputs(&self, schema: &Schema, widgets: Widgets, set: &[(String, Json)], nodes: &mut Map<String, Json>) -> Map<String, Json> {
        let mut given = given(&schema.class, self.side);
        if self.side <= SIDE && ["vae", "length"].iter().all(|name| schema.inputs.iter().any(|input| input.name == *name)) {
            // A film of the usual size takes minutes to encode.
            given
                .as_object_mut()
                .unwrap()
                .extend([("width", 64), ("height", 64), ("length", 5)].map(|(name, n)| (name.to_owned(), json!(n))));
        }
        let mut inputs = Map::new();
        for input in &flat(&schema.inputs, set) {
            let value = match given.get(&input.name) {
                Some(Json::Null) => None,
                Some(node) if node.get("class_type").is_some() => Some(self.node(node, nodes)),
                Some(value) if widgets == Widgets::First || !is_number(input) => Some(value.clone()),
                Some(_) | None => self.value(input, widgets, nodes),
            };
            match value {
                Some(value) => drop(inputs.insert(input.name.clone(), value)),
                None => assert!(!input.required, "nothing gives {} for {}.{}", input.type_name(), schema.class, input.name),
            }
        }
        inputs
    }

    fn value(&self, input: &Input, widgets: Widgets, nodes: &mut Map<String, Json>) -> Option<Json> {
        let option = |key: &str| input.options.as_ref().and_then(|options| options.get(key)).cloned();
        let first = || option("default");
        match &input.kind {
            InputKind::Int | InputKind::Float => {
                let value = if widgets == Widgets::Smallest { option("min").or_else(first) } else { first().or_else(|| option("min")) };
                let value = value.unwrap_or(json!(0));
                Some(if input.kind == InputKind::Float { json!(value.as_f64()) } else { value })
            }
            InputKind::Bool => Some(json!(widgets == Widgets::First && first() == Some(json!(true)))),
            InputKind::Text => Some(first().unwrap_or(json!(""))),
            InputKind::Combo(Choices::Remote) => Some(json!("picture.png [output]")),
            InputKind::Combo(_) => {
                let choices = input.choices(&*self.bench.folders).unwrap_or_default();
                let preferred = [
                    "sd15.safetensors",
                    "lora.safetensors",
                    "controlnet.safetensors",
                    "vae.safetensors",
                    "style.safetensors",
                    "picture.png",
                    "film.mp4",
                ];
                let fitting = choices.iter().find(|choice| preferred.iter().any(|name| **choice == **name));
                Some(fitting.or(choices.first()).unwrap_or_else(|| panic!("no file for {}", input.name)).clone())
            }
            // One class declares its choices as an option.
            InputKind::Other(_) if !choices(input).is_empty() => choices(input).first().cloned(),
            InputKind::Other(_) if first().is_some() => first(),
            InputKind::Other(ty) if ty == MATCH_TYPE => {
                let allowed = option("template").unwrap()["allowed_types"].as_str().unwrap().to_owned();
                self.produce(allowed.split(',').next().unwrap(), nodes)
            }
            InputKind::Other(union) => {
                let ty = union.split(',').next().unwrap();
                self.produce(ty, nodes)
            }
            InputKind::Grow(_) | InputKind::Branch(_) | InputKind::Slot { .. } => panic!("{} stands for others", input.name),
        }
    }

    /// A link to a node that gives the type; `None` if no class does.
    fn produce(&self, ty: &str, nodes: &mut Map<String, Json>) -> Option<Json> {
        let found = producer(ty).map(|(class, slot)| (class.to_owned(), slot)).or_else(|| {
            self.classes().iter().find_map(|schema| {
                let slot = schema.outputs.iter().position(|output| output.ty == ty)?;
                let circular = schema.inputs.iter().any(|input| input.required && input.type_name() == ty);
                (!circular).then(|| (schema.class.clone(), slot))
            })
        });
        let (class, slot) = found?;
        Some(self.node(&json!({"class_type": class, "slot": slot}), nodes))
    }

    /// A link to a node that is described as in [`given`].
    fn node(&self, described: &Json, nodes: &mut Map<String, Json>) -> Json {
        let class = described["class_type"].as_str().unwrap();
        let set = described.get("inputs").cloned().unwrap_or(json!({}));
        let id = format!("{class} {set}");
        if !nodes.contains_key(&id) {
            let schema = Arc::clone(&self.bench.catalog.get(class).unwrap_or_else(|| panic!("no class {class}")).schema);
            // Optional inputs of producers stay empty, else some would need each other.
            let needed = Schema { inputs: schema.inputs.iter().filter(|input| input.required).cloned().collect(), ..(*schema).clone() };
            let mut inputs = self.inputs(&needed, Widgets::First, &[], nodes);
            inputs.extend(set.as_object().unwrap().clone());
            nodes.insert(id.clone(), json!({"class_type": class, "inputs": inputs}));
        }
        json!([id, described["slot"]])
    }

    /// Runs a graph and interrupts the class in it. The error tells how long it went on.
    fn interrupt(&mut self, graph: Json) -> Ran {
        if !self.done.insert(graph.to_string()) {
            return Ok(false);
        }
        let cancel = CancellationToken::default();
        let cancelled = Arc::new(Mutex::new(None));
        let sink = Impatience { cancel: cancel.clone(), after: Duration::from_millis(100), cancelled: cancelled.clone() };
        let _any = self.bench.execute(&mut self.executor, graph, &cancel, Arc::new(sink));
        let went_on = cancelled.lock().unwrap().map(|at: Instant| at.elapsed()).unwrap_or_default();
        if went_on > SLOWEST { Err(format!("it went on for {went_on:?}")) } else { Ok(true) }
    }

    /// Runs a graph that holds the class as the node `it`. `Ok(false)` if it ran before.
    fn run(&mut self, schema: &Schema, graph: Json) -> Ran {
        if !self.done.insert(graph.to_string()) {
            return Ok(false);
        }
        let cancel = CancellationToken::default();
        let patience = Arc::new(Patience { cancel: cancel.clone(), steps: self.patience });
        let outcome = self.bench.execute(&mut self.executor, graph, &cancel, patience)?;
        for (slot, output) in schema.outputs.iter().enumerate() {
            let types = outcome.outputs[format!("sink {slot}")]["type"].as_array().cloned().unwrap_or_default();
            if types.is_empty()
                || types.iter().any(|ty| !(fits(ty.as_str().unwrap(), &output.ty) || schema.class == IN_ONE && ty == "LIST"))
            {
                return Err(format!("output {slot} is declared as {} and holds {types:?}", output.ty));
            }
        }
        Ok(true)
    }
}

/// How long after it was interrupted a class may go on. It is a second where nothing else runs and the program is optimised.
const SLOWEST: Duration = Duration::from_secs(4);

/// Types of widgets, and what their values are.
const WIDGETS: [(&str, &str); 6] =
    [("STRING", "COLOR"), ("STRING", "COMBO"), ("JSON", "BOUNDING_BOX"), ("JSON", "HISTOGRAM"), ("JSON", "ARRAY"), ("JSON", "DICT")];

/// The class whose output is one value that is a list of the declared type.
const IN_ONE: &str = "MergeTextLists";

/// Whether a value of a type may leave an output of that type; a checkpoint's missing parts are empty, and so is
/// the sound of a silent film.
fn fits(got: &str, declared: &str) -> bool {
    declared.split(',').any(|ty| ty == got)
        || declared == "*"
        || declared == MATCH_TYPE
        || WIDGETS.contains(&(got, declared))
        || (got == "NONE" && ["CLIP_VISION", "AUDIO"].contains(&declared))
}

/// The inputs that a node has for which `set` makes the choices that bring inputs; where it says nothing, the first is chosen. Of those that
/// grow there are two at least.
fn flat(inputs: &[Input], set: &[(String, Json)]) -> Vec<Input> {
    let mut out = Vec::new();
    for input in inputs {
        let beneath = |inputs: &[Input]| -> Vec<Input> {
            inputs.iter().map(|inner| Input { name: format!("{}.{}", input.name, inner.name), ..inner.clone() }).collect()
        };
        match &input.kind {
            InputKind::Grow(grow) => {
                let members = grow.all_names().into_iter().take(grow.min.max(2)).enumerate();
                let required = |at: usize| grow.member.required && at < grow.min;
                let members: Vec<Input> = members.map(|(at, name)| Input { name, required: required(at), ..grow.member.clone() }).collect();
                out.extend(beneath(&members));
            }
            InputKind::Branch(branches) => {
                let chosen = set.iter().find(|(name, _)| *name == input.name).map(|(_, key)| key.as_str().unwrap());
                let branch = branches.iter().find(|branch| Some(&*branch.key) == chosen).unwrap_or(&branches[0]);
                out.extend(flat(&beneath(&branch.inputs), set));
                let keys = branches.iter().map(|branch| json!(branch.key)).collect();
                out.push(Input { kind: InputKind::Combo(Choices::Fixed(keys)), ..input.clone() });
            }
            InputKind::Slot { ty, inputs } => {
                out.extend(flat(&beneath(inputs), set));
                out.push(Input { kind: InputKind::Other(ty.clone()), ..input.clone() });
            }
            _ => out.push(input.clone()),
        }
    }
    out
}

/// Every way in which the choices can be made that bring inputs: none, and then one after the other.
fn ways(inputs: &[Input], made: &[(String, Json)], out: &mut Vec<Vec<(String, Json)>>) {
    out.push(made.to_vec());
    for input in inputs {
        let InputKind::Branch(branches) = &input.kind else { continue };
        for branch in branches {
            let inner: Vec<Input> =
                branch.inputs.iter().map(|inner| Input { name: format!("{}.{}", input.name, inner.name), ..inner.clone() }).collect();
            ways(&inner, &[made, &[(input.name.clone(), json!(branch.key))]].concat(), out);
        }
    }
}

/// Every input that a node of the class may have, with the choices that bring it.
fn every(schema: &Schema) -> Vec<(Vec<(String, Json)>, Input)> {
    let mut all = Vec::new();
    ways(&schema.inputs, &[], &mut all);
    all.into_iter().flat_map(|set| flat(&schema.inputs, &set).into_iter().map(move |input| (set.clone(), input))).collect()
}

/// All that can be chosen, but for files.
fn choices(input: &Input) -> Vec<Json> {
    match &input.kind {
        InputKind::Combo(Choices::Fixed(choices)) => choices.clone(),
        InputKind::Bool => vec![json!(false), json!(true)],
        InputKind::Other(_) => input.options.as_ref().and_then(|o| o.get("options")?.as_array().cloned()).unwrap_or_default(),
        InputKind::Combo(Choices::Files { .. } | Choices::Parts(_) | Choices::Remote)
        | InputKind::Int
        | InputKind::Float
        | InputKind::Text
        | InputKind::Grow(_)
        | InputKind::Branch(_)
        | InputKind::Slot { .. } => Vec::new(),
    }
}

fn is_number(input: &Input) -> bool {
    matches!(input.kind, InputKind::Int | InputKind::Float)
}

/// The files that combos list beside the reduced models.
fn add_files(bench: &Bench) {
    let roots = bench.folders.roots();
    let picture = std::fs::read(common::conformance().join("nodes/pic0.png")).unwrap();
    std::fs::create_dir_all(roots.input.join("set")).unwrap();
    for path in [roots.input.join("picture.png"), roots.output.join("picture.png"), roots.input.join("set/1.png")] {
        std::fs::write(path, &picture).unwrap();
    }
    for (from, to) in [("snd0.wav", "sound.wav"), ("film0.mp4", "film.mp4")] {
        std::fs::copy(common::conformance().join("media").join(from), roots.input.join(to)).unwrap();
    }
    std::fs::copy(roots.input.join("film.mp4"), roots.input.join("set/film.mp4")).unwrap();
    let latent = common::conformance().join("nodes/lat0.latent");
    std::fs::copy(latent, roots.input.join("a.latent")).unwrap();
    let models = |folder: &str| bench.folders.model_paths(folder).unwrap().last().unwrap().clone();
    let diffusers = models("diffusers").join("sd15");
    for (part, from, to) in [
        ("unet", "diffusion_models/unet.safetensors", "diffusion_pytorch_model.safetensors"),
        ("vae", "vae/vae.safetensors", "diffusion_pytorch_model.safetensors"),
        ("text_encoder", "text_encoders/clip_l.safetensors", "model.safetensors"),
    ] {
        std::fs::create_dir_all(diffusers.join(part)).unwrap();
        std::fs::copy(models::folder().join("models").join(from), diffusers.join(part).join(to)).unwrap();
    }
    std::fs::write(diffusers.join("model_index.json"), "{}").unwrap();
}

/// Runs what `cases` makes for every class; `right` gives what is wrong with a result, told with what the class was given.
fn run_all(mut runner: Runner, cases: impl Fn(&Runner, &Schema) -> Vec<Json>, right: impl Fn(&Schema, &str, Ran) -> Option<String>) {
    let mut wrong = Vec::new();
    for schema in runner.classes() {
        for graph in cases(&runner, &schema) {
            let inputs = graph["it"]["inputs"].to_string();
            let result = runner.run(&schema, graph);
            wrong.extend(right(&schema, &inputs, result).map(|problem| format!("{} {inputs}: {problem}", schema.class)));
        }
    }
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// It succeeds, or fails as it is known to.
fn succeeds(schema: &Schema, inputs: &str, result: Ran) -> Option<String> {
    let known = FAILING.iter().find(|(class, with, _)| *class == schema.class && with.iter().any(|text| inputs.contains(text)));
    if let Err(error) = &result
        && error.contains("need FFmpeg")
    {
        eprintln!("SKIPPED: {} is not run here: {error}", schema.class);
        return None;
    }
    match (result, known) {
        (Ok(_), None) | (Ok(false), Some(_)) => None,
        (Ok(true), Some((_, _, error))) => Some(format!("it is known to fail with '{error}'")),
        (Err(error), Some((_, _, known))) if error.contains(known) => None,
        (Err(error), _) => Some(error),
    }
}

/// It succeeds, or says why it does not.
fn does_not_panic(_: &Schema, _: &str, result: Ran) -> Option<String> {
    result.err().filter(|error| error.contains("panicked"))
}

#[test]
fn with_its_smallest_and_its_first_values() {
    let cases = |runner: &Runner, schema: &Schema| {
        [Widgets::Smallest, Widgets::First].map(|widgets| runner.graph(schema, widgets, &[], false)).to_vec()
    };
    run_all(Runner::new(Limits::default(), f64::INFINITY), cases, succeeds);
}

#[test]
fn with_lists() {
    let cases = |runner: &Runner, schema: &Schema| vec![runner.graph(schema, Widgets::First, &[], true)];
    run_all(Runner::new(Limits::default(), f64::INFINITY), cases, succeeds);
}

#[test]
fn with_each_choice() {
    let cases = |runner: &Runner, schema: &Schema| {
        let one = |set: Vec<(String, Json)>, name: &str, choice: Json| {
            runner.graph(schema, Widgets::First, &[set, vec![(name.to_owned(), choice)]].concat(), false)
        };
        let mut graphs = Vec::new();
        for (set, input) in every(schema) {
            let open = set.iter().all(|(name, _)| *name != input.name);
            graphs.extend(choices(&input).into_iter().filter(|_| open).map(|choice| one(set.clone(), &input.name, choice)));
        }
        graphs
    };
    run_all(Runner::new(Limits::default(), f64::INFINITY), cases, succeeds);
}

#[test]
fn with_its_largest_values() {
    let cases = |runner: &Runner, schema: &Schema| {
        let numbers = every(schema).into_iter().filter(|(_, input)| is_number(input));
        let largest = numbers.filter_map(|(set, input)| {
            let most = input.options.as_ref()?.get("max")?.clone();
            Some([set, vec![(input.name, most)]].concat())
        });
        largest.map(|set| runner.graph(schema, Widgets::First, &set, false)).collect()
    };
    run_all(Runner::new(Limits { max_tensor_bytes: 1 << 20, ..Limits::default() }, 3.0), cases, does_not_panic);
}

#[test]
fn with_pictures_of_one_pixel() {
    let cases = |runner: &Runner, schema: &Schema| {
        let takes = |input: &Input| ["IMAGE", "MASK", "LATENT"].contains(&input.type_name());
        every(schema).iter().any(|(_, input)| takes(input)).then(|| runner.graph(schema, Widgets::First, &[], false)).into_iter().collect()
    };
    run_all(Runner { side: 1, ..Runner::new(Limits::default(), f64::INFINITY) }, cases, does_not_panic);
}

#[test]
fn an_interruption_is_heeded_at_any_size() {
    let limits = Limits { max_tensor_bytes: 1 << 29, ..Limits::default() };
    let mut runner = Runner { side: 2048, ..Runner::new(limits, f64::INFINITY) };
    let mut wrong = Vec::new();
    for schema in runner.classes() {
        if let Err(problem) = runner.interrupt(runner.graph(&schema, Widgets::First, &[], false)) {
            wrong.push(format!("{}: {problem}", schema.class));
        }
        // Large results of one class are of no use to the next.
        runner.executor.clear();
    }
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

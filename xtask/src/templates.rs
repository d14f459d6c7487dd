//! `cargo xtask templates`: which node classes and models the official workflow templates that run on one's own machine lack here. Knows the
//! form of the templates' index and of workflows, not what a class does.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

const USAGE: &str = "usage: cargo xtask templates [--templates DIR] [--comfyd FILE] [--models DIR]

  --templates DIR   folder with the templates' index.json, as in the package comfyui-workflow-templates-json; without it they are
                    downloaded into target/templates
  --comfyd FILE     the program whose classes count, in place of this project's debug build
  --models DIR      folder with model folders in which the templates' models are looked for (target/templates/models)";

/// What the front end draws by itself: no class is needed for it.
const DRAWN: [&str; 4] = ["MarkdownNote", "Note", "PrimitiveNode", "Reroute"];

/// So many of the classes that most templates lack are told.
const TOLD: usize = 20;

/// How wide the column of the classes is.
const CLASS_COLUMN: usize = 32;

struct Arguments {
    templates: Option<PathBuf>,
    comfyd: Option<PathBuf>,
    models: Option<PathBuf>,
}

fn arguments(given: &[String]) -> Result<Arguments, String> {
    let mut arguments = Arguments { templates: None, comfyd: None, models: None };
    let mut given = given.iter();
    while let Some(name) = given.next() {
        let value = Some(PathBuf::from(given.next().ok_or(USAGE)?));
        match name.as_str() {
            "--templates" => arguments.templates = value,
            "--comfyd" => arguments.comfyd = value,
            "--models" => arguments.models = value,
            _ => return Err(USAGE.into()),
        }
    }
    Ok(arguments)
}

/// The class in a line of `comfyd nodes`, which are in columns: some names have a space inside.
fn class_of(line: &str) -> Option<&str> {
    match line.split_at_checked(CLASS_COLUMN) {
        Some((class, rest)) if rest.starts_with(' ') => Some(class.trim_end()),
        _ => line.split_whitespace().next(),
    }
}

/// Runs the command.
pub(crate) fn run(root: &Path, given: &[String]) -> Result<(), String> {
    let Arguments { templates, comfyd, models } = arguments(given)?;
    let base = root.join("target/templates");
    let comfyd = comfyd.map_or_else(|| build(root), Ok)?;
    let ask = |words: &[&str]| {
        let answered = Command::new(&comfyd).args(words).arg("--base-directory").arg(&base).output();
        let answered = answered.map_err(|error| format!("{} cannot be run: {error}", comfyd.display()))?;
        let said = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        if answered.status.success() { Ok(said(answered.stdout)) } else { Err(said(answered.stderr)) }
    };
    let listed = ask(&["nodes"])?;
    let classes: BTreeSet<&str> = listed.lines().filter_map(class_of).collect();
    let folder = match templates {
        Some(folder) => folder,
        None => Path::new(ask(&["frontend", "install", "--with-templates=workflows"])?.trim()).join("templates"),
    };
    let models = models.unwrap_or_else(|| base.join("models"));
    let mut report = Report::default();
    for name in local(&read(&folder.join("index.json"))?) {
        report.add(&name, &Needs::of(&read(&folder.join(format!("{name}.json")))?), &classes, &models);
    }
    print!("{}", report.text());
    if report.all == 0 { Err(format!("{} lists no template", folder.join("index.json").display())) } else { Ok(()) }
}

/// Makes the program.
fn build(root: &Path) -> Result<PathBuf, String> {
    crate::server::cargo(root, &["build", "-p", "comfyd"], &[]).map_err(|error| error.to_string())?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    Ok(target.join("debug/comfyd"))
}

fn read(file: &Path) -> Result<Value, String> {
    let text = std::fs::read(file).map_err(|error| format!("{} cannot be read: {error}", file.display()))?;
    serde_json::from_slice(&text).map_err(|error| format!("{} is no JSON: {error}", file.display()))
}

/// The names of an index's templates that use no partner's servers, each once.
fn local(index: &Value) -> Vec<String> {
    let groups = index.as_array().into_iter().flatten();
    let templates = groups.filter_map(|group| group["templates"].as_array()).flatten();
    let own = templates.filter(|template| template["openSource"] != false).filter_map(|template| template["name"].as_str());
    let mut seen = BTreeSet::new();
    own.filter(|name| seen.insert(*name)).map(str::to_owned).collect()
}

/// What a workflow needs.
#[derive(Debug, Default, PartialEq)]
struct Needs {
    classes: BTreeSet<String>,
    /// `folder/name`.
    models: BTreeSet<String>,
}

impl Needs {
    fn of(workflow: &Value) -> Self {
        let list = |value: &'_ Value| value.as_array().cloned().unwrap_or_default();
        let subgraphs = list(&workflow["definitions"]["subgraphs"]);
        let own: BTreeSet<&str> = subgraphs.iter().filter_map(|subgraph| subgraph["id"].as_str()).collect();
        let nodes = std::iter::once(workflow).chain(&subgraphs).flat_map(|graph| list(&graph["nodes"]));
        let mut needs = Self::default();
        for node in nodes {
            let class = node["type"].as_str().unwrap_or_default();
            if !own.contains(class) && !DRAWN.contains(&class) {
                needs.classes.insert(class.to_owned());
            }
            for model in list(&node["properties"]["models"]) {
                if let (Some(folder), Some(name)) = (model["directory"].as_str(), model["name"].as_str()) {
                    needs.models.insert(format!("{folder}/{name}"));
                }
            }
        }
        needs
    }
}

/// What was found.
#[derive(Debug, Default)]
struct Report {
    all: usize,
    with_classes: usize,
    with_all: usize,
    lines: Vec<String>,
    /// Class → how many templates lack it.
    lacking: BTreeMap<String, usize>,
}

impl Report {
    fn add(&mut self, name: &str, needs: &Needs, classes: &BTreeSet<&str>, models: &Path) {
        let lacks: Vec<&str> = needs.classes.iter().map(String::as_str).filter(|class| !classes.contains(class)).collect();
        let absent: Vec<&str> = needs.models.iter().map(String::as_str).filter(|model| !models.join(model).is_file()).collect();
        self.all += 1;
        self.with_classes += usize::from(lacks.is_empty());
        self.with_all += usize::from(lacks.is_empty() && absent.is_empty());
        for class in &lacks {
            *self.lacking.entry((*class).to_owned()).or_default() += 1;
        }
        let told = |what: &str, list: &[&str]| if list.is_empty() { String::new() } else { format!("\n  {what}: {}", list.join(", ")) };
        self.lines.push(format!("{name}{}{}\n", told("classes", &lacks), told("models", &absent)));
    }

    fn text(&self) -> String {
        let Self { all, with_classes, with_all, lines, lacking } = self;
        let mut most: Vec<(&String, &usize)> = lacking.iter().collect();
        most.sort_by_key(|(class, count)| (std::cmp::Reverse(**count), *class));
        let most: Vec<String> = most.iter().take(TOLD).map(|(class, count)| format!("{class} ({count})")).collect();
        let most = if most.is_empty() { String::new() } else { format!("classes that most lack: {}\n", most.join(", ")) };
        let total = format!("{with_classes} of {all} local templates need no class that is missing, {with_all} no model either");
        format!("{}\n{most}{total}\n", lines.concat())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn classes_with_spaces_are_read_too() {
        let line = |class: &str| format!("{class:<32} a menu/of words");
        for class in ["KSampler", "Video Slice", "AClassWhoseNameIsMuchLongerThanItsColumn"] {
            assert_eq!(class_of(&line(class)), Some(class));
        }
    }

    #[test]
    fn what_runs_on_ones_own_machine_is_listed_once() {
        let template = |name: &str, open: Value| json!({"name": name, "openSource": open});
        let index = json!([{"templates": [template("a", Value::Null), template("api", json!(false))]}, {"templates": [template("a", json!(true))]}]);
        assert_eq!(local(&index), ["a"]);
    }

    #[test]
    fn a_workflow_needs_what_its_subgraphs_need() {
        let loader = json!({"type": "Loader", "properties": {"models": [{"name": "m.sft", "directory": "vae"}]}});
        let inner = json!({"id": "1-2", "nodes": [loader, {"type": "Inner"}]});
        let workflow = json!({"nodes": [{"type": "1-2"}, {"type": "Note"}, {"type": "Outer"}], "definitions": {"subgraphs": [inner]}});
        let needs = Needs::of(&workflow);
        assert_eq!(needs.classes.iter().collect::<Vec<_>>(), ["Inner", "Loader", "Outer"]);
        let mut report = Report::default();
        report.add("t", &needs, &BTreeSet::from(["Loader", "Inner"]), Path::new("/nowhere"));
        report.add("u", &Needs::default(), &BTreeSet::new(), Path::new("/nowhere"));
        let total = "1 of 2 local templates need no class that is missing, 1 no model either\n";
        assert_eq!(report.text(), format!("t\n  classes: Outer\n  models: vae/m.sft\nu\n\nclasses that most lack: Outer (1)\n{total}"));
    }
}

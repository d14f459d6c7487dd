//! What is known of an installation, and how long it is good.

use std::path::Path;
use std::sync::Arc;

use comfyd_node::{ChoicePart, Choices, FileSource, InputKind, OptionSource};
use comfyd_python::{Error, Settings, State, Worker};
use serde_json::json;

use crate::support::*;

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

struct NoFiles;

impl OptionSource for NoFiles {
    fn files(&self, _: &FileSource) -> Vec<String> {
        vec!["listed".into()]
    }
}

#[test]
fn a_manifest_is_kept_until_the_installation_changes() {
    if !python() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let comfyui = folder.path().join("ComfyUI");
    copy(&stub(), &comfyui);
    let data = Arc::new(tempfile::tempdir().unwrap());
    let change = |settings: &mut Settings| settings.comfyui.clone_from(&comfyui);
    let first = cold_in(data.clone(), change);
    assert!(first.worker.manifest().is_none() && first.entries.is_empty());
    first.worker.known().unwrap();
    let (version, classes) = (first.worker.host().version(), first.worker.entries().len());
    assert!(classes > 40);
    drop(first);
    let second = cold_in(data.clone(), change);
    assert_eq!(second.worker.entries().len(), classes, "they are known at once");
    second.worker.known().unwrap();
    assert_eq!((second.worker.state(), second.worker.host().version()), (State::Cold, version.clone()), "and nothing was started");
    assert_eq!(second.worker.manifest().unwrap()["versions"]["comfyui"], json!("0.33.0-stub"));
    drop(second);
    let pack = comfyui.join("custom_nodes/later");
    std::fs::create_dir(&pack).unwrap();
    let text = "class Later:\n    RETURN_TYPES, FUNCTION, CATEGORY = ('INT',), 'run', 'x'\n    @classmethod\n    def INPUT_TYPES(cls):\n        \
                return {'required': {}}\n    def run(self):\n        return (1,)\n\n\nNODE_CLASS_MAPPINGS = {'Later': Later}\n";
    std::fs::write(pack.join("__init__.py"), text).unwrap();
    let mut third = cold_in(data.clone(), change);
    assert!(third.worker.manifest().is_none(), "a new pack: nothing is known");
    third.worker.known().unwrap();
    third.learn();
    assert!(third.entries.contains_key("Later"));
    assert_ne!(third.worker.host().version(), version);
    drop(third);
    std::fs::write(data.path().join("python-default.json"), "{\"key\":").unwrap();
    assert!(cold_in(data, change).worker.manifest().is_none(), "a damaged file is not used");
}

#[test]
fn classes_that_could_not_let_go_of_a_value_are_kept_in_mind() {
    if !python() {
        return;
    }
    let data = Arc::new(tempfile::tempdir().unwrap());
    let mut first = cold_in(data.clone(), |_| {});
    first.worker.ready().unwrap();
    first.learn();
    let stays = |rig: &Rig| {
        let entries = rig.worker.entries();
        let staying = entries.iter().filter(|entry| entry.schema.hosted.as_ref().unwrap().stays);
        staying.map(|entry| entry.schema.class.clone()).collect::<Vec<_>>()
    };
    assert!(stays(&first).is_empty());
    let changes = *first.heard.changes.lock();
    first.class("StubEcho").stay();
    assert_eq!(stays(&first), ["StubEcho"]);
    assert_eq!(*first.heard.changes.lock(), changes + 1, "the catalog is made anew");
    drop(first);
    let second = cold_in(data, |_| {});
    assert_eq!(stays(&second), ["StubEcho"]);
    second.worker.ready().unwrap();
    assert_eq!(stays(&second), ["StubEcho"], "though the process does not know of it");
}

#[test]
fn classes_of_which_comfyui_cannot_tell_are_there_all_the_same() {
    if !python() {
        return;
    }
    let rig = ready(|settings| settings.variables.push(("STUB_ODD".into(), "1".into())));
    let listed = |name: &str| rig.entries[name].schema.is_listed();
    assert_eq!(["StubNoTypes", "StubNoJson", "StubNoComma"].map(listed), [false, false, true]);
    assert!(!rig.entries.contains_key("StubNeverDeclared"));
    let types: Vec<_> = rig.entries["StubNoComma"].schema.outputs.iter().map(|output| output.ty.as_str()).collect();
    assert_eq!(types.concat(), "IMAGE");
    rig.begin().unwrap();
    let ran = rig.run("StubNoTypes", &[("value", is(5))]).unwrap();
    assert_eq!(ran.ui.unwrap()["text"], json!(["5"]));
}

#[test]
fn packs_are_told_with_their_failures() {
    if !python() {
        return;
    }
    let rig = rig();
    let report = rig.worker.report().unwrap();
    let broken: Vec<_> = report.failed().collect();
    let leaves = broken.iter().find(|pack| pack.name == "stub_leaves").unwrap();
    assert!(leaves.error.as_ref().unwrap().contains("this pack wants a restart"), "{leaves:?}");
    let broken: Vec<_> = broken.into_iter().filter(|pack| pack.name == "stub_broken").collect();
    assert_eq!(broken.len(), 1);
    assert!(broken[0].error.as_ref().unwrap().contains("a_module_that_nobody_has"), "{broken:?}");
    let nodes = report.packs.iter().find(|pack| pack.name == "stub_nodes").unwrap();
    assert!(nodes.error.is_none() && nodes.classes.contains(&"StubEcho".to_owned()));
    assert!(report.versions.iter().any(|(name, version)| name == "comfyui" && version == "0.33.0-stub"));
    assert!(!rig.entries.contains_key("StubNever"));
    let manifest = rig.worker.manifest().unwrap();
    assert!(manifest["web"]["stub_web"].as_str().unwrap().ends_with("js"));
    assert!(manifest["routes"].as_array().unwrap().contains(&json!(["GET", "/stub/hello/{name}"])));
    assert!(manifest.get("classes").is_none() && manifest.get("re").is_none());
}

#[test]
fn files_of_combos_are_listed_here_and_folders_are_watched() {
    if !python() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let comfyui = folder.path().join("ComfyUI");
    copy(&stub(), &comfyui);
    let mut rig = ready(|settings| settings.comfyui.clone_from(&comfyui));
    let schema = rig.entries["StubFiles"].schema.clone();
    let InputKind::Combo(Choices::Parts(parts)) = &schema.find_input("file").unwrap().kind else { panic!("{schema:?}") };
    assert_eq!(*parts, [ChoicePart::Fixed(json!("none")), ChoicePart::Files(FileSource::Models("stubs".into()))]);
    let told = schema.object_info(&NoFiles);
    assert_eq!(told["input"]["required"]["file"][0], json!(["none", "listed"]));
    let InputKind::Combo(Choices::Fixed(_)) = &schema.find_input("last").unwrap().kind else { panic!("{schema:?}") };
    let files = |rig: &Rig| match &rig.entries["StubFolder"].schema.find_input("file").unwrap().kind {
        InputKind::Combo(Choices::Fixed(files)) => files.clone(),
        other => panic!("{other:?}"),
    };
    assert!(!files(&rig).contains(&json!("new.txt")));
    let changes = *rig.heard.changes.lock();
    rig.worker.refresh();
    assert_eq!(*rig.heard.changes.lock(), changes, "nothing has changed");
    std::fs::write(comfyui.join("custom_nodes/stub_nodes/new.txt"), "").unwrap();
    rig.worker.refresh();
    assert_eq!(*rig.heard.changes.lock(), changes + 1);
    rig.learn();
    assert!(files(&rig).contains(&json!("new.txt")));
    rig.worker.refresh();
    assert_eq!(*rig.heard.changes.lock(), changes + 1, "it is asked once");
}

#[test]
fn what_is_no_installation_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |settings: Settings| Worker::new(settings, Arc::new(Heard::default())).err().unwrap();
    let settings = Settings { comfyui: folder.path().into(), ..Settings::default() };
    let error = refused(settings.clone());
    assert!(matches!(&error, Error::Unusable(why) if why.contains("has no main.py")), "{error}");
    std::fs::write(folder.path().join("main.py"), "").unwrap();
    let error = refused(Settings { python: Some(folder.path().join("none")), ..settings });
    assert!(matches!(&error, Error::Unusable(why) if why.contains("there is no interpreter")), "{error}");
}

#[test]
fn figures_are_told_while_it_is_ready() {
    if !python() {
        return;
    }
    let rig = cold(|_| {});
    assert!(rig.worker.stats().is_none());
    rig.worker.refresh();
    rig.worker.start();
    rig.worker.ready().unwrap();
    let stats = rig.worker.stats().unwrap();
    assert_eq!((&stats["objects"], &stats["comfyui"]), (&json!(0), &json!("0.33.0-stub")));
    assert!(rig.worker.http().exists());
    let folder = rig.worker.http().parent().unwrap().to_owned();
    let mode = std::os::unix::fs::PermissionsExt::mode(&folder.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o700, "nobody else reaches the socket");
    rig.worker.host().free(true, true);
    rig.worker.shutdown();
    assert!(!folder.exists(), "also while a catalog has its classes");
}

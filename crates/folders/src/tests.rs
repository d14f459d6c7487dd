//! Tests of folders, names and listings; they know nothing of clients.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use comfyd_node::{FileSource, OptionSource};
use proptest::prelude::*;

use crate::{AddedFolder, Error, FileVersion, Folders, Kind, Roots, extension, join_inside, split_annotation};

fn folders() -> (tempfile::TempDir, Folders) {
    let dir = tempfile::tempdir().unwrap();
    let folders = Folders::new(Roots::under(dir.path())).unwrap();
    (dir, folders)
}

fn touch(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, b"x").unwrap();
}

#[test]
fn names_that_lead_outside_are_refused() {
    let root = Path::new("/srv");
    for bad in ["../x", "a/../../x", "/etc/passwd", "a\0b"] {
        assert!(matches!(join_inside(root, Path::new(bad)), Err(Error::Outside { .. })), "{bad}");
    }
    assert_eq!(join_inside(root, Path::new("a/../b/./c")).unwrap(), Path::new("/srv/b/c"));
}

#[test]
fn an_annotation_chooses_the_folder() {
    assert_eq!(split_annotation("a b.png [output]"), ("a b.png", Some(Kind::Output)));
    assert_eq!(split_annotation("a.png[temp]"), ("a.png", Some(Kind::Temp)));
    assert_eq!(split_annotation("a.png"), ("a.png", None));
    assert_eq!(split_annotation("a [other]"), ("a [other]", None));
}

#[test]
fn autoencoders_need_both_halves() {
    let (dir, folders) = folders();
    let models = dir.path().join("models");
    touch(&models.join("vae/a.safetensors"));
    touch(&models.join("vae_approx/taesd_decoder.safetensors"));
    assert_eq!(folders.files(&FileSource::Autoencoders), ["a.safetensors", "pixel_space"]);
    touch(&models.join("vae_approx/taesd_encoder.pth"));
    assert_eq!(folders.files(&FileSource::Autoencoders), ["a.safetensors", "taesd", "pixel_space"]);
    assert_eq!(folders.approximate_vae("taesd_encoder.").unwrap(), models.join("vae_approx/taesd_encoder.pth"));
    assert_eq!(folders.approximate_vae("taesdxl_encoder."), None);
}

#[test]
fn diffusers_folders_hold_an_index() {
    let (dir, folders) = folders();
    let models = dir.path().join("models/diffusers");
    touch(&models.join("some/model_index.json"));
    touch(&models.join("other/unet/config.json"));
    assert_eq!(folders.files(&FileSource::DiffusersFolders), ["some"]);
    assert_eq!(folders.diffusers_folder("some").unwrap(), models.join("some"));
    assert_eq!(folders.diffusers_folder("other"), None);
    assert_eq!(folders.diffusers_folder("../../diffusers/other"), None);
}

#[test]
fn an_embedding_is_found_without_its_ending() {
    let (dir, folders) = folders();
    let file = dir.path().join("models/embeddings/style/ink.safetensors");
    touch(&file);
    assert_eq!(folders.embedding("style/ink").unwrap(), file);
    assert_eq!(folders.embedding("style/ink.safetensors").unwrap(), file);
    assert_eq!(folders.embedding("ink"), None);
}

#[test]
fn model_listings_follow_the_disk() {
    let (dir, folders) = folders();
    assert_eq!(folders.model_files("checkpoints").unwrap(), Vec::<String>::new());
    let before = folders.generation();
    touch(&dir.path().join("models/checkpoints/sub/b.safetensors"));
    touch(&dir.path().join("models/checkpoints/a.CKPT"));
    touch(&dir.path().join("models/checkpoints/readme.txt"));
    assert_eq!(folders.model_files("checkpoints").unwrap(), ["a.CKPT", "sub/b.safetensors"]);
    assert!(folders.generation() > before);
    touch(&dir.path().join("models/checkpoints/sub/c.sft"));
    assert_eq!(folders.model_files("checkpoints").unwrap().len(), 3);
    assert_eq!(folders.model_files("no such folder"), None);
}

#[test]
fn denoisers_may_be_gguf_files() {
    let (dir, folders) = folders();
    touch(&dir.path().join("models/unet/q8.gguf"));
    touch(&dir.path().join("models/diffusion_models/whole.safetensors"));
    touch(&dir.path().join("models/vae/q8.gguf"));
    assert_eq!(folders.model_files("diffusion_models").unwrap(), ["q8.gguf", "whole.safetensors"]);
    assert_eq!(folders.model_files("vae").unwrap(), Vec::<String>::new());
}

#[test]
fn a_link_to_a_folder_above_ends() {
    let (dir, folders) = folders();
    touch(&dir.path().join("models/loras/a.safetensors"));
    #[cfg(unix)]
    std::os::unix::fs::symlink(dir.path().join("models/loras"), dir.path().join("models/loras/loop")).unwrap();
    assert_eq!(folders.model_files("loras").unwrap(), ["a.safetensors"]);
}

#[test]
fn a_model_is_found_in_the_first_path_that_has_it_and_never_outside() {
    let (dir, mut folders) = folders();
    let other = dir.path().join("other");
    touch(&other.join("m.safetensors"));
    touch(&dir.path().join("secret.safetensors"));
    folders.add_model_path("clip", other.clone(), true);
    assert_eq!(folders.model_path("text_encoders", "m.safetensors").unwrap(), other.join("m.safetensors"));
    assert_eq!(folders.model_path("text_encoders", "../secret.safetensors"), None);
    assert_eq!(folders.model_path("text_encoders", ""), None);
}

#[test]
fn the_yaml_of_extra_paths_is_read_as_the_reference_reads_it() {
    let (dir, mut folders) = folders();
    let file = dir.path().join("extra.yaml");
    fs::write(&file, "a:\n  base_path: ui/\n  checkpoints: models/SD\n  loras: |\n    models/$SUB\n    models/LyCORIS\nb:\n  is_default: true\n  vae: v\n  mine: m\nc:\n").unwrap();
    folders.load_extra_paths(&file, &|name| (name == "SUB").then(|| "Lora".into())).unwrap();
    let base = dir.path();
    assert_eq!(folders.model_paths("checkpoints").unwrap()[1], base.join("ui/models/SD"));
    assert_eq!(folders.model_paths("loras").unwrap()[2], base.join("ui/models/LyCORIS"));
    assert_eq!(folders.model_paths("loras").unwrap()[1], base.join("ui/models/Lora"));
    assert_eq!(folders.model_paths("vae").unwrap()[0], base.join("v"));
    assert_eq!(folders.model_paths("mine").unwrap(), [base.join("m")]);
    fs::write(&file, "- 1").unwrap();
    assert!(matches!(folders.load_extra_paths(&file, &|name| (name == "SUB").then(|| "Lora".into())), Err(Error::ExtraPaths { .. })));
}

/// The search paths of `checkpoints`, below the folder of the file, after it was read.
fn checkpoints_of(yaml: &str) -> Result<Vec<String>, String> {
    let (dir, mut folders) = folders();
    let file = dir.path().join("extra.yaml");
    fs::write(&file, yaml).unwrap();
    folders.load_extra_paths(&file, &|name| (name == "HOME").then(|| "/home/me".into())).map_err(|e| e.to_string())?;
    let shown = |path: &std::path::PathBuf| path.strip_prefix(dir.path()).unwrap_or(path).to_str().unwrap().to_owned();
    Ok(folders.model_paths("checkpoints").unwrap().iter().map(shown).collect())
}

#[test]
fn what_is_default_is_what_python_takes_for_true() {
    for (value, first) in [
        ("true", true),
        ("\"true\"", true),
        ("'false'", true),
        ("!!str no", true),
        ("yes", true),
        ("On", true),
        ("y", true),
        ("1", true),
        ("[0]", true),
        ("false", false),
        ("No", false),
        ("off", false),
        ("0", false),
        ("-0.0", false),
        ("0x0", false),
        ("''", false),
        ("~", false),
        ("null", false),
        ("", false),
        ("{}", false),
    ] {
        let paths = checkpoints_of(&format!("a:\n  is_default: {value}\n  checkpoints: x\n")).unwrap();
        assert_eq!(paths.iter().position(|path| path == "x"), Some(usize::from(!first)), "{value}");
    }
}

#[test]
fn the_yaml_of_extra_paths_may_have_all_that_pyyaml_reads() {
    for (yaml, want) in [
        // Comfy Desktop's, with Windows' line ends and a mark at its start.
        (
            "\u{feff}# x\r\ndesktop:\r\n    is_default: \"true\"\r\n    base_path: d\r\n    checkpoints: ck\r\n    custom_nodes: custom_nodes/\r\n",
            &["d/ck", "models/checkpoints"][..],
        ),
        ("a:\n  checkpoints:\n    - x\n    - 'y'\n", &["models/checkpoints", "x", "y"]),
        ("a:\n  checkpoints: [x, 12, ~]\n", &["models/checkpoints", "x", "12"]),
        ("a:\n  checkpoints: |\n    x\n\n    y/../z\n", &["models/checkpoints", "x", "z"]),
        ("a:\n  checkpoints: \"x\\ny\"\n", &["models/checkpoints", "x", "y"]),
        ("a:\n  checkpoints: x\n  checkpoints: y\n", &["models/checkpoints", "y"]),
        ("a: {checkpoints: x}\nb: ~\na: {checkpoints: y}\n", &["models/checkpoints", "y"]),
        ("a: &a\n  base_path: b\n  checkpoints: x\nc:\n  <<: *a\n  checkpoints: y\n", &["models/checkpoints", "b/x", "b/y"]),
        ("a: &a {base_path: b}\nc:\n  <<: [*a, {base_path: c, checkpoints: x}]\n", &["models/checkpoints", "b/x"]),
        ("a:\n  base_path: ~/m\n  checkpoints: x\n", &["models/checkpoints", "/home/me/m/x"]),
        ("a:\n  base_path:\n  checkpoints: x\n  loras: ~\n", &["models/checkpoints", "x"]),
        ("", &["models/checkpoints"]),
        ("# nothing\n---\n...\n", &["models/checkpoints"]),
    ] {
        assert_eq!(checkpoints_of(yaml).unwrap(), want, "{yaml}");
    }
}

#[test]
fn extra_paths_that_cannot_be_used_name_the_file_and_what_to_do() {
    for (yaml, part) in [
        ("- 1", "top level"),
        ("a: b", "the group 'a'"),
        ("a:\n  checkpoints: {x: y}", "'checkpoints' in the group 'a'"),
        ("a:\n  checkpoints: [[x]]", "'checkpoints' in the group 'a'"),
        ("a: {b: c}\n---\nd: {}", "line 2"),
        ("a:\n  b: !!python/name:os.system c", "tag"),
        ("a: [", "not valid YAML"),
        ("? [a]\n: b", "cannot be a key"),
        ("a: &a [*a]", "alias"),
    ] {
        let error = checkpoints_of(yaml).unwrap_err();
        assert!(error.contains("extra.yaml") && error.contains(part), "{yaml}: {error}");
    }
}

#[test]
fn deeply_nested_yaml_is_refused_at_once() {
    for open in ["[", "{a: ", "- ", "? ", "&a [", "{? "] {
        let error = checkpoints_of(&open.repeat(100_000 / open.len())).unwrap_err();
        assert!(error.contains("extra.yaml"), "{open}: {error}");
    }
    let indented: String = (0..440).map(|level| format!("{}a:\n", " ".repeat(level))).collect();
    assert!(checkpoints_of(&indented).unwrap_err().contains("nested more than"));
    // An alias shares what it names: a thousand million strings would be too many.
    let bomb: String = (1..10).map(|n| format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 10].join(","))).collect();
    assert!(checkpoints_of(&format!("a0: &a0 [x]\n{bomb}")).unwrap_err().contains("the group 'a0'"));
    assert!(checkpoints_of(&"# x\n".repeat(1 << 19)).unwrap_err().contains("bytes"));
}

#[test]
fn unfinished_files_are_neither_listed_nor_named() {
    let (dir, mut folders) = folders();
    folders.add_model_path("mine", dir.path().join("mine"), false);
    let unfinished = [".0123456789abcdef.part", ".m.safetensors.part", ".m.safetensors.part.etag"];
    for name in unfinished {
        touch(&dir.path().join("mine").join(name));
        touch(&dir.path().join("input/sub").join(name));
        assert!(matches!(folders.annotated_path(&format!("sub/{name}"), Kind::Input), Err(Error::Unfinished { .. })), "{name}");
        assert_eq!(folders.model_path("mine", name), None);
    }
    touch(&dir.path().join("mine/.hidden"));
    assert_eq!(folders.model_files("mine").unwrap(), [".hidden"]);
    assert_eq!(folders.files(&FileSource::InputFiles(unfinished.map(extension).into())), Vec::<String>::new());
    folders.remove_unfinished();
    assert!(!dir.path().join("input/sub").join(unfinished[0]).exists());
}

#[test]
fn files_of_many_writers_are_whole_and_none_is_lost() {
    let (dir, _) = folders();
    // As many servers that share the folder: each counts for itself.
    let servers: Vec<Folders> = (0..4).map(|_| Folders::new(Roots::under(dir.path())).unwrap()).collect();
    let (running, output) = (std::sync::atomic::AtomicBool::new(true), dir.path().join("output"));
    let half = || {
        let entries =
            fs::read_dir(&output).unwrap().flatten().filter(|entry| !crate::whole::is_unfinished(&entry.file_name().to_string_lossy()));
        entries.filter(|entry| entry.metadata().is_ok_and(|meta| meta.len() != 100_000)).count()
    };
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut seen = 0;
            while running.load(std::sync::atomic::Ordering::Relaxed) {
                seen += half();
            }
            seen
        });
        let writers = servers.iter().enumerate().map(|(id, server)| {
            scope.spawn(move || {
                let target = server.save_target(Kind::Output, "x", 1, 1).unwrap();
                (0..25).map(|_| target.save(0, "bin", &[id as u8; 100_000]).unwrap().filename).collect::<Vec<_>>()
            })
        });
        let writers: Vec<_> = writers.collect();
        let mut names: Vec<String> = writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect();
        running.store(false, std::sync::atomic::Ordering::Relaxed);
        names.sort_unstable();
        names.dedup();
        assert_eq!((names.len(), watcher.join().unwrap()), (100, 0));
    });
    assert_eq!(fs::read_dir(&output).unwrap().count(), 100);
}

#[test]
fn a_file_that_cannot_be_written_is_named_as_clients_know_it() {
    let (dir, folders) = folders();
    let target = folders.save_target(Kind::Output, &format!("sub/{}", "n".repeat(300)), 1, 1).unwrap();
    let error = target.save(0, "png", b"x").unwrap_err().to_string();
    assert!(error.starts_with("cannot write output/sub/nnn") && !error.contains(dir.path().to_str().unwrap()), "{error}");
    assert_eq!(fs::read_dir(dir.path().join("output/sub")).unwrap().count(), 0);
}

#[test]
fn folders_of_saved_models_come_last() {
    let dir = tempfile::tempdir().unwrap();
    let roots = Roots { output: dir.path().join("elsewhere"), ..Roots::under(dir.path()) };
    let mut folders = Folders::new(roots).unwrap();
    folders.add_model_path("loras", dir.path().join("more"), false);
    folders.add_model_path("vae", dir.path().join("elsewhere/vae"), true);
    folders.add_saved_models();
    let (models, output) = (dir.path().join("models"), dir.path().join("elsewhere"));
    let wanted = [
        ("checkpoints", vec![models.join("checkpoints"), output.join("checkpoints")]),
        ("loras", vec![models.join("loras"), dir.path().join("more"), output.join("loras")]),
        // Who named it before keeps its place.
        ("vae", vec![output.join("vae"), models.join("vae")]),
        ("text_encoders", vec![models.join("text_encoders"), models.join("clip"), output.join("clip")]),
        ("diffusion_models", vec![models.join("unet"), models.join("diffusion_models"), output.join("diffusion_models")]),
    ];
    for (folder, paths) in wanted {
        assert_eq!(folders.model_paths(folder).unwrap(), paths, "{folder}");
    }
    assert_eq!(folders.model_files("checkpoints").unwrap(), Vec::<String>::new());
    touch(&output.join("checkpoints/merged_00001_.safetensors"));
    assert_eq!(folders.model_files("checkpoints").unwrap(), ["merged_00001_.safetensors"]);
}

#[test]
fn what_custom_nodes_register_is_listed_behind_the_own_folders_and_goes_with_them() {
    let dir = tempfile::tempdir().unwrap();
    let folders = Folders::new(Roots::under(dir.path())).unwrap();
    let (own, sams) = (dir.path().join("models/loras"), dir.path().join("models/sams"));
    for file in
        [own.join("a.safetensors"), own.join("b.gguf"), own.join("c.txt"), sams.join("x.pth"), sams.join("y.txt"), sams.join("Z.PTH")]
    {
        touch(&file);
    }
    let before = (folders.model_folders(), folders.generation());
    assert_eq!(folders.model_files("sams"), None);
    let added = |name: &str, path: &Path, endings: &[&str]| AddedFolder {
        name: name.into(),
        paths: vec![path.to_owned()],
        extensions: endings.iter().map(|ending| (*ending).to_owned()).collect(),
    };
    let table =
        [added("sams", &sams, &[".pth"]), added("loras", &own, &[".gguf"]), added("all", &sams, &[]), added("clip", &sams, &[".txt"])];
    folders.set_added(&table);
    assert!(folders.generation() > before.1);
    assert_eq!(folders.model_files("sams").unwrap(), ["Z.PTH", "x.pth"]);
    assert_eq!(folders.model_files("all").unwrap(), ["Z.PTH", "x.pth", "y.txt"]);
    assert_eq!(folders.model_files("loras").unwrap(), ["a.safetensors", "b.gguf"]);
    assert_eq!(folders.model_paths("loras").unwrap(), [own]);
    assert_eq!(folders.model_files("text_encoders").unwrap(), ["Z.PTH", "x.pth", "y.txt"]);
    assert_eq!(folders.model_path("sams", "x.pth").unwrap(), sams.join("x.pth"));
    let generation = folders.generation();
    folders.set_added(&table);
    assert_eq!(folders.generation(), generation, "the same again changes nothing");
    folders.set_added(&[]);
    assert_eq!((folders.model_folders(), folders.model_files("sams")), (before.0, None));
}

/// What a change of a file changes, though its size and its time stay.
#[cfg(unix)]
#[test]
fn a_file_in_another_state_has_another_version() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    let put = |content: &[u8], path: &Path| {
        fs::write(path, content).unwrap();
        fs::File::options().write(true).open(path).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        let metadata = fs::metadata(path).unwrap();
        FileVersion::of(&metadata).unwrap()
    };
    let first = put(b"1", &path);
    let now = std::time::SystemTime::now();
    assert!(!first.tells_content(now), "it may change again at the same time");
    assert!(first.tells_content(now + std::time::Duration::from_secs(3)));
    assert!(!first.tells_content(std::time::UNIX_EPOCH), "the clock was set back");
    assert_eq!(FileVersion::of(&fs::metadata(&path).unwrap()).unwrap(), first);
    std::thread::sleep(std::time::Duration::from_millis(100));
    let second = put(b"2", &path);
    assert_ne!(second, first, "written in place");
    put(b"3", &dir.path().join("b"));
    fs::rename(dir.path().join("b"), &path).unwrap();
    assert_ne!(FileVersion::of(&fs::metadata(&path).unwrap()).unwrap(), second, "replaced");
}

#[test]
fn saved_files_count_on_and_never_replace() {
    let (dir, folders) = folders();
    touch(&dir.path().join("output/sub/8x6_00041_.png"));
    let target = folders.save_target(Kind::Output, "sub/%width%x%height%", 8, 6).unwrap();
    assert_eq!((target.subfolder.as_str(), target.prefix.as_str()), ("sub", "8x6"));
    assert_eq!(target.save(0, "png", b"1").unwrap().filename, "8x6_00042_.png");
    touch(&dir.path().join("output/sub/8x6_00043_.png"));
    assert_eq!(target.save(0, "png", b"2").unwrap().filename, "8x6_00044_.png");
    let mut large = target.begin().unwrap();
    assert_eq!(large.number(), 45);
    touch(&dir.path().join("output/sub/8x6_00045_.bin"));
    std::io::Write::write_all(large.file(), b"3").unwrap();
    assert_eq!(large.finish(0, "bin").unwrap().filename, "8x6_00046_.bin");
    drop(target.begin().unwrap());
    assert_eq!(fs::read_dir(&target.dir).unwrap().count(), 6, "what is given up leaves nothing");
    let batch = folders.save_target(Kind::Output, "b%batch_num%", 8, 6).unwrap();
    assert_eq!(batch.save(3, "png", b"1").unwrap().filename, "b3_00001_.png");
    assert!(folders.save_target(Kind::Output, "../x", 1, 1).is_err());
}

#[test]
fn messages_name_files_as_clients_know_them() {
    let (dir, mut folders) = folders();
    let (base, other) = (dir.path().display(), tempfile::tempdir().unwrap());
    folders.add_model_path("loras", other.path().join("lo"), false);
    folders.add_model_path("mine", dir.path().join("models/loras/sub"), false);
    let other = other.path().display();
    for (message, want) in [
        (format!("{base}/input/a b.png: broken"), "input/a b.png: broken"),
        (format!("'{base}/output' and {base}/models/clip/x.pt."), "'output' and models/text_encoders/x.pt."),
        (format!("{other}/lo/sub/x.pt"), "models/loras/sub/x.pt"),
        (format!("{base}/models/loras/sub/y"), "models/mine/y"),
        (format!("{base}/models/new/y in {base}; {base}/temp."), "models/new/y in .; temp."),
        (format!("{base}/extra.yaml"), "extra.yaml"),
    ] {
        assert_eq!(folders.without_roots(&message), want);
    }
    for other in [format!("/x{base}/input/y"), format!("{base}x/input"), format!("{base}.d/input"), "no path / at all".into()] {
        assert_eq!(folders.without_roots(&other), other);
    }
}

#[test]
fn a_prefix_without_a_name_gets_one() {
    let (_dir, folders) = folders();
    assert_eq!(folders.save_target(Kind::Temp, "", 1, 1).unwrap().prefix, "ComfyUI");
}

#[test]
fn aliases_that_stand_for_too_much_are_refused() {
    let entries: String = (0..2000).map(|i| format!("  k{i}: x\n")).collect();
    let merges: String = (0..2000).map(|i| format!("m{i}:\n  <<: *a\n")).collect();
    let texts = format!("a:\n  x: &a '{}'\n  y: [{}]\n", "p".repeat(3000), "*a, ".repeat(5000));
    let blank = format!("a:\n  x: &a \"{}\"\n  y: [{}]\n", " \\n".repeat(1000), "*a, ".repeat(5000));
    let many = format!("a:\n  x: [{}]\n", "p, ".repeat(10_001));
    let long = format!("a:\n  base_path: {}\n  x: y\n", "p".repeat(5000));
    for (yaml, part) in [
        (format!("a: &a\n{entries}{merges}"), "'<<' brings more than"),
        (texts, "aliases stand for too much"),
        (blank, "aliases stand for too much"),
        (many, "names more than 10000 paths"),
        (long, "'base_path' in the group 'a' has a path of more than"),
    ] {
        let error = checkpoints_of(&yaml).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
}

/// Names of files made of what leads up, out and to other users.
fn any_name() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec![
        "..", ".", "", "a", "b.png", "users", "USERS", "users.", "users ", "ann", "bob", "Bob", "C:", "\\", "..\\x", "~", "%2e%2e", "\0",
        "é",
    ]);
    (any::<bool>(), prop::collection::vec(part, 0..7))
        .prop_map(|(root, parts)| format!("{}{}", if root { "/" } else { "" }, parts.join("/")))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// No name leads out of its folder, nor a user into another's, for writing or reading.
    #[test]
    fn no_name_leads_anywhere_else(name in any_name(), all in any::<bool>()) {
        let dir = tempfile::tempdir().unwrap();
        let folders = Folders::new(Roots::under(dir.path())).unwrap();
        folders.keep_apart(Arc::new(AtomicBool::new(true)));
        let _ann = comfyd_node::acting_for(comfyd_node::Actor { owner: "ann".into(), all, ..comfyd_node::Actor::default() });
        for kind in [Kind::Input, Kind::Output, Kind::Temp] {
            let root = folders.directory(kind);
            let others = |path: &Path| {
                let mut parts = path.strip_prefix(root).unwrap().iter().map(|part| part.to_str().unwrap().trim_end_matches(['.', ' ']).to_lowercase());
                parts.next().is_some_and(|first| first == "users") && parts.next().is_none_or(|user| user != "ann")
            };
            let plain = |path: &Path| {
                let below = path.strip_prefix(root).expect("inside");
                below.components().all(|part| matches!(part, std::path::Component::Normal(_)))
            };
            if let Ok(path) = folders.inside(kind, Path::new(&name)) {
                prop_assert!(plain(&path) && !others(&path), "{name:?} is written at {}", path.display());
            }
            if let Ok(path) = folders.found(kind, Path::new(&name)) {
                prop_assert!(plain(&path) && (all || !others(&path)), "{name:?} is read at {}", path.display());
            }
            if let Ok(target) = folders.save_target(kind, &name, 1, 1) {
                prop_assert!(plain(&target.dir) && !others(&target.dir) && !target.prefix.contains('/'), "{name:?} is saved in {target:?}");
            }
        }
    }
}

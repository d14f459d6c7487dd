//! Tests of folders, names and listings; they know nothing of clients.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::Path;

use crate::{Error, FileVersion, Folders, Kind, Roots, join_inside, split_annotation};

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
    assert_eq!(folders.autoencoders(), ["a.safetensors", "pixel_space"]);
    touch(&models.join("vae_approx/taesd_encoder.pth"));
    assert_eq!(folders.autoencoders(), ["a.safetensors", "taesd", "pixel_space"]);
    assert_eq!(folders.approximate_vae("taesd_encoder.").unwrap(), models.join("vae_approx/taesd_encoder.pth"));
    assert_eq!(folders.approximate_vae("taesdxl_encoder."), None);
}

#[test]
fn diffusers_folders_hold_an_index() {
    let (dir, folders) = folders();
    let models = dir.path().join("models/diffusers");
    touch(&models.join("some/model_index.json"));
    touch(&models.join("other/unet/config.json"));
    assert_eq!(folders.diffusers_folders(), ["some"]);
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
    let batch = folders.save_target(Kind::Output, "b%batch_num%", 8, 6).unwrap();
    assert_eq!(batch.save(3, "png", b"1").unwrap().filename, "b3_00001_.png");
    assert!(folders.save_target(Kind::Output, "../x", 1, 1).is_err());
}

#[test]
fn a_prefix_without_a_name_gets_one() {
    let (_dir, folders) = folders();
    assert_eq!(folders.save_target(Kind::Temp, "", 1, 1).unwrap().prefix, "ComfyUI");
}

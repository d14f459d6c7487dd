//! Two servers' folders on one store.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use comfyd_node::{Actor, CancellationToken, FileSource, OptionSource, acting_for};
use serde_json::json;

use crate::contract::{self, MemoryFiles};
use crate::shared::{Copies, FileStore, is_unusable};
use crate::whole::Replace;
use crate::{Folders, Kind, Roots};

struct Server {
    dir: tempfile::TempDir,
    folders: Folders,
}

impl Server {
    fn of(store: &Arc<MemoryFiles>, most_bytes: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let folders = Folders::new(Roots::under(dir.path())).unwrap();
        folders.share(Copies::new(store.clone(), folders.roots(), most_bytes));
        Self { dir, folders }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn read(&self, name: &str) -> Option<Vec<u8>> {
        let path = self.path(name);
        self.folders.here(&path).unwrap().then(|| fs::read(path).unwrap())
    }

    fn write(&self, name: &str, bytes: &[u8], replace: Replace) -> bool {
        self.folders.write(&self.path(name), bytes, replace).unwrap()
    }

    fn time(&self, name: &str) -> SystemTime {
        fs::metadata(self.path(name)).unwrap().modified().unwrap()
    }
}

fn two() -> (Arc<MemoryFiles>, Server, Server) {
    let store = Arc::new(MemoryFiles::default());
    let servers = [(); 2].map(|()| Server::of(&store, u64::MAX));
    let [one, two] = servers;
    (store, one, two)
}

#[test]
fn the_store_in_memory_is_one() {
    contract::run(&(Arc::new(MemoryFiles::default()) as Arc<dyn FileStore>));
}

#[test]
fn what_one_writes_another_reads_whole_and_as_it_is_now() {
    let (_, one, two) = two();
    assert!(one.write("input/a.png", b"first", Replace::No));
    assert!(!two.write("input/a.png", b"other", Replace::No), "the name is taken");
    assert_eq!(two.read("input/a.png").unwrap(), b"first");
    assert_eq!(one.time("input/a.png"), two.time("input/a.png"), "validators are made of it");
    let before = two.time("input/a.png");
    assert!(two.write("input/a.png", b"again", Replace::Yes));
    assert_eq!(one.read("input/a.png").unwrap(), b"again", "the same size within a moment");
    assert_ne!(one.time("input/a.png"), before);
    // A copy is asked for once, and made anew when somebody spoilt it.
    fs::write(one.path("input/a.png"), "spoilt").unwrap();
    assert_eq!(one.read("input/a.png").unwrap(), b"again");
    fs::write(one.path("input/own.png"), "own").unwrap();
    assert!(one.read("input/own.png").is_none() && one.path("input/own.png").exists(), "what is nowhere else is not shared, and stays");
    fs::remove_file(one.path("input/own.png")).unwrap();
    one.folders.remove(&one.path("input/a.png")).unwrap();
    assert!(two.read("input/a.png").is_none() && !two.path("input/a.png").exists(), "it is gone everywhere");
    assert!(two.folders.remove(&two.path("input/a.png")).is_err());
    let names: Vec<_> = fs::read_dir(one.path("input")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, [""; 0], "nothing unfinished stays");
}

#[test]
fn names_of_saved_files_are_given_once_whoever_saves() {
    let (_, one, two) = two();
    let mut names = Vec::new();
    for n in 0..12 {
        let server = if n % 3 == 0 { &one } else { &two };
        let target = server.folders.save_target(Kind::Output, "deep/x", 1, 1).unwrap();
        names.push(target.save(0, "png", format!("{n}").as_bytes()).unwrap().filename);
    }
    assert_eq!(names, (1..=12).map(|n| format!("x_{n:05}_.png")).collect::<Vec<_>>());
    for (n, name) in names.iter().enumerate() {
        for server in [&one, &two] {
            assert_eq!(server.read(&format!("output/deep/{name}")).unwrap(), n.to_string().as_bytes());
        }
    }
}

#[test]
fn files_of_programs_that_know_nothing_of_it_are_shared_before_they_are_told_of() {
    let (_, one, two) = two();
    for (server, bytes) in [(&one, "one's"), (&two, "two's")] {
        fs::write(server.path("output/p_00001_.png"), bytes).unwrap();
    }
    let shown = |server: &Server, name: &str| {
        let item = json!({"filename": name, "subfolder": "", "type": "output"});
        let mut shown = json!({"images": [item, {"text": 1}], "text": ["a"]});
        server.folders.announce(shown.as_object_mut().unwrap()).unwrap();
        shown["images"][0]["filename"].as_str().unwrap().to_owned()
    };
    assert_eq!(shown(&one, "p_00001_.png"), "p_00001_.png");
    assert_eq!(shown(&one, "p_00001_.png"), "p_00001_.png", "once more, as for what is cached");
    assert_eq!(shown(&two, "p_00001_.png"), "p_00002_.png", "the other one has that name");
    assert_eq!(two.read("output/p_00001_.png").unwrap(), b"one's");
    assert_eq!(one.read("output/p_00002_.png").unwrap(), b"two's");
    // One that a node writes over is another version of the same.
    fs::write(one.path("output/p_00001_.png"), "newer").unwrap();
    assert_eq!(shown(&one, "p_00001_.png"), "p_00001_.png");
    assert_eq!(two.read("output/p_00001_.png").unwrap(), b"newer");
}

#[test]
fn combos_offer_what_any_server_has() {
    let (_, one, two) = two();
    let pictures = FileSource::InputFiles(vec![".png".into()]);
    let before = two.folders.generation();
    assert_eq!(two.folders.files(&pictures), [""; 0]);
    one.write("input/b.png", b"b", Replace::No);
    one.write("input/set/c.png", b"c", Replace::No);
    one.write("input/n.txt", b"n", Replace::No);
    assert_eq!(one.folders.files(&pictures), ["b.png"], "its own at once");
    assert!(two.folders.offers(&pictures, "b.png"), "a prompt that names it is right at once");
    assert!(!two.folders.offers(&pictures, "n.txt") && !two.folders.offers(&pictures, "z.png"));
    let begun = std::time::Instant::now();
    while two.folders.files(&pictures) != ["b.png"] {
        assert!(begun.elapsed().as_secs() < 30, "it is never listed");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_ne!(two.folders.generation(), before);
    assert_eq!(two.folders.files(&FileSource::InputFolders), ["set"]);
    two.folders.all_here(&two.path("input/set")).unwrap();
    assert!(two.path("input/set/c.png").is_file(), "a node reads the folder");
    assert!(two.folders.annotated_path("b.png", Kind::Input).unwrap().is_file());
}

#[test]
fn what_a_prompt_names_is_here_before_another_program_reads_the_folders() {
    let (_, one, two) = two();
    for name in ["input/a.png", "output/b c.png", "input/other.png"] {
        one.write(name, b"x", Replace::No);
    }
    let prompt =
        json!({"1": {"inputs": {"image": "a.png", "text": "a cat. and a dog", "n": 5}}, "2": {"inputs": {"image": "b c.png [output]"}}});
    two.folders.inputs_here(&prompt).unwrap();
    assert!(two.path("input/a.png").is_file() && two.path("output/b c.png").is_file() && !two.path("input/other.png").exists());
}

#[test]
fn changes_at_the_same_time_both_survive() {
    let (_, one, two) = two();
    let path = "user/default/comfy.settings.json";
    let add = |server: &Server, text: &str| {
        let path = server.path(path);
        let change = |there: bool| -> std::io::Result<Vec<u8>> {
            let before = if there { fs::read(&path)? } else { Vec::new() };
            Ok([&before[..], text.as_bytes()].concat())
        };
        server.folders.change(&path, change).unwrap();
    };
    std::thread::scope(|scope| {
        for (server, text) in [(&one, "a"), (&two, "b")] {
            scope.spawn(move || (0..20).for_each(|_| add(server, text)));
        }
    });
    let all = String::from_utf8(one.read(path).unwrap()).unwrap();
    assert_eq!((all.matches('a').count(), all.matches('b').count()), (20, 20), "{all}");
    assert!(one.folders.rename(&one.path(path), &one.path("user/default/b.json"), Replace::No).unwrap());
    assert_eq!((two.read(path), two.read("user/default/b.json").unwrap().len()), (None, 40));
    let listed = two.folders.listed_shared(&two.path("user/default")).unwrap().unwrap();
    assert_eq!(listed.iter().map(|(name, file)| (name.as_str(), file.bytes)).collect::<Vec<_>>(), [("b.json", 40)]);
}

#[test]
fn copies_are_bounded_and_what_is_no_copy_stays() {
    let (store, one, _) = two();
    for n in 0..10 {
        one.write(&format!("output/{n}.png"), &[0; 1000], Replace::No);
    }
    let small = tempfile::tempdir().unwrap();
    fs::create_dir_all(small.path().join("output")).unwrap();
    fs::write(small.path().join("output/own.png"), [1; 3000]).unwrap();
    let server = || {
        let folders = Folders::new(Roots::under(small.path())).unwrap();
        folders.share(Copies::new(store.clone(), folders.roots(), 5_000));
        folders
    };
    let count = || fs::read_dir(small.path().join("output")).unwrap().count();
    let folders = server();
    for n in 0..9 {
        assert!(folders.here(&small.path().join(format!("output/{n}.png"))).unwrap());
    }
    assert_eq!(count(), 10, "whoever was given one a moment ago may not have opened it yet");
    // After a restart nobody uses them.
    let folders = server();
    assert!(folders.here(&small.path().join("output/9.png")).unwrap());
    assert!(count() <= 5, "{}", count());
    assert!(small.path().join("output/own.png").exists(), "it is nowhere else");
    assert_eq!(store.list("output", 100).unwrap().len(), 10, "the store has all");
}

#[test]
fn where_the_store_is_away_it_is_said_and_nothing_is_lost() {
    let (store, one, _) = two();
    one.write("input/a.png", b"a", Replace::No);
    store.away.store(true, Ordering::Relaxed);
    let path = one.path("input/a.png");
    let refused = one.folders.here(&path).unwrap_err();
    assert!(is_unusable(&refused) && refused.to_string().contains("try again"), "{refused}");
    assert!(is_unusable(&one.folders.write(&path, b"b", Replace::Yes).unwrap_err()));
    let target = one.folders.save_target(Kind::Output, "x", 1, 1).unwrap();
    let refused = target.save(0, "png", b"x").unwrap_err().to_string();
    assert!(refused.contains("output/x_00001_.png") && refused.contains("try again"), "{refused}");
    assert!(one.folders.annotated_path("a.png", Kind::Input).is_err());
    store.away.store(false, Ordering::Relaxed);
    assert_eq!(one.read("input/a.png").unwrap(), b"a");
    assert_eq!(fs::read_dir(one.path("output")).unwrap().count(), 0, "what nobody was told of is gone");
}

#[test]
fn a_prompt_waits_for_a_store_that_is_away_until_it_is_interrupted() {
    let (store, one, _) = two();
    store.away.store(true, Ordering::Relaxed);
    let interrupt = CancellationToken::new();
    let _acting = acting_for(Actor { patient: Some(interrupt.clone()), ..Actor::default() });
    let target = one.folders.save_target(Kind::Output, "x", 1, 1).unwrap();
    std::thread::scope(|threads| {
        threads.spawn(|| {
            std::thread::sleep(Duration::from_millis(300));
            store.away.store(false, Ordering::Relaxed);
        });
        target.save(0, "png", b"x").unwrap();
        assert!(!store.away.load(Ordering::Relaxed), "it waited");
        store.away.store(true, Ordering::Relaxed);
        threads.spawn(|| {
            std::thread::sleep(Duration::from_millis(300));
            interrupt.cancel();
        });
        let error = one.folders.here(&one.path("input/a.png")).unwrap_err();
        assert!(is_unusable(&error) && interrupt.is_cancelled(), "{error}");
    });
}

#[test]
fn short_lived_files_end_with_the_server_that_put_them() {
    let (_, one, two) = two();
    one.write("temp/a.png", b"a", Replace::No);
    two.write("temp/b.png", b"b", Replace::No);
    one.folders.end();
    assert_eq!((two.read("temp/a.png"), one.read("temp/b.png")), (None, Some(b"b".to_vec())));
}

#[test]
fn models_and_other_folders_are_no_part_of_it() {
    let (store, one, _) = two();
    assert!(one.folders.here(Path::new("/proc/self/status")).unwrap_or(false) || !Path::new("/proc/self/status").exists());
    fs::create_dir_all(one.path("models/loras")).unwrap();
    fs::write(one.path("models/loras/a.safetensors"), "x").unwrap();
    assert!(one.folders.here(&one.path("models/loras/a.safetensors")).unwrap());
    assert!(store.list("models", 10).unwrap().is_empty());
}

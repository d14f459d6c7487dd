//! Scans, owners and damage, as the server meets them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use comfyd_assets::upkeep::{self, Report};
use comfyd_assets::{Asset, Assets, Error, Filter, Hashed, New, Options, Page, Root, Sees, Store, TagPage, Viewer};
use comfyd_folders::{Folders, Roots};
use comfyd_store_sqlite::{Error as StoreError, Lock};
use parking_lot::Mutex;
use serde_json::{Value, json};

type Told = Arc<Mutex<Vec<(String, Value)>>>;

struct Place {
    dir: tempfile::TempDir,
    folders: Arc<Folders>,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let folders = Arc::new(Folders::new(Roots::under(dir.path())).unwrap());
        Self { dir, folders }
    }

    fn put(&self, path: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    fn database(&self) -> PathBuf {
        self.dir.path().join("user/assets.db")
    }

    fn start(&self, hashes: bool) -> (Assets, Told) {
        let told = Told::default();
        let tell = Arc::clone(&told);
        let options = Options { database: Lock::database(&self.database()).unwrap(), hashes };
        let assets = Assets::start(
            options,
            Arc::clone(&self.folders),
            Box::new(move |event| tell.lock().push((event.name().to_owned(), serde_json::to_value(event).unwrap()))),
        );
        (assets.unwrap(), told)
    }

    fn store(&self) -> Store {
        Store::open(&self.database(), Arc::clone(&self.folders)).unwrap()
    }
}

/// Has everything scanned, behind the scan that runs.
async fn scan(assets: &Assets) {
    let number = loop {
        if let Some(number) = assets.seed(&Root::ALL) {
            break number;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    };
    assets.seeded(number).await;
}

fn all(store: &Store, viewer: &Viewer) -> Vec<Asset> {
    store.list(viewer, &Filter::default(), &Page { limit: 100, sort: comfyd_assets::Sort::Name, ..Page::default() }).unwrap().assets
}

fn names(store: &Store, viewer: &Viewer) -> Vec<String> {
    let mut names: Vec<String> = all(store, viewer).into_iter().map(|asset| asset.name).collect();
    names.sort_unstable();
    names
}

fn new(name: &str) -> New {
    New { name: name.to_owned(), ..New::default() }
}

fn digest(bytes: &[u8]) -> Hashed {
    Hashed { hash: format!("blake3:{}", blake3::hash(bytes).to_hex()), size: bytes.len() as u64 }
}

fn user(name: &str) -> Viewer {
    Viewer { owner: name.into(), sees: Sees::Shared }
}

#[tokio::test]
async fn a_scan_finds_what_came_and_forgets_what_went() {
    let place = Place::new();
    let kept = place.put("input/deep/kept.txt", "kept");
    let gone = place.put("output/gone.txt", "gone");
    place.put("models/loras/l.safetensors", [&2u64.to_le_bytes()[..], b"{}"].concat());
    for left_out in ["input/empty.txt", "input/.hidden/x.txt", "models/loras/notes.md", "custom_nodes/p/x.py", "user/x.json"] {
        place.put(left_out, if left_out.contains("empty") { "" } else { "x" });
    }
    let (assets, told) = place.start(false);
    let store = assets.store().unwrap();
    scan(&assets).await;
    assert_eq!(names(&store, &Viewer::all()), ["gone.txt", "kept.txt", "l.safetensors"]);
    let lora = all(&store, &Viewer::all()).into_iter().find(|asset| asset.name == "l.safetensors").unwrap();
    assert_eq!(lora.tags, ["model_type:loras", "models"]);
    assert_eq!(
        (lora.hash, lora.mime.as_deref(), lora.loader_path.as_deref()),
        (None, Some("application/safetensors"), Some("l.safetensors"))
    );
    assert_eq!(lora.system_metadata.unwrap()["content_length"], 10);
    let events: Vec<String> = told.lock().iter().map(|(event, _)| event.clone()).collect();
    let wanted = ["started", "fast_complete", "started", "enrich_complete", "completed"].map(|event| format!("assets.seed.{event}"));
    assert_eq!(events[..5], wanted);
    fs::remove_file(gone).unwrap();
    fs::write(&kept, "other bytes").unwrap();
    scan(&assets).await;
    let left = all(&store, &Viewer::all());
    assert_eq!(left.iter().map(|asset| (asset.name.as_str(), asset.size)).collect::<Vec<_>>(), [("l.safetensors", 10), ("kept.txt", 11)]);
    assert!(assets.status().progress.unwrap().skipped == 2 && assets.status().errors.is_empty());
}

#[tokio::test]
async fn scans_with_hashes_find_the_same_bytes_again() {
    let place = Place::new();
    let first = place.put("input/a.bin", "the same");
    let second = place.put("output/b.bin", "the same");
    let (assets, _) = place.start(true);
    let store = assets.store().unwrap();
    scan(&assets).await;
    let hash = digest(b"the same").hash;
    assert!(all(&store, &Viewer::all()).iter().all(|asset| asset.hash.as_deref() == Some(&*hash)));
    // One of two files with the same bytes is not missed.
    fs::remove_file(&first).unwrap();
    scan(&assets).await;
    assert_eq!(names(&store, &Viewer::all()), ["b.bin"]);
    let named = store.from_hash(&Viewer::all(), &hash, &new("named")).unwrap();
    fs::remove_file(&second).unwrap();
    scan(&assets).await;
    assert_eq!(store.get(&Viewer::all(), &named.id).unwrap().tags, ["missing"]);
    assert!(matches!(store.content(&Viewer::all(), &named.id), Err(Error::NoFile)));
    assert_eq!(names(&store, &Viewer::all()), ["named"]);
    fs::write(&second, "the same").unwrap();
    scan(&assets).await;
    assert!(store.get(&Viewer::all(), &named.id).unwrap().tags.is_empty(), "its bytes are there again");
    assert_eq!(store.content(&Viewer::all(), &named.id).unwrap().path, second);
}

#[tokio::test]
async fn a_folder_that_is_away_for_now_forgets_nothing() {
    let place = Place::new();
    place.put("models/loras/l.safetensors", "weights");
    let (assets, _) = place.start(false);
    let store = assets.store().unwrap();
    scan(&assets).await;
    let id = all(&store, &Viewer::all())[0].id.clone();
    store.add_tags(&Viewer::all(), &id, &["mine".to_owned()]).unwrap();
    let (here, away) = (place.dir.path().join("models/loras"), place.dir.path().join("away"));
    fs::rename(&here, &away).unwrap();
    scan(&assets).await;
    fs::rename(&away, &here).unwrap();
    scan(&assets).await;
    assert!(store.get(&Viewer::all(), &id).unwrap().tags.contains(&"mine".to_owned()));
}

#[tokio::test]
async fn scans_wait_can_be_given_up_and_run_one_at_a_time() {
    let place = Place::new();
    place.put("input/a.txt", "a");
    let (assets, _) = place.start(false);
    assets.store().unwrap();
    assets.pause(true);
    let number = loop {
        if let Some(number) = assets.seed(&[Root::Input]) {
            break number;
        }
        // The first scan may wait too.
        assets.cancel();
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    };
    assert_eq!((assets.seed(&Root::ALL), assets.prune().unwrap(), assets.status().state), (None, None, "paused"));
    assert!(assets.cancel());
    assets.seeded(number).await;
    assets.pause(false);
    scan(&assets).await;
    assert_eq!(names(&assets.store().unwrap(), &Viewer::all()), ["a.txt"]);
    assert_eq!((assets.status().state, assets.cancel()), ("idle", false));
}

#[tokio::test]
async fn what_is_outside_of_all_folders_is_marked_as_missing() {
    let place = Place::new();
    let path = place.put("extra/l.safetensors", "weights");
    let mut folders = Folders::new(Roots::under(place.dir.path())).unwrap();
    folders.add_model_path("loras", place.dir.path().join("extra"), false);
    Store::open(&place.database(), Arc::new(folders)).unwrap().register(&Viewer::all(), &path, &new("l")).unwrap().unwrap();
    let preview = place.put("temp/p.png", "preview");
    let store = place.store();
    store.register(&Viewer::all(), &preview, &new("p")).unwrap().unwrap();
    assert_eq!(names(&store, &Viewer::all()), ["l", "p"]);
    drop(store);
    let (assets, _) = place.start(false);
    scan(&assets).await;
    assert_eq!(names(&assets.store().unwrap(), &Viewer::all()), ["p"], "a folder that is not configured any more");
    fs::remove_file(preview).unwrap();
    drop(assets);
    let (assets, _) = place.start(false);
    scan(&assets).await;
    assert!(names(&assets.store().unwrap(), &Viewer::all()).is_empty());
}

#[test]
fn an_upload_is_stored_once_and_named_often() {
    let place = Place::new();
    let store = place.store();
    let hashed = digest(b"bytes");
    let path = place.dir.path().join("input/x.png");
    let put = || Ok(place.put("input/x.png", "bytes"));
    let tagged =
        New { tags: vec!["input".into(), " label ".into()], metadata: json!({"epoch": 1}).as_object().unwrap().clone(), ..new("x.png") };
    let (first, created) = store.upload(&Viewer::all(), &hashed, &tagged, put).unwrap();
    assert!(created && first.path.as_ref() == Some(&path) && first.hash.as_ref() == Some(&hashed.hash));
    assert_eq!(first.tags, ["input", "label", "uploaded"]);
    assert_eq!(Value::Object(first.user_metadata.clone()), json!({"epoch": 1, "filename": "x.png"}));
    let never = || panic!("known content needs no place");
    let (second, created) = store.upload(&Viewer::all(), &hashed, &new("y.png"), never).unwrap();
    assert!(!created && second.id != first.id && second.path.is_none() && second.tags.is_empty());
    assert_eq!(store.content(&Viewer::all(), &second.id).unwrap().path, path);
    // Its file is gone: known content is stored again.
    fs::remove_file(&path).unwrap();
    let (third, created) = store.upload(&Viewer::all(), &hashed, &tagged, put).unwrap();
    assert!(!created && third.id == first.id && path.is_file());
    store.delete(&Viewer::all(), &first.id).unwrap();
    assert!(matches!(store.delete(&Viewer::all(), &first.id), Err(Error::NotFound(_))));
    assert!(store.knows(&Viewer::all(), &hashed.hash).unwrap());
    let nothing = store.upload(&Viewer::all(), &digest(b"other"), &tagged, || Err(Error::NoFile));
    assert!(nothing.is_err() && !store.knows(&Viewer::all(), &digest(b"other").hash).unwrap(), "whole or not at all");
}

#[test]
fn users_see_their_own_and_of_the_rest_inputs_and_models() {
    let place = Place::new();
    let store = place.store();
    let mut ids = std::collections::HashMap::new();
    for path in [
        "input/shared.txt",
        "output/old.txt",
        "models/loras/l.safetensors",
        "input/users/ann/a.txt",
        "output/users/bob/b.txt",
        "temp/t.txt",
    ] {
        let file = place.put(path, path);
        ids.insert(path, store.register(&Viewer::all(), &file, &new(path)).unwrap().unwrap().id);
    }
    let (ann, bob) = (user("ann"), user("bob"));
    assert_eq!(names(&store, &ann), ["input/shared.txt", "input/users/ann/a.txt", "models/loras/l.safetensors"]);
    assert_eq!(names(&store, &bob), ["input/shared.txt", "models/loras/l.safetensors", "output/users/bob/b.txt"]);
    assert_eq!(names(&store, &Viewer { sees: Sees::All, ..ann.clone() }).len(), 6);
    let hers = &ids["input/users/ann/a.txt"];
    let tags = ["label".to_owned()];
    assert!(matches!(store.get(&bob, hers), Err(Error::NotFound(_))));
    assert!(matches!(store.add_tags(&bob, hers, &tags), Err(Error::NotFound(_))));
    assert!(matches!(store.delete(&bob, hers), Err(Error::NotFound(_))));
    assert!(matches!(store.content(&bob, hers), Err(Error::NotFound(_))));
    assert!(matches!(store.add_tags(&bob, &ids["input/shared.txt"], &tags), Err(Error::NotOwner(_))));
    assert_eq!(store.add_tags(&ann, hers, &tags).unwrap().done, tags);
    // A hash alone opens nothing that is another's, and names of tags tell nothing.
    let hash = digest(b"input/users/ann/a.txt").hash;
    assert!(!store.knows(&bob, &hash).unwrap() && store.knows(&ann, &hash).unwrap());
    assert!(matches!(store.from_hash(&bob, &hash, &new("mine")), Err(Error::UnknownHash(_))));
    assert_eq!(store.by_hash(&bob, &hash).unwrap(), None);
    let tags_of = |viewer: &Viewer| -> Vec<String> {
        let page = TagPage { limit: 100, unused: true, ..TagPage::default() };
        store.tags(viewer, &page).unwrap().0.into_iter().map(|(name, _)| name).collect()
    };
    assert!(tags_of(&ann).contains(&"label".to_owned()) && !tags_of(&bob).contains(&"label".to_owned()));
    // Whoever has the bytes gets a file of his own.
    let hashed = digest(b"input/users/ann/a.txt");
    let (his, created) =
        store.upload(&bob, &hashed, &new("b2"), || Ok(place.put("input/users/bob/same.txt", "input/users/ann/a.txt"))).unwrap();
    assert!(created && his.path.unwrap().ends_with("users/bob/same.txt"));
    assert!(store.get(&ann, &his.id).is_err());
}

#[test]
fn what_a_node_shows_has_its_asset_and_the_prompt() {
    let place = Place::new();
    let store = place.store();
    place.put("output/users/ann/a.png", "picture");
    let mut shown = json!({
        "images": [
            {"filename": "a.png", "subfolder": "users/ann", "type": "output"},
            {"filename": "none.png", "subfolder": "", "type": "output"},
            {"filename": "../user/assets.db", "subfolder": "", "type": "output"},
            {"filename": "a.png", "subfolder": "users/ann", "type": "elsewhere"},
        ],
        "text": ["words"],
    });
    store.take_shown("p1", shown.as_object_mut().unwrap());
    let id = shown["images"][0]["id"].as_str().unwrap().to_owned();
    assert!((1..4).all(|at| shown["images"][at].get("id").is_none()));
    let asset = store.get(&user("ann"), &id).unwrap();
    assert_eq!((asset.job.as_deref(), asset.hash), (Some("p1"), Some(digest(b"picture").hash)));
    assert!(store.get(&user("bob"), &id).is_err());
    // Another file under the same name is the same asset with other content.
    place.put("output/users/ann/a.png", "another");
    store.take_shown("p2", shown.as_object_mut().unwrap());
    let asset = store.get(&Viewer::all(), &id).unwrap();
    assert_eq!((shown["images"][0]["id"].as_str(), asset.hash), (Some(&*id), Some(digest(b"another").hash)));
    assert_eq!(asset.job.as_deref(), Some("p2"));
    assert!(!store.knows(&Viewer::all(), &digest(b"picture").hash).unwrap());
}

#[test]
fn what_is_said_has_bounds() {
    let place = Place::new();
    let store = place.store();
    let path = place.put("input/a", "a");
    let id = store.register(&Viewer::all(), &path, &new("a")).unwrap().unwrap().id;
    let long = json!({"text": "x".repeat(comfyd_assets::MAX_METADATA_BYTES)}).as_object().unwrap().clone();
    let change = |change| store.update(&Viewer::all(), &id, &change);
    assert!(matches!(change(comfyd_assets::Change { metadata: Some(long), ..Default::default() }), Err(Error::Invalid(_))));
    for name in [String::new(), "x".repeat(comfyd_assets::MAX_NAME + 1), "a\0".into()] {
        assert!(matches!(change(comfyd_assets::Change { name: Some(name), ..Default::default() }), Err(Error::Invalid(_))));
    }
    let many: Vec<String> = (0..comfyd_assets::MAX_TAGS).map(|number| number.to_string()).collect();
    assert!(matches!(store.add_tags(&Viewer::all(), &id, &many), Err(Error::Invalid(_))), "with the one that it has");
    assert_eq!(store.get(&Viewer::all(), &id).unwrap().tags, ["input"]);
    assert!(store.register(&Viewer::all(), &path, &New { mime: Some("a\n/b".into()), ..new("a") }).is_err());
}

#[test]
fn a_damaged_database_is_set_aside_and_foreign_ones_are_left_alone() {
    let place = Place::new();
    let path = place.put("input/a", "a");
    let store = place.store();
    store.register(&Viewer::all(), &path, &new("a")).unwrap().unwrap();
    drop(store);
    let whole = fs::read(place.database()).unwrap();
    for damaged in [
        b"no database at all, but long enough for a header of one, which has a hundred bytes, or so it is said in SQLite's pages".to_vec(),
        {
            let mut torn = whole.clone();
            let half = torn.len() / 2;
            torn[4096..half].fill(0xa5);
            torn
        },
    ] {
        fs::write(place.database(), &damaged).unwrap();
        let store = place.store();
        assert!(names(&store, &Viewer::all()).is_empty());
        drop(store);
        let kept = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().contains(".damaged-");
        let kept: Vec<_> = fs::read_dir(place.dir.path().join("user")).unwrap().flatten().filter(kept).collect();
        assert!(kept.iter().any(|entry| fs::read(entry.path()).unwrap() == damaged), "what was there is kept");
        kept.iter().for_each(|entry| fs::remove_file(entry.path()).unwrap());
    }
    for statement in ["PRAGMA application_id = 7; CREATE TABLE t (x)", "PRAGMA application_id = 1668114017; PRAGMA user_version = 99"] {
        fs::remove_file(place.database()).unwrap();
        rusqlite::Connection::open(place.database()).unwrap().execute_batch(statement).unwrap();
        let before = fs::read(place.database()).unwrap();
        let opened = Store::open(&place.database(), Arc::clone(&place.folders));
        assert!(matches!(opened, Err(Error::Unavailable(_))), "{statement}");
        assert_eq!(fs::read(place.database()).unwrap(), before);
    }
}

#[test]
fn a_database_is_checked_backed_up_and_restored() {
    let place = Place::new();
    let path = place.put("input/a", "a");
    let store = place.store();
    let asset = store.register(&Viewer::all(), &path, &new("a")).unwrap().unwrap();
    store.add_tags(&Viewer::all(), &asset.id, &["best".to_owned()]).unwrap();
    let whole = Report { assets: 1, contents: 1, ..Report::default() };
    assert_eq!(upkeep::check(&place.database()).unwrap(), whole, "while it is open");
    let file = place.dir.path().join("backup");
    assert_eq!(upkeep::backup(&place.database(), &file, false).unwrap(), whole);
    assert!(matches!(upkeep::backup(&place.database(), &file, false), Err(StoreError::Exists { .. })));
    assert!(matches!(upkeep::backup(&place.database(), &place.database(), true), Err(StoreError::Itself { .. })));
    assert!(upkeep::is_of_assets(&file) && !upkeep::is_of_assets(&path));
    store.remove_tags(&Viewer::all(), &asset.id, &["best".to_owned()]).unwrap();
    drop(store);
    let kept = upkeep::restore(&Lock::database(&place.database()).unwrap(), &file).unwrap().unwrap();
    assert_eq!(upkeep::check(&kept).unwrap(), whole);
    assert!(place.store().get(&Viewer::all(), &asset.id).unwrap().tags.contains(&"best".to_owned()));

    for (damage, named) in [
        ("DELETE FROM contents", "its content is missing"),
        ("UPDATE assets SET user_metadata = '[1]'", "its metadata cannot be read"),
        ("INSERT INTO tags VALUES (99, 'x', 'user')", "tags of no asset: 1"),
        ("INSERT INTO meta VALUES (99, 'x', 0, 'text', 'y')", "metadata of no asset: 1"),
    ] {
        let copy = place.dir.path().join("copy");
        fs::copy(&file, &copy).unwrap();
        rusqlite::Connection::open(&copy).unwrap().execute_batch(damage).unwrap();
        let report = upkeep::check(&copy).unwrap();
        assert!(report.structure.is_empty() && report.rows.len() == 1 && report.rows[0].contains(named), "{damage}: {report:?}");
    }
    let mut bytes = fs::read(&file).unwrap();
    bytes[8192..].iter_mut().step_by(37).for_each(|byte| *byte ^= 0x5a);
    fs::write(&file, bytes).unwrap();
    assert!(!upkeep::check(&file).unwrap().structure.is_empty());
    let other = place.dir.path().join("other");
    rusqlite::Connection::open(&other).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    assert!(matches!(upkeep::check(&other), Err(StoreError::Foreign { .. })));
    assert!(matches!(upkeep::restore(&Lock::database(&place.database()).unwrap(), &other), Err(StoreError::Foreign { .. })));
}

#[test]
fn a_database_that_cannot_be_opened_is_told_and_holds_up_nobody() {
    let place = Place::new();
    fs::create_dir_all(place.database()).unwrap();
    let told: Box<comfyd_assets::Tell> = Box::new(|_| ());
    let options = Options { database: Lock::database(&place.database()).unwrap(), hashes: false };
    let assets = Assets::start(options, Arc::clone(&place.folders), told).unwrap();
    assert!(matches!(assets.store(), Err(Error::Unavailable(_))));
    assert_eq!(assets.seed(&Root::ALL), None);
    assets.close();
}

#[test]
fn lists_are_the_same_by_offset_and_by_cursor() {
    let place = Place::new();
    let store = place.store();
    for number in 0..7 {
        let path = place.put(&format!("input/{number}"), "x".repeat(number % 3 + 1) + &number.to_string());
        store.register(&Viewer::all(), &path, &new(&format!("n{}", number % 2))).unwrap().unwrap();
    }
    for sort in ["name", "created_at", "updated_at", "size"] {
        for order in [comfyd_assets::Order::Ascending, comfyd_assets::Order::Descending] {
            let page = Page { limit: 100, sort: comfyd_assets::Sort::parse(sort).unwrap(), order, ..Page::default() };
            let list = |page: &Page| store.list(&Viewer::all(), &Filter::default(), page).unwrap();
            let ids = |assets: &[Asset]| assets.iter().map(|asset| asset.id.clone()).collect::<Vec<_>>();
            let whole = ids(&list(&page).assets);
            let (mut walked, mut after) = (Vec::new(), None);
            loop {
                let listed = list(&Page { limit: 2, after, ..page.clone() });
                assert_eq!(listed.total, 7);
                walked.extend(ids(&listed.assets));
                after = listed.next;
                if after.is_none() {
                    break;
                }
            }
            let offset = ids(&list(&Page { offset: 5, ..page.clone() }).assets);
            assert_eq!((&walked, &offset[..]), (&whole, &whole[5..]), "{sort} {}", order.name());
        }
    }
}

#[test]
fn what_was_answered_is_there_after_a_crash() {
    let place = Place::new();
    let path = place.put("input/a", "a");
    let store = place.store();
    let id = store.register(&Viewer::all(), &path, &new("a")).unwrap().unwrap().id;
    // What a killed process leaves: the files as they are, with the log not yet in the database.
    let copied: &Path = &place.dir.path().join("copy");
    fs::create_dir(copied).unwrap();
    for ending in ["", "-wal"] {
        fs::copy(format!("{}{ending}", place.database().display()), copied.join(format!("assets.db{ending}"))).unwrap();
    }
    let after = Store::open(&copied.join("assets.db"), Arc::clone(&place.folders)).unwrap();
    assert_eq!(after.get(&Viewer::all(), &id).unwrap().name, "a");
}

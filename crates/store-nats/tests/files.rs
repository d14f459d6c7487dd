//! The contract of stores of files on NATS, and what becomes of contents that nobody names any more.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::io::{ErrorKind, Read as _, Seek as _};
use std::sync::Arc;
use std::time::Duration;

use comfyd_folders::contract;
use comfyd_folders::shared::{FileStore, When};
use comfyd_store_nats::{Connection, Link, NatsFiles};
use common::testing::Servers;
use tokio::runtime::Runtime;

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn open(runtime: &Runtime, servers: &Servers, cluster: &str) -> Arc<NatsFiles> {
    let connection = Connection { servers: servers.addresses(), ..Connection::default() };
    runtime.block_on(async {
        let link = Link::connect(&connection, "files").await.unwrap();
        Arc::new(NatsFiles::open(&link, cluster, None).await.unwrap())
    })
}

/// How many messages a stream holds.
fn held(runtime: &Runtime, servers: &Servers, stream: &str) -> u64 {
    runtime.block_on(async {
        let client = async_nats::connect(servers.addresses()).await.unwrap();
        let mut stream = async_nats::jetstream::new(client).get_stream(stream).await.unwrap();
        stream.info().await.unwrap().state.messages
    })
}

#[test]
fn nats_is_a_store_of_files() {
    let Some((mut servers, folder)) = common::servers(1) else { return };
    let runtime = runtime();
    let files = open(&runtime, &servers, "one");
    contract::run(&(files.clone() as Arc<dyn FileStore>));

    // Another process sees them, another cluster does not.
    let source = folder.path().join("source");
    std::fs::write(&source, vec![7; 1 << 20]).unwrap();
    let told = files.put("input/large.bin", &source, &When::New).unwrap().unwrap();
    let (same, other) = (open(&runtime, &servers, "one"), open(&runtime, &servers, "other"));
    assert_eq!(same.look("input/large.bin").unwrap(), Some(told));
    assert!(other.look("input/large.bin").unwrap().is_none() && other.list("input", 10).unwrap().is_empty());

    // A content that was written over, one that was not taken and one that was removed leave nothing.
    let contents = || held(&runtime, &servers, "OBJ_comfyd-one-contents");
    let before = contents();
    assert!(before > 8, "it is in pieces");
    std::fs::write(&source, vec![8; 1 << 20]).unwrap();
    same.put("input/large.bin", &source, &When::Always).unwrap().unwrap();
    assert!(same.put("input/large.bin", &source, &When::New).unwrap().is_none());
    assert!(contents() <= before);
    // One that a process left behind is swept, once it is old, and no other.
    runtime.block_on(async {
        let client = async_nats::connect(servers.addresses()).await.unwrap();
        let objects = async_nats::jetstream::new(client).get_object_store("comfyd-one-contents").await.unwrap();
        objects.put("left-behind", &mut &[1_u8; 300_000][..]).await.unwrap();
        std::thread::sleep(Duration::from_secs(2));
        assert_eq!(files.sweep(Duration::from_secs(3600)).await.unwrap(), 0);
        assert_eq!(files.sweep(Duration::ZERO).await.unwrap(), 1);
    });
    assert!(contents() <= before);
    let mut into = tempfile::tempfile().unwrap();
    assert_eq!(files.get("input/large.bin", &mut into).unwrap().unwrap().bytes, 1 << 20);
    assert!(files.remove("input/large.bin").unwrap());
    assert!(contents() < before - 8, "its pieces are gone: {} of {before}", contents());

    // Who reads a file that is written over meanwhile gets one of both, whole.
    std::fs::write(&source, vec![1; 3 << 20]).unwrap();
    files.put("output/race.bin", &source, &When::Always).unwrap().unwrap();
    let writer = {
        let (files, source) = (files.clone(), source.clone());
        std::thread::spawn(move || {
            for turn in 2..8_u8 {
                std::fs::write(&source, vec![turn; 3 << 20]).unwrap();
                files.put("output/race.bin", &source, &When::Always).unwrap().unwrap();
            }
        })
    };
    while !writer.is_finished() {
        let mut into = tempfile::tempfile().unwrap();
        let told = same.get("output/race.bin", &mut into).unwrap().unwrap();
        let mut bytes = Vec::new();
        into.rewind().unwrap();
        into.read_to_end(&mut bytes).unwrap();
        assert!(bytes.len() as u64 == told.bytes && bytes.iter().all(|byte| *byte == bytes[0]), "whole, and of one version");
    }
    writer.join().unwrap();

    servers.kill(0);
    assert!(files.look("output/race.bin").is_err(), "NATS is away, which is not the same as that there is no such file");
}

#[test]
fn three_servers_are_a_store_of_files() {
    let Some((servers, _folder)) = common::servers(3) else { return };
    std::thread::sleep(std::time::Duration::from_secs(3));
    let runtime = runtime();
    contract::run(&(open(&runtime, &servers, "three") as Arc<dyn FileStore>));
}

#[test]
fn where_nats_has_no_room_it_is_said_and_passes_once_it_has() {
    let Some(program) = common::program() else { return };
    let folder = tempfile::tempdir().unwrap();
    let small = format!("jetstream {{ store_dir: {:?}, max_file: 6M }}", folder.path().join("nats-0").display().to_string());
    let servers = Servers::start(&program, folder.path(), 1, &small).unwrap();
    let runtime = runtime();
    let files = open(&runtime, &servers, "small");
    let source = folder.path().join("source");
    for bytes in [1 << 20, 50_000] {
        std::fs::write(&source, vec![7; bytes]).unwrap();
        let put = |number: i32| files.put(&format!("output/{bytes}-{number}.bin"), &source, &When::New);
        let refused = (0..200).find_map(|number| put(number).err()).expect("it fills up");
        assert_eq!(refused.kind(), ErrorKind::StorageFull, "{refused}");
        for (name, _) in files.list("output", 1000).unwrap() {
            assert!(files.remove(&name).unwrap());
        }
        put(1000).unwrap().unwrap();
    }
}

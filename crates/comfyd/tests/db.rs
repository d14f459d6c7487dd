//! `comfyd db` beside a server and without one, and prompts that end the process.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};
use support::{Server, id, long_workflow};

fn workflow(color: u32) -> Value {
    json!({
        "1": {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": color}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    })
}

fn db(base: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_comfyd")).arg("db").args(arguments).arg("--base-directory").arg(base).output().unwrap()
}

/// What it printed, if it ended as it should.
fn said(output: &Output, success: bool) -> String {
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.success(), success, "{said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

async fn runs(server: &Server, id: &str) {
    while server.get("/queue").await["queue_running"].as_array().unwrap().iter().all(|entry| entry[1] != id) {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_prompt_that_was_running_at_two_crashes_fails_and_the_others_run() {
    let server = Server::start(&[]).await;
    server.post("/prompt", &json!({"prompt": long_workflow(), "prompt_id": id("poison")})).await;
    server.post("/prompt", &json!({"prompt": workflow(1), "prompt_id": id("waits")})).await;
    runs(&server, &id("poison")).await;
    let server = Server::start_in(server.kill(), &[]).await;
    runs(&server, &id("poison")).await;
    let server = Server::start_in(server.kill(), &[]).await;
    assert_eq!(server.finished(&id("waits")).await["status"]["status_str"], "success");
    let entry = server.finished(&id("poison")).await;
    assert_eq!(entry["status"]["status_str"], "error");
    let told = entry["status"]["messages"][0][1]["exception_message"].as_str().unwrap();
    assert!(told.contains("ended 2 times") && told.contains("submit it again"), "{told}");
    let jobs = server.get("/jobs?status=failed").await;
    assert_eq!(jobs["jobs"][0]["id"], id("poison"), "{jobs}");
}

#[cfg(unix)]
#[tokio::test]
async fn without_a_limit_and_after_orderly_ends_a_prompt_runs_again() {
    let mut server = Server::start(&["--max-crashes", "0"]).await;
    server.post("/prompt", &json!({"prompt": long_workflow(), "prompt_id": id("long")})).await;
    for _ in 0..2 {
        runs(&server, &id("long")).await;
        server = Server::start_in(server.kill(), &["--max-crashes", "0"]).await;
    }
    runs(&server, &id("long")).await;
    // Two crashes are counted, and one that is none.
    let (ended, base) = server.stop("TERM");
    assert!(ended.success());
    let server = Server::start_in(base, &["--max-crashes", "2"]).await;
    runs(&server, &id("long")).await;
}

#[cfg(unix)]
#[tokio::test]
async fn the_database_is_checked_backed_up_and_restored() {
    let server = Server::start(&[]).await;
    server.post("/prompt", &json!({"prompt": workflow(1), "prompt_id": id("before")})).await;
    server.finished(&id("before")).await;
    let elsewhere = tempfile::tempdir().unwrap();
    let backup = elsewhere.path().join("backup.db");
    let backup = backup.to_str().unwrap();
    let base = server.base.path();
    assert!(said(&db(base, &["check"]), true).contains("1 in the history"), "while the server runs");
    said(&db(base, &["backup", backup]), true);
    assert!(said(&db(base, &["backup", backup]), false).contains("--force"));
    said(&db(base, &["backup", backup, "--force"]), true);
    said(&db(base, &["check", backup]), true);
    server.post("/prompt", &json!({"prompt": workflow(2), "prompt_id": id("after")})).await;
    server.finished(&id("after")).await;
    assert!(said(&db(base, &["restore", backup]), false).contains("stop that server"));
    let (_, base) = server.stop("TERM");
    let told = said(&db(base.path(), &["restore", backup]), true);
    let kept = told.split('\'').rev().nth(1).unwrap();
    assert!(said(&db(base.path(), &["check", kept]), true).contains("2 in the history"), "{told}");
    let server = Server::start_in(base, &[]).await;
    assert_eq!(server.get("/history").await.as_object().unwrap().keys().collect::<Vec<_>>(), [&id("before")]);

    // A damaged prompt is named; a damaged file keeps the server from starting, and it says what to do.
    let (_, base) = server.stop("TERM");
    let path = base.path().join("user/comfyd.db");
    rusqlite::Connection::open(&path).unwrap().execute("UPDATE history SET outputs = ''", []).unwrap();
    assert!(said(&db(base.path(), &["check"]), false).contains(&format!("prompt '{}' of the history", id("before"))));
    let damaged = elsewhere.path().join("damaged.db");
    let damaged = damaged.to_str().unwrap();
    assert!(said(&db(base.path(), &["backup", damaged]), false).contains("the backup was written"));
    assert!(said(&db(base.path(), &["restore", damaged]), false).contains("--force"));
    said(&db(base.path(), &["restore", damaged, "--force"]), true);
    let mut bytes = fs::read(&path).unwrap();
    bytes[4096..].fill(0x5a);
    fs::write(&path, bytes).unwrap();
    let (ended, refusal) = support::run_in_shell("exec \"$@\"", &["serve", "--front-end", "none", "--port", "0"], base.path());
    assert!(!ended.success() && !refusal.contains("panicked"), "{refusal}");
    assert!(refusal.contains("is damaged") && refusal.contains("comfyd db restore"), "{refusal}");
    assert!(said(&db(base.path(), &["check"]), false).contains("restore a backup"));
    said(&db(base.path(), &["restore", backup]), true);
    Server::start_in(base, &[]).await;
}

#[cfg(unix)]
#[tokio::test]
async fn a_backup_has_the_assets_too() {
    let server = Server::start(&["--enable-assets"]).await;
    fs::create_dir_all(server.base.path().join("input")).unwrap();
    fs::write(server.base.path().join("input/a.txt"), "hello").unwrap();
    // A scan that began before the file was there may still run, and then none is begun.
    let asset = loop {
        server.post("/api/assets/seed?wait=true", &json!({"roots": ["input"]})).await;
        if let Some(asset) = server.get("/api/assets").await["assets"][0]["id"].as_str() {
            break asset.to_owned();
        }
    };
    let tags = format!("/api/assets/{asset}/tags");
    server.post(&tags, &json!({"tags": ["before"]})).await;
    let elsewhere = tempfile::tempdir().unwrap();
    let backup = elsewhere.path().join("backup.db");
    let (backup, of_assets) = (backup.to_str().unwrap(), format!("{}.assets", backup.display()));
    let base = server.base.path();
    assert!(said(&db(base, &["check"]), true).contains("1 assets, 1 contents"), "while the server runs");
    said(&db(base, &["backup", backup]), true);
    for file in [backup, &of_assets] {
        assert!(said(&db(base, &["check", file]), true).contains("1 assets, 1 contents"), "{file}");
    }
    assert!(said(&db(base, &["backup", backup]), false).contains("--force"));
    said(&db(base, &["backup", backup, "--force"]), true);
    server.post(&tags, &json!({"tags": ["after"]})).await;
    assert!(said(&db(base, &["restore", &of_assets]), false).contains("stop that server"));

    // With the queue's, and alone.
    let (_, mut base) = server.stop("TERM");
    for file in [backup, &of_assets] {
        said(&db(base.path(), &["restore", file]), true);
        let server = Server::start_in(base, &["--enable-assets"]).await;
        let told = server.get(&format!("/api/assets/{asset}")).await["tags"].to_string();
        assert!(told.contains("before") && !told.contains("after"), "{file}: {told}");
        server.post(&tags, &json!({"tags": ["after"]})).await;
        (_, base) = server.stop("TERM");
    }

    // A damaged one is named, beside a queue that is whole, and is nothing that is restored.
    let database = base.path().join("user/assets.db");
    let elsewhere = format!("sqlite:///{}", database.display());
    fs::rename(&database, base.path().join("moved.db")).unwrap();
    assert!(!said(&db(base.path(), &["check"]), true).contains("assets,"), "there need be none");
    fs::rename(base.path().join("moved.db"), &database).unwrap();
    rusqlite::Connection::open(&database).unwrap().execute_batch("DELETE FROM contents").unwrap();
    let told = said(&db(base.path(), &["check", "--database-url", &elsewhere]), false);
    assert!(told.contains(&format!("asset '{asset}': its content is missing")) && told.contains("prompts in the queue"), "{told}");
    let good = [backup, &of_assets].map(|file| fs::read(file).unwrap());
    assert!(said(&db(base.path(), &["backup", backup, "--force"]), false).contains("is kept, since something is damaged"));
    let second = format!("{backup}.second");
    assert!(said(&db(base.path(), &["backup", &second]), false).contains("the backup was written"));
    let before = fs::read(&database).unwrap();
    assert!(said(&db(base.path(), &["restore", &second]), false).contains("--force"));
    assert_eq!(fs::read(&database).unwrap(), before);

    // Nor does what is not there replace a good one.
    fs::remove_file(&database).unwrap();
    assert!(said(&db(base.path(), &["backup", backup, "--force"]), false).contains("there are none in"));
    let typo = ["--database-url", "sqlite:////typo/x.db"];
    for action in [&["check"][..], &["backup", backup, "--force"]] {
        let told = said(&db(base.path(), &[action, &typo].concat()), false);
        assert!(told.contains("there is no database of assets at '/typo/x.db'"), "{told}");
    }
    assert_eq!([backup, &of_assets].map(|file| fs::read(file).unwrap()), good);
}

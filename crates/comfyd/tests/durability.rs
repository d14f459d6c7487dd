//! What was accepted survives the process: queue and history after `kill -9`, and the queue after SIGTERM.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::path::Path;

use futures_util::StreamExt;
use serde_json::{Value, json};
use support::{Server, id, long_workflow, run_in_shell};
use tokio_tungstenite::tungstenite::Message;

fn workflow(color: u32) -> Value {
    json!({
        "1": {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": color}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "d"}},
    })
}

#[tokio::test]
async fn prompts_and_history_survive_a_kill() {
    let server = Server::start(&[]).await;
    let mut ids = Vec::new();
    for color in 0..40 {
        let (status, answer) = server.post("/prompt", &json!({"prompt": workflow(color), "extra_data": {"mine": color}})).await;
        assert_eq!(status, 200, "{answer}");
        ids.push(answer["prompt_id"].as_str().unwrap().to_owned());
    }
    let server = Server::start_in(server.kill(), &[]).await;
    for (color, id) in ids.iter().enumerate() {
        let entry = server.finished(id).await;
        assert_eq!(entry["status"]["status_str"], "success");
        assert_eq!(entry["prompt"][3]["mine"], json!(color));
    }
    let history = server.get("/history").await;
    assert_eq!(history.as_object().unwrap().len(), ids.len());
    // A known id is refused, also after a restart.
    let (status, answer) = server.post("/prompt", &json!({"prompt": workflow(1), "prompt_id": ids[0]})).await;
    assert_eq!((status, &answer["error"]["type"]), (409, &json!("duplicate_prompt_id")));
}

#[cfg(unix)]
#[tokio::test]
async fn a_signal_puts_the_running_prompt_back() {
    for signal in ["TERM", "INT"] {
        let server = Server::start(&[]).await;
        server.post("/prompt", &json!({"prompt": long_workflow(), "prompt_id": id("long")})).await;
        server.post("/prompt", &json!({"prompt": workflow(1), "prompt_id": id("short")})).await;
        while server.get("/queue?shape=documented").await["queue_running"] != 1 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let (ended, base) = server.stop(signal);
        assert!(ended.success(), "{signal}: {ended}");
        let server = Server::start_in(base, &[]).await;
        let queue = server.get("/queue").await;
        let ids: Vec<&Value> =
            ["queue_running", "queue_pending"].iter().flat_map(|list| queue[list].as_array().unwrap()).map(|item| &item[1]).collect();
        assert_eq!(ids, [&json!(id("long")), &json!(id("short"))], "{signal}");
        server.post("/interrupt", &json!({})).await;
        assert_eq!(server.finished(&id("short")).await["status"]["status_str"], "success");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn whoever_got_an_answer_can_stop_the_server() {
    for n in 0..8 {
        // A start that is answered as early as can be.
        let (ended, _) = Server::start(&[]).await.stop(["TERM", "INT"][n % 2]);
        assert!(ended.success(), "{ended}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn clients_are_told_that_the_server_stops() {
    let server = Server::start(&[]).await;
    let mut sockets = Vec::new();
    for n in 0..20 {
        let url = format!("{}/ws?clientId=c{n}", server.url.replace("http", "ws"));
        sockets.push(tokio_tungstenite::connect_async(url).await.unwrap().0);
    }
    let (ended, _) = tokio::task::spawn_blocking(|| server.stop("TERM")).await.unwrap();
    assert!(ended.success(), "{ended}");
    for mut socket in sockets {
        let mut last = None;
        while let Some(Ok(message)) = socket.next().await {
            last = Some(message);
        }
        let Some(Message::Close(Some(frame))) = last else { panic!("no reason was given: {last:?}") };
        assert_eq!((u16::from(frame.code), frame.reason.as_str()), (1001, "the server stops"));
    }
}

#[tokio::test]
async fn history_is_paged_and_bounded() {
    let server = Server::start(&["--history-limit", "5"]).await;
    let mut ids = Vec::new();
    for color in 0..8 {
        let (_, answer) = server.post("/prompt", &json!({"prompt": workflow(color)})).await;
        ids.push(answer["prompt_id"].as_str().unwrap().to_owned());
        server.finished(ids.last().unwrap()).await;
    }
    let keys = |history: &Value| history.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&server.get("/history").await), ids[3..]);
    assert_eq!(keys(&server.get("/history?max_items=2").await), ids[6..]);
    assert_eq!(keys(&server.get("/history?max_items=2&offset=1").await), ids[4..6]);
    let documented = server.get("/history?shape=documented").await;
    assert_eq!(documented.as_array().unwrap().len(), 5);
    assert_eq!(documented[0]["prompt_id"], json!(ids[3]));
    assert_eq!(server.get("/queue?shape=documented").await, json!({"queue_running": 0, "queue_pending": 0}));
    server.post("/history", &json!({"clear": true})).await;
    assert_eq!(server.get("/history").await, json!({}));
}

/// Starts a server that is to be refused, and gives what it said.
fn refused(shell: &str, base: &Path, arguments: &[&str]) -> String {
    let (ended, said) = run_in_shell(shell, &[&["serve", "--front-end", "none"], arguments].concat(), base);
    assert_eq!(ended.code(), Some(1), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

#[cfg(unix)]
#[tokio::test]
async fn whoever_is_refused_has_touched_nothing() {
    let server = Server::start(&[]).await;
    let base = server.base.path();
    let preview = base.join("temp/preview.png");
    fs::write(&preview, "of the first server").unwrap();
    let holder = format!("process {}", server.id());
    let elsewhere = tempfile::tempdir().unwrap();
    let user = elsewhere.path().join("user");
    let beside: [&[&str]; 2] = [&["--port", "0"], &["--port", "0", "--user-directory", user.to_str().unwrap()]];
    for arguments in beside {
        let said = refused("exec \"$@\"", base, arguments);
        assert!(said.contains(&holder) && said.contains("stop that server"), "{said}");
        assert_eq!(fs::read_to_string(&preview).unwrap(), "of the first server", "{arguments:?}");
    }
    // A port in use, in folders of its own.
    let port = server.url.rsplit(':').next().unwrap();
    let other = tempfile::tempdir().unwrap();
    fs::create_dir(other.path().join("temp")).unwrap();
    fs::write(other.path().join("temp/old.png"), "of an earlier run").unwrap();
    let said = refused("exec \"$@\"", other.path(), &["--port", port]);
    assert!(said.contains("cannot listen on") && said.contains("--port"), "{said}");
    assert!(other.path().join("temp/old.png").exists() && !other.path().join("user/comfyd.db").exists());

    let (ended, base) = server.stop("TERM");
    assert!(ended.success());
    assert!(!base.path().join("temp/preview.png").exists(), "whoever has the folder cleans it");
    Server::start_in(base, &[]).await;
}

#[cfg(unix)]
#[tokio::test]
async fn a_stopped_server_leaves_everything_in_one_file() {
    let server = Server::start(&[]).await;
    server.post("/prompt", &json!({"prompt": workflow(1), "prompt_id": id("done")})).await;
    server.finished(&id("done")).await;
    server.post("/prompt", &json!({"prompt": long_workflow(), "prompt_id": id("long")})).await;
    server.post("/prompt", &json!({"prompt": workflow(2), "prompt_id": id("waits")})).await;
    let (ended, base) = server.stop("TERM");
    assert!(ended.success());
    let copy = tempfile::tempdir().unwrap();
    fs::create_dir(copy.path().join("user")).unwrap();
    fs::copy(base.path().join("user/comfyd.db"), copy.path().join("user/comfyd.db")).unwrap();
    let server = Server::start_in(copy, &[]).await;
    assert_eq!(server.finished(&id("done")).await["status"]["status_str"], "success");
    server.post("/interrupt", &json!({})).await;
    assert_eq!(server.finished(&id("waits")).await["status"]["status_str"], "success");
}

#[cfg(unix)]
#[tokio::test]
async fn a_deleted_database_is_noticed() {
    let server = Server::start(&[]).await;
    server.post("/prompt", &json!({"prompt": workflow(1), "prompt_id": id("a")})).await;
    server.finished(&id("a")).await;
    fs::remove_file(server.base.path().join("user/comfyd.db")).unwrap();
    let (status, answer) = server.post("/prompt", &json!({"prompt": workflow(2)})).await;
    assert_eq!((status, &answer["error"]["type"]), (503, &json!("storage_unavailable")), "{answer}");
    assert!(answer["error"]["message"].as_str().unwrap().contains("was deleted"), "{answer}");
    let queue = server.get("/queue").await;
    assert_eq!(queue, json!({"queue_running": [], "queue_pending": []}));
    let said = refused("exec \"$@\"", server.base.path(), &["--port", "0"]);
    assert!(said.contains("is in use by"), "{said}");
}

#[tokio::test]
async fn only_what_needs_the_database_waits_for_another_program() {
    // One thread answers all requests: if it waits, everybody does.
    let server = Server::start_with(&["env", "TOKIO_WORKER_THREADS=1"], &[]).await;
    let other = rusqlite::Connection::open(server.base.path().join("user/comfyd.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let client = reqwest::Client::new();
    let prompts: Vec<_> = (0..32)
        .map(|n| {
            let body = json!({"prompt": workflow(n), "prompt_id": id(&format!("p{n}"))});
            tokio::spawn(client.post(format!("{}/prompt", server.url)).json(&body).send())
        })
        .collect();
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    for _ in 0..50 {
        assert_eq!(server.get("/prompt").await["exec_info"]["queue_remaining"], 0);
        assert_eq!(server.get("/history").await, json!({}));
    }
    assert!(prompts.iter().all(|prompt| !prompt.is_finished()), "they wait");
    other.execute_batch("COMMIT").unwrap();
    for prompt in prompts {
        assert_eq!(prompt.await.unwrap().unwrap().status(), 200);
    }
    server.finished(&id("p31")).await;
}

#[cfg(unix)]
#[test]
fn what_the_system_refuses_is_said_in_a_sentence() {
    let base = tempfile::tempdir().unwrap();
    for files in [8, 12, 16, 24, 32, 48, 64] {
        let said = refused(&format!("ulimit -n {files}; exec \"$@\""), base.path(), &["--port", "0"]);
        assert!(said.contains("too few files may be open") && said.contains("ulimit -n 1024"), "{files}: {said}");
    }
    // The limit does not hold for root; where there is no such folder, it is not known who this is.
    let user = fs::metadata("/proc/self").map_or(0, |process| std::os::unix::fs::MetadataExt::uid(&process));
    if user != 0 {
        let said = refused("ulimit -u 1; exec \"$@\"", base.path(), &["--port", "0"]);
        assert!(said.contains("threads can be started") && said.contains("ulimit -u"), "{said}");
    }
    let gone = "cd \"$(mktemp -d)\" && rmdir \"$PWD\" && exec \"$@\"";
    let said = refused(gone, base.path(), &["--port", "0"]);
    assert!(said.contains("the current folder cannot be used"), "{said}");
    fs::write(base.path().join("temp"), "a file where a folder should be").unwrap();
    let said = refused("exec \"$@\"", base.path(), &["--port", "0"]);
    assert!(said.contains("/temp'") && said.contains("check the path"), "{said}");
    // Nobody reads what is printed.
    for shell in ["\"$@\" | true; exit ${PIPESTATUS[0]}", "exec \"$@\" >&-", "exec \"$@\" 2>&-"] {
        let nodes = tempfile::tempdir().unwrap();
        let (ended, said) = run_in_shell(shell, &["nodes"], nodes.path());
        assert!(ended.success() && !said.contains("panicked"), "{shell}: {ended} {said}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_limit_on_the_size_of_files_ends_prompts_and_not_the_server() {
    let server = Server::start_with(&["bash", "-c", "ulimit -f 2048; exec \"$@\"", "bash"], &[]).await;
    let mut graph = workflow(1);
    graph["1"]["_meta"] = json!({"title": "x".repeat(1 << 20)});
    let mut refused = None;
    for _ in 0..8 {
        let (status, answer) = server.post("/prompt", &json!({"prompt": graph})).await;
        if status != 200 {
            refused = Some((status, answer));
            break;
        }
    }
    let (status, answer) = refused.expect("more was written than may be");
    assert_eq!(status, 507, "{answer}");
    assert!(answer["error"]["message"].as_str().unwrap().contains("job store"), "{answer}");
    server.get("/queue").await;
    let (status, answer) = server.post("/userdata/large.json", &json!("x".repeat(3 << 20))).await;
    assert_eq!((status, &answer["error"]["type"]), (507, &json!("disk_full")), "{answer}");
    assert_eq!(fs::read_dir(server.base.path().join("user/default")).unwrap().count(), 0, "nothing half");
}

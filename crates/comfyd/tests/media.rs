//! Sound and film over HTTP, and FFmpeg as a process of the server's.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use support::Server;

/// A program that takes FFmpeg's place and does nothing; where it leaves its process's number.
fn idle(folder: &Path) -> (PathBuf, PathBuf) {
    use std::os::unix::fs::PermissionsExt;
    let (program, pid) = (folder.join("ffmpeg"), folder.join("pid"));
    std::fs::write(&program, format!("#!/bin/sh\necho $$ > {0}.new; mv {0}.new {0}; exec sleep 600\n", pid.display())).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    (program, pid)
}

async fn preview(server: &Server) -> String {
    let prompt = json!({
        "1": {"class_type": "EmptyAudio", "inputs": {"duration": 0.1, "sample_rate": 8000, "channels": 1}},
        "2": {"class_type": "PreviewAudio", "inputs": {"audio": ["1", 0]}},
    });
    submit(server, prompt).await
}

async fn submit(server: &Server, prompt: Value) -> String {
    let (status, answer) = server.post("/prompt", &json!({"prompt": prompt})).await;
    assert_eq!(status, 200, "{answer}");
    answer["prompt_id"].as_str().unwrap().to_owned()
}

async fn begun(pid: &Path) -> String {
    loop {
        match std::fs::read_to_string(pid) {
            Ok(number) => return number.trim().to_owned(),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

async fn gone(pid: &str) {
    for _ in 0..2000 {
        if !Path::new("/proc").join(pid).exists() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the process {pid} goes on");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn ffmpeg_ends_with_the_server_and_is_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let (program, pid) = idle(folder.path());
    let server = Server::start(&["--ffmpeg", program.to_str().unwrap()]).await;
    preview(&server).await;
    let pid = begun(&pid).await;
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let data = limits.lines().find(|line| line.starts_with("Max data size")).unwrap();
    assert!(!data.contains("unlimited"), "{data}");
    drop(server.kill());
    gone(&pid).await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn ffmpeg_ends_with_its_prompt() {
    let folder = tempfile::tempdir().unwrap();
    let (program, pid) = idle(folder.path());
    let server = Server::start(&["--ffmpeg", program.to_str().unwrap()]).await;
    let prompt = preview(&server).await;
    let process = begun(&pid).await;
    assert_eq!(server.post("/interrupt", &json!({})).await.0, 200);
    let entry = server.finished(&prompt).await;
    assert_eq!(entry["status"]["messages"].as_array().unwrap().last().unwrap()[0], "execution_interrupted", "{entry}");
    gone(&process).await;
    std::fs::remove_file(pid).unwrap();
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_node_that_runs_for_too_long_takes_ffmpeg_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let (program, pid) = idle(folder.path());
    let server = Server::start(&["--ffmpeg", program.to_str().unwrap(), "--node-timeout", "1"]).await;
    let prompt = preview(&server).await;
    let process = begun(&pid).await;
    let entry = server.finished(&prompt).await;
    assert!(entry.to_string().contains("ran for longer than 1 s"), "{entry}");
    gone(&process).await;
}

#[tokio::test]
async fn without_ffmpeg_a_prompt_says_what_to_install() {
    let server = Server::start(&["--ffmpeg", "/no/such/ffmpeg"]).await;
    let prompt = preview(&server).await;
    let entry = server.finished(&prompt).await;
    let told = entry["status"]["messages"].as_array().unwrap().last().unwrap()[1]["exception_message"].as_str().unwrap().to_owned();
    assert!(told.contains("/no/such/ffmpeg") && told.contains("apt-get install ffmpeg"), "{told}");
}

#[tokio::test]
async fn films_are_uploaded_cut_saved_and_played() {
    if Command::new("ffprobe").arg("-version").output().is_err() {
        eprintln!("SKIPPED: films are not tested here: there is no ffprobe");
        return;
    }
    let server = Server::start(&[]).await;
    let film = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conformance/media/film0.mp4");
    let part = |name: &str| format!("--b\r\nContent-Disposition: form-data; name=\"image\"; filename=\"{name}\"\r\n\r\n").into_bytes();
    let body = [part("a film.mp4"), std::fs::read(&film).unwrap(), b"\r\n--b--\r\n".to_vec()].concat();
    let client = reqwest::Client::new();
    let upload = client.post(format!("{}/upload/image", server.url)).header("Content-Type", "multipart/form-data; boundary=b").body(body);
    assert_eq!(upload.send().await.unwrap().json::<Value>().await.unwrap()["name"], "a film.mp4");
    for class in ["LoadVideo", "LoadAudio"] {
        let info = server.get(&format!("/object_info/{class}")).await;
        let input = if class == "LoadVideo" { "file" } else { "audio" };
        assert_eq!(info[class]["input"]["required"][input][1]["options"], json!(["a film.mp4"]), "{class}");
    }
    let prompt = json!({
        "1": {"class_type": "LoadVideo", "inputs": {"file": "a film.mp4"}},
        "2": {"class_type": "Video Slice", "inputs": {"video": ["1", 0], "start_time": 0.4, "duration": 0.4, "strict_duration": true}},
        "3": {"class_type": "SaveVideo", "inputs": {"video": ["2", 0], "filename_prefix": "video/x", "format": "mp4", "format.codec": "auto"}},
        "4": {"class_type": "GetVideoComponents", "inputs": {"video": ["2", 0]}},
        "5": {"class_type": "PreviewAudio", "inputs": {"audio": ["4", 1]}},
        "6": {"class_type": "PreviewImage", "inputs": {"images": ["4", 0]}},
    });
    let id = submit(&server, prompt).await;
    let entry = server.finished(&id).await;
    let saved = json!({"filename": "x_00001_.mp4", "subfolder": "video", "type": "output"});
    assert_eq!(entry["outputs"]["3"], json!({"images": [saved], "animated": [true]}), "{entry}");
    assert_eq!(entry["outputs"]["6"]["images"].as_array().unwrap().len(), 5);
    let sound = entry["outputs"]["5"]["audio"][0].clone();
    assert_eq!(sound["type"], "temp");
    for (file, kind) in [(&saved, "video/mp4"), (&sound, "audio/flac")] {
        let text = |key: &str| file[key].as_str().unwrap().to_owned();
        let query = [("filename", text("filename")), ("subfolder", text("subfolder")), ("type", text("type"))];
        let asked = client.get(format!("{}/view", server.url)).query(&query).header("Range", "bytes=4-7").send().await.unwrap();
        assert_eq!((asked.status().as_u16(), asked.headers()["content-type"].to_str().unwrap()), (206, kind));
        assert_eq!(asked.bytes().await.unwrap().len(), 4);
    }
}

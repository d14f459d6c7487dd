//! Starts the real binary on a free loopback port with a fresh base folder, and stops it.
#![allow(clippy::unwrap_used, clippy::expect_used, dead_code, missing_docs)]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub struct Server {
    pub base: tempfile::TempDir,
    pub url: String,
    child: Child,
}

impl Server {
    pub async fn start(extra: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), extra).await
    }

    pub async fn start_in(base: tempfile::TempDir, extra: &[&str]) -> Self {
        Self::launch(&[], base, extra).await
    }

    /// With a command in front that runs the program and its arguments.
    pub async fn start_with(command: &[&str], extra: &[&str]) -> Self {
        Self::launch(command, tempfile::tempdir().unwrap(), extra).await
    }

    async fn launch(command: &[&str], base: tempfile::TempDir, extra: &[&str]) -> Self {
        // The build leaves the choice of cryptography to the program; an error means that another test chose already.
        drop(rustls::crypto::ring::default_provider().install_default());
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let words: Vec<&str> = command.iter().copied().chain([env!("CARGO_BIN_EXE_comfyd")]).collect();
        let child = Command::new(words[0])
            .args(&words[1..])
            .args(["serve", "--listen", "127.0.0.1", "--front-end", "none", "--port", &port.to_string(), "--base-directory"])
            .arg(base.path())
            .args(extra)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut server = Self { base, url: format!("http://127.0.0.1:{port}"), child };
        let start = Instant::now();
        while reqwest::get(format!("{}/system_stats", server.url)).await.is_err() {
            assert!(server.child.try_wait().unwrap().is_none(), "the server ended at its start");
            assert!(start.elapsed() < Duration::from_secs(30), "the server did not answer");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        server
    }

    /// The process's number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends the process without warning and gives the base folder back.
    pub fn kill(mut self) -> tempfile::TempDir {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::mem::replace(&mut self.base, tempfile::tempdir().unwrap())
    }

    /// Asks the process to end with a signal such as `TERM`, and gives how it ended and the base folder.
    pub fn stop(mut self, signal: &str) -> (ExitStatus, tempfile::TempDir) {
        let sent = Command::new("kill").args([&format!("-{signal}"), &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        let ended = self.child.wait().unwrap();
        (ended, std::mem::replace(&mut self.base, tempfile::tempdir().unwrap()))
    }

    pub async fn get(&self, path: &str) -> Value {
        reqwest::get(format!("{}{path}", self.url)).await.unwrap().json().await.unwrap()
    }

    pub async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let request = reqwest::Client::new().post(format!("{}{path}", self.url)).json(body);
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or(Value::Null))
    }

    /// Waits until a prompt is in the history, and gives its entry.
    pub async fn finished(&self, prompt_id: &str) -> Value {
        let start = Instant::now();
        loop {
            let mut history = self.get(&format!("/history/{prompt_id}")).await;
            if history.get(prompt_id).is_some() {
                return history[prompt_id].take();
            }
            assert!(start.elapsed() < Duration::from_secs(120), "prompt {prompt_id} did not end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Runs the program through a shell command in which `"$@"` stands for it, and gives how it ended and what it said on the standard error.
pub fn run_in_shell(shell: &str, arguments: &[&str], base: &Path) -> (ExitStatus, String) {
    let output = Command::new("bash")
        .args(["-c", shell, "bash", env!("CARGO_BIN_EXE_comfyd")])
        .args(arguments)
        .arg("--base-directory")
        .arg(base)
        .output()
        .unwrap();
    (output.status, String::from_utf8_lossy(&output.stderr).into_owned())
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The id of a prompt that is called so: clients may give none but UUIDs.
pub fn id(name: &str) -> String {
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
    uuid::Uuid::from_bytes(bytes).to_string()
}

pub fn conformance(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conformance").join(path)
}

pub fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

pub struct Part<'a> {
    pub name: &'a str,
    pub filename: Option<&'a str>,
    pub content_type: &'a str,
    pub bytes: &'a [u8],
}

/// A multipart form's body and content type.
pub fn multipart(parts: &[Part<'_>]) -> (Vec<u8>, String) {
    let boundary = "comfyd-test-boundary-7f3a";
    let mut body = Vec::new();
    for part in parts {
        body.extend(format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{}\"", part.name).bytes());
        if let Some(filename) = part.filename {
            body.extend(format!("; filename=\"{filename}\"\r\nContent-Type: {}", part.content_type).bytes());
        }
        body.extend(b"\r\n\r\n");
        body.extend(part.bytes);
        body.extend(b"\r\n");
    }
    body.extend(format!("--{boundary}--\r\n").bytes());
    (body, format!("multipart/form-data; boundary={boundary}"))
}

/// A prompt that takes a while: blurs of a large picture.
pub fn long_workflow() -> Value {
    let mut graph = json!({"0": {"class_type": "EmptyImage", "inputs": {"width": 2048, "height": 2048, "batch_size": 1, "color": 7}}});
    for n in 1..40 {
        graph[n.to_string()] =
            json!({"class_type": "ImageBlur", "inputs": {"image": [(n - 1).to_string(), 0], "blur_radius": 31, "sigma": 10.0}});
    }
    graph["40"] = json!({"class_type": "PreviewImage", "inputs": {"images": ["39", 0]}});
    graph
}

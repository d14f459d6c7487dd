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
        Self::launch(&[], base, extra, &[]).await
    }

    /// With variables of the environment.
    pub async fn start_with_env(variables: &[(&str, String)], extra: &[&str]) -> Self {
        Self::launch(&[], tempfile::tempdir().unwrap(), extra, variables).await
    }

    /// With a command in front that runs the program and its arguments.
    pub async fn start_with(command: &[&str], extra: &[&str]) -> Self {
        Self::launch(command, tempfile::tempdir().unwrap(), extra, &[]).await
    }

    async fn launch(command: &[&str], base: tempfile::TempDir, extra: &[&str], variables: &[(&str, String)]) -> Self {
        // The build leaves the choice of cryptography to the program; an error means that another test chose already.
        drop(rustls::crypto::ring::default_provider().install_default());
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let words: Vec<&str> = command.iter().copied().chain([env!("CARGO_BIN_EXE_comfyd")]).collect();
        let child = Command::new(words[0])
            .args(&words[1..])
            .args(["serve", "--listen", "127.0.0.1", "--front-end", "none", "--port", &port.to_string(), "--base-directory"])
            .arg(base.path())
            .args(extra)
            .envs(variables.iter().map(|(name, value)| (name, value)))
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

/// An S3 server from PyPI (`pip install 'moto[server]'`) on this machine: MOTO names its program, or it is in .venv of the checkout or in PATH.
pub struct S3 {
    child: Child,
    port: u16,
}

impl S3 {
    /// `None`, loudly, where there is none.
    pub fn start() -> Option<Self> {
        let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.venv/bin/moto_server");
        let named = std::env::var_os("MOTO").map(PathBuf::from);
        let program = named.or_else(|| beside.is_file().then_some(beside)).unwrap_or_else(|| "moto_server".into());
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new(program);
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
        let Ok(child) = command.spawn() else {
            eprintln!(
                "SKIPPED: there is no S3 server to test with: pip install 'moto[server]' into .venv, or name its moto_server in MOTO"
            );
            return None;
        };
        let begun = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(60), "the S3 server does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(Self { child, port })
    }

    /// How programs are told of it.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        let address = format!("http://127.0.0.1:{}", self.port);
        let key = || "test".to_owned();
        vec![
            ("AWS_ENDPOINT_URL", address),
            ("AWS_ALLOW_HTTP", "true".into()),
            ("AWS_ACCESS_KEY_ID", key()),
            ("AWS_SECRET_ACCESS_KEY", key()),
            ("AWS_REGION", "us-east-1".into()),
        ]
    }

    /// Makes a bucket, which needs no more than a request to this server.
    pub fn make(&self, bucket: &str) {
        use std::io::{Read as _, Write as _};
        let mut socket = std::net::TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let key = "Authorization: AWS4-HMAC-SHA256 Credential=test/20200101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";
        write!(socket, "PUT /{bucket} HTTP/1.1\r\nHost: 127.0.0.1\r\n{key}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
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

//! The contract of stores of files, on a folder and on an S3 server from PyPI (`pip install 'moto[server]'`): MOTO names its program, or it is in
//! .venv of the checkout or in PATH.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use comfyd_files::ObjectFiles;
use comfyd_folders::contract;
use comfyd_folders::shared::{FileStore, When};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// An S3 server on this machine.
struct S3 {
    child: Child,
    port: u16,
}

impl S3 {
    fn start() -> Option<Self> {
        let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.venv/bin/moto_server");
        let named = std::env::var_os("MOTO").map(PathBuf::from);
        let program = named.or_else(|| beside.is_file().then_some(beside)).unwrap_or_else(|| "moto_server".into());
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let started =
            Command::new(program).args(["-H", "127.0.0.1", "-p", &port.to_string()]).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let Ok(child) = started else {
            eprintln!(
                "SKIPPED: there is no S3 server to test with: pip install 'moto[server]' into .venv, or name its moto_server in MOTO"
            );
            return None;
        };
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(60), "the S3 server does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(Self { child, port })
    }

    fn settings(&self) -> Vec<(String, String)> {
        [
            ("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", self.port).as_str()),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_UNKNOWN_TO_IT", "x"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    }

    /// Makes a bucket, which needs no more than a request to this server.
    fn make(&self, bucket: &str) {
        use std::io::{Read as _, Write as _};
        let mut socket = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
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

#[test]
fn a_folder_is_a_store() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    let place = dir.path().join("not/made/yet");
    let open = || Arc::new(ObjectFiles::open(place.to_str().unwrap(), &[], runtime.handle().clone()).unwrap()) as Arc<dyn FileStore>;
    contract::run(&open());
    // Its files are files, and another server sees them.
    let file = dir.path().join("x");
    std::fs::write(&file, "x").unwrap();
    open().put("input/deep/a #1.png", &file, &When::New).unwrap().unwrap();
    assert_eq!(std::fs::read(place.join("input/deep/a #1.png")).unwrap(), b"x");
    assert!(open().look("input/deep/a #1.png").unwrap().is_some());
}

#[test]
fn an_s3_bucket_is_a_store() {
    let Some(s3) = S3::start() else { return };
    let runtime = runtime();
    s3.make("bucket");
    let open = |place: &str| ObjectFiles::open(place, &s3.settings(), runtime.handle().clone()).unwrap();
    contract::run(&(Arc::new(open("s3://bucket/some/prefix")) as Arc<dyn FileStore>));
    contract::run(&(Arc::new(open("s3://bucket")) as Arc<dyn FileStore>));
    // Prefixes keep what they have apart.
    let (dir, one, other) = (tempfile::tempdir().unwrap(), open("s3://bucket/one"), open("s3://bucket/other"));
    let file = dir.path().join("x");
    std::fs::write(&file, "x").unwrap();
    one.put("input/a.png", &file, &When::New).unwrap().unwrap();
    assert!(other.look("input/a.png").unwrap().is_none() && other.list("input", 10).unwrap().is_empty());
    one.check().unwrap();
    drop(s3);
    let away = one.look("input/a.png").expect_err("it is gone, which is not the same as that there is no such file");
    assert_eq!(away.kind(), ErrorKind::HostUnreachable, "it may come back: {away}");
}

#[test]
fn places_that_are_none_are_refused_with_words() {
    let runtime = runtime();
    let refused = |place: &str| ObjectFiles::open(place, &[], runtime.handle().clone()).err().unwrap().to_string();
    for place in ["relative/folder", "ftp://host/x", "memory:///", "", "http://"] {
        assert!(refused(place).contains("s3://BUCKET/PREFIX"), "{place}: {}", refused(place));
    }
}

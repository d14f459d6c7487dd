//! Tests of the installation: with wheels made here, from a server on this machine, and, when asked for, from the real index.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::Write;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use zip::write::SimpleFileOptions;

use super::unpack::{unpack, unpack_bounded};
use super::*;

fn wheel(entries: &[(&str, &str)]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, content) in entries {
        writer.start_file(*name, SimpleFileOptions::default()).unwrap();
        writer.write_all(content.as_bytes()).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

const FILES: [(&str, &str); 3] = [
    ("comfyui_frontend_package/__init__.py", "no page"),
    ("comfyui_frontend_package/static/index.html", "<html>"),
    ("comfyui_frontend_package/static/assets/a.js", "let a"),
];

#[test]
fn pages_are_unpacked_and_nothing_else() {
    let base = tempfile::tempdir().unwrap();
    let web = base.path().join("web");
    unpack(&wheel(&FILES), &PAGES, &web.join("1.0")).unwrap();
    assert_eq!(std::fs::read_to_string(web.join("1.0/assets/a.js")).unwrap(), "let a");
    assert_eq!(std::fs::read_dir(web.join("1.0")).unwrap().count(), 2);
    assert_eq!(std::fs::read_dir(&web).unwrap().count(), 1);
    assert_eq!(find_installed(base.path()), Some(web.join("1.0")));
}

#[test]
fn half_installations_of_long_ago_are_removed() {
    let base = tempfile::tempdir().unwrap();
    let web = base.path().join("web");
    for (name, days) in [(".1.0.1.partial", 2), (".1.0.2.partial", 0), ("0.9", 2)] {
        std::fs::create_dir_all(web.join(name)).unwrap();
        let time = std::time::SystemTime::now() - std::time::Duration::from_secs(days * 24 * 3600);
        std::fs::File::open(web.join(name)).unwrap().set_modified(time).unwrap();
    }
    unpack(&wheel(&FILES), &PAGES, &web.join("1.0")).unwrap();
    let mut names: Vec<_> = std::fs::read_dir(&web).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, [".1.0.2.partial", "0.9", "1.0"]);
}

#[test]
fn bad_wheels_leave_nothing_behind() {
    let base = tempfile::tempdir().unwrap();
    let web = base.path().join("web");
    let static_file = |name: &str| format!("comfyui_frontend_package/static/{name}");
    for name in ["../../out", "a/../../out", "/out", "a\\..\\..\\out", "c:out"] {
        let error = unpack(&wheel(&[FILES[1], (&static_file(name), "x")]), &PAGES, &web.join("1.0")).unwrap_err();
        assert!(error.to_string().contains("leads outside"), "{name}: {error}");
    }
    assert!(unpack(b"no zip", &PAGES, &web.join("1.0")).unwrap_err().to_string().contains("not what it should be"));
    assert!(
        unpack(&wheel(&FILES[2..]), &PAGES, &web.join("1.0"))
            .unwrap_err()
            .to_string()
            .contains("no comfyui_frontend_package/static/index.html")
    );
    assert!(matches!(unpack_bounded(&wheel(&FILES), &PAGES, &web.join("1.0"), 2, 1000), Err(Error::TooLarge { .. })));
    assert!(matches!(unpack_bounded(&wheel(&FILES), &PAGES, &web.join("1.0"), 3, 10), Err(Error::TooLarge { .. })));
    unpack_bounded(&wheel(&FILES), &PAGES, &web.join("0.9"), 3, 11).unwrap();
    assert_eq!(std::fs::read_dir(&web).unwrap().count(), 1);
    assert!(!base.path().join("out").exists());
}

#[test]
fn links_are_refused() {
    let base = tempfile::tempdir().unwrap();
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    writer.add_symlink("comfyui_frontend_package/static/index.html", "/etc/passwd", SimpleFileOptions::default()).unwrap();
    let wheel = writer.finish().unwrap().into_inner();
    assert!(unpack(&wheel, &PAGES, &base.path().join("1.0")).unwrap_err().to_string().contains("is a link"));
}

#[test]
fn the_pinned_version_is_preferred_and_then_the_newest() {
    let base = tempfile::tempdir().unwrap();
    assert_eq!(find_installed(base.path()), None);
    for (version, expected) in [("1.9.0", "1.9.0"), ("1.30.0", "1.30.0"), ("1.10.0", "1.30.0"), (PINNED_VERSION, PINNED_VERSION)] {
        unpack(&wheel(&FILES), &PAGES, &base.path().join("web").join(version)).unwrap();
        assert_eq!(find_installed(base.path()), Some(base.path().join("web").join(expected)));
    }
    std::fs::create_dir(base.path().join("web/9.0.0")).unwrap();
    assert_eq!(find_version(base.path(), "9.0.0"), None);
    assert_eq!(find_version(base.path(), "../web/1.9.0"), None);
}

/// Answers every request by its path until the test ends; returns the index's address.
async fn index(files: Vec<(&'static str, &'static str, Vec<u8>)>) -> PipSettings {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 8192];
            let length = stream.read(&mut request).await.unwrap();
            let request = String::from_utf8_lossy(&request[..length]).into_owned();
            let path = request.split(' ').nth(1).unwrap();
            let head = |status: &str, kind: &str, length: usize| {
                format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")
            };
            let answer = match files.iter().find(|file| file.0 == path) {
                Some((_, kind, body)) => [head("200 OK", kind, body.len()).into_bytes(), body.clone()].concat(),
                None => head("404 Not Found", "text/plain", 0).into_bytes(),
            };
            stream.write_all(&answer).await.unwrap();
        }
    });
    PipSettings { indexes: vec![format!("http://{address}/simple")], certificates: None, trusted_hosts: Vec::new(), proxy: None }
}

#[tokio::test]
async fn an_index_on_this_machine() {
    let good = wheel(&FILES);
    let name = |version: &str| format!("comfyui_frontend_package-{version}-py3-none-any.whl");
    let link = |version: &str, hash: &str| format!("<a href=\"/f/{version}#sha256={hash}\">{}</a>", name(version));
    let right = hex(&Sha256::digest(&good));
    let list = [link("1.0.0", &right), link("2.0.0", &"0".repeat(64)), link("3.0.0", "none"), link(PINNED_VERSION, &right)].concat();
    let files = vec![
        ("/simple/comfyui-frontend-package/", "text/html; charset=utf-8", list.into_bytes()),
        ("/f/1.0.0", "application/zip", good.clone()),
        ("/f/2.0.0", "application/zip", good.clone()),
        ("/f/1.58.1", "application/zip", good.clone()),
    ];
    let settings = index(files).await;
    let base = tempfile::tempdir().unwrap();
    let seen = std::sync::Mutex::new((0, 0));
    let progress = |_: &str, done, all| *seen.lock().unwrap() = (done, all);
    let install = |version: &'static str| install_from(&settings, version, base.path(), &progress);
    assert_eq!(install("1.0.0").await.unwrap(), base.path().join("web/1.0.0"));
    assert_eq!(*seen.lock().unwrap(), (good.len() as u64, good.len() as u64));
    assert!(matches!(install("2.0.0").await, Err(Error::Hash { .. })));
    assert!(matches!(install("3.0.0").await, Err(Error::NoHash { .. })));
    assert!(matches!(install(PINNED_VERSION).await, Err(Error::Hash { .. })), "the pinned hash goes before the index's");
    assert!(install("7.0.0").await.unwrap_err().to_string().contains("3.0.0, 2.0.0, 1.58.1"));
    assert_eq!(find_installed(base.path()), Some(base.path().join("web/1.0.0")));
}

#[tokio::test]
async fn help_is_put_below_the_pages() {
    let package: &'static Package = &Package { sha256: "", version: "0.0.1", ..DOCS };
    let docs = wheel(&[("comfyui_embedded_docs/docs/KSampler/en.md", "# help"), ("comfyui_embedded_docs/__init__.py", "no help")]);
    let link = |hash: &str| format!("<a href=\"/f#sha256={hash}\">comfyui_embedded_docs-0.5.15-py3-none-any.whl</a>");
    let files = |hash: &str| {
        vec![("/simple/comfyui-embedded-docs/", "text/html", link(hash).into_bytes()), ("/f", "application/zip", docs.clone())]
    };
    let base = tempfile::tempdir().unwrap();
    let right = hex(&Sha256::digest(&docs));
    assert!(matches!(add(&index(files(&right)).await, &DOCS, base.path(), &|_, _, _| {}).await, Err(Error::Hash { .. })));
    assert_eq!(std::fs::read_dir(base.path()).unwrap().count(), 0);
    let clients = Clients::new(index(files(&right)).await).unwrap();
    let found = index::find(&clients, &clients.settings, package.name, DOCS.version).await.unwrap();
    unpacked(&clients, package, found, base.path().join("docs"), &|_, _, _| {}).await.unwrap();
    assert_eq!(std::fs::read_to_string(base.path().join("docs/KSampler/en.md")).unwrap(), "# help");
    assert_eq!(std::fs::read_to_string(base.path().join("docs/.version")).unwrap(), "0.0.1");
    assert_eq!(std::fs::read_dir(base.path().join("docs")).unwrap().count(), 2);
    let nowhere = PipSettings { indexes: vec!["http://127.0.0.1:9/".into()], ..index(Vec::new()).await };
    add(&nowhere, &DOCS, base.path(), &|_, _, _| {}).await.expect("what is there is not fetched again");
}

#[test]
#[ignore = "downloads 15 MB from the package index"]
fn the_real_index() {
    let base = tempfile::tempdir().unwrap();
    let folder = install(None, &[&DOCS], base.path(), &|_, _, _| {}).unwrap();
    assert_eq!(folder, base.path().join("web").join(PINNED_VERSION));
    assert!(folder.join("index.html").is_file() && folder.join("assets").is_dir());
    assert!(folder.join("docs/KSampler/en.md").is_file());
}

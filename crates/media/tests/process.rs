//! Programs that do not do what is wanted of them. They are scripts, so that FFmpeg need not be there.

#![cfg(unix)]
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use comfyd_media::{Error, Media, Options};
use comfyd_node::CancellationToken;

/// FFmpeg's place is taken by this script.
fn media(folder: &Path, script: &str) -> Media {
    let program = folder.join("program");
    std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    Media::new(Options { ffmpeg: program.clone(), ffprobe: program, ..Options::new(folder) })
}

fn told(script: &str) -> Result<comfyd_media::Probe, Error> {
    let folder = tempfile::tempdir().unwrap();
    media(folder.path(), script).probe(Path::new("/a file"), &CancellationToken::default())
}

#[test]
fn a_missing_program_says_what_to_install() {
    let media = Media::new(Options { ffprobe: "/no/such/ffprobe".into(), ..Options::new("/tmp") });
    let error = media.probe(Path::new("x"), &CancellationToken::default()).unwrap_err().to_string();
    assert!(error.starts_with("'/no/such/ffprobe' cannot be started"), "{error}");
    assert!(error.contains("apt-get install ffmpeg"), "{error}");
}

#[test]
fn an_error_tells_the_last_that_was_said() {
    let error = told("yes 'much of it' | head -c 300000 >&2; echo the last >&2; exit 3").unwrap_err().to_string();
    assert!(error.starts_with("ffprobe fails: ") && error.ends_with("the last"), "{error}");
    assert!(error.len() < 5000, "{} bytes", error.len());
    assert!(told("exit 3").unwrap_err().to_string().contains("exit status: 3"));
}

#[test]
fn what_is_no_answer_is_told() {
    assert!(told("echo nothing").unwrap_err().to_string().contains("cannot be read"));
    assert!(told("yes").unwrap_err().to_string().contains("more than"));
}

#[test]
fn files_are_named_so_that_they_are_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let media = media(folder.path(), r#"for word in "$@"; do last=$word; done; echo "$last" >&2; exit 1"#);
    let error = media.probe(Path::new("/x/-i http:concat|y.mp4"), &CancellationToken::default()).unwrap_err().to_string();
    assert_eq!(error, "ffprobe fails: file:/x/-i http:concat|y.mp4");
}

#[test]
fn an_interruption_ends_it() {
    let folder = tempfile::tempdir().unwrap();
    let pid = folder.path().join("pid");
    let media = media(folder.path(), &format!("echo $$ > {}; exec sleep 600", pid.display()));
    let cancel = CancellationToken::default();
    let ended = {
        let cancel = cancel.clone();
        std::thread::spawn(move || media.probe(Path::new("/x"), &cancel))
    };
    let number = loop {
        match std::fs::read_to_string(&pid) {
            Ok(text) if text.ends_with('\n') => break text.trim().to_owned(),
            _ => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    cancel.cancel();
    assert!(matches!(ended.join().unwrap(), Err(Error::Interrupted)));
    assert!(!Path::new("/proc").join(number).exists(), "it is gone");
}

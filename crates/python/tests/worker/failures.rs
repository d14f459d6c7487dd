//! What goes wrong in a worker fails the prompt that it concerns, and no other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use comfyd_node::{Error, Value};
use comfyd_python::{Patience, State};
use serde_json::json;

use crate::support::*;

fn impatient(settings: &mut comfyd_python::Settings) {
    let milliseconds = Duration::from_millis;
    settings.patience = Patience { raise: milliseconds(200), kill: milliseconds(600), ..Patience::default() };
}

fn failed(error: Error) -> String {
    match error {
        Error::Failed(why) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_exception_is_told_as_python_tells_it() {
    if !python() {
        return;
    }
    let rig = rig();
    rig.begin().unwrap();
    let raised = |message: &str, kind: &str| match rig.run("StubRaise", &[("message", is(message)), ("kind", is(kind))]).unwrap_err() {
        Error::Raised(raised) => *raised,
        other => panic!("{other:?}"),
    };
    let error = raised("oh no", "ValueError");
    assert_eq!((error.kind.as_str(), error.message.as_str(), error.out_of_memory), ("ValueError", "oh no", false));
    assert!(error.traceback.iter().any(|line| line.contains("stub_nodes") && line.contains("in run")), "{:?}", error.traceback);
    assert_eq!(error.inputs, Some(json!({"message": ["oh no"], "kind": ["ValueError"]})));
    let error = raised("full", "memory");
    assert!(error.out_of_memory && error.kind.ends_with("OOM_EXCEPTION"), "{error:?}");
    assert!(raised("mine", "own").kind.ends_with("stub_nodes.OwnError"));
    assert!(matches!(rig.run("StubRaise", &[("message", is("")), ("kind", is("interrupt"))]), Err(Error::Interrupted)));
    assert!(rig.run("StubAsyncRaise", &[("message", is("later"))]).is_err());
    let pid = rig.pid();
    rig.worker.host().end();
    rig.begin().unwrap();
    assert_eq!(rig.value("StubText", &[("text", is("on"))]).unwrap().to_json(), json!("on"));
    assert_eq!(rig.pid(), pid, "the process goes on");
}

#[test]
fn a_node_that_heeds_interruption_stops_at_once() {
    if !python() {
        return;
    }
    let rig = rig();
    rig.begin().unwrap();
    let pid = rig.pid();
    let answer = rig.start("StubLoop", "1", &[("seconds", is(20.0))]);
    std::thread::sleep(Duration::from_millis(100));
    let began = Instant::now();
    rig.worker.host().interrupt();
    assert!(matches!(answer.recv_timeout(Duration::from_secs(10)).unwrap(), Err(Error::Interrupted)));
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    rig.worker.host().end();
    rig.begin().unwrap();
    assert!(rig.value("StubLoop", &[("seconds", is(0.05))]).is_ok(), "the next prompt is not interrupted");
    assert_eq!(rig.pid(), pid);
}

#[test]
fn a_wait_interrupts_once_its_prompt_is_cancelled() {
    if !python() {
        return;
    }
    let rig = ready(impatient);
    rig.begin().unwrap();
    let hanging = rig.start("StubStubborn", "5", &[("seconds", is(20.0))]);
    let cancel = rig.cancel.clone();
    let canceller = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        cancel.cancel();
    });
    // The thread is busy: nobody answers what a class's result depends on.
    let answer = rig.class("StubChanged").fingerprint(&call("1", &[("mode", is("same"))]), &rig.cancel);
    canceller.join().unwrap();
    assert!(matches!(hanging.recv_timeout(Duration::from_secs(10)).unwrap(), Err(Error::Interrupted)));
    assert!(answer.is_ok() || matches!(answer, Err(Error::Interrupted)), "{answer:?}");
}

#[test]
fn a_node_that_does_not_is_thrown_an_exception() {
    if !python() {
        return;
    }
    let rig = ready(impatient);
    rig.begin().unwrap();
    let pid = rig.pid();
    let answer = rig.start("StubStubborn", "1", &[("seconds", is(20.0))]);
    std::thread::sleep(Duration::from_millis(50));
    rig.worker.host().interrupt();
    assert!(matches!(answer.recv_timeout(Duration::from_secs(10)).unwrap(), Err(Error::Interrupted)));
    rig.worker.host().end();
    rig.begin().unwrap();
    assert_eq!(rig.pid(), pid, "the process goes on");
}

#[test]
fn a_node_that_catches_that_is_killed_with_its_process() {
    if !python() {
        return;
    }
    let rig = ready(impatient);
    rig.begin().unwrap();
    let pid = rig.pid();
    let answer = rig.start("StubHang", "1", &[("seconds", is(60.0))]);
    std::thread::sleep(Duration::from_millis(50));
    let began = Instant::now();
    rig.worker.host().interrupt();
    assert!(matches!(answer.recv_timeout(Duration::from_secs(10)).unwrap(), Err(Error::Interrupted)));
    assert!(began.elapsed() > Duration::from_millis(550), "{:?}", began.elapsed());
    rig.worker.host().end();
    rig.begin().unwrap();
    assert_ne!(rig.pid(), pid, "there is a new one");
    assert_eq!(rig.value("StubText", &[("text", is("on"))]).unwrap().to_json(), json!("on"));
}

#[test]
fn what_a_prompt_left_behind_does_not_hold_the_next_one_up() {
    if !python() {
        return;
    }
    let rig = ready(impatient);
    rig.begin().unwrap();
    let pid = rig.pid();
    let _answer = rig.start("StubHang", "1", &[("seconds", is(60.0))]);
    std::thread::sleep(Duration::from_millis(50));
    rig.worker.host().end();
    rig.begin().unwrap();
    assert_ne!(rig.pid(), pid);
}

#[test]
fn a_crash_fails_the_prompt_and_says_how() {
    if !python() {
        return;
    }
    let rig = rig();
    rig.begin().unwrap();
    let pid = rig.pid();
    let object = rig.value("StubObject", &[("name", is("lost"))]).unwrap();
    let other = rig.start("StubSleep", "7", &[("value", is(1)), ("seconds", is(20.0))]);
    let why = failed(rig.start("StubSegfault", "5", &[]).recv_timeout(Duration::from_secs(10)).unwrap().unwrap_err());
    assert!(why.contains("signal 11 (segmentation fault)") && why.contains("node 5 (StubSegfault)"), "{why}");
    assert!(other.recv_timeout(Duration::from_secs(1)).unwrap().is_err(), "everybody who waits is told");
    // Until the prompt ends nothing of it runs in another process.
    let why = failed(rig.value("StubText", &[("text", is("x"))]).unwrap_err());
    assert!(why.contains("segmentation fault"), "{why}");
    rig.worker.host().end();
    rig.begin().unwrap();
    assert_ne!(rig.pid(), pid);
    let Value::Object(lost) = &object else { panic!("{object:?}") };
    assert!(!lost.alive());
    assert!(failed(lost.localize().unwrap_err()).contains("is lost"));
    let why = failed(rig.value("StubUseObject", &[("object", link([object.clone()]))]).unwrap_err());
    assert!(why.contains("is lost"), "{why}");
    drop(object);
    assert_eq!(rig.value("StubAlive", &[]).unwrap().to_json(), json!(0));
}

#[test]
fn an_exit_is_told_with_the_last_lines() {
    if !python() {
        return;
    }
    let rig = rig();
    rig.begin().unwrap();
    let why = failed(rig.run("StubExit", &[("status", is(3))]).unwrap_err());
    assert!(why.contains("exited with status 3") && why.ends_with("the stub ends the process"), "{why}");
    rig.worker.host().end();
    rig.begin().unwrap();
}

#[test]
fn a_start_that_fails_is_told_and_tried_again_later() {
    if !python() {
        return;
    }
    let rig = cold(|settings| settings.args = vec!["--stub-start-fails".into()]);
    assert_eq!(rig.worker.state(), State::Cold);
    let why = rig.worker.ready().unwrap_err().to_string();
    assert!(why.starts_with("the Python worker 'default' cannot be had: it exited with status 1"), "{why}");
    assert!(why.contains("the stub does not start"), "{why}");
    assert!(matches!(rig.worker.state(), State::Failed(_)));
    let began = Instant::now();
    assert!(rig.worker.ready().is_err());
    assert!(began.elapsed() > Duration::from_millis(500), "a short pause is waited for");
    assert!(rig.worker.ready().is_err());
    let began = Instant::now();
    assert!(failed(rig.begin().unwrap_err()).contains("the stub does not start"));
    assert!(began.elapsed() < Duration::from_millis(1_500), "a long one is not");
}

#[test]
fn a_start_that_takes_too_long_is_ended() {
    if !python() {
        return;
    }
    let rig = cold(|settings| {
        settings.args = vec!["--stub-start-seconds".into(), "60".into()];
        settings.patience.start = Duration::from_millis(700);
    });
    let began = Instant::now();
    let why = rig.worker.ready().unwrap_err().to_string();
    assert!(why.contains("was not ready in 0.7 s, so it was killed"), "{why}");
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_prompt_that_waits_for_a_start_can_be_interrupted() {
    if !python() {
        return;
    }
    let rig = cold(|settings| settings.args = vec!["--stub-start-seconds".into(), "60".into()]);
    let cancel = rig.cancel.clone();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        cancel.cancel();
    });
    let began = Instant::now();
    assert!(matches!(rig.begin(), Err(Error::Interrupted)));
    assert!(began.elapsed() < Duration::from_secs(10));
    let began = Instant::now();
    rig.worker.shutdown();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(rig.worker.state(), State::Cold);
    assert!(rig.worker.ready().is_err(), "it is not started again");
}

/// A process that answers, but does odd things.
fn with_main(text: &str) -> (tempfile::TempDir, impl FnOnce(&mut comfyd_python::Settings)) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("main.py"), text).unwrap();
    let comfyui = folder.path().to_owned();
    (folder, move |settings: &mut comfyd_python::Settings| settings.comfyui = comfyui)
}

#[test]
fn a_bad_frame_ends_the_process() {
    if !python() {
        return;
    }
    let (_folder, change) =
        with_main("import time\nfrom comfyd_worker import frames\nframes._socket.sendall(b'GET / HTTP/1.1 and more')\ntime.sleep(60)\n");
    let rig = cold(change);
    let began = Instant::now();
    let why = rig.worker.ready().unwrap_err().to_string();
    assert!(why.contains("it sent what is no message"), "{why}");
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_process_that_is_stuck_while_idle_is_started_anew() {
    if !python() {
        return;
    }
    let rig = ready(|settings| settings.patience.idle = Duration::from_millis(1_500));
    let pid = rig.pid();
    std::thread::sleep(Duration::from_millis(2_500));
    assert_eq!(rig.pid(), pid, "one that answers is left alone");
    rig.worker.start();
    let stopped = std::process::Command::new("kill").args(["-STOP", &pid.to_string()]).status().unwrap();
    assert!(stopped.success());
    until("there is another", || matches!(rig.worker.state(), State::Ready { pid: other } if other != pid));
}

#[test]
fn a_process_that_was_ended_from_outside_is_noticed() {
    if !python() {
        return;
    }
    let rig = rig();
    let (pid, changes) = (rig.pid(), *rig.heard.changes.lock());
    let ended = std::process::Command::new("kill").args(["-TERM", &pid.to_string()]).status().unwrap();
    assert!(ended.success());
    until("it is noticed", || matches!(rig.worker.state(), State::Failed(_)));
    assert!(*rig.heard.changes.lock() > changes);
    rig.begin().unwrap();
    assert_ne!(rig.pid(), pid);
}

#[test]
fn a_pack_restarts_the_worker() {
    if !python() {
        return;
    }
    let rig = rig();
    rig.begin().unwrap();
    let pid = rig.pid();
    assert!(rig.run("StubRestart", &[]).is_err());
    rig.worker.host().end();
    until("it is started anew by itself", || matches!(rig.worker.state(), State::Ready { pid: other } if other != pid));
    // Manager leaves a note and exits.
    let pid = rig.pid();
    let folder = rig.worker.http().parent().unwrap().to_owned();
    std::fs::write(folder.join("session.reboot"), "").unwrap();
    rig.begin().unwrap();
    assert!(rig.run("StubExit", &[("status", is(0))]).is_err());
    rig.worker.host().end();
    until("it is started anew by itself", || matches!(rig.worker.state(), State::Ready { pid: other } if other != pid));
}

#[test]
fn the_process_ends_with_the_worker() {
    if !python() {
        return;
    }
    let rig = rig();
    let pid = rig.pid();
    let host = rig.worker.host();
    let entries = rig.worker.entries();
    rig.begin().unwrap();
    let answer = rig.start("StubHang", "1", &[("seconds", is(60.0))]);
    let began = Instant::now();
    let heard = Arc::downgrade(&rig.heard);
    drop(rig);
    assert!(began.elapsed() < Duration::from_secs(8));
    assert!(answer.recv_timeout(Duration::from_secs(1)).unwrap().is_err());
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    drop((host, entries));
    assert!(heard.upgrade().is_none(), "nothing holds what is over");
}

#[test]
fn code_that_ends_the_process_fails_its_prompt() {
    if !python() {
        return;
    }
    let rig = rig();
    rig.begin().unwrap();
    let pid = rig.pid();
    let raised = |error: Error| match error {
        Error::Raised(raised) => (raised.kind.clone(), raised.inputs.clone()),
        other => panic!("{other:?}"),
    };
    let class = rig.class("StubExits");
    let asked = call("1", &[("where", is("lazy")), ("value", unknown())]);
    let (kind, inputs) = raised(class.needed(&asked, &rig.cancel).unwrap_err());
    assert_eq!((kind.as_str(), inputs), ("SystemExit", Some(json!({"where": ["lazy"], "value": [null]}))));
    let checked = class.validate("1", &arguments(&[("where", is("validate"))]), &serde_json::Map::new());
    assert_eq!(raised(checked.unwrap_err()).0, "SystemExit");
    assert_eq!(raised(rig.run("StubExits", &[("where", is("later"))]).unwrap_err()).0, "SystemExit");
    assert_eq!(rig.pid(), pid);
}

#[test]
fn secrets_that_a_node_prints_are_told_to_nobody() {
    if !python() {
        return;
    }
    let rig = rig();
    rig.begin().unwrap();
    let why = failed(rig.run("StubExit", &[("status", is(0)), ("said", is("the key is secret-token, so"))]).unwrap_err());
    assert!(why.contains("the key is [secret], so") && !why.contains("secret-token"), "{why}");
}

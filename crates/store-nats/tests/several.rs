//! What a store of several processes does beyond the contract: long texts, secrets, what is missing, commands and events.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use comfyd_jobs::memory::MemorySink;
use comfyd_jobs::{Error, Event, EventKind, EventSink, JobStore, Needs, NewJob, Position, Secrets, Status, WorkerId, contract};
use comfyd_store_nats::{Abilities, About, AboutDevice, Command, Connection, Link, NatsStore, Options, Post};
use serde_json::json;

async fn join(servers: &[String], api: bool) -> NatsStore {
    let connection = Connection { servers: servers.to_vec(), ..Connection::default() };
    let link = Link::connect(&connection, "test").await.unwrap();
    let options = Options { keeps_texts: api, expires: api, lease: Duration::from_secs(2), ..Options::default() };
    NatsStore::open(&link, options).await.unwrap()
}

async fn until(what: &str, so: impl AsyncFn() -> bool) {
    for _ in 0..1000 {
        if so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("waited in vain: {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn long_texts_go_beside() {
    let Some((nats, _folder)) = common::servers(1) else { return };
    let servers = nats.addresses();
    let (api, worker) = (join(&servers, true).await, join(&servers, false).await);
    // More than NATS takes in a message.
    let long = format!("{{\"1\":\"{}\"}}", "ä".repeat(1_500_000));
    let prompt = serde_json::value::RawValue::from_string(long.clone()).unwrap();
    api.enqueue(NewJob { prompt: prompt.into(), ..contract::job("a", Position::Back) }).await.unwrap();
    let later = join(&servers, true).await;
    assert_eq!(later.queue().await.unwrap().pending[0].prompt.get(), long, "who comes later reads it too");
    until("it is seen", async || worker.counts().await.unwrap().pending == 1).await;
    let claim = worker.claim(&WorkerId::new("w")).await.unwrap().unwrap();
    assert_eq!(claim.job.prompt.get(), long);
    let mut outcome = contract::outcome(Status::Success);
    outcome.outputs = json!({"1": {"text": ["b".repeat(3_000_000)]}});
    worker.finish(&claim.token, &outcome).await.unwrap();
    for store in [&api, &later] {
        until("the end is seen", async || store.history_entry("a").await.unwrap().is_some()).await;
        let entry = store.history_entry("a").await.unwrap().unwrap();
        assert_eq!((entry.job.prompt.get(), entry.outputs.get()), (&*long, &*outcome.outputs.to_string()));
    }
    assert_eq!(api.delete_history(&["a".to_owned()]).await.unwrap(), 1);
    // What is too long altogether is refused.
    api.enqueue(contract::job("b", Position::Back)).await.unwrap();
    let claim = api.claim(&WorkerId::new("w")).await.unwrap().unwrap();
    outcome.outputs = json!({"1": "c".repeat(70 << 20)});
    assert!(matches!(api.finish(&claim.token, &outcome).await, Err(Error::Unstorable(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_given_secrets_and_nobody_else_is() {
    let Some((nats, _folder)) = common::servers(1) else { return };
    let servers = nats.addresses();
    let (api, worker) = (join(&servers, true).await, join(&servers, false).await);
    api.obey(Arc::new(|_command| Box::pin(std::future::ready(false)))).await.unwrap();
    let mut extra = json!({"api_key_comfy_org": "S3CRET"});
    let secrets = Secrets::take(&mut extra, &["api_key_comfy_org".to_owned()]).unwrap();
    for id in ["a", "b"] {
        api.enqueue(NewJob { secrets: secrets.clone(), ..contract::job(id, Position::Back) }).await.unwrap();
    }
    until("they are seen", async || worker.counts().await.unwrap().pending == 2).await;
    let claim = worker.claim(&WorkerId::new("w")).await.unwrap().unwrap();
    assert_eq!(claim.job.secrets.values()["api_key_comfy_org"], "S3CRET");
    // When whom it was told to has gone, it is gone.
    drop(api);
    let late = join(&servers, true).await.queue().await.unwrap().pending[0].clone();
    assert_eq!((late.secrets.lost_names(), late.secrets.values().len()), (&["api_key_comfy_org".to_owned()][..], 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_can_run_waits_and_says_why() {
    let Some((nats, _folder)) = common::servers(1) else { return };
    let servers = nats.addresses();
    let (api, worker) = (join(&servers, true).await, join(&servers, false).await);
    let needs = Needs { classes: vec!["A".into()], models: vec![("checkpoints".into(), "x.safetensors".into())] };
    api.enqueue(NewJob { needs: Arc::new(needs), ..contract::job("a", Position::Back) }).await.unwrap();
    api.enqueue(contract::job("b", Position::Back)).await.unwrap();
    assert_eq!(api.waiting_for().await.unwrap()["a"], "a worker: none is there");
    worker.obey(Arc::new(|command| Box::pin(std::future::ready(matches!(command, Command::Interrupt { .. }))))).await.unwrap();
    let about = About { devices: vec![AboutDevice { name: "cpu".into(), ..AboutDevice::default() }], ..About::default() };
    let mut abilities = Abilities { classes: ["A".into()].into(), ..Abilities::default() };
    let wants = abilities.clone();
    worker.claims_only(move |needs| wants.lack(needs).is_none());
    worker.tell(about.clone(), abilities.clone());
    let lack = "a worker that has 'x.safetensors' in its folder 'checkpoints'";
    until("what is missing", async || api.waiting_for().await.unwrap().get("a").is_some_and(|told| told == lack)).await;
    assert_eq!(api.waiting_for().await.unwrap().len(), 1, "the other one can run");
    // It does not hold up what can run.
    let claim = worker.next_job(&WorkerId::new("w")).await.unwrap();
    assert_eq!(claim.job.id, "b");
    until("the claim is seen", async || api.counts().await.unwrap().running == 1).await;
    assert!(api.interrupt(Some("b")).await && !api.interrupt(Some("a")).await, "who holds it is asked");
    abilities.models.entry("checkpoints".into()).or_default().insert("x.safetensors".into());
    let wants = abilities.clone();
    worker.claims_only(move |needs| wants.lack(needs).is_none());
    worker.tell(about, abilities);
    until("nothing is missing", async || api.waiting_for().await.unwrap().is_empty()).await;
    assert_eq!(api.models()["checkpoints"].len(), 1);
    assert_eq!(worker.next_job(&WorkerId::new("w")).await.unwrap().job.id, "a");
    worker.leave().await;
    until("it has left", async || api.counts().await.unwrap().pending == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_arrive_in_order_and_behind_what_they_tell_of() {
    let Some((nats, _folder)) = common::servers(1) else { return };
    let servers = nats.addresses();
    let (api, worker) = (join(&servers, true).await, join(&servers, false).await);
    let heard = Arc::new(MemorySink::default());
    api.hear_events(heard.clone()).await.unwrap();
    let post = Post::new(&worker, None);
    post.run();
    let event = |kind| Event { prompt_id: "p".into(), owner: "".into(), client_id: Some("c".into()), kind };
    let node = contract::sink::node("1");
    let image = |side: u32, lossless| comfyd_node::PreviewImage {
        width: side,
        height: side,
        channels: 3,
        pixels: Arc::new(vec![7; (side * side * 3) as usize]),
        lossless,
        max_size: None,
    };
    for n in 0..50 {
        post.emit(event(EventKind::Progress { node: node.clone(), value: f64::from(n), max: 50.0 }));
    }
    // One that takes several messages.
    post.emit(event(EventKind::Image { node: node.clone(), image: image(1024, true) }));
    post.emit(event(EventKind::Idle));
    until("all are there", async || heard.look(|events| events.len() == 52)).await;
    let labels: Vec<String> = heard.take().iter().map(contract::sink::label).collect();
    let wanted: Vec<String> = (0..50)
        .map(|n| contract::sink::label(&event(EventKind::Progress { node: node.clone(), value: f64::from(n), max: 50.0 })))
        .collect();
    assert_eq!(labels[..50], wanted);
    assert_eq!(labels[50..], ["result".to_owned(), contract::sink::label(&event(EventKind::Idle))]);
    // An end that is told can be read.
    for n in 0..20 {
        let id = format!("j{n}");
        api.enqueue(contract::job(&id, Position::Back)).await.unwrap();
        let claim = worker.next_job(&WorkerId::new("w")).await.unwrap();
        worker.finish(&claim.token, &contract::outcome(Status::Success)).await.unwrap();
        post.emit(Event { prompt_id: id.as_str().into(), ..event(EventKind::Idle) });
        until("it is told", async || heard.look(|events| events.iter().any(|event| *event.prompt_id == *id))).await;
        assert!(api.history_entry(&id).await.unwrap().is_some(), "{id}: what was told is there");
    }
}

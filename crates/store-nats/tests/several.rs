//! What a store of several processes does beyond the contract: long texts, secrets, what is missing, commands and events.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use comfyd_jobs::memory::MemorySink;
use comfyd_jobs::{Error, Event, EventKind, EventSink, JobStore, Needs, NewJob, Position, Secrets, Status, WorkerId, contract};
use comfyd_store_nats::{Abilities, About, AboutDevice, Command, Connection, Link, NatsStore, Options, Post, Ran, Said, Told};
use serde_json::json;

/// The cluster that [`Options`] name where nothing else is said.
const CLUSTER: &str = "comfyd";

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
    api.obey(Arc::new(|_command| Box::pin(std::future::ready(false.into())))).await.unwrap();
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
    let needs = Needs { classes: vec!["A".into()], models: vec![("checkpoints".into(), "x.safetensors".into())], ..Needs::default() };
    api.enqueue(NewJob { needs: Arc::new(needs), ..contract::job("a", Position::Back) }).await.unwrap();
    api.enqueue(contract::job("b", Position::Back)).await.unwrap();
    assert_eq!(api.waiting_for().await.unwrap()["a"], "a worker: none is there");
    worker.obey(Arc::new(|command| Box::pin(std::future::ready(matches!(command, Command::Interrupt { .. }).into())))).await.unwrap();
    let about = About { devices: vec![AboutDevice { name: "cpu".into(), ..AboutDevice::default() }], ..About::default() };
    let mut abilities = Abilities { classes: ["A".into()].into(), ..Abilities::default() };
    let wants = abilities.clone();
    worker.claims_only(move |_, needs| wants.lack(needs).is_none());
    worker.tell(about.clone(), abilities.clone(), HashMap::new());
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
    worker.claims_only(move |_, needs| wants.lack(needs).is_none());
    worker.tell(about, abilities, HashMap::new());
    until("nothing is missing", async || api.waiting_for().await.unwrap().is_empty()).await;
    assert_eq!(api.models()["checkpoints"].len(), 1);
    // Nor does a device that does not take it hold up one of the same process that does.
    worker.claims_only(|device, needs| device.to_string() != "small" || needs.models.is_empty());
    let small = WorkerId::new("small");
    let mut waiting = std::pin::pin!(worker.next_job(&small));
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut waiting).await.is_err(), "it has nothing to do");
    assert_eq!(worker.next_job(&WorkerId::new("w")).await.unwrap().job.id, "a");
    worker.leave().await;
    until("it has left", async || api.counts().await.unwrap().pending == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_process_tells_of_its_classes_is_read_in_parts_and_its_checks_are_asked() {
    let Some((nats, _folder)) = common::servers(1) else { return };
    let servers = nats.addresses();
    let (api, worker) = (join(&servers, true).await, join(&servers, false).await);
    // More than NATS takes in a message, of letters that are no single bytes.
    let text = "päck".repeat(400_000);
    let told = Told::of(&text);
    let check = |command| match command {
        Command::Check { host, question } => json!({"refused": [host, question]}),
        _ => json!(false),
    };
    worker.obey(Arc::new(move |command| Box::pin(std::future::ready(check(command))))).await.unwrap();
    let abilities = Abilities { told: [("default".into(), told.clone())].into(), ..Abilities::default() };
    let texts = HashMap::from([(told.digest.clone(), text.clone().into())]);
    worker.tell(About { devices: vec![AboutDevice::default()], ..About::default() }, abilities, texts);
    let known = async || api.members().iter().any(|member| member.abilities.as_ref().is_some_and(|known| !known.told.is_empty()));
    until("what it tells is known", known).await;
    let session = worker.session();
    assert_eq!(api.read_text(session, &told).await.unwrap(), text);
    for wrong in [Told { bytes: told.bytes - 1, ..told.clone() }, Told { bytes: usize::MAX, ..told.clone() }, Told::of("another")] {
        assert!(matches!(api.read_text(session, &wrong).await, Err(Error::Damaged { .. })), "{wrong:?}");
    }
    assert_eq!(api.check(session, "default", "{1e999}").await.unwrap(), json!({"refused": ["default", "{1e999}"]}));
    assert!(api.check("nobody", "default", "").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_besides_events_is_heard_elsewhere_and_runs_of_nodes_once_their_prompt_is_over() {
    let Some((nats, _folder)) = common::servers(1) else { return };
    let servers = nats.addresses();
    let (api, worker) = (join(&servers, true).await, join(&servers, false).await);
    let heard: Arc<parking_lot::Mutex<Vec<Said>>> = Arc::default();
    let ears = heard.clone();
    api.hear_said(Arc::new(move |said| ears.lock().push(said)));
    let events = Arc::new(MemorySink::default());
    api.hear_events(events.clone()).await.unwrap();
    let post = Post::new(&worker, None);
    post.run();
    let said = [
        Said::Event { name: "pack".into(), data: json!({"a": 1}), client: Some("c".into()), owner: None },
        Said::Bytes { kind: 77, bytes: Arc::new(vec![9; 700_000]), client: None, owner: Some("me".into()) },
    ];
    post.ran("A", "w/cpu", Duration::from_millis(500));
    said.iter().cloned().for_each(|said| post.say(said));
    until("it is heard", async || heard.lock().len() == 2).await;
    assert_eq!(*heard.lock(), said);
    post.emit(Event { prompt_id: "p".into(), owner: "".into(), client_id: None, kind: EventKind::Idle });
    until("runs are told", async || heard.lock().len() == 3).await;
    assert_eq!(heard.lock()[2], Said::Ran(vec![Ran { class: "A".into(), device: "w/cpu".into(), seconds: 0.5 }]));
    assert!(events.look(|events| events.len() == 1));
}

/// A rolling upgrade: a process of this version runs what one of a later version took in, and what that said of it stays.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_later_version_says_of_a_job_stays() {
    let Some((nats, _folder)) = common::servers(1) else { return };
    let servers = nats.addresses();
    let (api, worker) = (join(&servers, true).await, join(&servers, false).await);
    let client = async_nats::connect(&servers).await.unwrap();
    let stream = async_nats::jetstream::new(client.clone()).get_stream(format!("KV_comfyd-{}-jobs", CLUSTER)).await.unwrap();
    let head = async || {
        let last = stream.get_last_raw_message_by_subject(&format!("$KV.comfyd-{CLUSTER}-jobs.job.a")).await.unwrap();
        serde_json::from_str::<serde_json::Value>(last.headers.get("Comfyd-Head").unwrap().as_str()).unwrap()
    };
    // As a later version would have written it.
    api.enqueue(contract::job("a", Position::Back)).await.unwrap();
    let mut later = head().await;
    let texts = stream.get_last_raw_message_by_subject(&format!("$KV.comfyd-{CLUSTER}-jobs.job.a")).await.unwrap().payload;
    (later["v"], later["deadline_ms"], later["needs"]["gpus"], later["nonce"]) = (9.into(), 7.into(), json!([1, 2]), 5.into());
    later["state"]["why"] = "it is new".into();
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Comfyd-Head", later.to_string());
    async_nats::jetstream::new(client)
        .publish_with_headers(format!("$KV.comfyd-{CLUSTER}-jobs.job.a"), headers, texts)
        .await
        .unwrap()
        .await
        .unwrap();
    let said = async |at: &str| {
        until(at, async || head().await["state"]["at"] == at).await;
        let head = head().await;
        assert_eq!((&head["deadline_ms"], &head["needs"]["gpus"]), (&json!(7), &json!([1, 2])), "{at}: {head}");
    };
    let claim = worker.next_job(&WorkerId::new("w")).await.unwrap();
    assert_eq!(&*claim.job.id, "a");
    said("running").await;
    worker.requeue(&claim.token).await.unwrap();
    said("waiting").await;
    let claim = worker.next_job(&WorkerId::new("w")).await.unwrap();
    worker.finish(&claim.token, &contract::outcome(Status::Success)).await.unwrap();
    said("ended").await;
    until("it is in the history", async || api.history_entry("a").await.unwrap().is_some()).await;
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

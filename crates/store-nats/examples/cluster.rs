//! What the queue costs on NATS: how well workers are kept busy with prompts that take 50 ms (a sleep stands for a card), how long a worker
//! waits for its next job where many want one, and how many messages and bytes a job takes.
//!
//!     cargo run --release -p comfyd-store-nats --example cluster -- NATS_SERVER [SERVERS]
//!
//! NATS_SERVER is the program; SERVERS of it are started (1). `cargo xtask bench-cluster` runs it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use comfyd_jobs::{JobStore, NewJob, Position, Status, WorkerId, contract};
use comfyd_store_nats::{Connection, Link, NatsStore, Options};
use tokio::task::JoinSet;

use self::testing::Servers;

#[allow(dead_code)]
#[path = "../src/testing.rs"]
mod testing;

/// What a prompt takes.
const WORK: Duration = Duration::from_millis(50);
/// Prompts for each worker.
const EACH: usize = 100;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments[1] == "work" {
        return work(&arguments[2], &arguments[3]).await;
    }
    let servers = arguments.get(2).map_or(1, |many| many.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let nats = Servers::start(arguments[1].as_ref(), folder.path(), servers, "").unwrap();
    tokio::time::sleep(Duration::from_secs(if servers > 1 { 4 } else { 1 })).await;
    let addresses = nats.addresses().join(",");
    println!("NATS servers: {servers}");
    for workers in [1, 2, 4, 8] {
        throughput(&addresses, workers).await;
    }
    cost(&addresses).await;
    claims(&addresses).await;
}

async fn open(addresses: &str, cluster: &str, keeps_texts: bool) -> (Link, Arc<NatsStore>) {
    let connection = Connection { servers: addresses.split(',').map(str::to_owned).collect(), ..Connection::default() };
    let link = Link::connect(&connection, "throughput").await.unwrap();
    let options = Options { cluster: cluster.to_owned(), keeps_texts, expires: keeps_texts, ..Options::default() };
    let store = Arc::new(NatsStore::open(&link, options).await.unwrap());
    (link, store)
}

/// A prompt of an ordinary size.
fn job(n: usize) -> NewJob {
    let text = format!("{{\"1\":{{\"class_type\":\"KSampler\",\"inputs\":{{\"text\":\"{}\"}}}}}}", "x".repeat(6_000));
    let prompt = serde_json::value::RawValue::from_string(text).unwrap();
    NewJob { prompt: prompt.into(), ..contract::job(&format!("{n:08}-0000-4000-8000-000000000000"), Position::Back) }
}

/// A worker process: runs what there is until its standard input ends.
async fn work(addresses: &str, cluster: &str) {
    let (_link, store) = open(addresses, cluster, false).await;
    let worker = WorkerId::new(&format!("w{}", std::process::id()));
    println!("ready");
    std::io::stdout().flush().unwrap();
    tokio::spawn(async move {
        let mut next = None;
        loop {
            let claim = match next.take() {
                Some(claim) => claim,
                None => store.next_job(&worker).await.unwrap(),
            };
            tokio::time::sleep(WORK).await;
            next = store.finish_and_claim(&claim.token, &contract::outcome(Status::Success)).await.unwrap();
        }
    });
    tokio::task::spawn_blocking(|| std::io::stdin().lines().count()).await.unwrap();
}

fn start_worker(addresses: &str, cluster: &str) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["work", addresses, cluster])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    child
}

async fn throughput(addresses: &str, workers: usize) {
    let cluster = format!("t{workers}");
    let (_link, store) = open(addresses, &cluster, true).await;
    let many = EACH * workers;
    for n in 0..many {
        store.enqueue(job(n)).await.unwrap();
    }
    let mut children: Vec<Child> = (0..workers).map(|_| start_worker(addresses, &cluster)).collect();
    // From when all are at work to when the first has nothing left: each has begun at another time.
    let ended = || async { store.counts().await.map(|counts| many - counts.pending - counts.running).unwrap() };
    let wait = async |count: usize| {
        while ended().await < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Instant::now()
    };
    let (from, to) = (wait(many / 5).await, wait(many - many / 10).await);
    let rate = (many - many / 10 - many / 5) as f64 / (to - from).as_secs_f64();
    // What a sleep takes at present, since that is all that an ideal worker would do.
    let began = Instant::now();
    for _ in 0..20 {
        tokio::time::sleep(WORK).await;
    }
    let ideal = workers as f64 / (began.elapsed() / 20).as_secs_f64();
    println!("{workers} workers: {rate:.1} prompts a second, {:.3} of {ideal:.1}", rate / ideal);
    for child in &mut children {
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}

/// Messages and bytes of a job, of the process that takes it and of the one that runs it.
async fn cost(addresses: &str) {
    const MANY: usize = 500;
    let (api, store) = open(addresses, "cost", true).await;
    let (link, worker) = open(addresses, "cost", false).await;
    let id = WorkerId::new("w");
    let before = [api.traffic(), link.traffic()];
    for n in 0..MANY {
        store.enqueue(job(n)).await.unwrap();
        let claim = worker.next_job(&id).await.unwrap();
        worker.finish(&claim.token, &contract::outcome(Status::Success)).await.unwrap();
    }
    for ((name, before), after) in ["API server", "worker"].iter().zip(before).zip([api.traffic(), link.traffic()]) {
        let [messages_in, bytes_in, messages_out, bytes_out] = std::array::from_fn(|at| (after[at] - before[at]) as f64 / MANY as f64);
        println!(
            "a job costs the {name}: {messages_in:.1} messages in ({bytes_in:.0} bytes), {messages_out:.1} out ({bytes_out:.0} bytes)"
        );
    }
}

/// How long 64 workers wait between the end of a job and the next, with 1,000 that wait.
async fn claims(addresses: &str) {
    let (_link, store) = open(addresses, "claims", true).await;
    let mut adding = JoinSet::new();
    for n in 0..1_300 {
        let store = store.clone();
        adding.spawn(async move { store.enqueue(job(n)).await.unwrap() });
    }
    adding.join_all().await;
    let mut running = JoinSet::new();
    for n in 0..64 {
        let (link, store) = open(addresses, "claims", false).await;
        running.spawn(async move {
            let (_link, worker, mut took) = (link, WorkerId::new(&format!("w{n}")), Vec::new());
            let mut claim = store.next_job(&worker).await.unwrap();
            for _ in 0..4 {
                tokio::time::sleep(Duration::from_millis(2_000 + n * 7)).await;
                let began = Instant::now();
                claim = store.finish_and_claim(&claim.token, &contract::outcome(Status::Success)).await.unwrap().unwrap();
                took.push(began.elapsed());
            }
            took
        });
    }
    let mut took = running.join_all().await.concat();
    took.sort_unstable();
    let at = |share: usize| took[(took.len() - 1) * share / 100].as_secs_f64() * 1000.0;
    println!(
        "64 workers, 1,000 waiting: an end and the next claim take {:.1} ms (p50), {:.1} ms (p99), {:.1} ms at most",
        at(50),
        at(99),
        at(100)
    );
}

//! How fast the store is: `cargo run --release -p comfyd-store-sqlite --example throughput [jobs] [prompt bytes] [full]`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use comfyd_jobs::{HistoryQuery, JobStore, NewJob, Position, Status, contract};
use comfyd_store_sqlite::{Durability, Options, SqliteStore};
use serde_json::value::RawValue;
use tokio::task::JoinSet;

const CALLERS: usize = 64;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let jobs: usize = arguments.first().map_or(10_000, |text| text.parse().unwrap());
    let bytes: usize = arguments.get(1).map_or(4_000, |text| text.parse().unwrap());
    let durability = if arguments.iter().any(|text| text == "full") { Durability::Full } else { Durability::Normal };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let options = Options { max_pending: jobs, durability, ..Options::default() };
    println!("{jobs} jobs of {bytes} bytes, {CALLERS} callers, {durability:?}; {:.1} MiB resident at start", resident_mib());

    let store = Arc::new(SqliteStore::open(&path, options).unwrap());
    println!("an empty store: {:.1} MiB resident", resident_mib());
    let prompt: Arc<RawValue> = RawValue::from_string(format!(r#"{{"text":"{}"}}"#, "x".repeat(bytes))).unwrap().into();
    let started = Instant::now();
    callers(jobs, {
        let (store, prompt) = (store.clone(), prompt.clone());
        move |n| {
            let (store, prompt) = (store.clone(), prompt.clone());
            async move { drop(store.enqueue(NewJob { prompt, ..job(n, 'a') }).await.unwrap()) }
        }
    })
    .await;
    report("enqueue", jobs, started);

    let started = Instant::now();
    callers(jobs, {
        let store = store.clone();
        move |_| {
            let store = store.clone();
            async move {
                let claim = store.claim(&contract::worker()).await.unwrap().unwrap();
                store.finish(&claim.token, &contract::outcome(Status::Success)).await.unwrap();
            }
        }
    })
    .await;
    report("claim + finish", jobs, started);

    let started = Instant::now();
    callers(jobs, {
        let store = store.clone();
        move |n| {
            let (store, prompt) = (store.clone(), prompt.clone());
            async move {
                store.enqueue(NewJob { prompt, ..job(n, 'b') }).await.unwrap();
                let claim = store.claim(&contract::worker()).await.unwrap().unwrap();
                store.finish(&claim.token, &contract::outcome(Status::Success)).await.unwrap();
            }
        }
    })
    .await;
    report("enqueue + claim + finish, dropping the oldest", jobs, started);
    drop(store);

    let started = Instant::now();
    let store = SqliteStore::open(&path, options).unwrap();
    let opened = started.elapsed();
    let started = Instant::now();
    let newest = HistoryQuery { limit: Some(200), descending: true, ..HistoryQuery::default() };
    let page = store.history(&newest).await.unwrap();
    println!("open with {} entries: {opened:?}; {:.1} MiB resident", page.total, resident_mib());
    println!("the newest {}: {:?}", page.entries.len(), started.elapsed());
    for round in ["from disk", "from the cache as far as it reaches"] {
        let started = Instant::now();
        let all = store.history(&HistoryQuery::default()).await.unwrap().entries;
        println!("history of {} {round}: {:?}", all.len(), started.elapsed());
    }
    println!("{:.1} MiB resident", resident_mib());
    let ids: Vec<String> = (0..1000).map(|n| format!("{:032}", n * jobs / 1000) + "b").collect();
    let started = Instant::now();
    let mut found = 0;
    for id in &ids {
        found += usize::from(store.history_entry(id).await.unwrap().is_some());
    }
    println!("one entry: {:?} on average ({found} of {} found)", started.elapsed() / 1000, ids.len());
    let started = Instant::now();
    let cleared = store.clear_history().await.unwrap();
    println!("clear the history of {cleared}: {:?}", started.elapsed());
}

fn job(n: usize, suffix: char) -> NewJob {
    contract::job(&(format!("{n:032}") + &suffix.to_string()), Position::Back)
}

/// Runs `work` for each number, by so many callers at once.
async fn callers<F, W>(many: usize, work: F)
where
    F: Fn(usize) -> W + Clone + Send + 'static,
    W: Future<Output = ()> + Send,
{
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..CALLERS {
        let (next, work) = (next.clone(), work.clone());
        tasks.spawn(async move {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= many {
                    break;
                }
                work(n).await;
            }
        });
    }
    tasks.join_all().await;
}

fn report(what: &str, many: usize, started: Instant) {
    let seconds = started.elapsed().as_secs_f64();
    println!("{what}: {:.0} jobs/s; {:.1} MiB resident", many as f64 / seconds, resident_mib());
}

/// This process's memory; 0 where `/proc` does not tell.
fn resident_mib() -> f64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok().and_then(|text| text.split(' ').nth(1)?.parse::<f64>().ok());
    pages.unwrap_or(0.0) * 4096.0 / f64::from(1 << 20)
}

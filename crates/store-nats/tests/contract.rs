//! The contract's test-suite on NATS.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use comfyd_jobs::contract::cluster::{self, Cluster, MAX_TRIES};
use comfyd_jobs::contract::{self, Harness};
use comfyd_jobs::{JobStore, memory};
use comfyd_store_nats::{Connection, Link, NatsStore, Options};
use common::testing::Servers;
use tempfile::TempDir;

struct Nats {
    _servers: (Servers, TempDir),
    link: Link,
    made: AtomicUsize,
    keeps_texts: bool,
}

impl Nats {
    async fn open(&self, limits: memory::Options) -> Arc<dyn JobStore> {
        let options = Options {
            cluster: format!("c{}", self.made.load(Ordering::Relaxed)),
            // Whoever has the name next takes over what was left.
            instance: "here".to_owned(),
            keeps_texts: self.keeps_texts,
            lease: Duration::from_secs(3600),
            max_pending: limits.max_pending,
            max_pending_bytes: limits.max_pending_bytes,
            max_of_owner: limits.max_of_owner,
            max_history: limits.max_history,
            max_outcome_bytes: limits.max_outcome_bytes,
            ..Options::default()
        };
        Arc::new(NatsStore::open(&self.link, options).await.unwrap())
    }
}

#[async_trait]
impl Harness for Nats {
    async fn fresh(&self, limits: memory::Options) -> Arc<dyn JobStore> {
        self.made.fetch_add(1, Ordering::Relaxed);
        self.open(limits).await
    }

    async fn reopen(&self, store: Arc<dyn JobStore>, limits: memory::Options) -> Arc<dyn JobStore> {
        assert_eq!(Arc::strong_count(&store), 1, "the suite keeps the store");
        drop(store);
        self.open(limits).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_server() {
    let Some(servers) = common::servers(1) else { return };
    let connection = Connection { servers: servers.0.addresses(), ..Connection::default() };
    let link = Link::connect(&connection, "contract").await.unwrap();
    contract::run(&Nats { _servers: servers, link, made: AtomicUsize::new(0), keeps_texts: true }).await;
}

/// Processes that share one NATS; each has its own connection. Workers read texts when they claim.
struct Hosts {
    servers: (Servers, TempDir),
    made: AtomicUsize,
    joined: AtomicUsize,
}

#[async_trait]
impl Cluster for Hosts {
    async fn fresh(&self) {
        self.made.fetch_add(1, Ordering::Relaxed);
    }

    async fn join(&self, name: &str, limits: memory::Options) -> Arc<dyn JobStore> {
        let connection = Connection { servers: self.servers.0.addresses(), ..Connection::default() };
        let link = Link::connect(&connection, name).await.unwrap();
        let options = Options {
            cluster: format!("h{}", self.made.load(Ordering::Relaxed)),
            keeps_texts: self.joined.fetch_add(1, Ordering::Relaxed).is_multiple_of(2),
            lease: Duration::from_secs(1),
            max_tries: MAX_TRIES,
            max_pending: limits.max_pending,
            max_history: limits.max_history,
            ..Options::default()
        };
        Arc::new(NatsStore::open(&link, options).await.unwrap())
    }

    async fn kill(&self, store: Arc<dyn JobStore>) {
        assert_eq!(Arc::strong_count(&store), 1, "the suite keeps the store");
        drop(store);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_processes() {
    let Some(servers) = common::servers(1) else { return };
    cluster::run(&Hosts { servers, made: AtomicUsize::new(0), joined: AtomicUsize::new(0) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_processes_on_a_cluster() {
    let Some(servers) = common::servers(3) else { return };
    cluster::run(&Hosts { servers, made: AtomicUsize::new(0), joined: AtomicUsize::new(0) }).await;
}

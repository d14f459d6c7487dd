//! How a process that starts comes to the cluster's NATS, which may start at the same time, and the files that are there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use comfyd_store_nats::{Error, Link, NatsFiles};

use crate::config::Cluster;

/// How long a process that starts waits for NATS: its servers may start at the same time, or have no majority for a moment.
pub(crate) const START_PATIENCE: Duration = Duration::from_secs(120);
/// Before it tries again.
const START_PAUSE: Duration = Duration::from_secs(1);
/// How often it is looked for what ended processes left behind, and how old that is by then.
const SWEEP: Duration = Duration::from_hours(6);
const LEFT_BEHIND: Duration = Duration::from_hours(6);

/// Tries for so long, where NATS does not answer.
pub(crate) async fn patiently<T>(patience: Duration, attempt: impl AsyncFn() -> Result<T, Error>) -> Result<T, Error> {
    let began = Instant::now();
    loop {
        match attempt().await {
            Err(error @ (Error::Unreachable { .. } | Error::Refused(_))) if began.elapsed() < patience => {
                tracing::warn!(%error, "the cluster cannot be joined yet");
                tokio::time::sleep(START_PAUSE).await;
            }
            other => return other,
        }
    }
}

/// The files that a cluster keeps in its NATS, over a connection of their own: large ones hold up nothing else. Where `sweeps`, what ended
/// processes left behind is removed now and then, for as long as the runtime runs.
pub(crate) async fn files(cluster: &Cluster, sweeps: bool) -> Result<Arc<NatsFiles>, Error> {
    let name = format!("comfyd files {}", cluster.instance.as_deref().unwrap_or_default());
    let files = patiently(START_PATIENCE, async || {
        let link = Link::connect(&cluster.connection, name.trim_end()).await?;
        NatsFiles::open(&link, &cluster.name, cluster.replicas).await
    });
    let files = Arc::new(files.await?);
    if sweeps {
        let swept = Arc::clone(&files);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(SWEEP).await;
                match swept.sweep(LEFT_BEHIND).await {
                    Ok(0) => {}
                    Ok(contents) => tracing::info!(contents, "files that ended processes left behind in NATS were removed"),
                    Err(error) => tracing::debug!(%error, "it could not be looked for files that were left behind in NATS"),
                }
            }
        });
    }
    Ok(files)
}

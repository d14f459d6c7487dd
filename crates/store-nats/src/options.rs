//! A store's bounds, who it is in the cluster, and how the cluster is reached.

use std::path::PathBuf;
use std::time::Duration;

/// How to reach NATS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Connection {
    /// Addresses, `nats://host:port` or `tls://host:port`; any that answers tells of the others.
    pub servers: Vec<String>,
    /// A file with a user's JWT and its seed, as `nsc` writes it.
    pub credentials: Option<PathBuf>,
    /// A token, where the servers ask for one.
    pub token: Option<String>,
    /// Certificates to trust besides the system's.
    pub ca: Option<PathBuf>,
    /// A certificate and its key, where the servers ask for one.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

/// A store's bounds, and who it is in the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Which cluster: several may be on one NATS. Letters, digits, `-` and `_`.
    pub cluster: String,
    /// The name of this process. Whoever has it next takes over what was left running under it; no two have it at a time.
    pub instance: String,
    /// On how many NATS servers everything is. `None`: on three where NATS is a cluster, else on one. It counts when the cluster is made.
    pub replicas: Option<usize>,
    /// Whether the texts of waiting jobs are kept, for who shows the queue. A worker reads those of the job that it claims.
    pub keeps_texts: bool,
    /// After how long a process that is not heard of has lost what it ran.
    pub lease: Duration,
    /// Whether this process gives back what those ran whose lease ended.
    pub expires: bool,
    /// How often a job is tried whose workers end before it does; 0 is no limit.
    pub max_tries: u32,
    /// Among how many jobs that are next a worker takes one first whose models it has used last; it passes none over more often than that.
    pub affinity_window: usize,
    /// How long a change may take before it counts as failed.
    pub patience: Duration,
    /// How many jobs may wait.
    pub max_pending: usize,
    /// How many bytes their texts may have together.
    pub max_pending_bytes: usize,
    /// How many jobs of one owner may wait and run.
    pub max_of_owner: usize,
    /// How many finished jobs are kept; the oldest go first.
    pub max_history: usize,
    /// How much of the history is kept in memory, in bytes.
    pub cache_bytes: usize,
    /// How many bytes of JSON the outcome of one job may have.
    pub max_outcome_bytes: usize,
}

impl Default for Options {
    /// The cluster `comfyd`, an instance of a name by chance, leases of 15 s, 3 tries; 10,000 of each, no bound of one owner, 512 MiB that
    /// wait, 32 MiB of cache, 64 MiB an outcome.
    fn default() -> Self {
        Self {
            cluster: "comfyd".to_owned(),
            instance: uuid::Uuid::new_v4().simple().to_string(),
            replicas: None,
            keeps_texts: true,
            lease: Duration::from_secs(15),
            expires: true,
            max_tries: 3,
            affinity_window: 8,
            patience: Duration::from_secs(5),
            max_pending: 10_000,
            max_pending_bytes: 512 << 20,
            max_of_owner: usize::MAX,
            max_history: 10_000,
            cache_bytes: 32 << 20,
            max_outcome_bytes: 64 << 20,
        }
    }
}

//! Why a cluster could not be joined.

/// Why a cluster could not be joined.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address, a file or a name is not what it should be.
    #[error("{0}")]
    Options(String),
    /// NATS could not be reached.
    #[error("NATS cannot be reached at {servers}: {detail}: start nats-server there, or check --cluster and the credentials")]
    Unreachable {
        /// The addresses.
        servers: String,
        /// What was said.
        detail: String,
    },
    /// It refuses what is needed of it.
    #[error("NATS cannot be used: {0}: check that JetStream is on (`nats-server -js`) and what this user may do")]
    Refused(String),
    /// What the cluster holds cannot be read by this version.
    #[error("the cluster '{cluster}' was written by a later version of comfyd (schema {found}, this one knows {known}): upgrade this one")]
    Newer {
        /// The cluster.
        cluster: String,
        /// Its schema.
        found: u32,
        /// The last one that is known.
        known: u32,
    },
}

//! The server's database: keys, runs, snapshots and audit logs.
//!
//! The tables are traits with two implementations, which pass the same tests
//! (`conformance.rs`):
//!
//! | | used by | tables |
//! |---|---|---|
//! | `sqlite` | a server of one machine | one SQLite file in the data directory |
//! | `postgres` | the nodes of a cluster | one schema of a PostgreSQL database |

mod audit;
mod audit_log;
#[cfg(test)]
mod conformance;
mod keys;
mod postgres;
mod runs;
mod snapshots;
mod sqlite;

use std::{ops::Deref, path::Path, sync::Arc};

use async_trait::async_trait;

pub(crate) use audit::LogState;
pub use audit::{AuditRow, AuditTable};
pub(crate) use audit_log::{AuditLog, Event, following_entry};
pub use audit_log::{ChainError, Verifier};
pub use keys::{KeyRow, KeyTable};
pub use postgres::{CONNECTIONS_PER_NODE, ClusterSecrets, DatabaseHealth, Postgres, PostgresUrl};
pub(crate) use postgres::{LostRun, News, RunOwner, Upload};
pub use postgres::{NodeReport, NodeRow};
pub use runs::RunTable;
pub(crate) use runs::{Ending, ResourceUsage, RunRow, RunSettings};
#[cfg(test)]
pub(crate) use runs::{sample_ending, sample_run};
pub(crate) use snapshots::SnapshotRow;
pub use snapshots::SnapshotTable;
use sqlite::Sqlite;

/// An error of the database.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// An error of SQLite.
    #[error("the database of the server: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// An error of PostgreSQL that another attempt would not change.
    #[error("the database of the cluster: {0}")]
    Postgres(String),
    /// PostgreSQL cannot be reached, or does not answer in time.
    #[error("the database of the cluster is not available: {0}")]
    Unavailable(String),
    /// This node lost its lease: another node has declared it dead.
    #[error(
        "this node was declared dead by the cluster, and has lost its runs: it has to join again"
    )]
    Fenced,
    /// The run belongs to another node by now.
    #[error("the run belongs to another node of the cluster")]
    Moved,
    /// A limit of the cluster would be exceeded.
    #[error("{0}")]
    Limit(ClusterLimit),
    /// The file cannot be opened or created.
    #[error("the database of the server: {0}")]
    Io(#[from] std::io::Error),
    /// The file was written by a later version.
    #[error(
        "the database has format {found}, and this version of isorun supports formats up to \
         {known}: use the version that wrote it, or a later one"
    )]
    TooNew {
        /// The format of the file.
        found: i64,
        /// The latest supported format.
        known: i64,
    },
    /// The worker thread has exited.
    #[error("the database of the server is closed")]
    Closed,
}

impl StoreError {
    /// Reports whether the database of a cluster did not respond, or refused a change by this
    /// node.
    pub fn is_of_cluster(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Fenced | Self::Moved)
    }

    /// Reports whether it is not known if the change took effect.
    pub fn is_unclear(&self) -> bool {
        !matches!(self, Self::Fenced | Self::Moved | Self::Limit(_))
    }
}

/// A limit that holds for all nodes of a cluster together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClusterLimit {
    /// The runs of the tenant.
    #[error("too many runs: the tenant has as many as are allowed; destroy one first")]
    TenantRuns,
    /// The runs of the node.
    #[error("the node has as many runs as are allowed (--max-sandboxes)")]
    NodeRuns,
    /// The snapshots of the tenant.
    #[error("too many snapshots: the tenant has as many as are allowed; delete one first")]
    TenantSnapshots,
}

/// A database with all tables.
#[async_trait]
pub trait Database: KeyTable + RunTable + SnapshotTable + AuditTable {
    /// Reports whether the database responds.
    async fn is_reachable(&self) -> bool;
}

/// A handle of the database; cheap to clone.
#[derive(Clone)]
pub struct Store(Arc<dyn Database>);

impl Store {
    /// Opens the database of a data directory, and migrates it to the current format.
    pub fn open(data_dir: &Path) -> Result<Self, StoreError> {
        Ok(Self(Arc::new(Sqlite::open(data_dir)?)))
    }
}

impl From<Postgres> for Store {
    fn from(database: Postgres) -> Self {
        Self(Arc::new(database))
    }
}

impl Deref for Store {
    type Target = dyn Database;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

//! The database of a cluster, in one schema of a PostgreSQL database.
//!
//! Every change of a run, a snapshot or an audit log is made in the name of a node and of
//! its epoch, in the same statement that checks both: once another node has declared this
//! one dead, which raises its epoch, none of its changes takes effect any more.

mod audit;
mod connect;
mod health;
mod images;
mod keys;
mod news;
mod nodes;
mod runs;
mod schema;
mod secrets;
mod snapshots;
mod trees;

use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use deadpool_postgres::{Object, Pool, PoolError};
use tokio::time::timeout;
use tokio_postgres::{Row, error::SqlState, types::ToSql};

use self::{connect::Connector, keys::KnownKeys};
pub use self::{
    connect::{CONNECTIONS_PER_NODE, PostgresUrl},
    health::DatabaseHealth,
    news::News,
    nodes::{LostRun, NodeReport, NodeRow, RunOwner},
    secrets::ClusterSecrets,
    trees::Upload,
};
use super::{ClusterLimit, Database, StoreError};

/// The longest time that a statement may take, with getting a connection for it.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);

/// The errors that the triggers of the schema raise, by their SQLSTATE.
const LIMITS: [(&str, ClusterLimit); 3] = [
    ("IR001", ClusterLimit::TenantRuns),
    ("IR002", ClusterLimit::NodeRuns),
    ("IR003", ClusterLimit::TenantSnapshots),
];

/// The parameters of a statement.
type SqlParams = Vec<Box<dyn ToSql + Sync + Send>>;

/// Boxes the parameters of a statement.
macro_rules! params {
    ($($value:expr),* $(,)?) => {
        vec![$(Box::new($value) as Box<dyn tokio_postgres::types::ToSql + Sync + Send>),*]
    };
}
use params;

/// A database of a cluster; cheap to clone.
#[derive(Clone)]
pub struct Postgres {
    pool: Pool,
    /// The connection for the lease, which does not wait for other statements.
    lease_pool: Pool,
    connector: Arc<Connector>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// The node in whose name changes are made, and its epoch.
    node: OnceLock<(String, i64)>,
    /// True while the server is known not to respond: statements then fail at once.
    is_down: AtomicBool,
    known_keys: KnownKeys,
    /// The sizes of the audit logs of each tenant, and when they were read.
    log_bytes: tokio::sync::Mutex<Option<(Instant, HashMap<String, u64>)>>,
}

impl Postgres {
    fn new(pool: Pool, lease_pool: Pool, connector: Connector) -> Self {
        Self { pool, lease_pool, connector: Arc::new(connector), shared: Arc::default() }
    }

    /// Returns the id and epoch of this node. Fails before it has joined.
    fn node(&self) -> Result<(String, i64), StoreError> {
        self.shared.node.get().cloned().ok_or_else(|| {
            StoreError::Postgres("this server has not joined the cluster".to_owned())
        })
    }

    /// Makes statements fail at once, or try again, after the server was found to be away or
    /// back.
    pub fn set_down(&self, is_down: bool) {
        self.shared.is_down.store(is_down, Ordering::Relaxed);
    }

    /// Runs a statement, and returns its rows.
    async fn query(&self, statement: &str, params: SqlParams) -> Result<Vec<Row>, StoreError> {
        if self.shared.is_down.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable("it does not respond".to_owned()));
        }
        run(&self.pool, statement, params).await
    }

    /// Runs a statement on the connection for the lease, also while the server is known to be
    /// away.
    async fn attempt(&self, statement: &str, params: SqlParams) -> Result<Vec<Row>, StoreError> {
        run(&self.lease_pool, statement, params).await
    }

    async fn query_opt(
        &self,
        statement: &str,
        params: SqlParams,
    ) -> Result<Option<Row>, StoreError> {
        Ok(self.query(statement, params).await?.into_iter().next())
    }

    /// Changes rows in the name of this node: runs `change`, which selects from the table
    /// `fence`, has the node as `$1`, its epoch as `$2` and `params` from `$3` on, and ends
    /// with `RETURNING ... AS result` of a `BIGINT`. Returns the result of the first changed
    /// row, or `None` if no row was changed. A started change runs to its end even if the
    /// caller drops the future.
    async fn change(&self, change: &str, params: SqlParams) -> Result<Option<i64>, StoreError> {
        self.changes(&format!("change AS ({change})"), params).await
    }

    /// Makes several changes like [`Self::change`]. `changes` are the common table expressions
    /// of one statement, of which the last is named `change`.
    async fn changes(&self, changes: &str, params: SqlParams) -> Result<Option<i64>, StoreError> {
        let (node, epoch) = self.node()?;
        let statement = format!(
            "WITH fence AS (SELECT id FROM nodes WHERE id = $1 AND epoch = $2 FOR KEY SHARE), \
             {changes} \
             SELECT held, result FROM (SELECT COUNT(*) AS held FROM fence) AS fences \
             LEFT JOIN change ON TRUE LIMIT 1"
        );
        let database = self.clone();
        let changing = tokio::spawn(async move {
            let mut all = params![node, epoch];
            all.extend(params);
            database.query(&statement, all).await
        });
        let rows = changing.await.map_err(|_| StoreError::Closed)??;
        let row = rows.first().ok_or(StoreError::Fenced)?;
        if column::<i64>(row, "held")? == 0 {
            return Err(StoreError::Fenced);
        }
        column(row, "result")
    }

    /// Reports whether it is the turn of this node to do what one node at a time does. It is
    /// not, for any node, for this time afterwards. `column` of the row of the cluster has when
    /// a node last took its turn.
    async fn take_turn(&self, column: &str, pause: Duration) -> Result<bool, StoreError> {
        let statement = format!(
            "UPDATE cluster SET {column} = now()
             WHERE {column} < now() - make_interval(secs => $1) RETURNING TRUE"
        );
        Ok(!self.query(&statement, params![pause.as_secs_f64()]).await?.is_empty())
    }

    /// Changes a run of this node. Fails if the run belongs to another node by now.
    async fn change_run(&self, change: &str, params: SqlParams) -> Result<i64, StoreError> {
        self.change(change, params).await?.ok_or(StoreError::Moved)
    }
}

#[async_trait]
impl Database for Postgres {
    async fn is_reachable(&self) -> bool {
        self.query("SELECT 1", SqlParams::new()).await.is_ok()
    }
}

/// Runs a statement on a connection of a pool, and returns its rows.
async fn run(pool: &Pool, statement: &str, params: SqlParams) -> Result<Vec<Row>, StoreError> {
    let querying = async {
        let client: Object = pool.get().await.map_err(unavailable)?;
        let prepared = client.prepare_cached(statement).await.map_err(error_of)?;
        let params: Vec<&(dyn ToSql + Sync)> =
            params.iter().map(|param| &**param as &(dyn ToSql + Sync)).collect();
        client.query(&prepared, &params).await.map_err(error_of)
    };
    timeout(STATEMENT_TIMEOUT, querying)
        .await
        .unwrap_or_else(|_| Err(StoreError::Unavailable("it did not respond in time".into())))
}

/// Returns a column of a row.
fn column<'row, T: tokio_postgres::types::FromSql<'row>>(
    row: &'row Row,
    name: &str,
) -> Result<T, StoreError> {
    row.try_get(name).map_err(|error| StoreError::Postgres(error.to_string()))
}

/// Returns a column of a number that is not negative.
fn number(row: &Row, name: &str) -> Result<u64, StoreError> {
    Ok(u64::try_from(column::<i64>(row, name)?).unwrap_or(0))
}

/// Returns a column of a text with one of several values.
fn parsed<T>(
    row: &Row,
    name: &str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<T, StoreError> {
    let text: String = column(row, name)?;
    parse(&text).ok_or_else(|| StoreError::Postgres(format!("{name} = {text} is not valid")))
}

/// Converts a number for a column; numbers above 2^63 become the largest one.
fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unavailable(error: PoolError) -> StoreError {
    match error {
        PoolError::Backend(error) => error_of(error),
        error => StoreError::Unavailable(error.to_string()),
    }
}

/// Converts an error of the driver. What may succeed later is `Unavailable`.
fn error_of(error: tokio_postgres::Error) -> StoreError {
    let Some(problem) = error.as_db_error() else {
        // The connection failed, or the server closed it.
        return StoreError::Unavailable(describe(&error));
    };
    let state = problem.code();
    if let Some((_, limit)) = LIMITS.iter().find(|(code, _)| *code == state.code()) {
        return StoreError::Limit(*limit);
    }
    let may_succeed_later = [
        SqlState::ADMIN_SHUTDOWN,
        SqlState::CRASH_SHUTDOWN,
        SqlState::CANNOT_CONNECT_NOW,
        SqlState::TOO_MANY_CONNECTIONS,
        SqlState::QUERY_CANCELED,
        SqlState::LOCK_NOT_AVAILABLE,
        SqlState::DISK_FULL,
        SqlState::OUT_OF_MEMORY,
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::READ_ONLY_SQL_TRANSACTION,
    ];
    let text = format!("{} ({})", problem.message(), state.code());
    if may_succeed_later.contains(state) || state.code().starts_with("08") {
        StoreError::Unavailable(text)
    } else {
        StoreError::Postgres(text)
    }
}

/// Returns the message of an error with those of its causes.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

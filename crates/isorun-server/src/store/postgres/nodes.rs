//! The nodes of a cluster: their leases, what they report, and the runs of dead ones.
//!
//! All times of leases are those of the database's clock.

use std::time::Duration;

use isorun_api::{RunId, Status};
use tokio_postgres::Row;

use super::{
    super::{AuditRow, LogState, StoreError},
    Postgres, column, int, number, params, parsed,
};

/// What a node reports of itself with every renewal of its lease.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeReport {
    /// The URL at which other nodes reach it.
    pub url: String,
    /// The version of isorun.
    pub version: String,
    /// True if it has Linux sandboxes.
    pub has_linux: bool,
    /// The images of its interpreters.
    pub interpreters: Vec<String>,
    /// The CPUs of the machine.
    pub cpus: u64,
    /// The CPUs in use, in thousandths.
    pub busy_cpus_permille: u64,
    /// The memory of the machine.
    pub mem_bytes: u64,
    /// The memory that new sandboxes can use.
    pub mem_free_bytes: u64,
    /// The disk space that new sandboxes can use.
    pub disk_free_bytes: u64,
    /// The sandboxes that are created in advance.
    pub pooled: u64,
    /// The limit of its runs.
    pub max_sandboxes: u64,
    /// The limit of the runs of a tenant, on all nodes together.
    pub max_tenant_runs: u64,
    /// The limit of the snapshots of a tenant, on all nodes together.
    pub max_tenant_snapshots: u64,
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeRow {
    /// The id.
    pub id: String,
    /// True if its lease has not expired.
    pub is_alive: bool,
    /// True if it accepts no new runs.
    pub is_draining: bool,
    /// Its runs that were not destroyed.
    pub runs: u64,
    /// What it last reported.
    pub report: NodeReport,
}

/// The node that a run belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunOwner {
    pub node: String,
    pub url: String,
    /// True if it was declared dead. Whether another one responds is found out by asking it.
    pub is_dead: bool,
    /// True if another node may use its checkpoint in the object store instead of asking it.
    pub is_replaceable: bool,
    pub tenant: String,
    /// The defaults of the run's commands, with the access to its URLs, as JSON.
    pub defaults: String,
    /// `None` for a snapshot.
    pub status: Option<Status>,
}

/// A run of a dead node, and the end of its audit log.
#[derive(Clone, Debug)]
pub struct LostRun {
    pub id: RunId,
    pub node: String,
    pub log: LogState,
}

const REPORT_COLUMNS: &str = "url = $3, version = $4, has_linux = $5, interpreters = $6, \
    cpus = $7, busy_cpus_permille = $8, mem_bytes = $9, mem_free_bytes = $10, \
    disk_free_bytes = $11, pooled = $12, max_sandboxes = $13, max_tenant_runs = $14, \
    max_tenant_snapshots = $15";

impl Postgres {
    /// Joins the cluster under an id, for the lease time. Fails if another server has a valid
    /// lease under the same id, which has then been copied. Returns the epoch.
    pub async fn join(
        &self,
        id: &str,
        report: &NodeReport,
        lease: Duration,
    ) -> Result<i64, StoreError> {
        let mut all = params![id.to_owned(), lease.as_secs_f64()];
        all.extend(report_params(report));
        let joined = self
            .query_opt(
                &format!(
                    "INSERT INTO nodes AS node (id, epoch, state, lease_until, url, version,
                         has_linux, interpreters, cpus, busy_cpus_permille, mem_bytes,
                         mem_free_bytes, disk_free_bytes, pooled, max_sandboxes, max_tenant_runs,
                         max_tenant_snapshots)
                     VALUES ($1, 1, 'up', now() + make_interval(secs => $2), $3, $4, $5, $6, $7,
                         $8, $9, $10, $11, $12, $13, $14, $15)
                     ON CONFLICT (id) DO UPDATE SET epoch = node.epoch + 1,
                         state = CASE node.state WHEN 'draining' THEN 'draining' ELSE 'up' END,
                         joined_at = now(), lease_until = excluded.lease_until, {REPORT_COLUMNS}
                     WHERE node.lease_until < now() OR node.url = $3
                     RETURNING epoch"
                ),
                all,
            )
            .await?;
        let row = joined.ok_or_else(|| {
            StoreError::Postgres(format!(
                "another server is the node {id} of the cluster: give this one a data directory \
                 of its own, or wait until the lease of the other one has expired"
            ))
        })?;
        let epoch = column(&row, "epoch")?;
        let _ = self.shared.node.set((id.to_owned(), epoch));
        Ok(epoch)
    }

    /// Renews the lease of this node, also while the database is known to be away.
    pub async fn renew(&self, report: &NodeReport, lease: Duration) -> Result<(), StoreError> {
        let (node, epoch) = self.node()?;
        let mut all = params![node, lease.as_secs_f64()];
        all.extend(report_params(report));
        all.extend(params![epoch]);
        let renewed = self
            .attempt(
                &format!(
                    "UPDATE nodes SET lease_until = now() + make_interval(secs => $2),
                         {REPORT_COLUMNS}
                     WHERE id = $1 AND epoch = $16 AND state <> 'dead' RETURNING id"
                ),
                all,
            )
            .await?;
        if renewed.is_empty() { Err(StoreError::Fenced) } else { Ok(()) }
    }

    /// Ends the lease of this node, after its running sandboxes have ended.
    pub async fn leave(&self) -> Result<(), StoreError> {
        let (node, epoch) = self.node()?;
        self.query(
            "UPDATE nodes SET lease_until = now() WHERE id = $1 AND epoch = $2",
            params![node, epoch],
        )
        .await
        .map(drop)
    }

    /// Returns all nodes that were not removed.
    pub async fn nodes(&self) -> Result<Vec<NodeRow>, StoreError> {
        let rows = self
            .query(
                "SELECT nodes.*, lease_until > now() AND state <> 'dead' AS is_alive,
                     COALESCE(open, 0) AS runs
                 FROM nodes LEFT JOIN node_runs ON node = id WHERE state <> 'removed' ORDER BY id",
                params![],
            )
            .await?;
        rows.iter().map(read).collect()
    }

    /// Returns the numbers of open runs of some nodes.
    pub async fn open_runs_of(&self, nodes: &[String]) -> Result<Vec<(String, u64)>, StoreError> {
        let rows = self
            .query(
                "SELECT id, COALESCE(open, 0) AS open FROM unnest($1::TEXT[]) AS ids (id)
                 LEFT JOIN node_runs ON node = id",
                params![nodes.to_vec()],
            )
            .await?;
        rows.iter().map(|row| Ok((column(row, "id")?, number(row, "open")?))).collect()
    }

    /// Makes a node accept no new runs, or accept them again. Returns false if it does not
    /// exist, is dead or was removed.
    pub async fn set_draining(&self, id: &str, is_draining: bool) -> Result<bool, StoreError> {
        let changed = self
            .query(
                "UPDATE nodes SET state = $2 WHERE id = $1 AND state IN ('up', 'draining')
                 RETURNING id",
                params![id.to_owned(), if is_draining { "draining" } else { "up" }],
            )
            .await?;
        Ok(!changed.is_empty())
    }

    /// Removes a node that is not alive and has no runs or snapshots. Returns false if it is,
    /// or has some.
    pub async fn remove_node(&self, id: &str) -> Result<bool, StoreError> {
        let removed = self
            .query(
                "WITH unused AS (
                     SELECT id FROM nodes WHERE id = $1 AND (lease_until < now() OR state = 'dead')
                     AND NOT EXISTS (SELECT FROM runs WHERE node = $1 AND destroyed_at IS NULL)
                     AND NOT EXISTS (SELECT FROM snapshots WHERE node = $1) FOR UPDATE
                 ), images AS (
                     DELETE FROM pulled_images USING unused WHERE node = unused.id
                 ), names AS (
                     DELETE FROM node_images USING unused WHERE node = unused.id
                 )
                 UPDATE nodes SET state = 'removed', epoch = epoch + 1 FROM unused
                 WHERE nodes.id = unused.id RETURNING nodes.id",
                params![id.to_owned()],
            )
            .await?;
        Ok(!removed.is_empty())
    }

    /// Gives up the hibernated runs and the snapshots of a node without a lease that are not in
    /// the object store, since its disk is lost: other nodes record the runs as lost. Returns
    /// the number of runs and of snapshots; `None` if the node has a lease or does not exist.
    pub async fn give_up_disk(&self, id: &str) -> Result<Option<(u64, u64)>, StoreError> {
        let given_up = self
            .query_opt(
                "WITH node AS (
                     UPDATE nodes SET state = 'dead', epoch = epoch + 1
                     WHERE id = $1 AND lease_until < now() AND state <> 'removed' RETURNING id
                 ), runs AS (
                     UPDATE runs SET status = 'failed' FROM node WHERE runs.node = node.id
                     AND status = 'hibernated' AND destroyed_at IS NULL
                     AND tree_generation IS DISTINCT FROM generation RETURNING runs.id
                 ), snapshots AS (
                     DELETE FROM snapshots USING node WHERE snapshots.node = node.id
                     AND tree IS NULL RETURNING snapshots.id
                 )
                 SELECT (SELECT COUNT(*) FROM runs) AS runs,
                     (SELECT COUNT(*) FROM snapshots) AS snapshots FROM node",
                params![id.to_owned()],
            )
            .await?;
        let Some(row) = given_up else { return Ok(None) };
        Ok(Some((number(&row, "runs")?, number(&row, "snapshots")?)))
    }

    /// Returns the node of a run that was not destroyed.
    pub async fn run_owner(&self, id: &RunId) -> Result<Option<RunOwner>, StoreError> {
        let found = self
            .query_opt(
                "SELECT node, url, tenant, defaults, state IN ('dead', 'removed') AS is_dead,
                     status,
                     (state <> 'up' OR lease_until < now()) AND status = 'hibernated'
                     AND tree_generation = generation AS is_replaceable
                 FROM runs JOIN nodes ON nodes.id = node
                 WHERE runs.id = $1 AND destroyed_at IS NULL",
                params![id.to_string()],
            )
            .await?;
        let Some(row) = found else { return Ok(None) };
        let status = Some(parsed(&row, "status", Status::parse)?);
        Ok(Some(RunOwner { status, ..read_owner(&row)? }))
    }

    /// Returns the node of a snapshot of a tenant.
    pub async fn snapshot_owner(
        &self,
        tenant: &str,
        id: &str,
    ) -> Result<Option<RunOwner>, StoreError> {
        let found = self
            .query_opt(
                "SELECT node, url, tenant, defaults, state IN ('dead', 'removed') AS is_dead,
                     (state <> 'up' OR lease_until < now()) AND tree IS NOT NULL AS is_replaceable
                 FROM snapshots JOIN nodes ON nodes.id = node
                 WHERE snapshots.id = $1 AND tenant = $2",
                params![id.to_owned(), tenant.to_owned()],
            )
            .await?;
        found.map(|row| read_owner(&row)).transpose()
    }

    /// Declares all nodes dead whose leases expired at least `grace` ago, so that none of
    /// their changes takes effect any more. Returns their ids.
    pub async fn declare_dead(&self, grace: Duration) -> Result<Vec<String>, StoreError> {
        let (node, _) = self.node()?;
        let rows = self
            .query(
                "UPDATE nodes SET state = 'dead', epoch = epoch + 1 WHERE id IN (
                     SELECT id FROM nodes WHERE id <> $1 AND state IN ('up', 'draining')
                     AND lease_until < now() - make_interval(secs => $2)
                     FOR UPDATE SKIP LOCKED
                 ) RETURNING id",
                params![node, grace.as_secs_f64()],
            )
            .await?;
        rows.iter().map(|row| column(row, "id")).collect()
    }

    /// Deletes the runs of dead nodes whose creation did not finish: no client knows them.
    pub async fn delete_unfinished_runs(&self) -> Result<(), StoreError> {
        self.query(
            "DELETE FROM runs USING nodes WHERE nodes.id = node AND state IN ('dead', 'removed')
             AND status = 'creating' AND destroyed_at IS NULL",
            params![],
        )
        .await
        .map(drop)
    }

    /// Reports whether it is the turn of this node to record lost runs. It is not, for any node,
    /// for most of this time afterwards.
    pub async fn take_loss_turn(&self, time: Duration) -> Result<bool, StoreError> {
        self.take_turn("losses_recorded_at", time.mul_f64(0.9)).await
    }

    /// Returns up to `limit` runs of dead nodes that have lost their sandbox and are not
    /// recorded as destroyed yet.
    pub async fn lost_runs(&self, limit: u32) -> Result<Vec<LostRun>, StoreError> {
        let rows = self
            .query(
                "SELECT runs.id, node, COALESCE(last.seq, 0) AS seq,
                     COALESCE(last.hmac, '') AS hmac
                 FROM runs JOIN nodes ON nodes.id = node LEFT JOIN LATERAL (
                     SELECT seq, hmac FROM audit WHERE run_id = runs.id ORDER BY seq DESC LIMIT 1
                 ) AS last ON TRUE
                 WHERE state IN ('dead', 'removed') AND destroyed_at IS NULL
                 AND status IN ('running', 'failed') ORDER BY runs.id LIMIT $1",
                params![i64::from(limit)],
            )
            .await?;
        rows.iter()
            .map(|row| {
                Ok(LostRun {
                    id: parsed(row, "id", |text| text.parse().ok())?,
                    node: column(row, "node")?,
                    log: LogState { seq: number(row, "seq")?, hmac: column(row, "hmac")? },
                })
            })
            .collect()
    }

    /// Returns the number of runs of a dead node that are lost and not recorded as destroyed.
    pub async fn lost_runs_of(&self, node: &str) -> Result<u64, StoreError> {
        let found = self
            .query_opt(
                "SELECT COUNT(*) AS runs FROM runs WHERE node = $1 AND destroyed_at IS NULL
                 AND status IN ('running', 'failed', 'creating')",
                params![node.to_owned()],
            )
            .await?;
        found.map_or(Ok(0), |row| number(&row, "runs"))
    }

    /// Records the end of a run of a dead node, with the last entry of its audit log. Returns
    /// false if another node has done so meanwhile, or the dead node is back.
    pub async fn end_lost_run(
        &self,
        run: &LostRun,
        reason: &str,
        now: i64,
        entry: AuditRow,
    ) -> Result<bool, StoreError> {
        let ended = self
            .query(
                "WITH ended AS (
                     UPDATE runs SET status = 'destroyed', destroyed_at = $4, reason = $3,
                         network = '', defaults = '{}'
                     FROM nodes WHERE runs.id = $1 AND node = $2 AND nodes.id = node
                     AND state IN ('dead', 'removed') AND destroyed_at IS NULL RETURNING runs.id
                 )
                 INSERT INTO audit (run_id, seq, ts, event, data, hmac)
                 SELECT ended.id, $5, $6, $7, $8, $9 FROM ended
                 ON CONFLICT DO NOTHING RETURNING run_id",
                params![
                    run.id.to_string(),
                    run.node.clone(),
                    reason.to_owned(),
                    now,
                    int(entry.seq),
                    entry.ts,
                    entry.event,
                    entry.data,
                    entry.hmac,
                ],
            )
            .await?;
        Ok(!ended.is_empty())
    }
}

fn report_params(report: &NodeReport) -> super::SqlParams {
    params![
        report.url.clone(),
        report.version.clone(),
        report.has_linux,
        report.interpreters.join(","),
        int(report.cpus),
        int(report.busy_cpus_permille),
        int(report.mem_bytes),
        int(report.mem_free_bytes),
        int(report.disk_free_bytes),
        int(report.pooled),
        int(report.max_sandboxes),
        int(report.max_tenant_runs),
        int(report.max_tenant_snapshots),
    ]
}

fn read(row: &Row) -> Result<NodeRow, StoreError> {
    let interpreters: String = column(row, "interpreters")?;
    Ok(NodeRow {
        id: column(row, "id")?,
        is_alive: column(row, "is_alive")?,
        is_draining: column::<String>(row, "state")? == "draining",
        runs: number(row, "runs")?,
        report: NodeReport {
            url: column(row, "url")?,
            version: column(row, "version")?,
            has_linux: column(row, "has_linux")?,
            interpreters: interpreters
                .split(',')
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
                .collect(),
            cpus: number(row, "cpus")?,
            busy_cpus_permille: number(row, "busy_cpus_permille")?,
            mem_bytes: number(row, "mem_bytes")?,
            mem_free_bytes: number(row, "mem_free_bytes")?,
            disk_free_bytes: number(row, "disk_free_bytes")?,
            pooled: number(row, "pooled")?,
            max_sandboxes: number(row, "max_sandboxes")?,
            max_tenant_runs: number(row, "max_tenant_runs")?,
            max_tenant_snapshots: number(row, "max_tenant_snapshots")?,
        },
    })
}

fn read_owner(row: &Row) -> Result<RunOwner, StoreError> {
    Ok(RunOwner {
        node: column(row, "node")?,
        url: column(row, "url")?,
        tenant: column(row, "tenant")?,
        defaults: column(row, "defaults")?,
        is_dead: column(row, "is_dead")?,
        is_replaceable: column::<Option<bool>>(row, "is_replaceable")?.unwrap_or(false),
        status: None,
    })
}

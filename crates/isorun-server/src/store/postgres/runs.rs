//! Runs in PostgreSQL. Only the node of a run changes it.

use std::time::Duration;

use async_trait::async_trait;
use isorun_api::{OnIdle, PastRun, RunId, Status, Usage};
use tokio_postgres::Row;

use super::{
    super::{AuditRow, Ending, ResourceUsage, RunRow, RunSettings, RunTable, StoreError},
    Postgres, SqlParams, audit, column, int, number, params, parsed,
};
use crate::clock;

#[async_trait]
impl RunTable for Postgres {
    async fn add_run(&self, run: RunRow) -> Result<(), StoreError> {
        self.change(
            "INSERT INTO runs (id, node, tenant, image, digest, status, vcpus, mem_mib, disk_mib,
                 timeout_ms, defaults, create_ms, created_at, on_idle, auto_resume, network)
             SELECT $3, fence.id, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17
             FROM fence RETURNING created_at AS result",
            params![
                run.id.to_string(),
                run.tenant,
                run.image,
                run.digest,
                run.status.name(),
                i64::from(run.vcpus),
                int(run.mem_mib),
                int(run.disk_mib),
                int(run.timeout_ms),
                run.defaults,
                int(run.create_ms),
                run.created_at,
                run.on_idle.name(),
                run.auto_resume,
                run.network,
            ],
        )
        .await
        .map(drop)
    }

    async fn delete_run(&self, id: &RunId) -> Result<(), StoreError> {
        self.change(
            "DELETE FROM runs USING fence WHERE runs.id = $3 AND runs.node = fence.id
             RETURNING created_at AS result",
            params![id.to_string()],
        )
        .await
        .map(drop)
    }

    async fn run_started(&self, id: &RunId, create_ms: u64) -> Result<(), StoreError> {
        let values = params![Status::Running.name(), int(create_ms)];
        self.update(id, "status = $4, create_ms = $5", values).await.map(drop)
    }

    async fn set_run_status(&self, id: &RunId, status: Status) -> Result<(), StoreError> {
        self.update(id, "status = $4", params![status.name()]).await.map(drop)
    }

    async fn next_generation(&self, id: &RunId) -> Result<u64, StoreError> {
        let generation = self.update(id, "generation = generation + 1", params![]).await?;
        Ok(u64::try_from(generation).unwrap_or(0))
    }

    async fn generation(&self, id: &RunId) -> Result<u64, StoreError> {
        let found = self
            .query_opt("SELECT generation FROM runs WHERE id = $1", params![id.to_string()])
            .await?;
        number(&found.ok_or(StoreError::Moved)?, "generation")
    }

    async fn run_hibernated(
        &self,
        id: &RunId,
        generation: Option<u64>,
        used: ResourceUsage,
    ) -> Result<(), StoreError> {
        let values = params![
            Status::Hibernated.name(),
            int(used.cpu_ms),
            int(used.mem_peak_bytes),
            int(used.disk_used_bytes),
            generation.map(int),
        ];
        let columns = "status = $4, cpu_ms = $5, mem_peak_bytes = $6, disk_used_bytes = $7, \
                       generation = COALESCE($8, generation), resuming = FALSE";
        self.update(id, columns, values).await.map(drop)
    }

    async fn set_resuming(&self, id: &RunId, is_resuming: bool) -> Result<(), StoreError> {
        self.update(id, "resuming = $4", params![is_resuming]).await.map(drop)
    }

    async fn run_resumed(&self, id: &RunId) -> Result<(), StoreError> {
        let columns = "status = $4, generation = generation + 1, resuming = FALSE";
        self.update(id, columns, params![Status::Running.name()]).await.map(drop)
    }

    async fn set_run_timeout(&self, id: &RunId, timeout_ms: u64) -> Result<(), StoreError> {
        self.update(id, "timeout_ms = $4", params![int(timeout_ms)]).await.map(drop)
    }

    async fn set_run_network(&self, id: &RunId, network: String) -> Result<(), StoreError> {
        self.update(id, "network = $4", params![network]).await.map(drop)
    }

    async fn end_run(
        &self,
        id: &RunId,
        ending: Ending,
        last_entry: AuditRow,
    ) -> Result<(), StoreError> {
        let values = params![
            id.to_string(),
            Status::Destroyed.name(),
            ending.destroyed_at,
            ending.reason,
            int(ending.cpu_ms),
            int(ending.mem_peak_bytes),
            int(ending.disk_used_bytes),
            audit::counted_bytes(&last_entry),
            int(last_entry.seq),
            last_entry.ts,
            last_entry.event,
            last_entry.data,
            last_entry.hmac,
        ];
        let change = "ended AS (
                 UPDATE runs SET status = $4, destroyed_at = $5, reason = $6, network = '',
                     defaults = '{}', cpu_ms = $7, mem_peak_bytes = $8, disk_used_bytes = $9,
                     audit_bytes = audit_bytes + $10
                 FROM fence
                 WHERE runs.id = $3 AND runs.node = fence.id AND destroyed_at IS NULL
                 RETURNING runs.id
             ), change AS (
                 INSERT INTO audit (run_id, seq, ts, event, data, hmac)
                 SELECT ended.id, $11, $12, $13, $14, $15 FROM ended RETURNING seq AS result
             )";
        if self.changes(change, values).await?.is_some() {
            return Ok(());
        }
        let (node, _) = self.node()?;
        let ended = "SELECT FROM runs WHERE id = $1 AND node = $2 AND destroyed_at IS NOT NULL";
        let found = self.query_opt(ended, params![id.to_string(), node]).await?;
        found.map(drop).ok_or(StoreError::Moved)
    }

    async fn run(&self, id: &RunId) -> Result<Option<RunRow>, StoreError> {
        let found =
            self.query_opt("SELECT * FROM runs WHERE id = $1", params![id.to_string()]).await?;
        found.map(|row| read(&row)).transpose()
    }

    async fn open_runs(&self) -> Result<Vec<RunRow>, StoreError> {
        let (node, _) = self.node()?;
        let rows = self
            .query(
                "SELECT * FROM runs WHERE node = $1 AND destroyed_at IS NULL
                 ORDER BY created_at, id",
                params![node],
            )
            .await?;
        rows.iter().map(read).collect()
    }

    async fn runs_elsewhere(&self, tenant: &str) -> Result<Vec<RunRow>, StoreError> {
        let (node, _) = self.node()?;
        let rows = self
            .query(
                "SELECT * FROM runs WHERE tenant = $1 AND node <> $2 AND destroyed_at IS NULL
                 AND status <> 'creating' ORDER BY created_at, id",
                params![tenant.to_owned(), node],
            )
            .await?;
        rows.iter().map(read).collect()
    }

    async fn history(
        &self,
        tenant: &str,
        before: Option<RunId>,
        limit: u32,
    ) -> Result<Vec<PastRun>, StoreError> {
        let (tenant, limit) = (tenant.to_owned(), i64::from(limit));
        let rows = match before {
            None => {
                self.query(
                    "SELECT * FROM runs WHERE tenant = $1 AND destroyed_at IS NOT NULL
                     ORDER BY destroyed_at DESC, id DESC LIMIT $2",
                    params![tenant, limit],
                )
                .await?
            }
            Some(before) => {
                self.query(
                    "SELECT * FROM runs WHERE tenant = $1 AND destroyed_at IS NOT NULL
                     AND (destroyed_at, id) <
                         (SELECT destroyed_at, id FROM runs WHERE id = $2 AND tenant = $1)
                     ORDER BY destroyed_at DESC, id DESC LIMIT $3",
                    params![tenant, before.to_string(), limit],
                )
                .await?
            }
        };
        rows.iter().map(read_past).collect()
    }

    async fn past_usage(&self, tenant: &str) -> Result<Usage, StoreError> {
        let found = self
            .query_opt("SELECT * FROM usage WHERE tenant = $1", params![tenant.to_owned()])
            .await?;
        let Some(row) = found else { return Ok(Usage::default()) };
        Ok(Usage {
            history_sandboxes: number(&row, "runs")?,
            cpu_seconds: number(&row, "cpu_ms")? as f64 / 1000.0,
            mem_seconds: number(&row, "mem_mib_ms")? as f64 / 1024.0 / 1000.0,
            ..Usage::default()
        })
    }

    async fn take_history_turn(&self, interval: Duration) -> Result<bool, StoreError> {
        // Less than the interval, or the only node would miss a turn if its clock was faster.
        self.take_turn("history_deleted_at", interval.mul_f64(0.9)).await
    }

    async fn delete_runs_before(&self, time: i64, limit: u32) -> Result<usize, StoreError> {
        // If it takes longer than the interval, two nodes delete at the same time.
        let deleted = self
            .query(
                "DELETE FROM runs WHERE id IN (
                     SELECT id FROM runs WHERE destroyed_at < $1 ORDER BY destroyed_at LIMIT $2
                     FOR UPDATE SKIP LOCKED
                 ) RETURNING id",
                params![time, i64::from(limit)],
            )
            .await?;
        Ok(deleted.len())
    }

    async fn delete_runs_beyond(
        &self,
        tenant: String,
        keep: u64,
        limit: u32,
    ) -> Result<usize, StoreError> {
        let deleted = self
            .query(
                "DELETE FROM runs WHERE id IN (
                     SELECT id FROM runs WHERE tenant = $1 AND destroyed_at IS NOT NULL
                     ORDER BY destroyed_at, id LIMIT LEAST($3, GREATEST(0, (
                         SELECT COUNT(*) FROM runs WHERE tenant = $1 AND destroyed_at IS NOT NULL
                     ) - $2)) FOR UPDATE SKIP LOCKED
                 ) RETURNING id",
                params![tenant, int(keep), i64::from(limit)],
            )
            .await?;
        Ok(deleted.len())
    }

    async fn tenants_with_history(&self) -> Result<Vec<String>, StoreError> {
        let rows = self.query("SELECT tenant FROM usage ORDER BY tenant", params![]).await?;
        rows.iter().map(|row| column(row, "tenant")).collect()
    }
}

impl Postgres {
    /// Sets columns of a run of this node, whose values are the parameters from `$4` on.
    /// Returns its generation.
    async fn update(
        &self,
        id: &RunId,
        columns: &str,
        values: SqlParams,
    ) -> Result<i64, StoreError> {
        let change = format!(
            "UPDATE runs SET {columns} FROM fence WHERE runs.id = $3 AND runs.node = fence.id \
             RETURNING generation AS result"
        );
        let mut all = params![id.to_string()];
        all.extend(values);
        self.change_run(&change, all).await
    }
}

fn read(row: &Row) -> Result<RunRow, StoreError> {
    let created_at = column(row, "created_at")?;
    Ok(RunRow {
        status: parsed(row, "status", Status::parse)?,
        used: ResourceUsage {
            cpu_ms: number(row, "cpu_ms")?,
            mem_peak_bytes: number(row, "mem_peak_bytes")?,
            disk_used_bytes: number(row, "disk_used_bytes")?,
        },
        create_ms: number(row, "create_ms")?,
        created_at,
        destroyed_at: column(row, "destroyed_at")?,
        reason: column(row, "reason")?,
        ..RunRow::new(id(row)?, settings_of(row)?)
    })
}

/// Returns the settings in a row of a run or of a snapshot.
pub(super) fn settings_of(row: &Row) -> Result<RunSettings, StoreError> {
    Ok(RunSettings {
        tenant: column(row, "tenant")?,
        image: column(row, "image")?,
        digest: column(row, "digest")?,
        vcpus: u32::try_from(number(row, "vcpus")?).unwrap_or(u32::MAX),
        mem_mib: number(row, "mem_mib")?,
        disk_mib: number(row, "disk_mib")?,
        timeout_ms: number(row, "timeout_ms")?,
        defaults: column(row, "defaults")?,
        network: column(row, "network")?,
        on_idle: parsed(row, "on_idle", OnIdle::parse)?,
        auto_resume: column(row, "auto_resume")?,
    })
}

fn read_past(row: &Row) -> Result<PastRun, StoreError> {
    let created_at: i64 = column(row, "created_at")?;
    let destroyed_at: i64 = column(row, "destroyed_at")?;
    Ok(PastRun {
        id: id(row)?,
        image: column(row, "image")?,
        vcpus: u32::try_from(number(row, "vcpus")?).unwrap_or(u32::MAX),
        mem_mib: number(row, "mem_mib")?,
        create_ms: number(row, "create_ms")?,
        created_at: clock::rfc3339(created_at),
        destroyed_at: clock::rfc3339(destroyed_at),
        uptime_ms: u64::try_from(destroyed_at.saturating_sub(created_at)).unwrap_or(0),
        cpu_ms: number(row, "cpu_ms")?,
        mem_peak_bytes: number(row, "mem_peak_bytes")?,
        cost_cents: 0.0,
        reason: column::<Option<String>>(row, "reason")?.unwrap_or_default(),
    })
}

fn id(row: &Row) -> Result<RunId, StoreError> {
    parsed(row, "id", |text| text.parse().ok())
}

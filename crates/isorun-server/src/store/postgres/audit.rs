//! Audit logs in PostgreSQL. Only the node of a run adds entries to its log.

use async_trait::async_trait;
use isorun_api::RunId;
use tokio_postgres::Row;

use super::{
    super::{AuditRow, AuditTable, LogState, StoreError},
    Postgres, column, int, number, params,
};

/// The bytes of an entry beside its data, as they are counted for the tenant.
const ENTRY_OVERHEAD_BYTES: i64 = 256;

#[async_trait]
impl AuditTable for Postgres {
    async fn add_audit(&self, entry: AuditRow) -> Result<(), StoreError> {
        let bytes = counted_bytes(&entry);
        let added = self
            .changes(
                "counted AS (
                 UPDATE runs SET audit_bytes = audit_bytes + $9 FROM fence
                 WHERE runs.id = $3 AND runs.node = fence.id RETURNING runs.id
             ), change AS (
                 INSERT INTO audit (run_id, seq, ts, event, data, hmac)
                 SELECT counted.id, $4, $5, $6, $7, $8 FROM counted RETURNING seq AS result
             )",
                params![
                    entry.run_id,
                    int(entry.seq),
                    entry.ts,
                    entry.event,
                    entry.data,
                    entry.hmac,
                    bytes
                ],
            )
            .await?;
        added.map(drop).ok_or(StoreError::Moved)
    }

    async fn audit(
        &self,
        run: &RunId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<AuditRow>, StoreError> {
        let rows = self
            .query(
                "SELECT * FROM audit WHERE run_id = $1 AND seq > $2 ORDER BY seq LIMIT $3",
                params![run.to_string(), int(after), i64::from(limit)],
            )
            .await?;
        rows.iter().map(read).collect()
    }

    async fn audit_end(&self, run: &RunId) -> Result<LogState, StoreError> {
        let end = self
            .query_opt(
                "SELECT seq, hmac FROM audit WHERE run_id = $1 ORDER BY seq DESC LIMIT 1",
                params![run.to_string()],
            )
            .await?;
        let Some(row) = end else { return Ok(LogState::default()) };
        Ok(LogState { seq: number(&row, "seq")?, hmac: column(&row, "hmac")? })
    }

    async fn audited_runs(&self) -> Result<Vec<(String, bool)>, StoreError> {
        let rows = self
            .query(
                "SELECT id, destroyed_at IS NOT NULL AS destroyed FROM runs
                 UNION SELECT run_id, FALSE FROM audit
                 WHERE NOT EXISTS (SELECT FROM runs WHERE runs.id = run_id) ORDER BY id",
                params![],
            )
            .await?;
        rows.iter().map(|row| Ok((column(row, "id")?, column(row, "destroyed")?))).collect()
    }
}

/// Returns the size of an entry as it is counted for the tenant.
pub(super) fn counted_bytes(entry: &AuditRow) -> i64 {
    int(entry.data.len() as u64).saturating_add(ENTRY_OVERHEAD_BYTES)
}

fn read(row: &Row) -> Result<AuditRow, StoreError> {
    Ok(AuditRow {
        run_id: column(row, "run_id")?,
        seq: number(row, "seq")?,
        ts: column(row, "ts")?,
        event: column(row, "event")?,
        data: column(row, "data")?,
        hmac: column(row, "hmac")?,
    })
}

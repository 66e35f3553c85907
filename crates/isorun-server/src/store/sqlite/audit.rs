//! Audit logs in SQLite.

use async_trait::async_trait;
use isorun_api::RunId;
use rusqlite::{Connection, OptionalExtension, Row};

use super::{
    super::{AuditRow, AuditTable, LogState, StoreError},
    Sqlite,
};

#[async_trait]
impl AuditTable for Sqlite {
    async fn add_audit(&self, entry: AuditRow) -> Result<(), StoreError> {
        self.call(move |connection| insert(connection, entry)).await
    }

    async fn audit(
        &self,
        run: &RunId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<AuditRow>, StoreError> {
        let run = run.to_string();
        self.read(move |connection| {
            let mut query = connection.prepare_cached(
                "SELECT * FROM audit WHERE run_id = ? AND seq > ? ORDER BY seq LIMIT ?",
            )?;
            query.query_map((run, after, limit), read)?.collect()
        })
        .await
    }

    async fn audit_end(&self, run: &RunId) -> Result<LogState, StoreError> {
        let run = run.to_string();
        self.call(move |connection| {
            let end = connection
                .prepare_cached(
                    "SELECT seq, hmac FROM audit WHERE run_id = ? ORDER BY seq DESC LIMIT 1",
                )?
                .query_row([run], |row| Ok(LogState { seq: row.get(0)?, hmac: row.get(1)? }))
                .optional()?;
            Ok(end.unwrap_or_default())
        })
        .await
    }

    async fn audited_runs(&self) -> Result<Vec<(String, bool)>, StoreError> {
        self.read(|connection| {
            let mut query = connection.prepare_cached(
                "SELECT id, destroyed_at IS NOT NULL FROM runs
                 UNION SELECT run_id, 0 FROM audit WHERE run_id NOT IN (SELECT id FROM runs)",
            )?;
            query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        })
        .await
    }
}

pub(super) fn insert(connection: &Connection, entry: AuditRow) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO audit (run_id, seq, ts, event, data, hmac) VALUES (?, ?, ?, ?, ?, ?)",
        )?
        .execute((entry.run_id, entry.seq, entry.ts, entry.event, entry.data, entry.hmac))?;
    Ok(())
}

fn read(row: &Row<'_>) -> rusqlite::Result<AuditRow> {
    Ok(AuditRow {
        run_id: row.get("run_id")?,
        seq: row.get("seq")?,
        ts: row.get("ts")?,
        event: row.get("event")?,
        data: row.get("data")?,
        hmac: row.get("hmac")?,
    })
}

//! Audit logs, one for each run. Each entry is chained to the previous one.

use rusqlite::{OptionalExtension, Row};

use super::{Store, StoreError};
use isorun_api::RunId;

/// An entry of an audit log.
#[derive(Clone, Debug)]
pub struct AuditRow {
    /// The id of the run.
    pub run_id: String,
    /// The number of the entry in the log of its run, from 1.
    pub seq: u64,
    /// The time, as RFC 3339.
    pub ts: String,
    /// The name of the event.
    pub event: String,
    /// Event data, as JSON.
    pub data: String,
    /// The HMAC of the entry and of the previous HMAC, in hex digits.
    pub hmac: String,
}

/// The end of a log, to which the next entry is chained.
#[derive(Clone, Debug, Default)]
pub struct LogState {
    pub seq: u64,
    pub hmac: String,
}

impl Store {
    /// Adds an entry.
    pub async fn add_audit(&self, entry: AuditRow) -> Result<(), StoreError> {
        self.call(move |connection| {
            connection
                .prepare_cached(
                    "INSERT INTO audit (run_id, seq, ts, event, data, hmac) VALUES (?, ?, ?, ?, ?, ?)",
                )?
                .execute((entry.run_id, entry.seq, entry.ts, entry.event, entry.data, entry.hmac))?;
            Ok(())
        })
        .await
    }

    /// Returns up to `limit` entries of a run with sequence numbers above `after`, in order.
    pub async fn audit(
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

    /// Returns the end of a run's log.
    pub async fn audit_end(&self, run: &RunId) -> Result<LogState, StoreError> {
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

    /// Returns the ids of all runs that have a log or a row, with true for those that were
    /// destroyed.
    pub async fn audited_runs(&self) -> Result<Vec<(String, bool)>, StoreError> {
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

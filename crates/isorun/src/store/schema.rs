//! The tables, as steps from an empty file to the present format.

use rusqlite::Connection;

use super::StoreError;

/// Each step is applied once, in order; none is ever changed after a release.
const STEPS: &[&str] = &[
    "
    CREATE TABLE keys (
        id TEXT PRIMARY KEY,
        tenant TEXT NOT NULL,
        name TEXT NOT NULL,
        admin INTEGER NOT NULL,
        created_at INTEGER NOT NULL,
        revoked_at INTEGER
    ) STRICT;
    CREATE TABLE runs (
        id TEXT PRIMARY KEY,
        tenant TEXT NOT NULL,
        image TEXT NOT NULL,
        digest TEXT NOT NULL,
        status TEXT NOT NULL,
        vcpus INTEGER NOT NULL,
        mem_mib INTEGER NOT NULL,
        disk_mib INTEGER NOT NULL,
        timeout_ms INTEGER NOT NULL,
        defaults TEXT NOT NULL,
        create_ms INTEGER NOT NULL,
        created_at INTEGER NOT NULL,
        destroyed_at INTEGER,
        reason TEXT,
        cpu_ms INTEGER NOT NULL DEFAULT 0,
        mem_peak_bytes INTEGER NOT NULL DEFAULT 0,
        disk_used_bytes INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    CREATE INDEX runs_by_tenant ON runs (tenant, status, created_at);
    CREATE TABLE audit (
        run_id TEXT NOT NULL,
        seq INTEGER NOT NULL,
        ts TEXT NOT NULL,
        event TEXT NOT NULL,
        data TEXT NOT NULL,
        hmac TEXT NOT NULL,
        PRIMARY KEY (run_id, seq)
    ) STRICT, WITHOUT ROWID;
",
    "
    ALTER TABLE runs ADD COLUMN on_idle TEXT NOT NULL DEFAULT 'destroy';
    ALTER TABLE runs ADD COLUMN auto_resume INTEGER NOT NULL DEFAULT 0;
    CREATE TABLE snapshots (
        id TEXT PRIMARY KEY,
        tenant TEXT NOT NULL,
        run_id TEXT NOT NULL,
        image TEXT NOT NULL,
        digest TEXT NOT NULL,
        vcpus INTEGER NOT NULL,
        mem_mib INTEGER NOT NULL,
        disk_mib INTEGER NOT NULL,
        timeout_ms INTEGER NOT NULL,
        defaults TEXT NOT NULL,
        on_idle TEXT NOT NULL,
        auto_resume INTEGER NOT NULL,
        size_bytes INTEGER NOT NULL,
        created_at INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX snapshots_by_tenant ON snapshots (tenant, created_at);
",
    "
    ALTER TABLE runs ADD COLUMN network TEXT NOT NULL DEFAULT '';
    ALTER TABLE snapshots ADD COLUMN network TEXT NOT NULL DEFAULT '';
",
    "
    ALTER TABLE runs ADD COLUMN generation INTEGER NOT NULL DEFAULT 0;
",
];

pub fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let known = i64::try_from(STEPS.len()).unwrap_or(i64::MAX);
    // The write lock first: two processes that start at the same time agree on
    // who applies the steps.
    let transaction =
        connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let found: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if found > known {
        return Err(StoreError::TooNew { found, known });
    }
    for step in STEPS.iter().skip(usize::try_from(found).unwrap_or(0)) {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", known)?;
    transaction.commit()?;
    Ok(())
}

//! The schema, as migration steps from an empty file to the current format.

use rusqlite::Connection;

use super::super::StoreError;

/// The migration steps, applied once each, in order. A released step is never changed.
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
    // Totals of the resource usage of a tenant's destroyed runs are updated when a run
    // ends, so that no query has to read all of them, and are kept when runs are
    // deleted. So is the size of its audit logs.
    "
    CREATE TABLE usage (
        tenant TEXT PRIMARY KEY,
        runs INTEGER NOT NULL DEFAULT 0,
        cpu_ms INTEGER NOT NULL DEFAULT 0,
        mem_mib_ms INTEGER NOT NULL DEFAULT 0,
        audit_bytes INTEGER NOT NULL DEFAULT 0
    ) STRICT, WITHOUT ROWID;
    INSERT INTO usage (tenant, runs, cpu_ms, mem_mib_ms)
        SELECT tenant, COUNT(*), SUM(cpu_ms), SUM(mem_mib * MAX(destroyed_at - created_at, 0))
        FROM runs WHERE destroyed_at IS NOT NULL GROUP BY tenant;
    CREATE TRIGGER run_ended AFTER UPDATE OF destroyed_at ON runs
    WHEN OLD.destroyed_at IS NULL AND NEW.destroyed_at IS NOT NULL BEGIN
        INSERT INTO usage (tenant, runs, cpu_ms, mem_mib_ms) VALUES (
            NEW.tenant, 1, NEW.cpu_ms, NEW.mem_mib * MAX(NEW.destroyed_at - NEW.created_at, 0)
        ) ON CONFLICT (tenant) DO UPDATE SET
            runs = runs + 1, cpu_ms = cpu_ms + excluded.cpu_ms,
            mem_mib_ms = mem_mib_ms + excluded.mem_mib_ms;
    END;
    CREATE TRIGGER ended_run_added AFTER INSERT ON runs
    WHEN NEW.destroyed_at IS NOT NULL BEGIN
        INSERT INTO usage (tenant, runs, cpu_ms, mem_mib_ms) VALUES (
            NEW.tenant, 1, NEW.cpu_ms, NEW.mem_mib * MAX(NEW.destroyed_at - NEW.created_at, 0)
        ) ON CONFLICT (tenant) DO UPDATE SET
            runs = runs + 1, cpu_ms = cpu_ms + excluded.cpu_ms,
            mem_mib_ms = mem_mib_ms + excluded.mem_mib_ms;
    END;
    INSERT INTO usage (tenant, audit_bytes)
        SELECT runs.tenant, SUM(OCTET_LENGTH(data) + 256) FROM audit JOIN runs ON runs.id = run_id
        WHERE TRUE GROUP BY runs.tenant
        ON CONFLICT (tenant) DO UPDATE SET audit_bytes = excluded.audit_bytes;
    CREATE TRIGGER audit_added AFTER INSERT ON audit BEGIN
        INSERT INTO usage (tenant, audit_bytes)
            SELECT tenant, OCTET_LENGTH(NEW.data) + 256 FROM runs WHERE id = NEW.run_id
            ON CONFLICT (tenant) DO UPDATE SET audit_bytes = audit_bytes + excluded.audit_bytes;
    END;
    CREATE TRIGGER audit_removed AFTER DELETE ON audit BEGIN
        UPDATE usage SET audit_bytes = MAX(audit_bytes - OCTET_LENGTH(OLD.data) - 256, 0)
            WHERE tenant = (SELECT tenant FROM runs WHERE id = OLD.run_id);
    END;
    CREATE TABLE pulled_images (
        digest TEXT PRIMARY KEY,
        tenant TEXT NOT NULL,
        bytes INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    DROP INDEX runs_by_tenant;
    CREATE INDEX runs_open ON runs (created_at) WHERE destroyed_at IS NULL;
    CREATE INDEX runs_past ON runs (tenant, destroyed_at, id) WHERE destroyed_at IS NOT NULL;
    CREATE INDEX runs_past_of_all ON runs (destroyed_at) WHERE destroyed_at IS NOT NULL;
",
];

pub fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let known = i64::try_from(STEPS.len()).unwrap_or(i64::MAX);
    // Takes the write lock first, so that of two processes that start at the same time
    // only one applies the steps.
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

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use super::*;

    /// Creates a file in the format of an earlier version, which had so many steps.
    pub fn old_file(dir: &Path, steps: usize, fill: impl FnOnce(&Connection)) {
        let file = Connection::open(dir.join(super::super::DB_FILE)).unwrap();
        for step in &STEPS[..steps] {
            file.execute_batch(step).unwrap();
        }
        file.pragma_update(None, "user_version", steps).unwrap();
        fill(&file);
    }
}

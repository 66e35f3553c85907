//! Runs, also those that are gone.

use rusqlite::{OptionalExtension, Row, types::Type};

use super::{Store, StoreError};
use crate::{
    api::{OnIdle, PastRun, Status, Usage},
    clock,
    id::RunId,
};

/// What is known of a run.
#[derive(Clone, Debug)]
pub struct RunRow {
    pub id: RunId,
    pub tenant: String,
    pub image: String,
    /// Of the image; empty for `host`.
    pub digest: String,
    pub status: Status,
    pub vcpus: u32,
    pub mem_mib: u64,
    pub disk_mib: u64,
    /// 0 for never.
    pub timeout_ms: u64,
    /// JSON: what commands start with.
    pub defaults: String,
    /// JSON: what it reaches, with sealed secrets.
    pub network: String,
    pub on_idle: OnIdle,
    pub auto_resume: bool,
    /// What it had used when it was last hibernated.
    pub used: Used,
    pub create_ms: u64,
    pub created_at: i64,
    pub destroyed_at: Option<i64>,
    pub reason: Option<String>,
}

/// What a sandbox has used that is no longer there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    pub cpu_ms: u64,
    pub mem_peak_bytes: u64,
    pub disk_used_bytes: u64,
}

/// How a run ended, and what it had used.
#[derive(Clone, Debug)]
pub struct Ending {
    pub reason: String,
    pub destroyed_at: i64,
    pub cpu_ms: u64,
    pub mem_peak_bytes: u64,
    pub disk_used_bytes: u64,
}

impl Store {
    pub async fn add_run(&self, run: RunRow) -> Result<(), StoreError> {
        self.call(move |connection| {
            connection
                .prepare_cached(
                    "INSERT INTO runs (id, tenant, image, digest, status, vcpus, mem_mib, \
                     disk_mib, timeout_ms, defaults, create_ms, created_at, on_idle, auto_resume, \
                     network)
                     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                )?
                .execute((
                    run.id.as_str(),
                    run.tenant,
                    run.image,
                    run.digest,
                    run.status.name(),
                    run.vcpus,
                    run.mem_mib,
                    run.disk_mib,
                    run.timeout_ms,
                    run.defaults,
                    run.create_ms,
                    run.created_at,
                    run.on_idle.name(),
                    run.auto_resume,
                    run.network,
                ))?;
            Ok(())
        })
        .await
    }

    /// A run that was never made leaves nothing behind.
    pub async fn forget_run(&self, id: &RunId) -> Result<(), StoreError> {
        let id = id.to_string();
        self.call(move |connection| {
            connection.prepare_cached("DELETE FROM runs WHERE id = ?")?.execute([id])?;
            Ok(())
        })
        .await
    }

    pub async fn run_started(&self, id: &RunId, create_ms: u64) -> Result<(), StoreError> {
        let id = id.to_string();
        self.call(move |connection| {
            connection
                .prepare_cached("UPDATE runs SET status = ?, create_ms = ? WHERE id = ?")?
                .execute((Status::Running.name(), create_ms, id))?;
            Ok(())
        })
        .await
    }

    pub async fn set_run_status(&self, id: &RunId, status: Status) -> Result<(), StoreError> {
        let id = id.to_string();
        self.call(move |connection| {
            connection
                .prepare_cached("UPDATE runs SET status = ? WHERE id = ?")?
                .execute((status.name(), id))?;
            Ok(())
        })
        .await
    }

    /// Begins another generation of what a run has on disk, and gives its
    /// number: what was written for an earlier one is not restored any more.
    pub async fn next_generation(&self, id: &RunId) -> Result<u64, StoreError> {
        let id = id.to_string();
        self.call(move |connection| {
            connection
                .prepare_cached(
                    "UPDATE runs SET generation = generation + 1 WHERE id = ? RETURNING generation",
                )?
                .query_row([id], |row| row.get(0))
        })
        .await
    }

    /// The generation of what a run has on disk.
    pub async fn generation(&self, id: &RunId) -> Result<u64, StoreError> {
        let id = id.to_string();
        self.call(move |connection| {
            connection
                .prepare_cached("SELECT generation FROM runs WHERE id = ?")?
                .query_row([id], |row| row.get(0))
        })
        .await
    }

    /// Its sandbox is on disk, and has used this until now.
    pub async fn run_hibernated(&self, id: &RunId, used: Used) -> Result<(), StoreError> {
        let id = id.to_string();
        self.call(move |connection| {
            connection
                .prepare_cached(
                    "UPDATE runs SET status = ?, cpu_ms = ?, mem_peak_bytes = ?,
                     disk_used_bytes = ? WHERE id = ?",
                )?
                .execute((
                    Status::Hibernated.name(),
                    used.cpu_ms,
                    used.mem_peak_bytes,
                    used.disk_used_bytes,
                    id,
                ))?;
            Ok(())
        })
        .await
    }

    /// Records that a run is back from the disk. What it had there is of an
    /// earlier generation from now on.
    pub async fn run_resumed(&self, id: &RunId) -> Result<(), StoreError> {
        let id = id.to_string();
        self.call(move |connection| {
            connection
                .prepare_cached(
                    "UPDATE runs SET status = ?, generation = generation + 1 WHERE id = ?",
                )?
                .execute((Status::Running.name(), id))?;
            Ok(())
        })
        .await
    }

    pub async fn set_run_timeout(&self, id: &RunId, timeout_ms: u64) -> Result<(), StoreError> {
        let id = id.to_string();
        self.call(move |connection| {
            connection
                .prepare_cached("UPDATE runs SET timeout_ms = ? WHERE id = ?")?
                .execute((timeout_ms, id))?;
            Ok(())
        })
        .await
    }

    pub async fn set_run_network(&self, id: &RunId, network: String) -> Result<(), StoreError> {
        let id = id.to_string();
        self.call(move |connection| {
            connection
                .prepare_cached("UPDATE runs SET network = ? WHERE id = ?")?
                .execute((network, id))?;
            Ok(())
        })
        .await
    }

    pub async fn end_run(&self, id: &RunId, ending: Ending) -> Result<(), StoreError> {
        let id = id.to_string();
        self.call(move |connection| {
            connection
                .prepare_cached(
                    "UPDATE runs SET status = ?, destroyed_at = ?, reason = ?, network = '', cpu_ms = ?,
                     mem_peak_bytes = ?, disk_used_bytes = ? WHERE id = ?",
                )?
                .execute((
                    Status::Destroyed.name(),
                    ending.destroyed_at,
                    ending.reason,
                    ending.cpu_ms,
                    ending.mem_peak_bytes,
                    ending.disk_used_bytes,
                    id,
                ))?;
            Ok(())
        })
        .await
    }

    pub async fn run(&self, id: &RunId) -> Result<Option<RunRow>, StoreError> {
        let id = id.to_string();
        self.call(move |connection| {
            connection
                .prepare_cached("SELECT * FROM runs WHERE id = ?")?
                .query_row([id], read)
                .optional()
        })
        .await
    }

    /// Runs that were not destroyed when the server was last seen.
    pub async fn open_runs(&self) -> Result<Vec<RunRow>, StoreError> {
        self.call(|connection| {
            let mut query = connection.prepare_cached(
                "SELECT * FROM runs WHERE destroyed_at IS NULL ORDER BY created_at",
            )?;
            query.query_map([], read)?.collect()
        })
        .await
    }

    /// A tenant's runs that are gone, the latest first.
    pub async fn history(&self, tenant: &str, limit: u32) -> Result<Vec<PastRun>, StoreError> {
        let tenant = tenant.to_owned();
        self.call(move |connection| {
            let mut query = connection.prepare_cached(
                "SELECT * FROM runs WHERE tenant = ? AND destroyed_at IS NOT NULL
                 ORDER BY destroyed_at DESC LIMIT ?",
            )?;
            query.query_map((tenant, limit), read_past)?.collect()
        })
        .await
    }

    /// What a tenant's runs that are gone used; those that are there are added
    /// by who measures them.
    pub async fn past_usage(&self, tenant: &str) -> Result<Usage, StoreError> {
        let tenant = tenant.to_owned();
        self.call(move |connection| {
            connection
                .prepare_cached(
                    "SELECT COUNT(*), COALESCE(SUM(cpu_ms), 0) / 1000.0,
                     COALESCE(SUM(mem_mib * (destroyed_at - created_at)), 0) / 1024.0 / 1000.0
                     FROM runs WHERE tenant = ? AND destroyed_at IS NOT NULL",
                )?
                .query_row([tenant], |row| {
                    Ok(Usage {
                        history_sandboxes: row.get(0)?,
                        cpu_seconds: row.get(1)?,
                        mem_seconds: row.get(2)?,
                        ..Usage::default()
                    })
                })
        })
        .await
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<RunRow> {
    Ok(RunRow {
        id: id(row)?,
        tenant: row.get("tenant")?,
        image: row.get("image")?,
        digest: row.get("digest")?,
        status: parsed("status", row, Status::parse)?,
        vcpus: row.get("vcpus")?,
        mem_mib: row.get("mem_mib")?,
        disk_mib: row.get("disk_mib")?,
        timeout_ms: row.get("timeout_ms")?,
        defaults: row.get("defaults")?,
        network: row.get("network")?,
        on_idle: parsed("on_idle", row, OnIdle::parse)?,
        auto_resume: row.get("auto_resume")?,
        used: Used {
            cpu_ms: row.get("cpu_ms")?,
            mem_peak_bytes: row.get("mem_peak_bytes")?,
            disk_used_bytes: row.get("disk_used_bytes")?,
        },
        create_ms: row.get("create_ms")?,
        created_at: row.get("created_at")?,
        destroyed_at: row.get("destroyed_at")?,
        reason: row.get("reason")?,
    })
}

fn read_past(row: &Row<'_>) -> rusqlite::Result<PastRun> {
    let created_at: i64 = row.get("created_at")?;
    let destroyed_at: i64 = row.get("destroyed_at")?;
    Ok(PastRun {
        id: id(row)?,
        image: row.get("image")?,
        vcpus: row.get("vcpus")?,
        mem_mib: row.get("mem_mib")?,
        create_ms: row.get("create_ms")?,
        created_at: clock::rfc3339(created_at),
        destroyed_at: clock::rfc3339(destroyed_at),
        uptime_ms: u64::try_from(destroyed_at.saturating_sub(created_at)).unwrap_or(0),
        cpu_ms: row.get("cpu_ms")?,
        mem_peak_bytes: row.get("mem_peak_bytes")?,
        cost_cents: 0.0,
        reason: row.get::<_, Option<String>>("reason")?.unwrap_or_default(),
    })
}

fn id(row: &Row<'_>) -> rusqlite::Result<RunId> {
    parsed("id", row, |text| text.parse().ok())
}

pub(super) fn parsed<T>(
    column: &str,
    row: &Row<'_>,
    parse: impl FnOnce(&str) -> Option<T>,
) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    parse(&text).ok_or_else(|| {
        rusqlite::Error::InvalidColumnType(0, format!("{column} = {text}"), Type::Text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(tenant: &str, status: Status) -> RunRow {
        RunRow {
            id: RunId::random().unwrap(),
            tenant: tenant.to_owned(),
            image: "host".to_owned(),
            digest: String::new(),
            status,
            vcpus: 1,
            mem_mib: 1024,
            disk_mib: 10240,
            timeout_ms: 300_000,
            network: String::new(),
            defaults: "{}".to_owned(),
            on_idle: OnIdle::Destroy,
            auto_resume: false,
            used: Used::default(),
            create_ms: 7,
            created_at: 1_000,
            destroyed_at: None,
            reason: None,
        }
    }

    #[tokio::test]
    async fn a_run_from_its_beginning_to_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let (mine, foreign) = (row("me", Status::Creating), row("them", Status::Running));
        store.add_run(mine.clone()).await.unwrap();
        store.add_run(foreign.clone()).await.unwrap();
        store.run_started(&mine.id, 25).await.unwrap();
        let found = store.run(&mine.id).await.unwrap().unwrap();
        assert_eq!((found.status, found.create_ms), (Status::Running, 25));
        assert_eq!(store.open_runs().await.unwrap().len(), 2);
        let ending = Ending {
            reason: "idle".to_owned(),
            destroyed_at: 3_000,
            cpu_ms: 500,
            mem_peak_bytes: 1 << 40,
            disk_used_bytes: 9,
        };
        store.end_run(&mine.id, ending).await.unwrap();
        assert_eq!(store.open_runs().await.unwrap().len(), 1);
        let past = store.history("me", 10).await.unwrap();
        assert_eq!((past[0].uptime_ms, past[0].mem_peak_bytes), (2_000, 1 << 40));
        assert!(store.history("them", 10).await.unwrap().is_empty());
        let usage = store.past_usage("me").await.unwrap();
        assert_eq!((usage.history_sandboxes, usage.cpu_seconds, usage.mem_seconds), (1, 0.5, 2.0));
    }
}

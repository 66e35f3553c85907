//! Runs, including destroyed ones.

use rusqlite::{OptionalExtension, Row, types::Type};

use super::{Store, StoreError};
use crate::clock;
use isorun_api::RunId;
use isorun_api::{OnIdle, PastRun, Status, Usage};

/// The stored data of a run.
#[derive(Clone, Debug)]
pub struct RunRow {
    pub id: RunId,
    pub tenant: String,
    pub image: String,
    /// The digest of the image; empty for `host`.
    pub digest: String,
    pub status: Status,
    pub vcpus: u32,
    pub mem_mib: u64,
    pub disk_mib: u64,
    /// The idle timeout; 0 for none.
    pub timeout_ms: u64,
    /// The defaults of its commands, as JSON.
    pub defaults: String,
    /// The network settings, as JSON with encrypted secrets.
    pub network: String,
    pub on_idle: OnIdle,
    pub auto_resume: bool,
    /// Resource usage up to the last hibernation.
    pub used: ResourceUsage,
    pub create_ms: u64,
    pub created_at: i64,
    pub destroyed_at: Option<i64>,
    pub reason: Option<String>,
}

/// The settings of a run, which its forks and snapshots take over.
#[derive(Clone, Debug)]
pub struct RunSettings {
    pub tenant: String,
    pub image: String,
    /// The digest of the image; empty for `host`.
    pub digest: String,
    pub vcpus: u32,
    pub mem_mib: u64,
    pub disk_mib: u64,
    /// The idle timeout; 0 for none.
    pub timeout_ms: u64,
    /// The defaults of its commands, as JSON.
    pub defaults: String,
    /// The network settings, as JSON with encrypted secrets.
    pub network: String,
    pub on_idle: OnIdle,
    pub auto_resume: bool,
}

impl RunRow {
    /// Creates the row of a run that is being created.
    pub fn new(id: RunId, settings: RunSettings) -> Self {
        Self {
            id,
            tenant: settings.tenant,
            image: settings.image,
            digest: settings.digest,
            status: Status::Creating,
            vcpus: settings.vcpus,
            mem_mib: settings.mem_mib,
            disk_mib: settings.disk_mib,
            timeout_ms: settings.timeout_ms,
            defaults: settings.defaults,
            network: settings.network,
            on_idle: settings.on_idle,
            auto_resume: settings.auto_resume,
            used: ResourceUsage::default(),
            create_ms: 0,
            created_at: clock::now_ms(),
            destroyed_at: None,
            reason: None,
        }
    }

    /// Returns the settings as they were stored.
    pub fn settings(&self) -> RunSettings {
        let row = self.clone();
        RunSettings {
            tenant: row.tenant,
            image: row.image,
            digest: row.digest,
            vcpus: row.vcpus,
            mem_mib: row.mem_mib,
            disk_mib: row.disk_mib,
            timeout_ms: row.timeout_ms,
            defaults: row.defaults,
            network: row.network,
            on_idle: row.on_idle,
            auto_resume: row.auto_resume,
        }
    }
}

/// Resource usage of the earlier sandboxes of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResourceUsage {
    pub cpu_ms: u64,
    pub mem_peak_bytes: u64,
    pub disk_used_bytes: u64,
}

/// The reason and time of a run's destruction, and its total resource usage.
#[derive(Clone, Debug)]
pub struct Ending {
    pub reason: String,
    pub destroyed_at: i64,
    pub cpu_ms: u64,
    pub mem_peak_bytes: u64,
    pub disk_used_bytes: u64,
}

impl Store {
    /// Adds a run.
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

    /// Deletes a run whose creation failed.
    pub async fn delete_run(&self, id: &RunId) -> Result<(), StoreError> {
        let id = id.to_string();
        self.call(move |connection| {
            connection.prepare_cached("DELETE FROM runs WHERE id = ?")?.execute([id])?;
            Ok(())
        })
        .await
    }

    /// Records that the sandbox of a run is running.
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

    /// Sets the status of a run.
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

    /// Starts a new generation of a run's checkpoint, and returns its number. Checkpoints
    /// of earlier generations are no longer restored.
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

    /// Returns the generation of a run's checkpoint.
    pub async fn generation(&self, id: &RunId) -> Result<u64, StoreError> {
        let id = id.to_string();
        self.call(move |connection| {
            connection
                .prepare_cached("SELECT generation FROM runs WHERE id = ?")?
                .query_row([id], |row| row.get(0))
        })
        .await
    }

    /// Records that a run was hibernated, with its resource usage so far.
    pub async fn run_hibernated(&self, id: &RunId, used: ResourceUsage) -> Result<(), StoreError> {
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

    /// Records that a run was resumed. Its checkpoint belongs to an earlier generation
    /// from now on.
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

    /// Sets the idle timeout of a run.
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

    /// Sets the network settings of a run.
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

    /// Records the end of a run.
    pub async fn end_run(&self, id: &RunId, ending: Ending) -> Result<(), StoreError> {
        let id = id.to_string();
        self.call(move |connection| {
            connection
                .prepare_cached(
                    "UPDATE runs SET status = ?, destroyed_at = ?, reason = ?, network = '',
                     defaults = '{}', cpu_ms = ?,
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

    /// Returns a run, which may have ended.
    pub async fn run(&self, id: &RunId) -> Result<Option<RunRow>, StoreError> {
        let id = id.to_string();
        self.look_up(move |connection| {
            connection
                .prepare_cached("SELECT * FROM runs WHERE id = ?")?
                .query_row([id], read)
                .optional()
        })
        .await
    }

    /// Returns the runs that were not destroyed, the oldest first.
    pub async fn open_runs(&self) -> Result<Vec<RunRow>, StoreError> {
        self.call(|connection| {
            let mut query = connection.prepare_cached(
                "SELECT * FROM runs WHERE destroyed_at IS NULL ORDER BY created_at",
            )?;
            query.query_map([], read)?.collect()
        })
        .await
    }

    /// Returns up to `limit` destroyed runs of a tenant, the latest first. With `before`,
    /// only those that were destroyed before that run.
    pub async fn history(
        &self,
        tenant: &str,
        before: Option<RunId>,
        limit: u32,
    ) -> Result<Vec<PastRun>, StoreError> {
        let tenant = tenant.to_owned();
        self.read(move |connection| {
            let Some(before) = before else {
                let mut query = connection.prepare_cached(
                    "SELECT * FROM runs WHERE tenant = ? AND destroyed_at IS NOT NULL
                     ORDER BY destroyed_at DESC, id DESC LIMIT ?",
                )?;
                return query.query_map((tenant, limit), read_past)?.collect();
            };
            let mut query = connection.prepare_cached(
                "SELECT * FROM runs WHERE tenant = ?1 AND destroyed_at IS NOT NULL
                 AND (destroyed_at, id) <
                     (SELECT destroyed_at, id FROM runs WHERE id = ?2 AND tenant = ?1)
                 ORDER BY destroyed_at DESC, id DESC LIMIT ?3",
            )?;
            query.query_map((tenant, before.to_string(), limit), read_past)?.collect()
        })
        .await
    }

    /// Returns the resource usage of a tenant's destroyed runs. The caller adds that of
    /// the others.
    pub async fn past_usage(&self, tenant: &str) -> Result<Usage, StoreError> {
        let tenant = tenant.to_owned();
        self.read(move |connection| {
            let usage = connection
                .prepare_cached(
                    "SELECT runs, cpu_ms / 1000.0, mem_mib_ms / 1024.0 / 1000.0
                     FROM usage WHERE tenant = ?",
                )?
                .query_row([tenant], |row| {
                    Ok(Usage {
                        history_sandboxes: row.get(0)?,
                        cpu_seconds: row.get(1)?,
                        mem_seconds: row.get(2)?,
                        ..Usage::default()
                    })
                })
                .optional()?;
            Ok(usage.unwrap_or_default())
        })
        .await
    }

    /// Deletes up to `limit` runs that were destroyed before a time, and their audit logs.
    /// Returns their number; none are left if it is less than `limit`.
    pub async fn delete_runs_before(&self, time: i64, limit: u32) -> Result<usize, StoreError> {
        self.call(move |connection| {
            delete(
                connection,
                "SELECT id FROM runs WHERE destroyed_at < ?1 ORDER BY destroyed_at LIMIT ?2",
                (time, limit),
            )
        })
        .await
    }

    /// Deletes up to `limit` of a tenant's destroyed runs, the oldest first, and their
    /// audit logs, so that `keep` are left. Returns the number of deleted runs.
    pub async fn delete_runs_beyond(
        &self,
        tenant: String,
        keep: u64,
        limit: u32,
    ) -> Result<usize, StoreError> {
        self.call(move |connection| {
            let count: u64 = connection
                .prepare_cached(
                    "SELECT COUNT(*) FROM runs WHERE tenant = ? AND destroyed_at IS NOT NULL",
                )?
                .query_row([&tenant], |row| row.get(0))?;
            delete(
                connection,
                "SELECT id FROM runs WHERE tenant = ?1 AND destroyed_at IS NOT NULL
                 ORDER BY destroyed_at, id LIMIT ?2",
                (tenant, count.saturating_sub(keep).min(limit.into())),
            )
        })
        .await
    }

    /// Returns the tenants that have destroyed runs.
    pub async fn tenants_with_history(&self) -> Result<Vec<String>, StoreError> {
        self.read(|connection| {
            let mut query = connection.prepare_cached("SELECT tenant FROM usage")?;
            query.query_map([], |row| row.get(0))?.collect()
        })
        .await
    }
}

fn delete(
    connection: &mut rusqlite::Connection,
    select: &str,
    params: impl rusqlite::Params,
) -> rusqlite::Result<usize> {
    let transaction = connection.transaction()?;
    let ids: Vec<String> = transaction
        .prepare_cached(select)?
        .query_map(params, |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    for id in &ids {
        transaction.prepare_cached("DELETE FROM audit WHERE run_id = ?")?.execute([id])?;
        transaction.prepare_cached("DELETE FROM runs WHERE id = ?")?.execute([id])?;
    }
    transaction.commit()?;
    Ok(ids.len())
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
        used: ResourceUsage {
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

/// Returns a run for tests.
#[cfg(test)]
pub fn sample_run(tenant: &str) -> RunRow {
    RunRow {
        id: RunId::random().unwrap(),
        tenant: tenant.to_owned(),
        image: "host".to_owned(),
        digest: String::new(),
        status: Status::Running,
        vcpus: 1,
        mem_mib: 1024,
        disk_mib: 10240,
        timeout_ms: 300_000,
        network: String::new(),
        defaults: "{}".to_owned(),
        on_idle: OnIdle::Destroy,
        auto_resume: false,
        used: ResourceUsage::default(),
        create_ms: 7,
        created_at: 1_000,
        destroyed_at: None,
        reason: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(tenant: &str, status: Status) -> RunRow {
        RunRow { status, ..sample_run(tenant) }
    }

    #[tokio::test]
    async fn a_run_is_recorded_from_creation_to_end() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
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
        let past = store.history("me", None, 10).await.unwrap();
        assert_eq!((past[0].uptime_ms, past[0].mem_peak_bytes), (2_000, 1 << 40));
        assert!(store.history("them", None, 10).await.unwrap().is_empty());
        let usage = store.past_usage("me").await.unwrap();
        assert_eq!((usage.history_sandboxes, usage.cpu_seconds, usage.mem_seconds), (1, 0.5, 2.0));
    }

    async fn ended(store: &Store, tenant: &str, at: i64) -> RunId {
        let run = row(tenant, Status::Running);
        store.add_run(run.clone()).await.unwrap();
        let ending = Ending {
            reason: "idle".to_owned(),
            destroyed_at: at,
            cpu_ms: 2_000,
            mem_peak_bytes: 0,
            disk_used_bytes: 0,
        };
        store.end_run(&run.id, ending).await.unwrap();
        run.id
    }

    #[tokio::test]
    async fn history_is_paged_and_deleted_while_usage_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut ids = Vec::new();
        for number in 0..10_i64 {
            // Several end at the same time.
            ids.push((2_000 + number / 3, ended(&store, "me", 2_000 + number / 3).await));
        }
        ended(&store, "them", 1_500).await;
        ids.sort();
        ids.reverse();
        let (mut seen, mut before) = (Vec::new(), None);
        loop {
            let page = store.history("me", before.clone(), 4).await.unwrap();
            let Some(last) = page.last() else { break };
            before = Some(last.id.clone());
            seen.extend(page.into_iter().map(|run| run.id));
        }
        assert_eq!(seen, ids.iter().map(|(_, id)| id.clone()).collect::<Vec<_>>());
        let foreign = store.history("me", Some(ended(&store, "them", 9_000).await), 4).await;
        assert!(foreign.unwrap().is_empty(), "a page cannot start at a run of another tenant");

        let usage = store.past_usage("me").await.unwrap();
        assert_eq!((usage.history_sandboxes, usage.cpu_seconds), (10, 20.0));
        assert_eq!(store.delete_runs_before(2_001, 2).await.unwrap(), 2);
        assert_eq!(store.delete_runs_before(2_001, 100).await.unwrap(), 2, "one was of `them`");
        assert_eq!(store.delete_runs_beyond("me".to_owned(), 4, 100).await.unwrap(), 3);
        assert_eq!(store.delete_runs_beyond("me".to_owned(), 4, 100).await.unwrap(), 0);
        let left = store.history("me", None, 100).await.unwrap();
        assert_eq!(
            left.iter().map(|run| &run.id).collect::<Vec<_>>(),
            seen[..4].iter().collect::<Vec<_>>()
        );
        assert_eq!(store.stored_bytes().await.unwrap().get("me"), Some(&0));
        let after = store.past_usage("me").await.unwrap();
        assert_eq!((after.history_sandboxes, after.cpu_seconds), (10, 20.0));
    }

    /// The queries of tenants must not take longer as the history grows.
    #[tokio::test]
    async fn history_queries_use_an_index() {
        let dir = tempfile::tempdir().unwrap();
        drop(Store::open(dir.path()).unwrap());
        let file = rusqlite::Connection::open(dir.path().join("isorun.db")).unwrap();
        for query in [
            "SELECT * FROM runs WHERE tenant = 'a' AND destroyed_at IS NOT NULL
             ORDER BY destroyed_at DESC, id DESC LIMIT 10",
            "SELECT * FROM runs WHERE tenant = 'a' AND destroyed_at IS NOT NULL
             AND (destroyed_at, id) < (SELECT destroyed_at, id FROM runs WHERE id = 'b' AND tenant = 'a')
             ORDER BY destroyed_at DESC, id DESC LIMIT 10",
            "SELECT * FROM runs WHERE destroyed_at IS NULL ORDER BY created_at",
            "SELECT id FROM runs WHERE destroyed_at < 5 ORDER BY destroyed_at LIMIT 10",
            "SELECT runs FROM usage WHERE tenant = 'a'",
        ] {
            let mut plan = file.prepare(&format!("EXPLAIN QUERY PLAN {query}")).unwrap();
            let steps: Vec<String> =
                plan.query_map([], |row| row.get(3)).unwrap().map(Result::unwrap).collect();
            assert!(
                steps.iter().all(|step| !step.contains("SCAN runs") || step.contains("INDEX")),
                "{query}: {steps:?}"
            );
            assert!(steps.iter().all(|step| !step.contains("TEMP B-TREE")), "{query}: {steps:?}");
        }
    }

    #[tokio::test]
    async fn migration_adds_up_usage_of_past_runs() {
        let dir = tempfile::tempdir().unwrap();
        super::super::schema::tests::old_file(dir.path(), 3, |file| {
            for number in 0..100 {
                file.execute(
                    "INSERT INTO runs (id, tenant, image, digest, status, vcpus, mem_mib, disk_mib,
                     timeout_ms, defaults, create_ms, created_at, destroyed_at, cpu_ms)
                     VALUES (?, 'me', 'host', '', 'destroyed', 1, 1024, 1, 0, '{}', 1, 0, ?, 10)",
                    (format!("run{number:016x}"), (number % 2 == 0).then_some(1_000)),
                )
                .unwrap();
            }
        });
        let store = Store::open(dir.path()).unwrap();
        let usage = store.past_usage("me").await.unwrap();
        assert_eq!(
            (usage.history_sandboxes, usage.cpu_seconds, usage.mem_seconds),
            (50, 0.5, 50.0)
        );
        assert_eq!(store.open_runs().await.unwrap().len(), 50);
    }
}

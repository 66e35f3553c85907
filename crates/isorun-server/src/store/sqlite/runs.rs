//! Runs in SQLite.

use std::time::Duration;

use async_trait::async_trait;
use isorun_api::{OnIdle, PastRun, RunId, Status, Usage};
use rusqlite::{OptionalExtension, Row, types::Type};

use super::{
    super::{AuditRow, Ending, ResourceUsage, RunRow, RunTable, StoreError},
    Sqlite,
};
use crate::clock;

#[async_trait]
impl RunTable for Sqlite {
    async fn add_run(&self, run: RunRow) -> Result<(), StoreError> {
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

    async fn delete_run(&self, id: &RunId) -> Result<(), StoreError> {
        let id = id.to_string();
        self.call(move |connection| {
            connection.prepare_cached("DELETE FROM runs WHERE id = ?")?.execute([id])?;
            Ok(())
        })
        .await
    }

    async fn run_started(&self, id: &RunId, create_ms: u64) -> Result<(), StoreError> {
        let id = id.to_string();
        self.call(move |connection| {
            connection
                .prepare_cached("UPDATE runs SET status = ?, create_ms = ? WHERE id = ?")?
                .execute((Status::Running.name(), create_ms, id))?;
            Ok(())
        })
        .await
    }

    async fn set_run_status(&self, id: &RunId, status: Status) -> Result<(), StoreError> {
        let id = id.to_string();
        self.call(move |connection| {
            connection
                .prepare_cached("UPDATE runs SET status = ? WHERE id = ?")?
                .execute((status.name(), id))?;
            Ok(())
        })
        .await
    }

    async fn next_generation(&self, id: &RunId) -> Result<u64, StoreError> {
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

    async fn generation(&self, id: &RunId) -> Result<u64, StoreError> {
        let id = id.to_string();
        self.call(move |connection| {
            connection
                .prepare_cached("SELECT generation FROM runs WHERE id = ?")?
                .query_row([id], |row| row.get(0))
        })
        .await
    }

    async fn run_hibernated(
        &self,
        id: &RunId,
        generation: Option<u64>,
        used: ResourceUsage,
    ) -> Result<(), StoreError> {
        let id = id.to_string();
        self.call(move |connection| {
            connection
                .prepare_cached(
                    "UPDATE runs SET status = ?, cpu_ms = ?, mem_peak_bytes = ?,
                     disk_used_bytes = ?, generation = COALESCE(?, generation) WHERE id = ?",
                )?
                .execute((
                    Status::Hibernated.name(),
                    used.cpu_ms,
                    used.mem_peak_bytes,
                    used.disk_used_bytes,
                    generation,
                    id,
                ))?;
            Ok(())
        })
        .await
    }

    async fn set_resuming(&self, _id: &RunId, _is_resuming: bool) -> Result<(), StoreError> {
        Ok(())
    }

    async fn run_resumed(&self, id: &RunId) -> Result<(), StoreError> {
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

    async fn set_run_timeout(&self, id: &RunId, timeout_ms: u64) -> Result<(), StoreError> {
        let id = id.to_string();
        self.call(move |connection| {
            connection
                .prepare_cached("UPDATE runs SET timeout_ms = ? WHERE id = ?")?
                .execute((timeout_ms, id))?;
            Ok(())
        })
        .await
    }

    async fn set_run_network(&self, id: &RunId, network: String) -> Result<(), StoreError> {
        let id = id.to_string();
        self.call(move |connection| {
            connection
                .prepare_cached("UPDATE runs SET network = ? WHERE id = ?")?
                .execute((network, id))?;
            Ok(())
        })
        .await
    }

    async fn end_run(
        &self,
        id: &RunId,
        ending: Ending,
        last_entry: AuditRow,
    ) -> Result<(), StoreError> {
        let id = id.to_string();
        self.call(move |connection| {
            let change = connection.transaction()?;
            let ended = change
                .prepare_cached(
                    "UPDATE runs SET status = ?, destroyed_at = ?, reason = ?, network = '',
                     defaults = '{}', cpu_ms = ?,
                     mem_peak_bytes = ?, disk_used_bytes = ? WHERE id = ? AND destroyed_at IS NULL",
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
            if ended > 0 {
                super::audit::insert(&change, last_entry)?;
            }
            change.commit()
        })
        .await
    }

    async fn run(&self, id: &RunId) -> Result<Option<RunRow>, StoreError> {
        let id = id.to_string();
        self.look_up(move |connection| {
            connection
                .prepare_cached("SELECT * FROM runs WHERE id = ?")?
                .query_row([id], read)
                .optional()
        })
        .await
    }

    async fn open_runs(&self) -> Result<Vec<RunRow>, StoreError> {
        self.call(|connection| {
            let mut query = connection.prepare_cached(
                "SELECT * FROM runs WHERE destroyed_at IS NULL ORDER BY created_at",
            )?;
            query.query_map([], read)?.collect()
        })
        .await
    }

    async fn runs_elsewhere(&self, _tenant: &str) -> Result<Vec<RunRow>, StoreError> {
        Ok(Vec::new())
    }

    async fn history(
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

    async fn past_usage(&self, tenant: &str) -> Result<Usage, StoreError> {
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

    async fn take_history_turn(&self, _: Duration) -> Result<bool, StoreError> {
        Ok(true)
    }

    async fn delete_runs_before(&self, time: i64, limit: u32) -> Result<usize, StoreError> {
        self.call(move |connection| {
            delete(
                connection,
                "SELECT id FROM runs WHERE destroyed_at < ?1 ORDER BY destroyed_at LIMIT ?2",
                (time, limit),
            )
        })
        .await
    }

    async fn delete_runs_beyond(
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

    async fn tenants_with_history(&self) -> Result<Vec<String>, StoreError> {
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

#[cfg(test)]
mod tests {
    use super::super::super::Store;

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

//! Snapshots, and the disk space of tenants, in SQLite.

use std::collections::HashMap;

use async_trait::async_trait;
use isorun_api::OnIdle;
use rusqlite::{OptionalExtension, Row};

use super::{
    super::{RunSettings, SnapshotRow, SnapshotTable, StoreError},
    Sqlite,
    runs::parsed,
};

#[async_trait]
impl SnapshotTable for Sqlite {
    async fn add_snapshot(&self, row: SnapshotRow) -> Result<(), StoreError> {
        self.call(move |connection| {
            let settings = row.settings;
            connection
                .prepare_cached(
                    "INSERT INTO snapshots (id, tenant, run_id, image, digest, vcpus, mem_mib, \
                     disk_mib, timeout_ms, defaults, on_idle, auto_resume, size_bytes, created_at, \
                     network)
                     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                )?
                .execute((
                    row.id,
                    settings.tenant,
                    row.run_id,
                    settings.image,
                    settings.digest,
                    settings.vcpus,
                    settings.mem_mib,
                    settings.disk_mib,
                    settings.timeout_ms,
                    settings.defaults,
                    settings.on_idle.name(),
                    settings.auto_resume,
                    row.size_bytes,
                    row.created_at,
                    settings.network,
                ))?;
            Ok(())
        })
        .await
    }

    async fn snapshot(&self, id: &str) -> Result<Option<SnapshotRow>, StoreError> {
        let id = id.to_owned();
        self.look_up(move |connection| {
            connection
                .prepare_cached("SELECT * FROM snapshots WHERE id = ?")?
                .query_row([id], read)
                .optional()
        })
        .await
    }

    async fn snapshots(&self, tenant: Option<&str>) -> Result<Vec<SnapshotRow>, StoreError> {
        let tenant = tenant.map(str::to_owned);
        self.read(move |connection| {
            let mut query = connection.prepare_cached(
                "SELECT * FROM snapshots WHERE ?1 IS NULL OR tenant = ?1 ORDER BY created_at, id",
            )?;
            query.query_map([tenant], read)?.collect()
        })
        .await
    }

    async fn snapshots_here(&self) -> Result<Vec<SnapshotRow>, StoreError> {
        self.snapshots(None).await
    }

    async fn stored_bytes(&self) -> Result<HashMap<String, u64>, StoreError> {
        self.read(|connection| {
            let mut query = connection.prepare_cached(
                "SELECT tenant, SUM(bytes) FROM (
                     SELECT tenant, size_bytes AS bytes FROM snapshots
                     UNION ALL SELECT tenant, audit_bytes FROM usage
                 ) GROUP BY tenant",
            )?;
            query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        })
        .await
    }

    async fn add_pulled_image(
        &self,
        tenant: &str,
        digest: &str,
        bytes: u64,
    ) -> Result<(), StoreError> {
        let (tenant, digest) = (tenant.to_owned(), digest.to_owned());
        self.call(move |connection| {
            connection
                .prepare_cached(
                    "INSERT INTO pulled_images (digest, tenant, bytes) VALUES (?, ?, ?)
                     ON CONFLICT (digest) DO UPDATE SET tenant = excluded.tenant",
                )?
                .execute((digest, tenant, bytes))?;
            Ok(())
        })
        .await
    }

    async fn pulled_images(&self) -> Result<Vec<(String, String, u64)>, StoreError> {
        self.read(|connection| {
            let mut query =
                connection.prepare_cached("SELECT tenant, digest, bytes FROM pulled_images")?;
            query.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect()
        })
        .await
    }

    async fn delete_snapshot(&self, id: &str) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.call(move |connection| {
            connection.prepare_cached("DELETE FROM snapshots WHERE id = ?")?.execute([id])?;
            Ok(())
        })
        .await
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<SnapshotRow> {
    let settings = RunSettings {
        tenant: row.get("tenant")?,
        image: row.get("image")?,
        digest: row.get("digest")?,
        vcpus: row.get("vcpus")?,
        mem_mib: row.get("mem_mib")?,
        disk_mib: row.get("disk_mib")?,
        timeout_ms: row.get("timeout_ms")?,
        defaults: row.get("defaults")?,
        network: row.get("network")?,
        on_idle: parsed("on_idle", row, OnIdle::parse)?,
        auto_resume: row.get("auto_resume")?,
    };
    Ok(SnapshotRow {
        id: row.get("id")?,
        run_id: row.get("run_id")?,
        settings,
        size_bytes: row.get("size_bytes")?,
        created_at: row.get("created_at")?,
    })
}

//! Snapshots, and the disk space of tenants, in PostgreSQL.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use tokio_postgres::Row;

use super::{
    super::{SnapshotRow, SnapshotTable, StoreError},
    Postgres, column, int, number, params,
    runs::settings_of,
};

/// The time for which the sizes of audit logs are known after they were read.
const LOG_BYTES_LIFETIME: Duration = Duration::from_secs(60);

#[async_trait]
impl SnapshotTable for Postgres {
    async fn add_snapshot(&self, row: SnapshotRow) -> Result<(), StoreError> {
        let settings = row.settings;
        self.change(
            "INSERT INTO snapshots (id, node, tenant, run_id, image, digest, vcpus, mem_mib,
                 disk_mib, timeout_ms, defaults, network, on_idle, auto_resume, size_bytes,
                 created_at)
             SELECT $3, fence.id, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17
             FROM fence RETURNING created_at AS result",
            params![
                row.id,
                settings.tenant,
                row.run_id,
                settings.image,
                settings.digest,
                i64::from(settings.vcpus),
                int(settings.mem_mib),
                int(settings.disk_mib),
                int(settings.timeout_ms),
                settings.defaults,
                settings.network,
                settings.on_idle.name(),
                settings.auto_resume,
                int(row.size_bytes),
                row.created_at,
            ],
        )
        .await
        .map(drop)
    }

    async fn snapshot(&self, id: &str) -> Result<Option<SnapshotRow>, StoreError> {
        let found =
            self.query_opt("SELECT * FROM snapshots WHERE id = $1", params![id.to_owned()]).await?;
        found.map(|row| read(&row)).transpose()
    }

    async fn snapshots(&self, tenant: Option<&str>) -> Result<Vec<SnapshotRow>, StoreError> {
        let rows = self
            .query(
                "SELECT * FROM snapshots WHERE $1::TEXT IS NULL OR tenant = $1
                 ORDER BY created_at, id",
                params![tenant.map(str::to_owned)],
            )
            .await?;
        rows.iter().map(read).collect()
    }

    async fn snapshots_here(&self) -> Result<Vec<SnapshotRow>, StoreError> {
        let (node, _) = self.node()?;
        let rows = self
            .query("SELECT * FROM snapshots WHERE node = $1 ORDER BY created_at, id", params![node])
            .await?;
        rows.iter().map(read).collect()
    }

    async fn stored_bytes(&self) -> Result<HashMap<String, u64>, StoreError> {
        let (node, _) = self.node()?;
        let mut stored = self.log_bytes().await?;
        let rows = self
            .query(
                "SELECT tenant, SUM(size_bytes)::BIGINT AS bytes FROM snapshots WHERE node = $1
                 GROUP BY tenant",
                params![node],
            )
            .await?;
        for row in &rows {
            *stored.entry(column(row, "tenant")?).or_default() += number(row, "bytes")?;
        }
        Ok(stored)
    }

    async fn add_pulled_image(
        &self,
        tenant: &str,
        digest: &str,
        bytes: u64,
    ) -> Result<(), StoreError> {
        self.change(
            "INSERT INTO pulled_images (node, digest, tenant, bytes)
             SELECT fence.id, $3, $4, $5 FROM fence
             ON CONFLICT (node, digest) DO UPDATE SET tenant = excluded.tenant
             RETURNING bytes AS result",
            params![digest.to_owned(), tenant.to_owned(), int(bytes)],
        )
        .await
        .map(drop)
    }

    async fn pulled_images(&self) -> Result<Vec<(String, String, u64)>, StoreError> {
        let (node, _) = self.node()?;
        let rows = self
            .query("SELECT tenant, digest, bytes FROM pulled_images WHERE node = $1", params![node])
            .await?;
        rows.iter()
            .map(|row| Ok((column(row, "tenant")?, column(row, "digest")?, number(row, "bytes")?)))
            .collect()
    }

    async fn delete_snapshot(&self, id: &str) -> Result<(), StoreError> {
        self.change(
            "DELETE FROM snapshots USING fence, nodes AS owner
             WHERE snapshots.id = $3 AND owner.id = snapshots.node
             AND (owner.id = fence.id OR owner.state <> 'up' OR owner.lease_until < now())
             RETURNING created_at AS result",
            params![id.to_owned()],
        )
        .await
        .map(drop)
    }
}

impl Postgres {
    /// Returns the sizes of the audit logs of each tenant, which are those of all nodes. They are
    /// added up once in a while, because every node reads the rows of all open runs for it.
    async fn log_bytes(&self) -> Result<HashMap<String, u64>, StoreError> {
        let mut known = self.shared.log_bytes.lock().await;
        if let Some((since, bytes)) = &*known
            && since.elapsed() < LOG_BYTES_LIFETIME
        {
            return Ok(bytes.clone());
        }
        let rows = self
            .query(
                "SELECT tenant, SUM(bytes)::BIGINT AS bytes FROM (
                     SELECT tenant, audit_bytes AS bytes FROM usage
                     UNION ALL SELECT tenant, audit_bytes FROM runs WHERE destroyed_at IS NULL
                 ) AS logs GROUP BY tenant",
                params![],
            )
            .await?;
        let bytes: HashMap<String, u64> = rows
            .iter()
            .map(|row| Ok((column(row, "tenant")?, number(row, "bytes")?)))
            .collect::<Result<_, StoreError>>()?;
        *known = Some((Instant::now(), bytes.clone()));
        Ok(bytes)
    }
}

fn read(row: &Row) -> Result<SnapshotRow, StoreError> {
    Ok(SnapshotRow {
        id: column(row, "id")?,
        run_id: column(row, "run_id")?,
        settings: settings_of(row)?,
        size_bytes: number(row, "size_bytes")?,
        created_at: column(row, "created_at")?,
    })
}

//! Snapshots: the settings of runs that are restored from them.

use std::collections::HashMap;

use async_trait::async_trait;

use super::{RunSettings, StoreError};

/// The stored data of a snapshot.
#[derive(Clone, Debug)]
pub struct SnapshotRow {
    pub id: String,
    pub run_id: String,
    /// The settings of the run when the snapshot was taken.
    pub settings: RunSettings,
    pub size_bytes: u64,
    pub created_at: i64,
}

/// The snapshots, and the disk space that tenants use, in a database.
#[async_trait]
pub trait SnapshotTable: Send + Sync {
    /// Adds a snapshot.
    async fn add_snapshot(&self, row: SnapshotRow) -> Result<(), StoreError>;

    /// Returns a snapshot.
    async fn snapshot(&self, id: &str) -> Result<Option<SnapshotRow>, StoreError>;

    /// Returns the snapshots of one tenant, or of all, the oldest first.
    async fn snapshots(&self, tenant: Option<&str>) -> Result<Vec<SnapshotRow>, StoreError>;

    /// Returns the snapshots whose files are on this server, the oldest first.
    async fn snapshots_here(&self) -> Result<Vec<SnapshotRow>, StoreError>;

    /// Returns the size of the snapshots on this server, and of the audit logs, of each tenant, in
    /// bytes.
    async fn stored_bytes(&self) -> Result<HashMap<String, u64>, StoreError>;

    /// Records the tenant that an image was pulled for, and its size on disk.
    async fn add_pulled_image(
        &self,
        tenant: &str,
        digest: &str,
        bytes: u64,
    ) -> Result<(), StoreError>;

    /// Returns the tenants, digests and sizes in bytes of the images that were pulled to this
    /// server.
    async fn pulled_images(&self) -> Result<Vec<(String, String, u64)>, StoreError>;

    /// Deletes a snapshot.
    async fn delete_snapshot(&self, id: &str) -> Result<(), StoreError>;
}

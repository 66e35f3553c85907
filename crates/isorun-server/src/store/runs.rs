//! Runs, including destroyed ones.

use std::time::Duration;

use async_trait::async_trait;
use isorun_api::{OnIdle, PastRun, RunId, Status, Usage};

use super::{AuditRow, StoreError};
use crate::clock;

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

/// The runs of a database, including destroyed ones.
#[async_trait]
pub trait RunTable: Send + Sync {
    /// Adds a run.
    async fn add_run(&self, run: RunRow) -> Result<(), StoreError>;

    /// Deletes a run whose creation failed.
    async fn delete_run(&self, id: &RunId) -> Result<(), StoreError>;

    /// Records that the sandbox of a run is running.
    async fn run_started(&self, id: &RunId, create_ms: u64) -> Result<(), StoreError>;

    /// Sets the status of a run.
    async fn set_run_status(&self, id: &RunId, status: Status) -> Result<(), StoreError>;

    /// Starts a new generation of a run's checkpoint, and returns its number. Checkpoints
    /// of earlier generations are no longer restored.
    async fn next_generation(&self, id: &RunId) -> Result<u64, StoreError>;

    /// Returns the generation of a run's checkpoint.
    async fn generation(&self, id: &RunId) -> Result<u64, StoreError>;

    /// Records that a run is hibernated, with its resource usage so far, and that no node is
    /// resuming it. With a generation, that of its checkpoint on disk, what an earlier change
    /// whose outcome is not known has recorded is undone.
    async fn run_hibernated(
        &self,
        id: &RunId,
        generation: Option<u64>,
        used: ResourceUsage,
    ) -> Result<(), StoreError>;

    /// Records that this server begins or ceases to resume a hibernated run, so that no other
    /// node of the cluster takes it over meanwhile. Fails if one has.
    async fn set_resuming(&self, id: &RunId, is_resuming: bool) -> Result<(), StoreError>;

    /// Records that a run was resumed. Its checkpoint belongs to an earlier generation
    /// from now on.
    async fn run_resumed(&self, id: &RunId) -> Result<(), StoreError>;

    /// Sets the idle timeout of a run.
    async fn set_run_timeout(&self, id: &RunId, timeout_ms: u64) -> Result<(), StoreError>;

    /// Sets the network settings of a run.
    async fn set_run_network(&self, id: &RunId, network: String) -> Result<(), StoreError>;

    /// Records the end of a run together with the last entry of its log. Does nothing if it has
    /// ended already.
    async fn end_run(
        &self,
        id: &RunId,
        ending: Ending,
        last_entry: AuditRow,
    ) -> Result<(), StoreError>;

    /// Returns a run, which may have ended.
    async fn run(&self, id: &RunId) -> Result<Option<RunRow>, StoreError>;

    /// Returns the runs of this server that were not destroyed, the oldest first.
    async fn open_runs(&self) -> Result<Vec<RunRow>, StoreError>;

    /// Returns the runs of a tenant that belong to other nodes of the cluster and were not
    /// destroyed, the oldest first.
    async fn runs_elsewhere(&self, tenant: &str) -> Result<Vec<RunRow>, StoreError>;

    /// Returns up to `limit` destroyed runs of a tenant, the latest first. With `before`,
    /// only those that were destroyed before that run.
    async fn history(
        &self,
        tenant: &str,
        before: Option<RunId>,
        limit: u32,
    ) -> Result<Vec<PastRun>, StoreError>;

    /// Returns the resource usage of a tenant's destroyed runs. The caller adds that of
    /// the others.
    async fn past_usage(&self, tenant: &str) -> Result<Usage, StoreError>;

    /// Reports whether it is the turn of this server to delete the history. It is not, for any
    /// node of the cluster, for almost `interval` afterwards.
    async fn take_history_turn(&self, interval: Duration) -> Result<bool, StoreError>;

    /// Deletes up to `limit` runs that were destroyed before a time, and their audit logs.
    /// Returns their number; none are left if it is less than `limit`.
    async fn delete_runs_before(&self, time: i64, limit: u32) -> Result<usize, StoreError>;

    /// Deletes up to `limit` of a tenant's destroyed runs, the oldest first, and their
    /// audit logs, so that `keep` are left. Returns the number of deleted runs.
    async fn delete_runs_beyond(
        &self,
        tenant: String,
        keep: u64,
        limit: u32,
    ) -> Result<usize, StoreError>;

    /// Returns the tenants that have destroyed runs.
    async fn tenants_with_history(&self) -> Result<Vec<String>, StoreError>;
}

/// Returns the end of a run for tests.
#[cfg(test)]
pub fn sample_ending(destroyed_at: i64) -> Ending {
    let (reason, cpu_ms) = ("done".to_owned(), 10);
    Ending { reason, destroyed_at, cpu_ms, mem_peak_bytes: 0, disk_used_bytes: 0 }
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

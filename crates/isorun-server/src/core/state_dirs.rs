//! The directories of checkpoints: of forks in progress, hibernated runs and snapshots.
//!
//! They are in the directory `state` of the server's data directory:
//!
//! ```text
//! drafts/…                   being written, or the checkpoint of a fork in progress
//! hibernating/run0123…/      being written; may be the only copy of the sandbox
//! hibernated/run0123…/       complete: `archive.rs` describes its content
//! snapshots/snap0123…/
//! ```
//!
//! A directory with its final name is complete: it was written elsewhere and
//! renamed. So after a crash nothing has to be repaired, and only a hibernation
//! may have to be finished.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Result;
use isorun_api::RunId;
use tokio::task::spawn_blocking;

use super::error::{Error, ErrorKind};
use crate::data_dir;

/// The longest time until it is known whether the row of a checkpoint was added or changed, also
/// if the database did not respond: longer than any statement is in progress.
const ROW_TIMEOUT: Duration = Duration::from_secs(30);

/// The directories of the state on disk.
#[derive(Clone, Debug)]
pub struct StateDirs {
    root: PathBuf,
}

impl StateDirs {
    /// Creates the directories that do not exist.
    pub fn open(data_dir: &Path) -> Result<Self> {
        let root = data_dir.join("state");
        data_dir::private_dir(&root)?;
        for name in ["drafts", "hibernating", "hibernated", "snapshots"] {
            data_dir::private_dir(&root.join(name))?;
        }
        Ok(Self { root })
    }

    /// Creates a directory that is removed when the result is dropped, unless it was renamed.
    pub fn draft_dir(&self) -> Result<tempfile::TempDir, Error> {
        tempfile::tempdir_in(self.root.join("drafts"))
            .map_err(|error| Error::internal("cannot create a directory", error))
    }

    /// Returns the directory that the checkpoint of a hibernating run is written to.
    pub fn hibernating_dir(&self, id: &RunId) -> PathBuf {
        self.root.join("hibernating").join(id.as_str())
    }

    pub fn hibernated_dir(&self, id: &RunId) -> PathBuf {
        self.root.join("hibernated").join(id.as_str())
    }

    pub fn snapshot_dir(&self, id: &str) -> PathBuf {
        self.root.join("snapshots").join(id)
    }

    pub fn is_hibernated(&self, id: &RunId) -> bool {
        self.hibernated_dir(id).is_dir()
    }

    pub async fn remove_hibernated(&self, id: &RunId) {
        self.remove(self.hibernated_dir(id)).await;
    }

    pub async fn remove_hibernating(&self, id: &RunId) {
        self.remove(self.hibernating_dir(id)).await;
    }

    pub async fn remove_snapshot(&self, id: &str) {
        self.remove(self.snapshot_dir(id)).await;
    }

    /// Removes a directory. It is renamed first, so that a final name never has half of it.
    async fn remove(&self, dir: PathBuf) {
        let trash = self.root.join("drafts");
        let removed = spawn_blocking(move || {
            let name = match dir.file_name() {
                Some(name) if dir.exists() => trash.join(name),
                _ => return Ok(()),
            };
            fs::rename(&dir, &name)?;
            fs::remove_dir_all(name)
        });
        if let Ok(Err(error)) = removed.await {
            tracing::error!(%error, "cannot remove a state directory");
        }
    }

    /// Removes each draft, and each directory of a run or snapshot that is not in the database.
    pub async fn remove_unknown(
        &self,
        runs: &BTreeSet<String>,
        snapshots: &BTreeSet<String>,
    ) -> io::Result<()> {
        for (name, wanted) in [
            ("drafts", None),
            ("hibernating", None),
            ("hibernated", Some(runs)),
            ("snapshots", Some(snapshots)),
        ] {
            for entry in fs::read_dir(self.root.join(name))?.flatten() {
                let known = entry.file_name().to_string_lossy().into_owned();
                if wanted.is_none_or(|wanted| !wanted.contains(&known)) {
                    fs::remove_dir_all(entry.path())?;
                }
            }
        }
        Ok(())
    }

    /// Returns the names of the snapshots on disk that were complete some time ago, so that their
    /// rows exist unless adding them has failed.
    pub fn abandoned_snapshots(&self) -> Vec<String> {
        self.abandoned("snapshots")
    }

    /// Returns the hibernated runs on disk that were complete some time ago.
    pub fn abandoned_runs(&self) -> Vec<RunId> {
        self.abandoned("hibernated").iter().filter_map(|name| name.parse().ok()).collect()
    }

    fn abandoned(&self, directory: &str) -> Vec<String> {
        let entries = fs::read_dir(self.root.join(directory)).into_iter().flatten().flatten();
        let is_old = |entry: &fs::DirEntry| {
            let modified = entry.metadata().and_then(|found| found.modified());
            modified.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > ROW_TIMEOUT))
        };
        let old = entries.filter(is_old);
        old.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// Returns the disk space of a hibernated run, in bytes.
    pub fn hibernated_bytes(&self, id: &RunId) -> u64 {
        use std::os::unix::fs::MetadataExt;
        let entries = fs::read_dir(self.hibernated_dir(id)).into_iter().flatten().flatten();
        entries.filter_map(|entry| Some(entry.metadata().ok()?.blocks() * 512)).sum()
    }

    /// Fails unless the disk has `bytes` free beyond the `reserve`, both in bytes.
    pub fn ensure_free_space(&self, bytes: u64, reserve: u64) -> Result<(), Error> {
        let disk = rustix::fs::statvfs(&self.root)
            .map_err(|error| Error::internal("cannot read the free space of the disk", error))?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if free < bytes.saturating_add(reserve) {
            return Err(Error::new(
                ErrorKind::ServerFull,
                format!(
                    "the server's disk does not have enough free space: this run needs {} MiB, \
                     and {} MiB are kept free (--disk-reserve-mib)",
                    bytes >> 20,
                    reserve >> 20
                ),
            )
            .after(Duration::from_secs(5)));
        }
        Ok(())
    }
}

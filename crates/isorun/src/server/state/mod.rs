//! Copies of runs and what is put away of them: forks, hibernation, snapshots.
//!
//! All of it lies in the folder `state` of the server's data:
//!
//! ```text
//! drafts/…                   being written, or a fork's while its children are made
//! hibernating/run0123…/      being written; the sandbox may be nowhere else
//! hibernated/run0123…/       whole: `archive.rs` says what is in it
//! snapshots/snap0123…/
//! ```
//!
//! What has its final name is complete: it was made elsewhere and renamed. So
//! after a crash there is nothing to repair, but one thing to finish: a
//! hibernation.

pub mod archive;
pub mod fork;
pub mod hibernation;
pub mod snapshots;

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Result;
use tokio::task::spawn_blocking;

use super::{ApiError, App, Code, runs::LiveRun};
use crate::{data, id::RunId};

/// The folders.
#[derive(Clone, Debug)]
pub struct Places {
    root: PathBuf,
}

impl Places {
    pub fn open(data_dir: &Path) -> Result<Self> {
        let root = data_dir.join("state");
        data::private_folder(&root)?;
        for name in ["drafts", "hibernating", "hibernated", "snapshots"] {
            data::private_folder(&root.join(name))?;
        }
        Ok(Self { root })
    }

    /// A new folder that goes when the result is dropped, unless it was renamed.
    pub fn draft(&self) -> Result<tempfile::TempDir, ApiError> {
        tempfile::tempdir_in(self.root.join("drafts"))
            .map_err(|error| ApiError::internal("cannot make a folder", error))
    }

    /// Where a run is written that is to hibernate.
    pub fn hibernating(&self, id: &RunId) -> PathBuf {
        self.root.join("hibernating").join(id.as_str())
    }

    pub fn hibernated(&self, id: &RunId) -> PathBuf {
        self.root.join("hibernated").join(id.as_str())
    }

    pub fn snapshot(&self, id: &str) -> PathBuf {
        self.root.join("snapshots").join(id)
    }

    pub fn is_hibernated(&self, id: &RunId) -> bool {
        self.hibernated(id).is_dir()
    }

    pub async fn forget_hibernated(&self, id: &RunId) {
        self.remove(self.hibernated(id)).await;
    }

    pub async fn forget_hibernating(&self, id: &RunId) {
        self.remove(self.hibernating(id)).await;
    }

    pub async fn forget_snapshot(&self, id: &str) {
        self.remove(self.snapshot(id)).await;
    }

    /// What has its final name leaves it first: never is half of it there.
    async fn remove(&self, folder: PathBuf) {
        let trash = self.root.join("drafts");
        let removed = spawn_blocking(move || {
            let name = match folder.file_name() {
                Some(name) if folder.exists() => trash.join(name),
                _ => return Ok(()),
            };
            fs::rename(&folder, &name)?;
            fs::remove_dir_all(name)
        });
        if let Ok(Err(error)) = removed.await {
            tracing::error!(%error, "cannot remove what was put away");
        }
    }

    /// Removes what belongs to nobody.
    pub async fn clean_up(
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

    /// What a hibernated run takes on the disk.
    pub fn hibernated_bytes(&self, id: &RunId) -> u64 {
        use std::os::unix::fs::MetadataExt;
        let entries = fs::read_dir(self.hibernated(id)).into_iter().flatten().flatten();
        entries.filter_map(|entry| Some(entry.metadata().ok()?.blocks() * 512)).sum()
    }

    /// Whether there is room for that much more, and so much is left free.
    pub fn have_room(&self, bytes: u64, reserve: u64) -> Result<(), ApiError> {
        let disk = rustix::fs::statvfs(&self.root)
            .map_err(|error| ApiError::internal("cannot look at the disk", error))?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if free < bytes.saturating_add(reserve) {
            return Err(ApiError::new(
                Code::ServerFull,
                format!(
                    "the server's disk has no room for the {} MiB that this run would take there: \
                     {} MiB are kept free (--disk-reserve-mib)",
                    bytes >> 20,
                    reserve >> 20
                ),
            )
            .after(Duration::from_secs(5)));
        }
        Ok(())
    }
}

/// Whether a checkpoint of a run would have room.
async fn check_room(app: &App, run: &LiveRun) -> Result<isorun_engine::Stats, ApiError> {
    let stats = app.engine.stats(&run.sandbox).await;
    let stats = stats
        .map_err(|error| super::lifecycle::engine_error("cannot measure the sandbox", error))?;
    app.places.have_room(
        stats.mem_bytes.saturating_add(stats.disk_used_bytes),
        app.config.limits.server.disk_reserve,
    )?;
    Ok(stats)
}

//! The files of checkpoints of other nodes, which are taken from the object store of the
//! cluster when they are needed.

use std::path::PathBuf;

use isorun_blobs::{Blobs, CachedTree, Error as BlobError, TreeId};

use super::{Core, cluster::Cluster, error::Error, images::ImageHold, live_run::LiveRun};
use crate::store::{RunRow, SnapshotRow};

/// Brings the files of a run's latest checkpoint to this node, if they are not here. The
/// caller holds the `lifecycle_lock`.
pub async fn fetch_hibernated(core: &Core, run: &LiveRun) -> Result<(), Error> {
    if core.state_dirs.is_hibernated(&run.id) {
        return Ok(());
    }
    let Some((cluster, _)) = cluster_blobs(core) else { return Ok(()) };
    match cluster.database.run_tree(&run.id).await? {
        Some(tree) => fetch(core, &run.row, tree).await,
        None => Ok(()),
    }
}

/// Brings the files of a checkpoint to this node, verified, and keeps its image in use by the
/// run. A missing image is taken from the object store, or pulled by its digest.
pub async fn fetch(core: &Core, row: &RunRow, tree: TreeId) -> Result<(), Error> {
    let Some((_, blobs)) = cluster_blobs(core) else { return Ok(()) };
    core.images.hold_digest(row.id.as_str(), &row.tenant, &row.image, &row.digest).await?;
    // Of an earlier attempt.
    core.state_dirs.remove_hibernated(&row.id).await;
    let draft = core.state_dirs.draft_dir()?;
    let files = draft.path().join("tree");
    blobs.download(tree, files.clone()).await.map_err(checkpoint_error)?;
    std::fs::rename(&files, core.state_dirs.hibernated_dir(&row.id))
        .map_err(|error| Error::internal("cannot write a checkpoint to the disk", error))
}

/// The files of a snapshot.
pub enum SnapshotFiles<'a> {
    /// Those of a snapshot of this node, which keeps its image in use.
    Here(PathBuf),
    /// A copy of those of another node's snapshot.
    Copy(CachedTree, ImageHold<'a>),
}

impl SnapshotFiles<'_> {
    pub fn dir(&self) -> PathBuf {
        match self {
            Self::Here(dir) => dir.clone(),
            Self::Copy(tree, _) => tree.path().to_owned(),
        }
    }

    /// Returns the holder of the image of this snapshot.
    pub fn image_holder<'id>(&'id self, id: &'id str) -> &'id str {
        match self {
            Self::Here(_) => id,
            Self::Copy(_, hold) => &hold.name,
        }
    }
}

/// Returns the files of a snapshot.
pub async fn snapshot_files<'a>(
    core: &'a Core,
    snapshot: &SnapshotRow,
) -> Result<SnapshotFiles<'a>, Error> {
    let here = core.state_dirs.snapshot_dir(&snapshot.id);
    let Some((cluster, blobs)) = cluster_blobs(core).filter(|_| !here.is_dir()) else {
        return Ok(SnapshotFiles::Here(here));
    };
    let Some(tree) = cluster.database.snapshot_tree(&snapshot.id).await? else {
        return Ok(SnapshotFiles::Here(here));
    };
    let hold = core.images.hold_briefly(&snapshot.settings).await?;
    let files = blobs.cached(tree).await.map_err(checkpoint_error)?;
    Ok(SnapshotFiles::Copy(files, hold))
}

fn cluster_blobs(core: &Core) -> Option<(&Cluster, &Blobs)> {
    core.cluster.as_ref().zip(core.blobs.as_ref())
}

fn checkpoint_error(error: BlobError) -> Error {
    Error::object_store("checkpoint", error)
}

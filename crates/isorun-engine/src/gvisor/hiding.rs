//! Hides files of the machine from the built-in image: those that not every user
//! may read, since root in a sandbox could read them.
//!
//! An empty file or directory is mounted over each of them, in the mount namespace
//! that only containers use. The engine scans for such files when it starts,
//! immediately when the machine's packages have changed, and in the background once
//! a minute while sandboxes are created. A file whose permissions an administrator
//! restricts while the server runs is hidden from sandboxes that are created a
//! minute later.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;

use super::Inner;
use super::launcher::Mask;
use super::spec::Shape;
use crate::engine::{Error, Result, Root};
use crate::host::{self, PrivatePath};

/// The age of the last scan after which the files are scanned again.
const RESCAN_INTERVAL: Duration = Duration::from_secs(60);

/// The paths that are hidden, and the time of the scan that found them.
#[derive(Debug)]
pub struct HiddenPaths {
    fingerprint: String,
    scanned_at: Instant,
    private: Vec<PrivatePath>,
}

/// Creates the sources of the mounts that hide paths: an empty file and an empty
/// directory without any permissions.
pub fn install(dir: &Path) -> io::Result<()> {
    let (file, inner) = (dir.join("hidden/file"), dir.join("hidden/folder"));
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&inner);
    made.and_then(|()| {
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&file)
    })?;
    for path in [&file, &inner] {
        fs::set_permissions(path, Permissions::from_mode(0o000))?;
    }
    Ok(())
}

impl Inner {
    /// Returns the shape with the current version of the hidden paths.
    pub(super) fn with_view(&self, shape: Shape) -> Shape {
        let view = match shape.root {
            Root::Host => self.view.load(Ordering::Relaxed),
            Root::Directory(_) => 0,
        };
        Shape { view, ..shape }
    }

    /// Ensures that containers over the built-in image that are created from now on do
    /// not see files that not every user of the machine may read.
    pub(super) async fn hide_private(self: &Arc<Self>) -> Result<()> {
        let fingerprint = host::fingerprint();
        let known = self.hidden.lock().await;
        let Some(hidden) = known.as_ref().filter(|hidden| hidden.fingerprint == fingerprint) else {
            drop(known);
            return self.rescan(fingerprint).await;
        };
        if hidden.scanned_at.elapsed() > RESCAN_INTERVAL {
            drop(known);
            let inner = Arc::clone(self);
            tokio::spawn(async move {
                // The paths that were hidden before stay hidden.
                if let Err(error) = inner.rescan(fingerprint).await {
                    tracing::error!(%error, "cannot hide files that not every user may read");
                }
            });
        }
        Ok(())
    }

    async fn rescan(self: &Arc<Self>, fingerprint: String) -> Result<()> {
        let mut hidden = self.hidden.lock().await;
        let is_recent = |hidden: &HiddenPaths| {
            hidden.fingerprint == fingerprint && hidden.scanned_at.elapsed() <= RESCAN_INTERVAL
        };
        if hidden.as_ref().is_some_and(is_recent) {
            return Ok(());
        }
        let scanned_at = Instant::now();
        let private = spawn_blocking(|| host::find_private(&host::shared_dirs()))
            .await
            .map_err(|error| Error::Failed(format!("cannot look for private files: {error}")))?;
        let masks = private.iter().filter_map(|private| {
            let name = if private.is_dir { "folder" } else { "file" };
            Some(Mask {
                with: self.state_dir.join("hidden").join(name),
                target: self.host_image().join(private.path.strip_prefix("/").ok()?),
            })
        });
        self.launcher
            .mask(masks.collect())
            .await
            .map_err(Error::io("cannot hide a file of the machine that not every user may read"))?;
        if hidden.as_ref().is_none_or(|hidden| hidden.private != private) {
            tracing::debug!(count = private.len(), "hidden from sandboxes");
            self.view.fetch_add(1, Ordering::Relaxed);
        }
        *hidden = Some(HiddenPaths { fingerprint, scanned_at, private });
        Ok(())
    }
}

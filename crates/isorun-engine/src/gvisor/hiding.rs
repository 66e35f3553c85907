//! What the built-in image hides of the machine: files that not every user may
//! read, since a sandbox's root would.
//!
//! An empty file or folder is mounted over each of them, where only containers
//! see it. They are looked for when the engine starts, at once when the
//! machine's packages have changed, and behind the scenes once in a while when
//! sandboxes are made: what is closed by hand while the server runs is hidden in
//! sandboxes made a minute later.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;

use super::Inner;
use super::launcher::Cover;
use super::spec::Shape;
use crate::engine::{Error, Result, Root};
use crate::host::{self, Private};

/// After so long what is hidden is looked for again.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// What is hidden, and since when that is known.
#[derive(Debug)]
pub struct Hidden {
    fingerprint: String,
    looked_at: Instant,
    private: Vec<Private>,
}

/// Makes what is mounted over the things that are hidden: a file and a folder,
/// both empty, that nobody may open.
pub fn install(folder: &Path) -> io::Result<()> {
    let (file, inner) = (folder.join("hidden/file"), folder.join("hidden/folder"));
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
    /// Gives a shape with what a container of it is not to see.
    pub(super) fn with_view(&self, shape: Shape) -> Shape {
        let view = match shape.root {
            Root::Host => self.view.load(Ordering::Relaxed),
            Root::Folder(_) => 0,
        };
        Shape { view, ..shape }
    }

    /// Sees to it that containers over the built-in image, made from now on, do
    /// not see what not every user of the machine may read.
    pub(super) async fn hide_private(self: &Arc<Self>) -> Result<()> {
        let fingerprint = host::fingerprint();
        let known = self.hidden.lock().await;
        let Some(hidden) = known.as_ref().filter(|hidden| hidden.fingerprint == fingerprint) else {
            drop(known);
            return self.look(fingerprint).await;
        };
        if hidden.looked_at.elapsed() > LOOK_AGAIN {
            drop(known);
            let inner = Arc::clone(self);
            tokio::spawn(async move {
                // What it was before stays hidden.
                if let Err(error) = inner.look(fingerprint).await {
                    tracing::error!(%error, "cannot hide what is not for every user");
                }
            });
        }
        Ok(())
    }

    async fn look(self: &Arc<Self>, fingerprint: String) -> Result<()> {
        let mut hidden = self.hidden.lock().await;
        let is_recent = |hidden: &Hidden| {
            hidden.fingerprint == fingerprint && hidden.looked_at.elapsed() <= LOOK_AGAIN
        };
        if hidden.as_ref().is_some_and(is_recent) {
            return Ok(());
        }
        let looked_at = Instant::now();
        let private = spawn_blocking(|| host::find_private(&host::shared_folders()))
            .await
            .map_err(|error| Error::Failed(format!("cannot look for private files: {error}")))?;
        let covers = private.iter().filter_map(|private| {
            let name = if private.is_folder { "folder" } else { "file" };
            Some(Cover {
                with: self.state_dir.join("hidden").join(name),
                target: self.host_image().join(private.path.strip_prefix("/").ok()?),
            })
        });
        self.launcher
            .cover(covers.collect())
            .await
            .map_err(Error::io("cannot hide a file of the machine that not every user may read"))?;
        if hidden.as_ref().is_none_or(|hidden| hidden.private != private) {
            tracing::debug!(count = private.len(), "hidden from sandboxes");
            self.view.fetch_add(1, Ordering::Relaxed);
        }
        *hidden = Some(Hidden { fingerprint, looked_at, private });
        Ok(())
    }
}

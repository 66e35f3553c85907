//! Snapshots: copies of a running interpreter, from which any number of
//! sandboxes are created.
//!
//! ```text
//!   Sandbox ── snapshot ──▶ Snapshot ── sandbox().create() ──▶ Sandbox
//!      │                      │   ▲
//!      └── fork(n) ──▶ ...    ▼   │
//!                         save   load_snapshot
//! ```
//!
//! The state of an idle guest is its linear memory and a few globals: it holds
//! no handle of the host and has no frame on a stack. `instrument` exports both
//! from the component, `guest::accessor` saves and restores them, `state` holds
//! them, `file` writes them to disk.

use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc};

use crate::{
    error::Error,
    limits::Limits,
    mount::Mount,
    runtime::Runtime,
    sandbox::{Sandbox, SandboxBuilder},
    state::GuestState,
    template::Template,
};

mod file;
mod format;

pub use self::file::{SnapshotInfo, default_snapshot_dir, list_snapshots};

/// The state of a running interpreter at one moment: its imports, globals, caches
/// and suspended generators.
///
/// Created by [`Sandbox::snapshot`]. Any number of independent sandboxes can be
/// created from it: they share the pages that they do not write. Cloning is cheap.
#[derive(Clone)]
pub struct Snapshot(Arc<SnapshotInner>);

struct SnapshotInner {
    template: Template,
    state: Arc<GuestState>,
    settings: Settings,
}

/// The options with which the sandbox was created.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) limits: Limits,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) env: BTreeMap<String, String>,
}

impl Snapshot {
    pub(crate) fn new(template: Template, state: Arc<GuestState>, settings: Settings) -> Self {
        Self(Arc::new(SnapshotInner { template, state, settings }))
    }

    /// Returns a builder of a sandbox that continues from this state. The defaults
    /// are the options of the original sandbox, except for the host: hostcalls and
    /// requests are denied unless a host is set.
    ///
    /// The sandbox is already started. It has its own random numbers, and the
    /// clocks and environment of the time of its creation.
    pub fn sandbox(&self) -> SandboxBuilder {
        SandboxBuilder::resuming(
            self.0.template.clone(),
            Arc::clone(&self.0.state),
            self.0.settings.clone(),
        )
    }

    /// Creates a sandbox with the default options.
    ///
    /// # Errors
    ///
    /// As [`SandboxBuilder::create`].
    pub async fn create_sandbox(&self) -> Result<Sandbox, Error> {
        self.sandbox().create().await
    }

    /// Writes the snapshot to a file atomically and returns its size in bytes. An
    /// existing file is replaced.
    ///
    /// The file contains the differences from a newly created interpreter,
    /// compressed, and thus all data of the guest. Only its owner can read it.
    /// [`Template::load_snapshot`] reads it.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] if the file cannot be written.
    pub fn save<P: Into<PathBuf>>(
        &self,
        path: P,
    ) -> impl Future<Output = Result<u64, Error>> + Send + use<P> {
        let (this, path) = (self.clone(), path.into());
        async move {
            let base = this.0.template.fresh().await?;
            tokio::task::spawn_blocking(move || {
                let SnapshotInner { template, state, .. } = &*this.0;
                file::save(&path, template, state, &base)
            })
            .await
            .map_err(|error| Error::internal("writing the snapshot", error))?
        }
    }

    pub(crate) async fn load(template: &Template, path: PathBuf) -> Result<Self, Error> {
        let base = template.fresh().await?;
        let origin = template.clone();
        let state = tokio::task::spawn_blocking(move || file::load(&path, &origin, &base))
            .await
            .map_err(|error| Error::internal("reading the snapshot", error))??;
        let defaults = template.defaults();
        let settings = Settings {
            limits: defaults.limits.clone(),
            mounts: defaults.mounts.clone(),
            env: defaults.env.clone(),
        };
        Ok(Self::new(template.clone(), state, settings))
    }

    /// Returns the default limits of a sandbox of this snapshot.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.0.settings.limits
    }

    /// Returns the runtime.
    #[must_use]
    pub fn runtime(&self) -> Runtime {
        self.0.template.runtime()
    }

    /// Returns the size of the interpreter's memory, in bytes.
    #[must_use]
    pub fn memory_size(&self) -> u64 {
        self.0.state.image.len() as u64
    }

    /// Returns the memory that the snapshot takes, in bytes: less than
    /// [`memory_size`](Self::memory_size), since empty pages are left out.
    #[must_use]
    pub fn resident_size(&self) -> u64 {
        self.0.state.image.resident()
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("runtime", &self.runtime())
            .field("memory_size", &self.memory_size())
            .finish_non_exhaustive()
    }
}

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
//!
//! The methods of [`Sandbox`] and [`Template`] that return snapshots are here too, so
//! that their modules do not depend on this one.

use std::{fmt, path::PathBuf, sync::Arc};

use crate::{
    error::{Error, Limit, LimitExceeded},
    limits::Limits,
    linear_memory::image::Image,
    runtime::Runtime,
    sandbox::{Lease, Sandbox, SandboxBuilder, SandboxShared},
    state::GuestState,
    template::{Settings, Template},
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

impl Snapshot {
    fn new(template: Template, state: Arc<GuestState>, settings: Settings) -> Self {
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

    async fn load(template: &Template, path: PathBuf) -> Result<Self, Error> {
        let base = template.fresh().await?;
        let origin = template.clone();
        let state = tokio::task::spawn_blocking(move || file::load(&path, &origin, &base))
            .await
            .map_err(|error| Error::internal("reading the snapshot", error))??;
        Ok(Self::new(template.clone(), state, template.defaults().settings()))
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

impl Sandbox {
    /// Copies the current state of the interpreter: its globals, imports and
    /// suspended generators. The sandbox keeps running and is not affected.
    ///
    /// This takes as long as copying the memory that is in use, a millisecond for
    /// a few megabytes; creating sandboxes from the snapshot takes a fraction of
    /// that. Other tasks run in the meantime. If the future is dropped, the copy
    /// is still completed, and until then the sandbox is busy.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] during a call, [`Error::NotRunning`] before the start,
    /// [`Error::Closed`] after the end, and [`Error::SnapshotRefused`] if the guest
    /// has a file or another handle of the host open, which the message names.
    pub fn snapshot(&self) -> impl Future<Output = Result<Snapshot, Error>> + Send + use<> {
        let shared = Arc::clone(self.shared());
        async move {
            let lease = shared.lease(false)?;
            // The copy is a separate task, so that dropping this future does not
            // close the sandbox: the guest is only read.
            let copying = take_snapshot(shared, lease);
            match tokio::runtime::Handle::try_current() {
                Ok(tokio) => tokio
                    .spawn(copying)
                    .await
                    .map_err(|error| Error::internal("copying the guest", error))?,
                Err(_) => copying.await,
            }
        }
    }

    /// Creates `count` sandboxes that continue from the current state of this one,
    /// with its limits, mounts, environment and host, and are then independent.
    ///
    /// # Errors
    ///
    /// As [`snapshot`](Self::snapshot) and [`SandboxBuilder::create`].
    pub fn fork(
        &self,
        count: usize,
    ) -> impl Future<Output = Result<Vec<Sandbox>, Error>> + Send + use<> {
        let host = Arc::clone(&self.shared().host);
        let snapshot = self.snapshot();
        async move {
            let snapshot = snapshot.await?;
            let mut children = Vec::new();
            for _ in 0..count {
                let child = snapshot.sandbox().shared_host(Arc::clone(&host));
                children.push(child.create().await?);
            }
            Ok(children)
        }
    }
}

/// Copies a guest and releases its lease.
async fn take_snapshot(shared: Arc<SandboxShared>, mut lease: Lease) -> Result<Snapshot, Error> {
    let copied = match shared.limits.timeout {
        Some(limit) => match tokio::time::timeout(limit, lease.copy_state()).await {
            Ok(copied) => copied,
            Err(_) => Err(Error::Limit(LimitExceeded::time(Limit::WallTime, limit))),
        },
        None => lease.copy_state().await,
    };
    match copied {
        Ok(state) => {
            lease.release();
            Ok(Snapshot::new(shared.template.clone(), Arc::new(state), shared.settings.clone()))
        }
        // The guest was not changed.
        Err(error @ Error::SnapshotRefused(_)) => {
            lease.release();
            Err(error)
        }
        Err(error) => {
            lease.fail(&error);
            Err(error)
        }
    }
}

impl Template {
    /// Reads a snapshot that [`Snapshot::save`] wrote, on this machine or another.
    /// A file is not read again as long as a snapshot or a sandbox that was created
    /// from it exists and the file is unchanged: all of them share its memory.
    /// This applies to 64 files at a time.
    ///
    /// # Errors
    ///
    /// [`Error::SnapshotRefused`] if the snapshot is not compatible: a different
    /// runtime or build of it, a different version or configuration of isola,
    /// different CPU features, more memory than this template allows, or damage.
    /// The message contains the reason.
    pub fn load_snapshot<P: Into<PathBuf>>(
        &self,
        path: P,
    ) -> impl Future<Output = Result<Snapshot, Error>> + Send + use<P> {
        let (this, path) = (self.clone(), path.into());
        async move { Snapshot::load(&this, path).await }
    }

    /// Returns the memory of a guest before any code has run. Snapshots on disk
    /// contain the differences from it.
    async fn fresh(&self) -> Result<Arc<Image>, Error> {
        let create = async || {
            let sandbox = self.sandbox().instantiate(None).await?;
            let state = sandbox.shared().lease(true)?.copy_state().await?;
            Ok::<_, Error>(state.image)
        };
        self.component().fresh.get_or_try_init(create).await.cloned()
    }
}

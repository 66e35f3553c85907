//! Snapshots: a copy of a running interpreter, to go on from as often as one
//! likes.
//!
//! ```text
//!   Sandbox ── snapshot ──▶ Snapshot ── sandbox().create() ──▶ Sandbox
//!      │                      │   ▲
//!      └── fork(n) ──▶ ...    ▼   │
//!                         save   load_snapshot
//! ```
//!
//! The state of an idle guest is its linear memory and a handful of globals:
//! it holds no handle of the host, and no frame of it is on a stack.
//! `instrument` makes both reachable, `state` takes them and puts them back,
//! `image` keeps the memory, `map` is the unsafe part.

use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc};

use crate::{
    error::Error,
    limits::Limits,
    mount::Mount,
    runtime::Runtime,
    sandbox::{Sandbox, SandboxBuilder},
    template::Template,
};

mod file;
mod format;
pub(crate) mod image;
pub(crate) mod in_use;
pub(crate) mod instrument;
mod map;
pub(crate) mod state;

pub use self::file::{SnapshotInfo, default_snapshot_dir, list_snapshots};
use self::state::State;

/// A running interpreter as it was at one moment: its imports, globals, caches
/// and suspended generators.
///
/// Made by [`Sandbox::snapshot`]. Any number of sandboxes go on from it, alone
/// each: they share the pages that they do not write. Cloning is cheap.
#[derive(Clone)]
pub struct Snapshot(Arc<Inner>);

struct Inner {
    template: Template,
    state: Arc<State>,
    settings: Settings,
}

/// What the sandbox was created with.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) limits: Limits,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) env: BTreeMap<String, String>,
}

impl Snapshot {
    pub(crate) fn new(template: Template, state: Arc<State>, settings: Settings) -> Self {
        Self(Arc::new(Inner { template, state, settings }))
    }

    /// Begins to create a sandbox that goes on from here. What it is not told
    /// is as in the sandbox that the snapshot is of, but for its host: nobody
    /// answers its hostcalls and requests unless a host is given.
    ///
    /// The sandbox is started already. Random numbers are its own, its clocks
    /// and its environment those of now.
    pub fn sandbox(&self) -> SandboxBuilder {
        SandboxBuilder::resuming(
            self.0.template.clone(),
            Arc::clone(&self.0.state),
            self.0.settings.clone(),
        )
    }

    /// The same, with nothing to tell.
    ///
    /// # Errors
    ///
    /// As [`SandboxBuilder::create`].
    pub async fn create_sandbox(&self) -> Result<Sandbox, Error> {
        self.sandbox().create().await
    }

    /// Writes the snapshot to a file, whole or not at all, and returns its size
    /// in bytes. A file that is there is replaced.
    ///
    /// The file holds what differs from an interpreter that has just been
    /// created, compressed; with it, whatever the guest knows. Only its owner
    /// may read it. [`Template::load_snapshot`] reads it again.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] if there is no place to write to.
    pub fn save<P: Into<PathBuf>>(
        &self,
        path: P,
    ) -> impl Future<Output = Result<u64, Error>> + Send + use<P> {
        let (this, path) = (self.clone(), path.into());
        async move {
            let base = this.0.template.fresh().await?;
            tokio::task::spawn_blocking(move || {
                let Inner { template, state, .. } = &*this.0;
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

    /// The limits of a sandbox that is told no others.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.0.settings.limits
    }

    /// The interpreter.
    #[must_use]
    pub fn runtime(&self) -> Runtime {
        self.0.template.runtime()
    }

    /// The size of the interpreter's memory, in bytes.
    #[must_use]
    pub fn memory_size(&self) -> u64 {
        self.0.state.image.len() as u64
    }

    /// What the snapshot takes in memory, in bytes: less than
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

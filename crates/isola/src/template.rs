//! Templates: a compiled interpreter and the defaults of its sandboxes.

use std::{
    collections::BTreeMap,
    fmt,
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use tokio::sync::OnceCell;
use wasmtime::component::{InstancePre, Linker};

use crate::{
    cache,
    contract::{self, SandboxIndices},
    engine::engine,
    error::Error,
    guest::Guest,
    limits::Limits,
    mount::Mount,
    runtime::Runtime,
    sandbox::SandboxBuilder,
    snapshot::{
        Snapshot,
        image::Image,
        in_use::InUse,
        state::{self, Accessor, State},
    },
    warm, wasi,
};

/// A compiled interpreter, from which sandboxes are created in milliseconds.
///
/// The first build on a machine compiles, which takes seconds, and keeps the
/// result on disk. Cloning is cheap, and a template may be used from many
/// threads at once.
#[derive(Clone)]
pub struct Template(Arc<Shared>);

struct Shared {
    runtime: Runtime,
    component: Component,
    defaults: Defaults,
    /// A guest that was started and ran the prelude, if that can be shared.
    warm: OnceLock<Arc<State>>,
}

/// A component that is linked.
pub(crate) struct Component {
    pub(crate) pre: InstancePre<Guest>,
    pub(crate) exports: SandboxIndices,
    /// How its guests are copied, if they can be.
    pub(crate) accessor: Option<Accessor>,
    /// Which build of the runtime it is.
    pub(crate) guest: String,
    /// The memory of a guest in which nothing has run yet.
    pub(crate) fresh: OnceCell<Arc<Image>>,
    /// The snapshots of its guests that came from files.
    pub(crate) in_use: InUse,
}

/// What a sandbox has unless it is told otherwise.
#[derive(Debug, Clone, Default)]
pub(crate) struct Defaults {
    pub(crate) limits: Limits,
    pub(crate) prelude: Option<String>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) env: BTreeMap<String, String>,
}

impl Template {
    /// Begins to build a template.
    pub fn builder(runtime: Runtime) -> TemplateBuilder {
        TemplateBuilder {
            runtime,
            runtime_path: None,
            cache_dir: CacheDir::Default,
            defaults: Defaults::default(),
            compiling: None,
        }
    }

    /// Begins to create a sandbox.
    pub fn sandbox(&self) -> SandboxBuilder {
        SandboxBuilder::new(self.clone())
    }

    /// The interpreter.
    #[must_use]
    pub fn runtime(&self) -> Runtime {
        self.0.runtime
    }

    pub(crate) fn component(&self) -> &Component {
        &self.0.component
    }

    /// Reads a snapshot that [`Snapshot::save`] wrote, here or elsewhere. What
    /// was read from a file is not read again as long as a snapshot or a sandbox
    /// of it lives and the file stays as it is: they all share its memory. That
    /// holds for 64 files at a time.
    ///
    /// # Errors
    ///
    /// [`Error::SnapshotRefused`] says what does not fit: another runtime or
    /// build of it, another version or configuration of isola, other CPU
    /// features, more memory than this template allows, or damage.
    pub fn load_snapshot<P: Into<PathBuf>>(
        &self,
        path: P,
    ) -> impl Future<Output = Result<Snapshot, Error>> + Send + use<P> {
        let (this, path) = (self.clone(), path.into());
        async move { Snapshot::load(&this, path).await }
    }

    /// The memory of a guest in which nothing has run yet. Snapshots on disk
    /// are what differs from it.
    pub(crate) async fn fresh(&self) -> Result<Arc<Image>, Error> {
        let make = async || {
            let sandbox = self.sandbox().instantiate(None).await?;
            let state = sandbox.shared().lease(true)?.copy().await?;
            Ok::<_, Error>(Arc::new(state.image))
        };
        self.0.component.fresh.get_or_try_init(make).await.cloned()
    }

    /// A guest in which the prelude has run, for sandboxes with the environment
    /// and mounts that it saw.
    pub(crate) fn warm(
        &self,
        env: &BTreeMap<String, String>,
        mounts: &[Mount],
    ) -> Option<&Arc<State>> {
        let defaults = &self.0.defaults;
        let same = *env == defaults.env && *mounts == *defaults.mounts;
        self.0.warm.get().filter(|_| same)
    }

    pub(crate) fn defaults(&self) -> &Defaults {
        &self.0.defaults
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Template")
            .field("runtime", &self.0.runtime)
            .field("defaults", &self.0.defaults)
            .finish_non_exhaustive()
    }
}

/// Builds a [`Template`].
#[must_use = "a builder does nothing until `build`"]
pub struct TemplateBuilder {
    runtime: Runtime,
    runtime_path: Option<PathBuf>,
    cache_dir: CacheDir,
    defaults: Defaults,
    compiling: Option<Box<dyn Fn() + Send>>,
}

enum CacheDir {
    Default,
    Off,
    At(PathBuf),
}

impl TemplateBuilder {
    /// The runtime's component, or the folder that holds it. Without it, see
    /// [`Runtime::resolve`].
    pub fn runtime_path(mut self, path: impl Into<PathBuf>) -> Self {
        self.runtime_path = Some(path.into());
        self
    }

    /// Where compiled code is kept; `None` keeps nothing and compiles each
    /// time. Default: [`default_cache_dir`](crate::default_cache_dir).
    pub fn cache_dir(mut self, folder: Option<PathBuf>) -> Self {
        self.cache_dir = folder.map_or(CacheDir::Off, CacheDir::At);
        self
    }

    /// The memory limit of each sandbox, in bytes. Default: 256 MiB.
    pub fn max_memory(mut self, bytes: usize) -> Self {
        self.defaults.limits.max_memory = bytes;
        self
    }

    /// All limits of each sandbox.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.defaults.limits = limits;
        self
    }

    /// Code that runs in each sandbox before its own scripts.
    ///
    /// It runs once, when the template is built, and sandboxes are copies of
    /// the interpreter in which it ran: so what it imports and prepares costs
    /// them nothing. Then it has the time that the template's limits allow, and
    /// at most a minute if they allow any. A prelude that asks for hostcalls or HTTP, writes output
    /// or throws runs when each sandbox starts instead, and so it does in
    /// sandboxes that have another environment or other mounts than the
    /// template.
    pub fn prelude(mut self, source: impl Into<String>) -> Self {
        self.defaults.prelude = Some(source.into());
        self
    }

    /// A folder that each sandbox sees.
    pub fn mount(mut self, mount: Mount) -> Self {
        self.defaults.mounts.push(mount);
        self
    }

    /// An environment variable of each sandbox.
    pub fn env(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.defaults.env.insert(key.into(), value.into());
        self
    }

    /// Called when the runtime is not in the cache and has to be compiled,
    /// which takes seconds.
    pub fn on_compile(mut self, compiling: impl Fn() + Send + 'static) -> Self {
        self.compiling = Some(Box::new(compiling));
        self
    }

    /// Finds, compiles if need be, and loads the runtime.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] for an option that cannot be or a runtime
    /// that cannot be found, [`Error::Internal`] for trouble with the cache.
    pub async fn build(self) -> Result<Template, Error> {
        let template = tokio::task::spawn_blocking(move || self.build_blocking())
            .await
            .map_err(|error| Error::internal("building the template", error))??;
        if let Some(state) = warm::prepare(&template).await {
            let _ = template.0.warm.set(state);
        }
        Ok(template)
    }

    fn build_blocking(self) -> Result<Template, Error> {
        for mount in &self.defaults.mounts {
            mount.validate()?;
        }
        for (key, value) in &self.defaults.env {
            validate_env(key, value)?;
        }
        let engine = engine()?;
        let path = self.runtime.resolve(self.runtime_path.as_deref())?;
        let folder = match self.cache_dir {
            CacheDir::Default => Some(cache::default_cache_dir()?),
            CacheDir::Off => None,
            CacheDir::At(folder) => Some(folder),
        };
        let compiling = self.compiling.as_deref();
        let loaded = cache::load(engine, &path, folder.as_deref(), &|| {
            if let Some(compiling) = compiling {
                compiling();
            }
        })?;
        let mut linker = Linker::new(engine);
        wasi::link(&mut linker)
            .and_then(|()| {
                contract::Sandbox::add_to_linker::<_, wasmtime::component::HasSelf<Guest>>(
                    &mut linker,
                    |guest| guest,
                )
            })
            .and_then(|()| state::link(&mut linker))
            .map_err(|error| Error::internal("linking the host's functions", error))?;
        let linked = linker
            .instantiate_pre(&loaded.component)
            .and_then(|pre| Ok((SandboxIndices::new(&pre)?, pre)));
        let (exports, pre) = linked.map_err(|error| {
            Error::InvalidArgument(format!(
                "{} is not a runtime for this version of isola: {error:#}",
                path.display()
            ))
        })?;
        let accessor = Accessor::of(&loaded.component);
        let component = Component {
            pre,
            exports,
            accessor,
            guest: loaded.guest,
            fresh: OnceCell::new(),
            in_use: InUse::default(),
        };
        let (runtime, defaults) = (self.runtime, self.defaults);
        Ok(Template(Arc::new(Shared { runtime, component, defaults, warm: OnceLock::new() })))
    }
}

impl fmt::Debug for TemplateBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TemplateBuilder")
            .field("runtime", &self.runtime)
            .field("runtime_path", &self.runtime_path)
            .field("defaults", &self.defaults)
            .finish_non_exhaustive()
    }
}

/// Refuses what no C library takes as an environment variable.
pub(crate) fn validate_env(key: &str, value: &str) -> Result<(), Error> {
    if key.is_empty() || key.contains(['=', '\0']) {
        return Err(Error::InvalidArgument(format!(
            "environment variable {key:?}: a name is not empty and has no `=` or NUL"
        )));
    }
    if value.contains('\0') {
        return Err(Error::InvalidArgument(format!(
            "environment variable {key:?}: the value contains a NUL"
        )));
    }
    Ok(())
}

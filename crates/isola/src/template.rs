//! Templates: a compiled interpreter and the default options of its sandboxes.
//!
//! The methods of a template that create sandboxes are in the modules that know
//! them: `sandbox` in `sandbox/builder.rs`, `load_snapshot` in `snapshot.rs`, `build`
//! in `warm.rs`.

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
    guest::{
        Guest,
        accessor::{self, Accessor},
    },
    limits::Limits,
    linear_memory::image::Image,
    mount::Mount,
    runtime::Runtime,
    state::{GuestState, in_use::SharedStates},
    wasi,
};

/// A compiled interpreter, from which sandboxes are created in milliseconds.
///
/// The first build on a machine compiles the runtime, which takes seconds, and
/// caches the result on disk. Cloning is cheap, and a template may be used from
/// several threads at once.
#[derive(Clone)]
pub struct Template(Arc<TemplateInner>);

struct TemplateInner {
    runtime: Runtime,
    component: LinkedComponent,
    defaults: Defaults,
    /// The state of a guest that was started and ran the prelude, if sandboxes can
    /// share it.
    warm: OnceLock<Arc<GuestState>>,
}

/// A linked component.
pub(crate) struct LinkedComponent {
    pub(crate) pre: InstancePre<Guest>,
    pub(crate) exports: SandboxIndices,
    /// The functions that copy its guests, if they can be copied.
    pub(crate) accessor: Option<Accessor>,
    /// The digest of the component, which identifies the build of the runtime.
    pub(crate) digest: String,
    /// The memory of a guest before any code has run.
    pub(crate) fresh: OnceCell<Arc<Image>>,
    /// The memory of a guest that has ended may be used by another one.
    pub(crate) reuses_memory: bool,
    /// The states of its guests that were loaded from files.
    pub(crate) shared_states: SharedStates,
}

/// The default options of a sandbox.
#[derive(Debug, Clone, Default)]
pub(crate) struct Defaults {
    pub(crate) limits: Limits,
    pub(crate) prelude: Option<String>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) env: BTreeMap<String, String>,
}

impl Defaults {
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            limits: self.limits.clone(),
            mounts: self.mounts.clone(),
            env: self.env.clone(),
            arguments: Vec::new(),
        }
    }
}

/// The options of a sandbox.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) limits: Limits,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) env: BTreeMap<String, String>,
    /// The arguments of the program.
    pub(crate) arguments: Vec<String>,
}

impl Template {
    /// Returns a builder of a template.
    pub fn builder(runtime: Runtime) -> TemplateBuilder {
        TemplateBuilder {
            runtime,
            runtime_path: None,
            cache_dir: CacheDir::Default,
            defaults: Defaults::default(),
            reuses_memory: true,
            on_compile: None,
        }
    }

    /// Returns the runtime.
    #[must_use]
    pub fn runtime(&self) -> Runtime {
        self.0.runtime
    }

    pub(crate) fn component(&self) -> &LinkedComponent {
        &self.0.component
    }

    /// Returns the state of a guest in which the prelude has run, for sandboxes with
    /// the environment and mounts with which it ran.
    pub(crate) fn warm(
        &self,
        env: &BTreeMap<String, String>,
        mounts: &[Mount],
    ) -> Option<&Arc<GuestState>> {
        let defaults = &self.0.defaults;
        let same = *env == defaults.env && *mounts == *defaults.mounts;
        self.0.warm.get().filter(|_| same)
    }

    /// Sets the state that [`warm`](Self::warm) returns.
    pub(crate) fn set_warm(&self, state: Arc<GuestState>) {
        let _ = self.0.warm.set(state);
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

/// A builder of a [`Template`].
#[must_use = "a builder does nothing until `build`"]
pub struct TemplateBuilder {
    runtime: Runtime,
    runtime_path: Option<PathBuf>,
    cache_dir: CacheDir,
    defaults: Defaults,
    reuses_memory: bool,
    on_compile: Option<Box<dyn Fn() + Send>>,
}

enum CacheDir {
    Default,
    Off,
    At(PathBuf),
}

impl TemplateBuilder {
    /// Sets the path of the runtime's component, or of its directory. For the default
    /// see [`Runtime::resolve`].
    pub fn runtime_path(mut self, path: impl Into<PathBuf>) -> Self {
        self.runtime_path = Some(path.into());
        self
    }

    /// Sets the directory of compiled code; `None` disables the cache, so that each
    /// build compiles. Default: [`default_cache_dir`](crate::default_cache_dir).
    pub fn cache_dir(mut self, dir: Option<PathBuf>) -> Self {
        self.cache_dir = dir.map_or(CacheDir::Off, CacheDir::At);
        self
    }

    /// Sets the memory limit of each sandbox, in bytes. Default: 256 MiB.
    pub fn max_memory(mut self, bytes: usize) -> Self {
        self.defaults.limits.max_memory = bytes;
        self
    }

    /// Sets all limits of each sandbox.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.defaults.limits = limits;
        self
    }

    /// Sets code that runs in each sandbox before its own scripts.
    ///
    /// It runs once, when the template is built, and sandboxes are copies of
    /// the interpreter in which it ran, so they do not repeat its imports and
    /// preparations. For this run the template's limits apply, and a wall time of
    /// one minute if they have none. A prelude that uses hostcalls or HTTP, writes
    /// output or throws runs when each sandbox starts instead. So does any prelude
    /// in sandboxes with a different environment or different mounts than the
    /// template.
    pub fn prelude(mut self, source: impl Into<String>) -> Self {
        self.defaults.prelude = Some(source.into());
        self
    }

    /// Adds a directory of the host that is mounted in each sandbox.
    pub fn mount(mut self, mount: Mount) -> Self {
        self.defaults.mounts.push(mount);
        self
    }

    /// Sets an environment variable of each sandbox.
    pub fn env(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.defaults.env.insert(key.into(), value.into());
        self
    }

    /// Sets whether memory of a sandbox that has ended is used for another one. It is set
    /// back to the content with which a sandbox begins, byte by byte, so nothing of the first
    /// sandbox is left in it; creating a sandbox takes a third of the time. Default: `true`.
    ///
    /// At most 64 MiB of memory are kept for this in a process, and none after it has run no
    /// sandbox for two seconds. On other systems than Linux memory is never used again.
    pub fn reuse_memory(mut self, reuse: bool) -> Self {
        self.reuses_memory = reuse;
        self
    }

    /// Sets a function that is called when the runtime is not in the cache and has
    /// to be compiled, which takes seconds.
    pub fn on_compile(mut self, on_compile: impl Fn() + Send + 'static) -> Self {
        self.on_compile = Some(Box::new(on_compile));
        self
    }

    /// Finds the runtime, compiles it if necessary, and loads it, without running the
    /// prelude.
    pub(crate) fn build_blocking(self) -> Result<Template, Error> {
        for mount in &self.defaults.mounts {
            mount.validate()?;
        }
        for (key, value) in &self.defaults.env {
            validate_env(key, value)?;
        }
        let engine = engine()?;
        let path = self.runtime.resolve(self.runtime_path.as_deref())?;
        let dir = match self.cache_dir {
            CacheDir::Default => Some(cache::default_cache_dir()?),
            CacheDir::Off => None,
            CacheDir::At(dir) => Some(dir),
        };
        let on_compile = self.on_compile.as_deref();
        let loaded = cache::load(engine, &path, dir.as_deref(), &|| {
            if let Some(on_compile) = on_compile {
                on_compile();
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
            .and_then(|()| accessor::link(&mut linker))
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
        let memory = loaded.memory.map(Arc::new);
        if let Some(memory) = &memory {
            memory.expect_more_guests();
        }
        let component = LinkedComponent {
            pre,
            exports,
            accessor,
            digest: loaded.guest,
            fresh: OnceCell::new_with(memory),
            reuses_memory: self.reuses_memory,
            shared_states: SharedStates::default(),
        };
        let (runtime, defaults) = (self.runtime, self.defaults);
        Ok(Template(Arc::new(TemplateInner {
            runtime,
            component,
            defaults,
            warm: OnceLock::new(),
        })))
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

/// Validates an environment variable by the rules of C libraries.
pub(crate) fn validate_env(key: &str, value: &str) -> Result<(), Error> {
    if key.is_empty() || key.contains(['=', '\0']) {
        return Err(Error::InvalidArgument(format!(
            "environment variable {key:?}: the name must not be empty or contain `=` or NUL"
        )));
    }
    if value.contains('\0') {
        return Err(Error::InvalidArgument(format!(
            "environment variable {key:?}: the value contains a NUL"
        )));
    }
    Ok(())
}

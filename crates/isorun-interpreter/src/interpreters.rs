//! All interpreters of a server, by id.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use isola::{Sandbox, SandboxBuilder};
use isorun_agent::SandboxId;
use isorun_egress::{Plan, context::ProxyContext, proxy::EgressProxy};
use tokio::runtime::{Builder, Handle, Runtime};

use crate::{
    checkpoint,
    error::{Error, Result},
    image::InterpreterImage,
    interpreter::{Interpreter, Usage},
    network::EgressHost,
    spec::InterpreterSpec,
    templates::{self, Templates},
    turns::Turns,
};

/// How much lower the priority of the guests' threads is than that of the threads that
/// serve requests, as a nice value.
const NICENESS: i32 = 5;

/// The number of threads for timers and requests of guests, and for their creation.
const IO_THREADS: usize = 2;

/// All interpreters of a server.
pub struct Interpreters {
    table: RwLock<HashMap<SandboxId, Arc<Interpreter>>>,
    templates: Templates,
    proxies: Arc<ProxyContext>,
    /// The threads on which guests compute.
    turns: Arc<Turns>,
    /// Runs the timers and requests of guests; `None` once this is dropped.
    runtime: Option<Runtime>,
    handle: Handle,
}

impl Interpreters {
    /// Starts the threads of guests. `cache_dir` is for compiled code if
    /// the user has no cache directory.
    ///
    /// # Errors
    ///
    /// The threads cannot be started.
    pub fn open(proxies: Arc<ProxyContext>, cache_dir: PathBuf) -> Result<Arc<Self>> {
        let failed = || Error::io("cannot start the threads of interpreters");
        let runtime = Builder::new_multi_thread()
            .worker_threads(IO_THREADS)
            .thread_name("interpreters")
            .enable_all()
            .build()
            .map_err(failed())?;
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        let turns = Turns::start(count, runtime.handle(), lower_priority).map_err(failed())?;
        Ok(Arc::new(Self {
            table: RwLock::default(),
            templates: Templates::new(cache_dir),
            proxies,
            turns: Arc::new(turns),
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
        }))
    }

    /// Finds the runtime of an image.
    ///
    /// # Errors
    ///
    /// [`Error::RuntimeMissing`] says what is missing and how to install it.
    pub fn find_runtime(image: InterpreterImage) -> Result<PathBuf> {
        templates::find(image)
    }

    /// Loads the runtime of an image, so that the first interpreter is created fast.
    ///
    /// # Errors
    ///
    /// [`Error::RuntimeMissing`], or the runtime cannot be compiled.
    pub async fn preload(self: &Arc<Self>, image: InterpreterImage) -> Result<()> {
        let this = Arc::clone(self);
        let loading = async move { this.templates.get(image).await.map(drop) };
        self.as_task(loading).await
    }

    /// Creates an interpreter.
    ///
    /// # Errors
    ///
    /// The spec is not valid, or the runtime is missing.
    pub async fn create(self: &Arc<Self>, spec: InterpreterSpec) -> Result<()> {
        self.add(spec, None).await
    }

    /// Creates an interpreter from a directory that [`save`](Self::save) has written.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create), and [`Error::StateRefused`] if another build of the
    /// runtime wrote the state.
    pub async fn load(self: &Arc<Self>, spec: InterpreterSpec, from: &Path) -> Result<()> {
        self.add(spec, Some(checkpoint::state_file(from))).await
    }

    async fn add(self: &Arc<Self>, spec: InterpreterSpec, from: Option<PathBuf>) -> Result<()> {
        spec.validate()?;
        if self.get(&spec.id).is_ok() {
            return Err(Error::AlreadyExists(spec.id));
        }
        let this = Arc::clone(self);
        let creating = async move {
            let template = this.templates.get(spec.image).await?;
            let proxy =
                EgressProxy::new(spec.id.clone(), Arc::clone(&this.proxies), spec.network.clone());
            let sandbox = match from {
                None => {
                    let sandbox = configure(template.sandbox(), &spec, &proxy).create().await?;
                    sandbox.start().await?;
                    sandbox
                }
                Some(file) => {
                    let snapshot = template.load_snapshot(file).await?;
                    configure(snapshot.sandbox(), &spec, &proxy).create().await?
                }
            };
            this.insert(&spec, proxy, sandbox)
        };
        self.as_task(creating).await
    }

    fn insert(
        &self,
        spec: &InterpreterSpec,
        proxy: Arc<EgressProxy>,
        sandbox: Sandbox,
    ) -> Result<()> {
        let (tenant, turns) = (Arc::clone(&spec.tenant), Arc::clone(&self.turns));
        let interpreter = Interpreter::new(spec.image, tenant, proxy, sandbox, turns);
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if table.contains_key(&spec.id) {
            return Err(Error::AlreadyExists(spec.id.clone()));
        }
        table.insert(spec.id.clone(), interpreter);
        Ok(())
    }

    /// Runs work as a task of the guests' runtime. It completes even if the caller is
    /// cancelled.
    pub(crate) async fn as_task<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let task = self.handle.spawn(work);
        task.await.map_err(|error| Error::Failed(format!("a task panicked: {error}")))?
    }

    /// Runs work that copies much, away from the threads of timers and requests. It
    /// completes even if the caller is cancelled.
    pub(crate) async fn as_blocking_task<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let task = self.handle.spawn_blocking(work);
        task.await.map_err(|error| Error::Failed(format!("a task panicked: {error}")))?
    }

    pub(crate) fn get(&self, id: &SandboxId) -> Result<Arc<Interpreter>> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.get(id).cloned().ok_or_else(|| Error::NotFound(id.clone()))
    }

    /// Reports whether there is an interpreter with this id.
    #[must_use]
    pub fn contains(&self, id: &SandboxId) -> bool {
        self.get(id).is_ok()
    }

    /// Waits until an interpreter ends by itself, and returns the reason.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if it does not exist, or is destroyed.
    pub async fn exited(&self, id: &SandboxId) -> Result<String> {
        let interpreter = self.get(id)?;
        interpreter.ended().await.ok_or_else(|| Error::NotFound(id.clone()))
    }

    /// Replaces the network configuration of an interpreter, and ends its requests in
    /// progress, which were allowed by the old rules.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`].
    pub fn set_network(&self, id: &SandboxId, plan: Plan) -> Result<()> {
        self.get(id)?.proxy.set_plan(plan);
        Ok(())
    }

    /// Returns the resources that an interpreter has used so far.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`].
    pub fn usage(&self, id: &SandboxId) -> Result<Usage> {
        Ok(self.get(id)?.usage())
    }

    /// Writes the state of an interpreter into an existing empty directory. Waits until it
    /// is idle, for a limited time.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] if it runs code, [`Error::StateRefused`] if it cannot be copied, and
    /// [`Error::Ended`].
    pub async fn save(&self, id: &SandboxId, into: &Path) -> Result<()> {
        let interpreter = self.get(id)?;
        let (image, into) = (interpreter.image, into.to_owned());
        let saving = interpreter.operate(move |sandbox| async move {
            let snapshot = sandbox.snapshot().await?;
            snapshot.save(checkpoint::state_file(&into)).await?;
            checkpoint::mark_complete(&into, image)
        });
        saving.await
    }

    /// Reports whether a directory has the complete state of an interpreter.
    #[must_use]
    pub fn is_complete(dir: &Path) -> bool {
        checkpoint::is_complete(dir)
    }

    /// Returns a fingerprint of everything, apart from its files, that a saved state
    /// depends on.
    #[must_use]
    pub fn fingerprint(image: InterpreterImage) -> String {
        checkpoint::fingerprint(image)
    }

    /// Destroys an interpreter with all its data, and returns the resources that it has
    /// used.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`].
    pub fn destroy(&self, id: &SandboxId) -> Result<Usage> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let interpreter = table.remove(id).ok_or_else(|| Error::NotFound(id.clone()))?;
        drop(table);
        let usage = interpreter.usage();
        interpreter.destroy();
        Ok(usage)
    }

    /// Lists all interpreters.
    #[must_use]
    pub fn list(&self) -> Vec<SandboxId> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.keys().cloned().collect()
    }
}

impl Drop for Interpreters {
    fn drop(&mut self) {
        self.turns.stop();
        if let Some(runtime) = self.runtime.take() {
            // It may be dropped on a thread of another runtime, which must not block.
            runtime.shutdown_background();
        }
    }
}

fn configure(
    mut builder: SandboxBuilder,
    spec: &InterpreterSpec,
    proxy: &Arc<EgressProxy>,
) -> SandboxBuilder {
    for (name, value) in &spec.env {
        builder = builder.env(name, value);
    }
    builder.limits(spec.limits()).host(EgressHost(Arc::clone(proxy)))
}

/// Lowers the priority of the current thread, so that requests are answered while guests
/// compute.
fn lower_priority() {
    let thread = rustix::thread::gettid();
    // Without it, guests only take more of the CPU time.
    let _ = rustix::process::setpriority_process(Some(thread), NICENESS);
}

#[cfg(test)]
mod tests;

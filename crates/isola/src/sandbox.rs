//! A sandbox: an isolated interpreter with its own state.
//!
//! ```text
//!            create            start             call, script
//!  Template ────────▶ pending ───────▶ idle ◀──────────────────▶ busy
//!                        │               │                        │
//!                        └───────────────┴──── close, cancel, ────┘
//!                                        ▼     a limit, a crash
//!                                     closed
//! ```

use std::{
    collections::BTreeMap,
    fmt, mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::Notify;
use wasmtime::{Store, UpdateDeadline, component::Instance};
use wasmtime_wasi::WasiCtx;

use crate::{
    args::Args,
    call::{Call, EventStream, Operation},
    clock::Monotonic,
    contract::{self, Config},
    cpu::{CpuClock, metered},
    engine::{HeartbeatGuard, engine},
    error::{Closed, Error, Limit, LimitExceeded},
    files::MountedFiles,
    guest::{Guest, accessor::Accessor},
    host::{DenyAll, Host},
    limits::Limits,
    mount::Mount,
    output::{Output, Stdio},
    runtime::Runtime,
    snapshot::{Settings, Snapshot},
    state::GuestState,
    template::{Template, validate_env},
};

#[cfg(test)]
mod idle;

/// An isolated interpreter.
///
/// Calls run one at a time: a second one fails with [`Error::Busy`]. Dropping a
/// call's future or stream before its end stops the guest and closes the
/// sandbox.
pub struct Sandbox {
    shared: Arc<SandboxShared>,
}

impl Sandbox {
    /// Prepares the interpreter and runs the template's prelude. Must be called
    /// once, before any other call; a second start fails with
    /// [`Error::NotPending`]. If the prelude fails, the sandbox is closed.
    ///
    /// The result of the call is `null`.
    pub fn start(&self) -> Call {
        self.operate(Operation::Start)
    }

    /// Runs source code at the top level. Scripts share their globals, and
    /// may be loaded one after another.
    ///
    /// The result of the call is `null`.
    pub fn load_script(&self, source: impl Into<String>) -> Call {
        self.load_script_as(self.shared.runtime.script_name(), source)
    }

    /// Runs source code as [`load_script`](Self::load_script) does, with a file name for
    /// tracebacks.
    pub fn load_script_as(&self, name: impl Into<String>, source: impl Into<String>) -> Call {
        self.operate(Operation::Load { name: name.into(), source: source.into() })
    }

    /// Calls a function that a script defined.
    ///
    /// Awaiting the call returns the function's result and discards its output and
    /// partial results. [`Call::stream`] returns all of them.
    pub fn run(&self, function: impl Into<String>, args: Args) -> Call {
        self.operate(Operation::Call { function: function.into(), args })
    }

    /// Runs source code at the top level and returns the value of its last
    /// expression, or `null` if it does not end in an expression. A value that
    /// JSON cannot represent is returned as a string.
    ///
    /// All evaluated code and all scripts share their globals. In Python the
    /// code may use `await` at the top level.
    pub fn evaluate(&self, source: impl Into<String>) -> Call {
        self.operate(Operation::Evaluate { source: source.into() })
    }

    /// Calls a function and returns its events: [`run`](Self::run) with
    /// [`Call::stream`].
    ///
    /// # Errors
    ///
    /// The sandbox is busy, closed or not running, or an argument is invalid.
    pub fn run_stream(
        &self,
        function: impl Into<String>,
        args: Args,
    ) -> Result<EventStream, Error> {
        self.run(function, args).stream()
    }

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
        let shared = Arc::clone(&self.shared);
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
        let host = Arc::clone(&self.shared.host);
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

    /// Shuts the interpreter down and closes the sandbox.
    ///
    /// A Python guest runs the functions registered with `atexit`, finalizers and
    /// `__del__`, as `python3` does when it exits, and flushes its buffers;
    /// [`Call::stream`] returns the output. [`close`](Self::close) and dropping the
    /// sandbox run no code of the guest.
    ///
    /// The result of the call is `null`.
    pub fn finish(&self) -> Call {
        self.operate(Operation::Finish)
    }

    /// Closes the sandbox and frees its memory. A running call is stopped. Closing
    /// a closed sandbox has no effect.
    pub fn close(&self) {
        self.shared.close(Closed::ByOwner);
    }

    /// Reports whether the sandbox is closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(*self.shared.lock(), LifecycleState::Closed(_))
    }

    /// Returns the runtime.
    #[must_use]
    pub fn runtime(&self) -> Runtime {
        self.shared.runtime
    }

    pub(crate) fn shared(&self) -> &Arc<SandboxShared> {
        &self.shared
    }

    /// Reports whether the last call has written no output.
    pub(crate) fn is_silent(&self) -> bool {
        self.shared.output.is_silent()
    }

    fn operate(&self, operation: Operation) -> Call {
        Call::new(Arc::clone(&self.shared), operation)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // A running call may outlive this handle: its owner decides when it ends.
        let idle =
            matches!(*self.shared.lock(), LifecycleState::Pending(_) | LifecycleState::Idle(_));
        if idle {
            self.shared.close(Closed::ByOwner);
        }
    }
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox")
            .field("runtime", &self.shared.runtime)
            .field("state", &*self.shared.lock())
            .finish_non_exhaustive()
    }
}

/// A builder of a [`Sandbox`]. The defaults are those of the template.
#[must_use = "a builder does nothing until `create`"]
pub struct SandboxBuilder {
    template: Template,
    /// The state to continue from, of a guest that was started.
    resume_from: Option<Arc<GuestState>>,
    limits: Limits,
    mounts: Vec<Mount>,
    env: BTreeMap<String, String>,
    host: Arc<dyn Host>,
}

impl SandboxBuilder {
    pub(crate) fn new(template: Template) -> Self {
        let defaults = template.defaults();
        Self {
            limits: defaults.limits.clone(),
            mounts: defaults.mounts.clone(),
            env: defaults.env.clone(),
            host: Arc::new(DenyAll),
            resume_from: None,
            template,
        }
    }

    pub(crate) fn resuming(template: Template, state: Arc<GuestState>, settings: Settings) -> Self {
        let Settings { limits, mounts, env } = settings;
        Self { template, resume_from: Some(state), limits, mounts, env, host: Arc::new(DenyAll) }
    }

    /// Sets the memory limit, in bytes.
    pub fn max_memory(mut self, bytes: usize) -> Self {
        self.limits.max_memory = bytes;
        self
    }

    /// Sets all limits.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Adds a directory of the host that is mounted in the guest. It replaces one of
    /// the template with the same guest path.
    pub fn mount(mut self, mount: Mount) -> Self {
        self.mounts.retain(|other| other.guest != mount.guest);
        self.mounts.push(mount);
        self
    }

    /// Sets an environment variable. It replaces one of the template with the same
    /// name.
    pub fn env(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.insert(key.into(), value.into());
        self
    }

    /// Sets the handler of hostcalls and HTTP requests. Default:
    /// [`DenyAll`](crate::DenyAll).
    pub fn host(mut self, host: impl Host) -> Self {
        self.host = Arc::new(host);
        self
    }

    /// Sets the handler as [`host`](Self::host) does, for a host that is shared.
    pub fn shared_host(mut self, host: Arc<dyn Host>) -> Self {
        self.host = host;
        self
    }

    /// Creates the sandbox. It must then be started, unless it is created from a
    /// [`Snapshot`].
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] for an invalid option, such as a memory limit
    /// below what the interpreter itself needs.
    pub async fn create(self) -> Result<Sandbox, Error> {
        let resumes = self.resume_from.is_some();
        let warm = match &self.resume_from {
            Some(state) => Some(Arc::clone(state)),
            None => self.template.warm(&self.env, &self.mounts).cloned(),
        };
        let sandbox = self.instantiate(warm.clone()).await?;
        if resumes {
            sandbox.start().await?;
            // Pages are recorded with the second sandbox: the first may be the only one
            // that is created from this state.
            if let Some(state) = warm
                && state.resumed.swap(true, Ordering::Relaxed)
                && state.hot_pages.get().is_none()
            {
                let mut lease = sandbox.shared.lease(false)?;
                lease.record_hot_pages(&state).await;
                lease.release();
            }
        }
        Ok(sandbox)
    }

    /// Creates a sandbox from a state, without running code in it.
    pub(crate) async fn instantiate(
        self,
        state: Option<Arc<GuestState>>,
    ) -> Result<Sandbox, Error> {
        for (key, value) in &self.env {
            validate_env(key, value)?;
        }
        let engine = engine()?;
        let limits = Arc::new(self.limits);
        let output = Output::new(limits.max_output_size);
        let cpu = Arc::new(CpuClock::default());
        let clock = Monotonic::from(state.as_ref().map_or(0, |state| state.monotonic));
        let mounted = MountedFiles::open(&self.mounts, Arc::clone(&cpu), limits.max_held_memory)?;
        let wasi = wasi_context(&output, clock);
        let guest = Guest::new(
            Arc::clone(&limits),
            Arc::clone(&self.host),
            output.clone(),
            Arc::clone(&cpu),
            mounted,
            wasi,
        );

        let mut store = Store::new(engine, guest);
        store.limiter(|guest| &mut guest.memory);
        store.set_hostcall_fuel(limits.max_message());
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|store| {
            if let Some(exceeded) = store.data().cpu.exceeded() {
                return Err(exceeded.into());
            }
            // Lets other tasks of this thread run, and a close or the wall time limit
            // take effect.
            Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
        });

        let _heartbeat = HeartbeatGuard::acquire(engine)?;
        cpu.reset(limits.cpu_timeout);
        let component = self.template.component();
        let instance = metered(&cpu, component.pre.instantiate_async(&mut store)).await;
        let refused = store.data_mut().memory.take_refused();
        let instance = instance.map_err(|error| {
            if let Some(exceeded) = error.downcast_ref::<LimitExceeded>() {
                Error::Limit(exceeded.clone())
            } else if refused {
                Error::InvalidArgument(format!(
                    "max_memory of {} bytes is less than the interpreter itself needs",
                    limits.max_memory
                ))
            } else {
                Error::internal("cannot instantiate the interpreter", error)
            }
        })?;
        let exports = component
            .exports
            .load(&mut store, &instance)
            .map_err(|error| Error::internal("cannot load the interpreter's exports", error))?;
        let evaluates = state.as_ref().is_some_and(|state| state.evaluates);
        let warm = state.is_some();
        let shared_state = state.clone().filter(|state| state.shared);
        let mut resume_from = None;
        if let (Some(state), Some(accessor)) = (state, &component.accessor) {
            let size = state.image.len();
            resume_from = Some((accessor.clone(), Arc::clone(&state)));
            let loaded = metered(&cpu, accessor.load(&mut store, instance, state)).await;
            store.data_mut().memory.take_refused();
            if !loaded.map_err(|error| Error::internal("cannot restore the state", error))? {
                return Err(Error::InvalidArgument(format!(
                    "max_memory of {} bytes is less than the {size} bytes of memory that the \
                     interpreter already has",
                    limits.max_memory
                )));
            }
        }
        let guest = Box::new(GuestInstance {
            store,
            instance,
            exports,
            evaluates,
            resume_from,
            _shared_state: shared_state,
        });
        let settings =
            Settings { limits: Limits::clone(&limits), mounts: self.mounts, env: self.env.clone() };
        let config = Config {
            env: self.env.into_iter().collect(),
            recursion_limit: limits.max_recursion,
            max_value_size: limits.max_value_size as u64,
        };
        Ok(Sandbox {
            shared: Arc::new(SandboxShared {
                runtime: self.template.runtime(),
                limits,
                output,
                cpu,
                config: Mutex::new(Some(config)),
                prelude: self.template.defaults().prelude.clone().filter(|_| !warm),
                warm,
                template: self.template,
                settings,
                host: self.host,
                state: Mutex::new(LifecycleState::Pending(guest)),
                closing: Notify::new(),
                quick: AtomicBool::new(false),
            }),
        })
    }
}

impl fmt::Debug for SandboxBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SandboxBuilder")
            .field("runtime", &self.template.runtime())
            .field("limits", &self.limits)
            .field("mounts", &self.mounts)
            .field("env", &self.env.keys())
            .finish_non_exhaustive()
    }
}

/// The state that a sandbox's handle and its running call share.
pub(crate) struct SandboxShared {
    pub(crate) runtime: Runtime,
    pub(crate) limits: Arc<Limits>,
    pub(crate) output: Output,
    pub(crate) cpu: Arc<CpuClock>,
    /// The configuration, which the start takes.
    pub(crate) config: Mutex<Option<Config>>,
    pub(crate) prelude: Option<String>,
    /// `true` if the guest is a copy of one that was started.
    pub(crate) warm: bool,
    template: Template,
    settings: Settings,
    host: Arc<dyn Host>,
    state: Mutex<LifecycleState>,
    closing: Notify,
    /// `true` if the last call was quick.
    quick: AtomicBool,
}

/// The state in the diagram of the module's documentation.
enum LifecycleState {
    Pending(Box<GuestInstance>),
    Idle(Box<GuestInstance>),
    Busy,
    Closed(Closed),
}

/// The instance of a guest.
pub(crate) struct GuestInstance {
    pub(crate) store: Store<Guest>,
    pub(crate) instance: Instance,
    pub(crate) exports: contract::Sandbox,
    /// `true` if the helper of `evaluate` is loaded.
    pub(crate) evaluates: bool,
    /// The state that it continues from, until it is started.
    pub(crate) resume_from: Option<(Accessor, Arc<GuestState>)>,
    /// The same state, kept until the guest is dropped if other sandboxes can share it.
    _shared_state: Option<Arc<GuestState>>,
}

impl SandboxShared {
    /// Reports whether the last call was quick, and resets the flag for the next
    /// call.
    pub(crate) fn take_quick(&self) -> bool {
        self.quick.swap(false, Ordering::Relaxed)
    }

    pub(crate) fn set_quick(&self, quick: bool) {
        self.quick.store(quick, Ordering::Relaxed);
    }

    /// Takes the guest for an operation, or returns why it cannot be taken.
    pub(crate) fn lease(self: &Arc<Self>, start: bool) -> Result<Lease, Error> {
        let mut state = self.lock();
        match (mem::replace(&mut *state, LifecycleState::Busy), start) {
            (LifecycleState::Pending(guest), true) | (LifecycleState::Idle(guest), false) => {
                Ok(Lease { shared: Arc::clone(self), guest: Some(guest) })
            }
            (other, _) => {
                let error = match &other {
                    LifecycleState::Pending(_) => Error::NotRunning,
                    LifecycleState::Idle(_) => Error::NotPending,
                    LifecycleState::Busy if start => Error::NotPending,
                    LifecycleState::Busy => Error::Busy,
                    LifecycleState::Closed(why) => Error::Closed(why.clone()),
                };
                *state = other;
                Err(error)
            }
        }
    }

    /// Waits until the sandbox is closed.
    pub(crate) async fn wait_closed(&self) -> Closed {
        loop {
            let closing = self.closing.notified();
            if let LifecycleState::Closed(why) = &*self.lock() {
                return why.clone();
            }
            closing.await;
        }
    }

    fn close(&self, why: Closed) {
        let mut state = self.lock();
        if matches!(*state, LifecycleState::Closed(_)) {
            return;
        }
        let guest = mem::replace(&mut *state, LifecycleState::Closed(why));
        drop(state);
        self.closing.notify_waiters();
        // Unmapping a guest takes long, so it is done without the lock.
        drop(guest);
    }

    fn lock(&self) -> MutexGuard<'_, LifecycleState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for LifecycleState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pending(_) => "pending",
            Self::Idle(_) => "idle",
            Self::Busy => "busy",
            Self::Closed(_) => "closed",
        })
    }
}

/// The guest, taken for one operation. Dropping the lease without a release means
/// that the operation was cancelled, and closes the sandbox.
pub(crate) struct Lease {
    pub(crate) shared: Arc<SandboxShared>,
    guest: Option<Box<GuestInstance>>,
}

impl Lease {
    /// Returns the guest, which is present until the lease ends.
    pub(crate) fn guest(&mut self) -> Result<&mut GuestInstance, Error> {
        self.guest
            .as_deref_mut()
            .ok_or_else(|| Error::bug("the lease of the guest has already ended"))
    }

    /// Copies the state of the guest.
    pub(crate) async fn copy_state(&mut self) -> Result<GuestState, Error> {
        let shared = Arc::clone(&self.shared);
        let Some(accessor) = &shared.template.component().accessor else {
            return Err(Error::SnapshotRefused("this runtime does not support snapshots".into()));
        };
        let guest = self.guest()?;
        let _heartbeat = HeartbeatGuard::acquire(engine()?)?;
        shared.cpu.reset(shared.limits.cpu_timeout);
        let (store, instance, evaluates) = (&mut guest.store, guest.instance, guest.evaluates);
        metered(&shared.cpu, accessor.save(store, instance, evaluates)).await
    }

    /// Records which pages the guest has written, for later guests that continue
    /// from the same state.
    pub(crate) async fn record_hot_pages(&mut self, state: &GuestState) {
        let shared = Arc::clone(&self.shared);
        let (Some(accessor), Ok(guest)) = (&shared.template.component().accessor, self.guest())
        else {
            return;
        };
        if let Ok(pages) = accessor.trace(&mut guest.store, guest.instance).await {
            let _ = state.hot_pages.set(pages);
        }
    }

    /// Returns the guest for the next operation.
    pub(crate) fn release(mut self) {
        let guest = self.guest.take();
        let mut state = self.shared.lock();
        // The sandbox may have been closed in the meantime.
        if let (LifecycleState::Busy, Some(guest)) = (&*state, guest) {
            *state = LifecycleState::Idle(guest);
        }
    }

    /// Closes the sandbox after the guest was shut down.
    pub(crate) fn close(mut self) {
        let guest = self.guest.take();
        self.shared.close(Closed::ByOwner);
        drop(guest);
    }

    /// Closes the sandbox because the operation left the guest unusable.
    pub(crate) fn fail(self, error: &Error) {
        let first_line = error.to_string().lines().next().unwrap_or_default().to_owned();
        self.shared.close(Closed::Broken(first_line));
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.guest.is_some() {
            self.shared.close(Closed::Cancelled);
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

fn wasi_context(output: &Output, clock: Monotonic) -> WasiCtx {
    let mut wasi = WasiCtx::builder();
    wasi.monotonic_clock(clock);
    wasi.stdout(Stdio::stdout(output.clone()));
    wasi.stderr(Stdio::stderr(output.clone()));
    wasi.allow_tcp(false).allow_udp(false).allow_ip_name_lookup(false);
    wasi.build()
}

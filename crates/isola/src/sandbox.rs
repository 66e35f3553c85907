//! A sandbox: one interpreter, isolated, with a state of its own.
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
    engine::{Running, engine},
    error::{Closed, Error, Limit, LimitExceeded},
    files::MountedFiles,
    guest::Guest,
    host::{DenyAll, Host},
    limits::Limits,
    mount::Mount,
    output::{Output, Stdio},
    runtime::Runtime,
    snapshot::{
        Settings, Snapshot,
        state::{Accessor, State as Copied},
    },
    template::{Template, validate_env},
};

#[cfg(test)]
mod idle;

/// An isolated interpreter.
///
/// Calls run one at a time: a second one is refused with [`Error::Busy`].
/// Dropping a call's future or stream half-way stops the guest, and the sandbox
/// is closed then.
pub struct Sandbox {
    shared: Arc<Shared>,
}

impl Sandbox {
    /// Prepares the interpreter and runs the template's prelude. To be called
    /// once, before anything else; a second start fails with
    /// [`Error::NotPending`]. If the prelude fails, the sandbox is closed.
    ///
    /// What the call gives is `null`.
    pub fn start(&self) -> Call {
        self.operate(Operation::Start)
    }

    /// Runs source code at the top level. Scripts share their globals, and
    /// may be loaded one after another.
    ///
    /// What the call gives is `null`.
    pub fn load_script(&self, source: impl Into<String>) -> Call {
        self.load_script_as(self.shared.runtime.script_name(), source)
    }

    /// The same, with a file name for tracebacks.
    pub fn load_script_as(&self, name: impl Into<String>, source: impl Into<String>) -> Call {
        self.operate(Operation::Load { name: name.into(), source: source.into() })
    }

    /// Calls a function that a script defined.
    ///
    /// Awaited, the call gives the function's result, and its output and
    /// partial results are dropped. [`Call::stream`] gives them all.
    pub fn run(&self, function: impl Into<String>, args: Args) -> Call {
        self.operate(Operation::Call { function: function.into(), args })
    }

    /// Runs source code at the top level and gives the value of its last
    /// expression, or `null` if it ends in none. A value that JSON cannot hold
    /// is given as a text.
    ///
    /// Pieces of code share their globals with each other and with scripts.
    /// In Python they may `await` at their top level.
    pub fn evaluate(&self, source: impl Into<String>) -> Call {
        self.operate(Operation::Evaluate { source: source.into() })
    }

    /// The same as [`run`](Self::run) with [`Call::stream`].
    ///
    /// # Errors
    ///
    /// The sandbox is busy, closed or not running, or an argument cannot be.
    pub fn run_stream(
        &self,
        function: impl Into<String>,
        args: Args,
    ) -> Result<EventStream, Error> {
        self.run(function, args).stream()
    }

    /// Copies the interpreter as it is: its globals, imports, suspended
    /// generators. The sandbox goes on, and knows nothing of it.
    ///
    /// It takes as long as copying the memory that is in use, a millisecond for
    /// a few megabytes; sandboxes are created from it in a fraction of that.
    /// Other tasks go on in the meantime. A snapshot that is given up half-way
    /// is made to its end, and until then the sandbox is busy.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] while a call is in flight, [`Error::NotRunning`] before
    /// the start, [`Error::Closed`] afterwards, and [`Error::SnapshotRefused`]
    /// if the guest has a file or another handle of the host open: which one,
    /// is in the message.
    pub fn snapshot(&self) -> impl Future<Output = Result<Snapshot, Error>> + Send + use<> {
        let shared = Arc::clone(&self.shared);
        async move {
            let lease = shared.lease(false)?;
            // A task of its own: whoever gives up half-way does not end the
            // guest, which is only looked at.
            let copying = snapshot_of(shared, lease);
            match tokio::runtime::Handle::try_current() {
                Ok(tokio) => tokio
                    .spawn(copying)
                    .await
                    .map_err(|error| Error::internal("copying the guest", error))?,
                Err(_) => copying.await,
            }
        }
    }

    /// Creates `count` sandboxes that go on from where this one is, with its
    /// limits, mounts, environment and host. Each is on its own from there.
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

    /// Ends the interpreter in order and closes the sandbox.
    ///
    /// A Python guest runs what is registered with `atexit`, finalizers and
    /// `__del__`, as `python3` does at its end, and writes what is still
    /// buffered; [`Call::stream`] gives the output. [`close`](Self::close) and
    /// dropping the sandbox run no code of the guest.
    ///
    /// What the call gives is `null`.
    pub fn finish(&self) -> Call {
        self.operate(Operation::Finish)
    }

    /// Closes the sandbox and frees its memory. A call that is running is
    /// stopped, wherever it is. Closing twice is fine.
    pub fn close(&self) {
        self.shared.close(Closed::ByOwner);
    }

    /// Whether it is closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(*self.shared.lock(), State::Closed(_))
    }

    /// The interpreter.
    #[must_use]
    pub fn runtime(&self) -> Runtime {
        self.shared.runtime
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Whether the last call has written nothing.
    pub(crate) fn is_silent(&self) -> bool {
        self.shared.output.is_silent()
    }

    fn operate(&self, operation: Operation) -> Call {
        Call::new(Arc::clone(&self.shared), operation)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // A call may outlive this handle: it goes on, as its own owner wants.
        let idle = matches!(*self.shared.lock(), State::Pending(_) | State::Idle(_));
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

/// Creates a [`Sandbox`]. What is not given here is as in its template.
#[must_use = "a builder does nothing until `create`"]
pub struct SandboxBuilder {
    template: Template,
    /// The state to go on from, of a guest that was started.
    from: Option<Arc<Copied>>,
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
            from: None,
            template,
        }
    }

    pub(crate) fn resuming(template: Template, from: Arc<Copied>, settings: Settings) -> Self {
        let Settings { limits, mounts, env } = settings;
        Self { template, from: Some(from), limits, mounts, env, host: Arc::new(DenyAll) }
    }

    /// The memory limit in bytes.
    pub fn max_memory(mut self, bytes: usize) -> Self {
        self.limits.max_memory = bytes;
        self
    }

    /// All limits.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// A folder that the guest sees. It replaces one of the template at the
    /// same guest path.
    pub fn mount(mut self, mount: Mount) -> Self {
        self.mounts.retain(|other| other.guest != mount.guest);
        self.mounts.push(mount);
        self
    }

    /// An environment variable. It replaces one of the template.
    pub fn env(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.insert(key.into(), value.into());
        self
    }

    /// Who answers hostcalls and HTTP requests. Default:
    /// [`DenyAll`](crate::DenyAll).
    pub fn host(mut self, host: impl Host) -> Self {
        self.host = Arc::new(host);
        self
    }

    /// The same, for a host that is shared.
    pub fn shared_host(mut self, host: Arc<dyn Host>) -> Self {
        self.host = host;
        self
    }

    /// Creates the sandbox. It is still to be started, unless it goes on from a
    /// [`Snapshot`].
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] for an option that cannot be, such as a
    /// memory limit below what the interpreter itself needs.
    pub async fn create(self) -> Result<Sandbox, Error> {
        let resumes = self.from.is_some();
        let warm = match &self.from {
            Some(state) => Some(Arc::clone(state)),
            None => self.template.warm(&self.env, &self.mounts).cloned(),
        };
        let sandbox = self.instantiate(warm.clone()).await?;
        if resumes {
            sandbox.start().await?;
            // The second one shows which pages all write: the first may be the
            // only one.
            if let Some(state) = warm
                && state.used.swap(true, Ordering::Relaxed)
                && state.hot.get().is_none()
            {
                let mut lease = sandbox.shared.lease(false)?;
                lease.trace(&state).await;
                lease.give_back();
            }
        }
        Ok(sandbox)
    }

    /// A sandbox in which nothing has run but what its state has.
    pub(crate) async fn instantiate(self, state: Option<Arc<Copied>>) -> Result<Sandbox, Error> {
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
            // Others on this thread get their turn, a close and a wall time
            // limit their chance.
            Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
        });

        let _running = Running::begin(engine)?;
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
                Error::internal("the interpreter cannot be instantiated", error)
            }
        })?;
        let exports = component
            .exports
            .load(&mut store, &instance)
            .map_err(|error| Error::internal("the interpreter cannot be called", error))?;
        let evaluates = state.as_ref().is_some_and(|state| state.evaluates);
        let warm = state.is_some();
        let shared = state.clone().filter(|state| state.shared);
        let mut from = None;
        if let (Some(state), Some(accessor)) = (state, &component.accessor) {
            let needs = state.image.len();
            from = Some((accessor.clone(), Arc::clone(&state)));
            let loaded = metered(&cpu, accessor.load(&mut store, instance, state)).await;
            store.data_mut().memory.take_refused();
            if !loaded.map_err(|error| Error::internal("the state cannot be restored", error))? {
                return Err(Error::InvalidArgument(format!(
                    "max_memory of {} bytes is less than the {needs} bytes that the \
                     interpreter already has",
                    limits.max_memory
                )));
            }
        }
        let live = Box::new(Live { store, instance, exports, evaluates, from, _shared: shared });
        let settings =
            Settings { limits: Limits::clone(&limits), mounts: self.mounts, env: self.env.clone() };
        let config = Config {
            env: self.env.into_iter().collect(),
            recursion_limit: limits.max_recursion,
            max_value_size: limits.max_value_size as u64,
        };
        Ok(Sandbox {
            shared: Arc::new(Shared {
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
                state: Mutex::new(State::Pending(live)),
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

/// What a sandbox's handle and its running call share.
pub(crate) struct Shared {
    pub(crate) runtime: Runtime,
    pub(crate) limits: Arc<Limits>,
    pub(crate) output: Output,
    pub(crate) cpu: Arc<CpuClock>,
    /// Taken by the start.
    pub(crate) config: Mutex<Option<Config>>,
    pub(crate) prelude: Option<String>,
    /// The guest is a copy of one that was started.
    pub(crate) warm: bool,
    template: Template,
    settings: Settings,
    host: Arc<dyn Host>,
    state: Mutex<State>,
    closing: Notify,
    /// The last call was a quick one.
    quick: AtomicBool,
}

enum State {
    Pending(Box<Live>),
    Idle(Box<Live>),
    Busy,
    Closed(Closed),
}

/// A guest in memory.
pub(crate) struct Live {
    pub(crate) store: Store<Guest>,
    pub(crate) instance: Instance,
    pub(crate) exports: contract::Sandbox,
    /// It has the helper of `evaluate`.
    pub(crate) evaluates: bool,
    /// The state that it goes on from, until it is started.
    pub(crate) from: Option<(Accessor, Arc<Copied>)>,
    /// The same to the end, if others can have it.
    _shared: Option<Arc<Copied>>,
}

impl Shared {
    /// Whether the last call was a quick one. Who asks begins the next, of
    /// which nothing is known yet.
    pub(crate) fn take_quick(&self) -> bool {
        self.quick.swap(false, Ordering::Relaxed)
    }

    pub(crate) fn set_quick(&self, quick: bool) {
        self.quick.store(quick, Ordering::Relaxed);
    }

    /// Takes the guest for an operation.
    pub(crate) fn lease(self: &Arc<Self>, start: bool) -> Result<Lease, Error> {
        let mut state = self.lock();
        match (mem::replace(&mut *state, State::Busy), start) {
            (State::Pending(live), true) | (State::Idle(live), false) => {
                Ok(Lease { shared: Arc::clone(self), live: Some(live) })
            }
            (other, _) => {
                let error = match &other {
                    State::Pending(_) => Error::NotRunning,
                    State::Idle(_) => Error::NotPending,
                    State::Busy if start => Error::NotPending,
                    State::Busy => Error::Busy,
                    State::Closed(why) => Error::Closed(why.clone()),
                };
                *state = other;
                Err(error)
            }
        }
    }

    /// Ends when somebody closes the sandbox.
    pub(crate) async fn closed(&self) -> Closed {
        loop {
            let closing = self.closing.notified();
            if let State::Closed(why) = &*self.lock() {
                return why.clone();
            }
            closing.await;
        }
    }

    fn close(&self, why: Closed) {
        let mut state = self.lock();
        if matches!(*state, State::Closed(_)) {
            return;
        }
        let guest = mem::replace(&mut *state, State::Closed(why));
        drop(state);
        self.closing.notify_waiters();
        // Unmapping a guest takes a while; not under the lock.
        drop(guest);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pending(_) => "pending",
            Self::Idle(_) => "idle",
            Self::Busy => "busy",
            Self::Closed(_) => "closed",
        })
    }
}

/// The guest, taken out for one operation. If it is dropped without being
/// given back, the operation was cancelled and the guest is gone.
pub(crate) struct Lease {
    pub(crate) shared: Arc<Shared>,
    live: Option<Box<Live>>,
}

impl Lease {
    /// The guest. It is there until the lease ends.
    pub(crate) fn live(&mut self) -> Result<&mut Live, Error> {
        self.live.as_deref_mut().ok_or_else(|| Error::bug("the guest was given back already"))
    }

    /// Copies the state of the guest.
    pub(crate) async fn copy(&mut self) -> Result<Copied, Error> {
        let shared = Arc::clone(&self.shared);
        let Some(accessor) = &shared.template.component().accessor else {
            return Err(Error::SnapshotRefused(
                "this runtime is not built such that its interpreters can be copied".into(),
            ));
        };
        let live = self.live()?;
        let _running = Running::begin(engine()?)?;
        shared.cpu.reset(shared.limits.cpu_timeout);
        let (store, instance, evaluates) = (&mut live.store, live.instance, live.evaluates);
        metered(&shared.cpu, accessor.save(store, instance, evaluates)).await
    }

    /// Notes which pages the guest has written, for those that go on from the
    /// same state after it.
    pub(crate) async fn trace(&mut self, state: &Copied) {
        let shared = Arc::clone(&self.shared);
        let (Some(accessor), Ok(live)) = (&shared.template.component().accessor, self.live())
        else {
            return;
        };
        if let Ok(pages) = accessor.trace(&mut live.store, live.instance).await {
            let _ = state.hot.set(pages);
        }
    }

    /// The guest can take another operation.
    pub(crate) fn give_back(mut self) {
        let live = self.live.take();
        let mut state = self.shared.lock();
        // Somebody may have closed it in the meantime.
        if let (State::Busy, Some(live)) = (&*state, live) {
            *state = State::Idle(live);
        }
    }

    /// The guest has come to its end in order.
    pub(crate) fn close(mut self) {
        let live = self.live.take();
        self.shared.close(Closed::ByOwner);
        drop(live);
    }

    /// The guest did not survive the operation.
    pub(crate) fn broken(self, error: &Error) {
        let first_line = error.to_string().lines().next().unwrap_or_default().to_owned();
        self.shared.close(Closed::Broken(first_line));
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.live.is_some() {
            self.shared.close(Closed::Cancelled);
        }
    }
}

/// Copies a guest, and gives it back.
async fn snapshot_of(shared: Arc<Shared>, mut lease: Lease) -> Result<Snapshot, Error> {
    let copied = match shared.limits.timeout {
        Some(limit) => match tokio::time::timeout(limit, lease.copy()).await {
            Ok(copied) => copied,
            Err(_) => Err(Error::Limit(LimitExceeded::time(Limit::WallTime, limit))),
        },
        None => lease.copy().await,
    };
    match copied {
        Ok(state) => {
            lease.give_back();
            Ok(Snapshot::new(shared.template.clone(), Arc::new(state), shared.settings.clone()))
        }
        // The guest is as it was.
        Err(error @ Error::SnapshotRefused(_)) => {
            lease.give_back();
            Err(error)
        }
        Err(error) => {
            lease.broken(&error);
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

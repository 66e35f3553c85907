//! The builder of a sandbox.

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use wasmtime_wasi::WasiCtx;

use super::{Sandbox, instance::GuestInstance, lease::SandboxShared, lifecycle::Lifecycle};
use crate::{
    clock::Monotonic,
    contract::Config,
    cpu::CpuClock,
    error::Error,
    files::{GuestFiles, PrivateFiles},
    guest::Guest,
    host::{DenyAll, Host},
    interrupt::Interrupt,
    limits::Limits,
    mount::Mount,
    output::{Output, Stdio},
    state::GuestState,
    template::{Settings, Template, validate_env},
};

impl Template {
    /// Returns a builder of a sandbox.
    pub fn sandbox(&self) -> SandboxBuilder {
        let settings = self.defaults().settings();
        let (template, host) = (self.clone(), Arc::new(DenyAll));
        SandboxBuilder { template, resume_from: None, settings, host }
    }
}

/// A builder of a [`Sandbox`]. The defaults are those of the template.
#[must_use = "a builder does nothing until `create`"]
pub struct SandboxBuilder {
    template: Template,
    /// The state to continue from, of a guest that was started.
    resume_from: Option<Arc<GuestState>>,
    settings: Settings,
    host: Arc<dyn Host>,
}

impl SandboxBuilder {
    /// Returns a builder of a sandbox that continues from a state.
    pub(crate) fn resuming(template: Template, state: Arc<GuestState>, settings: Settings) -> Self {
        Self { template, resume_from: Some(state), settings, host: Arc::new(DenyAll) }
    }

    /// Sets the memory limit, in bytes.
    pub fn max_memory(mut self, bytes: usize) -> Self {
        self.settings.limits.max_memory = bytes;
        self
    }

    /// Sets all limits.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.settings.limits = limits;
        self
    }

    /// Adds a directory of the host that is mounted in the guest. It replaces one of
    /// the template with the same guest path.
    pub fn mount(mut self, mount: Mount) -> Self {
        self.settings.mounts.retain(|other| other.guest != mount.guest);
        self.settings.mounts.push(mount);
        self
    }

    /// Sets an environment variable. It replaces one of the template with the same
    /// name.
    pub fn env(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.env.insert(key.into(), value.into());
        self
    }

    /// Sets the arguments of the program, which follow its name in `sys.argv`, and are
    /// `scriptArgs` in JavaScript. Default: none.
    pub fn arguments(mut self, arguments: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.settings.arguments = arguments.into_iter().map(Into::into).collect();
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
    /// [`Snapshot`](crate::Snapshot).
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] for an invalid option, such as a memory limit
    /// below what the interpreter itself needs.
    pub async fn create(self) -> Result<Sandbox, Error> {
        let resumes = self.resume_from.is_some();
        let warm = match &self.resume_from {
            Some(state) => Some(Arc::clone(state)),
            None => self.template.warm(&self.settings.env, &self.settings.mounts).cloned(),
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
        let Self { template, settings, host, .. } = self;
        for (key, value) in &settings.env {
            validate_env(key, value)?;
        }
        if settings.arguments.iter().any(|argument| argument.contains('\0')) {
            return Err(Error::InvalidArgument("an argument contains a NUL".into()));
        }
        let limits = Arc::new(settings.limits.clone());
        let output = Output::new(limits.max_output_size);
        let cpu = Arc::new(CpuClock::default());
        let interrupt = Arc::new(Interrupt::default());
        let clock = Monotonic::from(state.as_ref().map_or(0, |state| state.monotonic));
        let saved = state.as_ref().and_then(|state| state.files.as_ref());
        let private = PrivateFiles::new(saved, limits.max_storage as u64);
        let files = GuestFiles::open(
            private.clone(),
            &settings.mounts,
            Arc::clone(&cpu),
            limits.max_held_memory,
        )?;
        let guest = Guest::new(
            Arc::clone(&limits),
            Arc::clone(&host),
            output.clone(),
            Arc::clone(&cpu),
            Arc::clone(&interrupt),
            files,
            wasi_context(&output, clock),
        );
        let warm = state.is_some();
        let memory_size = guest.memory.size();
        let guest = GuestInstance::new(template.component(), guest, state).await?;
        let config = Config {
            env: settings.env.clone().into_iter().collect(),
            arguments: settings.arguments.clone(),
            own_files: limits.max_storage > 0,
            recursion_limit: limits.max_recursion,
            max_value_size: limits.max_value_size as u64,
        };
        Ok(Sandbox {
            shared: Arc::new(SandboxShared {
                runtime: template.runtime(),
                limits,
                output,
                cpu,
                interrupt,
                files: private,
                memory_size,
                config: Mutex::new(Some(config)),
                prelude: template.defaults().prelude.clone().filter(|_| !warm),
                warm,
                template,
                settings,
                host,
                lifecycle: Lifecycle::pending(Box::new(guest)),
                quick: AtomicBool::new(false),
            }),
        })
    }
}

impl fmt::Debug for SandboxBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SandboxBuilder")
            .field("runtime", &self.template.runtime())
            .field("limits", &self.settings.limits)
            .field("mounts", &self.settings.mounts)
            .field("env", &self.settings.env.keys())
            .finish_non_exhaustive()
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

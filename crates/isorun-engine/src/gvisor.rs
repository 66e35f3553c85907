//! The engine that runs sandboxes with gVisor's `runsc`.
//!
//! A sandbox is a container with a kernel of its own, gVisor's, which runs as a
//! process of the machine and handles all system calls of the guest. The command
//! `runsc` is used only to create and checkpoint containers. Everything else goes
//! over a connection to the agent, in a network namespace that has no other
//! connection.

mod cgroup;
mod checkpoint;
mod container;
mod hiding;
mod launcher;
mod link;
mod network;
mod pidfd;
mod pool;
mod spec;
mod stream;
mod tools;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use crate::engine::{
    AgentStream, Capabilities, CpuWeight, Engine, Error, Exit, Result, Root, SandboxId,
    SandboxSpec, Stats,
};
use crate::host;
pub use cgroup::version as cgroup_version;
use cgroup::{Cgroup, Hierarchies};
use container::Container;
use isorun_egress::Plan;
use isorun_egress::context::{ProxyContext, ProxyOptions};
use launcher::{BindMount, Launcher};
use pool::Pool;
use spec::Shape;
pub use tools::{Features, MIN_RUNSC_VERSION, Tools};

/// The configuration of a [`Gvisor`] engine.
#[derive(Clone, Debug)]
pub struct GvisorConfig {
    /// The directory of the engine's persistent state. Only one process can use it at a
    /// time.
    pub state_dir: PathBuf,
    /// The path of `runsc`. By default the engine searches for it.
    pub runsc: Option<PathBuf>,
    /// The path of `isorun-agent`. By default the engine searches for it.
    pub agent: Option<PathBuf>,
    /// The number of running containers in the pool, of the shape that was requested
    /// last. 2 by default. Each takes about 60 MB of memory.
    pub warm: usize,
    /// The DNS, egress policy and audit settings of all sandboxes.
    pub network: ProxyOptions,
    /// The number of created containers in the pool, in which checkpoints can be
    /// restored, of the shape of the latest checkpoint. 2 by default; the pool is empty
    /// before the first checkpoint. Each takes about 40 MB of memory.
    pub warm_created: usize,
}

impl GvisorConfig {
    /// Returns the default configuration with that state directory.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: state_dir.into(),
            runsc: None,
            agent: None,
            warm: 2,
            warm_created: 2,
            network: ProxyOptions::default(),
        }
    }
}

/// The gVisor engine. Clones share their state.
#[derive(Clone)]
pub struct Gvisor {
    inner: Arc<Inner>,
}

/// The state that all parts of the engine share.
pub struct Inner {
    state_dir: PathBuf,
    tools: Tools,
    launcher: Launcher,
    gate: Arc<ProxyContext>,
    /// The reason why sandboxes can have no network on this machine, if they cannot.
    network_unavailable: Option<String>,
    hierarchies: Hierarchies,
    /// The control group above those of the sandboxes. It differs between two engines.
    group: String,
    next: AtomicU64,
    sandboxes: Mutex<HashMap<SandboxId, Slot>>,
    pool: Pool,
    /// The paths of the machine that are hidden from sandboxes. `view` counts their
    /// changes.
    hidden: tokio::sync::Mutex<Option<hiding::HiddenPaths>>,
    view: AtomicU64,
    /// The digest of the agent, which is part of every checkpoint.
    agent_digest: String,
    /// The lock on the state directory, held until this is dropped.
    _lock: File,
}

/// The state of a sandbox id.
#[derive(Clone)]
enum Slot {
    /// The sandbox is being created or removed.
    Busy,
    Active(Arc<Container>),
    /// The sandbox was found dead after a restart of the engine and waits to be
    /// destroyed.
    Exited {
        name: String,
    },
}

impl Gvisor {
    /// Opens a state directory: finds the sandboxes of an earlier process, and removes
    /// incomplete ones.
    ///
    /// # Errors
    ///
    /// [`Error::Setup`] if the machine does not meet the requirements; the message
    /// names what is missing.
    pub async fn open(config: GvisorConfig) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Err(Error::Setup(
                "the gVisor engine creates network namespaces, mounts and control groups: run it \
                 as root"
                    .to_owned(),
            ));
        }
        let tools = Tools::find(config.runsc.as_deref(), config.agent.as_deref())?;
        if let Some(shortcoming) = tools.shortcoming() {
            tracing::warn!(version = tools.version, shortcoming, "runsc is old");
        }
        let hierarchies = Hierarchies::find()?;
        let state_dir = prepare_state_dir(&config.state_dir)?;
        let lock = lock(&state_dir)?;
        let shared = install(&state_dir, &tools)
            .map_err(Error::io(format!("cannot prepare {}", state_dir.display())))?;
        let launcher = Launcher::start(shared).map_err(|error| {
            Error::Setup(format!(
                "cannot create namespaces, which requires the privileges of root: {error}"
            ))
        })?;
        let gate = ProxyContext::new(&config.network).map_err(Error::Setup)?;
        let network_unavailable = network::unavailable_reason(&launcher, &state_dir).await;
        if let Some(why) = &network_unavailable {
            tracing::warn!(why, "sandboxes cannot have a network on this machine");
        }
        let agent_digest = digest(&tools.agent).map_err(Error::io("cannot read the agent"));
        let inner = Arc::new(Inner {
            gate,
            network_unavailable,
            group: group_name(&state_dir),
            state_dir,
            tools,
            launcher,
            hierarchies,
            next: AtomicU64::new(0),
            sandboxes: Mutex::default(),
            pool: Pool::new(config.warm, config.warm_created),
            hidden: tokio::sync::Mutex::default(),
            view: AtomicU64::new(0),
            agent_digest: agent_digest?,
            _lock: lock,
        });
        inner.hide_private().await?;
        inner.recover().await?;
        Ok(Self { inner })
    }

    /// Fills the pool with running containers of that shape, as after a `create`.
    pub fn warm(&self, spec: &SandboxSpec) {
        pool::refill(&self.inner, Shape::of(spec));
    }

    /// Fills the pool with created containers in which checkpoints of that shape can be
    /// restored, as after a checkpoint.
    pub fn warm_created(&self, spec: &SandboxSpec) {
        pool::refill_created(&self.inner, Shape::of(spec));
    }

    /// Returns the state that the egress proxies of all sandboxes share.
    pub fn proxies(&self) -> Arc<ProxyContext> {
        Arc::clone(&self.inner.gate)
    }

    /// Returns the number of created containers in the pool.
    pub fn ready_created(&self) -> usize {
        self.inner.pool.ready_created()
    }

    /// Returns the number of running containers in the pool.
    pub fn ready(&self) -> usize {
        self.inner.pool.ready()
    }

    /// Returns the names of the limits that are enforced.
    fn limits(&self) -> Vec<String> {
        let mut limits = vec!["vcpus", "mem_mib", "disk_mib"];
        if self.inner.tools.features.has_cgroups_v2 {
            limits.push("pids");
        }
        limits.into_iter().map(str::to_owned).collect()
    }

    fn container(&self, id: &SandboxId) -> Result<Arc<Container>> {
        match self.inner.sandboxes().get(id) {
            Some(Slot::Active(container)) => Ok(Arc::clone(container)),
            Some(Slot::Exited { .. }) => {
                Err(Error::Dead { id: id.clone(), exit: unobserved_exit() })
            }
            Some(Slot::Busy) | None => Err(Error::NotFound(id.clone())),
        }
    }

    fn running(&self, id: &SandboxId) -> Result<Arc<Container>> {
        let container = self.container(id)?;
        match container.exit() {
            Some(exit) => Err(Error::Dead { id: id.clone(), exit }),
            None => Ok(container),
        }
    }

    /// Takes a checkpoint and removes the sandbox. The exit of the sandbox meanwhile is
    /// not reported.
    async fn checkpoint_and_remove(
        &self,
        id: &SandboxId,
        container: &Arc<Container>,
        into: &Path,
    ) -> Result<()> {
        self.inner.sandboxes().insert(id.clone(), Slot::Busy);
        let written = checkpoint::write(&self.inner, container, into, false).await;
        if written.is_err() {
            // The sandbox may still run; if it does not, its exit is reported now.
            self.inner.sandboxes().insert(id.clone(), Slot::Active(Arc::clone(container)));
            return written;
        }
        let removed = container::remove(&self.inner, &container.name).await;
        match removed {
            Ok(()) => {
                self.inner.sandboxes().remove(id);
            }
            Err(ref error) => {
                tracing::error!(%error, "cannot remove a sandbox after its checkpoint");
                let name = container.name.clone();
                self.inner.sandboxes().insert(id.clone(), Slot::Exited { name });
            }
        }
        Ok(())
    }

    /// Creates or restores a sandbox, in a task of its own: if the caller is cancelled,
    /// the task completes or undoes the work.
    async fn create_or_restore(&self, spec: SandboxSpec, from: Option<PathBuf>) -> Result<()> {
        spec.validate()?;
        self.inner.check_network(&spec.network)?;
        {
            let mut sandboxes = self.inner.sandboxes();
            if sandboxes.contains_key(&spec.id) {
                return Err(Error::AlreadyExists(spec.id));
            }
            sandboxes.insert(spec.id.clone(), Slot::Busy);
        }
        let inner = Arc::clone(&self.inner);
        run_to_completion(async move {
            let _foreground = inner.pool.foreground_op();
            let made = make_container(&inner, &spec, from.as_deref()).await;
            let mut sandboxes = inner.sandboxes();
            match made {
                Ok(container) => {
                    sandboxes.insert(spec.id, Slot::Active(Arc::new(container)));
                    Ok(())
                }
                Err(error) => {
                    sandboxes.remove(&spec.id);
                    Err(error)
                }
            }
        })
        .await
    }
}

#[async_trait]
impl Engine for Gvisor {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: "gvisor".to_owned(),
            version: self.inner.tools.version.clone(),
            isolation: "each sandbox has a kernel of its own, gVisor's, in an unprivileged \
                        process that can use only a small set of the machine's system calls"
                .to_owned(),
            checkpoint: true,
            network: self.inner.network_unavailable.is_none(),
            limits: self.limits(),
        }
    }

    async fn create(&self, spec: SandboxSpec) -> Result<()> {
        self.create_or_restore(spec, None).await
    }

    async fn connect(&self, id: &SandboxId) -> Result<AgentStream> {
        let container = self.running(id)?;
        match container.connect(&self.inner).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(source) => {
                // It may have exited just now.
                self.running(id)?;
                Err(Error::Io { what: "the sandbox's agent does not answer".to_owned(), source })
            }
        }
    }

    async fn exited(&self, id: &SandboxId) -> Result<Exit> {
        let container = match self.container(id) {
            Err(Error::Dead { exit, .. }) => return Ok(exit),
            other => other?,
        };
        let exit = container.exited().await;
        // The engine itself may have ended it.
        match self.inner.sandboxes().get(id) {
            Some(Slot::Active(here)) if Arc::ptr_eq(here, &container) => Ok(exit),
            _ => Err(Error::NotFound(id.clone())),
        }
    }

    async fn set_network(&self, id: &SandboxId, plan: Plan) -> Result<()> {
        self.inner.check_network(&plan)?;
        self.running(id)?.set_network(plan)
    }

    async fn set_cpu_weight(&self, id: &SandboxId, weight: CpuWeight) -> Result<()> {
        self.running(id)?.set_cpu_weight(weight)
    }

    async fn stats(&self, id: &SandboxId) -> Result<Stats> {
        let container = self.container(id)?;
        let mut stats = container.stats();
        if container.exit().is_none() {
            stats.pids = container.pids(&self.inner).await;
        }
        Ok(stats)
    }

    async fn checkpoint(&self, id: &SandboxId, into: &Path, leave_running: bool) -> Result<()> {
        let container = self.running(id)?;
        let _foreground = self.inner.pool.foreground_op();
        // The sandbox is likely to be restored soon.
        pool::refill_created(&self.inner, container.shape.clone());
        if leave_running {
            return checkpoint::write(&self.inner, &container, into, true).await;
        }
        let (engine, id, into) = (self.clone(), id.clone(), into.to_owned());
        run_to_completion(async move { engine.checkpoint_and_remove(&id, &container, &into).await })
            .await
    }

    fn is_complete(&self, checkpoint: &Path) -> bool {
        checkpoint::is_complete(checkpoint)
    }

    async fn restore(&self, spec: SandboxSpec, from: &Path) -> Result<()> {
        if !checkpoint::is_checkpoint(from) {
            return Err(Error::InvalidSpec(format!("{} is not a checkpoint", from.display())));
        }
        self.create_or_restore(spec, Some(from.to_owned())).await
    }

    fn fingerprint(&self, root: &Root) -> String {
        let root = match root {
            Root::Host => host::fingerprint(),
            // An image is content-addressed and does not change.
            Root::Directory(_) => "image".to_owned(),
        };
        format!(
            "gvisor {} systrap, agent {}, {root}",
            self.inner.tools.version, self.inner.agent_digest
        )
    }

    async fn destroy(&self, id: &SandboxId) -> Result<Stats> {
        let slot = {
            let mut sandboxes = self.inner.sandboxes();
            match sandboxes.get(id) {
                None | Some(Slot::Busy) => return Err(Error::NotFound(id.clone())),
                Some(_) => {}
            }
            sandboxes.insert(id.clone(), Slot::Busy)
        };
        let Some(slot) = slot else { return Err(Error::NotFound(id.clone())) };
        let (inner, id) = (Arc::clone(&self.inner), id.clone());
        run_to_completion(async move {
            let (name, stats) = match &slot {
                Slot::Active(container) => (container.name.clone(), container.stats()),
                Slot::Exited { name } => (name.clone(), Stats::default()),
                Slot::Busy => return Err(Error::NotFound(id)),
            };
            let removed = container::remove(&inner, &name).await;
            let mut sandboxes = inner.sandboxes();
            match removed {
                Ok(()) => {
                    sandboxes.remove(&id);
                    Ok(stats)
                }
                Err(error) => {
                    // The caller can try again.
                    sandboxes.insert(id, slot);
                    Err(error)
                }
            }
        })
        .await
    }

    async fn list(&self) -> Result<Vec<SandboxId>> {
        let mut ids: Vec<SandboxId> = self
            .inner
            .sandboxes()
            .iter()
            .filter(|(_, slot)| !matches!(slot, Slot::Busy))
            .map(|(id, _)| id.clone())
            .collect();
        ids.sort_unstable();
        Ok(ids)
    }

    async fn shutdown(&self) {
        for name in self.inner.pool.close() {
            if let Err(error) = container::remove(&self.inner, &name).await {
                tracing::warn!(container = name, %error, "cannot remove a container");
            }
        }
        self.inner.pool.wait_for_refills().await;
        if self.inner.sandboxes().is_empty() {
            // The parent of the sandboxes' control groups. It is created again when
            // needed.
            let group = self.inner.hierarchies.group(self.inner.group.clone());
            if let Err(error) = group.remove().await {
                tracing::warn!(%error, "cannot remove the engine's control group");
            }
        }
    }
}

impl Inner {
    fn sandboxes(&self) -> MutexGuard<'_, HashMap<SandboxId, Slot>> {
        // Nothing panics while it holds the lock, and if it did, the map would be
        // consistent.
        self.sandboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks that a network plan can be enforced on this machine.
    fn check_network(&self, plan: &Plan) -> Result<()> {
        match &self.network_unavailable {
            Some(why) if *plan != Plan::default() => {
                Err(Error::Setup(format!("sandboxes cannot have a network on this machine: {why}")))
            }
            _ => Ok(()),
        }
    }

    fn containers(&self) -> PathBuf {
        self.state_dir.join("containers")
    }

    fn runsc_state(&self) -> PathBuf {
        self.state_dir.join("runsc")
    }

    fn skeleton(&self) -> PathBuf {
        self.state_dir.join("skeleton")
    }

    fn agent(&self) -> PathBuf {
        self.state_dir.join("agent")
    }

    fn host_image(&self) -> PathBuf {
        self.state_dir.join("host")
    }

    fn cgroup(&self, name: &str) -> Cgroup {
        self.hierarchies.group(format!("{}/{name}", self.group))
    }

    /// Returns a name that no container of this state directory has or had. `runsc` also accepts
    /// the beginning of a name, so none begins with another: the last letter ends the number.
    fn new_name(&self) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        format!("c{}-{number}e", std::process::id())
    }

    fn runsc(&self, dir: &Path) -> Command {
        let mut command = Command::new(&self.tools.runsc);
        command.arg("--root").arg(self.runsc_state());
        command.arg("--log").arg(dir.join("runsc.log"));
        command.args([
            "--log-format=json",
            "--platform=systrap",
            "--network=sandbox",
            "--overlay2=none",
            // As many CPUs as the quota allows, not as many as the machine has.
            "--cpu-num-from-quota=true",
            "--host-uds=none",
            "--host-fifo=none",
            // Only this sandbox changes the files that it sees.
            "--file-access=exclusive",
            "--file-access-mounts=exclusive",
        ]);
        if self.tools.features.has_cgroups_v2 {
            command.arg("--in-sandbox-cgroup=v2");
        }
        // `runsc` must not inherit the environment of the server.
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.current_dir(dir);
        command
    }

    async fn run(
        &self,
        network: Option<&Arc<OwnedFd>>,
        command: Command,
        what: &str,
        dir: &Path,
    ) -> Result<()> {
        let outcome = self
            .launcher
            .run_in(network.cloned(), command, dir)
            .await
            .map_err(Error::io(format!("cannot run {what}")))?;
        outcome.map_err(|text| Error::Failed(format!("{what} failed: {text}")))
    }

    /// Takes over the sandboxes of an earlier process.
    async fn recover(&self) -> Result<()> {
        let mut names: Vec<String> = fs::read_dir(self.containers())
            .map_err(Error::io("cannot read the state directory"))?
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.extend(self.hierarchies.children(&self.group));
        names.sort_unstable();
        names.dedup();
        for name in names {
            let Some(record) = container::record(self, &name) else {
                container::remove(self, &name).await?;
                continue;
            };
            let slot = match container::adopt(self, &name, &record) {
                Some(container) => {
                    // Everything is denied until the server sets the network plan.
                    container.start_proxy(self, record.spec.id.clone(), Plan::default()).await?;
                    Slot::Active(Arc::new(container))
                }
                None => Slot::Exited { name },
            };
            self.sandboxes().insert(record.spec.id, slot);
        }
        Ok(())
    }
}

async fn make_container(
    inner: &Arc<Inner>,
    spec: &SandboxSpec,
    from: Option<&Path>,
) -> Result<Container> {
    if spec.root == Root::Host {
        inner.hide_private().await?;
    }
    let shape = inner.with_view(Shape::of(spec));
    let container = match from {
        None => match inner.pool.take(&shape) {
            Some(container) => container,
            None => container::start(inner, shape.clone()).await?,
        },
        Some(from) => {
            let created = match inner.pool.take_created(&shape) {
                Some(created) => created,
                None => container::create(inner, shape.clone()).await?,
            };
            container::restore(inner, created, from).await?
        }
    };
    if let Err(error) = container.claim(inner, spec, from.is_some()).await {
        if let Err(remove_error) = container::remove(inner, &container.name).await {
            tracing::warn!(error = %remove_error, "cannot clean up after a failed start");
        }
        return Err(error);
    }
    match from {
        None => pool::refill(inner, shape),
        Some(_) => pool::refill_created(inner, shape),
    }
    Ok(container)
}

/// Runs a future to completion in a task, even if the caller is cancelled.
async fn run_to_completion<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    tokio::spawn(work)
        .await
        .unwrap_or_else(|error| Err(Error::Failed(format!("a task of the engine failed: {error}"))))
}

fn prepare_state_dir(dir: &Path) -> Result<PathBuf> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    // Independent of the umask and of an existing directory.
    let create = |path: &Path, mode: u32| {
        fs::DirBuilder::new().recursive(true).mode(mode).create(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
    };
    let prepared = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(dir)
        .and_then(|()| fs::canonicalize(dir))
        .and_then(|dir| {
            // Other users of the machine cannot list the directory, but the sandboxes'
            // own processes can traverse it.
            create(&dir, 0o711)?;
            for (name, mode) in [
                ("containers", 0o700),
                ("runsc", 0o700),
                ("skeleton", 0o755),
                ("agent", 0o755),
                ("host", 0o755),
            ] {
                create(&dir.join(name), mode)?;
            }
            for name in spec::SKELETON_DIRS {
                create(&dir.join("skeleton").join(name), 0o755)?;
            }
            Ok(dir)
        });
    prepared.map_err(Error::io(format!("cannot prepare {}", dir.display())))
}

fn lock(dir: &Path) -> Result<File> {
    let file = File::create(dir.join("lock")).map_err(Error::io("cannot create the lock file"))?;
    file.try_lock().map_err(|_| {
        Error::Setup(format!(
            "another engine uses the state directory {}: give each engine its own",
            dir.display()
        ))
    })?;
    Ok(file)
}

/// Installs the agent and the built-in image in the state directory.
fn install(dir: &Path, tools: &Tools) -> io::Result<Vec<BindMount>> {
    use std::os::unix::fs::PermissionsExt;
    let (draft, target) = (dir.join("agent.part"), dir.join("agent/isorun-agent"));
    fs::copy(&tools.agent, &draft)?;
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o755))?;
    hiding::install(dir)?;
    // Running sandboxes keep the agent that they have.
    fs::rename(draft, target)?;
    Ok(host::prepare(&dir.join("host"))?
        .into_iter()
        .map(|shared| BindMount { source: shared.source, target: shared.target })
        .collect())
}

fn digest(file: &Path) -> io::Result<String> {
    use sha2::Digest;
    let digest = sha2::Sha256::digest(fs::read(file)?);
    Ok(digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}

/// Returns the name of the control group above those of a state directory's
/// sandboxes, such as `isorun-9a3f`.
pub fn group_name(dir: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    // FNV-1a.
    let hash = dir.as_os_str().as_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("isorun-{hash:016x}")
}

fn unobserved_exit() -> Exit {
    Exit::Died("it exited while no engine was running".to_owned())
}

//! The engine on gVisor's `runsc`.
//!
//! A sandbox is a container with a kernel of its own, gVisor's, which runs as a
//! process of the machine and answers all system calls of the guest. `runsc` is
//! started from the command line, for nothing but making and checkpointing
//! containers; whatever happens inside goes over a connection to the agent,
//! through a network that has only these two in it.

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
use crate::network::Plan;
use crate::network::gate::{Gate, Options};
pub use cgroup::version as cgroup_version;
use cgroup::{Cgroup, Hierarchies};
use container::Container;
use launcher::{Bind, Launcher};
use pool::Pool;
use spec::Shape;
pub use tools::{OLDEST, Tools};

/// How a [`Gvisor`] is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the engine keeps what it has to find again; its own, and one
    /// process's at a time.
    pub state_dir: PathBuf,
    /// `runsc`; looked for by default.
    pub runsc: Option<PathBuf>,
    /// `isorun-agent`; looked for by default.
    pub agent: Option<PathBuf>,
    /// Containers held ready of the shape that was asked for last; 2 by default.
    /// Each takes about 60 MB of memory.
    pub warm: usize,
    /// How what sandboxes reach is resolved, permitted and reported.
    pub network: Options,
    /// Containers held ready to restore checkpoints in, of the shape of the
    /// latest checkpoint; 2 by default, and none before the first one. Each
    /// takes about 40 MB of memory.
    pub blank: usize,
}

impl Config {
    /// The defaults.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: state_dir.into(),
            runsc: None,
            agent: None,
            warm: 2,
            blank: 2,
            network: Options::default(),
        }
    }
}

/// The engine. Clones are the same one.
#[derive(Clone)]
pub struct Gvisor {
    inner: Arc<Inner>,
}

/// What all parts of the engine share.
pub struct Inner {
    state_dir: PathBuf,
    tools: Tools,
    launcher: Launcher,
    gate: Arc<Gate>,
    /// Why connections cannot be taken to the proxy, if so: then there are none.
    no_network: Option<String>,
    hierarchies: Hierarchies,
    /// The group above those of the sandboxes; tells two engines apart.
    group: String,
    next: AtomicU64,
    sandboxes: Mutex<HashMap<SandboxId, Slot>>,
    pool: Pool,
    /// What of the machine sandboxes do not see, and how often that changed.
    hidden: tokio::sync::Mutex<Option<hiding::Hidden>>,
    view: AtomicU64,
    /// The digest of the agent, which is part of every checkpoint.
    agent: String,
    /// Held as long as this lives.
    _lock: File,
}

/// What is known of an id.
#[derive(Clone)]
enum Slot {
    /// It is being made, or being removed.
    Busy,
    Here(Arc<Container>),
    /// Found dead after a restart; waits to be destroyed.
    Gone {
        name: String,
    },
}

impl Gvisor {
    /// Opens a state folder: finds the sandboxes of an earlier process again, and
    /// removes what it left half-done.
    ///
    /// # Errors
    ///
    /// [`Error::Setup`] says what the machine lacks.
    pub async fn open(config: Config) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Err(Error::Setup(
                "the gVisor engine makes networks, mounts and control groups: run it as root"
                    .to_owned(),
            ));
        }
        let tools = Tools::find(config.runsc.as_deref(), config.agent.as_deref())?;
        let hierarchies = Hierarchies::find()?;
        let state_dir = prepare_folder(&config.state_dir)?;
        let lock = lock(&state_dir)?;
        let shared = install(&state_dir, &tools)
            .map_err(Error::io(format!("cannot prepare {}", state_dir.display())))?;
        let launcher = Launcher::start(shared)
            .map_err(Error::io("cannot enter namespaces of its own, as root has to be able to"))?;
        let gate = Gate::open(&config.network).map_err(Error::Setup)?;
        let no_network = network::trouble(&launcher, &state_dir).await;
        if let Some(why) = &no_network {
            tracing::warn!(why, "sandboxes can have no network here");
        }
        let agent = digest(&tools.agent).map_err(Error::io("cannot read the agent"));
        let inner = Arc::new(Inner {
            gate,
            no_network,
            group: group_name(&state_dir),
            state_dir,
            tools,
            launcher,
            hierarchies,
            next: AtomicU64::new(0),
            sandboxes: Mutex::default(),
            pool: Pool::new(config.warm, config.blank),
            hidden: tokio::sync::Mutex::default(),
            view: AtomicU64::new(0),
            agent: agent?,
            _lock: lock,
        });
        inner.hide_private().await?;
        inner.recover().await?;
        Ok(Self { inner })
    }

    /// Makes containers of that shape ahead of time, as after a `create`.
    pub fn warm(&self, spec: &SandboxSpec) {
        pool::refill(&self.inner, Shape::of(spec));
    }

    /// Makes containers ahead of time in which checkpoints of that shape can be
    /// restored, as after a checkpoint.
    pub fn warm_blanks(&self, spec: &SandboxSpec) {
        pool::refill_blanks(&self.inner, Shape::of(spec));
    }

    /// How many containers are ready for a restore.
    pub fn ready_blanks(&self) -> usize {
        self.inner.pool.ready_blanks()
    }

    /// How many containers are ready.
    pub fn ready(&self) -> usize {
        self.inner.pool.ready()
    }

    fn container(&self, id: &SandboxId) -> Result<Arc<Container>> {
        match self.inner.sandboxes().get(id) {
            Some(Slot::Here(container)) => Ok(Arc::clone(container)),
            Some(Slot::Gone { .. }) => Err(Error::Dead { id: id.clone(), exit: gone() }),
            Some(Slot::Busy) | None => Err(Error::NotFound(id.clone())),
        }
    }

    fn living(&self, id: &SandboxId) -> Result<Arc<Container>> {
        let container = self.container(id)?;
        match container.exit() {
            Some(exit) => Err(Error::Dead { id: id.clone(), exit }),
            None => Ok(container),
        }
    }

    /// A checkpoint after which nothing is left. Meanwhile the end of the sandbox
    /// is nobody's news.
    async fn put_away(
        &self,
        id: &SandboxId,
        container: &Arc<Container>,
        into: &Path,
    ) -> Result<()> {
        self.inner.sandboxes().insert(id.clone(), Slot::Busy);
        let written = checkpoint::write(&self.inner, container, into, false).await;
        if written.is_err() {
            // It may live, and if not it has news.
            self.inner.sandboxes().insert(id.clone(), Slot::Here(Arc::clone(container)));
            return written;
        }
        let removed = container::remove(&self.inner, &container.name).await;
        match removed {
            Ok(()) => {
                self.inner.sandboxes().remove(id);
            }
            Err(ref error) => {
                tracing::error!(%error, "cannot remove what a checkpoint has left");
                let name = container.name.clone();
                self.inner.sandboxes().insert(id.clone(), Slot::Gone { name });
            }
        }
        Ok(())
    }

    /// Makes a sandbox, in a task of its own: a caller that goes away leaves
    /// nothing half-made.
    async fn make(&self, spec: SandboxSpec, from: Option<PathBuf>) -> Result<()> {
        spec.validate()?;
        self.inner.can_have(&spec.network)?;
        {
            let mut sandboxes = self.inner.sandboxes();
            if sandboxes.contains_key(&spec.id) {
                return Err(Error::AlreadyExists(spec.id));
            }
            sandboxes.insert(spec.id.clone(), Slot::Busy);
        }
        let inner = Arc::clone(&self.inner);
        finish(async move {
            let _awaited = inner.pool.awaited();
            let made = make(&inner, &spec, from.as_deref()).await;
            let mut sandboxes = inner.sandboxes();
            match made {
                Ok(container) => {
                    sandboxes.insert(spec.id, Slot::Here(Arc::new(container)));
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
                        process; the machine's kernel sees a small set of system calls of it"
                .to_owned(),
            checkpoint: true,
            network: self.inner.no_network.is_none(),
            limits: ["vcpus", "mem_mib", "disk_mib", "pids"].map(str::to_owned).to_vec(),
        }
    }

    async fn create(&self, spec: SandboxSpec) -> Result<()> {
        self.make(spec, None).await
    }

    async fn connect(&self, id: &SandboxId) -> Result<AgentStream> {
        let container = self.living(id)?;
        match container.connect(&self.inner).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(source) => {
                // It may have died just now.
                self.living(id)?;
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
        // Its end may be our doing.
        match self.inner.sandboxes().get(id) {
            Some(Slot::Here(here)) if Arc::ptr_eq(here, &container) => Ok(exit),
            _ => Err(Error::NotFound(id.clone())),
        }
    }

    async fn set_network(&self, id: &SandboxId, plan: Plan) -> Result<()> {
        self.inner.can_have(&plan)?;
        self.living(id)?.set_network(plan)
    }

    async fn set_cpu_weight(&self, id: &SandboxId, weight: CpuWeight) -> Result<()> {
        self.living(id)?.set_cpu_weight(weight)
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
        let container = self.living(id)?;
        let _awaited = self.inner.pool.awaited();
        // Whoever takes one will want it back.
        pool::refill_blanks(&self.inner, container.shape.clone());
        if leave_running {
            return checkpoint::write(&self.inner, &container, into, true).await;
        }
        let (engine, id, into) = (self.clone(), id.clone(), into.to_owned());
        finish(async move { engine.put_away(&id, &container, &into).await }).await
    }

    fn is_whole(&self, checkpoint: &Path) -> bool {
        checkpoint::is_whole(checkpoint)
    }

    async fn restore(&self, spec: SandboxSpec, from: &Path) -> Result<()> {
        if !checkpoint::is_one(from) {
            return Err(Error::InvalidSpec(format!("{} is no checkpoint", from.display())));
        }
        self.make(spec, Some(from.to_owned())).await
    }

    fn fingerprint(&self, root: &Root) -> String {
        let root = match root {
            Root::Host => host::fingerprint(),
            // Its name is made of what is in it, and nobody changes that.
            Root::Folder(_) => "image".to_owned(),
        };
        format!("gvisor {} systrap, agent {}, {root}", self.inner.tools.version, self.inner.agent)
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
        finish(async move {
            let (name, stats) = match &slot {
                Slot::Here(container) => (container.name.clone(), container.stats()),
                Slot::Gone { name } => (name.clone(), Stats::default()),
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
                    // To be tried again.
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
        self.inner.pool.quiet().await;
        if self.inner.sandboxes().is_empty() {
            // The group above all others; it is made again when it is wanted.
            let group = self.inner.hierarchies.group(self.inner.group.clone());
            if let Err(error) = group.remove().await {
                tracing::warn!(%error, "cannot remove the engine's control group");
            }
        }
    }
}

impl Inner {
    fn sandboxes(&self) -> MutexGuard<'_, HashMap<SandboxId, Slot>> {
        // Nothing panics while it holds the lock, and if it did: the map is whole.
        self.sandboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a plan can be kept here.
    fn can_have(&self, plan: &Plan) -> Result<()> {
        match &self.no_network {
            Some(why) if *plan != Plan::default() => {
                Err(Error::Setup(format!("sandboxes can have no network here: {why}")))
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

    /// A name that no container of this state folder has or had.
    fn new_name(&self) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        format!("c{}-{number}", std::process::id())
    }

    fn runsc(&self, folder: &Path) -> Command {
        let mut command = Command::new(&self.tools.runsc);
        command.arg("--root").arg(self.runsc_state());
        command.arg("--log").arg(folder.join("runsc.log"));
        command.args([
            "--log-format=json",
            "--platform=systrap",
            "--network=sandbox",
            "--overlay2=none",
            // As many CPUs as the quota allows, and not those of the machine.
            "--cpu-num-from-quota=true",
            "--host-uds=none",
            "--host-fifo=none",
            // Nothing but this sandbox changes what it sees.
            "--file-access=exclusive",
            "--file-access-mounts=exclusive",
        ]);
        // What the server has in its own environment is no business of runsc's.
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.current_dir(folder);
        command
    }

    async fn run(
        &self,
        network: Option<&Arc<OwnedFd>>,
        command: Command,
        what: &str,
        folder: &Path,
    ) -> Result<()> {
        let outcome = self
            .launcher
            .run_in(network.cloned(), command, folder)
            .await
            .map_err(Error::io(format!("cannot run {what}")))?;
        outcome.map_err(|text| Error::Failed(format!("{what} failed: {text}")))
    }

    /// Takes over from an earlier process.
    async fn recover(&self) -> Result<()> {
        let mut names: Vec<String> = fs::read_dir(self.containers())
            .map_err(Error::io("cannot read the state folder"))?
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
                    // Closed, until the server says what it may reach.
                    container.guard(self, record.spec.id.clone(), Plan::default()).await?;
                    Slot::Here(Arc::new(container))
                }
                None => Slot::Gone { name },
            };
            self.sandboxes().insert(record.spec.id, slot);
        }
        Ok(())
    }
}

async fn make(inner: &Arc<Inner>, spec: &SandboxSpec, from: Option<&Path>) -> Result<Container> {
    if spec.root == Root::Host {
        inner.hide_private().await?;
    }
    let shape = inner.with_view(Shape::of(spec));
    let container = match from {
        None => match inner.pool.take(&shape) {
            Some(container) => container,
            None => container::make(inner, shape.clone()).await?,
        },
        Some(from) => {
            let blank = match inner.pool.take_blank(&shape) {
                Some(blank) => blank,
                None => container::make_blank(inner, shape.clone()).await?,
            };
            container::restore(inner, blank, from).await?
        }
    };
    if let Err(error) = container.claim(inner, spec, from.is_some()).await {
        if let Err(trouble) = container::remove(inner, &container.name).await {
            tracing::warn!(%trouble, "cannot clean up after a failed start");
        }
        return Err(error);
    }
    match from {
        None => pool::refill(inner, shape),
        Some(_) => pool::refill_blanks(inner, shape),
    }
    Ok(container)
}

/// Runs something to its end, whether or not the caller waits for it.
async fn finish<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    tokio::spawn(work)
        .await
        .unwrap_or_else(|error| Err(Error::Failed(format!("a task of the engine ended: {error}"))))
}

fn prepare_folder(folder: &Path) -> Result<PathBuf> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    // Whatever the umask is, and whatever was there before.
    let make = |path: &Path, mode: u32| {
        fs::DirBuilder::new().recursive(true).mode(mode).create(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
    };
    let prepared = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(folder)
        .and_then(|()| fs::canonicalize(folder))
        .and_then(|folder| {
            // What is in it is of no interest to other users of the machine; the
            // sandboxes' own processes have to get through.
            make(&folder, 0o711)?;
            for (name, mode) in [
                ("containers", 0o700),
                ("runsc", 0o700),
                ("skeleton", 0o755),
                ("agent", 0o755),
                ("host", 0o755),
            ] {
                make(&folder.join(name), mode)?;
            }
            for name in spec::SKELETON {
                make(&folder.join("skeleton").join(name), 0o755)?;
            }
            Ok(folder)
        });
    prepared.map_err(Error::io(format!("cannot prepare {}", folder.display())))
}

fn lock(folder: &Path) -> Result<File> {
    let file = File::create(folder.join("lock")).map_err(Error::io("cannot make the lock"))?;
    file.try_lock().map_err(|_| {
        Error::Setup(format!("another engine uses {}: give each its own", folder.display()))
    })?;
    Ok(file)
}

/// Puts the agent and the built-in image where sandboxes find them.
fn install(folder: &Path, tools: &Tools) -> io::Result<Vec<Bind>> {
    use std::os::unix::fs::PermissionsExt;
    let (draft, place) = (folder.join("agent.part"), folder.join("agent/isorun-agent"));
    fs::copy(&tools.agent, &draft)?;
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o755))?;
    hiding::install(folder)?;
    // Sandboxes that run keep the one that they have.
    fs::rename(draft, place)?;
    Ok(host::prepare(&folder.join("host"))?
        .into_iter()
        .map(|shared| Bind { source: shared.source, target: shared.target })
        .collect())
}

fn digest(file: &Path) -> io::Result<String> {
    use sha2::Digest;
    let digest = sha2::Sha256::digest(fs::read(file)?);
    Ok(digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}

/// The name of the control group above those of a state folder's sandboxes, such
/// as `isorun-9a3f`.
pub fn group_name(folder: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    // FNV-1a.
    let hash =
        folder.as_os_str().as_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
    format!("isorun-{hash:016x}")
}

fn gone() -> Exit {
    Exit::Died("it ended while no engine watched it".to_owned())
}

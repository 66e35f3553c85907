//! The sandboxes of the server: their life cycle, forks, hibernation and snapshots, and
//! the limits of tenants. Knows nothing of HTTP.
//!
//! The modules form layers, each of which uses only those above it:
//!
//! | layer | modules |
//! |---|---|
//! | errors and checks of parameters | `error`, `validate`, `create_params` |
//! | parts | `engines`, `accounts`, `guard`, `images`, `network`, `live_run`, `runs`, `state_dirs`, `archive`, `metrics`, `cluster`, `checkpoint_files` |
//! | [`Core`], which owns them | this file; `start_engines` |
//! | operations on a run | `destroy`, `destroy_on_drop`, `hibernation`, `monitor`, `network_change`, `takeover` |
//! | new runs | `new_sandbox`, `create`, `fork`, `snapshots` |
//! | the server's own tasks | `recovery`, `retention`, `block_reports`, `guard_thread`, `membership`, `uploads` |

pub mod accounts;
mod activity;
mod archive;
pub mod block_reports;
mod checkpoint_files;
pub mod cluster;
mod cpu_weights;
pub mod create;
pub mod create_params;
pub mod destroy;
mod destroy_on_drop;
pub mod engines;
pub mod error;
pub mod fork;
pub mod guard;
mod guard_thread;
pub mod hibernation;
mod images;
pub mod live_run;
mod membership;
pub mod metrics;
mod monitor;
pub mod network;
pub mod network_change;
mod new_sandbox;
mod recovery;
mod retention;
pub mod runs;
mod shared_images;
pub mod snapshots;
pub mod start_engines;
mod state_dirs;
pub mod takeover;
pub mod uploads;
pub mod validate;

use std::{fs::File, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use isorun_blobs::{BlobOptions, Blobs};
use isorun_engine::{AgentStream, SandboxId, SandboxSpec, Stats};
use isorun_interpreter::{InterpreterImage, InterpreterSpec};
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

#[cfg(any(test, feature = "fuzzing"))]
pub use self::archive::fuzz_manifests;
use self::{
    accounts::{Accounts, agent_connections},
    archive::Archives,
    block_reports::BlockReporter,
    cluster::{Cluster, Member},
    engines::{Engines, SandboxBase, Spec},
    error::{Error, ErrorKind},
    guard::Guard,
    images::Images,
    live_run::LiveRun,
    metrics::Metrics,
    network::Settings,
    runs::Runs,
    shared_images::SharedImages,
    state_dirs::StateDirs,
    takeover::TakeOvers,
};
use crate::{
    config::Config,
    secret::Secret,
    store::{RunRow, Store},
};

/// The longest time that operations in progress may take to be recorded when the server
/// stops.
const RECORD_TIMEOUT: Duration = Duration::from_secs(5);
/// The time after which a client may retry at a node that is cut off or drained.
const DRAINING_RETRY_DELAY: Duration = Duration::from_secs(5);

/// Opens the object store of a cluster.
pub async fn open_blobs(url: &str, secret: &Secret, options: BlobOptions) -> Result<Blobs> {
    let blobs = Blobs::open(url, &secret.blob_key(), options).await;
    blobs.context("cannot use the object store of the cluster (--blobs)")
}

/// The sandboxes of a server, and everything that they need.
pub struct Core {
    pub config: Config,
    pub store: Store,
    pub secret: Secret,
    pub engines: Arc<Engines>,
    pub runs: Arc<Runs>,
    pub accounts: Accounts,
    pub guard: Arc<Guard>,
    pub metrics: Metrics,
    images: Images,
    state_dirs: StateDirs,
    archives: Archives,
    /// The membership in a cluster; `None` for a server of one machine.
    pub cluster: Option<Cluster>,
    /// The object store of the cluster.
    blobs: Option<Blobs>,
    /// The runs of other nodes that are becoming runs of this one.
    pub take_overs: TakeOvers,
    /// The URL at which other nodes reach this one.
    pub node_url: Option<String>,
    /// Cancelled when the server stops and accepts no new runs.
    pub stopping: CancellationToken,
    /// Tasks that are independent of requests. Stopping waits for them.
    pub tasks: TaskTracker,
    /// The lock of the data directory, held while the server runs.
    _lock: File,
}

impl Core {
    /// Opens the data directory or joins the cluster, and recovers the runs of an earlier
    /// server process. `member` is with the URL at which other nodes reach this one.
    pub async fn open(
        config: Config,
        engines: Arc<Engines>,
        reports: BlockReporter,
        lock: File,
        member: Option<(Member, String)>,
    ) -> Result<Arc<Self>> {
        let (store, secret, cluster, node_url) = match member {
            None => {
                let store = Store::open(&config.data_dir).with_context(|| {
                    format!("cannot open the data directory {}", config.data_dir.display())
                })?;
                (store, Secret::open(&config.data_dir)?, None, None)
            }
            Some((member, url)) => {
                let secret = member.secret.clone();
                let report = cluster::measure(&config, &engines, &url);
                let cluster = member.join(&report).await.context("cannot join the cluster")?;
                (cluster.database.clone().into(), secret, Some(cluster), Some(url))
            }
        };
        let blobs = match config.cluster.as_ref().and_then(|cluster| cluster.blobs.as_ref()) {
            Some(settings) => {
                let mut options = BlobOptions::new(config.data_dir.join("blobs"));
                options.max_cache_bytes = settings.max_cache_bytes;
                Some(open_blobs(&settings.url, &secret, options).await?)
            }
            None => None,
        };
        let accounts = Accounts::new(&config.limits, cluster.is_some());
        let server_limits = &config.limits.server;
        let guard = Arc::new(Guard::new(server_limits, server_limits.descriptors));
        let shared = cluster.as_ref().zip(blobs.as_ref()).map(|(cluster, blobs)| SharedImages {
            database: cluster.database.clone(),
            blobs: blobs.clone(),
        });
        let images = Images::open(&config, &store, &accounts, &guard, shared)?;
        let core = Arc::new(Self {
            images,
            runs: Arc::new(Runs::new(&config.limits, cluster.is_some())),
            state_dirs: StateDirs::open(&config.data_dir)?,
            archives: Archives::new(Arc::clone(&engines), secret.clone()),
            metrics: Metrics::new(),
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
            _lock: lock,
            cluster,
            blobs,
            take_overs: TakeOvers::default(),
            node_url,
            accounts,
            guard,
            secret,
            store,
            engines,
            config,
        });
        reports.start(&core);
        // Before the recovery, which may take longer than the lease.
        membership::renew_lease(&core);
        recovery::recover(&core).await?;
        membership::follow_cluster(&core);
        guard_thread::start(&core).context("cannot start the thread that guards the machine")?;
        uploads::start(&core);
        core.tasks.spawn(retention::run(Arc::downgrade(&core)));
        Ok(core)
    }

    /// Opens a connection to the agent of a run, counted for its tenant.
    pub async fn connect(&self, run: &LiveRun) -> Result<AgentStream, Error> {
        let hold = agent_connections::take(&self.accounts.descriptors, &run.tenant)?;
        let stream = self.engines.connect(&run.sandbox).await;
        let stream = stream.map_err(|error| Error::engine("cannot reach the sandbox", error))?;
        Ok(Box::new(agent_connections::CountedStream::new(stream, hold)))
    }

    /// Fails if a tenant may not create a sandbox or store data at the moment.
    fn admit(&self, tenant: &str) -> Result<(), Error> {
        if self.stopping.is_cancelled() {
            return Err(Error::new(
                ErrorKind::Stopping,
                "the server is stopping: it accepts no new runs",
            ));
        }
        if let Some(cluster) = &self.cluster {
            self.require_lease(cluster)?;
        }
        self.guard.admit(tenant)
    }

    /// Fails if a tenant may not create a new run at the moment.
    fn admit_run(&self, tenant: &str) -> Result<(), Error> {
        if self.cluster.as_ref().is_some_and(Cluster::is_draining) {
            return Err(Error::new(
                ErrorKind::Unavailable,
                "this server accepts no new runs, since its operator is draining it",
            )
            .after(DRAINING_RETRY_DELAY));
        }
        self.admit(tenant)
    }

    /// Fails if this is a node of a cluster whose lease has expired: the other nodes may have
    /// declared it dead.
    pub fn require_lease(&self, cluster: &Cluster) -> Result<(), Error> {
        if cluster.has_lease() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Unavailable,
            "this server cannot reach the database of its cluster: sandboxes keep running, and \
             can be read but not changed; try again later",
        )
        .after(DRAINING_RETRY_DELAY))
    }

    /// Measures a run, and fails unless the disk has room for a checkpoint of it.
    async fn ensure_room_for_checkpoint(&self, run: &LiveRun) -> Result<Stats, Error> {
        let stats = self.engines.stats(&run.sandbox).await;
        let stats = stats.map_err(|error| Error::engine("cannot measure the sandbox", error))?;
        self.state_dirs.ensure_free_space(
            stats.mem_bytes.saturating_add(stats.disk_used_bytes),
            self.config.limits.server.disk_reserve,
        )?;
        Ok(stats)
    }

    /// Returns the specification of a run's sandbox. Its network settings may have changed
    /// since the row was stored.
    fn spec(
        &self,
        row: &RunRow,
        sandbox: SandboxId,
        base: SandboxBase,
        network: &Settings,
    ) -> Spec {
        match base {
            SandboxBase::Linux(root) => Spec::Linux(SandboxSpec {
                vcpus: row.vcpus,
                mem_mib: row.mem_mib,
                disk_mib: row.disk_mib,
                pids: self.config.limits.pids,
                network: network.plan(),
                hostname: self.secret.hostname(row.id.as_str()),
                ..SandboxSpec::new(sandbox, root)
            }),
            SandboxBase::Interpreter { interpreter } => Spec::Interpreter(InterpreterSpec {
                id: sandbox,
                tenant: row.tenant.as_str().into(),
                image: interpreter,
                mem_mib: row.mem_mib,
                disk_mib: row.disk_mib,
                env: live_run::Defaults::parse(&row.defaults).env,
                network: network.plan(),
            }),
        }
    }

    /// Returns what the sandbox of a run with this image is made from. `held` is the sandbox
    /// or snapshot that keeps the files of the image in use.
    fn base_of(&self, image: &str, held: &str) -> Result<SandboxBase, Error> {
        match InterpreterImage::named(image) {
            Some(interpreter) => Ok(SandboxBase::Interpreter { interpreter }),
            None => self.images.root_of(image, held).map(SandboxBase::Linux),
        }
    }

    /// Keeps the files of an image in use for one more holder, like [`Self::base_of`].
    fn copy_base(&self, image: &str, holder: &str, held: &str) -> Result<SandboxBase, Error> {
        match InterpreterImage::named(image) {
            Some(interpreter) => Ok(SandboxBase::Interpreter { interpreter }),
            None => self.images.copy_hold(image, holder, held).map(SandboxBase::Linux),
        }
    }

    /// Stops the server, after its requests have completed.
    pub async fn close(self: &Arc<Self>) {
        self.stopping.cancel();
        self.end_sandboxes().await;
        if let Some(cluster) = &self.cluster
            && let Err(error) = cluster.leave().await
        {
            tracing::warn!(%error, "cannot leave the cluster");
        }
        if !self.config.keep_sandboxes {
            // Waits until operations in progress are recorded.
            self.tasks.close();
            let _ = timeout(RECORD_TIMEOUT, self.tasks.wait()).await;
        }
        self.engines.shutdown().await;
    }

    /// Reports whether there is an object store, from which checkpoints of other nodes can be
    /// restored.
    pub fn has_blobs(&self) -> bool {
        self.blobs.is_some()
    }

    /// Reports whether the cluster has declared this node dead.
    pub fn is_fenced(&self) -> bool {
        self.cluster.as_ref().is_some_and(Cluster::is_fenced)
    }

    /// Destroys all sandboxes, unless they are kept. Interpreters, which run in this process,
    /// are kept by hibernation.
    pub async fn end_sandboxes(self: &Arc<Self>) {
        if self.config.keep_sandboxes && !self.is_fenced() {
            hibernation::hibernate_interpreters(self).await;
        } else {
            destroy::destroy_all(self, "the server was stopped").await;
        }
    }
}

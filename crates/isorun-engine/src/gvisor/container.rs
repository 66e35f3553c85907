//! One container: its creation, connections, monitoring and removal.
//!
//! All that belongs to a container is in three locations, each named after the
//! container: its directory, its control group and the state that `runsc` keeps.
//! Its network namespace exists as long as its processes. So a process that finds
//! any of the three, even after a crash, can remove all.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use isorun_agent::client::{self, ClientError};
use isorun_agent::protocol::Configure;
use rustix::process::Pid;
use serde::{Deserialize, Serialize};
use tokio::sync::{RwLock, RwLockWriteGuard, watch};
use tokio::time::{sleep, timeout};

use super::cgroup::Cgroup;
use super::link::OUTSIDE_ADDRESS;
use super::network::Network;
use super::pidfd::Process;
use super::spec::{self, BundlePaths, Shape};
use super::stream::{Connections, SandboxStream};
use super::{Inner, launcher};
use crate::engine::{CpuWeight, Error, Exit, Result, Root, SandboxId, SandboxSpec, Stats};
use isorun_egress::Plan;

/// The timeout of the first response of the agent. A machine that starts fifty
/// other sandboxes at the same time is slow.
const START_TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The timeout of the agent's response to a request for its figures.
const STATS_TIMEOUT: Duration = Duration::from_secs(1);
const RECORD_FILE: &str = "record.json";

/// A container whose agent responds to requests.
#[derive(Debug)]
pub struct Container {
    pub name: String,
    pub shape: Shape,
    dir: PathBuf,
    cgroup: Cgroup,
    network: Network,
    pid: Pid,
    exit: watch::Receiver<Option<Exit>>,
    /// The open connections to the agent.
    connections: Connections,
    /// Read-locked while a connection is created, write-locked while a checkpoint is
    /// taken.
    connect_lock: RwLock<()>,
    /// The number of processes and threads inside that the agent reported last.
    pids: AtomicU64,
}

/// A container in which nothing runs yet. A root file system or a checkpoint can be
/// started or restored in it; the agent is the first program that runs.
#[derive(Debug)]
pub struct CreatedContainer {
    pub name: String,
    pub shape: Shape,
    dir: PathBuf,
    cgroup: Cgroup,
    network: Network,
}

/// The record on disk of a container that is used by a sandbox.
#[derive(Debug, Serialize, Deserialize)]
pub struct Record {
    pub spec: SandboxSpec,
    pid: i32,
}

/// Creates and starts a container whose agent responds. Removes the container on
/// failure.
pub async fn start(inner: &Arc<Inner>, shape: Shape) -> Result<Container> {
    let name = inner.new_name();
    let made = async {
        let created = set_up(inner, &name, shape).await?;
        created.runsc(inner, &["run", "--detach"], None).await?;
        let container = created.into_container(inner).await?;
        container.send_request(inner, client::info).await?;
        Ok(container)
    };
    remove_on_error(inner, &name, made.await).await
}

/// Creates a container in which a checkpoint can be restored.
pub async fn create(inner: &Arc<Inner>, shape: Shape) -> Result<CreatedContainer> {
    let name = inner.new_name();
    let made = async {
        let created = set_up(inner, &name, shape).await?;
        created.runsc(inner, &["create"], None).await?;
        // Reading a checkpoint takes more than one CPU. Nothing of a sandbox runs before.
        created.cgroup.set_cpu_quota(None)?;
        Ok(created)
    };
    remove_on_error(inner, &name, made.await).await
}

/// Restores a checkpoint. The first request to its agent is that of
/// [`Container::claim`].
pub async fn restore(
    inner: &Arc<Inner>,
    created: CreatedContainer,
    from: &Path,
) -> Result<Container> {
    let name = created.name.clone();
    let made = async {
        let mut step = vec!["restore", "--detach"];
        if inner.tools.features.restores_in_background {
            step.push("--background");
        }
        created.runsc(inner, &step, Some(from)).await?;
        created.cgroup.set_cpu_quota(Some(created.shape.vcpus))?;
        created.into_container(inner).await
    };
    remove_on_error(inner, &name, made.await).await
}

/// Removes the container if its creation failed.
async fn remove_on_error<T>(inner: &Inner, name: &str, made: Result<T>) -> Result<T> {
    if made.is_err()
        && let Err(error) = remove(inner, name).await
    {
        tracing::warn!(container = name, %error, "cannot clean up after a failed start");
    }
    made
}

/// Creates everything that a container needs before `runsc` runs.
async fn set_up(inner: &Inner, name: &str, shape: Shape) -> Result<CreatedContainer> {
    let dir = inner.containers().join(name);
    let disk = dir.join("disk");
    fs::create_dir_all(&disk).map_err(Error::io("cannot create the directory of a sandbox"))?;
    let image = match &shape.root {
        Root::Host => inner.host_image(),
        Root::Directory(dir) => dir.clone(),
    };
    if !image.is_dir() {
        return Err(Error::InvalidSpec(format!("the root {} is not a directory", image.display())));
    }
    let cgroup = inner.cgroup(name);
    let network = Network::create(inner, &dir).await?;
    let config = spec::config(
        &shape,
        &BundlePaths {
            skeleton: &inner.skeleton(),
            agent: &inner.agent(),
            image: &image,
            disk: &disk,
            cgroup: &cgroup.path(),
            network: &network.path(),
        },
    );
    fs::write(dir.join("config.json"), config.to_string())
        .map_err(Error::io("cannot write the configuration of a sandbox"))?;
    Ok(CreatedContainer { name: name.to_owned(), shape, dir, cgroup, network })
}

impl CreatedContainer {
    /// Reports whether the process of `runsc` that waits in the container is running.
    pub fn is_running(&self) -> bool {
        !self.cgroup.members().is_empty()
    }

    async fn runsc(&self, inner: &Inner, step: &[&str], from: Option<&Path>) -> Result<()> {
        let mut command = inner.runsc(&self.dir);
        command.args(step).arg("--bundle").arg(&self.dir);
        match from {
            Some(from) => command.arg("--image-path").arg(from),
            None => command.arg("--pid-file").arg(self.pid_file()),
        };
        command.arg(&self.name);
        let what = format!("runsc {}", step.first().unwrap_or(&""));
        inner.run(Some(self.network.namespace()), command, &what, &self.dir).await
    }

    fn pid_file(&self) -> PathBuf {
        self.dir.join("pid")
    }

    /// Returns the container, now that its agent runs or is about to.
    async fn into_container(self, inner: &Inner) -> Result<Container> {
        self.network.configure_outside(inner).await?;
        let pid = fs::read_to_string(self.pid_file())
            .ok()
            .and_then(|text| Pid::from_raw(text.trim().parse().ok()?))
            .ok_or_else(|| Error::Failed("runsc wrote no process id".to_owned()))?;
        self.cgroup.check_limits(self.shape.memory(), self.shape.host_pids())?;
        // Otherwise the kernel's OOM killer prefers one of the processes in which
        // gVisor runs programs. Killing that one frees no memory, since the memory
        // belongs to gVisor's own process, and leaves the sandbox hanging.
        fs::write(format!("/proc/{}/oom_score_adj", pid.as_raw_nonzero()), "1000")
            .map_err(Error::io("cannot set the OOM score of a sandbox"))?;
        let exit = watch_exit(pid, self.cgroup.clone())?;
        let Self { name, shape, dir, cgroup, network } = self;
        Ok(Container {
            name,
            shape,
            dir,
            cgroup,
            network,
            pid,
            exit,
            connections: Connections::default(),
            connect_lock: RwLock::default(),
            pids: AtomicU64::default(),
        })
    }
}

/// Finds a container that an earlier process has created. Returns `None` if it does
/// not run any more.
pub fn adopt(inner: &Inner, name: &str, record: &Record) -> Option<Container> {
    let cgroup = inner.cgroup(name);
    let pid = Pid::from_raw(record.pid)?;
    // The process id may have been reused for another process.
    if !cgroup.members().contains(&pid) {
        return None;
    }
    let network = Network::adopt(record.pid).ok()?;
    Some(Container {
        name: name.to_owned(),
        shape: Shape::of(&record.spec),
        dir: inner.containers().join(name),
        exit: watch_exit(pid, cgroup.clone()).ok()?,
        cgroup,
        network,
        pid,
        connections: Connections::default(),
        connect_lock: RwLock::default(),
        pids: AtomicU64::default(),
    })
}

/// Removes everything that belongs to a container, in any state.
pub async fn remove(inner: &Inner, name: &str) -> Result<()> {
    let cgroup = inner.cgroup(name);
    cgroup.kill().await?;
    cgroup.remove().await?;
    let state = inner.runsc_state();
    for entry in fs::read_dir(&state).into_iter().flatten().flatten() {
        let file = entry.file_name().to_string_lossy().into_owned();
        if file.starts_with(&format!("{name}_sandbox:")) || file == format!("runsc-{name}.sock") {
            let _ = fs::remove_file(entry.path());
        }
    }
    match fs::remove_dir_all(inner.containers().join(name)) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::Io {
            what: "cannot remove the directory of a sandbox".to_owned(),
            source: error,
        }),
        _ => Ok(()),
    }
}

/// Reads the record of a container, if it is used by a sandbox.
pub fn record(inner: &Inner, name: &str) -> Option<Record> {
    let bytes = fs::read(inner.containers().join(name).join(RECORD_FILE)).ok()?;
    serde_json::from_slice(&bytes).ok()
}

impl Container {
    /// Connects to the agent. Waits while a checkpoint is taken.
    pub async fn connect(&self, inner: &Inner) -> io::Result<SandboxStream> {
        let _open = self.connect_lock.read().await;
        self.dial(inner, &self.connections).await
    }

    /// Connects to the agent for the holder of [`Container::quiesce`]'s guard. The
    /// connection is not one of those that [`Container::reset_connections`] resets.
    pub async fn connect_while_quiesced(&self, inner: &Inner) -> io::Result<SandboxStream> {
        self.dial(inner, &Connections::default()).await
    }

    async fn dial(&self, inner: &Inner, connections: &Connections) -> io::Result<SandboxStream> {
        let connecting = async {
            let stream = self.network.connect(inner).await?;
            let exit = self.exit.clone();
            SandboxStream::new(stream, connections, move || {
                let mut exit = exit.clone();
                async move {
                    // An error means that the watching task has ended, so the process
                    // has too.
                    let _ = exit.wait_for(Option::is_some).await;
                }
            })
        };
        timeout(CONNECT_TIMEOUT, connecting)
            .await
            .unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
    }

    /// Quiesces connections: refuses new ones until the returned guard is dropped.
    pub async fn quiesce(&self) -> RwLockWriteGuard<'_, ()> {
        self.connect_lock.write().await
    }

    /// Resets every connection to the agent.
    pub fn reset_connections(&self) {
        self.connections.reset();
    }

    /// Assigns the container to the sandbox of a spec, and records that for later
    /// processes.
    pub async fn claim(&self, inner: &Inner, spec: &SandboxSpec, restored: bool) -> Result<()> {
        let configure = Configure {
            hostname: Some(spec.hostname.clone()),
            pids: Some(spec.pids),
            vcpus: Some(spec.vcpus),
            restored,
            // A restored sandbox has it in its files already.
            nameserver: (!restored).then_some(OUTSIDE_ADDRESS),
        };
        self.start_proxy(inner, spec.id.clone(), spec.network.clone()).await?;
        self.send_request(inner, |stream| client::configure(stream, configure.clone())).await?;
        let record = Record { spec: spec.clone(), pid: self.pid.as_raw_nonzero().get() };
        let written = serde_json::to_vec(&record).map_err(io::Error::from).and_then(|bytes| {
            let draft = self.dir.join("record.part");
            fs::write(&draft, bytes)?;
            fs::rename(draft, self.dir.join(RECORD_FILE))
        });
        written.map_err(Error::io("cannot write the record of a sandbox"))
    }

    /// Starts the proxy that all connections of the sandbox to the outside go through.
    pub async fn start_proxy(&self, inner: &Inner, id: SandboxId, plan: Plan) -> Result<()> {
        self.network.start_proxy(inner, id, plan).await
    }

    /// Changes the network policy of the sandbox.
    pub fn set_network(&self, plan: Plan) -> Result<()> {
        self.network.set_plan(plan)
    }

    /// Returns its network, for callers that have to quiesce it.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Sets its weight against the other sandboxes.
    pub fn set_cpu_weight(&self, weight: CpuWeight) -> Result<()> {
        self.cgroup.set_cpu_weight(weight)
    }

    /// Returns its resource usage.
    pub fn stats(&self) -> Stats {
        let mut stats = self.cgroup.stats();
        stats.disk_used_bytes = fs::read_dir(self.dir.join("disk"))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.metadata().ok())
            .map(|metadata| metadata.blocks() * 512)
            .sum();
        stats
    }

    /// Returns the number of processes and threads inside. While the agent does not
    /// respond, as during a checkpoint, it is the number reported last.
    pub async fn pids(&self, inner: &Inner) -> u64 {
        if let Ok(Ok(info)) = timeout(STATS_TIMEOUT, self.send_request(inner, client::info)).await {
            self.pids.store(info.pids.unwrap_or(info.processes).into(), Ordering::Relaxed);
        }
        self.pids.load(Ordering::Relaxed)
    }

    /// Returns why it exited, or `None` while it runs.
    pub fn exit(&self) -> Option<Exit> {
        self.exit.borrow().clone()
    }

    /// Waits until it exits.
    pub async fn exited(&self) -> Exit {
        let mut exit = self.exit.clone();
        loop {
            if let Some(exit) = exit.borrow_and_update().clone() {
                return exit;
            }
            if exit.changed().await.is_err() {
                return Exit::Died("its engine stopped".to_owned());
            }
        }
    }

    /// Sends a request to an agent that may not listen yet, until it responds.
    async fn send_request<T, F>(
        &self,
        inner: &Inner,
        request: impl Fn(SandboxStream) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let sending = async {
            let mut pause = Duration::from_millis(1);
            loop {
                if let Ok(stream) = self.connect(inner).await {
                    match request(stream).await {
                        Ok(answer) => return Ok(answer),
                        Err(ClientError::Disconnected) => {}
                        Err(error) => {
                            return Err(Error::Failed(format!("the agent failed: {error}")));
                        }
                    }
                }
                sleep(pause).await;
                pause = (pause * 2).min(Duration::from_millis(20));
            }
        };
        tokio::select! {
            outcome = sending => outcome,
            exit = self.exited() => {
                let output = self.agent_output();
                Err(Error::Failed(format!(
                    "a new sandbox exited before its agent responded: {exit}{output}"
                )))
            }
            () = sleep(START_TIMEOUT) => {
                Err(Error::Timeout("starting a sandbox".to_owned(), START_TIMEOUT))
            }
        }
    }

    /// Returns the output of the agent from before it served, to explain why it exited.
    fn agent_output(&self) -> String {
        let text = fs::read_to_string(self.dir.join(launcher::OUTPUT_FILE)).unwrap_or_default();
        let text: String = text.trim().chars().take(1000).collect();
        if text.is_empty() { text } else { format!(": {text}") }
    }
}

/// Watches a process and reports why it exited.
fn watch_exit(pid: Pid, cgroup: Cgroup) -> Result<watch::Receiver<Option<Exit>>> {
    let (sender, receiver) = watch::channel(None);
    let process = match Process::open(pid) {
        Ok(process) => process,
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {
            sender.send_replace(Some(exit_reason(&cgroup)));
            return Ok(receiver);
        }
        Err(error) => return Err(Error::io("cannot watch a sandbox")(error)),
    };
    tokio::spawn(async move {
        tokio::select! {
            () = process.exited() => {
                sender.send_replace(Some(exit_reason(&cgroup)));
            }
            () = sender.closed() => {}
        }
    });
    Ok(receiver)
}

fn exit_reason(cgroup: &Cgroup) -> Exit {
    if cgroup.ran_out_of_memory() {
        return Exit::OutOfMemory;
    }
    Exit::Died("its first process or gVisor exited".to_owned())
}

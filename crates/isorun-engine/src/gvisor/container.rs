//! One container: made, reached, watched and removed.
//!
//! Everything of a container is in three places, and all of them are named after
//! it: its folder, its control group and the state that `runsc` keeps. Its
//! network lives as long as its processes. So whoever finds one of them, also
//! after a crash, can remove all.

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
use super::network::{Network, OUTSIDE};
use super::pidfd::Process;
use super::spec::{self, Places, Shape};
use super::stream::{Connections, Stream};
use super::{Inner, launcher};
use crate::engine::{CpuWeight, Error, Exit, Result, Root, SandboxId, SandboxSpec, Stats};
use crate::network::Plan;

/// How long the agent may take to answer for the first time. A machine that is
/// busy with fifty others is slow.
const START: Duration = Duration::from_secs(60);
const CONNECT: Duration = Duration::from_secs(10);
/// How long the agent may take to tell its figures.
const STATS: Duration = Duration::from_secs(1);
const RECORD: &str = "record.json";

/// A container whose agent answers.
#[derive(Debug)]
pub struct Container {
    pub name: String,
    pub shape: Shape,
    folder: PathBuf,
    cgroup: Cgroup,
    network: Network,
    pid: Pid,
    exit: watch::Receiver<Option<Exit>>,
    /// Those to the agent.
    connections: Connections,
    /// Held by who makes a connection; by a checkpoint against them.
    border: RwLock<()>,
    /// Processes and threads inside, as the agent told them last.
    pids: AtomicU64,
}

/// A container in which nothing runs yet: something can be started or restored
/// in it. Its agent is the first thing that runs.
#[derive(Debug)]
pub struct Blank {
    pub name: String,
    pub shape: Shape,
    folder: PathBuf,
    cgroup: Cgroup,
    network: Network,
}

/// What is on disk about a container that is somebody's sandbox.
#[derive(Debug, Serialize, Deserialize)]
pub struct Record {
    pub spec: SandboxSpec,
    pid: i32,
}

/// Makes a container whose agent answers. What failed half-way is removed.
pub async fn make(inner: &Arc<Inner>, shape: Shape) -> Result<Container> {
    let name = inner.new_name();
    let made = async {
        let blank = set_up(inner, &name, shape).await?;
        blank.runsc(inner, &["run", "--detach"], None).await?;
        let container = blank.into_container(inner).await?;
        container.ask(inner, client::info).await?;
        Ok(container)
    };
    whole(inner, &name, made.await).await
}

/// Makes a container that waits for something to be restored in it.
pub async fn make_blank(inner: &Arc<Inner>, shape: Shape) -> Result<Blank> {
    let name = inner.new_name();
    let made = async {
        let blank = set_up(inner, &name, shape).await?;
        blank.runsc(inner, &["create"], None).await?;
        Ok(blank)
    };
    whole(inner, &name, made.await).await
}

/// Restores a checkpoint. The first question to its agent is the claim.
pub async fn restore(inner: &Arc<Inner>, blank: Blank, from: &Path) -> Result<Container> {
    let name = blank.name.clone();
    let made = async {
        blank.runsc(inner, &["restore", "--detach"], Some(from)).await?;
        blank.into_container(inner).await
    };
    whole(inner, &name, made.await).await
}

/// Removes what failed half-way.
async fn whole<T>(inner: &Inner, name: &str, made: Result<T>) -> Result<T> {
    if made.is_err()
        && let Err(trouble) = remove(inner, name).await
    {
        tracing::warn!(container = name, %trouble, "cannot clean up after a failed start");
    }
    made
}

/// All that a container needs before `runsc` comes.
async fn set_up(inner: &Inner, name: &str, shape: Shape) -> Result<Blank> {
    let folder = inner.containers().join(name);
    let disk = folder.join("disk");
    fs::create_dir_all(&disk).map_err(Error::io("cannot make the folder of a sandbox"))?;
    let image = match &shape.root {
        Root::Host => inner.host_image(),
        Root::Folder(folder) => folder.clone(),
    };
    if !image.is_dir() {
        return Err(Error::InvalidSpec(format!("the root {} is no folder", image.display())));
    }
    let cgroup = inner.cgroup(name);
    let network = Network::make(inner, &folder).await?;
    let config = spec::config(
        &shape,
        &Places {
            skeleton: &inner.skeleton(),
            agent: &inner.agent(),
            image: &image,
            disk: &disk,
            cgroup: &cgroup.path(),
            network: &network.path(),
        },
    );
    fs::write(folder.join("config.json"), config.to_string())
        .map_err(Error::io("cannot write the configuration of a sandbox"))?;
    Ok(Blank { name: name.to_owned(), shape, folder, cgroup, network })
}

impl Blank {
    /// Whether the process that waits in it is still there.
    pub fn is_alive(&self) -> bool {
        !self.cgroup.members().is_empty()
    }

    async fn runsc(&self, inner: &Inner, step: &[&str], from: Option<&Path>) -> Result<()> {
        let mut command = inner.runsc(&self.folder);
        command.args(step).arg("--bundle").arg(&self.folder);
        match from {
            Some(from) => command.arg("--image-path").arg(from),
            None => command.arg("--pid-file").arg(self.pid_file()),
        };
        command.arg(&self.name);
        let what = format!("runsc {}", step.first().unwrap_or(&""));
        inner.run(Some(self.network.namespace()), command, &what, &self.folder).await
    }

    fn pid_file(&self) -> PathBuf {
        self.folder.join("pid")
    }

    /// The container, now that its agent runs or is about to.
    async fn into_container(self, inner: &Inner) -> Result<Container> {
        self.network.open(inner).await?;
        let pid = fs::read_to_string(self.pid_file())
            .ok()
            .and_then(|text| Pid::from_raw(text.trim().parse().ok()?))
            .ok_or_else(|| Error::Failed("runsc left no process number".to_owned()))?;
        self.cgroup.check(self.shape.memory(), self.shape.host_pids())?;
        // The kernel would rather kill one of the processes in which gVisor runs
        // programs. That frees nothing, since the memory is gVisor's, and leaves
        // the sandbox hanging.
        fs::write(format!("/proc/{}/oom_score_adj", pid.as_raw_nonzero()), "1000")
            .map_err(Error::io("cannot make a sandbox the first to go"))?;
        let exit = watch(pid, self.cgroup.clone())?;
        let Self { name, shape, folder, cgroup, network } = self;
        Ok(Container {
            name,
            shape,
            folder,
            cgroup,
            network,
            pid,
            exit,
            connections: Connections::default(),
            border: RwLock::default(),
            pids: AtomicU64::default(),
        })
    }
}

/// Finds a container that an earlier process has made. `None`: it is not there
/// any more.
pub fn adopt(inner: &Inner, name: &str, record: &Record) -> Option<Container> {
    let cgroup = inner.cgroup(name);
    let pid = Pid::from_raw(record.pid)?;
    // The number may be another process's by now.
    if !cgroup.members().contains(&pid) {
        return None;
    }
    let network = Network::adopt(record.pid).ok()?;
    Some(Container {
        name: name.to_owned(),
        shape: Shape::of(&record.spec),
        folder: inner.containers().join(name),
        exit: watch(pid, cgroup.clone()).ok()?,
        cgroup,
        network,
        pid,
        connections: Connections::default(),
        border: RwLock::default(),
        pids: AtomicU64::default(),
    })
}

/// Removes all that there is of a container, whatever state it is in.
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
            what: "cannot remove the folder of a sandbox".to_owned(),
            source: error,
        }),
        _ => Ok(()),
    }
}

/// What is on disk about a container, if it is somebody's.
pub fn record(inner: &Inner, name: &str) -> Option<Record> {
    let bytes = fs::read(inner.containers().join(name).join(RECORD)).ok()?;
    serde_json::from_slice(&bytes).ok()
}

impl Container {
    /// A connection to the agent. Waits while a checkpoint is taken.
    pub async fn connect(&self, inner: &Inner) -> io::Result<Stream> {
        let _open = self.border.read().await;
        self.dial(inner, &self.connections).await
    }

    /// A connection to the agent for who holds the border. It is not one of those
    /// that are reset.
    pub async fn connect_at_border(&self, inner: &Inner) -> io::Result<Stream> {
        self.dial(inner, &Connections::default()).await
    }

    async fn dial(&self, inner: &Inner, connections: &Connections) -> io::Result<Stream> {
        let connecting = async {
            let stream = self.network.connect(inner).await?;
            let exit = self.exit.clone();
            Stream::new(stream, connections, move || {
                let mut exit = exit.clone();
                async move {
                    // An error: the watcher is gone, and so is what it watched.
                    let _ = exit.wait_for(Option::is_some).await;
                }
            })
        };
        timeout(CONNECT, connecting).await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
    }

    /// Lets no new connection in as long as the result lives.
    pub async fn close_border(&self) -> RwLockWriteGuard<'_, ()> {
        self.border.write().await
    }

    /// Resets every connection to the agent.
    pub fn reset_connections(&self) {
        self.connections.reset();
    }

    /// Makes it the sandbox of a spec, for this process and for those after it.
    pub async fn claim(&self, inner: &Inner, spec: &SandboxSpec, restored: bool) -> Result<()> {
        let configure = Configure {
            hostname: Some(spec.hostname.clone()),
            pids: Some(spec.pids),
            vcpus: Some(spec.vcpus),
            restored,
            // A copy has it in its files.
            nameserver: (!restored).then_some(OUTSIDE),
        };
        self.guard(inner, spec.id.clone(), spec.network.clone()).await?;
        self.ask(inner, |stream| client::configure(stream, configure.clone())).await?;
        let record = Record { spec: spec.clone(), pid: self.pid.as_raw_nonzero().get() };
        let written = serde_json::to_vec(&record).map_err(io::Error::from).and_then(|bytes| {
            let draft = self.folder.join("record.part");
            fs::write(&draft, bytes)?;
            fs::rename(draft, self.folder.join(RECORD))
        });
        written.map_err(Error::io("cannot write the record of a sandbox"))
    }

    /// Starts the proxy that all of its connections go through.
    pub async fn guard(&self, inner: &Inner, id: SandboxId, plan: Plan) -> Result<()> {
        self.network.guard(inner, id, plan).await
    }

    /// Changes what it reaches.
    pub fn set_network(&self, plan: Plan) -> Result<()> {
        self.network.set_plan(plan)
    }

    /// Its network, for those who have to still it.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Sets its weight against the other sandboxes.
    pub fn set_cpu_weight(&self, weight: CpuWeight) -> Result<()> {
        self.cgroup.set_cpu_weight(weight)
    }

    /// What it has used.
    pub fn stats(&self) -> Stats {
        let mut stats = self.cgroup.stats();
        stats.disk_used_bytes = fs::read_dir(self.folder.join("disk"))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.metadata().ok())
            .map(|metadata| metadata.blocks() * 512)
            .sum();
        stats
    }

    /// Returns the number of processes and threads inside. While the agent does not
    /// answer, as during a checkpoint, it is the number of the last time.
    pub async fn pids(&self, inner: &Inner) -> u64 {
        if let Ok(Ok(info)) = timeout(STATS, self.ask(inner, client::info)).await {
            self.pids.store(info.pids.unwrap_or(info.processes).into(), Ordering::Relaxed);
        }
        self.pids.load(Ordering::Relaxed)
    }

    /// Of what it died, if it did.
    pub fn exit(&self) -> Option<Exit> {
        self.exit.borrow().clone()
    }

    /// Waits for its death.
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

    /// Puts a question to an agent that may not listen yet.
    async fn ask<T, F>(&self, inner: &Inner, question: impl Fn(Stream) -> F) -> Result<T>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let asking = async {
            let mut pause = Duration::from_millis(1);
            loop {
                if let Ok(stream) = self.connect(inner).await {
                    match question(stream).await {
                        Ok(answer) => return Ok(answer),
                        Err(ClientError::Disconnected) => {}
                        Err(error) => {
                            return Err(Error::Failed(format!("the agent does not work: {error}")));
                        }
                    }
                }
                sleep(pause).await;
                pause = (pause * 2).min(Duration::from_millis(20));
            }
        };
        tokio::select! {
            outcome = asking => outcome,
            exit = self.exited() => {
                Err(Error::Failed(format!("a new sandbox ended at once: {exit}{}", self.last_words())))
            }
            () = sleep(START) => Err(Error::Timeout("starting a sandbox".to_owned(), START)),
        }
    }

    /// What the agent said before it gave up.
    fn last_words(&self) -> String {
        let text = fs::read_to_string(self.folder.join(launcher::OUTPUT)).unwrap_or_default();
        let text: String = text.trim().chars().take(1000).collect();
        if text.is_empty() { text } else { format!(": {text}") }
    }
}

/// Learns when a process ends, and why.
fn watch(pid: Pid, cgroup: Cgroup) -> Result<watch::Receiver<Option<Exit>>> {
    let (sender, receiver) = watch::channel(None);
    let process = match Process::open(pid) {
        Ok(process) => process,
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {
            sender.send_replace(Some(why(&cgroup)));
            return Ok(receiver);
        }
        Err(error) => return Err(Error::io("cannot watch a sandbox")(error)),
    };
    tokio::spawn(async move {
        tokio::select! {
            () = process.ended() => {
                sender.send_replace(Some(why(&cgroup)));
            }
            () = sender.closed() => {}
        }
    });
    Ok(receiver)
}

fn why(cgroup: &Cgroup) -> Exit {
    if cgroup.ran_out_of_memory() {
        return Exit::OutOfMemory;
    }
    Exit::Died("its first process ended, or gVisor did".to_owned())
}

//! The trait of all engines, and its types.
//!
//! ```text
//!            create / restore                   destroy
//!  (nothing) ────────────────▶ running ────────────────────▶ (nothing)
//!                                 │                              ▲
//!                                 │ terminates by itself         │ destroy
//!                                 ▼                              │
//!                               dead: `exited` resolves, ────────┘
//!                               every other call is `Error::Dead`
//! ```
//!
//! The [`Stats`] of a dead sandbox are available until it is destroyed.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
pub use isorun_agent::SandboxId;
use isorun_egress::Plan;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

/// The result of an engine's operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A connection to the agent of a sandbox. Dropping it resets it; the agent then
/// terminates the operations on it.
pub type AgentStream = Box<dyn AgentIo>;

/// A bidirectional byte stream.
pub trait AgentIo: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> AgentIo for T {}

/// An engine that creates, runs and destroys sandboxes.
///
/// All methods may be called concurrently, for one sandbox or for several. A call whose
/// future is dropped may or may not have had its effect; a partial effect is completed or
/// undone in the background.
#[async_trait]
pub trait Engine: Send + Sync {
    /// Returns the name of this engine and its features on this machine.
    fn capabilities(&self) -> Capabilities;

    /// Creates a sandbox. Returns when its agent is ready.
    async fn create(&self, spec: SandboxSpec) -> Result<()>;

    /// Opens a connection to the agent of a sandbox.
    async fn connect(&self, id: &SandboxId) -> Result<AgentStream>;

    /// Waits until a sandbox terminates by itself, and returns the cause. If the sandbox is
    /// destroyed instead, the result is [`Error::NotFound`].
    async fn exited(&self, id: &SandboxId) -> Result<Exit>;

    /// Replaces the network configuration of a sandbox and resets its open connections,
    /// which were allowed by the old rules.
    async fn set_network(&self, id: &SandboxId, plan: Plan) -> Result<()>;

    /// Sets the weight of a sandbox against the others while CPU time is scarce.
    async fn set_cpu_weight(&self, id: &SandboxId, weight: CpuWeight) -> Result<()>;

    /// Returns the resources that a sandbox has used so far.
    async fn stats(&self, id: &SandboxId) -> Result<Stats>;

    /// Writes the state of a sandbox, files and memory, into an existing empty
    /// directory. Without `leave_running` the sandbox does not exist afterwards, as after
    /// [`destroy`](Self::destroy).
    async fn checkpoint(&self, id: &SandboxId, into: &Path, leave_running: bool) -> Result<()>;

    /// Reports whether a checkpoint without `leave_running` is complete, for a checkpoint
    /// that another process has started. It may continue until the sandbox is gone, and
    /// a moment longer.
    fn is_complete(&self, checkpoint: &Path) -> bool;

    /// Creates a sandbox from a directory that [`checkpoint`](Self::checkpoint) has
    /// written. The root and the limits have to be those of the original, and the
    /// [`fingerprint`](Self::fingerprint) that at the time of the checkpoint.
    async fn restore(&self, spec: SandboxSpec, from: &Path) -> Result<()>;

    /// Returns a fingerprint of everything, apart from the files of the checkpoint, that a
    /// checkpoint of a sandbox with that root depends on. A checkpoint that was taken under
    /// another fingerprint must not be restored.
    fn fingerprint(&self, root: &Root) -> String;

    /// Destroys a sandbox with all its data, and returns the resources that it has used.
    async fn destroy(&self, id: &SandboxId) -> Result<Stats>;

    /// Lists all sandboxes that were created and not destroyed, including those of an
    /// earlier process that crashed.
    async fn list(&self) -> Result<Vec<SandboxId>>;

    /// Destroys the containers in the pool. Sandboxes continue to run.
    async fn shutdown(&self);
}

/// The name of an engine and its features on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// The name, such as `gvisor`.
    pub name: String,
    /// The version of the isolation software, such as `20240729.0`.
    pub version: String,
    /// One sentence for users about the isolation between a guest and the machine.
    pub isolation: String,
    /// Sandboxes can be checkpointed to disk and restored.
    pub checkpoint: bool,
    /// Sandboxes can have a network.
    pub network: bool,
    /// The limits that are enforced, by the names of [`SandboxSpec`]'s fields.
    pub limits: Vec<String>,
}

/// The root filesystem, the limits and the network configuration of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// The id, chosen by the caller; unique among the existing sandboxes.
    pub id: SandboxId,
    /// The hostname, which only its own programs see. The guest can read it: if the id is
    /// secret, it must not be derivable from the hostname.
    #[serde(default)]
    pub hostname: String,
    /// The root filesystem.
    pub root: Root,
    /// CPU time, in CPUs: with 1, one second of CPU time in each second.
    pub vcpus: u32,
    /// Memory of the programs in the sandbox, in MiB. Beyond it the sandbox is killed.
    pub mem_mib: u64,
    /// Bytes that may be written to files, in MiB. Beyond it writing fails.
    pub disk_mib: u64,
    /// Maximum number of concurrent processes and threads. Beyond it starting one fails.
    pub pids: u32,
    /// The network configuration. The engine does not store it: after a crash the sandbox
    /// has no network until [`Engine::set_network`] is called.
    #[serde(skip)]
    pub network: Plan,
}

impl SandboxSpec {
    /// The range of CPUs.
    pub const VCPUS: RangeInclusive<u64> = 1..=1024;
    /// The range of memory, in MiB. With less, the kernel of the sandbox does not start.
    pub const MEM_MIB: RangeInclusive<u64> = 32..=1 << 24;
    /// The range of disk space, in MiB.
    pub const DISK_MIB: RangeInclusive<u64> = 1..=1 << 24;
    /// The range of processes and threads.
    pub const PIDS: RangeInclusive<u64> = 2..=1_000_000;

    /// Checks the limits. Every engine does so before it creates a sandbox.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSpec`] with the limit, its value and its range.
    pub fn validate(&self) -> Result<()> {
        for (name, value, range) in [
            ("vcpus", self.vcpus.into(), Self::VCPUS),
            ("mem_mib", self.mem_mib, Self::MEM_MIB),
            ("disk_mib", self.disk_mib, Self::DISK_MIB),
            ("pids", self.pids.into(), Self::PIDS),
        ] {
            if !range.contains(&value) {
                return Err(Error::InvalidSpec(format!(
                    "{name} is {value}: give a value from {} to {}",
                    range.start(),
                    range.end()
                )));
            }
        }
        Ok(())
    }

    /// Creates a spec with every limit at its default: 1 CPU, 1,024 MiB of memory,
    /// 10,240 MiB of disk, 512 processes, no network. Its hostname is `sandbox`.
    #[must_use]
    pub fn new(id: SandboxId, root: Root) -> Self {
        Self {
            id,
            hostname: "sandbox".to_owned(),
            root,
            vcpus: 1,
            mem_mib: 1024,
            disk_mib: 10_240,
            pids: 512,
            network: Plan::default(),
        }
    }
}

/// The weight of a sandbox against the others while CPU time is scarce, in
/// thousandths of the weight of a new one: 1 to 1000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CpuWeight(u32);

impl CpuWeight {
    /// The weight of a new sandbox.
    pub const FULL: Self = Self(1000);

    /// The weight of so many thousandths; the nearest one if it is out of range.
    #[must_use]
    pub fn of_thousandths(thousandths: u64) -> Self {
        Self(u32::try_from(thousandths).unwrap_or(u32::MAX).clamp(1, Self::FULL.0))
    }

    /// The weight in thousandths.
    #[must_use]
    pub fn thousandths(self) -> u32 {
        self.0
    }
}

/// The source of a sandbox's root filesystem. It is never written to: the writes of a
/// sandbox are stored elsewhere and deleted with it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Root {
    /// The machine's own programs and libraries, and the part of its `/etc` without
    /// secrets.
    Host,
    /// An unpacked root filesystem, which has to exist as long as the sandbox.
    #[serde(rename = "folder")]
    Directory(PathBuf),
}

/// The cause of a sandbox's termination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// It exceeded its memory limit.
    OutOfMemory,
    /// Its first process exited, or the engine's own process did.
    Died(String),
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfMemory => f.write_str("it exceeded its memory limit"),
            Self::Died(why) => f.write_str(why),
        }
    }
}

/// The resource usage of a sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// CPU time in milliseconds, including the engine's overhead for this sandbox.
    pub cpu_ms: u64,
    /// Peak memory usage in bytes, including the engine's overhead.
    pub mem_peak_bytes: u64,
    /// Current memory usage in bytes.
    pub mem_bytes: u64,
    /// Bytes written to files and not deleted.
    pub disk_used_bytes: u64,
    /// Processes and threads, as limited by [`SandboxSpec::pids`]; 0 if the sandbox does
    /// not run.
    pub pids: u64,
}

/// An error of an engine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// there is no sandbox {0}
    #[error("there is no sandbox {0}")]
    NotFound(SandboxId),
    /// there is a sandbox {0} already
    #[error("there is a sandbox {0} already")]
    AlreadyExists(SandboxId),
    /// The spec is not valid.
    #[error("{0}")]
    InvalidSpec(String),
    /// The engine, or this version of it, does not support the operation.
    #[error("{0}")]
    Unsupported(String),
    /// A requirement is missing on the machine; the text contains it and how to install it.
    #[error("{0}")]
    Setup(String),
    /// The sandbox is busy; the text says what to do.
    #[error("{0}")]
    Busy(String),
    /// A checkpoint cannot be restored here; the text says why.
    #[error("{0}")]
    Incompatible(String),
    /// The sandbox has terminated by itself.
    #[error("sandbox {id} has terminated: {exit}")]
    Dead {
        /// The sandbox.
        id: SandboxId,
        /// The cause.
        exit: Exit,
    },
    /// An operation timed out.
    #[error("{0} took longer than {1:?}")]
    Timeout(String, std::time::Duration),
    /// A system call failed.
    #[error("{what}: {source}")]
    Io {
        /// The operation.
        what: String,
        /// The error of the system.
        #[source]
        source: std::io::Error,
    },
    /// A program that the engine drives failed; the text is for the log.
    #[error("{0}")]
    Failed(String),
}

impl Error {
    /// Returns a stable name of the kind of error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "not_found",
            Self::AlreadyExists(_) => "already_exists",
            Self::InvalidSpec(_) => "invalid_spec",
            Self::Unsupported(_) => "unsupported",
            Self::Setup(_) => "setup",
            Self::Busy(_) => "busy",
            Self::Incompatible(_) => "incompatible",
            Self::Dead { exit: Exit::OutOfMemory, .. } => "out_of_memory",
            Self::Dead { .. } => "dead",
            Self::Timeout(..) => "timeout",
            Self::Io { .. } => "io",
            Self::Failed(_) => "engine_failed",
        }
    }

    /// Adds the operation to an error of the system.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

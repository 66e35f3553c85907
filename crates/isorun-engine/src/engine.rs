//! What every engine does, and the vocabulary of it.
//!
//! ```text
//!            create / restore                   destroy
//!  (nothing) ────────────────▶ running ────────────────────▶ (nothing)
//!                                 │                              ▲
//!                                 │ dies by itself               │ destroy
//!                                 ▼                              │
//!                               dead: `exited` resolves, ────────┘
//!                               every other call is `Error::Dead`
//! ```
//!
//! A dead sandbox keeps its figures until it is destroyed.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::network::Plan;

/// What an engine answers.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A connection to the agent of a sandbox. Dropping it resets it; the agent then
/// ends what was under way on it.
pub type AgentStream = Box<dyn AgentIo>;

/// Both directions of a connection.
pub trait AgentIo: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> AgentIo for T {}

/// Makes, serves and ends sandboxes.
///
/// All methods may be called at the same time, for one sandbox or for several. A
/// call whose future is dropped may or may not have had its effect; what it had
/// begun is finished or undone behind the scenes.
#[async_trait]
pub trait Engine: Send + Sync {
    /// What this engine is, and can do on this machine.
    fn capabilities(&self) -> Capabilities;

    /// Makes a sandbox. Returns when its agent answers.
    async fn create(&self, spec: SandboxSpec) -> Result<()>;

    /// A new connection to the agent of a sandbox.
    async fn connect(&self, id: &SandboxId) -> Result<AgentStream>;

    /// Waits until a sandbox dies by itself, and says of what. Does not resolve
    /// for a sandbox that is destroyed: that is an error, [`Error::NotFound`].
    async fn exited(&self, id: &SandboxId) -> Result<Exit>;

    /// Changes what a sandbox reaches over the network. Connections that are open
    /// end: they were allowed by other rules.
    async fn set_network(&self, id: &SandboxId, plan: Plan) -> Result<()>;

    /// Sets the weight of a sandbox against the others while CPU time is scarce.
    async fn set_cpu_weight(&self, id: &SandboxId, weight: CpuWeight) -> Result<()>;

    /// What a sandbox has used until now.
    async fn stats(&self, id: &SandboxId) -> Result<Stats>;

    /// Writes the state of a sandbox, files and memory, into a folder that
    /// exists and is empty. Without `leave_running` the sandbox is gone
    /// afterwards, as after [`destroy`](Self::destroy).
    async fn checkpoint(&self, id: &SandboxId, into: &Path, leave_running: bool) -> Result<()>;

    /// Whether a checkpoint without `leave_running` is whole: for who finds one
    /// that another process has begun. It may go on until the sandbox is gone, and
    /// a moment longer.
    fn is_whole(&self, checkpoint: &Path) -> bool;

    /// Makes a sandbox from what [`checkpoint`](Self::checkpoint) has written.
    /// The root and the limits have to be those of the original, and the
    /// [`fingerprint`](Self::fingerprint) that of then.
    async fn restore(&self, spec: SandboxSpec, from: &Path) -> Result<()>;

    /// What checkpoints of sandboxes with that root depend on, apart from their
    /// own files: one that was taken under another fingerprint must not be
    /// restored.
    fn fingerprint(&self, root: &Root) -> String;

    /// Ends a sandbox, removes everything of it, and tells what it has used.
    async fn destroy(&self, id: &SandboxId) -> Result<Stats>;

    /// All sandboxes that have been created and not destroyed, also by a process
    /// before this one that crashed.
    async fn list(&self) -> Result<Vec<SandboxId>>;

    /// Ends what the engine holds ready for later. Sandboxes live on.
    async fn shutdown(&self);
}

/// What an engine is, and what it can do on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// Such as `gvisor`.
    pub name: String,
    /// The version of what does the isolation, such as `20240729.0`.
    pub version: String,
    /// One sentence for people: what stands between a guest and the machine.
    pub isolation: String,
    /// Whether sandboxes can be written to disk and made again from there.
    pub checkpoint: bool,
    /// Whether a sandbox can have a network.
    pub network: bool,
    /// What limits are enforced, by the names of [`SandboxSpec`]'s fields.
    pub limits: Vec<String>,
}

/// The name of a sandbox: 1 to 64 of `a-z`, `0-9` and `-`, not starting with
/// `-`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SandboxId(String);

impl SandboxId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SandboxId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if text.is_empty() || text.len() > 64 || text.starts_with('-') || !text.bytes().all(allowed)
        {
            return Err(Error::InvalidSpec(format!(
                "the id {:?} is not 1 to 64 of a-z, 0-9 and -, starting with a letter or digit",
                text.chars().take(80).collect::<String>()
            )));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for SandboxId {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<SandboxId> for String {
    fn from(id: SandboxId) -> Self {
        id.0
    }
}

impl fmt::Display for SandboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a sandbox is made of, and its limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// Its name, for the caller to choose; unique among the living.
    pub id: SandboxId,
    /// What it is called inside, by its own programs only. The guest learns it: it
    /// must tell nothing of an id that is a secret.
    #[serde(default)]
    pub hostname: String,
    /// The files that it starts with.
    pub root: Root,
    /// CPU time, in CPUs: with 1, one second of CPU time in each second.
    pub vcpus: u32,
    /// Memory of the programs inside, in MiB. Beyond it the sandbox is ended.
    pub mem_mib: u64,
    /// What may be written to files inside, in MiB. Beyond it writing fails.
    pub disk_mib: u64,
    /// Processes and threads inside at the same time. Beyond it starting one
    /// fails.
    pub pids: u32,
    /// What it reaches over the network. Not kept by the engine: after a crash it
    /// is nothing, until [`Engine::set_network`] says otherwise.
    #[serde(skip)]
    pub network: Plan,
}

impl SandboxSpec {
    /// The CPUs that a sandbox may have.
    pub const VCPUS: RangeInclusive<u64> = 1..=1024;
    /// The memory that it may have, in MiB. With less, its own kernel does not start.
    pub const MEM_MIB: RangeInclusive<u64> = 32..=1 << 24;
    /// The disk that it may have, in MiB.
    pub const DISK_MIB: RangeInclusive<u64> = 1..=1 << 24;
    /// The processes and threads that it may have.
    pub const PIDS: RangeInclusive<u64> = 2..=1_000_000;

    /// Checks the limits. Every engine does so before it makes a sandbox.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSpec`] names the limit, its value and its range.
    pub fn validate(&self) -> Result<()> {
        for (name, value, range) in [
            ("vcpus", self.vcpus.into(), Self::VCPUS),
            ("mem_mib", self.mem_mib, Self::MEM_MIB),
            ("disk_mib", self.disk_mib, Self::DISK_MIB),
            ("pids", self.pids.into(), Self::PIDS),
        ] {
            if !range.contains(&value) {
                return Err(Error::InvalidSpec(format!(
                    "{name} is {value}: give {} to {}",
                    range.start(),
                    range.end()
                )));
            }
        }
        Ok(())
    }

    /// A spec with every limit at its default: 1 CPU, 1,024 MiB of memory,
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

/// Where the files of a sandbox come from. Never written to: what a sandbox
/// writes goes elsewhere, and with it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Root {
    /// The machine's own programs and libraries, and the harmless part of its
    /// `/etc`.
    Host,
    /// An unpacked root filesystem, which has to stay while the sandbox lives.
    Folder(PathBuf),
}

/// Of what a sandbox died.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// It went past its memory.
    OutOfMemory,
    /// Its first process ended, or the engine's own process did.
    Died(String),
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfMemory => f.write_str("it used more memory than it has"),
            Self::Died(why) => f.write_str(why),
        }
    }
}

/// What a sandbox has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// CPU time, the engine's own for this sandbox included.
    pub cpu_ms: u64,
    /// The most memory that it had at any time, the engine's own included.
    pub mem_peak_bytes: u64,
    /// The memory that it has now.
    pub mem_bytes: u64,
    /// What it has written to files and not deleted.
    pub disk_used_bytes: u64,
    /// Processes and threads inside, as [`SandboxSpec::pids`] limits them; 0 if it
    /// does not run.
    pub pids: u64,
}

/// Why an engine could not do something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// there is no sandbox {0}
    #[error("there is no sandbox {0}")]
    NotFound(SandboxId),
    /// there is a sandbox {0} already
    #[error("there is a sandbox {0} already")]
    AlreadyExists(SandboxId),
    /// The spec asks for something that cannot be.
    #[error("{0}")]
    InvalidSpec(String),
    /// The engine, or this version of it, cannot do that.
    #[error("{0}")]
    Unsupported(String),
    /// The machine lacks something; the text says what, and how to get it.
    #[error("{0}")]
    Setup(String),
    /// The sandbox has died by itself.
    #[error("sandbox {id} is dead: {exit}")]
    Dead {
        /// Which one.
        id: SandboxId,
        /// Of what.
        exit: Exit,
    },
    /// Something did not happen in time.
    #[error("{0} took longer than {1:?}")]
    Timeout(String, std::time::Duration),
    /// The machine refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system answered.
        #[source]
        source: std::io::Error,
    },
    /// A program that the engine drives failed; the text is for the log.
    #[error("{0}")]
    Failed(String),
}

impl Error {
    /// A stable name of the kind of error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "not_found",
            Self::AlreadyExists(_) => "already_exists",
            Self::InvalidSpec(_) => "invalid_spec",
            Self::Unsupported(_) => "unsupported",
            Self::Setup(_) => "setup",
            Self::Dead { exit: Exit::OutOfMemory, .. } => "out_of_memory",
            Self::Dead { .. } => "dead",
            Self::Timeout(..) => "timeout",
            Self::Io { .. } => "io",
            Self::Failed(_) => "engine_failed",
        }
    }

    /// Puts what was tried before an error of the system.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_checked() {
        for (text, good) in [
            ("run0123456789abcdef", true),
            ("a", true),
            ("a-b", true),
            ("", false),
            ("-a", false),
            ("..", false),
            ("a/b", false),
            ("A", false),
            (&"a".repeat(64), true),
            (&"a".repeat(65), false),
        ] {
            assert_eq!(text.parse::<SandboxId>().is_ok(), good, "{text}");
        }
        assert!(serde_json::from_str::<SandboxId>("\"../x\"").is_err());
    }
}

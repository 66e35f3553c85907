//! Linux sandboxes behind one trait, and its implementation on gVisor.
//!
//! An [`Engine`] creates sandboxes from a [`SandboxSpec`], opens connections to the agent
//! in each, reports the resources that they use, and destroys them. The protocol on a
//! connection is that of the crate `isorun-agent`, for every engine.
//!
//! | to change | start in |
//! |---|---|
//! | what every engine does | `engine.rs` and `conformance.rs` |
//! | a limit of a sandbox | [`SandboxSpec`]; gVisor enforces it in `gvisor/cgroup.rs` and `gvisor/spec.rs` |
//! | how a sandbox is created and removed | `gvisor/container.rs`, `gvisor/pool.rs` |
//! | checkpoints | `gvisor/checkpoint.rs` |
//! | network namespaces | `gvisor/network.rs`, `gvisor/link.rs`; the rules are in `isorun-egress` |
//! | the built-in image `host` | `host.rs`, `gvisor/hiding.rs` |
//! | what `isorun doctor` checks | `doctor.rs` |
//!
//! What must stay true:
//!
//! - Every engine passes the conformance suite. (tests `gvisor`)
//! - No state of a sandbox exists only in the memory of this process: after a crash, the
//!   next process finds it. (tests `crash`)
//! - No packet leaves a sandbox's network namespace. (tests `network`, `protocols`)
//! - A limit is checked in one place, [`SandboxSpec::validate`].
//! - The image `host` has only files that every user of the machine may read. (tests
//!   `host`)
//! - `unsafe` is only in `gvisor/launcher.rs` and `gvisor/pidfd.rs`. (`check clippy`)

#[cfg(feature = "conformance")]
pub mod conformance;
pub mod doctor;
mod engine;
pub mod gvisor;
pub mod host;

pub use engine::{
    AgentIo, AgentStream, Capabilities, CpuWeight, Engine, Error, Exit, Result, Root, SandboxId,
    SandboxSpec, Stats,
};

/// The examples of the documentation, which are compiled as tests.
#[cfg(doctest)]
mod documented {
    #[doc = include_str!("../../../docs/isorun/engine.md")]
    struct EnginePage;
}

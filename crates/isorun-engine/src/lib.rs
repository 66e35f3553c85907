//! Linux sandboxes behind one trait.
//!
//! An [`Engine`] creates sandboxes from a [`SandboxSpec`], opens connections to the agent
//! in each, reports the resources that they use, and destroys them. The protocol on a
//! connection is that of the crate `isorun-agent`, for every engine.

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

//! Whole Linux sandboxes behind one trait.
//!
//! An [`Engine`] makes sandboxes from a [`SandboxSpec`], gives connections to
//! the agent inside each, tells what they used, and ends them. What is said over
//! a connection is the protocol of the crate `isorun-agent`, the same for every
//! engine.

#[cfg(feature = "conformance")]
pub mod conformance;
pub mod doctor;
mod engine;
pub mod gvisor;
pub mod host;
pub mod image;
pub mod network;

pub use engine::{
    AgentIo, AgentStream, Capabilities, CpuWeight, Engine, Error, Exit, Result, Root, SandboxId,
    SandboxSpec, Stats,
};

//! The protocol between an isorun server and the agent inside each sandbox.
//!
//! The agent is the first process of a sandbox; it starts every other one. This
//! library has the messages of both ends and the server's end: [`client`] runs
//! programs and transfers files over any byte stream. Each connection carries one
//! request:
//!
//! ```text
//! client                                agent
//! ──────                                ─────
//! Hello   {versions}         ─────▶
//! Request {exec, write, ..}  ─────▶               sent without waiting
//!                            ◀─────  Welcome {version}
//!                            ◀─────  Started {pid}
//! Stdin, Signal, Resize      ─────▶
//!                            ◀─────  Stdout, Stderr
//!                            ◀─────  Exited {status}     the last frame
//! reset                      ─────▶
//! ```
//!
//! So a connection that ends cancels its request, a slow connection slows only its
//! request, and garbage on one connection does not affect others.
//!
//! The agent belongs to the sandbox, so an attacker can control everything that it
//! sends. Each frame is limited in size and checked; a lying agent can cause a
//! wrong result or an error, but nothing else.

pub mod client;
pub mod codec;
mod id;
pub mod protocol;

pub use id::{InvalidSandboxId, SandboxId};

//! The agent inside each Linux sandbox, and its protocol with an isorun server.
//!
//! The agent is the first process of a sandbox; it starts every other one. It is the
//! binary of this crate. The library has the messages of both ends and the server's
//! end: [`client`] runs programs and transfers files over any byte stream.
//!
//! | to change | start in |
//! |---|---|
//! | a message | `protocol.rs`; its encoding is in `codec.rs` |
//! | the server's end | `client.rs` |
//! | the agent's end of a connection | `init/requests.rs`, `init/conn.rs` |
//! | programs and shells | `init/exec.rs`, `init/shell.rs`; what both share is in `init/session.rs` |
//! | contexts that run code | `code.rs`, `init/contexts.rs`, `init/context.rs`, `init/cell.rs`; the frames of their interpreters in `runner.rs` |
//! | a checkpoint, from inside | `init/freezer.rs`, `init/sessions.rs` |
//! | processes, users, control groups | `init/spawn.rs`, `init/users.rs`, `init/cgroups.rs`, `init/reaper.rs` |
//! | files and ports | `init/files.rs`, `init/forward.rs` |
//!
//! What must stay true:
//!
//! - The end of a connection cancels its request: a program is killed with all
//!   processes that it started. (conformance suite of `isorun-engine`)
//! - Every process in a sandbox is the agent or one of its descendants.
//! - The server trusts nothing from an agent: a frame is limited in size and checked,
//!   and a lying agent can cause only a wrong result or an error. (tests `codec`; fuzz
//!   targets `frames`, `answers`)
//! - Either end may be newer than the other: unknown fields are ignored, and a change
//!   that an older end would misunderstand raises [`protocol::VERSION`]. (unit tests of
//!   `protocol.rs`)
//! - It depends on no other crate of this repository. (`cargo xtask check edges`)
//!
//! Each connection carries one request:
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
//! So a slow connection slows only its request, and garbage on one connection does not
//! affect others.

pub mod client;
pub mod code;
pub mod codec;
mod id;
pub mod protocol;
pub mod runner;

pub use id::{InvalidSandboxId, SandboxId};

//! What is said between an isorun server and the agent inside each sandbox.
//!
//! The agent is the first process of a sandbox; it starts every other one. This
//! library has both ends' vocabulary and the server's end: [`client`] runs
//! programs and moves files over any stream of bytes. It asks one thing of each
//! connection:
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
//!                            ◀─────  Exited {status}     the last word
//! reset                      ─────▶
//! ```
//!
//! So a connection that goes away ends what was asked on it, one that is slow
//! slows that one thing, and garbage on one harms no other.
//!
//! The agent belongs to the sandbox: what it says is an attacker's choice. Each
//! frame is bounded and checked; a client that reads a lie gets a wrong answer
//! or an error, never more.

pub mod client;
pub mod codec;
pub mod protocol;

//! The command as its users meet it: real processes, interpreters, files,
//! pipes, signals and sockets.
//!
//! The runtimes have to be there (`cargo xtask guests`): without them these
//! tests fail.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod access;
mod cache;
mod calls;
#[cfg(unix)]
mod documented;
mod ending;
mod fixture;
#[cfg(unix)]
mod foreign_files;
#[cfg(target_os = "linux")]
mod mcp;
mod outcomes;
mod output;
mod pages;
mod repl;
mod snapshots;
#[cfg(unix)]
mod terminal;
mod usage;

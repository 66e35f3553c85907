//! Tests of the complete command with real processes, interpreters, files, pipes,
//! signals and sockets.
//!
//! They need the runtimes (`cargo xtask guests`), and fail without them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod access;
mod cache;
mod calls;
mod data;
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
#[cfg(unix)]
mod output_dir;
mod pages;
mod repl;
mod snapshots;
#[cfg(unix)]
mod terminal;
mod usage;

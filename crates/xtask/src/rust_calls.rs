//! The cost of calls in Rust, with which the benchmarks of the bindings compare.

use std::process::Command;

use anyhow::Result;

use crate::{process, workspace};

/// The environment variable that passes the cost of calls in Rust to the benchmark of
/// a binding.
pub const VARIABLE: &str = "ISOLA_RUST_CALLS";

/// Measures the calls of the bindings' benchmarks in Rust. The program is one of the
/// examples, which the builds of the bindings have built.
pub fn measure() -> Result<String> {
    let calls = workspace::cargo_target()?.join("release/examples/calls");
    let mut calls = Command::new(calls);
    calls.env("ISOLA_RUNTIME_DIR", workspace::runtimes());
    Ok(process::capture(calls)?.text.trim().to_owned())
}

//! Builds `isorun-agent`.

use std::fs;

use anyhow::{Context, Result};

use super::dir;
use crate::{process, progress, workspace};

const AGENT_TARGET: &str = "x86_64-unknown-linux-gnu";

/// The compiler flags of the agent. It is linked statically, since the libraries of a
/// sandbox may have any version. It uses `poll` instead of `epoll`: after a restore,
/// the `epoll` of gVisor 20240729 reports files that were removed from it before the
/// checkpoint, with tokens that tokio uses as addresses of memory which has been freed.
const AGENT_FLAGS: &str = "-C target-feature=+crt-static --cfg mio_unsupported_force_poll_poll";

/// Builds the agent, as a static program.
pub fn build() -> Result<()> {
    // A separate directory: with other flags cargo would build everything again.
    let target = workspace::cargo_target()?.join("agent");
    progress::step("building isorun-agent", || {
        let mut cargo = process::cargo(&["build", "--quiet", "-p", "isorun-agent", "--bin"]);
        cargo.args([
            "isorun-agent",
            "--profile",
            "agent",
            "--target",
            AGENT_TARGET,
            "--target-dir",
        ]);
        cargo.arg(&target).env("RUSTFLAGS", AGENT_FLAGS);
        process::run_quiet(cargo)
    })?;
    let built = target.join(AGENT_TARGET).join("agent/isorun-agent");
    let (temporary, destination) = (dir().join("isorun-agent.part"), dir().join("isorun-agent"));
    fs::copy(&built, &temporary).with_context(|| format!("cannot copy {}", built.display()))?;
    fs::rename(temporary, destination)?;
    Ok(())
}

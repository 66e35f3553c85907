//! The programs for Linux sandboxes: `runsc`, and the agent as a static program.
//! Both are put into `target/isorun`, to which `.cargo/config.toml` points.

mod agent;
pub mod go_modules;
mod gvisor;
mod runsc;
mod version;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

pub use gvisor::Built as BuiltRunsc;
pub use runsc::build_for_release as runsc_for_release;

use crate::{debian, workspace};

/// Installs both programs. Cargo decides whether the agent is built again.
pub fn ensure() -> Result<()> {
    if !cfg!(target_os = "linux") {
        eprintln!("==> Linux sandboxes are not supported on this system: they need Linux");
        return Ok(());
    }
    let _lock = workspace::lock()?;
    fs::create_dir_all(dir())?;
    debian::network_tools()?;
    runsc::link(&runsc::find_or_build()?, &dir())?;
    agent::build()
}

/// Installs the oldest `runsc` that the engine supports, for tests, and the agent beside
/// it. Returns their directory. [`ensure`] has to run first.
pub fn ensure_oldest() -> Result<PathBuf> {
    let _lock = workspace::lock()?;
    let oldest = workspace::root().join("target/isorun-oldest");
    fs::create_dir_all(&oldest)?;
    runsc::link(&runsc::oldest()?, &oldest)?;
    let agent = Path::new("isorun-agent");
    fs::copy(dir().join(agent), oldest.join(agent))?;
    Ok(oldest)
}

fn dir() -> PathBuf {
    workspace::root().join("target/isorun")
}

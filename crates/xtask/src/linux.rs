//! What Linux sandboxes need beyond Rust: `runsc`, and the agent as one static
//! program. Both go to `target/isorun`, where `.cargo/config.toml` points.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::digest::Inputs;
use crate::{debian, process, progress, setup, workspace};

/// The oldest version that the engine takes; compared as text.
const OLDEST_RUNSC: &str = "20240729";
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Both programs, from this tree. The agent is for cargo to decide whether to
/// build anew.
pub fn ensure() -> Result<()> {
    if !cfg!(target_os = "linux") {
        eprintln!("==> no Linux sandboxes on this system: they need Linux");
        return Ok(());
    }
    let _lock = workspace::lock()?;
    fs::create_dir_all(folder())?;
    debian::network_tools()?;
    runsc()?;
    agent()
}

fn folder() -> PathBuf {
    workspace::root().join("target/isorun")
}

/// The machine's own `runsc` if it is recent enough, or else Debian's, unpacked
/// beside the other tools and not installed.
fn runsc() -> Result<()> {
    let link = folder().join("runsc");
    if version(&link.to_string_lossy()).is_some_and(|version| is_recent(&version)) {
        return Ok(());
    }
    let found = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .map(|folder| folder.join("runsc"))
        .find(|path| version(&path.to_string_lossy()).is_some_and(|version| is_recent(&version)));
    let program = match found {
        Some(program) => program,
        None => debian_runsc()?,
    };
    let _ = fs::remove_file(&link);
    std::os::unix::fs::symlink(&program, &link)
        .with_context(|| format!("cannot make {}", link.display()))
}

fn version(program: &str) -> Option<String> {
    process::answer(program, &["--version"])
}

fn is_recent(version: &str) -> bool {
    let Some(start) = version.find("20") else { return false };
    version.get(start..start + 8).is_some_and(|date| date >= OLDEST_RUNSC)
}

/// `runsc` from the Debian that this is, or from the backports of its release.
fn debian_runsc() -> Result<PathBuf> {
    let tools = workspace::tools().join("runsc");
    let digest = Inputs::default().text("runsc", OLDEST_RUNSC).finish();
    setup::install("runsc, which isolates Linux sandboxes", &tools, &digest, || {
        let Some(name) = debian::release() else {
            bail!("this is no Debian: install gVisor's runsc {OLDEST_RUNSC} or newer on the PATH");
        };
        let mut failures = Vec::new();
        for suite in [format!("{name}-backports"), name] {
            let program = debian::unpack("runsc", &suite, &tools)
                .map(|files| files.join("usr/bin/runsc").to_string_lossy().into_owned());
            match program {
                Ok(program) if version(&program).is_some_and(|v| is_recent(&v)) => return Ok(()),
                Ok(_) => failures.push(format!("{suite}: too old")),
                Err(error) => failures.push(format!("{suite}: {error:#}")),
            }
        }
        bail!(
            "no runsc {OLDEST_RUNSC} or newer: install gVisor's own release on the PATH ({})",
            failures.join("; ")
        )
    })?;
    Ok(tools.join("files/usr/bin/runsc"))
}

/// How the agent is built: with everything in it, since a sandbox's own libraries
/// may be any, and waiting by `poll`. After a restore, gVisor's `epoll` reports
/// files that were removed from it before the checkpoint, by numbers which for
/// tokio are addresses of memory that has been freed.
const AGENT_FLAGS: &str = "-C target-feature=+crt-static --cfg mio_unsupported_force_poll_poll";

/// `isorun-agent`.
fn agent() -> Result<()> {
    // A folder of its own: other flags would make cargo build everything anew.
    let target = workspace::root().join("target/agent");
    progress::step("building isorun-agent", || {
        let mut cargo = process::cargo(&["build", "--quiet", "-p", "isorun-agent", "--bin"]);
        cargo.args(["isorun-agent", "--profile", "agent", "--target", TARGET, "--target-dir"]);
        cargo.arg(&target).env("RUSTFLAGS", AGENT_FLAGS);
        process::quiet(cargo)
    })?;
    let built = target.join(TARGET).join("agent/isorun-agent");
    let (draft, place) = (folder().join("isorun-agent.part"), folder().join("isorun-agent"));
    fs::copy(&built, &draft).with_context(|| format!("cannot copy {}", built.display()))?;
    fs::rename(draft, place)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recent_versions_are_told_from_old_ones() {
        for (version, expected) in [
            ("runsc version 0.0~20240729.0\nspec: 1.0.2-dev", true),
            ("runsc version release-20250407.0", true),
            ("runsc version 0.0~20221219.0", false),
            ("runsc version unknown", false),
            ("", false),
        ] {
            assert_eq!(is_recent(version), expected, "{version}");
        }
    }
}

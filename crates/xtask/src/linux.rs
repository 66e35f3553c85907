//! The programs for Linux sandboxes: `runsc`, and the agent as a static program.
//! Both are put into `target/isorun`, to which `.cargo/config.toml` points.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::digest::Inputs;
use crate::{debian, process, progress, stamp, workspace};

/// The oldest version of `runsc` that the engine supports. It is compared as text.
const MIN_RUNSC_VERSION: &str = "20240729";
const AGENT_TARGET: &str = "x86_64-unknown-linux-gnu";

/// Installs both programs. Cargo decides whether the agent is built again.
pub fn ensure() -> Result<()> {
    if !cfg!(target_os = "linux") {
        eprintln!("==> Linux sandboxes are not supported on this system: they need Linux");
        return Ok(());
    }
    let _lock = workspace::lock()?;
    fs::create_dir_all(dir())?;
    debian::network_tools()?;
    runsc()?;
    agent()
}

fn dir() -> PathBuf {
    workspace::root().join("target/isorun")
}

/// Links the `runsc` of the machine if it is recent enough, or else Debian's, which is
/// unpacked beside the other tools and not installed.
fn runsc() -> Result<()> {
    let link = dir().join("runsc");
    if version(&link.to_string_lossy()).is_some_and(|version| is_recent(&version)) {
        return Ok(());
    }
    let found = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .map(|dir| dir.join("runsc"))
        .find(|path| version(&path.to_string_lossy()).is_some_and(|version| is_recent(&version)));
    let program = match found {
        Some(program) => program,
        None => debian_runsc()?,
    };
    let _ = fs::remove_file(&link);
    std::os::unix::fs::symlink(&program, &link)
        .with_context(|| format!("cannot create {}", link.display()))
}

fn version(program: &str) -> Option<String> {
    process::stdout_of(program, &["--version"])
}

fn is_recent(version: &str) -> bool {
    let Some(start) = version.find("20") else { return false };
    version.get(start..start + 8).is_some_and(|date| date >= MIN_RUNSC_VERSION)
}

/// Unpacks `runsc` from this Debian release, or from its backports.
fn debian_runsc() -> Result<PathBuf> {
    let tools = workspace::tools().join("runsc");
    let digest = Inputs::default().text("runsc", MIN_RUNSC_VERSION).finish();
    stamp::install("runsc, which isolates Linux sandboxes", &tools, &digest, || {
        let Some(name) = debian::release() else {
            bail!(
                "this is not Debian: install gVisor's runsc {MIN_RUNSC_VERSION} or newer on the \
                 PATH"
            );
        };
        let mut failures = Vec::new();
        for suite in [format!("{name}-backports"), name] {
            let program = debian::unpack(&["runsc"], &suite, &tools)
                .map(|files| files.join("usr/bin/runsc").to_string_lossy().into_owned());
            match program {
                Ok(program) if version(&program).is_some_and(|v| is_recent(&v)) => return Ok(()),
                Ok(_) => failures.push(format!("{suite}: too old")),
                Err(error) => failures.push(format!("{suite}: {error:#}")),
            }
        }
        bail!(
            "no runsc {MIN_RUNSC_VERSION} or newer: install gVisor's own release on the PATH ({})",
            failures.join("; ")
        )
    })?;
    Ok(tools.join("files/usr/bin/runsc"))
}

/// The compiler flags of the agent. It is linked statically, since the libraries of a
/// sandbox may have any version. It uses `poll` instead of `epoll`: after a restore,
/// gVisor's `epoll` reports files that were removed from it before the checkpoint,
/// with tokens that tokio uses as addresses of memory which has been freed.
const AGENT_FLAGS: &str = "-C target-feature=+crt-static --cfg mio_unsupported_force_poll_poll";

/// Builds `isorun-agent`.
fn agent() -> Result<()> {
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

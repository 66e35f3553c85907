//! Installs `runsc`, gVisor's program.
//!
//! A current one is faster and does not use CPU time while a sandbox is idle, so it is
//! preferred: the machine's own, if it is as new as the one that `packaging/gvisor` pins,
//! or else that one, built from the Go module of gVisor where Go is there. Without Go it is
//! any that the engine supports: the machine's own, or else Debian's, which is unpacked
//! beside the other tools.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::gvisor::{self, Built, Go, Pinned};
use super::version::{MIN_VERSION, is_recent};
use crate::digest::Inputs;
use crate::{debian, stamp, workspace};

/// Puts a link to a `runsc` into a directory.
pub fn link(program: &Path, dir: &Path) -> Result<()> {
    let link = dir.join("runsc");
    if fs::read_link(&link).is_ok_and(|target| target == program) {
        return Ok(());
    }
    let temporary = dir.join("runsc.part");
    let _ = fs::remove_file(&temporary);
    std::os::unix::fs::symlink(program, &temporary)
        .and_then(|()| fs::rename(&temporary, &link))
        .with_context(|| format!("cannot create {}", link.display()))
}

/// Returns the best `runsc` that can be had here.
pub fn find_or_build() -> Result<PathBuf> {
    let pinned = Pinned::read()?;
    if let Some(program) = on_path(&pinned.date) {
        return Ok(program);
    }
    if let Some(go) = Go::find(&pinned.go) {
        return Ok(gvisor::build(&go, &pinned)?.program);
    }
    eprintln!(
        "==> there is no Go {} or newer, with which a current runsc is built: an older one is \
         used, with which idle sandboxes use CPU time",
        pinned.go
    );
    on_path(MIN_VERSION).map_or_else(debian_runsc, Ok)
}

/// Returns the pinned `runsc`, for others to install.
pub fn build_for_release() -> Result<Built> {
    let pinned = Pinned::read()?;
    let Some(go) = Go::find(&pinned.go) else {
        bail!(
            "a release contains gVisor's runsc {}: install Go {} or newer, which compiles it",
            pinned.date,
            pinned.go
        );
    };
    gvisor::build(&go, &pinned)
}

/// Returns the oldest `runsc` that the engine supports and that can be had here: Debian's.
pub fn oldest() -> Result<PathBuf> {
    debian_runsc()
}

/// Returns the `runsc` of the machine if it has at least that version.
fn on_path(least: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .map(|dir| dir.join("runsc"))
        .find(|path| is_recent(path, least))
}

/// Unpacks `runsc` from this Debian release, or from its backports.
fn debian_runsc() -> Result<PathBuf> {
    let tools = workspace::tools().join("runsc");
    let digest = Inputs::default().text("runsc", MIN_VERSION).finish();
    stamp::install("runsc, which isolates Linux sandboxes", &tools, &digest, || {
        let Some(name) = debian::release() else {
            bail!("this is not Debian: install gVisor's runsc {MIN_VERSION} or newer on the PATH");
        };
        let mut failures = Vec::new();
        for suite in [format!("{name}-backports"), name] {
            match debian::unpack(&["runsc"], &suite, &tools) {
                Ok(files) if is_recent(&files.join("usr/bin/runsc"), MIN_VERSION) => {
                    return Ok(());
                }
                Ok(_) => failures.push(format!("{suite}: too old")),
                Err(error) => failures.push(format!("{suite}: {error:#}")),
            }
        }
        bail!(
            "no runsc {MIN_VERSION} or newer: install gVisor's own release on the PATH ({})",
            failures.join("; ")
        )
    })?;
    Ok(tools.join("files/usr/bin/runsc"))
}

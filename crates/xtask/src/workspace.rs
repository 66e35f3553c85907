//! Where things are in this repository.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cargo_metadata::{Metadata, MetadataCommand};

/// The root of the checkout, whatever the current directory is.
pub fn root() -> PathBuf {
    // Cargo sets the variable when it runs this program; the value from compile
    // time serves a program that is started by hand.
    let manifest_dir =
        std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let manifest_dir = Path::new(&manifest_dir);
    manifest_dir.ancestors().nth(2).unwrap_or(manifest_dir).to_owned()
}

/// Where tools are installed that are for this checkout only.
pub fn tools() -> PathBuf {
    root().join("target/tools")
}

/// The runtimes directory that the crate `isola` finds in a checkout.
pub fn runtimes() -> PathBuf {
    root().join("target/guests")
}

/// The dependency graph, as it stands in the lock file.
pub fn metadata() -> Result<Metadata> {
    MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .exec()
        .context("cargo metadata failed")
}

/// Keeps other invocations from changing the tools and the guests at the same
/// time; released when the result is dropped.
pub fn lock() -> Result<File> {
    fs::create_dir_all(tools())?;
    let path = tools().join("lock");
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    if file.try_lock().is_err() {
        eprintln!("==> waiting for another cargo xtask");
        file.lock()?;
    }
    Ok(file)
}

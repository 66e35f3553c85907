//! Paths and files of this repository, and the lock of its tools.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use cargo_metadata::{Metadata, MetadataCommand};

/// The features for tests only: the conformance suite of engines, the entry points of fuzz
/// targets, which have unit tests, and simulated nodes of a cluster.
pub const TEST_FEATURES: &str =
    "isorun-engine/conformance,isorun-egress/fuzzing,isorun-image/fuzzing,isorun-server/simulation";

/// Returns the root of the checkout, independent of the current directory.
pub fn root() -> PathBuf {
    // Cargo sets the variable when it runs this program. The value from compile time
    // is used if the program is started directly.
    let manifest_dir =
        std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let manifest_dir = Path::new(&manifest_dir);
    manifest_dir.ancestors().nth(2).unwrap_or(manifest_dir).to_owned()
}

/// Returns the directory of the tools that are installed for this checkout.
pub fn tools() -> PathBuf {
    root().join("target/tools")
}

/// Returns the directory of the runtimes that the crate `isola` uses in a checkout.
pub fn runtimes() -> PathBuf {
    root().join("target/guests")
}

/// Returns the directory of what cargo builds: `target`, unless `CARGO_TARGET_DIR` names another
/// one, which checkouts may share.
pub fn cargo_target() -> Result<PathBuf> {
    Ok(metadata()?.target_directory.into())
}

/// Returns the dependency graph of the lock file.
pub fn metadata() -> Result<Metadata> {
    metadata_of("Cargo.toml")
}

/// Returns the dependency graph of the fuzz targets, which are a workspace of their own.
pub fn fuzz_metadata() -> Result<Metadata> {
    metadata_of("fuzz/Cargo.toml")
}

/// Returns the crates that contain the C sources of the Python guest. Their archives are
/// downloaded if necessary, and must be those of the lock file.
pub fn native_sources() -> Result<Metadata> {
    let manifest = "guests/python/native/Cargo.toml";
    MetadataCommand::new()
        .manifest_path(root().join(manifest))
        .other_options(["--locked".to_owned()])
        .exec()
        .with_context(|| format!("the C sources of {manifest} cannot be fetched"))
}

fn metadata_of(manifest: &str) -> Result<Metadata> {
    MetadataCommand::new()
        .manifest_path(root().join(manifest))
        .exec()
        .with_context(|| format!("cargo metadata of {manifest} failed"))
}

/// Returns the crates of the directory `crates`: the name and the path of each.
pub fn crates() -> Result<Vec<(String, PathBuf)>> {
    let mut crates = Vec::new();
    for entry in fs::read_dir(root().join("crates"))? {
        let entry = entry?;
        // A directory without a manifest may be left by another branch.
        if entry.path().join("Cargo.toml").is_file() {
            crates.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
        }
    }
    crates.sort();
    Ok(crates)
}

/// Locks the tools and the guests against concurrent changes by other invocations.
/// The lock is released when the result is dropped.
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

/// Returns the files that are committed, or would be added by `git add --all`.
pub fn files() -> Result<Vec<PathBuf>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .context("cannot start git")?;
    if !output.status.success() {
        bail!("git ls-files failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(listed
        .split_terminator('\0')
        .map(PathBuf::from)
        // A file that was deleted, but not yet in the index, is still listed.
        .filter(|path| root().join(path).is_file())
        .collect())
}

//! The server's folder of data: where it is, and who may use it.

use std::{
    fs::{self, DirBuilder, File},
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use etcetera::BaseStrategy;

/// Names the folder, if nothing else does.
pub const VARIABLE: &str = "ISORUN_DATA_DIR";

/// Where data lies unless told otherwise: `/var/lib/isorun` for root, or else in
/// the user's own folder of data.
pub fn default_dir() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os(VARIABLE).filter(|dir| !dir.is_empty()) {
        return Ok(dir.into());
    }
    if rustix::process::geteuid().is_root() {
        return Ok("/var/lib/isorun".into());
    }
    let base = etcetera::choose_base_strategy().context("cannot find the home folder")?;
    Ok(base.data_dir().join("isorun"))
}

/// Where a server's images are.
pub fn images(dir: &Path) -> PathBuf {
    dir.join("images")
}

/// Makes the folder if there is none, for its owner only, and refuses one that
/// others can write to.
pub fn prepare(dir: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("cannot make the data folder {}", dir.display()))?;
    let metadata = fs::metadata(dir)
        .with_context(|| format!("cannot look at the data folder {}", dir.display()))?;
    if !metadata.is_dir() {
        bail!("the data folder {} is no folder", dir.display());
    }
    let me = rustix::process::geteuid().as_raw();
    if metadata.uid() != me {
        bail!("the data folder {} belongs to another user", dir.display());
    }
    if metadata.permissions().mode() & 0o022 != 0 {
        bail!(
            "others can write to the data folder {}: take that away with `chmod go-w`",
            dir.display()
        );
    }
    Ok(())
}

/// The one server of a folder holds this until it ends.
pub fn lock(dir: &Path) -> Result<File> {
    let path = dir.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => bail!(
            "another isorun server uses the data folder {}: give this one its own with --data-dir",
            dir.display()
        ),
        Err(fs::TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}

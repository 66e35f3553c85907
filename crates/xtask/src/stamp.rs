//! Directories that are created once for the same inputs.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::progress;

/// Creates a directory with `create`, unless its stamp shows that it was created from
/// the same inputs before. The stamp is written last, so that an interrupted
/// installation is repeated.
pub fn install(
    label: &str,
    dir: &Path,
    digest: &str,
    create: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let stamp = dir.join(".stamp");
    if fs::read_to_string(&stamp).is_ok_and(|text| text == digest) {
        return Ok(());
    }
    progress::step(&format!("installing {label}"), || {
        if dir.exists() {
            fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))?;
        }
        fs::create_dir_all(dir)?;
        create()?;
        fs::write(&stamp, digest).with_context(|| format!("cannot write {}", stamp.display()))
    })
}

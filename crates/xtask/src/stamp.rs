//! Directories that are created once for the same inputs.

use std::env;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::digest::Inputs;
use crate::kept::Kept;
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

/// Creates a directory as [`install`] does, for what takes minutes to compile: the result is
/// kept for the other checkouts of this user, too.
pub fn install_and_keep(
    label: &str,
    dir: &Path,
    digest: &str,
    create: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let machine = format!("{} {}", env::consts::OS, env::consts::ARCH);
    let inputs = Inputs::default().text("label", label).text("machine", &machine);
    let key = inputs.text("inputs", digest).finish();
    install(label, dir, digest, || {
        let Some(kept) = Kept::of_user() else { return create() };
        if !kept.restore(&key, dir) {
            create()?;
            kept.keep(&key, dir);
        }
        Ok(())
    })
}

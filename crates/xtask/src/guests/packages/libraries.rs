//! C libraries in the sources of a package: those that crates of crates.io contain.
//!
//! A package that needs a library is compiled together with it. `guests/python/native`
//! pins the crates, as it does for the native modules of the guest itself.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::recipe::{LOCK_FILE, SourceCrate};
use crate::guests::copy;
use crate::workspace;

/// Copies the sources of crates into the sources of a package.
pub fn add(crates: &[SourceCrate], dir: &Path) -> Result<()> {
    if crates.is_empty() {
        return Ok(());
    }
    let metadata = workspace::native_sources()?;
    for added in crates {
        let package = metadata.packages.iter().find(|package| *package.name == added.name);
        let package =
            package.with_context(|| format!("{LOCK_FILE} does not pin {}", added.name))?;
        let root = package.manifest_path.parent().context("a crate without a directory")?;
        let from: PathBuf = root.join(&added.directory).into();
        ensure!(from.is_dir(), "{} has no directory {}", added.name, added.directory);
        copy(&from, &dir.join(&added.to))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zlib(directory: &str) -> SourceCrate {
        SourceCrate {
            name: "libz-sys".into(),
            licence: "Zlib".into(),
            directory: directory.into(),
            to: "libraries/zlib".into(),
        }
    }

    #[test]
    fn the_directory_of_a_crate_becomes_one_of_the_sources() {
        let dir = tempfile::tempdir().unwrap();
        add(&[zlib("src/zlib")], dir.path()).unwrap();
        assert!(dir.path().join("libraries/zlib/inflate.c").is_file());
        assert!(!dir.path().join("libraries/zlib/Cargo.toml").exists());
    }

    #[test]
    fn a_crate_or_directory_that_is_not_there_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let error = add(&[zlib("no")], dir.path()).unwrap_err();
        assert!(error.to_string().contains("libz-sys has no directory no"), "{error}");
        let unknown = SourceCrate { name: "no-sys".into(), ..zlib("src") };
        let error = add(&[unknown], dir.path()).unwrap_err();
        assert!(error.to_string().contains("does not pin no-sys"), "{error}");
    }
}

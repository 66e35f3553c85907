//! Collects the WIT packages that a guest is built against.
//!
//! The WASI packages are not in this repository: they are taken from the source of
//! the `wasmtime-wasi-http` that the host is compiled with, so that host and guest
//! always use the same definitions.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::workspace;

/// Copies `world.wit` and its `deps/` into an empty directory.
pub fn assemble(world: &Path, into: &Path) -> Result<()> {
    let deps = into.join("deps");
    fs::create_dir_all(&deps)?;
    copy(world, &into.join("world.wit"))?;
    copy(&workspace::root().join("wit/isola.wit"), &deps.join("isola.wit"))?;
    let wasi = wasi_packages()?;
    for entry in
        fs::read_dir(&wasi).with_context(|| format!("no WIT packages in {}", wasi.display()))?
    {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "wit")
            && let Some(name) = path.file_name()
        {
            copy(&path, &deps.join(name))?;
        }
    }
    Ok(())
}

fn wasi_packages() -> Result<PathBuf> {
    const CRATE: &str = "wasmtime-wasi-http";
    let metadata = workspace::metadata()?;
    let package = metadata
        .packages
        .iter()
        .find(|package| package.name.as_str() == CRATE)
        .with_context(|| format!("{CRATE} is not among the dependencies"))?;
    let manifest_dir =
        package.manifest_path.parent().with_context(|| format!("{CRATE} has no directory"))?;
    Ok(manifest_dir.join("wit/deps").into())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    Ok(())
}

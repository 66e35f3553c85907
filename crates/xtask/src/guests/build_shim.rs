//! Compiles `build_shim.c`, which makes builds independent of the machine and the
//! time.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::digest::Inputs;
use crate::{process, stamp, workspace};

const SOURCE: &str = include_str!("build_shim.c");

/// Returns the library to preload into a builder, or `None` if it is not supported on
/// this system: builds are then not reproducible.
pub fn library() -> Result<Option<PathBuf>> {
    if !cfg!(target_os = "linux") {
        return Ok(None);
    }
    let dir = workspace::tools().join("build-shim");
    let library = dir.join("build_shim.so");
    let installed = stamp::install(
        "the deterministic build shim (crates/xtask/src/guests/build_shim.c)",
        &dir,
        &digest(),
        || {
            let source = dir.join("build_shim.c");
            std::fs::write(&source, SOURCE)?;
            // Rust needs a C compiler of this name to link programs.
            let mut cc = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
            cc.args(["-O1", "-shared", "-fPIC", "-o"]);
            cc.arg(&library).arg(&source);
            process::run_quiet(cc)
        },
    );
    if let Err(error) = installed {
        eprintln!(
            "    no deterministic build shim, so the build will not be reproducible: {error:#}"
        );
        return Ok(None);
    }
    Ok(Some(library))
}

/// Returns a digest of the library's source.
pub fn digest() -> String {
    Inputs::default().text("build_shim.c", SOURCE).finish()
}

//! Compiles `still.c`, which keeps the machine and the moment out of a build.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::digest::Inputs;
use crate::{process, setup, workspace};

const SOURCE: &str = include_str!("still.c");

/// The library to preload into a builder, or `None` where there is no such
/// thing: the build works all the same, but twice the same it is not.
pub fn library() -> Result<Option<PathBuf>> {
    if !cfg!(target_os = "linux") {
        return Ok(None);
    }
    let folder = workspace::tools().join("still");
    let library = folder.join("still.so");
    let made = setup::install(
        "a still world for reproducible builds (crates/xtask/src/guests/still.c)",
        &folder,
        &digest(),
        || {
            let source = folder.join("still.c");
            std::fs::write(&source, SOURCE)?;
            // Where Rust links programs, there is a C compiler under this name.
            let mut cc = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
            cc.args(["-O1", "-shared", "-fPIC", "-o"]);
            cc.arg(&library).arg(&source);
            process::quiet(cc)
        },
    );
    if let Err(error) = made {
        eprintln!("    no still world, so the build will not be reproducible: {error:#}");
        return Ok(None);
    }
    Ok(Some(library))
}

/// Changes with the library.
pub fn digest() -> String {
    Inputs::default().text("still.c", SOURCE).finish()
}

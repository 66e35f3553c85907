//! The release archives of the runtimes: one archive for each, and its digest.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};
use tar::{Builder, Header};

use crate::digest::{self, Inputs};
use crate::{guests, stamp, workspace};

#[derive(clap::Args)]
pub struct ArchiveArgs {}

/// The runtimes that can be downloaded.
pub const RUNTIMES: [&str; 3] = ["python", "python-data", "js"];

/// Runs `cargo xtask archives`: builds the archives from which runtimes are
/// downloaded.
pub fn run(_: &ArchiveArgs) -> Result<()> {
    guests::ensure_all()?;
    for runtime in RUNTIMES {
        println!("{}", create(runtime)?.display());
    }
    Ok(())
}

/// Creates a directory with an archive `isola-<runtime>.tar.gz` of a runtime, and
/// its digest `isola-<runtime>.tar.gz.sha256`, as `isola::RuntimeSource` reads
/// them. The same runtime gives a bit-identical archive.
pub fn create(runtime: &str) -> Result<PathBuf> {
    let dir = workspace::root().join("target/archives").join(runtime);
    let name = format!("{runtime}.wasm");
    let component = workspace::runtimes().join(&name);
    let digest = Inputs::default().file(&name, &component)?.finish();
    stamp::install(&format!("the archive of the runtime {runtime}"), &dir, &digest, || {
        let archive = dir.join(format!("isola-{runtime}.tar.gz"));
        pack(&component, &name, &archive)?;
        let line = format!("{}  isola-{runtime}.tar.gz\n", digest::of_file(&archive)?);
        fs::write(archive.with_extension("gz.sha256"), line)
            .with_context(|| format!("cannot write the digest of {}", archive.display()))
    })?;
    Ok(dir)
}

fn pack(component: &Path, name: &str, archive: &Path) -> Result<()> {
    let content =
        fs::read(component).with_context(|| format!("cannot read {}", component.display()))?;
    let file =
        File::create(archive).with_context(|| format!("cannot create {}", archive.display()))?;
    // No times and no user names, so that builds are reproducible.
    let mut tar = Builder::new(GzBuilder::new().mtime(0).write(file, Compression::best()));
    let mut header = Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(0);
    tar.append_data(&mut header, name, content.as_slice())?;
    tar.into_inner()?.finish()?.flush()?;
    Ok(())
}

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

/// Runs `cargo xtask archives`: builds the archives from which runtimes are
/// downloaded.
pub fn run(_: &ArchiveArgs) -> Result<()> {
    guests::ensure()?;
    println!("{}", create()?.display());
    Ok(())
}

/// Creates a directory with an archive `isola-<runtime>.tar.gz` of each runtime, and
/// its digest `isola-<runtime>.tar.gz.sha256`, as `isola::RuntimeSource` reads
/// them. The same runtimes give bit-identical archives.
pub fn create() -> Result<PathBuf> {
    let dir = workspace::root().join("target/archives");
    let names = ["python", "js"].map(|runtime| (runtime, format!("{runtime}.wasm")));
    let inputs = names.iter().try_fold(Inputs::default(), |inputs, (_, name)| {
        inputs.file(name, &workspace::runtimes().join(name))
    })?;
    let digest = inputs.finish();
    stamp::install("the archives of the runtimes", &dir, &digest, || {
        for (runtime, name) in &names {
            let archive = dir.join(format!("isola-{runtime}.tar.gz"));
            pack(&workspace::runtimes().join(name), name, &archive)?;
            let line = format!("{}  isola-{runtime}.tar.gz\n", digest::of_file(&archive)?);
            fs::write(archive.with_extension("gz.sha256"), line)?;
        }
        Ok(())
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

//! `cargo xtask pack`: all npm packages, as they are published.

use anyhow::Result;

use crate::node::{self, Profile, RuntimePackages};
use crate::{guests, typescript};

#[derive(clap::Args)]
pub struct PackArgs {}

/// Creates the packages in `target/npm`, and prints their paths.
pub fn run(_: &PackArgs) -> Result<()> {
    guests::ensure_all()?;
    node::build(Profile::Release)?;
    let sdk = typescript::pack()?;
    for archive in node::pack(Profile::Release, RuntimePackages::All)?.into_iter().chain([sdk]) {
        println!("{}", archive.display());
    }
    Ok(())
}

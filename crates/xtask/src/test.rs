//! `cargo xtask test`: every test, against guests that were built from this tree.

use anyhow::Result;

use crate::{guests, process};

#[derive(clap::Args)]
pub struct Args {
    /// Handed to `cargo test --workspace`
    #[arg(last = true)]
    args: Vec<String>,
}

pub fn run(args: &Args) -> Result<()> {
    guests::ensure()?;
    eprintln!("==> cargo test --workspace");
    let mut command = process::cargo(&["test", "--workspace"]);
    command.args(&args.args);
    process::loud(command)
}

//! `cargo xtask demo`: from a fresh clone to sandboxes at work.

use std::process::Command;

use anyhow::Result;

use crate::{guests, process, workspace};

#[derive(clap::Args)]
pub struct Args {
    /// Handed to the demo
    #[arg(last = true)]
    args: Vec<String>,
}

pub fn run(args: &Args) -> Result<()> {
    guests::ensure()?;
    // The whole workspace, as for the tests: cargo chooses the features of
    // dependencies by what it builds, and would compile many of them again.
    eprintln!("==> cargo build --workspace --examples --bins");
    process::loud(process::cargo(&["build", "--workspace", "--examples", "--bins"]))?;
    let demo = workspace::metadata()?.target_directory.join("debug/examples/demo");
    eprintln!("==> {demo}");
    let mut command = Command::new(demo);
    command.args(&args.args).env("ISOLA_RUNTIME_DIR", workspace::runtimes());
    process::loud(command)
}

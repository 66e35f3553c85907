//! `cargo xtask demo`: from a fresh clone to sandboxes at work.

use std::process::Command;

use anyhow::Result;

use crate::{guests, process, sdk, workspace};

#[derive(clap::Args)]
pub struct Args {
    /// Only the Linux sandbox, on a server of its own
    #[arg(long)]
    linux: bool,
    /// Handed to the demo of the interpreters
    #[arg(last = true)]
    args: Vec<String>,
}

pub fn run(args: &Args) -> Result<()> {
    if args.linux {
        sdk::build()?;
        return sdk::demo();
    }
    guests::ensure()?;
    // The whole workspace, as for the tests: cargo chooses the features of
    // dependencies by what it builds, and would compile many of them again.
    eprintln!("==> cargo build --workspace --examples --bins");
    process::loud(process::cargo(&["build", "--workspace", "--examples", "--bins"]))?;
    let demo = workspace::metadata()?.target_directory.join("debug/examples/demo");
    eprintln!("==> {demo}");
    let mut command = Command::new(demo);
    command.args(&args.args).env("ISOLA_RUNTIME_DIR", workspace::runtimes());
    process::loud(command)?;
    sdk::demo()
}

//! `cargo xtask demo`: from a fresh clone to sandboxes at work.

use anyhow::Result;

use crate::{guests, process};

#[derive(clap::Args)]
pub struct Args {
    /// Handed to the demo
    #[arg(last = true)]
    args: Vec<String>,
}

pub fn run(args: &Args) -> Result<()> {
    guests::ensure()?;
    eprintln!("==> cargo run -p isola --example demo");
    let mut command = process::cargo(&["run", "-p", "isola", "--example", "demo", "--"]);
    command.args(&args.args);
    process::loud(command)
}

//! `cargo xtask bench`: the table of SPECIFICATION.md, measured here and now.

use anyhow::Result;

use crate::{guests, process, setup};

#[derive(clap::Args)]
pub struct Args {
    /// Measure only the rows whose name contains this
    filter: Option<String>,
}

pub fn run(args: &Args) -> Result<()> {
    guests::ensure()?;
    let quickjs = setup::quickjs()?;
    eprintln!("==> cargo bench -p isola --bench sandbox");
    let mut command = process::cargo(&["bench", "-p", "isola", "--bench", "sandbox", "--"]);
    command.args(&args.filter).env("ISOLA_BENCH_QUICKJS", quickjs);
    process::loud(command)
}

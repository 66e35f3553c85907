//! `cargo xtask bench`: the table of SPECIFICATION.md, measured here and now.

use anyhow::Result;

use crate::{guests, node, process, setup};

#[derive(clap::Args)]
pub struct Args {
    /// Measure only the rows whose name contains this; `node` measures those
    /// about the npm package
    filter: Option<String>,
    /// With `node`: only the rows whose name contains this
    node_filter: Option<String>,
}

pub fn run(args: &Args) -> Result<()> {
    guests::ensure()?;
    if args.filter.as_deref() == Some("node") {
        return node::bench(args.node_filter.as_deref());
    }
    let quickjs = setup::quickjs()?;
    eprintln!("==> cargo bench -p isola --bench sandbox");
    let mut command = process::cargo(&["bench", "-p", "isola", "--bench", "sandbox", "--"]);
    command.args(&args.filter).env("ISOLA_BENCH_QUICKJS", quickjs);
    process::loud(command)
}

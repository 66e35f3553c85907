//! `cargo xtask test`: every test, against guests that were built from this tree.
//! The JavaScript guest's own tables of cases run in Node first.

use std::process::Command;

use anyhow::Result;

use crate::{guests, node, process, setup, workspace};

#[derive(clap::Args)]
pub struct Args {
    /// Only the tests of the npm package
    #[arg(long)]
    node: bool,
    /// Handed to `cargo test --workspace`
    #[arg(last = true)]
    args: Vec<String>,
}

pub fn run(args: &Args) -> Result<()> {
    guests::ensure()?;
    if args.node {
        return node::test();
    }
    setup::python_samples()?;
    eprintln!("==> node --test guests/js/test");
    let mut node = Command::new(setup::js_builder()?.node);
    node.current_dir(workspace::root()).args(["--test", "guests/js/test/"]);
    process::loud(node)?;
    eprintln!("==> cargo test --workspace");
    let mut command = process::cargo(&["test", "--workspace"]);
    command.args(&args.args);
    process::loud(command)?;
    node::test()
}

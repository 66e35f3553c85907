//! `cargo xtask demo`: builds and runs the demo in a new checkout.

use std::process::Command;

use anyhow::Result;

use crate::process::Background;
use crate::{guests, process, progress, sdk, workspace};

#[derive(clap::Args)]
pub struct DemoArgs {
    /// Run only the demo of the Linux sandbox, with a separate server
    #[arg(long)]
    linux: bool,
    /// Arguments for the demo of the interpreters
    #[arg(last = true)]
    args: Vec<String>,
}

pub fn run(args: &DemoArgs) -> Result<()> {
    if args.linux {
        sdk::build()?;
        return sdk::demo();
    }
    // The complete workspace, as for the tests: cargo selects the features of
    // dependencies by the packages it builds, and would compile many of them again. It
    // compiles while the guests are built, much of which uses one core only.
    let cargo = process::cargo(&["build", "--workspace", "--examples", "--bins"]);
    let compiling = Background::start(cargo)?;
    guests::ensure()?;
    progress::step("compiling the crates", || compiling.finish())?;
    let demo = workspace::cargo_target()?.join("debug/examples/demo");
    eprintln!("==> {}", demo.display());
    let mut command = Command::new(demo);
    command.args(&args.args).env("ISOLA_RUNTIME_DIR", workspace::runtimes());
    process::run(command)?;
    sdk::demo()
}

//! `cargo xtask test`: every test, against guests that were built from this tree.
//! The JavaScript guest's own tables of cases run in Node first; at the end the
//! tests of the npm package and of the two Python packages, each as it is installed.

use std::process::Command;

use anyhow::Result;

use crate::{archive, debian, guests, linux, node, process, sdk, setup, wheel, workspace};

/// The suite that every engine has to pass is part of no other build.
pub const FEATURES: &str = "isorun-engine/conformance";

#[derive(clap::Args)]
pub struct Args {
    /// Only the tests of the npm package
    #[arg(long)]
    node: bool,
    /// Only the tests of the Python package; ARGS go to pytest
    #[arg(long)]
    python: bool,
    /// Only the tests of the package isorun, in sdk/python; ARGS go to pytest
    #[arg(long)]
    sdk: bool,
    /// Handed to `cargo test --workspace`
    #[arg(last = true)]
    args: Vec<String>,
}

pub fn run(args: &Args) -> Result<()> {
    if args.sdk {
        sdk::build()?;
        return sdk::test(&args.args);
    }
    guests::ensure()?;
    if args.node {
        return node::test();
    }
    if args.python {
        return python(&args.args);
    }
    setup::python_samples()?;
    setup::client_library()?;
    debian::image_tools()?;
    linux::ensure()?;
    eprintln!("==> node --test guests/js/test");
    let mut node = Command::new(setup::js_builder()?.node);
    node.current_dir(workspace::root()).args(["--test", "guests/js/test/"]);
    process::loud(node)?;
    eprintln!("==> cargo test --workspace");
    let mut command = process::cargo(&["test", "--workspace", "--features", FEATURES]);
    command.args(&args.args);
    process::loud(command)?;
    // Arguments choose among the tests of Rust.
    if !args.args.is_empty() {
        return Ok(());
    }
    node::test()?;
    python(&[])?;
    sdk::test(&[])
}

/// The tests of the Python package, on the wheel as a user installs it.
fn python(args: &[String]) -> Result<()> {
    let python = setup::python_tests()?;
    // The MCP server, and the wheel, with what the tests compiled.
    process::loud(process::cargo(&["build", "--workspace", "--examples", "--bins"]))?;
    let wheel = wheel::build("dev")?;
    let site = workspace::root().join("target/python-site");
    wheel::install(&python, &wheel, &site)?;
    eprintln!("==> pytest crates/isola-python/tests");
    let mut pytest = Command::new(python);
    pytest.current_dir(workspace::root().join("crates/isola-python"));
    pytest.args(["-m", "pytest"]).args(args);
    pytest.env("PYTHONPATH", &site).env("PYTHONDONTWRITEBYTECODE", "1");
    pytest.env("ISOLA_WHEEL", &wheel).env("ISOLA_ARCHIVES", archive::make()?);
    pytest.env("ISOLA_COMMAND", workspace::metadata()?.target_directory.join("debug/isola"));
    // The runtimes are those in the wheel.
    pytest.env_remove("ISOLA_RUNTIME_DIR");
    process::loud(pytest)
}

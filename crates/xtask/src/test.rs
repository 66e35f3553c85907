//! `cargo xtask test`: runs all tests, with guests that are built from this tree.
//! The tests of the JavaScript guest run first, in Node.js, and the tests of the npm
//! package and of the two Python packages run last, on the installed packages.

use std::process::Command;

use anyhow::Result;

use crate::{archive, debian, guests, linux, node, process, sdk, setup, wheel, workspace};

/// The features for tests only: the conformance suite of engines, and the entry points of
/// fuzz targets, which have unit tests.
pub const FEATURES: &str = "isorun-engine/conformance,isorun-egress/fuzzing,isorun-image/fuzzing";

#[derive(clap::Args)]
pub struct Args {
    /// Run only the tests of the npm package
    #[arg(long)]
    node: bool,
    /// Run only the tests of the Python package; ARGS are passed to pytest
    #[arg(long)]
    python: bool,
    /// Run only the tests of the package isorun, in sdk/python; ARGS are passed to pytest
    #[arg(long)]
    sdk: bool,
    /// Run only tests that need neither root nor a network nor other tools than Rust and
    /// Python, in less than two minutes once everything is compiled
    #[arg(long, conflicts_with_all = ["node", "python", "sdk"])]
    quick: bool,
    /// Arguments for `cargo test --workspace`
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
    if args.quick {
        return quick(&args.args);
    }
    setup::python_samples()?;
    setup::client_library()?;
    debian::image_tools()?;
    linux::ensure()?;
    javascript_guest()?;
    eprintln!("==> cargo test --workspace");
    let mut command = process::cargo(&["test", "--workspace", "--features", FEATURES]);
    command.args(&args.args);
    process::run(command)?;
    // Arguments select Rust tests only.
    if !args.args.is_empty() {
        return Ok(());
    }
    node::test()?;
    python(&[])?;
    sdk::test(&[])
}

/// Runs the unit tests of all crates, the tests of `isola` on both guests, and those of
/// the JavaScript guest in Node.js.
fn quick(args: &[String]) -> Result<()> {
    javascript_guest()?;
    let selected = ["--lib", "--bins", "--test", "sandbox", "--test", "codec"];
    eprintln!("==> cargo test --workspace {}", selected.join(" "));
    let mut command = process::cargo(&["test", "--workspace", "--features", FEATURES]);
    command.args(selected).args(args);
    process::run(command)
}

/// Runs the tests of the JavaScript guest that need no engine.
fn javascript_guest() -> Result<()> {
    eprintln!("==> node --test guests/js/test");
    let mut node = Command::new(setup::js_builder()?.node);
    node.current_dir(workspace::root()).args(["--test", "guests/js/test/"]);
    process::run(node)
}

/// Runs the tests of the Python package on the installed wheel.
fn python(args: &[String]) -> Result<()> {
    let python = setup::python_tests()?;
    // Builds the MCP server and the wheel, and reuses the artifacts of the tests.
    process::run(process::cargo(&["build", "--workspace", "--examples", "--bins"]))?;
    let wheel = wheel::build("dev")?;
    let site = workspace::root().join("target/python-site");
    wheel::install(&python, &wheel, &site)?;
    eprintln!("==> pytest crates/isola-python/tests");
    let mut pytest = Command::new(python);
    pytest.current_dir(workspace::root().join("crates/isola-python"));
    pytest.args(["-m", "pytest"]).args(args);
    pytest.env("PYTHONPATH", &site).env("PYTHONDONTWRITEBYTECODE", "1");
    pytest.env("ISOLA_WHEEL", &wheel).env("ISOLA_ARCHIVES", archive::create()?);
    pytest.env("ISOLA_COMMAND", workspace::metadata()?.target_directory.join("debug/isola"));
    // The runtimes are those in the wheel.
    pytest.env_remove("ISOLA_RUNTIME_DIR");
    process::run(pytest)
}

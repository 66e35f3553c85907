//! `cargo xtask bench`: the table of SPECIFICATION.md, measured here and now.
//! `cargo xtask bench python` measures the Python package, beside the same call
//! in Rust and beside other ways to run Python.

use std::ffi::OsStr;
use std::process::Command;

use anyhow::Result;

use crate::{debian, guests, linux, node, process, setup, wheel, workspace};

#[derive(clap::Args)]
pub struct Args {
    /// Measure only the rows whose name contains this; `node`: the npm package,
    /// `python`: the Python package, `images`: pulling images of isorun, `linux`: Linux
    /// sandboxes, `state`: their shells, forks, hibernation and snapshots, `network`: their
    /// rules, secrets and URLs
    filter: Option<String>,
    /// With `node`: only the rows whose name contains this; with `network`: only `traffic`,
    /// `credentials`, `urls` or `create`; with `linux`: `work` measures what programs do much,
    /// beside the machine itself
    row: Option<String>,
}

pub fn run(args: &Args) -> Result<()> {
    if args.filter.as_deref() == Some("images") {
        return images();
    }
    if args.filter.as_deref() == Some("linux") {
        let row: Vec<&OsStr> = args.row.iter().map(AsRef::as_ref).collect();
        return linux_sandboxes("sandbox", &row);
    }
    if args.filter.as_deref() == Some("network") {
        return network(args.row.as_deref());
    }
    if args.filter.as_deref() == Some("state") {
        let chart = workspace::root().join("docs/isorun/state.svg");
        return linux_sandboxes("state", &["--chart".as_ref(), chart.as_ref()]);
    }
    guests::ensure()?;
    match args.filter.as_deref() {
        Some("node") => node::bench(args.row.as_deref()),
        Some("python") => python(),
        filter => rust(filter),
    }
}

fn rust(filter: Option<&str>) -> Result<()> {
    eprintln!("==> cargo bench -p isola --bench sandbox");
    let mut command = process::cargo(&["bench", "-p", "isola", "--bench", "sandbox", "--"]);
    command.args(filter).env("ISOLA_BENCH_QUICKJS", setup::quickjs()?);
    if filter.is_none_or(|filter| "Pyodide".contains(filter)) {
        command.env("ISOLA_BENCH_PYODIDE", setup::node_competitors()?);
    }
    process::loud(command)
}

/// Images need no guest.
fn images() -> Result<()> {
    debian::image_tools()?;
    eprintln!("==> cargo bench -p isorun-engine --bench images");
    process::loud(process::cargo(&["bench", "-p", "isorun-engine", "--bench", "images"]))
}

/// A real server, and nginx to compare it with.
fn network(row: Option<&str>) -> Result<()> {
    linux::ensure()?;
    let nginx = debian::nginx()?;
    eprintln!("==> cargo bench -p isorun --bench network");
    let mut command = process::cargo(&["bench", "-p", "isorun", "--bench", "network", "--"]);
    command.args(row).env("ISORUN_BENCH_NGINX", nginx);
    process::loud(command)
}

fn linux_sandboxes(bench: &str, arguments: &[&OsStr]) -> Result<()> {
    linux::ensure()?;
    eprintln!("==> cargo bench -p isorun-engine --bench {bench}");
    let mut command = process::cargo(&["bench", "-p", "isorun-engine", "--bench", bench]);
    command.args(["--features", "conformance", "--"]).args(arguments);
    process::loud(command)
}

fn python() -> Result<()> {
    let python = setup::python_bench()?;
    let wheel = wheel::build("bench")?;
    let site = workspace::root().join("target/python-bench-site");
    wheel::install(&python, &wheel, &site)?;
    eprintln!("==> python crates/isola-python/bench/bench.py");
    let mut bench = Command::new(python);
    bench.arg(workspace::root().join("crates/isola-python/bench/bench.py"));
    bench.env(RUST_CALLS, rust_calls()?);
    bench.env("PYTHONPATH", &site).env_remove("ISOLA_RUNTIME_DIR");
    process::loud(bench)
}

/// Tells the benchmark of a binding what calls cost without one.
pub const RUST_CALLS: &str = "ISOLA_RUST_CALLS";

/// The same calls as those of the bindings' benchmarks, in the same run. The
/// builds of the bindings made the program: they build the examples, too.
pub fn rust_calls() -> Result<String> {
    let calls = workspace::metadata()?.target_directory.join("release/examples/calls");
    let mut calls = Command::new(calls);
    calls.env("ISOLA_RUNTIME_DIR", workspace::runtimes());
    Ok(process::capture(calls)?.text.trim().to_owned())
}

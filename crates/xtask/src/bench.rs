//! `cargo xtask bench`: measures the table of SPECIFICATION.md on this machine.
//! `cargo xtask bench python` measures the Python package, in comparison with the
//! same call in Rust and with other ways to run Python.

use std::ffi::OsStr;
use std::process::Command;

use anyhow::Result;

use crate::{debian, guests, linux, node, process, rust_calls, setup, wheel, workspace};

#[derive(clap::Args)]
pub struct Args {
    /// Measure only the rows whose name contains this; `node`: the npm package,
    /// `python`: the Python package, `images`: pulling images of isorun, `linux`: Linux
    /// sandboxes, `state`: their shells, forks, hibernation and snapshots, `network`: their
    /// rules, secrets and URLs
    filter: Option<String>,
    /// With `node`: only the rows whose name contains this; with `network`: only `traffic`,
    /// `credentials`, `urls` or `create`; with `linux`: `work` measures typical work of
    /// programs, in comparison with the machine without a sandbox
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
    process::run(command)
}

/// Measures pulling images, which needs no guest components.
fn images() -> Result<()> {
    debian::image_tools()?;
    eprintln!("==> cargo bench -p isorun-image --bench images");
    process::run(process::cargo(&["bench", "-p", "isorun-image", "--bench", "images"]))
}

/// Measures a real server in comparison with nginx.
fn network(row: Option<&str>) -> Result<()> {
    linux::ensure()?;
    let nginx = debian::nginx()?;
    eprintln!("==> cargo bench -p isorun --bench network");
    let mut command = process::cargo(&["bench", "-p", "isorun", "--bench", "network", "--"]);
    command.args(row).env("ISORUN_BENCH_NGINX", nginx);
    process::run(command)
}

fn linux_sandboxes(bench: &str, arguments: &[&OsStr]) -> Result<()> {
    linux::ensure()?;
    eprintln!("==> cargo bench -p isorun-engine --bench {bench}");
    let mut command = process::cargo(&["bench", "-p", "isorun-engine", "--bench", bench]);
    command.args(["--features", "conformance", "--"]).args(arguments);
    process::run(command)
}

fn python() -> Result<()> {
    let python = setup::python_bench()?;
    let wheel = wheel::build("bench")?;
    let site = workspace::root().join("target/python-bench-site");
    wheel::install(&python, &wheel, &site)?;
    eprintln!("==> python crates/isola-python/bench/bench.py");
    let mut bench = Command::new(python);
    bench.arg(workspace::root().join("crates/isola-python/bench/bench.py"));
    bench.env(rust_calls::VARIABLE, rust_calls::measure()?);
    bench.env("PYTHONPATH", &site).env_remove("ISOLA_RUNTIME_DIR");
    process::run(bench)
}

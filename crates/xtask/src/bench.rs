//! `cargo xtask bench`: runs the benchmarks, each of which prints one table.

mod programs;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::{Subcommand, ValueEnum};

use crate::{debian, guests, linux, node, process, rust_calls, setup, wheel, workspace};

#[derive(clap::Args)]
pub struct BenchArgs {
    /// The benchmark; `isola` by default
    #[command(subcommand)]
    benchmark: Option<Benchmark>,
}

#[derive(Subcommand)]
enum Benchmark {
    /// Measure the crate isola: the table of SPECIFICATION.md
    Isola {
        /// Measure only the rows whose name contains this, such as "1,000 forks"
        row: Option<String>,
    },
    /// Measure the npm package, in comparison with other engines
    Node {
        /// Measure only the rows whose name contains this
        row: Option<String>,
    },
    /// Measure the Python package, in comparison with the same calls in Rust and with other
    /// ways to run Python
    Python,
    /// Measure Python programs in the guest, in comparison with native CPython and with
    /// Pyodide
    Programs(programs::ProgramsArgs),
    /// Measure interpreters of the server, over HTTP
    Interpreters,
    /// Measure pulling images of isorun from a registry on this machine
    Images,
    /// Measure Linux sandboxes, in comparison with plain runsc
    Linux {
        #[arg(value_enum)]
        rows: Option<LinuxRows>,
    },
    /// Measure shells, forks, hibernation and restores of Linux sandboxes, and draw
    /// docs/isorun/state.svg
    State,
    /// Simulate 200 nodes of a cluster on a PostgreSQL server: the placement of runs, and the load
    /// of the database. Draws docs/internals/placement.svg
    Placement {
        /// The seed of the random numbers
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Measure rules, credentials and URLs of Linux sandboxes, in comparison with an open
    /// network and nginx
    Network {
        /// Measure only this group of rows
        #[arg(value_enum)]
        rows: Option<NetworkRows>,
    },
    /// Measure a cluster: operations at the node of a sandbox and at another one, in comparison
    /// with a server of one machine, and sandboxes that are resumed on another node
    Cluster {
        /// Measure only this group of rows
        #[arg(value_enum)]
        rows: Option<ClusterRows>,
        /// Compare a server of one machine with this other build of `isorun` instead
        #[arg(long, value_name = "FILE", conflicts_with = "rows")]
        before: Option<PathBuf>,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum ClusterRows {
    /// Creating and destroying sandboxes, commands, code and files
    Operations,
    /// Hibernated sandboxes and snapshots, on their node and on another one
    Moves,
}

#[derive(Clone, Copy, ValueEnum)]
enum LinuxRows {
    /// Only typical work of programs, in comparison with the machine without a sandbox
    Work,
}

#[derive(Clone, Copy, ValueEnum)]
enum NetworkRows {
    /// Latency and throughput of connections through the proxy
    Traffic,
    /// Requests to which the proxy adds a secret
    Credentials,
    /// Requests to the URLs of a sandbox, in comparison with nginx
    Urls,
    /// Creating sandboxes with a network
    Create,
}

pub fn run(args: &BenchArgs) -> Result<()> {
    match args.benchmark.as_ref().unwrap_or(&Benchmark::Isola { row: None }) {
        Benchmark::Isola { row } => {
            guests::ensure()?;
            rust(row.as_deref())
        }
        Benchmark::Node { row } => {
            guests::ensure()?;
            node::bench(row.as_deref())
        }
        Benchmark::Python => {
            guests::ensure()?;
            python()
        }
        Benchmark::Programs(args) => programs::run(args),
        Benchmark::Interpreters => {
            guests::ensure()?;
            eprintln!("==> cargo bench -p isorun --bench interpreters");
            process::run(process::cargo(&["bench", "-p", "isorun", "--bench", "interpreters"]))
        }
        Benchmark::Images => images(),
        Benchmark::Linux { rows } => {
            let row = rows.map(|LinuxRows::Work| OsStr::new("work"));
            linux_sandboxes("sandbox", row.as_slice())
        }
        Benchmark::State => {
            let chart = workspace::root().join("docs/isorun/state.svg");
            linux_sandboxes("state", &["--chart".as_ref(), chart.as_ref()])
        }
        Benchmark::Placement { seed } => placement(*seed),
        Benchmark::Network { rows } => network(*rows),
        Benchmark::Cluster { rows, before } => cluster(*rows, before.as_deref()),
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

/// Simulates a cluster. In the profile of the tests, since the time is PostgreSQL's.
fn placement(seed: Option<u64>) -> Result<()> {
    debian::postgres()?;
    let chart = workspace::root().join("docs/internals/placement.svg");
    eprintln!("==> cargo bench --profile dev --bench placement");
    // Like the tests, so that nothing is compiled again.
    let mut command = process::cargo(&["bench", "--workspace", "--bench", "placement"]);
    command.args(["--profile", "dev", "--features", workspace::TEST_FEATURES]);
    command.args(["--", "--chart"]).arg(chart);
    if let Some(seed) = seed {
        command.args(["--seed", &seed.to_string()]);
    }
    process::run(command)
}

/// Measures a real server in comparison with nginx.
fn network(rows: Option<NetworkRows>) -> Result<()> {
    linux::ensure()?;
    let nginx = debian::nginx()?;
    eprintln!("==> cargo bench -p isorun --bench network");
    let mut command = process::cargo(&["bench", "-p", "isorun", "--bench", "network", "--"]);
    command.args(rows.map(NetworkRows::name)).env("ISORUN_BENCH_NGINX", nginx);
    process::run(command)
}

/// Measures real servers with a PostgreSQL server of their own.
fn cluster(rows: Option<ClusterRows>, before: Option<&Path>) -> Result<()> {
    guests::ensure()?;
    linux::ensure()?;
    debian::postgres()?;
    eprintln!("==> cargo bench -p isorun --bench cluster");
    let mut command = process::cargo(&["bench", "-p", "isorun", "--bench", "cluster", "--"]);
    command.args(rows.map(ClusterRows::name));
    if let Some(before) = before {
        let before = before.canonicalize();
        command.env("ISORUN_BENCH_BEFORE", before.context("--before: cannot find the program")?);
    }
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
    wheel::install(&python, &[&wheel], &site)?;
    eprintln!("==> python crates/isola-python/bench/bench.py");
    let mut bench = Command::new(python);
    bench.arg(workspace::root().join("crates/isola-python/bench/bench.py"));
    bench.env(rust_calls::VARIABLE, rust_calls::measure()?);
    bench.env("PYTHONPATH", &site).env_remove("ISOLA_RUNTIME_DIR");
    process::run(bench)
}

impl ClusterRows {
    /// Returns the name of the group in the benchmark.
    fn name(self) -> &'static str {
        match self {
            Self::Operations => "operations",
            Self::Moves => "moves",
        }
    }
}

impl NetworkRows {
    /// Returns the name of the group in the benchmark.
    fn name(self) -> &'static str {
        match self {
            Self::Traffic => "traffic",
            Self::Credentials => "credentials",
            Self::Urls => "urls",
            Self::Create => "create",
        }
    }
}

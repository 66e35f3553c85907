//! The Python package `isorun`, in `sdk/python`: its tests, which run on the
//! installed wheel against the server of this tree, alone and in a cluster, its types, and a
//! demo.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::{debian, linux, process, progress, setup, wheel, workspace};

/// Builds the package `isorun`, which the other functions use, and no other package
/// of the workspace.
pub fn build() -> Result<()> {
    process::run(process::cargo(&["build", "--package", "isorun"]))
}

/// Builds the server with the features of the tests of all crates, so that nothing is
/// compiled again that they have compiled.
pub fn build_for_tests() -> Result<()> {
    let features = workspace::TEST_FEATURES;
    // A test of the command, since such tests need its program.
    let wanted = ["--features", features, "--test", "isorun", "--no-run"];
    let mut cargo = process::cargo(&["test", "--quiet", "--workspace"]);
    cargo.args(wanted);
    process::run_quiet(cargo)
}

/// The sizes of the clusters that the tests run on; 1 is a server that is in none.
const NODES: [u32; 2] = [1, 3];

/// Runs the tests with a server that was built before: on one, and on a cluster. `args` are
/// passed to pytest.
pub fn test(args: &[String]) -> Result<()> {
    let python = setup::sdk_tests()?;
    linux::ensure()?;
    debian::browser()?;
    let postgres = debian::postgres()?;
    let site = install(&python)?;
    let notebook = setup::notebook_packages()?;
    for nodes in NODES {
        let start = Instant::now();
        eprintln!("==> pytest sdk/python/tests, servers: {nodes}");
        let mut pytest = Command::new(&python);
        pytest.current_dir(workspace::root().join("sdk/python"));
        pytest.args(["-m", "pytest"]).args(args);
        pytest.env("PYTHONPATH", &site).env("PYTHONDONTWRITEBYTECODE", "1");
        pytest.env("ISORUN_COMMAND", command()?);
        pytest.env("ISORUN_NOTEBOOK_PACKAGES", &notebook);
        pytest.env("ISORUN_TEST_NODES", nodes.to_string());
        pytest.env(debian::POSTGRES_DIR_VARIABLE, &postgres);
        process::run(pytest)?;
        eprintln!("    done in {}", progress::seconds(start.elapsed()));
    }
    Ok(())
}

/// Starts a server that was built before, and runs a Python program that creates a
/// Linux sandbox on it.
pub fn demo() -> Result<()> {
    let python = setup::sdk_tests()?;
    linux::ensure()?;
    let site = install(&python)?;
    let state = workspace::root().join("target/isorun-demo");
    let mut serve = Command::new(command()?);
    serve.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(state.join("data"));
    serve.env("XDG_CONFIG_HOME", &state);
    eprintln!("==> isorun serve");
    let server = Server::start(serve)?;
    eprintln!("==> examples/linux_sandbox.py");
    let mut example = Command::new(python);
    example.arg(workspace::root().join("examples/linux_sandbox.py"));
    example.env("PYTHONPATH", &site).env("XDG_CONFIG_HOME", &state);
    for name in ["ISORUN_API_URL", "ISORUN_API_KEY"] {
        example.env_remove(name);
    }
    process::run(example)?;
    server.stop()
}

/// A running server, which is stopped when it is dropped.
struct Server(Child);

impl Server {
    fn start(mut command: Command) -> Result<Self> {
        command.stdout(Stdio::piped());
        let mut server = Self(command.spawn().context("cannot start isorun serve")?);
        let stdout = server.0.stdout.take().context("the server has no output")?;
        for line in BufReader::new(stdout).lines() {
            // The last line that the server prints when it is ready.
            if line?.contains("ISORUN_API_KEY=") {
                return Ok(server);
            }
        }
        bail!("isorun serve did not start: {}", server.0.wait()?)
    }

    fn stop(mut self) -> Result<()> {
        self.terminate();
        let status = self.0.wait()?;
        if !status.success() {
            bail!("isorun serve failed ({status})");
        }
        Ok(())
    }

    /// Sends SIGTERM for an orderly shutdown: std only has SIGKILL.
    fn terminate(&self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            self.terminate();
            let _ = self.0.wait();
        }
    }
}

/// Builds the wheel and installs it into a separate directory.
pub fn install(python: &Path) -> Result<PathBuf> {
    let wheels = workspace::root().join("target/wheels/isorun");
    let found = build_package(python, &["wheel"], &wheels)?;
    let wheel = found.first().context("hatchling created no wheel")?;
    let site = workspace::root().join("target/isorun-site");
    wheel::install(python, &[wheel], &site)?;
    Ok(site)
}

/// Builds the package as archives of these kinds, `wheel` or `sdist`, into a directory.
/// Returns the archives.
pub fn build_package(python: &Path, kinds: &[&str], dir: &Path) -> Result<Vec<PathBuf>> {
    if dir.exists() {
        fs::remove_dir_all(dir)?;
    }
    let label = format!("building the package isorun ({})", kinds.join(" and "));
    progress::step(&label, || {
        let mut build = Command::new(python);
        build.current_dir(workspace::root().join("sdk/python"));
        build.args(["-m", "hatchling", "build", "--directory"]).arg(dir);
        build.args(kinds.iter().flat_map(|kind| ["--target", kind]));
        process::run_quiet(build)
    })?;
    let found = fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path()));
    found.collect::<Result<_, _>>().context("cannot list the archives")
}

/// Returns the path of the command `isorun` of this tree.
pub fn command() -> Result<PathBuf> {
    Ok(workspace::cargo_target()?.join("debug/isorun"))
}

/// Creates the mypy command for the package and its tests.
pub fn types() -> Result<Command> {
    let python = setup::sdk_tests()?;
    let mut mypy = Command::new(python);
    mypy.current_dir(workspace::root().join("sdk/python"));
    mypy.args(["-m", "mypy", "--no-color-output", "--cache-dir"]);
    mypy.arg(workspace::root().join("target/mypy"));
    Ok(mypy)
}

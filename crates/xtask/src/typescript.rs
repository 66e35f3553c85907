//! The npm package `@isorun/sdk`, in `sdk/typescript`: compiled, tested with the server of this
//! tree, and packed as for publishing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{debian, linux, node, process, progress, sdk, setup, workspace};

const SOURCE: &str = "sdk/typescript";
/// The program that starts a server and runs the tests with it.
const SUITE: &str = "out/suite.js";

/// The files of tests that run on the newest Node.js, too: those of what Node.js does for the
/// package. The others test the server through it, for minutes.
const PLATFORM_TESTS: &str = "ai-sdk cancel config package protocol sandbox transport";

/// Runs the tests with a server that was built before, on the Node.js of this machine, and
/// those of [`PLATFORM_TESTS`] on the newest one. `args` are passed to `node --test`.
pub fn test(args: &[String]) -> Result<()> {
    let python = setup::sdk_tests()?;
    let notebook = setup::notebook_packages()?;
    linux::ensure()?;
    debian::tls_tools()?;
    let package = build("test")?;
    compile(&package, "tsconfig.test.json", &[])?;
    let tools = setup::node()?;
    for (node, files) in [(tools.node, None), (setup::newest_node()?, Some(PLATFORM_TESTS))] {
        let version = process::stdout_of(&node, &["--version"]).context("Node.js does not run")?;
        eprintln!("==> node {SUITE} in {SOURCE}, on Node.js {version}");
        let mut suite = Command::new(&node);
        suite.current_dir(&package).arg(SUITE).args(args);
        suite.env("ISORUN_REPOSITORY", workspace::root()).env("ISORUN_COMMAND", sdk::command()?);
        suite.env("ISORUN_PYTHON", &python).env("ISORUN_NOTEBOOK_PACKAGES", &notebook);
        suite.env("ISORUN_NPM", &tools.npm).env("PATH", &tools.path);
        suite.envs(files.map(|files| ("ISORUN_TEST_FILES", files)));
        process::run(suite)?;
    }
    Ok(())
}

/// Checks the types of the package and of its tests.
pub fn check_types() -> Result<()> {
    let package = build("types")?;
    compile(&package, "tsconfig.test.json", &["--noEmit"])
}

/// Packs the package into an empty directory. Returns the archive.
pub fn pack() -> Result<PathBuf> {
    let package = build("package")?;
    let to = workspace::root().join("target/npm/release/isorun-sdk");
    node::clear(&to)?;
    progress::step("packing @isorun/sdk", || {
        let tools = setup::node()?;
        let mut npm = Command::new(&tools.npm);
        npm.args(["pack", "--ignore-scripts", "--pack-destination"]).arg(&to);
        npm.current_dir(&package).env("PATH", &tools.path);
        process::run_quiet(npm)
    })?;
    node::archive_in(&to)
}

/// Compiles the package in a copy of its directory, so that nothing is written into the source
/// tree. Returns the copy.
fn build(name: &str) -> Result<PathBuf> {
    let package = workspace::root().join("target/typescript").join(name);
    node::clear(&package)?;
    for file in sources(&workspace::files()?) {
        let to = package.join(file);
        fs::create_dir_all(to.parent().unwrap_or(&package))?;
        fs::copy(workspace::root().join(SOURCE).join(file), to)
            .with_context(|| format!("cannot copy {}", file.display()))?;
    }
    let modules = setup::isorun_typescript()?;
    std::os::unix::fs::symlink(modules, package.join("node_modules"))?;
    progress::step("compiling @isorun/sdk", || {
        compile(&package, "tsconfig.esm.json", &[])?;
        compile(&package, "tsconfig.cjs.json", &[])?;
        let mut finish = Command::new(setup::node()?.node);
        finish.current_dir(&package).arg("finish-build.mjs");
        finish.env("ISORUN_REPOSITORY", workspace::root());
        process::run_quiet(finish)
    })?;
    Ok(package)
}

/// Runs the compiler that the lock file of the package pins.
fn compile(package: &Path, project: &str, args: &[&str]) -> Result<()> {
    let mut tsc = Command::new(setup::node()?.node);
    tsc.current_dir(package).arg("node_modules/typescript/bin/tsc");
    tsc.args(["--project", project]).args(args);
    process::run_quiet(tsc)
}

/// Returns the files of the package, relative to its directory.
fn sources(files: &[PathBuf]) -> impl Iterator<Item = &Path> {
    files.iter().filter_map(|file| file.strip_prefix(SOURCE).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_the_package_are_copied() {
        let files = ["sdk/typescript/src/index.ts", "sdk/python/README.md", "sdk/typescript2/a.ts"]
            .map(PathBuf::from);
        let found: Vec<_> = sources(&files).collect();
        assert_eq!(found, [Path::new("src/index.ts")]);
    }
}

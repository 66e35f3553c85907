//! `cargo xtask wheel`: builds the Python package with the runtimes `python` and `js`, and the
//! package that contains only the runtime `python-data`.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::digest::Inputs;
use crate::{guests, node, process, progress, setup, stamp, workspace};

#[derive(clap::Args)]
pub struct WheelArgs {
    /// Build the release version: optimized, which takes minutes
    #[arg(long)]
    release: bool,
}

pub fn run(args: &WheelArgs) -> Result<()> {
    guests::ensure_all()?;
    let wheel = build(if args.release { "release" } else { "dev" })?;
    println!("{}", wheel.display());
    println!("{}", build_data(None)?.display());
    Ok(())
}

/// The environment variable that makes this program act as cargo. Its value is the
/// path of the real cargo.
const CARGO_VARIABLE: &str = "ISOLA_XTASK_CARGO";

/// Builds the wheel for this machine. With the profile `dev` it shares its build with the
/// tests: see [`run_as_cargo`].
pub fn build(profile: &str) -> Result<PathBuf> {
    build_for(profile, None, &workspace::root().join("target/wheels").join(profile))
}

/// Builds the wheel for other machines into a directory: maturin verifies that it uses
/// only libraries that they have, and gives it the tag of the oldest manylinux that has
/// their versions.
/// The files in it have the time `epoch`, in seconds since 1970.
pub fn build_for_release(profile: &str, epoch: u64) -> Result<PathBuf> {
    let name = format!("{profile}-manylinux");
    build_for(profile, Some(epoch), &workspace::root().join("target/wheels").join(name))
}

fn build_for(profile: &str, release_epoch: Option<u64>, wheels: &Path) -> Result<PathBuf> {
    let maturin = setup::maturin()?;
    let package = workspace::root().join("crates/isola-python");
    let runtimes = package.join("python/isola/runtimes");
    fs::create_dir_all(&runtimes)?;
    for name in ["python.wasm", "js.wasm"] {
        copy_if_changed(&workspace::runtimes().join(name), &runtimes.join(name))?;
    }
    if wheels.exists() {
        fs::remove_dir_all(wheels)?;
    }
    progress::step("building the wheel of the Python package", || {
        let mut command = Command::new(maturin);
        command.current_dir(workspace::root());
        command.args(["build", "--quiet", "--strip"]);
        match release_epoch {
            None => command.args(["--compatibility", "linux"]),
            Some(epoch) => command.env("SOURCE_DATE_EPOCH", epoch.to_string()),
        };
        command.args(["--profile", profile, "--manifest-path"]);
        command.arg(package.join("Cargo.toml")).arg("--out").arg(wheels);
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        command.env(CARGO_VARIABLE, cargo).env("CARGO", this_program()?);
        // As for any other cargo: the variables of this package do not apply.
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(process::is_package_variable) {
                command.env_remove(&name);
            }
        }
        process::run_quiet(command)
    })?;
    let mut found = fs::read_dir(wheels)?;
    let wheel = found.next().context("maturin created no wheel")??;
    Ok(wheel.path())
}

/// The package that contains only the runtime `python-data`.
const DATA_PACKAGE: &str = "crates/isola-python/data";

/// Builds the wheel of the runtime `python-data`, which is the same for all machines, unless it
/// is current. The files in it have the time `epoch` in a release, and else a fixed one.
pub fn build_data(epoch: Option<u64>) -> Result<PathBuf> {
    const COMPONENT: &str = "python-data.wasm";
    let root = workspace::root();
    let package = root.join(DATA_PACKAGE);
    let component = workspace::runtimes().join(COMPONENT);
    let kind = if epoch.is_some() { "release" } else { "dev" };
    let dir = root.join("target/wheels/python-data").join(kind);
    let digest = Inputs::default()
        .tree(&package)?
        .file(COMPONENT, &component)?
        .text("epoch", &format!("{epoch:?}"))
        .finish();
    stamp::install("the wheel isola-python-data", &dir, &digest, || {
        let source = dir.join("source");
        node::copy_dir(&package, &source)?;
        fs::copy(&component, source.join("src/isola_python_data").join(COMPONENT))
            .with_context(|| format!("cannot copy {}", component.display()))?;
        fs::copy(root.join("LICENSE"), source.join("LICENSE"))?;
        let mut hatchling = Command::new(setup::sdk_tests()?);
        hatchling.current_dir(&source).env_remove("SOURCE_DATE_EPOCH");
        hatchling.args(["-m", "hatchling", "build", "--target", "wheel", "--directory"]);
        hatchling.arg(&dir);
        if let Some(epoch) = epoch {
            hatchling.env("SOURCE_DATE_EPOCH", epoch.to_string());
        }
        process::run_quiet(hatchling)?;
        fs::remove_dir_all(&source).with_context(|| format!("cannot remove {}", source.display()))
    })?;
    fs::read_dir(&dir)?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.extension().is_some_and(|ending| ending == "whl"))
        .with_context(|| format!("hatchling left no wheel in {}", dir.display()))
}

/// Acts as the cargo that maturin starts, if this program was started for that.
/// Returns `None` otherwise.
///
/// maturin builds its package alone. Cargo would then select other features of the
/// dependencies than for the complete workspace, and compile wasmtime a second
/// time. So the package is built as a part of the workspace, as for the tests.
pub fn run_as_cargo() -> Option<ExitCode> {
    let cargo = std::env::var_os(CARGO_VARIABLE)?;
    let mut arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "rustc") {
        let option = |name: &str| {
            let index = arguments.iter().position(|argument| argument == name)?;
            arguments.get(index + 1).cloned()
        };
        let mut build: Vec<OsString> =
            ["build", "--workspace", "--lib", "--bins", "--examples"].map(OsString::from).into();
        for name in ["--profile", "--message-format"] {
            if let Some(value) = option(name) {
                build.extend([name.into(), value]);
            }
        }
        arguments = build;
    }
    let mut cargo = Command::new(cargo);
    cargo.args(arguments).env_remove(CARGO_VARIABLE).env_remove("CARGO");
    // maturin uses it. Build scripts that know it would compile again what the tests have
    // compiled without it, wasmtime among them.
    let status = cargo.env_remove("SOURCE_DATE_EPOCH").status();
    let code =
        status.ok().and_then(|status| status.code()).and_then(|code| u8::try_from(code).ok());
    Some(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Installs wheels into a separate directory, without their dependencies and without
/// a package index.
pub fn install(python: &Path, wheels: &[&Path], dir: &Path) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir)?;
    }
    let mut pip = Command::new(python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    pip.args(["--no-index", "--no-deps", "--target"]).arg(dir).args(wheels);
    process::run_quiet(pip)
}

/// Returns the path of this program. The file of the running process may have been
/// replaced by a new build, and so `current_exe` is not used.
fn this_program() -> Result<PathBuf> {
    Ok(workspace::cargo_target()?.join("debug/xtask"))
}

fn copy_if_changed(from: &Path, to: &Path) -> Result<()> {
    let same = fs::read(to).is_ok_and(|old| fs::read(from).is_ok_and(|new| old == new));
    if !same {
        fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extra_data_requires_the_version_of_the_runtime() {
        let read = |path: &str| -> toml::Table {
            let text = fs::read_to_string(workspace::root().join(path)).unwrap();
            toml::from_str(&text).unwrap()
        };
        let data = &read(&format!("{DATA_PACKAGE}/pyproject.toml"))["project"];
        let isola = &read("crates/isola-python/pyproject.toml")["project"];
        let version = data["version"].as_str().unwrap();
        let metadata = workspace::metadata().unwrap();
        let packages = metadata.workspace_packages();
        let native = packages.iter().find(|package| package.name.as_str() == "isola-python");
        assert_eq!(version, native.unwrap().version.to_string());
        let required = isola["optional-dependencies"]["data"].as_array().unwrap();
        let expected = format!("{}=={version}", data["name"].as_str().unwrap());
        assert_eq!(required, &[toml::Value::from(expected)]);
    }
}

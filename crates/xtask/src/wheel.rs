//! `cargo xtask wheel`: the Python package, with both runtimes in it.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::{guests, process, progress, setup, workspace};

#[derive(clap::Args)]
pub struct Args {
    /// Build it as it is released: optimized, which takes minutes
    #[arg(long)]
    release: bool,
}

pub fn run(args: &Args) -> Result<()> {
    guests::ensure()?;
    let wheel = build(if args.release { "release" } else { "dev" })?;
    println!("{}", wheel.display());
    Ok(())
}

/// Tells a program of ours that it is cargo, and which cargo that is.
const STAND_IN: &str = "ISOLA_XTASK_CARGO";

/// Builds the wheel. With the profile `dev` it shares its build with the tests:
/// see [`stand_in_for_cargo`].
pub fn build(profile: &str) -> Result<PathBuf> {
    let maturin = setup::maturin()?;
    let package = workspace::root().join("crates/isola-python");
    let runtimes = package.join("python/isola/runtimes");
    fs::create_dir_all(&runtimes)?;
    for name in ["python.wasm", "js.wasm"] {
        copy_if_changed(&workspace::runtimes().join(name), &runtimes.join(name))?;
    }
    let wheels = workspace::root().join("target/wheels").join(profile);
    if wheels.exists() {
        fs::remove_dir_all(&wheels)?;
    }
    progress::step("building the wheel of the Python package", || {
        let mut command = Command::new(maturin);
        command.current_dir(workspace::root());
        command.args(["build", "--quiet", "--strip", "--compatibility", "linux"]);
        command.args(["--profile", profile, "--manifest-path"]);
        command.arg(package.join("Cargo.toml")).arg("--out").arg(&wheels);
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        command.env(STAND_IN, cargo).env("CARGO", this_program()?);
        // As for any other cargo: what this program was told is not about that.
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(process::is_about_a_package) {
                command.env_remove(&name);
            }
        }
        process::quiet(command)
    })?;
    let mut found = fs::read_dir(&wheels)?;
    let wheel = found.next().context("maturin made no wheel")??;
    Ok(wheel.path())
}

/// Does the work of the cargo that maturin starts, if that is what this program
/// was started for.
///
/// maturin builds its package alone. Cargo would choose other features of the
/// dependencies than for the whole workspace, and compile wasmtime a second
/// time; so the package is built as a part of the workspace, as for the tests.
pub fn stand_in_for_cargo() -> Option<ExitCode> {
    let cargo = std::env::var_os(STAND_IN)?;
    let mut arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "rustc") {
        let told = |name: &str| {
            let place = arguments.iter().position(|argument| argument == name)?;
            arguments.get(place + 1).cloned()
        };
        let mut build: Vec<OsString> =
            ["build", "--workspace", "--lib", "--bins", "--examples"].map(OsString::from).into();
        for name in ["--profile", "--message-format"] {
            if let Some(value) = told(name) {
                build.extend([name.into(), value]);
            }
        }
        arguments = build;
    }
    let status =
        Command::new(cargo).args(arguments).env_remove(STAND_IN).env_remove("CARGO").status();
    let code =
        status.ok().and_then(|status| status.code()).and_then(|code| u8::try_from(code).ok());
    Some(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Installs a wheel into a folder of its own, without its dependencies and
/// without asking an index.
pub fn install(python: &Path, wheel: &Path, folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    let mut pip = Command::new(python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    pip.args(["--no-index", "--no-deps", "--target"]).arg(folder).arg(wheel);
    process::quiet(pip)
}

/// Where this program is. The running one may have been built anew in the
/// meantime, and its own file be gone.
fn this_program() -> Result<PathBuf> {
    Ok(workspace::metadata()?.target_directory.join("debug/xtask").into())
}

fn copy_if_changed(from: &Path, to: &Path) -> Result<()> {
    let same = fs::read(to).is_ok_and(|old| fs::read(from).is_ok_and(|new| old == new));
    if !same {
        fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    Ok(())
}

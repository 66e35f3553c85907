//! `cargo xtask wheel`: the Python package, with both runtimes in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

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

/// Builds the wheel. With the profile `dev` it shares its build with the tests:
/// the package asks for no feature of a large dependency that they do not.
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

fn copy_if_changed(from: &Path, to: &Path) -> Result<()> {
    let same = fs::read(to).is_ok_and(|old| fs::read(from).is_ok_and(|new| old == new));
    if !same {
        fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    Ok(())
}

//! PostgreSQL, with which the tests start servers of their own.
//!
//! Debian's package would create a user and a service, and the tests would need root to
//! install it. So the packages are unpacked beside the other tools, and the programs are found
//! there by the tests.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::{apt, is_on, release, unpack};
use crate::digest::Inputs;
use crate::{process, stamp, workspace};

/// The programs that the tests run.
const PROGRAMS: [&str; 3] = ["initdb", "postgres", "psql"];
/// The directory of the versions of Debian's PostgreSQL, relative to the root.
const VERSIONS: &str = "usr/lib/postgresql";
/// The variable that names the directory of the unpacked packages. `.cargo/config.toml` sets it.
pub const DIR_VARIABLE: &str = "ISORUN_POSTGRES_DIR";

/// Unpacks the packages of PostgreSQL that this machine lacks, unless it has the programs.
/// Nothing is started, and root is not needed. Returns the directory of the packages, which is
/// missing on a machine that has the programs.
pub fn postgres() -> Result<PathBuf> {
    let tools = workspace::tools().join("postgresql");
    let files = tools.join("files");
    if PROGRAMS.iter().all(|program| is_on_machine(program)) {
        return Ok(files);
    }
    let Some(suite) = release() else {
        bail!(
            "the tests of isorun require the server and the client of PostgreSQL ({}): install \
             them on the PATH",
            PROGRAMS.join(", ")
        );
    };
    let digest = Inputs::default().text("suite", &suite).finish();
    let label = "PostgreSQL, with which clusters are tested";
    stamp::install(label, &tools, &digest, || {
        let packages = missing_packages(&suite, &tools)?;
        let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
        unpack(&packages, &suite, &tools)?;
        remove_compiler(&files)?;
        let is_there = |program: &str| is_on_machine(program) || has_version(&files, program);
        match PROGRAMS.iter().find(|program| !is_there(program)) {
            Some(program) => bail!("Debian's packages of PostgreSQL have no program {program}"),
            None => Ok(()),
        }
    })?;
    Ok(files)
}

fn is_on_machine(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    has_version(Path::new("/"), program) || is_on(&path, program)
}

/// Reports whether a version of Debian's PostgreSQL below `root` has this program.
fn has_version(root: &Path, program: &str) -> bool {
    let versions = fs::read_dir(root.join(VERSIONS)).into_iter().flatten().flatten();
    versions.map(|version| version.path().join("bin").join(program)).any(|path| path.is_file())
}

/// Returns the packages that apt would install for PostgreSQL, as far as its programs use them.
fn missing_packages(suite: &str, tools: &Path) -> Result<Vec<String>> {
    process::run_quiet(apt("apt-get", suite, tools, &["update"])?)?;
    let install = ["install", "--simulate", "--no-install-recommends", "postgresql"];
    let captured = process::capture(apt("apt-get", suite, tools, &install)?)?;
    if !captured.status.success() {
        bail!("cannot find the packages of PostgreSQL:\n{}", process::tail(&captured.text, 20));
    }
    let found: Vec<String> =
        installed(&captured.text).filter(|name| is_used(name)).map(str::to_owned).collect();
    if found.is_empty() {
        bail!(
            "Debian's package postgresql is installed, but its programs are missing ({}): \
             reinstall it",
            PROGRAMS.join(", ")
        );
    }
    Ok(found)
}

/// Returns the names of the packages that a simulation of apt-get would install.
fn installed(simulation: &str) -> impl Iterator<Item = &str> {
    simulation
        .lines()
        .filter_map(|line| line.strip_prefix("Inst "))
        .filter_map(|rest| rest.split_whitespace().next())
}

/// Reports whether a package has programs of a version of PostgreSQL, or libraries that they
/// use. The others are Perl, for commands that manage servers of the machine, and a compiler.
fn is_used(package: &str) -> bool {
    let version = package
        .strip_prefix("postgresql-client-")
        .or_else(|| package.strip_prefix("postgresql-"))
        .unwrap_or_default();
    let is_version = version.starts_with(|c: char| c.is_ascii_digit());
    let is_perl = package.starts_with("libperl") || package.ends_with("-perl");
    let is_library = package.starts_with("lib") && !package.starts_with("libllvm") && !is_perl;
    is_library || (is_version && !version.ends_with("-jit"))
}

/// Removes the module that compiles queries with LLVM, of more than 100 MB, which is not
/// unpacked. Without the module PostgreSQL does not try to.
fn remove_compiler(files: &Path) -> Result<()> {
    for version in fs::read_dir(files.join(VERSIONS)).into_iter().flatten().flatten() {
        let module = version.path().join("lib/llvmjit.so");
        if module.exists() {
            fs::remove_file(&module)
                .with_context(|| format!("cannot remove {}", module.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_programs_use_is_unpacked() {
        let simulation = "\
NOTE: This is only a simulation!
Reading package lists...
Inst libllvm14 (1:14.0.6-12 Debian:12.0/stable [amd64])
Inst libpq5 (15.18-0+deb12u1 Debian:12.0/stable [amd64])
Inst libjson-perl (4.10000-1 Debian:12.0/stable [all])
Inst postgresql-client-common (248+deb12u1 Debian:12.0/stable [all])
Inst postgresql-client-15 (15.18-0+deb12u1 Debian:12.0/stable [amd64])
Inst postgresql-common (248+deb12u1 Debian:12.0/stable [all]) []
Inst postgresql-15 (15.18-0+deb12u1 Debian:12.0/stable [amd64])
Inst postgresql-17-jit (17.6-0 Debian:13.0/stable [amd64])
Inst postgresql (15+248+deb12u1 Debian:12.0/stable [all])
Inst ssl-cert (1.1.2 Debian:12.0/stable [all])
Conf libpq5 (15.18-0+deb12u1 Debian:12.0/stable [amd64])
";
        let used: Vec<&str> = installed(simulation).filter(|name| is_used(name)).collect();
        assert_eq!(used, ["libpq5", "postgresql-client-15", "postgresql-15"]);
    }

    #[test]
    fn programs_are_found_in_the_directory_of_any_version() {
        let root = tempfile::tempdir().unwrap();
        assert!(!has_version(root.path(), "initdb"));
        let bin = root.path().join(VERSIONS).join("17/bin");
        fs::create_dir_all(&bin).unwrap();
        fs::write(bin.join("initdb"), "").unwrap();
        assert!(has_version(root.path(), "initdb"));
        assert!(!has_version(root.path(), "postgres"));
    }
}

//! Builds `runsc` from the Go module of gVisor, at the version that `packaging/gvisor` pins.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::go_modules;
use super::version::is_recent;
use crate::digest::{self, Inputs};
use crate::{process, stamp, workspace};

/// The Go module that pins gVisor, at the root of the checkout.
const MODULE: &str = "packaging/gvisor";
/// What a Go module is built with: no path of this machine in the program, and no library of
/// it.
const BUILD_FLAGS: [&str; 3] = ["-mod=vendor", "-trimpath", "-buildvcs=false"];
/// A program that the Go module of gVisor contains in compiled form, and with which
/// checkpoints are read from a cloud's storage. isorun does not use it, and what was not
/// compiled here is not installed.
const COMPILED_ELSEWHERE: &str = "gvisor.dev/gvisor/runsc/checkpointgofer/checkpointgofer.bin";
/// The file of gVisor that registers filters of system calls which were compiled ahead of time.
const FILTERS: &str = "gvisor.dev/gvisor/runsc/boot/filter/filter_precompiled.go";

/// The version of gVisor that `packaging/gvisor/go.mod` pins.
pub struct Pinned {
    /// Its date, such as `20260905`.
    pub date: String,
    /// The oldest version of Go that builds it, such as `1.26.3`.
    pub go: String,
}

impl Pinned {
    pub fn read() -> Result<Self> {
        let path = workspace::root().join(MODULE).join("go.mod");
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{} does not pin gVisor", path.display()))
    }

    fn parse(text: &str) -> Option<Self> {
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        // Such as `v0.0.0-20260905035102-160fafc42237`.
        let version = value("require gvisor.dev/gvisor ")?;
        let date = version.split('-').nth(1)?.get(..8)?;
        Some(Self { date: date.to_owned(), go: value("go ")?.trim().to_owned() })
    }
}

/// A Go that builds the pinned version.
pub struct Go {
    /// The output of `go version`.
    version: String,
}

impl Go {
    /// Finds it on the PATH.
    pub fn find(least: &str) -> Option<Self> {
        let version = process::stdout_of("go", &["version"])?;
        let number = version.split(' ').nth(2)?.strip_prefix("go")?;
        (numbers(number) >= numbers(least)).then_some(Self { version })
    }

    fn command(&self, args: &[&str], source: &Path) -> Command {
        let mut command = Command::new("go");
        command.args(args).current_dir(source);
        // Flags of the user, such as `-mod`, are for other modules.
        command.env("GOFLAGS", "").env("GOWORK", "off").env("CGO_ENABLED", "0");
        command.env("GOTOOLCHAIN", "local");
        command
    }
}

/// Returns the numbers of a version.
fn numbers(version: &str) -> Vec<u32> {
    version.split('.').map_while(|part| part.parse().ok()).collect()
}

/// What [`build`] has made.
pub struct Built {
    pub program: PathBuf,
    /// The list of the Go modules in it, as [`go_modules::read`] reads it.
    pub modules: PathBuf,
    /// The text of all their licences.
    pub licences: PathBuf,
}

/// Builds the pinned version from its Go module.
pub fn build(go: &Go, pinned: &Pinned) -> Result<Built> {
    let tools = workspace::tools().join("gvisor");
    let built = Built {
        program: tools.join("runsc"),
        modules: tools.join("modules"),
        licences: tools.join("licences"),
    };
    let module = workspace::root().join(MODULE);
    let digest = Inputs::default()
        .text("go", &go.version)
        .text("flags", &BUILD_FLAGS.join(" "))
        .text("results", "runsc modules licences")
        .tree(&module)?
        .finish();
    let label = format!("gVisor's runsc {}, compiled (1 to 3 minutes)", pinned.date);
    stamp::install_and_keep(&label, &tools, &digest, || {
        let source = tools.join("source");
        copy_module(&module, &source)?;
        // The checksums of `go.sum` are compared here.
        process::run_quiet(go.command(&["mod", "vendor"], &source))?;
        let vendor = source.join("vendor");
        fs::write(vendor.join(COMPILED_ELSEWHERE), "")?;
        let mut filters = go.command(&["run"], &source);
        filters.args(BUILD_FLAGS).arg("./filters").arg(vendor.join(FILTERS));
        process::run_quiet(filters)?;
        let version = "gvisor.dev/gvisor/runsc/version.version";
        let mut compile = go.command(&["build"], &source);
        compile.args(BUILD_FLAGS);
        compile.arg(format!("-ldflags=-s -w -X {version}={}", pinned.date));
        compile.arg("-o").arg(&built.program).arg("./runsc");
        process::run_quiet(compile)?;
        ensure!(
            is_recent(&built.program, &pinned.date),
            "{} was built, but does not report version {}",
            built.program.display(),
            pinned.date
        );
        let modules = go_modules::of_program(&built.program, &vendor)?;
        fs::write(&built.modules, go_modules::list(&modules))?;
        fs::write(&built.licences, go_modules::licence_texts(&modules))?;
        fs::remove_dir_all(&source).context("cannot remove the sources of gVisor")
    })?;
    Ok(built)
}

fn copy_module(from: &Path, to: &Path) -> Result<()> {
    for file in digest::files(from)? {
        let target = to.join(&file);
        fs::create_dir_all(target.parent().context("a file is in no directory")?)?;
        fs::copy(from.join(&file), &target)
            .with_context(|| format!("cannot copy {}", file.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::version::MIN_VERSION;
    use super::*;

    #[test]
    fn pinned_version_is_read() {
        let pinned = Pinned::read().unwrap();
        assert!(pinned.date.as_str() > MIN_VERSION, "{}", pinned.date);
        assert!(numbers(&pinned.go) >= vec![1, 26], "{}", pinned.go);
        assert!(Pinned::parse("module x\n\ngo 1.26\n").is_none());
    }

    #[test]
    fn versions_of_go_are_compared_as_numbers() {
        assert!(numbers("1.26.10") > numbers("1.26.9"));
        assert!(numbers("1.27") > numbers("1.26.3"));
        assert!(numbers("1.9") < numbers("1.26"));
    }
}

//! Installs `runsc`, gVisor's program.
//!
//! A current one is faster and does not use CPU time while a sandbox is idle, so it is
//! preferred: the machine's own, if it is as new as the one that `packaging/gvisor` pins,
//! or else that one, built from the Go module of gVisor where Go is there. Without Go it is
//! any that the engine supports: the machine's own, or else Debian's, which is unpacked
//! beside the other tools.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::digest::{self, Inputs};
use crate::{debian, process, stamp, workspace};

/// The oldest version of `runsc` that the engine supports. Versions are dates, and
/// compared as text.
const MIN_VERSION: &str = "20240729";
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

/// Puts a link to a `runsc` into a directory.
pub fn link(program: &Path, dir: &Path) -> Result<()> {
    let link = dir.join("runsc");
    if fs::read_link(&link).is_ok_and(|target| target == program) {
        return Ok(());
    }
    let temporary = dir.join("runsc.part");
    let _ = fs::remove_file(&temporary);
    std::os::unix::fs::symlink(program, &temporary)
        .and_then(|()| fs::rename(&temporary, &link))
        .with_context(|| format!("cannot create {}", link.display()))
}

/// Returns the best `runsc` that can be had here.
pub fn find_or_build() -> Result<PathBuf> {
    let pinned = Pinned::read()?;
    if let Some(program) = on_path(&pinned.date) {
        return Ok(program);
    }
    if let Some(go) = Go::find(&pinned.go) {
        return build(&go, &pinned);
    }
    eprintln!(
        "==> there is no Go {} or newer, with which a current runsc is built: an older one is \
         used, with which idle sandboxes use CPU time",
        pinned.go
    );
    on_path(MIN_VERSION).map_or_else(debian_runsc, Ok)
}

/// Returns the oldest `runsc` that the engine supports and that can be had here: Debian's.
pub fn oldest() -> Result<PathBuf> {
    debian_runsc()
}

/// Returns the `runsc` of the machine if it has at least that version.
fn on_path(least: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .map(|dir| dir.join("runsc"))
        .find(|path| is_recent(path, least))
}

fn is_recent(program: &Path, least: &str) -> bool {
    process::stdout_of(program, &["--version"])
        .is_some_and(|text| date_of(&text).is_some_and(|date| date >= least))
}

/// Returns the date in the output of `runsc --version`.
fn date_of(text: &str) -> Option<&str> {
    let start = text.find("20")?;
    text.get(start..start + 8).filter(|date| date.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The version of gVisor that `packaging/gvisor/go.mod` pins.
struct Pinned {
    /// Its date, such as `20260905`.
    date: String,
    /// The oldest version of Go that builds it, such as `1.26.3`.
    go: String,
}

impl Pinned {
    fn read() -> Result<Self> {
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
struct Go {
    /// The output of `go version`.
    version: String,
}

impl Go {
    /// Finds it on the PATH.
    fn find(least: &str) -> Option<Self> {
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

/// Builds the pinned version from its Go module.
fn build(go: &Go, pinned: &Pinned) -> Result<PathBuf> {
    let tools = workspace::tools().join("gvisor");
    let module = workspace::root().join(MODULE);
    let digest = Inputs::default()
        .text("go", &go.version)
        .text("flags", &BUILD_FLAGS.join(" "))
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
        let program = tools.join("runsc");
        let version = "gvisor.dev/gvisor/runsc/version.version";
        let mut compile = go.command(&["build"], &source);
        compile.args(BUILD_FLAGS);
        compile.arg(format!("-ldflags=-s -w -X {version}={}", pinned.date));
        compile.arg("-o").arg(&program).arg("./runsc");
        process::run_quiet(compile)?;
        ensure!(
            is_recent(&program, &pinned.date),
            "{} was built, but does not report version {}",
            program.display(),
            pinned.date
        );
        fs::remove_dir_all(&source).context("cannot remove the sources of gVisor")
    })?;
    Ok(tools.join("runsc"))
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

/// Unpacks `runsc` from this Debian release, or from its backports.
fn debian_runsc() -> Result<PathBuf> {
    let tools = workspace::tools().join("runsc");
    let digest = Inputs::default().text("runsc", MIN_VERSION).finish();
    stamp::install("runsc, which isolates Linux sandboxes", &tools, &digest, || {
        let Some(name) = debian::release() else {
            bail!("this is not Debian: install gVisor's runsc {MIN_VERSION} or newer on the PATH");
        };
        let mut failures = Vec::new();
        for suite in [format!("{name}-backports"), name] {
            match debian::unpack(&["runsc"], &suite, &tools) {
                Ok(files) if is_recent(&files.join("usr/bin/runsc"), MIN_VERSION) => {
                    return Ok(());
                }
                Ok(_) => failures.push(format!("{suite}: too old")),
                Err(error) => failures.push(format!("{suite}: {error:#}")),
            }
        }
        bail!(
            "no runsc {MIN_VERSION} or newer: install gVisor's own release on the PATH ({})",
            failures.join("; ")
        )
    })?;
    Ok(tools.join("files/usr/bin/runsc"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_found_in_versions() {
        for (text, expected) in [
            ("runsc version 0.0~20240729.0\nspec: 1.0.2-dev", Some("20240729")),
            ("runsc version release-20250407.0", Some("20250407")),
            ("runsc version 20260905", Some("20260905")),
            ("runsc version unknown", None),
            ("runsc version VERSION_MISSING\nspec: 1.2.0", None),
            ("", None),
        ] {
            assert_eq!(date_of(text), expected, "{text}");
        }
    }

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

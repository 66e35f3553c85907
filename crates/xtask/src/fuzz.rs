//! `cargo xtask fuzz`: fuzzes the parsers of untrusted input, and programs that are
//! forked while they run, guided by code coverage.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{process, progress, setup, workspace};

/// The fuzz targets, one for each file in a `fuzz_targets`, and their packages.
const TARGETS: &[(&str, &str)] = &[
    ("frames", AGENT),
    ("answers", AGENT),
    ("runner", AGENT),
    ("forks", ISOLA),
    ("request", PARSERS),
    ("snapshot", PARSERS),
    ("files", PARSERS),
    ("instrument", PARSERS),
    ("archive", PARSERS),
    ("mcp", PARSERS),
    ("tools", PARSERS),
    ("visible", PARSERS),
    ("code_event", PARSERS),
    ("documents", IMAGE),
    ("references", IMAGE),
    ("challenges", IMAGE),
    ("accounts", IMAGE),
    ("layers", IMAGE),
    ("archives", IMAGE),
    ("objects", BLOBS),
    ("sniff", EGRESS),
    ("heads", EGRESS),
    ("dns", EGRESS),
    ("rules", EGRESS),
    ("redact", EGRESS),
    ("credentials", EGRESS),
    ("urls", ISORUN),
    ("requests", ISORUN),
    ("manifests", ISORUN),
    ("events", ISORUN),
];
const AGENT: &str = "agent";
const BLOBS: &str = "blobs";
/// The package of the parsers of `isola` and its command, without the engine.
const PARSERS: &str = "parsers";
const EGRESS: &str = "egress";
const IMAGE: &str = "image";
const ISORUN: &str = "isorun";
/// The package with the complete engine, which takes 15 minutes to compile.
const ISOLA: &str = "isola";

#[derive(clap::Args)]
pub struct FuzzArgs {
    /// Run only the target of this name
    target: Option<String>,
    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Build with the address sanitizer, which detects invalid memory accesses
    #[arg(long)]
    address: bool,
}

pub fn run(args: &FuzzArgs) -> Result<()> {
    let lock = workspace::lock()?;
    let cargo_fuzz = setup::cargo_fuzz()?;
    drop(lock);
    let targets = TARGETS
        .iter()
        .copied()
        .filter(|(target, _)| args.target.as_deref().is_none_or(|wanted| wanted == *target));
    fuzz_all(&cargo_fuzz, targets.collect(), args.seconds, args.address)
}

fn fuzz_all(
    cargo_fuzz: &Path,
    targets: Vec<(&str, &str)>,
    seconds: u32,
    address: bool,
) -> Result<()> {
    if targets.is_empty() {
        let names: Vec<_> = TARGETS.iter().map(|(name, _)| *name).collect();
        bail!("there is no such target: the targets are {}", names.join(", "));
    }
    for (target, package) in targets {
        let label = format!("fuzzing {target} for {seconds} s");
        progress::step(&label, || fuzz(cargo_fuzz, package, target, seconds, address))?;
    }
    Ok(())
}

fn fuzz(cargo_fuzz: &Path, package: &str, target: &str, seconds: u32, address: bool) -> Result<()> {
    let dir = workspace::root().join("target/fuzz");
    // Inputs that reached new code are kept for the next run.
    let corpus = dir.join("corpus").join(target);
    fs::create_dir_all(&corpus).with_context(|| format!("cannot create {}", corpus.display()))?;
    let mut command = Command::new(cargo_fuzz);
    command.current_dir(workspace::root().join("fuzz").join(package));
    command.args(["fuzz", "run", "--fuzz-dir", ".", "--sanitizer"]);
    if address {
        // A stable compiler has the sanitizer, but no option for it.
        command.arg("address").env("RUSTC_BOOTSTRAP", "1");
    } else {
        command.arg("none");
    }
    let build = if address { "fuzz/build-address" } else { "fuzz/build" };
    command.arg("--target-dir").arg(workspace::cargo_target()?.join(build));
    command.arg(target).arg(corpus);
    // The initial inputs.
    let seeds = workspace::root().join("fuzz").join(package).join("seeds").join(target);
    if seeds.is_dir() {
        command.arg(seeds);
    }
    command.arg("--");
    command.arg(format!("-max_total_time={seconds}"));
    command.arg(format!("-artifact_prefix={}/{target}-", dir.display()));
    command.args(["-timeout=10", "-max_len=65536", "-print_final_stats=1"]);
    // Interpreters use much memory, and shared memory is counted for each.
    command.arg(if package == ISOLA { "-rss_limit_mb=4096" } else { "-rss_limit_mb=1024" });
    command.env("ISOLA_RUNTIME_DIR", workspace::runtimes());
    process::run_quiet(command)
}

/// Runs the targets that compile quickly for a few seconds each, to find obvious
/// errors.
pub fn run_quick_targets() -> Result<()> {
    let lock = workspace::lock()?;
    let cargo_fuzz = setup::cargo_fuzz()?;
    drop(lock);
    // The others take minutes to compile.
    let quick = |package: &str| package == AGENT || package == PARSERS;
    let targets = TARGETS.iter().copied().filter(|(_, package)| quick(package));
    fuzz_all(&cargo_fuzz, targets.collect(), 5, false)
}

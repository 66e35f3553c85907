//! `cargo xtask fuzz`: throws bytes at the parsers that read what a guest says,
//! and makes programs of them that are copied half-way, guided by what they cover.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{process, progress, setup, workspace};

/// One for each file in `fuzz/fuzz_targets`.
const TARGETS: [&str; 3] = ["frames", "answers", "forks"];

#[derive(clap::Args)]
pub struct Args {
    /// Only the target of this name
    target: Option<String>,
    /// How long each target is fuzzed
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

pub fn run(args: &Args) -> Result<()> {
    let lock = workspace::lock()?;
    let cargo_fuzz = setup::cargo_fuzz()?;
    drop(lock);
    let targets: Vec<&str> = TARGETS
        .into_iter()
        .filter(|target| args.target.as_deref().is_none_or(|wanted| wanted == *target))
        .collect();
    if targets.is_empty() {
        bail!("there is no such target: there are {}", TARGETS.join(", "));
    }
    for target in targets {
        let label = format!("fuzzing {target} for {} s", args.seconds);
        progress::step(&label, || fuzz(&cargo_fuzz, target, args.seconds))?;
    }
    Ok(())
}

fn fuzz(cargo_fuzz: &Path, target: &str, seconds: u32) -> Result<()> {
    let folder = workspace::root().join("target/fuzz");
    // What was found to reach new code is kept for the next time.
    let corpus = folder.join("corpus").join(target);
    fs::create_dir_all(&corpus).with_context(|| format!("cannot make {}", corpus.display()))?;
    let mut command = Command::new(cargo_fuzz);
    command.current_dir(workspace::root().join("fuzz"));
    // The sanitizers take a nightly compiler, and there is no unsafe code here.
    command.args(["fuzz", "run", "--fuzz-dir", ".", "--sanitizer", "none", "--target-dir"]);
    command.arg(folder.join("build")).arg(target).arg(corpus).arg("--");
    command.arg(format!("-max_total_time={seconds}"));
    command.arg(format!("-artifact_prefix={}/{target}-", folder.display()));
    command.args(["-timeout=10", "-max_len=65536", "-print_final_stats=1"]);
    // One of them has interpreters, with what they share counted for each.
    command.arg(if target == "forks" { "-rss_limit_mb=4096" } else { "-rss_limit_mb=1024" });
    command.env("ISOLA_RUNTIME_DIR", workspace::runtimes());
    process::quiet(command)
}

/// For a little while, as a proof that nothing obvious is wrong.
pub fn briefly() -> Result<()> {
    run(&Args { target: None, seconds: 10 })
}

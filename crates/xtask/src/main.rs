//! The development tasks of this repository: `cargo xtask COMMAND`.
//!
//! | to change | start in |
//! |---|---|
//! | a rule that the sources must follow | `check.rs` (the rows), `check/NAME.rs` |
//! | which tests run, and with which features | `test.rs`, `node.rs`, `sdk.rs`, `wheel.rs` |
//! | how a guest is built | `guests.rs` |
//! | a tool and its pinned version | `setup.rs`, `linux.rs`, `debian.rs` |
//! | a measured figure of SPECIFICATION.md | `bench.rs` |
//! | a fuzz target | `fuzz.rs` |
//! | a generated and committed file | `generate.rs` |
//! | a release | `archive.rs`, `node.rs`, `wheel.rs` |
//!
//! What must stay true:
//!
//! - It depends neither on isola nor on isorun, so that it compiles in seconds. (`check
//!   edges`; only its tests use wasmtime)
//! - Tools are installed into `target/tools`, at versions that are pinned by hash, except
//!   for packages of Debian.
//! - A missing prerequisite is an error; nothing is skipped silently.
//! - Two builds of a guest on Linux are identical. (`cargo xtask guests --verify`)
//! - No committed file contains a path of this machine or the host of a package registry.
//!   (`check places`)

mod archive;
mod bench;
mod check;
mod debian;
mod demo;
mod digest;
mod format;
mod fuzz;
mod generate;
mod guests;
mod linux;
mod node;
mod process;
mod progress;
mod rust_calls;
mod sdk;
mod setup;
mod stamp;
mod test;
mod wheel;
mod wit;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install the tools that the other commands need into target/tools
    Setup {
        /// Install only the programs for Linux sandboxes: runsc and the agent
        #[arg(long)]
        linux: bool,
    },
    /// Build the guest components into target/guests
    Guests(guests::Args),
    /// Install missing tools, then run the demo
    Demo(demo::Args),
    /// Install missing tools, then run all tests
    Test(test::Args),
    /// Check the source tree: format, lints, docs, licences, rules
    Check(check::Args),
    /// Format Rust, Python and JavaScript
    Format,
    /// Fuzz the parsers of untrusted input
    Fuzz(fuzz::Args),
    /// Install missing tools, then run the benchmarks and print one table
    Bench(bench::Args),
    /// Build the npm packages, as they are published, into target/npm
    Pack(node::Args),
    /// Build the Python package, a wheel with both runtimes in it, into target/wheels
    Wheel(wheel::Args),
    /// Pack the runtimes for a release, with their digests, into target/archives
    Archives(archive::Args),
    /// Write the files that are generated and committed
    Generate,
}

fn main() -> ExitCode {
    if let Some(status) = wheel::run_as_cargo() {
        return status;
    }
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Setup { linux: true } => linux::ensure(),
        Command::Setup { linux: false } => setup::everything().and_then(|()| linux::ensure()),
        Command::Guests(args) => guests::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Format => format::write(),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Pack(args) => node::pack_for_release(&args),
        Command::Wheel(args) => wheel::run(&args),
        Command::Archives(args) => archive::run(&args),
        Command::Generate => generate::write(),
    }
}

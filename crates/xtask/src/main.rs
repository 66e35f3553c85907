//! The development tasks of this repository: `cargo xtask COMMAND`.
//!
//! | to change | start in |
//! |---|---|
//! | a rule that the sources must follow | `check.rs` (the rows), `check/NAME.rs` |
//! | which tests run, and with which features | `test.rs`, `node.rs`, `sdk.rs`, `typescript.rs`, `integrations.rs`, `wheel.rs` |
//! | how a guest is built | `guests.rs` |
//! | the version of Python's standard library | `python_library.rs` |
//! | a tool and its pinned version | `setup.rs`, `linux.rs`, `debian.rs` |
//! | a measured figure of SPECIFICATION.md | `bench.rs` |
//! | what is compiled once for all checkouts of a user | `stamp.rs`, `kept.rs` |
//! | a fuzz target | `fuzz.rs` |
//! | a generated and committed file | `generate.rs` |
//! | a release | `release.rs`, `archive.rs`, `node.rs`, `typescript.rs`, `wheel.rs` |
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
mod dependencies;
mod digest;
mod format;
mod fuzz;
mod generate;
mod guests;
mod integrations;
mod kept;
mod linux;
mod node;
mod pack;
mod process;
mod progress;
mod python_library;
mod release;
mod rust_calls;
mod sdk;
mod setup;
mod stamp;
mod test;
mod typescript;
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
    Guests(guests::GuestsArgs),
    /// Install missing tools, then run the demo
    Demo(demo::DemoArgs),
    /// Install missing tools, then run the tests: all, or those of a command
    Test(test::TestArgs),
    /// Check the source tree: format, lints, docs, licences, rules
    Check(check::CheckArgs),
    /// Format Rust, Python and JavaScript
    Format,
    /// Fuzz the parsers of untrusted input
    Fuzz(fuzz::FuzzArgs),
    /// Install missing tools, then run a benchmark and print its table
    Bench(bench::BenchArgs),
    /// Build the npm packages, as they are published, into target/npm
    Pack(pack::PackArgs),
    /// Build the wheels of the Python package, and of the runtime python-data, into target/wheels
    Wheel(wheel::WheelArgs),
    /// Pack the runtimes for a release, with their digests, into target/archives
    Archives(archive::ArchiveArgs),
    /// Make everything that a release holds, from a clean tree, in one directory
    Release(release::ReleaseArgs),
    /// Write the files that are generated and committed
    Generate,
    /// Pin the newest versions of Python's standard library and of Rust for the guest
    UpdatePython,
    /// Compile for the Python guest; build systems of packages call it
    #[command(hide = true)]
    WasmCompiler(guests::CompilerArgs),
}

fn main() -> ExitCode {
    if let Some(status) = wheel::run_as_cargo() {
        return status;
    }
    let words = test::expand_short_forms(std::env::args_os());
    match run(Cli::parse_from(words).command) {
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
        Command::Pack(args) => pack::run(&args),
        Command::Wheel(args) => wheel::run(&args),
        Command::Archives(args) => archive::run(&args),
        Command::Release(args) => release::run(&args),
        Command::Generate => generate::write(),
        Command::UpdatePython => guests::update_rust().and_then(|()| python_library::update()),
        Command::WasmCompiler(args) => guests::run_compiler(&args),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::CommandFactory as _;
    use clap::error::ErrorKind;

    use super::*;

    fn parse(words: &str) -> Result<Cli, clap::Error> {
        let words = ["cargo xtask"].into_iter().chain(words.split_whitespace());
        Cli::try_parse_from(test::expand_short_forms(words.map(Into::into)))
    }

    #[test]
    fn the_command_line_is_valid() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_documented_commands_are_accepted() {
        let mut commands = 0;
        for page in ["README.md", "CONTRIBUTING.md", "SPECIFICATION.md", ".ci/run"] {
            let text = fs::read_to_string(workspace::root().join(page)).unwrap();
            for (start, prefix) in text.match_indices("cargo xtask ") {
                let rest = &text[start + prefix.len()..];
                // A command ends with its code span, its line or a comment.
                let end = rest.find(['`', '\n', '#']).unwrap_or(rest.len());
                let mut words = rest[..end].replace('"', "");
                // Optional parts.
                while let (Some(open), Some(close)) = (words.find('['), words.find(']')) {
                    words.replace_range(open..=close, "");
                }
                if words.trim() != "COMMAND" {
                    let result = parse(&words);
                    assert!(result.is_ok(), "{page}: {words}: {}", result.err().unwrap());
                    commands += 1;
                }
            }
        }
        assert!(commands > 20, "{commands} commands");
    }

    #[test]
    fn parts_of_tests_and_benchmarks_are_commands() {
        for words in [
            "test -- limits:: --nocapture",
            "test --quick -- limits::",
            "test quick -- limits::",
            "test rust -- --test sandbox",
            "test node",
            "test python -- -k host",
            "test sdk -- -k host",
            "test integrations",
            "test integrations harbor",
            "test release",
            "test release --profile release",
            "test integrations agents code -- -k host",
            "bench isola prelude",
            "bench node fork",
            "bench python",
            "bench programs nbody --guest a.wasm --guest b.wasm --rounds 5",
            "bench images",
            "bench linux work",
            "bench state",
            "bench network urls",
            "bench cluster moves",
            "bench cluster --before isorun",
        ] {
            assert!(parse(words).is_ok(), "{words}");
        }
    }

    #[test]
    fn short_forms_of_tests_are_commands() {
        let words = |text: &str| -> Vec<_> { text.split_whitespace().map(Into::into).collect() };
        for (short, long) in [
            ("xtask test --quick", "xtask test quick"),
            ("xtask test --quick -- NAME", "xtask test quick -- NAME"),
            ("xtask test -- --test sandbox", "xtask test rust -- --test sandbox"),
            ("xtask test", "xtask test"),
            ("xtask test python -- --quick", "xtask test python -- --quick"),
            ("xtask demo -- ARGS", "xtask demo -- ARGS"),
        ] {
            assert_eq!(test::expand_short_forms(words(short)), words(long), "{short}");
        }
    }

    #[test]
    fn an_unknown_part_is_an_error_that_names_a_known_one() {
        for (words, kind, suggestion) in [
            ("test pyhton", ErrorKind::InvalidSubcommand, "'python'"),
            ("test quik -- NAME", ErrorKind::InvalidSubcommand, "'quick'"),
            ("bench netwrk", ErrorKind::InvalidSubcommand, "'network'"),
            ("bench network trafic", ErrorKind::InvalidValue, "'traffic'"),
            ("bench linux wrk", ErrorKind::InvalidValue, "'work'"),
        ] {
            let error = parse(words).err().unwrap();
            assert_eq!(error.kind(), kind, "{words}");
            assert!(error.to_string().contains(suggestion), "{words}: {error}");
        }
    }
}

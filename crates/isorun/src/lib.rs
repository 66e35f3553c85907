//! The `isorun` command: subcommands, and the HTTP client that most of them use. The
//! server is the crate `isorun-server`. This is a library only for its own binary.

mod client;
mod command;
mod failure;
mod visible;

use std::process::ExitCode;

use clap::Parser as _;

/// Runs the command with the arguments of this process.
#[doc(hidden)]
#[must_use]
pub fn main() -> ExitCode {
    command::run(command::Cli::parse()).unwrap_or_else(|failure| {
        failure.report();
        failure.exit_code().into()
    })
}

//! The `isorun` command: a server of Linux sandboxes, and its clients. Not a
//! library for other crates: it is a library crate only so that fuzz targets can
//! call it.

mod audit;
mod client;
mod clock;
mod command;
mod data;
mod failure;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod secret;
mod server;
mod store;
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

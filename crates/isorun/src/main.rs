//! The `isorun` command: a server of Linux sandboxes, and its clients.

mod api;
mod audit;
mod client;
mod clock;
mod command;
mod data;
mod failure;
mod id;
mod secret;
mod server;
mod store;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    command::run(command::Cli::parse()).unwrap_or_else(|failure| {
        failure.complain();
        failure.exit_code().into()
    })
}

//! The `isola` command.

mod cache;
mod cli;
mod config;
mod failure;
mod mcp;
mod pages;
mod progress;
mod repl;
mod report;
mod run;
mod screen;
mod snapshot;
mod source;
mod stop;
mod visible;

use std::process::ExitCode;

use clap::Parser as _;

use crate::{
    cli::{CacheCommand, Cli, Command, SnapshotCommand},
    failure::Failure,
};

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run(args) => run::run(*args),
        Command::Repl(args) => repl::run(&args),
        Command::Mcp(args) => mcp::serve(&args),
        Command::Cache { command: CacheCommand::Ls { json } } => done(cache::list(json)),
        Command::Cache { command: CacheCommand::Clear } => done(cache::clear()),
        Command::Snapshot { command } => done(match command {
            SnapshotCommand::Ls { json } => snapshot::list(json),
            SnapshotCommand::Show { snapshot, json } => snapshot::show(&snapshot, json),
            SnapshotCommand::Rm { snapshots } => snapshot::remove(&snapshots),
        }),
        Command::Completions { shell } => done(pages::completions(shell)),
        Command::Man { command } => done(pages::man(command.as_deref())),
    };
    outcome.unwrap_or_else(|failure| {
        screen::print_error(&failure);
        failure.exit_code().into()
    })
}

fn done(outcome: Result<(), Failure>) -> Result<ExitCode, Failure> {
    outcome.map(|()| ExitCode::SUCCESS)
}

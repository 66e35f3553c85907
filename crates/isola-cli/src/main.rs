//! The command `isola`, which runs untrusted Python and JavaScript. It uses only the
//! public API of the crate `isola`.
//!
//! | to change | start in |
//! |---|---|
//! | an option or a subcommand | `cli.rs` (what clap parses), `config.rs` (its validation) |
//! | `isola run` | `run.rs`, `report.rs` (its output), `output_dir.rs` (`--output`), `stop.rs` (Ctrl-C, `--timeout`) |
//! | `isola repl` | `repl.rs` |
//! | `isola mcp` | `mcp.rs`; sessions are in `mcp/sessions.rs` |
//! | `isola snapshot`, `isola cache` | `snapshot.rs`, `cache.rs` |
//! | an error message, a hint, an exit code | `failure.rs` |
//! | text on a terminal | `screen.rs`, `visible.rs` |
//!
//! What must stay true:
//!
//! - A script gets only what an option grants. (tests `access`)
//! - The files of a script are written only below the directory of `--output`. (tests
//!   `output_dir`)
//! - No escape sequence of a guest or a file reaches a terminal. (tests `terminal`,
//!   `foreign_files`; fuzz target `visible`)
//! - Pipes get the output of a guest unchanged; messages go to standard error. (tests
//!   `output`)
//! - Exit codes are part of the interface. (tests `outcomes`)
//! - An MCP client cannot exceed the limits of sessions. (tests `mcp`; fuzz target `mcp`)
//! - The samples of the documentation print what they claim to. (tests `documented`)

mod cache;
mod cli;
mod config;
mod failure;
mod mcp;
mod output_dir;
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

//! `isorun exec`: runs a command in an existing sandbox.

use std::process::ExitCode;

use super::{ServerArgs, connect, terminal};
use crate::failure::Failure;
use isorun_api::RunId;

#[derive(clap::Args)]
pub struct ExecArgs {
    /// The sandbox
    #[arg(value_parser = super::run_id)]
    id: RunId,

    #[command(flatten)]
    command: terminal::CommandArgs,
}

pub const NOTES: &str = "\
Standard input is passed to the command, byte for byte; its output is printed
as it arrives. The exit code is the command's own; 124 if it exceeded its
timeout, 125 if it could not be run. Ctrl-C kills it and every process that it
started. With --tty and no command, a shell is started.

Examples:
  isorun exec run0123456789abcdef -- ls -l /work
  isorun exec run0123456789abcdef --tty
  tar c src | isorun exec run0123456789abcdef -- tar x -C /work";

pub fn run(args: ExecArgs, server: ServerArgs) -> Result<ExitCode, Failure> {
    let client = connect(server)?;
    super::block_on(async move { terminal::run_command(&client, &args.id, &args.command).await })
}

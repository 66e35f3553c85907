//! `isorun exec`: a command in a sandbox that is there.

use std::process::ExitCode;

use super::{ServerArgs, connect, terminal};
use crate::{failure::Failure, id::RunId};

#[derive(clap::Args)]
pub struct Args {
    /// The sandbox
    #[arg(value_parser = super::run_id)]
    id: RunId,

    #[command(flatten)]
    command: terminal::CommandArgs,
}

pub const NOTES: &str = "\
Standard input goes to the command, byte for byte; its output comes as it is
printed. The exit code is the command's own; 124 if its time was over, 125 if
it could not be run. Ctrl-C kills it, with all that it started. With --tty and
no command there is a shell.

Examples:
  isorun exec run0123456789abcdef -- ls -l /work
  isorun exec run0123456789abcdef --tty
  tar c src | isorun exec run0123456789abcdef -- tar x -C /work";

pub fn run(args: Args, server: ServerArgs) -> Result<ExitCode, Failure> {
    let client = connect(server)?;
    super::block_on(async move { terminal::converse(&client, &args.id, &args.command).await })
}

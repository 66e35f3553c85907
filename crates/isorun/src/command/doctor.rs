//! `isorun doctor`.

use std::process::ExitCode;

use crate::failure::Failure;

#[derive(clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<ExitCode, Failure> {
    let _ = args.json;
    Err(Failure::usage("not merged yet"))
}

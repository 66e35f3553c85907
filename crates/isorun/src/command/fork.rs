//! `isorun fork`: copies a running sandbox.

use std::process::ExitCode;

use super::table;
use crate::{client::Client, failure::Failure};
use isorun_api::RunId;

#[derive(clap::Args)]
pub struct ForkArgs {
    /// The sandbox
    #[arg(value_parser = super::run_id)]
    id: RunId,

    /// The number of copies
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 1)]
    count: u32,

    /// Print the copies as JSON, one line each, instead of their ids
    #[arg(long)]
    json: bool,
}

pub async fn run(args: ForkArgs, client: Client) -> Result<ExitCode, Failure> {
    for run in client.fork(&args.id, args.count).await?.forks {
        if args.json {
            table::line(
                &serde_json::to_string(&run).map_err(|error| Failure::Other(error.into()))?,
            )?;
        } else {
            table::line(run.id.as_str())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

//! `isorun rm`: destroys sandboxes and prints their resource usage.

use std::process::ExitCode;

use super::table;
use crate::{client::Client, failure::Failure};
use isorun_api::RunId;

#[derive(clap::Args)]
pub struct RmArgs {
    /// The sandboxes
    #[arg(required_unless_present = "all", value_parser = super::run_id)]
    ids: Vec<RunId>,

    /// All sandboxes of the key's tenant
    #[arg(long, conflicts_with = "ids")]
    all: bool,

    /// Print the usage of each as JSON, one line each
    #[arg(long)]
    json: bool,
}

pub async fn run(args: RmArgs, client: Client) -> Result<ExitCode, Failure> {
    let ids = if args.all {
        client.list().await?.runs.into_iter().map(|run| run.id).collect()
    } else {
        args.ids
    };
    let mut exit_code = None;
    for id in ids {
        match client.destroy(&id).await {
            Ok(stats) if args.json => {
                let text =
                    serde_json::to_string(&stats).map_err(|error| Failure::Other(error.into()))?;
                table::line(&text)?;
            }
            Ok(stats) => {
                table::line(&format!(
                    "{id}: {} of CPU time, {} of memory at most, {} on disk, {} from create to destroy",
                    table::duration(stats.cpu_ms),
                    table::bytes(stats.mem_peak_bytes),
                    table::bytes(stats.disk_used_bytes),
                    table::duration(stats.uptime_ms),
                ))?;
            }
            // Continue with the other sandboxes.
            Err(error) => {
                let failure = Failure::from(error);
                failure.report();
                exit_code = Some(failure.exit_code());
            }
        }
    }
    Ok(exit_code.map_or(ExitCode::SUCCESS, ExitCode::from))
}

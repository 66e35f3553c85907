//! `isorun ps`: lists sandboxes, or the history of destroyed ones.

use std::process::ExitCode;

use super::table;
use crate::{client::Client, failure::Failure};

#[derive(clap::Args)]
pub struct PsArgs {
    /// List destroyed sandboxes instead, the latest first
    #[arg(long)]
    past: bool,

    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

pub async fn run(args: PsArgs, client: Client) -> Result<ExitCode, Failure> {
    if args.past { past(&args, &client).await } else { present(&args, &client).await }
}

async fn present(args: &PsArgs, client: &Client) -> Result<ExitCode, Failure> {
    let list = client.list().await?;
    if args.json {
        return table::json(&list);
    }
    let rows: Vec<_> = list
        .runs
        .into_iter()
        .map(|run| {
            [
                run.id.to_string(),
                run.status.name().to_owned(),
                run.image,
                run.vcpus.to_string(),
                format!("{} MiB", run.mem_mib),
                run.created_at,
            ]
        })
        .collect();
    table::print(["ID", "STATUS", "IMAGE", "VCPUS", "MEMORY", "CREATED"], &rows)
}

async fn past(args: &PsArgs, client: &Client) -> Result<ExitCode, Failure> {
    let history = client.history().await?;
    if args.json {
        return table::json(&history);
    }
    let rows: Vec<_> = history
        .sandboxes
        .into_iter()
        .map(|run| {
            [
                run.id.to_string(),
                run.image,
                table::duration(run.uptime_ms),
                table::duration(run.cpu_ms),
                table::bytes(run.mem_peak_bytes),
                run.destroyed_at,
                run.reason,
            ]
        })
        .collect();
    table::print(["ID", "IMAGE", "UPTIME", "CPU", "PEAK MEMORY", "DESTROYED", "WHY"], &rows)
}

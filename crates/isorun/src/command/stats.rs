//! `isorun stats`: the resource usage of one sandbox, or the total of all.

use std::process::ExitCode;

use super::table;
use crate::{client::Client, failure::Failure};
use isorun_api::RunId;

#[derive(clap::Args)]
pub struct StatsArgs {
    /// The sandbox [default: the total of all]
    #[arg(value_parser = super::run_id)]
    id: Option<RunId>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(args: StatsArgs, client: Client) -> Result<ExitCode, Failure> {
    match args.id {
        Some(id) => one(&id, args.json, &client).await,
        None => all(args.json, &client).await,
    }
}

async fn one(id: &RunId, json: bool, client: &Client) -> Result<ExitCode, Failure> {
    let stats = client.stats(id).await?;
    if json {
        return table::json(&stats);
    }
    let row = [
        table::duration(stats.cpu_ms),
        table::bytes(stats.mem_bytes),
        table::bytes(stats.mem_peak_bytes),
        table::bytes(stats.disk_used_bytes),
        stats.pids.to_string(),
        table::duration(stats.uptime_ms),
    ];
    table::print(["CPU", "MEMORY", "PEAK MEMORY", "DISK", "PIDS", "UPTIME"], &[row])
}

async fn all(json: bool, client: &Client) -> Result<ExitCode, Failure> {
    let usage = client.usage().await?;
    if json {
        return table::json(&usage);
    }
    let row = [
        usage.active_sandboxes.to_string(),
        usage.history_sandboxes.to_string(),
        format!("{:.1} s", usage.cpu_seconds),
        format!("{:.1} GiB s", usage.mem_seconds),
    ];
    table::print(["ACTIVE", "GONE", "CPU", "MEMORY x TIME"], &[row])
}

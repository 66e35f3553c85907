//! `isorun snapshot` and `isorun restore`: copies of sandboxes on the server's disk.

use std::process::ExitCode;

use super::table;
use crate::{client::Client, failure::Failure};
use isorun_api::RunId;

#[derive(clap::Args)]
pub struct SnapshotArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Take a snapshot of a sandbox, and print its id; the sandbox keeps running
    Take {
        /// The sandbox
        #[arg(value_parser = super::run_id)]
        id: RunId,
        /// Print the snapshot as JSON, instead of its id
        #[arg(long)]
        json: bool,
    },

    /// List the snapshots
    Ls {
        /// Print JSON instead of a table
        #[arg(long)]
        json: bool,
    },

    /// Delete snapshots; sandboxes that were restored from them keep running
    Rm {
        /// The snapshots
        #[arg(required = true, value_name = "SNAPSHOT")]
        ids: Vec<String>,
    },
}

#[derive(clap::Args)]
pub struct RestoreArgs {
    /// The snapshot
    #[arg(value_name = "SNAPSHOT")]
    id: String,

    /// Print the sandbox as JSON, instead of its id
    #[arg(long)]
    json: bool,
}

pub async fn run(args: SnapshotArgs, client: Client) -> Result<ExitCode, Failure> {
    match args.action {
        Action::Take { id, json } => {
            let taken = client.snapshot(&id).await?;
            if json { table::json(&taken) } else { table::line(&taken.snapshot_id) }
        }
        Action::Ls { json: true } => table::json(&client.snapshots().await?),
        Action::Ls { json: false } => {
            let list = client.snapshots().await?;
            let rows = list.snapshots.into_iter().map(|snapshot| {
                [
                    snapshot.id,
                    snapshot.run_id.to_string(),
                    snapshot.image,
                    table::bytes(snapshot.size_bytes),
                    snapshot.created_at,
                ]
            });
            let rows: Vec<_> = rows.collect();
            table::print(["ID", "OF", "IMAGE", "SIZE", "TAKEN"], &rows)
        }
        Action::Rm { ids } => {
            let mut exit_code = None;
            for id in ids {
                // Continue with the other snapshots.
                if let Err(error) = client.delete_snapshot(&id).await {
                    let failure = Failure::from(error);
                    failure.report();
                    exit_code = Some(failure.exit_code());
                }
            }
            Ok(exit_code.map_or(ExitCode::SUCCESS, ExitCode::from))
        }
    }
}

pub async fn restore(args: RestoreArgs, client: Client) -> Result<ExitCode, Failure> {
    let run = client.restore(&args.id).await?;
    if args.json { table::json(&run) } else { table::line(run.id.as_str()) }
}

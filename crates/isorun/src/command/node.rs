//! `isorun node`: the servers of a cluster. Works on the database of the cluster.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Subcommand;
use isorun_server::store::{NodeRow, Postgres};

use super::{cluster_args::ClusterArgs, table};
use crate::failure::Failure;

/// The longest time to wait until another node has recorded the end of sandboxes.
const RECORD_TIMEOUT: Duration = Duration::from_secs(60);
const RECORD_POLL_INTERVAL: Duration = Duration::from_millis(500);

#[derive(clap::Args)]
pub struct NodeArgs {
    #[command(flatten)]
    cluster: ClusterArgs,

    #[command(subcommand)]
    command: NodeCommand,
}

#[derive(Subcommand)]
enum NodeCommand {
    /// List the servers of the cluster
    Ls {
        /// Print JSON instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Let a server accept no new sandboxes; those that it has go on
    Drain {
        /// Its id, as `node ls` shows it
        id: String,
        /// Let it accept new sandboxes again
        #[arg(long)]
        undo: bool,
    },
    /// Remove a server that is not running and has no sandboxes or snapshots
    Rm {
        /// Its id, as `node ls` shows it
        id: String,
        /// Its disk is lost: first give up the hibernated sandboxes and snapshots that are not in
        /// the object store
        #[arg(long)]
        lost_disk: bool,
    },
}

pub fn run(args: NodeArgs) -> Result<ExitCode, Failure> {
    super::block_on(async move {
        let database = args.cluster.database().await?;
        match args.command {
            NodeCommand::Ls { json } => {
                list(&database.nodes().await.map_err(anyhow::Error::from)?, json)
            }
            NodeCommand::Drain { id, undo } => {
                let changed = database.set_draining(&id, !undo).await;
                match changed.map_err(anyhow::Error::from)? {
                    true => Ok(ExitCode::SUCCESS),
                    false => Err(Failure::usage(format!(
                        "the node {id:?} does not exist, or is dead: its sandboxes are lost"
                    ))
                    .hint("`isorun node ls` lists the nodes")),
                }
            }
            NodeCommand::Rm { id, lost_disk } => {
                if lost_disk {
                    give_up_disk(&database, &id).await?;
                }
                let removed = database.remove_node(&id).await;
                match removed.map_err(anyhow::Error::from)? {
                    true => Ok(ExitCode::SUCCESS),
                    false => Err(Failure::usage(format!(
                        "the node {id:?} cannot be removed: it does not exist, is running, or has \
                         hibernated sandboxes or snapshots on its disk"
                    ))
                    .hint(
                        "start it again to use what it has; or stop it after `isorun node drain`",
                    )),
                }
            }
        }
    })
}

/// Gives up what only the disk of a node had. The other nodes then record the end of its
/// sandboxes, which is waited for.
async fn give_up_disk(database: &Postgres, id: &str) -> Result<(), Failure> {
    let given_up = database.give_up_disk(id).await.map_err(anyhow::Error::from)?;
    let Some((runs, snapshots)) = given_up else {
        return Err(Failure::usage(format!("the node {id:?} does not exist, or is running"))
            .hint("stop it first, and wait until its lease has expired"));
    };
    table::line(&format!("{runs} hibernated sandboxes and {snapshots} snapshots are lost"))?;
    let deadline = Instant::now() + RECORD_TIMEOUT;
    while Instant::now() < deadline {
        let lost = database.lost_runs_of(id).await.map_err(anyhow::Error::from)?;
        if lost == 0 {
            return Ok(());
        }
        tokio::time::sleep(RECORD_POLL_INTERVAL).await;
    }
    Err(Failure::usage("no other node has recorded yet that the sandboxes are lost")
        .hint("another server of the cluster has to run; then try again"))
}

/// Returns the state of a node, for people.
pub fn state(node: &NodeRow) -> &'static str {
    match (node.is_alive, node.is_draining) {
        (true, false) => "up",
        (true, true) => "draining",
        (false, _) => "down",
    }
}

fn list(nodes: &[NodeRow], json: bool) -> Result<ExitCode, Failure> {
    if json {
        let nodes: Vec<_> = nodes
            .iter()
            .map(|node| {
                serde_json::json!({
                    "id": node.id, "state": state(node), "url": node.report.url,
                    "version": node.report.version, "runs": node.runs,
                    "linux": node.report.has_linux, "interpreters": node.report.interpreters,
                    "cpus": node.report.cpus, "mem_bytes": node.report.mem_bytes,
                    "mem_free_bytes": node.report.mem_free_bytes,
                    "disk_free_bytes": node.report.disk_free_bytes,
                    "max_sandboxes": node.report.max_sandboxes,
                })
            })
            .collect();
        return table::json(&nodes);
    }
    let rows: Vec<_> = nodes
        .iter()
        .map(|node| {
            [
                node.id.clone(),
                state(node).to_owned(),
                node.runs.to_string(),
                format!("{} MiB", node.report.mem_free_bytes >> 20),
                node.report.version.clone(),
                node.report.url.clone(),
            ]
        })
        .collect();
    table::print(["ID", "STATE", "SANDBOXES", "FREE MEMORY", "VERSION", "URL"], &rows)
}

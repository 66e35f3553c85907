//! `isorun node`: the servers of a cluster. Works on the database of the cluster.

use std::process::ExitCode;

use clap::Subcommand;
use isorun_server::store::NodeRow;

use super::{cluster_args::ClusterArgs, table};
use crate::failure::Failure;

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
            NodeCommand::Rm { id } => {
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

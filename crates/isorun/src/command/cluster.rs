//! `isorun cluster`: checks a cluster, and collects garbage. Works on its database, on a machine
//! that can reach it.

use std::{process::ExitCode, time::Instant};

use clap::Subcommand;
use isorun_server::{
    secret::Secret,
    store::{CONNECTIONS_PER_NODE, DatabaseHealth},
};
use serde::Serialize;

use super::{cluster_args::ClusterArgs, node, table};
use crate::failure::Failure;

#[derive(clap::Args)]
pub struct ClusterCommandArgs {
    #[command(subcommand)]
    command: ClusterCommand,
}

#[derive(Subcommand)]
enum ClusterCommand {
    /// Check the database of the cluster, its nodes and its object store
    ///
    /// The exit code is 1 if something needs attention.
    Doctor {
        #[command(flatten)]
        cluster: ClusterArgs,

        /// The object store, as the servers have it, with the same variables AWS_...
        #[arg(long, env = "ISORUN_BLOBS", value_name = "URL")]
        blobs: Option<String>,

        /// Print JSON
        #[arg(long)]
        json: bool,
    },

    /// Delete from the object store what no sandbox, snapshot or image needs
    ///
    /// Nodes do so every hour; this command is for a cluster whose nodes are stopped, or that
    /// should not wait for it. Nothing is deleted that is newer than 6 hours. The data of
    /// checkpoints is deleted in two steps, by a run that marks it, and by one at least 6 hours
    /// later.
    Collect {
        #[command(flatten)]
        cluster: ClusterArgs,

        /// The object store, as the servers have it, with the same variables AWS_...
        #[arg(long, env = "ISORUN_BLOBS", value_name = "URL")]
        blobs: String,

        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// The result of one check.
#[derive(Serialize)]
struct Check {
    name: String,
    ok: bool,
    found: String,
}

pub fn run(args: ClusterCommandArgs) -> Result<ExitCode, Failure> {
    super::block_on(async move {
        match args.command {
            ClusterCommand::Doctor { cluster, blobs, json } => {
                doctor(&cluster, blobs.as_deref(), json).await
            }
            ClusterCommand::Collect { cluster, blobs, json } => {
                collect(&cluster, &blobs, json).await
            }
        }
    })
}

async fn doctor(
    cluster: &ClusterArgs,
    blobs: Option<&str>,
    json: bool,
) -> Result<ExitCode, Failure> {
    let checks = check(cluster, blobs).await?;
    let passed = checks.iter().all(|check| check.ok);
    if json {
        table::json(&checks)?;
    } else {
        for Check { name, ok, found } in &checks {
            let mark = if *ok { "ok     " } else { "PROBLEM" };
            table::line(&format!("{mark}  {name:<22}  {found}"))?;
        }
    }
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn collect(cluster: &ClusterArgs, blobs: &str, json: bool) -> Result<ExitCode, Failure> {
    let (database, secret) = cluster.open_selected().await?;
    let collected = isorun_server::collect_garbage(blobs, &database, &secret).await?;
    let (trees, chunks, bytes) = (collected.trees, collected.chunks, collected.bytes);
    let marked = collected.marked;
    if json {
        table::json(&serde_json::json!({
            "trees": trees, "chunks": chunks, "bytes": bytes, "marked": marked,
        }))?;
    } else {
        table::line(&format!(
            "deleted {trees} checkpoints and images, and {chunks} chunks of data: {}",
            table::bytes(bytes)
        ))?;
        table::line(&format!("marked {marked} chunks, which a later run deletes"))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn check(cluster: &ClusterArgs, blobs: Option<&str>) -> Result<Vec<Check>, Failure> {
    let (database, secret) = cluster.open_selected().await?;
    let started = Instant::now();
    let nodes = database.nodes().await.map_err(anyhow::Error::from)?;
    let ms = started.elapsed().as_secs_f64() * 1000.0;
    let mut checks = vec![Check {
        name: "database".to_owned(),
        ok: ms < 100.0,
        found: format!("responds in {ms:.1} ms; every change of a sandbox waits for it"),
    }];
    let health = database.health().await.map_err(anyhow::Error::from)?;
    let alive = nodes.iter().filter(|node| node.is_alive).count();
    let needed = (alive * CONNECTIONS_PER_NODE) as u64;
    checks.push(Check {
        name: "connections".to_owned(),
        ok: needed < health.max_connections,
        found: format!(
            "{} of {}; {alive} nodes use up to {needed}, and commands one each",
            health.connections, health.max_connections
        ),
    });
    if let Some(url) = blobs {
        checks.push(check_object_store(url, &secret, &health).await?);
    }
    let versions: std::collections::BTreeSet<_> =
        nodes.iter().filter(|node| node.is_alive).map(|node| &node.report.version).collect();
    checks.push(Check {
        name: "versions".to_owned(),
        ok: versions.len() < 2,
        found: match versions.into_iter().collect::<Vec<_>>().as_slice() {
            [] => "no node is running".to_owned(),
            [version] => format!("every node runs {version}"),
            several => format!("the nodes run {several:?}: finish the upgrade"),
        },
    });
    let alive = nodes.iter().filter(|node| node.is_alive && !node.is_draining).count();
    checks.push(Check {
        name: "nodes".to_owned(),
        ok: alive > 0,
        found: format!("{alive} of {} accept new sandboxes", nodes.len()),
    });
    for node in &nodes {
        checks.push(Check {
            name: node.id.clone(),
            ok: node.is_alive,
            found: format!(
                "{}, {} sandboxes, {} MiB free, at {}",
                node::state(node),
                node.runs,
                node.report.mem_free_bytes >> 20,
                node.report.url
            ),
        });
    }
    Ok(checks)
}

async fn check_object_store(
    url: &str,
    secret: &Secret,
    health: &DatabaseHealth,
) -> Result<Check, Failure> {
    let started = Instant::now();
    let problems = isorun_server::check_object_store(url, secret).await?;
    let ms = started.elapsed().as_secs_f64() * 1000.0;
    let found = match problems.first() {
        Some(problem) => problem.clone(),
        None => format!(
            "an object was written, read, listed and deleted in {ms:.0} ms; {} checkpoints and \
             images are not in it",
            health.not_uploaded
        ),
    };
    Ok(Check { name: "object store".to_owned(), ok: problems.is_empty(), found })
}

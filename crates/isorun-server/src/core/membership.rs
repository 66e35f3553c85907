//! The task that renews the lease of this node, declares other nodes dead whose leases have
//! expired, and records the end of their runs.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use isorun_api::OnIdle;
use serde_json::json;
use tokio::time::timeout;

use super::{Core, cluster::Cluster, destroy, hibernation, live_run::RunState, takeover};
use crate::{
    clock,
    store::{Event, StoreError, following_entry},
};

/// The part of the lease time that passes between two renewals.
const RENEWALS_PER_LEASE: u32 = 5;

/// The number of lost runs that are recorded at a time.
const LOST_RUNS_PER_BATCH: u32 = 50;

/// Starts the task, which runs until the server stops.
pub fn start(core: &Arc<Core>) {
    if core.cluster.is_some() {
        // Not one of the core's tasks, since it renews the lease while they end.
        tokio::spawn(run(Arc::downgrade(core)));
    }
}

async fn run(core: std::sync::Weak<Core>) {
    loop {
        let Some(core) = core.upgrade() else { return };
        let Some(cluster) = &core.cluster else { return };
        let interval = cluster.lease / RENEWALS_PER_LEASE;
        let has_left = cluster.left.lock().await;
        if *has_left {
            return;
        }
        let started = Instant::now();
        let renewed = renew(&core, cluster, interval * 2).await;
        drop(has_left);
        match renewed {
            Ok(()) => {
                cluster.set_renewed(started);
                if let Err(error) = survey(&core, cluster).await {
                    tracing::warn!(%error, "cannot survey the cluster");
                }
                follow(&core, cluster).await;
            }
            Err(StoreError::Fenced) => {
                cluster.set_fenced();
                tracing::error!(
                    "this node was declared dead by its cluster: its running sandboxes are lost, \
                     and the server stops. It can be started again"
                );
                core.stopping.cancel();
                destroy::destroy_all(&core, "its node was cut off from the cluster").await;
                return;
            }
            Err(error) => {
                cluster.set_interrupted();
                tracing::warn!(%error, "cannot renew the lease of this node");
            }
        }
        let next = interval.saturating_sub(started.elapsed());
        drop(core);
        tokio::time::sleep(next).await;
    }
}

async fn renew(core: &Core, cluster: &Cluster, limit: Duration) -> Result<(), StoreError> {
    let report = core.node_report().unwrap_or_default();
    let renewing = cluster.database.renew(&report, cluster.lease);
    let renewed = timeout(limit, renewing)
        .await
        .unwrap_or_else(|_| Err(StoreError::Unavailable("it did not respond in time".to_owned())));
    cluster.database.set_down(matches!(renewed, Err(StoreError::Unavailable(_))));
    renewed
}

/// Reads what the other nodes report, and handles those that are dead.
async fn survey(core: &Core, cluster: &Cluster) -> Result<(), StoreError> {
    let database = &cluster.database;
    cluster.set_nodes(database.nodes().await?);
    // After the database was away, the leases of all nodes have expired. They get as much time
    // to renew them as they have without that.
    let grace = cluster.lease / 2;
    if cluster.unbroken_time() <= cluster.lease + grace {
        return Ok(());
    }
    for node in database.declare_dead(grace).await? {
        tracing::warn!(node, "a node of the cluster is dead: its lease has expired");
    }
    database.delete_unfinished_runs().await?;
    loop {
        let lost = database.lost_runs(LOST_RUNS_PER_BATCH).await?;
        for run in &lost {
            let reason = format!("lost: its node, {}, stopped responding", run.node);
            let data = json!({ "node": run.node, "reason": reason });
            let entry = following_entry(&core.secret, &run.id, &run.log, Event::Lost, data);
            if database.end_lost_run(run, &reason, clock::now_ms(), entry).await? {
                core.metrics.lost.inc();
                tracing::warn!(run = %run.id, node = run.node, "lost with its node");
            }
        }
        if lost.len() < LOST_RUNS_PER_BATCH as usize {
            return Ok(());
        }
    }
}

/// Takes note of the hibernated runs that other nodes have taken over, and hibernates what may
/// be hibernated while this node is drained.
async fn follow(core: &Arc<Core>, cluster: &Cluster) {
    if let Err(error) = takeover::follow_claims(core).await {
        tracing::warn!(error = error.message, "cannot read the runs of this node");
    }
    if !cluster.is_draining() {
        return;
    }
    for run in core.runs.list(None) {
        let may_hibernate = run.row.on_idle == OnIdle::Hibernate
            && matches!(run.state(), RunState::Running)
            && !run.activity.is_in_use();
        if may_hibernate {
            let core = Arc::clone(core);
            // Not waited for, since it may take longer than the lease.
            tokio::spawn(async move {
                if let Err(error) = hibernation::hibernate(&core, &run).await {
                    tracing::warn!(error = error.message, run = %run.id, "cannot hibernate");
                }
            });
        }
    }
}

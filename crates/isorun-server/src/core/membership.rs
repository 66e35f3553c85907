//! The tasks of a node: one renews its lease. The other follows what the cluster does: it
//! declares nodes dead whose leases have expired, records the end of their runs, and takes note
//! of the runs that other nodes have taken over.

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use isorun_api::OnIdle;
use tokio_util::sync::CancellationToken;

use super::{
    Core, accounts::request_rates::TELL_INTERVAL, cluster::Cluster, destroy, hibernation,
    live_run::RunState, snapshots, takeover,
};
use crate::store::{News, StoreError};

/// The time in which further news are awaited.
const NEWS_DELAY: Duration = Duration::from_millis(100);
/// The time after which a node listens again when the connection broke.
const LISTEN_RETRY_DELAY: Duration = Duration::from_secs(2);

/// Starts to renew the lease, until the node leaves.
pub fn renew_lease(core: &Arc<Core>) {
    if core.cluster.is_some() {
        // Not one of the core's tasks, since it renews the lease while they end.
        tokio::spawn(keep_lease(Arc::downgrade(core)));
    }
}

/// Starts to follow the cluster, until the server stops: after the runs of an earlier server
/// process were recovered. This may wait for longer than the lease, so it is a task of its own.
pub fn follow_cluster(core: &Arc<Core>) {
    if core.cluster.is_some() {
        core.tasks.spawn(follow_others(Arc::downgrade(core), core.stopping.clone()));
        core.tasks.spawn(hear_news(Arc::downgrade(core), core.stopping.clone()));
        core.tasks.spawn(tell_requests(Arc::downgrade(core), core.stopping.clone()));
    }
}

async fn keep_lease(weak: Weak<Core>) {
    loop {
        let Some(core) = weak.upgrade() else { return };
        let Some(cluster) = &core.cluster else { return };
        let interval = cluster.renewal_interval();
        let started = Instant::now();
        let report = core.node_report().unwrap_or_default();
        let Some(renewed) = cluster.renew(&report, interval * 2).await else { return };
        match renewed {
            Ok(()) => {}
            Err(StoreError::Fenced) => {
                tracing::error!(
                    "this node was declared dead by its cluster: its running sandboxes are lost, \
                     and the server stops. It can be started again"
                );
                core.stopping.cancel();
                destroy::destroy_all(&core, "its node was cut off from the cluster").await;
                return;
            }
            Err(error) => tracing::warn!(%error, "cannot renew the lease of this node"),
        }
        let next = interval.saturating_sub(started.elapsed());
        drop(core);
        tokio::time::sleep(next).await;
    }
}

/// Reads what the other nodes report, and handles those that are dead.
async fn survey(core: &Core, cluster: &Cluster) -> Result<(), StoreError> {
    let surveyed = cluster.survey(&core.secret, |run| {
        core.metrics.lost.inc();
        tracing::warn!(run = %run.id, node = run.node, "lost with its node");
    });
    surveyed.await?;
    let nodes = cluster.nodes();
    let accepting = nodes.iter().filter(|node| node.is_alive && !node.is_draining).count();
    core.metrics.accepting_nodes.set(i64::try_from(accepting).unwrap_or(i64::MAX));
    Ok(())
}

/// Follows what other nodes and the operator do, until the server stops: when there are news, and
/// periodically, since they may be lost.
async fn follow_others(weak: Weak<Core>, stopping: CancellationToken) {
    loop {
        let Some(core) = weak.upgrade() else { return };
        let Some(cluster) = &core.cluster else { return };
        let interval = cluster.renewal_interval();
        if cluster.has_lease() {
            if let Err(error) = survey(&core, cluster).await {
                tracing::warn!(%error, "cannot survey the cluster");
            }
            if let Err(error) = core.images.announce(&cluster.database).await {
                tracing::warn!(error = error.message, "cannot tell the other nodes of images");
            }
            follow(&core, cluster).await;
        }
        let news = Arc::clone(&cluster.news);
        drop(core);
        let news = async {
            news.notified().await;
            // Several come at once.
            tokio::time::sleep(NEWS_DELAY).await;
        };
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = news => {}
            () = stopping.cancelled() => return,
        }
    }
}

/// Listens to the news of the cluster, until the server stops.
async fn hear_news(weak: Weak<Core>, stopping: CancellationToken) {
    loop {
        let Some(core) = weak.upgrade() else { return };
        let Some(cluster) = &core.cluster else { return };
        let (database, changes) = (cluster.database.clone(), Arc::clone(&cluster.news));
        let rates = Arc::clone(&core.accounts.rates);
        drop(core);
        let hear = |news| match news {
            News::Change => changes.notify_one(),
            News::Requests(requests) => rates.hear(&requests),
        };
        tokio::select! {
            heard = database.listen(hear) => if let Err(error) = heard {
                tracing::debug!(%error, "cannot hear the news of the cluster");
            },
            () = stopping.cancelled() => return,
        }
        tokio::select! {
            () = tokio::time::sleep(LISTEN_RETRY_DELAY) => {}
            () = stopping.cancelled() => return,
        }
    }
}

/// Tells the other nodes of the requests of busy keys, until the server stops.
async fn tell_requests(weak: Weak<Core>, stopping: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(TELL_INTERVAL) => {}
            () = stopping.cancelled() => return,
        }
        let Some(core) = weak.upgrade() else { return };
        let Some(cluster) = &core.cluster else { return };
        let living = cluster.nodes().iter().filter(|node| node.is_alive).count();
        let requests = core.accounts.rates.advance(living);
        if !requests.is_empty()
            && living > 1
            && let Err(error) = cluster.database.tell_requests(requests).await
        {
            tracing::debug!(%error, "cannot tell the other nodes of requests");
        }
    }
}

/// Takes note of the hibernated runs that other nodes have taken over, and hibernates what may
/// be hibernated while this node is drained.
async fn follow(core: &Arc<Core>, cluster: &Cluster) {
    if let Err(error) = takeover::follow_claims(core).await {
        tracing::warn!(error = error.message, "cannot read the runs of this node");
    }
    if let Err(error) = snapshots::remove_unknown(core).await {
        tracing::warn!(error = error.message, "cannot read the snapshots of this node");
    }
    destroy::complete_destroyed(core);
    for run in core.runs.list(None).into_iter().filter(|run| run.unrecorded().is_some()) {
        if let Ok(_change) = run.lifecycle_lock.try_lock()
            && matches!(run.state(), RunState::Hibernated)
            && let Err(error) = hibernation::record_hibernated(core, &run).await
        {
            tracing::warn!(error = error.message, run = %run.id, "cannot record a run");
        }
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

//! Taking over the hibernated runs of other nodes that are dead or draining, and following
//! those that other nodes take over.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use isorun_api::{RunId, Status};
use isorun_engine::Error as EngineError;
use serde_json::json;

use super::{
    Core,
    checkpoint_files::fetch,
    cluster::Cluster,
    error::Error,
    live_run::{LiveRun, RunState},
    monitor,
    network::Settings,
};
use crate::{
    clock,
    store::{AuditLog, Ending, Event, RunRow},
};

/// The runs that are being taken over, each with a lock that is held meanwhile: a download
/// that takes long delays no other run.
#[derive(Default)]
pub struct TakeOvers(Mutex<HashMap<RunId, Arc<tokio::sync::Mutex<()>>>>);

impl TakeOvers {
    fn lock_of(&self, id: &RunId) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(self.map().entry(id.clone()).or_default())
    }

    /// Removes the lock of a run unless others wait for it.
    fn forget(&self, id: &RunId, lock: Arc<tokio::sync::Mutex<()>>) {
        let mut map = self.map();
        drop(lock);
        if map.get(id).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            map.remove(id);
        }
    }

    /// Waits until a run is not being taken over.
    pub async fn wait(&self, id: &RunId) {
        let lock = self.map().get(id).cloned();
        if let Some(lock) = lock {
            drop(lock.lock().await);
            self.forget(id, lock);
        }
    }

    fn map(&self) -> MutexGuard<'_, HashMap<RunId, Arc<tokio::sync::Mutex<()>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes a hibernated run of another node a run of this one, if that node changes it no more.
/// Returns whether it is a run of this node now.
pub async fn adopt(core: &Arc<Core>, id: &RunId) -> Result<bool, Error> {
    let (Some(cluster), Some(_)) = (&core.cluster, &core.blobs) else { return Ok(false) };
    if cluster.is_draining() || !cluster.has_lease() {
        return Ok(false);
    }
    let adopting = {
        let (core, id) = (Arc::clone(core), id.clone());
        async move {
            // One at a time, so that the run is registered once.
            let lock = core.take_overs.lock_of(&id);
            let one = lock.lock().await;
            let adopted = match &core.cluster {
                _ if core.runs.get(&id).is_some() => Ok(true),
                Some(cluster) => adopt_one(&core, cluster, &id).await,
                None => Ok(false),
            };
            drop(one);
            core.take_overs.forget(&id, lock);
            adopted
        }
    };
    // A claimed run has to be registered, even if the caller is cancelled.
    let task = core.tasks.spawn(adopting);
    task.await.map_err(|error| Error::internal("cannot take over the run", error))?
}

async fn adopt_one(core: &Arc<Core>, cluster: &Cluster, id: &RunId) -> Result<bool, Error> {
    let (owner, row) = (cluster.database.run_owner(id).await?, core.store.run(id).await?);
    let tree = cluster.database.run_tree(id).await?;
    let (Some(owner), Some(row), Some(tree)) = (owner, row, tree) else { return Ok(false) };
    // First: its node may be the only one with a good copy, which it deletes after the claim.
    if let Err(error) = fetch(core, &row, tree).await {
        core.images.release(id.as_str());
        return Err(error);
    }
    let claimed = cluster.database.claim_run(id, tree).await;
    if !matches!(claimed, Ok(true)) {
        // After an unclear answer of the database it is found out with the next renewal.
        if matches!(claimed, Ok(false)) {
            core.state_dirs.remove_hibernated(id).await;
            core.images.release(id.as_str());
        }
        return Ok(claimed?);
    }
    register(core, id).await?;
    let Some(run) = core.runs.get(id) else { return Ok(false) };
    let from = owner.node;
    tracing::info!(run = %id, from, "took over a hibernated run");
    core.metrics.adopted.inc();
    run.log.append_outcome(Event::Moved, json!({ "from": from, "to": cluster.node })).await?;
    Ok(true)
}

/// Registers a hibernated run that belongs to this node.
async fn register(core: &Arc<Core>, id: &RunId) -> Result<(), Error> {
    let row = core.store.run(id).await?.filter(|row| row.status == Status::Hibernated);
    let Some(row) = row else { return Ok(()) };
    let sandbox =
        id.as_str().parse().map_err(|error| Error::internal("cannot name the sandbox", error))?;
    let log = AuditLog::reopen(id.clone(), core.store.clone(), core.secret.clone());
    let network = Settings::load(&row.network, &core.secret);
    let run = Arc::new(LiveRun::new(row, sandbox, log, core.config.limits.execs, network));
    // The limits of the tenant hold for all nodes together: it is counted already.
    core.runs.occupy_slot(&run.tenant);
    core.runs.insert(Arc::clone(&run));
    monitor::start(core, &run);
    Ok(())
}

/// Registers the hibernated runs that this node has claimed and not registered, and forgets
/// those that other nodes have claimed.
pub async fn follow_claims(core: &Arc<Core>) -> Result<(), Error> {
    let rows = core.store.open_runs().await?;
    let own: HashSet<&RunId> = rows.iter().map(|row| &row.id).collect();
    for run in core.runs.list(None) {
        if matches!(run.state(), RunState::Hibernated)
            && !own.contains(&run.id)
            && let Err(error) = forget_moved(core, &run).await
        {
            tracing::warn!(error = error.message, run = %run.id, "cannot forget a run");
        }
    }
    for row in rows.iter().filter(|row| core.runs.get(&row.id).is_none()) {
        if core.runs.is_in_creation(&row.id) {
            continue;
        }
        let lock = core.take_overs.lock_of(&row.id);
        // A take-over in progress registers what it has claimed itself.
        if let Ok(_one) = lock.try_lock()
            && core.runs.get(&row.id).is_none()
            && let Err(error) = complete(core, row).await
        {
            tracing::warn!(error = error.message, run = %row.id, "cannot complete a run");
        }
        core.take_overs.forget(&row.id, lock);
    }
    remove_unclaimed(core, &rows).await;
    Ok(())
}

/// Registers a run of this node that is not registered, or records its end.
async fn complete(core: &Arc<Core>, row: &RunRow) -> Result<(), Error> {
    match row.status {
        Status::Hibernated if core.blobs.is_some() => register(core, &row.id).await,
        Status::Creating | Status::Running | Status::Failed => end_unknown(core, &row.id).await,
        _ => Ok(()),
    }
}

/// Ends a run whose creation failed when the database did not respond, so that it was not known
/// what had been recorded.
async fn end_unknown(core: &Core, id: &RunId) -> Result<(), Error> {
    // It may have been created and destroyed since the rows were read.
    let row = core.store.run(id).await?;
    let is_open = row.is_some_and(|row| row.destroyed_at.is_none());
    if !is_open || core.runs.is_in_creation(id) || core.runs.get(id).is_some() {
        return Ok(());
    }
    let sandbox = id.as_str().parse();
    let sandbox = sandbox.map_err(|error| Error::internal("cannot name the sandbox", error))?;
    tracing::warn!(run = %id, "a run is not known: its creation failed");
    match core.engines.destroy(&sandbox).await {
        Ok(_) | Err(EngineError::NotFound(_)) => {}
        Err(error) => return Err(Error::internal("cannot destroy the sandbox", error)),
    }
    let log = AuditLog::reopen(id.clone(), core.store.clone(), core.secret.clone());
    let reason = "its creation failed";
    let ending = Ending {
        reason: reason.to_owned(),
        destroyed_at: clock::now_ms(),
        cpu_ms: 0,
        mem_peak_bytes: 0,
        disk_used_bytes: 0,
    };
    Ok(log.finish(Event::Destroyed, json!({ "reason": reason }), ending).await?)
}

/// Removes copies of hibernated runs that are not of this node, after claims whose outcome was
/// not known.
async fn remove_unclaimed(core: &Core, rows: &[RunRow]) {
    for id in core.state_dirs.abandoned_runs() {
        let lock = core.take_overs.lock_of(&id);
        if let Ok(_one) = lock.try_lock()
            && core.runs.get(&id).is_none()
            && rows.iter().all(|row| row.id != id)
        {
            tracing::info!(run = %id, "removing the copy of a run of another node");
            core.state_dirs.remove_hibernated(&id).await;
            core.images.release(id.as_str());
        }
        core.take_overs.forget(&id, lock);
    }
}

/// Forgets a run that another node has claimed, with its files here.
async fn forget_moved(core: &Arc<Core>, run: &Arc<LiveRun>) -> Result<(), Error> {
    let _change = run.lifecycle_lock.lock().await;
    let Some(cluster) = &core.cluster else { return Ok(()) };
    let owner = cluster.database.run_owner(&run.id).await?;
    let is_elsewhere = owner.is_some_and(|owner| owner.node != cluster.node.as_str());
    if !matches!(run.state(), RunState::Hibernated) || !is_elsewhere {
        return Ok(());
    }
    tracing::info!(run = %run.id, "another node has taken over a hibernated run");
    run.set_moved();
    core.runs.remove(&run.id);
    core.runs.release_slot(&run.tenant);
    core.state_dirs.remove_hibernated(&run.id).await;
    core.images.release(run.sandbox.as_str());
    Ok(())
}

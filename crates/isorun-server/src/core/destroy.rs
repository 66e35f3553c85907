//! The end of a run: destruction, and failure of its sandbox. Destruction runs in a
//! separate task, so that it completes even if the caller is cancelled.

use std::sync::Arc;

use isorun_api::{DestroyStats, Status};
use isorun_engine::{Error as EngineError, Stats};
use serde_json::json;

use super::{
    Core,
    error::Error,
    live_run::{LiveRun, RunState, Unrecorded},
};
use crate::{
    clock,
    store::{Ending, Event, StoreError},
};

/// Destroys a run. Concurrent calls return the same result.
pub async fn destroy(
    core: &Arc<Core>,
    run: &Arc<LiveRun>,
    why: &str,
) -> Result<DestroyStats, Error> {
    let task = core.tasks.spawn({
        let (core, run, why) = (Arc::clone(core), Arc::clone(run), why.to_owned());
        async move { destroy_once(&core, &run, &why).await }
    });
    task.await.map_err(|error| Error::internal("cannot destroy the run", error))?
}

async fn destroy_once(core: &Arc<Core>, run: &LiveRun, why: &str) -> Result<DestroyStats, Error> {
    let mut outcome_slot = run.destroy_outcome.lock().await;
    if let Some(stats) = &*outcome_slot {
        return Ok(stats.clone());
    }
    // A fork in progress completes before the original is destroyed.
    let _guard = run.lifecycle_lock.lock().await;
    if let (RunState::Moved, Some(error)) = (run.state(), run.not_running_error()) {
        return Err(error);
    }
    let final_stats = run.final_stats();
    // A hibernated run is still there after a crash, until its end is recorded: until then no
    // answer may say that it was destroyed.
    let is_hibernated = matches!(run.state(), RunState::Hibernated);
    if !is_hibernated {
        run.set_destroyed(why);
    }
    let stats = match final_stats {
        Some(stats) => stats,
        None => match core.engines.destroy(&run.sandbox).await {
            Ok(stats) => run.total(stats),
            Err(EngineError::NotFound(_)) => run.total(Stats::default()),
            Err(error) => return Err(Error::internal("cannot destroy the sandbox", error)),
        },
    };
    let destroyed_at = clock::now_ms();
    let outcome = DestroyStats {
        status: Status::Destroyed,
        cpu_ms: stats.cpu_ms,
        mem_peak_bytes: stats.mem_peak_bytes,
        disk_used_bytes: stats.disk_used_bytes,
        uptime_ms: u64::try_from(destroyed_at.saturating_sub(run.row.created_at)).unwrap_or(0),
        cost_cents: 0.0,
    };
    let details = json!({
        "reason": why, "cpu_ms": outcome.cpu_ms, "mem_peak_bytes": outcome.mem_peak_bytes,
        "disk_used_bytes": outcome.disk_used_bytes, "uptime_ms": outcome.uptime_ms,
    });
    let ending = Ending {
        reason: why.to_owned(),
        destroyed_at,
        cpu_ms: outcome.cpu_ms,
        mem_peak_bytes: outcome.mem_peak_bytes,
        disk_used_bytes: outcome.disk_used_bytes,
    };
    // If the outcome of this change is not known, all of this is repeated later.
    if let Err(error) = run.log.finish(Event::Destroyed, details, ending).await {
        if is_hibernated && error.is_of_cluster() && !matches!(error, StoreError::Moved) {
            run.set_unrecorded(Some(Unrecorded::End(why.to_owned())));
        }
        return Err(error.into());
    }
    if is_hibernated {
        run.set_destroyed(why);
    }
    // Last, since until it is recorded the run may be what its row says after a crash.
    core.state_dirs.remove_hibernated(&run.id).await;
    core.images.release(run.sandbox.as_str());
    core.runs.remove(&run.id);
    core.runs.release_slot(&run.tenant);
    core.metrics.destroyed.inc();
    tracing::info!(run = %run.id, reason = why, cpu_ms = outcome.cpu_ms, "destroyed");
    *outcome_slot = Some(outcome.clone());
    Ok(outcome)
}

/// Destroys again the runs whose end may not be recorded, since the database did not respond.
pub fn complete_destroyed(core: &Arc<Core>) {
    for run in core.runs.list(None) {
        let why = match (run.state(), run.unrecorded()) {
            (RunState::Destroyed(why), _) | (RunState::Hibernated, Some(Unrecorded::End(why))) => {
                why
            }
            _ => continue,
        };
        // It may be in progress.
        if run.destroy_outcome.try_lock().is_ok() {
            let core = Arc::clone(core);
            // Not waited for, since other changes of the run may be in progress.
            tokio::spawn(async move { expire(&core, &run, &why).await });
        }
    }
}

/// Destroys a run. A failure is logged.
pub async fn expire(core: &Arc<Core>, run: &Arc<LiveRun>, why: &str) {
    if let Err(error) = destroy(core, run, why).await {
        tracing::error!(error = error.message, run = %run.id, "cannot destroy a run");
    }
}

/// Destroys the sandbox of a running run, and marks the run as failed.
pub async fn fail(core: &Arc<Core>, run: &Arc<LiveRun>, why: &str) {
    let _guard = run.lifecycle_lock.lock().await;
    if run.status() == Status::Running && !run.is_suspended() {
        // The task that monitors the run destroys it after its timeout.
        mark_failed(core, run, why).await;
    }
}

/// Marks a run as failed, which notifies all waiters, and releases the resources of its
/// sandbox.
pub async fn mark_failed(core: &Arc<Core>, run: &Arc<LiveRun>, why: &str) {
    tracing::warn!(run = %run.id, why, "a sandbox exited unexpectedly");
    core.metrics.died.inc();
    let stats = core.engines.stats(&run.sandbox).await.unwrap_or_default();
    run.set_failed(why.to_owned(), stats);
    match core.engines.destroy(&run.sandbox).await {
        Ok(_) | Err(EngineError::NotFound(_)) => {}
        Err(error) => tracing::error!(%error, run = %run.id, "cannot remove an exited sandbox"),
    }
    if let Err(error) = core.store.set_run_status(&run.id, Status::Failed).await {
        tracing::error!(%error, run = %run.id, "cannot record that a sandbox exited");
    }
}

/// Destroys all runs concurrently, except hibernated ones.
pub async fn destroy_all(core: &Arc<Core>, why: &str) {
    let mut tasks = tokio::task::JoinSet::new();
    // Hibernated runs outlive the server.
    for run in core.runs.list(None).into_iter().filter(|run| !run.is_suspended()) {
        let (core, why) = (Arc::clone(core), why.to_owned());
        tasks.spawn(async move { expire(&core, &run, &why).await });
    }
    tasks.join_all().await;
}

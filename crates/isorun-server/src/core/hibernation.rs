//! Hibernation: writes a sandbox to disk, and resumes it under the same id.

use std::{
    os::unix::fs::DirBuilderExt,
    sync::Arc,
    time::{Duration, Instant},
};

use isorun_api::RunId;
use isorun_engine::SandboxId;
use serde_json::json;

use super::{
    Core,
    archive::{Archives, Kind, Owner},
    checkpoint_files,
    error::{Error, ErrorKind},
    live_run::{LiveRun, RunState, Unrecorded},
};
use crate::{
    clock::millis,
    store::{Event, ResourceUsage, RunRow, StoreError},
};

/// The maximum wait for a checkpoint in progress whose server was killed.
const ORPHANED_CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(30);
/// The maximum wait for such a checkpoint to start writing.
const CHECKPOINT_START_TIMEOUT: Duration = Duration::from_secs(1);
/// The maximum wait for the completion mark after the sandbox has exited.
const COMPLETION_MARK_TIMEOUT: Duration = Duration::from_millis(500);
/// The interval at which the completion mark is looked for.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Resumes a run that is hibernated and has `auto_resume`.
pub async fn resume_if_automatic(core: &Arc<Core>, run: &Arc<LiveRun>) -> Result<(), Error> {
    if run.row.auto_resume && run.is_suspended() { resume(core, run).await } else { Ok(()) }
}

/// Hibernates a run, in a separate task.
pub async fn hibernate(core: &Arc<Core>, run: &Arc<LiveRun>) -> Result<(), Error> {
    let task = core.tasks.spawn({
        let (core, run) = (Arc::clone(core), Arc::clone(run));
        async move {
            let _change = run.begin_change().await?;
            match run.state() {
                RunState::Hibernated => return Ok(()),
                RunState::Running => {}
                _ => return Err(state_error(&run)),
            }
            let started = Instant::now();
            let stats = core.ensure_room_for_checkpoint(&run).await?;
            run.set_state(RunState::Hibernating);
            let (generation, used) = match write_to_disk(&core, &run, stats).await {
                Ok(written) => written,
                Err(error) => {
                    // The sandbox may still run, or the attempt may have ended it, which its
                    // monitor detects.
                    run.set_state(RunState::Running);
                    return Err(error);
                }
            };
            // The sandbox is on disk only, whether that is recorded or not.
            run.set_state(RunState::Hibernated);
            let recorded = core.store.run_hibernated(&run.id, Some(generation), used).await;
            if let Err(error) = recorded {
                run.set_unrecorded(Some(Unrecorded::Generation(generation)));
                return Err(error.into());
            }
            let ms = millis(started.elapsed());
            tracing::info!(run = %run.id, ms, "hibernated");
            Ok(run.log.append_outcome(Event::Hibernated, json!({ "ms": ms })).await?)
        }
    });
    task.await.map_err(|error| Error::internal("cannot hibernate the run", error))?
}

/// Writes the checkpoint of a run, which ends its sandbox. Returns the generation and the
/// resource usage.
async fn write_to_disk(
    core: &Arc<Core>,
    run: &LiveRun,
    stats: isorun_engine::Stats,
) -> Result<(u64, ResourceUsage), Error> {
    let draft = core.state_dirs.hibernating_dir(&run.id);
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(&draft)
        .map_err(|error| Error::internal("cannot create a directory", error))?;
    let writing = async {
        // Before anything is written, so that what a crash leaves is of this generation.
        let generation = core.store.next_generation(&run.id).await?;
        let written = core.engines.checkpoint(&run.sandbox, &draft, false).await;
        written.map_err(|error| Error::engine("cannot hibernate the sandbox", error))?;
        publish(core, &run.row, &run.sandbox, generation).await?;
        Ok((generation, run.set_used(run.total(stats))))
    };
    let outcome = writing.await;
    if outcome.is_err() {
        core.state_dirs.remove_hibernating(&run.id).await;
    }
    outcome
}

/// Returns the owner of the latest hibernation of a run.
pub async fn owner(core: &Arc<Core>, id: &RunId, tenant: &str) -> Result<Owner, Error> {
    let generation = core.store.generation(id).await?;
    Ok(owner_in(id, tenant, generation))
}

fn owner_in(id: &RunId, tenant: &str, generation: u64) -> Owner {
    let (id, tenant) = (id.to_string(), tenant.to_owned());
    Owner { kind: Kind::Hibernation, id, tenant, generation }
}

/// Signs the checkpoint of a run, and gives it its final name. After it was written, nothing
/// here depends on the database: it may be the only copy of the sandbox.
async fn publish(
    core: &Arc<Core>,
    row: &RunRow,
    sandbox: &SandboxId,
    generation: u64,
) -> Result<(), Error> {
    let id = &row.id;
    let base = core.base_of(&row.image, sandbox.as_str())?;
    let (draft, target) = (core.state_dirs.hibernating_dir(id), core.state_dirs.hibernated_dir(id));
    let owner = owner_in(id, &row.tenant, generation);
    let pids = core.config.limits.pids;
    core.archives.publish(owner, &draft, target, base, pids).await.map(|_| ())
}

/// Hibernates all running interpreters, which cannot outlive the server otherwise. One that
/// cannot be hibernated is destroyed by the next server.
pub async fn hibernate_interpreters(core: &Arc<Core>) {
    for run in core.runs.list(None) {
        // One that is being hibernated is waited for.
        let state = run.state();
        if run.interpreter.is_none() || !matches!(state, RunState::Running | RunState::Hibernating)
        {
            continue;
        }
        if let Err(error) = hibernate(core, &run).await {
            tracing::error!(error = error.message, run = %run.id, "cannot hibernate");
        }
    }
}

/// Finishes a hibernation whose server was killed. Returns whether the run is on disk
/// now. `has_sandbox`: its sandbox still exists, and its checkpoint may be in progress. Fails,
/// and changes nothing, if the database does not respond.
pub async fn finish_interrupted(
    core: &Arc<Core>,
    row: &RunRow,
    sandbox: &SandboxId,
    has_sandbox: bool,
) -> Result<bool, Error> {
    let generation = core.store.generation(&row.id).await?;
    let draft = core.state_dirs.hibernating_dir(&row.id);
    if !draft.is_dir() {
        // It may have been renamed already, with nothing recorded.
        return Ok(!has_sandbox && is_latest(core, row, generation).await?);
    }
    let completion = || async {
        while !core.engines.is_complete(&draft) {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    let has_started = || draft.read_dir().is_ok_and(|mut files| files.next().is_some());
    if has_sandbox {
        tokio::select! {
            () = completion() => {}
            _ = core.engines.exited(sandbox) => {}
            () = async {
                tokio::time::sleep(CHECKPOINT_START_TIMEOUT).await;
                if has_started() {
                    tokio::time::sleep(ORPHANED_CHECKPOINT_TIMEOUT).await;
                }
            } => {}
        }
    }
    if has_started() {
        let _ = tokio::time::timeout(COMPLETION_MARK_TIMEOUT, completion()).await;
    }
    let is_complete = core.engines.is_complete(&draft);
    let finished = is_complete && publish(core, row, sandbox, generation).await.is_ok();
    if !finished {
        tracing::warn!(run = %row.id, is_complete, "an interrupted hibernation could not be finished");
        core.state_dirs.remove_hibernating(&row.id).await;
    }
    Ok(finished)
}

/// Reports whether there is a checkpoint of a run on disk that is not of an earlier hibernation,
/// after which it was resumed.
async fn is_latest(core: &Arc<Core>, row: &RunRow, generation: u64) -> Result<bool, Error> {
    if !core.state_dirs.is_hibernated(&row.id) {
        return Ok(false);
    }
    let owner = owner_in(&row.id, &row.tenant, generation);
    let directory = core.state_dirs.hibernated_dir(&row.id);
    // One that is damaged, or of another engine, is kept for the operator.
    Ok(!core.archives.is_outdated(owner, &directory).await?)
}

/// Resumes a hibernated run, in a separate task.
pub async fn resume(core: &Arc<Core>, run: &Arc<LiveRun>) -> Result<(), Error> {
    core.admit(&run.tenant)?;
    let task = core.tasks.spawn({
        let (core, run) = (Arc::clone(core), Arc::clone(run));
        async move {
            let _change = run.begin_change().await?;
            match run.state() {
                RunState::Running => return Ok(()),
                RunState::Hibernated => {}
                _ => return Err(state_error(&run)),
            }
            let started = Instant::now();
            record_hibernated(&core, &run).await?;
            // Before any process of it runs here: from now on no other node takes it over.
            if let Err(error) = core.store.set_resuming(&run.id, true).await {
                run.set_unrecorded(Some(Unrecorded::Resuming));
                return Err(error.into());
            }
            run.set_state(RunState::Resuming);
            if let Err(error) = restore_from_disk(&core, &run).await {
                run.set_state(RunState::Hibernated);
                if run.unrecorded().is_none() {
                    run.set_unrecorded(Some(Unrecorded::Resuming));
                }
                // If the database does not respond, it is recorded later.
                let _ = record_hibernated(&core, &run).await;
                return Err(error);
            }
            run.activity.touch();
            run.set_state(RunState::Running);
            core.state_dirs.remove_hibernated(&run.id).await;
            let ms = millis(started.elapsed());
            tracing::info!(run = %run.id, ms, "resumed");
            Ok(run.log.append_outcome(Event::Resumed, json!({ "ms": ms })).await?)
        }
    });
    task.await.map_err(|error| Error::internal("cannot resume the run", error))?
}

async fn restore_from_disk(core: &Arc<Core>, run: &LiveRun) -> Result<(), Error> {
    checkpoint_files::fetch_hibernated(core, run).await?;
    let dir = core.state_dirs.hibernated_dir(&run.id);
    let owner = owner(core, &run.id, &run.tenant).await?;
    let generation = owner.generation;
    let manifest = core.archives.read(owner, &dir).await?;
    // Not that of the manifest: on another server the same image is elsewhere.
    let base = core.base_of(&run.row.image, run.sandbox.as_str())?;
    let mut spec = core.spec(&run.row, run.sandbox.clone(), base, &run.network());
    spec.set_pids(manifest.pids);
    // At the same time: no request reaches the sandbox before the check has passed.
    let (restored, verified) =
        tokio::join!(core.engines.restore(spec, &dir), Archives::verify(&dir, &manifest));
    match (restored, verified) {
        (Ok(()), Ok(())) => {}
        (restored, Err(error)) => {
            if restored.is_ok() {
                let _ = core.engines.destroy(&run.sandbox).await;
            }
            return Err(error);
        }
        (Err(error), Ok(())) => return Err(Error::engine("cannot resume the sandbox", error)),
    }
    if let Err(error) = core.store.run_resumed(&run.id).await {
        let _ = core.engines.destroy(&run.sandbox).await;
        // It stays hibernated, also if the next generation was recorded.
        run.set_unrecorded(Some(Unrecorded::Generation(generation)));
        return Err(error.into());
    }
    Ok(())
}

/// Records the state of a hibernated run if it may not be recorded. The caller holds the
/// `lifecycle_lock`.
pub async fn record_hibernated(core: &Core, run: &LiveRun) -> Result<(), Error> {
    let generation = match run.unrecorded() {
        // Its end is recorded by repeating the destruction.
        None | Some(Unrecorded::End(_)) => return Ok(()),
        Some(Unrecorded::Resuming) => None,
        Some(Unrecorded::Generation(generation)) => Some(generation),
    };
    match core.store.run_hibernated(&run.id, generation, run.used()).await {
        // One that another node has taken over is forgotten with the next look at the rows.
        Ok(()) | Err(StoreError::Moved) => run.set_unrecorded(None),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

fn state_error(run: &LiveRun) -> Error {
    run.not_running_error().unwrap_or_else(|| {
        Error::new(
            ErrorKind::RunBusy,
            format!("{} is being changed by another request: try again", run.id),
        )
        .after(Duration::from_secs(1))
    })
}

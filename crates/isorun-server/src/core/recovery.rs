//! Recovery of the state of an earlier server process.

use std::{collections::BTreeSet, sync::Arc};

use isorun_api::Status;
use isorun_engine::SandboxId;
use isorun_interpreter::InterpreterImage;

use super::{Core, destroy::expire, hibernation, live_run::LiveRun, monitor, network::Settings};
use crate::store::{AuditLog, RunRow, StoreError};

/// Fails if Linux sandboxes may be running, and this server cannot take them over: it would
/// record them as destroyed.
fn refuse_without_linux(core: &Core, rows: &[RunRow]) -> anyhow::Result<()> {
    let Some(why) = core.engines.linux_unavailable() else { return Ok(()) };
    let running = rows.iter().filter(|row| {
        row.status == Status::Running && InterpreterImage::named(&row.image).is_none()
    });
    match running.count() {
        0 => Ok(()),
        count => anyhow::bail!(
            "the data directory has {count} Linux sandboxes of an earlier server that may still \
             run, and this one cannot take them over: {why}. Correct that, or use another data \
             directory"
        ),
    }
}

/// Reports whether the checkpoint of a run, which this node has taken over, is in the object
/// store.
async fn is_in_object_store(core: &Core, run: &LiveRun) -> anyhow::Result<bool> {
    match &core.cluster {
        Some(cluster) => Ok(cluster.database.run_tree(&run.id).await?.is_some()),
        None => Ok(false),
    }
}

/// Recovers the state of an earlier server process: keeps sandboxes that belong to a
/// run, destroys runs without a sandbox, and removes sandboxes without a run.
pub async fn recover(core: &Arc<Core>) -> anyhow::Result<()> {
    let mut sandboxes = core.engines.list().await?;
    let rows = core.store.open_runs().await?;
    refuse_without_linux(core, &rows)?;
    for mut row in rows {
        let log = AuditLog::reopen(row.id.clone(), core.store.clone(), core.secret.clone());
        let sandbox: SandboxId = row.id.as_str().parse()?;
        let found =
            sandboxes.iter().position(|id| *id == sandbox).map(|at| sandboxes.swap_remove(at));
        if row.status == Status::Running {
            let has_sandbox = found.is_some() && core.engines.stats(&sandbox).await.is_ok();
            if hibernation::finish_interrupted(core, &row, &sandbox, has_sandbox).await? {
                core.store.run_hibernated(&row.id, None, row.used).await?;
                row.status = Status::Hibernated;
            } else {
                // Of an earlier hibernation, after which it was resumed.
                core.state_dirs.remove_hibernated(&row.id).await;
            }
        }
        let (was_running, hibernated) =
            (row.status == Status::Running, row.status == Status::Hibernated);
        let network = Settings::load(&row.network, &core.secret);
        let plan = network.plan();
        let run = Arc::new(LiveRun::new(row, sandbox, log, core.config.limits.execs, network));
        // Ignores the limits, since the run already exists.
        core.runs.occupy_slot(&run.tenant);
        core.runs.insert(Arc::clone(&run));
        if found.is_some() && was_running {
            // The network was closed until now. The monitor detects if the sandbox has exited.
            if let Err(error) = core.engines.set_network(&run.sandbox, plan).await {
                tracing::warn!(%error, run = %run.id, "cannot open the network of a sandbox");
            }
            tracing::info!(run = %run.id, "recovered");
            monitor::start(core, &run);
        } else if hibernated
            && (core.state_dirs.is_hibernated(&run.id) || is_in_object_store(core, &run).await?)
        {
            if found.is_some() {
                // The server exited while the run was being resumed or hibernated.
                core.engines.destroy(&run.sandbox).await?;
            }
            match core.store.set_resuming(&run.id, false).await {
                // Another node has taken it over, since this one is drained: it is forgotten
                // with the first look at the rows.
                Ok(()) | Err(StoreError::Moved) => {}
                Err(error) => return Err(error.into()),
            }
            monitor::start(core, &run);
            tracing::info!(run = %run.id, "hibernated");
        } else {
            expire(core, &run, "the server stopped without keeping its sandbox").await;
        }
    }
    for id in sandboxes {
        tracing::warn!(sandbox = %id, "removing a sandbox that belongs to no run");
        if let Err(error) = core.engines.destroy(&id).await {
            tracing::error!(%error, sandbox = %id, "cannot remove it");
        }
    }
    let mut held: BTreeSet<String> =
        core.runs.list(None).iter().map(|run| run.sandbox.to_string()).collect();
    let snapshots = core.store.snapshots_here().await?;
    for row in &snapshots {
        core.accounts.snapshots.register(&row.id, &row.settings.tenant);
    }
    let snapshots: BTreeSet<String> = snapshots.into_iter().map(|row| row.id).collect();
    core.state_dirs.remove_unknown(&held, &snapshots).await?;
    held.extend(snapshots);
    core.images.release_all_but(&held)
}

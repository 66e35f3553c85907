//! The lifecycle of a run: creation, monitoring and destruction. These run in separate
//! tasks, so that they complete even if the client disconnects.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use isorun_engine::{Error as EngineError, Root, SandboxId, SandboxSpec, Stats};
use serde_json::json;

use super::{
    ApiError, App, Caller, Code,
    destroy_on_drop::DestroyOnDrop,
    network::{self, Settings},
    runs::{Defaults, LiveRun},
    state::hibernation,
    validate::CreateParams,
};
use crate::{
    audit::{AuditLog, Event},
    clock,
    store::{Ending, ResourceUsage, RunRow},
};
use isorun_api::RunId;
use isorun_api::{DestroyStats, OnIdle, Status};

/// The time after which a failed run without a timeout is destroyed.
const KEEP_FAILED: Duration = Duration::from_secs(3600);

/// Creates a run. If the caller is cancelled meanwhile, the run is destroyed, since no
/// client would know its id.
pub async fn create(
    app: &App,
    caller: Caller,
    params: CreateParams,
) -> Result<Arc<LiveRun>, ApiError> {
    accepts_runs(app, &caller.tenant)?;
    let creation = {
        let app = Arc::clone(app);
        async move {
            let run = create_counted(&app, &caller.tenant, params).await?;
            app.tasks.spawn(watch(Arc::clone(&app), Arc::clone(&run)));
            Ok(run)
        }
    };
    DestroyOnDrop::create_one(app, "cannot create the run", creation).await
}

/// Fails if a tenant may not create a sandbox or store data at the moment.
pub fn accepts_runs(app: &App, tenant: &str) -> Result<(), ApiError> {
    if app.stopping.is_cancelled() {
        return Err(ApiError::new(
            Code::Stopping,
            "the server is stopping: it accepts no new runs",
        ));
    }
    app.guard.admit(tenant)
}

async fn create_counted(
    app: &App,
    tenant: &str,
    params: CreateParams,
) -> Result<Arc<LiveRun>, ApiError> {
    app.runs.reserve_slot(tenant)?;
    let created = try_create(app, tenant, params).await;
    match &created {
        Ok(_) => {
            app.metrics.created.inc();
        }
        Err(error) => {
            app.runs.release_slot(tenant);
            app.metrics.failed_creates.inc();
            tracing::warn!(error = error.message, "cannot create a run");
        }
    }
    created
}

async fn try_create(
    app: &App,
    tenant: &str,
    params: CreateParams,
) -> Result<Arc<LiveRun>, ApiError> {
    let started = Instant::now();
    let source = app.images.find(app, tenant, &params.image).await?;
    let id =
        RunId::random().map_err(|error| ApiError::internal("cannot create a run id", error))?;
    let sandbox: SandboxId = id
        .as_str()
        .parse()
        .map_err(|error| ApiError::internal("cannot name the sandbox", error))?;
    let mut env = source.env.clone();
    env.extend(params.env);
    network::environment(&params.network.credentials, &mut env);
    let defaults = Defaults {
        env,
        user: source.user.clone(),
        workdir: source.workdir.clone(),
        urls: params.urls,
    };
    let mut row = RunRow {
        id: id.clone(),
        tenant: tenant.to_owned(),
        image: params.image,
        digest: source.digest.clone(),
        status: Status::Creating,
        vcpus: params.vcpus,
        mem_mib: params.mem_mib,
        disk_mib: params.disk_mib,
        timeout_ms: millis(params.timeout),
        defaults: serde_json::to_string(&defaults).unwrap_or_default(),
        network: params.network.store(&app.secret)?,
        on_idle: params.on_idle,
        auto_resume: params.auto_resume,
        used: ResourceUsage::default(),
        create_ms: 0,
        created_at: clock::now_ms(),
        destroyed_at: None,
        reason: None,
    };
    // Before the sandbox exists, so that it is found by its row after a crash.
    app.store.add_run(row.clone()).await?;
    let spec = spec(app, &row, sandbox.clone(), source.root.clone());
    let created = async {
        app.images.hold(sandbox.as_str(), &source)?;
        let created = app.engine.create(spec).await;
        created.map_err(|error| engine_error("cannot create the sandbox", error))?;
        let trusted = network::install(app, &sandbox, &params.network.credentials).await;
        if trusted.is_err()
            && let Err(error) = app.engine.destroy(&sandbox).await
        {
            tracing::error!(%error, run = %id, "cannot destroy a sandbox");
        }
        trusted
    };
    if let Err(error) = created.await {
        roll_back(app, &id).await?;
        return Err(error);
    }
    drop(source);
    row.create_ms = millis(started.elapsed());
    app.metrics.create_seconds.observe(started.elapsed().as_secs_f64());
    register(app, row, sandbox, json!({})).await
}

/// Returns the specification of a run's sandbox.
pub fn spec(app: &App, row: &RunRow, sandbox: SandboxId, root: Root) -> SandboxSpec {
    SandboxSpec {
        vcpus: row.vcpus,
        mem_mib: row.mem_mib,
        disk_mib: row.disk_mib,
        pids: app.config.limits.pids,
        network: Settings::load(&row.network, &app.secret).plan(),
        hostname: app.secret.hostname(row.id.as_str()),
        ..SandboxSpec::new(sandbox, root)
    }
}

/// Deletes a run whose sandbox could not be created.
pub async fn roll_back(app: &App, id: &RunId) -> Result<(), ApiError> {
    app.images.release(id.as_str());
    Ok(app.store.delete_run(id).await?)
}

/// Registers a run whose sandbox is running. `from` has additional fields for the audit
/// log about its origin.
pub async fn register(
    app: &App,
    mut row: RunRow,
    sandbox: SandboxId,
    from: serde_json::Value,
) -> Result<Arc<LiveRun>, ApiError> {
    let id = row.id.clone();
    row.status = Status::Running;
    let log = AuditLog::new(id.clone(), app.store.clone(), app.secret.clone());
    let recorded = async {
        app.store.run_started(&id, row.create_ms).await?;
        let mut what = json!({
            "image": row.image, "digest": row.digest, "vcpus": row.vcpus,
            "mem_mib": row.mem_mib, "disk_mib": row.disk_mib,
        });
        if let (Some(what), Some(from)) = (what.as_object_mut(), from.as_object()) {
            what.extend(from.clone());
        }
        log.append(Event::Created, what).await
    };
    if let Err(error) = recorded.await {
        // No sandbox may run without a record.
        if let Err(error) = app.engine.destroy(&sandbox).await {
            tracing::error!(%error, run = %id, "cannot destroy a sandbox");
        }
        app.images.release(sandbox.as_str());
        return Err(error.into());
    }
    let network = Settings::load(&row.network, &app.secret);
    let run = Arc::new(LiveRun::new(row, sandbox, log, app.config.limits.execs, network));
    app.runs.insert(Arc::clone(&run));
    tracing::info!(run = %id, image = run.row.image, ms = run.row.create_ms, "created");
    Ok(run)
}

/// Destroys a run. Concurrent calls return the same result.
pub async fn destroy(app: &App, run: &Arc<LiveRun>, why: &str) -> Result<DestroyStats, ApiError> {
    let task = app.tasks.spawn({
        let (app, run, why) = (Arc::clone(app), Arc::clone(run), why.to_owned());
        async move { destroy_once(&app, &run, &why).await }
    });
    task.await.map_err(|error| ApiError::internal("cannot destroy the run", error))?
}

async fn destroy_once(app: &App, run: &LiveRun, why: &str) -> Result<DestroyStats, ApiError> {
    let mut outcome_slot = run.destroy_outcome.lock().await;
    if let Some(stats) = &*outcome_slot {
        return Ok(stats.clone());
    }
    // A fork in progress completes before the original is destroyed.
    let _guard = run.lifecycle_lock.lock().await;
    let final_stats = run.final_stats();
    run.set_destroyed(why);
    let stats = match final_stats {
        Some(stats) => stats,
        None => match app.engine.destroy(&run.sandbox).await {
            Ok(stats) => run.total(stats),
            Err(EngineError::NotFound(_)) => run.total(Stats::default()),
            Err(error) => return Err(ApiError::internal("cannot destroy the sandbox", error)),
        },
    };
    app.state_dirs.remove_hibernated(&run.id).await;
    app.images.release(run.sandbox.as_str());
    let destroyed_at = clock::now_ms();
    let outcome = DestroyStats {
        status: Status::Destroyed,
        cpu_ms: stats.cpu_ms,
        mem_peak_bytes: stats.mem_peak_bytes,
        disk_used_bytes: stats.disk_used_bytes,
        uptime_ms: u64::try_from(destroyed_at.saturating_sub(run.row.created_at)).unwrap_or(0),
        cost_cents: 0.0,
    };
    let what = json!({
        "reason": why, "cpu_ms": outcome.cpu_ms, "mem_peak_bytes": outcome.mem_peak_bytes,
        "disk_used_bytes": outcome.disk_used_bytes, "uptime_ms": outcome.uptime_ms,
    });
    run.log.append(Event::Destroyed, what).await?;
    let ending = Ending {
        reason: why.to_owned(),
        destroyed_at,
        cpu_ms: outcome.cpu_ms,
        mem_peak_bytes: outcome.mem_peak_bytes,
        disk_used_bytes: outcome.disk_used_bytes,
    };
    app.store.end_run(&run.id, ending).await?;
    app.runs.remove(&run.id);
    app.runs.release_slot(&run.tenant);
    app.metrics.destroyed.inc();
    tracing::info!(run = %run.id, reason = why, cpu_ms = outcome.cpu_ms, "destroyed");
    *outcome_slot = Some(outcome.clone());
    Ok(outcome)
}

/// Monitors a run until it is destroyed: handles an exit of its sandbox and its idle
/// timeout.
pub fn watch(app: App, run: Arc<LiveRun>) -> BoxFuture<'static, ()> {
    // Boxed, since it may start another `watch` recursively.
    Box::pin(monitor(app, run))
}

async fn monitor(app: App, run: Arc<LiveRun>) {
    loop {
        tokio::select! {
            exit = app.engine.exited(&run.sandbox) => match exit {
                Ok(exit) => return handle_exit(&app, &run, &exit.to_string()).await,
                Err(EngineError::NotFound(_)) => return,
                Err(error) => return handle_exit(&app, &run, &error.to_string()).await,
            },
            () = run.activity.expired() => {}
            _ = run.ended() => return,
        }
        let seconds = run.activity.timeout().as_secs_f64();
        match run.row.on_idle {
            OnIdle::Destroy => {
                return expire(&app, &run, &format!("it was idle for {seconds} s")).await;
            }
            OnIdle::Hibernate => match hibernation::hibernate(&app, &run).await {
                Ok(()) => return,
                Err(error) => {
                    tracing::error!(error = error.message, run = %run.id, "cannot hibernate");
                    // Retried after another idle timeout.
                    run.activity.touch();
                }
            },
        }
    }
}

/// Destroys the sandbox of a running run, and marks the run as failed.
pub async fn fail(app: &App, run: &Arc<LiveRun>, why: &str) {
    let _guard = run.lifecycle_lock.lock().await;
    if run.status() == Status::Running && !run.is_suspended() {
        mark_failed(app, run, why).await;
        let (app, run, why) = (Arc::clone(app), Arc::clone(run), why.to_owned());
        tokio::spawn(async move { expire_failed(&app, &run, &why).await });
    }
}

/// Handles an unexpected exit of a sandbox: marks the run as failed, which notifies all
/// waiters, releases its resources, and destroys the run after its timeout.
async fn handle_exit(app: &App, run: &Arc<LiveRun>, why: &str) {
    mark_failed(app, run, why).await;
    expire_failed(app, run, why).await;
}

async fn mark_failed(app: &App, run: &Arc<LiveRun>, why: &str) {
    tracing::warn!(run = %run.id, why, "a sandbox exited unexpectedly");
    app.metrics.died.inc();
    let stats = app.engine.stats(&run.sandbox).await.unwrap_or_default();
    run.set_failed(why.to_owned(), stats);
    match app.engine.destroy(&run.sandbox).await {
        Ok(_) | Err(EngineError::NotFound(_)) => {}
        Err(error) => tracing::error!(%error, run = %run.id, "cannot remove an exited sandbox"),
    }
    if let Err(error) = app.store.set_run_status(&run.id, Status::Failed).await {
        tracing::error!(%error, run = %run.id, "cannot record that a sandbox exited");
    }
}

/// Destroys a failed run after its timeout, unless it is destroyed before.
async fn expire_failed(app: &App, run: &Arc<LiveRun>, why: &str) {
    let timeout = async {
        match run.activity.timeout() {
            Duration::ZERO => tokio::time::sleep(KEEP_FAILED).await,
            _ => run.activity.expired().await,
        }
    };
    tokio::select! {
        () = timeout => expire(app, run, &format!("its sandbox died: {why}")).await,
        () = run.wait_destroyed() => {}
    }
}

async fn expire(app: &App, run: &Arc<LiveRun>, why: &str) {
    if let Err(error) = destroy(app, run, why).await {
        tracing::error!(error = error.message, run = %run.id, "cannot destroy a run");
    }
}

/// Recovers the state of an earlier server process: keeps sandboxes that belong to a
/// run, destroys runs without a sandbox, and removes sandboxes without a run.
pub async fn recover(app: &App) -> anyhow::Result<()> {
    let mut sandboxes = app.engine.list().await?;
    for mut row in app.store.open_runs().await? {
        let log = AuditLog::reopen(row.id.clone(), app.store.clone(), app.secret.clone()).await?;
        let sandbox: SandboxId = row.id.as_str().parse()?;
        let found =
            sandboxes.iter().position(|id| *id == sandbox).map(|at| sandboxes.swap_remove(at));
        if row.status == Status::Running {
            let here = found.is_some() && app.engine.stats(&sandbox).await.is_ok();
            if hibernation::finish_interrupted(app, &row, &sandbox, here).await {
                app.store.run_hibernated(&row.id, row.used).await?;
                row.status = Status::Hibernated;
            } else {
                // Of an earlier sleep, from which it came back.
                app.state_dirs.remove_hibernated(&row.id).await;
            }
        }
        let (was_running, hibernated) =
            (row.status == Status::Running, row.status == Status::Hibernated);
        let network = Settings::load(&row.network, &app.secret);
        let plan = network.plan();
        let run = Arc::new(LiveRun::new(row, sandbox, log, app.config.limits.execs, network));
        // Ignores the limits, since the run already exists.
        app.runs.occupy_slot(&run.tenant);
        app.runs.insert(Arc::clone(&run));
        if found.is_some() && was_running {
            // The network was closed until now. `watch` detects if the sandbox has exited.
            if let Err(error) = app.engine.set_network(&run.sandbox, plan).await {
                tracing::warn!(%error, run = %run.id, "cannot open the network of a sandbox");
            }
            tracing::info!(run = %run.id, "recovered");
            app.tasks.spawn(watch(Arc::clone(app), run));
        } else if hibernated && app.state_dirs.is_hibernated(&run.id) {
            if found.is_some() {
                // The server exited while the run was being resumed or hibernated.
                app.engine.destroy(&run.sandbox).await?;
            }
            tracing::info!(run = %run.id, "hibernated");
        } else {
            expire(app, &run, "the server stopped without keeping its sandbox").await;
        }
    }
    for id in sandboxes {
        tracing::warn!(sandbox = %id, "removing a sandbox that belongs to no run");
        if let Err(error) = app.engine.destroy(&id).await {
            tracing::error!(%error, sandbox = %id, "cannot remove it");
        }
    }
    let mut held: BTreeSet<String> =
        app.runs.list(None).iter().map(|run| run.sandbox.to_string()).collect();
    let snapshots = app.store.snapshots(None).await?;
    for row in &snapshots {
        app.accounts.snapshots.register(&row.id, &row.tenant);
    }
    let snapshots: BTreeSet<String> = snapshots.into_iter().map(|row| row.id).collect();
    app.state_dirs.remove_unknown(&held, &snapshots).await?;
    held.extend(snapshots);
    app.images.release_all_but(&held)
}

/// Destroys all runs concurrently, except hibernated ones.
pub async fn destroy_all(app: &App, why: &str) {
    let mut tasks = tokio::task::JoinSet::new();
    // Hibernated runs outlive the server.
    for run in app.runs.list(None).into_iter().filter(|run| !run.is_suspended()) {
        let (app, why) = (Arc::clone(app), why.to_owned());
        tasks.spawn(async move { expire(&app, &run, &why).await });
    }
    tasks.join_all().await;
}

/// Converts an error of the engine into one for the client. Messages that may contain
/// paths of the machine are only logged.
pub fn engine_error(what: &str, error: EngineError) -> ApiError {
    match error {
        EngineError::InvalidSpec(why) => ApiError::invalid(why),
        EngineError::Unsupported(why) => ApiError::new(Code::NotSupported, why),
        EngineError::Dead { exit, .. } => {
            ApiError::new(Code::SandboxDied, format!("the sandbox died: {exit}"))
        }
        EngineError::Setup(ref why) => {
            tracing::error!(why, "{what}");
            ApiError::new(
                Code::Unavailable,
                format!(
                    "{what}: the machine does not meet the requirements; run `isorun doctor` there"
                ),
            )
        }
        EngineError::NotFound(_) => ApiError::new(Code::Unavailable, "the sandbox does not exist"),
        error => ApiError::internal(what, error),
    }
}

/// Returns a duration in milliseconds.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

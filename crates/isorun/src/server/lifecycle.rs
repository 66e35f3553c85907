//! The life of a run: it is made, watched, and ended, by a task of its own, so
//! that a client that goes away leaves nothing half done.

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
    network::{self, Settings},
    newborn::Newborn,
    order::Order,
    runs::{Defaults, LiveRun},
    state::hibernation,
};
use crate::{
    api::{DestroyStats, OnIdle, Status},
    audit::{AuditLog, Event},
    clock,
    id::RunId,
    store::{Ending, RunRow, Used},
};

/// How long a run that died by itself is listed, if nobody destroys it and it
/// has no timeout.
const KEEP_FAILED: Duration = Duration::from_secs(3600);

/// Makes a run. If the caller goes away meanwhile, it is destroyed: nobody would
/// know its id.
pub async fn create(app: &App, caller: Caller, order: Order) -> Result<Arc<LiveRun>, ApiError> {
    accepts_runs(app, &caller.tenant)?;
    let making = {
        let app = Arc::clone(app);
        async move {
            let run = make(&app, &caller.tenant, order).await?;
            app.tasks.spawn(watch(Arc::clone(&app), Arc::clone(&run)));
            Ok(run)
        }
    };
    Newborn::make_one(app, "cannot create the run", making).await
}

/// Whether a tenant may have something new: a sandbox, or something on the disk.
pub fn accepts_runs(app: &App, tenant: &str) -> Result<(), ApiError> {
    if app.stopping.is_cancelled() {
        return Err(ApiError::new(Code::Stopping, "the server is stopping: it takes no new runs"));
    }
    app.guard.admit(tenant)
}

async fn make(app: &App, tenant: &str, order: Order) -> Result<Arc<LiveRun>, ApiError> {
    app.runs.take_place(tenant)?;
    let made = try_make(app, tenant, order).await;
    match &made {
        Ok(_) => {
            app.metrics.created.inc();
        }
        Err(error) => {
            app.runs.leave_place(tenant);
            app.metrics.failed_creates.inc();
            tracing::warn!(error = error.message, "cannot create a run");
        }
    }
    made
}

async fn try_make(app: &App, tenant: &str, order: Order) -> Result<Arc<LiveRun>, ApiError> {
    let started = Instant::now();
    let source = app.images.find(app, tenant, &order.image).await?;
    let id = RunId::random().map_err(|error| ApiError::internal("cannot draw a run id", error))?;
    let sandbox: SandboxId = id
        .as_str()
        .parse()
        .map_err(|error| ApiError::internal("cannot name the sandbox", error))?;
    let mut env = source.env.clone();
    env.extend(order.env);
    network::environment(&order.network.credentials, &mut env);
    let defaults = Defaults {
        env,
        user: source.user.clone(),
        workdir: source.workdir.clone(),
        urls: order.urls,
    };
    let mut row = RunRow {
        id: id.clone(),
        tenant: tenant.to_owned(),
        image: order.image,
        digest: source.digest.clone(),
        status: Status::Creating,
        vcpus: order.vcpus,
        mem_mib: order.mem_mib,
        disk_mib: order.disk_mib,
        timeout_ms: millis(order.timeout),
        defaults: serde_json::to_string(&defaults).unwrap_or_default(),
        network: order.network.store(&app.secret)?,
        on_idle: order.on_idle,
        auto_resume: order.auto_resume,
        used: Used::default(),
        create_ms: 0,
        created_at: clock::now_ms(),
        destroyed_at: None,
        reason: None,
    };
    // Before the sandbox exists: what a crash leaves behind is found by its row.
    app.store.add_run(row.clone()).await?;
    let spec = spec(app, &row, sandbox.clone(), source.root.clone());
    let created = async {
        app.images.hold(sandbox.as_str(), &source)?;
        let created = app.engine.create(spec).await;
        created.map_err(|error| engine_error("cannot create the sandbox", error))?;
        let trusted = network::install(app, &sandbox, &order.network.credentials).await;
        if trusted.is_err()
            && let Err(error) = app.engine.destroy(&sandbox).await
        {
            tracing::error!(%error, run = %id, "cannot destroy a sandbox");
        }
        trusted
    };
    if let Err(error) = created.await {
        forget(app, &id).await?;
        return Err(error);
    }
    drop(source);
    row.create_ms = millis(started.elapsed());
    app.metrics.create_seconds.observe(started.elapsed().as_secs_f64());
    open(app, row, sandbox, json!({})).await
}

/// The sandbox that a run has.
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

/// Takes back a run whose sandbox could not be made.
pub async fn forget(app: &App, id: &RunId) -> Result<(), ApiError> {
    app.images.release(id.as_str());
    Ok(app.store.forget_run(id).await?)
}

/// A run begins: its sandbox is there. `from` says where that came from.
pub async fn open(
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
        // A run without a record must not live.
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

/// Ends a run. Several may ask at the same time: all are told the same.
pub async fn destroy(app: &App, run: &Arc<LiveRun>, why: &str) -> Result<DestroyStats, ApiError> {
    let task = app.tasks.spawn({
        let (app, run, why) = (Arc::clone(app), Arc::clone(run), why.to_owned());
        async move { end(&app, &run, &why).await }
    });
    task.await.map_err(|error| ApiError::internal("cannot destroy the run", error))?
}

async fn end(app: &App, run: &LiveRun, why: &str) -> Result<DestroyStats, ApiError> {
    let mut end = run.end.lock().await;
    if let Some(stats) = &*end {
        return Ok(stats.clone());
    }
    // A copy that is being made is made, then the original goes.
    let _change = run.change.lock().await;
    let remains = run.remains();
    run.destroyed(why);
    let stats = match remains {
        Some(stats) => stats,
        None => match app.engine.destroy(&run.sandbox).await {
            Ok(stats) => run.total(stats),
            Err(EngineError::NotFound(_)) => run.total(Stats::default()),
            Err(error) => return Err(ApiError::internal("cannot destroy the sandbox", error)),
        },
    };
    app.places.forget_hibernated(&run.id).await;
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
    app.runs.leave_place(&run.tenant);
    app.metrics.destroyed.inc();
    tracing::info!(run = %run.id, reason = why, cpu_ms = outcome.cpu_ms, "destroyed");
    *end = Some(outcome.clone());
    Ok(outcome)
}

/// Watches a run until it is destroyed, by whoever does it.
pub fn watch(app: App, run: Arc<LiveRun>) -> BoxFuture<'static, ()> {
    // In a box, since what it does may begin another watch.
    Box::pin(keep_watch(app, run))
}

async fn keep_watch(app: App, run: Arc<LiveRun>) {
    loop {
        tokio::select! {
            exit = app.engine.exited(&run.sandbox) => match exit {
                Ok(exit) => return bury(&app, &run, &exit.to_string()).await,
                Err(EngineError::NotFound(_)) => return,
                Err(error) => return bury(&app, &run, &error.to_string()).await,
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
                    // It is tried again after another time of idleness.
                    run.activity.touch();
                }
            },
        }
    }
}

/// Ends the sandbox of a run that is running, as if it had died by itself.
pub async fn fail(app: &App, run: &Arc<LiveRun>, why: &str) {
    let _change = run.change.lock().await;
    if run.status() == Status::Running && !run.is_asleep() {
        mark_failed(app, run, why).await;
        let (app, run, why) = (Arc::clone(app), Arc::clone(run), why.to_owned());
        tokio::spawn(async move { forget_failed(&app, &run, &why).await });
    }
}

/// A sandbox died by itself: everybody who waits is told, its resources go, and
/// the run stays to say so.
async fn bury(app: &App, run: &Arc<LiveRun>, why: &str) {
    mark_failed(app, run, why).await;
    forget_failed(app, run, why).await;
}

async fn mark_failed(app: &App, run: &Arc<LiveRun>, why: &str) {
    tracing::warn!(run = %run.id, why, "a sandbox died");
    app.metrics.died.inc();
    let stats = app.engine.stats(&run.sandbox).await.unwrap_or_default();
    run.failed(why.to_owned(), stats);
    match app.engine.destroy(&run.sandbox).await {
        Ok(_) | Err(EngineError::NotFound(_)) => {}
        Err(error) => tracing::error!(%error, run = %run.id, "cannot remove a dead sandbox"),
    }
    if let Err(error) = app.store.set_run_status(&run.id, Status::Failed).await {
        tracing::error!(%error, run = %run.id, "cannot record that a sandbox died");
    }
}

/// Destroys a run whose sandbox died, unless somebody does it before.
async fn forget_failed(app: &App, run: &Arc<LiveRun>, why: &str) {
    let keep = async {
        match run.activity.timeout() {
            Duration::ZERO => tokio::time::sleep(KEEP_FAILED).await,
            _ => run.activity.expired().await,
        }
    };
    tokio::select! {
        () = keep => expire(app, run, &format!("its sandbox died: {why}")).await,
        () = run.gone() => {}
    }
}

async fn expire(app: &App, run: &Arc<LiveRun>, why: &str) {
    if let Err(error) = destroy(app, run, why).await {
        tracing::error!(error = error.message, run = %run.id, "cannot destroy a run");
    }
}

/// What a server before this one left: sandboxes with a run live on, runs
/// without a sandbox are over, sandboxes without a run are removed.
pub async fn recover(app: &App) -> anyhow::Result<()> {
    let mut alive = app.engine.list().await?;
    for mut row in app.store.open_runs().await? {
        let log = AuditLog::reopen(row.id.clone(), app.store.clone(), app.secret.clone()).await?;
        let sandbox: SandboxId = row.id.as_str().parse()?;
        let found = alive.iter().position(|id| *id == sandbox).map(|at| alive.swap_remove(at));
        if row.status == Status::Running {
            let here = found.is_some() && app.engine.stats(&sandbox).await.is_ok();
            if hibernation::finish(app, &row, &sandbox, here).await {
                app.store.run_hibernated(&row.id, row.used).await?;
                row.status = Status::Hibernated;
            } else {
                // Of an earlier sleep, from which it came back.
                app.places.forget_hibernated(&row.id).await;
            }
        }
        let (was_running, asleep) =
            (row.status == Status::Running, row.status == Status::Hibernated);
        let network = Settings::load(&row.network, &app.secret);
        let plan = network.plan();
        let run = Arc::new(LiveRun::new(row, sandbox, log, app.config.limits.execs, network));
        // One more than is allowed is kept all the same: it is there.
        app.runs.occupy_place(&run.tenant);
        app.runs.insert(Arc::clone(&run));
        if found.is_some() && was_running {
            // Until now it was closed. One that is dead is found out by who watches it.
            if let Err(error) = app.engine.set_network(&run.sandbox, plan).await {
                tracing::warn!(%error, run = %run.id, "its network stays closed");
            }
            tracing::info!(run = %run.id, "found again");
            app.tasks.spawn(watch(Arc::clone(app), run));
        } else if asleep && app.places.is_hibernated(&run.id) {
            if found.is_some() {
                // It was on its way back when the server ended, or what is left of
                // it on its way there.
                app.engine.destroy(&run.sandbox).await?;
            }
            tracing::info!(run = %run.id, "hibernated");
        } else {
            expire(app, &run, "the server stopped while it was there").await;
        }
    }
    for id in alive {
        tracing::warn!(sandbox = %id, "removing a sandbox that belongs to no run");
        if let Err(error) = app.engine.destroy(&id).await {
            tracing::error!(%error, sandbox = %id, "cannot remove it");
        }
    }
    let mut held: BTreeSet<String> =
        app.runs.list(None).iter().map(|run| run.sandbox.to_string()).collect();
    let snapshots = app.store.snapshots(None).await?;
    for row in &snapshots {
        app.accounts.snapshots.found(&row.id, &row.tenant);
    }
    let snapshots: BTreeSet<String> = snapshots.into_iter().map(|row| row.id).collect();
    app.places.clean_up(&held, &snapshots).await?;
    held.extend(snapshots);
    app.images.release_all_but(&held)
}

/// Ends every run, several at a time.
pub async fn destroy_all(app: &App, why: &str) {
    let mut ends = tokio::task::JoinSet::new();
    // Those on disk are there to outlive the server.
    for run in app.runs.list(None).into_iter().filter(|run| !run.is_asleep()) {
        let (app, why) = (Arc::clone(app), why.to_owned());
        ends.spawn(async move { expire(&app, &run, &why).await });
    }
    ends.join_all().await;
}

/// What the caller is told of an engine's trouble. Texts that may name places of
/// the machine go to the log only.
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
                format!("{what}: the machine lacks something; `isorun doctor` there says what"),
            )
        }
        EngineError::NotFound(_) => ApiError::new(Code::Unavailable, "the sandbox is not there"),
        error => ApiError::internal(what, error),
    }
}

pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

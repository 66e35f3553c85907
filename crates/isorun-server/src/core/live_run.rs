//! Existing runs: owner, state, activity, and notification of waiters when a run ends.
//!
//! ```text
//!                         ┌─────────── resume ──────────┐
//!                         ▼                             │
//!   create, fork, ──▶ running ── hibernate, idle ──▶ hibernated ── destroy ──┐
//!   restore               │ ╰─────────── destroy, idle ──────────────▶ destroyed
//!                         ╰── sandbox exits ──▶ failed ── destroy, idle ───┘
//! ```
//!
//! Every operation that creates or destroys a sandbox of an existing run holds its
//! `lifecycle_lock`, so that these operations are serialized.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use isorun_agent::client::CellHandle;
use isorun_api::{DestroyStats, RunId, Status};
use isorun_engine::{AgentStream, SandboxId, Stats};
use isorun_interpreter::InterpreterImage;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::Instant,
};

use super::{
    activity::Activity,
    error::{Error, ErrorKind, OperationError},
    network::Settings,
};
use crate::{
    clock,
    secret::Secret,
    store::{AuditLog, ResourceUsage, RunRow, RunSettings},
};

/// The largest number of concurrent requests to ports of a run.
const MAX_PROXY_REQUESTS: usize = 1024;

/// The time that the connection of a cell is kept for the next one. The agent keeps it longer.
const IDLE_CELL_TIMEOUT: Duration = Duration::from_secs(10);

/// The connection of a cell that has ended.
pub type IdleCell = CellHandle<AgentStream>;

/// The connection of the last cell of a run, for the next one.
#[derive(Default)]
struct IdleCellSlot {
    /// The connection, and the time up to which it is kept.
    kept: Option<(IdleCell, Instant)>,
    /// True while a task waits for that time.
    has_timer: bool,
}

/// A run that was not destroyed.
pub struct LiveRun {
    pub id: RunId,
    pub sandbox: SandboxId,
    /// The image of an interpreter; `None` for a Linux sandbox.
    pub interpreter: Option<InterpreterImage>,
    pub tenant: String,
    pub row: RunRow,
    pub defaults: Defaults,
    pub log: AuditLog,
    pub activity: Activity,
    /// Limits concurrent commands, terminals and transfers.
    execs: Arc<Semaphore>,
    /// Limits concurrent requests to its ports.
    proxy_requests: Arc<Semaphore>,
    state: watch::Sender<RunState>,
    network: RwLock<Settings>,
    idle_cell: Mutex<IdleCellSlot>,
    /// Held during hibernation, resumption, forking, snapshots and destruction.
    pub lifecycle_lock: tokio::sync::Mutex<()>,
    /// Resource usage of its earlier sandboxes.
    used: Mutex<ResourceUsage>,
    /// Set if the row of a hibernated run may differ from its state, after a change whose outcome
    /// is not known.
    unrecorded: Mutex<Option<Unrecorded>>,
    /// Held during destruction; then contains the result.
    pub destroy_outcome: tokio::sync::Mutex<Option<DestroyStats>>,
}

/// The defaults of the commands of a run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Defaults {
    pub env: BTreeMap<String, String>,
    pub user: Option<String>,
    pub workdir: Option<String>,
    /// The access to its anonymous URLs.
    #[serde(default)]
    pub urls: UrlAccess,
}

impl Defaults {
    /// Parses the stored form, which this server has written. Corrupted data loses the
    /// variables only.
    pub fn parse(stored: &str) -> Self {
        serde_json::from_str(stored).unwrap_or_default()
    }
}

/// The access to the anonymous URLs of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UrlAccess {
    /// Open to all who know the id of the run.
    #[default]
    Open,
    /// Requires this token as well.
    Token(String),
    /// Disabled.
    Off,
}

/// What may differ in the row of a hibernated run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unrecorded {
    /// Whether it is being resumed.
    Resuming,
    /// The state, and the generation, which is this one.
    Generation(u64),
    /// That it was destroyed, for this reason.
    End(String),
}

/// The state of a run, with the reason if it ended.
#[derive(Clone, Debug)]
pub enum RunState {
    Running,
    /// The sandbox is being written to disk. Requests in progress continue after a resume.
    Hibernating,
    Hibernated,
    Resuming,
    /// The reason of the exit, and the resource usage.
    Failed(String, Stats),
    /// The reason.
    Destroyed(String),
    /// Another node of the cluster has taken it over.
    Moved,
}

impl LiveRun {
    pub fn new(
        row: RunRow,
        sandbox: SandboxId,
        log: AuditLog,
        execs: usize,
        network: Settings,
    ) -> Self {
        Self {
            id: row.id.clone(),
            sandbox,
            interpreter: InterpreterImage::named(&row.image),
            tenant: row.tenant.clone(),
            defaults: Defaults::parse(&row.defaults),
            activity: Activity::new(Duration::from_millis(row.timeout_ms)),
            execs: Arc::new(Semaphore::new(execs)),
            proxy_requests: Arc::new(Semaphore::new(MAX_PROXY_REQUESTS)),
            network: RwLock::new(network),
            state: watch::Sender::new(match row.status {
                Status::Hibernated => RunState::Hibernated,
                _ => RunState::Running,
            }),
            idle_cell: Mutex::default(),
            lifecycle_lock: tokio::sync::Mutex::default(),
            used: Mutex::new(row.used),
            unrecorded: Mutex::default(),
            destroy_outcome: tokio::sync::Mutex::default(),
            row,
            log,
        }
    }

    /// Takes the connection of its last cell, if it is still open.
    pub fn take_idle_cell(&self) -> Option<IdleCell> {
        self.idle_cell_slot().kept.take().map(|(cell, _)| cell)
    }

    /// Keeps the connection of a cell for a while, for the next one.
    pub fn keep_idle_cell(self: &Arc<Self>, cell: IdleCell) {
        let mut expires = Instant::now() + IDLE_CELL_TIMEOUT;
        let mut slot = self.idle_cell_slot();
        slot.kept = Some((cell, expires));
        // One task for any number of cells.
        if std::mem::replace(&mut slot.has_timer, true) {
            return;
        }
        drop(slot);
        let run = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep_until(expires).await;
                let Some(run) = run.upgrade() else { return };
                let mut slot = run.idle_cell_slot();
                match &slot.kept {
                    Some((_, later)) if *later > expires => expires = *later,
                    _ => {
                        *slot = IdleCellSlot::default();
                        return;
                    }
                }
            }
        });
    }

    fn idle_cell_slot(&self) -> MutexGuard<'_, IdleCellSlot> {
        self.idle_cell.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails if it is an interpreter, which does not have what the request needs: `feature`,
    /// such as `commands`.
    pub fn require_linux(&self, feature: &str) -> Result<(), Error> {
        match self.interpreter {
            None => Ok(()),
            Some(interpreter) => Err(Error::new(
                ErrorKind::ImageLacksFeature,
                format!(
                    "{} is an interpreter ({interpreter}), which has no {feature}: use a run of an \
                     OCI image, such as python:3.14, or of `host`; here you can run code",
                    self.id
                ),
            )),
        }
    }

    /// Returns the network settings.
    pub fn network(&self) -> Settings {
        self.network.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the settings for copies of it, as they are now: its idle timeout and its
    /// network may have changed since it was created.
    pub fn settings(&self, secret: &Secret) -> Result<RunSettings, Error> {
        Ok(RunSettings {
            timeout_ms: clock::millis(self.activity.timeout()),
            network: self.network().store(secret)?,
            ..self.row.settings()
        })
    }

    pub fn set_network(&self, settings: Settings) {
        *self.network.write().unwrap_or_else(PoisonError::into_inner) = settings;
    }

    pub fn status(&self) -> Status {
        match *self.state.borrow() {
            RunState::Running | RunState::Hibernating => Status::Running,
            RunState::Hibernated | RunState::Resuming | RunState::Moved => Status::Hibernated,
            RunState::Failed(..) => Status::Failed,
            RunState::Destroyed(_) => Status::Destroyed,
        }
    }

    pub fn uptime_ms(&self) -> u64 {
        u64::try_from(clock::now_ms() - self.row.created_at).unwrap_or(0)
    }

    /// Returns the resource usage if its sandbox is no longer running.
    pub fn final_stats(&self) -> Option<Stats> {
        match &*self.state.borrow() {
            RunState::Failed(_, stats) => Some(self.total(*stats)),
            RunState::Hibernated => Some(self.total(Stats::default())),
            _ => None,
        }
    }

    /// Sets what may differ in the row of the hibernated run, or that nothing does. The caller
    /// holds the `lifecycle_lock`.
    pub fn set_unrecorded(&self, unrecorded: Option<Unrecorded>) {
        *self.unrecorded.lock().unwrap_or_else(PoisonError::into_inner) = unrecorded;
    }

    pub fn unrecorded(&self) -> Option<Unrecorded> {
        self.unrecorded.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes the `lifecycle_lock` for a change. Fails if it was moved, or if its destruction is
    /// not completed.
    pub async fn begin_change(&self) -> Result<tokio::sync::MutexGuard<'_, ()>, Error> {
        let guard = self.lifecycle_lock.lock().await;
        match (self.state(), self.unrecorded()) {
            (RunState::Moved, _) => Err(self.busy_error("moved to another server of the cluster")),
            (_, Some(Unrecorded::End(_))) => Err(self.busy_error("destroyed")),
            _ => Ok(guard),
        }
    }

    fn busy_error(&self, change: &str) -> Error {
        let message = format!("{} is being {change}: try again", self.id);
        Error::new(ErrorKind::RunBusy, message).after(Duration::from_secs(1))
    }

    /// Returns the resource usage of its earlier sandboxes.
    pub fn used(&self) -> ResourceUsage {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the total resource usage, given that of the current sandbox.
    pub fn total(&self, mut stats: Stats) -> Stats {
        let used = *self.used.lock().unwrap_or_else(PoisonError::into_inner);
        stats.cpu_ms += used.cpu_ms;
        stats.mem_peak_bytes = stats.mem_peak_bytes.max(used.mem_peak_bytes);
        stats.disk_used_bytes = stats.disk_used_bytes.max(used.disk_used_bytes);
        stats
    }

    /// Sets the total resource usage, after its sandbox was destroyed.
    pub fn set_used(&self, total: Stats) -> ResourceUsage {
        let used = ResourceUsage {
            cpu_ms: total.cpu_ms,
            mem_peak_bytes: total.mem_peak_bytes,
            disk_used_bytes: total.disk_used_bytes,
        };
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = used;
        used
    }

    /// Returns a receiver of all later changes of the state.
    pub fn subscribe(&self) -> watch::Receiver<RunState> {
        self.state.subscribe()
    }

    pub fn state(&self) -> RunState {
        self.state.borrow().clone()
    }

    /// Changes the state. The caller holds the `lifecycle_lock`. A run that has failed, was
    /// destroyed or moved keeps its state.
    pub fn set_state(&self, next: RunState) {
        self.state.send_modify(|state| {
            if !matches!(state, RunState::Failed(..) | RunState::Destroyed(_) | RunState::Moved) {
                *state = next;
            }
        });
    }

    /// Reports whether it is hibernated, being hibernated, or being resumed.
    pub fn is_suspended(&self) -> bool {
        matches!(
            &*self.state.borrow(),
            RunState::Hibernating | RunState::Hibernated | RunState::Resuming
        )
    }

    pub fn set_failed(&self, why: String, stats: Stats) {
        self.state.send_modify(|state| {
            if matches!(state, RunState::Running | RunState::Hibernating) {
                *state = RunState::Failed(why, stats);
            }
        });
    }

    /// Marks it as moved to another node, which refuses new operations: there they can be
    /// repeated.
    pub fn set_moved(&self) {
        self.state.send_replace(RunState::Moved);
    }

    /// Marks it as destroyed, which refuses new operations and notifies all waiters.
    pub fn set_destroyed(&self, why: &str) {
        self.state.send_replace(RunState::Destroyed(why.to_owned()));
    }

    /// Returns the error for operations that need a running sandbox; `None` if it is running.
    pub fn not_running_error(&self) -> Option<Error> {
        match &*self.state.borrow() {
            RunState::Running => None,
            RunState::Hibernating | RunState::Hibernated | RunState::Resuming => Some(Error::new(
                ErrorKind::RunHibernated,
                format!("{} is hibernated: resume it first", self.id),
            )),
            RunState::Failed(why, _) => Some(Error::new(
                ErrorKind::SandboxDied,
                format!("the sandbox of {} died: {why}", self.id),
            )),
            RunState::Destroyed(why) => Some(Error::new(
                ErrorKind::RunDestroyed,
                format!("{} was destroyed: {why}", self.id),
            )),
            RunState::Moved => Some(self.busy_error("moved to another server of the cluster")),
        }
    }

    /// Waits until it is no longer running, and returns the error that says why.
    pub async fn ended(&self) -> Error {
        let mut state = self.state.subscribe();
        // The channel cannot be closed, since `self` has the sender.
        let is_running =
            |state: &RunState| matches!(state, RunState::Running | RunState::Hibernating);
        let _ = state.wait_for(|state| !is_running(state)).await;
        self.not_running_error().unwrap_or_else(|| {
            Error::internal("the run has ended", "a run stopped without a reason")
        })
    }

    /// Waits until it is destroyed.
    pub async fn wait_destroyed(&self) {
        let mut state = self.state.subscribe();
        let _ = state.wait_for(|state| matches!(state, RunState::Destroyed(_))).await;
    }

    /// Runs an operation that counts as activity. Fails as soon as the run ends.
    pub async fn during<T, E: OperationError>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let _use = self.begin()?;
        tokio::select! {
            // A completed operation is reported even if the run has ended since.
            biased;
            outcome = work => match outcome {
                Ok(value) => Ok(value),
                // If the connection broke because the sandbox exited, the exit is the
                // more useful error.
                Err(error) => Err(self.root_cause(error).await),
            },
            why = self.ended() => Err(why.into()),
        }
    }

    /// Returns the root cause of an error: the end of the run if it ends shortly after,
    /// otherwise the error itself.
    pub async fn root_cause<E: OperationError>(&self, error: E) -> E {
        if !error.is_connection_lost() {
            return error;
        }
        let hibernating = matches!(&*self.state.borrow(), RunState::Hibernating);
        let timeout_ms = if hibernating { 60_000 } else { 500 };
        let ended = tokio::time::timeout(Duration::from_millis(timeout_ms), self.ended());
        ended.await.map_or(error, E::from)
    }

    /// Waits while it is being hibernated.
    pub async fn wait_while_hibernating(&self) {
        let mut state = self.state.subscribe();
        let _ = state.wait_for(|state| !matches!(state, RunState::Hibernating)).await;
    }

    /// Starts a request to one of its ports.
    pub fn begin_proxy_request(self: &Arc<Self>) -> Result<ProxyRequest, Error> {
        if let Some(error) = self.not_running_error() {
            return Err(error);
        }
        let permit = Arc::clone(&self.proxy_requests).try_acquire_owned().map_err(|_| {
            let message = format!(
                "too many concurrent requests to ports of {}: wait for some to end",
                self.id
            );
            Error::new(ErrorKind::TooManyRequests, message).after(Duration::from_secs(1))
        })?;
        self.activity.begin();
        Ok(ProxyRequest { run: Arc::clone(self), _permit: permit })
    }

    /// Takes a permit and marks it as in use, until the result is dropped.
    pub fn begin(&self) -> Result<InUse<'_>, Error> {
        if let Some(error) = self.not_running_error() {
            return Err(error);
        }
        let permit = self.exec_permit()?;
        Ok(self.in_use_with(permit))
    }

    /// Takes a permit for an operation that may be idle.
    pub fn exec_permit(&self) -> Result<OwnedSemaphorePermit, Error> {
        let permit = Arc::clone(&self.execs).try_acquire_owned().map_err(|_| {
            Error::new(
                ErrorKind::TooManyExecs,
                format!(
                    "too many concurrent commands and transfers in {}: wait for some to end",
                    self.id
                ),
            )
            .after(Duration::from_secs(1))
        })?;
        Ok(permit)
    }

    fn in_use_with(&self, permit: OwnedSemaphorePermit) -> InUse<'_> {
        self.activity.begin();
        InUse { activity: &self.activity, _permit: Some(permit) }
    }

    /// Marks it as in use by the holder of a permit, until the result is dropped.
    pub fn mark_in_use(&self) -> InUse<'_> {
        self.activity.begin();
        InUse { activity: &self.activity, _permit: None }
    }
}

/// A request to a port of a run, until its response has ended. It counts as activity.
pub struct ProxyRequest {
    run: Arc<LiveRun>,
    _permit: OwnedSemaphorePermit,
}

impl ProxyRequest {
    pub fn sandbox(&self) -> &SandboxId {
        &self.run.sandbox
    }

    /// Waits until the run is no longer running.
    pub async fn ended(&self) -> Error {
        self.run.ended().await
    }

    /// Returns a future of the end of the run that does not borrow the request.
    pub fn run_end(&self) -> Pin<Box<dyn Future<Output = Error> + Send>> {
        let run = Arc::clone(&self.run);
        Box::pin(async move { run.ended().await })
    }
}

impl Drop for ProxyRequest {
    fn drop(&mut self) {
        self.run.activity.end();
    }
}

/// A guard that marks a run as in use.
pub struct InUse<'run> {
    activity: &'run Activity,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        self.activity.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Store, sample_run};

    fn hibernated(directory: &std::path::Path) -> LiveRun {
        let (store, secret) = (Store::open(directory).unwrap(), Secret::open(directory).unwrap());
        let row = RunRow { status: Status::Hibernated, ..sample_run("me") };
        let sandbox = row.id.as_str().parse().unwrap();
        let log = AuditLog::new(row.id.clone(), store, secret);
        LiveRun::new(row, sandbox, log, 1, Settings::default())
    }

    /// What is answered about a run whose end is not certain must not be that it has ended.
    #[tokio::test]
    async fn a_run_that_was_moved_or_may_be_destroyed_is_busy() {
        let directory = tempfile::tempdir().unwrap();
        let run = hibernated(directory.path());
        drop(run.begin_change().await.unwrap());
        run.set_unrecorded(Some(Unrecorded::End("a request destroyed it".to_owned())));
        assert_eq!(run.begin_change().await.unwrap_err().kind, ErrorKind::RunBusy);
        assert_eq!(run.begin().map(drop).unwrap_err().kind, ErrorKind::RunHibernated);
        assert_eq!(run.status(), Status::Hibernated);

        let run = hibernated(directory.path());
        run.set_moved();
        run.set_state(RunState::Running);
        assert_eq!(run.begin_change().await.unwrap_err().kind, ErrorKind::RunBusy);
        assert_eq!(run.begin().map(drop).unwrap_err().kind, ErrorKind::RunBusy);
        assert_eq!(run.status(), Status::Hibernated);

        let run = hibernated(directory.path());
        run.set_destroyed("a request destroyed it");
        assert_eq!(run.begin().map(drop).unwrap_err().kind, ErrorKind::RunDestroyed);
    }
}

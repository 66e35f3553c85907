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
    collections::{BTreeMap, HashMap},
    future::Future,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use isorun_engine::{SandboxId, Stats};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, watch},
    time::Instant,
};

use super::{
    ApiError, Code,
    config::{Config, Limits},
    limits::ledger::share_of,
    network::Settings,
    proxy::UrlAccess,
};
use crate::{
    audit::AuditLog,
    clock,
    store::{ResourceUsage, RunRow},
};
use isorun_api::RunId;
use isorun_api::{DestroyStats, Run, Status};

/// The largest number of concurrent requests to ports of a run.
const MAX_PROXY_REQUESTS: usize = 1024;

/// A run that was not destroyed.
pub struct LiveRun {
    pub id: RunId,
    pub sandbox: SandboxId,
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
    /// Held during hibernation, resumption, forking, snapshots and destruction.
    pub lifecycle_lock: tokio::sync::Mutex<()>,
    /// Resource usage of its earlier sandboxes.
    used: Mutex<ResourceUsage>,
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
            tenant: row.tenant.clone(),
            // Written by this server. Corrupted data loses the variables only.
            defaults: serde_json::from_str(&row.defaults).unwrap_or_default(),
            activity: Activity::new(Duration::from_millis(row.timeout_ms)),
            execs: Arc::new(Semaphore::new(execs)),
            proxy_requests: Arc::new(Semaphore::new(MAX_PROXY_REQUESTS)),
            network: RwLock::new(network),
            state: watch::Sender::new(match row.status {
                Status::Hibernated => RunState::Hibernated,
                _ => RunState::Running,
            }),
            lifecycle_lock: tokio::sync::Mutex::default(),
            used: Mutex::new(row.used),
            destroy_outcome: tokio::sync::Mutex::default(),
            row,
            log,
        }
    }

    /// Returns the description for the API.
    pub fn describe(&self, config: &Config) -> Run {
        Run {
            id: self.id.clone(),
            status: self.status(),
            image: self.row.image.clone(),
            region: config.region.clone(),
            vcpus: self.row.vcpus,
            mem_mib: self.row.mem_mib,
            disk_mib: self.row.disk_mib,
            create_ms: self.row.create_ms,
            created_at: clock::rfc3339(self.row.created_at),
            timeout: self.activity.timeout().as_secs_f64(),
            port_url: self.port_url(config),
            on_idle: self.row.on_idle,
            auto_resume: self.row.auto_resume,
        }
    }

    /// Returns the URL of its ports for access without an API key, if that is enabled.
    fn port_url(&self, config: &Config) -> Option<String> {
        let token = match &self.defaults.urls {
            _ if !config.urls.anonymous => return None,
            UrlAccess::Off => return None,
            UrlAccess::Open => String::new(),
            UrlAccess::Token(token) => format!("?{}={token}", super::proxy::TOKEN_NAME),
        };
        Some(match &config.urls.base {
            Some((scheme, name)) => {
                format!("{scheme}://{}.{name}/sb/p/{{port}}/{token}", self.id)
            }
            None => format!("/sb/{}/p/{{port}}/{token}", self.id),
        })
    }

    /// Returns the network settings.
    pub fn network(&self) -> Settings {
        self.network.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_network(&self, settings: Settings) {
        *self.network.write().unwrap_or_else(PoisonError::into_inner) = settings;
    }

    pub fn status(&self) -> Status {
        match *self.state.borrow() {
            RunState::Running | RunState::Hibernating => Status::Running,
            RunState::Hibernated | RunState::Resuming => Status::Hibernated,
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

    pub fn state(&self) -> RunState {
        self.state.borrow().clone()
    }

    /// Changes the state. The caller holds the `lifecycle_lock`. A failed or destroyed run
    /// keeps its state.
    pub fn set_state(&self, next: RunState) {
        self.state.send_modify(|state| {
            if !matches!(state, RunState::Failed(..) | RunState::Destroyed(_)) {
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

    /// Marks it as destroyed, which refuses new operations and notifies all waiters.
    pub fn set_destroyed(&self, why: &str) {
        self.state.send_replace(RunState::Destroyed(why.to_owned()));
    }

    /// Returns the error for operations that need a running sandbox; `None` if it is running.
    pub fn not_running_error(&self) -> Option<ApiError> {
        match &*self.state.borrow() {
            RunState::Running => None,
            RunState::Hibernating | RunState::Hibernated | RunState::Resuming => {
                Some(ApiError::new(
                    Code::RunHibernated,
                    format!("{} is hibernated: resume it first", self.id),
                ))
            }
            RunState::Failed(why, _) => Some(ApiError::new(
                Code::SandboxDied,
                format!("the sandbox of {} died: {why}", self.id),
            )),
            RunState::Destroyed(why) => {
                Some(ApiError::new(Code::RunDestroyed, format!("{} was destroyed: {why}", self.id)))
            }
        }
    }

    /// Waits until it is no longer running, and returns the error that says why.
    pub async fn ended(&self) -> ApiError {
        let mut state = self.state.subscribe();
        // The channel cannot be closed, since `self` has the sender.
        let is_running =
            |state: &RunState| matches!(state, RunState::Running | RunState::Hibernating);
        let _ = state.wait_for(|state| !is_running(state)).await;
        self.not_running_error().unwrap_or_else(|| {
            ApiError::internal("the run has ended", "a run stopped without a reason")
        })
    }

    /// Waits until it is destroyed.
    pub async fn wait_destroyed(&self) {
        let mut state = self.state.subscribe();
        let _ = state.wait_for(|state| matches!(state, RunState::Destroyed(_))).await;
    }

    /// Runs an operation that counts as activity. Fails as soon as the run ends.
    pub async fn during<T, E: Into<ApiError>>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, ApiError> {
        let _use = self.begin()?;
        tokio::select! {
            // A completed operation is reported even if the run has ended since.
            biased;
            outcome = work => match outcome {
                Ok(value) => Ok(value),
                // If the connection broke because the sandbox exited, the exit is the
                // more useful error.
                Err(error) => Err(self.root_cause(error.into()).await),
            },
            why = self.ended() => Err(why),
        }
    }

    /// Returns the root cause of an error: the end of the run if it ends shortly after,
    /// otherwise the error itself.
    pub async fn root_cause(&self, error: ApiError) -> ApiError {
        if error.code != Code::Unavailable {
            return error;
        }
        let hibernating = matches!(&*self.state.borrow(), RunState::Hibernating);
        let timeout_ms = if hibernating { 60_000 } else { 500 };
        tokio::time::timeout(Duration::from_millis(timeout_ms), self.ended()).await.unwrap_or(error)
    }

    /// Waits while it is being hibernated.
    pub async fn wait_while_hibernating(&self) {
        let mut state = self.state.subscribe();
        let _ = state.wait_for(|state| !matches!(state, RunState::Hibernating)).await;
    }

    /// Starts a request to one of its ports.
    pub fn begin_proxy_request(self: &Arc<Self>) -> Result<ProxyRequest, ApiError> {
        if let Some(error) = self.not_running_error() {
            return Err(error);
        }
        let permit = Arc::clone(&self.proxy_requests).try_acquire_owned().map_err(|_| {
            let message = format!(
                "too many concurrent requests to ports of {}: wait for some to end",
                self.id
            );
            ApiError::new(Code::TooManyRequests, message).after(Duration::from_secs(1))
        })?;
        self.activity.begin();
        Ok(ProxyRequest { run: Arc::clone(self), _permit: permit })
    }

    /// Takes a permit and marks it as in use, until the result is dropped.
    pub fn begin(&self) -> Result<InUse<'_>, ApiError> {
        if let Some(error) = self.not_running_error() {
            return Err(error);
        }
        let permit = self.exec_permit()?;
        Ok(self.in_use_with(permit))
    }

    /// Takes a permit for an operation that may be idle.
    pub fn exec_permit(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        let permit = Arc::clone(&self.execs).try_acquire_owned().map_err(|_| {
            ApiError::new(
                Code::TooManyExecs,
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
    pub async fn ended(&self) -> ApiError {
        self.run.ended().await
    }

    /// Returns a body that keeps the request in progress until its last byte, and fails
    /// when the run ends.
    pub fn attach_to_body<B>(self, body: B) -> axum::body::Body
    where
        B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<axum::BoxError>,
    {
        use futures_util::StreamExt;
        use http_body_util::BodyExt;
        let run = Arc::clone(&self.run);
        let end = Box::pin(async move { run.ended().await });
        let frames = http_body_util::BodyStream::new(body.map_err(Into::into));
        let ended =
            futures_util::stream::once(end).map(|why| Err::<_, axum::BoxError>(why.message.into()));
        // Ends when the body ends, or with an error when the run ends before.
        let frames = frames.map(Some).chain(futures_util::stream::once(std::future::ready(None)));
        let both = futures_util::stream::select(frames, ended.map(Some));
        let body =
            both.take_while(|frame| std::future::ready(frame.is_some())).filter_map(move |frame| {
                let _proxy_request = &self;
                std::future::ready(frame)
            });
        axum::body::Body::new(http_body_util::StreamBody::new(body))
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

/// The last activity and the idle timeout of a run.
pub struct Activity {
    inner: Mutex<Inner>,
    changed: Notify,
}

struct Inner {
    /// Zero for none.
    timeout: Duration,
    uses: usize,
    last: Instant,
}

impl Activity {
    fn new(timeout: Duration) -> Self {
        let inner = Inner { timeout, uses: 0, last: Instant::now() };
        Self { inner: Mutex::new(inner), changed: Notify::new() }
    }

    pub fn timeout(&self) -> Duration {
        self.with(|inner| inner.timeout)
    }

    /// Sets the idle timeout. Counts as activity.
    pub fn set_timeout(&self, timeout: Duration) {
        self.with(|inner| {
            inner.timeout = timeout;
            inner.last = Instant::now();
        });
        self.changed.notify_one();
    }

    /// Records activity.
    pub fn touch(&self) {
        self.begin();
        self.end();
    }

    fn begin(&self) {
        self.with(|inner| inner.uses += 1);
    }

    fn end(&self) {
        self.with(|inner| {
            inner.uses -= 1;
            inner.last = Instant::now();
        });
        self.changed.notify_one();
    }

    /// Reports whether an operation is in progress.
    fn is_in_use(&self) -> bool {
        self.with(|inner| inner.uses > 0)
    }

    /// Waits until the idle timeout has expired.
    pub async fn expired(&self) {
        loop {
            let due = self.with(|inner| match inner {
                Inner { timeout: Duration::ZERO, .. } => None,
                Inner { uses: 0, timeout, last } => Some(*last + *timeout),
                _ => None,
            });
            match due {
                Some(due) if due <= Instant::now() => return,
                Some(due) => tokio::select! {
                    () = tokio::time::sleep_until(due) => {}
                    () = self.changed.notified() => {}
                },
                None => self.changed.notified().await,
            }
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        work(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// All runs that were not destroyed.
pub struct Runs {
    map: RwLock<HashMap<RunId, Arc<LiveRun>>>,
    /// The number of runs of each tenant, including those that are being created.
    slots: Mutex<HashMap<String, usize>>,
    /// The largest number of runs of all tenants.
    max_total: usize,
    /// The largest number of runs of a tenant.
    max_per_tenant: usize,
}

impl Runs {
    pub fn new(limits: &Limits) -> Self {
        let number = |number| usize::try_from(number).unwrap_or(usize::MAX);
        let share = share_of(limits.server.sandboxes, limits.server.tenant_share);
        Self {
            map: RwLock::default(),
            slots: Mutex::default(),
            max_total: number(limits.server.sandboxes),
            max_per_tenant: limits.runs.min(number(share)),
        }
    }

    /// Returns the largest number of runs of a tenant.
    pub fn max_per_tenant(&self) -> usize {
        self.max_per_tenant
    }

    pub fn get(&self, id: &RunId) -> Option<Arc<LiveRun>> {
        self.map.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    pub fn insert(&self, run: Arc<LiveRun>) {
        self.map.write().unwrap_or_else(PoisonError::into_inner).insert(run.id.clone(), run);
    }

    pub fn remove(&self, id: &RunId) {
        self.map.write().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// Returns the runs of one tenant, or of all, the oldest first.
    pub fn list(&self, tenant: Option<&str>) -> Vec<Arc<LiveRun>> {
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        let wanted = |run: &&Arc<LiveRun>| tenant.is_none_or(|tenant| run.tenant == tenant);
        let mut runs: Vec<_> = map.values().filter(wanted).cloned().collect();
        runs.sort_by(|a, b| (a.row.created_at, &a.id).cmp(&(b.row.created_at, &b.id)));
        runs
    }

    /// Reports whether an operation is in progress in any run.
    pub fn are_in_use(&self) -> bool {
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        map.values().any(|run| run.activity.is_in_use())
    }

    /// Reserves a slot for a new run of a tenant. Fails if a limit is reached.
    pub fn reserve_slot(&self, tenant: &str) -> Result<(), ApiError> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = slots.values().sum();
        let taken = slots.get(tenant).copied().unwrap_or_default();
        let max = self.max_per_tenant;
        if taken >= max {
            return Err(ApiError::new(
                Code::TooManyRuns,
                format!("too many runs: at most {max} are allowed; destroy one first"),
            )
            .after(Duration::from_secs(1)));
        }
        if all >= self.max_total {
            return Err(ApiError::new(
                Code::Unavailable,
                format!(
                    "the server has too many runs: at most {} are allowed for all tenants \
                     (--max-sandboxes); try again later",
                    self.max_total
                ),
            )
            .after(Duration::from_secs(5)));
        }
        slots.insert(tenant.to_owned(), taken + 1);
        Ok(())
    }

    /// Takes a slot for an existing run, regardless of the limits.
    pub fn occupy_slot(&self, tenant: &str) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        *slots.entry(tenant.to_owned()).or_default() += 1;
    }

    /// Releases a slot of a tenant.
    pub fn release_slot(&self, tenant: &str) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = slots.get_mut(tenant) {
            *taken = taken.saturating_sub(1);
            if *taken == 0 {
                slots.remove(tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn idle_time_starts_when_the_last_use_ends() {
        let activity = Activity::new(Duration::from_millis(60));
        activity.begin();
        activity.begin();
        activity.end();
        let early = tokio::time::timeout(Duration::from_secs(3600), activity.expired()).await;
        assert!(early.is_err(), "it is in use");
        activity.end();
        tokio::time::timeout(Duration::from_secs(3600), activity.expired()).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_timeout_it_never_expires_until_it_gets_one() {
        let activity = Arc::new(Activity::new(Duration::ZERO));
        let waiting = tokio::spawn({
            let activity = Arc::clone(&activity);
            async move { activity.expired().await }
        });
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert!(!waiting.is_finished());
        activity.set_timeout(Duration::from_millis(1));
        tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap().unwrap();
    }
}

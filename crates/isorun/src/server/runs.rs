//! The runs that are there: who owns each, what it is doing, when it was last
//! used, and how everybody who waits for it learns that it ended.
//!
//! ```text
//!                         ┌─────────── resume ──────────┐
//!                         ▼                             │
//!   create, fork, ──▶ running ── hibernate, idle ──▶ hibernated ── destroy ──┐
//!   restore               │ ╰─────────── destroy, idle ──────────────▶ destroyed
//!                         ╰── dies by itself ──▶ failed ── destroy, idle ──┘
//! ```
//!
//! Whatever makes or ends a sandbox of a run that is there holds its `change`, so
//! that one such thing happens after the other.

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
    api::{DestroyStats, Run, Status},
    audit::AuditLog,
    clock,
    id::RunId,
    store::{RunRow, Used},
};

/// Requests to ports of one run at the same time.
const VISITS: usize = 1024;

/// A run that is there.
pub struct LiveRun {
    pub id: RunId,
    pub sandbox: SandboxId,
    pub tenant: String,
    pub row: RunRow,
    pub defaults: Defaults,
    pub log: AuditLog,
    pub activity: Activity,
    /// Commands, terminals and transfers under way.
    execs: Arc<Semaphore>,
    /// Requests to its ports.
    visits: Arc<Semaphore>,
    state: watch::Sender<State>,
    network: RwLock<Settings>,
    /// Held by who hibernates, resumes, copies or destroys it.
    pub change: tokio::sync::Mutex<()>,
    /// What sandboxes of it have used that are no longer there.
    used: Mutex<Used>,
    /// Held by who destroys it; then what came of it.
    pub end: tokio::sync::Mutex<Option<DestroyStats>>,
}

/// What every command of a run starts with.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Defaults {
    pub env: BTreeMap<String, String>,
    pub user: Option<String>,
    pub workdir: Option<String>,
    /// Who may use its anonymous URLs.
    #[serde(default)]
    pub urls: UrlAccess,
}

/// What a run is doing, and why it stopped.
#[derive(Clone, Debug)]
pub enum State {
    Running,
    /// It is being put on disk: what is under way goes on there.
    Hibernating,
    Hibernated,
    Resuming,
    /// Of what it died, and what it had used.
    Failed(String, Stats),
    /// Why.
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
            // Written by this server; a damaged one costs the variables only.
            defaults: serde_json::from_str(&row.defaults).unwrap_or_default(),
            activity: Activity::new(Duration::from_millis(row.timeout_ms)),
            execs: Arc::new(Semaphore::new(execs)),
            visits: Arc::new(Semaphore::new(VISITS)),
            network: RwLock::new(network),
            state: watch::Sender::new(match row.status {
                Status::Hibernated => State::Hibernated,
                _ => State::Running,
            }),
            change: tokio::sync::Mutex::default(),
            used: Mutex::new(row.used),
            end: tokio::sync::Mutex::default(),
            row,
            log,
        }
    }

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

    /// Where its ports are reached without an API key, if they are.
    fn port_url(&self, config: &Config) -> Option<String> {
        let token = match &self.defaults.urls {
            _ if !config.urls.anonymous => return None,
            UrlAccess::Off => return None,
            UrlAccess::Open => String::new(),
            UrlAccess::Token(token) => format!("?{}={token}", super::proxy::TOKEN),
        };
        Some(match &config.urls.base {
            Some((scheme, name)) => {
                format!("{scheme}://{}.{name}/sb/p/{{port}}/{token}", self.id)
            }
            None => format!("/sb/{}/p/{{port}}/{token}", self.id),
        })
    }

    /// What it may reach.
    pub fn network(&self) -> Settings {
        self.network.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_network(&self, settings: Settings) {
        *self.network.write().unwrap_or_else(PoisonError::into_inner) = settings;
    }

    pub fn status(&self) -> Status {
        match *self.state.borrow() {
            State::Running | State::Hibernating => Status::Running,
            State::Hibernated | State::Resuming => Status::Hibernated,
            State::Failed(..) => Status::Failed,
            State::Destroyed(_) => Status::Destroyed,
        }
    }

    pub fn uptime_ms(&self) -> u64 {
        u64::try_from(clock::now_ms() - self.row.created_at).unwrap_or(0)
    }

    /// The figures of the end, if it died by itself.
    pub fn remains(&self) -> Option<Stats> {
        match &*self.state.borrow() {
            State::Failed(_, stats) => Some(self.total(*stats)),
            State::Hibernated => Some(self.total(Stats::default())),
            _ => None,
        }
    }

    /// What it has used all in all, of which its present sandbox this.
    pub fn total(&self, mut stats: Stats) -> Stats {
        let used = *self.used.lock().unwrap_or_else(PoisonError::into_inner);
        stats.cpu_ms += used.cpu_ms;
        stats.mem_peak_bytes = stats.mem_peak_bytes.max(used.mem_peak_bytes);
        stats.disk_used_bytes = stats.disk_used_bytes.max(used.disk_used_bytes);
        stats
    }

    /// Its sandbox is gone, and all of them together have used this.
    pub fn has_used(&self, total: Stats) -> Used {
        let used = Used {
            cpu_ms: total.cpu_ms,
            mem_peak_bytes: total.mem_peak_bytes,
            disk_used_bytes: total.disk_used_bytes,
        };
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = used;
        used
    }

    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// A step of its life, by who holds its `change`. A run that has died or was
    /// destroyed stays so.
    pub fn enter(&self, next: State) {
        self.state.send_modify(|state| {
            if !matches!(state, State::Failed(..) | State::Destroyed(_)) {
                *state = next;
            }
        });
    }

    /// Whether it is on disk, or on the way to it or from it.
    pub fn is_asleep(&self) -> bool {
        matches!(&*self.state.borrow(), State::Hibernating | State::Hibernated | State::Resuming)
    }

    pub fn failed(&self, why: String, stats: Stats) {
        self.state.send_modify(|state| {
            if matches!(state, State::Running | State::Hibernating) {
                *state = State::Failed(why, stats);
            }
        });
    }

    /// From now on nothing is done in it, and who waits for it is told.
    pub fn destroyed(&self, why: &str) {
        self.state.send_replace(State::Destroyed(why.to_owned()));
    }

    /// Why nothing can be done in it, if so.
    pub fn trouble(&self) -> Option<ApiError> {
        match &*self.state.borrow() {
            State::Running => None,
            State::Hibernating | State::Hibernated | State::Resuming => Some(ApiError::new(
                Code::RunHibernated,
                format!("{} is hibernated: resume it first", self.id),
            )),
            State::Failed(why, _) => Some(ApiError::new(
                Code::SandboxDied,
                format!("the sandbox of {} died: {why}", self.id),
            )),
            State::Destroyed(why) => {
                Some(ApiError::new(Code::RunDestroyed, format!("{} was destroyed: {why}", self.id)))
            }
        }
    }

    /// Waits until it is no longer running, and says why.
    pub async fn ended(&self) -> ApiError {
        let mut state = self.state.subscribe();
        // It cannot be closed: the sender is here.
        let goes_on = |state: &State| matches!(state, State::Running | State::Hibernating);
        let _ = state.wait_for(|state| !goes_on(state)).await;
        self.trouble().unwrap_or_else(|| {
            ApiError::internal("the run has ended", "a run that stopped without a reason")
        })
    }

    /// Waits until it is destroyed.
    pub async fn gone(&self) {
        let mut state = self.state.subscribe();
        let _ = state.wait_for(|state| matches!(state, State::Destroyed(_))).await;
    }

    /// Does something in it. It counts as activity; it ends with an error as
    /// soon as the run ends.
    pub async fn during<T, E: Into<ApiError>>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, ApiError> {
        let _use = self.begin()?;
        tokio::select! {
            // What is done is told, even if the run has ended since.
            biased;
            outcome = work => match outcome {
                Ok(value) => Ok(value),
                // A connection that broke because the sandbox died says less
                // than the sandbox's end.
                Err(error) => Err(self.blame(error.into()).await),
            },
            why = self.ended() => Err(why),
        }
    }

    /// A failure's true cause: the end of the sandbox, if it ends about now.
    pub async fn blame(&self, error: ApiError) -> ApiError {
        if error.code != Code::Unavailable {
            return error;
        }
        let on_the_way = matches!(&*self.state.borrow(), State::Hibernating);
        let patience = if on_the_way { 60_000 } else { 500 };
        tokio::time::timeout(Duration::from_millis(patience), self.ended()).await.unwrap_or(error)
    }

    /// Waits while it is being put on disk.
    pub async fn settled(&self) {
        let mut state = self.state.subscribe();
        let _ = state.wait_for(|state| !matches!(state, State::Hibernating)).await;
    }

    /// A request to one of its ports begins.
    pub fn visit(self: &Arc<Self>) -> Result<Visit, ApiError> {
        if let Some(trouble) = self.trouble() {
            return Err(trouble);
        }
        let permit = Arc::clone(&self.visits).try_acquire_owned().map_err(|_| {
            let message = format!("too many requests to ports of {} at once", self.id);
            ApiError::new(Code::TooManyRequests, message).after(Duration::from_secs(1))
        })?;
        self.activity.begin();
        Ok(Visit { run: Arc::clone(self), _permit: permit })
    }

    /// Notes that it is in use, until the result is dropped.
    pub fn begin(&self) -> Result<InUse<'_>, ApiError> {
        if let Some(trouble) = self.trouble() {
            return Err(trouble);
        }
        let permit = self.permit()?;
        Ok(self.used_by(permit))
    }

    /// A place for something that may be idle.
    pub fn permit(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        let permit = Arc::clone(&self.execs).try_acquire_owned().map_err(|_| {
            ApiError::new(
                Code::TooManyExecs,
                format!(
                    "too many commands and transfers at once in {}: wait for some to end",
                    self.id
                ),
            )
            .after(Duration::from_secs(1))
        })?;
        Ok(permit)
    }

    fn used_by(&self, permit: OwnedSemaphorePermit) -> InUse<'_> {
        self.activity.begin();
        InUse { activity: &self.activity, _permit: Some(permit) }
    }

    /// Notes that it is in use by who has a place.
    pub fn busy(&self) -> InUse<'_> {
        self.activity.begin();
        InUse { activity: &self.activity, _permit: None }
    }
}

/// A request to a port of a run, until its answer has ended. It counts as
/// activity.
pub struct Visit {
    run: Arc<LiveRun>,
    _permit: OwnedSemaphorePermit,
}

impl Visit {
    pub fn sandbox(&self) -> &SandboxId {
        &self.run.sandbox
    }

    /// Waits until the run is no longer running.
    pub async fn ended(&self) -> ApiError {
        self.run.ended().await
    }

    /// A body that is under way until its last byte, or until the run ends.
    pub fn until_the_end<B>(self, body: B) -> axum::body::Body
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
        // Whatever comes first; an answer that ends ends both.
        let frames = frames.map(Some).chain(futures_util::stream::once(std::future::ready(None)));
        let both = futures_util::stream::select(frames, ended.map(Some));
        let body =
            both.take_while(|frame| std::future::ready(frame.is_some())).filter_map(move |frame| {
                let _held = &self;
                std::future::ready(frame)
            });
        axum::body::Body::new(http_body_util::StreamBody::new(body))
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.run.activity.end();
    }
}

/// A use of a run.
pub struct InUse<'run> {
    activity: &'run Activity,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        self.activity.end();
    }
}

/// When a run was last used, and how long it may be idle.
pub struct Activity {
    inner: Mutex<Inner>,
    changed: Notify,
}

struct Inner {
    /// Zero for ever.
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

    /// Also counts as activity.
    pub fn set_timeout(&self, timeout: Duration) {
        self.with(|inner| {
            inner.timeout = timeout;
            inner.last = Instant::now();
        });
        self.changed.notify_one();
    }

    /// It was used just now.
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

    /// Returns whether something is under way in it.
    fn is_in_use(&self) -> bool {
        self.with(|inner| inner.uses > 0)
    }

    /// Waits until it was idle for as long as it may be.
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

/// All runs that are there.
pub struct Runs {
    map: RwLock<HashMap<RunId, Arc<LiveRun>>>,
    /// Runs and runs to be, of each tenant.
    places: Mutex<HashMap<String, usize>>,
    /// Runs of all tenants.
    max_total: usize,
    /// Runs of one tenant.
    max_per_tenant: usize,
}

impl Runs {
    pub fn new(limits: &Limits) -> Self {
        let number = |number| usize::try_from(number).unwrap_or(usize::MAX);
        let share = share_of(limits.server.sandboxes, limits.server.tenant_share);
        Self {
            map: RwLock::default(),
            places: Mutex::default(),
            max_total: number(limits.server.sandboxes),
            max_per_tenant: limits.runs.min(number(share)),
        }
    }

    /// How many runs a tenant may have.
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

    /// Those of one tenant, or of all, the oldest first.
    pub fn list(&self, tenant: Option<&str>) -> Vec<Arc<LiveRun>> {
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        let wanted = |run: &&Arc<LiveRun>| tenant.is_none_or(|tenant| run.tenant == tenant);
        let mut runs: Vec<_> = map.values().filter(wanted).cloned().collect();
        runs.sort_by(|a, b| (a.row.created_at, &a.id).cmp(&(b.row.created_at, &b.id)));
        runs
    }

    /// Returns whether something is under way in any of them.
    pub fn are_in_use(&self) -> bool {
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        map.values().any(|run| run.activity.is_in_use())
    }

    /// Reserves a tenant's place for one more run, if there is one.
    pub fn take_place(&self, tenant: &str) -> Result<(), ApiError> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = places.values().sum();
        let taken = places.get(tenant).copied().unwrap_or_default();
        let most = self.max_per_tenant;
        if taken >= most {
            return Err(ApiError::new(
                Code::TooManyRuns,
                format!("{most} runs at once is the limit: destroy one first"),
            )
            .after(Duration::from_secs(1)));
        }
        if all >= self.max_total {
            return Err(ApiError::new(
                Code::Unavailable,
                format!(
                    "the server has too many runs of all tenants: {} is the limit \
                     (--max-sandboxes); try again later",
                    self.max_total
                ),
            )
            .after(Duration::from_secs(5)));
        }
        places.insert(tenant.to_owned(), taken + 1);
        Ok(())
    }

    /// Takes a place for a run that is there, whatever the limits are now.
    pub fn occupy_place(&self, tenant: &str) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        *places.entry(tenant.to_owned()).or_default() += 1;
    }

    pub fn leave_place(&self, tenant: &str) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = places.get_mut(tenant) {
            *taken = taken.saturating_sub(1);
            if *taken == 0 {
                places.remove(tenant);
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

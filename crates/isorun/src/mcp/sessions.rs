//! The table of sessions: which sandbox belongs to which name of which client.
//!
//! ```text
//!            first use            end_session, idle for --idle, end of this program
//!   (none) ───────────▶ sandbox ──────────────────────────────────────────▶ (none)
//!                        │   ▲
//!                        └───┘ go_back: another sandbox, made from a checkpoint
//! ```
//!
//! A session occupies one of `--max-sessions` slots of its client from its first use on. The
//! server destroys a sandbox that this program has left behind, some time after `--idle`.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use isorun_api::{NewRun, Run, RunId};

use super::arguments::Name;
use crate::client::{Client, ClientError};

/// The maximum number of checkpoints of a session.
const MAX_CHECKPOINTS: usize = 16;
/// How much later than this program the server considers a sandbox as idle.
pub const SERVER_IDLE_MARGIN: Duration = Duration::from_secs(60);
/// The shortest and the longest interval between two searches for idle sessions.
const MIN_EXPIRY_INTERVAL: Duration = Duration::from_millis(50);
const MAX_EXPIRY_INTERVAL: Duration = Duration::from_secs(10);

/// A client of this program, with its own sessions. It has the API key in `client`.
#[derive(Clone)]
pub struct Owner {
    pub client: Client,
    /// Distinguishes the owners: the API key, or empty if there is only one.
    pub key: Arc<str>,
}

/// The reason why a call failed.
#[derive(Debug)]
pub enum CallError {
    Client(ClientError),
    /// The call is not possible now, for the reason that the text gives.
    Refused(String),
}

impl From<ClientError> for CallError {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

/// The sessions of all clients.
pub struct Sessions {
    sandbox: NewRun,
    max_sessions: usize,
    idle_timeout: Duration,
    table: Mutex<Table>,
    /// True at the end of the program, when no session is created any more.
    closing: AtomicBool,
}

type Table = HashMap<Arc<str>, BTreeMap<Name, Arc<Session>>>;

/// A session and its sandbox.
pub struct Session {
    owner: Owner,
    state: Mutex<State>,
    /// Locked while the sandbox is created or replaced, or a checkpoint is taken.
    changing: tokio::sync::Mutex<()>,
}

struct State {
    run: Option<RunId>,
    /// The ids of snapshots by their names.
    checkpoints: BTreeMap<Name, String>,
    /// True after the session has left the table.
    ended: bool,
    /// The calls that are running.
    calls: usize,
    used: Instant,
}

/// A session as it is listed.
pub struct SessionInfo {
    pub name: Name,
    pub run: Option<RunId>,
    pub checkpoints: Vec<Name>,
    pub idle: Duration,
}

/// A call that uses a session, which is not idle for as long.
pub struct SessionUse {
    pub session: Arc<Session>,
}

impl Sessions {
    /// Creates an empty table. `sandbox` describes the sandboxes of the sessions.
    pub fn new(sandbox: NewRun, max_sessions: usize, idle_timeout: Duration) -> Self {
        Self {
            sandbox,
            max_sessions,
            idle_timeout,
            table: Mutex::default(),
            closing: AtomicBool::new(false),
        }
    }

    /// Returns the session with this name. It is created if it does not exist and there is room.
    pub fn open(&self, owner: &Owner, name: &Name) -> Result<SessionUse, CallError> {
        let mut table = self.lock();
        if self.closing.load(Ordering::SeqCst) {
            return Err(CallError::Refused("this program is stopping".to_owned()));
        }
        let sessions = table.entry(Arc::clone(&owner.key)).or_default();
        if let Some(session) = sessions.get(name) {
            return Ok(SessionUse::new(Arc::clone(session)));
        }
        if sessions.len() >= self.max_sessions {
            let names: Vec<_> = sessions.keys().map(Name::as_str).collect();
            return Err(CallError::Refused(format!(
                "there are already {} sessions, which is the maximum: end one with end_session, \
                 or use one of {}",
                names.len(),
                names.join(", ")
            )));
        }
        let session = Arc::new(Session::new(owner.clone()));
        sessions.insert(name.clone(), Arc::clone(&session));
        Ok(SessionUse::new(session))
    }

    /// Returns the session with this name, if it exists.
    pub fn find(&self, owner: &Owner, name: &Name) -> Result<SessionUse, CallError> {
        let table = self.lock();
        let session = table.get(&owner.key).and_then(|sessions| sessions.get(name));
        session
            .map(|session| SessionUse::new(Arc::clone(session)))
            .ok_or_else(|| CallError::Refused(format!("there is no session {:?}", name.as_str())))
    }

    pub fn list(&self, owner: &Owner) -> Vec<SessionInfo> {
        let table = self.lock();
        let sessions = table.get(&owner.key).into_iter().flatten();
        sessions
            .map(|(name, session)| {
                let state = session.lock();
                SessionInfo {
                    name: name.clone(),
                    run: state.run.clone(),
                    checkpoints: state.checkpoints.keys().cloned().collect(),
                    idle: if state.calls > 0 { Duration::ZERO } else { state.used.elapsed() },
                }
            })
            .collect()
    }

    /// Returns the sandbox of a session, which is created if it has none.
    pub async fn run(&self, session: &Session) -> Result<RunId, CallError> {
        let _changing = session.changing.lock().await;
        if let Some(run) = session.current()? {
            return Ok(run);
        }
        let run = session.owner.client.create(&self.sandbox).await?;
        session.adopt(run.id.clone()).await?;
        Ok(run.id)
    }

    /// Copies the sandbox of a session into a new session.
    pub async fn fork(&self, session: &Session, copy: &Session) -> Result<RunId, CallError> {
        let run = self.run(session).await?;
        let _changing = copy.changing.lock().await;
        if copy.current()?.is_some() {
            return Err(CallError::Refused(
                "the new session exists already: give another name, or end it first".to_owned(),
            ));
        }
        let forks = session.owner.client.fork(&run, 1).await;
        let forks = forks.map_err(|error| session.failure(&run, error))?;
        let fork = forks.forks.into_iter().next().ok_or_else(|| {
            ClientError::Connection("the server has made no copy, and reported no error".to_owned())
        })?;
        copy.adopt(fork.id.clone()).await?;
        Ok(fork.id)
    }

    /// Takes a snapshot of a session under a name. An older one of that name is deleted.
    pub async fn checkpoint(&self, session: &Session, name: &Name) -> Result<(), CallError> {
        let run = self.run(session).await?;
        let _changing = session.changing.lock().await;
        {
            let state = session.lock();
            let is_new = !state.checkpoints.contains_key(name);
            if is_new && state.checkpoints.len() >= MAX_CHECKPOINTS {
                return Err(CallError::Refused(format!(
                    "the session has {MAX_CHECKPOINTS} checkpoints, which is the maximum: replace \
                     one by using its name again"
                )));
            }
        }
        let taken = session.owner.client.snapshot(&run).await;
        let taken = taken.map_err(|error| session.failure(&run, error))?;
        let replaced = {
            let mut state = session.lock();
            if state.ended {
                Some(taken.snapshot_id)
            } else {
                state.checkpoints.insert(name.clone(), taken.snapshot_id)
            }
        };
        if let Some(snapshot) = replaced {
            delete_snapshot(&session.owner.client, &snapshot).await;
        }
        session.current().map(|_| ())
    }

    /// Replaces the sandbox of a session by one that continues from a checkpoint.
    pub async fn go_back(&self, session: &Session, name: &Name) -> Result<Run, CallError> {
        let _changing = session.changing.lock().await;
        session.current()?;
        let snapshot = session.checkpoint(name)?;
        let restored = session.owner.client.restore(&snapshot).await?;
        session.adopt(restored.id.clone()).await?;
        Ok(restored)
    }

    /// Destroys the sandbox of a session and its checkpoints, and forgets the session.
    pub async fn end(&self, owner: &Owner, name: &Name) -> Result<(), CallError> {
        let used = self.find(owner, name)?;
        self.remove(&used.session);
        used.session.destroy().await;
        Ok(())
    }

    /// Ends sessions that are idle for too long. Never returns.
    pub async fn expire(&self) {
        let interval = (self.idle_timeout / 4).clamp(MIN_EXPIRY_INTERVAL, MAX_EXPIRY_INTERVAL);
        loop {
            tokio::time::sleep(interval).await;
            self.end_where(|state| state.calls == 0 && state.used.elapsed() >= self.idle_timeout)
                .await;
        }
    }

    /// Ends all sessions. No other one is created after that.
    pub async fn end_all(&self) {
        self.closing.store(true, Ordering::SeqCst);
        self.end_where(|_| true).await;
    }

    async fn end_where(&self, condition: impl Fn(&State) -> bool) {
        let mut ended = Vec::new();
        self.lock().retain(|_, sessions| {
            sessions.retain(|_, session| {
                let keep = !condition(&session.lock());
                if !keep {
                    ended.push(Arc::clone(session));
                }
                keep
            });
            !sessions.is_empty()
        });
        futures_util::future::join_all(ended.iter().map(|session| session.destroy())).await;
    }

    /// Removes a session from the table, if it has no sandbox: it would only occupy a slot.
    pub fn remove_if_empty(&self, session: &Arc<Session>) {
        let is_empty = {
            let state = session.lock();
            state.run.is_none() && state.checkpoints.is_empty() && state.calls <= 1
        };
        if is_empty && session.changing.try_lock().is_ok() {
            self.remove(session);
        }
    }

    fn remove(&self, session: &Arc<Session>) {
        self.lock().retain(|_, sessions| {
            sessions.retain(|_, other| !Arc::ptr_eq(other, session));
            !sessions.is_empty()
        });
        session.lock().ended = true;
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    fn new(owner: Owner) -> Self {
        let state = State {
            run: None,
            checkpoints: BTreeMap::new(),
            ended: false,
            calls: 0,
            used: Instant::now(),
        };
        Self { owner, state: Mutex::new(state), changing: tokio::sync::Mutex::default() }
    }

    /// Forgets a sandbox that does not exist any more.
    pub fn forget(&self, run: &RunId) {
        let mut state = self.lock();
        if state.run.as_ref() == Some(run) {
            state.run = None;
        }
    }

    /// Returns the error of a call. If it says that the sandbox is gone, forgets it, so that the
    /// next call creates a new one.
    pub fn failure(&self, run: &RunId, error: ClientError) -> CallError {
        if is_gone(&error) {
            self.forget(run);
        }
        error.into()
    }

    /// Returns the snapshot of a checkpoint.
    fn checkpoint(&self, name: &Name) -> Result<String, CallError> {
        let state = self.lock();
        if let Some(snapshot) = state.checkpoints.get(name) {
            return Ok(snapshot.clone());
        }
        let known: Vec<_> = state.checkpoints.keys().map(Name::as_str).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        let message = format!("the session has no checkpoint {:?}; it has {known}", name.as_str());
        Err(CallError::Refused(message))
    }

    /// Returns the sandbox, if there is one. Fails if the session was ended meanwhile.
    fn current(&self) -> Result<Option<RunId>, CallError> {
        let state = self.lock();
        if state.ended {
            return Err(CallError::Refused("the session was ended meanwhile".to_owned()));
        }
        Ok(state.run.clone())
    }

    /// Makes `run` the sandbox of this session, and destroys the one that it replaces.
    async fn adopt(&self, run: RunId) -> Result<(), CallError> {
        let replaced = {
            let mut state = self.lock();
            if state.ended { Some(run) } else { state.run.replace(run) }
        };
        if let Some(replaced) = replaced {
            destroy(&self.owner.client, &replaced).await;
        }
        self.current().map(|_| ())
    }

    async fn destroy(&self) {
        let (run, checkpoints) = {
            let mut state = self.lock();
            state.ended = true;
            (state.run.take(), std::mem::take(&mut state.checkpoints))
        };
        if let Some(run) = run {
            destroy(&self.owner.client, &run).await;
        }
        for snapshot in checkpoints.values() {
            delete_snapshot(&self.owner.client, snapshot).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SessionUse {
    fn new(session: Arc<Session>) -> Self {
        session.lock().calls += 1;
        Self { session }
    }
}

impl Drop for SessionUse {
    fn drop(&mut self) {
        let mut state = self.session.lock();
        state.calls = state.calls.saturating_sub(1);
        state.used = Instant::now();
    }
}

/// Destroys a sandbox. A failure is only logged, since the server destroys an idle
/// sandbox by itself.
async fn destroy(client: &Client, run: &RunId) {
    if let Err(error) = client.destroy(run).await
        && !is_gone(&error)
    {
        tracing::warn!(%run, %error, "cannot destroy a sandbox");
    }
}

async fn delete_snapshot(client: &Client, snapshot: &str) {
    if let Err(error) = client.delete_snapshot(snapshot).await
        && !error.has_code("snapshot_not_found")
    {
        tracing::warn!(snapshot, %error, "cannot delete a checkpoint");
    }
}

/// Reports whether an error means that the sandbox does not exist any more.
pub fn is_gone(error: &ClientError) -> bool {
    ["run_not_found", "run_destroyed", "sandbox_died"].iter().any(|code| error.has_code(code))
}

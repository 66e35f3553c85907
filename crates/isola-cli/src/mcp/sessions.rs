//! The table of sessions, and the execution of code in one of them.
//!
//! ```text
//!            first use          idle for --idle-timeout, or its slot is needed
//!   (none) ───────────▶ open ──────────────────────────────────────▶ (none)
//!                       users: calls that run in it or wait for it
//! ```
//!
//! A session occupies one of `--max-sessions` slots, from before its sandbox is
//! created until after its memory is freed. If all slots are occupied, the least
//! recently used session without users is closed; if all have users, a call waits
//! until one of them has none.

use std::{
    collections::VecDeque,
    sync::{Arc, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use isola::{Handlers, HttpClient, Language, Limits, Mount, Runtime, Sandbox, Template};
use rmcp::model::CallToolResult;
use tokio::sync::{Mutex, Notify, OnceCell, Semaphore};

use super::{answer::ToolOutput, request::ToolArguments};
use crate::{
    cli::McpArgs,
    config::{http, mount, parse_python_runtime},
    failure::Failure,
};

/// The maximum number of calls that run or wait at the same time.
const MAX_CALLS: usize = 256;

/// The maximum number of closed sessions for which the reason is kept.
const MAX_CLOSED_SESSIONS: usize = 64;

/// The shortest and the longest interval between two searches for idle sessions.
const MIN_EXPIRY_INTERVAL: Duration = Duration::from_millis(50);
const MAX_EXPIRY_INTERVAL: Duration = Duration::from_secs(10);

/// The open sessions and the settings of their sandboxes.
pub struct Sessions {
    limits: Limits,
    timeout: Duration,
    idle_timeout: Duration,
    mounts: Vec<Mount>,
    http: Option<HttpClient>,
    max_sessions: usize,
    python_runtime: Runtime,
    python: OnceCell<Template>,
    javascript: OnceCell<Template>,
    open: std::sync::Mutex<SessionTable>,
    /// Notified when a session has no users any more, or is closed.
    freed: Notify,
    calls: Semaphore,
}

#[derive(Default)]
struct SessionTable {
    /// In the order of their last use.
    list: Vec<McpSession>,
    /// The sessions that were closed last, and the reasons, which are reported when
    /// their names are used again.
    closed: VecDeque<(SessionKey, &'static str)>,
}

type SessionKey = (Runtime, String);

struct McpSession {
    key: SessionKey,
    slot: SandboxSlot,
    /// Calls that run in it or wait for it.
    users: usize,
    used: Instant,
}

/// The sandbox of a session. `None` until its first use, and after its guest has
/// terminated.
type SandboxSlot = Arc<Mutex<Option<Sandbox>>>;

impl Sessions {
    pub fn new(args: &McpArgs) -> Result<Self, Failure> {
        let mut limits = Limits {
            cpu_timeout: Some(args.cpu_timeout),
            timeout: Some(args.timeout),
            max_output_size: args.max_output,
            ..Limits::default()
        };
        if let Some(bytes) = args.max_memory {
            limits.max_memory = bytes;
        }
        Ok(Self {
            limits,
            timeout: args.timeout,
            idle_timeout: args.idle_timeout,
            mounts: args.mounts.iter().map(|text| mount(text)).collect::<Result<_, _>>()?,
            http: http(&args.allow_http)?,
            max_sessions: args.max_sessions.into(),
            python_runtime: parse_python_runtime(&args.python_runtime)?,
            python: OnceCell::new(),
            javascript: OnceCell::new(),
            open: std::sync::Mutex::default(),
            freed: Notify::new(),
            calls: Semaphore::new(MAX_CALLS),
        })
    }

    /// Returns the runtime of Python code.
    pub fn python_runtime(&self) -> Runtime {
        self.python_runtime
    }

    /// Runs a piece of code in its session.
    pub async fn run(&self, runtime: Runtime, arguments: ToolArguments) -> CallToolResult {
        let mut output = ToolOutput::default();
        let Ok(_call) = self.calls.try_acquire() else {
            output.busy(format!(
                "{MAX_CALLS} calls are already running or waiting: try again after one has finished"
            ));
            return output.finish();
        };
        let acquired = self.acquire_session((runtime, arguments.session));
        let Ok(guard) = tokio::time::timeout(self.timeout, acquired).await else {
            output.busy(format!(
                "all {} sessions are running code, and none became idle within {:?}: try again, \
                 or use an open session",
                self.max_sessions, self.timeout
            ));
            return output.finish();
        };
        if let Some(reason) = guard.closed.filter(|_| !arguments.restart) {
            output.note(&format!("the session was restarted: {reason}"));
        }
        // One piece of code runs at a time; the next one waits here.
        let mut slot = guard.slot.lock().await;
        if arguments.restart {
            *slot = None;
        }
        if slot.as_ref().is_some_and(Sandbox::is_closed) {
            output.note(
                "the session was restarted: the previous code ended its interpreter, and its \
                 variables were lost",
            );
            *slot = None;
        }
        let sandbox = match &mut *slot {
            Some(sandbox) => sandbox,
            empty => match self.start(runtime).await {
                Ok(sandbox) => empty.insert(sandbox),
                Err(error) => {
                    output.not_started(&error);
                    return output.finish();
                }
            },
        };
        match sandbox.evaluate(arguments.source).timeout(self.timeout).stream() {
            Ok(mut events) => {
                while let Some(event) = events.next().await {
                    output.event(event);
                    // The stream of events may be endless: let a cancellation be noticed.
                    tokio::task::yield_now().await;
                }
            }
            Err(error) => output.fail(&error),
        }
        output.finish()
    }

    /// Closes sessions that are idle for too long. Never returns.
    pub async fn expire(&self) {
        let interval = (self.idle_timeout / 4).clamp(MIN_EXPIRY_INTERVAL, MAX_EXPIRY_INTERVAL);
        loop {
            tokio::time::sleep(interval).await;
            self.close_idle();
        }
    }

    fn close_idle(&self) {
        let mut open = self.lock();
        let is_idle = |it: &McpSession| it.users == 0 && it.used.elapsed() >= self.idle_timeout;
        while let Some(index) = open.list.iter().position(is_idle) {
            open.close(index, "it was idle for too long");
            self.freed.notify_waiters();
        }
    }

    /// Returns a guard of the session with this name, which becomes the most recently
    /// used one. Waits while all slots are occupied by sessions that are in use.
    async fn acquire_session(&self, key: SessionKey) -> SessionGuard<'_> {
        loop {
            // Registered before the attempt, so that no notification is missed.
            let freed = self.freed.notified();
            if let Some(guard) = self.try_acquire_session(&key) {
                return guard;
            }
            freed.await;
        }
    }

    fn try_acquire_session(&self, key: &SessionKey) -> Option<SessionGuard<'_>> {
        let mut open = self.lock();
        let (mut session, closed) = match open.list.iter().position(|it| it.key == *key) {
            Some(index) => (open.list.remove(index), None),
            None => {
                if open.list.len() >= self.max_sessions {
                    let index = open.list.iter().position(|it| it.users == 0)?;
                    open.close(index, "its slot was needed for another session");
                }
                let known = open.closed.iter().position(|(closed, _)| closed == key);
                let closed =
                    known.and_then(|index| open.closed.remove(index)).map(|(_, reason)| reason);
                let slot = SandboxSlot::default();
                (McpSession { key: key.clone(), slot, users: 0, used: Instant::now() }, closed)
            }
        };
        session.users += 1;
        let slot = Arc::clone(&session.slot);
        open.list.push(session);
        Some(SessionGuard { sessions: self, slot, closed })
    }

    fn lock(&self) -> MutexGuard<'_, SessionTable> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn start(&self, runtime: Runtime) -> Result<Sandbox, isola::Error> {
        let template = match runtime.language() {
            Language::Python => &self.python,
            Language::JavaScript => &self.javascript,
        };
        let template = template
            .get_or_try_init(|| {
                let mut builder = Template::builder(runtime).limits(self.limits.clone());
                for mount in &self.mounts {
                    builder = builder.mount(mount.clone());
                }
                builder.build()
            })
            .await?;
        let mut builder = template.sandbox();
        if let Some(client) = &self.http {
            let client = client.clone();
            builder = builder.host(Handlers::new().http(move |request| {
                let client = client.clone();
                async move { client.send(request).await }
            }));
        }
        let sandbox = builder.create().await?;
        sandbox.start().await?;
        Ok(sandbox)
    }
}

impl SessionTable {
    /// Closes a session that has no users. Its guest is freed while the lock is held,
    /// so that its slot is not reused before that.
    fn close(&mut self, index: usize, reason: &'static str) {
        let session = self.list.remove(index);
        self.closed.push_back((session.key, reason));
        if self.closed.len() > MAX_CLOSED_SESSIONS {
            self.closed.pop_front();
        }
        drop(session.slot);
    }
}

/// A call that runs in a session or waits for it.
struct SessionGuard<'a> {
    sessions: &'a Sessions,
    slot: SandboxSlot,
    /// The reason why the previous session of this name was closed.
    closed: Option<&'static str>,
}

impl Drop for SessionGuard<'_> {
    fn drop(&mut self) {
        let mut open = self.sessions.lock();
        // This reference ends before the session counts as unused: closing the session has to
        // free its guest at once.
        let slot = std::mem::take(&mut self.slot);
        let index = open.list.iter().position(|it| Arc::ptr_eq(&it.slot, &slot));
        drop(slot);
        let Some(index) = index else { return };
        let Some(session) = open.list.get_mut(index) else { return };
        session.users = session.users.saturating_sub(1);
        session.used = Instant::now();
        if session.users > 0 {
            return;
        }
        // A session without a sandbox has no state to keep.
        if session.slot.try_lock().is_ok_and(|slot| slot.is_none()) {
            open.list.remove(index);
        }
        drop(open);
        self.sessions.freed.notify_waiters();
    }
}

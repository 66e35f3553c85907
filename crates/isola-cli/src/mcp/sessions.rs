//! The sessions: which there are, and one piece of code in one of them.
//!
//! ```text
//!            first use          idle for --idle-timeout, or its place is needed
//!   (none) ───────────▶ open ──────────────────────────────────────▶ (none)
//!                       users: calls that run in it or wait for it
//! ```
//!
//! A session takes one of `--max-sessions` places, from before its sandbox is
//! created until after its memory is free again. If all are taken, the session
//! that was not used for longest and has no users goes; if all have users, a
//! call waits for one of them to have none.

use std::{
    collections::VecDeque,
    sync::{Arc, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use isola::{Handlers, HttpClient, Limits, Mount, Runtime, Sandbox, Template};
use rmcp::model::CallToolResult;
use tokio::sync::{Mutex, Notify, OnceCell, Semaphore};

use super::{answer::Answer, request::Wanted};
use crate::{
    cli::McpArgs,
    config::{http, mount},
    failure::Failure,
};

/// The number of calls that run or wait at once.
const MAX_CALLS: usize = 256;

/// The number of sessions that ended of which is remembered why.
const MAX_ENDED: usize = 64;

/// How often it is looked for sessions that are idle: at least, and at most.
const MIN_EXPIRY_INTERVAL: Duration = Duration::from_millis(50);
const MAX_EXPIRY_INTERVAL: Duration = Duration::from_secs(10);

pub struct Sessions {
    limits: Limits,
    timeout: Duration,
    idle_timeout: Duration,
    mounts: Vec<Mount>,
    http: Option<HttpClient>,
    max: usize,
    python: OnceCell<Template>,
    javascript: OnceCell<Template>,
    open: std::sync::Mutex<Open>,
    /// Notified when a session has no users any more, or is gone.
    freed: Notify,
    calls: Semaphore,
}

#[derive(Default)]
struct Open {
    /// In the order of their last use.
    list: Vec<Session>,
    /// Those that ended last, and why, to tell whoever uses the name again.
    ended: VecDeque<(Key, &'static str)>,
}

type Key = (Runtime, String);

struct Session {
    key: Key,
    place: Place,
    /// Calls that run in it or wait for it.
    users: usize,
    used: Instant,
}

/// `None` until it is first used, and after its guest was lost.
type Place = Arc<Mutex<Option<Sandbox>>>;

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
            max: args.max_sessions.into(),
            python: OnceCell::new(),
            javascript: OnceCell::new(),
            open: std::sync::Mutex::default(),
            freed: Notify::new(),
            calls: Semaphore::new(MAX_CALLS),
        })
    }

    /// Runs a piece of code in its session.
    pub async fn run(&self, runtime: Runtime, wanted: Wanted) -> CallToolResult {
        let mut answer = Answer::default();
        let Ok(_call) = self.calls.try_acquire() else {
            answer.busy(format!(
                "{MAX_CALLS} calls run or wait already: call again when one of them has ended"
            ));
            return answer.finish();
        };
        let entered = self.enter((runtime, wanted.session));
        let Ok(user) = tokio::time::timeout(self.timeout, entered).await else {
            answer.busy(format!(
                "all {} sessions are running code, and for {:?} none of them ended: call again, \
                 or use a session that is open",
                self.max, self.timeout
            ));
            return answer.finish();
        };
        if let Some(why) = user.ended.filter(|_| !wanted.restart) {
            answer.note(&format!("the session began anew: {why}"));
        }
        // One piece of code at a time; the next waits for its turn.
        let mut place = user.place.lock().await;
        if wanted.restart {
            *place = None;
        }
        if place.as_ref().is_some_and(Sandbox::is_closed) {
            answer.note("the session began anew: its variables were lost with the code before");
            *place = None;
        }
        let sandbox = match &mut *place {
            Some(sandbox) => sandbox,
            empty => match self.start(runtime).await {
                Ok(sandbox) => empty.insert(sandbox),
                Err(error) => {
                    answer.not_started(&error);
                    return answer.finish();
                }
            },
        };
        match sandbox.evaluate(wanted.source).timeout(self.timeout).stream() {
            Ok(mut events) => {
                while let Some(event) = events.next().await {
                    answer.event(event);
                    // Events may come without end: a cancelled call gets its chance.
                    tokio::task::yield_now().await;
                }
            }
            Err(error) => answer.fail(&error),
        }
        answer.finish()
    }

    /// Closes sessions that are idle for too long, for ever.
    pub async fn expire(&self) {
        let often = (self.idle_timeout / 4).clamp(MIN_EXPIRY_INTERVAL, MAX_EXPIRY_INTERVAL);
        loop {
            tokio::time::sleep(often).await;
            self.close_idle();
        }
    }

    fn close_idle(&self) {
        let mut open = self.lock();
        let is_idle = |it: &Session| it.users == 0 && it.used.elapsed() >= self.idle_timeout;
        while let Some(index) = open.list.iter().position(is_idle) {
            open.end(index, "it was not used for too long, and was closed");
            self.freed.notify_waiters();
        }
    }

    /// Enters the session under this name, which is now the one that was used
    /// last. Waits while all places are taken by sessions that are in use.
    async fn enter(&self, key: Key) -> User<'_> {
        loop {
            // Before it is looked: what is freed in between counts.
            let freed = self.freed.notified();
            if let Some(user) = self.try_enter(&key) {
                return user;
            }
            freed.await;
        }
    }

    fn try_enter(&self, key: &Key) -> Option<User<'_>> {
        let mut open = self.lock();
        let (mut session, ended) = match open.list.iter().position(|it| it.key == *key) {
            Some(index) => (open.list.remove(index), None),
            None => {
                if open.list.len() >= self.max {
                    let index = open.list.iter().position(|it| it.users == 0)?;
                    open.end(index, "its place was needed for another session");
                }
                let known = open.ended.iter().position(|(ended, _)| ended == key);
                let ended = known.and_then(|index| open.ended.remove(index)).map(|(_, why)| why);
                let place = Place::default();
                (Session { key: key.clone(), place, users: 0, used: Instant::now() }, ended)
            }
        };
        session.users += 1;
        let place = Arc::clone(&session.place);
        open.list.push(session);
        Some(User { sessions: self, place, ended })
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn start(&self, runtime: Runtime) -> Result<Sandbox, isola::Error> {
        let template = match runtime {
            Runtime::Python => &self.python,
            Runtime::JavaScript => &self.javascript,
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

impl Open {
    /// Ends a session that has no users. Its guest is freed within the lock:
    /// nobody takes its place before that.
    fn end(&mut self, index: usize, why: &'static str) {
        let session = self.list.remove(index);
        self.ended.push_back((session.key, why));
        if self.ended.len() > MAX_ENDED {
            self.ended.pop_front();
        }
        drop(session.place);
    }
}

/// A call that runs in a session or waits for it.
struct User<'a> {
    sessions: &'a Sessions,
    place: Place,
    /// Why the session of this name before ended.
    ended: Option<&'static str>,
}

impl Drop for User<'_> {
    fn drop(&mut self) {
        let mut open = self.sessions.lock();
        let own = |it: &Session| Arc::ptr_eq(&it.place, &self.place);
        let Some(index) = open.list.iter().position(own) else { return };
        let Some(session) = open.list.get_mut(index) else { return };
        session.users = session.users.saturating_sub(1);
        session.used = Instant::now();
        if session.users > 0 {
            return;
        }
        // One that was never started holds nothing to come back to.
        if session.place.try_lock().is_ok_and(|place| place.is_none()) {
            open.list.remove(index);
        }
        drop(open);
        self.sessions.freed.notify_waiters();
    }
}

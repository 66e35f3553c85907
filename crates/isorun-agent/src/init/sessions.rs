//! Programs and shells that are temporarily without a connection.
//!
//! ```text
//!              Freeze, or the connection of a shell ends
//!   served ─────────────────────────────────────────────▶ detached
//!      ▲                                                      │
//!      └─────────────────────── Attach ───────────────────────┤
//!                                                             ▼ attach timeout
//!                                    released (a program), ended (a shell)
//! ```
//!
//! A task owns and monitors each detached session. After a checkpoint the clients
//! of the original sandbox attach again within a moment. In a copy no client
//! attaches, and the programs continue to run with their output discarded.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use isorun_agent::protocol::{Failure, FailureKind};

use super::Agent;
use super::exec::RunningProgram;
use super::shell::RunningShell;

/// The time within which a client has to attach to a program.
const PROGRAM_ATTACH_TIMEOUT: Duration = Duration::from_secs(10);
/// The time within which a client has to attach to a shell.
const SHELL_ATTACH_TIMEOUT: Duration = Duration::from_secs(600);
/// The maximum length of a token, in bytes.
const MAX_TOKEN_BYTES: usize = 128;
/// The maximum number of detached sessions. A further one is released or ended at
/// once.
const MAX_DETACHED: usize = 1024;

/// A session that a client can attach to.
pub enum Session {
    Program(Box<RunningProgram>),
    Shell(Box<RunningShell>),
}

/// A deadline that is postponed by the time that the sandbox is frozen. Under
/// gVisor the monotonic clock continues meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

/// The detached sessions, and the state of a freeze.
pub struct Sessions {
    /// The total time that the sandbox was frozen: from each freeze until the next
    /// request to the original or to a copy.
    frozen_time: Cell<Duration>,
    /// The start of the present freeze.
    frozen_since: Cell<Option<Instant>>,
    frozen: watch::Sender<bool>,
    connections: watch::Sender<usize>,
    detached: RefCell<HashMap<String, mpsc::Sender<oneshot::Sender<Session>>>>,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            frozen_time: Cell::default(),
            frozen_since: Cell::default(),
            frozen: watch::Sender::new(false),
            connections: watch::Sender::new(0),
            detached: RefCell::default(),
        }
    }
}

/// A guard that counts a connection as open until it is dropped.
pub struct ConnectionGuard(Rc<Agent>);

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.sessions.connections.send_modify(|open| *open -= 1);
    }
}

/// Counts a connection as open.
pub fn count_connection(agent: &Rc<Agent>) -> ConnectionGuard {
    agent.sessions.connections.send_modify(|open| *open += 1);
    ConnectionGuard(Rc::clone(agent))
}

impl Sessions {
    /// Returns a receiver that reports whether the sandbox is frozen, so that sessions
    /// have to be detached.
    pub fn frozen(&self) -> watch::Receiver<bool> {
        self.frozen.subscribe()
    }

    /// Requests that all sessions are detached, and waits until only the caller's
    /// connection is left.
    pub async fn freeze(&self) {
        if self.frozen_since.get().is_none() {
            self.frozen_since.set(Some(Instant::now()));
        }
        self.frozen.send_replace(true);
        let mut connections = self.connections.subscribe();
        // It cannot be closed: the sender is here.
        let _ = connections.wait_for(|open| *open <= 1).await;
    }

    /// Ends the freeze after a checkpoint.
    pub fn thaw(&self) {
        if let Some(since) = self.frozen_since.take() {
            self.frozen_time.set(self.frozen_time.get() + since.elapsed());
        }
        self.frozen.send_if_modified(|frozen| std::mem::replace(frozen, false));
    }

    /// Returns the deadline after that time.
    pub fn deadline(&self, after: Duration) -> Deadline {
        let since = self.frozen_since.get().map_or(Duration::ZERO, |since| since.elapsed());
        // The subtraction cannot underflow in practice: the sandbox was running before
        // it was frozen.
        let now = Instant::now();
        let running = now.checked_sub(self.frozen_time.get() + since).unwrap_or(now);
        Deadline(running + after)
    }

    /// Resolves at a deadline.
    pub async fn until(&self, deadline: Option<Deadline>) {
        let Some(Deadline(deadline)) = deadline else { return std::future::pending().await };
        let mut frozen = self.frozen.subscribe();
        loop {
            // It cannot be closed: the sender is here.
            let _ = frozen.wait_for(|frozen| !frozen).await;
            tokio::select! {
                () = sleep_until(deadline + self.frozen_time.get()) => {
                    if self.frozen_since.get().is_none() {
                        return;
                    }
                }
                _ = frozen.wait_for(|frozen| *frozen) => {}
            }
        }
    }

    /// Takes the detached session of a token.
    pub async fn take(&self, token: &str) -> Result<Session, Failure> {
        let holder = self.detached.borrow_mut().remove(token);
        let nothing = || Failure {
            kind: FailureKind::NotFound,
            message: "there is no detached shell or program with that token: it has exited, or \
                      another connection is attached to it"
                .to_owned(),
        };
        let (sender, receiver) = oneshot::channel();
        holder.ok_or_else(nothing)?.send(sender).await.map_err(|_| nothing())?;
        receiver.await.map_err(|_| nothing())
    }

    fn forget(&self, token: &str) {
        self.detached.borrow_mut().remove(token);
    }
}

/// Checks the length of a client's token.
pub fn check_token(token: &str) -> Result<(), Failure> {
    if token.is_empty() || token.len() > MAX_TOKEN_BYTES {
        let message = format!("the token has {} bytes: give 1 to {MAX_TOKEN_BYTES}", token.len());
        return Err(Failure { kind: FailureKind::Invalid, message });
    }
    Ok(())
}

/// Keeps a session until a client attaches to it, or until its attach timeout.
pub fn keep(agent: &Rc<Agent>, token: String, session: Session) {
    let (sender, mut claims) = mpsc::channel::<oneshot::Sender<Session>>(1);
    let full = {
        let mut detached = agent.sessions.detached.borrow_mut();
        let full = detached.len() >= MAX_DETACHED;
        if !full {
            detached.insert(token.clone(), sender);
        }
        full
    };
    let agent = Rc::clone(agent);
    tokio::task::spawn_local(async move {
        let mut session = session;
        if !full {
            let claim = match &mut session {
                Session::Program(program) => wait_for_program(&agent, program, &mut claims).await,
                Session::Shell(shell) => {
                    let deadline = agent.sessions.deadline(SHELL_ATTACH_TIMEOUT);
                    tokio::select! {
                        claim = shell.idle(&mut claims) => claim,
                        () = agent.sessions.until(Some(deadline)) => None,
                    }
                }
            };
            if let Some(claim) = claim {
                // The connection may have ended meanwhile. Then the session stays
                // detached.
                if let Err(session) = claim.send(session) {
                    keep(&agent, token, session);
                }
                return;
            }
            agent.sessions.forget(&token);
        }
        match session {
            Session::Program(program) => program.release(&agent).await,
            Session::Shell(shell) => shell.end(&agent).await,
        }
    });
}

/// Waits for a connection and enforces the program's time limit meanwhile.
async fn wait_for_program(
    agent: &Agent,
    program: &mut RunningProgram,
    claims: &mut mpsc::Receiver<oneshot::Sender<Session>>,
) -> Option<oneshot::Sender<Session>> {
    let mut frozen = agent.sessions.frozen();
    // The time of the checkpoint itself does not count.
    let attach_timeout = async {
        let _ = frozen.wait_for(|frozen| !frozen).await;
        sleep_until(Instant::now() + PROGRAM_ATTACH_TIMEOUT).await;
    };
    tokio::select! {
        claim = claims.recv() => claim,
        () = attach_timeout => None,
        () = program.deadline(agent) => {
            program.kill_at_deadline(agent).await;
            claims.recv().await
        }
    }
}

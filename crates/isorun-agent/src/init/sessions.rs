//! Programs and shells that are without a connection for a while.
//!
//! ```text
//!              Freeze, or the connection of a shell ends
//!   served ─────────────────────────────────────────────▶ detached
//!      ▲                                                      │
//!      └─────────────────────── Attach ───────────────────────┤
//!                                                             ▼ nobody comes
//!                                     let go (a program), ended (a shell)
//! ```
//!
//! A task owns each detached one and watches it meanwhile. After a checkpoint
//! the original's own connections come back within a moment. In a copy nobody
//! comes, and what ran there runs on with nobody listening.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use isorun_agent::protocol::{Failure, FailureKind};

use super::Agent;
use super::exec::Running;
use super::shell::Shell;

/// How soon somebody has to come for a program.
const PROGRAM: Duration = Duration::from_secs(10);
/// How soon for a shell.
const SHELL: Duration = Duration::from_secs(600);
/// How long a token may be.
const LONGEST_TOKEN: usize = 128;
/// Detached ones at the same time; one more ends the one that is detached.
const MOST: usize = 1024;

/// What can be attached to.
pub enum Session {
    Program(Box<Running>),
    Shell(Box<Shell>),
}

/// A time limit that stands still while the sandbox is a checkpoint. Under gVisor
/// the monotonic clock goes on meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

/// All that is detached, and whether everything is about to be.
pub struct Sessions {
    /// How long checkpoints have taken, from their beginning until somebody came
    /// to the original or to a copy.
    asleep: Cell<Duration>,
    /// When the present one began.
    asleep_since: Cell<Option<Instant>>,
    frozen: watch::Sender<bool>,
    connections: watch::Sender<usize>,
    detached: RefCell<HashMap<String, mpsc::Sender<oneshot::Sender<Session>>>>,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            asleep: Cell::default(),
            asleep_since: Cell::default(),
            frozen: watch::Sender::new(false),
            connections: watch::Sender::new(0),
            detached: RefCell::default(),
        }
    }
}

/// A connection that is open, as long as this lives.
pub struct Open(Rc<Agent>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.sessions.connections.send_modify(|open| *open -= 1);
    }
}

/// Counts a connection.
pub fn open(agent: &Rc<Agent>) -> Open {
    agent.sessions.connections.send_modify(|open| *open += 1);
    Open(Rc::clone(agent))
}

impl Sessions {
    /// Whether everything that can be is to be detached, and when that changes.
    pub fn frozen(&self) -> watch::Receiver<bool> {
        self.frozen.subscribe()
    }

    /// Has everything detached, and waits until only the caller's connection is
    /// left.
    pub async fn freeze(&self) {
        if self.asleep_since.get().is_none() {
            self.asleep_since.set(Some(Instant::now()));
        }
        self.frozen.send_replace(true);
        let mut connections = self.connections.subscribe();
        // It cannot be closed: the sender is here.
        let _ = connections.wait_for(|open| *open <= 1).await;
    }

    /// The checkpoint is over.
    pub fn thaw(&self) {
        if let Some(since) = self.asleep_since.take() {
            self.asleep.set(self.asleep.get() + since.elapsed());
        }
        self.frozen.send_if_modified(|frozen| std::mem::replace(frozen, false));
    }

    /// Returns the deadline after that time.
    pub fn deadline(&self, after: Duration) -> Deadline {
        let since = self.asleep_since.get().map_or(Duration::ZERO, |since| since.elapsed());
        // The clock is never that young: a sandbox sleeps after it was started.
        let now = Instant::now();
        let awake = now.checked_sub(self.asleep.get() + since).unwrap_or(now);
        Deadline(awake + after)
    }

    /// Resolves at a deadline.
    pub async fn until(&self, deadline: Option<Deadline>) {
        let Some(Deadline(deadline)) = deadline else { return std::future::pending().await };
        let mut frozen = self.frozen.subscribe();
        loop {
            // It cannot be closed: the sender is here.
            let _ = frozen.wait_for(|frozen| !frozen).await;
            tokio::select! {
                () = sleep_until(deadline + self.asleep.get()) => {
                    if self.asleep_since.get().is_none() {
                        return;
                    }
                }
                _ = frozen.wait_for(|frozen| *frozen) => {}
            }
        }
    }

    /// Takes what is detached under a token.
    pub async fn take(&self, token: &str) -> Result<Session, Failure> {
        let keeper = self.detached.borrow_mut().remove(token);
        let nothing = || Failure {
            kind: FailureKind::NotFound,
            message: "there is no shell or program of that name to attach to: it has ended, or \
                      another connection has it"
                .to_owned(),
        };
        let (sender, receiver) = oneshot::channel();
        keeper.ok_or_else(nothing)?.send(sender).await.map_err(|_| nothing())?;
        receiver.await.map_err(|_| nothing())
    }

    fn forget(&self, token: &str) {
        self.detached.borrow_mut().remove(token);
    }
}

/// Whether a client's token can be one.
pub fn check(token: &str) -> Result<(), Failure> {
    if token.is_empty() || token.len() > LONGEST_TOKEN {
        let message = format!("a token has 1 to {LONGEST_TOKEN} bytes");
        return Err(Failure { kind: FailureKind::Invalid, message });
    }
    Ok(())
}

/// Keeps a session until somebody takes it, or for as long as its kind is kept.
pub fn keep(agent: &Rc<Agent>, token: String, session: Session) {
    let (sender, mut claims) = mpsc::channel::<oneshot::Sender<Session>>(1);
    let full = {
        let mut detached = agent.sessions.detached.borrow_mut();
        let full = detached.len() >= MOST;
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
                    let deadline = agent.sessions.deadline(SHELL);
                    tokio::select! {
                        claim = shell.idle(&mut claims) => claim,
                        () = agent.sessions.until(Some(deadline)) => None,
                    }
                }
            };
            if let Some(claim) = claim {
                // A connection that was quick to go detaches it again.
                if let Err(session) = claim.send(session) {
                    keep(&agent, token, session);
                }
                return;
            }
            agent.sessions.forget(&token);
        }
        match session {
            Session::Program(program) => program.let_go(&agent).await,
            Session::Shell(shell) => shell.end(&agent).await,
        }
    });
}

/// Enforces a program's time limit while it waits for a connection.
async fn wait_for_program(
    agent: &Agent,
    program: &mut Running,
    claims: &mut mpsc::Receiver<oneshot::Sender<Session>>,
) -> Option<oneshot::Sender<Session>> {
    let mut frozen = agent.sessions.frozen();
    // The checkpoint itself takes as long as it takes.
    let patience = async {
        let _ = frozen.wait_for(|frozen| !frozen).await;
        sleep_until(Instant::now() + PROGRAM).await;
    };
    tokio::select! {
        claim = claims.recv() => claim,
        () = patience => None,
        () = program.deadline(agent) => {
            program.time_is_over(agent).await;
            claims.recv().await
        }
    }
}

//! Programs, shells and cells, with a connection or temporarily without one.
//!
//! ```text
//!              Freeze, or the connection of a shell ends
//!   served ─────────────────────────────────────────────▶ detached
//!      ▲                                                      │
//!      └─────────────────────── Attach ───────────────────────┤
//!                                                             ▼ attach timeout
//!                                    released (a program or cell), ended (a shell)
//! ```
//!
//! A task owns and monitors each detached session. After a checkpoint the clients
//! of the original sandbox attach again within a moment. In a copy no client
//! attaches, and the programs continue to run with their output discarded.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use isorun_agent::codec::CodecError;
use isorun_agent::protocol::{Failure, FailureKind};

use super::agent::Agent;
use super::cell::Cell;
use super::conn::Conn;
use super::exec::Program;
use super::session::Outcome;
use super::shell::ShellSession;

/// The time within which a client has to attach to a program or a cell.
const PROGRAM_ATTACH_TIMEOUT: Duration = Duration::from_secs(10);
/// The time within which a client has to attach to a shell.
const SHELL_ATTACH_TIMEOUT: Duration = Duration::from_secs(600);
/// The maximum number of detached sessions. A further one is released or ended at
/// once.
const MAX_DETACHED: usize = 1024;

/// A program, a shell or a cell.
pub enum Session {
    Program(Box<Program>),
    Shell(Box<ShellSession>),
    Cell(Box<Cell>),
}

impl From<Program> for Session {
    fn from(program: Program) -> Self {
        Self::Program(Box::new(program))
    }
}

impl From<Cell> for Session {
    fn from(cell: Cell) -> Self {
        Self::Cell(Box::new(cell))
    }
}

impl From<ShellSession> for Session {
    fn from(shell: ShellSession) -> Self {
        Self::Shell(Box::new(shell))
    }
}

/// Serves sessions, and keeps the detached ones.
pub struct Sessions {
    agent: Rc<Agent>,
    /// The tasks that own them, by token.
    detached: RefCell<HashMap<String, mpsc::Sender<oneshot::Sender<Session>>>>,
}

impl Sessions {
    /// Creates the sessions of an agent that has none yet.
    pub fn new(agent: Rc<Agent>) -> Self {
        Self { agent, detached: RefCell::default() }
    }

    /// Serves a connection with a session that was started or taken, until either ends
    /// or the session is detached. If there is no session, the client gets the failure.
    pub async fn serve(
        self: &Rc<Self>,
        session: Result<Session, Failure>,
        conn: &mut Conn,
    ) -> Result<Outcome, CodecError> {
        let mut session = match session {
            Ok(session) => session,
            Err(failure) => {
                conn.fail(failure).await?;
                return Ok(Outcome::Finished);
            }
        };
        let agent = &*self.agent;
        let outcome = session.serve(agent, conn).await;
        // A client can also attach to a shell whose connection has failed.
        let token = match (&session, &outcome) {
            (_, Ok(Outcome::Detached)) | (Session::Shell(_), Err(_)) => session.token(),
            _ => None,
        };
        match (token.map(str::to_owned), session) {
            (Some(token), session) => self.keep(token, session),
            (None, Session::Program(program)) => {
                if outcome.is_err() {
                    program.kill(agent).await;
                }
                program.finish(agent);
            }
            (None, Session::Shell(shell)) => shell.end(agent).await,
            (None, Session::Cell(cell)) => {
                if outcome.is_ok() {
                    cell.finish();
                } else {
                    let agent = Rc::clone(&self.agent);
                    tokio::task::spawn_local(async move { cell.abandon(&agent).await });
                }
            }
        }
        outcome
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

    /// Keeps a session until a client attaches to it, or until its attach timeout.
    fn keep(self: &Rc<Self>, token: String, session: Session) {
        let (sender, mut claims) = mpsc::channel::<oneshot::Sender<Session>>(1);
        let full = {
            let mut detached = self.detached.borrow_mut();
            let full = detached.len() >= MAX_DETACHED;
            if !full {
                detached.insert(token.clone(), sender);
            }
            full
        };
        let sessions = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let agent = &*sessions.agent;
            let mut session = session;
            if !full {
                if let Some(claim) = session.wait(agent, &mut claims).await {
                    // The connection may have ended meanwhile. Then the session stays
                    // detached.
                    if let Err(session) = claim.send(session) {
                        sessions.keep(token, session);
                    }
                    return;
                }
                sessions.forget(&token);
            }
            match session {
                Session::Program(program) => program.release(agent).await,
                Session::Shell(shell) => shell.end(agent).await,
                Session::Cell(cell) => cell.release(agent).await,
            }
        });
    }
}

impl Session {
    /// Returns the token with which a client can attach to it, if that is possible.
    fn token(&self) -> Option<&str> {
        match self {
            Self::Program(program) => program.token(),
            Self::Shell(shell) => Some(shell.token()),
            Self::Cell(cell) => Some(cell.token()),
        }
    }

    /// Serves a connection until it ends, or the session ends or is detached.
    async fn serve(&mut self, agent: &Agent, conn: &mut Conn) -> Result<Outcome, CodecError> {
        match self {
            Self::Program(program) => program.serve(agent, conn).await,
            Self::Shell(shell) => shell.serve(agent, conn).await,
            Self::Cell(cell) => cell.serve(agent, conn).await,
        }
    }

    /// Waits for a client to attach, up to the attach timeout.
    async fn wait(
        &mut self,
        agent: &Agent,
        claims: &mut mpsc::Receiver<oneshot::Sender<Session>>,
    ) -> Option<oneshot::Sender<Session>> {
        match self {
            Self::Program(program) => wait_for_program(agent, program, claims).await,
            Self::Shell(shell) => {
                let deadline = agent.freezer.deadline(SHELL_ATTACH_TIMEOUT);
                tokio::select! {
                    claim = shell.idle(claims) => claim,
                    () = agent.freezer.until(Some(deadline)) => None,
                }
            }
            Self::Cell(cell) => wait_for_cell(agent, cell, claims).await,
        }
    }
}

/// Waits for a connection, and enforces the time limit of the cell meanwhile.
async fn wait_for_cell(
    agent: &Agent,
    cell: &mut Cell,
    claims: &mut mpsc::Receiver<oneshot::Sender<Session>>,
) -> Option<oneshot::Sender<Session>> {
    let mut frozen = agent.freezer.frozen();
    let attach_timeout = async {
        let _ = frozen.wait_for(|frozen| !frozen).await;
        sleep_until(Instant::now() + PROGRAM_ATTACH_TIMEOUT).await;
    };
    tokio::pin!(attach_timeout);
    loop {
        tokio::select! {
            claim = claims.recv() => return claim,
            () = &mut attach_timeout => return None,
            () = cell.deadline(agent) => cell.on_deadline(agent).await,
        }
    }
}

/// Waits for a connection and enforces the program's time limit meanwhile.
async fn wait_for_program(
    agent: &Agent,
    program: &mut Program,
    claims: &mut mpsc::Receiver<oneshot::Sender<Session>>,
) -> Option<oneshot::Sender<Session>> {
    let mut frozen = agent.freezer.frozen();
    // The time of the checkpoint itself does not count.
    let attach_timeout = async {
        let _ = frozen.wait_for(|frozen| !frozen).await;
        sleep_until(Instant::now() + PROGRAM_ATTACH_TIMEOUT).await;
    };
    tokio::pin!(attach_timeout);
    tokio::select! {
        claim = claims.recv() => return claim,
        () = &mut attach_timeout => return None,
        () = program.deadline(agent) => program.kill_at_deadline(agent).await,
    }
    // A client that attaches gets the output, and that the time limit was reached.
    tokio::select! {
        claim = claims.recv() => claim,
        () = attach_timeout => None,
    }
}

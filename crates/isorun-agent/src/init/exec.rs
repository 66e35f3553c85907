//! One program, from its start to its exit status.
//!
//! If its connection ends first, or sends an invalid frame, the program is killed
//! with all processes that it has started.

use std::collections::VecDeque;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use rustix::process::{Pid, Signal, getpgid, kill_process, kill_process_group};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe::Sender;
use tokio::time::Instant;

use isorun_agent::codec::{CodecError, Frame};
use isorun_agent::protocol::{Exec, Failure, STDIN_WINDOW_BYTES, Status};

use super::agent::Agent;
use super::cgroups::Cgroup;
use super::conn::Conn;
use super::freezer::{Deadline, until_frozen};
use super::proc;
use super::reaper::{Exit, OnStop};
use super::session::{self, Outcome, OutputPipes, until};
use super::spawn;

/// The byte that a terminal interprets as Ctrl-Z by default.
const CTRL_Z: u8 = 0x1a;
/// The delay between a typed Ctrl-Z and the search for processes that it has
/// stopped.
const STOP_CHECK_DELAY: Duration = Duration::from_millis(100);

/// A program that runs for a client.
pub struct Program {
    token: Option<String>,
    cgroup: Cgroup,
    exit: Exit,
    pid: Pid,
    /// The process that keeps its terminal, if it has one, or else the program.
    keeper: Pid,
    /// The time to search for processes that a typed Ctrl-Z has stopped.
    stop_check: Option<Instant>,
    stdin: Option<Sender>,
    /// The input that was received and not written, never more than the window.
    unread: VecDeque<Bytes>,
    unread_bytes: usize,
    stdin_ended: bool,
    output: OutputPipes,
    terminal: Option<OwnedFd>,
    deadline: Option<Deadline>,
    timed_out: bool,
}

impl Program {
    /// Starts a program.
    pub fn start(agent: &Agent, exec: &Exec) -> Result<Self, Failure> {
        if let Some(token) = &exec.token {
            session::check_token(token)?;
        }
        let cgroup = agent.create_cgroup()?;
        let spawned = match spawn::spawn(exec, &agent.cgroups, &cgroup) {
            Ok(spawned) => spawned,
            Err(failure) => {
                agent.cgroups.release(cgroup);
                return Err(failure);
            }
        };
        let exit = agent.reaper.watch(spawned.watched, OnStop::ContinueGroup);
        agent.execs.set(agent.execs.get() + 1);
        Ok(Self {
            token: exec.token.clone(),
            cgroup,
            exit,
            pid: spawned.pid,
            keeper: spawned.watched,
            stop_check: None,
            stdin: spawned.stdin,
            unread: VecDeque::new(),
            unread_bytes: 0,
            stdin_ended: false,
            output: OutputPipes::new(spawned.stdout, spawned.stderr),
            terminal: spawned.terminal,
            deadline: exec.timeout_ms.map(|ms| agent.freezer.deadline(Duration::from_millis(ms))),
            timed_out: false,
        })
    }

    /// Returns the token with which a client can attach to it after a freeze.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// Resolves once when its time limit is reached.
    pub async fn deadline(&self, agent: &Agent) {
        let deadline = self.deadline.filter(|_| !self.timed_out);
        agent.freezer.until(deadline).await;
    }

    /// Kills it at its time limit.
    pub async fn kill_at_deadline(&mut self, agent: &Agent) {
        self.timed_out = true;
        self.kill(agent).await;
    }

    /// Kills it with all processes that it has started.
    pub async fn kill(&self, agent: &Agent) {
        agent.cgroups.kill(&self.cgroup, self.pid).await;
    }

    /// Lets it continue without a client, up to its time limit, and discards its
    /// output.
    pub async fn release(mut self, agent: &Agent) {
        self.discard_output();
        tokio::select! {
            _ = self.exit.wait() => {}
            () = agent.freezer.until(self.deadline) => self.kill(agent).await,
        }
        self.finish(agent);
    }

    /// Ends the session of a program that has exited or was killed.
    pub fn finish(mut self, agent: &Agent) {
        self.discard_output();
        agent.cgroups.release(self.cgroup);
        agent.execs.set(agent.execs.get() - 1);
    }

    /// Transfers frames in both directions until the program has exited and its output
    /// is delivered, or until it is detached. After an error, the caller kills it.
    pub async fn serve(&mut self, agent: &Agent, conn: &mut Conn) -> Result<Outcome, CodecError> {
        let mut frozen = self.token.as_ref().map(|_| agent.freezer.frozen());
        conn.writer.queue(&session::started(self.pid))?;
        let (mut out, mut err) = (BytesMut::new(), BytesMut::new());
        let status = loop {
            let idle = conn.writer.is_empty();
            tokio::select! {
                // In order of urgency. The exit is checked last: output that was
                // written before it is sent first.
                biased;
                frame = conn.reader.next() => match frame? {
                    Some(frame) => self.handle_frame(frame)?,
                    None => return Err(CodecError::Truncated),
                },
                () = agent.freezer.until(self.deadline), if !self.timed_out => {
                    self.kill_at_deadline(agent).await;
                }
                () = until_frozen(frozen.as_mut()), if idle => {
                    let handle_frame = |frame| self.handle_frame(frame).map(ControlFlow::Continue);
                    return session::detach(conn, handle_frame).await;
                }
                () = until(self.stop_check), if self.stop_check.is_some() => {
                    self.stop_check = None;
                    self.continue_stopped();
                }
                flushed = conn.writer.flush(), if !idle => flushed?,
                taken = write(self.stdin.as_mut(), self.unread.front()), if !self.unread.is_empty() => {
                    self.taken(taken, conn)?;
                }
                bytes = self.output.stdout.next(&mut out), if idle => {
                    conn.writer.queue(&Frame::Stdout(bytes))?;
                }
                bytes = self.output.stderr.next(&mut err), if idle => {
                    conn.writer.queue(&Frame::Stderr(bytes))?;
                }
                status = self.exit.wait() => break status,
            }
        };
        // All of its output is in the pipes by now.
        let status = if self.timed_out { Status::TimedOut } else { status };
        self.output.finish(conn, status).await
    }

    /// Handles a frame of the client while the program runs.
    fn handle_frame(&mut self, frame: Frame) -> Result<(), CodecError> {
        match frame {
            Frame::Stdin(bytes) => {
                self.unread_bytes += bytes.len();
                if self.unread_bytes > STDIN_WINDOW_BYTES {
                    return Err(CodecError::TooLong(self.unread_bytes));
                }
                if !bytes.is_empty() && self.stdin.is_some() && !self.stdin_ended {
                    if self.terminal.is_some() && bytes.contains(&CTRL_Z) {
                        self.stop_check = Some(Instant::now() + STOP_CHECK_DELAY);
                    }
                    self.unread.push_back(bytes);
                } else {
                    self.unread_bytes -= bytes.len();
                }
            }
            Frame::StdinEnd => {
                self.stdin_ended = true;
                self.end_stdin();
            }
            Frame::Signal(number) => {
                if let Some(signal) = i32::try_from(number).ok().and_then(Signal::from_named_raw) {
                    // It may have exited just now.
                    let _ = kill_process_group(self.pid, signal);
                }
            }
            Frame::Resize(size) => {
                if let Some(terminal) = &self.terminal {
                    spawn::resize(terminal, size)?;
                    // The keeper signals the foreground process group. It may have
                    // exited just now.
                    let _ = kill_process(self.keeper, Signal::WINCH);
                }
            }
            _ => return Err(CodecError::UnknownKind(0)),
        }
        Ok(())
    }

    /// Continues processes in the program's own process group that a typed Ctrl-Z has
    /// stopped, since no user could continue them. The keeper does that when the
    /// program itself stops. Here the program may have handled the signal, but a child
    /// of it was stopped. Jobs of a shell are in process groups of their own.
    fn continue_stopped(&self) {
        for pid in self.cgroup.members() {
            if getpgid(Some(pid)) == Ok(self.pid) && proc::state(pid) == Some('T') {
                let _ = kill_process(pid, Signal::CONT);
            }
        }
    }

    /// Accounts for input that the program has read, or discards the input if it reads
    /// no more.
    fn taken(&mut self, taken: io::Result<usize>, conn: &mut Conn) -> Result<(), CodecError> {
        let count = match taken {
            Ok(count) => {
                if let Some(front) = self.unread.front_mut() {
                    front.advance(count.min(front.len()));
                    if front.is_empty() {
                        self.unread.pop_front();
                    }
                }
                count
            }
            // The read end is closed. The rest is discarded, so that the client does
            // not wait for the window.
            Err(_) => {
                self.stdin = None;
                self.unread.clear();
                self.unread_bytes
            }
        };
        self.unread_bytes -= count;
        self.end_stdin();
        conn.writer.queue(&Frame::StdinTaken(u32::try_from(count).unwrap_or(u32::MAX)))
    }

    fn end_stdin(&mut self) {
        if self.stdin_ended && self.unread.is_empty() {
            match &self.terminal {
                // A terminal cannot be closed for input; this is Ctrl-D.
                Some(terminal) => {
                    let _ = rustix::io::write(terminal, b"\x04");
                }
                None => self.stdin = None,
            }
        }
    }

    /// Discards the output of processes that the program has left running.
    fn discard_output(&mut self) {
        if self.terminal.is_none() {
            self.output.discard();
        }
    }
}

async fn write(pipe: Option<&mut Sender>, bytes: Option<&Bytes>) -> io::Result<usize> {
    let (Some(pipe), Some(bytes)) = (pipe, bytes) else { return std::future::pending().await };
    pipe.write(bytes).await
}

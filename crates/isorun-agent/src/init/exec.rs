//! One program, from its start to its last word.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use rustix::process::{Pid, Signal, getpgid, kill_process, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use isorun_agent::codec::{CHUNK, CodecError, Frame, FrameReader, FrameWriter};
use isorun_agent::protocol::{Exec, Failure, FailureKind, STDIN_WINDOW, Status};

use super::Agent;
use super::groups::Group;
use super::proc;
use super::reaper::OnStop;
use super::sessions::{self, Deadline, Session};
use super::spawn::{self, Spawned};

/// What a terminal takes for Ctrl-Z unless told otherwise.
const SUSPEND: u8 = 0x1a;
/// How long after a Ctrl-Z processes that it has stopped are looked for.
const STOP_CHECK_DELAY: Duration = Duration::from_millis(100);

/// Runs a program for a connection, to the end of both.
///
/// When the connection ends first, or says what makes no sense, the program is
/// killed with all that it has started.
pub async fn run<R, W>(
    agent: &Rc<Agent>,
    exec: &Exec,
    reader: &mut FrameReader<R>,
    writer: &mut FrameWriter<W>,
) -> Result<(), CodecError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let running = match start(agent, exec) {
        Ok(running) => running,
        Err(failure) => return writer.send(&Frame::Failed(failure)).await,
    };
    agent.execs.set(agent.execs.get() + 1);
    serve(agent, running, reader, writer).await
}

/// Goes on with a program for a connection.
pub async fn serve<R, W>(
    agent: &Rc<Agent>,
    mut running: Running,
    reader: &mut FrameReader<R>,
    writer: &mut FrameWriter<W>,
) -> Result<(), CodecError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let outcome = running.serve(agent, reader, writer).await;
    match (outcome, &running.token) {
        (Ok(Outcome::Detached), Some(token)) => {
            let token = token.clone();
            sessions::keep(agent, token, Session::Program(Box::new(running)));
            Ok(())
        }
        (outcome, _) => {
            if outcome.is_err() {
                agent.groups.kill(&running.group).await;
            }
            running.forget(agent);
            outcome.map(|_| ())
        }
    }
}

fn start(agent: &Agent, exec: &Exec) -> Result<Running, Failure> {
    if let Some(token) = &exec.token {
        sessions::check(token)?;
    }
    let group = new_group(agent)?;
    match spawn::spawn(exec, &agent.groups, &group) {
        Ok(spawned) => Ok(Running {
            token: exec.token.clone(),
            ended: agent.reaper.watch(spawned.watched, OnStop::ContinueGroup),
            group,
            program: Program::new(
                spawned,
                exec.timeout_ms.map(|ms| agent.sessions.deadline(Duration::from_millis(ms))),
            ),
        }),
        Err(failure) => {
            agent.groups.release(group);
            Err(failure)
        }
    }
}

/// A group for one more program, if there is room for one.
pub fn new_group(agent: &Agent) -> Result<Group, Failure> {
    if !agent.groups.have_room() {
        return Err(Failure {
            kind: FailureKind::NoResources,
            message: "the sandbox has as many processes as it may have".to_owned(),
        });
    }
    agent.groups.make().map_err(|error| Failure {
        kind: FailureKind::NoResources,
        message: format!("cannot make a group for the program: {error}"),
    })
}

/// A program, its group, and who learns of its end.
pub struct Running {
    token: Option<String>,
    group: Group,
    ended: oneshot::Receiver<Status>,
    program: Program,
}

enum Outcome {
    Over,
    Detached,
}

impl Running {
    async fn serve<R, W>(
        &mut self,
        agent: &Agent,
        reader: &mut FrameReader<R>,
        writer: &mut FrameWriter<W>,
    ) -> Result<Outcome, CodecError>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut frozen = self.token.as_ref().map(|_| agent.sessions.frozen());
        let program = &mut self.program;
        program.serve(agent, &self.group, &mut self.ended, frozen.as_mut(), reader, writer).await
    }

    /// Resolves when its time is over, once.
    pub async fn deadline(&self, agent: &Agent) {
        let deadline = self.program.deadline.filter(|_| !self.program.timed_out);
        agent.sessions.until(deadline).await;
    }

    /// Kills it for that.
    pub async fn time_is_over(&mut self, agent: &Agent) {
        self.program.timed_out = true;
        agent.groups.kill(&self.group).await;
    }

    /// Nobody listens any more: it goes on, as far as its time allows.
    pub async fn let_go(mut self, agent: &Agent) {
        self.program.let_go();
        tokio::select! {
            _ = &mut self.ended => {}
            () = agent.sessions.until(self.program.deadline) => {
                agent.groups.kill(&self.group).await;
            }
        }
        self.forget(agent);
    }

    fn forget(mut self, agent: &Agent) {
        self.program.let_go();
        agent.groups.release(self.group);
        agent.execs.set(agent.execs.get() - 1);
    }
}

struct Program {
    pid: Pid,
    /// The process that keeps its terminal, if it has one.
    keeper: Pid,
    /// When to look for processes that a typed Ctrl-Z has stopped.
    stop_check: Option<Instant>,
    stdin: Option<Sender>,
    /// What was sent and not taken, never more than the window.
    unread: VecDeque<Bytes>,
    unread_bytes: usize,
    stdin_ended: bool,
    stdout: Option<Receiver>,
    stderr: Option<Receiver>,
    terminal: Option<OwnedFd>,
    deadline: Option<Deadline>,
    timed_out: bool,
}

impl Program {
    fn new(spawned: Spawned, deadline: Option<Deadline>) -> Self {
        Self {
            pid: spawned.pid,
            keeper: spawned.watched,
            stop_check: None,
            stdin: spawned.stdin,
            unread: VecDeque::new(),
            unread_bytes: 0,
            stdin_ended: false,
            stdout: Some(spawned.stdout),
            stderr: spawned.stderr,
            terminal: spawned.terminal,
            deadline,
            timed_out: false,
        }
    }

    /// Carries everything both ways until the program has ended and its output
    /// is delivered.
    async fn serve<R, W>(
        &mut self,
        agent: &Agent,
        group: &Group,
        ended: &mut oneshot::Receiver<Status>,
        mut frozen: Option<&mut watch::Receiver<bool>>,
        reader: &mut FrameReader<R>,
        writer: &mut FrameWriter<W>,
    ) -> Result<Outcome, CodecError>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        writer.queue(&Frame::Started { pid: self.pid.as_raw_nonzero().get().cast_unsigned() })?;
        let mut status = None;
        let (mut out, mut err) = (BytesMut::new(), BytesMut::new());
        while status.is_none() {
            let idle = writer.is_empty();
            tokio::select! {
                // The order is that of urgency, and the last thing to be seen
                // is the end: what was written before it goes first.
                biased;
                frame = reader.next() => match frame? {
                    Some(frame) => self.obey(frame)?,
                    None => return Err(CodecError::Truncated),
                },
                () = agent.sessions.until(self.deadline), if !self.timed_out => {
                    self.timed_out = true;
                    agent.groups.kill(group).await;
                }
                () = freezing(frozen.as_deref_mut()), if idle => {
                    return self.detach(reader, writer).await;
                }
                () = until(self.stop_check), if self.stop_check.is_some() => {
                    self.stop_check = None;
                    self.continue_stopped(group);
                }
                flushed = writer.flush(), if !idle => flushed?,
                taken = write(self.stdin.as_mut(), self.unread.front()), if !self.unread.is_empty() => {
                    self.taken(taken, writer)?;
                }
                count = read(self.stdout.as_mut(), &mut out), if idle && self.stdout.is_some() => {
                    match count {
                        Ok(1..) => writer.queue(&Frame::Stdout(out.split().freeze()))?,
                        _ => self.stdout = None,
                    }
                }
                count = read(self.stderr.as_mut(), &mut err), if idle && self.stderr.is_some() => {
                    match count {
                        Ok(1..) => writer.queue(&Frame::Stderr(err.split().freeze()))?,
                        _ => self.stderr = None,
                    }
                }
                end = &mut *ended => status = Some(end.unwrap_or(Status::Signal(9))),
            }
        }
        // What it wrote is in the pipes by now. What others of its group write
        // later is not waited for.
        for (pipe, frame) in [
            (self.stdout.as_ref(), Frame::Stdout as fn(Bytes) -> Frame),
            (self.stderr.as_ref(), Frame::Stderr),
        ] {
            let mut budget = 16 * 1024 * 1024 / CHUNK;
            while let Some(bytes) = pipe.and_then(read_now) {
                deliver(reader, writer, &frame(bytes)).await?;
                budget -= 1;
                if budget == 0 {
                    break;
                }
            }
        }
        let status = match status {
            _ if self.timed_out => Status::TimedOut,
            Some(status) => status,
            None => Status::Signal(9),
        };
        deliver(reader, writer, &Frame::Exited(status)).await?;
        Ok(Outcome::Over)
    }

    /// Says farewell, and takes what the client had sent before it read that.
    async fn detach<R, W>(
        &mut self,
        reader: &mut FrameReader<R>,
        writer: &mut FrameWriter<W>,
    ) -> Result<Outcome, CodecError>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        writer.send(&Frame::Detach).await?;
        loop {
            match reader.next().await?.ok_or(CodecError::Truncated)? {
                Frame::Detach => return Ok(Outcome::Detached),
                frame => self.obey(frame)?,
            }
        }
    }

    /// Does what the client says while the program runs.
    fn obey(&mut self, frame: Frame) -> Result<(), CodecError> {
        match frame {
            Frame::Stdin(bytes) => {
                self.unread_bytes += bytes.len();
                if self.unread_bytes > STDIN_WINDOW {
                    return Err(CodecError::TooLong(self.unread_bytes));
                }
                if !bytes.is_empty() && self.stdin.is_some() && !self.stdin_ended {
                    if self.terminal.is_some() && bytes.contains(&SUSPEND) {
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
                    // It may have ended just now.
                    let _ = kill_process_group(self.pid, signal);
                }
            }
            Frame::Resize(size) => {
                if let Some(terminal) = &self.terminal {
                    spawn::resize(terminal, size)?;
                    // It tells the foreground. It may have ended just now.
                    let _ = kill_process(self.keeper, Signal::WINCH);
                }
            }
            _ => return Err(CodecError::UnknownKind(0)),
        }
        Ok(())
    }

    /// Continues what a typed Ctrl-Z has stopped in the program's own process
    /// group, which nobody could continue by hand. The keeper does that when the
    /// program itself stops; here it may have handled the signal, and a child of
    /// it has not. Jobs of a shell are in groups of their own.
    fn continue_stopped(&self, group: &Group) {
        for pid in group.members() {
            if getpgid(Some(pid)) == Ok(self.pid) && proc::state(pid) == Some('T') {
                let _ = kill_process(pid, Signal::CONT);
            }
        }
    }

    /// The program took some of its input, or will take no more.
    fn taken<W: AsyncWrite + Unpin>(
        &mut self,
        taken: io::Result<usize>,
        writer: &mut FrameWriter<W>,
    ) -> Result<(), CodecError> {
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
            // Nobody reads. The rest goes nowhere, so that the client does not
            // wait for room.
            Err(_) => {
                self.stdin = None;
                self.unread.clear();
                self.unread_bytes
            }
        };
        self.unread_bytes -= count;
        self.end_stdin();
        writer.queue(&Frame::StdinTaken(u32::try_from(count).unwrap_or(u32::MAX)))
    }

    fn end_stdin(&mut self) {
        if self.stdin_ended && self.unread.is_empty() {
            match &self.terminal {
                // A terminal has no end; this is what a person would type.
                Some(terminal) => {
                    let _ = rustix::io::write(terminal, b"\x04");
                }
                None => self.stdin = None,
            }
        }
    }

    /// What the program has left running may go on writing: to nowhere.
    fn let_go(&mut self) {
        if self.terminal.is_some() {
            return;
        }
        for pipe in [self.stdout.take(), self.stderr.take()].into_iter().flatten() {
            swallow(pipe);
        }
    }
}

/// Reads a pipe to its end, for nobody.
pub fn swallow(mut pipe: Receiver) {
    tokio::task::spawn_local(async move {
        let mut buffer = vec![0; 4096];
        while matches!(pipe.read(&mut buffer).await, Ok(1..)) {}
    });
}

/// Sends a frame, unless the client goes away before it takes it.
pub async fn deliver<R, W>(
    reader: &mut FrameReader<R>,
    writer: &mut FrameWriter<W>,
    frame: &Frame,
) -> Result<(), CodecError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    writer.queue(frame)?;
    loop {
        tokio::select! {
            flushed = writer.flush() => return flushed,
            // The program has ended: what is said to it comes too late.
            frame = reader.next() => if frame?.is_none() {
                return Err(CodecError::Truncated);
            },
        }
    }
}

pub async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Resolves when everything is to be detached.
pub async fn freezing(frozen: Option<&mut watch::Receiver<bool>>) {
    match frozen {
        Some(frozen) => {
            // It cannot be closed: the agent has the sender.
            let _ = frozen.wait_for(|frozen| *frozen).await;
        }
        None => std::future::pending().await,
    }
}

pub async fn read(pipe: Option<&mut Receiver>, buffer: &mut BytesMut) -> io::Result<usize> {
    let Some(pipe) = pipe else { return std::future::pending().await };
    buffer.reserve(CHUNK);
    pipe.read_buf(buffer).await
}

async fn write(pipe: Option<&mut Sender>, bytes: Option<&Bytes>) -> io::Result<usize> {
    let (Some(pipe), Some(bytes)) = (pipe, bytes) else { return std::future::pending().await };
    pipe.write(bytes).await
}

/// What is in a pipe now. The runtime may not have heard of it yet, so this asks
/// the system.
pub fn read_now(pipe: &Receiver) -> Option<Bytes> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match rustix::io::read(pipe.as_fd(), &mut buffer) {
            Ok(0) => return None,
            Ok(count) => {
                buffer.truncate(count);
                return Some(buffer.into());
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

//! One program, from its start to its last word.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use rustix::process::{Pid, Signal, kill_process_group};
use rustix::termios::tcgetpgrp;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::oneshot;
use tokio::time::Instant;

use isorun_agent::codec::{CHUNK, CodecError, Frame, FrameReader, FrameWriter};
use isorun_agent::protocol::{Exec, Failure, FailureKind, STDIN_WINDOW, Status};

use super::Agent;
use super::groups::{Group, Groups};
use super::spawn::{self, Spawned};

/// Runs a program for a connection, to the end of both.
///
/// When the connection ends first, or says what makes no sense, the program is
/// killed with all that it has started.
pub async fn run<R, W>(
    agent: &Agent,
    exec: &Exec,
    reader: &mut FrameReader<R>,
    writer: &mut FrameWriter<W>,
) -> Result<(), CodecError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let (group, spawned, ended) = match start(agent, exec) {
        Ok(started) => started,
        Err(failure) => return writer.send(&Frame::Failed(failure)).await,
    };
    agent.execs.set(agent.execs.get() + 1);
    let deadline = exec.timeout_ms.map(|timeout| Instant::now() + Duration::from_millis(timeout));
    let mut program = Program::new(spawned, deadline);
    let outcome = program.serve(&agent.groups, &group, ended, reader, writer).await;
    if outcome.is_err() {
        agent.groups.kill(&group).await;
    }
    program.let_go();
    agent.groups.release(group);
    agent.execs.set(agent.execs.get() - 1);
    outcome
}

fn start(
    agent: &Agent,
    exec: &Exec,
) -> Result<(Group, Spawned, oneshot::Receiver<Status>), Failure> {
    if !agent.groups.have_room() {
        return Err(Failure {
            kind: FailureKind::NoResources,
            message: "the sandbox has as many processes as it may have".to_owned(),
        });
    }
    let group = agent.groups.make().map_err(|error| Failure {
        kind: FailureKind::NoResources,
        message: format!("cannot make a group for the program: {error}"),
    })?;
    match spawn::spawn(exec, &agent.groups, &group) {
        Ok(spawned) => {
            let ended = agent.reaper.watch(spawned.pid);
            Ok((group, spawned, ended))
        }
        Err(failure) => {
            agent.groups.release(group);
            Err(failure)
        }
    }
}

struct Program {
    pid: Pid,
    stdin: Option<Sender>,
    /// What was sent and not taken, never more than the window.
    unread: VecDeque<Bytes>,
    unread_bytes: usize,
    stdin_ended: bool,
    stdout: Option<Receiver>,
    stderr: Option<Receiver>,
    terminal: Option<OwnedFd>,
    deadline: Option<Instant>,
}

impl Program {
    fn new(spawned: Spawned, deadline: Option<Instant>) -> Self {
        Self {
            pid: spawned.pid,
            stdin: spawned.stdin,
            unread: VecDeque::new(),
            unread_bytes: 0,
            stdin_ended: false,
            stdout: Some(spawned.stdout),
            stderr: spawned.stderr,
            terminal: spawned.terminal,
            deadline,
        }
    }

    /// Carries everything both ways until the program has ended and its output
    /// is delivered.
    async fn serve<R, W>(
        &mut self,
        groups: &Groups,
        group: &Group,
        mut ended: oneshot::Receiver<Status>,
        reader: &mut FrameReader<R>,
        writer: &mut FrameWriter<W>,
    ) -> Result<(), CodecError>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        writer.queue(&Frame::Started { pid: self.pid.as_raw_nonzero().get().cast_unsigned() })?;
        let mut status = None;
        let mut timed_out = false;
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
                () = until(self.deadline), if !timed_out => {
                    timed_out = true;
                    groups.kill(group).await;
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
                end = &mut ended => status = Some(end.unwrap_or(Status::Signal(9))),
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
            _ if timed_out => Status::TimedOut,
            Some(status) => status,
            None => Status::Signal(9),
        };
        deliver(reader, writer, &Frame::Exited(status)).await
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
                    // Linux tells the program; gVisor leaves it to us. Told
                    // twice, it looks twice.
                    let group = tcgetpgrp(terminal).unwrap_or(self.pid);
                    let _ = kill_process_group(group, Signal::WINCH);
                }
            }
            _ => return Err(CodecError::UnknownKind(0)),
        }
        Ok(())
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
            tokio::task::spawn_local(async move {
                let mut pipe = pipe;
                let mut buffer = vec![0; 4096];
                while matches!(pipe.read(&mut buffer).await, Ok(1..)) {}
            });
        }
    }
}

/// Sends a frame, unless the client goes away before it takes it.
async fn deliver<R, W>(
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

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

async fn read(pipe: Option<&mut Receiver>, buffer: &mut BytesMut) -> io::Result<usize> {
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
fn read_now(pipe: &Receiver) -> Option<Bytes> {
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

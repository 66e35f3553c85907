//! The parts that programs and shells share: tokens, transferring output to a
//! client, detaching, and ending.

use std::io::{self, ErrorKind};
use std::ops::ControlFlow;
use std::os::fd::AsFd;

use bytes::{Bytes, BytesMut};
use rustix::process::Pid;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::time::Instant;

use isorun_agent::codec::{CHUNK_BYTES, CodecError, Frame};
use isorun_agent::protocol::{Failure, FailureKind, Status};

use super::conn::Conn;

/// The maximum length of a token, in bytes.
const MAX_TOKEN_BYTES: usize = 128;
/// The maximum number of parts of each pipe that are delivered after an exit.
/// Processes in the background may write forever.
const MAX_DRAINED_CHUNKS: usize = 16 * 1024 * 1024 / CHUNK_BYTES;

/// The reason why a session and its connection were separated without an error.
pub enum Outcome {
    /// The session has ended.
    Finished,
    /// A client can attach to the session on another connection.
    Detached,
}

/// Checks the length of a client's token.
pub fn check_token(token: &str) -> Result<(), Failure> {
    if token.is_empty() || token.len() > MAX_TOKEN_BYTES {
        let message = format!("the token has {} bytes: give 1 to {MAX_TOKEN_BYTES}", token.len());
        return Err(Failure { kind: FailureKind::Invalid, message });
    }
    Ok(())
}

/// Returns the first frame that a client gets when it is attached.
pub fn started(pid: Pid) -> Frame {
    Frame::Started { pid: pid.as_raw_nonzero().get().cast_unsigned() }
}

/// Sends the detach frame, and handles the frames that the client sent before it
/// read that. A handler that returns `Break` ends the session.
pub async fn detach(
    conn: &mut Conn,
    mut handle_frame: impl FnMut(Frame) -> Result<ControlFlow<()>, CodecError>,
) -> Result<Outcome, CodecError> {
    conn.writer.send(&Frame::Detach).await?;
    loop {
        match conn.next().await? {
            Frame::Detach => return Ok(Outcome::Detached),
            frame => {
                if handle_frame(frame)?.is_break() {
                    return Ok(Outcome::Finished);
                }
            }
        }
    }
}

/// Resolves at that time; never if there is none.
pub async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// The agent's ends of the output pipes of a session.
pub struct OutputPipes {
    pub stdout: OutputPipe,
    pub stderr: OutputPipe,
}

/// A pipe that is read. `None` after every process inside has closed it.
pub struct OutputPipe(Option<Receiver>);

impl OutputPipes {
    /// Creates the output of a session. With a terminal there is no pipe of standard
    /// error.
    pub fn new(stdout: Receiver, stderr: Option<Receiver>) -> Self {
        Self { stdout: OutputPipe(Some(stdout)), stderr: OutputPipe(stderr) }
    }

    /// Delivers the output that is in the pipes now, without the parts that the filter
    /// rejects.
    pub async fn drain(
        &self,
        conn: &mut Conn,
        filter: impl Fn(&[u8]) -> bool,
    ) -> Result<(), CodecError> {
        for (pipe, frame) in
            [(&self.stdout, Frame::Stdout as fn(Bytes) -> Frame), (&self.stderr, Frame::Stderr)]
        {
            for _ in 0..MAX_DRAINED_CHUNKS {
                let Some(bytes) = pipe.read_now() else { break };
                if filter(&bytes) {
                    conn.deliver(&frame(bytes)).await?;
                }
            }
        }
        Ok(())
    }

    /// Delivers the output that is in the pipes now, and the exit status. Later output
    /// of other processes is not waited for.
    pub async fn finish(&self, conn: &mut Conn, status: Status) -> Result<Outcome, CodecError> {
        self.drain(conn, |_| true).await?;
        conn.deliver(&Frame::Exited(status)).await?;
        Ok(Outcome::Finished)
    }

    /// Discards the output that is in the pipes now, such as that of a start.
    pub fn discard_now(&self) {
        for pipe in [&self.stdout, &self.stderr] {
            let mut left = MAX_DRAINED_CHUNKS;
            while left > 0 && pipe.read_now().is_some() {
                left -= 1;
            }
        }
    }

    /// Reads both pipes to their ends and discards the bytes, so that processes that
    /// are left running do not block.
    pub fn discard(&mut self) {
        for mut pipe in [self.stdout.0.take(), self.stderr.0.take()].into_iter().flatten() {
            tokio::task::spawn_local(async move {
                let mut buffer = vec![0; 4096];
                while matches!(pipe.read(&mut buffer).await, Ok(1..)) {}
            });
        }
    }
}

impl OutputPipe {
    /// Resolves with the next bytes; never after the end. May be cancelled.
    pub async fn next(&mut self, buffer: &mut BytesMut) -> Bytes {
        if let Some(pipe) = &mut self.0 {
            if let Ok(1..) = read(pipe, buffer).await {
                return buffer.split().freeze();
            }
            self.0 = None;
        }
        std::future::pending().await
    }

    /// Reads the bytes that are in the pipe now. The runtime may not know of them yet,
    /// so this calls the system directly.
    pub fn read_now(&self) -> Option<Bytes> {
        let pipe = self.0.as_ref()?;
        let mut buffer = vec![0; CHUNK_BYTES];
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
}

/// Reads once from a pipe and appends the bytes to a buffer. May be cancelled.
pub async fn read(pipe: &mut Receiver, buffer: &mut BytesMut) -> io::Result<usize> {
    buffer.reserve(CHUNK_BYTES);
    pipe.read_buf(buffer).await
}

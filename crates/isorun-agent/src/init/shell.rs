//! A persistent bash that runs one command after the other, each with its own
//! output and exit code.
//!
//! bash reads two lines for each command from its standard input, a pipe that is
//! not passed on to programs:
//!
//! ```text
//! . /proc/self/fd/99 <&97 >&96 2>&95   the command, in a file without a name
//! { __isorun_end 7f3a..; }             writes the marker and its exit code to a pipe
//! ```
//!
//! So no output and no unfinished syntax of a command (a quote, a here-document)
//! can be taken for its end, and its output is not modified. The standard input of
//! a command is empty. An interrupt makes bash continue with the next line, which
//! is the second one.
//!
//! The output of bash itself is discarded: the prompts, traces and traps that
//! belong to the lines above. A command has the streams 97, 96 and 95, and its
//! changes to its own streams (`exec >file`) are kept in them for the next command:
//! see [`script`].

use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use bytes::BytesMut;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use isorun_agent::codec::{CodecError, Frame};
use isorun_agent::protocol::{Exec, Failure, FailureKind, Run, Shell, Status};

use super::agent::Agent;
use super::cgroups::Cgroup;
use super::conn::Conn;
use super::freezer::{Deadline, until_frozen};
use super::interrupt::{Interruption, Step, Target};
use super::reaper::{Exit, OnStop};
use super::root;
use super::script::{self, COMMAND_FD, NULL_FD, STATUS_FD, STREAM_FDS};
use super::session::{self, Outcome, OutputPipes, read, until};
use super::spawn::{self, dup_high};

/// The time limit for bash to start.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// The maximum size of the output of background processes that is kept while no
/// client is attached, in bytes.
const MAX_KEPT_BYTES: usize = 64 * 1024;

/// A shell, and the state of its command.
pub struct ShellSession {
    token: String,
    pid: Pid,
    cgroup: Cgroup,
    exit: Exit,
    script: Sender,
    command: OwnedFd,
    status: Receiver,
    output: OutputPipes,
    /// The bytes that were read from `status`.
    line: BytesMut,
    /// The output that was not sent to a client yet.
    kept: [BytesMut; 2],
    job: Option<Job>,
    /// The exit code of the last command.
    last_exit_code: i32,
    /// The number of restores of the sandbox when the last command started.
    restores: u64,
}

/// A command in progress.
struct Job {
    /// The marker that precedes its exit code.
    marker: String,
    deadline: Option<Deadline>,
    /// The processes that ran in the shell's background before.
    background: Vec<Pid>,
    interruption: Option<Interruption>,
    /// The exit code of an interrupted command. bash is then queried once more, so that
    /// no interrupt remains pending that could hit the next command.
    exit_code: Option<i32>,
    /// The time of the next interrupt.
    next: Option<Instant>,
    timed_out: bool,
}

impl ShellSession {
    /// Starts a shell.
    pub async fn start(agent: &Agent, request: &Shell) -> Result<Self, Failure> {
        session::check_token(&request.token)?;
        let cgroup = agent.create_cgroup()?;
        let mut shell = match Self::spawn(agent, request, cgroup) {
            Ok(shell) => shell,
            Err((cgroup, failure)) => {
                agent.cgroups.release(cgroup);
                return Err(failure);
            }
        };
        shell.write_script(&script::preparation());
        if let Err(error) = shell.start_command(agent, &Run::default()) {
            shell.terminate(agent).await;
            return Err(failed(&error));
        }
        let prepared = async {
            tokio::select! {
                _ = read_exit_code(&mut shell.status, &mut shell.line, shell.job.as_ref()) => true,
                _ = shell.exit.wait() => false,
            }
        };
        let good = timeout(START_TIMEOUT, prepared).await.unwrap_or(false);
        let output = shell.output.stderr.read_now().unwrap_or_default();
        if !good {
            let output: String = String::from_utf8_lossy(&output).chars().take(500).collect();
            shell.terminate(agent).await;
            return Err(Failure {
                kind: FailureKind::Other,
                message: format!("bash did not start: {}", output.trim()),
            });
        }
        // This drops bash's warnings about the missing terminal.
        shell.job = None;
        agent.execs.set(agent.execs.get() + 1);
        Ok(shell)
    }

    fn spawn(agent: &Agent, request: &Shell, cgroup: Cgroup) -> Result<Self, (Cgroup, Failure)> {
        match Self::try_spawn(agent, request, &cgroup) {
            Ok((pid, pipes)) => Ok(Self {
                token: request.token.clone(),
                pid,
                cgroup,
                exit: agent.reaper.watch(pid, OnStop::Continue),
                script: pipes.script,
                command: pipes.command,
                status: pipes.status,
                output: pipes.output,
                line: BytesMut::new(),
                kept: Default::default(),
                job: None,
                last_exit_code: 0,
                restores: agent.restores.get(),
            }),
            Err(failure) => Err((cgroup, failure)),
        }
    }

    fn try_spawn(
        agent: &Agent,
        request: &Shell,
        cgroup: &Cgroup,
    ) -> Result<(Pid, ShellPipes), Failure> {
        let (pipes, streams) = create_pipes().map_err(|error| failed(&error))?;
        let exec = Exec {
            argv: ["bash", "--noediting", "--norc", "--noprofile", "-i"]
                .map(str::to_owned)
                .to_vec(),
            env: request.env.clone(),
            cwd: request.cwd.clone(),
            user: request.user.clone(),
            ..Exec::default()
        };
        let pid = spawn::spawn_with(&exec, &agent.cgroups, cgroup, streams)?;
        Ok((pid, pipes))
    }

    /// Returns the token with which a client can attach to it.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Serves a connection until either ends, or until the shell is detached. A client
    /// can attach to a shell whose connection has ended.
    pub async fn serve(&mut self, agent: &Agent, conn: &mut Conn) -> Result<Outcome, CodecError> {
        let mut frozen = agent.freezer.frozen();
        conn.writer.queue(&session::started(self.pid))?;
        for (kept, frame) in self.kept.iter_mut().zip([Frame::Stdout, Frame::Stderr]) {
            if !kept.is_empty() {
                conn.writer.queue(&frame(kept.split().freeze()))?;
            }
        }
        let (mut out, mut err) = (BytesMut::new(), BytesMut::new());
        loop {
            let idle = conn.writer.is_empty();
            let (deadline, next) = self
                .job
                .as_ref()
                .map_or((None, None), |job| (job.deadline.filter(|_| !job.timed_out), job.next));
            tokio::select! {
                biased;
                frame = conn.reader.next() => match frame? {
                    Some(frame) => {
                        if self.handle_frame(agent, frame)?.is_break() {
                            conn.deliver(&Frame::Exited(Status::Signal(1))).await?;
                            return Ok(Outcome::Finished);
                        }
                    }
                    None => return Err(CodecError::Truncated),
                },
                () = agent.freezer.until(deadline) => {
                    if let Some(job) = &mut self.job {
                        job.timed_out = true;
                    }
                    self.interrupt();
                }
                flushed = conn.writer.flush(), if !idle => flushed?,
                code = read_exit_code(&mut self.status, &mut self.line, self.job.as_ref()), if idle => {
                    if let Some(code) = self.on_exit_code(code) {
                        self.finish(code, conn).await?;
                    }
                }
                () = until(next) => self.advance_interruption(),
                bytes = self.output.stdout.next(&mut out), if idle => {
                    conn.writer.queue(&Frame::Stdout(bytes))?;
                }
                bytes = self.output.stderr.next(&mut err), if idle => {
                    conn.writer.queue(&Frame::Stderr(bytes))?;
                }
                status = self.exit.wait(), if idle => {
                    return self.output.finish(conn, status).await;
                }
                () = until_frozen(Some(&mut frozen)), if idle => {
                    return session::detach(conn, |frame| self.handle_frame(agent, frame)).await;
                }
            }
        }
    }

    /// Handles a frame of the client. Returns `Break` if the client closes the shell.
    fn handle_frame(&mut self, agent: &Agent, frame: Frame) -> Result<ControlFlow<()>, CodecError> {
        match frame {
            Frame::Run(run) if self.job.is_none() => {
                self.start_command(agent, &run).map_err(CodecError::Io)?;
            }
            Frame::Signal(_) => self.interrupt(),
            Frame::Close => return Ok(ControlFlow::Break(())),
            _ => return Err(CodecError::UnknownKind(0)),
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Writes a command to bash.
    fn start_command(&mut self, agent: &Agent, run: &Run) -> io::Result<()> {
        let marker = new_marker()?;
        let command = script::Command::new(&run.command, self.last_exit_code);
        spawn::rewrite(&self.command, &command.file)?;
        // Otherwise a copy would draw the same random numbers as its original.
        let restored = self.restores != agent.restores.get();
        self.restores = agent.restores.get();
        let script = format!("{}{}", command.line(restored), script::exit_code_query(&marker));
        // Must be read before the command starts processes.
        let background = self.cgroup.members();
        self.write_script(&script);
        self.job = Some(Job {
            marker,
            deadline: run.timeout_ms.map(|ms| agent.freezer.deadline(Duration::from_millis(ms))),
            background,
            interruption: None,
            exit_code: None,
            next: None,
            timed_out: false,
        });
        Ok(())
    }

    /// Writes lines to bash. A pipe holds far more than these lines. If it is full, the
    /// shell does not read any more, and the interrupts end it.
    fn write_script(&self, line: &str) {
        // The runtime may not know yet that there is room, so this calls the system
        // directly.
        let _ = rustix::io::write(self.script.as_fd(), line.as_bytes());
    }

    fn interrupt(&mut self) {
        if let Some(job) = &mut self.job
            && job.interruption.is_none()
        {
            job.interruption = Some(Interruption::default());
            job.next = Some(Instant::now());
        }
    }

    /// Handles an exit code. Returns the exit code of the command if the command has
    /// ended.
    fn on_exit_code(&mut self, code: i32) -> Option<i32> {
        let job = self.job.as_mut()?;
        let Some(interruption) = &mut job.interruption else { return Some(code) };
        if job.exit_code.is_some() {
            return job.exit_code;
        }
        // Without a new marker, the response to an earlier query would be accepted.
        let Ok(marker) = new_marker() else { return Some(code) };
        interruption.reset();
        job.marker = marker;
        job.exit_code = Some(code);
        job.next = Some(Instant::now());
        None
    }

    /// Interrupts the command, or queries whether the last interrupt has been handled.
    fn advance_interruption(&mut self) {
        let Some(job) = &mut self.job else { return };
        let Some(interruption) = &mut job.interruption else { return };
        let target = Target { bash: self.pid, cgroup: &self.cgroup, background: &job.background };
        let step = match job.exit_code {
            None => interruption.attempt(&target),
            Some(_) => Step::Interrupted(interruption.clear(&target)),
        };
        let (Step::Wait(pause) | Step::Interrupted(pause)) = step;
        job.next = Some(Instant::now() + pause);
        if let Step::Interrupted(_) = step {
            // bash discards the line that it was in, which may have been the one that
            // reports the exit code.
            let query = script::exit_code_query(&job.marker);
            self.write_script(&format!("\n{query}"));
        }
    }

    /// Completes a command that has ended. All of its output is in the pipes by now.
    async fn finish(&mut self, code: i32, conn: &mut Conn) -> Result<(), CodecError> {
        let interrupted = self.job.as_ref().is_some_and(|job| job.interruption.is_some());
        let timed_out = self.job.as_ref().is_some_and(|job| job.timed_out);
        // bash starts a new line when it is interrupted.
        let is_output = |bytes: &[u8]| !(interrupted && bytes.iter().all(|byte| *byte == b'\n'));
        self.output.drain(conn, is_output).await?;
        self.job = None;
        self.last_exit_code = code;
        let status = if timed_out { Status::TimedOut } else { Status::Code(code) };
        conn.deliver(&Frame::Ran(status)).await
    }

    /// Waits for a client to attach. Background processes continue, and the end of
    /// their output is kept. A running command blocks when the pipes are full.
    pub async fn idle<T>(&mut self, claims: &mut mpsc::Receiver<T>) -> Option<T> {
        let (mut out, mut err) = (BytesMut::new(), BytesMut::new());
        loop {
            let free = self.job.is_none();
            tokio::select! {
                claim = claims.recv() => return claim,
                bytes = self.output.stdout.next(&mut out), if free => {
                    append_kept(&mut self.kept[0], &bytes);
                }
                bytes = self.output.stderr.next(&mut err), if free => {
                    append_kept(&mut self.kept[1], &bytes);
                }
                // There is nothing to attach to after its exit.
                _ = self.exit.wait(), if free => return None,
            }
        }
    }

    /// Ends it like a closed terminal does: its processes get SIGHUP, and those that
    /// ignore the signal continue to run.
    pub async fn end(self, agent: &Agent) {
        agent.execs.set(agent.execs.get() - 1);
        self.terminate(agent).await;
    }

    async fn terminate(mut self, agent: &Agent) {
        // A stopped process handles SIGHUP when it is continued.
        let _ = kill_process_group(self.pid, Signal::HUP);
        let _ = kill_process_group(self.pid, Signal::CONT);
        let _ = kill_process(self.pid, Signal::KILL);
        if !self.exit.is_received() {
            let _ = timeout(Duration::from_secs(1), self.exit.wait()).await;
        }
        self.output.discard();
        agent.cgroups.release(self.cgroup);
    }
}

fn append_kept(kept: &mut BytesMut, new: &[u8]) {
    kept.extend_from_slice(new);
    if kept.len() > MAX_KEPT_BYTES {
        let _ = kept.split_to(kept.len() - MAX_KEPT_BYTES);
    }
}

/// Waits for the exit code of a job, and ignores other bytes in the pipe. May be
/// cancelled.
async fn read_exit_code(pipe: &mut Receiver, line: &mut BytesMut, job: Option<&Job>) -> i32 {
    const MAX_LINE_BYTES: usize = 4096;
    loop {
        while let Some(end) = line.iter().position(|byte| *byte == b'\n') {
            let bytes = line.split_to(end + 1);
            let text = String::from_utf8_lossy(&bytes);
            // A command may have written bytes before the marker.
            let code = job.and_then(|job| text.split_once(&*job.marker)?.1.trim().parse().ok());
            if let Some(code) = code {
                return code;
            }
        }
        if line.len() > MAX_LINE_BYTES {
            line.clear();
        }
        if !matches!(read(pipe, line).await, Ok(1..)) {
            // The shell closed it or exited. Its exit is handled elsewhere.
            std::future::pending::<()>().await;
        }
    }
}

/// Returns a random marker that programs cannot guess.
fn new_marker() -> io::Result<String> {
    let mut marker = [0; 8];
    rustix::rand::getrandom(&mut marker, rustix::rand::GetRandomFlags::empty())?;
    Ok(format!("{:x}", u64::from_le_bytes(marker)))
}

/// The agent's ends of the pipes of a shell.
struct ShellPipes {
    script: Sender,
    command: OwnedFd,
    status: Receiver,
    output: OutputPipes,
}

fn create_pipes() -> io::Result<(ShellPipes, Vec<(i32, OwnedFd)>)> {
    let (their_script, script) = io::pipe()?;
    let (stdout, their_stdout) = io::pipe()?;
    let (stderr, their_stderr) = io::pipe()?;
    let (status, their_status) = io::pipe()?;
    let command = spawn::text_file("command")?;
    let nothing = root::null()?;
    let [input, output, errors] = STREAM_FDS;
    let (kept_stdout, kept_stderr) = (their_stdout.try_clone()?, their_stderr.try_clone()?);
    let streams = vec![
        (0, their_script.into()),
        (1, their_stdout.into()),
        (2, their_stderr.into()),
        (input, dup_high(&nothing)?),
        (output, dup_high(&kept_stdout)?),
        (errors, dup_high(&kept_stderr)?),
        (NULL_FD, dup_high(&nothing)?),
        (STATUS_FD, dup_high(their_status)?),
        (COMMAND_FD, dup_high(&command)?),
    ];
    let pipes = ShellPipes {
        script: Sender::from_owned_fd(script.into())?,
        command,
        status: Receiver::from_owned_fd(status.into())?,
        output: OutputPipes::new(
            Receiver::from_owned_fd(stdout.into())?,
            Some(Receiver::from_owned_fd(stderr.into())?),
        ),
    };
    Ok((pipes, streams))
}

fn failed(error: &io::Error) -> Failure {
    Failure { kind: FailureKind::NoResources, message: format!("cannot start a shell: {error}") }
}

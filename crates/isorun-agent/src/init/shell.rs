//! A bash that stays: one command after the other, each with its own output and
//! exit code.
//!
//! bash reads two lines for each command from its standard input, a pipe that no
//! program has:
//!
//! ```text
//! . /proc/self/fd/99 <&97 >&96 2>&95   the command, in a file without a name
//! { __isorun_end 7f3a..; }             its exit code goes to a pipe, with that word
//! ```
//!
//! So nothing that a command says or leaves open (a quote, a here-document) can
//! be taken for the end of it, and its output stays as it is. What a command
//! reads is empty. An interrupt throws bash back to the next line, which is the
//! second one.
//!
//! bash itself has no output: the prompts, traces and traps that belong to our
//! lines go nowhere. A command has the streams 97, 96 and 95, and what it does to
//! its own (`exec >file`) is kept in them for the next command: see [`script`].

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use isorun_agent::codec::{CHUNK, CodecError, Frame, FrameReader, FrameWriter};
use isorun_agent::protocol::{Exec, Failure, FailureKind, Run, Shell as Request, Status};

use super::Agent;
use super::exec::{deliver, freezing, new_group, read, read_now, until};
use super::groups::Group;
use super::interrupt::{Interruption, Step, Target};
use super::reaper::OnStop;
use super::root;
use super::script::{self, COMMAND, NOTHING, STATUS, STREAMS};
use super::sessions::{self, Deadline, Session};
use super::spawn::{self, high};

/// How long bash may take to start.
const START: Duration = Duration::from_secs(20);
/// Output of what runs in the background that is kept while nobody listens.
const KEPT: usize = 64 * 1024;

/// A shell, and what it is doing.
pub struct Shell {
    token: String,
    pid: Pid,
    group: Group,
    /// `None` once it has told.
    ended: Option<oneshot::Receiver<Status>>,
    script: Sender,
    command: OwnedFd,
    status: Receiver,
    /// `None` once nothing inside has it any more.
    stdout: Option<Receiver>,
    stderr: Option<Receiver>,
    /// What was read of `status`.
    line: BytesMut,
    /// Output that nobody has heard.
    kept: [BytesMut; 2],
    job: Option<Job>,
    /// The exit code of the last command.
    last: i32,
    /// The restores of the sandbox that it knows of.
    restores: u64,
}

/// A command under way.
struct Job {
    /// What comes before its exit code.
    word: String,
    deadline: Option<Deadline>,
    /// What ran in the shell's background before.
    before: Vec<Pid>,
    interruption: Option<Interruption>,
    /// What an interrupted one came to. Then bash is asked once more, so that no
    /// interrupt is left that could hit the next command.
    outcome: Option<i32>,
    /// When to interrupt it next.
    next: Option<Instant>,
    timed_out: bool,
}

/// Starts a shell for a connection.
pub async fn run<R, W>(
    agent: &Rc<Agent>,
    request: &Request,
    reader: &mut FrameReader<R>,
    writer: &mut FrameWriter<W>,
) -> Result<(), CodecError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    match Shell::start(agent, request).await {
        Ok(shell) => {
            agent.execs.set(agent.execs.get() + 1);
            serve(agent, shell, reader, writer).await
        }
        Err(failure) => writer.send(&Frame::Failed(failure)).await,
    }
}

/// Serves a connection with a shell, until either ends. A shell whose connection
/// ends can be attached to.
pub async fn serve<R, W>(
    agent: &Rc<Agent>,
    mut shell: Shell,
    reader: &mut FrameReader<R>,
    writer: &mut FrameWriter<W>,
) -> Result<(), CodecError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let outcome = shell.serve(agent, reader, writer).await;
    if let Ok(Outcome::Over) = outcome {
        shell.end(agent).await;
    } else {
        let token = shell.token.clone();
        sessions::keep(agent, token, Session::Shell(Box::new(shell)));
    }
    outcome.map(|_| ())
}

enum Outcome {
    Over,
    Detached,
}

impl Shell {
    async fn start(agent: &Agent, request: &Request) -> Result<Self, Failure> {
        sessions::check(&request.token)?;
        let group = new_group(agent)?;
        let mut shell = match Self::spawn(agent, request, group) {
            Ok(shell) => shell,
            Err((group, failure)) => {
                agent.groups.release(group);
                return Err(failure);
            }
        };
        shell.say(&script::preparation());
        shell.begin(agent, &Run::default()).map_err(|error| failed(&error))?;
        let prepared = async {
            tokio::select! {
                _ = told(&mut shell.status, &mut shell.line, shell.job.as_ref()) => true,
                _ = death(&mut shell.ended) => false,
            }
        };
        let good = timeout(START, prepared).await.unwrap_or(false);
        let said = shell.stderr.as_ref().and_then(read_now).unwrap_or_default();
        if !good {
            let said: String = String::from_utf8_lossy(&said).chars().take(500).collect();
            shell.end_before_it_began(agent).await;
            return Err(Failure {
                kind: FailureKind::Other,
                message: format!("bash does not take commands: {}", said.trim()),
            });
        }
        // Its complaints about having no terminal are not the user's.
        shell.job = None;
        Ok(shell)
    }

    fn spawn(agent: &Agent, request: &Request, group: Group) -> Result<Self, (Group, Failure)> {
        match Self::try_spawn(agent, request, &group) {
            Ok((pid, ours)) => Ok(Self {
                token: request.token.clone(),
                pid,
                group,
                ended: Some(agent.reaper.watch(pid, OnStop::Continue)),
                script: ours.script,
                command: ours.command,
                status: ours.status,
                stdout: Some(ours.stdout),
                stderr: Some(ours.stderr),
                line: BytesMut::new(),
                kept: Default::default(),
                job: None,
                last: 0,
                restores: agent.restores.get(),
            }),
            Err(failure) => Err((group, failure)),
        }
    }

    fn try_spawn(agent: &Agent, request: &Request, group: &Group) -> Result<(Pid, Ours), Failure> {
        let (ours, streams) = connect().map_err(|error| failed(&error))?;
        let exec = Exec {
            argv: ["bash", "--noediting", "--norc", "--noprofile", "-i"]
                .map(str::to_owned)
                .to_vec(),
            env: request.env.clone(),
            cwd: request.cwd.clone(),
            user: request.user.clone(),
            ..Exec::default()
        };
        let pid = spawn::spawn_with(&exec, &agent.groups, group, streams)?;
        Ok((pid, ours))
    }

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
        let mut frozen = agent.sessions.frozen();
        writer.queue(&Frame::Started { pid: self.pid.as_raw_nonzero().get().cast_unsigned() })?;
        for (kept, frame) in self.kept.iter_mut().zip([Frame::Stdout, Frame::Stderr]) {
            if !kept.is_empty() {
                writer.queue(&frame(kept.split().freeze()))?;
            }
        }
        let (mut out, mut err) = (BytesMut::new(), BytesMut::new());
        loop {
            let idle = writer.is_empty();
            let (deadline, next) = self
                .job
                .as_ref()
                .map_or((None, None), |job| (job.deadline.filter(|_| !job.timed_out), job.next));
            tokio::select! {
                biased;
                frame = reader.next() => match frame? {
                    Some(Frame::Run(run)) if self.job.is_none() => {
                        self.begin(agent, &run).map_err(CodecError::Io)?;
                    }
                    Some(Frame::Signal(_)) => self.interrupt(),
                    Some(Frame::Close) => {
                        deliver(reader, writer, &Frame::Exited(Status::Signal(1))).await?;
                        return Ok(Outcome::Over);
                    }
                    Some(_) => return Err(CodecError::UnknownKind(0)),
                    None => return Err(CodecError::Truncated),
                },
                () = agent.sessions.until(deadline) => {
                    if let Some(job) = &mut self.job {
                        job.timed_out = true;
                    }
                    self.interrupt();
                }
                flushed = writer.flush(), if !idle => flushed?,
                code = told(&mut self.status, &mut self.line, self.job.as_ref()), if idle => {
                    if let Some(code) = self.settle(code) {
                        self.finish(code, reader, writer).await?;
                    }
                }
                () = until(next) => self.press(),
                count = read(self.stdout.as_mut(), &mut out), if idle => match count {
                    Ok(1..) => writer.queue(&Frame::Stdout(out.split().freeze()))?,
                    // A command has redirected it for good.
                    _ => self.stdout = None,
                },
                count = read(self.stderr.as_mut(), &mut err), if idle => match count {
                    Ok(1..) => writer.queue(&Frame::Stderr(err.split().freeze()))?,
                    _ => self.stderr = None,
                },
                status = death(&mut self.ended), if idle => {
                    return self.tell_end(Some(status), reader, writer).await;
                }
                () = freezing(Some(&mut frozen)), if idle => {
                    return self.detach(agent, reader, writer).await;
                }
            }
        }
    }

    /// Hands bash a command.
    fn begin(&mut self, agent: &Agent, run: &Run) -> io::Result<()> {
        let word = new_word()?;
        let command = script::Command::new(&run.command, self.last);
        spawn::rewrite(&self.command, &command.file)?;
        // A copy would draw the same numbers as its original.
        let restored = self.restores != agent.restores.get();
        self.restores = agent.restores.get();
        let script = format!("{}{}", command.line(restored), script::question(&word));
        // Afterwards what the command starts may be among them.
        let before = self.group.members();
        self.say(&script);
        self.job = Some(Job {
            word,
            deadline: run.timeout_ms.map(|ms| agent.sessions.deadline(Duration::from_millis(ms))),
            before,
            interruption: None,
            outcome: None,
            next: None,
            timed_out: false,
        });
        Ok(())
    }

    /// A pipe holds far more than these lines. One that is full belongs to a
    /// shell that is past listening, which the interrupts end.
    fn say(&self, line: &str) {
        // The runtime may not have heard that there is room, so this asks the
        // system.
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

    /// A job has told its exit code: whether that is the end of it.
    fn settle(&mut self, code: i32) -> Option<i32> {
        let job = self.job.as_mut()?;
        let Some(interruption) = &mut job.interruption else { return Some(code) };
        if job.outcome.is_some() {
            return job.outcome;
        }
        // Without a new word the answer to an earlier question would do.
        let Ok(word) = new_word() else { return Some(code) };
        interruption.restart();
        job.word = word;
        job.outcome = Some(code);
        job.next = Some(Instant::now());
        None
    }

    /// Interrupts what runs, or asks whether the last interrupt has arrived.
    fn press(&mut self) {
        let Some(job) = &mut self.job else { return };
        let Some(interruption) = &mut job.interruption else { return };
        let target = Target { bash: self.pid, group: &self.group, before: &job.before };
        let step = match job.outcome {
            None => interruption.press(&target),
            Some(_) => Step::Struck(interruption.clear(&target)),
        };
        let (Step::Wait(pause) | Step::Struck(pause)) = step;
        job.next = Some(Instant::now() + pause);
        if let Step::Struck(_) = step {
            // bash forgets the line that it was in, which may have been the one
            // that tells the end.
            let question = script::question(&job.word);
            self.say(&format!("\n{question}"));
        }
    }

    /// A command has ended: what it wrote is in the pipes by now.
    async fn finish<R, W>(
        &mut self,
        code: i32,
        reader: &mut FrameReader<R>,
        writer: &mut FrameWriter<W>,
    ) -> Result<(), CodecError>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let interrupted = self.job.as_ref().is_some_and(|job| job.interruption.is_some());
        let timed_out = self.job.as_ref().is_some_and(|job| job.timed_out);
        self.drain(interrupted, reader, writer).await?;
        self.job = None;
        self.last = code;
        let status = if timed_out { Status::TimedOut } else { Status::Code(code) };
        deliver(reader, writer, &Frame::Ran(status)).await
    }

    async fn drain<R, W>(
        &self,
        interrupted: bool,
        reader: &mut FrameReader<R>,
        writer: &mut FrameWriter<W>,
    ) -> Result<(), CodecError>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        for (pipe, frame) in
            [(&self.stdout, Frame::Stdout as fn(Bytes) -> Frame), (&self.stderr, Frame::Stderr)]
        {
            // What runs in the background may write for ever.
            let mut budget = 16 * 1024 * 1024 / CHUNK;
            while let Some(bytes) = pipe.as_ref().and_then(read_now) {
                // bash starts a new line when it is interrupted.
                if !(interrupted && bytes.iter().all(|byte| *byte == b'\n')) {
                    deliver(reader, writer, &frame(bytes)).await?;
                }
                budget -= 1;
                if budget == 0 {
                    break;
                }
            }
        }
        Ok(())
    }

    async fn tell_end<R, W>(
        &mut self,
        status: Option<Status>,
        reader: &mut FrameReader<R>,
        writer: &mut FrameWriter<W>,
    ) -> Result<Outcome, CodecError>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        self.drain(false, reader, writer).await?;
        deliver(reader, writer, &Frame::Exited(status.unwrap_or(Status::Signal(9)))).await?;
        Ok(Outcome::Over)
    }

    /// Says farewell, and does what the client had asked before it read that.
    async fn detach<R, W>(
        &mut self,
        agent: &Agent,
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
                Frame::Run(run) if self.job.is_none() => {
                    self.begin(agent, &run).map_err(CodecError::Io)?;
                }
                Frame::Signal(_) => self.interrupt(),
                Frame::Close => return Ok(Outcome::Over),
                _ => return Err(CodecError::UnknownKind(0)),
            }
        }
    }

    /// Waits without a connection. What runs in the background goes on, and the
    /// latest of what it writes is kept; a command that runs waits when the
    /// pipes are full.
    pub async fn idle(
        &mut self,
        claims: &mut mpsc::Receiver<oneshot::Sender<Session>>,
    ) -> Option<oneshot::Sender<Session>> {
        let (mut out, mut err) = (BytesMut::new(), BytesMut::new());
        loop {
            let free = self.job.is_none();
            tokio::select! {
                claim = claims.recv() => return claim,
                count = read(self.stdout.as_mut(), &mut out), if free => match count {
                    Ok(1..) => remember(&mut self.kept[0], &mut out),
                    _ => self.stdout = None,
                },
                count = read(self.stderr.as_mut(), &mut err), if free => match count {
                    Ok(1..) => remember(&mut self.kept[1], &mut err),
                    _ => self.stderr = None,
                },
                // With its end there is nothing to attach to.
                _ = death(&mut self.ended), if free => return None,
            }
        }
    }

    /// Ends it as a terminal that is closed would: what runs in it gets a
    /// hangup, and who does not care about that lives on.
    pub async fn end(self, agent: &Agent) {
        agent.execs.set(agent.execs.get() - 1);
        self.end_before_it_began(agent).await;
    }

    async fn end_before_it_began(mut self, agent: &Agent) {
        // What is stopped takes the hangup when it is continued.
        let _ = kill_process_group(self.pid, Signal::HUP);
        let _ = kill_process_group(self.pid, Signal::CONT);
        let _ = kill_process(self.pid, Signal::KILL);
        if self.ended.is_some() {
            let _ = timeout(Duration::from_secs(1), death(&mut self.ended)).await;
        }
        for pipe in [self.stdout, self.stderr].into_iter().flatten() {
            super::exec::swallow(pipe);
        }
        agent.groups.release(self.group);
    }
}

async fn death(ended: &mut Option<oneshot::Receiver<Status>>) -> Status {
    let Some(receiver) = ended else { return std::future::pending().await };
    let status = receiver.await.unwrap_or(Status::Signal(9));
    *ended = None;
    status
}

fn remember(kept: &mut BytesMut, new: &mut BytesMut) {
    kept.extend_from_slice(&new.split());
    if kept.len() > KEPT {
        let _ = kept.split_to(kept.len() - KEPT);
    }
}

/// Waits for the exit code of a job; anything else in the pipe is not ours. May
/// be cancelled.
async fn told(pipe: &mut Receiver, line: &mut BytesMut, job: Option<&Job>) -> i32 {
    const LONGEST: usize = 4096;
    loop {
        while let Some(end) = line.iter().position(|byte| *byte == b'\n') {
            let said = line.split_to(end + 1);
            let said = String::from_utf8_lossy(&said);
            // Something may stand before it that a command has left there.
            let code = job.and_then(|job| said.split_once(&*job.word)?.1.trim().parse().ok());
            if let Some(code) = code {
                return code;
            }
        }
        if line.len() > LONGEST {
            line.clear();
        }
        if !matches!(read(Some(pipe), line).await, Ok(1..)) {
            // The shell closed it, or is gone, which others notice.
            std::future::pending::<()>().await;
        }
    }
}

/// What nobody inside can know.
fn new_word() -> io::Result<String> {
    let mut word = [0; 8];
    rustix::rand::getrandom(&mut word, rustix::rand::GetRandomFlags::empty())?;
    Ok(format!("{:x}", u64::from_le_bytes(word)))
}

/// Our ends of what connects a shell.
struct Ours {
    script: Sender,
    command: OwnedFd,
    status: Receiver,
    stdout: Receiver,
    stderr: Receiver,
}

fn connect() -> io::Result<(Ours, Vec<(i32, OwnedFd)>)> {
    let (their_script, script) = io::pipe()?;
    let (stdout, their_stdout) = io::pipe()?;
    let (stderr, their_stderr) = io::pipe()?;
    let (status, their_status) = io::pipe()?;
    let command = spawn::text_file("command")?;
    let nothing = root::null()?;
    let [input, output, errors] = STREAMS;
    let (kept_stdout, kept_stderr) = (their_stdout.try_clone()?, their_stderr.try_clone()?);
    let streams = vec![
        (0, their_script.into()),
        (1, their_stdout.into()),
        (2, their_stderr.into()),
        (input, high(&nothing)?),
        (output, high(&kept_stdout)?),
        (errors, high(&kept_stderr)?),
        (NOTHING, high(&nothing)?),
        (STATUS, high(their_status)?),
        (COMMAND, high(&command)?),
    ];
    let ours = Ours {
        script: Sender::from_owned_fd(script.into())?,
        command,
        status: Receiver::from_owned_fd(status.into())?,
        stdout: Receiver::from_owned_fd(stdout.into())?,
        stderr: Receiver::from_owned_fd(stderr.into())?,
    };
    Ok((ours, streams))
}

fn failed(error: &io::Error) -> Failure {
    Failure { kind: FailureKind::NoResources, message: format!("cannot start a shell: {error}") }
}

//! The interpreter process of a context, and the streams between it and the agent.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::time::timeout;

use isorun_agent::code::NewContext;
use isorun_agent::protocol::{Exec, Failure, FailureKind, Status};
use isorun_agent::runner::{InvalidFrame, Kind, Part, PartDecoder};

use super::agent::Agent;
use super::cgroups::Cgroup;
use super::reaper::{Exit, OnStop};
use super::root;
use super::session::{OutputPipes, read};
use super::spawn::{self, dup_high};

/// The time limit for an interpreter to start. A Jupyter kernel takes seconds.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// The maximum number of characters of output that explain a failed start.
const MAX_EXPLANATION_CHARS: usize = 500;

/// The descriptors of the runner: its program, the frames of the agent, and its own.
const PROGRAM_FD: i32 = 96;
const CONTROL_FD: i32 = 97;
const EVENTS_FD: i32 = 98;

/// The sources of the runners. The agent contains them, so that an image needs the
/// interpreter only.
const PYTHON_SOURCES: [(&str, &str); 6] = [
    ("main", include_str!("../../../../runners/python/linux.py")),
    ("cells", include_str!("../../../../runners/python/cells.py")),
    ("cell_results", include_str!("../../../../runners/python/cell_results.py")),
    ("cell_magics", include_str!("../../../../runners/python/cell_magics.py")),
    ("cell_charts", include_str!("../../../../runners/python/cell_charts.py")),
    ("jupyter", include_str!("../../../../runners/python/jupyter.py")),
];
const JS_SOURCE: &str = include_str!("../../../../runners/js/linux.js");

/// Executes the main source, without a trace in the module `__main__`, which belongs to
/// the cells.
const PYTHON_BOOT: &str = "(lambda s:exec(compile(s['main'],'<isorun>','exec'),{'__name__':\
                           'isorun','sources':s}))(__import__('json').load(open(96,\
                           encoding='utf-8')))";
const JS_BOOT: &str = "require('vm').runInThisContext(require('fs').readFileSync(96,'utf8'),\
                       {filename:'isorun:runner'})(require,process,(name)=>import(name))";

/// A running interpreter that waits for a cell, or runs one.
pub struct Interpreter {
    pub pid: Pid,
    pub exit: Exit,
    pub output: OutputPipes,
    cgroup: Cgroup,
    control: Sender,
    /// The bytes that were not written to it yet.
    outgoing: BytesMut,
    events: Receiver,
    decoder: PartDecoder,
    /// The name of its kernel.
    pub kernel: String,
    /// The number of cells that were started.
    pub execution_count: u64,
    /// The end of the output between two cells, which belongs to the next cell.
    pub kept: [BytesMut; 2],
}

/// A failure of the stream of frames.
pub enum StreamError {
    /// The interpreter has closed it.
    Closed,
    /// It sent an invalid frame.
    Invalid(InvalidFrame),
}

impl Interpreter {
    /// Starts the interpreter of a language.
    pub async fn start(agent: &Agent, language: &str, spec: &NewContext) -> Result<Self, Failure> {
        let cgroup = agent.create_cgroup()?;
        let mut interpreter = match Self::spawn(agent, language, spec, &cgroup) {
            Ok((pid, pipes)) => Self {
                pid,
                cgroup,
                exit: agent.reaper.watch(pid, OnStop::Continue),
                control: pipes.control,
                outgoing: BytesMut::new(),
                events: pipes.events,
                decoder: PartDecoder::default(),
                output: pipes.output,
                kernel: String::new(),
                execution_count: 0,
                kept: Default::default(),
            },
            Err(failure) => {
                agent.cgroups.release(cgroup);
                return Err(failure);
            }
        };
        match timeout(START_TIMEOUT, interpreter.ready()).await {
            Ok(Ok(kernel)) => {
                interpreter.kernel = kernel;
                interpreter.output.discard_now();
            }
            outcome => {
                let failure = match outcome {
                    Ok(Err(Some(failure))) => failure,
                    Ok(_) => interpreter.explain("exited before it was ready"),
                    Err(_) => interpreter.explain("was not ready in time"),
                };
                interpreter.end(agent).await;
                return Err(failure);
            }
        }
        agent.execs.set(agent.execs.get() + 1);
        Ok(interpreter)
    }

    fn spawn(
        agent: &Agent,
        language: &str,
        spec: &NewContext,
        cgroup: &Cgroup,
    ) -> Result<(Pid, Pipes), Failure> {
        let (argv, program) = if language == "javascript" {
            (vec!["node", "--no-warnings", "-e", JS_BOOT], JS_SOURCE.to_owned())
        } else {
            let mut sources: serde_json::Map<String, serde_json::Value> = PYTHON_SOURCES
                .iter()
                .map(|(name, source)| ((*name).to_owned(), (*source).into()))
                .collect();
            sources.insert("language".to_owned(), language.into());
            let sources = serde_json::Value::from(sources);
            (vec!["python3", "-c", PYTHON_BOOT], sources.to_string())
        };
        let (pipes, streams) = create_pipes(&program).map_err(|error| failed(&error))?;
        let exec = Exec {
            argv: argv.into_iter().map(str::to_owned).collect(),
            env: spec.env.clone(),
            cwd: spec.cwd.clone(),
            user: spec.user.clone(),
            ..Exec::default()
        };
        let spawned = spawn::spawn_with(&exec, &agent.cgroups, cgroup, streams);
        let missing = |failure: Failure| {
            let program = exec.argv.first().map_or("", String::as_str);
            let is_missing = failure.kind == FailureKind::NotFound
                && failure.message.contains("there is no such program");
            if is_missing { no_interpreter(language, program) } else { failure }
        };
        Ok((spawned.map_err(missing)?, pipes))
    }

    /// Waits until the runner accepts cells, and returns the name of the kernel. `None` is
    /// an exit.
    async fn ready(&mut self) -> Result<String, Option<Failure>> {
        let mut text = BytesMut::new();
        let mut kind = None;
        loop {
            let part = tokio::select! {
                biased;
                part = next_part(&mut self.events, &mut self.decoder) => part.map_err(|_| None)?,
                _ = self.exit.wait() => return Err(None),
            };
            match part {
                Part::Start(started) => kind = Some(started),
                Part::Data(bytes) => text.extend_from_slice(&bytes),
                Part::End(_) => break,
            }
            if text.len() > isorun_agent::runner::MAX_CONTROL_BYTES {
                return Err(None);
            }
        }
        let text = String::from_utf8_lossy(&text).into_owned();
        match kind {
            Some(Kind::Ready) => Ok(text.chars().take(64).collect()),
            Some(Kind::Failed) => {
                let message = text.chars().take(4 * MAX_EXPLANATION_CHARS).collect();
                Err(Some(Failure { kind: FailureKind::NoInterpreter, message }))
            }
            _ => Err(None),
        }
    }

    fn explain(&self, what: &str) -> Failure {
        let output = self.output.stderr.read_now().unwrap_or_default();
        let output: String = String::from_utf8_lossy(&output).trim().to_owned();
        let skipped = output.chars().count().saturating_sub(MAX_EXPLANATION_CHARS);
        let output: String = output.chars().skip(skipped).collect();
        Failure {
            kind: FailureKind::NoInterpreter,
            message: format!("the interpreter {what}: {output}"),
        }
    }

    /// Queues a frame for it, which [`write`](Self::write) writes.
    pub fn queue(&mut self, frame: &Bytes) {
        self.outgoing.extend_from_slice(frame);
    }

    /// Writes what is queued; never resolves without an error. May be cancelled. The
    /// error means that it reads no more, which its exit reports as well.
    pub async fn write(control: &mut Sender, outgoing: &mut BytesMut) {
        while outgoing.has_remaining() {
            if control.write_buf(outgoing).await.is_err() {
                outgoing.clear();
            }
        }
        std::future::pending().await
    }

    /// Returns the parts that are used at the same time.
    pub fn streams(&mut self) -> Streams<'_> {
        Streams {
            exit: &mut self.exit,
            output: &mut self.output,
            control: &mut self.control,
            outgoing: &mut self.outgoing,
            events: &mut self.events,
            decoder: &mut self.decoder,
        }
    }

    /// Sends SIGINT to the interpreter and the processes that it has started in its
    /// process group, as a terminal does for Ctrl-C.
    pub fn interrupt(&self) {
        // It may have exited just now.
        let _ = kill_process_group(self.pid, Signal::INT);
    }

    /// Reminds it of an interrupt that it may have missed.
    pub fn remind(&self, language: &str) {
        // A second SIGINT would end the Python code that handles the first one; in Node.js only
        // SIGINT ends a script that runs.
        let signal = if language == "javascript" { Signal::INT } else { Signal::URG };
        let _ = kill_process(self.pid, signal);
    }

    /// Kills it with all processes that it has started.
    pub async fn kill(&self, agent: &Agent) {
        agent.cgroups.kill(&self.cgroup, self.pid).await;
    }

    /// Ends it with all processes that it has started, once it was ready.
    pub async fn finish(self, agent: &Agent) {
        agent.execs.set(agent.execs.get() - 1);
        self.end(agent).await;
    }

    async fn end(mut self, agent: &Agent) {
        self.kill(agent).await;
        if !self.exit.is_received() {
            let _ = timeout(Duration::from_secs(1), self.exit.wait()).await;
        }
        agent.cgroups.release(self.cgroup);
    }
}

/// The parts of an interpreter that are used at the same time.
pub struct Streams<'a> {
    pub exit: &'a mut Exit,
    pub output: &'a mut OutputPipes,
    pub control: &'a mut Sender,
    pub outgoing: &'a mut BytesMut,
    pub events: &'a mut Receiver,
    pub decoder: &'a mut PartDecoder,
}

/// Returns the next part of a frame. May be cancelled.
pub async fn next_part(
    events: &mut Receiver,
    decoder: &mut PartDecoder,
) -> Result<Part, StreamError> {
    loop {
        if let Some(part) = decoder.decode().map_err(StreamError::Invalid)? {
            return Ok(part);
        }
        if !matches!(read(events, decoder.buffer()).await, Ok(1..)) {
            return Err(StreamError::Closed);
        }
    }
}

/// Describes the end of an interpreter.
pub fn describe(status: Status) -> String {
    match status {
        Status::Code(code) => format!("the interpreter exited with code {code}"),
        Status::Signal(9) => "the interpreter was killed by signal 9 (SIGKILL)".to_owned(),
        Status::Signal(11) => "the interpreter was killed by signal 11 (SIGSEGV)".to_owned(),
        Status::Signal(signal) => format!("the interpreter was killed by signal {signal}"),
        Status::TimedOut => "the interpreter was killed at its time limit".to_owned(),
    }
}

struct Pipes {
    control: Sender,
    events: Receiver,
    output: OutputPipes,
}

fn create_pipes(program: &str) -> io::Result<(Pipes, Vec<(i32, OwnedFd)>)> {
    let source = spawn::text_file("runner")?;
    spawn::rewrite(&source, program)?;
    let (their_control, control) = io::pipe()?;
    let (events, their_events) = io::pipe()?;
    let (stdout, their_stdout) = io::pipe()?;
    let (stderr, their_stderr) = io::pipe()?;
    let streams = vec![
        (0, root::null()?),
        (1, their_stdout.into()),
        (2, their_stderr.into()),
        (PROGRAM_FD, dup_high(source.as_fd())?),
        (CONTROL_FD, dup_high(their_control)?),
        (EVENTS_FD, dup_high(their_events)?),
    ];
    let pipes = Pipes {
        control: Sender::from_owned_fd(control.into())?,
        events: Receiver::from_owned_fd(events.into())?,
        output: OutputPipes::new(
            Receiver::from_owned_fd(stdout.into())?,
            Some(Receiver::from_owned_fd(stderr.into())?),
        ),
    };
    Ok((pipes, streams))
}

fn no_interpreter(language: &str, program: &str) -> Failure {
    let images = match language {
        "javascript" => "use an image that has Node.js 18 or newer, such as `node`",
        _ => "use an image that has Python 3.8 or newer, such as `python`",
    };
    let message = format!("the image has no `{program}`, which runs {language}: {images}");
    Failure { kind: FailureKind::NoInterpreter, message }
}

fn failed(error: &io::Error) -> Failure {
    Failure {
        kind: FailureKind::NoResources,
        message: format!("cannot start an interpreter: {error}"),
    }
}

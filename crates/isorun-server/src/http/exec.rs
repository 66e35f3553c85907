//! Commands in a run. One task drives each, independent of the transport. When the
//! client disconnects, the command and its child processes are killed.

pub mod answer;
pub mod attach;
pub mod once;
pub mod output_buffer;
pub mod text;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use isorun_agent::{
    client::{self, ClientError, Connect, ExecControl, ExecEvent as AgentEvent},
    protocol::{self, FailureKind, Size, Status},
};
use isorun_engine::AgentStream;
use serde_json::json;
use tokio::{sync::mpsc, time::timeout};

use isorun_api::{Command, ExecEvent, ExecRequest, random_hex};

use super::{
    App,
    error::{ApiError, Code},
};
use crate::{
    config,
    core::{live_run::LiveRun, validate},
    store::Event,
};

/// The number of output pieces that are queued for a slow client before the program
/// blocks.
const OUTPUT_QUEUE: usize = 4;
/// The number of input pieces, up to 1 MiB each, that are queued for the program.
const INPUT_QUEUE: usize = 2;
/// The time after the timeout of a command that the agent has to report it.
const AGENT_TIMEOUT_GRACE: Duration = Duration::from_secs(5);
/// The largest number of characters of a command in the audit log.
const MAX_LOGGED_CHARS: usize = 4096;

/// A validated command.
pub struct CommandSpec {
    argv: Vec<String>,
    env: BTreeMap<String, String>,
    cwd: Option<String>,
    /// Zero for no timeout.
    timeout: Duration,
    pty: Option<Size>,
    /// True if the command has standard input.
    stdin: bool,
}

impl CommandSpec {
    pub fn new(request: &ExecRequest, stdin: bool) -> Result<Self, ApiError> {
        let argv = match &request.command {
            Command::Shell(line) => {
                validate::no_nul("command", line)?;
                if line.trim().is_empty() {
                    return Err(ApiError::invalid("command is empty: give a command line"));
                }
                vec!["/bin/sh".to_owned(), "-c".to_owned(), line.clone()]
            }
            Command::Program(argv) => {
                if argv.first().is_none_or(String::is_empty) {
                    return Err(ApiError::invalid(
                        "command names no program: give a list that starts with one",
                    ));
                }
                for (at, arg) in argv.iter().enumerate() {
                    validate::no_nul(&format!("command[{at}]"), arg)?;
                }
                argv.clone()
            }
        };
        Ok(Self {
            argv,
            env: request.env.clone().map_or_else(|| Ok(BTreeMap::new()), validate::env)?,
            cwd: request.cwd.as_deref().map(|cwd| validate::path("cwd", cwd)).transpose()?,
            timeout: request.timeout.map_or(Ok(config::DEFAULT_EXEC_TIMEOUT), |seconds| {
                validate::timeout("timeout", seconds)
            })?,
            pty: None,
            stdin,
        })
    }

    /// Runs the command on a terminal of the given size.
    pub fn on_terminal(mut self, size: Size) -> Self {
        self.pty = Some(size);
        self.stdin = true;
        self
    }
}

/// Output of a command.
pub enum CommandOutput {
    Stdout(Bytes),
    Stderr(Bytes),
    /// The exit status or an error. This is the last item.
    End(Result<Status, ApiError>),
}

/// Input of a command.
pub enum CommandInput {
    Data(Bytes),
    Eof,
    Signal(u32),
    Resize(Size),
}

/// A running command. Dropping `output` kills it.
pub struct RunningCommand {
    pub output: mpsc::Receiver<CommandOutput>,
    pub input: mpsc::Sender<CommandInput>,
}

/// Starts a command.
pub fn start(app: &App, run: &Arc<LiveRun>, spec: CommandSpec) -> Result<RunningCommand, ApiError> {
    run.require_linux("commands")?;
    if let Some(error) = run.not_running_error() {
        return Err(error.into());
    }
    app.core.guard.admit_command(&run.tenant)?;
    let (output, receiver) = mpsc::channel(OUTPUT_QUEUE);
    let (input, inputs) = mpsc::channel(INPUT_QUEUE);
    let task = drive(Arc::clone(app), Arc::clone(run), spec, output, inputs);
    app.core.tasks.spawn(task);
    Ok(RunningCommand { output: receiver, input })
}

async fn drive(
    app: App,
    run: Arc<LiveRun>,
    spec: CommandSpec,
    output: mpsc::Sender<CommandOutput>,
    inputs: mpsc::Receiver<CommandInput>,
) {
    let started = Instant::now();
    app.core.metrics.execs.inc();
    let id = random_hex::<8>().unwrap_or_default();
    let limit = spec.timeout;
    let end = tokio::select! {
        end = run.during(record_and_run(&app, &run, &id, spec, &output, inputs)) => Some(end),
        // The receiver was dropped. Dropping the future closes the connection.
        () = output.closed() => None,
    };
    app.core.metrics.exec_seconds.observe(started.elapsed().as_secs_f64());
    let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let details = match &end {
        None => json!({ "exec": id, "ms": ms, "end": "the client disconnected" }),
        Some(Ok(Status::TimedOut)) => json!({ "exec": id, "ms": ms, "end": "timeout" }),
        Some(Ok(status)) => {
            json!({ "exec": id, "ms": ms, "end": "exit", "exit_code": status.shell_code() })
        }
        Some(Err(error)) => json!({ "exec": id, "ms": ms, "end": error.code.name() }),
    };
    // No entries may follow the destruction of a run.
    let mut unrecorded = None;
    if run.status() != isorun_api::Status::Destroyed
        && let Err(error) = run.log.append_outcome(Event::ExecExit, details).await
    {
        tracing::error!(%error, run = %run.id, "cannot record the end of a command");
        unrecorded = error.is_of_cluster().then_some(error);
    }
    let end = match (end, unrecorded) {
        (None, _) => return,
        // What is answered with success is in the log of the cluster.
        (Some(Ok(_)), Some(error)) => Err(error.into()),
        (Some(Ok(Status::TimedOut)), None) => {
            app.core.metrics.exec_timeouts.inc();
            Err(ApiError::new(
                Code::ExecTimeout,
                format!(
                    "the command took longer than its timeout of {} s, and was killed with its \
                     child processes",
                    limit.as_secs_f64()
                ),
            ))
        }
        (Some(end), _) => end,
    };
    let _ = output.send(CommandOutput::End(end)).await;
}

async fn record_and_run(
    app: &App,
    run: &Arc<LiveRun>,
    id: &str,
    spec: CommandSpec,
    output: &mpsc::Sender<CommandOutput>,
    inputs: mpsc::Receiver<CommandInput>,
) -> Result<Status, ApiError> {
    let details =
        json!({ "exec": id, "command": shortened(&spec.argv), "tty": spec.pty.is_some() });
    let (recorded, stream) =
        tokio::join!(run.log.append(Event::ExecStart, details), app.core.connect(run));
    recorded?;
    let stream = stream?;
    let limit = spec.timeout;
    // The token allows reattaching to the command when the sandbox is forked meanwhile.
    let token = random_hex::<16>()
        .map_err(|error| ApiError::internal("cannot get random numbers", error))?;
    let request = protocol::Exec { token: Some(token), ..request(spec, run) };
    let work = relay(stream, connector(app, run), request, output, inputs);
    if limit.is_zero() {
        return work.await;
    }
    // The agent enforces the timeout. An agent that does not respond is abandoned.
    timeout(limit + AGENT_TIMEOUT_GRACE, work).await.unwrap_or_else(|_| {
        Err(ApiError::new(
            Code::ExecTimeout,
            format!(
                "the command took longer than its timeout of {} s, and the sandbox did not report \
                 its end: destroy the run if it does not recover",
                limit.as_secs_f64()
            ),
        ))
    })
}

fn request(spec: CommandSpec, run: &LiveRun) -> protocol::Exec {
    let mut env = run.defaults.env.clone();
    env.extend(spec.env);
    protocol::Exec {
        argv: spec.argv,
        env: env.into_iter().collect(),
        cwd: spec.cwd.or_else(|| run.defaults.workdir.clone()),
        user: run.defaults.user.clone(),
        timeout_ms: (!spec.timeout.is_zero())
            .then(|| u64::try_from(spec.timeout.as_millis()).unwrap_or(u64::MAX)),
        pty: spec.pty,
        stdin: spec.stdin,
        token: None,
    }
}

/// Returns a function that connects to the agent of a run, also after a hibernation.
pub fn connector(app: &App, run: &Arc<LiveRun>) -> Connect<AgentStream> {
    let (app, run) = (Arc::clone(app), Arc::clone(run));
    Arc::new(move || {
        let (app, run) = (Arc::clone(&app), Arc::clone(&run));
        Box::pin(async move {
            match app.core.connect(&run).await {
                Ok(stream) => Some(stream),
                Err(error) => {
                    let error = error.message;
                    tracing::debug!(error, run = %run.id, "cannot reach the sandbox");
                    // The caller reports the end of the run, or its hibernation.
                    run.wait_while_hibernating().await;
                    None
                }
            }
        })
    })
}

async fn relay(
    stream: AgentStream,
    connect: Connect<AgentStream>,
    request: protocol::Exec,
    output: &mpsc::Sender<CommandOutput>,
    mut inputs: mpsc::Receiver<CommandInput>,
) -> Result<Status, ApiError> {
    let exec = client::exec_with_reattach(stream, connect, request).await.map_err(agent_error)?;
    let (mut events, control) = (exec.events, exec.control);
    let receive_output = async {
        loop {
            let piece = match events.next().await.map_err(agent_error)? {
                AgentEvent::Stdout(bytes) => CommandOutput::Stdout(bytes),
                AgentEvent::Stderr(bytes) => CommandOutput::Stderr(bytes),
                AgentEvent::Exited(status) => return Ok(status),
            };
            // `drive` notices that the receiver was dropped.
            let _ = output.send(piece).await;
        }
    };
    let forward_input = async {
        while let Some(input) = inputs.recv().await {
            if handle_input(&control, input).await.is_err() {
                // The command has exited, which `receive_output` reports.
                break;
            }
        }
        std::future::pending().await
    };
    tokio::select! {
        end = receive_output => end,
        end = forward_input => end,
    }
}

async fn handle_input(
    control: &ExecControl<AgentStream>,
    input: CommandInput,
) -> Result<(), ClientError> {
    match input {
        CommandInput::Data(bytes) => control.stdin(bytes).await,
        CommandInput::Eof => control.stdin_end().await,
        CommandInput::Signal(signal) => control.signal(signal).await,
        CommandInput::Resize(size) => control.resize(size).await,
    }
}

fn shortened(argv: &[String]) -> serde_json::Value {
    let mut remaining = MAX_LOGGED_CHARS;
    let mut kept = Vec::new();
    for arg in argv {
        let piece: String = arg.chars().take(remaining).collect();
        remaining -= piece.chars().count();
        kept.push(piece);
        if remaining == 0 {
            return json!({ "argv": kept, "shortened": true });
        }
    }
    json!({ "argv": kept })
}

/// Converts an error of the agent into one for the client.
pub fn agent_error(error: ClientError) -> ApiError {
    match error {
        ClientError::Failed(failure) => {
            let code = match failure.kind {
                FailureKind::NotFound => Code::CommandNotFound,
                FailureKind::NoSpace | FailureKind::NoResources => Code::SandboxFull,
                FailureKind::NoContext => Code::ContextNotFound,
                FailureKind::ContextBusy => Code::ContextBusy,
                FailureKind::TooManyContexts => Code::TooManyContexts,
                FailureKind::NoInterpreter => Code::LanguageNotAvailable,
                _ => Code::InvalidRequest,
            };
            ApiError::new(code, failure.message)
        }
        ClientError::TooLong(_) => ApiError::new(Code::TooLarge, error.to_string()),
        ClientError::Disconnected | ClientError::Protocol(_) => {
            ApiError::new(Code::Unavailable, error.to_string())
        }
        ClientError::Local(_) => ApiError::invalid(error.to_string()),
    }
}

/// Returns the last event of a command.
fn final_event(end: Result<Status, ApiError>) -> ExecEvent {
    match end {
        Ok(status) => ExecEvent::Exit { exit_code: status.shell_code() },
        Err(error) => ExecEvent::Error {
            status: error.code.status().as_u16(),
            code: error.code.name().to_owned(),
            error: error.message,
        },
    }
}

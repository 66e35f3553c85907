//! Commands in a run: one task drives each, whoever listens. When the listener
//! goes away the command is killed, with all that it started.

mod answer;
pub mod attach;
mod held;
pub mod once;
mod text;

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

use super::{ApiError, App, Code, config, order, runs::LiveRun};
use crate::{
    api::{Command, ExecEvent, ExecRequest},
    audit::Event,
    id::random_hex,
};

/// Pieces of output that wait for a slow listener; then the program waits.
const OUTPUT_QUEUE: usize = 4;
/// Pieces of input, up to 1 MiB each, that wait for the program.
const INPUT_QUEUE: usize = 2;
/// How much later than the agent the server gives up by itself.
const GRACE: Duration = Duration::from_secs(5);
/// How much of a command stands in the audit log.
const LOGGED: usize = 4096;

/// A command that can be run.
pub struct Task {
    argv: Vec<String>,
    env: BTreeMap<String, String>,
    cwd: Option<String>,
    /// Zero for never.
    timeout: Duration,
    pty: Option<Size>,
    /// Whether input will come.
    stdin: bool,
}

impl Task {
    pub fn new(request: &ExecRequest, stdin: bool) -> Result<Self, ApiError> {
        let argv = match &request.command {
            Command::Shell(line) => {
                order::no_nul("command", line)?;
                if line.trim().is_empty() {
                    return Err(ApiError::invalid("command is empty"));
                }
                vec!["/bin/sh".to_owned(), "-c".to_owned(), line.clone()]
            }
            Command::Program(argv) => {
                if argv.first().is_none_or(String::is_empty) {
                    return Err(ApiError::invalid("command names no program"));
                }
                for (at, arg) in argv.iter().enumerate() {
                    order::no_nul(&format!("command[{at}]"), arg)?;
                }
                argv.clone()
            }
        };
        Ok(Self {
            argv,
            env: request.env.clone().map_or_else(|| Ok(BTreeMap::new()), order::env)?,
            cwd: request.cwd.as_deref().map(|cwd| order::path("cwd", cwd)).transpose()?,
            timeout: request.timeout.map_or(Ok(config::DEFAULT_EXEC_TIMEOUT), |seconds| {
                order::timeout("timeout", seconds)
            })?,
            pty: None,
            stdin,
        })
    }

    /// On a terminal of this size, without an end unless one was asked for.
    pub fn on_terminal(mut self, size: Size) -> Self {
        self.pty = Some(size);
        self.stdin = true;
        self
    }
}

/// What a command does.
pub enum Output {
    Stdout(Bytes),
    Stderr(Bytes),
    /// The last one.
    End(Result<Status, ApiError>),
}

/// What is done to a command.
pub enum Input {
    Data(Bytes),
    Eof,
    Signal(u32),
    Resize(Size),
}

/// A command under way. Dropping `output` kills it.
pub struct Running {
    pub output: mpsc::Receiver<Output>,
    pub input: mpsc::Sender<Input>,
}

/// Starts a command.
pub fn start(app: &App, run: &Arc<LiveRun>, task: Task) -> Result<Running, ApiError> {
    if let Some(trouble) = run.trouble() {
        return Err(trouble);
    }
    app.guard.admit_command(&run.tenant)?;
    let (output, listener) = mpsc::channel(OUTPUT_QUEUE);
    let (input, orders) = mpsc::channel(INPUT_QUEUE);
    let driver = drive(Arc::clone(app), Arc::clone(run), task, output, orders);
    app.tasks.spawn(driver);
    Ok(Running { output: listener, input })
}

async fn drive(
    app: App,
    run: Arc<LiveRun>,
    task: Task,
    output: mpsc::Sender<Output>,
    orders: mpsc::Receiver<Input>,
) {
    let started = Instant::now();
    app.metrics.execs.inc();
    let id = random_hex::<8>().unwrap_or_default();
    let limit = task.timeout;
    let end = tokio::select! {
        end = run.during(record_and_run(&app, &run, &id, task, &output, orders)) => Some(end),
        // Nobody listens any more. Dropping the work drops the connection.
        () = output.closed() => None,
    };
    app.metrics.exec_seconds.observe(started.elapsed().as_secs_f64());
    let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let what = match &end {
        None => json!({ "exec": id, "ms": ms, "end": "the client went away" }),
        Some(Ok(Status::TimedOut)) => json!({ "exec": id, "ms": ms, "end": "timeout" }),
        Some(Ok(status)) => {
            json!({ "exec": id, "ms": ms, "end": "exit", "exit_code": status.shell_code() })
        }
        Some(Err(error)) => json!({ "exec": id, "ms": ms, "end": error.code.name() }),
    };
    // The log of a destroyed run has ended.
    if run.status() != crate::api::Status::Destroyed
        && let Err(error) = run.log.append(Event::ExecExit, what).await
    {
        tracing::error!(%error, run = %run.id, "cannot record the end of a command");
    }
    let end = match end {
        None => return,
        Some(Ok(Status::TimedOut)) => {
            app.metrics.exec_timeouts.inc();
            Err(ApiError::new(
                Code::ExecTimeout,
                format!(
                    "the command took longer than its timeout of {} s, and was killed with all \
                     that it had started",
                    limit.as_secs_f64()
                ),
            ))
        }
        Some(end) => end,
    };
    let _ = output.send(Output::End(end)).await;
}

async fn record_and_run(
    app: &App,
    run: &Arc<LiveRun>,
    id: &str,
    task: Task,
    output: &mpsc::Sender<Output>,
    orders: mpsc::Receiver<Input>,
) -> Result<Status, ApiError> {
    let what = json!({ "exec": id, "command": shortened(&task.argv), "tty": task.pty.is_some() });
    let (recorded, stream) = tokio::join!(run.log.append(Event::ExecStart, what), app.connect(run));
    recorded?;
    let stream = stream?;
    let limit = task.timeout;
    // So that it goes on when the sandbox is copied meanwhile.
    let token = random_hex::<16>().map_err(|error| ApiError::internal("no random", error))?;
    let request = protocol::Exec { token: Some(token), ..request(task, run) };
    let work = converse(stream, connector(app, run), request, output, orders);
    if limit.is_zero() {
        return work.await;
    }
    // The agent keeps time. One that does not is given up.
    timeout(limit + GRACE, work).await.unwrap_or_else(|_| {
        Err(ApiError::new(
            Code::ExecTimeout,
            format!(
                "the command took longer than its timeout of {} s, and the sandbox is too busy to \
                 say that it ended: destroy the run if it does not recover",
                limit.as_secs_f64()
            ),
        ))
    })
}

fn request(task: Task, run: &LiveRun) -> protocol::Exec {
    let mut env = run.defaults.env.clone();
    env.extend(task.env);
    protocol::Exec {
        argv: task.argv,
        env: env.into_iter().collect(),
        cwd: task.cwd.or_else(|| run.defaults.workdir.clone()),
        user: run.defaults.user.clone(),
        timeout_ms: (!task.timeout.is_zero())
            .then(|| u64::try_from(task.timeout.as_millis()).unwrap_or(u64::MAX)),
        pty: task.pty,
        stdin: task.stdin,
        token: None,
    }
}

/// A way to the agent of a run, also after it was away for a while.
pub fn connector(app: &App, run: &Arc<LiveRun>) -> Connect<AgentStream> {
    let (app, run) = (Arc::clone(app), Arc::clone(run));
    Arc::new(move || {
        let (app, run) = (Arc::clone(&app), Arc::clone(&run));
        Box::pin(async move {
            match app.connect(&run).await {
                Ok(stream) => Some(stream),
                Err(error) => {
                    let error = error.message;
                    tracing::debug!(error, run = %run.id, "cannot reach the sandbox");
                    // Its end, or its rest, is what to tell.
                    run.settled().await;
                    None
                }
            }
        })
    })
}

async fn converse(
    stream: AgentStream,
    connect: Connect<AgentStream>,
    request: protocol::Exec,
    output: &mpsc::Sender<Output>,
    mut orders: mpsc::Receiver<Input>,
) -> Result<Status, ApiError> {
    let exec = client::exec_lasting(stream, connect, request).await.map_err(agent_error)?;
    let (mut events, control) = (exec.events, exec.control);
    let listen = async {
        loop {
            let piece = match events.next().await.map_err(agent_error)? {
                AgentEvent::Stdout(bytes) => Output::Stdout(bytes),
                AgentEvent::Stderr(bytes) => Output::Stderr(bytes),
                AgentEvent::Exited(status) => return Ok(status),
            };
            // A listener that went away is noticed elsewhere.
            let _ = output.send(piece).await;
        }
    };
    let speak = async {
        while let Some(order) = orders.recv().await {
            if obey(&control, order).await.is_err() {
                // It has ended, which the other half tells.
                break;
            }
        }
        std::future::pending().await
    };
    tokio::select! {
        end = listen => end,
        end = speak => end,
    }
}

async fn obey(control: &ExecControl<AgentStream>, order: Input) -> Result<(), ClientError> {
    match order {
        Input::Data(bytes) => control.stdin(bytes).await,
        Input::Eof => control.stdin_end().await,
        Input::Signal(signal) => control.signal(signal).await,
        Input::Resize(size) => control.resize(size).await,
    }
}

fn shortened(argv: &[String]) -> serde_json::Value {
    let mut room = LOGGED;
    let mut kept = Vec::new();
    for arg in argv {
        let piece: String = arg.chars().take(room).collect();
        room -= piece.chars().count();
        kept.push(piece);
        if room == 0 {
            return json!({ "argv": kept, "shortened": true });
        }
    }
    json!({ "argv": kept })
}

/// What the caller is told of an agent's trouble.
pub fn agent_error(error: ClientError) -> ApiError {
    match error {
        ClientError::Failed(failure) => {
            let code = match failure.kind {
                FailureKind::NotFound => Code::CommandNotFound,
                FailureKind::NoSpace | FailureKind::NoResources => Code::SandboxFull,
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

/// The last event of a command.
fn ending(end: Result<Status, ApiError>) -> ExecEvent {
    match end {
        Ok(status) => ExecEvent::Exit { exit_code: status.shell_code() },
        Err(error) => ExecEvent::Error {
            status: error.code.status().as_u16(),
            code: error.code.name().to_owned(),
            error: error.message,
        },
    }
}

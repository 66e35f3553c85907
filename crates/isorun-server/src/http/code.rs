//! Code in the contexts of a run. One task drives each cell, independent of the transport.
//! When the client disconnects, the cell is interrupted, and its context is kept.

#[cfg(any(test, feature = "fuzzing"))]
pub use guest_event::fuzz as fuzz_guest_event;

mod guest_event;
pub mod interpreter;
pub mod once;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use isorun_agent::{
    client::{self, CellEvent, ClientError},
    code::{Code as CodeOrder, NewContext},
};
use isorun_api::{CodeError, CodeRequest, random_hex};
use serde_json::json;
use tokio::{sync::mpsc, time::timeout};

use super::{
    App,
    error::{ApiError, Code},
    exec::{agent_error, connector},
};
use crate::{
    config,
    core::{
        accounts::ledger::Hold,
        live_run::{IdleCell, LiveRun},
        validate,
    },
    store::Event,
};

use self::guest_event::{GuestEvent, GuestResult};

/// The number of events that are queued for a slow client before the code blocks.
const EVENT_QUEUE: usize = 4;
/// The time, after the timeout of a cell, that the agent has to report its end: the start of
/// a kernel, and the time that an interrupted cell gets.
const AGENT_TIMEOUT_GRACE: Duration = Duration::from_secs(80);
/// The largest number of characters of code in the audit log.
const MAX_LOGGED_CHARS: usize = 4096;

/// A validated cell.
pub struct CellSpec {
    order: CodeOrder,
    /// Zero for no timeout.
    timeout: Duration,
}

impl CellSpec {
    pub fn new(request: CodeRequest, run: &LiveRun) -> Result<Self, ApiError> {
        let timeout = request.timeout.map_or(Ok(config::DEFAULT_EXEC_TIMEOUT), |seconds| {
            validate::timeout("timeout", seconds)
        })?;
        let milliseconds = || u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).max(1);
        let order = CodeOrder {
            context: request.context,
            new: new_context(run, request.language, None),
            code: request.code,
            timeout_ms: (!timeout.is_zero()).then(milliseconds),
            token: random_hex::<16>()
                .map_err(|error| ApiError::internal("cannot get random numbers", error))?,
        };
        Ok(Self { order, timeout })
    }
}

/// Returns the properties of a context that has to be created.
pub fn new_context(run: &LiveRun, language: Option<String>, cwd: Option<String>) -> NewContext {
    NewContext {
        language,
        cwd: cwd.or_else(|| run.defaults.workdir.clone()),
        env: run.defaults.env.clone().into_iter().collect(),
        user: run.defaults.user.clone(),
        max_contexts: config::MAX_CONTEXTS,
    }
}

/// An event of a cell.
pub enum CellOutput {
    Stdout(Bytes),
    Stderr(Bytes),
    /// A result, with the memory that was reserved for it.
    Result(GuestResult, Option<Hold>),
    Error(CodeError),
    /// The number of the cell, or an error of the request. This is the last item.
    End(Result<u64, ApiError>),
}

/// A running cell. Dropping it interrupts the cell.
pub struct RunningCell {
    pub output: mpsc::Receiver<CellOutput>,
}

/// Starts a cell.
pub fn start(app: &App, run: &Arc<LiveRun>, spec: CellSpec) -> Result<RunningCell, ApiError> {
    if let Some(error) = run.not_running_error() {
        return Err(error.into());
    }
    app.core.guard.admit_command(&run.tenant)?;
    let (sender, output) = mpsc::channel(EVENT_QUEUE);
    app.core.tasks.spawn(drive(Arc::clone(app), Arc::clone(run), spec, sender));
    Ok(RunningCell { output })
}

async fn drive(app: App, run: Arc<LiveRun>, spec: CellSpec, output: mpsc::Sender<CellOutput>) {
    let started = Instant::now();
    app.core.metrics.execs.inc();
    let id = random_hex::<8>().unwrap_or_default();
    let mut error_name = None;
    let end = tokio::select! {
        end = run.during(record_and_run(&app, &run, &id, spec, &output, &mut error_name)) => {
            Some(end)
        }
        // The receiver was dropped. Dropping the future closes the connection.
        () = output.closed() => None,
    };
    app.core.metrics.exec_seconds.observe(started.elapsed().as_secs_f64());
    let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let details = match &end {
        None => json!({ "code": id, "ms": ms, "end": "the client disconnected" }),
        Some(Ok(count)) => {
            let end = if error_name.is_some() { "error" } else { "ok" };
            let mut details = json!({ "code": id, "ms": ms, "end": end, "execution_count": count });
            if let (Some(name), Some(details)) = (error_name, details.as_object_mut()) {
                details.insert("error".to_owned(), name.into());
            }
            details
        }
        Some(Err(error)) => json!({ "code": id, "ms": ms, "end": error.code.name() }),
    };
    let record = async {
        // No entries may follow the destruction of a run.
        if run.status() != isorun_api::Status::Destroyed
            && let Err(error) = run.log.append_outcome(Event::CodeEnd, details).await
        {
            tracing::error!(%error, run = %run.id, "cannot record the end of a cell");
        }
    };
    let report = async {
        if let Some(end) = end {
            let _ = output.send(CellOutput::End(end)).await;
        }
    };
    // A cell takes about as long as its entry in the log: the client does not wait for it.
    tokio::join!(report, record);
}

async fn record_and_run(
    app: &App,
    run: &Arc<LiveRun>,
    id: &str,
    spec: CellSpec,
    output: &mpsc::Sender<CellOutput>,
    error_name: &mut Option<String>,
) -> Result<u64, ApiError> {
    let logged: String = spec.order.code.chars().take(MAX_LOGGED_CHARS).collect();
    let details = json!({
        "code": id, "language": spec.order.new.language, "context": spec.order.context,
        "text": logged,
    });
    if run.interpreter.is_some() {
        run.log.append(Event::CodeStart, details).await?;
        return interpreter::relay(app, run, spec, output, error_name).await;
    }
    let limit = spec.timeout;
    let work = async {
        let (recorded, cell) = tokio::join!(
            run.log.append(Event::CodeStart, details),
            connected_cell(app, run, spec.order)
        );
        recorded?;
        relay(app, run, cell?, output, error_name).await
    };
    if limit.is_zero() {
        return work.await;
    }
    // The agent enforces the timeout. An agent that does not respond is abandoned.
    timeout(limit + AGENT_TIMEOUT_GRACE, work).await.unwrap_or_else(|_| {
        Err(ApiError::new(
            Code::ExecTimeout,
            format!(
                "the cell took longer than its timeout of {} s, and the sandbox did not report its \
                 end: destroy the run if it does not recover",
                limit.as_secs_f64()
            ),
        ))
    })
}

/// Starts a cell, on the connection of the last one if it is still open.
async fn connected_cell(
    app: &App,
    run: &Arc<LiveRun>,
    order: CodeOrder,
) -> Result<IdleCell, ApiError> {
    if let Some(idle) = run.take_idle_cell() {
        match idle.next_cell(connector(app, run), order.clone()).await {
            // The agent has closed it before it got the request.
            Err(ClientError::Disconnected) => {}
            cell => return cell.map_err(agent_error),
        }
    }
    let stream = app.core.connect(run).await?;
    client::code(stream, connector(app, run), order).await.map_err(agent_error)
}

async fn relay(
    app: &App,
    run: &Arc<LiveRun>,
    mut cell: IdleCell,
    output: &mpsc::Sender<CellOutput>,
    error_name: &mut Option<String>,
) -> Result<u64, ApiError> {
    let mut assembly = Assembly::default();
    loop {
        let item = match cell.events.next().await.map_err(agent_error)? {
            CellEvent::Stdout(bytes) => CellOutput::Stdout(bytes),
            CellEvent::Stderr(bytes) => CellOutput::Stderr(bytes),
            CellEvent::End(end) => {
                run.keep_idle_cell(cell);
                return Ok(end.execution_count);
            }
            CellEvent::Part { bytes, is_last } => {
                match assembly.add(app, run, &bytes, is_last) {
                    Ok(None) => continue,
                    Ok(Some(item)) => item,
                    // The code has written it. Dropping the connection interrupts the cell.
                    Err(why) => {
                        let error = CodeError {
                            name: "ContextDied".to_owned(),
                            value: format!(
                                "the interpreter sent an invalid event ({why}), and the cell was \
                                 interrupted"
                            ),
                            traceback: String::new(),
                        };
                        *error_name = Some(error.name.clone());
                        let _ = output.send(CellOutput::Error(error)).await;
                        return Ok(0);
                    }
                }
            }
        };
        if let CellOutput::Error(error) = &item {
            *error_name = Some(error.name.chars().take(100).collect());
        }
        // `drive` notices that the receiver was dropped.
        let _ = output.send(item).await;
    }
}

/// An event that has not arrived completely, with the memory that is reserved for it.
#[derive(Default)]
struct Assembly {
    bytes: BytesMut,
    hold: Option<Hold>,
    /// The number of bytes that were dropped, since there was no memory for the event.
    dropped: usize,
}

impl Assembly {
    /// Adds a part, and returns the event after the last one.
    fn add(
        &mut self,
        app: &App,
        run: &LiveRun,
        part: &Bytes,
        is_last: bool,
    ) -> Result<Option<CellOutput>, String> {
        let size = u64::try_from(part.len()).unwrap_or(u64::MAX);
        let is_held = self.dropped == 0
            && match &mut self.hold {
                Some(hold) => hold.grow(size).is_ok(),
                None => {
                    self.hold = app.core.accounts.memory.take(&run.tenant, size).ok();
                    self.hold.is_some()
                }
            };
        if is_held {
            self.bytes.extend_from_slice(part);
        } else {
            self.dropped += part.len() + self.bytes.len();
            self.bytes = BytesMut::new();
            self.hold = None;
        }
        if !is_last {
            return Ok(None);
        }
        let Self { bytes, hold, dropped } = std::mem::take(self);
        if part.is_empty() {
            return Ok(None);
        }
        if dropped > 0 {
            return Ok(Some(CellOutput::Result(guest_event::without_memory(dropped), None)));
        }
        Ok(Some(match guest_event::parse(&bytes)? {
            GuestEvent::Result(result) => CellOutput::Result(result, hold),
            GuestEvent::Error(error) => CellOutput::Error(error),
        }))
    }
}

//! Code and contexts of a run that is an interpreter.

use std::sync::Arc;

use bytes::Bytes;
use isorun_api::{Context, ContextList, ContextStatus};
use isorun_interpreter::{Cell, CodeContext, CodeEvent, Error as InterpreterError, FileErrorKind};
use tokio::sync::mpsc;

use super::{Assembly, CellOutput, CellSpec, EVENT_QUEUE};
use crate::{
    core::{engines::engine_error, error::Error, live_run::LiveRun},
    http::{
        App,
        error::{ApiError, Code},
    },
};

/// Runs a cell, and passes on its events. Dropping the future interrupts the cell.
pub async fn relay(
    app: &App,
    run: &Arc<LiveRun>,
    spec: CellSpec,
    output: &mpsc::Sender<CellOutput>,
    error_name: &mut Option<String>,
) -> Result<u64, ApiError> {
    let cell = Cell {
        code: spec.order.code,
        language: spec.order.new.language,
        context: spec.order.context,
        timeout: (!spec.timeout.is_zero()).then_some(spec.timeout),
    };
    let (sender, mut events) = mpsc::channel(EVENT_QUEUE);
    let running = app.core.engines.interpreters.run_code(&run.sandbox, cell, sender);
    let passing = async {
        let mut count = 0;
        while let Some(event) = events.recv().await {
            let item = match event {
                CodeEvent::Stdout { text } => CellOutput::Stdout(Bytes::from(text)),
                CodeEvent::Stderr { text } => CellOutput::Stderr(Bytes::from(text)),
                CodeEvent::End { execution_count } => {
                    count = execution_count;
                    continue;
                }
                // Checked, and counted as memory of the tenant, like the events of an agent.
                event => match assembled(app, run, &event) {
                    Some(item) => item,
                    None => continue,
                },
            };
            if let CellOutput::Error(error) = &item {
                *error_name = Some(error.name.chars().take(100).collect());
            }
            // `drive` notices that the receiver was dropped.
            let _ = output.send(item).await;
        }
        count
    };
    let (ended, count) = tokio::join!(running, passing);
    ended.map_err(|error| api_error(run, error))?;
    Ok(count)
}

fn assembled(app: &App, run: &LiveRun, event: &CodeEvent) -> Option<CellOutput> {
    let bytes = Bytes::from(serde_json::to_vec(event).ok()?);
    let added = Assembly::default().add(app, run, &bytes, true);
    added.unwrap_or_else(|why| {
        tracing::warn!(run = %run.id, why, "an interpreter sent an invalid event");
        None
    })
}

/// Lists the contexts.
pub async fn contexts(app: &App, run: &LiveRun) -> Result<axum::Json<ContextList>, ApiError> {
    let listing = async {
        let listed = app.core.engines.interpreters.contexts(&run.sandbox).await;
        listed.map_err(|error| api_error(run, error))
    };
    let contexts = run.during(listing).await?.into_iter();
    let contexts = contexts.map(|state| describe(state.context, state.is_busy)).collect();
    Ok(axum::Json(ContextList { contexts }))
}

/// Creates a context.
pub async fn create_context(
    app: &App,
    run: &LiveRun,
    language: Option<String>,
    cwd: Option<String>,
) -> Result<axum::Json<Context>, ApiError> {
    let interpreters = &app.core.engines.interpreters;
    let creating = async {
        let created = interpreters.create_context(&run.sandbox, language.as_deref(), cwd).await;
        created.map_err(|error| api_error(run, error))
    };
    Ok(axum::Json(describe(run.during(creating).await?, false)))
}

/// Restarts a context.
pub async fn restart_context(
    app: &App,
    run: &LiveRun,
    id: &str,
) -> Result<axum::Json<Context>, ApiError> {
    let restarting = async {
        let restarted = app.core.engines.interpreters.restart_context(&run.sandbox, id).await;
        restarted.map_err(|error| api_error(run, error))
    };
    Ok(axum::Json(describe(run.during(restarting).await?, false)))
}

/// Removes a context.
pub async fn remove_context(app: &App, run: &LiveRun, id: &str) -> Result<(), ApiError> {
    run.during(async {
        let removed = app.core.engines.interpreters.remove_context(&run.sandbox, id).await;
        removed.map_err(|error| api_error(run, error))
    })
    .await
}

/// Interrupts the code of a context.
pub async fn interrupt_context(app: &App, run: &LiveRun, id: &str) -> Result<(), ApiError> {
    run.during(async {
        let interrupted = app.core.engines.interpreters.interrupt_context(&run.sandbox, id).await;
        interrupted.map_err(|error| api_error(run, error))
    })
    .await
}

fn describe(context: CodeContext, is_busy: bool) -> Context {
    Context {
        id: context.id,
        kernel: "isola".to_owned(),
        language: context.language,
        cwd: context.cwd,
        status: if is_busy { ContextStatus::Busy } else { ContextStatus::Idle },
        execution_count: context.execution_count,
    }
}

/// Converts an error of an interpreter into one for the client.
pub fn api_error(run: &LiveRun, error: InterpreterError) -> ApiError {
    match error {
        InterpreterError::File { kind, message } => {
            let code = match kind {
                FileErrorKind::NotFound => Code::FileNotFound,
                FileErrorKind::NoSpace => Code::SandboxFull,
                FileErrorKind::Other => Code::FileError,
            };
            ApiError::new(code, message)
        }
        InterpreterError::ContextBusy(why) => ApiError::new(Code::ContextBusy, why),
        InterpreterError::NoContext(why) => ApiError::new(Code::ContextNotFound, why),
        InterpreterError::LanguageMissing(why) => ApiError::new(Code::LanguageNotAvailable, why),
        error => Error::engine("the interpreter failed", engine_error(&run.sandbox, error)).into(),
    }
}

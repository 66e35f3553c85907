//! Code that is run in contexts.

use std::time::Duration;

use isola::{CodeContext, CodeEvent, Error};
use napi::bindgen_prelude::Either;
use napi_derive::napi;

use crate::{
    failure::Failure,
    options::milliseconds,
    sandbox::{CallOptions, Sandbox},
    stream::{EventRecord, EventStream},
};

/// What `run_code` runs code with.
#[napi(object, object_to_js = false)]
pub struct CodeOptions {
    pub language: Option<String>,
    pub context: Option<String>,
}

#[napi(object, object_from_js = false)]
pub struct ContextRecord {
    pub id: String,
    pub language: String,
    pub cwd: String,
    pub execution_count: f64,
}

impl From<CodeContext> for ContextRecord {
    fn from(context: CodeContext) -> Self {
        Self {
            id: context.id,
            language: context.language,
            cwd: context.cwd,
            execution_count: context.execution_count as f64,
        }
    }
}

#[napi]
impl Sandbox {
    /// Runs code in a context and returns the stream of its events.
    #[napi]
    pub fn run_code(
        &self,
        code: String,
        options: CodeOptions,
        limits: Option<CallOptions>,
    ) -> Either<EventStream, Failure> {
        let started = self.inner().and_then(|sandbox| {
            let mut run = sandbox.run_code(code);
            if let Some(language) = options.language {
                run = run.language(language);
            }
            if let Some(context) = options.context {
                run = run.context(context);
            }
            let time = |time| milliseconds(time).unwrap_or(Duration::MAX);
            let limits = limits.unwrap_or_default();
            if let Some(limit) = limits.timeout_ms {
                run = run.timeout(time(limit));
            }
            if let Some(limit) = limits.cpu_timeout_ms {
                run = run.cpu_timeout(time(limit));
            }
            run.stream()
        });
        match started {
            Ok(events) => Either::A(EventStream::start(events)),
            Err(error) => Either::B(error.into()),
        }
    }

    /// Interrupts the code that runs, or only that of a context, and reports whether there
    /// is any.
    #[napi]
    pub fn interrupt(&self, context: Option<String>) -> bool {
        self.inner().is_ok_and(|sandbox| match context {
            Some(id) => sandbox.interrupt_context(&id),
            None => sandbox.interrupt(),
        })
    }

    #[napi]
    pub async fn create_context(&self, cwd: Option<String>) -> Either<ContextRecord, Failure> {
        let created = match self.inner() {
            Ok(sandbox) => sandbox.create_context(cwd.as_deref()).await,
            Err(error) => Err(error),
        };
        either(created.map(ContextRecord::from))
    }

    #[napi]
    pub async fn contexts(&self) -> Either<Vec<ContextRecord>, Failure> {
        let listed = match self.inner() {
            Ok(sandbox) => sandbox.contexts().await,
            Err(error) => Err(error),
        };
        either(listed.map(|contexts| contexts.into_iter().map(ContextRecord::from).collect()))
    }

    #[napi]
    pub async fn restart_context(&self, id: String) -> Option<Failure> {
        let restarted = match self.inner() {
            Ok(sandbox) => sandbox.restart_context(&id).await,
            Err(error) => Err(error),
        };
        restarted.err().map(Failure::from)
    }

    #[napi]
    pub async fn remove_context(&self, id: String) -> Option<Failure> {
        let removed = match self.inner() {
            Ok(sandbox) => sandbox.remove_context(&id).await,
            Err(error) => Err(error),
        };
        removed.err().map(Failure::from)
    }
}

fn either<T>(outcome: Result<T, Error>) -> Either<T, Failure> {
    outcome.map_or_else(|error| Either::B(error.into()), Either::A)
}

/// The last event is of the kind `end` or `error`, as that of a call.
impl From<Result<CodeEvent, Error>> for EventRecord {
    fn from(event: Result<CodeEvent, Error>) -> Self {
        let text = event.and_then(|event| {
            let kind = if matches!(event, CodeEvent::End { .. }) { "end" } else { "code" };
            let text = serde_json::to_string(&event)
                .map_err(|error| Error::InvalidArgument(error.to_string()))?;
            Ok((kind, text))
        });
        match text {
            Ok((kind, text)) => Self { kind, data: Some(text), level: None, failure: None },
            Err(error) => {
                Self { kind: "error", data: None, level: None, failure: Some(error.into()) }
            }
        }
    }
}

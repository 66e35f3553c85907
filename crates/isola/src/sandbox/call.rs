//! One operation of a guest: its validation, execution and result.

use std::{
    future::IntoFuture,
    pin::Pin,
    sync::{Arc, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::Stream;
use wasmtime::{Trap, component::ResourceTableError};

use super::{
    instance::GuestInstance,
    lease::{Lease, SandboxShared},
};
use crate::{
    args::{Args, Argument},
    code_event,
    contract::{self, Failure, FailureKind},
    cpu::metered,
    engine::{HeartbeatGuard, engine},
    error::{Closed, Error, GuestException, Limit, LimitExceeded},
    event::Event,
    guest::accessor::Accessor,
    interrupt::Interrupt,
    output::{Output, OutputEvent},
    value::Value,
};

/// A call that has not started yet: await it, or [`stream`](Self::stream) its
/// events.
#[must_use = "a call does nothing until it is awaited or streamed"]
pub struct Call {
    shared: Arc<SandboxShared>,
    operation: Operation,
    timeout: Option<Duration>,
    cpu_timeout: Option<Duration>,
}

pub(crate) enum Operation {
    Start,
    Load { name: String, source: String },
    Call { function: String, args: Args },
    Evaluate { source: String },
    RunCode { code: String, context: String },
    CreateContext { cwd: Option<String> },
    RestartContext { id: String },
    RemoveContext { id: String },
    Contexts,
    Finish,
}

impl Call {
    pub(crate) fn new(shared: Arc<SandboxShared>, operation: Operation) -> Self {
        let (timeout, cpu_timeout) = (shared.limits.timeout, shared.limits.cpu_timeout);
        Self { shared, operation, timeout, cpu_timeout }
    }

    /// Limits the wall time of this call.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// Limits the CPU time of this call. Time spent waiting for the host does not count.
    pub fn cpu_timeout(mut self, limit: Duration) -> Self {
        self.cpu_timeout = Some(limit);
        self
    }

    /// Starts the call and returns its events as they happen.
    ///
    /// The guest runs while the stream is polled, and waits while its events
    /// are not read. Dropping the stream before its end stops the guest and
    /// closes the sandbox.
    ///
    /// # Errors
    ///
    /// The sandbox is busy, closed or not running, or an argument is invalid.
    /// A later error is the stream's last event.
    pub fn stream(self) -> Result<EventStream, Error> {
        let output = self.shared.output.clone();
        let future = self.start(true)?;
        Ok(EventStream { future: Some(Box::pin(future)), output, end: None })
    }

    pub(crate) fn shared(&self) -> &Arc<SandboxShared> {
        &self.shared
    }

    fn start(
        self,
        streamed: bool,
    ) -> Result<impl Future<Output = Result<Value, Error>> + Send + 'static, Error> {
        let takes_code = matches!(self.operation, Operation::RunCode { .. });
        let operation = PreparedOperation::prepare(self.operation, &self.shared)?;
        let lease = self.shared.lease(matches!(operation, PreparedOperation::Start { .. }))?;
        self.shared.output.begin(streamed, takes_code);
        Ok(perform(lease, operation, self.timeout, self.cpu_timeout))
    }
}

impl IntoFuture for Call {
    type Output = Result<Value, Error>;
    type IntoFuture = Answer;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.start(false)?.await })
    }
}

/// The future of a running call, which returns its result.
pub type Answer = Pin<Box<dyn Future<Output = Result<Value, Error>> + Send>>;

/// The events of a running call. The last one is [`Event::End`] or
/// [`Event::Error`].
#[must_use = "the guest runs only while its events are read"]
pub struct EventStream {
    future: Option<Answer>,
    output: Output,
    end: Option<Event>,
}

impl Stream for EventStream {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        loop {
            match std::task::ready!(self.poll_output(cx)) {
                Some(OutputEvent::Call(event)) => return Poll::Ready(Some(event)),
                // Only a call that runs code has these, and its stream is another one.
                Some(OutputEvent::Code(_)) => {}
                None => return Poll::Ready(None),
            }
        }
    }
}

impl EventStream {
    /// Returns the next output of the call, among them the events of code.
    pub(crate) fn poll_output(&mut self, cx: &mut Context<'_>) -> Poll<Option<OutputEvent>> {
        let this = self;
        // Queued events are returned before the guest is polled again, so the guest is
        // no faster than the reader of its events.
        if (this.future.is_some() || this.end.is_some())
            && let Some(event) = this.output.take()
        {
            return Poll::Ready(Some(event));
        }
        if let Some(future) = &mut this.future {
            if let Poll::Ready(result) = future.as_mut().poll(cx) {
                this.future = None;
                this.end = Some(result.map_or_else(Event::Error, Event::End));
            }
            if let Some(event) = this.output.take() {
                return Poll::Ready(Some(event));
            }
            if this.future.is_some() {
                return Poll::Pending;
            }
        }
        Poll::Ready(this.end.take().map(OutputEvent::Call))
    }
}

/// An operation with validated input.
enum PreparedOperation {
    Start { config: Option<contract::Config>, prelude: Option<String>, warm: bool },
    Load { name: String, source: String },
    Call { function: String, args: Vec<contract::Argument> },
    Evaluate { source: String },
    RunCode { code: String, context: String },
    CreateContext { cwd: Option<String> },
    RestartContext { id: String },
    RemoveContext { id: String },
    Contexts,
    Finish,
}

impl PreparedOperation {
    fn prepare(operation: Operation, shared: &SandboxShared) -> Result<Self, Error> {
        let max = shared.limits.max_value_size;
        Ok(match operation {
            Operation::Start => Self::Start {
                config: shared.config.lock().unwrap_or_else(PoisonError::into_inner).take(),
                prelude: shared.prelude.clone(),
                warm: shared.warm,
            },
            Operation::Load { name, source } => {
                if source.len() > max {
                    return Err(Error::Limit(LimitExceeded::bytes(Limit::ValueSize, max)));
                }
                if name.contains('\0') {
                    return Err(Error::InvalidArgument("a script's name contains a NUL".into()));
                }
                Self::Load { name, source }
            }
            Operation::Call { function, args } => {
                let args = args.into_list()?;
                if args.iter().any(|argument| argument.value.as_str().len() > max) {
                    return Err(Error::Limit(LimitExceeded::bytes(Limit::ValueSize, max)));
                }
                let args = args.into_iter().map(contract::Argument::from).collect();
                Self::Call { function, args }
            }
            Operation::Evaluate { source } => {
                if source.len() > max {
                    return Err(Error::Limit(LimitExceeded::bytes(Limit::ValueSize, max)));
                }
                Self::Evaluate { source }
            }
            Operation::RunCode { code, context } => {
                if code.len() > max {
                    return Err(Error::Limit(LimitExceeded::bytes(Limit::ValueSize, max)));
                }
                Self::RunCode { code, context }
            }
            Operation::CreateContext { cwd } => {
                if cwd.as_ref().is_some_and(|cwd| cwd.contains('\0')) {
                    return Err(Error::InvalidArgument("a directory contains a NUL".into()));
                }
                Self::CreateContext { cwd }
            }
            Operation::RestartContext { id } => Self::RestartContext { id },
            Operation::RemoveContext { id } => Self::RemoveContext { id },
            Operation::Contexts => Self::Contexts,
            Operation::Finish => Self::Finish,
        })
    }
}

impl From<Argument> for contract::Argument {
    fn from(argument: Argument) -> Self {
        Self { name: argument.name, value: argument.value.into_text() }
    }
}

/// The result of an operation and the state of the guest after it.
enum CallOutcome {
    /// The guest returned a result or threw an exception, and can take another operation.
    Usable(Result<Value, Error>),
    /// The guest cannot be used any more.
    Fatal(Error),
}

async fn perform(
    mut lease: Lease,
    operation: PreparedOperation,
    timeout: Option<Duration>,
    cpu_timeout: Option<Duration>,
) -> Result<Value, Error> {
    let _heartbeat = HeartbeatGuard::acquire(engine()?)?;
    let shared = Arc::clone(&lease.shared);
    let starting = matches!(operation, PreparedOperation::Start { .. });
    let finishing = matches!(operation, PreparedOperation::Finish);
    let code_context = match &operation {
        PreparedOperation::RunCode { context, .. } => Some(context.clone()),
        _ => None,
    };
    let guest = lease.guest()?;
    shared.cpu.reset(cpu_timeout);
    guest.store.data_mut().memory.take_refused();
    guest.store.set_epoch_deadline(1);
    if let Some(context) = &code_context {
        guest.prepare_interrupts(shared.template.component().accessor.as_ref()).await?;
        shared.interrupt.begin(context);
    }

    let outcome = {
        let work = metered(&shared.cpu, guest.execute(operation));
        let limited = async {
            if code_context.is_some() {
                return interruptible(work, &shared.interrupt, timeout).await;
            }
            match timeout {
                None => work.await,
                Some(limit) => tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
                    CallOutcome::Fatal(Error::Limit(LimitExceeded::time(Limit::WallTime, limit)))
                }),
            }
        };
        tokio::select! {
            biased;
            why = shared.lifecycle.wait_closed() => CallOutcome::Fatal(Error::Closed(why)),
            outcome = limited => outcome,
        }
    };
    if code_context.is_some() {
        shared.interrupt.end();
    }
    match outcome {
        // A sandbox whose prelude failed lacks what its template defines, so it is closed.
        CallOutcome::Usable(Err(error)) if starting => {
            lease.fail(&error);
            Err(error)
        }
        CallOutcome::Usable(result) => {
            lease.guest()?.store.data_mut().pending.abandon_all();
            if finishing {
                lease.close();
            } else {
                lease.release();
            }
            result
        }
        CallOutcome::Fatal(error @ Error::Closed(Closed::Interrupted)) => {
            lease.give_up();
            Err(error)
        }
        CallOutcome::Fatal(error) => {
            lease.fail(&error);
            Err(error)
        }
    }
}

/// The time in which code has to end after it was interrupted.
const INTERRUPT_GRACE: Duration = Duration::from_secs(2);

/// Runs code up to its end, or up to the end of the grace after an interrupt or the time
/// limit.
async fn interruptible(
    work: impl Future<Output = CallOutcome>,
    interrupt: &Interrupt,
    timeout: Option<Duration>,
) -> CallOutcome {
    let mut work = std::pin::pin!(work);
    let expired = async {
        match timeout {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    let exceeded = tokio::select! {
        biased;
        outcome = &mut work => return outcome,
        () = interrupt.requested() => None,
        () = expired => timeout,
    };
    let failed = match exceeded {
        Some(limit) => Error::Limit(LimitExceeded::time(Limit::WallTime, limit)),
        None => Error::Closed(Closed::Interrupted),
    };
    if exceeded.is_some_and(|limit| !interrupt.request_after(limit)) {
        return CallOutcome::Fatal(failed);
    }
    match tokio::time::timeout(INTERRUPT_GRACE, work).await {
        Ok(outcome) => outcome,
        Err(_) => CallOutcome::Fatal(failed),
    }
}

impl GuestInstance {
    /// Prepares the interruption of the next code.
    async fn prepare_interrupts(&mut self, accessor: Option<&Accessor>) -> Result<(), Error> {
        self.store.data_mut().delivery.begin();
        if let (None, Some(accessor)) = (&self.store.data().delivery.memory, accessor) {
            accessor
                .locate(&mut self.store, self.instance)
                .await
                .map_err(|error| Error::internal("locating the guest's memory", error))?;
        }
        Ok(())
    }

    async fn execute(&mut self, operation: PreparedOperation) -> CallOutcome {
        let Self { store, instance, exports, resume_from, memory_reused, .. } = self;
        let guest = exports.isola_sandbox_guest();
        let result = match operation {
            PreparedOperation::Start { config: None, .. } => {
                return CallOutcome::Fatal(Error::NotPending);
            }
            PreparedOperation::Start { config: Some(config), warm: true, .. } => {
                // In memory that was used before, the pages that guests write are there already.
                let populated = match resume_from.take().filter(|_| !*memory_reused) {
                    Some((accessor, state)) => accessor.populate(store, *instance, state).await,
                    None => Ok(()),
                };
                let resumed = match populated {
                    Ok(()) => guest.call_resume(&mut *store, &config).await,
                    Err(error) => Err(error),
                };
                resumed.map(|done| done.map(|()| None))
            }
            PreparedOperation::Start { config: Some(config), prelude, warm: false } => {
                match (guest.call_start(&mut *store, &config).await, prelude) {
                    (Ok(Ok(())), Some(prelude)) => guest
                        .call_load(&mut *store, &prelude, "prelude")
                        .await
                        .map(|done| done.map(|()| None)),
                    (started, _) => started.map(|done| done.map(|()| None)),
                }
            }
            PreparedOperation::Load { name, source } => {
                guest.call_load(&mut *store, &source, &name).await.map(|done| done.map(|()| None))
            }
            PreparedOperation::Call { function, args } => {
                guest.call_call(&mut *store, &function, &args).await.map(|done| done.map(Some))
            }
            PreparedOperation::Evaluate { source } => {
                guest.call_evaluate(&mut *store, &source).await.map(|done| done.map(Some))
            }
            PreparedOperation::RunCode { code, context } => guest
                .call_run_code(&mut *store, &code, &context)
                .await
                .map(|done| done.map(|count| Some(count.to_string()))),
            PreparedOperation::CreateContext { cwd } => {
                match guest.call_create_context(&mut *store, cwd.as_deref()).await {
                    Ok(Ok(id)) => match Value::new(&id) {
                        Ok(value) => Ok(Ok(Some(value.into_text()))),
                        Err(error) => return CallOutcome::Usable(Err(error)),
                    },
                    failed => failed.map(|done| done.map(Some)),
                }
            }
            PreparedOperation::RestartContext { id } => {
                guest.call_restart_context(&mut *store, &id).await.map(|done| done.map(|()| None))
            }
            PreparedOperation::RemoveContext { id } => {
                guest.call_remove_context(&mut *store, &id).await.map(|done| done.map(|()| None))
            }
            PreparedOperation::Contexts => match guest.call_contexts(&mut *store).await {
                Ok(Ok(contexts)) => match listed(&contexts) {
                    Ok(text) => Ok(Ok(Some(text))),
                    Err(reason) => return CallOutcome::Fatal(Error::Crash(reason)),
                },
                failed => failed.map(|done| done.map(|_| None)),
            },
            PreparedOperation::Finish => {
                guest.call_finish(&mut *store).await.map(|done| done.map(|()| None))
            }
        };
        let out_of_memory = store.data_mut().memory.take_refused();
        let limits = &store.data().limits;
        match result {
            Ok(Ok(None)) => CallOutcome::Usable(Ok(Value::null())),
            Ok(Ok(Some(text))) if text.len() > limits.max_value_size => CallOutcome::Usable(Err(
                Error::Limit(LimitExceeded::bytes(Limit::ValueSize, limits.max_value_size)),
            )),
            Ok(Ok(Some(text))) => match Value::from_json(text) {
                Ok(value) => CallOutcome::Usable(Ok(value)),
                Err(error) => CallOutcome::Fatal(Error::Crash(error.to_string())),
            },
            Ok(Err(failure)) => {
                let limits = limits.clone();
                CallOutcome::Usable(Err(error_from_failure(failure, out_of_memory, &limits)))
            }
            Err(error) if out_of_memory && error.downcast_ref::<Trap>().is_some() => {
                CallOutcome::Fatal(Error::Limit(LimitExceeded::bytes(
                    Limit::Memory,
                    limits.max_memory,
                )))
            }
            Err(error) => CallOutcome::Fatal(error_from_trap(&error, limits)),
        }
    }
}

/// Returns the JSON text of the contexts that a guest reports, or why they are invalid.
fn listed(contexts: &[contract::CodeContext]) -> Result<String, String> {
    let names = contexts.iter().map(|context| (context.id.as_str(), context.cwd.as_str()));
    code_event::check_contexts(names)?;
    let list: Vec<_> = contexts
        .iter()
        .map(|context| {
            serde_json::json!({
                "id": context.id,
                "cwd": context.cwd,
                "execution_count": context.execution_count,
            })
        })
        .collect();
    Ok(serde_json::Value::Array(list).to_string())
}

/// The limit of recursion that is reported if the limit is not a number of calls.
const INTERPRETER_STACK: &str = "the interpreter's stack";

/// Returns the error for an exception that user code did not catch.
fn error_from_failure(failure: Failure, out_of_memory: bool, limits: &crate::Limits) -> Error {
    let exception = GuestException::new(failure.name, failure.message, failure.trace);
    let exceeded = match failure.kind {
        FailureKind::Memory if out_of_memory => {
            LimitExceeded::bytes(Limit::Memory, limits.max_memory)
        }
        FailureKind::Recursion => {
            // The limit is configured in Python; a JavaScript engine has its own. CPython
            // raises the same exception for its C stack, if the limit was raised.
            let counted = exception.name == "RecursionError"
                && !exception.message.starts_with("Stack overflow");
            let allowed = if counted {
                format!("{} calls", limits.max_recursion)
            } else {
                INTERPRETER_STACK.to_owned()
            };
            LimitExceeded::new(Limit::Recursion, allowed)
        }
        FailureKind::Size => LimitExceeded::bytes(Limit::ValueSize, limits.max_value_size),
        FailureKind::Hostcall => return Error::Hostcall(exception),
        FailureKind::Context => return Error::InvalidArgument(exception.message),
        FailureKind::Memory | FailureKind::Exception | FailureKind::Value => {
            return Error::Guest(exception);
        }
    };
    Error::Limit(exceeded.raised(exception))
}

/// Returns the error for a trap, after which the guest cannot be used.
fn error_from_trap(error: &wasmtime::Error, limits: &crate::Limits) -> Error {
    if let Some(exceeded) = error.downcast_ref::<LimitExceeded>() {
        return Error::Limit(exceeded.clone());
    }
    if let Some(ResourceTableError::Full) = error.downcast_ref() {
        return Error::Limit(LimitExceeded::new(Limit::Handles, limits.max_handles.to_string()));
    }
    // wasmtime has no public type for this error.
    if error.root_cause().to_string().contains("fuel") {
        return Error::Limit(LimitExceeded::bytes(Limit::ValueSize, limits.max_message()));
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::StackOverflow) => {
            Error::Limit(LimitExceeded::new(Limit::Recursion, INTERPRETER_STACK.to_owned()))
        }
        Some(trap) => Error::Crash(trap.to_string()),
        None => Error::Crash(error.root_cause().to_string()),
    }
}

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
    contract::{self, Failure, FailureKind},
    cpu::metered,
    engine::{HeartbeatGuard, engine},
    error::{Error, GuestException, Limit, LimitExceeded},
    evaluate,
    event::Event,
    output::Output,
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
        let operation = PreparedOperation::prepare(self.operation, &self.shared)?;
        let lease = self.shared.lease(matches!(operation, PreparedOperation::Start { .. }))?;
        self.shared.output.begin(streamed);
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
        let this = &mut *self;
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
        Poll::Ready(this.end.take())
    }
}

/// An operation with validated input.
enum PreparedOperation {
    Start { config: Option<contract::Config>, prelude: Option<String>, warm: bool },
    Load { name: String, source: String },
    Call { function: String, args: Vec<contract::Argument> },
    Evaluate { helper: &'static str, source: contract::Argument },
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
                let value = Value::new(&source)?.into_text();
                let source = contract::Argument { name: None, value };
                Self::Evaluate { helper: evaluate::helper(shared.runtime), source }
            }
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
    let guest = lease.guest()?;
    shared.cpu.reset(cpu_timeout);
    guest.store.data_mut().memory.take_refused();
    guest.store.set_epoch_deadline(1);

    let outcome = {
        let work = metered(&shared.cpu, guest.execute(operation));
        let limited = async {
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
        CallOutcome::Fatal(error) => {
            lease.fail(&error);
            Err(error)
        }
    }
}

impl GuestInstance {
    async fn execute(&mut self, operation: PreparedOperation) -> CallOutcome {
        let Self { store, instance, exports, evaluates, resume_from, .. } = self;
        let guest = exports.isola_sandbox_guest();
        let result = match operation {
            PreparedOperation::Start { config: None, .. } => {
                return CallOutcome::Fatal(Error::NotPending);
            }
            PreparedOperation::Start { config: Some(config), warm: true, .. } => {
                let populated = match resume_from.take() {
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
            PreparedOperation::Evaluate { helper, source } => {
                let ready = if *evaluates {
                    Ok(Ok(()))
                } else {
                    guest.call_load(&mut *store, helper, evaluate::FILE).await
                };
                match ready {
                    Ok(Ok(())) => {
                        *evaluates = true;
                        guest
                            .call_call(&mut *store, evaluate::FUNCTION, &[source])
                            .await
                            .map(|done| done.map(Some))
                    }
                    failed => failed.map(|done| done.map(|()| None)),
                }
            }
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

//! One operation of a guest, from its start to its end.

use std::{
    future::IntoFuture,
    pin::Pin,
    sync::{Arc, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::Stream;
use wasmtime::{Trap, component::ResourceTableError};

use crate::{
    args::{Args, Argument},
    contract::{self, Failure, FailureKind},
    cpu::metered,
    engine::{Running, engine},
    error::{Error, GuestException, Limit, LimitExceeded},
    evaluate,
    event::Event,
    output::Output,
    sandbox::{Lease, Live, Shared},
    value::Value,
};

/// A call that is about to be made: await it, or [`stream`](Self::stream) its
/// events.
#[must_use = "a call does nothing until it is awaited or streamed"]
pub struct Call {
    shared: Arc<Shared>,
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
    pub(crate) fn new(shared: Arc<Shared>, operation: Operation) -> Self {
        let (timeout, cpu_timeout) = (shared.limits.timeout, shared.limits.cpu_timeout);
        Self { shared, operation, timeout, cpu_timeout }
    }

    /// Limits the wall time of this call.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// Limits the CPU time of this call. Waiting for the host does not count.
    pub fn cpu_timeout(mut self, limit: Duration) -> Self {
        self.cpu_timeout = Some(limit);
        self
    }

    /// Starts the call and gives its events as they happen.
    ///
    /// The guest runs while the stream is polled, and waits when its events
    /// are not taken. Dropping the stream before its end stops the guest and
    /// closes the sandbox.
    ///
    /// # Errors
    ///
    /// The sandbox is busy, closed or not running, or an argument cannot be.
    /// What goes wrong later is the stream's last event.
    pub fn stream(self) -> Result<EventStream, Error> {
        let output = self.shared.output.clone();
        let future = self.begin(true)?;
        Ok(EventStream { future: Some(Box::pin(future)), output, end: None })
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    fn begin(
        self,
        listened: bool,
    ) -> Result<impl Future<Output = Result<Value, Error>> + Send + 'static, Error> {
        let step = Step::prepare(self.operation, &self.shared)?;
        let lease = self.shared.lease(matches!(step, Step::Start { .. }))?;
        self.shared.output.begin(listened);
        Ok(perform(lease, step, self.timeout, self.cpu_timeout))
    }
}

impl IntoFuture for Call {
    type Output = Result<Value, Error>;
    type IntoFuture = Answer;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.begin(false)?.await })
    }
}

/// What a call gives, once it was awaited.
pub type Answer = Pin<Box<dyn Future<Output = Result<Value, Error>> + Send>>;

/// The events of a running call. The last one is [`Event::End`] or
/// [`Event::Error`].
#[must_use = "the guest runs only while its events are taken"]
pub struct EventStream {
    future: Option<Answer>,
    output: Output,
    end: Option<Event>,
}

impl Stream for EventStream {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        let this = &mut *self;
        // What waits is given out before the guest goes on: that is what slows
        // it down to the pace of its listener.
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

/// An operation whose input was checked.
enum Step {
    Start { config: Option<contract::Config>, prelude: Option<String>, warm: bool },
    Load { name: String, source: String },
    Call { function: String, args: Vec<contract::Argument> },
    Evaluate { helper: &'static str, source: contract::Argument },
    Finish,
}

impl Step {
    fn prepare(operation: Operation, shared: &Shared) -> Result<Self, Error> {
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

/// How an operation ended, as far as the guest goes.
enum Outcome {
    /// It gave a result or threw; it lives on.
    Sound(Result<Value, Error>),
    /// It cannot go on.
    Broken(Error),
}

async fn perform(
    mut lease: Lease,
    step: Step,
    timeout: Option<Duration>,
    cpu_timeout: Option<Duration>,
) -> Result<Value, Error> {
    let _running = Running::begin(engine()?)?;
    let shared = Arc::clone(&lease.shared);
    let starting = matches!(step, Step::Start { .. });
    let finishing = matches!(step, Step::Finish);
    let live = lease.live()?;
    shared.cpu.reset(cpu_timeout);
    live.store.data_mut().memory.take_refused();
    live.store.set_epoch_deadline(1);

    let outcome = {
        let work = metered(&shared.cpu, live.execute(step));
        let limited = async {
            match timeout {
                None => work.await,
                Some(limit) => tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
                    Outcome::Broken(Error::Limit(LimitExceeded::time(Limit::WallTime, limit)))
                }),
            }
        };
        tokio::select! {
            biased;
            why = shared.closed() => Outcome::Broken(Error::Closed(why)),
            outcome = limited => outcome,
        }
    };
    match outcome {
        // An interpreter without its prelude is not what its template promises.
        Outcome::Sound(Err(error)) if starting => {
            lease.broken(&error);
            Err(error)
        }
        Outcome::Sound(result) => {
            lease.live()?.store.data_mut().pending.abandon_all();
            if finishing {
                lease.close();
            } else {
                lease.give_back();
            }
            result
        }
        Outcome::Broken(error) => {
            lease.broken(&error);
            Err(error)
        }
    }
}

impl Live {
    async fn execute(&mut self, step: Step) -> Outcome {
        let Self { store, instance, exports, evaluates, from, .. } = self;
        let guest = exports.isola_sandbox_guest();
        let answer = match step {
            Step::Start { config: None, .. } => return Outcome::Broken(Error::NotPending),
            Step::Start { config: Some(config), warm: true, .. } => {
                let populated = match from.take() {
                    Some((accessor, state)) => accessor.populate(store, *instance, state).await,
                    None => Ok(()),
                };
                let resumed = match populated {
                    Ok(()) => guest.call_resume(&mut *store, &config).await,
                    Err(error) => Err(error),
                };
                resumed.map(|done| done.map(|()| None))
            }
            Step::Start { config: Some(config), prelude, warm: false } => {
                match (guest.call_start(&mut *store, &config).await, prelude) {
                    (Ok(Ok(())), Some(prelude)) => guest
                        .call_load(&mut *store, &prelude, "prelude")
                        .await
                        .map(|done| done.map(|()| None)),
                    (started, _) => started.map(|done| done.map(|()| None)),
                }
            }
            Step::Load { name, source } => {
                guest.call_load(&mut *store, &source, &name).await.map(|done| done.map(|()| None))
            }
            Step::Call { function, args } => {
                guest.call_call(&mut *store, &function, &args).await.map(|done| done.map(Some))
            }
            Step::Evaluate { helper, source } => {
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
                    trouble => trouble.map(|done| done.map(|()| None)),
                }
            }
            Step::Finish => guest.call_finish(&mut *store).await.map(|done| done.map(|()| None)),
        };
        let out_of_memory = store.data_mut().memory.take_refused();
        let limits = &store.data().limits;
        match answer {
            Ok(Ok(None)) => Outcome::Sound(Ok(Value::null())),
            Ok(Ok(Some(text))) if text.len() > limits.max_value_size => Outcome::Sound(Err(
                Error::Limit(LimitExceeded::bytes(Limit::ValueSize, limits.max_value_size)),
            )),
            Ok(Ok(Some(text))) => match Value::from_json(text) {
                Ok(value) => Outcome::Sound(Ok(value)),
                Err(error) => Outcome::Broken(Error::Crash(error.to_string())),
            },
            Ok(Err(failure)) => {
                let limits = limits.clone();
                Outcome::Sound(Err(explain(failure, out_of_memory, &limits)))
            }
            Err(error) if out_of_memory && error.downcast_ref::<Trap>().is_some() => {
                Outcome::Broken(Error::Limit(LimitExceeded::bytes(
                    Limit::Memory,
                    limits.max_memory,
                )))
            }
            Err(error) => Outcome::Broken(diagnose(&error, limits)),
        }
    }
}

/// What limits recursion where no number does.
const STACK: &str = "the interpreter's stack";

/// The error behind an exception that user code did not catch.
fn explain(failure: Failure, out_of_memory: bool, limits: &crate::Limits) -> Error {
    let exception = GuestException::new(failure.name, failure.message, failure.trace);
    let exceeded = match failure.kind {
        FailureKind::Memory if out_of_memory => {
            LimitExceeded::bytes(Limit::Memory, limits.max_memory)
        }
        FailureKind::Recursion => {
            // Python is told its limit. A JavaScript engine has its own.
            // CPython says the same of its C stack, if the number was raised.
            let counted = exception.name == "RecursionError"
                && !exception.message.starts_with("Stack overflow");
            let allowed =
                if counted { format!("{} calls", limits.max_recursion) } else { STACK.to_owned() };
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

/// The error behind a trap. No guest survives one.
fn diagnose(error: &wasmtime::Error, limits: &crate::Limits) -> Error {
    if let Some(exceeded) = error.downcast_ref::<LimitExceeded>() {
        return Error::Limit(exceeded.clone());
    }
    if let Some(ResourceTableError::Full) = error.downcast_ref() {
        return Error::Limit(LimitExceeded::new(Limit::Handles, limits.max_handles.to_string()));
    }
    // wasmtime has no public type for this one.
    if error.root_cause().to_string().contains("fuel") {
        return Error::Limit(LimitExceeded::bytes(Limit::ValueSize, limits.max_message()));
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::StackOverflow) => {
            Error::Limit(LimitExceeded::new(Limit::Recursion, STACK.to_owned()))
        }
        Some(trap) => Error::Crash(trap.to_string()),
        None => Error::Crash(error.root_cause().to_string()),
    }
}

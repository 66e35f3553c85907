//! Sandboxes and their calls.

use std::{
    future::IntoFuture as _,
    sync::{Arc, OnceLock, mpsc},
    thread,
    time::Duration,
};

use isola::{Answer, Args, Call, Error, PollOutcome, Value};
use napi::{
    Env,
    bindgen_prelude::{Either, Either3, PromiseRaw, within_runtime_if_available},
};
use napi_derive::napi;
use tokio::sync::Notify;

use crate::{failure::Failure, options::milliseconds, stream::EventStream};

/// A sandbox and its guest. Freeing one is slow, so neither `close` nor the
/// garbage collector does it on the thread of the event loop.
#[napi]
pub struct Sandbox {
    inner: Option<Arc<isola::Sandbox>>,
}

/// A handle that cancels a call.
#[napi]
#[derive(Default)]
pub struct Cancel(Arc<Notify>);

#[napi]
impl Cancel {
    #[napi(constructor)]
    pub fn new() -> Self {
        Self::default()
    }

    /// Stops the call that was given this handle, now or when it starts.
    #[napi]
    pub fn cancel(&self) {
        self.0.notify_one();
    }
}

impl Cancel {
    fn of(given: Option<&Self>) -> Option<Arc<Notify>> {
        given.map(|cancel| Arc::clone(&cancel.0))
    }
}

/// The limits of one call, in milliseconds.
#[napi(object, object_to_js = false)]
#[derive(Default)]
pub struct CallOptions {
    pub timeout_ms: Option<f64>,
    pub cpu_timeout_ms: Option<f64>,
}

/// The arguments of a function: values as JSON, and the names of the named ones.
#[napi(object, object_to_js = false)]
pub struct Arguments {
    pub values: Vec<String>,
    pub names: Option<Vec<Option<String>>>,
}

impl Arguments {
    fn read(self) -> Result<Args, Error> {
        let mut names = self.names.unwrap_or_default().into_iter();
        self.values.into_iter().try_fold(Args::new(), |args, text| {
            Ok(args.value(names.next().flatten(), Value::from_json(text)?))
        })
    }
}

type Outcome = Either<String, Failure>;

/// The outcome of a call that has finished already, or the promise of it.
type QuickOutcome<'env> = Either3<String, Failure, PromiseRaw<'env, Outcome>>;

#[napi]
impl Sandbox {
    #[napi]
    pub async fn start(&self, options: Option<CallOptions>, cancel: Option<&Cancel>) -> Outcome {
        let call = self.inner().map(|sandbox| limited(sandbox.start(), options));
        settle(call.map(Call::into_future), Cancel::of(cancel)).await
    }

    #[napi]
    pub async fn load_script(
        &self,
        source: String,
        name: Option<String>,
        options: Option<CallOptions>,
        cancel: Option<&Cancel>,
    ) -> Outcome {
        let call = self.inner().map(|sandbox| match name {
            Some(name) => sandbox.load_script_as(name, source),
            None => sandbox.load_script(source),
        });
        let call = call.map(|call| limited(call, options).into_future());
        settle(call, Cancel::of(cancel)).await
    }

    /// Calls a function. Returns the outcome itself if the function is known to be
    /// quick and has finished, and a promise of it otherwise.
    #[napi]
    pub fn run<'env>(
        &self,
        env: &'env Env,
        function: String,
        args: Arguments,
        options: Option<CallOptions>,
        cancel: Option<&Cancel>,
    ) -> napi::Result<QuickOutcome<'env>> {
        let call =
            args.read().and_then(|args| Ok(limited(self.inner()?.run(function, args), options)));
        start_inline(env, call, cancel)
    }

    /// Starts a call and returns the stream of its events.
    #[napi]
    pub fn run_stream(
        &self,
        function: String,
        args: Arguments,
        options: Option<CallOptions>,
    ) -> Either<EventStream, Failure> {
        let events = args
            .read()
            .and_then(|args| limited(self.inner()?.run(function, args), options).stream());
        match events {
            Ok(events) => Either::A(EventStream::start(events)),
            Err(error) => Either::B(error.into()),
        }
    }

    /// Runs source code and returns the value of its last expression, as `run` does
    /// the result of a function.
    #[napi]
    pub fn evaluate<'env>(
        &self,
        env: &'env Env,
        source: String,
        options: Option<CallOptions>,
        cancel: Option<&Cancel>,
    ) -> napi::Result<QuickOutcome<'env>> {
        let call = self.inner().map(|sandbox| limited(sandbox.evaluate(source), options));
        start_inline(env, call, cancel)
    }

    /// Does the same as `evaluate` and returns the stream of its events.
    #[napi]
    pub fn evaluate_stream(
        &self,
        source: String,
        options: Option<CallOptions>,
    ) -> Either<EventStream, Failure> {
        let call = self.inner().map(|sandbox| limited(sandbox.evaluate(source), options));
        match call.and_then(Call::stream) {
            Ok(events) => Either::A(EventStream::start(events)),
            Err(error) => Either::B(error.into()),
        }
    }

    /// Shuts the interpreter down in order, as at the exit of a process, and closes the sandbox.
    #[napi]
    pub async fn finish(&self, options: Option<CallOptions>, cancel: Option<&Cancel>) -> Outcome {
        let call = self.inner().map(|sandbox| limited(sandbox.finish(), options));
        settle(call.map(Call::into_future), Cancel::of(cancel)).await
    }

    /// Does the same as `finish` and returns the stream of its events.
    #[napi]
    pub fn finish_stream(&self, options: Option<CallOptions>) -> Either<EventStream, Failure> {
        match self.inner().and_then(|sandbox| limited(sandbox.finish(), options).stream()) {
            Ok(events) => Either::A(EventStream::start(events)),
            Err(error) => Either::B(error.into()),
        }
    }

    /// Creates sandboxes that continue from this state, with the same handlers.
    #[napi]
    pub async fn fork(&self, count: u32) -> Either<Vec<Sandbox>, Failure> {
        let children = match self.inner() {
            Ok(sandbox) => sandbox.fork(count as usize).await,
            Err(error) => Err(error),
        };
        match children {
            Ok(children) => Either::A(children.into_iter().map(Self::new).collect()),
            Err(error) => Either::B(error.into()),
        }
    }

    /// Returns the largest size of one value, in bytes.
    #[napi(getter)]
    pub fn max_value_size(&self) -> f64 {
        self.inner().map_or(0.0, |sandbox| sandbox.limits().max_value_size as f64)
    }

    /// Stops the running call and frees the guest; resolves when that is done.
    #[napi]
    pub async fn close(&self) {
        if let Some(sandbox) = self.inner.clone() {
            // Joining fails only if unmapping the memory panicked; there is
            // nothing left to close then.
            let _ = napi::bindgen_prelude::spawn_blocking(move || sandbox.close()).await;
        }
    }
}

impl Sandbox {
    pub fn new(inner: isola::Sandbox) -> Self {
        Self { inner: Some(Arc::new(inner)) }
    }

    pub fn inner(&self) -> Result<&isola::Sandbox, Error> {
        self.inner
            .as_deref()
            .ok_or_else(|| Error::InvalidArgument("the sandbox was freed".to_owned()))
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.take() {
            free(inner);
        }
    }
}

/// Drops a sandbox on a dedicated thread. It is not one of tokio's: when the
/// process exits, the garbage collector runs after tokio was shut down.
fn free(sandbox: Arc<isola::Sandbox>) {
    static FREEING: OnceLock<Option<mpsc::Sender<Arc<isola::Sandbox>>>> = OnceLock::new();
    let thread = FREEING.get_or_init(|| {
        let (sender, receiver) = mpsc::channel::<Arc<isola::Sandbox>>();
        let thread = thread::Builder::new().name("isola-freeing".to_owned());
        thread.spawn(move || receiver.into_iter().for_each(drop)).ok().map(|_| sender)
    });
    if let Some(thread) = thread {
        // If the thread has exited, `send` returns the sandbox, and it is freed here.
        let _ = thread.send(sandbox);
    }
}

fn limited(mut call: Call, options: Option<CallOptions>) -> Call {
    let Some(options) = options else { return call };
    let time = |time| milliseconds(time).unwrap_or(Duration::MAX);
    if let Some(limit) = options.timeout_ms {
        call = call.timeout(time(limit));
    }
    if let Some(limit) = options.cpu_timeout_ms {
        call = call.cpu_timeout(time(limit));
    }
    call
}

/// Starts a call on this thread if it is known to be quick. Returns its outcome if it
/// has finished, and otherwise a promise of it.
fn start_inline<'env>(
    env: &'env Env,
    call: Result<Call, Error>,
    cancel: Option<&Cancel>,
) -> napi::Result<QuickOutcome<'env>> {
    let begun = match call {
        Ok(call) => within_runtime_if_available(|| call.start_inline()),
        Err(error) => PollOutcome::Ready(Err(error)),
    };
    Ok(match begun {
        PollOutcome::Ready(Ok(value)) => Either3::A(value.into_text()),
        PollOutcome::Ready(Err(error)) => Either3::B(error.into()),
        PollOutcome::Pending(answer) => {
            let cancel = Cancel::of(cancel);
            Either3::C(env.spawn_future(async { Ok(settle(Ok(answer), cancel).await) })?)
        }
    })
}

async fn settle(answer: Result<Answer, Error>, cancel: Option<Arc<Notify>>) -> Outcome {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return Either::B(error.into()),
    };
    let outcome = match cancel {
        None => answer.await,
        Some(cancel) => tokio::select! {
            // The call is polled first, so that it has started when it is
            // cancelled: its sandbox is then closed in every case.
            biased;
            outcome = answer => outcome,
            () = cancel.notified() => return Either::B(Failure::aborted()),
        },
    };
    match outcome {
        Ok(value) => Either::A(value.into_text()),
        Err(error) => Either::B(error.into()),
    }
}

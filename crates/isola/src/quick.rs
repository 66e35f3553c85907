//! Calls that finish sooner than another thread could start them.

use std::{
    future::IntoFuture as _,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;

use crate::{
    error::Error,
    sandbox::{Answer, Call},
    value::Value,
};

/// The duration below which a call is quick. The next call of its sandbox then
/// starts on the calling thread, because switching to another thread and back
/// takes about as long.
const MAX_QUICK_CALL: Duration = Duration::from_micros(200);

/// The state of a call after [`Call::start_inline`].
#[must_use = "a call runs only while its future is awaited"]
pub enum PollOutcome {
    /// The call has finished.
    Ready(Result<Value, Error>),
    /// The call has not finished, and continues where this future is awaited.
    Pending(Answer),
}

impl Call {
    /// Starts the call on this thread if the last call of its sandbox was quick,
    /// and returns its result or the future that continues it.
    ///
    /// This is for threads that must not block, such as that of an event loop,
    /// and saves a short call the switch to another thread. A longer call yields
    /// after two milliseconds, as every guest does, or when it waits for the
    /// host; the next call then starts on another thread.
    ///
    /// Must be called within a tokio runtime, like awaiting a call.
    pub fn start_inline(self) -> PollOutcome {
        let shared = Arc::clone(self.shared());
        let mut future = self.into_future();
        if shared.take_quick() {
            let start = Instant::now();
            if let Some(outcome) = (&mut future).now_or_never() {
                shared.set_quick(start.elapsed() < MAX_QUICK_CALL);
                return PollOutcome::Ready(outcome);
            }
        }
        PollOutcome::Pending(Box::pin(async move {
            let start = Instant::now();
            let outcome = future.await;
            shared.set_quick(start.elapsed() < MAX_QUICK_CALL);
            outcome
        }))
    }
}

//! Calls that are over sooner than another thread would have begun them.

use std::{
    future::IntoFuture as _,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;

use crate::{
    call::{Answer, Call},
    error::Error,
    value::Value,
};

/// A sandbox whose last call took less than this begins its next one on the
/// thread that makes it: the way to another thread and back costs about as
/// much.
const QUICK: Duration = Duration::from_micros(200);

/// What became of a call that [began on this thread](Call::begin_here).
#[must_use = "a call goes on only while its answer is awaited"]
pub enum Begun {
    /// It is over.
    Over(Result<Value, Error>),
    /// It goes on where this is awaited.
    UnderWay(Answer),
}

impl Call {
    /// Begins the call on this thread if the last call of its sandbox was a
    /// quick one, and hands back what is left of it.
    ///
    /// It is for threads that must not wait, such as that of an event loop,
    /// and saves a short call the way to another thread. A call that turns out
    /// to be longer gives way after two milliseconds, as every guest does, or
    /// when it waits for the host; the next one then begins elsewhere.
    ///
    /// It is called within a tokio runtime, as a call is awaited within one.
    pub fn begin_here(self) -> Begun {
        let shared = Arc::clone(self.shared());
        let mut answer = self.into_future();
        if shared.take_quick() {
            let start = Instant::now();
            if let Some(outcome) = (&mut answer).now_or_never() {
                shared.set_quick(start.elapsed() < QUICK);
                return Begun::Over(outcome);
            }
        }
        Begun::UnderWay(Box::pin(async move {
            let start = Instant::now();
            let outcome = answer.await;
            shared.set_quick(start.elapsed() < QUICK);
            outcome
        }))
    }
}

//! Request bodies: a minimum rate, and accounting of the bytes held in memory.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::error::{ApiError, Code};
use crate::{
    config::Pace,
    core::{accounts::ledger::Hold, error::Error},
};

/// A body that fails when its sender is slower than the pace. Only time in which
/// the server waits for the sender counts: a slow reader, such as a sandbox's disk,
/// does not make the body fail.
pub struct PacedBody {
    inner: Body,
    pace: Pace,
    received: u64,
    /// The total time that the server has waited for the sender.
    waited: Duration,
    /// The start of the current wait, and the timer that ends it.
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

/// The reason why a body was not read to its end.
#[derive(Debug, thiserror::Error)]
pub enum TooSlow {
    #[error("no byte of the body was received for {} s", .0.as_secs_f64())]
    Stalled(Duration),
    #[error("the body was received at less than {0} bytes per second")]
    BelowRate(u64),
}

impl PacedBody {
    pub fn new(inner: Body, pace: Pace) -> Self {
        Self { inner, pace, received: 0, waited: Duration::ZERO, waiting: None }
    }

    fn check_rate(&self) -> Result<(), TooSlow> {
        let counted = self.waited.saturating_sub(self.pace.stall).as_secs_f64();
        if counted * self.pace.min_rate as f64 > self.received as f64 {
            return Err(TooSlow::BelowRate(self.pace.min_rate));
        }
        Ok(())
    }
}

impl http_body::Body for PacedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        match Pin::new(&mut this.inner).poll_frame(cx) {
            Poll::Ready(frame) => {
                if let Some((since, _)) = this.waiting.take() {
                    this.waited += since.elapsed();
                }
                if let Some(Ok(frame)) = &frame
                    && let Some(data) = frame.data_ref()
                {
                    this.received += data.len() as u64;
                    if let Err(slow) = this.check_rate() {
                        return Poll::Ready(Some(Err(axum::Error::new(slow))));
                    }
                }
                Poll::Ready(frame)
            }
            Poll::Pending => {
                let stall = this.pace.stall;
                let (_, timer) = this.waiting.get_or_insert_with(|| {
                    let now = Instant::now();
                    (now, Box::pin(sleep_until(now + stall)))
                });
                ready!(timer.as_mut().poll(cx));
                Poll::Ready(Some(Err(axum::Error::new(TooSlow::Stalled(stall)))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A body whose bytes are held in memory until it is complete, and are counted
/// against its tenant's share.
pub struct HeldBody {
    inner: Body,
    hold: Hold,
}

/// The error of a body that exceeds the limit of held memory.
#[derive(Debug, thiserror::Error)]
#[error("the body cannot be held in memory: {}", .0.message)]
pub struct NoMemory(Error);

impl HeldBody {
    pub fn new(inner: Body, hold: Hold) -> Self {
        Self { inner, hold }
    }
}

impl http_body::Body for HeldBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
            && let Err(exhausted) = self.hold.grow(data.len() as u64)
        {
            let refusal = self.hold.ledger().refusal(exhausted);
            return Poll::Ready(Some(Err(axum::Error::new(NoMemory(refusal)))));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Returns the cause of an error, if it is that the sender of a body was too slow.
pub fn too_slow<'error>(
    error: &'error (dyn std::error::Error + 'static),
) -> Option<&'error TooSlow> {
    find_cause(error)
}

/// Returns the first cause of an error that has the type `E`.
pub fn find_cause<'error, E: std::error::Error + 'static>(
    error: &'error (dyn std::error::Error + 'static),
) -> Option<&'error E> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

/// A request body that is forwarded. An error in reading it is kept, as that for the client.
pub struct WatchedBody {
    body: Body,
    failure: Arc<Mutex<Option<ApiError>>>,
}

impl WatchedBody {
    pub fn new(body: Body, failure: Arc<Mutex<Option<ApiError>>>) -> Self {
        Self { body, failure }
    }
}

impl http_body::Body for WatchedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        let Poll::Ready(Some(Err(error))) = polled else { return polled };
        let text = error.to_string();
        let failure = body_error(error);
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
        Poll::Ready(Some(Err(axum::Error::new(text))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Converts the error of a request body that was not read to its end.
pub fn body_error(error: impl std::error::Error + 'static) -> ApiError {
    if let Some(NoMemory(refusal)) = find_cause(&error) {
        return refusal.clone().into();
    }
    match too_slow(&error) {
        Some(slow) => ApiError::new(
            Code::RequestTimeout,
            format!("{slow}: send it faster (--body-timeout, --min-body-rate)"),
        ),
        None => ApiError::invalid("the connection was closed before the end of the body"),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::stream;
    use http_body_util::BodyExt;

    use super::*;

    const PACE: Pace = Pace { stall: Duration::from_secs(10), min_rate: 100 };

    /// Creates a body of pieces, each with a delay in seconds and a length in bytes.
    fn body(pieces: Vec<(u64, usize)>) -> PacedBody {
        let stream = stream::unfold(pieces.into_iter(), async |mut pieces| {
            let (seconds, bytes) = pieces.next()?;
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            Some((Ok::<_, Infallible>(Bytes::from(vec![0; bytes])), pieces))
        });
        PacedBody::new(Body::from_stream(stream), PACE)
    }

    #[tokio::test(start_paused = true)]
    async fn stalled_and_slow_bodies_fail() {
        for (pieces, stalled) in [
            (vec![(0, 1), (1_000_000, 1)], true),
            (vec![(11, 1)], true),
            ((0..1000).map(|_| (9, 1)).collect(), false),
            ((0..1000).map(|_| (1, 50)).collect(), false),
        ] {
            let error = body(pieces.clone()).collect().await.unwrap_err();
            let slow = too_slow(&error).unwrap();
            assert_eq!(matches!(slow, TooSlow::Stalled(_)), stalled, "{pieces:?}: {slow}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_that_make_progress_have_no_time_limit() {
        for pieces in [vec![], vec![(9, 1)], (0..10_000).map(|_| (9, 900)).collect()] {
            let bytes: usize = pieces.iter().map(|(_, bytes)| *bytes).sum();
            assert_eq!(body(pieces).collect().await.unwrap().to_bytes().len(), bytes);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn time_of_a_slow_reader_is_not_counted() {
        let mut body = body((0..20).map(|_| (0, 1)).collect());
        let mut count = 0;
        while let Some(frame) = body.frame().await {
            frame.unwrap();
            count += 1;
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        assert_eq!(count, 20);
    }

    #[tokio::test]
    async fn memory_of_bodies_is_bounded_and_released() {
        let ledger = crate::core::accounts::ledger::Ledger::new("bytes", "--bytes", 1000, 50);
        let body = |tenant: &str, bytes: usize| {
            HeldBody::new(Body::from(vec![0; bytes]), ledger.take(tenant, 0).unwrap())
        };
        let mut first = body("a", 400);
        assert_eq!(first.frame().await.unwrap().unwrap().into_data().unwrap().len(), 400);
        let error = body("a", 101).collect().await.unwrap_err();
        let NoMemory(refusal) = find_cause(&error).unwrap();
        assert_eq!(refusal.kind, crate::core::error::ErrorKind::TooManyRequests);
        body("b", 500).collect().await.unwrap();
        drop(first);
        body("a", 500).collect().await.unwrap();
        assert_eq!(ledger.used(), 0);
    }
}

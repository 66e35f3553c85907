//! Receives the body of a response.
//!
//! A task takes frames from the connection at once, and merges small ones: each has memory
//! of its own there, and many that wait end the connection. The peer may only send more when
//! the data is taken out of the body, so what waits is bounded by the window of the stream.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::{Bytes, BytesMut};
use h2::{FlowControl, RecvStream};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{ConnectionState, SlotGuard};
use crate::error::PeerError;

/// The number of bytes below which a frame is merged with those before it.
const SMALL_FRAME_BYTES: usize = 1 << 10;
/// The number of bytes from which merged frames are no longer extended.
const MERGED_BYTES: usize = 16 << 10;

/// The body of a response. Dropping it before its end cancels the request.
pub(super) struct ResponseBody {
    received: Arc<Received>,
    flow_control: FlowControl,
    /// The number of bytes that are still expected, if the length is known.
    left: Option<u64>,
    /// Cancels the upload and the task that receives.
    cancel: Option<DropGuard>,
    _guard: Arc<SlotGuard>,
}

impl ResponseBody {
    pub(super) fn new(
        mut stream: RecvStream,
        length: Option<u64>,
        state: Arc<ConnectionState>,
        cancel: DropGuard,
        guard: Arc<SlotGuard>,
        tasks: &TaskTracker,
    ) -> Self {
        let received = Arc::new(Received::default());
        let flow_control = stream.flow_control().clone();
        let cancelled = cancel.token().clone();
        if stream.is_end_stream() {
            received.end(Ok(None));
        } else {
            tasks.spawn(receive(stream, Arc::clone(&received), state, cancelled));
        }
        Self { received, flow_control, left: length, cancel: Some(cancel), _guard: guard }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        // After the end of the response, the peer may still want the rest of the request.
        let is_ended = self.received.buffer().end.is_some();
        if let Some(cancel) = self.cancel.take_if(|_| is_ended) {
            cancel.disarm();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = PeerError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, PeerError>>> {
        let mut buffer = self.received.buffer();
        if let Some(data) = buffer.take_data() {
            drop(buffer);
            // Fails after the end of the stream, when nothing more is sent.
            let _ = self.flow_control.release_capacity(data.len());
            self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        match &mut buffer.end {
            Some(Ok(trailers)) => {
                let trailers = trailers.take();
                Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(error.clone()))),
            None => {
                buffer.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let buffer = self.received.buffer();
        buffer.is_empty() && matches!(buffer.end, Some(Ok(None)))
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// Takes the frames of a response from the connection.
async fn receive(
    mut stream: RecvStream,
    received: Arc<Received>,
    state: Arc<ConnectionState>,
    cancelled: CancellationToken,
) {
    let receiving = async {
        while let Some(data) = stream.data().await {
            received.push(data?);
            if stream.is_end_stream() {
                return Ok(None);
            }
        }
        stream.trailers().await
    };
    tokio::select! {
        result = receiving => received.end(result.map_err(|error: h2::Error| state.error(&error))),
        () = cancelled.cancelled() => {}
    }
}

/// What has been received, and how the response ended.
#[derive(Default)]
struct Received(Mutex<Buffer>);

#[derive(Default)]
struct Buffer {
    data: VecDeque<Bytes>,
    /// Small frames after `data`.
    merged: BytesMut,
    /// The trailers or the error at the end.
    end: Option<Result<Option<HeaderMap>, PeerError>>,
    waker: Option<Waker>,
}

impl Received {
    fn buffer(&self) -> MutexGuard<'_, Buffer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, data: Bytes) {
        self.change(|buffer| buffer.push(data));
    }

    fn end(&self, result: Result<Option<HeaderMap>, PeerError>) {
        self.change(|buffer| buffer.end = Some(result));
    }

    fn change(&self, change: impl FnOnce(&mut Buffer)) {
        let mut buffer = self.buffer();
        change(&mut buffer);
        let waker = buffer.waker.take();
        drop(buffer);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Buffer {
    fn is_empty(&self) -> bool {
        self.data.is_empty() && self.merged.is_empty()
    }

    fn push(&mut self, data: Bytes) {
        if self.is_empty() && !data.is_empty() {
            self.data.push_back(data);
            return;
        }
        if data.len() < SMALL_FRAME_BYTES {
            self.merged.extend_from_slice(&data);
            if self.merged.len() < MERGED_BYTES {
                return;
            }
        }
        if !self.merged.is_empty() {
            self.data.push_back(self.merged.split().freeze());
        }
        if data.len() >= SMALL_FRAME_BYTES {
            self.data.push_back(data);
        }
    }

    fn take_data(&mut self) -> Option<Bytes> {
        self.data
            .pop_front()
            .or_else(|| (!self.merged.is_empty()).then(|| self.merged.split().freeze()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_frames_are_merged_in_order() {
        let mut buffer = Buffer::default();
        let mut expected = Vec::new();
        let large = vec![b'L'; SMALL_FRAME_BYTES];
        for number in 0..100_000_u32 {
            let data = if number % 40_000 == 39_999 {
                large.clone()
            } else {
                number.to_string().into_bytes()
            };
            expected.extend_from_slice(&data);
            buffer.push(data.into());
        }
        buffer.push(Bytes::new());
        assert!(buffer.data.len() < 50, "{}", buffer.data.len());
        let mut taken = Vec::new();
        while let Some(data) = buffer.take_data() {
            assert!(!data.is_empty());
            taken.extend_from_slice(&data);
        }
        assert!(taken == expected && buffer.is_empty());
    }
}

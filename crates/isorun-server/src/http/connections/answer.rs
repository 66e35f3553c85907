//! Requests in flight, until the client has received the last byte of the response.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::Connection;

/// A request of a connection, until its response has ended.
pub struct InFlightRequest {
    connection: Arc<Connection>,
    number: u64,
    has_unread: bool,
}

impl InFlightRequest {
    pub(super) fn new(connection: &Arc<Connection>) -> Self {
        let mut state = connection.state();
        state.has_request = true;
        state.requests += 1;
        state.next_request += 1;
        let number = state.next_request;
        drop(state);
        Self { connection: Arc::clone(connection), number, has_unread: false }
    }

    /// Notes that a stream of the connection has become a tunnel.
    pub(super) fn mark_as_tunnel(&self) {
        self.connection.state().has_tunnel = true;
    }

    /// Notes that the last piece of the response was sent.
    fn mark_read(&mut self) {
        if std::mem::take(&mut self.has_unread) {
            self.connection.state().unread_pieces.remove(&self.number);
        }
    }

    /// Notes that a piece of the response waits to be sent.
    fn mark_unread(&mut self) {
        self.has_unread = true;
        self.connection.state().unread_pieces.insert(self.number, Instant::now());
    }
}

impl Drop for InFlightRequest {
    fn drop(&mut self) {
        let mut state = self.connection.state();
        state.unread_pieces.remove(&self.number);
        state.requests = state.requests.saturating_sub(1);
        state.idle_since = Instant::now();
    }
}

/// The body of a response. A piece counts as sent when the next one is polled.
pub struct TrackedBody {
    inner: Body,
    in_flight: InFlightRequest,
}

impl TrackedBody {
    pub(super) fn new(inner: Body, in_flight: InFlightRequest) -> Self {
        Self { inner, in_flight }
    }
}

impl http_body::Body for TrackedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        this.in_flight.mark_read();
        let frame = Pin::new(&mut this.inner).poll_frame(cx);
        if let Poll::Ready(Some(Ok(_))) = frame {
            this.in_flight.mark_unread();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

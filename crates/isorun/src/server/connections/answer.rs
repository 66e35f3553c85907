//! Answers under way, until the client has taken their last byte.

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

/// A request of a connection, until its answer has ended.
pub struct UnderWay {
    connection: Arc<Connection>,
    number: u64,
    has_untaken: bool,
}

impl UnderWay {
    pub(super) fn new(connection: &Arc<Connection>) -> Self {
        let mut state = connection.state();
        state.has_asked = true;
        state.requests += 1;
        state.next_answer += 1;
        let number = state.next_answer;
        drop(state);
        Self { connection: Arc::clone(connection), number, has_untaken: false }
    }

    /// A stream of the connection is a tunnel from now on.
    pub(super) fn becomes_tunnel(&self) {
        self.connection.state().has_tunnel = true;
    }

    fn is_taken(&mut self) {
        if std::mem::take(&mut self.has_untaken) {
            self.connection.state().untaken.remove(&self.number);
        }
    }

    fn has_more(&mut self) {
        self.has_untaken = true;
        self.connection.state().untaken.insert(self.number, Instant::now());
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut state = self.connection.state();
        state.untaken.remove(&self.number);
        state.requests = state.requests.saturating_sub(1);
        state.idle_since = Instant::now();
    }
}

/// The body of an answer. A piece is taken when the next one is asked for.
pub struct AnswerBody {
    inner: Body,
    under_way: UnderWay,
}

impl AnswerBody {
    pub(super) fn new(inner: Body, under_way: UnderWay) -> Self {
        Self { inner, under_way }
    }
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        this.under_way.is_taken();
        let frame = Pin::new(&mut this.inner).poll_frame(cx);
        if let Poll::Ready(Some(Ok(_))) = frame {
            this.under_way.has_more();
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

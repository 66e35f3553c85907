//! Answers that begin before the request has ended, as to an upload that is refused.
//! hyper closes such a connection afterwards; HTTP/1.1 wants that to be said before.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use axum::{
    body::{Body, Bytes},
    extract::Request,
    http::{HeaderValue, StatusCode, Version, header},
    middleware::Next,
    response::Response,
};
use http_body::{Body as HttpBody, Frame, SizeHint};

/// Bytes of a body that was not read and that hyper reads by itself, so that the
/// connection stays.
const MAX_DISCARDED: u64 = 4096;

/// Says that the connection closes if an answer comes early.
pub async fn close(request: Request, next: Next) -> Response {
    let is_old = request.version() <= Version::HTTP_11;
    let ended = Arc::new(AtomicBool::new(request.body().is_end_stream()));
    let is_small = request.body().size_hint().upper().is_some_and(|most| most <= MAX_DISCARDED);
    let request = request.map(|body| Body::new(Watched { body, ended: Arc::clone(&ended) }));
    let mut response = next.run(request).await;
    if is_old
        && !is_small
        && !ended.load(Ordering::Acquire)
        && response.status() != StatusCode::SWITCHING_PROTOCOLS
    {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// A body that notes when it was read to its end.
struct Watched {
    body: Body,
    ended: Arc<AtomicBool>,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if matches!(frame, Poll::Ready(None)) || self.body.is_end_stream() {
            self.ended.store(true, Ordering::Release);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

//! Responses that start before the request was read to its end, such as to an upload
//! that is refused. hyper closes such a connection afterwards; HTTP/1.1 requires a
//! `Connection: close` header in the response, and that the connection is not reset before
//! the client has read it.

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

use super::connections::Connection;

/// The largest unread body, in bytes, that hyper discards by itself to keep the
/// connection open.
const MAX_DISCARDED: u64 = 4096;

/// Adds `Connection: close` to a response that starts before the request has ended, and lets
/// the connection receive the rest before it is closed.
pub async fn close(request: Request, next: Next) -> Response {
    let is_http1 = request.version() <= Version::HTTP_11;
    let connection = request.extensions().get::<Arc<Connection>>().cloned();
    let ended = Arc::new(AtomicBool::new(request.body().is_end_stream()));
    let is_small = request.body().size_hint().upper().is_some_and(|max| max <= MAX_DISCARDED);
    let request = request.map(|body| Body::new(Watched { body, ended: Arc::clone(&ended) }));
    let mut response = next.run(request).await;
    if is_http1
        && !is_small
        && !ended.load(Ordering::Acquire)
        && response.status() != StatusCode::SWITCHING_PROTOCOLS
    {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        if let Some(connection) = connection {
            connection.leave_request_unread();
        }
    }
    response
}

/// A body that records whether it was read to its end.
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

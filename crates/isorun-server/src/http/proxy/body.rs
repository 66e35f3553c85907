//! The body of a response from a port of a run.

use axum::{BoxError, body::Body};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, BodyStream, StreamBody};

use crate::core::live_run::ProxyRequest;

/// Returns a body that keeps the request in progress until its last byte, and fails
/// when the run ends.
pub fn attach<B>(request: ProxyRequest, body: B) -> Body
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let end = request.run_end();
    let frames = BodyStream::new(body.map_err(Into::into));
    let ended = stream::once(end).map(|why| Err::<_, BoxError>(why.message.into()));
    // Ends when the body ends, or with an error when the run ends before.
    let frames = frames.map(Some).chain(stream::once(std::future::ready(None)));
    let both = stream::select(frames, ended.map(Some));
    let body =
        both.take_while(|frame| std::future::ready(frame.is_some())).filter_map(move |frame| {
            let _in_progress = &request;
            std::future::ready(frame)
        });
    Body::new(StreamBody::new(body))
}

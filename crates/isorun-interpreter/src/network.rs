//! The host of a guest: it answers HTTP requests through the egress proxy of the run.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::StreamExt;
use http_body_util::{BodyExt, StreamBody};
use isola::{
    Host, HostError,
    http::{Body, Method, Request, Response},
};
use isorun_egress::{
    fetch::{BodyError, RequestBody},
    proxy::EgressProxy,
};

/// The host of one guest.
pub(crate) struct EgressHost(pub(crate) Arc<EgressProxy>);

#[async_trait]
impl Host for EgressHost {
    async fn http(&self, request: Request) -> Result<Response, HostError> {
        let (mut parts, body) = request.into_parts();
        // It is meant for the host, not for the server.
        parts.headers.remove("x-isola-proxy");
        // A streamed body has no length of its own, and many servers require one, even for
        // an empty body if the method expects a body (RFC 9110, section 8.6).
        let expected = matches!(parts.method, Method::POST | Method::PUT | Method::PATCH);
        if let Some(length) = body.length().filter(|length| *length > 0 || expected) {
            parts.headers.insert("content-length", length.into());
        }
        let request = isola::http::Request::from_parts(parts, body).map(outgoing);
        let response = self.0.fetch(request).await;
        let response = response.map_err(|error| HostError::new(error.to_string()))?;
        Ok(response.map(|body| {
            Body::wrap(body, |error| HostError::new(format!("the response ended early: {error}")))
        }))
    }
}

fn outgoing(body: Body) -> RequestBody {
    if body.is_empty() {
        let empty = http_body_util::Empty::new();
        return empty.map_err(|never| match never {}).boxed_unsync();
    }
    let frames = body.into_stream().map(|piece| match piece {
        Ok(piece) => Ok(http_body::Frame::data(piece)),
        Err(error) => Err(BodyError::from(error)),
    });
    StreamBody::new(frames).boxed_unsync()
}

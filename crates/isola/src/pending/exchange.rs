//! One HTTP request and its response, as a task.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use bytes::{Buf as _, Bytes};
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::sync::Notify;

use crate::{
    contract::{self, Outcome, RequestBody},
    error::HostError,
    host::Host,
    http::{Body, Request, Response, head},
};

/// The largest chunk of a response's body, in bytes.
const MAX_CHUNK_BYTES: usize = 256 << 10;

/// The largest length of a body that is sent to the guest with its head, in bytes.
const MAX_SHORT_BODY_BYTES: u64 = 64 << 10;

/// The number of times that a short body is polled before its head is sent alone.
const MAX_SHORT_BODY_POLLS: usize = 4;

/// Returns the memory that the host holds for a request, in bytes.
pub(super) fn size(request: &contract::Request) -> usize {
    let headers: usize = request.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    let body = match &request.body {
        RequestBody::Whole(bytes) => bytes.len(),
        RequestBody::None | RequestBody::Pieces(_) => 0,
    };
    request.url.len() + headers + body
}

/// Returns `None` for a body that is not sent in pieces, and otherwise its length
/// if that is known.
pub(super) fn streamed_length(body: &RequestBody) -> Option<Option<u64>> {
    match body {
        RequestBody::Pieces(length) => Some(*length),
        RequestBody::None | RequestBody::Whole(_) => None,
    }
}

/// Validates a request of the guest. The error is for the guest.
pub(super) fn prepare(request: contract::Request) -> Result<(Request, Option<Duration>), String> {
    let contract::Request { method, url, headers, body, first_byte_timeout } = request;
    let head = head::request(&method, &url, &headers, streamed_length(&body).flatten())?;
    let body = match body {
        RequestBody::Whole(bytes) if !bytes.is_empty() => Body::from(bytes),
        _ => Body::empty(),
    };
    Ok((Request::from_parts(head, body), first_byte_timeout.map(Duration::from_nanos)))
}

/// Calls the host and sends its response chunk by chunk, each when the guest
/// requests it; if `eager`, a short body is sent with the head. Dropping the future
/// closes the connection. `send` returns whether more outcomes can be sent.
pub(super) async fn run(
    host: Arc<dyn Host>,
    request: Request,
    timeout: Option<Duration>,
    eager: bool,
    more_requested: &Notify,
    send: impl Fn(Outcome) -> bool,
) {
    let response = call_host(host, request);
    let response = match timeout {
        None => response.await,
        Some(timeout) => tokio::time::timeout(timeout, response).await.unwrap_or_else(|_| {
            Err(HostError::new(format!("the response did not begin within {timeout:?}")))
        }),
    };
    let fail = |error: &HostError| {
        send(Outcome::Failed(error.message().to_owned()));
    };
    let (mut head, body) = match response.and_then(split) {
        Ok(parts) => parts,
        Err(error) => return fail(&error),
    };
    let is_short = eager && body.length().is_some_and(|length| length <= MAX_SHORT_BODY_BYTES);
    let mut pieces = std::pin::pin!(body.into_stream());
    let mut piece = Bytes::new();
    let mut failed = None;
    // A short body mostly arrives with its head, so the guest need not request it.
    for _ in 0..if is_short { MAX_SHORT_BODY_POLLS } else { 0 } {
        match pieces.next().now_or_never() {
            Some(Some(Ok(next))) => head.body.extend_from_slice(&next),
            Some(None) => {
                head.complete = true;
                break;
            }
            Some(Some(Err(error))) => {
                failed = Some(error);
                break;
            }
            // The task that reads from the connection may be about to.
            None => tokio::task::yield_now().await,
        }
    }
    let complete = head.complete;
    if !send(Outcome::Response(head)) || complete {
        return;
    }
    loop {
        more_requested.notified().await;
        if let Some(error) = failed {
            return fail(&error);
        }
        while piece.is_empty() {
            piece = match pieces.next().await {
                Some(Ok(next)) => next,
                Some(Err(error)) => return fail(&error),
                None => {
                    send(Outcome::End);
                    return;
                }
            };
        }
        let chunk = piece.copy_to_bytes(piece.len().min(MAX_CHUNK_BYTES));
        if !send(Outcome::Chunk(chunk.into())) {
            return;
        }
    }
}

/// Calls the host's HTTP handler. A panic of it fails the request.
async fn call_host(host: Arc<dyn Host>, request: Request) -> Result<Response, HostError> {
    AssertUnwindSafe(host.http(request))
        .catch_unwind()
        .await
        .unwrap_or_else(|_| Err(HostError::new("the host's HTTP handler panicked")))
}

fn split(response: Response) -> Result<(contract::Response, Body), HostError> {
    let (parts, body) = response.into_parts();
    let headers = head::response(&parts.headers).map_err(HostError::new)?;
    let status = parts.status.as_u16();
    Ok((contract::Response { status, headers, body: Vec::new(), complete: false }, body))
}

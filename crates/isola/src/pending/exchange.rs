//! One HTTP request and its response, as a task.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use bytes::{Buf as _, Bytes};
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::sync::Notify;

use crate::{
    contract::{self, Outcome, RequestBody},
    host::{Host, HostError},
    http::{Body, Request, Response, head},
};

/// The guest gets a body in pieces of this size at most.
const MAX_CHUNK: usize = 256 << 10;

/// A body of this length or less is short.
const SHORT: u64 = 64 << 10;

/// How often a short body is looked for before its head is handed on alone.
const PATIENCE: usize = 4;

/// What the host holds for a request, in bytes.
pub(super) fn size(request: &contract::Request) -> usize {
    let headers: usize = request.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    let body = match &request.body {
        RequestBody::Whole(bytes) => bytes.len(),
        RequestBody::None | RequestBody::Pieces(_) => 0,
    };
    request.url.len() + headers + body
}

/// Whether a body comes in pieces, and then its length as far as it is known.
pub(super) fn announced(body: &RequestBody) -> Option<Option<u64>> {
    match body {
        RequestBody::Pieces(length) => Some(*length),
        RequestBody::None | RequestBody::Whole(_) => None,
    }
}

/// Checks what the guest wants to send. The error is for the guest.
pub(super) fn prepare(request: contract::Request) -> Result<(Request, Option<Duration>), String> {
    let contract::Request { method, url, headers, body, first_byte_timeout } = request;
    let head = head::request(&method, &url, &headers, announced(&body).flatten())?;
    let body = match body {
        RequestBody::Whole(bytes) if !bytes.is_empty() => Body::from(bytes),
        _ => Body::empty(),
    };
    Ok((Request::from_parts(head, body), first_byte_timeout.map(Duration::from_nanos)))
}

/// Asks the host, and hands its response on piece by piece, each when the guest
/// asks for it; if `eager`, a short body comes with the head. Dropping this closes
/// the connection. `put` says whether the guest can be told more.
pub(super) async fn run(
    host: Arc<dyn Host>,
    request: Request,
    timeout: Option<Duration>,
    eager: bool,
    asked: &Notify,
    put: impl Fn(Outcome) -> bool,
) {
    let answer = ask(host, request);
    let answer = match timeout {
        None => answer.await,
        Some(timeout) => tokio::time::timeout(timeout, answer).await.unwrap_or_else(|_| {
            Err(HostError::new(format!("the response did not begin within {timeout:?}")))
        }),
    };
    let fail = |error: &HostError| {
        put(Outcome::Failed(error.message().to_owned()));
    };
    let (mut head, body) = match answer.and_then(split) {
        Ok(parts) => parts,
        Err(error) => return fail(&error),
    };
    let is_short = eager && body.length().is_some_and(|length| length <= SHORT);
    let mut pieces = std::pin::pin!(body.into_stream());
    let mut piece = Bytes::new();
    let mut broken = None;
    // A short body mostly comes with its head: then there is no need to ask.
    for _ in 0..if is_short { PATIENCE } else { 0 } {
        match pieces.next().now_or_never() {
            Some(Some(Ok(next))) => head.body.extend_from_slice(&next),
            Some(None) => {
                head.complete = true;
                break;
            }
            Some(Some(Err(error))) => {
                broken = Some(error);
                break;
            }
            // Whoever reads from the connection may be about to.
            None => tokio::task::yield_now().await,
        }
    }
    let complete = head.complete;
    if !put(Outcome::Response(head)) || complete {
        return;
    }
    loop {
        asked.notified().await;
        if let Some(error) = broken {
            return fail(&error);
        }
        while piece.is_empty() {
            piece = match pieces.next().await {
                Some(Ok(next)) => next,
                Some(Err(error)) => return fail(&error),
                None => {
                    put(Outcome::End);
                    return;
                }
            };
        }
        let chunk = piece.copy_to_bytes(piece.len().min(MAX_CHUNK));
        if !put(Outcome::Chunk(chunk.into())) {
            return;
        }
    }
}

/// A panic of the host's handler is a failure like any other.
async fn ask(host: Arc<dyn Host>, request: Request) -> Result<Response, HostError> {
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

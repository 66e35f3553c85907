//! One request and its response over a shared HTTP/2 connection.

mod download;
mod upload;

use std::sync::Arc;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body::Body;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::download::ResponseBody;
use super::{
    connect::unreachable,
    connection::{ConnectionState, Slot, SlotGuard},
};
use crate::{body::PeerBody, error::PeerError, headers::remove_connection_headers};

/// A request that its connection could not take, with nothing sent of it.
pub(super) struct NotSent(pub(super) Request<PeerBody>);

/// Sends a request. Dropping the future, or the response's body before its end, cancels the
/// request at the peer.
pub(super) async fn send(
    slot: Slot,
    request: Request<PeerBody>,
    tasks: &TaskTracker,
) -> Result<Result<Response<PeerBody>, PeerError>, NotSent> {
    let Slot { sender, state, guard } = slot;
    match sender.ready().await {
        Ok(sender) => Ok(exchange(sender, &state, Arc::new(guard), request, tasks).await),
        Err(_) => {
            state.retire();
            Err(NotSent(request))
        }
    }
}

async fn exchange(
    mut sender: SendRequest<Bytes>,
    state: &Arc<ConnectionState>,
    guard: Arc<SlotGuard>,
    request: Request<PeerBody>,
    tasks: &TaskTracker,
) -> Result<Response<PeerBody>, PeerError> {
    let (parts, body) = request.into_parts();
    let is_head = parts.method == Method::HEAD;
    let mut head = Request::new(());
    *head.method_mut() = parts.method;
    // The peer gets the same form as this node: an origin form has no authority, and the
    // header `Host` remains as it is.
    *head.version_mut() =
        if parts.uri.authority().is_some() { Version::HTTP_2 } else { Version::HTTP_11 };
    *head.uri_mut() = parts.uri;
    *head.headers_mut() = parts.headers;
    if let Some(length) = body.size_hint().exact().filter(|length| *length > 0) {
        let headers = head.headers_mut();
        headers.entry(header::CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
    let has_body = !body.is_end_stream();
    let (response, stream) = sender.send_request(head, !has_body).map_err(|error| {
        if error.is_io() || error.is_go_away() || error.is_reset() {
            state.retire();
            unreachable(state.address(), format!("its connection has ended: {error}"))
        } else {
            PeerError::InvalidRequest("its target or headers are not valid in HTTP/2")
        }
    })?;
    // Ends the tasks of both bodies when this future, or later the response's body, is dropped.
    let cancel = CancellationToken::new();
    if has_body {
        tasks.spawn(upload::run(stream, body, cancel.clone(), Arc::clone(&guard)));
    }
    let cancel = cancel.drop_guard();
    let response = response.await.map_err(|error| state.error(&error))?;
    let (parts, stream) = response.into_parts();
    let mut response = Response::new(PeerBody::empty());
    *response.status_mut() = parts.status;
    *response.headers_mut() = parts.headers;
    remove_connection_headers(response.headers_mut());
    let length = content_length(is_head, stream.is_end_stream(), &response);
    let body = ResponseBody::new(stream, length, Arc::clone(state), cancel, guard, tasks);
    *response.body_mut() = PeerBody::new(body);
    Ok(response)
}

/// Returns the length of the body of a response, if it is known.
fn content_length<B>(is_head: bool, is_ended: bool, response: &Response<B>) -> Option<u64> {
    // These have no body, and their length is that which it would have. If they do not have
    // it, it must not become 0 in the response to the client (RFC 9110, 8.6).
    if is_head || response.status() == StatusCode::NOT_MODIFIED {
        return None;
    }
    if is_ended {
        return Some(0);
    }
    response.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

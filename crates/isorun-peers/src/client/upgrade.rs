//! WebSockets: a request gets a connection of its own with HTTP/1.1, which is upgraded.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Empty;
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio::{io::copy_bidirectional_with_sizes, sync::OwnedSemaphorePermit, time::timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    PeerAddress,
    connect::{is_refused_handshake, unreachable},
    connection::Runtime,
    pool::Pool,
};
use crate::{
    body::PeerBody,
    error::PeerError,
    headers::{WebSocket, is_websocket_upgrade, prepare_request, remove_connection_headers},
    http2::{MAX_HEADER_FIELDS, MAX_RESPONSE_HEADER_BYTES},
};

/// The key of a WebSocket that has none, because its client uses HTTP/2, in which the
/// server's answer to the key is not sent. It is `isorun via HTTP2`, in base64.
const KEY_OF_EXTENDED_CONNECT: HeaderValue = HeaderValue::from_static("aXNvcnVuIHZpYSBIVFRQMg==");

/// The maximum time until both ends have been upgraded after the peer agreed.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(60);

/// The size of the buffer of each direction, in bytes.
const COPY_BUFFER_BYTES: usize = 32 << 10;

/// The event that the peer no longer answers.
type Death = Pin<Box<dyn Future<Output = PeerError> + Send>>;

/// Forwards a request for a WebSocket, and connects both ends if the peer agrees.
pub(super) async fn forward<B: Body>(
    address: &PeerAddress,
    pool: &Arc<Pool>,
    runtime: &Runtime,
    web_socket: WebSocket,
    mut request: Request<B>,
) -> Result<Response<PeerBody>, PeerError> {
    if request.extensions().get::<OnUpgrade>().is_none() {
        return Err(PeerError::InvalidRequest("its connection cannot be upgraded"));
    }
    if web_socket == WebSocket::Upgrade && !request.body().is_end_stream() {
        return Err(PeerError::InvalidRequest("a request for a WebSocket must have no body"));
    }
    let client = hyper::upgrade::on(&mut request);
    let request = peer_request(address, web_socket, request)?;
    let mut death: Death = Box::pin(Arc::clone(pool).death(pool.slot().await?));
    let (stream, permit) = pool.open_for_upgrade().await?;
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_headers(MAX_HEADER_FIELDS)
        .max_buf_size(MAX_RESPONSE_HEADER_BYTES as usize)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| unreachable(address, error.to_string()))?;
    // Closes the connection when this future, or later the response's body, is dropped.
    let cancel = CancellationToken::new();
    runtime.tasks.spawn({
        let (cancel, closing) = (cancel.clone(), runtime.closing.clone());
        async move {
            tokio::select! {
                // Its errors are those of the request or of the upgrade.
                _ = connection.with_upgrades() => {}
                () = cancel.cancelled() => {}
                () = closing.cancelled() => {}
            }
        }
    });
    let cancel = cancel.drop_guard();
    let mut response = tokio::select! {
        response = sender.send_request(request) => {
            response.map_err(|error| request_error(address, &error))?
        }
        error = &mut death => return Err(error),
    };
    let interrupted = |why: String| PeerError::Interrupted { node: address.node().clone(), why };
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        if !is_websocket_upgrade(response.headers()) {
            return Err(interrupted("it switched to another protocol than WebSocket".to_owned()));
        }
        let peer = hyper::upgrade::on(&mut response);
        let tunnel = tunnel(client, peer, cancel, permit);
        let closing = runtime.closing.clone();
        runtime.tasks.spawn(async move {
            tokio::select! {
                () = tunnel => {}
                _ = death => {}
                () = closing.cancelled() => {}
            }
        });
        return Ok(upgraded_response(web_socket, response));
    }
    if web_socket == WebSocket::ExtendedConnect && response.status().is_success() {
        // For the client it would mean that there is a WebSocket.
        let status = response.status();
        return Err(interrupted(format!("it answered a request for a WebSocket with {status}")));
    }
    let (parts, body) = response.into_parts();
    let body =
        RefusalBody { body, death, address: address.clone(), _cancel: cancel, _permit: permit };
    let mut refusal = Response::new(PeerBody::new(body));
    *refusal.status_mut() = parts.status;
    *refusal.headers_mut() = parts.headers;
    remove_connection_headers(refusal.headers_mut());
    Ok(refusal)
}

/// Returns the request for the peer, with HTTP/1.1.
fn peer_request<B>(
    address: &PeerAddress,
    web_socket: WebSocket,
    mut request: Request<B>,
) -> Result<Request<Empty<Bytes>>, PeerError> {
    prepare_request(&mut request);
    let (parts, _) = request.into_parts();
    let mut headers = parts.headers;
    let host = match parts.uri.authority() {
        Some(authority) => Some(authority.as_str().to_owned()),
        None if headers.contains_key(header::HOST) => None,
        None => Some(address.node().dns_name()),
    };
    if let Some(host) = host {
        let host = HeaderValue::try_from(host);
        let host = host.map_err(|_| PeerError::InvalidRequest("its host is not valid"))?;
        headers.insert(header::HOST, host);
    }
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if web_socket == WebSocket::ExtendedConnect {
        headers.insert(header::SEC_WEBSOCKET_KEY, KEY_OF_EXTENDED_CONNECT);
        let version = headers.entry(header::SEC_WEBSOCKET_VERSION);
        version.or_insert(HeaderValue::from_static("13"));
    }
    let target = parts.uri.into_parts().path_and_query;
    let mut request = Request::new(Empty::new());
    *request.method_mut() = Method::GET;
    *request.uri_mut() = target.map_or_else(|| Uri::from_static("/"), Uri::from);
    *request.version_mut() = Version::HTTP_11;
    *request.headers_mut() = headers;
    Ok(request)
}

/// Returns the response for the client, which agrees to the upgrade.
fn upgraded_response(web_socket: WebSocket, response: Response<Incoming>) -> Response<PeerBody> {
    let (parts, _) = response.into_parts();
    let mut headers = parts.headers;
    remove_connection_headers(&mut headers);
    headers.remove(header::CONTENT_LENGTH);
    let mut response = Response::new(PeerBody::empty());
    if web_socket == WebSocket::Upgrade {
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    } else {
        headers.remove(header::SEC_WEBSOCKET_ACCEPT);
    }
    *response.headers_mut() = headers;
    response
}

fn request_error(address: &PeerAddress, error: &hyper::Error) -> PeerError {
    if is_refused_handshake(error) {
        return unreachable(address, format!("it refused the TLS handshake: {error}"));
    }
    PeerError::Interrupted { node: address.node().clone(), why: error.to_string() }
}

/// Copies bytes in both directions until both have ended, or one failed. The end of one
/// direction is passed on, and the other one continues.
async fn tunnel(
    client: OnUpgrade,
    peer: OnUpgrade,
    cancel: DropGuard,
    _permit: OwnedSemaphorePermit,
) {
    let upgraded = timeout(UPGRADE_TIMEOUT, async { tokio::try_join!(client, peer) }).await;
    drop(cancel);
    let Ok(Ok((client, peer))) = upgraded else {
        return;
    };
    let (mut client, mut peer) = (TokioIo::new(client), TokioIo::new(peer));
    // An error closes both ends.
    let _ =
        copy_bidirectional_with_sizes(&mut client, &mut peer, COPY_BUFFER_BYTES, COPY_BUFFER_BYTES)
            .await;
}

/// The body of a response that does not agree to the upgrade. Dropping it closes the
/// connection.
struct RefusalBody {
    body: Incoming,
    death: Death,
    address: PeerAddress,
    _cancel: DropGuard,
    _permit: OwnedSemaphorePermit,
}

impl Body for RefusalBody {
    type Data = Bytes;
    type Error = PeerError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, PeerError>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if frame.is_pending()
            && let Poll::Ready(error) = self.death.as_mut().poll(cx)
        {
            return Poll::Ready(Some(Err(error)));
        }
        frame.map_err(|error| PeerError::Interrupted {
            node: self.address.node().clone(),
            why: error.to_string(),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

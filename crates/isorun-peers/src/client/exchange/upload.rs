//! Sends the body of a request.

use std::{future::poll_fn, sync::Arc};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use h2::{Reason, SendStream};
use http::HeaderMap;
use http_body::Frame;
use http_body_util::BodyExt;
use tokio_util::sync::CancellationToken;

use super::SlotGuard;
use crate::body::{BoxError, PeerBody};

/// The number of bytes up to which small pieces that are ready are sent as one. Each has
/// memory of its own at the receiver.
const MERGED_BYTES: usize = 16 << 10;

/// Why the rest of a body is not sent.
enum Stop {
    /// The peer reset the stream, or the connection has ended.
    Ended,
    /// The body ended with an error, or the request was cancelled.
    Reset,
}

/// Sends a body, until its end or the end of the stream, or until the request is cancelled.
pub(super) async fn run(
    mut stream: SendStream<Bytes>,
    mut body: PeerBody,
    cancelled: CancellationToken,
    _guard: Arc<SlotGuard>,
) {
    let result = tokio::select! {
        result = send(&mut stream, &mut body) => result,
        () = cancelled.cancelled() => Err(Stop::Reset),
    };
    if matches!(result, Err(Stop::Reset)) {
        stream.send_reset(Reason::CANCEL);
    }
}

async fn send(stream: &mut SendStream<Bytes>, body: &mut PeerBody) -> Result<(), Stop> {
    loop {
        let first = tokio::select! {
            _ = poll_fn(|cx| stream.poll_reset(cx)) => return Err(Stop::Ended),
            frame = body.frame() => frame,
        };
        let (data, end) = merge(first, body);
        send_data(stream, data).await?;
        let sent = match end {
            None => continue,
            Some(End::Body) => stream.send_data(Bytes::new(), true),
            Some(End::Trailers(trailers)) => stream.send_trailers(trailers),
            Some(End::Error) => return Err(Stop::Reset),
        };
        return sent.map_err(|_| Stop::Ended);
    }
}

/// The end of a body.
enum End {
    Body,
    Trailers(HeaderMap),
    Error,
}

/// Returns the data of a frame and of those after it that are ready, and how the body ended.
fn merge(
    first: Option<Result<Frame<Bytes>, BoxError>>,
    body: &mut PeerBody,
) -> (Bytes, Option<End>) {
    let mut next = first;
    let mut only = Bytes::new();
    let mut merged = BytesMut::new();
    let end = loop {
        let frame = match next {
            None => break Some(End::Body),
            Some(Err(_)) => break Some(End::Error),
            Some(Ok(frame)) => frame,
        };
        match frame.into_data() {
            Ok(data) if merged.is_empty() && only.is_empty() => only = data,
            Ok(data) => {
                if merged.is_empty() {
                    merged.extend_from_slice(&std::mem::take(&mut only));
                }
                merged.extend_from_slice(&data);
            }
            Err(frame) => break Some(frame.into_trailers().map_or(End::Error, End::Trailers)),
        }
        if merged.len().max(only.len()) >= MERGED_BYTES {
            break None;
        }
        match body.frame().now_or_never() {
            Some(frame) => next = frame,
            None => break None,
        }
    };
    (if merged.is_empty() { only } else { merged.freeze() }, end)
}

/// Sends data as the peer permits.
async fn send_data(stream: &mut SendStream<Bytes>, mut data: Bytes) -> Result<(), Stop> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        while stream.capacity() == 0 {
            match poll_fn(|cx| stream.poll_capacity(cx)).await {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(Stop::Ended),
            }
        }
        let piece = data.split_to(stream.capacity().min(data.len()));
        stream.send_data(piece, false).map_err(|_| Stop::Ended)?;
    }
    Ok(())
}

//! Bodies: streaming in both directions, back pressure, trailers and cancellation.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, StreamBody};
use isorun_peers::{Authority, BoxError, PeerBody};
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::nodes::{
    DropSignal, Handler, channel_body, client, event, fetch, get, post, read, serve, text,
};

/// The size of large bodies, in bytes.
const LARGE_BYTES: usize = 64 << 20;
/// The size of their pieces, which is no multiple of the size of a frame.
const PIECE_BYTES: usize = 37_777;

/// Returns a body with different bytes everywhere, and counts what is taken out of it.
fn generated(size: usize, taken: Arc<AtomicUsize>) -> PeerBody {
    let pieces = stream::unfold((0, 1_u32), move |(start, mut state)| {
        let taken = Arc::clone(&taken);
        async move {
            let length = PIECE_BYTES.min(size - start);
            if length == 0 {
                return None;
            }
            let mut piece = Vec::with_capacity(length + 4);
            while piece.len() < length {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                piece.extend_from_slice(&state.to_le_bytes());
            }
            piece.truncate(length);
            taken.fetch_add(length, Ordering::Relaxed);
            let frame = Frame::data(Bytes::from(piece));
            Some((Ok::<_, BoxError>(frame), (start + length, state)))
        }
    });
    PeerBody::new(StreamBody::new(Box::pin(pieces)))
}

async fn digest(mut body: PeerBody) -> (usize, Vec<u8>) {
    let (mut size, mut digest) = (0, Sha256::new());
    while let Some(frame) = body.frame().await {
        let data = frame.unwrap().into_data().unwrap();
        size += data.len();
        digest.update(&data);
    }
    (size, digest.finalize().to_vec())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_arrive_unchanged_in_both_directions() {
    let authority = Authority::generate().unwrap();
    let (digests, mut received) = mpsc::channel(1);
    let node = serve(
        &authority,
        Handler::new(move |request| {
            let digests = digests.clone();
            async move {
                digests.send(digest(request.into_body()).await).await.unwrap();
                Response::new(generated(LARGE_BYTES, Arc::default()))
            }
        }),
    )
    .await;
    let expected = digest(generated(LARGE_BYTES, Arc::default())).await;
    let request = post(generated(LARGE_BYTES, Arc::default()));
    let (client, address) = (client(&authority), node.address());
    let response = event("the response", client.send(&address, request)).await.unwrap();
    assert_eq!(received.recv().await.unwrap(), expected);
    assert_eq!(event("its body", digest(response.into_body())).await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_body_is_returned_while_it_is_sent() {
    let authority = Authority::generate().unwrap();
    let echo = Handler::new(|request| async { Response::new(request.into_body()) });
    let node = serve(&authority, echo).await;
    let request = post(generated(LARGE_BYTES, Arc::default()));
    let response = client(&authority).send(&node.address(), request).await.unwrap();
    let expected = digest(generated(LARGE_BYTES, Arc::default())).await;
    assert_eq!(event("its body", digest(response.into_body())).await, expected);
}

#[tokio::test]
async fn trailers_are_forwarded_in_both_directions() {
    let authority = Authority::generate().unwrap();
    let echo = Handler::new(|request| async { Response::new(request.into_body()) });
    let node = serve(&authority, echo).await;
    let mut trailers = HeaderMap::new();
    trailers.insert("x-digest", HeaderValue::from_static("abc"));
    for data in [Some("data"), None] {
        let (frames, body) = channel_body();
        let send = async {
            if let Some(data) = data {
                frames.send(Frame::data(data.into())).await.unwrap();
            }
            frames.send(Frame::trailers(trailers.clone())).await.unwrap();
        };
        let client = client(&authority);
        let address = node.address();
        let (response, ()) = tokio::join!(client.send(&address, post(body)), send);
        let collected = response.unwrap().into_body().collect().await.unwrap();
        assert_eq!(collected.trailers(), Some(&trailers));
        assert_eq!(collected.to_bytes(), data.unwrap_or_default());
    }
}

#[tokio::test]
async fn pieces_arrive_one_by_one_in_both_directions() {
    let authority = Authority::generate().unwrap();
    let echo = Handler::new(|request| async { Response::new(request.into_body()) });
    let node = serve(&authority, echo).await;
    let (frames, body) = channel_body();
    let response = client(&authority).send(&node.address(), post(body)).await.unwrap();
    let mut body = response.into_body();
    for number in 0..100 {
        // The next is sent only when this one has made the round trip.
        let piece = Bytes::from(format!("data: {number}\n\n"));
        frames.send(Frame::data(piece.clone())).await.unwrap();
        let frame = event("a piece", body.frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), piece);
    }
    drop(frames);
    assert!(event("the end", body.frame()).await.is_none());
}

#[tokio::test]
async fn the_length_of_a_body_is_known_at_the_other_end() {
    let authority = Authority::generate().unwrap();
    let node = serve(
        &authority,
        Handler::new(|request| async move {
            let length = request.headers().get("content-length").cloned();
            assert_eq!(request.body().size_hint().exact(), Some(4));
            let mut response = text("12345");
            response.headers_mut().insert("x-length", length.unwrap());
            response
        }),
    )
    .await;
    let request = post(PeerBody::from("1234"));
    let response = client(&authority).send(&node.address(), request).await.unwrap();
    assert_eq!(response.headers()["x-length"], "4");
    assert_eq!(response.headers()["content-length"], "5");
    assert_eq!(response.body().size_hint().exact(), Some(5));
    let head = http::Request::head("/").body(PeerBody::from("1234")).unwrap();
    let response = client(&authority).send(&node.address(), head).await.unwrap();
    assert_eq!(response.headers()["content-length"], "5");
    assert_eq!(read(response.into_body()).await.unwrap(), "");
}

/// A server that forwards the response would send the length of its body, 0, as the length
/// that the body of a response to GET has.
#[tokio::test]
async fn no_length_is_invented_for_a_response_that_can_have_no_body() {
    let authority = Authority::generate().unwrap();
    let node = serve(
        &authority,
        Handler::new(|request| async move {
            let (_, streamed) = channel_body();
            let mut response = Response::new(streamed);
            if request.uri().path() == "/unchanged" {
                *response.status_mut() = StatusCode::NOT_MODIFIED;
                *response.body_mut() = PeerBody::empty();
            }
            response
        }),
    )
    .await;
    let client = client(&authority);
    let head = http::Request::head("/").body(PeerBody::empty()).unwrap();
    for request in [head, get("/unchanged")] {
        let response = client.send(&node.address(), request).await.unwrap();
        assert!(!response.headers().contains_key("content-length"));
        let body = response.into_body();
        assert!(body.is_end_stream());
        assert_eq!(body.size_hint().exact(), None);
        assert_eq!(event("its end", read(body)).await.unwrap(), "");
    }
    let response = client.send(&node.address(), get("/")).await.unwrap();
    assert_eq!(event("its end", read(response.into_body())).await.unwrap(), "");
}

#[tokio::test]
async fn a_dropped_request_is_cancelled_at_the_peer() {
    let authority = Authority::generate().unwrap();
    let (dropped_by_service, mut received) = mpsc::channel(1);
    let node = serve(
        &authority,
        Handler::new(move |request| {
            let signals = dropped_by_service.clone();
            async move {
                let (signal, dropped) = DropSignal::new();
                signals.send(dropped).await.unwrap();
                let _held = (request, signal);
                std::future::pending().await
            }
        }),
    )
    .await;
    let client = client(&authority);
    // With an upload that waits for the next piece, with one that waits for the peer, and
    // without one.
    let (_frames, waiting) = channel_body();
    let blocked = generated(LARGE_BYTES, Arc::default());
    for body in [waiting, blocked, PeerBody::empty()] {
        let (client, address) = (client.clone(), node.address());
        let request = tokio::spawn(async move { client.send(&address, post(body)).await });
        let dropped = event("the request", received.recv()).await.unwrap();
        assert!(!dropped.is_cancelled());
        request.abort();
        event("the cancellation", dropped.cancelled()).await;
    }
}

/// A body that never ends, and tells when it is dropped.
struct EndlessBody {
    _signal: DropSignal,
    /// What it sends all the time, if anything.
    piece: Bytes,
}

impl Body for EndlessBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.piece.is_empty() {
            return Poll::Pending;
        }
        Poll::Ready(Some(Ok(Frame::data(self.piece.clone()))))
    }
}

#[tokio::test]
async fn a_dropped_response_body_is_cancelled_at_the_peer() {
    let authority = Authority::generate().unwrap();
    for piece in [Bytes::new(), Bytes::from(vec![0; 8192])] {
        let (signals, mut received) = mpsc::channel(1);
        let node = serve(
            &authority,
            Handler::new({
                let piece = piece.clone();
                move |request| {
                    let (signals, piece) = (signals.clone(), piece.clone());
                    async move {
                        let (signal, dropped) = DropSignal::new();
                        // Not read: its upload waits, and must not keep the request alive.
                        signals.send((request, dropped)).await.unwrap();
                        Response::new(PeerBody::new(EndlessBody { _signal: signal, piece }))
                    }
                }
            }),
        )
        .await;
        let client = client(&authority);
        for body in [PeerBody::empty(), generated(LARGE_BYTES, Arc::default())] {
            let response = client.send(&node.address(), post(body)).await.unwrap();
            let (_request, dropped) = received.recv().await.unwrap();
            assert!(!dropped.is_cancelled());
            drop(response);
            event("the cancellation", dropped.cancelled()).await;
        }
    }
}

#[tokio::test]
async fn a_request_body_with_an_error_is_cancelled_at_the_peer() {
    let authority = Authority::generate().unwrap();
    let (errors, mut received) = mpsc::channel(1);
    let node = serve(
        &authority,
        Handler::new(move |request| {
            let errors = errors.clone();
            async move {
                let error = read(request.into_body()).await.unwrap_err();
                errors.send(error.to_string()).await.unwrap();
                text("")
            }
        }),
    )
    .await;
    let frames = stream::iter([
        Ok(Frame::data(Bytes::from("half"))),
        Err::<_, BoxError>("the client has gone".into()),
    ]);
    let request = post(PeerBody::new(StreamBody::new(frames)));
    let client = client(&authority);
    let error = event("the error", client.send(&node.address(), request)).await.unwrap_err();
    assert!(!error.is_retryable(), "{error}");
    event("the error at the peer", received.recv()).await.unwrap();
}

#[tokio::test]
async fn a_response_before_the_end_of_the_request_does_not_end_it() {
    let authority = Authority::generate().unwrap();
    let (results, mut received) = mpsc::channel(1);
    let node = serve(
        &authority,
        Handler::new(move |request| {
            let results = results.clone();
            tokio::spawn(async move {
                let result = read(request.into_body()).await;
                results.send(result.unwrap()).await.unwrap();
            });
            async { text("early") }
        }),
    )
    .await;
    let (frames, body) = channel_body();
    let response = client(&authority).send(&node.address(), post(body)).await.unwrap();
    assert_eq!(read(response.into_body()).await.unwrap(), "early");
    frames.send(Frame::data("late".into())).await.unwrap();
    drop(frames);
    assert_eq!(event("the upload", received.recv()).await.unwrap(), "late");
}

#[tokio::test]
async fn an_upload_that_the_peer_does_not_want_ends() {
    let authority = Authority::generate().unwrap();
    let node = serve(&authority, Handler::new(|_| async { text("no") })).await;
    let (signal, dropped) = DropSignal::new();
    let body = PeerBody::new(EndlessBody { _signal: signal, piece: Bytes::new() });
    let response = client(&authority).send(&node.address(), post(body)).await.unwrap();
    assert_eq!(read(response.into_body()).await.unwrap(), "no");
    event("the end of the upload", dropped.cancelled()).await;
}

/// Waits until a counter no longer changes, or exceeds a maximum.
async fn settled(counter: &AtomicUsize, max: usize) -> usize {
    let mut last = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = counter.load(Ordering::Relaxed);
        if now > max || (now > 0 && now == last) {
            return now;
        }
        last = now;
    }
}

/// The most that the sender of a body may have taken out of it while the receiver reads
/// nothing: a window of 128 KiB, a buffer of 64 KiB, and pieces that are being sent.
const MAX_UNREAD_BYTES: usize = (128 + 64) * 1024 + 2 * PIECE_BYTES;

#[tokio::test]
async fn a_body_that_is_not_read_is_not_buffered_without_bound() {
    let authority = Authority::generate().unwrap();
    let taken = Arc::new(AtomicUsize::new(0));
    let (requests, mut received) = mpsc::channel(1);
    let node = serve(
        &authority,
        Handler::new({
            let taken = Arc::clone(&taken);
            move |request| {
                let (taken, requests) = (Arc::clone(&taken), requests.clone());
                async move {
                    requests.send(request).await.unwrap();
                    Response::new(generated(LARGE_BYTES, taken))
                }
            }
        }),
    )
    .await;
    let uploaded = Arc::new(AtomicUsize::new(0));
    let request = post(generated(LARGE_BYTES, Arc::clone(&uploaded)));
    let response = client(&authority).send(&node.address(), request).await.unwrap();
    let request = received.recv().await.unwrap();
    for counter in [&taken, &uploaded] {
        let bytes = settled(counter, MAX_UNREAD_BYTES).await;
        assert!((1..=MAX_UNREAD_BYTES).contains(&bytes), "{bytes}");
    }
    // Both continue when they are read.
    let bodies = async { tokio::join!(digest(request.into_body()), digest(response.into_body())) };
    let (up, down) = event("both bodies", bodies).await;
    assert_eq!(up, down);
    assert_eq!(up.0, LARGE_BYTES);
}

#[tokio::test]
async fn bodies_that_are_not_read_do_not_delay_others() {
    let authority = Authority::generate().unwrap();
    let (requests, mut received) = mpsc::channel(200);
    let node = serve(
        &authority,
        Handler::new(move |request| {
            let requests = requests.clone();
            async move {
                if request.uri().path() == "/read" {
                    return Response::new(request.into_body());
                }
                requests.send(request).await.unwrap();
                Response::new(generated(LARGE_BYTES, Arc::default()))
            }
        }),
    )
    .await;
    let client = client(&authority);
    let mut unread = Vec::new();
    let taken = Arc::new(AtomicUsize::new(0));
    for _ in 0..100 {
        let request = post(generated(LARGE_BYTES, Arc::clone(&taken)));
        unread.push(client.send(&node.address(), request).await.unwrap());
        received.recv().await.unwrap();
    }
    settled(&taken, usize::MAX).await;
    let size = 4 << 20;
    let mut request = get("/read");
    *request.body_mut() = generated(size, Arc::default());
    let response = event("the response", client.send(&node.address(), request)).await.unwrap();
    assert_eq!(event("its body", digest(response.into_body())).await.0, size);
}

#[tokio::test]
async fn many_small_pieces_that_are_not_read_do_not_end_the_connection() {
    let authority = Authority::generate().unwrap();
    let node = serve(
        &authority,
        Handler::new(|request| async move {
            if request.uri().path() == "/" {
                return text("ok");
            }
            let (signal, _) = DropSignal::new();
            let piece = Bytes::from_static(b"x");
            Response::new(PeerBody::new(EndlessBody { _signal: signal, piece }))
        }),
    )
    .await;
    let client = client(&authority);
    let mut unread = Vec::new();
    for _ in 0..8 {
        unread.push(client.send(&node.address(), get("/endless")).await.unwrap());
    }
    for _ in 0..50 {
        assert_eq!(fetch(&client, &node.address()).await, "ok");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for response in unread {
        let mut body = response.into_body();
        let frame = event("a piece", body.frame()).await.unwrap();
        assert!(!frame.unwrap().into_data().unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_body_that_fails_at_the_peer_fails_here() {
    let authority = Authority::generate().unwrap();
    let fail = Arc::new(CancellationToken::new());
    let (started, start) = oneshot::channel();
    let started = Mutex::new(Some(started));
    let node = serve(
        &authority,
        Handler::new({
            let fail = Arc::clone(&fail);
            move |_| {
                let fail = Arc::clone(&fail);
                started.lock().unwrap().take().unwrap().send(()).unwrap();
                async move {
                    let frames = stream::unfold(0, move |step| {
                        let fail = Arc::clone(&fail);
                        async move {
                            if step == 0 {
                                return Some((Ok(Frame::data(Bytes::from("half"))), 1));
                            }
                            fail.cancelled().await;
                            Some((Err::<_, BoxError>("failed".into()), 2))
                        }
                    });
                    Response::new(PeerBody::new(StreamBody::new(Box::pin(frames))))
                }
            }
        }),
    )
    .await;
    let response = client(&authority).send(&node.address(), get("/")).await.unwrap();
    start.await.unwrap();
    let mut body = response.into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "half");
    fail.cancel();
    let error = event("the error", body.frame()).await.unwrap().unwrap_err();
    let error = error.downcast::<isorun_peers::PeerError>().unwrap();
    assert!(!error.is_retryable(), "{error}");
}

//! Peers that fail: what is noticed, after which time, and which requests may be sent again.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::{Reason, server::SendResponse};
use http::Response;
use http_body::Frame;
use http_body_util::BodyExt;
use isorun_peers::{
    Authority, ClientOptions, MAX_RESPONSE_HEADER_BYTES, NodeId, Peer, PeerAddress, PeerClient,
    PeerError, ServeOptions,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    certificates::OperatorAuthority,
    nodes::{
        Handler, channel_body, client, client_with, event, fast, fetch, get, identity, post, serve,
        serve_as, text,
    },
    proxy::Proxy,
};

/// The time within which a dead peer must be noticed.
const MAX_DETECTION_TIME: Duration = Duration::from_secs(12);

#[tokio::test]
async fn a_refused_connection_may_be_tried_again() {
    let authority = Authority::generate().unwrap();
    let node = serve(&authority, Handler::new(|_| async { text("") })).await;
    let address = node.address();
    node.stop().await;
    let client = client(&authority);
    let error = event("the error", client.send(&address, get("/"))).await.unwrap_err();
    assert!(matches!(error, PeerError::Unreachable { .. }), "{error}");
    assert!(error.is_retryable());
    let text = error.to_string();
    assert!(text.contains(address.node().as_str()) && text.contains("refused"), "{text}");
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_unreachable_after_the_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let address = PeerAddress::new(NodeId::random().unwrap(), &url).unwrap();
    let client = client(&Authority::generate().unwrap());
    let start = Instant::now();
    // They wait for the same connection, so for the same time.
    let requests = (0..20).map(|_| client.send(&address, get("/")));
    let results = event("the errors", futures_util::future::join_all(requests)).await;
    for result in results {
        let error = result.unwrap_err();
        assert!(matches!(error, PeerError::Unreachable { .. }), "{error}");
    }
    assert!(start.elapsed() >= Duration::from_secs(3));
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    let accepted = async {
        let first = listener.accept().await.unwrap();
        tokio::time::timeout(Duration::from_millis(200), listener.accept()).await.is_err() && {
            drop(first);
            true
        }
    };
    assert!(accepted.await, "there was more than one connection");
}

#[tokio::test]
async fn a_request_of_a_peer_is_not_forwarded_again() {
    let authority = Arc::new(Authority::generate().unwrap());
    let second = serve(&authority, Handler::new(|_| async { text("must not be reached") })).await;
    let address = second.address();
    let forwarder = client(&authority);
    let first = serve(
        &authority,
        Handler::new(move |request| {
            let (forwarder, address) = (forwarder.clone(), address.clone());
            async move {
                let Peer(peer) = request.extensions().get().cloned().unwrap();
                let error = forwarder.send(&address, request).await.unwrap_err();
                assert_eq!(error, PeerError::Loop { from: peer });
                text(error.to_string())
            }
        }),
    )
    .await;
    let response = fetch(&client(&authority), &first.address()).await;
    assert!(response.contains("has forwarded this request"), "{response}");
}

#[tokio::test]
async fn a_peer_that_is_dead_in_the_middle_of_a_stream_is_noticed() {
    let authority = Authority::generate().unwrap();
    let echo = Handler::new(|request| async { Response::new(request.into_body()) });
    let node = serve(&authority, echo).await;
    let proxy = Proxy::start(node.socket).await;
    let client = client(&authority);
    let address = node.address_at(proxy.address);
    let (frames, body) = channel_body();
    let response = client.send(&address, post(body)).await.unwrap();
    let mut body = response.into_body();
    frames.send(Frame::data("alive".into())).await.unwrap();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "alive");
    proxy.freeze();
    let start = Instant::now();
    let error = event("the error", body.frame()).await.unwrap().unwrap_err();
    assert!(start.elapsed() < MAX_DETECTION_TIME, "{:?}", start.elapsed());
    let error = error.downcast::<PeerError>().unwrap();
    assert!(matches!(*error, PeerError::Interrupted { .. }), "{error}");
    assert!(error.to_string().contains("did not answer"), "{error}");
}

#[tokio::test]
async fn a_peer_that_is_dead_before_it_responds_is_noticed() {
    let authority = Authority::generate().unwrap();
    let (requests, mut received) = mpsc::channel(1);
    let node = serve(
        &authority,
        Handler::new(move |request| {
            let requests = requests.clone();
            async move {
                requests.send(request).await.unwrap();
                std::future::pending().await
            }
        }),
    )
    .await;
    let proxy = Proxy::start(node.socket).await;
    let client = client(&authority);
    let address = node.address_at(proxy.address);
    let request = tokio::spawn(async move { client.send(&address, get("/")).await });
    event("the request", received.recv()).await.unwrap();
    proxy.freeze();
    let start = Instant::now();
    let error = event("the error", request).await.unwrap().unwrap_err();
    assert!(start.elapsed() < MAX_DETECTION_TIME, "{:?}", start.elapsed());
    assert!(matches!(error, PeerError::Interrupted { .. }), "{error}");
    // The peer notices it, too, and closes its side.
}

#[tokio::test]
async fn a_client_that_is_dead_is_noticed_by_the_listener() {
    let authority = Authority::generate().unwrap();
    let (dropped_by_service, mut received) = mpsc::channel(1);
    let options = ServeOptions {
        keep_alive_interval: Duration::from_millis(200),
        keep_alive_timeout: Duration::from_secs(1),
        ..ServeOptions::default()
    };
    let handler = Handler::new(move |_| {
        let signals = dropped_by_service.clone();
        async move {
            let (signal, dropped) = crate::nodes::DropSignal::new();
            signals.send(dropped).await.unwrap();
            let _signal = signal;
            std::future::pending().await
        }
    });
    let node =
        serve_as(identity(&authority), "127.0.0.1:0".parse().unwrap(), handler, options).await;
    let proxy = Proxy::start(node.socket).await;
    let client = client(&authority);
    let address = node.address_at(proxy.address);
    let request = tokio::spawn(async move { client.send(&address, get("/")).await });
    let dropped = event("the request", received.recv()).await.unwrap();
    proxy.freeze();
    event("the end of the request", dropped.cancelled()).await;
    request.abort();
}

#[tokio::test]
async fn a_dead_connection_without_requests_is_replaced() {
    let authority = Authority::generate().unwrap();
    let node = serve(&authority, Handler::new(|_| async { text("ok") })).await;
    let proxy = Proxy::start(node.socket).await;
    let client = client_with(&authority, fast());
    let address = node.address_at(proxy.address);
    assert_eq!(fetch(&client, &address).await, "ok");
    proxy.freeze();
    // A new connection is opened, which does not work either.
    let unreachable = async {
        loop {
            match client.send(&address, get("/")).await.unwrap_err() {
                PeerError::Interrupted { .. } => {}
                error => break error,
            }
        }
    };
    let error = event("the first connection is closed", unreachable).await;
    assert!(matches!(error, PeerError::Unreachable { .. }), "{error}");
    proxy.state.send_modify(|state| state.is_frozen = false);
    assert_eq!(fetch(&client, &address).await, "ok");
}

#[tokio::test]
async fn a_peer_that_restarts_is_reached_again() {
    let authority = Authority::generate().unwrap();
    let own = identity(&authority);
    let first = serve_as(
        own.clone(),
        "127.0.0.1:0".parse().unwrap(),
        Handler::new(|_| async { text("first") }),
        ServeOptions::default(),
    )
    .await;
    let (client, address, socket) = (client(&authority), first.address(), first.socket);
    assert_eq!(fetch(&client, &address).await, "first");
    first.stop().await;
    let error = client.send(&address, get("/")).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    // A restarted process has a new certificate for the same node.
    let renewed = authority.issue(own.node()).unwrap();
    let handler = Handler::new(|_| async { text("second") });
    let _second = serve_as(renewed, socket, handler, ServeOptions::default()).await;
    assert_eq!(fetch(&client, &address).await, "second");
}

#[tokio::test]
async fn a_peer_that_is_killed_interrupts_its_requests_and_is_reached_again() {
    let authority = Authority::generate().unwrap();
    let own = identity(&authority);
    let (requests, mut received) = mpsc::channel(1);
    let first = serve_as(
        own.clone(),
        "127.0.0.1:0".parse().unwrap(),
        Handler::new(move |request| {
            let requests = requests.clone();
            async move {
                requests.send(request).await.unwrap();
                std::future::pending().await
            }
        }),
        ServeOptions::default(),
    )
    .await;
    let (client, address, socket) = (client(&authority), first.address(), first.socket);
    let request = tokio::spawn({
        let (client, address) = (client.clone(), address.clone());
        async move { client.send(&address, get("/")).await }
    });
    received.recv().await.unwrap();
    first.task.abort();
    let error = event("the error", request).await.unwrap().unwrap_err();
    assert!(matches!(error, PeerError::Interrupted { .. }), "{error}");
    assert!(!error.is_retryable());
    drop(first);
    let handler = Handler::new(|_| async { text("second") });
    let _second = serve_as(own, socket, handler, ServeOptions::default()).await;
    assert_eq!(fetch(&client, &address).await, "second");
}

/// Starts a peer that is not one of this crate, and passes each of its connections to a
/// function. Returns its address, and a client for it.
async fn foreign_peer<F>(
    serve: impl Fn(TlsStream<TcpStream>) -> F + Send + 'static,
) -> (PeerAddress, PeerClient)
where
    F: Future<Output = ()> + Send + 'static,
{
    let operator = OperatorAuthority::new();
    let (node, own) = (NodeId::random().unwrap(), NodeId::random().unwrap());
    let acceptor = TlsAcceptor::from(operator.server_config(&operator.leaf(&[node.dns_name()])));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            if let Ok(stream) = acceptor.accept(stream).await {
                tokio::spawn(serve(stream));
            }
        }
    });
    let identity = operator.identity(&operator.leaf(&[own.dns_name()])).unwrap();
    let client = PeerClient::new(identity, ClientOptions::default());
    (PeerAddress::new(node, &url).unwrap(), client)
}

/// Serves HTTP/2 with a function for each request.
async fn serve_http2(stream: TlsStream<TcpStream>, respond: impl Fn(SendResponse<Bytes>) + Send) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((_request, response))) = connection.accept().await {
        respond(response);
    }
}

#[tokio::test]
async fn a_refused_stream_may_be_sent_again_and_another_reset_not() {
    for (reason, is_retryable) in [
        (Reason::REFUSED_STREAM, true),
        (Reason::INTERNAL_ERROR, false),
        (Reason::CANCEL, false),
        (Reason::NO_ERROR, false),
    ] {
        let (address, client) = foreign_peer(move |stream| {
            serve_http2(stream, move |mut response| response.send_reset(reason))
        })
        .await;
        let error = event("the error", client.send(&address, get("/"))).await.unwrap_err();
        assert_eq!(error.is_retryable(), is_retryable, "{reason:?}: {error}");
        assert_eq!(matches!(error, PeerError::Unreachable { .. }), is_retryable);
        // The connection itself is still used.
        let error = event("the error", client.send(&address, get("/"))).await.unwrap_err();
        assert_eq!(error.is_retryable(), is_retryable, "{reason:?}: {error}");
    }
}

#[tokio::test]
async fn a_request_that_was_not_processed_before_a_goaway_may_be_sent_again() {
    let (accepted, mut first_accepted) = mpsc::channel(1);
    let second_sent = Arc::new(Notify::new());
    // It takes the first request of a connection, and refuses all after it.
    let (address, client) = foreign_peer({
        let second_sent = Arc::clone(&second_sent);
        move |stream| {
            let (accepted, second_sent) = (accepted.clone(), Arc::clone(&second_sent));
            async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                let _first = connection.accept().await.unwrap().unwrap();
                accepted.send(()).await.unwrap();
                second_sent.notified().await;
                connection.abrupt_shutdown(Reason::NO_ERROR);
                let _ = connection.accept().await;
                std::future::pending().await
            }
        }
    })
    .await;
    let first = async {
        let error = client.send(&address, get("/first")).await.unwrap_err();
        assert!(matches!(error, PeerError::Interrupted { .. }), "{error}");
    };
    let second = async {
        first_accepted.recv().await.unwrap();
        let request = client.send(&address, get("/second"));
        let mut request = std::pin::pin!(request);
        // It is on the connection, and not read by the peer.
        assert!(futures_util::poll!(request.as_mut()).is_pending());
        second_sent.notify_one();
        let error = request.await.unwrap_err();
        assert!(matches!(error, PeerError::Unreachable { .. }), "{error}");
        assert!(error.is_retryable());
    };
    event("both errors", async { tokio::join!(first, second) }).await;
}

#[tokio::test]
async fn a_server_that_closes_before_http2_begins_is_unreachable() {
    let (address, client) = foreign_peer(|stream| async move { drop(stream) }).await;
    let error = event("the error", client.send(&address, get("/"))).await.unwrap_err();
    assert!(matches!(error, PeerError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn a_response_header_that_is_too_large_is_an_error_of_one_request() {
    let authority = Authority::generate().unwrap();
    let node = serve(
        &authority,
        Handler::new(|request| async move {
            let mut response = text("ok");
            if request.uri().path() == "/large" {
                let value = "x".repeat(MAX_RESPONSE_HEADER_BYTES as usize).parse().unwrap();
                response.headers_mut().insert("x-large", value);
            }
            response
        }),
    )
    .await;
    let proxy = Proxy::start(node.socket).await;
    let (client, address) = (client(&authority), node.address_at(proxy.address));
    let error = event("the error", client.send(&address, get("/large"))).await.unwrap_err();
    assert!(!error.is_retryable(), "{error}");
    assert_eq!(fetch(&client, &address).await, "ok");
}

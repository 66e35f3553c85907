//! Limits of connections, requests, headers, handshakes and time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use http::{HeaderMap, HeaderName, HeaderValue};
use isorun_peers::{Authority, ClientOptions, PeerClient, PeerError, ServeOptions};
use tokio::{io::AsyncReadExt, net::TcpStream, sync::Barrier};
use tokio_util::sync::CancellationToken;

use crate::{
    nodes::{
        Handler, client, client_with, event, fetch, get, identity, read, serve, serve_with, text,
    },
    proxy::Proxy,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_requests_share_one_connection() {
    const REQUESTS: usize = 500;
    let authority = Authority::generate().unwrap();
    let barrier = Arc::new(Barrier::new(REQUESTS));
    let node = serve(
        &authority,
        Handler::new(move |_| {
            let barrier = Arc::clone(&barrier);
            async move {
                // All are in progress at the same time.
                barrier.wait().await;
                text("ok")
            }
        }),
    )
    .await;
    let proxy = Proxy::start(node.socket).await;
    let (client, address) = (client(&authority), node.address_at(proxy.address));
    let requests = (0..REQUESTS).map(|_| fetch(&client, &address));
    let responses = event("all responses", join_all(requests)).await;
    assert!(responses.iter().all(|response| response == "ok"));
    assert_eq!(proxy.accepted(), 1);
}

/// A service whose requests wait for permission to end, and that counts them.
struct Held {
    handler: Handler,
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    release: CancellationToken,
}

fn held() -> Held {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let release = CancellationToken::new();
    let handler = Handler::new({
        let (now, most, release) = (Arc::clone(&now), Arc::clone(&most), release.clone());
        move |_| {
            let (now, most, release) = (Arc::clone(&now), Arc::clone(&most), release.clone());
            async move {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                release.cancelled().await;
                tokio::task::yield_now().await;
                now.fetch_sub(1, Ordering::SeqCst);
                text("ok")
            }
        }
    });
    Held { handler, now, most, release }
}

#[tokio::test]
async fn requests_above_the_limit_of_the_peer_wait() {
    let authority = Authority::generate().unwrap();
    let held = held();
    let options = ServeOptions { max_concurrent_streams: 10, ..ServeOptions::default() };
    let node = serve_with(&authority, held.handler, options).await;
    let (client, address) = (client(&authority), node.address());
    let requests =
        tokio::spawn(async move { join_all((0..35).map(|_| fetch(&client, &address))).await });
    let (now, most) = (held.now, held.most);
    test_support::wait::wait_until("ten requests", async || now.load(Ordering::SeqCst) == 10).await;
    held.release.cancel();
    let responses = event("all responses", requests).await.unwrap();
    assert_eq!(responses.len(), 35);
    assert_eq!(most.load(Ordering::SeqCst), 10);
}

#[tokio::test]
async fn another_connection_is_opened_when_one_is_full_and_the_total_is_limited() {
    let authority = Authority::generate().unwrap();
    let held = held();
    let node = serve(&authority, held.handler).await;
    let proxy = Proxy::start(node.socket).await;
    let options = ClientOptions {
        max_connections: 2,
        max_requests_per_connection: 3,
        ..ClientOptions::default()
    };
    let (client, address) = (client_with(&authority, options), node.address_at(proxy.address));
    let requests = tokio::spawn({
        let (client, address) = (client.clone(), address.clone());
        async move { join_all((0..6).map(|_| fetch(&client, &address))).await }
    });
    test_support::wait::wait_until("six requests", async || held.now.load(Ordering::SeqCst) == 6)
        .await;
    assert_eq!(proxy.accepted(), 2);
    let error = client.send(&address, get("/")).await.unwrap_err();
    assert!(matches!(error, PeerError::Busy { .. }), "{error}");
    assert!(error.is_retryable());
    held.release.cancel();
    assert_eq!(requests.await.unwrap().len(), 6);
    assert_eq!(fetch(&client, &address).await, "ok");
}

#[tokio::test]
async fn requests_that_wait_for_a_connection_are_limited() {
    // It never answers.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authority = Authority::generate().unwrap();
    let node = serve(&authority, Handler::new(|_| async { text("") })).await;
    let address = node.address_at(listener.local_addr().unwrap());
    let options = ClientOptions { max_waiting: 3, ..ClientOptions::default() };
    let client = client_with(&authority, options);
    let results = join_all((0..5).map(|_| client.send(&address, get("/")))).await;
    let busy = |error: &PeerError| matches!(error, PeerError::Busy { .. });
    let busy = results.iter().filter(|result| result.as_ref().is_err_and(busy)).count();
    assert_eq!(busy, 2);
}

#[tokio::test]
async fn connections_of_each_peer_are_limited() {
    let authority = Authority::generate().unwrap();
    let options = ServeOptions { max_connections_per_peer: 1, ..ServeOptions::default() };
    let node = serve_with(&authority, Handler::new(|_| async { text("ok") }), options).await;
    let own = identity(&authority);
    let first = PeerClient::new(own.clone(), ClientOptions::default());
    let second = PeerClient::new(own, ClientOptions::default());
    assert_eq!(fetch(&first, &node.address()).await, "ok");
    let error = event("the error", second.send(&node.address(), get("/"))).await.unwrap_err();
    assert!(matches!(error, PeerError::Unreachable { .. }), "{error}");
    // Another peer is not affected, and the connection is free when it is closed.
    assert_eq!(fetch(&client(&authority), &node.address()).await, "ok");
    first.close().await;
    test_support::wait::wait_until("a free connection", async || {
        second.send(&node.address(), get("/")).await.is_ok()
    })
    .await;
}

/// Reads until the other side closes the connection.
async fn closed(mut stream: TcpStream) {
    let mut buffer = Vec::new();
    let _ = event("the end of the connection", stream.read_to_end(&mut buffer)).await;
    assert_eq!(buffer, b"");
}

#[tokio::test]
async fn handshakes_are_limited_in_number_and_time() {
    let authority = Authority::generate().unwrap();
    for (all, own) in [(2, 10), (10, 2)] {
        let options = ServeOptions {
            max_handshakes: all,
            max_handshakes_per_address: own,
            handshake_timeout: Duration::from_secs(2),
            ..ServeOptions::default()
        };
        let node = serve_with(&authority, Handler::new(|_| async { text("ok") }), options).await;
        let connect = || async { TcpStream::connect(node.socket).await.unwrap() };
        let (first, second) = (connect().await, connect().await);
        let start = std::time::Instant::now();
        // Closed at once, and the others after the timeout.
        closed(connect().await).await;
        assert!(start.elapsed() < Duration::from_millis(1500), "{:?}", start.elapsed());
        closed(first).await;
        assert!(start.elapsed() > Duration::from_millis(1500), "{:?}", start.elapsed());
        closed(second).await;
        assert_eq!(fetch(&client(&authority), &node.address()).await, "ok");
    }
}

/// Returns the header of a response as large as a server in a sandbox may send it, in as
/// many fields.
fn large_header() -> HeaderMap {
    let fields = (0..1000).map(|number| {
        let name: HeaderName = format!("x-field-{number}").parse().unwrap();
        (name, HeaderValue::from_str(&"v".repeat(500)).unwrap())
    });
    fields.collect()
}

#[tokio::test]
async fn large_headers_pass_in_both_directions() {
    let authority = Authority::generate().unwrap();
    let node = serve(
        &authority,
        Handler::new(|request| async move {
            let mut response = text(request.headers()["x-large"].len().to_string());
            response.headers_mut().extend(large_header());
            response
        }),
    )
    .await;
    let (client, address) = (client(&authority), node.address());
    let mut request = get("/");
    request.headers_mut().insert("x-large", "x".repeat(64 << 10).parse().unwrap());
    let response = event("the response", client.send(&address, request)).await.unwrap();
    for (name, value) in &large_header() {
        assert_eq!(response.headers()[name], value);
    }
    assert_eq!(read(response.into_body()).await.unwrap(), (64 << 10).to_string());
}

#[tokio::test]
async fn a_request_header_that_is_too_large_is_refused() {
    let authority = Authority::generate().unwrap();
    let node = serve(&authority, Handler::new(|_| async { text("ok") })).await;
    let (client, address) = (client(&authority), node.address());
    let mut request = get("/");
    let value = "x".repeat(100 << 10).parse().unwrap();
    request.headers_mut().insert("x-large", value);
    let result = event("an end", client.send(&address, request)).await;
    match result {
        Ok(response) => assert_eq!(response.status(), 431),
        Err(error) => assert!(!error.is_retryable(), "{error}"),
    }
    assert_eq!(fetch(&client, &address).await, "ok");
}

#[tokio::test]
async fn connections_without_requests_are_closed_by_either_side() {
    let authority = Authority::generate().unwrap();
    let short = Duration::from_millis(200);
    for (client_timeout, listener_timeout) in
        [(short, Duration::from_secs(120)), (Duration::from_secs(120), short)]
    {
        let held = held();
        let options = ServeOptions { idle_timeout: listener_timeout, ..ServeOptions::default() };
        let node = serve_with(&authority, held.handler, options).await;
        let proxy = Proxy::start(node.socket).await;
        let options = ClientOptions { idle_timeout: client_timeout, ..ClientOptions::default() };
        let (client, address) = (client_with(&authority, options), node.address_at(proxy.address));
        let request = tokio::spawn({
            let (client, address) = (client.clone(), address.clone());
            async move {
                let response = client.send(&address, get("/")).await.unwrap();
                read(response.into_body()).await.unwrap()
            }
        });
        // A request that takes longer is not idle.
        tokio::time::sleep(2 * short).await;
        assert_eq!(proxy.state.borrow().open, 1);
        held.release.cancel();
        assert_eq!(request.await.unwrap(), "ok");
        event("the end of the connection", proxy.until_open(0)).await;
        assert_eq!(fetch(&client, &address).await, "ok");
        assert_eq!(proxy.accepted(), 2);
    }
}

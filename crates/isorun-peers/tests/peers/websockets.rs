//! WebSockets through a front server of hyper, with HTTP/1.1 and with HTTP/2.

use std::{
    convert::Infallible,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderName, Method, Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::{body::Incoming, client::conn, ext::Protocol, upgrade::Upgraded};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use isorun_peers::{
    Authority, ClientOptions, Peer, PeerAddress, PeerBody, PeerClient, PeerError, ServeOptions,
};
use test_support::wait::wait_until;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, handshake::derive_accept_key, protocol::Role},
};

use crate::{
    certificates::OperatorAuthority,
    nodes::{Handler, Node, client, client_with, event, read, serve, serve_with, text},
    proxy::Proxy,
};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Version {
    Http1,
    Http2,
}

const VERSIONS: [Version; 2] = [Version::Http1, Version::Http2];

/// A server that forwards all requests to a peer.
struct Front {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn front(client: PeerClient, peer: PeerAddress) -> Front {
    front_with(move |request| {
        let (client, peer) = (client.clone(), peer.clone());
        async move {
            client.send(&peer, request).await.unwrap_or_else(|error| {
                let mut response = text(error.to_string());
                *response.status_mut() = match error {
                    PeerError::Busy { .. } => StatusCode::TOO_MANY_REQUESTS,
                    PeerError::Interrupted { .. } => StatusCode::BAD_GATEWAY,
                    _ => StatusCode::SERVICE_UNAVAILABLE,
                };
                response
            })
        }
    })
    .await
}

/// Starts a server that answers with a function.
async fn front_with<F>(answer: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static) -> Front
where
    F: Future<Output = Response<PeerBody>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let answer = answer.clone();
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let response = answer(request);
                async move { Ok::<_, Infallible>(response.await) }
            });
            tokio::spawn(async move {
                let mut http = auto::Builder::new(TokioExecutor::new());
                http.http2().enable_connect_protocol();
                let _ = http.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
            });
        }
    });
    Front { address, task }
}

/// Asks a front server for a WebSocket. Returns the response.
async fn ask(front: &Front, version: Version) -> Response<Incoming> {
    let stream = TokioIo::new(TcpStream::connect(front.address).await.unwrap());
    let request = Request::builder()
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "test")
        .header("x-kept", "1");
    match version {
        Version::Http1 => {
            let (mut sender, connection) = conn::http1::handshake(stream).await.unwrap();
            tokio::spawn(connection.with_upgrades());
            let request = request
                .uri("/socket?a=b")
                .header("host", "a.test")
                .header("connection", "keep-alive, Upgrade")
                .header("upgrade", "websocket")
                .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
                .body(Empty::<Bytes>::new());
            event("the response", sender.send_request(request.unwrap())).await.unwrap()
        }
        Version::Http2 => {
            let (mut sender, connection) =
                conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
            tokio::spawn(connection);
            let request = request
                .method(Method::CONNECT)
                .uri("https://a.test/socket?a=b")
                .extension(Protocol::from_static("websocket"))
                .body(Empty::<Bytes>::new());
            event("the response", sender.send_request(request.unwrap())).await.unwrap()
        }
    }
}

/// Opens a stream through a front server.
async fn open(front: &Front, version: Version) -> TokioIo<Upgraded> {
    let mut response = ask(front, version).await;
    let headers = response.headers();
    assert_eq!(headers["sec-websocket-protocol"], "test");
    if version == Version::Http1 {
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(headers["upgrade"], "websocket");
        let key = derive_accept_key(b"dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(headers["sec-websocket-accept"], key.as_str());
    } else {
        assert_eq!(response.status(), StatusCode::OK);
        for name in ["upgrade", "connection", "sec-websocket-accept"] {
            assert!(!headers.contains_key(name), "{name}");
        }
    }
    TokioIo::new(event("the upgrade", hyper::upgrade::on(&mut response)).await.unwrap())
}

/// Returns a service that agrees to upgrades, and passes the streams to a function.
fn accepting<F>(serve: impl Fn(TokioIo<Upgraded>) -> F + Clone + Send + Sync + 'static) -> Handler
where
    F: Future<Output = ()> + Send + 'static,
{
    Handler::new(move |mut request: Request<PeerBody>| {
        assert!(request.extensions().get::<Peer>().is_some());
        assert_eq!(request.method(), Method::GET);
        assert_eq!(request.uri(), "/socket?a=b");
        let headers = request.headers();
        for (name, value) in [
            ("host", "a.test"),
            ("x-kept", "1"),
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
        ] {
            assert_eq!(headers[name], value);
        }
        let key = derive_accept_key(headers["sec-websocket-key"].as_bytes());
        let upgrade = hyper::upgrade::on(&mut request);
        let serve = serve.clone();
        tokio::spawn(async move {
            if let Ok(stream) = upgrade.await {
                serve(TokioIo::new(stream)).await;
            }
        });
        let mut response = Response::new(PeerBody::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        for (name, value) in [
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-accept", key.as_str()),
            ("sec-websocket-protocol", "test"),
        ] {
            response.headers_mut().insert(name, value.parse().unwrap());
        }
        async { response }
    })
}

/// Echoes messages until the other side closes.
async fn echo(stream: TokioIo<Upgraded>) {
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
    while let Some(Ok(message)) = socket.next().await {
        if message.is_text() || message.is_binary() {
            socket.send(message).await.unwrap();
        }
    }
}

async fn web_socket(front: &Front, version: Version) -> WebSocketStream<TokioIo<Upgraded>> {
    let stream = open(front, version).await;
    WebSocketStream::from_raw_socket(stream, Role::Client, None).await
}

async fn start(authority: &Authority, handler: Handler) -> (Node, Front) {
    let node = serve(authority, handler).await;
    let front = front(client(authority), node.address()).await;
    (node, front)
}

#[tokio::test]
async fn messages_pass_in_both_directions_until_the_socket_is_closed() {
    let authority = Authority::generate().unwrap();
    let (_node, front) = start(&authority, accepting(echo)).await;
    for version in VERSIONS {
        let mut socket = web_socket(&front, version).await;
        for message in
            [Message::text("hello"), Message::binary(vec![7; 3 << 20]), Message::text("")]
        {
            let (sent, received) = event("the echo", async {
                let (mut sink, mut stream) = (&mut socket).split();
                tokio::join!(sink.send(message.clone()), stream.next())
            })
            .await;
            sent.unwrap();
            assert_eq!(received.unwrap().unwrap(), message, "{version:?}");
        }
        socket.close(None).await.unwrap();
        // The answer to the close frame, then the end of the stream.
        let close = event("the close frame", socket.next()).await.unwrap().unwrap();
        assert!(close.is_close());
        assert!(event("the end", socket.next()).await.is_none());
    }
}

#[tokio::test]
async fn a_large_response_header_passes() {
    let authority = Authority::generate().unwrap();
    let handler = Handler::new(|_| async {
        let mut response = text("no");
        *response.status_mut() = StatusCode::FORBIDDEN;
        for number in 0..1000 {
            let name: HeaderName = format!("x-field-{number}").parse().unwrap();
            response.headers_mut().insert(name, "v".repeat(500).parse().unwrap());
        }
        response
    });
    let node = serve(&authority, handler).await;
    let (client, address) = (client(&authority), node.address());
    let (responses, mut received) = tokio::sync::mpsc::channel(1);
    let front = front_with(move |request| {
        let (client, address, responses) = (client.clone(), address.clone(), responses.clone());
        async move {
            let response = client.send(&address, request).await;
            responses.send(response.map(|response| response.headers().len())).await.unwrap();
            text("done")
        }
    })
    .await;
    for version in VERSIONS {
        ask(&front, version).await;
        let fields = event("the response", received.recv()).await.unwrap().unwrap();
        assert!(fields >= 1000, "{version:?}: {fields}");
    }
}

#[tokio::test]
async fn the_end_of_one_direction_leaves_the_other_open() {
    let authority = Authority::generate().unwrap();
    let handler = accepting(|mut stream| async move {
        let mut received = Vec::new();
        stream.read_to_end(&mut received).await.unwrap();
        let answer = format!("received {}", received.len());
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
    });
    let (_node, front) = start(&authority, handler).await;
    for version in VERSIONS {
        let mut stream = open(&front, version).await;
        stream.write_all(&[1; 100_000]).await.unwrap();
        event("the shutdown", stream.shutdown()).await.unwrap();
        let mut answer = String::new();
        event("the answer", stream.read_to_string(&mut answer)).await.unwrap();
        assert_eq!(answer, "received 100000", "{version:?}");
    }
}

#[tokio::test]
async fn the_end_at_the_peer_leaves_the_other_direction_open() {
    let authority = Authority::generate().unwrap();
    let (received_sender, mut received) = tokio::sync::mpsc::channel(1);
    let handler = accepting(move |mut stream| {
        let sender = received_sender.clone();
        async move {
            stream.write_all(b"hello").await.unwrap();
            stream.shutdown().await.unwrap();
            let mut received = Vec::new();
            stream.read_to_end(&mut received).await.unwrap();
            sender.send(received).await.unwrap();
        }
    });
    let (_node, front) = start(&authority, handler).await;
    for version in VERSIONS {
        let mut stream = open(&front, version).await;
        let mut hello = String::new();
        event("the end", stream.read_to_string(&mut hello)).await.unwrap();
        assert_eq!(hello, "hello");
        stream.write_all(b"late").await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(event("the rest", received.recv()).await.unwrap(), b"late", "{version:?}");
    }
}

#[tokio::test]
async fn a_client_that_disappears_ends_the_connection_to_the_peer() {
    let authority = Authority::generate().unwrap();
    let (ends, mut ended) = tokio::sync::mpsc::channel(1);
    let handler = accepting(move |mut stream| {
        let ends = ends.clone();
        async move {
            stream.write_all(b"x").await.unwrap();
            stream.flush().await.unwrap();
            let end = stream.read(&mut [0; 16]).await;
            ends.send(end.map_or(0, |read| read)).await.unwrap();
        }
    });
    let (_node, front) = start(&authority, handler).await;
    for version in VERSIONS {
        let mut stream = open(&front, version).await;
        assert_eq!(event("a byte", stream.read_u8()).await.unwrap(), b'x');
        drop(stream);
        assert_eq!(event("the end", ended.recv()).await.unwrap(), 0, "{version:?}");
    }
}

#[tokio::test]
async fn a_response_that_refuses_the_upgrade_is_returned() {
    let authority = Authority::generate().unwrap();
    let handler = Handler::new(|_| async {
        let mut response = text("no such sandbox");
        *response.status_mut() = StatusCode::NOT_FOUND;
        response.headers_mut().insert("connection", "x-secret".parse().unwrap());
        response.headers_mut().insert("x-secret", "1".parse().unwrap());
        response
    });
    let node = serve(&authority, handler).await;
    let proxy = Proxy::start(node.socket).await;
    let front = front(client(&authority), node.address_at(proxy.address)).await;
    for version in VERSIONS {
        let response = ask(&front, version).await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        assert!(!response.headers().contains_key("x-secret"));
        let body = event("the body", read(PeerBody::new(response.into_body()))).await;
        assert_eq!(body.unwrap(), "no such sandbox", "{version:?}");
        // That for ordinary requests stays.
        event("the end of the connection", proxy.until_open(1)).await;
    }
}

#[tokio::test]
async fn a_success_without_an_upgrade_does_not_look_like_a_websocket() {
    let authority = Authority::generate().unwrap();
    let (_node, front) = start(&authority, Handler::new(|_| async { text("ok") })).await;
    assert_eq!(ask(&front, Version::Http1).await.status(), StatusCode::OK);
    assert_eq!(ask(&front, Version::Http2).await.status(), StatusCode::BAD_GATEWAY);
}

#[tokio::test]
async fn upgraded_connections_are_limited_and_free_when_they_end() {
    let authority = Authority::generate().unwrap();
    let node = serve(&authority, accepting(echo)).await;
    for version in VERSIONS {
        let options = ClientOptions { max_upgrades: 2, ..ClientOptions::default() };
        let front = front(client_with(&authority, options), node.address()).await;
        let (first, second) = (open(&front, version).await, web_socket(&front, version).await);
        assert_eq!(ask(&front, version).await.status(), StatusCode::TOO_MANY_REQUESTS);
        drop((first, second));
        wait_until("two free connections", async || {
            let (first, second) = tokio::join!(ask(&front, version), ask(&front, version));
            first.status() != StatusCode::TOO_MANY_REQUESTS
                && second.status() != StatusCode::TOO_MANY_REQUESTS
        })
        .await;
    }
}

#[tokio::test]
async fn a_websocket_to_a_peer_that_refuses_the_certificate_is_unreachable() {
    // The peer trusts another authority; this node trusts both.
    let (own, other) = (OperatorAuthority::new(), OperatorAuthority::new());
    let name = || [isorun_peers::NodeId::random().unwrap().dns_name()];
    let identity = other.identity(&other.leaf(&name())).unwrap();
    let any = "127.0.0.1:0".parse().unwrap();
    let node =
        crate::nodes::serve_as(identity, any, accepting(echo), ServeOptions::default()).await;
    let leaf = own.leaf(&name());
    let [certificate, key, roots] = own.files(&leaf);
    let others = other.files(&other.leaf(&name()))[2].clone();
    let both = [roots.clone(), others].map(|file| std::fs::read_to_string(file).unwrap());
    std::fs::write(&roots, both.concat()).unwrap();
    let identity = isorun_peers::Identity::from_files(&certificate, &key, &roots).unwrap();
    let client = PeerClient::new(identity, ClientOptions::default());
    let front = front(client, node.address()).await;
    for version in VERSIONS {
        let response = ask(&front, version).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE, "{version:?}");
    }
}

#[tokio::test]
async fn a_websocket_to_a_peer_that_is_stopped_is_unreachable() {
    let authority = Authority::generate().unwrap();
    let (node, front) = start(&authority, accepting(echo)).await;
    node.stop().await;
    for version in VERSIONS {
        assert_eq!(ask(&front, version).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}

#[tokio::test]
async fn upgraded_connections_are_closed_after_the_limit_of_the_shutdown() {
    let authority = Authority::generate().unwrap();
    for version in VERSIONS {
        let options = ServeOptions {
            shutdown_timeout: Duration::from_millis(300),
            ..ServeOptions::default()
        };
        let node = serve_with(&authority, accepting(echo), options).await;
        let front = front(client(&authority), node.address()).await;
        let mut socket = web_socket(&front, version).await;
        node.shutdown.cancel();
        // It still works until the limit.
        socket.send(Message::text("x")).await.unwrap();
        assert_eq!(event("the echo", socket.next()).await.unwrap().unwrap(), Message::text("x"));
        event("the shutdown", node.stop()).await;
        let end = event("the end", socket.next()).await;
        assert!(end.is_none_or(|message| message.is_err()), "{version:?}");
    }
}

#[tokio::test]
async fn a_websocket_ends_when_its_peer_is_dead() {
    let authority = Authority::generate().unwrap();
    let node = serve(&authority, accepting(echo)).await;
    let proxy = Proxy::start(node.socket).await;
    let front = front(client(&authority), node.address_at(proxy.address)).await;
    let mut http1 = web_socket(&front, Version::Http1).await;
    let mut http2 = web_socket(&front, Version::Http2).await;
    proxy.freeze();
    let start = Instant::now();
    for socket in [&mut http1, &mut http2] {
        let end = event("the end", socket.next()).await;
        assert!(end.is_none_or(|message| message.is_err()));
        assert!(start.elapsed() < Duration::from_secs(12), "{:?}", start.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_pauses_for_long_keeps_its_websocket() {
    const BYTES: usize = 64 << 20;
    let authority = Authority::generate().unwrap();
    let handler = accepting(|mut stream| async move {
        let piece = vec![1; 64 << 10];
        for _ in 0..BYTES / piece.len() {
            stream.write_all(&piece).await.unwrap();
        }
        stream.shutdown().await.unwrap();
    });
    let (_node, front) = start(&authority, handler).await;
    let read_late = async |version| {
        let mut stream = open(&front, version).await;
        // Longer than the time after which a dead peer is noticed: a peer that cannot send is
        // not one.
        tokio::time::sleep(Duration::from_secs(15)).await;
        let mut received = Vec::new();
        event("the end", stream.read_to_end(&mut received)).await.unwrap();
        assert_eq!(received.len(), BYTES, "{version:?}");
    };
    tokio::join!(read_late(Version::Http1), read_late(Version::Http2));
}

#[tokio::test]
async fn a_client_that_is_closed_ends_its_websockets() {
    let authority = Authority::generate().unwrap();
    let node = serve(&authority, accepting(echo)).await;
    for version in VERSIONS {
        let client = client(&authority);
        let front = front(client.clone(), node.address()).await;
        let mut socket = web_socket(&front, version).await;
        event("the end", client.close()).await;
        let end = event("the end of the socket", socket.next()).await;
        assert!(end.is_none_or(|message| message.is_err()), "{version:?}");
    }
}

//! Connections that are silent, incomplete, or make no progress.

use bytes::Bytes;
use futures_util::{StreamExt, future::join_all, stream};
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use test_macros::server_test;
use test_support::wait::wait_until;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{RESPONSE_TIMEOUT, assert_others_served, connect, read_until_closed};
use crate::support::{Server, TlsFiles};

#[server_test(args = [
    "--max-connections-per-address", "20", "--head-timeout", "2s", "--idle-timeout", "3s",
    "--key-timeout", "4s",
])]
async fn silent_connections_are_closed(server: &Server) {
    let neighbour = server.tenant().await;
    // The first bytes of an HTTP/2 client: the preface, and settings.
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let settings = [&preface[..], &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat();
    // An incomplete request head.
    let headers = [&settings[..], &[0, 0, 1, 1, 0, 0, 0, 0, 1, 0x82]].concat();
    for (name, sent) in [
        ("nothing", &b""[..]),
        ("half a method", b"GE"),
        ("half a head", b"GET /healthz HTTP/1.1\r\nhost: x\r\nx: "),
        ("half a preface", b"PRI * HTTP/2.0\r\n"),
        ("a complete preface", preface),
        ("settings", &settings),
        ("half a head of HTTP/2", &headers),
        ("a TLS greeting", b"\x16\x03\x01\x02\x00\x01\x00"),
        ("one request, then nothing", b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"),
        (
            "two requests without keys",
            b"GET /v1/runs HTTP/1.1\r\nhost: x\r\n\r\nGET /x HTTP/1.1\r\nhost: x\r\n\r\n",
        ),
        (
            "a request with a body that is not wanted",
            b"POST /v1/runs HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n",
        ),
    ] {
        let mut sockets = Vec::new();
        for _ in 0..150 {
            let mut socket = connect(server).await;
            // Connections beyond the limit may be closed already.
            let _ = socket.write_all(sent).await;
            sockets.push(socket);
        }
        assert_others_served(server, &neighbour).await;
        assert!(server.descriptors() < 150, "{name}: {}", server.descriptors());
        join_all(sockets.into_iter().map(|socket| read_until_closed(socket, RESPONSE_TIMEOUT * 2)))
            .await;
    }
}

#[server_test]
async fn incomplete_handshakes_time_out() {
    let limits = ["--head-timeout", "2s", "--max-connections-per-address", "20"];
    let files = TlsFiles::create();
    let server = files.server(&limits);
    let neighbour = server.tenant().await;
    for sent in
        [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET / HTTP/1.1\r\n"]
    {
        let mut sockets = Vec::new();
        for _ in 0..150 {
            let mut socket = connect(&server).await;
            let _ = socket.write_all(sent).await;
            sockets.push(socket);
        }
        assert_others_served(&server, &neighbour).await;
        join_all(sockets.into_iter().map(|socket| read_until_closed(socket, RESPONSE_TIMEOUT)))
            .await;
    }
}

/// Streams of HTTP/2 whose bodies never go on, with and without a key.
#[server_test(args = [
    "--body-timeout", "2s", "--idle-timeout", "2s", "--key-timeout", "30s", "--max-requests", "100",
])]
async fn stalled_http2_streams_time_out(server: &Server) {
    let (attacker, neighbour) = (server.tenant().await, server.tenant().await);
    for (key, status) in [(Some(&attacker.key), 408), (None, 401)] {
        let stream = TokioIo::new(connect(server).await);
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream);
        let (mut sender, connection) = handshake.await.unwrap();
        let connection = tokio::spawn(connection);
        let mut waiting = Vec::new();
        for _ in 0..40 {
            let first = Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from_static(b"{")));
            let body = stream::iter([first]).chain(stream::pending());
            let mut request = hyper::Request::post(format!("{}/v1/runs", server.url));
            if let Some(key) = key {
                request = request.header("authorization", format!("Bearer {key}"));
            }
            let request = request.header("content-type", "application/json");
            let request = request.body(StreamBody::new(Box::pin(body))).unwrap();
            sender.ready().await.unwrap();
            waiting.push(sender.send_request(request));
        }
        assert_others_served(server, &neighbour).await;
        for answer in join_all(waiting).await {
            assert_eq!(answer.unwrap().status(), status);
        }
        // The connection has no request now, and is closed by the idle timeout.
        let ended =
            timeout(RESPONSE_TIMEOUT * 2, connection).await.expect("the connection is still open");
        let _ = ended.unwrap();
    }
}

/// Waits until the server has closed its end of a connection. Reading would not detect this,
/// because data may still be buffered.
async fn wait_until_closed(socket: &TcpStream) {
    const ESTABLISHED: &str = "01";
    let port = |address: std::net::SocketAddr| format!(":{:04X}", address.port());
    let server = port(socket.peer_addr().unwrap());
    let client = port(socket.local_addr().unwrap());
    let held = || {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        table.lines().any(|line| {
            let mut fields = line.split_whitespace().skip(1);
            let mut field = || fields.next().unwrap();
            field().ends_with(&server) && field().ends_with(&client) && field() == ESTABLISHED
        })
    };
    wait_until("the server has closed the connection", async || !held()).await;
}

#[server_test(args = ["--answer-timeout", "2s"])]
async fn unread_response_times_out(server: &Server) {
    let neighbour = server.tenant().await;
    let id = server.create().await;
    let mut sockets = Vec::new();
    for (method, path, body) in [
        (
            "POST",
            "exec/stream",
            json!({ "command": "touch /dev/shm/begun; exec yes", "timeout": 0 }).to_string(),
        ),
        ("GET", "files/download?path=/dev/shm/large", String::new()),
        ("POST", "exec", json!({ "command": "head -c 7000000 /dev/zero" }).to_string()),
    ] {
        server
            .exec(&id, "test -e /dev/shm/large || head -c 60000000 /dev/zero > /dev/shm/large")
            .await;
        let mut socket = connect(server).await;
        let request = format!(
            "{method} /v1/runs/{id}/{path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            server.key,
            body.len()
        );
        socket.write_all(request.as_bytes()).await.unwrap();
        sockets.push(socket);
    }
    server.exec(&id, "until test -e /dev/shm/begun; do sleep 0.05; done").await;
    assert_others_served(server, &neighbour).await;
    server.exec(&id, "while pgrep -x yes; do sleep 0.05; done").await;
    for socket in &sockets {
        wait_until_closed(socket).await;
    }
    // Only the data that was buffered at that time is received.
    for mut socket in sockets {
        let mut taken = vec![0; 1 << 20];
        let reading = async { while socket.read(&mut taken).await.is_ok_and(|count| count > 0) {} };
        timeout(RESPONSE_TIMEOUT * 2, reading).await.expect("data is still sent");
    }
}

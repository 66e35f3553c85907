//! Servers in sandboxes that close connections, respond early, or send large headers.

use reqwest::Method;
use serde_json::{Value, json};
use test_macros::server_test;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{Server, answer, refused};

/// A server on plain sockets, whose behaviour depends on the path.
const SOCKET_SERVER: &str = r#"
import socket, sys, threading
counts = {}
def head(s):
    data = b""
    while b"\r\n\r\n" not in data:
        piece = s.recv(4096)
        if not piece: return None
        data += piece
    return data.decode("latin-1").split("\r\n")
def serve(s):
    while (lines := head(s)):
        method, path, _ = lines[0].split(" ")
        counts[method + path] = counts.get(method + path, 0) + 1
        ok = lambda text: s.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(text), text))
        if path.startswith("/fields/"):
            count, size = path.split("/")[2:]
            fields = "".join("x-%d: %s\r\n" % (i, "v" * int(size)) for i in range(int(count)))
            s.sendall(("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n" + fields + "\r\nok").encode())
        elif path.startswith("/once/"):
            # Respond to the first request on a connection, and close it when the next
            # one arrives, as after an idle timeout.
            ok(b"first")
            if (lines := head(s)):
                key = lines[0].split(" ")[0] + lines[0].split(" ")[1]
                counts[key] = counts.get(key, 0) + 1
            break
        elif path == "/counts":
            ok(repr(sorted(counts.items())).encode())
        elif path.startswith("/ws"):
            s.sendall(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n")
            s.sendall(repr(lines).encode() + s.recv(4096))
            break
        elif path == "/early":
            s.sendall(b"HTTP/1.1 413 Too Large\r\ncontent-length: 5\r\nconnection: close\r\n\r\nlarge")
            s.shutdown(socket.SHUT_WR)
            while s.recv(1 << 16): pass
            break
        else:
            ok(b"ok")
    s.close()
listener = socket.create_server(("127.0.0.1", 8000))
while True: threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"#;

async fn start(server: &Server, settings: Value) -> (String, String) {
    let id = server.create_with(settings).await;
    server.start_program(&id, SOCKET_SERVER, 8000).await;
    let url = format!("{}/sb/{id}/p/8000", server.url);
    (id, url)
}

#[server_test]
async fn response_header_limits_are_enforced(server: &Server) {
    let (_, url) = start(server, json!({})).await;
    let address = server.address();
    let path = url.strip_prefix(&server.url).unwrap();
    for (count, size) in [(90, 10), (150, 10), (900, 100), (4, 100_000)] {
        // Use a plain socket, since HTTP clients have their own limits.
        let mut socket = TcpStream::connect(address).await.unwrap();
        let head = format!("GET {path}/fields/{count}/{size} HTTP/1.1\r\nhost: {address}\r\n\r\n");
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"\r\n\r\nok") {
            assert_ne!(socket.read_buf(&mut seen).await.unwrap(), 0, "{count}, {size}");
        }
        let seen = String::from_utf8(seen).unwrap();
        assert!(seen.starts_with("HTTP/1.1 200"), "{count} fields of {size} bytes");
        let long = |line: &&str| line.starts_with("x-") && line.len() >= size;
        assert_eq!(seen.lines().filter(long).count(), count, "{count} fields of {size} bytes");
    }
    for (count, size) in [(1100, 10), (2000, 1), (8, 100_000)] {
        let refused_for = answer(server.http.get(format!("{url}/fields/{count}/{size}"))).await;
        refused(&refused_for, 502, "port_broken", "1000 fields and 524288 bytes");
    }
}

#[server_test]
async fn safe_requests_are_retried_on_a_new_connection(server: &Server) {
    let (_, url) = start(server, json!({})).await;
    for (method, path) in [
        (Method::GET, "/once/get"),
        (Method::HEAD, "/once/head"),
        (Method::OPTIONS, "/once/options"),
    ] {
        for round in 0..4 {
            let request = server.http.request(method.clone(), format!("{url}{path}"));
            assert_eq!(request.send().await.unwrap().status(), 200, "{method} {round}");
        }
    }
    // A request that may have taken effect is not sent again.
    let post = || server.http.post(format!("{url}/once/post")).body("x");
    let mut failed = 0;
    for _ in 0..4 {
        match response_status(post()).await {
            502 => failed += 1,
            status => assert_eq!(status, 200),
        }
    }
    assert!(failed > 0, "no connection was reused");
    let counts =
        server.http.get(format!("{url}/counts")).send().await.unwrap().text().await.unwrap();
    assert!(counts.contains("('POST/once/post', 4)"), "{counts}");
}

#[server_test]
async fn websocket_accepts_the_token_in_its_query(server: &Server) {
    let (id, _) = start(server, json!({ "urls": "token" })).await;
    let (_, run) = server.get(&format!("/v1/runs/{id}")).await;
    let template = run["port_url"].as_str().unwrap().replace("{port}", "8000");
    let (plain, token) = template.split_once("?isorun_token=").unwrap();
    let address = server.address();
    for (query, status) in [
        (format!("?isorun_token={token}"), "101"),
        (format!("?a=1&isorun_token={token}&b=2"), "101"),
        ("?isorun_token=00".to_owned(), "403"),
        (String::new(), "403"),
    ] {
        let mut socket = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "GET {plain}ws{query} HTTP/1.1\r\nhost: {address}\r\nupgrade: websocket\r\n\
             connection: upgrade\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: aXNvcnVuLXdlYnNvY2tldA==\r\n\r\n"
        );
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut seen = Vec::new();
        while !seen.windows(4).any(|window| window == b"\r\n\r\n") {
            assert_ne!(socket.read_buf(&mut seen).await.unwrap(), 0, "{query}");
        }
        let head = String::from_utf8_lossy(&seen).into_owned();
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{query}: {head}");
        if status == "101" {
            socket.write_all(b"through").await.unwrap();
            while !seen.ends_with(b"through") {
                assert_ne!(socket.read_buf(&mut seen).await.unwrap(), 0, "{query}");
            }
            let inside = String::from_utf8_lossy(&seen).into_owned();
            assert!(!inside.contains(token), "{inside}");
            assert_eq!(inside.contains("/ws?a=1&b=2 "), query.contains("a=1"), "{inside}");
        }
    }
}

async fn response_status(request: reqwest::RequestBuilder) -> u16 {
    request.send().await.unwrap().status().as_u16()
}

#[server_test]
async fn early_response_announces_that_the_connection_closes(server: &Server) {
    let (id, url) = start(server, json!({})).await;
    let address = server.address();
    let early = url.strip_prefix(&server.url).unwrap().to_owned() + "/early";
    for (path, key, status) in [
        (early.as_str(), None, "413"),
        (&format!("/v1/runs/{id}/exec"), None, "401"),
        ("/nowhere", Some(&server.key), "404"),
        ("/v1/runs/run0123456789abcdef/files/upload?path=/x", Some(&server.key), "404"),
    ] {
        let mut socket = TcpStream::connect(address).await.unwrap();
        let key = key.map(|key| format!("authorization: Bearer {key}\r\n")).unwrap_or_default();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {address}\r\n{key}content-length: 1000000\r\n\r\n"
        );
        socket.write_all(head.as_bytes()).await.unwrap();
        socket.write_all(&[b'x'; 20_000]).await.unwrap();
        let mut seen = Vec::new();
        while !seen.windows(4).any(|window| window == b"\r\n\r\n") {
            assert_ne!(socket.read_buf(&mut seen).await.unwrap(), 0, "{path}");
        }
        let seen = String::from_utf8_lossy(&seen).to_lowercase();
        assert!(seen.starts_with(&format!("http/1.1 {status}")), "{path}: {seen}");
        assert!(seen.contains("\r\nconnection: close\r\n"), "{path}: {seen}");
    }
    // A response to a request that was read completely does not close it.
    let body = "{}";
    let request = format!(
        "POST /v1/runs HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {}\r\ncontent-length: 2\r\n\r\n{body}",
        server.key
    );
    let mut socket = TcpStream::connect(address).await.unwrap();
    for _ in 0..2 {
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut seen = Vec::new();
        // The response is chunked.
        while !seen.ends_with(b"\r\n0\r\n\r\n") {
            assert_ne!(socket.read_buf(&mut seen).await.unwrap(), 0, "the connection was closed");
        }
        let seen = String::from_utf8_lossy(&seen).to_lowercase();
        assert!(seen.starts_with("http/1.1 400") && !seen.contains("connection: close"), "{seen}");
    }
}

//! URLs of servers in sandboxes.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use reqwest::{Method, StatusCode, redirect};
use serde_json::json;
use test_macros::server_test;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::{client_async, tungstenite::Message};

use crate::support::{Server, answer, refused};

/// An HTTP server on the loopback address that echoes the request.
const ECHO_SERVER: &str = r#"
import hashlib, http.server, sys, threading
received = threading.Semaphore(0)
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.path == "/events":
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            for i in range(3):
                self.wfile.write(b"data: %d\n\n" % i)
                self.wfile.flush()
                # The next one is written when the client has received this one.
                received.acquire()
            self.close_connection = True
            return
        if self.path == "/received": received.release()
        if self.path == "/away":
            self.send_response(302)
            self.send_header("location", "/there?x=1")
            self.send_header("content-length", "0")
            self.end_headers()
            return
        text = (self.command + " " + self.path + "\n" + str(self.headers)).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
    def do_POST(self):
        digest, left = hashlib.sha256(), int(self.headers["content-length"])
        while left:
            piece = self.rfile.read(min(left, 1 << 16))
            digest.update(piece)
            left -= len(piece)
        text = digest.hexdigest().encode()
        self.send_response(200)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"#;

/// A WebSocket server without a library, which echoes each message twice.
const DOUBLING_SERVER: &str = r#"
import base64, hashlib, socket, struct, sys, threading
def exactly(s, n):
    data = b""
    while len(data) < n:
        piece = s.recv(n - len(data))
        if not piece: raise EOFError
        data += piece
    return data
def serve(s):
    head = b""
    while b"\r\n\r\n" not in head: head += s.recv(4096)
    key = [l.split(b": ")[1] for l in head.split(b"\r\n") if l.lower().startswith(b"sec-websocket-key")][0]
    accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    s.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n")
    try:
        while True:
            kind, length = exactly(s, 2)
            length &= 127
            if length == 126: length = struct.unpack(">H", exactly(s, 2))[0]
            mask = exactly(s, 4)
            data = bytes(b ^ mask[i % 4] for i, b in enumerate(exactly(s, length)))
            if kind & 15 == 8: return
            s.sendall(bytes([kind, 2 * len(data)]) + data + data)
    except EOFError: pass
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True: threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"#;

async fn text(request: reqwest::RequestBuilder) -> (StatusCode, String) {
    let response = request.send().await.unwrap();
    (response.status(), response.text().await.unwrap())
}

#[server_test]
async fn loopback_server_is_reachable_by_url(server: &Server) {
    let id = server.create().await;
    server.start_program(&id, ECHO_SERVER, 8000).await;
    let url = format!("{}/sb/{id}/p/8000", server.url);
    let anonymous = || server.http.get(format!("{url}/a/b?c=d%20e")).header("x-mine", "kept");
    let (status, body) = text(anonymous()).await;
    assert_eq!(status, 200, "{body}");
    let address = server.address();
    for line in [
        "GET /a/b?c=d%20e\n",
        "x-mine: kept\n",
        &format!("host: {address}\n"),
        &format!("x-forwarded-host: {address}\n"),
    ] {
        assert!(body.to_lowercase().contains(&line.to_lowercase()), "{line:?} of {body}");
    }
    assert!(!body.contains(&id), "{body}");
    // With a key, which is not forwarded to the sandbox.
    let path = format!("/v1/runs/{id}/proxy/8000/x");
    let (status, body) = text(server.request(Method::GET, &path)).await;
    assert_eq!(status, 200, "{body}");
    assert!(body.starts_with("GET /x\n") && !body.contains("isorun_live"), "{body}");
    let other_key = server.new_key(&[]).await;
    let foreign = server.http.get(format!("{}{path}", server.url)).bearer_auth(other_key);
    refused(&answer(foreign).await, 404, "run_not_found", &id);
    let without_key = answer(server.http.get(format!("{}{path}", server.url))).await;
    refused(&without_key, 401, "unauthorized", "API key");

    // Large bodies, and many requests on the same connections.
    let big = vec![7_u8; 20 << 20];
    let digest = sha256_of_sevens();
    for _ in 0..2 {
        let request = server.http.post(format!("{url}/")).body(big.clone());
        assert_eq!(text(request).await, (StatusCode::OK, digest.clone()));
    }
    let all = futures_util::future::join_all((0..40).map(|_| text(anonymous()))).await;
    assert!(all.iter().all(|(status, _)| *status == 200));

    // Streams arrive as they are written.
    let response = server.http.get(format!("{url}/events")).send().await.unwrap();
    let mut events = response.bytes_stream();
    for number in 0..3 {
        assert_eq!(events.next().await.unwrap().unwrap(), format!("data: {number}\n\n"));
        let received = text(server.http.get(format!("{url}/received"))).await;
        assert_eq!(received.0, 200, "{}", received.1);
    }
    assert!(events.next().await.is_none());

    // A redirect stays on the port.
    let client = reqwest::Client::builder().redirect(redirect::Policy::none()).build().unwrap();
    let response = client.get(format!("{url}/away")).send().await.unwrap();
    assert_eq!(response.headers()["location"], format!("/sb/{id}/p/8000/there?x=1"));
    server.destroy(&id).await;
    let gone = answer(anonymous()).await;
    refused(&gone, 404, "run_not_found", &id);
}

#[server_test]
async fn websocket_is_proxied(server: &Server) {
    let id = server.create().await;
    server.start_program(&id, DOUBLING_SERVER, 8001).await;
    let address = server.address();
    let stream = TcpStream::connect(address).await.unwrap();
    let url = format!("ws://{address}/sb/{id}/p/8001/");
    let (mut socket, _) = client_async(url, stream).await.unwrap();
    for text in ["a", "hello"] {
        socket.send(Message::Text(text.into())).await.unwrap();
        let echo = socket.next().await.unwrap().unwrap();
        assert_eq!(echo, Message::Text(text.repeat(2).into()));
    }
    // It is closed when the sandbox is destroyed.
    server.destroy(&id).await;
    while let Some(Ok(_)) = socket.next().await {}
}

#[server_test]
async fn unreachable_port_is_reported(server: &Server) {
    let id = server.create().await;
    let get = |path: String| server.http.get(format!("{}{path}", server.url));
    refused(
        &answer(get(format!("/sb/{id}/p/8000/"))).await,
        502,
        "connection_refused",
        "port 8000",
    );
    // A server that does not speak HTTP, and closes the connection.
    let command = "setsid python3 -c \"
import socket
s = socket.create_server(('127.0.0.1', 9000))
while True:
    c = s.accept()[0]; c.recv(100); c.sendall(b'nonsense\\n\\n'); c.close()
\" >/dev/null 2>&1 & until python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", 9000))'; do sleep 0.05; done 2>/dev/null";
    server.exec(&id, command).await;
    refused(&answer(get(format!("/sb/{id}/p/9000/"))).await, 502, "port_broken", "port 9000");
    for path in [format!("/sb/{id}/p/0/"), format!("/sb/{id}/p/x/"), "/sb/p/80/".to_owned()] {
        refused(&answer(get(path)).await, 404, "not_found", "");
    }
    refused(&answer(get(format!("/sb/{id}/p/1/"))).await, 404, "not_found", "not a valid port");
    let unknown = answer(get("/sb/run0123456789abcdef/p/80/".to_owned())).await;
    refused(&unknown, 404, "run_not_found", "run0123456789abcdef");
    server.assert_served().await;
}

#[server_test]
async fn anonymous_urls_require_a_token_or_are_off(server: &Server) {
    let id = server.create_with(json!({ "urls": "token" })).await;
    server.start_program(&id, ECHO_SERVER, 8000).await;
    let (_, run) = server.get(&format!("/v1/runs/{id}")).await;
    let template = run["port_url"].as_str().unwrap().replace("{port}", "8000");
    let (plain, token) = template.split_once("?isorun_token=").unwrap();
    let client = reqwest::Client::builder().redirect(redirect::Policy::none()).build().unwrap();
    let url = |path: &str| format!("{}{path}", server.url);
    refused(&answer(client.get(url(plain))).await, 403, "forbidden", "token");
    let wrong = format!("{plain}?isorun_token=00");
    refused(&answer(client.get(url(&wrong))).await, 403, "forbidden", "token");
    let (status, body) = text(client.get(url(plain)).header("x-isorun-token", token)).await;
    assert!(status == 200 && !body.contains(token), "{body}");
    // The token is set as a cookie in the browser, and not forwarded to the sandbox.
    let response = client.get(url(&format!("{template}&q=1"))).send().await.unwrap();
    assert_eq!(response.status(), 307);
    assert_eq!(response.headers()["location"], format!("{plain}?q=1"));
    let cookie = response.headers()["set-cookie"].to_str().unwrap().to_owned();
    let cookie = format!("own=1; {}", cookie.split(';').next().unwrap());
    let (status, body) = text(client.get(url(plain)).header("cookie", cookie)).await;
    assert!(status == 200 && !body.contains(token) && body.contains("own=1"), "{body}");

    let id = server.create_with(json!({ "urls": "off" })).await;
    let off = answer(server.http.get(url(&format!("/sb/{id}/p/8000/")))).await;
    refused(&off, 403, "forbidden", "switched");
    let keyed = server.get(&format!("/v1/runs/{id}/proxy/8000/")).await;
    refused(&keyed, 502, "connection_refused", "8000");
    let wrong = server.post("/v1/runs", json!({ "image": "host", "urls": "some" })).await;
    refused(&wrong, 400, "invalid_request", "urls");
}

#[server_test(args = ["--domain", "http://sandboxes.test:7676"])]
async fn each_run_has_its_own_hostname(server: &Server) {
    let id = server.create().await;
    server.start_program(&id, ECHO_SERVER, 8000).await;
    let (_, run) = server.get(&format!("/v1/runs/{id}")).await;
    let expected = format!("http://{id}.sandboxes.test:7676/sb/p/{{port}}/");
    assert_eq!(run["port_url"], expected.as_str());
    let host = format!("{id}.sandboxes.test:7676");
    let url = format!("{}/sb/p/8000/x", server.url);
    let (status, body) = text(server.http.get(&url).header("host", &host)).await;
    assert!(status == 200 && body.starts_with("GET /x\n"), "{body}");
    // Names that are forwarded to the sandbox do not contain the id.
    let request = server
        .http
        .get(&url)
        .header("host", &host)
        .header("origin", format!("https://{host}"))
        .header("referer", format!("https://{host}/sb/p/8000/page"));
    let (_, body) = text(request).await;
    assert!(!body.to_lowercase().contains(&id), "{body}");
    for line in [
        "host: sandbox.sandboxes.test:7676\n",
        "x-forwarded-prefix: /sb/p/8000\n",
        "origin: https://sandbox.sandboxes.test:7676\n",
        "referer: https://sandbox.sandboxes.test:7676/page\n",
    ] {
        assert!(body.to_lowercase().contains(line), "{line:?} of {body}");
    }
    let other = server.http.get(&url).header("host", "elsewhere.test");
    refused(&answer(other).await, 404, "not_found", "does not identify a run");
}

/// A server that sends header fields with effects beyond its port, and echoes the head of the
/// request.
const HOSTILE_SERVER: &str = r#"
import socket, sys, threading
HEAD = b"""HTTP/1.1 200 OK
Content-Type: text/plain
Service-Worker-Allowed: /
service-worker-allowed: /v1
Clear-Site-Data: "*"
Strict-Transport-Security: max-age=1000; includeSubDomains
Alt-Svc: h2="evil.test:443"
NEL: {}
Report-To: {}
Reporting-Endpoints: a="https://evil.test"
X-Accel-Redirect: /etc/passwd
Set-Cookie: parent=1; Domain=sandboxes.test; Path=/
Set-Cookie: wide=1; Path=/
Set-Cookie: isorun_token=1; Path=/
Set-Cookie: =isorun_token=1; Path=/
Set-Cookie: __Host-a=1; Secure; Path=/
Referrer-Policy: unsafe-url
X-Own: kept
Connection: close
""".replace(b"\n", b"\r\n")
def serve(s):
    head = b""
    while b"\r\n\r\n" not in head: head += s.recv(4096)
    s.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(head) + head); s.close()
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True: threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"#;

#[server_test]
async fn keys_and_cross_origin_fields_are_removed(server: &Server) {
    let id = server.create().await;
    server.start_program(&id, HOSTILE_SERVER, 8000).await;
    let key = &server.key;
    let basic = {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        STANDARD.encode(format!("user:{key}"))
    };
    let path = format!("{}/sb/{id}/p/8000/", server.url);
    let name = format!("{}/sb/p/8000/", server.url);
    let local = format!("{id}.localhost:7676");
    let keyed = format!("{}/v1/runs/{id}/proxy/8000/", server.url);
    let port = server.url.rsplit_once(':').unwrap().1;
    for (url, host) in [(&path, None), (&name, Some(&local)), (&keyed, None)] {
        for (header, value) in [
            ("authorization", format!("Bearer {key}")),
            ("AUTHORIZATION", format!("bearer   {}", key.to_uppercase())),
            ("authorization", format!("Bearer {key}{key}")),
            ("authorization", format!("Basic {basic}")),
            ("proxy-authorization", format!("Bearer {key}")),
            ("x-api-key", key.clone()),
            ("x-isorun-token", "0123456789abcdef".to_owned()),
            ("cookie", format!("own=1; isorun_token=0123456789abcdef; k={key}")),
            ("sec-websocket-protocol", format!("mine, {key}")),
            (
                "referer",
                format!("http://127.0.0.1:{port}/sb/{id}/p/8000/?isorun_token=0123456789abcdef"),
            ),
            ("referer", format!("https://elsewhere.test/?{key}")),
            ("x-forwarded-uri", format!("/sb/{id}/p/8000/")),
            ("x-mine", "kept".to_owned()),
        ] {
            let query = format!("?a=1&isorun_token=0123456789abcdef&key={key}&%69sorun_live_x=1");
            let mut request = server.http.get(format!("{url}{query}"));
            if url == &keyed && !header.eq_ignore_ascii_case("authorization") {
                request = request.bearer_auth(key);
            }
            if url == &keyed && header.eq_ignore_ascii_case("authorization") {
                request = request.bearer_auth(key);
            } else {
                request = request.header(header, &value);
            }
            if let Some(host) = host {
                request = request.header("host", host);
            }
            let response = request.send().await.unwrap();
            assert_eq!(response.status(), 200, "{url} {header}");
            let headers = response.headers().clone();
            let body = response.text().await.unwrap().to_lowercase();
            assert!(body.starts_with("get /?a=1 http/1.1"), "{body}");
            for secret in
                ["isorun_live", "%69sorun", "0123456789abcdef", &id, &basic.to_lowercase()]
            {
                assert!(!body.contains(secret), "{url} {header}: {value}: {secret} in {body}");
            }
            if header == "x-mine" {
                assert!(body.contains("x-mine: kept"), "{body}");
            }
            for wide in [
                "service-worker-allowed",
                "clear-site-data",
                "strict-transport-security",
                "alt-svc",
                "nel",
                "report-to",
                "reporting-endpoints",
                "x-accel-redirect",
            ] {
                assert!(!headers.contains_key(wide), "{wide}");
            }
            assert_eq!(headers["x-own"], "kept");
            assert_eq!(headers["referrer-policy"], "same-origin");
            let sandboxed = headers.get("content-security-policy").is_some();
            assert_eq!(sandboxed, host.is_none(), "{headers:?}");
            let own = url.strip_prefix(&server.url).unwrap();
            let cookies: Vec<_> =
                headers.get_all("set-cookie").iter().map(|value| value.to_str().unwrap()).collect();
            let mut expected = vec![format!("parent=1; Path={own}"), format!("wide=1; Path={own}")];
            if host.is_some() {
                expected.push("__Host-a=1; Secure; Path=/".to_owned());
            }
            assert_eq!(cookies, expected);
        }
    }
    // A key in the path cannot be removed.
    let request = server.http.get(format!("{path}{key}"));
    refused(&answer(request).await, 400, "invalid_request", "API key");
}

/// The id gives access to the sandbox's URLs, so it must not be known in the sandbox.
#[server_test]
async fn run_id_is_not_visible_in_the_sandbox(server: &Server) {
    let id = server.create_with(json!({ "network_profile": "default" })).await;
    let print_names = "hostname; python3 -c 'import socket; print(socket.gethostbyname(socket.gethostname()), socket.getfqdn())'";
    let output = server.exec(&id, print_names).await["stdout"].as_str().unwrap().to_owned();
    let hostname = output.lines().next().unwrap().to_owned();
    assert!(hostname.starts_with("sandbox-") && hostname.len() == 20, "{output}");
    assert_eq!(output.lines().nth(1).unwrap().split(' ').next(), Some("127.0.0.1"), "{output}");
    assert!(!output.contains(&id) && !output.contains(&id[3..]), "{output}");
    // The pattern is assembled in the sandbox, so that the search does not find itself.
    let (head, tail) = id.split_at(10);
    let search = format!(
        "p={head}; p=${{p}}{tail}; echo $p > /tmp/pattern; unset p; \
         env | grep -c -f /tmp/pattern; \
         cat /proc/cmdline /proc/version /proc/mounts /proc/*/mountinfo /proc/*/cgroup \
             /proc/*/environ /proc/*/cmdline /proc/*/maps /proc/sys/kernel/* 2>/dev/null \
             | grep -a -c -f /tmp/pattern; \
         find /etc /run /dev /sys /proc /var -maxdepth 4 2>/dev/null | grep -c -f /tmp/pattern; \
         find /etc /run /sys -type f 2>/dev/null -exec grep -l -s -f /tmp/pattern {{}} + | wc -l; \
         ls -l /proc/*/fd /proc/*/cwd /proc/*/root 2>/dev/null | grep -c -f /tmp/pattern; \
         dmesg 2>/dev/null | grep -c -f /tmp/pattern; grep -c -f /tmp/pattern /tmp/pattern"
    );
    assert_eq!(server.exec(&id, &search).await["stdout"], "0\n0\n0\n0\n0\n0\n1\n");
    // The hostname is the same after hibernation, differs in a fork, and resolves without a
    // network.
    server.post(&format!("/v1/runs/{id}/hibernate"), json!({})).await;
    server.post(&format!("/v1/runs/{id}/resume"), json!({})).await;
    assert_eq!(server.exec(&id, print_names).await["stdout"], output.as_str());
    let (_, forks) = server.post(&format!("/v1/runs/{id}/fork"), json!({ "count": 2 })).await;
    let mut names = std::collections::BTreeSet::from([hostname]);
    for fork in forks["forks"].as_array().unwrap() {
        let fork = fork["id"].as_str().unwrap();
        let output = server.exec(fork, print_names).await["stdout"].as_str().unwrap().to_owned();
        let name = output.lines().next().unwrap();
        assert!(output.contains("\n127.0.0.1 ") && !output.contains(&fork[3..]), "{output}");
        assert!(names.insert(name.to_owned()), "{names:?}");
        let hosts =
            server.exec(fork, "cat /etc/hosts").await["stdout"].as_str().unwrap().to_owned();
        assert_eq!(hosts.matches("sandbox-").count(), 1, "{hosts}");
    }
    let closed = server.create_with(json!({ "network_profile": "locked-down" })).await;
    let output = server.exec(&closed, print_names).await["stdout"].as_str().unwrap().to_owned();
    assert!(output.contains("\n127.0.0.1 "), "{output}");
    let log = server.request(Method::GET, &format!("/v1/runs/{closed}/audit")).send().await;
    let log = log.unwrap().text().await.unwrap();
    assert!(!log.contains("network.blocked"), "a DNS query was sent: {log}");
}

#[server_test]
async fn smuggled_requests_are_not_forwarded(server: &Server) {
    let id = server.create().await;
    server.start_program(&id, ECHO_SERVER, 8000).await;
    let address = server.address().to_owned();
    let inner = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
    for head in [
        format!("Content-Length: {}\r\nTransfer-Encoding: chunked", inner.len() + 5),
        "Transfer-Encoding: chunked, identity".to_owned(),
        "Transfer-Encoding: xchunked".to_owned(),
        format!("Content-Length: 0\r\nContent-Length: {}", inner.len()),
        "Content-Length: +5".to_owned(),
    ] {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        let request = format!(
            "GET /sb/{id}/p/8000/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{head}\r\n\r\n0\r\n\r\n{inner}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut response))
            .await
            .expect("the connection is still open");
        let response = String::from_utf8_lossy(&response);
        assert!(!response.contains("/smuggled"), "{head}: {response}");
    }
    // A connection with a slow head is closed, and does not delay others.
    let mut slow = TcpStream::connect(&address).await.unwrap();
    slow.write_all(format!("GET /sb/{id}/p/8000/ HTTP/1.1\r\nHost").as_bytes()).await.unwrap();
    let (status, _) = text(server.http.get(format!("{}/sb/{id}/p/8000/", server.url))).await;
    assert_eq!(status, 200);
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(40), slow.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "the connection with an incomplete head is still open");
}

fn sha256_of_sevens() -> String {
    use std::process::{Command, Stdio};
    let script = "head -c 20971520 /dev/zero | tr '\\0' '\\7' | sha256sum | cut -d' ' -f1";
    let output = Command::new("sh").args(["-c", script]).stdin(Stdio::null()).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

//! Rules by name with input that is neither clean HTTP/1 nor TLS, or has several names:
//! real programs send it, and the tests check what arrives at the server.

use isorun_egress::policy::DefaultAction;
use isorun_engine::Engine;
use isorun_engine::conformance::{Sandbox, argv};
use serde_json::json;
use test_macros::timed_test;
use test_support::resolver::Entry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::network::{Fixture, TestNetwork, plan};

/// A program that sends each text on a connection of its own, in pieces if it is a list,
/// and prints the result of each. The time between the pieces makes them separate segments.
const SENDER: &str = r#"
import json, socket, sys, time
host, port, texts = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
result = []
for text in texts:
    begun = time.monotonic()
    try:
        s = socket.create_connection((host, port), 8); s.settimeout(15)
        for piece in [text] if isinstance(text, str) else text:
            s.sendall(piece.encode('latin-1')); time.sleep(0.02)
        data = s.recv(4096)
        result.append('data' if data else 'end')
        # The response is from the proxy, not from the server.
        if data.startswith(b'HTTP/1.1 4'): result[-1] = 'refused'
    except ConnectionResetError: result.append('reset')
    except BrokenPipeError: result.append('reset')
    except TimeoutError: result.append('timeout')
    if time.monotonic() - begun > 3: result[-1] += ' slow'
print(json.dumps(result))
"#;

/// Runs [`SENDER`] with these texts.
async fn send(
    sandbox: &Sandbox<'_>,
    host: &str,
    port: u16,
    texts: &serde_json::Value,
) -> Vec<String> {
    let (port, texts) = (port.to_string(), texts.to_string());
    let words = ["python3", "-c", SENDER, host, &port, &texts];
    let output = sandbox.exec(argv(&words)).await.unwrap().output(100_000).await.unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

/// Returns requests that are not clean, or not for an allowed host.
fn unclean() -> Vec<String> {
    let evil = "Host: evil.test\r\n\r\n";
    let mut texts: Vec<String> = [
        "\r\nGET / HTTP/1.1\r\n",
        "\nGET / HTTP/1.1\r\n",
        "\r\n\r\n\r\nGET / HTTP/1.1\r\n",
        " GET / HTTP/1.1\r\n",
        "\t GET / HTTP/1.1\r\n",
        "\x0bGET / HTTP/1.1\r\n",
        "GET / HTTP/01.1\r\n",
        "GET / HTTP/1.01\r\n",
        "GET / HTTP/1.2\r\n",
        "GET / HTTP/3.0\r\n",
        "GET / http/1.1\r\n",
        "GET / HTTP/1.1\n",
        "GET / HTTP/1.1\r",
        "GET  / HTTP/1.1\r\n",
        "GET\t/\tHTTP/1.1\r\n",
        "GET / HTTP/1.1 \r\n",
        "(invented) / HTTP/1.1\r\n",
        "G\u{c9}T / HTTP/1.1\r\n",
        "GET /\u{e9} HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\n folded: yes\r\n",
        "GET / HTTP/1.1\r\nA: b\r\n\tc\r\n",
        "GET / HTTP/1.1\r\nA : b\r\n",
        "GET / HTTP/1.1\r\nA: b\n",
        "GET / HTTP/1.1\r\nA: b\0\r\n",
        "GET / HTTP/1.1\r\nHost: good.test\r\n",
        "GET http://good.test/ HTTP/1.1\r\n",
        "CONNECT evil.test:80 HTTP/1.1\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        "GET http://evil.test/\r\n",
        // Clean, but for another host.
        "get / HTTP/1.1\r\n",
        "invented / HTTP/1.1\r\n",
        "INVENTED-2 / HTTP/1.1\r\n",
        "$%&! / HTTP/1.0\r\n",
        "GET http://evil.test/ HTTP/1.1\r\n",
    ]
    .map(|start| format!("{start}{evil}"))
    .to_vec();
    for (target, host) in [
        ("http://evil.test/", "good.test"),
        ("http://evil.test@good.test/", "good.test"),
        ("http://good.test@evil.test/", "good.test"),
        ("/", "evil.test, good.test"),
        ("/", "good.test, evil.test"),
        ("/", "evil.test@good.test"),
        ("/", "good.test:80@evil.test"),
        ("/", "good.test evil.test"),
        ("/", "good.test\tevil.test"),
        ("/", "good.test\r\nHost: evil.test"),
        ("/", "good.test\r\n evil.test"),
        ("/", "evil.test#good.test"),
        ("/", "198.51.100.1"),
        ("/", "[::ffff:198.51.100.1]"),
        ("/", ""),
    ] {
        texts.push(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    }
    texts
}

/// First bytes of protocols without a name in which the client sends first.
const OTHER_PROTOCOLS: [&str; 8] = [
    "\x00\x00\x00\x08\x04\u{d2}\x16\x2f",
    "SSH-2.0-OpenSSH_9.9\r\n",
    "EHLO me\r\n",
    "*1\r\n$4\r\nPING\r\n",
    "\u{80}\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10\x01\x00\u{80}",
    "\x15\x03\x01\x00\x02\x02\x28",
    "GET /\r\n",
    "\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x02id",
];

#[timed_test(seconds = 180)]
async fn rules_by_name_allow_only_strict_http_and_tls() {
    let net = TestNetwork(7);
    let fixture = Fixture::open(net).await;
    let received = net.recorder(1, 80).await;
    fixture.resolver.set("good.test", &[Entry::Address(net.host(1))]);
    fixture.resolver.set("evil.test", &[Entry::Address(net.host(1))]);
    let sandbox = fixture.sandbox().await;
    let set = |plan| fixture.scratch.set_network(&sandbox.id, plan);
    set(plan(DefaultAction::Deny, &["good.test"], &[])).await.unwrap();
    let mut texts = unclean();
    texts.extend(OTHER_PROTOCOLS.map(str::to_owned));
    for (text, result) in texts.iter().zip(send(&sandbox, "good.test", 80, &json!(texts)).await) {
        assert!(matches!(result.as_str(), "reset" | "refused"), "{text:?}: {result}");
    }
    assert_eq!(String::from_utf8_lossy(&received.lock().unwrap()), "");
    // Each is reported.
    let seen = fixture.seen.take();
    assert_eq!(seen.len(), texts.len(), "{seen:?}");
    let other_protocols = seen.iter().filter(|(reason, _)| reason == "protocol").count();
    assert_eq!(other_protocols, OTHER_PROTOCOLS.len(), "{seen:?}");
    // The same if rules only deny names; protocols without a name are allowed then.
    let range = format!("{}/28", net.host(0));
    set(plan(DefaultAction::Deny, &[range.as_str(), "good.test"], &["evil.test"])).await.unwrap();
    let texts = unclean();
    for (text, result) in texts.iter().zip(send(&sandbox, "good.test", 80, &json!(texts)).await) {
        assert!(matches!(result.as_str(), "reset" | "refused"), "{text:?}: {result}");
    }
    assert_eq!(String::from_utf8_lossy(&received.lock().unwrap()), "");
    let passed = send(&sandbox, "good.test", 80, &json!(OTHER_PROTOCOLS)).await;
    assert_eq!(passed, ["data"; OTHER_PROTOCOLS.len()]);
    // A rule by address allows anything, unchanged.
    set(plan(DefaultAction::Deny, &[range.as_str()], &[])).await.unwrap();
    received.lock().unwrap().clear();
    let raw = "\r\nget /raw HTTP/01.1\nHost: any\n\n";
    assert_eq!(send(&sandbox, "good.test", 80, &json!([raw])).await, ["reset"]);
    let address = net.host(1).to_string();
    assert_eq!(send(&sandbox, &address, 80, &json!([raw])).await, ["data"]);
    assert_eq!(String::from_utf8_lossy(&received.lock().unwrap()), raw);
}

#[timed_test]
async fn requests_allowed_by_name_are_reserialized() {
    let net = TestNetwork(8);
    let fixture = Fixture::open(net).await;
    let received = net.recorder(1, 80).await;
    fixture.resolver.set("good.test", &[Entry::Address(net.host(1))]);
    fixture.resolver.set("my_host.good.test", &[Entry::Address(net.host(1))]);
    let sandbox = fixture.sandbox().await;
    let allow = plan(DefaultAction::Deny, &["good.test", "*.good.test"], &[]);
    fixture.scratch.set_network(&sandbox.id, allow).await.unwrap();
    // The text to send, perhaps in pieces, and the lines that arrive.
    for (text, lines) in [
        (
            json!(["GET /a HTTP/1.1\r\nHo", "st: GOOD.test.:80\r\n\r", "\n"]),
            &["GET /a HTTP/1.1", "host: good.test"][..],
        ),
        (
            json!("get /b HTTP/1.1\r\nHost: good.test\r\n\r\n"),
            &["get /b HTTP/1.1", "host: good.test"],
        ),
        (
            json!("GET http://good.test/c HTTP/1.1\r\nHost: good.test\r\n\r\n"),
            &["GET /c HTTP/1.1", "host: good.test"],
        ),
        // Without a host it is forwarded for the allowed one.
        (json!("GET /d HTTP/1.0\r\n\r\n"), &["GET /d HTTP/1.1", "host: good.test"]),
        (
            json!("GET /e HTTP/1.1\r\nHost: my_host.good.test\r\n\r\n"),
            &["GET /e HTTP/1.1", "host: my_host.good.test"],
        ),
        // An upgrade to another protocol is not forwarded.
        (
            json!(
                "GET /f HTTP/1.1\r\nHost: good.test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
            ),
            &["GET /f HTTP/1.1", "host: good.test"],
        ),
        (
            json!(
                "GET /g HTTP/1.1\r\nHost: good.test\r\nConnection: upgrade\r\nUpgrade: websocket, h2c\r\n\r\n"
            ),
            &["GET /g HTTP/1.1", "host: good.test"],
        ),
        (
            json!(
                "GET /h HTTP/1.1\r\nHost: good.test\r\nConnection: close, x-own\r\nX-Own: 1\r\nTE: trailers\r\n\r\n"
            ),
            &["GET /h HTTP/1.1", "host: good.test"],
        ),
    ] {
        received.lock().unwrap().clear();
        assert_eq!(send(&sandbox, "good.test", 80, &json!([text])).await, ["data"], "{text}");
        let arrived = String::from_utf8(received.lock().unwrap().clone()).unwrap();
        assert_eq!(arrived, format!("{}\r\n\r\n", lines.join("\r\n")), "{text}");
    }
    // Request smuggling: a second request in the body of the first one.
    let smuggled = "POST / HTTP/1.1\r\nHost: good.test\r\nContent-Length: 46\r\n\r\n\
                    GET /inner HTTP/1.1\r\nHost: evil.test\r\nA: b\r\n\r\n";
    received.lock().unwrap().clear();
    send(&sandbox, "good.test", 80, &json!([smuggled])).await;
    let arrived = String::from_utf8(received.lock().unwrap().clone()).unwrap();
    assert!(arrived.contains("content-length: 46\r\n"), "{arrived}");
    for (body, rest) in [
        ("5\r\nhello\r\n0\r\n\r\n", "GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n"),
        (
            "0005;a=b\r\nhello\r\n0\r\nTrailer: 1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n",
        ),
        ("5 \r\nhello\r\n0\r\n\r\n", "GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n"),
        ("0x5\r\nhello\r\n0\r\n\r\n", ""),
        ("fffffffffffffffff\r\nhello", ""),
        ("-1\r\nhello", ""),
    ] {
        received.lock().unwrap().clear();
        let head = "POST / HTTP/1.1\r\nHost: good.test\r\nTransfer-Encoding: chunked\r\n\r\n";
        send(&sandbox, "good.test", 80, &json!([format!("{head}{body}{rest}")])).await;
        let arrived = String::from_utf8(received.lock().unwrap().clone()).unwrap();
        assert!(!arrived.contains("evil") && arrived.matches("host:").count() <= 1, "{arrived}");
        // An invalid chunk is not forwarded.
        assert!(!arrived.contains("0x5") && !arrived.contains("-1\r"), "{arrived}");
    }
}

#[timed_test(seconds = 60)]
async fn websockets_of_allowed_names_are_forwarded() {
    let net = TestNetwork(9);
    let fixture = Fixture::open(net).await;
    fixture.resolver.set("good.test", &[Entry::Address(net.host(1))]);
    let listener = TcpListener::bind((net.host(1), 80)).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 4096];
            let count = stream.read(&mut head).await.unwrap();
            let head = String::from_utf8_lossy(&head[..count]).into_owned();
            assert!(head.contains("upgrade: websocket"), "{head}");
            let answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.unwrap();
            let (mut from, mut to) = stream.split();
            let _ = tokio::io::copy(&mut from, &mut to).await;
        }
    });
    let sandbox = fixture.sandbox().await;
    let allow = plan(DefaultAction::Deny, &["good.test"], &[]);
    fixture.scratch.set_network(&sandbox.id, allow).await.unwrap();
    let script = r"
import socket
for name in ['good.test', 'evil.test']:
    s = socket.create_connection(('good.test', 80), 8)
    s.sendall(f'GET / HTTP/1.1\r\nHost: {name}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n'.encode())
    try:
        head = s.recv(4096); s.sendall(b'\x81\x00GET / HTTP/1.1')
        print(head.split(b'\r\n')[0].decode(), s.recv(100))
    except ConnectionResetError: print('reset')
";
    let output = sandbox.exec(argv(&["python3", "-c", script])).await.unwrap();
    let output = output.output(10_000).await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(
        text, "HTTP/1.1 101 Switching Protocols b'\\x81\\x00GET / HTTP/1.1'\nreset\n",
        "{output:?}"
    );
}

#[timed_test]
async fn one_sandbox_cannot_take_all_connections() {
    let net = TestNetwork(10);
    let fixture = Fixture::with(net, |network| {
        network.max_descriptors = Some(200);
        network.max_descriptors_per_sandbox = 150;
    })
    .await;
    net.server(1, 80).await;
    let address = net.host(1).to_string();
    let (one, other) = (fixture.sandbox().await, fixture.sandbox().await);
    for sandbox in [&one, &other] {
        let allow = plan(DefaultAction::Deny, &[address.as_str()], &[]);
        fixture.scratch.set_network(&sandbox.id, allow).await.unwrap();
    }
    let script = format!(
        "
import socket, time
held = []
for _ in range(80):
    try:
        s = socket.create_connection(('{address}', 80), 8); s.sendall(b'GET /')
        if s.recv(100): held.append(s)
    except OSError: pass
open('/srv/held', 'w').write(str(len(held))); open('/srv/ready', 'w'); time.sleep(1000)"
    );
    let holding = one.exec(argv(&["python3", "-c", &script])).await.unwrap();
    one.until("test -e /srv/ready").await;
    // At most half of all; one more is reset at once.
    assert_eq!(one.text("cat /srv/held").await, "50");
    assert!(fixture.seen.take().iter().all(|(reason, _)| reason == "too_many"));
    let probe = |sandbox| crate::support::network::probe(sandbox, "http", &address, 80, "any");
    assert_eq!(probe(&one).await, "reset");
    assert!(probe(&other).await.starts_with("ok"));
    drop(holding);
}

//! Rules by name, and what is neither clean HTTP/1 nor TLS, or says one name here and
//! another one there: what is sent, by real programs, and what arrives.

use std::time::Duration;

use isorun_engine::Engine;
use isorun_engine::conformance::{LIMIT, Sandbox, argv, clean_up};
use isorun_engine::network::policy::Rest;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::world::{Bench, Entry, World, plan};

/// Sends each text on a connection of its own, in pieces if it is a list of them;
/// prints what comes of each.
const SENDER: &str = r#"
import json, socket, sys, time
host, port, texts = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
said = []
for text in texts:
    begun = time.monotonic()
    try:
        s = socket.create_connection((host, port), 8); s.settimeout(15)
        for piece in [text] if isinstance(text, str) else text:
            s.sendall(piece.encode('latin-1')); time.sleep(0.02)
        data = s.recv(4096)
        said.append('data' if data else 'end')
        # An answer of the proxy's own is no data of the server.
        if data.startswith(b'HTTP/1.1 4'): said[-1] = 'refused'
    except ConnectionResetError: said.append('reset')
    except BrokenPipeError: said.append('reset')
    except TimeoutError: said.append('timeout')
    if time.monotonic() - begun > 3: said[-1] += ' slow'
print(json.dumps(said))
"#;

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

/// Requests for `evil.test`, none of which is a clean one.
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

/// Protocols that say no name, in which the client speaks first.
const OTHERS: [&str; 8] = [
    "\x00\x00\x00\x08\x04\u{d2}\x16\x2f",
    "SSH-2.0-OpenSSH_9.9\r\n",
    "EHLO me\r\n",
    "*1\r\n$4\r\nPING\r\n",
    "\u{80}\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10\x01\x00\u{80}",
    "\x15\x03\x01\x00\x02\x02\x28",
    "GET /\r\n",
    "\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x02id",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_neither_clean_http_nor_tls_does_not_pass_by_name() {
    let world = World(7);
    let bench = Bench::open(world).await;
    let told = world.recorder(1, 80).await;
    bench.zone.set("good.test", &[Entry::Address(world.host(1))]);
    bench.zone.set("evil.test", &[Entry::Address(world.host(1))]);
    let test = async {
        let sandbox = bench.sandbox().await;
        let set = |plan| bench.scratch.set_network(&sandbox.id, plan);
        set(plan(Rest::Closed, &["good.test"], &[])).await.unwrap();
        let mut texts = unclean();
        texts.extend(OTHERS.map(str::to_owned));
        for (text, said) in texts.iter().zip(send(&sandbox, "good.test", 80, &json!(texts)).await) {
            assert!(matches!(said.as_str(), "reset" | "refused"), "{text:?}: {said}");
        }
        assert_eq!(String::from_utf8_lossy(&told.lock().unwrap()), "");
        // Each is on record.
        let seen = bench.seen.take();
        assert_eq!(seen.len(), texts.len(), "{seen:?}");
        let others = seen.iter().filter(|(reason, _)| reason == "protocol").count();
        assert_eq!(others, OTHERS.len(), "{seen:?}");
        // The same where names only deny; what says no name is no concern there.
        let range = format!("{}/28", world.host(0));
        set(plan(Rest::Closed, &[range.as_str(), "good.test"], &["evil.test"])).await.unwrap();
        let texts = unclean();
        for (text, said) in texts.iter().zip(send(&sandbox, "good.test", 80, &json!(texts)).await) {
            assert!(matches!(said.as_str(), "reset" | "refused"), "{text:?}: {said}");
        }
        assert_eq!(String::from_utf8_lossy(&told.lock().unwrap()), "");
        let passed = send(&sandbox, "good.test", 80, &json!(OTHERS)).await;
        assert_eq!(passed, ["data"; OTHERS.len()]);
        // By address anything passes, as it is.
        set(plan(Rest::Closed, &[range.as_str()], &[])).await.unwrap();
        told.lock().unwrap().clear();
        let raw = "\r\nget /raw HTTP/01.1\nHost: any\n\n";
        assert_eq!(send(&sandbox, "good.test", 80, &json!([raw])).await, ["reset"]);
        let address = world.host(1).to_string();
        assert_eq!(send(&sandbox, &address, 80, &json!([raw])).await, ["data"]);
        assert_eq!(String::from_utf8_lossy(&told.lock().unwrap()), raw);
    };
    tokio::time::timeout(Duration::from_secs(180), test).await.unwrap();
    clean_up(&*bench.scratch).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_passes_by_name_is_written_anew() {
    let world = World(8);
    let bench = Bench::open(world).await;
    let told = world.recorder(1, 80).await;
    bench.zone.set("good.test", &[Entry::Address(world.host(1))]);
    bench.zone.set("my_host.good.test", &[Entry::Address(world.host(1))]);
    let test = async {
        let sandbox = bench.sandbox().await;
        let allow = plan(Rest::Closed, &["good.test", "*.good.test"], &[]);
        bench.scratch.set_network(&sandbox.id, allow).await.unwrap();
        // What is sent, in pieces, and the lines that arrive, but for some of them.
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
            // Without a host it is for the one that is allowed, not for any.
            (json!("GET /d HTTP/1.0\r\n\r\n"), &["GET /d HTTP/1.1", "host: good.test"]),
            (
                json!("GET /e HTTP/1.1\r\nHost: my_host.good.test\r\n\r\n"),
                &["GET /e HTTP/1.1", "host: my_host.good.test"],
            ),
            // An upgrade to another protocol is not asked for.
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
            told.lock().unwrap().clear();
            assert_eq!(send(&sandbox, "good.test", 80, &json!([text])).await, ["data"], "{text}");
            let arrived = String::from_utf8(told.lock().unwrap().clone()).unwrap();
            assert_eq!(arrived, format!("{}\r\n\r\n", lines.join("\r\n")), "{text}");
        }
        // The second request of a connection that hides in the first one's body.
        let smuggled = "POST / HTTP/1.1\r\nHost: good.test\r\nContent-Length: 46\r\n\r\n\
                        GET /inner HTTP/1.1\r\nHost: evil.test\r\nA: b\r\n\r\n";
        told.lock().unwrap().clear();
        send(&sandbox, "good.test", 80, &json!([smuggled])).await;
        let arrived = String::from_utf8(told.lock().unwrap().clone()).unwrap();
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
            told.lock().unwrap().clear();
            let head = "POST / HTTP/1.1\r\nHost: good.test\r\nTransfer-Encoding: chunked\r\n\r\n";
            send(&sandbox, "good.test", 80, &json!([format!("{head}{body}{rest}")])).await;
            let arrived = String::from_utf8(told.lock().unwrap().clone()).unwrap();
            assert!(
                !arrived.contains("evil") && arrived.matches("host:").count() <= 1,
                "{arrived}"
            );
            // What is no chunk is not passed on.
            assert!(!arrived.contains("0x5") && !arrived.contains("-1\r"), "{arrived}");
        }
    };
    tokio::time::timeout(LIMIT * 2, test).await.unwrap();
    clean_up(&*bench.scratch).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websockets_of_allowed_names_pass() {
    let world = World(9);
    let bench = Bench::open(world).await;
    bench.zone.set("good.test", &[Entry::Address(world.host(1))]);
    let listener = TcpListener::bind((world.host(1), 80)).await.unwrap();
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
    let test = async {
        let sandbox = bench.sandbox().await;
        let allow = plan(Rest::Closed, &["good.test"], &[]);
        bench.scratch.set_network(&sandbox.id, allow).await.unwrap();
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
    };
    tokio::time::timeout(LIMIT, test).await.unwrap();
    clean_up(&*bench.scratch).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_sandbox_leaves_connections_to_others() {
    let world = World(10);
    let bench = Bench::with(world, |network| {
        network.max_descriptors = Some(200);
        network.max_descriptors_per_sandbox = 150;
    })
    .await;
    world.server(1, 80).await;
    let address = world.host(1).to_string();
    let test = async {
        let (one, other) = (bench.sandbox().await, bench.sandbox().await);
        for sandbox in [&one, &other] {
            let allow = plan(Rest::Closed, &[address.as_str()], &[]);
            bench.scratch.set_network(&sandbox.id, allow).await.unwrap();
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
        // At most half of all, and one more is reset at once.
        assert_eq!(one.text("cat /srv/held").await, "50");
        assert!(bench.seen.take().iter().all(|(reason, _)| reason == "too_many"));
        let probe = |sandbox| crate::world::probe(sandbox, "http", &address, 80, "any");
        assert_eq!(probe(&one).await, "reset");
        assert!(probe(&other).await.starts_with("ok"));
        drop(holding);
    };
    tokio::time::timeout(LIMIT * 2, test).await.unwrap();
    clean_up(&*bench.scratch).await;
}
